"""Raft's rules between processes: a vote fences workers, batches never mix, and what a crash cut is asked again once.

The processes are forked by a nursery and run the functions of this file's first part.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.history import Submission, check
from support.nursery import Nursery
from support.processes import PATIENCE_S, alive, rows_of, wait_until

import raftlog_mp as rl

STRATEGIES = ("disk_first", "mem_first")
ME = __name__
TERMS = (1, 1, 2, 2, 5)  # of the log that the crash tests begin with
OLD, NEW = 3, 4  # terms of the deposed leader and of the next


# ---------------------------------------------------------------- what the processes do
def propose(directory: str, name: str, term: int, count: int) -> list[Any]:
    """A worker of a leader: append batches in every way until the term is over, or ``count`` is reached.

    Gives ``[[payloads, first index], ...]`` and which calls were StaleTerm once one had been.
    """
    done: list[tuple[list[str], int]] = []
    with rl.open_log(directory, autostart=False, timeout=PATIENCE_S, name=name) as log:
        for number in range(count):
            payloads = [f"{name}-{number}-{part}" for part in range((1, 3, 5)[number % 3])]
            encoded = [payload.encode() for payload in payloads]
            try:
                if len(payloads) == 1:
                    first = log.append(encoded[0], term)
                elif len(payloads) == 3:
                    first = log.append_many(encoded, term).start
                else:
                    first = log.submit(encoded, term).result(timeout=PATIENCE_S).start
            except rl.StaleTerm:
                break
            done.append((payloads, first))
        else:
            return [done, []]
        return [done, stale_calls(log, term)]


def stale_calls(log: rl.Log, term: int) -> list[str]:
    """Which of the calls that say their term are StaleTerm."""
    prev = log.last_log_id
    calls: dict[str, Callable[[], object]] = {
        "append": lambda: log.append(b"late", term),
        "append_many": lambda: log.append_many([b"late", b"later"], term),
        "submit": lambda: log.submit([b"late"], term).result(timeout=PATIENCE_S),
        "append_entries": lambda: log.append_entries(prev, [], leader_term=term),
        "truncate_from": lambda: log.truncate_from(prev.index, leader_term=term),
    }
    found = []
    for name, call in calls.items():
        with contextlib.suppress(rl.StaleTerm):
            call()
            continue
        found.append(name)
    return found


def ask(directory: str, request: str) -> list[Any]:
    """One request of the crash tests: what it answered, or its error's name."""
    with rl.open_log(directory, autostart=False, timeout=PATIENCE_S) as log:
        try:
            return [REQUESTS[request].ask(log)]
        except rl.RaftLogError as error:
            return [type(error).__name__]


def sleep_for_ever() -> None:
    while True:
        signal.pause()


def say_much(characters: int) -> list[str]:
    return ["x" * characters]


# ---------------------------------------------------------------- several workers
@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery
        nursery.finish()


def test_a_process_that_is_waited_for_in_vain_costs_nobody_else_anything(nursery: Nursery, monkeypatch: Any) -> None:
    silent = nursery.run(ME, "sleep_for_ever")
    with monkeypatch.context() as patch, pytest.raises(AssertionError, match="in vain"):
        patch.setattr(nursery, "patience_s", 0.1)
        nursery.answer(silent)
    assert not alive(silent)
    talkative = nursery.run(ME, "say_much", 10**6)  # more than a pipe holds: it must not wait for its reader
    assert nursery.ended(talkative) == 0
    assert len(nursery.answer(talkative)[0]) == 10**6


@contextlib.contextmanager
def workers(nursery: Nursery, log_dir: str, count: int) -> Iterator[list[int]]:
    """Three workers, which have ended when the block has; whatever happens, none is left."""
    pids = [nursery.run(ME, "propose", log_dir, f"w{n}", OLD, count) for n in range(3)]
    try:
        yield pids
        for pid in pids:
            assert nursery.ended(pid) == 0, nursery.output(pid)
    finally:
        for pid in pids:
            nursery.kill(pid)


