"""When to fsync: numbers in, seconds out."""

from __future__ import annotations

import pytest

from raftlog_mp.config import Adaptive, Batch, FlushPolicy, Immediate
from raftlog_mp.flush import NEVER, seconds_until_flush


@pytest.mark.parametrize("policy", [Immediate(), Batch(), Adaptive()])
def test_nothing_to_flush(policy: FlushPolicy) -> None:
    assert seconds_until_flush(policy, 0, 100.0) == seconds_until_flush(policy, -1, 0) == NEVER


@pytest.mark.parametrize(
    ("policy", "entries", "age_s", "seconds"),
    [
        (Immediate(), 1, 0.0, 0.0),
        (Batch(10, 100), 1, 0.0, 0.1),
        (Batch(10, 100), 9, 0.04, 0.06),
        (Batch(10, 100), 10, 0.0, 0.0),
        (Batch(10, 100), 11, 0.0, 0.0),
        (Batch(10, 100), 1, 0.1, 0.0),
        (Batch(10, 100), 1, 9.9, 0.0),
        (Batch(10, 0), 1, 0.0, 0.0),
        (Batch(1, 1000), 1, 0.0, 0.0),
    ],
)
def test_threshold_or_age(policy: FlushPolicy, entries: int, age_s: float, seconds: float) -> None:
    assert seconds_until_flush(policy, entries, age_s) == pytest.approx(seconds)


def test_never_negative() -> None:
    for policy in (Immediate(), Batch(10, 5), Adaptive()):
        for entries in range(1, 20):
            for age in (0.0, 0.001, 1.0, 1e9):
                assert seconds_until_flush(policy, entries, age) >= 0
