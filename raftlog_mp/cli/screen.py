"""What people look at: numbers with units, tables, progress bars.  rich is loaded only when one is drawn."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

PIPE_WIDTH = 120  # columns when nobody knows the width
LONG_BYTES, LONG_ENTRIES = 64 << 20, 100_000  # from here on a log is worth a progress bar
LATE_SECONDS = 1.0  # what is over sooner needs none
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


# ---------------------------------------------------------------- progress, on stderr
@contextlib.contextmanager
def _drawn(what: str, *columns: Any, total: float | None = None) -> Iterator[Callable[..., None]]:
    """A bar that is there for the length of the block; the function moves it, as ``Progress.update``."""
    from rich.progress import BarColumn, Progress, TextColumn

    with Progress(TextColumn(what), BarColumn(), *columns, console=console(stderr=True), transient=True) as progress:
        yield partial(progress.update, progress.add_task("", total=total))


def _size_columns() -> tuple[Any, ...]:
    from rich.progress import DownloadColumn, TimeRemainingColumn

    return DownloadColumn(binary_units=True), TimeRemainingColumn()


@contextlib.contextmanager
def long_progress(what: str, *, entries: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar over bytes (or ``entries``), if stderr is a terminal and there is much to do.

    The function it gives takes ``(done, total)``.  Nothing is loaded or drawn before its first call.
    """
    with contextlib.ExitStack() as stack:
        moved: list[Callable[..., None]] = []

        def progress(done: int, total: int) -> None:
            if total < (LONG_ENTRIES if entries else LONG_BYTES) or not sys.stderr.isatty():
                return
            if not moved:
                columns = _count_columns() if entries else _size_columns()
                moved.append(stack.enter_context(_drawn(what, *columns, total=total)))
            moved[0](completed=done, total=total)

        yield progress


def _count_columns() -> tuple[Any, ...]:
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    return MofNCompleteColumn(), TimeRemainingColumn()


@contextlib.contextmanager
def late_progress(what: str) -> Iterator[Callable[[int], None]]:
    """Bytes so far and the time, if stderr is a terminal and the block takes longer than ``LATE_SECONDS``.

    For work of which nobody knows beforehand how much it is.  The function it gives takes the bytes so far.
    """
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    began = time.monotonic()

    class Late(Progress):
        def get_renderables(self) -> Iterable[RenderableType]:
            return super().get_renderables() if time.monotonic() - began >= LATE_SECONDS else ()

    columns = (SpinnerColumn(), TextColumn(what), TextColumn("{task.description}"), TimeElapsedColumn())
    with Late(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=None)
        yield lambda done: progress.update(task, description=f"{size(done)} read")


@contextlib.contextmanager
def byte_progress(what: str, total: int) -> Iterator[Callable[[Iterable[bytes]], Iterator[bytes]]]:
    """A bar over ``total`` bytes of input; the function it gives passes lines through and counts them."""
    with _drawn(what, *_size_columns(), total=total) as move:

        def track(lines: Iterable[bytes]) -> Iterator[bytes]:
            seen = 0
            for line in lines:
                seen += len(line) + 1
                if seen >= UPDATE_BYTES:
                    move(advance=seen)
                    seen = 0
                yield line

        yield track


@contextlib.contextmanager
def step_progress(what: str, total: int) -> Iterator[Callable[[str], None]]:
    """A bar over ``total`` steps, only if stderr is a terminal; the function it gives names the next step."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.progress import MofNCompleteColumn, TextColumn, TimeElapsedColumn

    columns = (MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with _drawn(what, *columns, total=total) as move:
        yield lambda name: move(advance=1, description=name)
