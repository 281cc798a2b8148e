"""A chunk: stream bytes copied from the ring or read from a segment, from a record's border on.

The loops of a range read.  Whatever is given was looked at on the copy: each record names the position it stands at
and the index that is due, and where bytes come from a file both checksums hold.  A loop ends before the first record
that is cut off, out of place, or not proved; the reader looks that one up anew, and names it if it is damaged.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Protocol, TypeVar

from crc32c import crc32c

from . import format as fmt
from .batches import EntryBatch
from .bodies import pack_body, unpack_body
from .types import Entry

HEADER, MAGIC = fmt.RECORD_BYTES, fmt.RECORD_MAGIC
ALIKE = 64  # records of the same length that are decoded in one go
SMALL_BYTES = 4096  # of the last record of a range, where the index does not tell
T = TypeVar("T")
unpack_gist, unpack_crcs = fmt.RECORD_GIST.unpack_from, fmt.RECORD_CRCS.unpack_from


class Decode(Protocol[T]):
    """:func:`entries_in` or :func:`batches_in`."""

    def __call__(
        self, data: bytes, position: int, index: int, limit: int, *, prove: bool
    ) -> tuple[list[T], int]: ...


def entries_in(
    data: bytes, position: int, index: int, limit: int, *, prove: bool
) -> tuple[list[Entry], int]:
    """The entries from ``index`` up to ``limit - 1`` in ``data``, which begins at ``position``; the index due next.

    ``prove``: the bytes come from a file, so both checksums of each record have to hold.
    """
    entries: list[Entry] = []
    add, view = entries.append, memoryview(data)
    at, size, next_try = 0, len(data), index
    while index < limit and at + HEADER <= size:
        magic, length, count, base, term, place = unpack_gist(data, at)
        low = at + HEADER
        high = low + length
        if place != position or magic != MAGIC or high > size:
            break
        if count == 1 and index >= next_try and limit - index >= ALIKE and size - at >= ALIKE * (high - at):
            alike = _alike(data, at, position, index, length, prove=prove)
            if alike:
                entries += alike
                index, at, position = index + ALIKE, at + ALIKE * (high - at), position + ALIKE * (high - at)
                continue
            next_try = index + ALIKE
        body = data[low:high] if count == 1 else view[low:high]
        if prove:
            header_crc, body_crc = unpack_crcs(data, at)
            if crc32c(body) != body_crc or crc32c(data[at + 8 : low]) != header_crc:
                break
        if count == 1:
            if base != index:
                break
            add(Entry(term, index, body))  # type: ignore[arg-type]  # bytes, if it is one entry
            index += 1
        elif count:
            end = base + count
            if not base <= index < end:
                break
            try:
                payloads = unpack_body(body, count)
            except ValueError:  # whole, and yet no batch: not one of ours
                break
            if index > base or limit < end:  # a truncation cut the batch, or only a part of it is wanted
                end = min(end, limit)
                payloads = payloads[index - base : end - base]
            entries += map(Entry, repeat(term), range(index, end), payloads)
            index = end
        position += high - at
        at = high
    return entries, index


def _alike(data: bytes, at: int, position: int, index: int, length: int, *, prove: bool) -> list[Entry]:
    """The entries of ``ALIKE`` records of one entry each, with bodies of ``length`` bytes; none unless all are right.

    The same checks as one by one, but over columns: half the time.
    """
    step = HEADER + length
    last = unpack_gist(data, at + (ALIKE - 1) * step)
    if last[5] != position + (ALIKE - 1) * step or last[1] != length:
        return []  # not alike, told for little
    fields, covered = fmt.like_records(ALIKE, length)
    found = fields.unpack_from(data, at)
    indexes, payloads = tuple(range(index, index + ALIKE)), found[7::8]
    if (
        found[0::8] != (MAGIC,) * ALIKE or found[2::8] != (length,) * ALIKE or found[3::8] != (1,) * ALIKE
        or found[4::8] != indexes or found[6::8] != tuple(range(position, position + ALIKE * step, step))
    ):  # fmt: skip
        return []
    if prove:
        heads = covered.unpack_from(data, at)
        if tuple(map(crc32c, payloads)) != found[1::8] or tuple(map(crc32c, heads[1::2])) != heads[0::2]:
            return []
    return list(map(Entry, found[5::8], indexes, payloads))


def batches_in(
    data: bytes, position: int, index: int, limit: int, *, prove: bool
) -> tuple[list[EntryBatch], int]:
    """As :func:`entries_in`, but the records as they stand; one of which only a part is wanted is encoded anew.

    Bodies are not decoded: one that is whole and yet no batch shows in :meth:`EntryBatch.entries`, which says so.
    """
    batches: list[EntryBatch] = []
    at, size = 0, len(data)
    while index < limit and at + HEADER <= size:
        magic, length, count, base, term, place = unpack_gist(data, at)
        low = at + HEADER
        high = low + length
        if place != position or magic != MAGIC or high > size:
            break
        body = data[low:high]
        if prove:
            header_crc, body_crc = unpack_crcs(data, at)
            if crc32c(body) != body_crc or crc32c(data[at + 8 : low]) != header_crc:
                break
        if count:
            end = base + count
            if not base <= index < end:
                break
            if index > base or limit < end:
                end = min(end, limit)
                try:
                    count, body = end - index, pack_body(unpack_body(body, count)[index - base : end - base])
                except ValueError:
                    break
            batches.append(EntryBatch(term, index, count, body))
            index = end
        position += high - at
        at = high
    return batches, index


def whole_bytes(data: bytes) -> int:
    """Bytes of the record that ``data`` begins with, as its header states them; 0 if that is cut off."""
    return HEADER + int(unpack_gist(data)[1]) if len(data) >= HEADER else 0


def end_of(slots: Sequence[int], at: int) -> int:
    """About where the record of the entry with slot ``at`` ends."""
    begin = slots[at]
    following = slots[at + 1] if at + 1 < len(slots) else 0
    return int(following if following > begin else begin + SMALL_BYTES)


def fitting(items: list[T], sizes: list[int], left: int, *, always: bool) -> list[T]:
    """The items at the head that fit into ``left`` bytes; ``always``: the first one in any case."""
    for number, size in enumerate(sizes):
        left -= size
        if left < 0:
            return items[: number or int(always)]
    return items
