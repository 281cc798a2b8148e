"""Who looks before sleeping: nobody, where those at work have no core each."""

from __future__ import annotations

import pytest

from raftlog_mp import wakeup
from raftlog_mp.patience import WAKE_UP_SECONDS

from .running import Running


def count(running: Running, submitting: int, members: list) -> tuple[float, float]:
    """So many submit, and the writer counts: seconds that clients look, and that the writer does."""
    for member in members[:submitting]:
        member.submit(b"x")
    assert running.writer._intake.count_waiting() == submitting
    running.writer._intake.drain()
    assert running.writer._intake.count_waiting() == 0
    running.writer._count_at = 0.0  # it is time
    running.writer._count_busy()
    return running.word("spin_ns") / 1e9, running.writer._spin_seconds


@pytest.mark.parametrize("policy", ["immediate", "adaptive:5"])
def test_with_eight_clients_on_two_cores_nobody_looks(log_dir: str, policy: str) -> None:
    running = Running(log_dir, flush_policy=policy, spin_us=50.0)
    try:
        running.writer._cores = 2
        members = [running.member() for _ in range(8)]
        count(running, 0, members)  # as the loop does before it serves
        assert count(running, 8, members) == (0.0, 0.0)
        assert count(running, 2, members) == (0.0, 0.0)  # they and the writer are three
        assert not running.writer._spin()
        for_answers, for_submissions = count(running, 1, members)
        assert for_submissions == 50e-6 and for_answers >= 49e-6 + 2 * WAKE_UP_SECONDS
        running.writer._cores = 16
        assert min(count(running, 8, members)) > 0
        assert count(running, 0, members)[1] == 50e-6  # all are idle: whoever comes next finds the writer awake
    finally:
        running.end()


def test_it_can_be_switched_off(log_dir: str) -> None:
    running = Running(log_dir, spin_us=0.0)
    try:
        running.writer._cores = 16
        assert count(running, 1, [running.member()]) == (0.0, 0.0)
    finally:
        running.end()


@pytest.mark.parametrize("descriptors", [0, 1024])
def test_short_waits_end_on_time_and_at_a_bell(monkeypatch: pytest.MonkeyPatch, descriptors: int) -> None:
    """With select, and without: it takes no descriptor above a limit."""
    monkeypatch.setattr(wakeup, "SELECT_DESCRIPTORS", descriptors)
    poller, event = wakeup.Poller(), wakeup.Event()
    try:
        poller.add(event.fd, "bell")
        began = wakeup.now()
        assert poller.wait(0.0003) == [] and wakeup.now() - began >= 0.0003
        event.set()
        assert poller.wait(0.01) == ["bell"]
    finally:
        event.close()
        poller.close()


def test_giving_way_comes_back() -> None:
    wakeup.give_way()
