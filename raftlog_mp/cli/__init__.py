"""The command line ``raftlog-mp``: parse, call the library, print.  One module a verb or small group of verbs."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``raftlog-mp``; returns the exit code (see ``outcome.py``)."""
    from .commands import run  # click is loaded by who runs a command, not by who imports the package

    return run(argv)
