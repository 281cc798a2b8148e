"""A MemFirst log whose flushes are done by hand, and those who want room in it."""

from __future__ import annotations

from typing import Any

from raftlog_mp import format as fmt
from raftlog_mp.config import MIB

from .lanes import Bench, Client

ROOM = MIB  # the smallest ring
BODY = 1000
RECORD = fmt.RECORD_BYTES + BODY


class Room(Bench):
    """As the writer does it in MemFirst: who finds no room starts a flush, and waits in the lane until it ends."""

    def __init__(self, directory: str, **settings: Any) -> None:
        super().__init__(directory, **({"strategy": "mem_first", "segment_bytes": 8 * MIB} | settings))

    def _make_room(self) -> bool:
        self.rooms_made += 1
        journal = self.journal
        journal.copy_to_ring()
        if journal.job is None and journal.owes_work:
            journal.publish()
            journal.job = journal.make_job()
        return False

    def flushed(self) -> None:
        """The disk is done with the flush that is under way, if any."""
        job = self.journal.job
        if job is not None:
            job.run()
            self.journal.finish_job()

    def fill(self) -> None:
        """Rounds, until nothing moves."""
        while self.intake.drain():
            pass

    @property
    def unflushed(self) -> int:
        return self.journal.end - self.journal.durable

    def crowd(self, *sizes: int, body: int = BODY) -> list[Client]:
        """Clients, each with so many entries in its lane."""
        found = []
        for size in sizes:
            found.append(self.client(lane_bytes=4 * MIB))
            for _ in range(size):
                found[-1].submit(b"x" * body)
        return found

    def close(self) -> None:
        self.flushed()
        super().close()
