"""A writer process that breaks one rule of a change (truncation, replacement, purge, reset), for the negative controls.

Run as ``python bent_changes.py DIR SPEC``; SPEC as for ``bent_writer.py``, and BENDS below.  Those that hold say "held"
at the bad moment and go on when a line comes in: what a reader sees meanwhile does not depend on luck.
"""

from __future__ import annotations

import os
import sys
from typing import Any

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import bent_writer  # noqa: E402  (found through the line above)

from raftlog_mp import control, journal, layout  # noqa: E402


def hold() -> None:
    """Stand still until the test says so."""
    print("held", flush=True)
    sys.stdin.readline()


def frontiers_first() -> None:
    """Boundary and frontiers move before the catalog version says that the map is another one."""
    bump, stand_at = journal.Journal._bump_catalog, journal.Journal._stand_at

    def bent_stand_at(self: Any, *arguments: Any) -> None:
        stand_at(self, *arguments)
        if arguments[-1] is not None:  # a change, and no mere roll
            hold()
        bump(self)

    journal.Journal._bump_catalog = lambda self: None  # type: ignore[method-assign]
    journal.Journal._stand_at = bent_stand_at  # type: ignore[method-assign]


def never_odd() -> None:
    """The epoch does not tell that a change was made."""
    control.Control.open_change = lambda self, removed: None  # type: ignore[method-assign]


def no_history() -> None:
    """Nobody is told what a change took off the log's end."""
    open_change = control.Control.open_change
    control.Control.open_change = lambda self, removed: open_change(  # type: ignore[method-assign]
        self, layout.NOTHING_REMOVED
    )


def two_steps() -> None:
    """A suffix is replaced by a truncation and then an append."""
    replace_from = journal.Journal.replace_from

    def bent(self: Any, index: int, batches: Any, producer: int, sequence: int) -> None:
        replace_from(self, index, [], 0, 0)
        hold()
        for batch in batches:
            self.append(*batch, producer, sequence)
        self.flush()
        self.publish()

    journal.Journal.replace_from = bent  # type: ignore[method-assign]


bent_writer.BENDS.update(
    frontiers_first=frontiers_first, never_odd=never_odd, no_history=no_history, two_steps=two_steps
)

if __name__ == "__main__":
    bent_writer.main(*sys.argv[1:])
