"""The picture of a bench run: rates beside the raw limit, and how latencies are distributed."""

from __future__ import annotations

import math
from typing import Any

import click

from .cases import RAW, Case
from .limits import ENTRY_BYTES, LIMITS
from .result import Result, middles
from .stores import OURS, PEERS

# Colours that also the colour-blind can tell apart (Okabe and Ito); raw is a line, not a colour.
COLOURS = {
    OURS: "#0072B2", "lmdb": "#E69F00", "sqlite3": "#009E73", "rocksdict": "#CC79A7", "pysyncobj": "#999999",
    "lmdb bare": "#F0C77D", RAW: "#000000",
}  # fmt: skip
SUBJECTS = (OURS, *PEERS, "lmdb bare")
BAR_INCHES, GAP_BARS = 0.15, 1.0  # height of a bar; space between cases, in bars
# Those whose single latencies were timed; anything else would show averages.
LATENCIES = {"durable_1": "durable append, one at a time, 1 client", "memory_1": "MemFirst append, one at a time",
             "follow": "append until a follower has it"}  # fmt: skip


def check() -> None:
    """A usage error now rather than after minutes, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise click.ClickException("--plot needs matplotlib: pip install 'raftlog_mp[bench]'") from None


def draw(result: Result, path: str) -> None:
    """Write the picture; the kind of file follows from its name."""
    from matplotlib.figure import Figure

    cases = [case for case in result.plan.cases if case.unit == "rate" and result.rounds_of(case, OURS)]
    curves = [name for name in LATENCIES if name in result.percentiles]
    bars = sum(len(subjects_of(result, case)) + GAP_BARS for case in cases)
    columns = (1 if cases else 0) + (1 if curves else 0)
    height = max(1.6 + bars * BAR_INCHES, 1.2 + 3.0 * len(curves), 3.0)
    figure = Figure(figsize=(8.2 * columns if columns > 1 else 8.6, height), layout="constrained")
    if columns:
        parts = figure.subfigures(1, columns, width_ratios=[1.25, 1] if columns > 1 else None, squeeze=False)[0]
        if cases:
            _rates(parts[0].subplots(), result, cases)
        if curves:
            axes = parts[-1].subplots(len(curves), 1, squeeze=False)[:, 0]
            for place, name in zip(axes, curves, strict=True):
                _latencies(place, result, next(case for case in result.plan.cases if case.name == name))
    facts, plan = result.machine, result.plan
    figure.suptitle(
        f"{facts['command']}\n{facts['cpu']}, {facts['cores']} cores, {facts['python']}, {facts['filesystem']}: "
        f"medians of {plan.rounds} rounds of {plan.seconds:g} s, {ENTRY_BYTES}-byte entries",
        fontsize=9,
    )
    figure.savefig(path, dpi=110)


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
            axes.barh(at, middle, height=0.9, color=COLOURS[subject], label=label,
                      xerr=[[middle - min(rounds)], [max(rounds) - middle]], error_kw={"elinewidth": 0.6})  # fmt: skip
            at += 1
        axes.plot([limit, limit], [top, at - 0.5], color=COLOURS[RAW], linewidth=2,
                  label=None if RAW in seen else "raw limit (named on the left)", zorder=3)  # fmt: skip
        seen.add(RAW)
        ticks.append((top + at - 0.5) / 2)
        group = "" if case.group in case.what else f"{case.group}: "
        names.append(f"{group}{case.what}\n| {LIMITS[case.limit].label}")
        at += GAP_BARS
    axes.set_yticks(ticks, names, fontsize=7.5)
    axes.set_ylim(at, -1)
    axes.set_xscale("log")
    axes.set_xlabel("entries a second, log scale; whiskers: slowest and fastest round", fontsize=8)
    axes.grid(axis="x", which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.set_title("rates: longer is better", fontsize=10)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, 1.0), ncols=3, fontsize=7.5, framealpha=0.95)


def _latencies(axes: Any, result: Result, case: Case) -> None:
    """For each subject, which share of its calls took at most so long."""
    for subject, rows in result.percentiles[case.name].items():
        curve = middles(rows) or []
        style = {"color": COLOURS[subject], "linewidth": 2.2 if subject == OURS else 1.4}
        if subject == RAW:
            style |= {"linestyle": "--"}
        name = f"raw: {LIMITS[case.limit].label}" if subject == RAW else subject
        label = f"{name}: {curve[49]:.3g} / {curve[89]:.3g} / {curve[98]:.3g}"
        axes.plot(curve, range(1, 100), label=label, **style)
        axes.plot([curve[49], curve[89], curve[98]], [50, 90, 99], "o", markersize=3.5, color=style["color"])
    axes.set_xscale("log")
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 25, 50, 75, 90, 99])
    axes.set_ylabel("% of calls", fontsize=8)
    axes.set_xlabel("at most so many microseconds, log scale", fontsize=8)
    axes.tick_params(labelsize=7.5)
    axes.grid(which="major", color="#dddddd", linewidth=0.6)
    axes.set_title(f"{LATENCIES[case.name]}: further left is better", fontsize=10)
    axes.legend(title="p50 / p90 / p99 in us", fontsize=7.5, title_fontsize=7.5, loc="upper left", framealpha=0.95)
