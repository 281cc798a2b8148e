"""The reserve: the last part of the room, in equal shares for everybody who is connected (MemFirst).

Clients that flood fill the room as fast as memory goes, and then everybody waits until a flush ends.  So of its last
eighth each client has a share of its own, which it may use up before it waits: one that appends little now and then
finds room while the others wait.  The bounds stay what they are, and one client alone has all of the room.
"""

from __future__ import annotations

from .journal import Journal
from .sessions import Peer
from .types import PersistenceStrategy

RESERVE_PART = 8  # one part of so many


class _Shares:
    """The reserve in one measure: bytes of records, or entries."""

    def __init__(self, limit: int) -> None:
        self._limit = self._line = limit  # the reserve is what lies between the line and the limit
        self._share = self._shares = self._held = 0
        self._used: dict[Peer, int] = {}  # since more than the line is taken

    @property
    def in_use(self) -> bool:
        """Whether anybody has used any of it."""
        return bool(self._used)

    def divide(self, clients: int) -> int:
        """So many are connected, and what they used stays used; returns the size of the reserve."""
        self._share = self._limit // RESERVE_PART // clients if clients > 1 else 0
        self._shares = self._share * clients
        self.hold(self._held)
        if clients < 2:
            self._used.clear()  # nobody is kept in mind for nothing
        return self._shares

    def hold(self, held: int) -> None:
        """So much below the limit is nobody's: the reserve lies below it."""
        self._held, self._line = held, self._limit - held - self._shares

    def settle(self, taken: int) -> None:
        """So much waits for a flush: if that is all below the line, nobody has used any of the reserve."""
        if taken <= self._line:
            self._used.clear()

    def spared(self, peer: Peer, taken: int) -> int:
        """How much of the room the peer has to leave: it may go beyond the line, or what is taken, by what it has left.

        None of it while no more than half of the room is taken: so the largest batch gets in as without a reserve, as
        of two flushes that follow one another, one leaves no more than half.
        """
        if taken <= self._limit // 2:
            return 0
        allowed = min(max(taken, self._line) + self._share - self._used.get(peer, 0), self._limit - self._held)
        return max(0, self._limit - allowed)

    def charge(self, peer: Peer, before: int, after: int) -> None:
        """The peer has taken that much."""
        over = after - max(before, self._line)
        if over > 0:
            self._used[peer] = self._used.get(peer, 0) + over


class Reserve:
    """Tells the journal, submission by submission, how much of the room belongs to others."""

    def __init__(self, journal: Journal) -> None:
        self._journal, config = journal, journal.config
        self._on = config.strategy == PersistenceStrategy.MEM_FIRST
        self._bytes, self._entries = _Shares(config.buffered_bytes_limit), _Shares(config.max_buffered_entries or 0)
        self._clients = 0
        self._before, self._heads = (0, 0), 0
        self._touched = False
        self.divided = False  # more than one is there to share it

    def knows(self, clients: int) -> bool:
        """Whether :meth:`look` would change nothing."""
        return clients == self._clients or not self._on

    def look(self, clients: int) -> None:
        """At the begin of a round: so many are connected."""
        if not self.knows(clients):
            self._clients, self.divided = clients, clients > 1
            self._journal.keep(self._bytes.divide(clients), self._entries.divide(clients))

    def enter(self, peer: Peer) -> None:
        """Before a submission of the peer is decided."""
        self._bytes.hold(self._journal.held)
        self._before = taken, entries = self._taken()
        self._heads = self._journal.heads
        if self._touched:  # a flush may have ended, also in the middle of a round: a roll at once is one
            self._bytes.settle(taken)
            self._entries.settle(entries)
        self._journal.spared = self._bytes.spared(peer, taken), self._entries.spared(peer, entries)

    def leave(self, peer: Peer) -> None:
        """It was decided: what it has taken of the reserve counts."""
        taken, entries = self._taken()
        self._bytes.charge(peer, self._before[0], taken - (self._journal.heads - self._heads))
        self._entries.charge(peer, self._before[1], entries)
        self._touched = self._bytes.in_use or self._entries.in_use
        self._journal.spared = 0, 0

    def _taken(self) -> tuple[int, int]:
        journal = self._journal
        return journal.end - journal.durable, journal.unflushed_entries
