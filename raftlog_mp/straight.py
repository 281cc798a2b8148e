"""The straight way of an append: nothing else of the handle is under way, and a writer is there.

After a wait for the disk the caches are cold, and what an append costs is how much of Python it touches: each function,
each object that it goes through.  Four clients on two cores, one append at a time, computed 64 to 82 us an append on
the general way.  So the common case is one function over bound names; at the first thing that is not as usual it leaves
the rest to the general way, with nothing done, or with a ticket like any other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from crc32c import crc32c

from . import layout, shm, wakeup
from .layout import FLAG_TERM_GIVEN, SUBMISSION
from .ticket import Ticket

if TYPE_CHECKING:
    from .client import Client
    from .lane import LaneProducer
    from .link import Link

Straight = Callable[[bytes, int, int | None, float], Ticket[range] | None]
Submit = Callable[[bytes], Ticket[range] | None]


def straight_way(client: Client, link: Link, lane: LaneProducer) -> Straight | None:
    """``way(body, count, term, deadline)`` for one connection: its ticket, or None if nothing was done.

    The ticket may wait still: then the general way goes on, until the same deadline.  Of a batch the caller has
    compared its longest entry with the limit.
    """
    view, sock, sleeper = link.view, link._sock, link._sleeper
    if view is None or sock is None or sleeper is None:
        return None
    control = view.control
    state, pressure, asleep, spin_ns = (
        control.state.load, control.pressure_level.load, control.writer_sleeping.load, control.spin_ns.load,
    )  # fmt: skip
    lock, pending, done, completion = client._lock, client._pending, lane.done.load, lane.completion
    entry_limit, batch_limit = view.config.entry_bytes_limit, view.config.batch_bytes_limit
    ring, alone, heard, era = wakeup.ring_bell, link._waiters.alone, link._heard, link.era

    def way(body: bytes, count: int, term: int | None, deadline: float) -> Ticket[range] | None:
        length = layout.SUBMISSION_BYTES + len(body)
        # The level SEQ_CST, as in Client._pressed.  The state is a mere hint, so RELAXED: what goes into the lane of a
        # writer that has just stopped stays pending, and its hang-up tells.  `pending` without the lock is a guess,
        # which saves the work that follows; the lock tells.
        if (
            pending or len(body) > (entry_limit if count == 1 else batch_limit)
            or pressure(shm.SEQ_CST) >= layout.LEVEL_HARD or state(shm.RELAXED) != layout.STATE_RUNNING
        ):  # fmt: skip
            return None
        sequence = client._next_sequence
        flags, given = (0, 0) if term is None else (FLAG_TERM_GIVEN, term)
        ticket: Ticket[range] = Ticket(client, era)
        ticket.sequence, ticket._body = sequence, body
        ticket._head = SUBMISSION.pack(
            len(body), layout.SUBMIT_APPEND, flags, count, crc32c(body), given, sequence, 0, 0
        )
        with lock:
            # Under the lock the lane can be exchanged by nobody, and nobody else submits.  As in Client.put: no call
            # between the look and `pending`, so no signal comes between them.
            if (
                client._lane is not lane or client._next_sequence != sequence or pending
                or lane.tail + length - lane.freed > lane.lane_bytes
            ):  # fmt: skip
                return None
            seen, ticket._cursor = client._seen, lane.tail + length
            client._next_sequence = sequence + 1
            pending.append(ticket)  # from here on a writer's death, or an exception, finds it as any other ticket
            lane.put(ticket._head, body)
        # SEQ_CST load after the SEQ_CST store of the lane's cursor: see Link.ring_writer.
        if asleep(shm.SEQ_CST):
            ring(sock)
        alone(done, seen, spin_ns(shm.RELAXED) and link._spin_seconds(layout.WANTS_ANSWERS), deadline, sleeper, lane,
              sock, heard)  # fmt: skip
        posted = done(shm.SEQ_CST)  # also ACQUIREs the completion slots written before it
        if posted == seen:
            return ticket
        with lock:
            if posted == seen + 1 and client._seen == seen and client._lane is lane and not client._resume_at:
                last, status, first, each, _, _ = completion(seen)
                if last == sequence and status == layout.OK:
                    ticket._value = range(first, first + each)
                    lane.reap(sequence, ticket._cursor)
                    # As in Client._reap, no call between these: until the last of them, the slot is read again.
                    ticket._body, ticket._done, client._seen = b"", True, posted
                    pending.popleft()  # ours: nothing was pending before it, and it has the lowest sequence
                    return ticket
            client._reap()
        return ticket

    return way


def straight_submit(client: Client, link: Link, lane: LaneProducer) -> Submit | None:
    """``submit(body)`` for one connection: the ticket of one entry put into the lane, or None if nothing was done.

    For who does not wait: others of the handle may be under way.
    """
    view, sock = link.view, link._sock
    if view is None or sock is None:
        return None
    state, pressure, asleep = (
        view.control.state.load, view.control.pressure_level.load, view.control.writer_sleeping.load,
    )  # fmt: skip
    lock, pending, limit = client._lock, client._pending, view.config.entry_bytes_limit
    ring, era = wakeup.ring_bell, link.era

    def submit(body: bytes) -> Ticket[range] | None:
        size = len(body)
        length = layout.SUBMISSION_BYTES + size
        # Level and state as in `way`.
        if size > limit or pressure(shm.SEQ_CST) >= layout.LEVEL_HARD or state(shm.RELAXED) != layout.STATE_RUNNING:
            return None
        ticket: Ticket[range] = Ticket(client, era)
        crc = crc32c(body)
        with lock:
            sequence = client._next_sequence
            ticket.sequence, ticket._body = sequence, body
            ticket._head = SUBMISSION.pack(size, layout.SUBMIT_APPEND, 0, 1, crc, 0, sequence, 0, 0)
            waiting = len(pending)
            # As in Client.put: no call between this look and `pending`, so no signal comes between them.
            if (
                client._lane is not lane or client._next_sequence != sequence or waiting >= layout.COMPLETION_SLOTS
                or lane.tail + length - lane.freed > lane.lane_bytes
            ):  # fmt: skip
                return None
            ticket._cursor = lane.tail + length
            client._next_sequence = sequence + 1
            pending.append(ticket)
            lane.put(ticket._head, body)
        # SEQ_CST load after the SEQ_CST store of the lane's cursor: see Link.ring_writer.
        if asleep(shm.SEQ_CST):
            ring(sock)
        return ticket

    return submit
