"""A lane: one client's submissions to the writer, and the completions back.

One producer, one consumer.  The client writes submission bytes, then ``tail``; the writer copies them
out, works on the copy, writes a completion slot, then ``done``.  The writer believes nothing it reads
here: a client can change its lane at any moment and must be able to hurt only itself.
"""

from __future__ import annotations

from typing import Any

from . import layout, shm
from .layout import COMPLETION, COMPLETION_BYTES, COMPLETION_SLOTS, COMPLETIONS_OFFSET, LANE_DATA_OFFSET

APART_BYTES = 4096  # from here on, copying a body once more to have it in one piece costs more than writing two

# last sequence, status, first index, entries in each batch, term, detail: see layout.COMPLETION
Completion = tuple[int, int, int, int, int, int]


class Seat:
    """The first page of a lane, and all of a reader's: the flag of who sleeps."""

    def __init__(self, mapping: shm.Mapping) -> None:
        self.mapping = mapping
        self.wants: Any = mapping.cell(layout.LANE_WORDS["wants"])

    def close(self) -> None:
        """Unmap."""
        self.mapping.close()


class LaneConsumer(Seat):
    """The writer's side.  ``head`` and ``done`` are private here; the shared copies are only told, never read."""

    def __init__(self, mapping: shm.Mapping, lane_bytes: int) -> None:
        super().__init__(mapping)
        self.lane_bytes = lane_bytes
        self.head = 0
        self.done = 0
        self.tail: Any = mapping.cell(layout.LANE_WORDS["tail"])
        self._done_cell = mapping.cell(layout.LANE_WORDS["done"])
        self._data = mapping.data
        mapping.cell(layout.LANE_WORDS["lane_bytes"]).store(lane_bytes, shm.RELAXED)
        mapping.cell(layout.LANE_WORDS["magic"]).store(layout.LANE_MAGIC, shm.RELEASE)

    def copy(self, start: int, end: int) -> bytes:
        """A private copy of submission bytes; the caller has bounded ``end - start`` by ``lane_bytes``."""
        low = start % self.lane_bytes
        high = low + end - start
        base = LANE_DATA_OFFSET
        if high <= self.lane_bytes:
            return self._data[base + low : base + high]
        return self._data[base + low : base + self.lane_bytes] + self._data[base : base + high - self.lane_bytes]

    def complete(self, completions: list[Completion]) -> None:
        """Post answers, in the order of their sequences.

        A client has at most as many submissions in flight as there are slots, so no slot is overwritten unread.
        """
        data, pack = self._data, COMPLETION.pack
        for completion in completions:
            at = COMPLETIONS_OFFSET + self.done % COMPLETION_SLOTS * COMPLETION_BYTES
            data[at : at + COMPLETION_BYTES] = pack(*completion)
            self.done += 1
        # SEQ_CST, not RELEASE: this is also the cursor of the doorbell.  After it the writer loads `wants`; the
        # client stores `wants`, then loads `done`.  In the single total order one of the two sees the other.
        self._done_cell.store(self.done, shm.SEQ_CST)


class LaneProducer(Seat):
    """The client's side.  Used under the handle's lock."""

    def __init__(self, mapping: shm.Mapping) -> None:
        super().__init__(mapping)
        # ACQUIRE pairs with the RELEASE of the magic: lane_bytes and done are set.
        if mapping.cell(layout.LANE_WORDS["magic"]).load(shm.ACQUIRE) != layout.LANE_MAGIC:
            raise ValueError("the writer sent a lane of another layout version")
        self.lane_bytes: int = mapping.cell(layout.LANE_WORDS["lane_bytes"]).load(shm.RELAXED)
        self.done: Any = mapping.cell(layout.LANE_WORDS["done"])
        self._tail_cell = mapping.cell(layout.LANE_WORDS["tail"])
        self._reaped_cell = mapping.cell(layout.LANE_WORDS["reaped"])
        self._data = mapping.data
        self.tail = 0
        self.freed = 0  # cursor below which every submission's completion was read

    def room(self, length: int) -> bool:
        """Whether a submission of ``length`` bytes fits beside those whose completion is not read yet."""
        return self.tail + length - self.freed <= self.lane_bytes

    def _write(self, cursor: int, data: bytes) -> None:
        low = LANE_DATA_OFFSET + cursor % self.lane_bytes
        room = LANE_DATA_OFFSET + self.lane_bytes - low
        if len(data) <= room:
            self._data[low : low + len(data)] = data
        else:
            self._data[low : low + room] = data[:room]
            self._data[LANE_DATA_OFFSET : LANE_DATA_OFFSET + len(data) - room] = data[room:]

    def put(self, head: bytes, body: bytes = b"") -> int:
        """Write one submission and publish it; returns the cursor after it."""
        low, length = self.tail % self.lane_bytes, len(head) + len(body)
        if length < APART_BYTES and low + length <= self.lane_bytes:
            low += LANE_DATA_OFFSET
            self._data[low : low + length] = head + body
        else:
            self._write(self.tail, head)
            self._write(self.tail + len(head), body)
        self.tail += length  # in one step: an interrupt before it leaves nothing behind that the next would follow
        # SEQ_CST: publishes the bytes above (it includes RELEASE) and is the cursor of the doorbell: after it
        # the client loads `writer_sleeping`; the writer stores that flag, then loads every `tail`.
        self._tail_cell.store(self.tail, shm.SEQ_CST)
        return self.tail

    def completion(self, number: int) -> Completion:
        """Completion slot ``number``; call only when ``done`` (loaded ACQUIRE or stronger) is above it."""
        at = COMPLETIONS_OFFSET + number % COMPLETION_SLOTS * COMPLETION_BYTES
        return COMPLETION.unpack_from(self._data, at)

    def reap(self, sequence: int, cursor: int) -> None:
        """Everything up to ``sequence`` was read: its slots and its bytes may be used again."""
        self.freed = cursor
        self._reaped_cell.store(sequence, shm.RELEASE)
