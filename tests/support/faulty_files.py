"""A double of the disk door: it records every step, fails on demand, and dies on demand.

``steps`` holds what changed something, or made a change durable, in order::

    ("pwrite", path, offset, length)   ("sync", path)   ("rename", source, target) ...

A *crash* is a ``BaseException``: it passes every ``except OSError``.  After it the double does nothing more,
so a cleanup that a dead process could not have done is not done either.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raftlog_mp.files import Files

Step = tuple[Any, ...]


class Crash(BaseException):
    """The process died here."""


class FaultyFiles(Files):
    """``Files`` that can be told to go wrong.

    ``real_sync=False`` leaves the kernel's fsync out: a crash of the process alone loses no page, so tests of
    such crashes need none, and run faster.
    """

    def __init__(self, *, crash_at: int | None = None, real_sync: bool = False) -> None:
        self.steps: list[Step] = []
        self.crash_at = crash_at  # number of the step *before* which the process dies
        self.crashed = False
        self.real_sync = real_sync
        self.listener: Callable[[Step], None] | None = None
        self._paths: dict[int, str] = {}
        self._faults: list[tuple[str, str, int, OSError]] = []

    # ------------------------------------------------------------ what goes wrong
    def fail(self, operation: str, code: int, *, path: str = "", after: int = 0) -> None:
        """``operation`` raises ``OSError(code)`` once, on a path ending with ``path``, after ``after`` successes."""
        self._faults.append((operation, path, after, OSError(code, f"injected into {operation}")))

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()

    def _step(self, operation: str, *what: Any) -> None:
        if self.crashed or self.crash_at == len(self.steps):
            self.crashed = True
            self.bury()
            raise Crash(f"before step {len(self.steps)}: {operation} {what}")
        for at, (kind, path, after, error) in enumerate(self._faults):
            if kind == operation and str(what[0]).endswith(path):
                if after:
                    self._faults[at] = (kind, path, after - 1, error)
                    continue
                del self._faults[at]
                raise error
        self.steps.append((operation, *what))
        if self.listener is not None:
            self.listener(self.steps[-1])

    def operations(self, path: str = "") -> list[str]:
        """Names of the recorded steps on paths that end with ``path``."""
        return [step[0] for step in self.steps if str(step[1]).endswith(path)]

    def bury(self) -> None:
        """Close every descriptor that the dead process had open, as the kernel does."""
        for fd in list(self._paths):
            self.close(fd)

    # ------------------------------------------------------------ recorded operations
    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if create:
            self._step("create", path)
        fd = super().open(path, write=write, create=create, exclusive=exclusive)
        self._paths[fd] = path
        return fd

    def close(self, fd: int) -> None:
        if self._paths.pop(fd, None) is not None:  # after bury() the dead process's own cleanup finds nothing
            super().close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        for at, (kind, path, after, error) in enumerate(self._faults):
            if kind == "pread" and self._paths[fd].endswith(path):
                if not after:
                    raise error  # stays: an unreadable block is unreadable every time
                self._faults[at] = (kind, path, after - 1, error)
        return super().pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        self._step("pwrite", self._paths[fd], offset, len(data))
        super().pwrite(fd, data, offset)

    def preallocate(self, fd: int, length: int) -> None:
        self._step("preallocate", self._paths[fd], length)
        super().preallocate(fd, length)

    def truncate(self, fd: int, length: int) -> None:
        self._step("truncate", self._paths[fd], length)
        super().truncate(fd, length)

    def sync(self, fd: int) -> None:
        self._step("sync", self._paths[fd])
        if self.real_sync:
            super().sync(fd)

    def sync_all(self, fd: int) -> None:
        self._step("sync_all", self._paths[fd])
        if self.real_sync:
            super().sync_all(fd)

    def sync_dir(self, path: str) -> None:
        self._step("sync_dir", path)
        if self.real_sync:
            super().sync_dir(path)

    def rename(self, source: str, target: str) -> None:
        self._step("rename", source, target)
        super().rename(source, target)

    def unlink(self, path: str) -> None:
        if self.exists(path):
            self._step("unlink", path)
        super().unlink(path)

    def make_dir(self, path: str) -> None:
        if not self.is_dir(path):
            self._step("make_dir", path)
        super().make_dir(path)
