"""Child processes of the tests: started, watched through what they write, killed by their own id."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from raftlog_mp.config import LogConfig

from .history import Row, Submission

HERE = Path(__file__).parent
PATIENCE_S = float(os.environ.get("RAFTLOG_TEST_PATIENCE_S", "60"))  # only a test that is about to fail waits this long


def wait_until(what: str, condition: Callable[[], Any], patience_s: float = PATIENCE_S) -> Any:
    """Poll until ``condition()`` is true and return its value.  For progress seen from outside; never a measure."""
    deadline = time.monotonic() + patience_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {patience_s} s in vain: {what}")
        time.sleep(0.002)
    return value


def alive(pid: int) -> bool:
    """Whether the process, any thread of it, still runs: a first thread that has ended may leave others behind."""
    with contextlib.suppress(OSError):
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        states = []
        for task in tasks:
            with contextlib.suppress(OSError):
                states.append((task / "stat").read_text().rsplit(")", 1)[1].split()[0])
        return any(state not in "ZX" for state in states)
    return False


def wait_dead(pid: int) -> None:
    """Return once the process has ended (a zombie counts: its files and locks are gone)."""
    wait_until(f"process {pid} ends", lambda: not alive(pid))


def kill9(pid: int) -> None:
    """SIGKILL, and wait for the end: a pidfd tells it only when the last thread, with files and locks, has gone."""
    with contextlib.suppress(ProcessLookupError):
        watch = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            assert select.select([watch], [], [], PATIENCE_S)[0], f"process {pid} does not end"
        finally:
            os.close(watch)


class Child:
    """A Python child with its output on pipes.  Leaving the ``with`` block kills it if it still runs."""

    def __init__(self, *arguments: str, **options: Any) -> None:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        self.process = subprocess.Popen([sys.executable, *arguments], **{**pipes, "text": True, **options})
        self.pid = self.process.pid

    def line(self) -> str:
        """The next line of its output; fails with its stderr if it ended."""
        assert self.process.stdout is not None
        text = self.process.stdout.readline()
        if not text:
            self.process.wait(PATIENCE_S)
            stderr = self.process.stderr.read() if self.process.stderr else ""
            raise AssertionError(f"the child ended with {self.process.returncode}\n{stderr}")
        return text.strip()

    def say(self, text: str) -> None:
        """Write a line to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def wait(self, timeout: float = PATIENCE_S) -> int:
        """Its exit code."""
        return self.process.wait(timeout)

    def finish(self, timeout: float = PATIENCE_S) -> str:
        """Wait for a good end and return the rest of its output."""
        out, err = self.process.communicate(timeout=timeout)
        assert self.process.returncode == 0, f"exit code {self.process.returncode}\n{out}\n{err}"
        return str(out)

    def send_signal(self, number: int) -> None:
        """A signal, only while it is ours to signal."""
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL and reap."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def script(source: str, *arguments: str, **options: Any) -> Child:
    """A child that runs ``source`` with ``arguments`` in ``sys.argv``."""
    return Child("-c", source, *arguments, **options)


class BentWriter(Child):
    """A writer process of our own, with one thing bent (see ``bent_writer.py``)."""

    def __init__(self, directory: str, config: LogConfig | None = None, **spec: Any) -> None:
        spec["config"] = config.as_dict() if config is not None else None
        super().__init__(str(HERE / "bent_writer.py"), directory, json.dumps(spec))


class Actor(Child):
    """A client or follower of ``actors.py`` and what it wrote down."""

    def __init__(self, role: str, directory: str, diary: Path, *rest: object) -> None:
        self.name = str(rest[0]) if rest else role
        self._diary = diary
        words = [str(word) for word in rest]
        super().__init__(str(HERE / "actors.py"), role, directory, str(diary), *words, stdin=None, stdout=None)

    def lines(self) -> list[list[Any]]:
        """Everything it wrote so far; a line that is not finished is left out."""
        with contextlib.suppress(FileNotFoundError):
            text = self._diary.read_bytes()
            return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]
        return []

    def progress(self, kind: str) -> int:
        """How many lines of this kind it wrote."""
        with contextlib.suppress(FileNotFoundError):
            return self._diary.read_bytes().count(f'["{kind}"'.encode())
        return 0

    def submissions(self) -> list[Submission]:
        """Its batches with their outcomes."""
        sent: dict[int, tuple[bytes, ...]] = {}
        acked: dict[int, int] = {}
        for kind, *row in self.lines():
            if kind == "sent":
                sent[row[0]] = tuple(payload.encode() for payload in row[1])
            elif kind == "acked":
                acked[row[0]] = row[1]
        return [Submission(self.name, number, payloads, acked.get(number)) for number, payloads in sent.items()]

    def seen(self) -> list[Row]:
        """What it followed."""
        rows = [row for kind, *rest in self.lines() if kind == "seen" for row in rest[0]]
        return [Row(term, index, payload.encode()) for term, index, payload in rows]


def rows_of(entries: Any) -> list[Row]:
    """Entries of the library as rows of a history."""
    return [Row(entry.term, entry.index, entry.payload) for entry in entries]


def writer_pids(directory: str) -> list[int]:
    """Processes that hold the log's lock file open: the writers that serve it, or try to."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            line = (folder / "cmdline").read_bytes().split(b"\0")
            if b"serve" in line and directory.encode() in line and alive(int(folder.name)):
                found.append(int(folder.name))
    return found


@contextlib.contextmanager
def no_writer_after(directory: str) -> Iterator[None]:
    """Whatever happens in the block: no writer of this log is left behind."""
    try:
        yield
    finally:
        for pid in writer_pids(directory):
            kill9(pid)
