"""Real processes for the command line's tests: each is waited for, and no writer outlives its test."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import raftlog_mp as rl
from raftlog_mp.cli import screen

COMMAND = [sys.executable, "-m", "raftlog_mp"]
WAIT_SECONDS = 60


def flip(path: Path, offset: int) -> None:
    """Damage one bit."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


class Terminal:
    """Standard error, as one that is a terminal."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def isatty(self) -> bool:
        return True


@pytest.fixture
def become_a_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Called in a test: standard error is a terminal, and every log is long enough for a progress bar.

    Not before, for pytest's own capturing sets standard error between a fixture and its test.
    """

    def become() -> None:
        for name in ("LONG_BYTES", "LONG_ENTRIES"):
            monkeypatch.setattr(screen, name, 0)
        monkeypatch.setattr(sys, "stderr", Terminal(sys.stderr))

    return become


@pytest.fixture
def log_dir(tmp_path: Path) -> Iterator[Path]:
    """Where a test's log stands; its writer, if one runs at the end, is stopped."""
    path = tmp_path / "log"
    yield path
    with contextlib.suppress(rl.RaftLogError, psutil.NoSuchProcess):  # no log, or none that can be read: no writer
        with rl.open_reader(path) as reader:
            pid = reader.stats().writer_pid
        if pid:
            writer = psutil.Process(pid)
            rl.stop_writer(path)
            writer.wait(WAIT_SECONDS)  # the log is free a moment before its process has gone


@pytest.fixture
def command() -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Run ``raftlog-mp ARGUMENTS`` to its end in a process of its own."""

    def run(*arguments: Any, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        words = [*COMMAND, *map(str, arguments)]
        return subprocess.run(words, input=stdin, capture_output=True, timeout=WAIT_SECONDS, check=False)

    return run


@pytest.fixture
def background() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start ``raftlog-mp ARGUMENTS`` and go on; what still runs at the end of the test is killed and waited for."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: Any) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture
def filled(log_dir: Path) -> Path:
    """A log of the entries ``entry 1`` .. ``entry 50``, cleanly stopped."""
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        log.append_many([b"entry %d" % number for number in range(1, 51)])
    return log_dir
