"""``bench``: this log beside the raw limits of the machine, in interleaved rounds.

``cases`` says what is measured and against what; ``raw`` measures the limits; ``worker`` is a client process;
``rounds`` runs everything and verifies it; ``report`` draws it.
"""

from __future__ import annotations

import json
import tempfile

import click

from .. import options, outcome, screen


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Where the test logs are made and removed; default: the folder for temporary files.",
)
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Default: 5, or 2 with --small.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.01),
    metavar="S",
    help="Length of one measurement; default: 0.5, or 0.05 with --small.",
)
@click.option(
    "--small", is_flag=True, help="A few seconds in all: shows that it works, the figures are rough."
)
@options.as_json("Print one object with every round's figures.")
def bench(
    directory: str | None, rounds: int | None, seconds: float | None, small: bool, as_json: bool
) -> int:
    """Measure this log beside the raw limits of this machine.

    Each figure of ours is taken right after its limit, and the pair is repeated in rounds, so that both see the same
    machine; the ratio is the median over the rounds. Afterwards the logs are read back: entry counts and a sample of
    the contents must be right (else exit code 1), so that nothing is faster by doing less.
    """
    from . import report
    from . import rounds as runner

    plan = runner.Plan(
        rounds=rounds or (2 if small else 5), seconds=seconds or (0.05 if small else 0.5), small=small,
    )  # fmt: skip
    with (
        tempfile.TemporaryDirectory(prefix="raftlog-bench-", dir=directory) as folder,
        screen.step_progress("bench", plan.steps) as step,
    ):
        result = runner.run(folder, plan, step)
    if as_json:
        click.echo(json.dumps(result.as_dict()))
    else:
        report.show(result)
    for problem in result.problems:
        outcome.complain(f"bench: {problem}")
    return outcome.FINDINGS if result.problems else outcome.FINE
