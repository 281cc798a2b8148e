"""Processes that begin at once: forked from one that has imported everything already.

For tests that need hundreds of them.  Each is a process of its own, with its own id, stopped and killed by it.  Run
as ``python -m support.nursery FOLDER``: each line of its input is one JSON list, and each gets one line in return, at
once::

    ["run", module, function, argument, ...]   the new process's id
    ["ended", id]                              its exit code, or minus the signal; null while it runs
    ["kill", id]                               SIGKILL, if it still runs: its exit code

What a process prints, and at its end what its function returned, stands in FOLDER/ID.out, so that nobody ever waits for
somebody to read it, and nobody reads what was meant for another.  At the end of its input the nursery kills what still
runs.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import raftlog_mp as rl

from . import bent_writer
from .processes import PATIENCE_S, Child, wait_until

TESTS = Path(__file__).parents[1]


class Nursery:
    """The nursery as a test sees it.  A process that is waited for in vain is killed; what follows starts afresh."""

    def __init__(self) -> None:
        self.patience_s = PATIENCE_S
        self._folder = Path(tempfile.mkdtemp(prefix="raftlog-nursery-"))
        self._child: Child | None = self._start()
        self._read: dict[int, int] = {}  # bytes of each process's output that were taken
        self._running: set[int] = set()

    # ------------------------------------------------------------ the nursery's own process
    def _start(self) -> Child:
        return Child("-m", __name__, str(self._folder), cwd=str(TESTS))

    def _ask(self, *words: Any) -> Any:
        """One line out, one line back."""
        if self._child is None:
            self._child = self._start()
            self._running.clear()
        self._child.say(json.dumps(words))
        assert self._child.process.stdout is not None
        ready = select.select([self._child.process.stdout], [], [], self.patience_s)[0]
        try:
            assert ready, f"the nursery does not answer {words}"
            return json.loads(self._child.line())
        except BaseException:
            self.close(keep_folder=True)  # the next call begins with a new one
            raise

    def close(self, *, keep_folder: bool = False) -> None:
        """Kill whatever still runs, and the nursery; idempotent."""
        if self._child is not None:
            child, self._child = self._child, None
            with child:  # at the end of its input it kills its children by itself
                assert child.process.stdin is not None
                child.process.stdin.close()
                try:
                    child.wait()
                except subprocess.TimeoutExpired:
                    for pid in self._running:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
        if not keep_folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def finish(self) -> None:
        """All its processes have ended, and so does it."""
        assert not self._running, f"still running: {sorted(self._running)}"
        if self._child is not None:
            self._child.finish()
        self.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------ processes
    def run(self, module: str, function: str, *arguments: Any) -> int:
        """Let a new process call a function; gives its id."""
        pid = int(self._ask("run", module, function, *arguments))
        self._running.add(pid)
        self._read[pid] = 0
        return pid

    def _wait(self, pid: int, what: str, condition: Callable[[], Any]) -> Any:
        """Wait for something of a process; if it does not come the process is killed."""
        try:
            return wait_until(f"process {pid} {what}", condition, self.patience_s)
        except BaseException:
            self.kill(pid)
            raise

    def line(self, pid: int) -> str:
        """The next line that a process prints; fails with its output if it ended."""
        found: list[str] = []

        def arrived() -> bool:
            over = self._ended(pid) is not None  # before the look: what it printed is complete then
            with (self._folder / f"{pid}.out").open("rb") as file:
                file.seek(self._read[pid])
                text = file.readline()
            if text.endswith(b"\n"):
                self._read[pid] += len(text)
                found.append(text.decode().strip())
            assert found or not over, f"process {pid} has ended: {self.output(pid)}"
            return bool(found)

        self._wait(pid, "prints a line", arrived)
        return found[0]

    def output(self, pid: int) -> str:
        """All that a process has printed."""
        return (self._folder / f"{pid}.out").read_text(errors="replace")

    def answer(self, pid: int) -> Any:
        """What the function returned."""
        return json.loads(self.line(pid))

    def _ended(self, pid: int) -> int | None:
        if pid not in self._running:
            return 0
        code = self._ask("ended", pid)
        return None if code is None else int(code)

    def ended(self, pid: int) -> int:
        """Wait for the process's end: its exit code, or minus the signal that killed it."""
        code: list[int] = []

        def over() -> bool:
            found = self._ended(pid)
            code.extend([] if found is None else [found])
            return bool(code)

        self._wait(pid, "ends", over)
        self._running.discard(pid)
        return code[0]

    def kill(self, pid: int) -> None:
        """SIGKILL, if it still runs, and the end of it."""
        if pid in self._running and self._child is not None:
            self._running.discard(pid)
            self._ask("kill", pid)

    # ------------------------------------------------------------ writers
    def writer(self, directory: str, config: rl.LogConfig | None = None, **spec: Any) -> int:
        """A writer that serves, bent as ``spec`` says (see ``bent_writer.py``); gives its id."""
        spec["config"] = config.as_dict() if config is not None else None
        pid = self.run(bent_writer.__name__, "main", directory, json.dumps(spec))
        assert self.line(pid) == "serving"
        return pid

    @contextlib.contextmanager
    def serving(self, directory: str, config: rl.LogConfig | None = None) -> Iterator[None]:
        """A writer that serves in this block and stops in order at its end."""
        pid = self.writer(directory, config)
        try:
            yield
        finally:
            os.kill(pid, signal.SIGTERM)
            assert self.ended(pid) == 0, f"the writer of {directory} did not end well: {self.output(pid)}"

    @contextlib.contextmanager
    def log(self, directory: str, config: rl.LogConfig | None = None) -> Iterator[rl.Log]:
        """A log and its own writer."""
        with self.serving(directory, config), rl.open_log(directory, autostart=False, timeout=PATIENCE_S) as log:
            yield log


# ---------------------------------------------------------------- in the nursery's process
def play(folder: Path, function: Callable[..., Any], arguments: list[Any]) -> None:
    """In the new process: call the function and say what it returned."""
    fd = os.open(folder / f"{os.getpid()}.out", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(fd, 1)
    os.dup2(fd, 2)
    result = function(*arguments)
    if result is not None:
        print(json.dumps(result), flush=True)


def start(folder: Path, module: str, function: str, arguments: list[Any]) -> int:
    """Fork a process that calls a function."""
    act = getattr(importlib.import_module(module), function)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            play(folder, act, arguments)
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
            sys.stderr.flush()
        finally:
            os._exit(code)
    (folder / f"{pid}.out").touch()
    return pid


def main(place: str) -> None:
    """Start, look at and kill processes as the input says."""
    running: set[int] = set()
    codes: dict[int, int] = {}

    def look(pid: int, flags: int) -> int | None:
        if pid in running:
            found, status = os.waitpid(pid, flags)
            if found:
                running.discard(pid)
                codes[pid] = os.waitstatus_to_exitcode(status)
        return codes.get(pid)

    for line in sys.stdin:
        kind, *rest = json.loads(line)
        if kind == "run":
            pid = start(Path(place), rest[0], rest[1], rest[2:])
            running.add(pid)
            answer: int | None = pid
        else:
            if kind == "kill" and rest[0] in running:
                os.kill(rest[0], signal.SIGKILL)
            answer = look(rest[0], 0 if kind == "kill" else os.WNOHANG)
        print(json.dumps(answer), flush=True)
    for pid in running:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


if __name__ == "__main__":
    main(sys.argv[1])
