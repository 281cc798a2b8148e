"""A rehearsal: the disk as it would be after changes that are made in memory only.

``Rehearsal`` reads what is there and keeps every write to itself.  Repair first runs against it: what it did is the
plan, and that the log opens afterwards is known before a single byte changes.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from .files import Files


class Rehearsal(Files):
    """``Files`` whose changes nobody else sees.  A file is copied into memory when it is first changed."""

    def __init__(self) -> None:
        self._changed: dict[str, bytearray | None] = {}  # path -> content now; None: it is gone
        self._folders: set[str] = set()
        self._paths: dict[int, str] = {}  # descriptors of changed files; negative, so that none is a real one
        self._next = -2

    def _content(self, path: str) -> bytearray | None:
        """What stands at ``path`` after the changes, for changing it; None if nothing does."""
        if path not in self._changed:
            self._changed[path] = bytearray(super().read_file(path)) if super().exists(path) else None
        return self._changed[path]

    # ------------------------------------------------------------ files
    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        """As :meth:`Files.open`."""
        if not write and path not in self._changed:
            return super().open(path)
        found = self._content(path)
        if found is None and not create:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        if found is not None and exclusive:
            raise FileExistsError(errno.EEXIST, "there is such a file", path)
        if found is None:
            self._changed[path] = bytearray()
        self._next -= 1
        self._paths[self._next] = path
        return self._next

    def _data(self, fd: int) -> bytearray:
        found = self._changed[self._paths[fd]]
        assert found is not None
        return found

    def close(self, fd: int) -> None:
        """As :meth:`Files.close`."""
        if self._paths.pop(fd, None) is None:
            super().close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """As :meth:`Files.pread`."""
        return bytes(self._data(fd)[offset : offset + length]) if fd < 0 else super().pread(fd, length, offset)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """As :meth:`Files.pwrite`."""
        found = self._data(fd)
        found.extend(bytes(max(0, offset - len(found))))
        found[offset : offset + len(data)] = data

    def preallocate(self, fd: int, length: int) -> None:
        """As :meth:`Files.preallocate`."""
        found = self._data(fd)
        found.extend(bytes(max(0, length - len(found))))

    def truncate(self, fd: int, length: int) -> None:
        """As :meth:`Files.truncate`."""
        self.preallocate(fd, length)
        del self._data(fd)[length:]

    def sync(self, fd: int) -> None:
        """Nothing to do."""

    def sync_all(self, fd: int) -> None:
        """Nothing to do."""

    def drop_cache(self, fd: int) -> None:
        """Nothing to do."""

    def size(self, fd: int) -> int:
        """As :meth:`Files.size`."""
        return len(self._data(fd)) if fd < 0 else super().size(fd)

    # ------------------------------------------------------------ directories
    def make_dir(self, path: str) -> None:
        """As :meth:`Files.make_dir`."""
        self._folders.add(path)

    def sync_dir(self, path: str) -> None:
        """Nothing to do."""

    def list_dir(self, path: str) -> list[str]:
        """As :meth:`Files.list_dir`."""
        names = set(super().list_dir(path))
        for changed, content in self._changed.items():
            folder, _, name = changed.rpartition("/")
            if folder == path:
                (names.discard if content is None else names.add)(name)
        names.update(folder.rpartition("/")[2] for folder in self._folders if folder.rpartition("/")[0] == path)
        return sorted(names)

    def rename(self, source: str, target: str) -> None:
        """As :meth:`Files.rename`."""
        self._changed[target], self._changed[source] = self._content(source), None

    def unlink(self, path: str) -> None:
        """As :meth:`Files.unlink`."""
        self._changed[path] = None

    def exists(self, path: str) -> bool:
        """As :meth:`Files.exists`."""
        if path in self._changed:
            return self._changed[path] is not None
        return path in self._folders or super().exists(path)

    def is_dir(self, path: str) -> bool:
        """As :meth:`Files.is_dir`."""
        return path in self._folders or super().is_dir(path)

    def write_file(self, path: str, data: bytes, *, ready: Callable[[], None] | None = None) -> None:
        """As :meth:`Files.write_file`."""
        self._changed[path] = bytearray(data)
        if ready is not None:
            ready()
