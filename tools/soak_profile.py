"""``--profile slow-disk``: flooding producers against a slow disk, beside a polite client.

Four phases: the polite client *alone* with the slow disk; everybody with the disk as it is (*fast*); everybody with
the slow disk (*slow*); everybody with the disk as it is again (*recovered*).
"""

from __future__ import annotations

from bisect import bisect_left
from statistics import fmean
from typing import Any, NamedTuple

from soak_plan import Phase, Plan, ProducerSpec
from soak_verdict import MIB, RSS_SPARE_BYTES, Run, Sample, Series, latency, series_of, throughput

POLITE = "producer-polite"
POLITE_RATE = 10.0  # entries a second, one at a time
ENDS = {"alone": 0.25, "fast": 0.45, "slow": 0.80, "recovered": 1.0}
FLOOD_BATCH, FLOOD_WINDOW = 16, 256
EDGE_SECONDS = 0.75  # at the beginning of a phase: the change itself is no measure of the phase
THROUGHPUT_SHARE, BACK_SHARE, BACK_SECONDS, POLITE_FACTOR = 0.80, 0.90, 1.0, 3.0
RECORD_BYTES, ENTRY_BYTES = 88, 5  # around a batch, around an entry of it


class Row(NamedTuple):
    """One line of the profile."""

    what: str
    found: str
    wanted: str
    held: bool | None  # None: not judged, and ``wanted`` says why


def make_plan(*, seconds: float, producers: int, readers: int, fsync_ms: float, payload_bytes: int) -> Plan:
    """The plan of the profile: no kills, no stops, no memory pressure."""
    phases, start = [], 0.0
    for name, share in ENDS.items():
        phases.append(Phase(name, start, seconds * share))
        start = seconds * share
    alone, fast, slow, recovered = phases
    flooders = tuple(
        ProducerSpec(f"producer-{number}", 0.0, fast.start_s, FLOOD_BATCH, FLOOD_WINDOW, payload_bytes)
        for number in range(1, producers + 1)
    )
    return Plan(
        seconds=seconds, phases=tuple(phases), pressure=(), fsync_ms=fsync_ms, actions=(), readers=readers,
        slow=((alone.start_s, alone.end_s), (slow.start_s, slow.end_s)),
        producers=(*flooders, ProducerSpec(POLITE, POLITE_RATE, 0.0, 1, 1, payload_bytes)),
        before=(fast.start_s + EDGE_SECONDS, fast.end_s), after=(recovered.start_s + BACK_SECONDS, seconds),
    )  # fmt: skip


def rows_of(run: Run, strategy: str) -> list[Row]:
    """The profile's lines: what was found beside what is wanted."""
    phases = {phase.name: phase for phase in run.plan.phases}
    flooders = [spec.name for spec in run.plan.producers if spec.name != POLITE]
    series = series_of(run, flooders)
    slow = phases["slow"]
    inside = [s for s in run.samples if slow.start_s + EDGE_SECONDS <= s.t < slow.end_s]
    return [
        memory_row(run), wait_row(run), throughput_row(run, series, strategy, inside),
        polite_row(run, phases, strategy), back_row(run, series, phases["recovered"].start_s),
    ]  # fmt: skip


def memory_row(run: Run) -> Row:
    """The writer's resident memory."""
    highest = max((s.rss.get("writer", 0) for s in run.samples), default=0)
    bound = run.limits.ring_bytes + RSS_SPARE_BYTES  # stricter than the verdict's: without the index
    return Row("writer RSS, highest", f"{highest / MIB:.1f} MiB", f"under ring + 64 MiB = {bound / MIB:.0f} MiB",
               highest < bound)  # fmt: skip


def wait_row(run: Run) -> Row:
    """The longest wait of a producer."""
    records = [record for found in run.records.values() for record in found]
    wait, overrun = (max((getattr(r, name) for r in records), default=0.0) for name in ("waited_s", "overrun_s"))
    return Row("longest call of a producer", f"{wait:.2f} s", f"timeout {run.limits.timeout_s:g} s",
               overrun <= run.limits.grace_s)  # fmt: skip


