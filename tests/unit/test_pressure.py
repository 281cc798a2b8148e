"""Levels, delays and hints: pure decisions."""

from __future__ import annotations

import pytest

from raftlog_mp.config import PressureConfig
from raftlog_mp.errors import ConfigError
from raftlog_mp.pressure import (
    DELAY_SECONDS_MAX,
    HARD,
    NONE,
    RETRY_MS_MAX,
    RETRY_MS_MIN,
    SOFT,
    delay_seconds,
    drain_rate,
    next_level,
    retry_after_ms,
)

CONFIG = PressureConfig(soft=0.5, hard=0.8, hysteresis=0.1)


@pytest.mark.parametrize(
    ("level", "share", "after"),
    [
        (NONE, 0.0, NONE), (NONE, 0.499, NONE), (NONE, 0.5, SOFT), (NONE, 0.799, SOFT), (NONE, 0.8, HARD),
        (NONE, 5.0, HARD), (SOFT, 0.45, SOFT), (SOFT, 0.401, SOFT), (SOFT, 0.4, NONE), (SOFT, 0.75, SOFT),
        (SOFT, 0.8, HARD), (HARD, 0.75, HARD), (HARD, 0.701, HARD), (HARD, 0.7, SOFT), (HARD, 0.45, SOFT),
        (HARD, 0.4, NONE), (HARD, 0.0, NONE),
    ],
)  # fmt: skip
def test_levels_have_hysteresis(level: int, share: float, after: int) -> None:
    assert next_level(level, share, CONFIG) == after


def test_a_share_that_trembles_around_a_threshold_changes_the_level_once() -> None:
    level, changes = NONE, 0
    for step in range(1000):
        after = next_level(level, 0.5 + 0.02 * (-1) ** step, CONFIG)
        changes, level = changes + (after != level), after
    assert (level, changes) == (SOFT, 1)


def test_without_hysteresis_the_threshold_alone_decides() -> None:
    sharp = PressureConfig(soft=0.5, hard=0.8, hysteresis=0)
    assert [next_level(HARD, share, sharp) for share in (0.8, 0.799, 0.5, 0.499)] == [HARD, SOFT, SOFT, NONE]


def test_the_delay_grows_from_soft_to_hard() -> None:
    assert delay_seconds(NONE, 0.79, CONFIG) == 0.0
    delays = [delay_seconds(SOFT, 0.5 + 0.03 * step, CONFIG) for step in range(11)]
    assert delays[0] == 0.0 and delays == sorted(delays) and len(set(delays)) == 11
    assert delays[-1] == pytest.approx(DELAY_SECONDS_MAX)
    assert delay_seconds(SOFT, 0.45, CONFIG) == 0.0, "within the hysteresis nothing is delayed any more"
    assert delay_seconds(HARD, 0.72, CONFIG) == DELAY_SECONDS_MAX


def test_the_drain_rate_is_measured_and_smoothed() -> None:
    assert drain_rate(0.0, 1000, 0.5) == 2000
    assert drain_rate(2000.0, 0, 1.0) == pytest.approx(1400)
    assert drain_rate(2000.0, 500, 0.0) == 2000, "no time has passed: nothing was measured"
    rate = 100.0
    for _ in range(50):
        rate = drain_rate(rate, 5000, 1.0)
    assert rate == pytest.approx(5000, rel=1e-3)


@pytest.mark.parametrize(
    ("waiting", "rate", "hint"),
    [
        (1 << 20, float(1 << 20), 1000), (1 << 19, float(1 << 20), 500), (0, 1e6, RETRY_MS_MIN),
        (0, 0.0, RETRY_MS_MIN), (1, 0.0, RETRY_MS_MAX), (1 << 40, 1.0, RETRY_MS_MAX),
    ],
)  # fmt: skip
def test_the_hint_is_the_time_that_what_waits_will_take(waiting: int, rate: float, hint: int) -> None:
    assert retry_after_ms(waiting, rate) == hint


@pytest.mark.parametrize(
    ("field", "value"),
    [("hysteresis", -0.1), ("hysteresis", 0.6), ("root", "relative"), ("root", 5), ("sample_ms", 1), ("soft", 0)],
)
def test_bad_settings_are_named(field: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"pressure.{field}") as caught:
        PressureConfig(**{field: value})  # type: ignore[arg-type]  # wrong on purpose
    assert caught.value.field == f"pressure.{field}" and caught.value.value == value
