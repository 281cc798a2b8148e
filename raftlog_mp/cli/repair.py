"""``repair``: what would have to be done to a damaged log; with ``--yes``, do it."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING

import click

from .. import repair as mending
from . import options, outcome, screen

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text


@click.command()
@options.directory
@click.option("--yes", is_flag=True, help="Carry the plan out; without it nothing is changed.")
@click.option(
    "--truncate-from",
    type=click.IntRange(1),
    metavar="INDEX",
    help="Drop every entry from INDEX on, where nothing proves behind the damage. Not above the first damaged one.",
)
@click.option(
    "--accept-loss",
    is_flag=True,
    help="Give up what the log still promises: entries of a damaged ring, a lost vote, committed entries.",
)
@options.as_json("Print one object: needed, done, steps, blocked, findings.")
def repair(directory: str, yes: bool, truncate_from: int | None, accept_loss: bool, as_json: bool) -> int:
    """Show what has to be done to a damaged log; with --yes, do it.

    Every byte that goes is kept in DIR/quarantine, and so is the plan. Refuses while a writer runs: `raftlog-mp stop`
    first. Exit code 0: nothing to do, or done; 1: there is something to do or to decide.
    """
    with screen.long_progress("reading") as progress:
        plan = mending.plan(directory, truncate_from=truncate_from, accept_loss=accept_loss, progress=progress)
    done = yes and plan.needed and not plan.blocked
    if not as_json:
        show(plan)
    if done:
        with screen.long_progress("reading again") as progress:
            mending.apply(plan, progress=progress)
    if as_json:
        click.echo(json.dumps(plan.as_dict() | {"done": done}))
    else:
        click.echo(verdict(plan, done=done, again=directory))
    return outcome.FINE if done or not plan.needed else outcome.FINDINGS


# ---------------------------------------------------------------- for people
def show(plan: mending.RepairPlan) -> None:
    """The steps as a table, and the decisions that are due."""
    out = screen.console()
    if plan.steps:
        out.print(steps_table(plan))
        out.print()
    if plan.blocked:
        out.print(blocked_table(plan))
        out.print()


def steps_table(plan: mending.RepairPlan) -> Table:
    """One row a step: what is done, where, why, and how much goes to quarantine."""
    drawn = _table("step", "where", "what and why")
    drawn.add_column("kept aside", justify="right", no_wrap=True)
    for step in plan.steps:
        place = step.file + (f"\nbyte {screen.count(step.offset)}" if step.offset is not None else "")
        kept = screen.size(step.kept_bytes) if step.kept_bytes else "-"
        drawn.add_row(_text(step.kind, "bold"), _text(place), _text(step.sentence), kept)
    return drawn


def blocked_table(plan: mending.RepairPlan) -> Table:
    """One row a decision: what it is about, and the option that takes it."""
    drawn = _table("not done unasked", "where", "why")
    for one in plan.blocked:
        drawn.add_row(_text(one.needs or "no option helps", "bold red"), _text(one.file), _text(one.sentence))
    return drawn


def _table(*columns: str) -> Table:
    from rich.table import Table

    drawn = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        drawn.add_column(name, overflow="fold", no_wrap=name != columns[-1])
    return drawn


def _text(words: str, style: str = "") -> Text:
    from rich.text import Text

    return Text(words, style)


def verdict(plan: mending.RepairPlan, *, done: bool, again: str) -> str:
    """The whole plan in one line, and how to go on."""
    if not plan.needed:
        return plan.sentences()[0]
    steps = f"{len(plan.steps)} step{'s' * (len(plan.steps) != 1)}"
    if done:
        return f"done: {steps}; what was removed and the plan are kept in {plan.directory}/quarantine"
    if plan.blocked:
        return "nothing was changed: repair needs a decision first"
    options_given = f" --truncate-from {plan.truncate_from}" if plan.truncate_from is not None else ""
    options_given += " --accept-loss" if plan.accept_loss else ""
    command = f"raftlog-mp repair {shlex.quote(again)}{options_given} --yes"
    return f"nothing was changed: {steps}, {screen.size(plan.kept_bytes)} to keep aside. To do it: `{command}`"
