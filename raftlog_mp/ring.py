"""The ring: the newest bytes of the stream, in shared memory.

The byte at stream position ``p`` lies at ``p % ring_bytes``; what wraps is copied in two slices.
``floor`` is the oldest position that is still whole.  The writer raises it *before* it overwrites, a
reader looks at it *after* it copied; so a reader either has true bytes or knows that it was lapped.
"""

from __future__ import annotations

from typing import Any

from . import format as fmt
from . import shm


class RingWriter:
    """The writer's side: the only process that stores into the ring."""

    def __init__(self, mapping: shm.Mapping, floor_cell: Any, floor: int) -> None:
        self._mapping = mapping
        self._data = mapping.data
        self.ring_bytes = mapping.length
        self._floor_cell = floor_cell
        self.floor = floor

    def write(self, position: int, data: bytes) -> None:
        """Copy ``data`` to ``position``.  The caller guarantees that what this overwrites is durable."""
        end = position + len(data)
        if end - self.ring_bytes > self.floor:
            self.floor = end - self.ring_bytes
            # Readers check the floor after copying.  The full fence keeps the overwriting stores below from
            # becoming visible before this store: whoever can see new bytes sees the raised floor too.
            self._floor_cell.store(self.floor, shm.RELEASE)
            shm.fence(shm.SEQ_CST)
        offset = position % self.ring_bytes
        room = self.ring_bytes - offset
        if len(data) <= room:
            self._data[offset : offset + len(data)] = data
        else:
            self._data[offset:] = data[:room]
            self._data[: len(data) - room] = data[room:]

    def skip_to(self, position: int) -> None:
        """Everything before ``position`` is in the files only; used before anybody reads this ring."""
        self.floor = position
        self._floor_cell.store(position, shm.SEQ_CST)

    def slices(self, start: int, end: int) -> list[memoryview]:
        """The bytes ``[start, end)`` without copying, in one or two pieces; release them after use."""
        view = self._mapping.view()
        low, length = start % self.ring_bytes, end - start
        room = self.ring_bytes - low
        if length <= room:
            return [view[low : low + length]]
        return [view[low:], view[: length - room]]

    def close(self) -> None:
        """Unmap."""
        self._mapping.close()


class RingReader:
    """A reader's side: read-only, never waits, never holds anything up."""

    def __init__(self, mapping: shm.Mapping, floor_cell: Any) -> None:
        self._mapping = mapping
        self._data = mapping.data
        self.ring_bytes = mapping.length
        self._floor = floor_cell.load

    def copy(self, start: int, end: int) -> bytes | None:
        """A true copy of the published bytes ``[start, end)``, or None if the ring has moved on."""
        if end - start > self.ring_bytes or self._floor(shm.ACQUIRE) > start:
            return None
        low, length = start % self.ring_bytes, end - start
        high = low + length
        if high <= self.ring_bytes:
            data = self._data[low:high]
        else:
            data = self._data[low:] + self._data[: high - self.ring_bytes]
        # The copy above must be complete before the floor is looked at again: if the floor has not passed
        # `start` by now, no byte of the copy was overwritten while it was made (writer: floor, fence, bytes).
        shm.fence(shm.ACQUIRE)
        return data if self._floor(shm.ACQUIRE) <= start else None

    def record(self, position: int) -> tuple[tuple[Any, ...], bytes] | None:
        """``(header fields, body)`` of the published record at ``position``, or None if lapped."""
        if self._floor(shm.ACQUIRE) > position:
            return None
        low = position % self.ring_bytes
        start = low + fmt.RECORD_BYTES
        if start > self.ring_bytes:
            head = self.copy(position, position + fmt.RECORD_BYTES)
            if head is None:
                return None
            fields = fmt.RECORD_HEADER.unpack(head)
            start -= self.ring_bytes
        else:
            fields = fmt.RECORD_HEADER.unpack_from(self._data, low)  # copies: plain loads into Python ints
        stop = start + fields[3]
        if stop <= self.ring_bytes:
            body = self._data[start:stop]
        else:
            body = self._data[start:] + self._data[: stop - self.ring_bytes]
        # As in copy(): header and body were copied before this look at the floor.
        shm.fence(shm.ACQUIRE)
        return (fields, body) if self._floor(shm.ACQUIRE) <= position else None

    def close(self) -> None:
        """Unmap."""
        self._mapping.close()
