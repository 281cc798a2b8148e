"""What the demo's processes write down, and the verdict on it.

The verdict is a pure function of the records, so that a test can doctor them: a missing entry, a double or a
wrong index must make it a FAIL.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

ACKNOWLEDGED, REFUSED, UNKNOWN = "acknowledged", "refused", "unknown"
EXAMPLES_MAX = 5  # problems of one kind that are spelled out; the others are counted


class Request(NamedTuple):
    """One POST, as its client saw it.  Clock values are CLOCK_MONOTONIC, which all processes share."""

    outcome: str  # acknowledged; refused = surely not appended; unknown = no answer
    digest: str  # of the body
    index: int  # that the answer named; 0 without one
    sent_s: float
    done_s: float
    worker_pid: int  # the server process behind the connection; 0 unknown
    detail: str  # why it was not acknowledged


class Record(NamedTuple):
    """One entry of the log, as somebody read it."""

    index: int
    term: int
    digest: str


def digest_of(body: bytes) -> str:
    """The name of a body in all records."""
    return hashlib.blake2b(body, digest_size=16).hexdigest()


def write_line(values: Iterable[object]) -> str:
    """A record as a line of text, its fields separated by tabs."""
    return "\t".join(str(value).replace("\t", " ").replace("\n", " ") for value in values) + "\n"


def read_requests(path: Path) -> list[Request]:
    """What one client process wrote."""
    found = []
    for line in path.read_text(encoding="utf-8").splitlines():
        outcome, digest, index, sent, done, worker, detail = line.split("\t")
        found.append(Request(outcome, digest, int(index), float(sent), float(done), int(worker), detail))
    return found


def read_records(path: Path) -> list[Record]:
    """What one reader process wrote."""
    lines = [line.split("\t") for line in path.read_text(encoding="ascii").splitlines()]
    return [Record(int(index), int(term), digest) for index, term, digest in lines]


def problems(requests: Sequence[Request], log: Sequence[Record], readers: Sequence[Sequence[Record]]) -> list[str]:
    """Everything that is wrong; an empty list is a PASS.

    ``requests`` is everything that anybody sent, ``log`` the whole log from its files, ``readers`` what each
    follower saw.
    """
    found = [*check_order(log), *check_acknowledged(requests, log), *check_bodies(requests, log)]
    for number, seen in enumerate(readers, 1):
        found += check_reader(number, seen, log)
    return found


def check_order(log: Sequence[Record]) -> list[str]:
    """Indexes are 1, 2, 3 ... and terms never fall."""
    found = []
    for place, record in enumerate(log, 1):
        if record.index != place:
            found.append(f"the log's entry number {place} has index {record.index}: a gap or a double")
            break
    for before, record in zip(log, log[1:], strict=False):
        if record.term < before.term:
            found.append(f"the term falls from {before.term} to {record.term} at index {record.index}")
            break
    return found


def check_acknowledged(requests: Sequence[Request], log: Sequence[Record]) -> list[str]:
    """Every acknowledged body is in the log at the index that was returned."""
    by_index = {record.index: record.digest for record in log}
    missing, elsewhere = [], []
    for request in requests:
        if request.outcome == ACKNOWLEDGED:
            digest = by_index.get(request.index)
            if digest is None:
                missing.append(f"index {request.index} was acknowledged but is not in the log")
            elif digest != request.digest:
                elsewhere.append(f"index {request.index} was acknowledged for a body, but holds another")
    return shorten(missing) + shorten(elsewhere)


def check_bodies(requests: Sequence[Request], log: Sequence[Record]) -> list[str]:
    """No body is in the log twice; none that was refused, none that nobody sent."""
    outcomes = {request.digest: request.outcome for request in requests}
    first_at: dict[str, int] = {}
    doubles, refused, foreign = [], [], []
    for record in log:
        earlier = first_at.setdefault(record.digest, record.index)
        if earlier != record.index:
            doubles.append(f"one body is in the log twice, at {earlier} and {record.index}")
        outcome = outcomes.get(record.digest)
        if outcome is None:
            foreign.append(f"index {record.index} holds a body that nobody sent")
        elif outcome == REFUSED:
            refused.append(f"index {record.index} holds a body whose request was refused")
    return shorten(doubles) + shorten(refused) + shorten(foreign)


def check_reader(number: int, seen: Sequence[Record], log: Sequence[Record]) -> list[str]:
    """A reader saw the whole log, in order, and nothing else."""
    for place, (saw, holds) in enumerate(zip(seen, log, strict=False), 1):
        if saw.index != holds.index:
            return [f"reader {number} saw index {saw.index} as its entry {place}; the log holds {holds.index} there"]
        if saw != holds:
            return [f"reader {number} saw another body or term at index {saw.index}"]
    if len(seen) != len(log):
        return [f"reader {number} saw {len(seen)} entries, the log holds {len(log)}"]
    return []


def shorten(found: list[str]) -> list[str]:
    """A few examples, and how many more there are."""
    more = len(found) - EXAMPLES_MAX
    return found if more <= 0 else [*found[:EXAMPLES_MAX], f"... and {more} more of this kind"]


class Figures(NamedTuple):
    """What the clients measured; times in milliseconds, NaN where there is nothing to measure."""

    requests: int
    acknowledged: int
    refused: int
    unknown: int
    seconds: float  # from the first request sent to the last answer
    per_second: float
    p50_ms: float
    p99_ms: float
    max_ms: float
    gap_ms: float  # the longest time without an acknowledgement that begins at or after the last one before the kill
    after_kill: int  # acknowledged after the kill
    workers: int  # server processes that acknowledged something


def figures_of(requests: Sequence[Request], killed_s: float) -> Figures:
    """The figures of a run whose writer was killed at ``killed_s``."""
    nan = float("nan")
    done = sorted(request.done_s for request in requests if request.outcome == ACKNOWLEDGED)
    waits = sorted((r.done_s - r.sent_s) * 1000 for r in requests if r.outcome == ACKNOWLEDGED)
    # Answers that the old writer had given may still be on their way through the server just after the kill, so
    # the gap is the longest silence from there on, not the time to the first answer that arrives.
    before = [moment for moment in done if moment <= killed_s][-1:]
    after = [moment for moment in done if moment > killed_s]
    around = before + after
    silences = [later - earlier for earlier, later in zip(around, around[1:], strict=False)]
    seconds = max((r.done_s for r in requests), default=0.0) - min((r.sent_s for r in requests), default=0.0)
    counts = {kind: sum(r.outcome == kind for r in requests) for kind in (REFUSED, UNKNOWN)}
    return Figures(
        requests=len(requests), acknowledged=len(done), refused=counts[REFUSED], unknown=counts[UNKNOWN],
        seconds=seconds, per_second=len(done) / seconds if seconds else nan,
        p50_ms=quantile(waits, 0.50), p99_ms=quantile(waits, 0.99), max_ms=waits[-1] if waits else nan,
        gap_ms=max(silences) * 1000 if silences else nan, after_kill=len(after),
        workers=len({r.worker_pid for r in requests if r.outcome == ACKNOWLEDGED and r.worker_pid}),
    )  # fmt: skip


def quantile(ordered: Sequence[float], share: float) -> float:
    """The value below which that share of the ordered values lies; NaN without values."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else float("nan")
