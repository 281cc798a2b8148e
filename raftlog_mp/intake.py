"""Intake: submissions out of the lanes, decided one by one, into the journal.

The writer copies first and believes only the copy.  A client that breaks the rules of its lane is dropped; a
submission that is merely not acceptable is answered with the reason.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crc32c import crc32c

from . import errors, layout, shm, wakeup
from . import format as fmt
from .bodies import even_length, unpack_body
from .journal import Journal
from .lane import Completion, LaneConsumer
from .layout import FLAG_TERM_GIVEN, SUBMISSION, SUBMISSION_BYTES
from .orders import Orders
from .pacing import Pacing, floods
from .producers import APPENDED, FORGOTTEN
from .reserve import Reserve
from .sessions import Peer, Sessions
from .types import PersistenceStrategy

VIEW_BYTES = 4096  # larger bodies are looked at in place, in our private copy; below, slicing is cheaper than a view
EVEN_FROM = 64  # payloads in a batch: below, decoding it is the cheaper proof
# In one round, shared by the lanes that hold something: a flooding client cannot starve the others, and a round that
# takes it all from one client lasts no longer than one that takes a share from each.
DRAIN_BYTES = 256 * 1024
DRAIN_BYTES_MIN = 16 * 1024  # of one lane; who holds less does not flood
GATHER_ROUNDS = 4  # looks at the lanes between the first submission and the fsync


class _Run:
    """Collects the answers to submissions that lie back to back and are alike: one completion slot for all."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._last = self._first_index = self._next_index = self._count = self._term = 0

    def add(self, sequence: int, first_index: int, count: int, term: int) -> None:
        """One more appended batch."""
        if first_index != self._next_index or count != self._count or term != self._term:
            self.close()
            self._first_index, self._count, self._term = first_index, count, term
        self._last, self._next_index = sequence, first_index + count

    def add_singles(self, sequence: int, first_index: int, batches: int, term: int) -> None:
        """Several appended batches of one entry each; ``sequence`` is the last one's."""
        self.add(sequence, first_index, 1, term)
        self._next_index += batches - 1

    def close(self) -> None:
        """The next answer is of another kind, or a publish may come: a run never reaches across one."""
        if self._last:
            self._peer.answers.append((self._last, layout.OK, self._first_index, self._count, self._term, 0))
            self._last = self._next_index = 0


