"""What a power cut may leave on a disk, as a model; and the ``Files`` double that feeds it.

The rules (docs/crash_safety.md has them in prose):

* A *sector* of 512 bytes is on the device as it was at some moment since its file was last synced: old, new, or
  anything in between; sectors are independent of each other, so writes are lost, kept, reordered and torn.
* The *size* of a file is independent of its data: bytes that a file has and the device never got are zeros.
* A *name* (create, rename, unlink, mkdir) is durable once its directory was synced; before, any subset of the
  changes may be there.  A rename is there as a whole or not at all.  Syncing a file does not make its name durable.
* A sync that *failed* may have written anything or nothing, and no later sync repairs that (the pages count as clean),
  unless they are written again.  Asked to drop its cache, the kernel then shows what the device holds.

ext4 and xfs allow less (their journals keep the order of names); a log that survives this survives them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from support.faulty_files import SECTOR_BYTES, FaultyFiles

Keep = Callable[[int, int], bool]  # (number of the change, sector within it; 0 if it is no data) -> on the device
State = dict[str, bytes | None]  # name, relative to the log -> content; None: a directory

ZEROS = bytes(SECTOR_BYTES)
DATA, SIZE = "data", "size"
OPEN, DOUBTFUL, SETTLED = range(3)  # not synced; its sync failed; synced, but on top of something doubtful


class Op(NamedTuple):
    """One step of the trace.  Names are relative to the log's directory."""

    kind: str  # write, size, sync, bad sync, drop, sync dir, create, make dir, rename, unlink, tick
    inode: int = 0
    offset: int = 0  # of a write; the new size; 1 if a drop showed the doubtful pages to be on the device
    data: bytes = b""
    name: str = ""
    other: str = ""  # target of a rename

    def __str__(self) -> str:
        what = f" {len(self.data)} bytes at {self.offset}" if self.kind == "write" else ""
        return f"{self.kind} {self.name}{what}{' -> ' + self.other if self.other else ''}"


@dataclass(slots=True)
class Piece:
    """A change of a file that the device may or may not have: whole sectors, or a size."""

    number: int
    kind: str
    at: int  # offset of the first sector; the new size
    image: bytes = b""
    state: int = OPEN


