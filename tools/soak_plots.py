"""The picture of a soak.  matplotlib is loaded only here, and only when a picture is due."""

from __future__ import annotations

import importlib.util
import io
from typing import Any

ADVICE = "No picture: matplotlib is not installed. Install it with: pip install 'raftlog_mp[bench]'"
MIB = 1 << 20
INK, BLUE, ORANGE, RED, GREEN, GREY = "#222222", "#2563a8", "#d9822b", "#b91c1c", "#2f855a", "#9aa0a6"
PHASE_COLORS = {"rise": "#fff4de", "high": "#fde3d8", "fall": "#fff4de", "slow": "#fde3d8"}
LEVELS = {"none": 0, "soft": 1, "hard": 2}
MARKS = {"kill": (RED, "-"), "stop": (GREY, "--")}


def draw(report: dict[str, Any], thresholds: tuple[float, float] | None) -> bytes | None:
    """The picture as PNG; None without matplotlib."""
    if importlib.util.find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 12.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(5, 1, sharex=True, height_ratios=(3, 3, 3, 2, 2))
    for axes in panels:
        shade(axes, report)
        axes.grid(True, axis="y", color="#e5e5e5", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0)
    throughput(panels[0], report)
    latency(panels[1], report)
    memory(panels[2], report)
    unflushed(panels[3], report)
    level(panels[4], report, thresholds)
    panels[-1].set_xlabel("seconds from the start of the load")
    panels[-1].set_xlim(0, report["plan"]["seconds"])
    figure.align_ylabels(panels)
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=110, metadata={"Software": None})
    return out.getvalue()


def shade(axes: Any, report: dict[str, Any]) -> None:
    """Phases as colours, kills and stops as lines."""
    for phase in report["plan"]["phases"]:
        if phase["name"] in PHASE_COLORS:
            axes.axvspan(phase["start_s"], phase["end_s"], color=PHASE_COLORS[phase["name"]], linewidth=0, zorder=0)
    for event in report["events"]:
        if event["kind"] in MARKS:
            color, line = MARKS[event["kind"]]
            axes.axvline(event["t"], color=color, linestyle=line, linewidth=1.0, zorder=1)


def legend(axes: Any) -> None:
    """Beside the lines, never over them."""
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=9)


def throughput(axes: Any, report: dict[str, Any]) -> None:
    """Acknowledged entries a second, with names on the kills and stops."""
    series = report["series"]
    middle = [t + series["width_s"] / 2 for t in series["t"]]
    axes.plot(middle, series["acknowledged_per_s"], color=BLUE, linewidth=1.5, label="acknowledged")
    axes.set_ylabel("entries/s")
    axes.set_ylim(bottom=0)
    top = axes.get_ylim()[1]
    for name, color in (("before", GREEN), ("after", GREEN)):
        start, end = report["plan"][name]
        value = report["figures"][f"throughput_{name}"]
        axes.plot([start, end], [value, value], color=color, linewidth=2.5, alpha=0.7,
                  label="median, compared" if name == "before" else None)  # fmt: skip
    marked = [event for event in report["events"] if event["kind"] in MARKS]
    for number, event in enumerate(marked):
        drop = 3 + 62 * (number % 2)  # neighbours stand at different heights
        axes.annotate(f"{event['kind']} {event['target']}", (event["t"], top), rotation=90, fontsize=7.5,
                      color=RED if event["kind"] == "kill" else "#5f6368",
                      xytext=(2, -drop), textcoords="offset points", va="top", ha="left")  # fmt: skip
    legend(axes)


def latency(axes: Any, report: dict[str, Any]) -> None:
    """From submission to answer."""
    series = report["series"]
    middle = [t + series["width_s"] / 2 for t in series["t"]]
    for name, color in (("p99_ms", ORANGE), ("p50_ms", BLUE)):
        values = [float("nan") if value is None else value for value in series[name]]
        axes.plot(middle, values, color=color, linewidth=1.5, label=name.removesuffix("_ms"))
    axes.set_yscale("log")
    axes.set_ylabel("latency, ms")
    legend(axes)


def memory(axes: Any, report: dict[str, Any]) -> None:
    """Resident memory of every process against the writer's bound."""
    samples = report["samples"]
    moments = [sample["t"] for sample in samples]
    others = sorted({name for sample in samples for name in sample["rss"]} - {"writer", "holder"})
    for number, name in enumerate(others):
        values = [sample["rss"].get(name) or float("nan") for sample in samples]
        axes.plot(moments, [value / MIB for value in values], color=GREY, linewidth=0.8,
                  label="each other process" if number == 0 else None)  # fmt: skip
    for name, color, label in (("holder", ORANGE, "memory that is held"), ("writer", BLUE, "writer")):
        if any(name in sample["rss"] for sample in samples):
            values = [(sample["rss"].get(name) or float("nan")) / MIB for sample in samples]
            axes.plot(moments, values, color=color, linewidth=1.8, label=label)
    bound = [sample["rss_bound_bytes"] / MIB for sample in samples]
    axes.plot(moments, bound, color=RED, linewidth=1.2, linestyle="--", label="the writer's bound")
    axes.set_ylabel("RSS, MiB")
    axes.set_ylim(bottom=0)
    legend(axes)


def unflushed(axes: Any, report: dict[str, Any]) -> None:
    """What is not on the disk yet, and the bound on it."""
    samples = report["samples"]
    moments = [sample["t"] for sample in samples]
    axes.fill_between(moments, [sample["unflushed_bytes"] / MIB for sample in samples], color=BLUE, alpha=0.35,
                      linewidth=0, label="unflushed")  # fmt: skip
    axes.axhline(report["limits"]["max_buffered_bytes"] / MIB, color=RED, linewidth=1.2, linestyle="--",
                 label="max_buffered_bytes")  # fmt: skip
    axes.set_ylabel("unflushed, MiB")
    axes.set_ylim(bottom=0)
    legend(axes)


def level(axes: Any, report: dict[str, Any], thresholds: tuple[float, float] | None) -> None:
    """The level, and what the writer reads against its thresholds."""
    samples = report["samples"]
    moments = [sample["t"] for sample in samples]
    axes.step(moments, [LEVELS.get(sample["level"], 0) for sample in samples], where="post", color=INK, linewidth=1.6,
              label="level")  # fmt: skip
    axes.set_yticks(list(LEVELS.values()), list(LEVELS))
    axes.set_ylim(-0.2, 2.3)
    axes.set_ylabel("level")
    used = [sample["used_share"] for sample in samples]
    if any(value is not None for value in used):
        right = axes.twinx()
        right.plot(moments, [float("nan") if value is None else 100 * value for value in used], color=ORANGE,
                   linewidth=1.3, label="memory used")  # fmt: skip
        for value, name, line in zip(thresholds or (), ("soft", "hard"), (":", "--"), strict=False):
            right.axhline(100 * value, color=ORANGE, linewidth=0.9, linestyle=line, label=f"threshold {name}")
        top = max([value for value in used if value is not None] + list(thresholds or ()))
        right.set_ylim(0, 100 if top > 0.5 else 130 * top)
        right.set_ylabel("% of the limit")
        right.spines[["top"]].set_visible(False)
        right.margins(x=0)
        handles, labels = axes.get_legend_handles_labels()
        more, names = right.get_legend_handles_labels()
        axes.legend(handles + more, labels + names, loc="center left", bbox_to_anchor=(1.07, 0.5), frameon=False,
                    fontsize=9)  # fmt: skip
    else:
        legend(axes)
