"""What is known about a soak at its end, and the verdict on it: a pure function, so that a test can doctor it."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, NamedTuple

from demo_check import quantile, shorten
from soak_check import ACKNOWLEDGED, Integrity, Record
from soak_plan import Plan

MIB = 1 << 20
RSS_SPARE_BYTES = 64 * MIB  # the writer may need this beside ring and index
BUCKETS_MAX = 240
LEVELS = ("none", "soft", "hard")


class Limits(NamedTuple):
    """What must hold."""

    ring_bytes: int
    max_buffered_bytes: int
    timeout_s: float  # of every call of a producer
    grace_s: float  # by which a call may exceed it: processes of a busy machine get their turn late
    recovered_share: float  # of the throughput before the pressure
    must_reach: str  # the level that the pressure has to reach: "hard", or "none" if nothing is promised


class Sample(NamedTuple):
    """The system at one moment; seconds from the start of the load."""

    t: float
    phase: str
    state: str  # of the writer
    level: str
    unflushed_bytes: int
    unflushed_entries: int
    index_bytes: int  # of the active index, which is shared memory as the ring is
    rss: dict[str, int]  # bytes, by process
    used_share: float | None  # of the memory limit, as the writer reads it
    fsync_ms: float  # what the disk takes longer
    last_index: int
    fsyncs: int  # of this writer, so far
    fsync_ms_total: float


class Event(NamedTuple):
    """Something that happened."""

    t: float
    kind: str  # kill, restart, stop, continue, level, phase
    target: str
    detail: str


class Stop(NamedTuple):
    """A process stood still."""

    target: str
    start_s: float
    end_s: float


class ReaderEnd(NamedTuple):
    """How far a reader came."""

    name: str
    last_index: int
    chain: int


@dataclass
class Run:
    """A soak, from its start to its end.  ``origin_s`` is the start of the load on CLOCK_MONOTONIC."""

    plan: Plan
    limits: Limits
    origin_s: float = 0.0
    samples: list[Sample] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    records: dict[str, list[Record]] = field(default_factory=dict)  # by producer; a restarted one goes on
    readers: list[ReaderEnd] = field(default_factory=list)
    integrity: Integrity | None = None
    failures: list[str] = field(default_factory=list)  # processes that failed by themselves, steps that took too long
    leaked: list[str] = field(default_factory=list)
    final_level: str = "none"  # a moment after the load
    series: Series | None = None

    def rss_bound(self, sample: Sample) -> int:
        """What the writer's resident memory must stay under."""
        return self.limits.ring_bytes + sample.index_bytes + RSS_SPARE_BYTES


class Series(NamedTuple):
    """Throughput and latency over time."""

    width_s: float
    t: list[float]  # start of each bucket
    acknowledged_per_s: list[float]  # entries
    p50_ms: list[float]
    p99_ms: list[float]


def series_of(run: Run, names: Sequence[str] | None = None) -> Series:
    """All producers' acknowledgements, or those of some, in buckets of time."""
    width = max(0.25, run.plan.seconds / BUCKETS_MAX)
    count = max(1, int(run.plan.seconds / width + 0.5))
    entries, waits = [0] * count, [list[float]() for _ in range(count)]
    for name, records in run.records.items():
        for record in records if names is None or name in names else ():
            place = int((record.done_s - run.origin_s) / width)
            if record.outcome == ACKNOWLEDGED and 0 <= place < count:
                entries[place] += record.count
                waits[place].append((record.done_s - record.sent_s) * 1000)
    for bucket in waits:
        bucket.sort()
    return Series(
        width, [place * width for place in range(count)], [number / width for number in entries],
        [quantile(bucket, 0.50) for bucket in waits], [quantile(bucket, 0.99) for bucket in waits],
    )  # fmt: skip


def throughput(series: Series, span: tuple[float, float], statistic: Any = median) -> float:
    """Entries a second, the median (or mean) of the buckets that lie inside the span; 0 without one."""
    start, end = span
    first = bisect_left(series.t, start)
    inside = [rate for t, rate in zip(series.t[first:], series.acknowledged_per_s[first:], strict=True)
              if t + series.width_s <= end + 1e-6]  # fmt: skip
    return float(statistic(inside)) if inside else 0.0


def problems(run: Run) -> list[str]:
    """Everything that is wrong; an empty list is a PASS."""
    return [
        *run.failures, *check_memory(run), *check_waits(run), *check_integrity(run), *check_recovery(run),
        *check_pressure(run), *(f"a process was left behind: {what}" for what in run.leaked),
    ]  # fmt: skip


def check_memory(run: Run) -> list[str]:
    """Bounds hold: the writer's resident memory, and what it has not flushed."""
    found = []
    over = [s for s in run.samples if s.rss.get("writer", 0) > run.rss_bound(s)]
    if over:
        worst = max(over, key=lambda s: s.rss["writer"] - run.rss_bound(s))
        found.append(
            f"the writer's RSS was {worst.rss['writer'] / MIB:.1f} MiB at {worst.t:.1f} s, over its bound of "
            f"{run.rss_bound(worst) / MIB:.1f} MiB (ring + index + {RSS_SPARE_BYTES // MIB} MiB)"
        )
    most = max(run.samples, key=lambda s: s.unflushed_bytes, default=None)
    if most is not None and most.unflushed_bytes > run.limits.max_buffered_bytes:
        found.append(
            f"{most.unflushed_bytes:,} bytes were unflushed at {most.t:.1f} s, over max_buffered_bytes = "
            f"{run.limits.max_buffered_bytes:,}"
        )
    if not any(s.rss.get("writer") for s in run.samples):
        found.append("the writer was never seen alive: nothing is proved about its memory")
    return found


