"""Batches as they stand in the log, for those who only pass entries on: a leader that replicates, an archiver."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from .bodies import unpack_body
from .errors import CorruptLog
from .types import Entry, LogId


class _BadBatch(CorruptLog, ValueError):
    """A batch without the entries that it states.

    Its segment is not known: to look at each body as it is read would cost more than reading it.
    """


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
        """Decoded.

        If ``encoded`` does not hold ``count`` entries, an error that is :class:`CorruptLog`, for the log that it was
        read from is damaged, and ``ValueError``, for it may come from elsewhere.
        """
        try:
            payloads = unpack_body(self.encoded, self.count)
        except ValueError as error:
            raise _BadBatch(
                f"entries {self.first_index} to {self.last_index} of term {self.term} cannot be decoded: {error}. If "
                f"they were read from a log, it is damaged: read({self.first_index}) there names segment and offset, "
                "`raftlog-mp check DIR` says what it means. If it came from elsewhere, fetch it again.",
                first_index=self.first_index, last_index=self.last_index, term=self.term,
            ) from None  # fmt: skip
        return [Entry(self.term, index, payload) for index, payload in enumerate(payloads, self.first_index)]


def runs_of(batches: Iterable[EntryBatch]) -> list[tuple[int, int, bytes]]:
    """(term, count, body) of each, for a submission."""
    return [(batch.term, batch.count, batch.encoded) for batch in batches]
