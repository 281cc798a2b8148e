"""The tables of a bench run."""

from __future__ import annotations

import statistics
from typing import Any

from .. import screen
from .cases import BEST, GROUPS, RAW, Case, Target
from .limits import ENTRY_BYTES, LIMITS
from .result import Result, middle
from .stores import OURS, PEERS

PROTOTYPE = "the ratios that a 150-line prototype of this design reached on its machine"
MARKS = {True: "[green]reached[/]", False: "[yellow]below[/]", None: ""}
Columns = tuple[tuple[str, int, str], ...]  # title, width, justification
LIMIT_COLUMNS: Columns = (
    ("", 33, "left"), ("ours", 9, "right"), ("raw", 9, "right"), ("limit", 15, "left"), ("ratio", 7, "right"),
    ("min .. max", 13, "right"), ("syncs", 6, "right"), ("prototype", 12, "right"), ("", 7, "left"),
)  # fmt: skip
PEER_COLUMNS: Columns = (
    ("", 33, "left"), ("ours", 9, "right"), *((name, 10, "right") for name in PEERS), ("lmdb bare", 9, "right"),
    ("best", 10, "left"), ("ratio", 7, "right"), ("min .. max", 13, "right"),
)  # fmt: skip
TARGET_COLUMNS: Columns = (
    ("", 46, "left"), ("against", 16, "left"), ("target", 12, "right"), ("found", 9, "right"),
    ("min .. max", 20, "right"), ("", 7, "left"),
)  # fmt: skip
FLUSH_COLUMNS: Columns = (
    ("", 33, "left"), ("ours", 9, "right"), *((name, 10, "right") for name in PEERS),
)  # fmt: skip
# Wider than some terminals, but a cut figure is no figure.
WIDTH = max(sum(width + 2 for _, width, _ in table) for table in (LIMIT_COLUMNS, PEER_COLUMNS, TARGET_COLUMNS))


def show(result: Result) -> None:
    """Print the tables and what their words mean."""
    out, plan, facts = screen.console(width_min=WIDTH), result.plan, result.machine
    rough = "; small run: rough figures, logs a hundredth of their size, at most 4 clients" if plan.small else ""
    out.print(f"{facts['command']}\n{facts['cpu']}, {facts['cores']} cores, Linux {facts['kernel']}, {facts['python']}")
    out.print(
        f"{plan.rounds} rounds of {plan.seconds:g} s, {ENTRY_BYTES}-byte entries, on {facts['filesystem']}{rough}\n"
    )
    out.print(_table(result, "beside the raw limits", LIMIT_COLUMNS, plan.cases, limit_row))
    out.print()
    compared = [case for case in plan.cases if plan.peers_of(case)]
    if compared:
        out.print(_table(result, "beside the peers", PEER_COLUMNS, compared, peer_row))
        out.print()
    counted = [case for case in plan.cases if OURS in result.fsyncs.get(case.name, ())]
    flushed = [case for case in counted if case.strategy == "disk_first"]
    if flushed:
        out.print(_table(result, "device flushes an append", FLUSH_COLUMNS, flushed, flush_row))
        out.print()
    if result.targets():
        out.print(_targets(result))
        out.print()
    _words(out, result)


def _table(result: Result, title: str, columns: Columns, cases: list[Case], row: Any) -> Any:
    table = _grid(title, columns)
    group = ""
    for case in cases:
        if case.group != group:
            group = case.group
            table.add_row(f"[bold]{GROUPS[group]}[/]")
        table.add_row(*row(result, case))
    return table


def _grid(title: str, columns: Columns) -> Any:
    from rich.table import Table

    table = Table.grid(padding=(0, 2, 0, 0))
    for _, width, justify in columns:
        table.add_column(width=width, justify=justify, no_wrap=True)  # type: ignore[arg-type]  # a plain str
    table.add_row(*(f"[bold]{name}[/]" for name in (title, *(name for name, _, _ in columns[1:]))))
    return table


def limit_row(result: Result, case: Case) -> tuple[str, ...]:
    """The cells of one case beside its limit."""
    ratios = result.ratios(case)
    ratio, syncs = middle(ratios), middle(result.fsyncs.get(case.name, {}).get("writer"))
    return (
        f"  {case.what}",
        value(case.unit, result.median(case)),
        value(case.unit, result.median(case, RAW)),
        LIMITS[case.limit].label,
        "" if ratio is None else f"{number(ratio)} x",
        spread(ratios),
        "" if syncs is None else number(syncs),
        "" if case.prototype is None else " .. ".join(dict.fromkeys(map(number, case.prototype))),
        MARKS[None if ratio is None else case.reached(ratio)],
    )