def check_waits(run: Run) -> list[str]:
    """No producer waited longer than its timeout; the time during which it stood still itself does not count."""
    found = []
    for name, records in run.records.items():
        stops = [stop for stop in run.stops if stop.target == name]
        for record in records:
            stood = sum(max(0.0, min(stop.end_s, record.done_s) - max(stop.start_s, record.sent_s)) for stop in stops)
            if record.overrun_s > run.limits.grace_s + stood:
                found.append(
                    f"{name} waited {record.overrun_s:.2f} s longer than it was told to, at "
                    f"{record.sent_s - run.origin_s:.1f} s (payload {record.sequence})"
                )
    return shorten(found)


def check_integrity(run: Run) -> list[str]:
    """Nothing acknowledged is lost, nothing is there twice; every reader saw the whole log in order."""
    if run.integrity is None:
        return ["the log was not compared with what was acknowledged"]
    found = list(run.integrity.problems)
    if not run.integrity.acknowledged:
        found.append("nothing was acknowledged: nothing is proved")
    for reader in run.readers:
        if (reader.last_index, reader.chain) != (run.integrity.last_index, run.integrity.chain):
            found.append(
                f"{reader.name} saw other bytes than the log holds, or not all of them: it ended at index "
                f"{reader.last_index} of {run.integrity.last_index}"
            )
    if len(run.readers) != run.plan.readers:
        found.append(f"{len(run.readers)} of {run.plan.readers} readers came to the end")
    return found


def check_recovery(run: Run) -> list[str]:
    """Throughput after the pressure is back to a share of the one before."""
    series = run.series or series_of(run)
    before, after = throughput(series, run.plan.before), throughput(series, run.plan.after)
    if not before:
        return ["nothing was acknowledged before the pressure: there is nothing to recover to"]
    if after < run.limits.recovered_share * before:
        return [f"throughput did not recover: {after:,.0f} entries/s after the pressure, {before:,.0f} before it "
                f"({after / before:.0%}, not {run.limits.recovered_share:.0%})"]  # fmt: skip
    return []


def check_pressure(run: Run) -> list[str]:
    """The pressure was there, and the level follows it in both directions."""
    found = []
    reached = max((LEVELS.index(sample.level) for sample in run.samples if sample.level in LEVELS), default=0)
    if reached < LEVELS.index(run.limits.must_reach):
        found.append(f"the level never rose above {LEVELS[reached]!r}, though {run.limits.must_reach!r} was injected")
    if run.limits.must_reach != "none" and run.final_level != "none":
        found.append(f"the level is still {run.final_level!r} after the pressure is gone")
    return found


def figures_of(run: Run) -> dict[str, Any]:
    """The numbers of the report.  None where there is nothing to measure."""
    series = run.series or series_of(run)
    records = [record for found in run.records.values() for record in found]
    phases = {phase.name: (phase.start_s, phase.end_s) for phase in run.plan.phases}
    before, after = throughput(series, run.plan.before), throughput(series, run.plan.after)
    integrity = run.integrity or Integrity([], 0, 0, 0, 0, 0, 0)
    spare = [run.rss_bound(s) - s.rss["writer"] for s in run.samples if s.rss.get("writer")]
    return {
        "entries": integrity.entries, "acknowledged": integrity.acknowledged, "refused": integrity.refused,
        "unknown": integrity.unknown, "throughput_before": round(before, 1), "throughput_after": round(after, 1),
        "recovered_share": round(after / before, 3) if before else None,
        "throughput_by_phase": {name: round(throughput(series, span), 1) for name, span in phases.items()},
        "latency_ms_by_phase": {name: latency(run, records, span) for name, span in phases.items()},
        "longest_wait_s": round(max((record.waited_s for record in records), default=0.0), 3),
        "longest_overrun_s": round(max((record.overrun_s for record in records), default=0.0), 3),
        "writer_rss_bytes_max": max((s.rss.get("writer", 0) for s in run.samples), default=0),
        "writer_rss_spare_bytes_min": min(spare) if spare else None,
        "unflushed_bytes_max": max((s.unflushed_bytes for s in run.samples), default=0),
        "level_changes": sum(event.kind == "level" for event in run.events),
        "seconds_at_level": seconds_at_level(run),
        "kills": sum(event.kind == "kill" for event in run.events),
        "stops": sum(event.kind == "stop" for event in run.events),
    }  # fmt: skip


def latency(run: Run, records: Sequence[Record], span: tuple[float, float]) -> dict[str, float | None]:
    """Milliseconds from submission to answer, of what was answered in the span."""
    start, end = run.origin_s + span[0], run.origin_s + span[1]
    answered = [r for r in records if r.outcome == ACKNOWLEDGED and start <= r.done_s < end]
    waits = sorted((r.done_s - r.sent_s) * 1000 for r in answered)
    return {name: round(quantile(waits, share), 3) if waits else None for name, share in (("p50", 0.5), ("p99", 0.99))}


def seconds_at_level(run: Run) -> dict[str, float]:
    """How long each level stood, as far as the samples tell."""
    found = dict.fromkeys(LEVELS, 0.0)
    for sample, following in zip(run.samples, run.samples[1:], strict=False):
        found[sample.level] = found.get(sample.level, 0.0) + following.t - sample.t
    return {level: round(seconds, 2) for level, seconds in found.items()}
