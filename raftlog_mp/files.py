"""DOOR TO THE DISK: the only module that opens, reads, writes, syncs or renames files of a log.

``Files`` is a plain object so that tests can hand in a double that records every call and
loses, keeps, reorders or tears what was not synced.  Nothing here decides; errors are plain ``OSError``.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from .errors import AccessDenied, CorruptLog, NotALog

PathLike = str | os.PathLike[str]

SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of this machine now, no fault of the disk
_READ_BYTES = 1 << 24  # in one system call
_LOAD_BYTES = 1 << 20  # in one piece into memory


class Files:
    """The operations a log needs of a file system.  All durable steps are explicit: nothing syncs by itself."""

    # ------------------------------------------------------------ files
    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        """A descriptor, close-on-exec.  ``create`` makes the file 0600 if missing (``exclusive``: it must be)."""
        flags = os.O_CLOEXEC | (os.O_RDWR if write else os.O_RDONLY)
        if create:
            flags |= os.O_CREAT | (os.O_EXCL if exclusive else 0)
        return os.open(path, flags, 0o600)

    def close(self, fd: int) -> None:
        """Give the descriptor back."""
        os.close(fd)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; shorter only at the end of the file."""
        data = b""
        if 0 < length <= _READ_BYTES:  # nearly always, and then without another call: a random get waits for this
            data = os.pread(fd, length, offset)
            if len(data) == length or not data:
                return data
        elif length > 0:
            data = os.pread(fd, _READ_BYTES, offset)
        chunks = []
        while data:
            chunks.append(data)
            offset, length = offset + len(data), length - len(data)
            data = os.pread(fd, min(length, _READ_BYTES), offset) if length else b""
        return b"".join(chunks)

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        """Write all of ``data`` at ``offset``.  Not durable before :meth:`sync`."""
        done = os.pwrite(fd, data, offset)
        while done < len(data):  # a short write is legal; the rest follows
            done += os.pwrite(fd, memoryview(data)[done:], offset + done)

    def preallocate(self, fd: int, length: int) -> None:
        """Reserve ``length`` zero-filled bytes, so that later writes cannot run out of space."""
        os.posix_fallocate(fd, 0, length)

    def truncate(self, fd: int, length: int) -> None:
        """Cut the file.  Only for regions that no mapping reads (section 7 of the format document)."""
        os.ftruncate(fd, length)

    def sync(self, fd: int) -> None:
        """fdatasync: data and size are on the device when this returns.  A failure is final (never retried)."""
        os.fdatasync(fd)

    def sync_all(self, fd: int) -> None:
        """fsync: as :meth:`sync`, metadata included."""
        os.fsync(fd)

    def drop_cache(self, fd: int) -> None:
        """Ask the kernel to forget clean cached pages, so that the next read comes from the device."""
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)

    def will_need(self, fd: int, offset: int, length: int) -> None:
        """Start reading ahead."""
        os.posix_fadvise(fd, offset, length, os.POSIX_FADV_WILLNEED)

    def size(self, fd: int) -> int:
        """Bytes of the file."""
        return os.fstat(fd).st_size

    def map(self, fd: int, length: int, *, populate: bool = False) -> mmap.mmap:
        """A read-only shared mapping.  For measurements: what serves a log reads instead, see :meth:`load`."""
        flags = mmap.MAP_SHARED | (mmap.MAP_POPULATE if populate else 0)
        return mmap.mmap(fd, length, flags=flags, prot=mmap.PROT_READ)

    def load(self, fd: int, length: int) -> mmap.mmap:
        """The first ``length`` bytes (at least 1) in memory of their own; ``close()`` gives it back at once.

        Not a mapping of the file: a block that goes bad would end the process (SIGBUS), and so would a cut.  Here the
        one is an ``OSError`` and the other leaves zeros.  What holds only zeros takes no memory.
        """
        try:
            memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:  # not one of the disk
            raise MemoryError(f"{length} bytes of a file do not fit into memory") from error
        try:
            for offset in range(0, length, _LOAD_BYTES):
                piece = self.pread(fd, min(_LOAD_BYTES, length - offset), offset)
                if piece != bytes(len(piece)):
                    memory[offset : offset + len(piece)] = piece
        except BaseException:
            memory.close()
            raise
        return memory

    def replaced(self, fd: int) -> bool:
        """Whether the file was replaced or removed since it was opened: no name leads to it any more.

        Certain, while inode and time of change are not: an inode is used again, and two changes may share a tick.
        """
        return os.fstat(fd).st_nlink == 0

    # ------------------------------------------------------------ directories
    def make_dir(self, path: str) -> None:
        """Create the directory, 0700, and its parents (with the user's umask) if missing."""
        parent = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(path):
            os.makedirs(parent, exist_ok=True)
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                if not os.path.isdir(path):
                    raise
            self.sync_dir(parent)

    def sync_dir(self, path: str) -> None:
        """fsync of the directory: creates, renames and unlinks in it are durable when this returns."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def list_dir(self, path: str) -> list[str]:
        """Names in the directory, sorted; empty if it does not exist."""
        try:
            return sorted(os.listdir(path))
        except FileNotFoundError:
            return []

    def rename(self, source: str, target: str) -> None:
        """Replace ``target`` atomically.  Durable after :meth:`sync_dir`."""
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        """Remove the file if it is there."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass

    def exists(self, path: str) -> bool:
        """Whether anything stands at ``path``."""
        return os.path.lexists(path)

    def owner(self, path: str) -> int | None:
        """User id that owns ``path``; None if it does not exist."""
        try:
            return os.stat(path).st_uid
        except FileNotFoundError:
            return None

    def is_dir(self, path: str) -> bool:
        """Whether ``path`` is a directory."""
        try:
            return stat.S_ISDIR(os.stat(path).st_mode)
        except FileNotFoundError:
            return False

    def writable_dir(self, path: str) -> bool:
        """Whether this process may create files in the directory."""
        return os.access(path, os.W_OK | os.X_OK)

    # ------------------------------------------------------------ whole files
    def read_file(self, path: str) -> bytes:
        """All bytes of a file."""
        fd = self.open(path)
        try:
            return self.pread(fd, self.size(fd), 0)
        except OSError as error:
            error.filename = error.filename or path  # a descriptor has no name to tell
            raise
        finally:
            self.close(fd)

    def write_file(self, path: str, data: bytes, *, ready: Callable[[], None] | None = None) -> None:
        """Put ``data`` at ``path`` atomically and durably: temporary file, fsync, rename, fsync of the directory.

        ``ready()`` is called when everything but the rename is done.
        """
        self._replace(path, data, ready, sync=True)
        try:
            self.sync_dir(os.path.dirname(path))
        except OSError as error:
            # Which of the two a crash would leave, nobody can tell: whatever the reason, this is no "nothing changed".
            raise OSError(errno.EIO, f"replaced, but not known to be durable: {error.strerror}", path) from error

    def write_cache(self, path: str, data: bytes) -> None:
        """Put ``data`` at ``path`` atomically, but not durably: for what a checksum proves and can be made again.

        A directory in its place is no file of ours, and must not keep a log from starting: it is moved aside.
        """
        try:
            self._replace(path, data, None, sync=False)
        except IsADirectoryError:
            self.rename(path, path + ".directory")
            self._replace(path, data, None, sync=False)

    def _replace(self, path: str, data: bytes, ready: Callable[[], None] | None, *, sync: bool) -> None:
        temporary = path + ".tmp"
        self.unlink(temporary)
        try:
            fd = self.open(temporary, write=True, create=True, exclusive=True)
            try:
                self.pwrite(fd, data, 0)
                if sync:
                    self.sync_all(fd)
            finally:
                self.close(fd)
            if ready is not None:
                ready()
            self.rename(temporary, path)
        except OSError:
            with suppress(OSError):  # half a file would keep the space that is missing
                self.unlink(temporary)
            raise

    # ------------------------------------------------------------ locks
    def lock(self, fd: int) -> bool:
        """Take the exclusive flock without waiting; it lives as long as the descriptor, and dies with the process."""
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def lock_held(self, path: str) -> bool:
        """Whether some process holds the exclusive flock of ``path``.

        Asked with a shared lock that is given back at once; a writer that starts in that instant tries again.
        :class:`CorruptLog` if ``path`` is no file, or cannot be read: then nobody can tell.
        """
        try:
            if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe might wait for ever
                raise bad_lock(path, "it is not a regular file")
            fd = self.open(path)
            try:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                self.unlock(fd)
            except BlockingIOError:
                return True
            finally:
                self.close(fd)
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            raise bad_lock(path, error) from error
        return False

    def unlock(self, fd: int) -> None:
        """Give the lock back, also for descriptors that a fork in another thread has duplicated meanwhile."""
        fcntl.flock(fd, fcntl.LOCK_UN)

    @contextmanager
    def opened(self, path: str, *, write: bool = False) -> Iterator[int]:
        """A descriptor for the length of a ``with`` block."""
        fd = self.open(path, write=write)
        try:
            yield fd
        finally:
            self.close(fd)


