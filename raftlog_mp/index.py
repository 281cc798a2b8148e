"""The index: entry index -> stream position of the record that holds it.  Dense, 8 bytes an entry.

Slots are write-once.  The active segment's index is a shared file of fixed capacity; a sealed segment's
is a checksummed file beside it.  Both are caches: they can always be rebuilt from the records.
"""

from __future__ import annotations

import struct

from crc32c import crc32c

from . import format as fmt
from . import shm
from .errors import VersionMismatch
from .files import Files

pack_slot = struct.Struct("<Q").pack

READ_BYTES = 1 << 20  # of an index at once, before it is mapped


class ActiveIndex:
    """The writer's side of the active segment's index."""

    def __init__(self, path: str, base_index: int, slots: int) -> None:
        self.path = path
        self.base_index = base_index
        self.slots = slots
        self._mapping = shm.create_file(path, max(slots, 1) * fmt.SLOT_BYTES)

    def write(self, index: int, slots: bytes) -> None:
        """Store slots from entry ``index`` on.  Not yet visible: readers look only below the published index."""
        at = (index - self.base_index) * fmt.SLOT_BYTES
        self._mapping.data[at : at + len(slots)] = slots

    def used(self, last_index: int) -> bytes:
        """The slots up to ``last_index``, for the sealed file."""
        return self._mapping.data[: (last_index + 1 - self.base_index) * fmt.SLOT_BYTES]

    def close(self) -> None:
        """Unmap and remove the name; readers that map it keep it."""
        self._mapping.close()
        shm.remove(self.path)


class IndexReader:
    """Positions by entry index, from any of the three places they live in."""

    def __init__(self, base_index: int, slots: memoryview, mapping: object) -> None:
        self.base_index = base_index
        self.slots = slots
        self._mapping = mapping  # keeps the memory alive as long as the slots

    def close(self) -> None:
        """Let go of the memory."""
        self.slots.release()
        close = getattr(self._mapping, "close", None)
        if close is not None:
            close()


def open_active(path: str, base_index: int) -> IndexReader:
    """Map the active segment's index read-only.  ``FileNotFoundError`` if the writer has moved on."""
    mapping = shm.open_file(path)
    return IndexReader(base_index, mapping.view().cast("Q"), mapping)


def open_sealed(
    files: Files, path: str, log_id: int, segment_id: int, base_index: int, count: int
) -> IndexReader | None:
    """The sealed index at ``path``, or None if it is missing or not exactly right (then rebuild it)."""
    try:
        with files.opened(path) as fd:
            size = files.size(fd)
            if size < fmt.INDEX_HEADER_BYTES + count * fmt.SLOT_BYTES:
                return None
            for offset in range(0, size, READ_BYTES):
                files.pread(fd, READ_BYTES, offset)  # an unreadable block is an error here, and SIGBUS in the mapping
            mapping = files.map(fd, size)
    except OSError:
        return None  # missing, or not to be read: a cache, made anew
    view = memoryview(mapping)
    try:
        header = fmt.read_index_header(bytes(view[: fmt.INDEX_HEADER_BYTES]), path)
    except VersionMismatch:
        header = None  # a cache: made anew, like one that is damaged
    slots = view[fmt.INDEX_HEADER_BYTES :]
    if (
        header is not None
        and header[:3] == (log_id, segment_id, base_index)
        and count <= header.slots == len(slots) // fmt.SLOT_BYTES  # more, if the segment lost its end to a truncation
        and crc32c(slots) == header.slots_crc
    ):
        return IndexReader(base_index, slots.cast("Q"), mapping)
    slots.release()
    view.release()
    mapping.close()
    return None


def write_sealed(files: Files, path: str, log_id: int, segment_id: int, base_index: int, slots: bytes) -> None:
    """Put a sealed index beside its segment.  Not synced: if a crash tears it, its CRC says so and it is rebuilt."""
    header = fmt.IndexHeader(log_id, segment_id, base_index, len(slots) // fmt.SLOT_BYTES, crc32c(slots))
    files.write_cache(path, fmt.pack_index(header, slots))


def from_slots(base_index: int, slots: bytes) -> IndexReader:
    """An index in this process's own memory, rebuilt from a scan."""
    return IndexReader(base_index, memoryview(slots).cast("Q"), None)
