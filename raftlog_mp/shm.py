"""DOOR TO SHARED MEMORY: create, map and release; atomic cells on a mapping.

Nothing here knows what a word means (``layout.py`` does).  Three rules live here:

* A shared word is touched only through an ``atomicshm`` cell.  ``struct.pack_into`` on a live word
  zeroes it first (CPython), and concurrent readers see that zero.
* Space is reserved with ``posix_fallocate`` before mapping: a full disk is an error here, not a SIGBUS later.
* Clients and readers map control, ring and index read-only: a stray store faults, the log is unharmed.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import mmap
import os
from typing import Any

from atomicshm import ACQUIRE, RELAXED, RELEASE, SEQ_CST, AtomicView, fence

__all__ = ["ACQUIRE", "RELAXED", "RELEASE", "SEQ_CST", "Mapping", "boot_id", "create_file", "create_memfd", "fence",
           "map_memfd", "open_file"]  # fmt: skip


class _PyBuffer(ctypes.Structure):
    _fields_ = [
        ("buf", ctypes.c_void_p), ("obj", ctypes.py_object), ("len", ctypes.c_ssize_t),
        ("itemsize", ctypes.c_ssize_t), ("readonly", ctypes.c_int), ("ndim", ctypes.c_int),
        ("format", ctypes.c_char_p), ("shape", ctypes.c_void_p), ("strides", ctypes.c_void_p),
        ("suboffsets", ctypes.c_void_p), ("internal", ctypes.c_void_p),
    ]  # fmt: skip


_get_buffer = ctypes.pythonapi.PyObject_GetBuffer
_get_buffer.argtypes = [ctypes.py_object, ctypes.POINTER(_PyBuffer), ctypes.c_int]
_release_buffer = ctypes.pythonapi.PyBuffer_Release
_release_buffer.argtypes = [ctypes.POINTER(_PyBuffer)]
_release_buffer.restype = None


# Since Linux 5.14 (madvise(2)); ``mmap.madvise`` would hold the interpreter while the kernel works.
MADV_POPULATE_READ = 22
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class _Pin:
    """Holds the buffer of a read-only mapping, so that its address stays good; let go with the last reference."""

    def __init__(self, data: mmap.mmap) -> None:
        self._buffer = _PyBuffer()
        _get_buffer(data, ctypes.byref(self._buffer), 0)
        self.address: int = self._buffer.buf or 0

    def __del__(self) -> None:
        _release_buffer(ctypes.byref(self._buffer))


def _loadable(data: mmap.mmap, length: int) -> Any:
    """A buffer over a read-only mapping that ``atomicshm`` accepts: it wants a writable one even for loads.

    Loads work, and a store faults.  The array carries the pin: cells hold their view, the view this array.
    """
    pin = _Pin(data)
    array_type: Any = type("PinnedArray", (ctypes.c_char * length,), {})
    array = array_type.from_address(pin.address)
    array.pin = pin
    return array


class Mapping:
    """One shared mapping and its atomic view.  ``data`` is the mmap: slice it for payload bytes, never for words."""

    def __init__(self, fd: int, length: int, *, writable: bool) -> None:
        self.length = length
        self.writable = writable
        prot = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
        self.data = mmap.mmap(fd, length, flags=mmap.MAP_SHARED, prot=prot)
        self._view = AtomicView(self.data if writable else _loadable(self.data, length))

    def cell(self, offset: int) -> Any:
        """The atomic u64 at ``offset`` (a multiple of 8)."""
        return self._view.cell_u64(offset)

    def view(self) -> memoryview:
        """A memoryview of the bytes, for zero-copy writes to files; release it before :meth:`close`."""
        return memoryview(self.data)

    def prefault(self, offset: int, length: int) -> bool:
        """Have the kernel find and clear the memory of these bytes now; False if it cannot do that ahead.

        Nothing is written.  Other threads of this process go on meanwhile.
        """
        try:
            start = ctypes.c_char.from_buffer(self.data, offset)  # holds the mapping, so nobody unmaps it under us
        except ValueError:  # closed
            return False
        return bool(_madvise(ctypes.addressof(start), length, MADV_POPULATE_READ) == 0)

    def close(self) -> None:
        """Unmap.  Cells taken from here raise ``ValueError`` afterwards; idempotent."""
        self._view.close()
        # An iterator elsewhere may still hold a memoryview, or a cell the pin: then the last reference unmaps.
        with contextlib.suppress(BufferError):
            self.data.close()


def create_file(path: str, length: int) -> Mapping:
    """A new shared file, 0600, zero-filled and reserved, mapped writable.  Replaces a leftover of that name."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, length)
        return Mapping(fd, length, writable=True)
    except BaseException:
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def open_file(path: str, *, writable: bool = False) -> Mapping:
    """Map an existing shared file whole.  Raises ``FileNotFoundError`` if it is gone, ``ValueError`` if empty."""
    fd = os.open(path, (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC)
    try:
        length = os.fstat(fd).st_size
        if length == 0:
            raise ValueError(f"{path} is empty")
        return Mapping(fd, length, writable=writable)
    finally:
        os.close(fd)


def create_memfd(name: str, length: int) -> tuple[int, Mapping]:
    """An unnamed shared memory of fixed size: ``(descriptor, mapping)``.

    Sealed against shrinking and growing, so the peer that receives the descriptor cannot make us fault.
    """
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.posix_fallocate(fd, 0, min(length, mmap.PAGESIZE))  # the words; data pages come as they are used
        os.ftruncate(fd, length)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
        return fd, Mapping(fd, length, writable=True)
    except BaseException:
        os.close(fd)
        raise


def close_fd(fd: int) -> None:
    """Give back a memfd's descriptor; mappings of it stay."""
    os.close(fd)


def map_memfd(fd: int) -> Mapping:
    """Map a received memfd whole, writable, and close the descriptor."""
    try:
        return Mapping(fd, os.fstat(fd).st_size, writable=True)
    finally:
        os.close(fd)


def boot_id() -> tuple[int, int]:
    """128 bits that change with every boot of this machine, as two words: shared memory of another boot is no proof."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            value = int(file.read().strip().replace("-", ""), 16)
    except (OSError, ValueError):
        return 0, 0
    return value >> 64, value & (1 << 64) - 1


def make_folder(path: str) -> None:
    """The folder for shared files, 0700."""
    os.makedirs(path, mode=0o700, exist_ok=True)


def remove(path: str) -> None:
    """Remove a shared file's name; processes that map it keep it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def names(folder: str) -> list[str]:
    """Names in the shared folder; empty if it is missing."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
