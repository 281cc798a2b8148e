"""The power-cut explorer: lives of a log are recorded, and from every step each disk state that a crash may leave is
built, recovered twice, and checked.  Exit code: 0 sound, 1 a promise was broken, 2 usage, 130 interrupted.

    python tools/crash.py --states 100000 --seed 1        the long run
    python tools/crash.py --replay "profile='...' seed=1 prefix=40 choice='torn 1 7'" --keep DIR
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import signal
import sys
import time
from pathlib import Path

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))  # the explorer is one of the tests' parts

from crash.campaign import explore_profile, replay  # noqa: E402  # found by the path above
from crash.explorer import Report  # noqa: E402  # found by the path above
from crash.look import INVARIANTS  # noqa: E402  # found by the path above
from crash.scenarios import PROFILES  # noqa: E402  # found by the path above

WIDTH = 100  # of the table where there is no terminal
SHOWN = 5  # violations of a profile that are printed
DENSE_PART = 0.4  # of a profile's states come from every prefix of its first lives, the rest from more lives
EVERY = 7  # prefixes of those further lives


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--states", type=int, default=100_000, help="distinct disk states altogether (default 100000)")
    parser.add_argument("--seed", type=int, default=1, help="which lives are recorded (default 1)")
    parser.add_argument("--profile", choices=[one.name for one in PROFILES], help="only this kind of life")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else")
    parser.add_argument("--replay", metavar="PLACE", help="make one state again, as a violation names it")
    parser.add_argument("--keep", metavar="DIR", help="with --replay: leave the state there, before any recovery")
    options = parser.parse_args(argv)
    if options.states < 1:
        parser.error("--states: give a number from 1 on")
    return options


def explore(options: argparse.Namespace, console: Console) -> list[Report]:
    """Every profile its share, with a bar on a terminal."""
    profiles = [one for one in PROFILES if options.profile in (None, one.name)]
    share = -(-options.states // len(profiles))
    reports = []
    columns = (TextColumn("[bold]{task.description:<24}"), BarColumn(24),
               TextColumn("{task.completed}/{task.total} states"), TimeElapsedColumn())  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for profile in profiles:
            bar = progress.add_task(profile.name, total=share)
            dense = max(1, int(share * DENSE_PART))
            report = explore_profile(
                profile, dense, options.seed,
                progress=lambda distinct, bar=bar: progress.update(bar, completed=distinct),
            )  # fmt: skip
            if not report.violations and dense < share:
                further = explore_profile(
                    profile, share - report.distinct, options.seed + 1000, every=EVERY,
                    progress=lambda distinct, bar=bar, sure=report.distinct: progress.update(
                        bar, completed=sure + distinct
                    ),
                )  # fmt: skip
                report.add(further)
            reports.append(report)
            if not console.is_terminal:
                console.print(f"{profile.name}: {report.distinct:,} states, {len(report.violations)} broken")
    return reports


def show(reports: list[Report], seconds: float, console: Console) -> None:
    """The table, and what was found."""
    caption = f"{seconds:.0f} s, {time.process_time():.0f} s of them computing"
    table = Table(title="power cuts and kills", caption=caption, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("scenario", no_wrap=True)
    for name in ("prefixes", "states", "distinct", "kills", "nested", "checks", "broken"):
        table.add_column(name, justify="right", no_wrap=True)
    for report in [*reports, total(reports)]:  # nested: crashes inside the recovery from another state
        figures = (report.prefixes, report.states, report.distinct, report.kills, report.nested, report.checks)
        broken = len(report.violations)
        table.add_row(report.profile, *(f"{figure:,}" for figure in figures), f"[red]{broken}[/]" if broken else "0")
        if report is reports[-1]:
            table.add_section()
    console.print(table)
    for report in reports:
        for where, violation in report.violations[:SHOWN]:
            console.print(f"[red]{violation.invariant}[/]: {INVARIANTS[violation.invariant]}")
            console.print(f"  {violation}\n  again with: python tools/crash.py --replay \"{where}\"", markup=False)


def total(reports: list[Report]) -> Report:
    """All of them as one."""
    whole = Report("all")
    for report in reports:
        whole.add(report)
    return whole


def show_again(options: argparse.Namespace, console: Console) -> int:
    """One state, made again."""
    try:
        steps, found, violations = replay(options.replay, options.keep)
    except (ValueError, FileExistsError) as error:
        console.print(f"--replay: {error}", markup=False)
        return 2
    console.print("the last steps before the crash:")
    for step in steps:
        console.print(f"  {step}", markup=False)
    if found is not None:
        console.print(f"recovery: rows {found.rows}, last {found.last}, boundary {found.purged}, {found.hard}")
    for violation in violations:
        console.print(f"broken: {violation}", markup=False)
    if options.keep:
        console.print(f"the state as the crash left it: {options.keep}", markup=False)
    if not violations:
        console.print("every promise holds")
    return int(bool(violations))


def main(argv: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = arguments(argv)
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(highlight=False, quiet=options.json, soft_wrap=True, width=width)
    if options.replay is not None:
        return show_again(options, Console(highlight=False, soft_wrap=True))
    began = time.monotonic()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # its folder in memory must not stay behind
    try:
        reports = explore(options, console)
    except KeyboardInterrupt:
        return 130
    finally:
        signal.signal(signal.SIGTERM, before)
    seconds = time.monotonic() - began
    show(reports, seconds, console)
    if options.json:
        rows = [
            dataclasses.asdict(report) | {"violations": [[where, str(one)] for where, one in report.violations]}
            for report in [*reports, total(reports)]
        ]
        print(json.dumps({"seed": options.seed, "seconds": round(seconds, 1), "profiles": rows[:-1], "all": rows[-1]}))
    return int(any(report.violations for report in reports))


if __name__ == "__main__":
    sys.exit(main())
