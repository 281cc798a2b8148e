"""``bench``: this log beside the raw limits of the machine and beside its peers, in interleaved rounds.

``cases`` and ``limits`` say what is measured, against what, and what is to be reached; ``stores`` gives this log and
its peers one face; ``raw`` measures the limits; ``worker`` is a client process; ``appends``, ``reads``, ``following``
and ``growth`` run the cases; ``rounds`` runs everything; ``result`` holds the figures, ``report`` and ``plot`` show
them.
"""

from __future__ import annotations

import contextlib
import json
import signal
import tempfile
from collections.abc import Iterator

import click

from .. import options, outcome, screen
from .cases import GROUPS


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM, too, is to stop the writers and to remove the logs, as Ctrl-C does."""
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


class Groups(click.ParamType):  # type: ignore[type-arg]  # generic only in newer clicks
    """Names of groups, separated by commas."""

    name = "groups"

    def convert(
        self, value: str | tuple[str, ...], param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        """The names in the order in which they are run; a usage error for any other."""
        names = value.split(",") if isinstance(value, str) else value
        for name in names:
            if name not in GROUPS:
                self.fail(f"{name!r} is no group: give {', '.join(GROUPS)}", param, ctx)
        return tuple(name for name in GROUPS if name in names)


@click.command()
@click.option(
    "--dir",
    "directory",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Where the test logs are made and removed; default: the folder for temporary files.",
)
@click.option("--only", type=Groups(), metavar="GROUPS", help=f"Some of: {','.join(GROUPS)}. Default: all.")
@click.option("--rounds", type=click.IntRange(1), metavar="N", help="Default: 5, or 2 with --small.")
@click.option(
    "--seconds",
    type=click.FloatRange(0.001),
    metavar="S",
    help="Length of one measurement; default: 0.5, or 0.05 with --small.",
)
@click.option(
    "--small", is_flag=True, help="Small logs, few clients, short: shows that it works; the figures are rough."
)
@click.option("--full", is_flag=True, help="Also logs of ten million entries (3 GB of payload).")
@options.as_json("Print one object with every round's figures, the machine and the command.")
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), metavar="FILE",
              help="Also draw rates and latencies into a picture (.png, .svg, .pdf).")  # fmt: skip
def bench(
    directory: str | None, only: tuple[str, ...] | None, rounds: int | None, seconds: float | None, small: bool,
    full: bool, as_json: bool, plot: str | None,
) -> int:  # fmt: skip
    """Measure this log beside the raw limits of this machine and beside every installed peer.

    Peers are lmdb, sqlite3, rocksdict and PySyncObj's journal. Each figure of ours is taken right after its limit and
    right before the peers', and that is repeated in rounds, so that all see the same machine; ratios are medians over
    the rounds. Afterwards everything is read back: entry counts and a sample of the contents must be right (else exit
    code 1), so that nothing is faster by doing less.
    """
    from . import plot as picture
    from . import report, result, stores
    from . import rounds as runner

    plan = result.Plan(
        rounds=rounds or (2 if small else 5), seconds=seconds or (0.05 if small else 0.5), small=small, full=full,
        groups=only or tuple(GROUPS), peers=tuple(stores.installed()),
    )  # fmt: skip
    if plot is not None:
        picture.check(plan, plot)
    with (
        sigterm_as_interrupt(),
        tempfile.TemporaryDirectory(prefix="raftlog-bench-", dir=directory) as folder,
        screen.step_progress("bench", plan.steps) as step,
    ):
        found = runner.run(folder, plan, step)
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        report.show(found)
    if plot is not None:
        picture.draw(found, plot)
    for problem in found.problems:
        outcome.complain(f"bench: {problem}")
    return outcome.FINDINGS if found.problems else outcome.FINE
