"""The words of a Raft log: entries, log ids, hard state, strategies."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import NamedTuple

import msgspec


class PersistenceStrategy(StrEnum):
    """When an append is acknowledged: after the fsync, or once it is in shared memory."""

    DISK_FIRST = "disk_first"
    MEM_FIRST = "mem_first"


class LogId(NamedTuple):
    """Identity of an entry, ordered as Raft orders: by term, then by index.  ``LogId(0, 0)`` is before the first."""

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which a log id has no use for


# msgspec.Struct, frozen and invisible to the garbage collector: building one takes 88 ns where a
# NamedTuple takes 428 (CPython 3.11), and a range read builds one an entry.
class Entry(msgspec.Struct, frozen=True, gc=False):
    """One log entry: an immutable value with ``==``, ``hash``, pickling and ``match`` support."""

    term: int
    index: int
    payload: bytes

    @property
    def log_id(self) -> LogId:
        """``LogId(term, index)`` of this entry."""
        return LogId(self.term, self.index)


class HardState(NamedTuple):
    """What a Raft node must never forget: its term and the vote given in it."""

    term: int = 0
    voted_for: str | int | None = None


class AppendResult(NamedTuple):
    """What became of AppendEntries.

    ``matched``: id of the last entry known to agree with the leader's, the only value a leader may count; None if
    ``prev`` did not match.  ``conflict``: where to look next, then: ``LogId(term, first index of that term)`` for the
    term that stands at ``prev.index``, or ``LogId(0, last + 1)`` if the log ends before it.
    """

    success: bool
    matched: LogId | None
    last_log_id: LogId
    conflict: LogId | None


def majority_match_index(match_indexes: Iterable[int], durable_index: int) -> int:
    """The highest index that a majority of the cluster holds durably.

    ``match_indexes`` are the *other* members' match indexes; ``durable_index`` is this leader's own,
    which counts only what is fsynced here.  The caller still has to check that the entry at the result
    carries its current term before committing it (Raft, section 5.4.2).
    """
    indexes = sorted([*match_indexes, durable_index], reverse=True)
    return indexes[len(indexes) // 2]