def peer_row(result: Result, case: Case) -> tuple[str, ...]:
    """The cells of one case beside the peers: their figures, and ours over the best."""
    best = result.best_peer(case)
    ratios = result.ratios(case, best) if best else []
    return (
        f"  {case.what}",
        value(case.unit, result.median(case)),
        *(value(case.unit, result.median(case, peer)) + ("" if PEERS[peer].equal or peer not in result.figures.get(
            case.name, ()) else "*") for peer in PEERS),
        value(case.unit, result.median(case, "lmdb bare")),
        best or "",
        f"{number(statistics.median(ratios))} x" if ratios else "",
        spread(ratios),
    )  # fmt: skip


def flush_row(result: Result, case: Case) -> tuple[str, ...]:
    """The cells of one case: how often the device was told to flush, for each append or batch."""
    counts = result.fsyncs[case.name]
    return f"  {case.what}", *(number(statistics.median(counts[s])) if s in counts else "" for s in (OURS, *PEERS))


def _targets(result: Result) -> Any:
    table = _grid("targets", TARGET_COLUMNS)
    for case, target, values in result.targets():
        found = statistics.median(values)
        against = {
            "fsyncs": "fsyncs an append", RAW: LIMITS[case.limit].label, "smallest": LIMITS["smallest"].label,
            BEST: f"best: {result.best_peer(case)}",
        }.get(target.against, target.against)  # fmt: skip
        name = f"{case.group}: {case.what}"
        spread_shown = f"{amount(case, target, min(values))} .. {amount(case, target, max(values))}"
        table.add_row(name, against, bound(case, target), amount(case, target, found), spread_shown,
                      MARKS[target.reached(found)])  # fmt: skip
    return table


def bound(case: Case, target: Target) -> str:
    """What is to be reached, with its direction."""
    return f"{'<=' if target.at_most else '>='} {amount(case, target, target.bound)}"


def amount(case: Case, target: Target, figure: float) -> str:
    """A figure, a count of fsyncs, or a ratio."""
    if not target.against:
        return value(case.unit, figure)
    return number(figure) if target.against == "fsyncs" else f"{number(figure)} x"


def _words(out: Any, result: Result) -> None:
    """What the words in the tables mean."""
    plan = result.plan
    lines = [(LIMITS[name].label, LIMITS[name].what) for name in dict.fromkeys(case.limit for case in plan.cases)]
    lines += [
        (name, f"{result.machine['peers'][name]}: {peer.note}" if name in plan.peers
         else f"not installed: left out (pip install '.[bench]', or {peer.package})")
        for name, peer in PEERS.items()
    ]  # fmt: skip
    missing = [name for name in PEERS if name not in plan.peers]
    lines += [
        ("lmdb bare", "lmdb's own get, or cursor, inside one read transaction: keys and values, no entries made"),
        ("*", "does less than ours: see its note above"),
        ("ratio", "ours / other, median of the rounds; for latencies (us, ms) and bytes lower is better"),
        ("syncs", "fsyncs of the writer for each append (or batch)"),
        ("device flushes", "as the kernel counts them, whoever caused them: others on this machine, too"),
        ("prototype", PROTOTYPE),
    ]
    lines += [("missing", ", ".join(missing))] if missing else []
    counted, compared = screen.count(result.verified_entries), screen.count(result.verified_contents)
    problems = "no problem" if not result.problems else f"{len(result.problems)} PROBLEMS, named below"
    lines.append(("verified", f"{counted} entries counted, {compared} contents compared: {problems}"))
    for word, meaning in lines:
        out.print(f"{word:<15}  {meaning}", style="dim", soft_wrap=True, markup=False)


def value(unit: str, figure: float | None) -> str:
    """A figure with its unit."""
    if figure is None:
        return ""
    if unit == "bytes":
        return f"{figure:.3g} B"
    if unit == "us" and figure >= 1e6:
        return f"{figure / 1e6:.3g} s"
    return screen.microseconds(figure) if unit == "us" else screen.rate(figure)


def spread(ratios: list[float]) -> str:
    """The smallest and the largest."""
    return f"{number(min(ratios))} .. {number(max(ratios))}" if ratios else ""


def number(ratio: float) -> str:
    """A ratio: whole from 20 on, one decimal from 5 on, two below: enough to see on which side of a bound it lies."""
    return f"{ratio:.{0 if ratio >= 20 else 1 if ratio >= 5 else 2}f}"


