"""``stat``: the state of a log in numbers, for people and for scripts."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click

from .. import errors, log_reader, probe, wakeup
from ..metrics import LogStats
from . import options, outcome, screen

if TYPE_CHECKING:
    from rich.table import Table

Row = tuple[str, Callable[[LogStats], str], str]

# group -> rows of (name, value, meaning).  A name is the JSON key of its number, so that people and scripts agree.
GROUPS: dict[str, list[Row]] = {
    "writer": [
        ("state", lambda s: s.state, "running, stopped, crashed (the next writer recovers), or failed (the disk)"),
        ("writer_pid", lambda s: str(s.writer_pid) if s.writer_pid else "none", "process that owns the log"),
        ("generation", lambda s: screen.count(s.generation), "writers that have served this log"),
        ("strategy", lambda s: s.strategy, "what an append waits for"),
        ("flush_policy", lambda s: s.flush_policy, "when the writer fsyncs"),
    ],
    "entries": [
        ("first_index", lambda s: screen.count(s.first_index), "oldest entry that can be read"),
        ("last_index", lambda s: screen.count(s.last_index), "newest entry that readers see"),
        ("durable_index", lambda s: screen.count(s.durable_index), "fsynced up to here"),
        ("commit_index", lambda s: screen.count(s.commit_index) if s.commit_index else "unset", "Raft's commit index"),
        ("unflushed_entries", lambda s: screen.count(s.unflushed_entries), "appended, not yet fsynced"),
        ("unflushed_bytes", lambda s: screen.size(s.unflushed_bytes), "the same in bytes"),
    ],
    "since the writer started": [
        ("appends", lambda s: screen.count(s.appends), "batches"),
        ("entries", lambda s: screen.count(s.entries), "entries in them"),
        ("bytes", lambda s: screen.size(s.bytes), "payload in them"),
        ("fsyncs", lambda s: screen.count(s.fsyncs), "flushes of segment files"),
        ("fsync_ms_mean", lambda s: f"{s.fsync_ms_mean:.3f} ms", "mean time of one"),
        ("rolls", lambda s: screen.count(s.rolls), "segments begun"),
        ("marks", lambda s: screen.count(s.marks), "durable marks left when idle"),
        ("dropped_peers", lambda s: screen.count(s.dropped_peers), "clients dropped for sending nonsense"),
        ("scrubbed_bytes", lambda s: screen.size(s.scrubbed_bytes), "of sealed segments, read again and checked"),
        ("scrub_passes", lambda s: screen.count(s.scrub_passes), "times through all sealed segments"),
        ("scrub_damage", lambda s: screen.count(s.scrub_damage), "damaged places found by that"),
        ("damaged_file", lambda s: s.damaged_file or "none", "where the last of them is"),
        ("damaged_offset", lambda s: screen.count(s.damaged_offset), "byte in that file"),
    ],
    "now": [
        ("segments", lambda s: screen.count(s.segments), "segment files"),
        ("clients", lambda s: screen.count(s.clients), "connected handles that append"),
        ("readers", lambda s: screen.count(s.readers), "connected handles that only read"),
        ("pressure_level", lambda s: s.pressure_level, "memory pressure: none, soft, hard"),
        ("pressure_changes", lambda s: screen.count(s.pressure_changes), "changes of that level"),
        ("memory_used_bytes", lambda s: screen.size(s.memory_used_bytes), "of the limit that applies, as last seen"),
        ("memory_limit_bytes", lambda s: screen.size(s.memory_limit_bytes), "the smallest limit that applies"),
        ("memory_stalled", lambda s: stalled(s.memory_stalled), "time some task waited for memory, of the last 10 s"),
        ("writer_rss_bytes", lambda s: screen.size(s.writer_rss_bytes), "resident memory of the writer"),
        ("loss_possible", lambda s: "yes" if s.loss_possible else "no", "a power cut may have taken a suffix"),
    ],
}  # fmt: skip


def stalled(share: float | None) -> str:
    """A share of time; the kernel may not tell."""
    return "not told" if share is None else f"{100 * share:.1f} %"


@click.command()
@options.directory
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option(
    "--interval",
    type=click.FloatRange(0.05),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks of --watch.",
)
@options.as_json("Print one object; with --watch one a line.")
def stat(directory: str, watch: bool, interval: float, as_json: bool) -> int:
    """Show what state a log is in. Works without a writer; changes nothing."""
    with log_reader.open_reader(directory) as reader:
        try:
            if as_json:
                print_json(reader, interval if watch else None)
            elif watch:
                watch_table(reader, interval)
            else:
                screen.console().print(table(reader))
        except KeyboardInterrupt:
            pass  # the usual way to end --watch
    return outcome.FINE


def notices(stats: LogStats) -> list[str]:
    """What the numbers mean for whoever runs the log, if it needs attention: one sentence or two for each matter."""
    found = []
    if stats.state == "failed":
        stop = f", run `raftlog-mp stop {stats.path}`" if stats.writer_pid else ""
        found.append(
            "FAILED: writing or syncing a file failed. The log is read-only: appends raise SyncFailed, reads go on. "
            f"Check the disk{stop}, then start a writer again: it re-reads everything."
        )
        if stats.last_index > stats.durable_index:
            found.append(
                f"Entries {stats.durable_index + 1} to {stats.last_index} were acknowledged and are not durable: "
                "only the writer's shared memory holds them."
            )
    if stats.scrub_damage:
        found.append(
            f"DAMAGE: the scrubber found {stats.scrub_damage} damaged place{'s' if stats.scrub_damage > 1 else ''}, "
            f"the last in {stats.damaged_file} at offset {stats.damaged_offset}. Reads of it raise CorruptLog, "
            f"everything else is served. Run `raftlog-mp check {stats.path}`."
        )
    if stats.loss_possible:
        found.append("LOSS POSSIBLE: a power cut may have taken entries from the end that only memory held.")
    return found


def print_json(reader: log_reader.LogReader, interval: float | None) -> None:
    """The numbers as JSON, once or every ``interval`` seconds."""
    while True:
        stats = reader.stats()
        found: dict[str, Any] = stats.as_dict() | {
            "uuid": reader.uuid,
            "config": reader.config.as_dict(),
            "notices": notices(stats) + refusal(reader, stats),
            "mapped": {
                kind: {"bytes": size, "resident_bytes": resident}
                for kind, (size, resident) in probe.mapped_bytes(stats.writer_pid).items()
            }
            if stats.writer_pid
            else {},
        }
        click.echo(json.dumps(found))
        if interval is None:
            return
        wakeup.pause(interval)


def watch_table(reader: log_reader.LogReader, interval: float) -> None:
    """The numbers in two columns (they fit a small terminal), redrawn in place, with the rate of appends."""
    from rich.live import Live

    out, before = screen.console(), reader.stats()
    with Live(columns(before, None), console=out, auto_refresh=False) if out.is_terminal else nullcontext() as live:
        while True:
            wakeup.pause(interval)
            now = reader.stats()
            same = now.generation == before.generation and now.writer_pid
            drawn = columns(now, (now.entries - before.entries) / interval if same else None)
            live.update(drawn, refresh=True) if live is not None else out.print(drawn, "")
            before = now


def columns(stats: LogStats, entries_per_second: float | None) -> Table:
    """All groups side by side, without their meanings."""
    from rich.table import Table

    speed = screen.rate(entries_per_second) if entries_per_second is not None else "-"
    right = grid(stats, ("since the writer started", "now"), meanings=False)
    right.add_row("  entries/s", speed)
    both = Table.grid(padding=(0, 6, 0, 0))
    both.title, both.title_justify, both.title_style = stats.path, "left", "bold"
    both.add_row(grid(stats, ("writer", "entries"), meanings=False), right)
    return noticed(both, notices(stats))


def table(reader: log_reader.LogReader) -> Table:
    """The numbers, grouped, each with its meaning; what only a writer counts only if there is one."""
    stats, config = reader.stats(), reader.config
    names = [name for name in GROUPS if stats.writer_pid or name != "since the writer started"]
    drawn = grid(stats, names, meanings=True)
    drawn.title, drawn.title_justify, drawn.title_style = stats.path, "left", "bold"
    mapped = probe.mapped_bytes(stats.writer_pid) if stats.writer_pid else {}
    if mapped:
        drawn.add_row("")
        drawn.add_row("[bold]mapped by the writer[/]")
        for kind, (size, resident) in sorted(mapped.items()):
            drawn.add_row(f"  {kind}", screen.size(size), f"of which {screen.size(resident)} are resident")
    drawn.add_row("")
    drawn.add_row("[bold]settings[/]")
    drawn.add_row("  segment_bytes", screen.size(config.segment_bytes), "size of a segment file")
    drawn.add_row("  ring_bytes", screen.size(config.ring_bytes), "newest bytes, in shared memory")
    drawn.add_row("  lane_bytes", screen.size(config.lane_bytes), "submission queue of a client")
    drawn.add_row("  max_entry_bytes", screen.size(config.entry_bytes_limit), "largest entry")
    drawn.add_row("  scrub_bytes_per_s", screen.size(config.scrub_bytes_per_s), "the scrubber's rate")
    return noticed(drawn, notices(stats) + refusal(reader, stats))


def refusal(reader: log_reader.LogReader, stats: LogStats) -> list[str]:
    """Why no writer will open the log: one sentence, or none.  A live writer has recovered it."""
    try:
        if not stats.writer_pid:
            reader.get(stats.last_index + 1)
    except errors.CorruptLog as error:
        return [f"DAMAGE: {error}"]
    return []


def noticed(drawn: Table, found: list[str]) -> Table:
    """The table with what needs attention below it."""
    drawn.caption, drawn.caption_justify, drawn.caption_style = "\n".join(found) or None, "left", "bold red"
    return drawn


def grid(stats: LogStats, groups: Iterable[str], *, meanings: bool) -> Table:
    """Groups under each other: name, value, and what it means."""
    from rich.table import Table

    drawn = Table.grid(padding=(0, 2, 0, 0))
    drawn.add_column(no_wrap=True)
    drawn.add_column(justify="right", no_wrap=True)
    drawn.add_column(style="dim")
    for number, group in enumerate(groups):
        if number:
            drawn.add_row("")
        drawn.add_row(f"[bold]{group}[/]")
        for name, value, meaning in GROUPS[group]:
            drawn.add_row(f"  {name}", value(stats), meaning if meanings else "")
    return drawn
