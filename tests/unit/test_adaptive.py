"""The decision of ``Adaptive``: by itself, and with a disk and clients on a virtual clock."""

from __future__ import annotations

import random

import pytest

from raftlog_mp.adaptive import MEMORY_SYNCS, OUTLIER, PATIENCE_SYNCS, Gathering
from raftlog_mp.config import Adaptive, Batch, Immediate

from .flush_model import bursts, clients, run, stream

SYNC = 200e-6
TARGET = 5e-3
ADAPTIVE = Adaptive(TARGET * 1000)
# Hand-tuned: every combination of these, as somebody would try them out.
GRID = [Batch(threshold, interval) for threshold in (8, 64, 10**6) for interval in (1, 3.8, 4.8)]


# ---------------------------------------------------------------- low load: as fast as Immediate
@pytest.mark.parametrize("sync_s", [50e-6, SYNC, 2e-3])
@pytest.mark.parametrize("load", [0.01, 0.1, 0.2])
def test_a_slow_stream_is_as_fast_as_with_immediate(sync_s: float, load: float) -> None:
    """``load``: submissions that come during one fsync."""
    until = 1000 * sync_s / load
    ours, immediate = (run(policy, stream(load / sync_s), sync_s, until).of() for policy in (ADAPTIVE, Immediate()))
    assert ours.p50 <= 1.01 * immediate.p50 and ours.mean <= 1.05 * immediate.mean and ours.p99 <= 1.1 * immediate.p99


@pytest.mark.parametrize("think_s", [10e-6, 1e-3])
def test_one_client_never_waits_for_others(think_s: float) -> None:
    ours, immediate = (run(policy, clients(1, think_s=think_s), SYNC, 0.5) for policy in (ADAPTIVE, Immediate()))
    assert ours == immediate


def test_clients_that_come_seldom_do_not_wait_for_one_another() -> None:
    ours, immediate = (run(policy, clients(4, think_s=5e-3), SYNC, 4).of() for policy in (ADAPTIVE, Immediate()))
    assert ours.p50 <= 1.02 * immediate.p50 and ours.mean <= 1.05 * immediate.mean


# ---------------------------------------------------------------- high load: as few fsyncs as the best Batch
@pytest.mark.parametrize(("rate", "sync_s"), [(20_000, SYNC), (50_000, SYNC), (50_000, 1e-3), (5_000, 1e-3)])
def test_a_fast_stream_needs_as_few_fsyncs_as_the_best_batch(rate: float, sync_s: float) -> None:
    """The best of the grid is the one with the fewest fsyncs among those that keep the target."""
    until = 0.1 + 6000 / rate
    ours = run(ADAPTIVE, stream(rate), sync_s, until).of(0.1)
    assert ours.p99 <= 1.05 * TARGET
    tuned = [run(policy, stream(rate), sync_s, until).of(0.1) for policy in GRID]
    best = min((figures for figures in tuned if figures.p99 <= 1.05 * TARGET), key=lambda one: one.fsyncs_per_append)
    assert ours.fsyncs_per_append <= 1.15 * best.fsyncs_per_append
    immediate = run(Immediate(), stream(rate), sync_s, until).of(0.1)
    assert ours.fsyncs_per_append < immediate.fsyncs_per_append / 3


@pytest.mark.parametrize("count", [2, 3, 4, 8, 16])
def test_all_clients_share_each_fsync(count: int) -> None:
    """As with a threshold that somebody has set to the number of clients; nobody told this one."""
    ours = run(ADAPTIVE, clients(count), SYNC, 0.5).of(0.1)
    tuned = run(Batch(count, 5), clients(count), SYNC, 0.5).of(0.1)
    assert ours.fsyncs_per_append <= 1.02 * tuned.fsyncs_per_append <= 1.04 / count
    assert ours.p50 <= 1.05 * tuned.p50 and ours.appends >= 0.97 * tuned.appends