@dataclass(slots=True)
class Node:
    """A file: what processes see, what the device surely has, and what lies between."""

    cache: bytearray = field(default_factory=bytearray)
    safe: bytearray = field(default_factory=bytearray)
    pieces: list[Piece] = field(default_factory=list)

    def write(self, number: int, offset: int, data: bytes) -> int:
        """Returns how many changes that makes: none if the same bytes stand there already."""
        end, before = offset + len(data), len(self.pieces)
        if end > len(self.cache):
            self.resize(number, end)
        elif self.cache[offset:end] == data and all(piece.state == OPEN for piece in self.pieces):
            return 0
        self.cache[offset:end] = data
        first = offset - offset % SECTOR_BYTES
        image = bytes(self.cache[first : end + -end % SECTOR_BYTES])
        self.pieces.append(Piece(number + len(self.pieces) - before, DATA, first, image))
        return len(self.pieces) - before

    def resize(self, number: int, size: int) -> None:
        """Cut or lengthen the file."""
        if size == len(self.cache):
            return
        del self.cache[size:]
        self.cache.extend(bytes(size - len(self.cache)))
        self.pieces.append(Piece(number, SIZE, size))

    def synced(self) -> None:
        """A good sync: what is open is durable now; what was doubtful before stays so, below it."""
        if all(piece.state == OPEN for piece in self.pieces):
            self.safe, self.pieces = bytearray(self.cache), []
            return
        for piece in self.pieces:
            if piece.state == OPEN:
                piece.state = SETTLED

    def doubt(self) -> None:
        """A failed sync."""
        for piece in self.pieces:
            if piece.state == OPEN:
                piece.state = DOUBTFUL

    def drop(self, kept: bool) -> None:
        """The cache is read again from the device, which turns out to have everything doubtful, or nothing of it."""
        if any(piece.state == DOUBTFUL for piece in self.pieces):
            open_ones = [piece for piece in self.pieces if piece.state == OPEN]
            self.safe = bytearray(self.content(lambda number, _: kept, without=open_ones))
            self.pieces = open_ones
            self.cache = bytearray(self.content(lambda number, _: True))

    def content(self, keep: Keep, without: Iterable[Piece] = ()) -> bytes:
        """What is on the device if it got the pieces (and sectors of them) that ``keep`` names."""
        data, size, skip = bytearray(self.safe), len(self.safe), {piece.number for piece in without}
        for piece in self.pieces:
            if piece.number in skip:
                continue
            number, sure = piece.number, piece.state == SETTLED
            if piece.kind == SIZE:
                if sure or keep(number, 0):
                    del data[piece.at :]
                    size = piece.at
                continue
            for start in range(0, len(piece.image), SECTOR_BYTES):
                if sure or keep(number, start // SECTOR_BYTES):
                    at, part = piece.at + start, piece.image[start : start + SECTOR_BYTES]
                    if len(data) < at + len(part):
                        data.extend(bytes(at + len(part) - len(data)))
                    data[at : at + len(part)] = part
        del data[size:]
        return bytes(data).ljust(size, b"\0")


class Disk:
    """The directory of a log: its files, its names, and which changes are not durable yet."""

    def __init__(self, base: State | None = None) -> None:
        self.nodes: dict[int, Node] = {}
        self.names: dict[str, int | None] = {}  # as processes see them; -1 is a directory
        self.changes: list[tuple[int, dict[str, int | None]]] = []
        self.number = 0
        for name, data in (base or {}).items():
            self.names[name] = -1 if data is None else len(self.nodes) + 1
            if data is not None:
                self.nodes[len(self.nodes) + 1] = Node(bytearray(data), bytearray(data))
        self.safe_names = dict(self.names)

    def apply(self, op: Op) -> None:
        """The next step of the trace."""
        if op.kind in ("create", "make dir"):
            self.nodes.setdefault(op.inode, Node())
            self._rename({op.name: op.inode})
        elif op.kind == "rename":
            self._rename({op.name: None, op.other: self.names[op.name]})
        elif op.kind == "unlink":
            self._rename({op.name: None})
        elif op.kind == "sync dir":
            self._sync_dir(op.name)
        elif op.kind != "tick":
            self._apply_to_file(self.nodes[op.inode], op)

    def _apply_to_file(self, node: Node, op: Op) -> None:
        if op.kind == "write":
            self.number += node.write(self.number, op.offset, op.data)
        elif op.kind == "size":
            node.resize(self.number, op.offset)
            self.number += 1
        elif op.kind == "sync":
            node.synced()
        elif op.kind == "bad sync":
            node.doubt()
        elif op.kind == "drop":
            node.drop(bool(op.offset))

    def _rename(self, change: dict[str, int | None]) -> None:
        self.names.update(change)
        self.changes.append((self.number, change))
        self.number += 1

    def _sync_dir(self, folder: str) -> None:
        later = []
        for number, change in self.changes:
            if all(os.path.dirname(name) == folder for name in change):
                self.safe_names.update(change)
            else:
                later.append((number, change))
        self.changes = later

    # ------------------------------------------------------------ what a crash leaves
    def undecided(self) -> list[int]:
        """Numbers of the changes that a power cut may take, oldest first."""
        found = [number for number, _ in self.changes]
        for node in self._reachable():
            found += [piece.number for piece in node.pieces if piece.state != SETTLED]
        return sorted(found)

    def doubtful(self) -> list[int]:
        """Numbers of the changes that may be gone although no power was cut: their sync failed."""
        nodes = self._reachable()
        return sorted(piece.number for node in nodes for piece in node.pieces if piece.state == DOUBTFUL)

    def sectors(self, number: int) -> int:
        """Of how many sectors a change consists; 1 if it is no data."""
        pieces = [piece for node in self._reachable() for piece in node.pieces if piece.number == number]
        return max(1, -(-len(pieces[0].image) // SECTOR_BYTES)) if pieces else 1

    def _reachable(self) -> list[Node]:
        inodes = set(self.safe_names.values()) | {inode for _, change in self.changes for inode in change.values()}
        return [self.nodes[inode] for inode in sorted(inodes - {None, -1}, key=lambda inode: inode or 0)]

    def state(self, keep: Keep) -> State:
        """The directory as the next boot finds it."""
        names = dict(self.safe_names)
        for number, change in self.changes:
            if keep(number, 0):
                names.update(change)
        found: State = {name: None for name, inode in names.items() if inode == -1}
        for name, inode in names.items():
            folder = os.path.dirname(name)
            if inode not in (None, -1) and (not folder or folder in found):
                found[name] = self.nodes[inode].content(keep)
        return found


def digest(state: State) -> bytes:
    """States with one digest are equal."""
    found = hashlib.blake2b(digest_size=16)
    for name in sorted(state):
        data = state[name]
        found.update(f"\0{name}\0{-1 if data is None else len(data)}\0".encode())
        found.update(without_zeros(data or b""))
    return found.digest()


def without_zeros(data: bytes) -> bytes:
    """Without (most of) the zeros at its end."""
    end = len(data)
    while end and data[max(0, end - len(ZEROS)) : end] == ZEROS[:end]:
        end = max(0, end - len(ZEROS))
    return data[:end]


def materialise(state: State, directory: str) -> None:
    """Write a state as a directory.  Zeros at the end of a file are a hole."""
    os.mkdir(directory, 0o700)
    for name in sorted(state, key=lambda name: (state[name] is not None, name)):
        path, data = os.path.join(directory, name), state[name]
        if data is None:
            os.mkdir(path, 0o700)
            continue
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, without_zeros(data))
            os.ftruncate(fd, len(data))
        finally:
            os.close(fd)


class RecordingFiles(FaultyFiles):
    """The disk door of a log in ``directory`` that keeps a trace; ``base``: what stands there durably already.

    ``watch`` is called after each step was recorded.  ``dropped`` says whether doubtful pages turn out to be there.
    """

    def __init__(self, directory: str, base: State | None = None, *, dropped: bool = False) -> None:
        super().__init__()
        self.directory, self.trace, self.disk, self.dropped = directory, list[Op](), Disk(base), dropped
        self.watch: Callable[[], None] = lambda: None
        self._next_inode = len(self.disk.nodes) + 1
        self._inodes: dict[int, int] = {}  # by descriptor

    def note(self, op: Op) -> None:
        """Record a step; ``Op("tick")`` is one that changed memory only."""
        self.trace.append(op)
        self.disk.apply(op)
        self.watch()

    def _name(self, path: str) -> str:
        return os.path.relpath(path, self.directory)

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        new = create and not os.path.lexists(path)
        fd = super().open(path, write=write, create=create, exclusive=exclusive)
        name = self._name(path)
        if new:
            self._next_inode += 1
            self._inodes[fd] = self._next_inode
            self.note(Op("create", self._next_inode, name=name))
        else:
            self._inodes[fd] = self.disk.names.get(name) or 0
        return fd

    def _on(self, kind: str, fd: int, offset: int = 0, data: bytes = b"") -> None:
        self.note(Op(kind, self._inodes[fd], offset, data, self._name(self._paths[fd])))

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        super().pwrite(fd, data, offset)
        self._on("write", fd, offset, bytes(data))

    def preallocate(self, fd: int, length: int) -> None:
        self._step("preallocate", self._paths[fd], length)
        if length > os.fstat(fd).st_size:
            os.ftruncate(fd, length)  # reserves nothing, which costs less and reads the same
            self._on("size", fd, length)

    def truncate(self, fd: int, length: int) -> None:
        super().truncate(fd, length)
        self._on("size", fd, length)

    def sync(self, fd: int) -> None:
        self._sync(fd, super().sync)

    def sync_all(self, fd: int) -> None:
        self._sync(fd, super().sync_all)

    def _sync(self, fd: int, sync: Callable[[int], None]) -> None:
        try:
            sync(fd)
        except OSError:
            self._on("bad sync", fd)
            raise
        self._on("sync", fd)

    def drop_cache(self, fd: int) -> None:
        node = self.disk.nodes[self._inodes[fd]]
        before = bytes(node.cache)
        self._on("drop", fd, int(self.dropped))
        if node.cache != before:
            with open(self._paths[fd], "r+b") as file:
                file.write(node.cache)
                file.truncate(len(node.cache))

    def sync_dir(self, path: str) -> None:
        super().sync_dir(path)
        name = self._name(path)
        self.note(Op("sync dir", name="" if name == "." else name))

    def make_dir(self, path: str) -> None:
        new = not os.path.isdir(path)
        if new and os.path.realpath(path) != os.path.realpath(self.directory):
            os.mkdir(path, 0o700)
            self.note(Op("make dir", -1, name=self._name(path)))
            self.sync_dir(os.path.dirname(path))
        elif new:
            os.mkdir(path, 0o700)

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        self.note(Op("rename", name=self._name(source), other=self._name(target)))

    def unlink(self, path: str) -> None:
        there = os.path.lexists(path)
        super().unlink(path)
        if there:
            self.note(Op("unlink", name=self._name(path)))
