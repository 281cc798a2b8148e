"""How long to look before sleeping: who has a core, and who has luck."""

from __future__ import annotations

import pytest

from raftlog_mp.patience import ANSWER_SECONDS_WORTH_IT, SKIPPED_MAX, Patience, seconds_to_spin


@pytest.mark.parametrize(
    ("spin_s", "busy", "cores", "answer_s", "seconds"),
    [
        (50e-6, 0, 2, 0.0, 50e-6),
        (50e-6, 1, 2, 0.0, 50e-6),  # the writer and one client: a core each
        (50e-6, 2, 2, 0.0, 0.0),
        (50e-6, 8, 2, 0.0, 0.0),
        (50e-6, 0, 1, 0.0, 50e-6),
        (50e-6, 1, 1, 0.0, 0.0),
        (50e-6, 3, 4, 0.0, 50e-6),
        (0.0, 0, 8, 1e-4, 0.0),  # switched off
        (50e-6, 1, 2, 200e-6, 450e-6),  # the answer comes after a sync
        (50e-6, 1, 2, ANSWER_SECONDS_WORTH_IT, 50e-6 + 2 * ANSWER_SECONDS_WORTH_IT),
        (50e-6, 1, 2, 5e-3, 50e-6),  # a slow disk is waited for asleep
    ],
)
def test_looking_needs_a_core_for_everybody_at_work(
    spin_s: float, busy: int, cores: int, answer_s: float, seconds: float
) -> None:
    assert seconds_to_spin(spin_s, busy, cores, answer_s) == pytest.approx(seconds)


def test_with_luck_every_wait_looks() -> None:
    patience = Patience()
    for _ in range(100):
        assert patience.looks()
        patience.learn(lucky=True)


def looks_in(patience: Patience, waits: int, *, lucky: bool) -> int:
    looks = 0
    for _ in range(waits):
        if patience.looks():
            looks += 1
            patience.learn(lucky=lucky)
    return looks


def test_without_luck_looking_becomes_rare_but_never_ends() -> None:
    patience = Patience()
    assert looks_in(patience, 1000, lucky=False) < 25
    assert looks_in(patience, SKIPPED_MAX, lucky=False) >= 1


def test_one_success_restores_it() -> None:
    patience = Patience()
    looks_in(patience, 1000, lucky=False)
    while not patience.looks():
        pass
    patience.learn(lucky=True)
    assert looks_in(patience, 50, lucky=True) == 50


def test_a_single_failure_costs_nothing() -> None:
    patience = Patience()
    patience.learn(lucky=False)
    assert patience.looks()
