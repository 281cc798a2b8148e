"""A double of the disk door: it records every step, fails on demand, and dies on demand.

``steps`` holds what changed something, or made a change durable, in order::

    ("pwrite", path, offset, length)   ("sync", path)   ("rename", source, target) ...

A *crash* is a ``BaseException``: it passes every ``except OSError``.  After it the double does nothing more,
so a cleanup that a dead process could not have done is not done either.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
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
        self._bad_step: tuple[int, int, bool] | None = None

    # ------------------------------------------------------------ what goes wrong
    def fail(self, operation: str, code: int, *, path: str = "", after: int = 0) -> None:
        """``operation`` raises ``OSError(code)`` once, on a path ending with ``path``, after ``after`` successes."""
        self._faults.append((operation, path, after, OSError(code, f"injected into {operation}")))

    def fail_at(self, step: int, code: int, *, lasting: bool = False) -> None:
        """Step number ``step`` raises ``OSError(code)``; ``lasting``: and so does every one that follows."""
        self._bad_step = (step, code, lasting)

    def heal(self) -> None:
        """Forget all faults."""
        self._faults.clear()
        self._bad_step = None

    def revive(self, crash_at: int | None = None) -> None:
        """The next process uses the same disk; it may die, too, before a step of its own."""
        self.steps.clear()
        self.crashed, self.crash_at = False, crash_at

    def _step(self, operation: str, *what: Any) -> None:
        if self.crashed or self.crash_at == len(self.steps):
            self.crashed = True
            self.bury()
            raise Crash(f"before step {len(self.steps)}: {operation} {what}")
        if self._bad_step is not None and len(self.steps) >= self._bad_step[0]:
            step, code, lasting = self._bad_step
            self._bad_step = (step, code, lasting) if lasting else None
            raise OSError(code, f"injected into step {step}, {operation}")
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


# ---------------------------------------------------------------- power cuts
LOST, KEPT, TORN = "lost", "kept", "torn"  # what becomes of everything that was not synced
SECTOR_BYTES = 512  # what a device writes whole or not at all


@dataclass
class _Node:
    """A file as the device sees it: bytes that are safe, and what was done to it since."""

    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (new size, None)

    def survives(self, keep: Callable[[], bool], torn: bool) -> bytes:
        """Its content after a power cut; ``keep()`` says for each unsynced write (torn: each sector) whether it is."""
        data = bytearray(self.synced)
        for offset, piece in self.pending:
            if piece is None:
                if keep():
                    data = data[:offset].ljust(offset, b"\0")
                continue
            for start in range(0, len(piece), SECTOR_BYTES) if torn else (0,):
                part = piece[start : start + SECTOR_BYTES] if torn else piece
                if keep():
                    data = data.ljust(offset + start + len(part), b"\0")
                    data[offset + start : offset + start + len(part)] = part
        return bytes(data)


class PoweredFiles(FaultyFiles):
    """A ``FaultyFiles`` that knows what the device holds, and can show the directory as a power cut leaves it.

    Writes are safe once their file was synced, names once their directory was; a file's size counts as data.
    What was there when a file was first touched counts as safe.
    """

    def __init__(self, *, crash_at: int | None = None) -> None:
        super().__init__(crash_at=crash_at)
        self._nodes: dict[int, _Node] = {}  # by descriptor
        self._now: dict[str, _Node | None] = {}
        self._safe: dict[str, _Node | None] = {}
        self._renames: list[dict[str, _Node | None]] = []  # changes of names that no sync of the directory covers

    def power_cut(self, directory: str, target: str, fate: str, seed: int = 0) -> str:
        """A copy of ``directory`` as the next boot finds it: shared memory is gone, unsynced changes as ``fate`` says.

        TORN: each of them, each sector of each write, is there or not, as a coin decides.
        """
        coin = random.Random(seed)
        keep = {LOST: lambda: False, KEPT: lambda: True, TORN: lambda: coin.random() < 0.5}[fate]
        shutil.copytree(directory, target, ignore=shutil.ignore_patterns("shm"))
        names = dict(self._safe)
        for change in self._renames:
            if keep():
                names.update(change)
        for path, node in names.items():
            there = os.path.join(target, os.path.relpath(path, directory))
            if os.path.lexists(there):
                os.unlink(there)
            if node is not None:
                with open(there, "wb") as file:
                    file.write(node.survives(keep, fate == TORN))
        return target

    def _know(self, path: str) -> _Node | None:
        if path not in self._now:
            node = None
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    node = _Node(file.read())
            self._now[path] = self._safe[path] = node
        return self._now[path]

    def _name(self, change: dict[str, _Node | None]) -> None:
        self._now.update(change)
        self._renames.append(change)

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        node = self._know(path)
        fd = super().open(path, write=write, create=create, exclusive=exclusive)
        if node is None:
            node = _Node()
            self._name({path: node})
        self._nodes[fd] = node
        return fd

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        super().pwrite(fd, data, offset)
        self._nodes[fd].pending.append((offset, bytes(data)))

    def preallocate(self, fd: int, length: int) -> None:
        super().preallocate(fd, length)
        self._nodes[fd].pending.append((length, None))

    def truncate(self, fd: int, length: int) -> None:
        super().truncate(fd, length)
        self._nodes[fd].pending.append((length, None))

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self._synced(fd)

    def sync_all(self, fd: int) -> None:
        super().sync_all(fd)
        self._synced(fd)

    def _synced(self, fd: int) -> None:
        node = self._nodes[fd]
        node.synced, node.pending = node.survives(lambda: True, False), []

    def sync_dir(self, path: str) -> None:
        super().sync_dir(path)
        mine, self._renames = self._renames, []
        for change in mine:
            if all(os.path.dirname(name) == path for name in change):
                self._safe.update(change)
            else:
                self._renames.append(change)

    def rename(self, source: str, target: str) -> None:
        node, _ = self._know(source), self._know(target)
        super().rename(source, target)
        self._name({source: None, target: node})

    def unlink(self, path: str) -> None:
        there = self._know(path) is not None
        super().unlink(path)
        if there:
            self._name({path: None})