class Watched:
    """A file that is held open, so that one that replaces it is told from it."""

    def __init__(self, files: Files, path: str) -> None:
        self._files, self._fd = files, -1
        with suppress(OSError):
            self._fd = files.open(path)

    def replaced(self) -> bool:
        """Whether another file, or none, stands at the path now."""
        try:
            return self._fd == -1 or self._files.replaced(self._fd)
        except OSError:
            return True

    def __del__(self) -> None:
        # With its last user, and never earlier: the descriptor must not become that of another file.
        if self._fd != -1:
            self._files.close(self._fd)


class OwnersFiles(Files):
    """``Files`` whose creations belong to the owner of ``directory``, also when root makes them."""

    def __init__(self, directory: str) -> None:
        found = os.stat(directory)
        self._owner = (found.st_uid, found.st_gid) if os.geteuid() == 0 != found.st_uid else None

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        """As :meth:`Files.open`."""
        fd = super().open(path, write=write, create=create, exclusive=exclusive)
        if create and self._owner is not None:
            os.fchown(fd, *self._owner)
        return fd

    def make_dir(self, path: str) -> None:
        """As :meth:`Files.make_dir`."""
        super().make_dir(path)
        if self._owner is not None:
            os.chown(path, *self._owner)


def bad_lock(path: str, why: OSError | str) -> AccessDenied | CorruptLog:
    """What to raise for a lock file that cannot be used, with words."""
    if isinstance(why, PermissionError):
        return AccessDenied(f"{path} cannot be opened by this user; the log belongs to whoever may")
    reason = why if isinstance(why, str) else why.strerror
    return CorruptLog(
        f"{path} cannot be used as the log's lock: {reason}. Nothing was changed, and nobody can tell whether a writer "
        "runs. It holds nothing to be lost: when no writer runs, move it away, and `raftlog-mp repair "
        f"{os.path.dirname(path)}` makes it anew; if the device cannot read it, copy the directory to a sound disk, "
        "and repair the copy.", segment=os.path.basename(path),
    )  # fmt: skip


def real_path(path: PathLike) -> str:
    """Absolute form of what a user gave.  :class:`NotALog` for an empty path."""
    if not os.fspath(path):
        raise NotALog("an empty path is no place for a log; give a directory, '.' for the current one")
    return os.path.abspath(os.fsdecode(path))


def join(*parts: str) -> str:
    """Path of a file below a folder."""
    return os.path.join(*parts)
