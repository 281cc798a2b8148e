"""The pipeline of one log: assign -> ring -> index -> [file] -> [fsync] -> publish.

No sockets and no clients here: the writer process feeds it, tests drive it directly.  DiskFirst and
MemFirst are the same pipeline; they differ only in whether ``publish`` stands before or after the sync::

    DiskFirst   append ... copy, write, sync, publish      (flush)
    MemFirst    append ... copy, publish; write and sync in a helper thread

All methods run in the writer's main thread.  A :class:`FlushJob` is the one thing that another thread may run.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from crc32c import crc32c

from . import format as fmt
from . import layout, shm
from .catalog import SegmentInfo
from .config import LogConfig
from .control import Control
from .errors import DiskFull, RaftLogError, SyncFailed
from .files import Files, join
from .index import ActiveIndex, pack_slot, write_sealed
from .manifest import Manifest, save
from .producers import Producers
from .ring import RingWriter
from .segment import SegmentWriter
from .syncer import FlushJob

FULL = (errno.ENOSPC, errno.EDQUOT)
SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # of this machine now, no fault of the disk


class Carried(NamedTuple):
    """Acknowledged records that recovery found only in the dead writer's ring."""

    data: bytes
    slots: bytes
    last_index: int
    last_term: int


class Journal:
    """Where the log stands, and the steps that move it on.  Made by ``startup.open_journal``."""

    def __init__(
        self, files: Files, directory: str, config: LogConfig, manifest: Manifest, control: Control,
        ring: RingWriter, producers: Producers, folder: str, end: int, last_index: int, last_term: int,
    ) -> None:  # fmt: skip
        self.files, self.directory, self.config, self.manifest = files, directory, config, manifest
        self.control, self.ring, self.producers, self.folder = control, ring, producers, folder
        self.log_id, self.generation = manifest.log_id, manifest.generation
        self.end = self.copied = self.published = self.written = self.durable = end
        self.next_index, self.last_term = last_index + 1, last_term
        self.published_index = self.durable_index = last_index
        self.vouched = end  # durable position stated by the newest record header
        self.tail_entries_end = end  # end of the newest record that holds entries
        self.old_folder = folder  # shared files of the writers before
        self.failure: SyncFailed | None = None
        self.job: FlushJob | None = None
        self.segment: SegmentWriter | None = None
        self.index: ActiveIndex | None = None
        self._parts: list[bytes] = []
        self._slots: list[bytes] = []
        self._slots_from = self.next_index
        self._limit = 0  # stream position that a record in the active segment may reach
        self._index_limit = 0  # first entry index beyond the active index
        self._open_end = self._open_index = 0
        self._first_of_generation = last_index + 1
        self.sync_seconds = 0.0  # of the newest sync
        self.appends = self.bytes = self.fsyncs = self.fsync_ns = self.rolls = self.marks = 0

    # ------------------------------------------------------------ append
    def admits(self, body_bytes: int, count: int) -> bool:
        """The hot path's one question: there is room in memory and in the segment.  If not, ask why below."""
        return (
            self.end + fmt.RECORD_BYTES + body_bytes <= self._open_end and self.next_index + count <= self._open_index
        )

    def _open_gate(self) -> None:
        """Recompute up to where :meth:`admits` says yes; after every change of the durable frontier or segment."""
        self._open_end = min(self._limit, self.durable + self.config.buffered_bytes_limit)
        entries = self.config.max_buffered_entries
        self._open_index = self._index_limit
        if entries is not None:
            self._open_index = min(self._index_limit, self.durable_index + entries + 1)

    def fits(self, body_bytes: int, count: int) -> bool:
        """Whether the record may enter now without overwriting what is not durable.  Otherwise: flush first."""
        if self.end == self.durable:
            return True  # nothing waits, and no batch is larger than half the ring
        unflushed = self.end + fmt.RECORD_BYTES + body_bytes - self.durable
        if unflushed > self.config.buffered_bytes_limit:
            return False
        limit = self.config.max_buffered_entries
        return limit is None or self.unflushed_entries + count <= max(limit, count)

    def needs_roll(self, body_bytes: int, count: int) -> bool:
        """Whether the record needs a new segment."""
        return self.end + fmt.RECORD_BYTES + body_bytes > self._limit or self.next_index + count > self._index_limit

    def append(self, body: bytes, body_crc: int, count: int, term: int, producer: int, sequence: int) -> int:
        """Assign the next ``count`` indexes to a verified batch; returns the first.  Visible after a publish.

        The caller has asked :meth:`admits` (or :meth:`fits` and :meth:`needs_roll`), and checked the term.
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
        self.last_term = term
        self.appends += 1
        self.bytes += len(body)
        if producer:
            self.producers.record(producer, sequence, (first, count, term))
        return first

    def mark(self) -> None:
        """Append a record without entries whose header vouches for everything durable so far."""
        if self.end + fmt.RECORD_BYTES > self._limit:
            self.roll()  # the head of the next segment says as much
            return
        self._parts.append(fmt.pack_record_header(
            0, 0, 0, fmt.KIND_MARK, self.log_id, self.generation,
            self.next_index, self.last_term, self.end, self.durable, 0, 0,
        ))  # fmt: skip
        self.end += fmt.RECORD_BYTES
        self.vouched = self.durable
        self.marks += 1

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
        if self._parts:
            self.ring.write(self.copied, b"".join(self._parts))
            self._parts.clear()
            self.copied = self.end
        if self._slots:
            assert self.index is not None
            self.tail_entries_end, self.vouched = self.end, self.durable  # entries came: a mark is owed again
            self.index.write(self._slots_from, b"".join(self._slots))
            self._slots.clear()
            self._slots_from = self.next_index

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
        control.entries.store(self.next_index - self._first_of_generation, shm.RELAXED)
        control.bytes.store(self.bytes, shm.RELAXED)
        self.tell_unflushed()

    def tell_unflushed(self) -> None:
        """Show how much waits for an fsync."""
        self.control.unflushed_entries.store(self.unflushed_entries, shm.RELAXED)
        self.control.unflushed_bytes.store(self.end - self.durable, shm.RELAXED)

    # ------------------------------------------------------------ disk
    def flush(self) -> None:
        """Write and sync everything copied to the ring, in this thread.  Raises :class:`SyncFailed`, for good."""
        self.copy_to_ring()
        self.finish_job()
        if self.copied > self.durable:
            self.job = self.make_job()
            self.job.run()
            self.finish_job()

    def make_job(self) -> FlushJob:
        """The next flush as a job; ``self.job`` must be None, and stays so until the caller sets it."""
        assert self.segment is not None
        if self.failure is not None:
            raise self.failure
        pieces = self.ring.slices(self.written, self.copied)
        job = FlushJob(self.segment, self.written, pieces, self.copied, self._slots_from - 1)
        self.written = self.copied
        self.control.written.store(self.written, shm.RELAXED)
        return job

    def finish_job(self) -> None:
        """Wait for the job that runs, if any, and take over its result: a higher durable frontier, or failure."""
        job = self.job
        if job is None:
            return
        if job.finished is not None:
            job.finished.wait()
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
        self._open_gate()
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
        self.manifest.failed, self.manifest.durable = True, self.durable
        try:
            save(self.files, self.directory, self.manifest)
        except (OSError, RaftLogError):
            pass  # the control block holds the latch too; of a disk that takes nothing, no more can be asked
        return self.failure

    # ------------------------------------------------------------ segments
    def roll(self, body_bytes: int = 0, count: int = 0, *, carried: Carried | None = None) -> None:
        """Seal the active segment and start the next, with room for a record of this size.

        ``carried`` (only right after recovery) goes to the head of the new segment, durable before it is listed.

        Raises :class:`DiskFull` with nothing changed if there is no space, :class:`SyncFailed` for good.
        """
        self.flush()
        if self.config.strategy == "mem_first" or self.published < self.copied:
            self.publish()
        if carried is not None:
            count = len(carried.slots) // fmt.SLOT_BYTES
        head = self._head_of_segment(carried)
        segment, info = self._create_segment(len(head) + fmt.RECORD_BYTES + body_bytes, count)
        index = None
        try:
            index = self._create_index(info)
            if self.segment is not None and not self.manifest.segments[-1].sealed:
                self._seal_active()
            # The table is durable before the manifest lists the segment: recovery reads no older one for it.
            segment.write(self.end, [head])
            segment.sync()
            self.manifest.segments.append(info)
            self.manifest.next_segment_id = info.segment_id + 1
            self.manifest.durable, self.manifest.settled = self.durable, False
            save(self.files, self.directory, self.manifest)
        except OSError as error:
            segment.close()
            if error.errno in FULL:
                self.files.unlink(segment.path)  # the manifest does not know it; its space is wanted elsewhere
            if index is not None:
                index.close()
            if self.manifest.segments and self.manifest.segments[-1] == info:
                self.manifest.segments.pop()
                self.manifest.next_segment_id = info.segment_id
            self._limit = self._open_end = 0  # the old segment may be sealed by now: the next append has to roll, too
            raise self._space_error(error, segment.path) from error
        self._adopt(segment, index, info)
        if carried is not None:
            index.write(info.base_index, carried.slots)
            self.next_index, self.last_term = carried.last_index + 1, carried.last_term
            self.durable_index, self._first_of_generation = carried.last_index, self.next_index
            self.ring.skip_to(self.end + len(head))
        else:
            self.ring.write(self.end, head)
        self._slots_from = self.next_index
        self.vouched = self.durable
        self.end += len(head)
        self.copied = self.written = self.durable = self.end
        self._tell_durable()
        self.publish()

    def _head_of_segment(self, carried: Carried | None) -> bytes:
        """What opens a segment: records carried over by recovery, and a snapshot of the exactly-once table."""
        data, index, term = b"", self.next_index, self.last_term
        if carried is not None:
            data, index, term = carried.data, carried.last_index + 1, carried.last_term
        snapshot = self.producers.snapshot(self.ring.ring_bytes // 4)
        header = fmt.pack_record_header(
            crc32c(snapshot), len(snapshot), 0, fmt.KIND_PRODUCERS, self.log_id, self.generation,
            index, term, self.end + len(data), self.durable, 0, 0,
        )  # fmt: skip
        return data + header + snapshot

    def _create_segment(self, record_bytes: int, count: int) -> tuple[SegmentWriter, SegmentInfo]:
        config = self.config
        file_bytes = max(config.segment_bytes, fmt.DATA_OFFSET + record_bytes)
        info = SegmentInfo(
            segment_id=self.manifest.next_segment_id, generation=self.generation, base_index=self.next_index,
            start=self.end, previous_end=self._previous_end(), previous_term=self.last_term,
            file_bytes=file_bytes, index_slots=max(file_bytes // 64, 1 << 16, count),
        )  # fmt: skip
        header = fmt.SegmentHeader(
            self.log_id, info.segment_id, info.generation, info.base_index, info.start,
            info.previous_end, info.previous_term, info.file_bytes, info.index_slots,
        )  # fmt: skip
        path = join(self.directory, fmt.segment_name(info.segment_id))
        self.files.unlink(path)  # of a creation that failed before the manifest knew of it
        try:
            segment = SegmentWriter(self.files, path, header)
            self.files.sync_dir(self.directory)
        except OSError as error:
            raise self._space_error(error, path) from error
        return segment, info

    def _previous_end(self) -> int:
        segments = self.manifest.segments
        if self.segment is not None:
            return self.end
        return (segments[-1].end or 0) if segments else self.end

    def _space_error(self, error: OSError, path: str) -> RaftLogError:
        if error.errno in (*FULL, *SHORTAGES):
            return DiskFull(
                f"{path} cannot be created ({error.strerror}): nothing was appended. What was acknowledged stays "
                "readable; free space (or purge the log) and append again.", errno=error.errno,
            )  # fmt: skip
        return self.fail(error)

    def _create_index(self, info: SegmentInfo) -> ActiveIndex:
        shm.make_folder(self.folder)  # again, should somebody have wiped it under us
        path = join(self.folder, fmt.active_index_name(self.generation, info.segment_id))
        return ActiveIndex(path, info.base_index, info.index_slots)

    def _seal_active(self) -> None:
        """The active segment's data is durable: write its index file, then its seal; state it in the manifest."""
        assert self.segment is not None and self.index is not None
        info = self.manifest.segments[-1]
        last_index = self.next_index - 1
        path = join(self.directory, fmt.index_name(info.segment_id))
        write_sealed(self.files, path, self.log_id, info.segment_id, info.base_index, self.index.used(last_index))
        self.segment.seal(self.end, last_index, self.last_term)
        self.manifest.segments[-1] = info.finished(self.end, last_index, self.last_term)

    def _adopt(self, segment: SegmentWriter, index: ActiveIndex, info: SegmentInfo) -> None:
        old_segment, old_index = self.segment, self.index
        self.segment, self.index = segment, index
        self._limit = segment.end_limit
        self._index_limit = info.base_index + info.index_slots
        self._slots_from = info.base_index
        self._open_gate()
        self.rolls += 1
        control = self.control
        control.active_segment.store(info.segment_id, shm.RELAXED)
        control.active_base.store(info.base_index, shm.RELAXED)
        control.active_start.store(info.start, shm.RELAXED)
        control.segments.store(len(self.manifest.segments), shm.RELAXED)
        control.rolls.store(self.rolls, shm.RELAXED)
        # RELEASE: manifest, index file and the words above are in place; a reader that sees the new version
        # rereads them.  No entry of the new segment is published before this store.
        control.catalog_version.store(control.catalog_version.load(shm.RELAXED) + 1, shm.RELEASE)
        if old_segment is not None:
            old_segment.close()
        if old_index is not None:
            old_index.close()

    # ------------------------------------------------------------ end
    def close(self, *, clean: bool) -> None:
        """Release everything; ``clean``: flush, seal, and say so in the manifest."""
        if clean and self.failure is None:
            self.flush()
            self.publish()
            self._seal_active()
            self.manifest.durable, self.manifest.clean, self.manifest.settled = self.durable, True, True
            save(self.files, self.directory, self.manifest)
        if self.segment is not None:
            self.segment.close()
        if self.index is not None and clean and self.failure is None:
            self.index.close()
        self.ring.close()
        if clean and self.failure is None:
            shm.remove(join(self.folder, fmt.ring_name(self.generation)))  # nothing in it that the files lack
