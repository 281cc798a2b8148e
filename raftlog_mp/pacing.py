"""The pace of a flood, asked with the clock and with what the journal knows (MemFirst)."""

from __future__ import annotations

from . import wakeup
from .journal import Journal
from .lane import LaneConsumer
from .layout import SUBMISSION, SUBMISSION_BYTES
from .pace import Pace
from .types import PersistenceStrategy


def floods(lane: LaneConsumer, tail: int) -> bool:
    """Whether it holds more than one submission.  Only a hint: what it says of itself is not checked here."""
    head = lane.head
    return tail - head > SUBMISSION_BYTES + int(SUBMISSION.unpack(lane.copy(head, head + SUBMISSION_BYTES))[0])


class Pacing:
    """Told of flushes by the writer, of those who find no room by the intake."""

    def __init__(self, journal: Journal) -> None:
        self._journal, self._pace = journal, Pace()
        self._on = journal.config.strategy == PersistenceStrategy.MEM_FIRST
        self.found_full = self._pace.found_full

    def begin(self) -> None:
        """A flush begins: of what it leaves free, a flood gets no more at once than the disk lets go of."""
        if self._on:
            journal = self._journal
            self._pace.begin(wakeup.now(), journal.end, journal.spare_bytes, journal.sync_seconds)

    def end(self) -> None:
        """It is done: nothing is held back until the next flush begins."""
        self._pace.end()

    def stop(self) -> None:
        """The log ends: nothing is held back any more."""
        self._on = False
        self._pace.end()

    def limit(self) -> int | None:
        """Position up to which those who flood may get in now; None: as far as there is room."""
        if self._journal.job is None:
            self._pace.end()  # also where nobody told of the end: of a flush in the middle of a round, of a failed one
        return self._pace.limit(wakeup.now())

    def seconds_until_more(self) -> float:
        """How long the writer may sleep before :meth:`limit` says more; infinity if it will not."""
        return max(self._pace.next_step - wakeup.now(), 0.0)
