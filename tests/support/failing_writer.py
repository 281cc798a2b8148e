"""A writer process whose disk fails while a file says so.

Run as ``python failing_writer.py DIR FAULT SPEC``, SPEC a JSON map: ``config`` (LogConfig.as_dict()) and ``linger``.
FAULT holds lines ``operation suffix errno``; as long as it is there, that operation raises on paths with that suffix.
It prints one line once it serves.  Nothing of this is in the product: the door to the disk is patched from outside.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from raftlog_mp import files, writer
from raftlog_mp.config import LogConfig

BY_DESCRIPTOR = ("pwrite", "sync", "sync_all", "preallocate", "truncate")
BY_PATH = ("rename", "unlink", "sync_dir")


def install(fault: str) -> None:
    """Let every changing operation look at the file first."""

    def check(operation: str, path: str) -> None:
        try:
            with open(fault, encoding="ascii") as lines:
                faults = [line.split() for line in lines]
        except FileNotFoundError:
            return
        for name, suffix, code in faults:
            if name == operation and (suffix == "*" or path.endswith(suffix)):
                raise OSError(int(code), f"injected into {operation}")

    def guarded(name: str, real: Callable[..., Any], path_of: Callable[[Any], str]) -> Callable[..., Any]:
        def call(this: Any, what: Any, *rest: Any, **options: Any) -> Any:
            check(name, path_of(what))
            return real(this, what, *rest, **options)

        return call

    for name in BY_DESCRIPTOR:
        real = getattr(files.Files, name)
        setattr(files.Files, name, guarded(name, real, lambda fd: os.readlink(f"/proc/self/fd/{fd}")))
    for name in BY_PATH:
        setattr(files.Files, name, guarded(name, getattr(files.Files, name), str))


def main(directory: str, fault: str, text: str) -> None:
    """Serve ``directory``."""
    spec = json.loads(text)
    install(fault)
    config = LogConfig.from_dict(spec["config"])
    writer.serve(
        directory, config, linger=spec["linger"], interrupt=False, on_ready=lambda _: print("serving", flush=True)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
