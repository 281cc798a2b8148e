"""The straight way of the writer's round: each lane that holds anything holds one plain entry, and nothing else is due.

Who appends one at a time meets the writer after a wait for the disk, on caches that have gone cold: between two syncs
it is the amount of Python that counts, each function and each object that is touched.  So the common round is a few
functions over bound names (``docs/performance.md`` has the figures).  Nothing is changed before every entry is known
to be acceptable; at the first thing that is not as usual the lanes are left as they were, to the general way.

The steps and their order are those of ``Intake``, ``Pipeline`` and ``Completions``, which say why it is safe.
"""

from __future__ import annotations

from collections.abc import Callable

from crc32c import crc32c

from . import format as fmt
from . import layout, shm, wakeup
from .completions import Completions
from .config import Adaptive, Batch
from .grouping import Grouping
from .index import pack_slot
from .intake import GATHER_ROUNDS, VIEW_BYTES, Intake
from .lane import LaneConsumer
from .layout import FLAG_TERM_GIVEN, SUBMISSION, SUBMISSION_BYTES
from .pressure import NONE
from .relief import Relief
from .sessions import Peer
from .types import PersistenceStrategy

# In the order of their indexes: peer, lane, the sequence of its submission, and where in the lane that lay.
Taken = list[tuple[Peer, LaneConsumer, int, int]]
Group = tuple[Taken, bytes, bytes]  # what was taken, and its records and index slots, which are not in the log yet
Round = Callable[[], bool | None]

# After lanes that were not plain, or a group that had to wait: who floods goes on, and looking twice costs a fifth.
SKIPPED_ROUNDS = 8


def straight_round(intake: Intake, completions: Completions, relief: Relief, grouping: Grouping) -> Round:
    """``go()``: one round whole, but for MemFirst's flush.  None: the lanes were empty.  False: it is not so simple.

    Either the round is done exactly as the general way would, or nothing is changed at all.

    Under DiskFirst only where nothing gathers: what was taken is synced at once, so it is none of ``Batch``'s rounds,
    and one of ``Adaptive``'s where its group is whole.  Raises :class:`SyncFailed` for good; those who were taken are
    owed answers then.
    """
    if intake.config.strategy != PersistenceStrategy.DISK_FIRST:
        return _memory_round(intake, relief)
    if isinstance(intake.config.flush_policy, Batch):
        return lambda: False
    gathers = isinstance(intake.config.flush_policy, Adaptive)
    return _durable_round(intake, completions, relief, grouping if gathers else None)


def _durable_round(intake: Intake, completions: Completions, relief: Relief, grouping: Grouping | None) -> Round:
    journal, ring, now = intake.journal, intake.journal.ring, wakeup.now
    written, relaxed = intake.control.written.store, shm.RELAXED
    take, tell, answer = _taker(intake), _teller(intake), _answerer(intake, followers_first=False)
    skip = 0

    def go() -> bool | None:
        """Ring and file, then the sync, and only then anything that tells of it."""
        nonlocal skip
        start = journal.end
        if (
            start != journal.durable or journal.job is not None or journal.failure is not None or intake.owing
            or intake.blocked or relief.level != NONE or completions.late is not None
        ):  # fmt: skip
            return False
        if skip:
            skip -= 1
            return False
        group = take()
        if group is None:
            return False
        taken, data, slots = group
        if not taken:
            return None
        count = len(taken)
        if grouping is not None and not grouping.goes_at_once(count):
            _put_back(taken)
            skip = SKIPPED_ROUNDS
            return False
        first, index, segment = journal.next_index, journal.index, journal.segment
        assert index is not None and segment is not None
        ring.write(start, data)
        index.write(first, slots)
        # All that the journal knows of records that are in the ring; what they were, the table learns in answer().
        end = journal.end = journal.copied = journal.written = journal.tail_entries_end = start + len(data)
        journal.vouched, journal.next_index = start, first + count
        journal.slots_from = first + count
        journal.appends += count
        written(end, relaxed)
        began = now()
        try:
            segment.write(start, [data])
            segment.sync()
        except OSError as error:
            _owe(intake, taken)
            journal.fsyncs += 1
            intake.control.fsyncs.store(journal.fsyncs, relaxed)
            raise journal.fail(error) from error
        seconds = now() - began
        missed = intake.count_waiting() if grouping is not None else 0  # after the answers, some are back already
        tell(end, first + count - 1, count, len(data), seconds)
        answer(taken, first)
        if grouping is not None:  # nobody waits for what it learns
            grouping.went_at_once(began, seconds, missed, [peer for peer, *_ in taken])
        journal.open_gate()
        return True

    return go


