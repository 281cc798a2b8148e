"""The processes of a storm, forked from one that has imported everything and holds no log open.

A fork takes milliseconds where a new interpreter takes a quarter of a second.  Whatever is signalled is a child of
this process that was not yet waited for, so its id cannot belong to anybody else; a writer that a client started is
signalled through a pidfd, after its command line was looked at.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from support.processes import writer_pids

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
ENDING = (signal.SIGINT, signal.SIGTERM)
_libc = ctypes.CDLL(None)


class Children:
    """Children by pid; what one of them prints, and why it failed, is in NAME.err."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: dict[int, str] = {}
        self.ended: dict[int, int] = {}  # exit codes, minus the signal, of those that were reaped
        self.news: list[int] = []  # those that ended by themselves, and nobody has looked at yet

    def fork(self, name: str, act: Callable[[], object]) -> int:
        """A new process that does ``act`` and ends."""
        # Blocked meanwhile: a signal to the child must not meet the handlers of this process.
        signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
                signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the conductor, which ends everybody
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
                self._redirect(name)
                act()
                code = 0
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            finally:
                os._exit(code)
        self.names[pid] = name
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
        return pid

    def _redirect(self, name: str) -> None:
        fd = os.open(self.folder / f"{name}.err", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((null, 0), (fd, 1), (fd, 2)):
            os.dup2(source, target)

    def errors(self, pid: int) -> str:
        """The last lines that a process printed."""
        with contextlib.suppress(OSError):
            return (self.folder / f"{self.names[pid]}.err").read_text(errors="replace").strip()[-1500:]
        return ""

    def reap(self) -> None:
        """Collect who has ended, without waiting; also orphans that became ours."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid in self.names:
                    self.ended[pid] = os.waitstatus_to_exitcode(status)
                    self.news.append(pid)

    def take_news(self) -> list[int]:
        """Who has ended since this was asked last, but for those that were waited for."""
        self.reap()
        news, self.news = self.news, []
        return news

    def noticed(self, pid: int) -> bool:
        """Whether it has ended by itself and that was not looked at; it counts as looked at now."""
        if pid in self.news:
            self.news.remove(pid)
            return True
        return False

    def runs(self, pid: int) -> bool:
        return pid in self.names and pid not in self.ended

    def signal(self, pid: int, number: int) -> bool:
        """Signal a child of ours; whether it still ran."""
        self.reap()
        if self.runs(pid):
            os.kill(pid, number)
            return True
        return False

    def wait(self, pid: int, seconds: float) -> int | None:
        """Its exit code; None if it did not end in time."""
        deadline = time.monotonic() + seconds
        while self.runs(pid):
            self.reap()
            if pid in self.ended:
                break
            if time.monotonic() > deadline:
                return None
            time.sleep(0.0005)
        self.noticed(pid)
        return self.ended.get(pid)

    def kill(self, pid: int) -> bool:
        """SIGKILL, and wait for the end; whether it still ran."""
        if not self.signal(pid, signal.SIGKILL):
            return False
        self.wait(pid, 30.0)
        return True

    def end(self) -> None:
        """Kill whatever still runs."""
        for pid in list(self.names):
            self.kill(pid)


def adopt_orphans() -> None:
    """A writer whose client was killed becomes our child, instead of nobody's."""
    _libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    gc.freeze()  # forked children need not copy what is here for good


def kill_writers_of(directory: str) -> int:
    """Kill the writers that clients of this log have started; how many there were."""
    killed = 0
    for pid in writer_pids(directory):
        try:
            watch = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            if pid in writer_pids(directory):  # still the same process: the pidfd holds it
                signal.pidfd_send_signal(watch, signal.SIGKILL)
                killed += 1
        except ProcessLookupError:
            pass
        finally:
            os.close(watch)
    return killed
