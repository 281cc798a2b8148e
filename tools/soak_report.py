"""The report of a soak: JSON for programs, and one page of HTML that needs nothing but itself."""

from __future__ import annotations

import base64
import dataclasses
import html
import json
import os
import platform
from pathlib import Path
from typing import Any

import psutil
import soak_plots
from soak_screen import rows_of
from soak_verdict import Run, figures_of, series_of

VERSION = 1
CAPTION = ("Throughput, latency, memory and level over time. Shaded: pressure rises, falls (light) and stands at its "
           "highest (dark). Vertical lines: kills (solid, red) and stops (dashed, grey).")  # fmt: skip
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.verdict { padding: .6em 1em; border-radius: 6px; font-weight: 600; }
.pass { background: #dff3e4; color: #14532d; } .fail { background: #fde2e2; color: #7f1d1d; }
.fail ul { font-weight: 400; margin: .3em 0 0; }
table { border-collapse: collapse; } td, th { padding: .25em .8em; border-bottom: 1px solid #ddd; text-align: left; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img { width: 100%; height: auto; } code { background: #f3f3f3; padding: .1em .3em; }
.note { color: #555; }
"""


def as_dict(run: Run, found: list[str], *, command: str, options: dict[str, Any], started: str) -> dict[str, Any]:
    """The report as plain data; ``docs/soak.md`` describes the keys."""
    series = run.series or series_of(run)
    return {
        "version": VERSION,
        "verdict": "fail" if found else "pass",
        "problems": found,
        "command": command,
        "options": options,
        "started": started,
        "machine": {"cores": os.cpu_count(), "memory_bytes": psutil.virtual_memory().total,
                    "python": platform.python_version(), "kernel": platform.release()},
        "limits": run.limits._asdict(),
        "plan": {"seconds": run.plan.seconds, "phases": [phase._asdict() for phase in run.plan.phases],
                 "before": run.plan.before, "after": run.plan.after,
                 "actions": [action._asdict() for action in run.plan.actions],
                 "producers": [spec._asdict() for spec in run.plan.producers], "readers": run.plan.readers},
        "figures": figures_of(run),
        "series": clean(series._asdict()),
        "samples": [{**sample._asdict(), "rss_bound_bytes": run.rss_bound(sample)} for sample in run.samples],
        "events": [event._asdict() for event in run.events],
        "integrity": run.integrity._asdict() if run.integrity is not None else None,
    }  # fmt: skip


def clean(value: Any) -> Any:
    """JSON has no NaN: None where there was nothing to measure."""
    if isinstance(value, dict):
        return {name: clean(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [clean(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


def write(folder: Path, report: dict[str, Any], thresholds: tuple[float, float] | None) -> list[Path]:
    """Write ``soak.json``, ``soak.html`` and, where matplotlib is installed, ``soak.png``; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    picture = soak_plots.draw(report, thresholds)
    files = [folder / "soak.json", folder / "soak.html"]
    files[0].write_text(json.dumps(report, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    files[1].write_text(page(report, picture), encoding="utf-8")
    if picture is not None:
        files.append(folder / "soak.png")
        files[2].write_bytes(picture)
    return files


def page(report: dict[str, Any], picture: bytes | None) -> str:
    """One self-contained page."""
    passed = report["verdict"] == "pass"
    problems = "".join(f"<li>{html.escape(line)}</li>" for line in report["problems"])
    verdict = "PASS: bounds held, nothing acknowledged was lost, throughput recovered, no process was left" if passed \
        else f"FAIL<ul>{problems}</ul>"  # fmt: skip
    machine = report["machine"]
    where = (f"{machine['cores']} cores, {machine['memory_bytes'] / (1 << 30):.1f} GiB, Python {machine['python']}, "
             f"Linux {machine['kernel']}")  # fmt: skip
    figures = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
        for name, value in rows_of(report["figures"])
    )
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Memory soak: {report["verdict"]}</title><style>{STYLE}</style></head><body>
<h1>Memory soak</h1>
<p><code>{html.escape(report["command"])}</code></p>
<p class="note">{html.escape(report["started"])}; {html.escape(where)}</p>
<div class="verdict {"pass" if passed else "fail"}">{verdict}</div>
<h2>Over time</h2>
{over_time(report, picture)}
<h2>Figures</h2>
<table>{figures}</table>
{profile_table(report)}<h2>Events</h2>
{events_table(report)}
</body></html>
"""


def over_time(report: dict[str, Any], picture: bytes | None) -> str:
    """The picture; without matplotlib how to get it, and a table instead."""
    if picture is not None:
        data = base64.b64encode(picture).decode("ascii")
        return f'<img alt="{CAPTION}" src="data:image/png;base64,{data}">\n<p class="note">{CAPTION}</p>'
    samples = report["samples"]
    rows = []
    for sample in samples[:: max(1, len(samples) // 40)]:
        rss = sample["rss"].get("writer", 0)
        cells = (f"{sample['t']:.1f}", sample["phase"], sample["level"], f"{rss / (1 << 20):.1f}",
                 f"{sample['rss_bound_bytes'] / (1 << 20):.1f}", f"{sample['unflushed_bytes']:,}")  # fmt: skip
        rows.append("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>")
    names = ("s", "phase", "level", "writer RSS, MiB", "its bound", "unflushed bytes")
    head = "".join(f"<th>{name}</th>" for name in names)
    return (f"<p class='note'>{html.escape(soak_plots.ADVICE)}</p>"
            f"<table><tr>{head}</tr>{''.join(rows)}</table>")  # fmt: skip


def events_table(report: dict[str, Any]) -> str:
    """Kills, stops, phases and level changes."""
    rows = [
        f"<tr><td class='number'>{event['t']:.1f} s</td><td>{html.escape(event['kind'])}</td>"
        f"<td>{html.escape(event['target'])}</td><td>{html.escape(event['detail'])}</td></tr>"
        for event in report["events"]
    ]
    return f"<table>{''.join(rows)}</table>"


def profile_table(report: dict[str, Any]) -> str:
    """The rows of a profile, if this run was one."""
    rows = [
        f"<tr><th>{html.escape(row['what'])}</th><td>{html.escape(row['found'])}</td><td>{html.escape(row['wanted'])}</td>"
        f"<td>{'yes' if row['held'] else 'no' if row['held'] is not None else '-'}</td></tr>"
        for row in report.get("profile", [])
    ]
    if not rows:
        return ""
    head = "<tr><th></th><th>found</th><th>wanted</th><th>held</th></tr>"
    return f"<h2>Profile</h2>\n<table>{head}{''.join(rows)}</table>\n"


def options_of(options: Any) -> dict[str, Any]:
    """The command line as plain data."""
    data = vars(options) if not dataclasses.is_dataclass(options) else dataclasses.asdict(options)
    return {name: str(value) if isinstance(value, Path) else value for name, value in data.items()}