def _teller(intake: Intake) -> Callable[[int, int, int, int, float], None]:
    """``tell(end, last_index, entries, bytes, seconds)``: what was synced is durable, and shows."""
    journal, control = intake.journal, intake.control
    durable, durable_index, published = control.durable.store, control.durable_index.store, control.published.store
    last_index, fsyncs, fsync_ns = control.last_index.store, control.fsyncs.store, control.fsync_ns.store
    appends, entries, size = control.appends.store, control.entries.store, control.bytes.store
    relaxed, release, seq_cst = shm.RELAXED, shm.RELEASE, shm.SEQ_CST

    def tell(end: int, last: int, count: int, length: int, seconds: float) -> None:
        # As in Pipeline._tell_durable and publish; neither the term nor what is unflushed has changed.
        durable(end, release)
        durable_index(last, seq_cst)
        published(end, release)
        last_index(last, seq_cst)
        journal.durable = journal.published = end
        journal.durable_index = journal.published_index = last
        journal.sync_seconds = seconds
        journal.fsyncs += 1
        journal.fsync_ns += int(seconds * 1e9)
        journal.entries += count
        journal.bytes += length - count * fmt.RECORD_BYTES
        fsyncs(journal.fsyncs, relaxed)
        fsync_ns(journal.fsync_ns, relaxed)
        appends(journal.appends, relaxed)
        entries(journal.entries, relaxed)
        size(journal.bytes, relaxed)

    return tell


def _memory_round(intake: Intake, relief: Relief) -> Round:
    journal, clients, ring, now = intake.journal, intake.sessions.clients, intake.journal.ring, wakeup.now
    take, answer = _taker(intake), _answerer(intake, followers_first=True)

    def go() -> bool | None:
        """Ring and index, then the commit word."""
        start = journal.end
        if (
            start != journal.published or journal.coming is not None or journal.failure is not None or intake.owing
            or intake.blocked or relief.level != NONE or not intake.reserve.knows(len(clients))
        ):  # fmt: skip
            return False
        group = take()
        if group is None:
            return False
        taken, data, slots = group
        if not taken:
            return None
        first, index = journal.next_index, journal.index
        assert index is not None
        if first == journal.durable_index + 1:
            intake.oldest = now()
        ring.write(start, data)
        index.write(first, slots)
        journal.entered(len(taken), data)
        journal.publish()
        answer(taken, first)
        return True

    return go