@pytest.mark.parametrize("count", [2, 3, 4])
def test_few_clients_are_faster_than_with_immediate(count: int) -> None:
    """There, one group waits while the other is synced."""
    ours, immediate = (run(policy, clients(count), SYNC, 0.5).of(0.1) for policy in (ADAPTIVE, Immediate()))
    assert ours.appends > 1.05 * immediate.appends and ours.p50 < 0.9 * immediate.p50


def test_bursts_are_a_stream_too() -> None:
    """Between two bursts nobody comes for longer than two fsyncs: that those were not all is learned."""
    ours, tuned = (run(policy, bursts(4, 16_000, 1.2e-3), SYNC, 0.6).of(0.1) for policy in (ADAPTIVE, GRID[-1]))
    assert ours.fsyncs_per_append <= 1.15 * tuned.fsyncs_per_append and ours.p99 <= 1.05 * TARGET


def test_groups_grow_with_the_rate() -> None:
    """From one to as many as the target allows, and never shrink between."""
    rates = [500, 1500, 2500, 3500, 5000, 7000, 10_000, 20_000]
    groups = [1 / run(ADAPTIVE, stream(rate), SYNC, 3000 / rate).of(300 / rate).fsyncs_per_append for rate in rates]
    assert groups == sorted(groups)
    assert groups[0] < 1.2 and groups[-1] > 80


# ---------------------------------------------------------------- changes
def test_it_follows_the_rate() -> None:
    def rate(now: float) -> float:
        return 200 if now < 0.5 or now > 1 else 20_000

    outcome = run(ADAPTIVE, stream(rate), SYNC, 2)
    for begin, end in ((0.0, 0.5), (1.02, 2.0)):
        calm, immediate = outcome.of(begin, end), run(Immediate(), stream(200), SYNC, 1).of()
        assert calm.p50 <= 1.05 * immediate.p50 and calm.mean <= 1.1 * immediate.mean
    busy = outcome.of(0.55, 1.0)
    assert busy.p99 <= 1.05 * TARGET and busy.fsyncs_per_append <= 1.2 / (20_000 * (TARGET - 2 * SYNC))


def test_it_follows_the_disk() -> None:
    """A disk that becomes ten times slower, and recovers: the target holds, with the wait that it leaves."""

    def sync_s(now: float) -> float:
        return 2e-3 if 0.5 <= now < 1 else SYNC

    outcome = run(ADAPTIVE, stream(20_000), sync_s, 1.5)
    for begin, end, sync in ((0.1, 0.5, SYNC), (0.6, 1.0, 2e-3), (1.1, 1.5, SYNC)):
        figures = outcome.of(begin, end - TARGET)
        assert figures.p99 <= 1.1 * TARGET
        assert figures.fsyncs_per_append <= 1.3 / (20_000 * (TARGET - sync))


def test_a_disk_slower_than_the_target_is_not_waited_for() -> None:
    ours, immediate = (run(policy, stream(2000), 20e-3, 4).of() for policy in (ADAPTIVE, Immediate()))
    assert ours.p50 <= 1.02 * immediate.p50 and ours.p99 <= 1.02 * immediate.p99


def test_clients_that_left_are_not_waited_for() -> None:
    """Seven of eight go: one wait in vain, and the last one appends as fast as if it had always been alone."""
    outcome = run(ADAPTIVE, clients(1) + clients(7, until_s=0.2, seed=2), SYNC, 0.5)
    alone = sorted(latency for due, latency in outcome.latencies if due > 0.2)
    assert alone[-3] <= 1.2 * SYNC + 1e-9 and alone[-1] < 3 * PATIENCE_SYNCS * SYNC


@pytest.mark.parametrize("sync_s", [SYNC, 1e-3, 2e-3])
def test_after_bursts_clients_that_left_are_not_waited_for(sync_s: float) -> None:
    """Bursts have taught patience; then one of three clients goes.  No wait lasts up to the target for good."""
    sources = bursts(2, 16_000, 2e-3) + clients(3, think_s=lambda now: 60e-6)
    for source in sources[:2]:
        source.until_s = 0.3  # type: ignore[attr-defined]
    outcome = run(ADAPTIVE, [*sources, *clients(1, seed=3, until_s=0.5)], sync_s, 1.0)
    settled = outcome.of(0.6)
    assert settled.fsyncs_per_append <= 1.05 / 3 and settled.p99 <= 3 * sync_s