def throughput_row(run: Run, series: Series, strategy: str, inside: list[Sample]) -> Row:
    """Acknowledged throughput against what the slow disk, or the producers, can do.

    DiskFirst hands a whole ring to a sync and waits.  MemFirst fills the ring while a sync is under way, and only
    where that sync does not lie: on average half of it goes with each.
    """
    slow = next(phase for phase in run.plan.phases if phase.name == "slow")
    # Means: where seconds of waiting and of full speed take turns, a median is one or the other.
    found = throughput(series, (slow.start_s + EDGE_SECONDS, slow.end_s), fmean)
    fast = throughput(series, run.plan.before, fmean)
    what = "acknowledged throughput, slow disk"
    if len(inside) < 2 or inside[-1].fsyncs <= inside[0].fsyncs:
        return Row(what, f"{found:,.0f} entries/s", "not judged: no sync was seen", None)
    sync_s = (inside[-1].fsync_ms_total - inside[0].fsync_ms_total) / (inside[-1].fsyncs - inside[0].fsyncs) / 1000
    entry_bytes = run.plan.producers[0].payload_bytes + ENTRY_BYTES + RECORD_BYTES / FLOOD_BATCH
    share = 1.0 if strategy == "disk_first" else 0.5
    ring_bound = share * run.limits.max_buffered_bytes / sync_s / entry_bytes
    can_take = min(fast, ring_bound)
    why = "the producers' most" if fast < ring_bound else f"{share:g} x ring / {sync_s * 1000:.1f} ms a sync"
    wanted = f"at least {THROUGHPUT_SHARE:.0%} of {can_take:,.0f} ({why})"
    reached = f" ({found / can_take:.0%})" if can_take else ""
    return Row(what, f"{found:,.0f} entries/s{reached}", wanted, found >= THROUGHPUT_SHARE * can_take > 0)


def polite_row(run: Run, phases: dict[str, Phase], strategy: str) -> Row:
    """The polite client among the flooding ones against itself alone."""
    records = run.records[POLITE]
    alone, slow = phases["alone"], phases["slow"]
    before = latency(run, records, (alone.start_s + EDGE_SECONDS, alone.end_s))["p99"]
    loaded = latency(run, records, (slow.start_s + EDGE_SECONDS, slow.end_s))["p99"]
    what = "p99 of the polite client"
    if before is None or loaded is None:
        return Row(what, "-", "not judged: it got no answers", None)
    found = f"{loaded:.1f} ms, alone {before:.1f} ms ({loaded / before:.1f} x)"
    if strategy != "mem_first":
        return Row(what, found, "not judged: promised for MemFirst only", None)
    return Row(what, found, f"under {POLITE_FACTOR:g} x", loaded < POLITE_FACTOR * before)


def back_row(run: Run, series: Series, recovered_s: float) -> Row:
    """How long it takes until the throughput is back."""
    before = throughput(series, run.plan.before, fmean)
    first = bisect_left(series.t, recovered_s - 1e-6)
    back = next((t + series.width_s - recovered_s
                 for t, rate in zip(series.t[first:], series.acknowledged_per_s[first:], strict=True)
                 if rate >= BACK_SHARE * before), None)  # fmt: skip
    found = f"after {back:.2f} s" if back is not None else "not in this run"
    after = throughput(series, run.plan.after, fmean)
    return Row(f"throughput back to {BACK_SHARE:.0%}", f"{found} (then {after:,.0f}, before {before:,.0f} entries/s)",
               f"within {BACK_SECONDS:g} s",
               back is not None and back <= BACK_SECONDS + series.width_s)  # fmt: skip


def as_dicts(rows: list[Row]) -> list[dict[str, Any]]:
    """For the report."""
    return [row._asdict() for row in rows]
