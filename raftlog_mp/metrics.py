"""Counters and frontiers as one frozen value, for people, scripts and tests."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from . import format as fmt
from . import layout


@dataclass(frozen=True, slots=True)
class LogStats:
    """What :meth:`stats` returns.  Counters count from the start of the writer's generation."""

    path: str
    state: str  # starting, running, failed, stopped
    strategy: str
    flush_policy: str
    generation: int
    writer_pid: int  # 0 without a writer
    first_index: int
    last_index: int
    durable_index: int
    commit_index: int
    appends: int  # batches
    entries: int
    bytes: int  # of batch bodies
    fsyncs: int
    fsync_ms_mean: float
    unflushed_entries: int
    unflushed_bytes: int
    segments: int
    rolls: int
    marks: int
    clients: int
    readers: int
    dropped_peers: int
    pressure_level: str  # none, soft, hard
    pressure_changes: int
    memory_used_bytes: int  # of the limit that applies, without file pages that can be taken back
    memory_limit_bytes: int  # the smallest of the control groups' and the host's; 0: not known
    memory_stalled: float | None  # share of the last 10 s in which some task waited for memory; None: not told
    writer_rss_bytes: int
    lapped_reads: int  # of this handle: the ring had moved on, the segment served
    loss_possible: bool  # the last recovery could not rule out that a power cut took a suffix
    scrubbed_bytes: int  # of sealed segments, read again and checked
    scrub_passes: int  # through all of them
    scrub_damage: int  # damaged places found; they stay counted until the writer's next start
    damaged_file: str  # where the last of them is; "" if there is none
    damaged_offset: int  # byte in that file

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return dataclasses.asdict(self)


def stats_of(view: Any, path: str, *, lapped_reads: int = 0) -> LogStats:
    """The statistics that a view shows now (call it inside :meth:`Reader.steady`)."""
    words = view.control.snapshot()
    fsyncs = words["fsyncs"]
    return LogStats(
        path=path, state=layout.STATE_NAMES.get(words["state"], "unknown"), strategy=view.config.strategy.value,
        flush_policy=str(view.config.flush_policy), generation=words["generation"], writer_pid=words["writer_pid"],
        fsync_ms_mean=round(words["fsync_ns"] / fsyncs / 1e6, 4) if fsyncs else 0.0,
        pressure_level=layout.LEVEL_NAMES.get(words["pressure_level"], "none"),
        memory_used_bytes=words["memory_used"], memory_limit_bytes=words["memory_limit"],
        memory_stalled=(words["memory_stalled"] - 1) / 1e6 if words["memory_stalled"] else None,
        writer_rss_bytes=words["writer_rss"],
        # DiskFirst publishes after the fsync: for a moment the disk is ahead of what anybody may see.
        durable_index=min(words["durable_index"], words["last_index"]),
        lapped_reads=lapped_reads, loss_possible=bool(words["loss_possible"]),
        damaged_file=fmt.segment_name(words["damaged_segment"]) if words["scrub_damage"] else "",
        **{name: words[name] for name in (
            "first_index", "last_index", "commit_index", "appends", "entries", "bytes", "fsyncs",
            "unflushed_entries", "unflushed_bytes", "segments", "rolls", "marks", "clients", "readers", "dropped_peers",
            "scrubbed_bytes", "scrub_passes", "scrub_damage", "damaged_offset",
            "pressure_changes",
        )},
    )  # fmt: skip
