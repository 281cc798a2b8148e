"""The checker itself: it accepts a history that was recorded, and names what is wrong with a doctored one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from storm_history import NEVER, Append, HardSeen, Request, Run, Seen, Storm, _StormChecker, check_storm
from storm_reading import storm_of
from support.history import Row

RECORDED = Path(__file__).parent / "recorded.jsonl"  # every line: the process's name, then its diary's line
FOREIGN = b"?00ff"
NOWHERE = b"x0.0.0.0.0:0"


@pytest.fixture(scope="module")
def recorded() -> Storm:
    """A short MemFirst storm: kills, truncations, a purge, unknown outcomes."""
    diaries: dict[str, list[list[Any]]] = {}
    for line in RECORDED.read_text().splitlines():
        name, *rest = json.loads(line)
        diaries.setdefault(name, []).append(rest)
    return storm_of("mem_first", diaries)


def test_the_recorded_history_is_sound_and_worth_doctoring(recorded: Storm) -> None:
    assert check_storm(recorded) == []
    facts = _StormChecker(recorded)
    assert recorded.boundary > 0 and len(recorded.log) > 100 and facts.removals
    assert {append.outcome for append in recorded.appends} == {"acked", "refused", "unknown"}
    assert any(facts._gone_at(seen.row.payload) != NEVER for run in recorded.runs for seen in run.seen)
    assert {run.upto for run in recorded.runs} >= {"visible", "durable", "committed"}


# ---------------------------------------------------------------- helpers of the doctors
def put(rows: Any, at: int, row: Any) -> list[Any]:
    """A copy with one element replaced."""
    return [*rows[:at], row, *rows[at + 1 :]]


def in_log(storm: Storm, append: Append) -> bool:
    return any(row.payload == append.payloads[0] for row in storm.log)


def acked(storm: Storm, least: int = 1, client: str = "") -> list[int]:
    """Where the acknowledged appends are whose entries are still in the log, in order of their indexes."""
    rows = {row.payload for row in storm.log}
    found = [
        number for number, append in enumerate(storm.appends)
        if append.outcome == "acked" and len(append.payloads) >= least and rows.issuperset(append.payloads)
        and append.client.startswith(client)
    ]  # fmt: skip
    return sorted(found, key=lambda number: storm.appends[number].first or 0)


def with_append(storm: Storm, at: int, **changes: Any) -> Storm:
    return storm._replace(appends=put(storm.appends, at, storm.appends[at]._replace(**changes)))


def with_row(storm: Storm, at: int, **changes: Any) -> Storm:
    return storm._replace(log=put(storm.log, at, storm.log[at]._replace(**changes)))


def longest_run(storm: Storm, upto: str) -> int:
    runs = [(len(run.seen), number) for number, run in enumerate(storm.runs) if run.upto == upto]
    return max(runs)[1]


def with_seen(storm: Storm, at: int, seen: Any) -> Storm:
    return storm._replace(runs=put(storm.runs, at, storm.runs[at]._replace(seen=tuple(seen))))


def a_gone_entry(storm: Storm) -> tuple[Row, int]:
    """One that a reader saw and a truncation removed, and the stamp from which on it is gone."""
    facts = _StormChecker(storm)
    gone = [(facts._gone_at(seen.row.payload), seen.row) for run in storm.runs for seen in run.seen]
    stamp, row = min(gone)
    assert stamp != NEVER
    return row, stamp


# ---------------------------------------------------------------- the doctors
def lose_the_end(storm: Storm) -> Storm:
    return storm._replace(log=storm.log[:-3])


def lose_what_was_acknowledged(storm: Storm) -> Storm:
    """Nobody has truncated anything, and yet it is not there."""
    return storm._replace(requests=[r for r in storm.requests if r.kind != "remove"])


def append_twice(storm: Storm) -> Storm:
    return storm._replace(log=[*storm.log, storm.log[-1]._replace(index=storm.log[-1].index + 1)])


def reorder(storm: Storm) -> Storm:
    first, second = storm.log[10], storm.log[11]
    swapped = with_row(storm, 10, payload=second.payload)
    return with_row(swapped, 11, payload=first.payload)


def a_foreign_entry(storm: Storm) -> Storm:
    return with_row(storm, 20, payload=FOREIGN)


def a_foreign_entry_at_the_end(storm: Storm) -> Storm:
    return storm._replace(log=[*storm.log, Row(storm.log[-1].term, storm.log[-1].index + 1, FOREIGN)])


def wrong_bytes(storm: Storm) -> Storm:
    return with_row(storm, 20, payload=storm.log[20].payload + b"1")  # another length of padding


def a_hole(storm: Storm) -> Storm:
    return storm._replace(log=[*storm.log[:30], *storm.log[31:]])


def a_falling_term(storm: Storm) -> Storm:
    return with_row(storm, len(storm.log) - 1, term=0)


def another_term(storm: Storm) -> Storm:
    return with_append(storm, acked(storm)[-1], term=999)


def refused_but_there(storm: Storm) -> Storm:
    return with_append(storm, acked(storm)[-1], outcome="refused", done=NEVER)


def half_a_batch(storm: Storm) -> Storm:
    cuts = {r.value for r in storm.requests if r.kind == "remove"}
    ends = {at: (storm.appends[at].first or 0) + len(storm.appends[at].payloads) for at in acked(storm, least=2)}
    at = next(at for at, end in ends.items() if end not in cuts)
    return with_append(storm, at, outcome="unknown", first=None, payloads=(*storm.appends[at].payloads, NOWHERE))


def half_a_batch_from_its_middle_on(storm: Storm) -> Storm:
    at = acked(storm, least=2)[-1]
    return with_append(storm, at, outcome="unknown", first=None, payloads=(NOWHERE, *storm.appends[at].payloads))


def a_torn_batch(storm: Storm) -> Storm:
    at = acked(storm, least=2)[-1]
    payloads = storm.appends[at].payloads
    return with_append(storm, at, outcome="unknown", first=None, payloads=(storm.log[0].payload, *payloads[1:]))


def another_index_acknowledged(storm: Storm) -> Storm:
    at = acked(storm)[-1]
    return with_append(storm, at, first=(storm.appends[at].first or 0) + 1)


def one_index_for_two(storm: Storm) -> Storm:
    *_, before, last = acked(storm)
    return with_append(storm, last, first=storm.appends[before].first)


def program_order(storm: Storm) -> Storm:
    client = storm.appends[acked(storm, client="p")[-1]].client
    first, *_, last = acked(storm, client=client)
    one, other = storm.appends[first], storm.appends[last]
    return with_append(with_append(storm, first, number=other.number), last, number=one.number)


def a_purge_that_nobody_asked_for(storm: Storm) -> Storm:
    return storm._replace(requests=[r for r in storm.requests if r.kind != "purge"])


def a_purge_is_undone(storm: Storm) -> Storm:
    first = storm.log[0]._replace(index=storm.boundary, payload=FOREIGN)
    return storm._replace(boundary=storm.boundary - 1, log=[first, *storm.log])


def a_truncated_entry_comes_back(storm: Storm) -> Storm:
    row, _ = a_gone_entry(storm)
    return with_row(storm, row.index - storm.boundary - 1, payload=row.payload, term=row.term)


def a_committed_entry_goes(storm: Storm) -> Storm:
    """It was committed, and a truncation below the commit index took it."""
    stamp = max(r.done for r in storm.requests if r.kind == "commit" and r.outcome == "acked") + 1
    return storm._replace(
        requests=[*storm.requests, Request("remove", storm.log[-5].index, stamp, stamp, "acked", 999)],
        log=storm.log[:-5],
    )


def a_follower_skips(storm: Storm) -> Storm:
    at = longest_run(storm, "committed")
    seen = storm.runs[at].seen
    return with_seen(storm, at, [*seen[:2], *seen[3:]])


def a_follower_repeats(storm: Storm) -> Storm:
    at = longest_run(storm, "durable")
    seen = storm.runs[at].seen
    return with_seen(storm, at, [*seen[:3], *seen[2:]])


def a_follower_sees_a_ghost(storm: Storm) -> Storm:
    at = longest_run(storm, "visible")
    seen = list(storm.runs[at].seen)
    return with_seen(storm, at, put(seen, 1, seen[1]._replace(row=seen[1].row._replace(payload=FOREIGN))))


def a_follower_sees_another_index(storm: Storm) -> Storm:
    at = longest_run(storm, "committed")
    moved = [seen._replace(row=seen.row._replace(index=seen.row.index + 1)) for seen in storm.runs[at].seen]
    return with_seen(storm, at, moved)


def a_follower_sees_a_truncated_entry(storm: Storm) -> Storm:
    row, gone = a_gone_entry(storm)
    return storm._replace(runs=[*storm.runs, Run("late", "visible", (Seen(gone + 1, gone + 2, row),))])


def a_follower_is_not_told(storm: Storm) -> Storm:
    """It saw an entry in time, and after the truncation went on as if nothing had been."""
    row, gone = a_gone_entry(storm)
    successor = next(found for found in storm.log if found.index == row.index + 1)
    seen = next(seen for run in storm.runs for seen in run.seen if seen.row == row)
    late = Run("late", "visible", (seen, Seen(gone + 10**6, gone + 10**6 + 1, successor)))
    return storm._replace(runs=[*storm.runs, late])


def a_follower_sees_terms_fall(storm: Storm) -> Storm:
    at = longest_run(storm, "committed")
    seen = list(storm.runs[at].seen)
    return with_seen(storm, at, put(seen, 1, seen[1]._replace(row=seen[1].row._replace(term=0))))


def a_committed_follower_is_early(storm: Storm) -> Storm:
    late = [r._replace(called=r.called + 10**6) if r.kind == "commit" else r for r in storm.requests]
    return storm._replace(requests=late, frontiers=[])


def a_vote_is_forgotten(storm: Storm) -> Storm:
    stamp = max(r.done for r in storm.requests if r.done != NEVER) + 1
    return storm._replace(hard=[*storm.hard, HardSeen("late", stamp, stamp + 1, 0, None)])


def a_vote_changes(storm: Storm) -> Storm:
    at = next(number for number, seen in enumerate(storm.hard) if seen.term > 0)
    return storm._replace(hard=put(storm.hard, at, storm.hard[at]._replace(vote="nobody")))


def the_commit_index_falls(storm: Storm) -> Storm:
    top = max(storm.frontiers, key=lambda seen: seen.commit)
    fallen = top._replace(before=top.after + 1, after=top.after + 2, commit=top.commit - 1)
    return storm._replace(frontiers=[*storm.frontiers, fallen])


def the_commit_index_runs_ahead(storm: Storm) -> Storm:
    first = storm.frontiers[0]
    return storm._replace(frontiers=[first._replace(commit=10**6)])


def an_acknowledged_entry_is_not_visible(storm: Storm) -> Storm:
    late = max(append.done for append in storm.appends if append.done != NEVER)
    live = next(seen for seen in storm.frontiers if seen.live)
    stale = live._replace(before=late + 1, after=late + 2, last=0, commit=0)
    return storm._replace(frontiers=[stale])


def an_acknowledged_entry_is_not_durable(storm: Storm) -> Storm:
    late = max(append.done for append in storm.appends if append.done != NEVER)
    lazy = next(seen for seen in storm.frontiers if seen.live)._replace(
        before=late + 1, after=late + 2, last=10**6, durable=0, commit=0
    )
    return storm._replace(strategy="disk_first", frontiers=[lazy])


DOCTORS: list[tuple[Callable[[Storm], Storm], str]] = [
    (lose_the_end, "was committed, and is not in the log"), (lose_what_was_acknowledged, "and is lost"),
    (append_twice, "2 times"), (reorder, "and was at"), (a_foreign_entry, "nobody sent it"),
    (a_foreign_entry_at_the_end, "nobody sent it"), (wrong_bytes, "nobody sent it"), (a_hole, "was due"),
    (a_falling_term, "term falls"), (another_term, "gave it 999"), (refused_but_there, "was refused"),
    (half_a_batch, "entries are in the log"), (half_a_batch_from_its_middle_on, "is there from its entry 1 on"),
    (a_torn_batch, "is torn"), (another_index_acknowledged, "and was at"), (one_index_for_two, "both acknowledged"),
    (program_order, "stands before"), (a_purge_that_nobody_asked_for, "purged to 0 at most"),
    (a_purge_is_undone, "but was purged to 19"), (a_truncated_entry_comes_back, "is in the log again"),
    (a_committed_entry_goes, "was committed, and is not in the log"), (a_follower_skips, "was due"),
    (a_follower_repeats, "was due"), (a_follower_sees_a_ghost, "nobody sent it"),
    (a_follower_sees_another_index, "and was at"), (a_follower_sees_a_truncated_entry, "after it was truncated"),
    (a_follower_is_not_told, "was not told"), (a_follower_sees_terms_fall, "saw term 0 after"),
    (a_committed_follower_is_early, "before anybody committed it"), (a_vote_is_forgotten, "read term 0, which must be"),
    (a_vote_changes, "nobody gave it"), (the_commit_index_falls, "saw commit index"),
    (the_commit_index_runs_ahead, "was asked for"), (an_acknowledged_entry_is_not_visible, "saw last index 0"),
    (an_acknowledged_entry_is_not_durable, "saw durable index 0"),
]  # fmt: skip


@pytest.mark.parametrize(("doctor", "sentence"), DOCTORS, ids=[doctor.__name__ for doctor, _ in DOCTORS])
def test_a_doctored_history_is_noticed(recorded: Storm, doctor: Callable[[Storm], Storm], sentence: str) -> None:
    problems = check_storm(doctor(recorded))
    assert any(sentence in problem for problem in problems), problems
