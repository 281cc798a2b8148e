"""``backup``: a verified copy of a log while its writer runs."""

from __future__ import annotations

import json

import click

from .. import backup as copying
from . import options, outcome, screen


@click.command()
@options.directory
@click.argument("target", metavar="TARGET")
@options.as_json("One object: target, uuid, first_index, last_index, hard_state, data_bytes ...")
def backup(directory: str, target: str, as_json: bool) -> int:
    """Copy a log to TARGET, a directory that is empty or missing, while its writer runs or without one.

    The copy holds at least everything that was acknowledged before, every record of it was read back and proved, and
    it opens as a log. DIR is not changed. To restore, stop the writer, move DIR away and copy TARGET to its place.
    The copy belongs to the user who runs this.
    """
    with screen.long_progress("copying") as progress:
        made = copying.backup(directory, target, progress=progress)
    if as_json:
        click.echo(json.dumps(made.as_dict()))
        return outcome.FINE
    what = f"entries {made.first_index} to {made.last_index}"
    if made.last_index < made.first_index:
        what = f"no entries, the last index is {made.last_index}"
    size = screen.size(made.data_bytes)
    proved = f"every record proved but {made.lost_entries} that repair had given up"
    proved = proved if made.lost_entries else "every record proved"
    click.echo(f"{made.target}: {what}; {made.segments} segments, {size}, {proved}")
    return outcome.FINE