def submissions_of(answers: list[Any]) -> list[Submission]:
    return [
        Submission(f"w{worker}", number, tuple(payload.encode() for payload in payloads), first)
        for worker, (done, _) in enumerate(answers) for number, (payloads, first) in enumerate(done)
    ]  # fmt: skip


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_workers_of_one_leader_get_disjoint_contiguous_batches(
    log_dir: str, nursery: Nursery, strategy: str
) -> None:
    config = rl.LogConfig(strategy=strategy, segment_bytes=1 << 16, ring_bytes=1 << 20)
    with nursery.log(log_dir, config) as log:
        with workers(nursery, log_dir, 60) as pids:
            answers = [nursery.answer(pid) for pid in pids]
        submissions = submissions_of(answers)
        assert len(submissions) == 180 and all(stale == [] for _, stale in answers)
        entries = rows_of(log.read(1))
        assert check(entries, submissions) == []
        assert len(entries) == sum(len(one.payloads) for one in submissions) and {row.term for row in entries} == {OLD}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_vote_fences_the_workers_of_a_deposed_leader(log_dir: str, nursery: Nursery, strategy: str) -> None:
    """From the moment at which the hard state is saved nothing with the old term lands, whoever appends it."""
    config = rl.LogConfig(strategy=strategy, segment_bytes=1 << 16, ring_bytes=1 << 20)
    with nursery.log(log_dir, config) as log:
        with workers(nursery, log_dir, 10**6) as pids:
            wait_until("the workers append", lambda: log.last_index > 200)
            log.save_hard_state(rl.HardState(NEW, "n2"))
            last = log.last_index
            wait_until("the workers stop", lambda: log.last_index > last or not any(map(alive, pids)))
            assert log.last_index == last  # nothing with the old term has landed since, and nothing else was there
            answers = [nursery.answer(pid) for pid in pids]
        first = log.append(b"of the next leader", NEW)
        assert first == last + 1
        everything = ["append", "append_many", "submit", "append_entries", "truncate_from"]
        assert [stale for _, stale in answers] == [everything] * 3
        submissions = [*submissions_of(answers), Submission("test", 0, (b"of the next leader",), first)]
        assert check(rows_of(log.read(1)), submissions) == []
        assert log.last_log_id == (NEW, first) and log.term_of(last) == OLD


# ---------------------------------------------------------------- a crash inside
class Request(NamedTuple):
    """A request, and what it makes of the entries that it finds (index - 1 -> (term, payload))."""

    ask: Callable[[rl.Log], Any]
    effect: Callable[[list[Any]], list[Any]]
    answers: Any


def of(*terms: int) -> list[tuple[int, bytes]]:
    return [(term, b"%d" % index) for index, term in enumerate(terms)]


def new(first: int, *terms: int) -> list[rl.Entry]:
    return [rl.Entry(term, index, b"new %d" % index) for index, term in enumerate(terms, first)]


def rows(entries: list[rl.Entry]) -> list[tuple[int, bytes]]:
    return [(entry.term, entry.payload) for entry in entries]


def said(result: rl.AppendResult) -> list[Any]:
    return [result.success, list(result.matched or ())]


EXTEND, REPLACE = new(6, 8, 9, 9), new(4, 8, 9)
REQUESTS = {
    "extend": Request(
        lambda log: said(log.append_entries(rl.LogId(5, 5), EXTEND, leader_term=9)),
        lambda log: log[:5] + rows(EXTEND), [True, [9, 8]],
    ),
    "replace": Request(
        lambda log: said(log.append_entries(rl.LogId(2, 3), REPLACE, leader_term=9)),
        lambda log: log[:3] + rows(REPLACE), [True, [9, 5]],
    ),
    "truncate": Request(lambda log: log.truncate_from(4), lambda log: log[:3], None),
    "reset": Request(lambda log: log.reset(), lambda log: [], None),
    "vote": Request(lambda log: log.save_hard_state(rl.HardState(6, "a")), lambda log: log, None),
}  # fmt: skip

# Where the writer dies, and whether the request is in the log then.
REPLACED = [
    ("orders.Orders.execute", "before", False), ("journal.Journal._create_segment", "after", False),
    ("control.Control.open_change", "after", False), ("manifest.save", "before", False),
    ("manifest.save", "after", True), ("journal.Journal._stand_at", "after", True),
    ("lane.LaneConsumer.complete", "before", True),
]  # fmt: skip
POINTS = [
    *(("extend", *point) for point in (
        ("orders.Orders.execute", "before", False), ("journal.Journal.append", "after", False),  # the first of two
        ("journal.Journal.publish", "after", True), ("lane.LaneConsumer.complete", "before", True),
    )),
    *(("replace", *point) for point in REPLACED),
    *(("truncate", *point) for point in REPLACED),
    *(("reset", *point) for point in (REPLACED[0], *REPLACED[3:])),
    ("vote", "hard_state.save", "before", False), ("vote", "hard_state.save", "after", True),
    ("vote", "lane.LaneConsumer.complete", "before", True),
]  # fmt: skip

