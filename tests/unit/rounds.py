"""A writer whose rounds a test makes one by one, and clients that put into their lanes whatever they like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crc32c import crc32c

from raftlog_mp import layout, straight_round
from raftlog_mp.bodies import pack_body
from raftlog_mp.config import KIB, Batch
from raftlog_mp.lane import Completion

from .running import Member, Running

LATE = Batch(threshold=10**9, interval_ms=3_600_000)  # MemFirst flushes only when it has to


class Stage(Running):
    """A writer whose rounds are made by the test, one by one; it counts those that went the straight way."""

    def __init__(self, directory: str, *, straight: bool = True, **settings: Any) -> None:
        super().__init__(directory, **({"lane_bytes": 64 * KIB} | settings))
        self.straight_rounds = self.rounds = 0
        if not straight:
            self.writer._straight = lambda: False

    def take_way(self, way: Callable[..., straight_round.Round] = straight_round.straight_round) -> None:
        """Bind the straight way anew: to what was put around the writer since, or as another build has it."""
        writer = self.writer
        writer._straight = way(writer._intake, writer._completions, writer._relief, writer._grouping)

    def client(self) -> Member:
        """One more client."""
        return self.member()

    def lane(self, member: Member) -> Any:
        """The writer's side of its lane."""
        return self.peer(member).lane

    def peer(self, member: Member) -> Any:
        """What the writer keeps for it."""
        return next(peer for peer in self.writer.sessions.clients if peer.producer == self._members.index(member) + 1)

    def go(self) -> bool:
        """One round as the writer's loop makes it, with the flush behind it; True if it was straight."""
        writer, journal = self.writer, self.journal
        done = writer._go_straight()
        straight = done is True
        self.rounds += 1
        self.straight_rounds += straight
        if not straight:
            writer._commit(done is not None and writer._drain())
        while journal.job is not None:
            journal.job.wait()
            writer._finish_background_flush()
            writer._commit(False)
        if journal._prepared is not None:
            journal._prepared.wait()
        return straight

    def sort(self) -> None:
        """The lanes in their first order: the general way lets them take turns."""
        self.writer.sessions.clients.sort(key=lambda peer: peer.producer)


def put(member: Member, *payloads: bytes, term: int | None = None, **lies: int) -> None:
    """One submission as an honest client makes it, but for the lies."""
    body = pack_body(list(payloads))
    member._sequence += 1
    fields = {
        "length": len(body), "kind": layout.SUBMIT_APPEND, "flags": int(term is not None), "count": len(payloads),
        "crc": crc32c(body), "term": term or 0, "sequence": member._sequence, "a": 0, "b": 0,
    } | lies  # fmt: skip
    member.lane.put(layout.SUBMISSION.pack(*fields.values()) + body)


def ok(sequence: int, index: int, count: int = 1, term: int = 1) -> Completion:
    """The slot that answers one appended batch."""
    return sequence, layout.OK, index, count, term, 0


def begun(stage: Stage, clients: int = 2) -> list[Member]:
    """Clients of a log that has a term: from here on plain entries go straight."""
    members = [stage.client() for _ in range(clients)]
    put(members[0], b"first")
    assert not stage.go(), "a log without a term has to begin one"
    assert members[0].answers() == [ok(1, 1)]
    for member in members:
        put(member, b"plain")
    stage.sort()
    assert stage.go()
    assert [len(member.answers()) for member in members] == [1] * clients
    return members
