"""Processes that begin at once: forked from one that has imported everything already.

For tests that need hundreds of them.  Each is a process of its own, with its own id, stopped and killed by it.  Run as
``python -m support.nursery``: each line of its input is one JSON list::

    ["run", module, function, argument, ...]   prints the new process's id, and at its end what the function returned
    ["wait", id]                               waits for its end, prints its exit code, or minus the signal

At the end of its input it kills what still runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import raftlog_mp as rl

from . import bent_writer
from .processes import PATIENCE_S, Child

TESTS = Path(__file__).parents[1]


class Nursery(Child):
    """The nursery as a test sees it.  One process at a time may have something to say."""

    def __init__(self) -> None:
        super().__init__("-m", __name__, cwd=str(TESTS))

    def run(self, module: str, function: str, *arguments: Any) -> int:
        """Let a new process call a function; gives its id."""
        self.say(json.dumps(["run", module, function, *arguments]))
        return int(self.line())

    def answer(self) -> Any:
        """What the function returned."""
        return json.loads(self.line())

    def ended(self, pid: int) -> int:
        """Wait for the process's end: its exit code, or minus the signal that killed it."""
        self.say(json.dumps(["wait", pid]))
        return int(self.line())

    def writer(self, directory: str, config: rl.LogConfig | None = None, **spec: Any) -> int:
        """A writer that serves, bent as ``spec`` says (see ``bent_writer.py``); gives its id."""
        spec["config"] = config.as_dict() if config is not None else None
        pid = self.run(bent_writer.__name__, "main", directory, json.dumps(spec))
        assert self.line() == "serving"
        return pid

    @contextlib.contextmanager
    def serving(self, directory: str, config: rl.LogConfig | None = None) -> Iterator[None]:
        """A writer that serves in this block and stops in order at its end."""
        pid = self.writer(directory, config)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGTERM)
            assert self.ended(pid) == 0, f"the writer of {directory} did not end well"

    @contextlib.contextmanager
    def log(self, directory: str, config: rl.LogConfig | None = None) -> Iterator[rl.Log]:
        """A log and its own writer."""
        with self.serving(directory, config), rl.open_log(directory, autostart=False, timeout=PATIENCE_S) as log:
            yield log


def play(function: Callable[..., Any], arguments: list[Any]) -> None:
    """In the new process: call the function and say what it returned."""
    print(os.getpid(), flush=True)
    result = function(*arguments)
    if result is not None:
        print(json.dumps(result), flush=True)


def main() -> None:
    """Start and await processes as the input says."""
    children = set()
    for line in sys.stdin:
        kind, *rest = json.loads(line)
        if kind == "run":
            function = getattr(importlib.import_module(rest[0]), rest[1])
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    play(function, rest[2:])
                    code = 0
                except BaseException:
                    sys.excepthook(*sys.exc_info())
                finally:
                    os._exit(code)
            children.add(pid)
        else:
            print(os.waitstatus_to_exitcode(os.waitpid(rest[0], 0)[1]), flush=True)
            children.discard(rest[0])
    for pid in children:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main()
