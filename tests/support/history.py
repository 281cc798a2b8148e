"""What clients, followers and the log itself say happened, and whether it all fits together.

Pure functions: lists in, sentences out.  An empty list of problems means that the history is sound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class Row(NamedTuple):
    """One entry as somebody saw it."""

    term: int
    index: int
    payload: bytes


class Submission(NamedTuple):
    """One batch that a client sent.  ``first_index`` is None if it never learned the outcome."""

    client: str
    number: int  # in program order of that client
    payloads: tuple[bytes, ...]
    first_index: int | None
    refused: bool = False  # the client was told that it is surely not in the log


def check(log: Sequence[Row], submissions: Iterable[Submission], followers: Iterable[Sequence[Row]] = ()) -> list[str]:
    """Every way in which the history breaks a promise of the log."""
    submissions = list(submissions)
    found = check_shape(log) + check_exactly_once(log, submissions) + check_order(log, submissions)
    for number, seen in enumerate(followers):
        found += [f"follower {number}: {problem}" for problem in check_follower(log, seen)]
    return found


def check_shape(log: Sequence[Row]) -> list[str]:
    """Indexes are contiguous from 1 on, terms never fall."""
    found = []
    for at, row in enumerate(log, 1):
        if row.index != at:
            found.append(f"index {row.index} stands where {at} was due")
            break
    for before, after in zip(log, log[1:], strict=False):
        if after.term < before.term:
            found.append(f"term falls from {before.term} to {after.term} at index {after.index}")
    return found


def check_exactly_once(log: Sequence[Row], submissions: Sequence[Submission]) -> list[str]:
    """Acknowledged: once, at the returned index.  Unknown: at most once, whole.  Refused: not at all."""
    found = []
    by_index = {row.index: row.payload for row in log}
    times = Counter(row.payload for row in log)
    found += [f"payload {payload!r} is in the log {count} times" for payload, count in times.items() if count > 1]
    known = {payload for submission in submissions for payload in submission.payloads}
    found += [f"payload {payload!r} is in the log, but nobody sent it" for payload in times if payload not in known]
    for submission in submissions:
        name = f"submission {submission.number} of {submission.client}"
        present = [payload for payload in submission.payloads if payload in times]
        if submission.refused and present:
            found.append(f"{name} was refused, but {present[0]!r} is in the log")
        if submission.first_index is None:
            if present and len(present) != len(submission.payloads):
                found.append(f"{name}: {len(present)} of its {len(submission.payloads)} entries are in the log")
            continue
        for index, payload in enumerate(submission.payloads, submission.first_index):
            if by_index.get(index) != payload:
                what = "nothing" if index not in by_index else repr(by_index[index])
                lost = "" if payload in times else ", and it is nowhere else"
                found.append(f"{name}: {payload!r} was acknowledged at index {index}, where {what} is{lost}")
    return found


def check_order(log: Sequence[Row], submissions: Sequence[Submission]) -> list[str]:
    """What one client submitted in order is in the log in that order, each batch in one piece."""
    place = {row.payload: row.index for row in log}
    found, last = [], dict[str, int]()
    for submission in sorted(submissions, key=lambda s: (s.client, s.number)):
        indexes = [place[payload] for payload in submission.payloads if payload in place]
        if not indexes:
            continue
        if indexes != list(range(indexes[0], indexes[0] + len(indexes))):
            found.append(f"submission {submission.number} of {submission.client} is torn: indexes {indexes}")
        if indexes[0] <= last.get(submission.client, 0):
            found.append(f"submission {submission.number} of {submission.client} stands before an earlier one")
        last[submission.client] = max(indexes)
    return found


def check_follower(log: Sequence[Row], seen: Sequence[Row]) -> list[str]:
    """A follower saw a contiguous stretch of exactly this log."""
    if not seen:
        return []
    by_index = {row.index: row for row in log}
    for expected, row in enumerate(seen, seen[0].index):
        if row.index != expected:
            return [f"saw index {row.index} where {expected} was due"]
        if by_index.get(row.index) != row:
            return [f"saw {row!r} at index {row.index}, the log holds {by_index.get(row.index)!r}"]
    return []
