"""What memory pressure means: pure decisions.  Numbers in, a level, a delay or a hint out; no clock, no file."""

from __future__ import annotations

from .config import PressureConfig

NONE, SOFT, HARD = 0, 1, 2  # as the control block says it; layout.LEVEL_NAMES has the words

DELAY_SECONDS_MAX = 0.05  # of an acknowledgement, where soft pressure is about to become hard
RETRY_MS_MIN, RETRY_MS_MAX = 1, 10_000
RATE_WEIGHT = 0.3  # of the newest measurement of the drain rate


def next_level(level: int, share: float, config: PressureConfig) -> int:
    """The level after a reading: ``share`` of the limit is used.

    A level is entered at its threshold and left ``hysteresis`` below it, so that a share that trembles around a
    threshold does not change the level with each reading.
    """
    if share >= config.hard or (level == HARD and share > config.hard - config.hysteresis):
        return HARD
    if share >= config.soft or (level >= SOFT and share > config.soft - config.hysteresis):
        return SOFT
    return NONE


def delay_seconds(level: int, share: float, config: PressureConfig) -> float:
    """How long acknowledgements are held back: nothing at ``soft``, DELAY_SECONDS_MAX at ``hard``, squared between.

    Senders that wait for their answers slow down with it, long before anything has to be refused.
    """
    if level == NONE:
        return 0.0
    if level == HARD:
        return DELAY_SECONDS_MAX
    way = min(max((share - config.soft) / (config.hard - config.soft), 0.0), 1.0)
    return DELAY_SECONDS_MAX * way * way


def drain_rate(before: float, flushed_bytes: int, seconds: float) -> float:
    """Bytes a second that reach the disk, smoothed; ``before`` is the last value, 0 for none."""
    if seconds <= 0:
        return before
    rate = flushed_bytes / seconds
    return rate if before <= 0 else before + RATE_WEIGHT * (rate - before)


def retry_after_ms(waiting_bytes: int, bytes_per_second: float) -> int:
    """When trying again is worth it: what waits, at the rate at which the disk has taken bytes of late."""
    if bytes_per_second <= 0:
        return RETRY_MS_MAX if waiting_bytes else RETRY_MS_MIN
    return round(min(max(1000 * waiting_bytes / bytes_per_second, RETRY_MS_MIN), RETRY_MS_MAX))
