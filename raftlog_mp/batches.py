"""Batches as they stand in the log, for those who only pass entries on: a leader that replicates, an archiver."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .bodies import unpack_body
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
        payloads = unpack_body(self.encoded, self.count)
        return [Entry(self.term, index, payload) for index, payload in enumerate(payloads, self.first_index)]


def runs_of(batches: Iterable[EntryBatch]) -> list[tuple[int, int, bytes]]:
    """(term, count, body) of each, for a submission."""
    return [(batch.term, batch.count, batch.encoded) for batch in batches]
