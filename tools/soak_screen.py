"""What a soak shows while it runs: on a terminal a live table, elsewhere a line now and then."""

from __future__ import annotations

from collections import deque
from typing import Any

from demo_check import quantile
from demo_screen import milliseconds
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from soak_check import ACKNOWLEDGED, Record
from soak_verdict import MIB, Event, Run, Sample

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 60  # samples in a line of bars
EVENTS = 6
RECENT_SECONDS = 2.0  # what rates and latencies are taken from
LINE_SECONDS = 2.0  # between two lines where there is no terminal
STYLES = {"none": "green", "soft": "yellow", "hard": "bold red"}


class Screen:
    """A live table on a terminal, lines elsewhere.  ``quiet`` shows nothing but what :meth:`step` is told."""

    def __init__(self, *, stderr: bool = False) -> None:
        self.console = Console(stderr=stderr, highlight=False)
        self._live: Live | None = None
        self._rates: deque[float] = deque(maxlen=HISTORY)
        self._recent: deque[tuple[float, float, int]] = deque()  # answered at, waited ms, entries
        self._events: deque[Event] = deque(maxlen=EVENTS)
        self._line_at = 0.0

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def step(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, soft_wrap=True, markup=False)

    def event(self, event: Event) -> None:
        """Something happened."""
        self._events.append(event)
        if not self.console.is_terminal:
            self.step(f"{event.t:7.1f} s  {event.kind}: {event.target} {event.detail}".rstrip())

    def sample(self, run: Run, sample: Sample, fresh: list[Record]) -> None:
        """One sample, and what was answered since the last one."""
        rate, p50, p99 = self._figures(run, sample, fresh)
        if self.console.is_terminal:
            if self._live is None:
                self._live = Live(console=self.console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(self.table(run, sample, rate, p50, p99), refresh=True)
        elif sample.t >= self._line_at:
            self._line_at = sample.t + max(LINE_SECONDS, run.plan.seconds / 30)
            waits = f"p50 {milliseconds(p50)}  p99 {milliseconds(p99)}"
            self.step(
                f"{sample.t:7.1f} s  {sample.phase:<9} {rate:9,.0f}/s  {waits}  {sample.level}  "
                f"unflushed {sample.unflushed_bytes / MIB:.1f} MiB  "
                f"writer {sample.rss.get('writer', 0) / MIB:.0f} MiB"
            )

    def _figures(self, run: Run, sample: Sample, fresh: list[Record]) -> tuple[float, float, float]:
        now = run.origin_s + sample.t
        answered = [record for record in fresh if record.outcome == ACKNOWLEDGED]
        self._recent.extend((r.done_s, (r.done_s - r.sent_s) * 1000, r.count) for r in answered)
        while self._recent and self._recent[0][0] < now - RECENT_SECONDS:
            self._recent.popleft()
        waits = sorted(wait for _, wait, _ in self._recent)
        span = min(RECENT_SECONDS, sample.t) or 1.0
        rate = sum(count for _, _, count in self._recent) / span
        self._rates.append(sum(record.count for record in answered))
        return rate, quantile(waits, 0.50), quantile(waits, 0.99)

    def table(self, run: Run, sample: Sample, rate: float, p50: float, p99: float) -> Group:
        """The live view."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="bold", min_width=12)
        grid.add_column()
        done = Text(f"{sample.t:.0f} of {run.plan.seconds:.0f} s, {sample.phase}")
        if sample.fsync_ms:
            done.append(f", each fsync takes {sample.fsync_ms:.0f} ms longer", style="yellow")
        grid.add_row("soak", done)
        grid.add_row("level", level_text(run, sample))
        grid.add_row("throughput", Text(f"{rate:,.0f} entries/s  ").append(bars(self._rates), style="cyan"))
        grid.add_row("latency", f"p50 {milliseconds(p50)}   p99 {milliseconds(p99)}")
        limit = run.limits.max_buffered_bytes
        grid.add_row("unflushed", meter(sample.unflushed_bytes, limit))
        grid.add_row("writer RSS", meter(sample.rss.get("writer", 0), run.rss_bound(sample)))
        others = [f"{name} {rss / MIB:.0f}" for name, rss in sample.rss.items() if name != "writer"]
        grid.add_row("others, MiB", Text("  ".join(others)))
        events = Text("\n".join(f"{e.t:7.1f} s  {e.kind}: {e.target} {e.detail}".rstrip() for e in self._events))
        return Group(grid, Text(""), events)


def level_text(run: Run, sample: Sample) -> Text:
    """Level, what the writer reads, and how often the level has changed."""
    text = Text(sample.level, style=STYLES.get(sample.level, ""))
    if sample.used_share is not None:
        text.append(f"  {sample.used_share:.0%} of the memory limit is used", style="default")
    changes = sum(event.kind == "level" for event in run.events)
    return text.append(f"  ({changes} changes)", style="default")


def meter(value: int, limit: int, width: int = 30) -> Text:
    """A bar, full at the limit."""
    share = value / limit if limit else 0.0
    filled = min(width, round(share * width))
    style = "red" if share > 1 else "yellow" if share > 0.8 else "green"
    text = Text("█" * filled, style=style).append("·" * (width - filled), style="dim")
    return text.append(f"  {value / MIB:.1f} of {limit / MIB:.1f} MiB", style="default")


def bars(values: deque[float]) -> str:
    """The values as a line of bars."""
    top = max(values, default=0.0)
    return "".join(BARS[min(len(BARS) - 1, int(value / top * len(BARS)))] if top else BARS[0] for value in values)


def summary(figures: dict[str, Any]) -> Table:
    """The end: figures for people."""
    table = Table(show_header=False)
    table.add_column(style="bold")
    table.add_column()
    for name, value in rows_of(figures):
        table.add_row(name, value)
    return table


def rows_of(figures: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures as lines of text, for the screen and the page."""
    latency = figures["latency_ms_by_phase"]
    levels = ", ".join(f"{level} {seconds:.1f} s" for level, seconds in figures["seconds_at_level"].items())
    share, spare = figures["recovered_share"], figures["writer_rss_spare_bytes_min"]
    before, after = figures["throughput_before"], figures["throughput_after"]
    rows = [
        ("entries in the log", f"{figures['entries']:,}"),
        ("acknowledged / refused / unknown",
         f"{figures['acknowledged']:,} / {figures['refused']:,} / {figures['unknown']:,}"),
        ("throughput before, after", f"{before:,.0f}, {after:,.0f} entries/s"
                                     + (f" ({share:.0%})" if share is not None else "")),
        ("throughput by phase", ", ".join(f"{n} {v:,.0f}" for n, v in figures["throughput_by_phase"].items())),
    ]  # fmt: skip
    for quantile_name in ("p50", "p99"):
        values = [f"{phase} {'-' if v[quantile_name] is None else format(v[quantile_name], ',.1f')}"
                  for phase, v in latency.items()]  # fmt: skip
        rows.append((f"latency {quantile_name}, ms", ", ".join(values)))
    return [
        *rows,
        ("longest wait of a call", f"{figures['longest_wait_s']:.2f} s "
                                   f"({figures['longest_overrun_s']:+.2f} s against what it was told)"),
        ("writer RSS, highest", f"{figures['writer_rss_bytes_max'] / MIB:.1f} MiB"
                                + (f", {spare / MIB:.1f} MiB under its bound" if spare is not None else "")),
        ("unflushed, highest", f"{figures['unflushed_bytes_max'] / MIB:.2f} MiB"),
        ("levels", f"{figures['level_changes']} changes: {levels}"),
        ("kills / stops", f"{figures['kills']} / {figures['stops']}"),
    ]  # fmt: skip
