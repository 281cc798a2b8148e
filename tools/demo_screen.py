"""What the demo shows: a live bar while it runs, then a table."""

from __future__ import annotations

import math
import time

from demo_check import Figures
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table


class Screen:
    """A live bar on a terminal; elsewhere one line a step."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.live = self.console.is_terminal
        self._progress = Progress(
            TextColumn("{task.description}", style="bold"), BarColumn(30), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), console=self.console, transient=True, disable=not self.live,
        )  # fmt: skip
        self._task = self._progress.add_task("setting up", total=None, note="")
        self._before = (time.monotonic(), 0)

    def __enter__(self) -> Screen:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def step(self, text: str) -> None:
        """Something happened: a line that stays."""
        self.console.print(text, soft_wrap=True, markup=False)

    def phase(self, name: str, total: float | None = None) -> None:
        """A new phase of the bar, ``total`` seconds long."""
        self._progress.reset(self._task, total=total, description=name, note="")

    def load(self, seconds: float, entries: int) -> None:
        """Move the bar: seconds of load so far, entries in the log."""
        moment, before = self._before
        now = time.monotonic()
        if now - moment >= 0.5:
            self._before = (now, entries)
            self._progress.update(self._task, note=f"{entries:,} entries  {(entries - before) / (now - moment):,.0f}/s")
        self._progress.update(self._task, completed=seconds)


def milliseconds(value: float) -> str:
    """A time for people."""
    return "-" if math.isnan(value) else f"{value:,.1f} ms"


def table(figures: Figures, rows: list[tuple[str, str]]) -> Table:
    """The figures of the clients, then those of the log."""
    found = Table(show_header=False, title_justify="left")
    found.add_column(style="bold")
    found.add_column()
    found.add_row("requests", f"{figures.requests:,} in {figures.seconds:.1f} s")
    found.add_row("  acknowledged", f"{figures.acknowledged:,} ({figures.per_second:,.0f}/s)")
    found.add_row("  refused, not appended", f"{figures.refused:,}")
    found.add_row("  outcome unknown", f"{figures.unknown:,}")
    waits = (figures.p50_ms, figures.p99_ms, figures.max_ms)
    found.add_row("latency p50 / p99 / max", " / ".join(milliseconds(value) for value in waits))
    for name, value in rows:
        found.add_row(name, value)
    return found
