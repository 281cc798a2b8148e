"""Raft's rule for AppendEntries against a naive follower in plain lists: all small logs, all small requests."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, groupby
from typing import NamedTuple

import pytest

from raftlog_mp.matching import Committed, Match, Mismatch, Standing, decide
from raftlog_mp.terms import TermRuns
from raftlog_mp.types import LogId

Terms = tuple[int, ...]
TERMS = (1, 2, 3)
LONGEST = 3


def all_terms(longest: int = LONGEST, lowest: int = 1) -> Iterator[Terms]:
    """Every sequence of terms that never fall."""
    for length in range(longest + 1):
        yield from combinations_with_replacement([term for term in TERMS if term >= lowest], length)


class Follower(NamedTuple):
    """A log as plain data: the terms of all its entries, the purged ones included."""

    terms: Terms
    purged: int = 0
    commit: int = 0

    def standing(self) -> Standing:
        """The same as the writer knows it: nothing of what was purged, but for the boundary's term."""
        runs = TermRuns((index, term) for index, term in enumerate(self.terms, 1))
        runs.purge_to(self.purged)
        return Standing(
            self.log_id(len(self.terms)), self.log_id(self.purged), self.commit, runs.term_of, runs.first_of,
            runs.end_of,
        )  # fmt: skip

    def log_id(self, index: int) -> LogId:
        return LogId(self.terms[index - 1], index) if index else LogId(0, 0)


def all_followers() -> Iterator[Follower]:
    """Every small log, with every boundary and every commit index."""
    for terms in all_terms():
        for purged in range(len(terms) + 1):
            yield from (Follower(terms, purged, commit) for commit in range(len(terms) + 1))


def all_requests() -> Iterator[tuple[LogId, Terms]]:
    """Every small AppendEntries."""
    yield from ((LogId(0, 0), entries) for entries in all_terms())
    for index in range(1, LONGEST + 2):
        for term in TERMS:
            yield from ((LogId(term, index), entries) for entries in all_terms(lowest=term))


def naive(log: Follower, prev: LogId, entries: Terms) -> Terms | Mismatch | Committed:
    """What the log's terms become, entry by entry as the paper says it, or why nothing changes."""
    last = len(log.terms)
    if prev.index > last:
        return Mismatch(LogId(0, last + 1))
    claimed = {prev.index: prev.term} | dict(enumerate(entries, prev.index + 1))
    looked_at = max(prev.index, log.purged)  # the first entry that both sides know, if the request reaches it
    here = log.log_id(looked_at)
    below = max((term for index, term in claimed.items() if index <= log.purged), default=0)
    if claimed.get(looked_at, here.term) != here.term or below > here.term:
        same = [index for index in range(max(log.purged, 1), looked_at + 1) if log.terms[index - 1] == here.term]
        return Mismatch(here if looked_at == log.purged else LogId(here.term, max(same[0], log.purged + 1)))
    terms = list(log.terms)
    for index, term in enumerate(entries, prev.index + 1):
        if index <= log.purged:
            continue
        if index <= len(terms) and terms[index - 1] != term:
            if index <= log.commit:
                return Committed(index)
            del terms[index - 1 :]
        if index > len(terms):
            terms.append(term)
    return tuple(terms)


def decided(log: Follower, prev: LogId, entries: Terms, *, split: bool = False) -> Terms | Mismatch | Committed:
    """The same by the rule under test, checked for what it says beyond the outcome."""
    runs = [(term, len(list(group))) for term, group in groupby(entries)]
    if split:
        runs = [(term, 1) for term in entries]
    found = decide(prev, runs, log.standing())
    if not isinstance(found, Match):
        return found
    assert 0 <= found.skip <= len(entries)
    rest, behind = entries[found.skip :], prev.index + found.skip + 1
    if found.cut is not None:
        assert rest and found.cut == behind <= len(log.terms) and log.terms[behind - 1] != rest[0]
        assert found.cut > max(log.purged, log.commit)
        return log.terms[: behind - 1] + rest
    assert not rest or behind == len(log.terms) + 1, "what is appended follows the last entry"
    return log.terms + rest


def test_all_small_logs_and_requests() -> None:
    requests, kinds = list(all_requests()), dict.fromkeys(("changed", "unchanged", "Mismatch", "Committed"), 0)
    for log in all_followers():
        for prev, entries in requests:
            expected = naive(log, prev, entries)
            assert decided(log, prev, entries) == expected, (log, prev, entries)
            kind = type(expected).__name__ if not isinstance(expected, tuple) else "changed"
            kinds["unchanged" if expected == log.terms else kind] += 1
    assert min(kinds.values()) > 1000, f"every outcome is met often: {kinds}"


def test_it_does_not_matter_how_entries_are_grouped() -> None:
    for log in all_followers():
        if log.commit == 0:
            for prev, entries in all_requests():
                assert decided(log, prev, entries, split=True) == decided(log, prev, entries), (log, prev, entries)


def test_after_a_success_the_log_holds_what_was_sent_and_a_repetition_changes_nothing() -> None:
    for log in list(all_followers())[::2]:
        for prev, entries in all_requests():
            after = decided(log, prev, entries)
            if isinstance(after, tuple):
                sent = range(max(prev.index, log.purged) + 1, prev.index + len(entries) + 1)
                assert [after[index - 1] for index in sent] == [entries[index - prev.index - 1] for index in sent]
                assert after[: log.commit] == log.terms[: log.commit]
                assert decided(log._replace(terms=after), prev, entries) == after


@pytest.mark.parametrize("leader", [(1, 1, 1, 4, 4, 5, 5, 6, 6, 6), (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6)])
@pytest.mark.parametrize("follower", [
    (1, 1, 1, 4, 4, 5, 5, 6, 6), (1, 1, 1, 4), (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6), (1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
    (1, 1, 1, 4, 4, 4, 4), (1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3), (),
])  # fmt: skip
def test_hints_lead_a_leader_back_by_whole_terms(leader: Terms, follower: Terms) -> None:
    """Figure 7 of the paper: a leader of term 8 and its followers; a round for a term, not for an entry."""
    log, at, rounds = Follower(follower), len(leader), 0
    while True:
        prev = LogId(leader[at - 1], at) if at else LogId(0, 0)
        after = decided(log, prev, leader[at:])
        rounds += 1
        if not isinstance(after, Mismatch):
            break
        conflict = after.conflict
        assert conflict.index <= at, "a hint never leads forward"
        mine = [index for index, term in enumerate(leader, 1) if term == conflict.term and index < at]
        at = mine[-1] if mine else conflict.index - 1
    assert isinstance(after, tuple) and after[: len(leader)] == leader
    assert rounds <= len(set(follower)) + 2


def test_a_log_of_any_length_is_compared_by_runs_and_not_by_entries() -> None:
    """The cost is that of the term changes: a million entries of one term are one look-up."""
    asked: list[int] = []
    runs = TermRuns([(1, 1), (1_000_001, 2)])

    def term_of(index: int) -> int | None:
        asked.append(index)
        return runs.term_of(index)

    here = Standing(LogId(2, 2_000_000), LogId(0, 0), 0, term_of, runs.first_of, runs.end_of)
    assert decide(LogId(0, 0), [(1, 1_000_000), (2, 1_000_000)], here) == Match(skip=2_000_000)
    assert decide(LogId(0, 0), [(1, 1_000_000), (3, 5)], here) == Match(skip=1_000_000, cut=1_000_001)
    assert len(asked) < 10
