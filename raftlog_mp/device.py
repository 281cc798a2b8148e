"""DOOR TO THE DEVICE: reads that go past the page cache.

What stands in the page cache says nothing about the medium below it, and whoever reads a whole log through the cache
drives out of it what others need.  A direct read does neither: nothing has to be dropped afterwards.
"""

from __future__ import annotations

import errno
import mmap
import os

ALIGNMENT = 4096  # of offset, length and memory, for every device there is
UNABLE = (errno.EINVAL, errno.ENOTSUP)  # this file system has no direct reads: then through the cache


class DeviceFile:
    """A file that is read in aligned slices, directly if its file system can.  Used by one thread."""

    def __init__(self, path: str, slice_bytes: int) -> None:
        self.slice_bytes = slice_bytes
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECT)
            self.direct = True
        except OSError as error:
            if error.errno not in UNABLE:
                raise
            self._fd, self.direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
        self._path = path
        self._memory = mmap.mmap(-1, slice_bytes)  # page-aligned, as direct reads want it

    def read(self, offset: int) -> bytes:
        """The slice at ``offset`` (a multiple of ``slice_bytes``); shorter only at the end of the file."""
        try:
            count = os.preadv(self._fd, [self._memory], offset)
        except OSError as error:
            if not self.direct or error.errno not in UNABLE:
                raise
            os.close(self._fd)
            self._fd, self.direct = -1, False
            self._fd = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
            count = os.preadv(self._fd, [self._memory], offset)
        return self._memory[:count]

    def close(self) -> None:
        """Give descriptor and memory back."""
        if self._fd >= 0:
            os.close(self._fd)
        self._memory.close()
