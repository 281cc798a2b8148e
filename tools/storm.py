"""A kill storm: thousands of seeded SIGKILLs of writers, clients and readers under load, and a checker of the history.

Producers append in every way, one leader at a time truncates, replaces, purges, votes and commits, followers follow and
resume; all of them, and above all the writer, are killed, paused and restarted as the seed says.  Each writes down what
it asked for and what it saw; after every round of kills everything must fit together.  Exit code: 0 sound, 1 not, 130
interrupted.  What a failed round wrote, log included, is kept, and its place is printed.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

TESTS = Path(__file__).resolve().parents[1] / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "storm")]  # the storm itself is made of the tests' parts

from storm_children import adopt_orphans  # noqa: E402  # found by the path above
from storm_conductor import Round, Tally  # noqa: E402  # found by the path above
from storm_writers import BENDS, POLICIES  # noqa: E402  # found by the path above

STRATEGIES = ("disk_first", "mem_first")
KILLS_A_ROUND = 40
SHOWN = 12  # problems that are printed


def arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--kills", type=int, default=2000, help="SIGKILLs altogether (default 2000)")
    parser.add_argument("--seed", type=int, default=1, help="what happens, and in which order (default 1)")
    parser.add_argument("--seconds", type=float, default=3600.0, help="no new kill after this time (default 3600)")
    parser.add_argument("--strategy", choices=STRATEGIES, help="default: both in turn")
    parser.add_argument("--policy", choices=sorted(POLICIES), help="flush policy; default: all in turn")
    parser.add_argument("--round", type=int, default=KILLS_A_ROUND, help=f"kills of one log (default {KILLS_A_ROUND})")
    parser.add_argument("--folder", type=Path, help="where the logs go (default: a temporary folder)")
    parser.add_argument("--keep", action="store_true", help="keep the diaries and logs of sound rounds, too")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON, and nothing else")
    parser.add_argument("--bend", choices=sorted(BENDS), help="break the writers on purpose: the storm must notice")
    return parser.parse_args(argv)


class Screen:
    """A live bar on a terminal, a line a round elsewhere; nothing with --json."""

    def __init__(self, options: argparse.Namespace, tally: Tally) -> None:
        self.tally, self.console = tally, Console(highlight=False, quiet=options.json)
        # No refreshing thread: this process forks all the time.
        self.progress = Progress(
            BarColumn(10), TextColumn("[bold]{task.completed}/{task.total}"), TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(), console=self.console, auto_refresh=False, transient=True,
            disable=not self.console.is_terminal,
        )  # fmt: skip
        self.task = self.progress.add_task("storm", total=options.kills, note="")
        self.shown, self.interrupted = 0.0, False

    def interrupt(self, *_: Any) -> None:
        """Ctrl-C, or SIGTERM.  Noticed by the next tick: an exception in the middle of a fork might get lost."""
        self.interrupted = True

    def tick(self, entries: int) -> None:
        """Called often, with the entries of the round that runs; draws a few times a second."""
        if self.interrupted:
            raise KeyboardInterrupt
        now = time.monotonic()
        if now - self.shown > 0.25:
            self.shown = now
            kills, tally = self.tally.kills, self.tally
            clients = kills["producer"] + kills["leader"]
            writers = tally.killed - clients - kills["reader"]
            note = (
                f"kills: {writers} writers, {clients} clients, {kills['reader']} readers; "
                f"{tally.entries + entries:,} acks, {tally.starts:,} starts"
            )
            self.progress.update(self.task, completed=tally.killed, note=note)
            self.progress.refresh()

    def line(self, text: str, style: str = "") -> None:
        self.console.print(text, style=style, markup=False, soft_wrap=True)


def storm(options: argparse.Namespace, folder: Path, tally: Tally, screen: Screen) -> tuple[list[str], Path | None]:
    """Round after round until enough are killed; the problems of the first that is not sound, and its folder."""
    deadline = time.monotonic() + options.seconds
    number = 0
    while tally.killed < options.kills and time.monotonic() < deadline:
        chance = random.Random(f"{options.seed}/{number}")
        strategy = options.strategy or STRATEGIES[number % 2]
        policy = options.policy or list(POLICIES)[number // 2 % len(POLICIES)]
        autostart = number % 5 == 4
        before = tally.killed, tally.entries
        place = folder / f"round-{number}"
        one = Round(place, chance.getrandbits(32), strategy, policy, autostart=autostart, bend=options.bend,
                    tally=tally, tick=screen.tick)  # fmt: skip
        try:
            problems = one.run(min(options.round, options.kills - tally.killed), deadline)
        except KeyboardInterrupt:
            one.end()
            if not options.keep:
                one.forget()
            raise
        started = "clients start the writer" if autostart else "a keeper starts the writer"
        screen.line(
            f"round {number}: {strategy}, {policy}, {started}: {tally.killed - before[0]} kills, "
            f"{tally.entries - before[1]:,} entries: {count(len(problems), 'PROBLEM') if problems else 'sound'}"
        )
        if problems:
            return problems, place
        if not options.keep:
            one.forget()
        number += 1
    return [], None


def count(number: int, what: str) -> str:
    """A number and its noun."""
    return f"{number:,} {what}{'' if number == 1 else 'S' if what.isupper() else 's'}"


def figures(tally: Tally, seconds: float) -> dict[str, Any]:
    """What the storm did, as plain data."""
    return {
        "kills": tally.killed, "kills_of": dict(sorted(tally.kills.items())), "pauses": tally.pauses,
        "clean_stops": tally.stops, "writers_started": tally.starts, "rounds": tally.rounds,
        "answers": tally.answers, "entries": tally.entries, "refusals": tally.refusals, "removals": tally.removals,
        "purges": tally.purges, "sightings": tally.sightings, "seconds": round(seconds, 1),
        "kills_per_second": round(tally.killed / seconds, 2) if seconds else 0.0,
    }  # fmt: skip


WORDS = {
    "kills": "SIGKILLs", "pauses": "pauses (SIGSTOP)", "clean_stops": "clean stops",
    "writers_started": "writers started",
    "rounds": "rounds, each with its own log", "answers": "requests acknowledged", "entries": "entries acknowledged",
    "refusals": "requests refused", "removals": "truncations and replacements", "purges": "purges",
    "sightings": "entries seen by readers", "seconds": "seconds", "kills_per_second": "kills a second",
}  # fmt: skip


def table_of(found: dict[str, Any]) -> Table:
    """The figures for people."""
    table = Table(show_header=False, title="what the storm did", title_justify="left")
    table.add_column(style="bold")
    table.add_column(justify="right")
    for name, words in WORDS.items():
        value = found[name]
        table.add_row(words, f"{value:,}")
        if name == "kills":
            for kind, count in found["kills_of"].items():
                table.add_row(f"  {kind}", f"{count:,}", style="dim")
    return table


def main(argv: list[str] | None = None) -> int:
    """Run a storm; the exit code."""
    options = arguments(argv)
    tally = Tally()
    screen = Screen(options, tally)
    own = options.folder is None
    folder = Path(tempfile.mkdtemp(prefix="raftlog-storm-")) if own else options.folder
    problems: list[str] = []
    kept: Path | None = None
    start, interrupted = time.monotonic(), False
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, screen.interrupt)
    adopt_orphans()
    try:
        with screen.progress:
            problems, kept = storm(options, folder, tally, screen)
    except KeyboardInterrupt:
        interrupted = True
    finally:
        if own and kept is None and not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    found = figures(tally, time.monotonic() - start)
    sound = not problems and not interrupted
    if options.json:
        print(json.dumps({"sound": sound, **found, "problems": problems, "kept": str(kept) if kept else None}))
    else:
        screen.console.print(table_of(found))
        for problem in problems[:SHOWN]:
            screen.line(problem, "red")
        if len(problems) > SHOWN:
            screen.line(f"... and {len(problems) - SHOWN} more", "red")
        if kept:
            screen.line(f"kept: {kept} (diaries *.jsonl, what processes printed *.err, the log in log/)")
        verdict = "interrupted" if interrupted else "SOUND" if sound else "NOT SOUND"
        screen.line(f"{verdict} (seed {options.seed})", "bold green" if sound else "bold red")
    return 130 if interrupted else int(not sound)


if __name__ == "__main__":
    sys.exit(main())
