"""Clients without sockets: lanes filled by hand, honestly or not, in front of an intake with a real journal."""

from __future__ import annotations

from typing import Any

from crc32c import crc32c

from raftlog_mp import layout, shm
from raftlog_mp.bodies import pack_body
from raftlog_mp.config import KIB
from raftlog_mp.files import Files
from raftlog_mp.intake import Intake
from raftlog_mp.lane import Completion, LaneConsumer, LaneProducer
from raftlog_mp.sessions import Peer
from raftlog_mp.types import HardState

from .journals import commit, entries_of, kill, open_log, stop


class Client:
    """Both ends of one client's lane: what it submits, and the peer that the writer keeps for it."""

    def __init__(self, bench: Bench, producer: int, lane_bytes: int, first_unresolved: int, highest_sent: int) -> None:
        fd, mapping = shm.create_memfd("raftlog-test", layout.lane_file_bytes(lane_bytes))
        self.peer = Peer(None, 1, 2)
        self.peer.lane = self.peer.seat = LaneConsumer(mapping, lane_bytes)
        self.peer.producer, self.peer.next_sequence = producer, first_unresolved
        self.peer.resumed_until = bench.journal.producers.connect(producer, first_unresolved, highest_sent)
        self.lane = LaneProducer(shm.map_memfd(fd))
        self.sequence = first_unresolved  # of the next submission
        self.posted: list[Completion] = []
        self._bench = bench

    def submit(self, *payloads: bytes, term: int | None = None, raw_term: int = 0, **lies: int) -> None:
        """One submission as an honest client makes it, but for the lies."""
        flags = 0 if term is None else layout.FLAG_TERM_GIVEN
        honest = {"flags": flags, "term": raw_term if term is None else term, "count": len(payloads)}
        self.put(pack_body(list(payloads)), **(honest | lies))

    def put(self, body: bytes, **lies: int) -> None:
        """One submission with this body, and some header fields replaced."""
        fields = {
            "length": len(body), "kind": layout.SUBMIT_APPEND, "flags": 0, "count": 1, "crc": crc32c(body),
            "term": 0, "sequence": self.sequence, "a": 0, "b": 0,
        }  # fmt: skip
        assert not lies.keys() - fields.keys()
        self.lane.put(layout.SUBMISSION.pack(*(fields | lies).values()) + body)
        self.sequence += 1

    def store_tail(self, cursor: int) -> None:
        """Claim any cursor."""
        self.lane.mapping.cell(layout.LANE_WORDS["tail"]).store(cursor, shm.SEQ_CST)

    def answers(self) -> list[Completion]:
        """What was posted since the last look."""
        self._bench.post()
        answers, self.posted = self.posted, []
        return answers


class Bench:
    """A journal, an intake, and what the intake asks of the writer around it."""

    def __init__(self, directory: str, *, files: Files | None = None, hard_term: int = 0, **settings: Any) -> None:
        self.directory = directory
        self.journal, _ = open_log(directory, files, **settings)
        self.journal.hard = HardState(hard_term)
        self.clients: list[Peer] = []
        self.bad: list[tuple[Peer, str]] = []  # dropped, and why
        self.has_room = True  # whether making room helps
        self.rooms_made = 0
        self._mine: list[Client] = []
        self._open = True
        self.intake = Intake(self.journal, self, self._make_room)  # type: ignore[arg-type]

    def client(
        self, producer: int = 0, lane_bytes: int = 256 * KIB, first_unresolved: int = 1, highest_sent: int = 0
    ) -> Client:
        """One more client."""
        producer = producer or 100 + len(self._mine)
        client = Client(self, producer, lane_bytes, first_unresolved, highest_sent)
        self._mine.append(client)
        self.clients.append(client.peer)
        return client

    def drop_bad(self, peer: Peer, why: str) -> None:
        """As the sessions do it."""
        self.bad.append((peer, why))
        self.clients.remove(peer)
        assert peer.seat is not None
        peer.seat.close()
        peer.seat = peer.lane = None

    def post(self) -> None:
        """As the writer does it after a publish: answers to those who are owed some, and to nobody else."""
        for client in self._mine:
            if client.peer in self.intake.owing:
                client.posted += client.peer.answers
                client.peer.answers = []
        self.intake.owing.clear()

    def _make_room(self) -> bool:
        self.rooms_made += 1
        if self.has_room:
            commit(self.journal)
            self.post()
        return self.has_room

    def finish(self) -> list[bytes]:
        """End in order; every payload that is in the log, from its files."""
        commit(self.journal)
        self.close()
        return [payload for _, payload in entries_of(self.directory).values()]

    def close(self) -> None:
        """End; idempotent."""
        if self._open:
            self._open = False
            kill(self.journal) if self.journal.failure else stop(self.journal)
            for client in self._mine:
                client.lane.close()
                if client.peer.lane is not None:
                    client.peer.lane.close()
