"""The table of a bench run."""

from __future__ import annotations

import statistics

from .. import screen
from .cases import CASES, ENTRY_BYTES, LIMITS, Case
from .rounds import Result, limit_in

PROTOTYPE = "the ratios that a 150-line prototype of this design reached on its machine"
TITLES = {"disk_first": "durable (DiskFirst)", "mem_first": "in memory (MemFirst)", "get": "reads"}
MARKS = {True: "[green]reached[/]", False: "[yellow]below[/]", None: ""}
COLUMNS = (  # title, width, justification
    ("", 30, "left"), ("ours", 9, "right"), ("raw", 9, "right"), ("limit", 14, "left"), ("ratio", 7, "right"),
    ("min .. max", 12, "right"), ("prototype", 12, "right"), ("", 7, "left"),
)  # fmt: skip
WIDTH = sum(width + 2 for _, width, _ in COLUMNS)  # wider than some terminals, but a cut figure is no figure


def show(result: Result) -> None:
    """Print the table and what its words mean."""
    from rich.table import Table

    out, plan = screen.console(width_min=WIDTH), result.plan
    rough = "; small run: rough figures" if plan.small else ""
    place = result.filesystem or "an unknown file system"
    out.print(f"{plan.rounds} rounds of {plan.seconds:g} s, {ENTRY_BYTES}-byte entries, on {place}{rough}\n")
    table = Table.grid(padding=(0, 2, 0, 0))
    for _, width, justify in COLUMNS:
        table.add_column(width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a plain str in COLUMNS
    table.add_row(*(f"[bold]{title}[/]" for title, _, _ in COLUMNS))
    group = ""
    for case in sorted(CASES, key=lambda case: list(TITLES).index(group_of(case))):
        if group_of(case) != group:
            group = group_of(case)
            table.add_row(f"[bold]{TITLES[group]}[/]")
        table.add_row(*row(result, case))
    out.print(table)
    out.print()
    for limit in LIMITS.values():
        out.print(f"{limit.label:<14}  {limit.what}", style="dim")
    counted, compared = screen.count(result.verified_entries), screen.count(result.verified_contents)
    out.print(
        f"{'ratio':<14}  ours / raw, median of the rounds; for latencies (us) lower is better", style="dim"
    )
    out.print(f"{'prototype':<14}  {PROTOTYPE}", style="dim")
    problems = "no problem" if not result.problems else f"{len(result.problems)} PROBLEMS, named below"
    out.print(
        f"{'verified':<14}  {counted} entries counted, {compared} contents compared: {problems}", style="dim"
    )


def group_of(case: Case) -> str:
    """Under which title a case stands."""
    return "get" if case.kind == "get" else case.strategy


def row(result: Result, case: Case) -> tuple[str, ...]:
    """The cells of one case."""
    ratios = result.ratios(case)
    ratio = statistics.median(ratios)
    reference = "" if case.prototype is None else " .. ".join(dict.fromkeys(map(number, case.prototype)))
    return (
        f"  {case.what}",
        value(case.unit, statistics.median(result.ours[case.name])),
        value(case.unit, statistics.median(limit_in(case, raw) for raw in result.limits[case.name])),
        LIMITS[case.limit].label,
        f"{number(ratio)} x",
        f"{number(min(ratios))} .. {number(max(ratios))}",
        reference,
        MARKS[case.reached(ratio)],
    )


def value(unit: str, figure: float) -> str:
    """A figure with its unit."""
    return screen.microseconds(figure) if unit == "us" else screen.rate(figure)


def number(ratio: float) -> str:
    """A ratio: whole from 20 on, one decimal from 5 on, two below: enough to see on which side of a bound it lies."""
    return f"{ratio:.{0 if ratio >= 20 else 1 if ratio >= 5 else 2}f}"
