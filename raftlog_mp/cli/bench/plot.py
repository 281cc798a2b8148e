"""The picture of a bench run: rates beside the raw limit, and how latencies are distributed."""

from __future__ import annotations

import math
import os
from itertools import groupby
from typing import Any

import click

from .. import screen
from .cases import RAW, Case
from .limits import ENTRY_BYTES, LIMITS
from .result import Plan, Result, middles
from .stores import OURS, PEERS

# Colours that also the colour-blind can tell apart (Okabe and Ito); raw is a line, not a colour.
COLOURS = {
    OURS: "#0072B2", "lmdb": "#E69F00", "sqlite3": "#009E73", "rocksdict": "#CC79A7", "pysyncobj": "#999999",
    "lmdb bare": "#F0C77D", RAW: "#000000",
}  # fmt: skip
SUBJECTS = (OURS, *PEERS, "lmdb bare")
BAR_INCHES, GAP_BARS = 0.16, 1.2  # height of a bar; space between cases, in bars
WIDTH_INCHES, CURVE_INCHES = 16.0, 5.4
# Those whose single latencies were timed; anything else would show averages.
LATENCIES = {"durable_1": "durable append, one at a time, 1 client", "memory_1": "MemFirst append, one at a time",
             "follow": "from append to follower, MemFirst"}  # fmt: skip


def check(plan: Plan, path: str) -> None:
    """A usage error now rather than after minutes, if the picture cannot be drawn."""
    if not any(case.unit == "rate" or case.name in LATENCIES for case in plan.cases):
        raise click.UsageError(f"--plot draws rates and latencies, and {','.join(plan.groups)} measures none of these")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise click.UsageError(f"--plot {path}: there is no such folder")
    try:
        from matplotlib.backend_bases import FigureCanvasBase
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'raftlog_mp[bench]'") from None
    kinds = FigureCanvasBase.get_supported_filetypes()
    if path.rpartition(".")[2] not in kinds:
        raise click.UsageError(f"--plot {path}: give a name that ends in one of {', '.join(f'.{k}' for k in kinds)}")


