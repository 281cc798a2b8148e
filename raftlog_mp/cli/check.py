"""``check``: is anything in a log's files out of order, and what does it mean."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from typing import TYPE_CHECKING

import click

from .. import check as checking
from ..diagnoses import DAMAGE, INFO, WARNING, Diagnosis
from . import options, outcome, screen

if TYPE_CHECKING:
    from rich.table import Table

STYLES = {DAMAGE: "bold red", WARNING: "yellow", INFO: "dim"}
ROWS_MAX = 200  # of the table for people; --json has them all


@click.command()
@options.directory
@click.option(
    "--processes",
    type=click.IntRange(1),
    metavar="N",
    help="Read segments in N processes; default: one, and as many as cores once it has taken two seconds.",
)
@options.as_json("Print one object: sound, findings (each with its file), segments.")
def check(directory: str, processes: int | None, as_json: bool) -> int:
    """Read the whole log and say what is out of order. Changes nothing; works beside a running writer.

    Every checksum of every live segment is verified, and the manifest, the hard state, the index files and what else
    lies in DIR are looked at. Exit code 0: sound, at most with information; 1: damage or a warning.
    """
    with screen.long_progress("checking") as progress:
        report = checking.check_log(directory, processes=processes, progress=progress)
    if as_json:
        click.echo(json.dumps(report.as_dict()))
    else:
        show(report)
    return outcome.FINE if report.sound else outcome.FINDINGS


# ---------------------------------------------------------------- for people
def show(report: checking.Report) -> None:
    """A table of the findings, what to do next, and the verdict in one line."""
    out = screen.console()
    if report.findings:
        out.print(table(report.findings[:ROWS_MAX]))
        if len(report.findings) > ROWS_MAX:
            out.print(f"... and {len(report.findings) - ROWS_MAX} more; --json has them all")
        steps = dict.fromkeys(found.next_step for found in report.findings if found.next_step)
        for number, step in enumerate(steps):
            out.print(f"{'next: ' if not number else '      '}{step}".replace("DIR", shlex.quote(report.path)),
                      markup=False, soft_wrap=True)  # fmt: skip
        out.print()
    out.print(verdict(report), markup=False, soft_wrap=True)


def table(findings: Iterable[Diagnosis]) -> Table:
    """One row a finding: how bad, where, what it means."""
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    drawn.add_column("finding", no_wrap=True)
    drawn.add_column("where", no_wrap=True)
    drawn.add_column("what it means", overflow="fold")
    for found in findings:
        row = f" (row {found.letter})" if found.letter else ""
        place = escape(found.file) + (f"\nbyte {screen.count(found.offset)}" if found.offset is not None else "")
        drawn.add_row(Text(found.severity, STYLES[found.severity]), place, Text(found.sentence + row))
    return drawn


def verdict(report: checking.Report) -> str:
    """The whole report in one line."""
    number = {severity: sum(found.severity == severity for found in report.findings) for severity in STYLES}
    parts = [_times(number[DAMAGE], "damage", "damage"), _times(number[WARNING], "warning")]
    said = ", ".join(part for part in parts if part) or "sound"
    segments = _times(len(report.segments), "segment") or "no segments"
    entries = "no entries"
    if report.entries:
        entries = f"{_times(report.entries, 'entry', 'entries')} {report.first_index}..{report.last_index}"
        entries += f" ({screen.count(report.lost)} of them given up by a repair)" if report.lost else ""
    beside = "; a writer is running, so its newest entries were read as far as they are durable" if report.live else ""
    return f"{said}: {segments}, {entries}, {screen.size(report.bytes)} read{beside}"


def _times(number: int, one: str, many: str | None = None) -> str:
    return f"{screen.count(number)} {one if number == 1 else many or one + 's'}" if number else ""