def test_clients_that_came_are_waited_for() -> None:
    """Four that sleep at first, and then append as fast as the other two."""
    later = clients(4, seed=2, think_s=lambda now: 0.1 if now < 0.1 else 60e-6)
    outcome = run(ADAPTIVE, clients(2) + later, SYNC, 1.5)
    assert outcome.of(1.0).fsyncs_per_append <= 1.05 / 6


def test_a_straggler_costs_the_others_little() -> None:
    """One of eight thinks longer than anybody waits: a wait in vain may follow each time that it was there."""
    ours, immediate = (
        run(policy, clients(7) + clients(1, seed=2, think_s=2e-3), SYNC, 0.5).of(0.1)
        for policy in (ADAPTIVE, Immediate())
    )
    assert ours.fsyncs_per_append < 0.7 * immediate.fsyncs_per_append and ours.p50 <= 1.2 * immediate.p50


def test_a_full_window_is_not_waited_on() -> None:
    """Clients with 16 submissions in flight each: the group is complete when all windows are full."""
    outcome = run(ADAPTIVE, clients(64, think_s=20e-6), SYNC, 0.25)
    figures = outcome.of(0.1)
    assert figures.fsyncs_per_append <= 1.05 / 64 and figures.p99 < TARGET / 4


# ---------------------------------------------------------------- the decision by itself
def used_to(sync_s: float, group: int, missed: float, rounds: int = 100) -> tuple[Gathering, float]:
    """One that has seen groups of this size, back to back, each of which was missed by so many."""
    gathering, now = Gathering(TARGET), 0.0
    for _ in range(rounds):
        gathering.arrived(now, group)
        gathering.flushing(now)
        now += sync_s
        gathering.flushed(now, missed)
    return gathering, now


def test_the_first_submission_is_flushed_at_once() -> None:
    gathering = Gathering(TARGET)
    gathering.arrived(100.0, 5)
    assert gathering.seconds_until_flush(100.0) == 0


def test_a_complete_group_is_flushed_at_once_an_incomplete_one_waits_two_fsyncs() -> None:
    gathering, now = used_to(SYNC, 4, 0)
    gathering.arrived(now, 3)
    assert gathering.seconds_until_flush(now) == pytest.approx(PATIENCE_SYNCS * SYNC)
    gathering.arrived(now + SYNC, 0)  # nobody
    assert gathering.seconds_until_flush(now + SYNC) == pytest.approx(PATIENCE_SYNCS * SYNC - SYNC)
    gathering.arrived(now + SYNC, 1)
    assert gathering.seconds_until_flush(now + SYNC) == 0


def test_who_was_waited_for_in_vain_is_not_expected_again() -> None:
    gathering, now = used_to(SYNC, 4, 0)
    gathering.arrived(now, 3)
    now += gathering.seconds_until_flush(now)
    assert gathering.seconds_until_flush(now) == 0
    gathering.flushing(now)
    gathering.flushed(now + SYNC, 0)
    gathering.arrived(now + SYNC, 3)
    assert gathering.seconds_until_flush(now + SYNC) == 0


def wait_in_vain(gathering: Gathering, now: float, missed: float) -> tuple[float, float]:
    """A group that is larger than any before, but for one more that is expected: how long it waits, and when it ends.

    So many come during the fsync that follows.
    """
    gathering.arrived(now, 100)
    gathering.flushing(now)
    gathering.flushed(now + SYNC, 1)
    gathering.arrived(now + SYNC, 100)
    wait = gathering.seconds_until_flush(now + SYNC)
    now += SYNC + wait + 1e-9
    gathering.flushing(now)
    gathering.flushed(now + SYNC, missed)
    return wait, now + SYNC


def test_impatience_is_learned_from() -> None:
    """It doubles when somebody came right after it had run out, halves when nobody did, up to the target."""
    gathering, now = used_to(SYNC, 100, 0)
    waits = []
    for missed in (0, 0, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0):
        wait, now = wait_in_vain(gathering, now, missed)
        waits.append(round(wait / SYNC, 1))
    least = PATIENCE_SYNCS
    limit = TARGET / SYNC / 2 - 1
    assert waits[:6] == [least, least, least, 2 * least, 4 * least, limit]
    assert max(waits) == limit and waits[-1] == least


