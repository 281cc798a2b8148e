"""What people look at: numbers with units, tables, progress bars.  rich is loaded only when one is drawn."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 120  # columns when nobody knows the width
UPDATE_BYTES = 1 << 18  # a bar moves after this many bytes, not with every line


def count(number: float) -> str:
    """``1234567`` as ``1,234,567``."""
    return f"{number:,.0f}"


def size(number: float) -> str:
    """Bytes with a binary unit: ``512 B``, ``64.0 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.0f} B" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1024
    return f"{number:.1f} TiB"


def rate(per_second: float) -> str:
    """Events a second: ``870/s``, ``12.8k/s``, ``1.25M/s``."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if per_second >= limit:
            return f"{per_second / limit:.3g}{unit}/s"
    return f"{per_second:.0f}/s"


def microseconds(number: float) -> str:
    """A latency: ``0.85 us``, ``31.2 us``, ``4.2 ms``."""
    if number >= 1000:
        return f"{number / 1000:.3g} ms"
    return f"{number:.3g} us"


def console(*, stderr: bool = False, width_min: int = 0) -> Console:
    """A console; wide enough for the tables when it is no terminal, or narrower than ``width_min`` columns."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    found = Console(file=stream, width=None if stream.isatty() else PIPE_WIDTH, highlight=False)
    found.width = max(found.width, width_min)
    return found


@contextlib.contextmanager
def byte_progress(what: str, total: int) -> Iterator[Callable[[Iterable[bytes]], Iterator[bytes]]]:
    """A bar over ``total`` bytes of input on stderr; the function it gives passes lines through and counts them."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns: tuple[Any, ...] = (
        TextColumn(what),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)

        def track(lines: Iterable[bytes]) -> Iterator[bytes]:
            seen = 0
            for line in lines:
                seen += len(line) + 1
                if seen >= UPDATE_BYTES:
                    progress.advance(task, seen)
                    seen = 0
                yield line

        yield track


@contextlib.contextmanager
def step_progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over ``total`` steps on stderr, only if that is a terminal; the function it gives names the next step."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns: tuple[Any, ...] = (
        TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
    )  # fmt: skip
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        def step(name: str) -> None:
            progress.update(task, advance=1, description=name)

        yield step
