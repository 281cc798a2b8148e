"""AppendEntries: does it match, what is new in it, where does it conflict?  Pure: Raft's rules and nothing else.

Raft, section 5.3: the follower looks for ``prev``; if it is there, entries that are there already with the same term
are skipped, the first that differs removes itself and all that follow it, and what is left is appended.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from .types import LogId


class Standing(NamedTuple):
    """Where a log stands, as far as AppendEntries is concerned."""

    last: LogId
    purged: LogId  # the boundary: known to be in the log's past, counts as a match
    commit_index: int
    term_of: Callable[[int], int | None]
    first_of: Callable[[int], int | None]  # where a term begins
    end_of: Callable[[int], int | None]  # first index beyond the term run that covers an index


@dataclass(frozen=True, slots=True)
class Mismatch:
    """``prev`` is not in the log.  ``conflict`` lets the leader step back by a whole term, or to the log's end."""

    conflict: LogId


@dataclass(frozen=True, slots=True)
class Committed:
    """The entries contradict one at or below the commit index: no leader of this log sent them."""

    index: int


@dataclass(frozen=True, slots=True)
class Match:
    """``prev`` matches.  The first ``skip`` entries are there; the rest is appended, or replaces from ``cut`` on."""

    skip: int
    cut: int | None = None


def decide(prev: LogId, runs: Sequence[tuple[int, int]], here: Standing) -> Match | Mismatch | Committed:
    """What AppendEntries does to this log.  ``runs``: (term, entries) in order, the first of them after ``prev``."""
    if prev == here.last:
        return Match(skip=0)  # the usual case: the leader knows where this log ends
    mismatch = _check_previous(prev, runs, here)
    if mismatch is not None:
        return mismatch
    index = prev.index + 1
    for term, count in runs:
        end = index + count
        while index < end:
            if index <= here.purged.index:  # purged entries were applied: they are what the leader has
                index = min(end, here.purged.index + 1)
                continue
            if index > here.last.index:
                return Match(skip=index - prev.index - 1)
            if here.term_of(index) != term:
                if index <= here.commit_index:
                    return Committed(index)
                return Match(skip=index - prev.index - 1, cut=index)
            run_end = here.end_of(index)
            index = min(end, here.last.index + 1 if run_end is None else run_end)
    return Match(skip=index - prev.index - 1)


def _check_previous(prev: LogId, runs: Sequence[tuple[int, int]], here: Standing) -> Mismatch | None:
    if prev.index > here.last.index:
        return Mismatch(LogId(0, here.last.index + 1))
    if prev.index > here.purged.index:
        found = here.term_of(prev.index) or 0
        if found == prev.term:
            return None
        first = here.first_of(found) or prev.index
        return Mismatch(LogId(found, max(first, here.purged.index + 1)))
    if prev.index == here.purged.index:
        return None if prev.term == here.purged.term else Mismatch(here.purged)
    # prev was purged, and so was its term; the boundary is the first entry that can be compared.  Terms never fall, so
    # nothing that stands before it can have a higher one.
    index, claimed = prev.index, prev.term
    for term, count in runs:
        claimed, index = term, index + count
        if index >= here.purged.index:
            return None if claimed == here.purged.term else Mismatch(here.purged)
    return None if claimed <= here.purged.term else Mismatch(here.purged)
