"""Exit codes, and how an error is told: one line on stderr, never a traceback."""

from __future__ import annotations

import io
import sys

import click

from .. import errors

FINE, FINDINGS, USAGE, UNUSABLE = 0, 1, 2, 3
INTERRUPTED = 130  # as shells report a process that Ctrl-C ended

# The call is wrong, the log is not.  Every other error of the library means that the log cannot be used now.
_USAGE_ERRORS = (
    errors.ConfigError,
    errors.EntryTooLarge,
    errors.StaleTerm,
    errors.IndexGap,
    errors.CommittedEntry,
    errors.Compacted,
)


def code_of(error: BaseException) -> int:
    """The exit code that an error means."""
    if isinstance(error, _USAGE_ERRORS):
        return USAGE
    return FINDINGS if isinstance(error, errors.Truncated) else UNUSABLE


def complain(message: str) -> None:
    """One line on stderr: ``raftlog-mp: message``."""
    click.echo("raftlog-mp: " + " ".join(message.split()), err=True)


def explain(error: BaseException) -> int:
    """Tell the error and return its exit code."""
    if isinstance(error, click.ClickException):
        where = getattr(error, "ctx", None)
        hint = f" See `{where.command_path} --help`." if where is not None else ""
        complain(error.format_message().rstrip(".") + "." + hint)
        return USAGE
    if isinstance(error, errors.RaftLogError):
        complain(str(error))
        return code_of(error)
    if isinstance(error, OSError):
        # An error on a descriptor has no name: it may be a file of the log's, or where the output goes.
        what = error.filename or "the output, or a file of the log, cannot be read or written"
        complain(f"{what}: {error.strerror or error}")
        return UNUSABLE
    raise error


def quiet_broken_pipe() -> int:
    """The reader of our output has gone (``| head``): that is its right, and no error of ours."""
    sys.stdout = io.StringIO()  # the interpreter flushes it at its end, and must not fail there
    return FINE