class Intake:
    """The first half of the writer's round: what the lanes hold becomes records of the journal, and answers.

    ``make_room()`` is called when the journal has no room: it flushes and returns True if there may be room now.
    """

    def __init__(self, journal: Journal, sessions: Sessions, make_room: Callable[[], bool]) -> None:
        self.journal, self.sessions, self._make_room = journal, sessions, make_room
        self.control, self.config = journal.control, journal.config
        self.entry_limit = self.config.entry_bytes_limit
        self.term_floor = max(journal.manifest.term_floor, 1)
        self.blocked = False  # a submission waits for room
        self.reserve = Reserve(journal)
        self.oldest = 0.0  # when the oldest unflushed entry arrived
        self.owing: list[Peer] = []  # peers with answers that wait for a publish
        self.orders = Orders(journal, self._find_room)
        self.resent = 0
        self._takes_turns = self.config.strategy == PersistenceStrategy.MEM_FIRST  # DiskFirst: all share one sync
        self._polite_round = False
        self.pacing = Pacing(journal)

    def waiting(self) -> bool:
        """The sleeper's re-check: whether a lane holds more than was taken (SEQ_CST loads).

        A lane whose next submission is known to wait for room counts again when the durable frontier has risen: to
        look at it before would be in vain, and the sleeper would never sleep.  What comes behind it waits behind it.
        """
        durable = self.journal.durable
        for peer in self.sessions.clients:
            lane = peer.lane
            if lane is not None and lane.tail.load(shm.SEQ_CST) != lane.head and peer.blocked != (lane.head, durable):
                return True
        return False

    def count_waiting(self) -> int:
        """Clients whose lane holds more than was taken."""
        # RELAXED: a mere estimate; nothing is read from the lanes, and who submits right now may or may not count.
        return sum(p.lane is not None and p.lane.tail.load(shm.RELAXED) != p.lane.head for p in self.sessions.clients)

    def bytes_waiting(self) -> int:
        """How much the lanes hold beyond what was taken; an estimate as :meth:`count_waiting`."""
        found = 0
        for peer in self.sessions.clients:
            lane = peer.lane
            if lane is not None:
                found += lane.tail.load(shm.RELAXED) - lane.head
        return found

    def count_active(self) -> int:
        """Clients of which anything was taken since the last call."""
        active = 0
        for peer in self.sessions.clients:
            active += peer.next_sequence != peer.counted_sequence
            peer.counted_sequence = peer.next_sequence
        return active

    def drain(self) -> bool:
        """Take what the lanes hold, round robin with a byte budget; True if anything was taken."""
        moved, clients = False, self.sessions.clients
        self.reserve.look(len(clients))
        full, empty = self._whose_turn()
        self.blocked = self.blocked and self._polite_round  # who waits for room is not among the polite
        if not full:
            return False
        share = max(DRAIN_BYTES // len(full), DRAIN_BYTES_MIN)
        limit = self.pacing.limit()
        for peer, lane, tail in full:
            if peer.lane is not lane:
                continue  # dropped since, when another was
            if not 0 < tail - lane.head <= lane.lane_bytes:
                self.sessions.drop_bad(peer, f"lane cursor {tail} out of range")
                continue
            most = share
            if limit is not None and tail - lane.head >= DRAIN_BYTES_MIN and floods(lane, tail):
                left = limit - self.journal.end
                if left <= 0:
                    self.blocked, peer.blocked = True, (lane.head, self.journal.durable)
                    continue
                most = min(share, max(left, DRAIN_BYTES_MIN))
            moved |= self._take(peer, lane, tail, most)
            # RELAXED: a mere hint; the round that it makes room for looks again.
            if empty and any(other.tail.load(shm.RELAXED) != other.head for other in empty):
                break
        if self._polite_round:
            return moved or self.drain()  # in vain: those who flood need not wait for it
        if len(clients) > 1:
            clients.append(clients.pop(0))  # the next round starts with the next lane
        return moved

    def _whose_turn(self) -> tuple[list[tuple[Peer, LaneConsumer, int]], list[LaneConsumer]]:
        """The lanes of this round, each with its cursor, and those that end it early if something comes into them.

        Where some flood, a round is a matter of milliseconds.  So under MemFirst the others have every second one for
        themselves, and it begins as soon as one of the flooded lanes was looked at.
        """
        full: list[tuple[Peer, LaneConsumer, int]] = []
        empty: list[LaneConsumer] = []
        for peer in self.sessions.clients:
            lane = peer.lane
            if lane is not None:
                tail = lane.tail.load(shm.ACQUIRE)  # pairs with the client's store: the bytes below it are there
                if tail != lane.head:
                    full.append((peer, lane, tail))
                else:
                    empty.append(lane)
        polite = full
        if self._takes_turns and len(full) > 1:
            durable = self.journal.durable
            polite = [
                (peer, lane, tail) for peer, lane, tail in full
                if tail - lane.head < DRAIN_BYTES_MIN and peer.blocked != (lane.head, durable)
            ]  # fmt: skip
        self._polite_round = 0 < len(polite) < len(full) and not self._polite_round
        if self._polite_round:
            return polite, []
        return full, empty if len(polite) < len(full) else []

    def drain_last(self, peer: Peer) -> None:
        """The peer hung up: what it had submitted before is taken, as far as there is room."""
        lane = peer.lane
        if lane is not None:
            tail = lane.tail.load(shm.ACQUIRE)
            while 0 < tail - lane.head <= lane.lane_bytes and peer.lane is not None:
                if not self._take(peer, lane, tail, DRAIN_BYTES):
                    return

    def _take(self, peer: Peer, lane: LaneConsumer, tail: int, share: int) -> bool:
        """Execute submissions of one lane from a private copy of its bytes; True if any was taken."""
        start, journal = lane.head, self.journal
        chunk = lane.copy(start, min(tail, start + share))
        at, size = 0, len(chunk)
        if journal.next_index == journal.durable_index + 1:
            self.oldest = wakeup.now()
        self.owing.append(peer)
        if start + size == tail and self._take_one(peer, chunk, size):
            lane.head = tail
            return True
        run = _Run(peer)
        while at + SUBMISSION_BYTES <= size:
            fields = SUBMISSION.unpack_from(chunk, at)
            length, kind, flags, count, body_crc, term, sequence, _, _ = fields
            end = at + SUBMISSION_BYTES + length
            if end > size:
                if start + end > tail:
                    self.sessions.drop_bad(peer, f"submission of {length} bytes ends beyond the lane's cursor")
                    break
                if at > 0:
                    break  # the rest comes in the next round
                chunk = lane.copy(start, start + end)
                size = len(chunk)
            if sequence != peer.next_sequence:
                self.sessions.drop_bad(peer, f"sequence {sequence} where {peer.next_sequence} was due")
                break
            if count == 1 and kind == layout.SUBMIT_APPEND and sequence > peer.resumed_until:
                end = self._take_singles(peer, run, chunk, at, flags, term)
                if end > at:
                    at = end
                    continue
                end = at + SUBMISSION_BYTES + length
            # A batch, a repetition, no room, or not acceptable: the careful way.
            run.close()
            source: Any = chunk if length < VIEW_BYTES else memoryview(chunk)
            if self.reserve.divided:
                self.reserve.enter(peer)
                answer = self._execute(peer, fields, source[at + SUBMISSION_BYTES : end])
                self.reserve.leave(peer)
            else:
                answer = self._execute(peer, fields, source[at + SUBMISSION_BYTES : end])
            if answer is None:
                # No room now: it stays in the lane, nothing is lost or dropped.
                self.blocked, peer.blocked = True, (start + at, journal.durable)
                break
            peer.answers.append(answer)
            peer.next_sequence += 1
            at = end
        run.close()
        if self.owing[-1:] != [peer]:  # room was made, and with it everybody answered, before the last of these
            self.owing.append(peer)
        lane.head = start + at
        if 0 < tail - lane.head < SUBMISSION_BYTES and peer.lane is not None:
            self.sessions.drop_bad(peer, f"lane cursor {tail} ends inside a submission")
        return at > 0

    def _take_one(self, peer: Peer, chunk: bytes, size: int) -> bool:
        """The straight way: a lane that holds one entry, with no term given, and no question to ask.

        Who appends one at a time is here each time, after a wait for the disk and so on cold caches: what counts is
        how little is touched.  False, and nothing done: :meth:`_take_singles`, or :meth:`_execute`, finds out.
        """
        if not SUBMISSION_BYTES <= size < VIEW_BYTES:
            return False
        journal, sequence = self.journal, peer.next_sequence
        length, kind, flags, count, body_crc, _, number, _, _ = SUBMISSION.unpack_from(chunk)
        room, entries = journal.room()
        if (
            SUBMISSION_BYTES + length != size or number != sequence or sequence <= peer.resumed_until
            or kind != layout.SUBMIT_APPEND or flags or count != 1 or length > self.entry_limit
            or room < fmt.RECORD_BYTES + length or entries < 1 or journal.hard.term or journal.failure is not None
        ):  # fmt: skip
            return False
        body = chunk[SUBMISSION_BYTES:]
        if crc32c(body) != body_crc:
            return False
        term = max(journal.last_term, self.term_floor)
        index = journal.append(body, body_crc, 1, term, peer.producer, sequence)
        peer.answers.append((sequence, layout.OK, index, 1, term, 0))
        peer.next_sequence = sequence + 1
        return True

    def _take_singles(self, peer: Peer, run: _Run, chunk: bytes, at: int, flags: int, term: int) -> int:
        """The short way: submissions of one entry each that need no question asked, as far as they lie in a row.

        ``flags`` and ``term`` are those that the first of them says.  Returns where the first lies that is none of
        these; :meth:`_execute` finds out what it is.
        """
        journal, hard = self.journal, self.journal.hard.term
        if journal.failure is not None:
            return at
        room, count = journal.room()
        first = sequence = peer.next_sequence
        unpack, crc, head, size = SUBMISSION.unpack_from, crc32c, SUBMISSION_BYTES, len(chunk)
        longest, append, extra = self.entry_limit, layout.SUBMIT_APPEND, fmt.RECORD_BYTES
        bodies: list[bytes] = []
        crcs: list[int] = []
        given_first = term
        if not flags and not hard:
            term = max(journal.last_term, self.term_floor)
        elif flags != FLAG_TERM_GIVEN or not journal.last_term <= term >= hard or not 0 < term <= layout.TERM_MAX:
            return at
        while at + head <= size and count > 0:
            length, kind, mark, entries, body_crc, given, number, _, _ = unpack(chunk, at)
            end = at + head + length
            room -= extra + length
            if (
                end > size or room < 0 or number != sequence or kind != append or entries != 1 or length > longest
                or mark != flags or given != given_first
            ):  # fmt: skip
                break
            body: Any = chunk[at + head : end] if length < VIEW_BYTES else memoryview(chunk)[at + head : end]
            if crc(body) != body_crc:
                break
            bodies.append(body)
            crcs.append(body_crc)
            sequence += 1
            count -= 1
            at = end
        if len(bodies) > 1:
            index = journal.append_singles(bodies, crcs, term, peer.producer, first)
            run.add_singles(sequence - 1, index, len(bodies), term)
        elif bodies:
            run.add(first, journal.append(bodies[0], crcs[0], 1, term, peer.producer, first), 1, term)
        peer.next_sequence = sequence
        return at

    def _execute(self, peer: Peer, fields: tuple[int, ...], body: bytes) -> Completion | None:
        """Decide one submission; None if there is no room for it now."""
        _, kind, flags, count, body_crc, term, sequence, _, _ = fields
        journal = self.journal
        if sequence <= peer.resumed_until:
            verdict, outcome = journal.producers.look_up(peer.producer, sequence)
            if verdict == APPENDED and outcome is not None and (
                journal.failure is None or outcome[0] <= journal.published_index
            ):
                self.resent += 1
                self.control.resent.store(self.resent, shm.RELAXED)
                if kind != layout.SUBMIT_APPEND:
                    return self.orders.done(sequence)
                return sequence, layout.OK, outcome[0], outcome[1], outcome[2], 0
            if verdict == FORGOTTEN:
                return sequence, layout.UNKNOWN, 0, 0, 0, 0
        if journal.failure is not None:
            return sequence, layout.SYNC_FAILED, 0, 0, 0, journal.failure.errno or 0
        if flags > FLAG_TERM_GIVEN or (flags and not 0 < term <= layout.TERM_MAX):
            return sequence, layout.MALFORMED, 0, 0, 0, 0
        if kind != layout.SUBMIT_APPEND:
            return self.orders.execute(fields, body, peer.producer)
        refusal = self._refusal(count, body, body_crc)
        if refusal is not None:
            return sequence, refusal[0], 0, 0, 0, refusal[1]
        if flags & FLAG_TERM_GIVEN:
            current = max(journal.last_term, journal.hard.term)
            if term < current:
                return sequence, layout.STALE_TERM, 0, 0, current, 0
        elif journal.hard.term:
            return sequence, layout.TERM_REQUIRED, 0, 0, journal.last_term, 0
        else:
            term = max(journal.last_term, self.term_floor)
        return self._append(body, body_crc, count, term, peer.producer, sequence)

    def _append(
        self, body: bytes, body_crc: int, count: int, term: int, producer: int, sequence: int
    ) -> Completion | None:
        journal = self.journal
        try:
            if not journal.fits(len(body), count) and not self._find_room():
                return None
            if journal.needs_roll(len(body), count):
                journal.roll(len(body), count)
        except errors.SyncFailed as failed:
            return sequence, layout.SYNC_FAILED, 0, 0, 0, failed.errno or 0
        except errors.DiskFull as full:
            return sequence, layout.DISK_FULL, 0, 0, 0, full.errno or 0
        first = journal.append(body, body_crc, count, term, producer, sequence)
        return sequence, layout.OK, first, count, term, 0

    def _find_room(self) -> bool:
        self.pacing.found_full()
        return self._make_room()

    def _refusal(self, count: int, body: bytes, body_crc: int) -> tuple[int, int] | None:
        """Why the copy of a submission is not acceptable, as (status, detail); None if it is."""
        if count < 1 or crc32c(body) != body_crc:
            return layout.MALFORMED, 0
        limit = self.entry_limit
        if count == 1:
            return (layout.TOO_LARGE, limit) if len(body) > limit else None
        if len(body) > self.config.batch_bytes_limit:
            return layout.TOO_LARGE, self.config.batch_bytes_limit
        longest = even_length(body, count) if count >= EVEN_FROM else None
        if longest is None:
            try:
                longest = max(map(len, unpack_body(body, count)))
            except ValueError:
                return layout.MALFORMED, 0
        return (layout.TOO_LARGE, limit) if longest > limit else None
