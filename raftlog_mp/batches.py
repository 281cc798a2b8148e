"""Batches as they stand in the log, for those who only pass entries on: a leader that replicates, an archiver."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from . import format as fmt
from .errors import CorruptLog
from .types import Entry, LogId


class EntryBatch(msgspec.Struct, frozen=True, gc=False):
    """Entries of one term at contiguous indexes, undecoded: no work was done for each of them.

    ``encoded`` is the payload itself if ``count`` is 1, else a msgpack array of byte strings.  ``append_entries`` takes
    batches in the place of entries, as they are.
    """

    term: int
    first_index: int
    count: int
    encoded: bytes

    @property
    def last_index(self) -> int:
        """Index of the last entry."""
        return self.first_index + self.count - 1

    @property
    def last_log_id(self) -> LogId:
        """Id of the last entry."""
        return LogId(self.term, self.last_index)

    def entries(self) -> list[Entry]:
        """Decoded.  ``ValueError`` if ``encoded`` does not hold ``count`` entries: then it came from elsewhere."""
        payloads = fmt.unpack_body(self.encoded, self.count)
        return [Entry(self.term, index, payload) for index, payload in enumerate(payloads, self.first_index)]


def take(records: Iterator[tuple[Any, bytes, int, int]], max_bytes: int | None) -> list[EntryBatch]:
    """The batches that ``Reader.records`` yields, up to ``max_bytes`` of bodies, but at least one.

    A record of which only a part is wanted is encoded anew; the others are what stands in the log.
    """
    found: list[EntryBatch] = []
    try:
        for fields, body, low, high in records:
            count, base, term = fields[4], fields[9], fields[10]
            if (low, high) != (base, base + count):
                payloads = fmt.unpack_body(body, count)[low - base : high - base]
                body, count = fmt.pack_body(payloads), high - low
            if max_bytes is not None:
                max_bytes -= len(body)
                if max_bytes < 0 and found:
                    break
            found.append(EntryBatch(term, low, count, body))
    except CorruptLog:
        if max_bytes is None or not found:
            raise  # who sets a limit gets what stands before the damage; the next call names it
    return found


def runs_of(batches: Iterable[EntryBatch]) -> list[tuple[int, int, bytes]]:
    """(term, count, body) of each, for a submission."""
    return [(batch.term, batch.count, batch.encoded) for batch in batches]