# All but appending goes the same way in both strategies: of it, a point of each request does for MemFirst.
MEM_FIRST = {("replace", "before"), ("replace", "after"), ("truncate", "after"), ("reset", "after"), ("vote", "after")}


def cases() -> Iterator[Any]:
    for strategy in STRATEGIES:
        for name, target, moment, done in POINTS:
            told = name == "extend" or (target.endswith(".save") and (name, moment) in MEM_FIRST)
            if strategy == "disk_first":  # a truncation is a replacement by nothing
                told = name != "truncate" or target.endswith((".save", ".complete"))
            marks = () if told else (pytest.mark.slow,)
            yield pytest.param(strategy, name, target, moment, done, marks=marks)


@pytest.fixture(scope="module", params=STRATEGIES)
def template(request: pytest.FixtureRequest, nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log with five entries, closed."""
    place = tmp_path_factory.mktemp("template") / "log"
    config = rl.LogConfig(strategy=request.param, segment_bytes=1 << 16, ring_bytes=1 << 20, idle_mark_ms=60_000.0)
    with nursery.log(str(place), config) as log:
        for term, payload in of(*TERMS):
            log.append(payload, term)
    return place


def stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "T"


@pytest.mark.parametrize(("template", "name", "target", "moment", "done"), list(cases()), indirect=["template"])
def test_a_request_that_a_crash_cut_is_executed_once(
    nursery: Nursery, template: Path, log_dir: str, name: str, target: str, moment: str, done: bool
) -> None:
    """The writer dies inside it; another client changes the log before the first can ask again; then it asks again.

    What was done before the crash is not done again: the other client's entries stay.  What was not is done now.
    """
    request, other = REQUESTS[name], b"another client's"
    shutil.copytree(template, log_dir)
    writer = nursery.writer(log_dir, die=[target, moment, 1])
    client = nursery.run(ME, "ask", log_dir, name)
    assert nursery.ended(writer) == -signal.SIGKILL
    os.kill(client, signal.SIGSTOP)
    wait_until("the client is stopped", lambda: stopped(client))
    with nursery.log(log_dir) as log:
        before = request.effect(of(*TERMS)) if done else of(*TERMS)
        try:
            assert rows(log.read(1)) == before
            assert log.hard_state == (rl.HardState(6, "a") if name == "vote" and done else rl.HardState())
            log.append(other, 9 if done else 6)
        finally:
            os.kill(client, signal.SIGCONT)
        assert nursery.answer(client) == [request.answers]
        assert nursery.ended(client) == 0
        wanted = [*before, (9, other)] if done else request.effect([*before, (6, other)])
        assert rows(log.read(1)) == wanted
        if name == "vote":
            assert log.hard_state == rl.HardState(6, "a")
    with nursery.log(log_dir) as log:
        assert rows(log.read(1)) == wanted
        assert log.term_of(len(wanted)) == (wanted[-1][0] if wanted else None)


def test_a_vote_that_a_crash_cut_never_undoes_a_later_one(nursery: Nursery, template: Path, log_dir: str) -> None:
    """Another term was saved before the client could ask again: its own, saved before the crash, is over by now."""
    shutil.copytree(template, log_dir)
    writer = nursery.writer(log_dir, die=["lane.LaneConsumer.complete", "before", 1])
    client = nursery.run(ME, "ask", log_dir, "vote")
    assert nursery.ended(writer) == -signal.SIGKILL
    os.kill(client, signal.SIGSTOP)
    wait_until("the client is stopped", lambda: stopped(client))
    with nursery.log(log_dir) as log:
        try:
            log.save_hard_state(rl.HardState(8, "b"))
        finally:
            os.kill(client, signal.SIGCONT)
        assert nursery.answer(client) == ["StaleTerm"]
        assert nursery.ended(client) == 0
        assert log.hard_state == rl.HardState(8, "b")