def _taker(intake: Intake) -> Callable[[], Group | None]:
    """``take()``: private copies of what the lanes hold, checked as in ``Intake``, as records; None: not all plain."""
    journal, clients, limit, floor = intake.journal, intake.sessions.clients, intake.entry_limit, intake.term_floor
    unpack, head_bytes, append, acquire = SUBMISSION.unpack_from, SUBMISSION_BYTES, layout.SUBMIT_APPEND, shm.ACQUIRE
    pack, record_bytes, kind = fmt.pack_record_header, fmt.RECORD_BYTES, fmt.KIND_ENTRIES
    log_id, generation, skip = journal.log_id, journal.generation, 0

    def take() -> Group | None:
        nonlocal skip
        if skip:
            skip -= 1
            return None
        taken: Taken = []
        parts: list[bytes] = []
        slots: list[bytes] = []
        room, entries = journal.room()
        term, durable, place, index = journal.last_term, journal.durable, journal.end, journal.next_index
        hard = journal.hard.term
        if term < floor:
            return None
        for _ in range(GATHER_ROUNDS):  # what arrives meanwhile shares the sync
            before = len(taken)
            for peer in clients:
                lane = peer.lane
                if lane is None:
                    continue
                tail, head = lane.tail.load(acquire), lane.head  # ACQUIRE: the bytes below it are there
                if tail == head:
                    continue
                size, good = tail - head, False
                if head_bytes <= size < VIEW_BYTES:
                    chunk = lane.copy(head, tail)
                    length, what, flags, count, body_crc, given, sequence, _, _ = unpack(chunk)
                    body = chunk[head_bytes:]
                    room -= record_bytes + length
                    good = (
                        head_bytes + length == size and sequence == peer.next_sequence > peer.resumed_until
                        and what == append and count == 1 and length <= limit
                        and (hard <= given == term and flags == FLAG_TERM_GIVEN if flags else not hard)
                        and room >= 0 and len(taken) < entries and crc32c(body) == body_crc
                    )  # fmt: skip
                if not good:
                    if before:  # came while the others were taken: the next round's
                        return taken, b"".join(parts), b"".join(slots)
                    _put_back(taken)
                    skip = SKIPPED_ROUNDS
                    return None
                header = pack(
                    body_crc, length, 1, kind, log_id, generation, index, term, place, durable, peer.producer, sequence
                )
                parts += (header, body)
                slots.append(pack_slot(place))
                taken.append((peer, lane, sequence, head))
                lane.head, peer.next_sequence = tail, sequence + 1  # the next look goes on behind it
                place += record_bytes + length
                index += 1
            if len(taken) == before:
                break
        return taken, b"".join(parts), b"".join(slots)

    return take


def _put_back(taken: Taken) -> None:
    for peer, lane, sequence, head in reversed(taken):  # a lane that was looked at twice ends where it began
        lane.head, peer.next_sequence = head, sequence


def _owe(intake: Intake, taken: Taken) -> None:
    """The disk failed: they are owed answers, and the writer makes errors of them."""
    journal = intake.journal
    for index, (peer, _, sequence, _) in enumerate(taken, journal.next_index - len(taken)):
        peer.answers.append((sequence, layout.OK, index, 1, journal.last_term, 0))
        intake.owing.append(peer)


def _answerer(intake: Intake, *, followers_first: bool) -> Callable[[Taken, int], None]:
    """``answer(taken, first_index)``: all answers, then the bells, then what nobody waits for.

    ``followers_first``: where an append is a matter of wake-ups alone, the entry should not be on its way to a follower
    for one wake-up longer than its answer is; who appended needs the time to take it in any case.
    """
    journal, sessions, record = intake.journal, intake.sessions, intake.journal.producers.record
    ring_bell, wanted, seq_cst = wakeup.ring_bell, layout.WANTS_ANSWERS, shm.SEQ_CST

    def answer(taken: Taken, first: int) -> None:
        index, term = first, journal.last_term
        for _, lane, sequence, _ in taken:
            lane.complete([(sequence, layout.OK, index, 1, term, 0)])
            index += 1
        if followers_first:
            sessions.ring_all()
        for peer, lane, _, _ in taken:
            wants = lane.wants.load(seq_cst)  # as in Peer.ring
            if wants & wanted and wants != peer.rung:
                peer.rung = wants
                ring_bell(peer.sock)
        if not followers_first:
            sessions.ring_all()
        # Nobody asks the exactly-once table before this round is over.
        for peer, _, sequence, _ in taken:
            record(peer.producer, sequence, (first, 1, term))
            first += 1

    return answer
