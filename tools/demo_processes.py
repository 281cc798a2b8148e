"""The demo's child processes: started so that none outlives it, and ended by their ids."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

import raftlog_mp as rl

TOOLS = Path(__file__).resolve().parent
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class DemoFailed(Exception):
    """The demo cannot go on; the text is the verdict."""


class Children:
    """Everything that the demo started, and the folder where it writes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.all: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Start ``python command...``; its output goes to NAME.log in the folder."""
        with (self.folder / f"{name}.log").open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, *command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                env={**os.environ, **environment}, cwd=TOOLS.parent, preexec_fn=_end_with_parent,
                start_new_session=True,  # Ctrl-C reaches the demo alone, which then ends the others in order
            )  # fmt: skip
        self.all[name] = child
        return child

    def output(self, name: str) -> str:
        """What a child has printed so far."""
        return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")

    def check_alive(self, *prefixes: str) -> None:
        """Raise :class:`DemoFailed` if a child that should run has ended."""
        for name, child in self.all.items():
            if name.startswith(prefixes) and child.poll() is not None:
                raise DemoFailed(f"{name} ended early with code {child.returncode}: {self.output(name)[-400:].strip()}")

    def wait(self, prefix: str, seconds: float) -> None:
        """Wait until all children whose names begin so have ended well."""
        deadline = time.monotonic() + seconds
        for name, child in self.all.items():
            if name.startswith(prefix):
                try:
                    code = child.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    raise DemoFailed(f"{name} did not end within {seconds:.0f} s") from None
                if code:
                    raise DemoFailed(f"{name} failed with code {code}: {self.output(name)[-400:].strip()}")

    def end(self, name: str, seconds: float) -> None:
        """Ask one child and its own children to end; kill, by their ids, those that do not."""
        child = self.all.get(name)
        if child is None or child.poll() is not None:
            return
        try:
            family = [psutil.Process(child.pid), *psutil.Process(child.pid).children(recursive=True)]
        except psutil.Error:
            family = []
        # A writer that a server worker started is a child of that worker, but belongs to the log: see end_writer.
        family = [process for process in family if not _is_writer(process)]
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(seconds)
        for process in family:
            with contextlib.suppress(psutil.Error):
                process.kill()
        child.wait()

    def end_all(self) -> None:
        """End whatever still runs: readers and clients at once, the server in its own way."""
        for name, child in self.all.items():
            if name != "server" and child.poll() is None:
                child.kill()
                child.wait()
        self.end("server", 10.0)


def _end_with_parent() -> None:
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _is_writer(process: psutil.Process) -> bool:
    try:
        return "raftlog_mp" in process.cmdline() and "serve" in process.cmdline()
    except psutil.Error:
        return False


def start_server(children: Children, log_dir: str, workers: int, seconds: float) -> int:
    """Start uvicorn on a free port of the loopback interface; returns the port once a worker listens."""
    children.start("server", [
        "-m", "uvicorn", "examples.server:app", "--host", "127.0.0.1", "--port", "0", "--workers", str(workers),
        "--no-access-log", "--timeout-graceful-shutdown", "8",
    ], RAFTLOG_DIR=log_dir)  # fmt: skip
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        children.check_alive("server")
        found = re.search(r"running on http://127\.0\.0\.1:(\d+)", children.output("server"))
        if found:  # bound; workers listen a little later
            with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", int(found[1]))):
                return int(found[1])
        time.sleep(0.02)
    raise DemoFailed(f"the server did not start within {seconds:.0f} s: {children.output('server')[-400:]}")


def end_writer(log_dir: str) -> None:
    """Stop the log's writer, whoever started it; kill, by its id, one that does not stop."""
    with contextlib.suppress(rl.RaftLogError):
        rl.stop_writer(log_dir, timeout=10.0)
    for process in psutil.process_iter():  # one that is still exiting, was just starting, or hangs
        with contextlib.suppress(psutil.Error):
            if _is_writer(process) and log_dir in process.cmdline():  # the folder is this run's own
                try:
                    process.wait(5.0)
                except psutil.TimeoutExpired:
                    process.kill()
                    process.wait(10.0)
