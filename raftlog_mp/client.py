"""The client: puts submissions into its lane, reads the answers, survives the writer's death.

Exactly once: every submission keeps its sequence until its answer was read.  After a reconnect the client
sends again, in order, whatever has no answer; the writer's table tells what is in the log already.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from crc32c import crc32c

from . import errors, layout, shm, wakeup
from .answers import Answer, closed_early, no_answer, refusal
from .arguments import Payload, check_payloads, too_large
from .bodies import pack_body
from .lane import LaneProducer
from .layout import FLAG_TERM_GIVEN, SUBMISSION, WANTS_ANSWERS, WANTS_PROGRESS
from .link import Link
from .straight import Straight, Submit, straight_submit, straight_way
from .ticket import Ticket
from .wakeup import deadline_of

T = TypeVar("T")


class Client:
    """The producing half of a handle.  Safe to use from several threads."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._limits: tuple[Any, int, int] = (None, 0, 0)  # view, bytes of an entry, bytes of a batch
        self._start_over()
        link.hello_fields = self._hello_fields
        link.on_connect = self._on_connect
        link.on_lost = self._on_lost
        link.on_fork = self._start_over

    def _start_over(self) -> None:
        """A new producer with nothing in flight: at the start, and in a forked child."""
        self._lock = threading.RLock()
        self._producer = wakeup.random_u64()
        self._next_sequence = 1
        self._seen = 0  # completion slots of this lane that were read
        self._resume_at = 0  # the index at which the next goes on, if an exception ended the reading amid its tickets
        self._pending: deque[Ticket[Any]] = deque()
        self._lane: LaneProducer | None = None
        self._straight: Straight | None = None  # of this lane
        self.submit_one: Submit | None = None

    # ------------------------------------------------------------ submitting
    def append(self, payloads: Iterable[Payload], term: int | None, timeout: float | None) -> range:
        """Append one batch and wait for its answer."""
        entries = check_payloads(payloads)
        straight, count = self._straight, len(entries)  # now: what gives the payloads may do anything, even fork
        # `pending` without the lock is a guess, which saves packing twice.
        if straight is not None and count and not self._pending and (
            count == 1 or max(map(len, entries)) <= self.limits(timeout)[0]
        ):  # fmt: skip
            deadline = deadline_of(timeout)
            ticket = straight(pack_body(entries), count, term, deadline)
            if ticket is not None:
                return self._finish(ticket, deadline)
        ticket = self.submit(entries, term, timeout)
        return self._finish(ticket, deadline_of(timeout))

    def append_one(self, payload: bytes, timeout: float | None) -> range:
        """:meth:`append` of one entry, with the last entry's term."""
        straight = self._straight
        if straight is not None:
            deadline = deadline_of(timeout)
            ticket = straight(payload, 1, None, deadline)
            if ticket is not None:
                if ticket._done and ticket._error is None:
                    return ticket._value
                return self._finish(ticket, deadline)
        ticket = self.submit([payload], None, timeout)
        return self._finish(ticket, deadline_of(timeout))

    def _finish(self, ticket: Ticket[T], deadline: float) -> T:
        if not ticket._done:
            self.await_ticket(ticket, deadline)
        if ticket._error is not None:
            raise ticket._error
        return ticket._value

    def submit(self, payloads: Iterable[Payload], term: int | None, timeout: float | None) -> Ticket[range]:
        """Put one batch into the lane.  :class:`Backpressure` after ``timeout`` seconds: surely not appended."""
        entries = check_payloads(payloads)
        ticket: Ticket[range] = Ticket(self, self._link.era)
        if not entries:
            ticket._value, ticket._done = range(0), True
            return ticket
        count = len(entries)
        entry_limit, batch_limit = self.limits(timeout)
        if count == 1:
            body = entries[0]
            if len(body) > entry_limit:
                raise too_large("entry", len(body), entry_limit)
        else:
            longest = max(map(len, entries))
            if longest > entry_limit:
                raise too_large("entry", longest, entry_limit)
            body = pack_body(entries)
            if len(body) > batch_limit:
                raise too_large("batch", len(body), batch_limit)
        flags = 0 if term is None else FLAG_TERM_GIVEN
        head = (flags, count, crc32c(body), term or 0)
        self.put(ticket, head, body, 0, 0, timeout)
        return ticket

    def put(self, ticket: Ticket[Any], head: tuple[int, int, int, int], body: bytes, a: int, b: int,
            timeout: float | None) -> None:  # fmt: skip
        """Put a submission (``head``: flags, count, crc, term) into the lane; :class:`Backpressure` at the timeout."""
        deadline = 0.0
        flags, count, crc, term = head
        if ticket._kind in layout.BRINGS_ENTRIES and self._pressed():
            deadline = deadline_of(timeout)
            self._wait_for_relief(deadline)
        length = layout.SUBMISSION_BYTES + len(body)
        while True:
            with self._lock:
                lane = self._lane
                if lane is not None and not self._link.stopped() and self._has_room(lane, length):
                    ticket.sequence = sequence = self._next_sequence
                    ticket._head = SUBMISSION.pack(len(body), ticket._kind, flags, count, crc, term, sequence, a, b)
                    # Python lets signals in at calls: between the next line and `pending` is none.  A sequence that is
                    # taken and not pending would be missed by the writer for ever.
                    if sequence != self._next_sequence or lane is not self._lane:
                        continue  # a signal's handler was here
                    ticket._body, ticket._cursor = body, lane.tail + length
                    self._next_sequence = sequence + 1
                    self._pending.append(ticket)
                    lane.put(ticket._head, body)
                    break
            deadline = deadline or deadline_of(timeout)
            if lane is None or self._link.stopped():
                self._link.look()  # notices the end, so that connecting, and its reason, come next
                if lane is not None:
                    self._wait_for_hang_up(lane, deadline)
                self._link.ensure(deadline)
            else:
                self._wait_for_room(length, deadline)
        self._link.ring_writer()

    def ask(self, kind: int, head: tuple[int, int, int, int], body: bytes, a: int, b: int,
            timeout: float | None, meaning: Callable[[Answer], T]) -> T:  # fmt: skip
        """Have the writer execute a submission that is no append; the ``meaning`` of its answer.

        Raises the reason if it was refused (but for a mismatch), :class:`AppendTimeout` if the outcome is unknown.
        """
        ticket = Ticket(self, self._link.era, kind, meaning)
        _, batch_limit = self.limits(timeout)
        if len(body) > batch_limit + layout.ENTRY_RUN_BYTES * head[1]:
            raise too_large("batch", len(body), batch_limit)
        self.put(ticket, head, body, a, b, timeout)
        return self._finish(ticket, deadline_of(timeout))

    def limits(self, timeout: float | None) -> tuple[int, int]:
        """Bytes that an entry, and a batch, may have at most."""
        view = self._link.view
        if view is None or view is not self._limits[0]:
            view = view or self._link.ensure(deadline_of(timeout))
            self._limits = (view, view.config.entry_bytes_limit, view.config.batch_bytes_limit)
        return self._limits[1:]

    def _has_room(self, lane: LaneProducer, length: int) -> bool:
        """Whether a submission fits now (the lock is held)."""
        if len(self._pending) < layout.COMPLETION_SLOTS and lane.room(length):
            return True
        self._reap()
        if not self._pending:
            lane.freed = lane.tail  # all was answered, also if an exception kept the last reaping from saying so
        return len(self._pending) < layout.COMPLETION_SLOTS and lane.room(length)

    def _pressed(self) -> bool:
        """Whether the writer asks for no more entries: hard memory pressure, told in shared memory."""
        view = self._link.view
        # SEQ_CST: as the sleeper's re-check it must not pass the store of the sleep flag before it.
        return view is not None and view.control.pressure_level.load(shm.SEQ_CST) >= layout.LEVEL_HARD

    def _wait_for_relief(self, deadline: float) -> None:
        if not self._link.wait(lambda: not self._pressed(), deadline, layout.WANTS_PROGRESS):
            view = self._link.view
            hint = view.control.retry_after_ms.load(shm.RELAXED) if view is not None else 0
            raise errors.Backpressure(
                "memory is short (level hard), and new entries were not taken in time: surely not appended. Try again "
                f"in {hint} ms, or wait_for_room(); what the writer saw is in stats() and `raftlog-mp stat`.",
                level="hard", retry_after_ms=hint,
            )  # fmt: skip

    def wait_for_room(self, timeout: float | None) -> None:
        """Until an append would find room.  :class:`LogTimeout` when ``timeout`` seconds are over."""
        deadline = deadline_of(timeout)
        entry_limit, _ = self.limits(timeout)

        def roomy() -> bool:
            with self._lock:
                lane = self._lane
                room = lane is not None and self._has_room(lane, layout.SUBMISSION_BYTES + entry_limit)
            return room and not self._pressed()

        if not self._link.wait(roomy, deadline, WANTS_ANSWERS | layout.WANTS_PROGRESS):
            level = "hard memory pressure" if self._pressed() else "a full lane"
            raise errors.LogTimeout(f"no room in {self._link.directory} in time: {level}; nothing was appended")

    def _wait_for_hang_up(self, lane: LaneProducer, deadline: float) -> None:
        """Of a writer that has stopped: its last step, in which something may hold it up."""
        if not self._link.wait(lambda: self._lane is not lane, deadline, WANTS_PROGRESS):
            raise errors.WriterUnavailable(
                f"the writer of {self._link.directory} was stopped on purpose and did not hang up in time; nothing was "
                "appended by this call"
            )

    def _wait_for_room(self, length: int, deadline: float) -> None:
        def roomy() -> bool:
            with self._lock:
                return self._lane is None or self._has_room(self._lane, length)

        if not self._link.wait(roomy, deadline, WANTS_ANSWERS):
            view = self._link.view
            level = layout.LEVEL_NAMES.get(view.control.pressure_level.load(shm.RELAXED), "none") if view else "none"
            raise errors.Backpressure(
                "this handle's lane is full and the writer did not empty it in time: surely not appended. "
                "Submit less at once, wait longer, or find out with stats() why the writer is slow.",
                level=level, retry_after_ms=100,
            )  # fmt: skip

    # ------------------------------------------------------------ answers
    def poll(self, ticket: Ticket[Any]) -> bool:
        """Take the answers that have arrived; whether this ticket's is among them."""
        self._check_era(ticket)
        lane = self._lane
        # SEQ_CST: as the sleeper's re-check it must not pass the store of the sleep flag before it; it also
        # ACQUIREs the completion slots written before `done`.
        if lane is not None and not ticket._done and lane.done.load(shm.SEQ_CST) > self._seen:
            with self._lock:
                self._reap()
        return ticket._done

    def _reap(self) -> None:
        """Read the completion slots that were posted; each answers a run of sequences (the lock is held)."""
        lane = self._lane
        if lane is None:
            return
        done = lane.done.load(shm.SEQ_CST)
        if done == self._seen:
            return
        pending, ticket, slot, first = self._pending, None, self._seen, 0
        slots = range(slot, done)
        try:
            for slot in slots:
                first = 0
                last, status, first, count, term, detail = lane.completion(slot)
                first, self._resume_at = self._resume_at or first, 0
                while pending and pending[0].sequence <= last:
                    ticket = pending[0]
                    if ticket._meaning is None and status == layout.OK:
                        ticket._value = range(first, first + count)
                        first += count
                    elif ticket._meaning is not None and status in (layout.OK, layout.MISMATCH):
                        ticket._value = ticket._meaning((status, first, count, term, detail))
                    else:
                        ticket._error = self._refusal(ticket, (status, first, count, term, detail))
                    ticket._body = b""
                    ticket._done = True
                    pending.popleft()
        except BaseException:
            # A signal, let in at a call: not between `first += count` and popleft(), so who comes next goes on here.
            self._seen, self._resume_at = slot, first or self._resume_at
            raise
        self._seen = done
        if ticket is not None:
            lane.reap(ticket.sequence, ticket._cursor)

    def _refusal(self, ticket: Ticket[Any], answer: Answer) -> errors.RaftLogError:
        given = SUBMISSION.unpack(ticket._head)[5] or None
        return refusal(answer, self._link.directory, ticket._kind, given)

    def await_ticket(self, ticket: Ticket[Any], deadline: float) -> None:
        """Wait for the answer to a ticket."""
        try:
            if self._link.wait(lambda: self.poll(ticket), deadline, WANTS_ANSWERS):
                return
            why: Exception | None = None
        except errors.LogClosed:
            if ticket._era != self._link.era:
                raise
            raise errors.LogClosed(closed_early(ticket._kind)) from None
        except errors.ConfigError:
            raise
        except errors.RaftLogError as error:  # no writer can serve this log any more; the ticket may still resolve
            why = error
        raise errors.AppendTimeout(no_answer(ticket._kind, self._link.directory, why), ticket=ticket) from why

    def _check_era(self, ticket: Ticket[Any]) -> None:
        if ticket._era != self._link.era:
            raise errors.LogClosed(
                "this ticket belongs to the parent of this forked process; only the parent can wait on it"
            )

    # ------------------------------------------------------------ connection
    def _hello_fields(self) -> dict[str, Any]:
        with self._lock:
            first = self._pending[0].sequence if self._pending else self._next_sequence
            room = sum(layout.SUBMISSION_BYTES + len(ticket._body) for ticket in self._pending)
            return {
                "producer": self._producer, "first_unresolved": first, "highest_sent": self._next_sequence - 1,
                "lane_bytes": room,
            }  # fmt: skip

    def _on_connect(self, lane: LaneProducer) -> None:
        """Send again, in order and under the old sequences, whatever has no answer."""
        with self._lock:
            self._lane = lane
            self._seen = self._resume_at = 0
            for ticket in self._pending:
                ticket._cursor = lane.put(ticket._head, ticket._body)
            self._straight = straight_way(self, self._link, lane)
            self.submit_one = straight_submit(self, self._link, lane)

    def _on_lost(self) -> None:
        """The connection ended.  Answers that were posted before are still in the old lane: they count."""
        with self._lock:
            self._reap()
            self._lane = self._straight = self.submit_one = None

    def close(self) -> None:
        """Let go of the writer's view; tickets without an answer stay without one."""
        self._limits = (None, 0, 0)

    # ------------------------------------------------------------ durability
    def flush(self, deadline: float) -> None:
        """Return once everything visible now, and everything this handle has submitted, is fsynced."""
        with self._lock:
            last = self._next_sequence - 1
            idle = not self._pending
        target, last_index, seen = [0], [0], [self._link.view]
        if idle and seen[0] is not None and self._link.stopped():
            control = seen[0].control  # stopped on purpose: it flushed before it said so
            if control.durable.load(shm.ACQUIRE) >= control.published.load(shm.ACQUIRE):
                return

        def durable() -> bool:
            view = self._link.view
            if view is None or not self._link.connected:
                return False
            with self._lock:
                self._reap()
                if self._pending and self._pending[0].sequence <= last:
                    return False  # DiskFirst: what is not published yet waits for the flush, too
            control = view.control
            if target[0] and view is not seen[0] and control.began_at.load(shm.RELAXED) < target[0]:
                raise errors.Truncated(
                    "entries that were visible when flush() was called are gone: the memory that held them was lost "
                    f"with the writer; the log ends at index {control.last_index.load(shm.ACQUIRE)}",
                    last_index=control.last_index.load(shm.ACQUIRE),
                )
            if not target[0]:
                target[0], last_index[0] = control.published.load(shm.ACQUIRE), control.last_index.load(shm.SEQ_CST)
            seen[0] = view
            # The second word follows the first, and the caller may look at it next.  A truncation lowers it for good.
            if control.durable.load(shm.SEQ_CST) >= target[0] and (
                control.durable_index.load(shm.SEQ_CST) >= min(last_index[0], control.last_index.load(shm.SEQ_CST))
            ):
                return True
            check_failed(view)
            return False

        while True:
            self._link.ensure(deadline)
            self._link.send(op="flush")
            # After a restart the request is sent again; it only asks for what the writer does sooner or later.
            wants = WANTS_ANSWERS | WANTS_PROGRESS
            if self._link.wait(durable, min(deadline, wakeup.now() + 1.0), wants):
                return
            if wakeup.now() >= deadline:
                raise errors.LogTimeout("flush: the disk did not confirm in time; the flush goes on, nothing is lost")


def check_failed(view: Any) -> None:
    """Raise :class:`SyncFailed` if the writer latched a failure."""
    if view.control.state.load(shm.SEQ_CST) == layout.STATE_FAILED:
        raise errors.SyncFailed(
            "the disk failed under the writer; the log is read-only. What was acknowledged stays readable; "
            "check the disk, then restart the writer: it re-reads everything."
        )
