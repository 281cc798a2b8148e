"""What the writer tells the decision, and how it waits: with a journal and lanes of numbers, on a virtual clock."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pytest

from raftlog_mp import grouping, wakeup
from raftlog_mp.adaptive import Gathering
from raftlog_mp.config import Adaptive, Batch, FlushPolicy, Immediate, LogConfig
from raftlog_mp.flush import NEVER
from raftlog_mp.grouping import LOOK_SECONDS, LOST_CORE_SECONDS, Grouping
from raftlog_mp.intake import Intake

SYNC = 1e-4
ADAPTIVE = Adaptive(5)


class Writer:
    """As much of one as the grouping asks for; ``now`` is its clock."""

    def __init__(self, policy: FlushPolicy, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> None:
        self.now, self.gave_way, self.core_lost_s = 1000.0, 0, 1e-6
        self.in_lanes = 0
        self.told: list[str] = []  # what the intake was told of flushes
        self.journal = SimpleNamespace(appends=0, unflushed_entries=0)
        self.intake: Any = SimpleNamespace(
            journal=self.journal, config=LogConfig(flush_policy=policy, **settings), oldest=self.now, owing=[],
            blocked=False, waiting=self.waiting, count_waiting=lambda: self.in_lanes,
            pacing=SimpleNamespace(begin=lambda: self.told.append("begins"), end=lambda: self.told.append("ends")),
        )  # fmt: skip
        self.arrive_at = NEVER
        monkeypatch.setattr(wakeup, "now", lambda: self.now)
        monkeypatch.setattr(wakeup, "give_way", self.give_way)
        self.grouping = Grouping(self.intake)

    def waiting(self) -> bool:
        return self.now >= self.arrive_at

    def give_way(self) -> None:
        self.gave_way += 1
        self.now += self.core_lost_s

    def take(self, *peers: str) -> None:
        """One entry of each of these clients."""
        self.journal.appends += len(peers)
        self.journal.unflushed_entries += len(peers)
        self.intake.owing += peers
        self.grouping.arrivals()

    def flush(self, in_lanes: int = 0) -> None:
        self.grouping.flushing()
        self.now += SYNC
        self.journal.unflushed_entries, self.in_lanes = 0, in_lanes
        self.grouping.flushed(self.intake.owing)
        self.intake.owing.clear()

    def use(self, *peers: str, rounds: int = 50) -> None:
        """The same clients, one entry each, again and again."""
        for _ in range(rounds):
            self.take(*peers)
            self.flush()


def test_the_other_policies_are_asked_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for policy, seconds in ((Immediate(), 0.0), (Batch(10, 100), 0.04)):
        writer = Writer(policy, monkeypatch)
        assert writer.grouping.seconds_until_flush() == NEVER
        writer.take("a")
        writer.intake.oldest = writer.now - 0.06
        assert writer.grouping.seconds_until_flush() == pytest.approx(seconds)
        assert writer.grouping.look(seconds) == seconds and writer.gave_way == 0
        writer.flush()


def test_an_incomplete_group_waits_a_complete_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(ADAPTIVE, monkeypatch)
    writer.use("a", "b", "c")
    assert writer.grouping.seconds_until_flush() == NEVER
    writer.take("a", "b")
    assert writer.grouping.seconds_until_flush() == pytest.approx(2 * SYNC)
    writer.take("c")
    assert writer.grouping.seconds_until_flush() == 0


@pytest.mark.parametrize(("each", "crowd"), [(1, 3), (5, 15)])
def test_who_stands_in_a_lane_after_the_fsync_was_missing(
    monkeypatch: pytest.MonkeyPatch, each: int, crowd: int
) -> None:
    """As many each as those in the group had: two clients were in it, a third came meanwhile."""
    writer = Writer(ADAPTIVE, monkeypatch)
    writer.use(*["a", "b"] * each)
    writer.take(*["a", "b"] * each)
    writer.flush(in_lanes=1)
    writer.take(*["c"] * (crowd - 1))
    assert writer.grouping.seconds_until_flush() > 0
    writer.take("c")
    assert writer.grouping.seconds_until_flush() == 0


def test_mem_first_counts_what_was_taken_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(ADAPTIVE, monkeypatch, strategy="mem_first")
    writer.use("a", "b")
    writer.take("a", "b")
    writer.grouping.flushing()
    writer.journal.unflushed_entries = 0
    writer.now += SYNC
    writer.take("c", "d")  # while the helper thread syncs; nobody stands in a lane afterwards
    writer.grouping.flushed(writer.intake.owing)
    assert writer.grouping.seconds_until_flush() == pytest.approx(2 * SYNC)
    writer.take("e", "f")
    assert writer.grouping.seconds_until_flush() == 0
    assert writer.grouping.look(SYNC) == SYNC and writer.gave_way == 0  # nobody waits: it sleeps


def test_a_flush_by_others_starts_the_group_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(ADAPTIVE, monkeypatch)
    writer.use("a", "b", "c")
    writer.take("a", "b")
    writer.journal.unflushed_entries = 0  # a truncation has settled everything
    assert writer.grouping.seconds_until_flush() == NEVER
    writer.take("c")
    assert writer.grouping.seconds_until_flush() == pytest.approx(2 * SYNC)


# ---------------------------------------------------------------- how it waits
def waits(writer: Writer) -> float:
    writer.take("a")
    return writer.grouping.look(2 * SYNC)


def test_it_looks_until_somebody_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(ADAPTIVE, monkeypatch)
    writer.arrive_at = writer.now + SYNC
    assert waits(writer) == 0
    assert writer.arrive_at <= writer.now < writer.arrive_at + 2e-6 and writer.gave_way == pytest.approx(100, abs=2)


def test_it_looks_no_longer_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(ADAPTIVE, monkeypatch)
    began = writer.now
    assert waits(writer) == 0 and writer.now == pytest.approx(began + 2 * SYNC, abs=2e-6)


def test_who_loses_the_core_sleeps_and_tries_again_ever_more_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer(ADAPTIVE, monkeypatch)
    writer.core_lost_s = 1.5 * LOST_CORE_SECONDS
    tries = []
    for number in range(200):
        before = writer.gave_way
        left = waits(writer)
        assert (left == 0) == (writer.gave_way > before)  # 300 us are gone, and it was to wait for 200
        tries += [number] * (writer.gave_way - before)
    assert len(tries) < 10 and tries[-1] - tries[-2] >= 60
    writer.core_lost_s = 1e-6
    before = writer.gave_way
    while writer.gave_way == before:
        writer.arrive_at = writer.now + SYNC
        waits(writer)
    for _ in range(10):  # one success, and it looks each time
        before, writer.arrive_at = writer.gave_way, writer.now + SYNC
        assert waits(writer) == 0 and writer.gave_way > before


@pytest.mark.parametrize("why", ["off", "long", "blocked", "nothing"])
def test_it_does_not_look(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    writer = Writer(ADAPTIVE, monkeypatch, spin_us=0.0 if why == "off" else 50.0)
    writer.intake.blocked = why == "blocked"
    if why != "nothing":
        writer.take("a")
    seconds = LOOK_SECONDS * 1.01 if why == "long" else SYNC
    assert writer.grouping.look(seconds) == seconds and writer.gave_way == 0


def test_the_stub_has_what_the_intake_has() -> None:
    for name in ("waiting", "count_waiting"):
        assert callable(getattr(Intake, name))
    assert grouping.wakeup is wakeup


@pytest.mark.parametrize("seed", range(5))
def test_a_group_that_went_at_once_teaches_what_it_would_have_taught_step_by_step(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(seed)
    steps, whole = Writer(ADAPTIVE, monkeypatch), Writer(ADAPTIVE, monkeypatch)
    for _ in range(200):
        peers, missed = draw.choices("abcd", k=draw.randint(1, 4)), draw.randint(0, 3)
        began = steps.now = steps.now + draw.choice((0, SYNC, 1.0))
        monkeypatch.setattr(wakeup, "now", lambda: steps.now)
        steps.take(*peers)
        steps.flush(missed)
        whole.journal.appends += len(peers)
        whole.grouping.went_at_once(began, SYNC, missed, peers)  # type: ignore[arg-type]
    known = [name for name in Gathering.__slots__ if not name.startswith("__")]
    taught = [[getattr(one.grouping._gathering, name) for name in known] for one in (steps, whole)]
    assert taught[0] == pytest.approx(taught[1])


@pytest.mark.parametrize("policy", [Immediate(), Adaptive()])
def test_the_intake_learns_of_every_flush(policy: FlushPolicy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the policy: a flood is let in as the disk lets go of it."""
    writer = Writer(policy, monkeypatch)
    for _ in range(2):
        writer.grouping.flushing()
        writer.grouping.flushed([])
    assert writer.told == ["begins", "ends"] * 2
