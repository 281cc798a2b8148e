"""When to fsync: pure decisions.  No clock, no file: numbers in, a number of seconds out."""

from __future__ import annotations

from .config import Adaptive, Batch, FlushPolicy, Immediate

NEVER = float("inf")


def seconds_until_flush(policy: FlushPolicy, unflushed_entries: int, oldest_age_s: float) -> float:
    """How long the flush may still wait: 0 = now, ``NEVER`` = nothing to flush.

    ``unflushed_entries`` are appended but not fsynced; ``oldest_age_s`` is how long the oldest has waited.
    """
    if unflushed_entries <= 0:
        return NEVER
    match policy:
        case Immediate():
            return 0.0
        case Batch(threshold, interval_ms):
            return 0.0 if unflushed_entries >= threshold else max(0.0, interval_ms / 1000 - oldest_age_s)
        case Adaptive():
            return 0.0  # no fixed timer: whether to wait is decided by what was measured, see adaptive.Gathering
