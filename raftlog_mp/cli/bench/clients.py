"""The client processes: started when they are first needed, idle between measurements."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from typing import Any

from ...errors import RaftLogError


class Clients:
    """Processes numbered from 0, each of which obeys one command after the other."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []

    def need(self, count: int) -> None:
        """Have at least ``count`` of them."""
        command = [sys.executable, "-m", f"{__package__}.worker"]
        for number in range(len(self._processes), count):
            self._processes.append(
                subprocess.Popen([*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )

    def tell(self, number: int, **command: Any) -> None:
        """Give one client a command; :meth:`answer` collects what comes of it."""
        stdin = self._processes[number].stdin
        assert stdin is not None
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()

    def answer(self, number: int) -> dict[str, Any]:
        """What came of a client's command; :class:`RaftLogError` if it failed."""
        stdout = self._processes[number].stdout
        assert stdout is not None
        line = stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in answer:
            raise RaftLogError(f"bench client {number}: {answer['error']}")
        return answer

    def ask(self, number: int, **command: Any) -> dict[str, Any]:
        """Give one client a command and wait for its answer."""
        self.need(number + 1)
        self.tell(number, **command)
        return self.answer(number)

    def all(self, count: int, **command: Any) -> list[dict[str, Any]]:
        """Give the first ``count`` clients a command at the same time and collect their answers."""
        self.need(count)
        for number in range(count):
            self.tell(number, **command)
        return [self.answer(number) for number in range(count)]

    def kill(self) -> None:
        """End all of them as a crash would, and forget them."""
        for process in self._processes:
            process.kill()
        self.close()

    def close(self) -> None:
        """End them: they leave when their stdin ends; one that is stuck is killed."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]  # made with PIPE above
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]  # made with PIPE above
        self._processes.clear()
