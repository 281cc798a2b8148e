"""Completions: answers into the lanes of those who wait for them, and the bells behind."""

from __future__ import annotations

from . import layout
from .intake import Intake
from .relief import Relief
from .sessions import Peer, Sessions

# DiskFirst: where so much waits in the lanes after a sync, those who were answered are woken only when it is written.
# Woken at once they take the cores from the writer, and the disk waits; woken then they work while the disk does.
FLOOD_BYTES = 256 * 1024


class Completions:
    """What the writer owes to its peers once it has published."""

    def __init__(self, intake: Intake, sessions: Sessions, relief: Relief) -> None:
        self._intake, self._sessions, self._relief = intake, sessions, relief
        self.late: list[Peer] | None = None  # answered, and not woken yet; None: neither they nor any frontier

    def post(self) -> None:
        """Everything up to here is published (and durable, if the strategy says so)."""
        for peer in self._put():  # a bell costs 30 us: those who look have their answers by now
            peer.ring(layout.WANTS_ANSWERS)

    def post_and_tell(self) -> None:
        """The same after a sync in this thread, and the frontiers that it raised; in a flood the bells come later."""
        if self._intake.bytes_waiting() >= FLOOD_BYTES:
            self.late = (self.late or []) + self._put()
            return
        self.post()
        self._sessions.ring_all()

    def ring_late(self) -> None:
        """The bells that a flood has put off; to be called before every wait."""
        late, self.late = self.late, None
        if late is not None:
            for peer in late:
                peer.ring(layout.WANTS_ANSWERS)
            self._sessions.ring_all()

    def _put(self) -> list[Peer]:
        if self._intake.owing and self._relief.holds_answers():
            return []
        owing, self._intake.owing = self._intake.owing, []
        for peer in owing:
            if peer.answers and peer.lane is not None:
                peer.lane.complete(peer.answers)
                peer.answers = []
        return owing
