"""The group of all commands, and the one place where an error becomes an exit code."""

from __future__ import annotations

import sys
from typing import Any

import click

from .. import __version__, errors
from . import append, backup, bench, check, dump, outcome, read, repair, serve, stat


class Commands(click.Group):
    """A group whose commands return their exit code and may raise any error of the library."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command and turn what it raised into an exit code."""
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except click.exceptions.Exit:
            raise
        except BrokenPipeError:
            code = outcome.quiet_broken_pipe()
        except (click.ClickException, OSError, errors.RaftLogError) as error:
            code = outcome.explain(error)
        ctx.exit(code or outcome.FINE)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of a log's life, not of the alphabet."""
        return list(self.commands)


@click.group(
    cls=Commands, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.version_option(__version__, prog_name="raftlog-mp", message="%(prog)s %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A durable Raft log that many processes on one machine share.

    DIR is the directory of a log. Exit codes: 0 fine, 1 findings, 2 usage, 3 the log is unusable.
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        ctx.exit(outcome.USAGE)


for command in (
    serve.serve, serve.stop, append.append, read.cat, read.tail, stat.stat,
    check.check, dump.dump, repair.repair, backup.backup, bench.bench,
):  # fmt: skip
    cli.add_command(command)


def run(argv: list[str] | None) -> int:
    """Run the command line; returns the exit code."""
    try:
        return int(cli.main(argv, prog_name="raftlog-mp", standalone_mode=False) or outcome.FINE)
    except click.ClickException as error:
        return outcome.explain(error)
    except click.Abort:
        return outcome.INTERRUPTED