def draw(result: Result, path: str) -> None:
    """Write the picture; the kind of file follows from its name."""
    from matplotlib.figure import Figure

    cases = [case for case in result.plan.cases if case.unit == "rate" and result.rounds_of(case, OURS)]
    curves = [case for case in result.plan.cases if case.name in LATENCIES and case.name in result.percentiles]
    columns = _columns(result, cases)
    heights = [max(_bars(result, column) for column in columns) * BAR_INCHES + 1.6] if columns else []
    heights += [CURVE_INCHES] if curves else []
    figure = Figure(figsize=(WIDTH_INCHES, sum(heights) + 0.6), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if columns:
        top, places = parts[0], parts[0].subplots(1, len(columns), squeeze=False)[0]
        for place, column in zip(places, columns, strict=True):
            _rates(place, result, column)
        handles: dict[str, Any] = {}
        for place in places:
            handles |= {label: handle for handle, label in zip(*place.get_legend_handles_labels(), strict=True)}
        top.legend(handles.values(), handles.keys(), loc="outside upper center", ncols=len(handles), fontsize=9)
    if curves:
        for place, case in zip(parts[-1].subplots(1, len(curves), squeeze=False)[0], curves, strict=True):
            _latencies(place, result, case)
    facts, plan = result.machine, result.plan
    figure.suptitle(
        f"{facts['command']}\n{facts['cpu']}, {facts['cores']} cores, {facts['python']}, {facts['filesystem']}: "
        f"medians of {plan.rounds} rounds of {plan.seconds:g} s, {ENTRY_BYTES}-byte entries",
        fontsize=10,
    )
    figure.savefig(path, dpi=100)


def _bars(result: Result, cases: list[Case]) -> float:
    """The height of some cases, in bars."""
    return sum(len(subjects_of(result, case)) + GAP_BARS for case in cases)


def _columns(result: Result, cases: list[Case]) -> list[list[Case]]:
    """One column if there are few cases, else two of about the same height, split between groups."""
    groups = [list(some) for _, some in groupby(cases, lambda case: case.group)]
    if len(groups) < 2 or len(cases) < 8:
        return [cases] if cases else []
    halves = [(sum(groups[:at], []), sum(groups[at:], [])) for at in range(1, len(groups))]
    return list(min(halves, key=lambda pair: max(_bars(result, half) for half in pair)))


def subjects_of(result: Result, case: Case) -> list[str]:
    """Who has a bar, in the order of the bars."""
    return [subject for subject in SUBJECTS if result.rounds_of(case, subject)]


def _rates(axes: Any, result: Result, cases: list[Case]) -> None:
    """A group of bars for each case, and a line across it at its raw limit."""
    at, ticks, names, seen = 0.0, [], [], set()
    for case in cases:
        subjects, limit = subjects_of(result, case), result.median(case, RAW) or math.nan
        top = at - 0.5
        for subject in subjects:
            rounds = result.rounds_of(case, subject)
            middle = result.median(case, subject) or 0.0
            label = None if subject in seen else subject + ("" if subject not in PEERS or PEERS[subject].equal else
                                                            " (does not sync)")  # fmt: skip
            seen.add(subject)
            axes.barh(at, middle, height=0.92, color=COLOURS[subject], label=label,
                      xerr=[[middle - min(rounds)], [max(rounds) - middle]], error_kw={"elinewidth": 0.6})  # fmt: skip
            at += 1
        axes.plot([limit, limit], [top, at - 0.5], color=COLOURS[RAW], linewidth=2,
                  label=None if RAW in seen else "raw limit (named on the left)", zorder=3)  # fmt: skip
        seen.add(RAW)
        ticks.append((top + at - 0.5) / 2)
        group = "" if case.group in case.what else f"{case.group}: "
        names.append(f"{group}{case.what}\n| {LIMITS[case.limit].label}")
        at += GAP_BARS
    axes.set_yticks(ticks, names, fontsize=8.5)
    axes.set_ylim(at, -1)
    shown = [figure for case in cases for subject in (*subjects_of(result, case), RAW)
             for figure in result.rounds_of(case, subject)]  # fmt: skip
    axes.set_xscale("log")
    axes.set_xlim(min(shown) / 2, max(shown) * 1.5)
    axes.xaxis.set_major_formatter(lambda figure, _: screen.rate(figure))
    axes.xaxis.set_minor_formatter("")
    axes.set_xlabel("entries a second, log scale; whiskers: slowest and fastest round", fontsize=8)
    axes.grid(axis="x", which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("rates: longer is better", fontsize=10)


def _decades(axes: Any, values: list[float]) -> None:
    """A logarithmic axis over whole decades, so that at least two of its ticks have a name."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    axes.set_xscale("log")
    axes.set_xlim(10.0**low, 10.0 ** max(high, low + 1))
    axes.xaxis.set_minor_formatter("")


def _latencies(axes: Any, result: Result, case: Case) -> None:
    """For each subject, which share of its calls took at most so long."""
    for subject, rows in result.percentiles[case.name].items():
        curve = middles(rows) or []
        style = {"color": COLOURS[subject], "linewidth": 2.2 if subject == OURS else 1.4}
        if subject == RAW:
            style |= {"linestyle": "--"}
        name = f"raw: {LIMITS[case.limit].label}" if subject == RAW else subject
        label = f"{name}: " + " / ".join(screen.microseconds(curve[at]) for at in (49, 89, 98))
        axes.plot(curve, range(1, 100), label=label, **style)
        axes.plot([curve[49], curve[89], curve[98]], [50, 90, 99], "o", markersize=3.5, color=style["color"])
    _decades(axes, [at for line in axes.get_lines() for at in line.get_xdata()])
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 90, 99])
    axes.set_ylabel("% of calls", fontsize=8)
    axes.xaxis.set_major_formatter(lambda figure, _: screen.microseconds(figure))
    axes.set_xlabel("took at most so long, log scale", fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_title(f"{LATENCIES[case.name]}\nfurther left is better", fontsize=10)
    axes.legend(title="p50 / p90 / p99", fontsize=8, title_fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.14))
