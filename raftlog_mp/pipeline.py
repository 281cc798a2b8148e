"""The pipeline of one log: assign -> ring -> index -> [file] -> [fsync] -> publish.

No sockets and no clients here: the writer process feeds it, tests drive it directly.  DiskFirst and
MemFirst are the same pipeline; they differ only in whether ``publish`` stands before or after the sync::

    DiskFirst   append ... copy, write, sync, publish      (flush)
    MemFirst    append ... copy, publish; write and sync in a helper thread

All methods run in the writer's main thread.  A :class:`FlushJob` is the one thing that another thread may run.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from typing import Any

from . import format as fmt
from . import hard_state, layout, shm
from .catalog import SegmentInfo
from .config import LogConfig
from .control import Control
from .errors import RaftLogError, SyncFailed
from .files import Files
from .index import ActiveIndex, pack_slot
from .manifest import Manifest, save
from .producers import Producers
from .ring import RingWriter
from .segment import SegmentWriter
from .shortage import FULL, SHORTAGES, disk_full
from .syncer import FlushJob
from .terms import TermTable
from .types import HardState, LogId

APART_BYTES = 4096  # records of this size on average go to the ring part by part


class Pipeline:
    """Where the log stands, and what moves it on inside one segment.  ``Journal`` adds the steps across segments."""

    def __init__(
        self, files: Files, directory: str, config: LogConfig, manifest: Manifest, control: Control,
        ring: RingWriter, producers: Producers, folder: str, end: int, last_index: int, last_term: int,
        terms: TermTable,
    ) -> None:  # fmt: skip
        self.files, self.directory, self.config, self.manifest = files, directory, config, manifest
        self.control, self.ring, self.producers, self.folder = control, ring, producers, folder
        self.terms = terms
        self.hard = HardState()
        self.log_id, self.generation = manifest.log_id, manifest.generation
        self.end = self.copied = self.published = self.written = self.durable = end
        self.next_index, self.last_term = last_index + 1, last_term
        self.published_index = self.durable_index = last_index
        self.vouched = end  # durable position stated by the newest record header
        self.tail_entries_end = end  # end of the newest record that holds entries
        self.old_folder = folder  # shared files of the writers before
        self.failure: SyncFailed | None = None
        self.failure_saved = False  # the manifest holds the latch
        self.job: FlushJob | None = None
        self.segment: SegmentWriter | None = None
        self.index: ActiveIndex | None = None
        self.coming: ActiveIndex | None = None  # during a roll that goes on behind: the next segment's
        self._parts: list[bytes] = []
        self._slots: list[bytes] = []
        self._newest = b""  # the bytes that went to the ring last, if they were in one piece
        self.slots_from = self.next_index
        self._limit = 0  # stream position that a record in the active segment may reach
        self._index_limit = 0  # first entry index beyond the active index
        self._open_end = self._open_index = self._room_end = 0
        self._buffered_limit = config.buffered_bytes_limit
        self._kept = 0, 0
        self.held = 0  # bytes of the room that nobody may take: see Rolling
        self.heads = 0  # bytes of records that open segments, so far
        self.spared = 0, 0  # bytes and entries of the room that fits() leaves to others: see Reserve
        self.sync_seconds = 0.0  # of the newest sync
        self.dead: list[SegmentInfo] = []  # no longer listed; their files may go
        self.appends = self.entries = self.bytes = self.fsyncs = self.fsync_ns = self.rolls = self.marks = 0

    # ------------------------------------------------------------ append
    def open_gate(self) -> None:
        """Recompute what :meth:`room` says; after every change of the durable frontier or segment."""
        kept_bytes, kept_entries = self._kept
        kept_bytes += self.held if kept_bytes else 0  # who is alone would wait in any case
        self._room_end = self.durable + self._buffered_limit - kept_bytes
        self._open_end = min(self._limit, self._room_end)
        if self.terms.short:
            self._open_end = 0  # needs_roll() is to look for space first
        entries = self.config.max_buffered_entries
        self._open_index = self._index_limit
        if entries is not None:
            self._open_index = min(self._index_limit, self.durable_index + entries + 1 - kept_entries)

    def keep(self, kept_bytes: int, kept_entries: int) -> None:
        """From now on :meth:`room` ends so far before the limits; who may go on from there, :meth:`fits` decides."""
        self._kept = kept_bytes, kept_entries
        self.open_gate()

    @property
    def spare_bytes(self) -> int:
        """How many bytes of records the ring takes before everything new has to wait for a flush, shares kept free."""
        return max(0, self._room_end - self.end)

    def fits(self, body_bytes: int, count: int) -> bool:
        """Whether the record may enter now without overwriting what is not durable.  Otherwise: flush first."""
        if self.end == self.durable:
            return True  # nothing waits, and no batch is larger than half the ring
        unflushed = self.end + fmt.RECORD_BYTES + body_bytes - self.durable
        spared_bytes, spared_entries = self.spared
        if unflushed > self._buffered_limit - spared_bytes:
            return False
        limit = self.config.max_buffered_entries
        return limit is None or self.unflushed_entries + count <= max(limit - spared_entries, count)

    def needs_roll(self, body_bytes: int, count: int) -> bool:
        """Whether the record, or several, need a new segment.

        Raises :class:`DiskFull`, with nothing changed, if there is no space to tell readers of another term.
        """
        if self.terms.short:
            try:
                self.terms.grow()
            except OSError as error:
                raise self._space_error(error, self.directory) from error
            self.open_gate()
        return self.end + fmt.RECORD_BYTES + body_bytes > self._limit or self.next_index + count > self._index_limit

    def append(self, body: bytes, body_crc: int, count: int, term: int, producer: int, sequence: int) -> int:
        """Assign the next ``count`` indexes to a verified batch; returns the first.  Visible after a publish.

        The caller has asked :meth:`room` (or :meth:`fits` and :meth:`needs_roll`), and checked the term.
        """
        first = self.next_index
        header = fmt.pack_record_header(
            body_crc, len(body), count, fmt.KIND_ENTRIES, self.log_id, self.generation,
            first, term, self.end, self.durable, producer, sequence,
        )  # fmt: skip
        self._parts += (header, body)
        self._slots.append(pack_slot(self.end) * count)
        self.end += fmt.RECORD_BYTES + len(body)
        self.next_index = first + count
        if term != self.last_term:
            self._begin_term(first, term)
        self.appends += 1
        self.entries += count
        self.bytes += len(body)
        if producer:
            self.producers.record(producer, sequence, (first, count, term))
        return first

    def room(self) -> tuple[int, int]:
        """The hot path's one question: how many bytes of records, and how many entries, may enter.

        For one more, ask :meth:`fits` and :meth:`needs_roll` why not.
        """
        return self._open_end - self.end, self._open_index - self.next_index

    def append_singles(
        self, bodies: list[bytes], body_crcs: list[int], term: int, producer: int, sequence: int
    ) -> int:
        """As :meth:`append`, for submissions of one entry each with consecutive sequences; within :meth:`room`."""
        first, count = self.next_index, len(bodies)
        parts, positions = fmt.pack_singles(
            bodies, body_crcs, self.log_id, self.generation, first, term, self.end, self.durable, producer, sequence
        )
        self._parts += parts
        self._slots += map(pack_slot, positions)
        size = len(bodies[-1])
        self.end, self.next_index = positions[-1] + fmt.RECORD_BYTES + size, first + count
        if term != self.last_term:
            self._begin_term(first, term)
        self.appends += count
        self.entries += count
        self.bytes += sum(map(len, bodies))
        self.producers.record_singles(producer, sequence, first, count, term)
        return first

    def _begin_term(self, first: int, term: int) -> None:
        self.last_term = term
        try:
            self.terms.add(first, term)
        except OSError as error:  # no memory for a longer table: readers could not be told the truth
            self.fail(error)
        if self.terms.short:
            self.open_gate()

    def _append_mark(self) -> None:
        self._parts.append(fmt.pack_record_header(
            0, 0, 0, fmt.KIND_MARK, self.log_id, self.generation,
            self.next_index, self.last_term, self.end, self.durable, 0, 0,
        ))  # fmt: skip
        self.end += fmt.RECORD_BYTES
        self.vouched = self.durable
        self.marks += 1

    @property
    def owes_work(self) -> bool:
        """Whether a flush would have anything to do: :meth:`make_job` may be called."""
        return self.copied > self.written

    @property
    def unflushed_entries(self) -> int:
        """Entries appended but not covered by an fsync."""
        return self.next_index - 1 - self.durable_index

    @property
    def wants_mark(self) -> bool:
        """Whether everything is durable but no record says so yet."""
        return self.vouched < self.tail_entries_end <= self.durable and self.end == self.durable

    # ------------------------------------------------------------ memory
    def copy_to_ring(self) -> None:
        """Bytes, then index slots: in place, but below no published cursor yet."""
        if not self._parts:
            return  # no record, so no slot
        self._newest = b""
        if self.end - self.copied < APART_BYTES * len(self._parts):
            self._newest = b"".join(self._parts)
            self.ring.write(self.copied, self._newest)
        else:  # large bodies: joining them would copy all of it once more
            for part in self._parts:
                self.ring.write(self.copied, part)
                self.copied += len(part)
        self._parts.clear()
        self.copied = self.end
        if self._slots:
            assert self.index is not None
            self.tail_entries_end, self.vouched = self.end, self.durable  # entries came: a mark is owed again
            slots = b"".join(self._slots)
            self.index.write(self.slots_from, slots)
            if self.coming is not None:
                self.coming.write(self.slots_from, slots)
            self._slots.clear()
            self.slots_from = self.next_index

    def entered(self, count: int, data: bytes) -> None:
        """Records of one entry each went to the ring at ``end``, and their slots to the index: go on behind them.

        As :meth:`append` and :meth:`copy_to_ring`, for who makes the records.  The exactly-once table is left to them.
        """
        self.end += len(data)
        self.copied = self.tail_entries_end = self.end
        self.vouched, self._newest = self.durable, data
        self.next_index += count
        self.slots_from = self.next_index
        self.appends += count
        self.entries += count
        self.bytes += len(data) - count * fmt.RECORD_BYTES

    def publish(self) -> None:
        """Let readers see everything that was copied to the ring."""
        control = self.control
        # RELEASE: ring bytes and index slots were stored before; whoever ACQUIREs `published` sees them.  It is
        # the commit word: recovery takes nothing past it.  last_index follows it, so that an index which is
        # visible is always below `published`; SEQ_CST because followers' doorbells hang on it.
        control.published.store(self.copied, shm.RELEASE)
        control.last_term.store(self.last_term, shm.RELAXED)
        control.last_index.store(self.next_index - 1, shm.SEQ_CST)
        self.published, self.published_index = self.copied, self.next_index - 1
        control.appends.store(self.appends, shm.RELAXED)
        control.entries.store(self.entries, shm.RELAXED)
        control.bytes.store(self.bytes, shm.RELAXED)
        self.tell_unflushed()

    def tell_unflushed(self) -> None:
        """Show how much waits for an fsync."""
        entries, end = self.unflushed_entries, self.end
        if self.failure is not None:  # what was refused waits for nothing: only what was acknowledged counts
            entries, end = self.published_index - self.durable_index, self.published
        self.control.unflushed_entries.store(entries, shm.RELAXED)
        self.control.unflushed_bytes.store(end - self.durable, shm.RELAXED)

    # ------------------------------------------------------------ hard state and commit index
    def save_hard_state(self, state: HardState) -> None:
        """Make a term and vote durable.  Raises :class:`SyncFailed` for good if the disk fails."""
        control = self.control
        version = control.hard_version.load(shm.RELAXED) + 1
        try:
            hard_state.save(self.files, self.directory, state, version)
        except OSError as error:
            if error.errno in SHORTAGES:  # it could not even be opened
                raise self._space_error(error, self.directory) from error
            raise self.fail(error) from error
        self.hard = state
        control.hard_term.store(state.term, shm.RELEASE)
        control.hard_version.store(version, shm.SEQ_CST)  # after the fsync: a reader takes no newer slot than this

    def commit_to(self, index: int) -> int:
        """Raise the commit index, at most to the last visible entry; returns it.  On disk with the next manifest."""
        commit = max(self.manifest.commit_index, min(index, self.published_index))
        if commit > self.manifest.commit_index:
            self.manifest.commit_index = commit
            self.control.commit_index.store(commit, shm.SEQ_CST)  # SEQ_CST: followers' doorbells hang on it
        return commit

    @property
    def purged(self) -> LogId:
        """The boundary: id of the last entry that was purged, ``LogId(0, 0)`` if none was."""
        return LogId(self.manifest.purged_term, self.manifest.purged_index)

    # ------------------------------------------------------------ disk
    def flush(self, before_sync: Callable[[], None] | None = None) -> None:
        """Write and sync everything copied to the ring, in this thread.  Raises :class:`SyncFailed`, for good.

        ``before_sync()`` is called when all is written and the wait for the disk begins.

        :class:`DiskFull`: there is no space to list the next segment; what it will hold stays in the ring.
        """
        self.copy_to_ring()
        if self.job is not None:
            self.finish_job()
        while self.copied > self.durable:
            self.job = self.make_job()
            self.job.before_sync = before_sync
            self.job.run()
            self.finish_job()
            self._check_space()

    def _check_space(self) -> None:
        """Raise :class:`DiskFull` if the flush cannot go on for now."""

    def make_job(self) -> FlushJob:
        """The next flush as a job; ``self.job`` must be None, and stays so until the caller sets it."""
        assert self.segment is not None
        return FlushJob(self.segment, *self._hand_over(self.copied), self.slots_from - 1)

    def _hand_over(self, end: int) -> tuple[int, list[Any], int]:
        """What is not written yet, up to ``end``: start, its bytes, end.  From now on it counts as written."""
        if self.failure is not None:
            raise self.failure
        start, newest, self._newest = self.written, self._newest, b""
        whole = newest and start + len(newest) == end == self.copied  # often all of it, and in one piece
        pieces = [newest] if whole else self.ring.slices(start, end)
        self.written = end
        self.control.written.store(end, shm.RELAXED)
        return start, pieces, end

    def finish_job(self) -> None:
        """Wait for the job that runs, if any, and take over its result: a higher durable frontier, or failure."""
        job = self.job
        if job is None:
            return
        job.wait()
        self.job = None
        self.fsyncs += 1
        self.fsync_ns += int(job.seconds * 1e9)
        self.sync_seconds = job.seconds
        self.control.fsyncs.store(self.fsyncs, shm.RELAXED)
        self.control.fsync_ns.store(self.fsync_ns, shm.RELAXED)
        if job.error is not None:
            raise self.fail(job.error)
        self.durable, self.durable_index = job.end, job.last_index
        self._tell_durable()

    def _tell_durable(self) -> None:
        # RELEASE then SEQ_CST: a reader that sees durable_index may rely on the fsync that preceded both.
        self.control.durable.store(self.durable, shm.RELEASE)
        self.control.durable_index.store(self.durable_index, shm.SEQ_CST)
        self.open_gate()
        self.tell_unflushed()

    def fail(self, error: OSError) -> SyncFailed:
        """Latch FAILED; returns what to raise.

        The kernel may report success on the same pages afterwards: never try again on them.
        """
        where = self.segment.path if self.segment is not None else self.directory
        self.failure = SyncFailed(
            f"writing or syncing {where} failed ({error.strerror or error}); the log is read-only now. What was "
            "acknowledged stays readable. Check the disk, then restart the writer: it re-reads everything.",
            errno=error.errno or errno.EIO,
        )
        self.control.state.store(layout.STATE_FAILED, shm.SEQ_CST)
        self.tell_unflushed()
        self.manifest.failed, self.manifest.durable = True, self.durable
        try:
            save(self.files, self.directory, self.manifest)
            self.failure_saved = True
        except (OSError, RaftLogError):
            pass  # the control block holds the latch too; of a disk that takes nothing, no more can be asked
        return self.failure

    def _space_error(self, error: OSError, path: str) -> RaftLogError:
        return disk_full(error, path) if error.errno in (*FULL, *SHORTAGES) else self.fail(error)
