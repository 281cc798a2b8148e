"""The table of a bench run."""

from __future__ import annotations

import statistics

from .. import screen
from .cases import CASES, ENTRY_BYTES, LIMITS, Case
from .rounds import Result

TITLES = {"disk_first": "durable (DiskFirst)", "mem_first": "in memory (MemFirst, flushed in the background)"}
MARKS = {True: "[green]reached[/]", False: "[yellow]below[/]", None: ""}


def show(result: Result) -> None:
    """Print limits, cases, ratios and what they mean."""
    from rich import box
    from rich.table import Table

    out, plan = screen.console(), result.plan
    out.print(
        f"{plan.rounds} rounds of {plan.seconds:g} s, {ENTRY_BYTES}-byte entries, {result.filesystem or 'unknown'} file system"
        + (", small run: rough figures" if plan.small else "")
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "ours", "raw limit", "", "ratio", "min .. max", "prototype", ""):
        table.add_column(title, justify="left" if title == "" else "right", no_wrap=True)
    group = ""
    for case in CASES:
        if case.strategy != group:
            group = case.strategy
            table.add_row(f"[bold]{TITLES[group]}[/]")
        table.add_row(*row(result, case))
    out.print(table)
    out.print(
        "ratio = ours / raw limit, median of the rounds; latencies (us): lower is better.\n"
        "prototype = the ratios that a 150-line prototype of this design reached on its machine.\n"
        f"verified: {screen.count(result.verified_entries)} entries counted, {screen.count(result.verified_contents)} "
        f"contents compared, {len(result.problems)} problems",
        style="dim",
    )


def row(result: Result, case: Case) -> tuple[str, ...]:
    """The cells of one case."""
    ratios = result.ratios(case)
    ratio = statistics.median(ratios)
    raw = statistics.median(result.limits[case.name])
    limit = LIMITS[case.limit]
    low, high = case.prototype or (0.0, 0.0)
    reference = "" if case.prototype is None else number(low) if low == high else f"{number(low)} .. {number(high)}"
    return (
        f"  {case.what}", value(case.unit, statistics.median(result.ours[case.name])), value(limit.unit, raw), f"[dim]{limit.what}[/]",
        f"{number(ratio)} x", f"{number(min(ratios))} .. {number(max(ratios))}", reference, MARKS[case.reached(ratio)],
    )  # fmt: skip


def value(unit: str, figure: float) -> str:
    """A figure with its unit."""
    return screen.microseconds(figure) if unit == "us" else screen.rate(figure)


def number(ratio: float) -> str:
    """A ratio: two digits below 10, whole above."""
    return f"{ratio:.0f}" if ratio >= 10 else f"{ratio:.2g}" if ratio >= 1 else f"{ratio:.2f}"
