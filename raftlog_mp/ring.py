"""The ring: the newest bytes of the stream, in shared memory.

The byte at stream position ``p`` lies at ``p % ring_bytes``; what wraps is copied in two slices.
``floor`` is the oldest position that is still whole.  The writer raises it *before* it overwrites, a
reader looks at it *after* it copied; so a reader either has true bytes or knows that it was lapped.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from . import format as fmt
from . import shm
from .shm import ACQUIRE, fence
from .types import Entry

Get = Callable[[int], Entry | None]
ShortWay = tuple[Get, Callable[[int], None]]
GUESS_BYTES_MAX = 1024  # beyond it, copying what turns out to be wrong costs more than a call
unpack_gist, HEADER = fmt.RECORD_GIST.unpack_from, fmt.RECORD_BYTES

class RingWriter:
    """The writer's side: the only process that stores into the ring."""

    def __init__(self, mapping: shm.Mapping, floor_cell: Any, floor: int) -> None:
        self.mapping = mapping
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
        view = self.mapping.view()
        low, length = start % self.ring_bytes, end - start
        room = self.ring_bytes - low
        if length <= room:
            return [view[low : low + length]]
        return [view[low:], view[: length - room]]

    def close(self) -> None:
        """Unmap."""
        self.mapping.close()


class RingReader:
    """A reader's side: read-only, never waits, never holds anything up."""

    def __init__(self, mapping: shm.Mapping, floor_cell: Any) -> None:
        self._mapping = mapping
        self._data = mapping.data
        self.ring_bytes = mapping.length
        self.floor = floor_cell.load  # the oldest position that is whole; no true bytes below it

    def copy(self, start: int, end: int) -> bytes | None:
        """A true copy of the published bytes ``[start, end)``, or None if the ring has moved on."""
        if end - start > self.ring_bytes or self.floor(ACQUIRE) > start:
            return None
        low, length = start % self.ring_bytes, end - start
        high = low + length
        if high <= self.ring_bytes:
            data = self._data[low:high]
        else:
            data = self._data[low:] + self._data[: high - self.ring_bytes]
        # The copy above must be complete before the floor is looked at again: if the floor has not passed
        # `start` by now, no byte of the copy was overwritten while it was made (writer: floor, fence, bytes).
        fence(ACQUIRE)
        return data if self.floor(ACQUIRE) <= start else None

    def record(self, position: int) -> tuple[tuple[Any, ...], bytes] | None:
        """``(header fields, body)`` of the published record at ``position``, or None if lapped."""
        if self.floor(ACQUIRE) > position:
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
        fence(ACQUIRE)
        return (fields, body) if self.floor(ACQUIRE) <= position else None

    def short_way(
        self, link: Any, view: Any, version: Callable[[int], int], seen: int, low: int, upto: int, base: int,
        slots: Sequence[int], otherwise: Get,
    ) -> ShortWay:  # fmt: skip
        """A function that gets one entry, and one that tells it of a higher ``upto``.

        It serves entries ``low..upto``, whose positions are ``slots[index - base]``, while ``link.view is view`` and
        the catalog's ``version`` is still the one ``seen`` when all of this was found; and of those the ones that
        stand alone in a record of the ring.  Everything else, all that is no index included, goes ``otherwise``.
        One function with everything bound to it: of such a get each further call costs a tenth.
        """
        data, ring_bytes, floor = self._data, self.ring_bytes, self.floor
        # How long a body is, is guessed, so that one call decodes header and body.  A wrong guess costs a slice.
        guess = self._body_bytes(slots[upto - base]) if low <= upto < base + len(slots) else 0
        unpack = fmt.lone_record(guess).unpack_from
        last_whole = ring_bytes - HEADER - guess  # what begins behind it may wrap

        def get(index: int) -> Entry | None:
            # `upto` was loaded while the version stood at `seen`.  Nothing is taken off the log before the version
            # moves: if it is still the same now, the entry is there now, and `slots` has its position.
            if type(index) is int and low <= index <= upto and link.view is view and version(ACQUIRE) == seen:
                position = slots[index - base]
                at = position % ring_bytes
                if at <= last_whole:
                    # No look at the floor before: these bytes may be torn or of another lap.  What they say is only
                    # used to read on inside the mapping, and believed after the look below.
                    length, count, first, term, place, payload = unpack(data, at)  # copies: plain loads
                    if place == position and first == index and count == 1:
                        if length != guess:
                            at += HEADER
                            if at + length > ring_bytes:
                                return otherwise(index)  # it wraps
                            payload = data[at : at + length]
                        # As in copy(): header and body were copied before this look at the floor.
                        fence(ACQUIRE)
                        if floor(ACQUIRE) <= position:
                            return Entry(term, index, payload)
            return otherwise(index)

        def reach(last: int) -> None:
            nonlocal upto
            upto = last

        return get, reach

    def _body_bytes(self, position: int) -> int:
        """Of the record at ``position``; 0 if it is large, or not to be had."""
        head = self.copy(position, position + HEADER)
        length = int(unpack_gist(head)[1]) if head is not None else 0
        return length if length <= GUESS_BYTES_MAX else 0

    def close(self) -> None:
        """Unmap."""
        self._mapping.close()