def test_who_came_during_the_fsync_is_expected_and_has_waited_since_it_began() -> None:
    gathering, now = used_to(2e-3, 4, 0)
    gathering.arrived(now, 4)
    gathering.flushing(now)
    now += 2e-3
    gathering.flushed(now, 2)
    gathering.arrived(now, 4)
    assert gathering.seconds_until_flush(now) == pytest.approx(TARGET / 2 - 2e-3)  # not the time of two fsyncs
    gathering.arrived(now + 0.8e-3, 1)
    assert gathering.seconds_until_flush(now + 0.8e-3) == pytest.approx(TARGET - 2e-3 - 2e-3 - 0.8e-3)
    gathering.arrived(now + 0.8e-3, 1)
    assert gathering.seconds_until_flush(now + 0.8e-3) == 0


def test_what_is_told_during_the_fsync_waits_since_it_was_told() -> None:
    """MemFirst: the writer takes submissions while a thread syncs."""
    gathering, now = used_to(1e-3, 4, 4)
    gathering.arrived(now, 4)
    gathering.flushing(now)
    gathering.arrived(now + 0.9e-3, 1)
    gathering.flushed(now + 1e-3, 1)
    assert gathering.group == 1
    gathering.arrived(now + 1e-3, 1)
    assert gathering.seconds_until_flush(now + 1e-3) == pytest.approx(TARGET / 2 - 1e-3)
    gathering.arrived(now + 4.8e-3, 1)
    assert gathering.seconds_until_flush(now + 4.8e-3) == pytest.approx(0.1e-3)
    now += 5e-3
    gathering.flushing(now)
    gathering.arrived(now + 0.9e-3, 1)
    gathering.flushed(now + 1e-3, 1)
    gathering.arrived(now + 4.8e-3, 1)
    assert gathering.seconds_until_flush(now + 4.8e-3) == pytest.approx(0.1e-3)


def test_a_group_that_something_else_has_flushed_is_forgotten() -> None:
    gathering, now = used_to(SYNC, 4, 0)
    gathering.arrived(now, 3)
    gathering.settled()
    gathering.arrived(now + 1e-3, 1)
    assert gathering.group == 1 and gathering.seconds_until_flush(now + 1e-3) == pytest.approx(PATIENCE_SYNCS * SYNC)


def test_one_slow_fsync_counts_little() -> None:
    gathering, now = used_to(SYNC, 1, 0)
    gathering.arrived(now, 1)
    gathering.flushing(now)
    gathering.flushed(now + 1.0, 0)
    assert SYNC < gathering.sync_s <= SYNC * (1 + OUTLIER / 8)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_never_stuck(seed: int) -> None:
    """Whatever comes: a wait is at most the target, and once it is over the answer is 0."""
    draw, now = random.Random(seed), 0.0
    gathering = Gathering(TARGET)
    at_once = set()
    for _ in range(300):
        for _ in range(draw.randrange(1, 5)):
            now += draw.choice((0.0, 1e-6, 1e-4, 1e-2))
            if comes := draw.choice((0, 1, 1, 10, 1000)):
                foretold = gathering.due_with(now, comes)
                gathering.arrived(now, comes)
                assert foretold is (gathering.seconds_until_flush(now) == 0), "and asking has changed nothing"
                at_once.add(foretold)
        wait = gathering.seconds_until_flush(now)
        assert 0 <= wait <= TARGET
        assert gathering.seconds_until_flush(now + wait + 1e-9) == 0
        now += draw.choice((0.0, wait))
        gathering.flushing(now)
        now += draw.choice((0.0, 1e-5, 1e-3, 0.1))
        gathering.flushed(now, draw.choice((0, 0, 1, 3.5, 1e12)))
    assert MEMORY_SYNCS > PATIENCE_SYNCS and at_once == {True, False}
