"""Rolling: how the log goes on in another segment, in this thread or behind the back of those who append.

A roll ends one segment and lists the next one in the manifest.  Done at once (:meth:`Journal.roll`), everybody waits
for its syncs.  *Behind*, where appends need not be durable (MemFirst), the log goes on in a prepared segment as soon as
the old one is full, in the ring alone, and the syncs are the work of the next two jobs of the helper thread:

    1  FlushJob   what the old segment still lacks, sync: durable up to its end
    2  RollJob    seal, sync;  beside it header and records of the new segment, sync;  then the manifest that lists it

So the order on disk is the same as in a roll at once, and unsynced bytes lie in one segment at most.  Until the second
job is done the manifest, and with it every reader, knows the old segment as the active one: index slots of entries that
are in the new one already are written into both indexes, and their bytes are in the ring, where what is not durable
stays.  A crash leaves the old segment, unsealed or sealed, and a ring that goes on behind it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

from . import format as fmt
from . import wakeup
from .catalog import SegmentInfo
from .errors import SyncFailed
from .files import Files, join
from .index import ActiveIndex, write_sealed
from .manifest import Manifest, manifest_path, save
from .next_segment import NO_ROOM, NextSegment
from .preparation import Together
from .segment import SegmentWriter
from .syncer import FlushJob
from .terms import write_sealed_runs

FLOOD_PART = 8  # a flush of one such part of a segment: the rest may fill while the next one's file is made
HELD_PART = 4  # of the room, at most one such part is held free for what opens a segment: else a roll waits
RETRY_SECONDS = 0.05  # before a roll that found no space is tried again in the background


class Roll(NamedTuple):
    """A roll behind that is under way: records from ``info.start`` on belong to a segment that is not listed yet."""

    ended: SegmentInfo  # the old segment, as it will be listed
    info: SegmentInfo
    segment: SegmentWriter
    active_index: ActiveIndex


class RollJob(FlushJob):
    """Seal the old segment, write and sync the first records of the new one, list it.  Runs in any thread."""

    def __init__(
        self, files: Files, directory: str, roll: Roll, old: SegmentWriter, listed: Manifest,
        start: int, pieces: list[Any], end: int, last_index: int, write_caches: Callable[[], None], *, threads: bool,
    ) -> None:  # fmt: skip
        super().__init__(roll.segment, start, pieces, end, last_index)
        self.roll, self.listed = roll, listed
        self._files, self._directory, self._old, self._write_caches = files, directory, old, write_caches
        self._threads, self._synced = threads, False

    @property
    def found_no_space(self) -> bool:
        """For the manifest: everything else is done, and the job may be run again."""
        return self._synced and self.error is not None and self.error.errno in NO_ROOM

    def again(self, listed: Manifest) -> None:
        """Nothing is left to do but to list the segment, in a newer state of the manifest."""
        self.listed, self.error, self.finished = listed, None, None

    def run(self) -> None:
        """As :meth:`FlushJob.run`; ``seconds`` is what the records took."""
        try:
            if self._synced:
                save(self._files, self._directory, self.listed)
            else:
                self._change_over()
        except OSError as error:
            self.error = error
        finally:
            self._let_go()
        if self.finished is not None:
            if self.found_no_space:
                wakeup.pause(RETRY_SECONDS)
            self.finished.set()

    def _change_over(self) -> None:
        # As in Journal._begin_segment: none of it counts before the manifest is renamed, so the syncs may overlap.
        together = Together([self._end_old, self._begin_new], threads=self._threads)
        try:
            save(self._files, self._directory, self.listed, ready=together.wait)
        except OSError:
            together.wait()  # where one of the steps failed, that is the error: the disk's, not a lack of space
            self._synced = True
            raise
        self._synced = True

    def _end_old(self) -> None:
        ended = self.roll.ended
        self._old.seal(ended.end or 0, ended.last_index or 0, ended.last_term or 0)
        try:
            # Behind the seal: a segment without one goes on, in recovery, with what the ring holds behind its end, and
            # caches that end before that would be believed.
            self._write_caches()
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise

    def _begin_new(self) -> None:
        began = wakeup.now()
        self.segment.begin()
        self.segment.write(self.start, self.pieces)
        self.segment.sync()
        self.seconds = wakeup.now() - began


class Rolling(NextSegment):
    """The pipeline, and its step into the next segment.  ``Journal`` adds the steps that take entries away."""

    _roll: Roll | None = None
    _no_space: OSError | None = None  # the roll that is under way could not list its segment
    _stuck: RollJob | None = None

    # ------------------------------------------------------------ behind
    @property
    def _behind(self) -> bool:
        return self.bell is not None and self.config.strategy == "mem_first"

    def fits(self, body_bytes: int, count: int) -> bool:
        """As :meth:`Pipeline.fits`; also False while a roll that the record needs has to wait for another thread."""
        if self._no_space is not None:
            return True  # needs_roll() is to look for space
        return not self._must_wait(body_bytes, count) and super().fits(body_bytes, count)

    def _must_wait(self, body_bytes: int, count: int) -> bool:
        if not self._behind or not super().needs_roll(body_bytes, count):
            return False
        if self._roll is not None:
            return True
        self._prepare()
        ready = self._prepared
        if ready is None or not ready.done:
            return ready is not None
        if ready.error is not None or self.end == self.durable:
            return False
        # Whatever of the room belongs to others: what opens the segment is nobody's.
        record_bytes = self._head_bytes_max + fmt.RECORD_BYTES + body_bytes
        return self.end + record_bytes - self.durable > self._buffered_limit

    @property
    def _head_bytes_max(self) -> int:
        """What opens the next segment takes no more of the ring than this."""
        return fmt.RECORD_BYTES + min(self.ring.ring_bytes // 4, self.producers.snapshot_bytes_max())

    def needs_roll(self, body_bytes: int, count: int) -> bool:
        """As :meth:`Pipeline.needs_roll`.  Raises :class:`DiskFull`, too, while a roll behind finds no space."""
        if self._no_space is not None:
            self.flush()  # which tries it again
        return super().needs_roll(body_bytes, count)

    def _roll_behind(self, body_bytes: int, count: int) -> bool:
        """Go on in the prepared segment, in memory; False, with nothing changed, if that cannot be done now."""
        ready, index = self._prepared, self.index
        if not self._behind or self._roll is not None or ready is None or not ready.done or ready.error is not None:
            return False
        self.copy_to_ring()
        head = self._head_of_segment(self.next_index, self.last_term, None)
        sealed = self._as_sealed()
        record_bytes = len(head) + fmt.RECORD_BYTES + body_bytes
        info = self._describe(self.next_index, self.last_term, sealed, record_bytes, count)
        if (
            index is None or self._active_id() is None or self.failure is not None
            or self.next_index + count > index.base_index + index.slots  # readers look into the old index until the end
            or info.file_bytes != ready.file_bytes or self._slots_of(info.index_slots) != ready.index_slots
            or self.end + record_bytes - self.durable > self.config.buffered_bytes_limit
        ):  # fmt: skip
            return False
        segment = self._create_segment(info)
        self.coming = self._create_index(info)
        self._roll = Roll(sealed[-1], info, segment, self.coming)
        self._next_id = info.segment_id + 1
        self._parts.append(head)
        self.end += len(head)
        self.heads += len(head)
        self.vouched = self.durable
        self._limit = segment.end_limit
        self._index_limit = min(index.base_index + index.slots, info.base_index + info.index_slots)
        self.open_gate()
        return True

    @property
    def owes_work(self) -> bool:
        """As :meth:`Pipeline.owes_work`; a roll that found no space is tried again."""
        return self._no_space is not None or super().owes_work

    def prepare_in_time(self, flushed_bytes: int = 0) -> None:
        """So much goes to the file at once: begin the next segment if this one may not last much longer.

        While a roll leads to it, the one after it, if that fills already: a roll takes several syncs.
        """
        if self._no_space is not None:
            return
        if self._roll is not None:
            coming = self._roll.info
            if self.end - coming.start >= coming.file_bytes // FLOOD_PART:
                self._prepare()
            return
        info = self.manifest.segments[-1]
        flood, half = flushed_bytes >= info.file_bytes // FLOOD_PART, info.start + info.file_bytes // 2
        if flood or self.written >= half or self.next_index >= info.base_index + info.index_slots // 2:
            self._prepare()

    def make_job(self) -> FlushJob:
        """As :meth:`Pipeline.make_job`; while a roll is under way one of its two jobs."""
        roll = self._roll
        if roll is None:
            before, job = self.written, super().make_job()
            self.prepare_in_time(self.written - before)
            return job
        assert self.segment is not None
        if self.written < roll.info.start:
            return FlushJob(self.segment, *self._hand_over(roll.info.start), roll.info.base_index - 1)
        if self.failure is not None:
            raise self.failure
        listed = copy.copy(self.manifest)
        listed.segments, listed.next_segment_id = [*listed.segments[:-1], roll.ended, roll.info], self._after(roll.info)
        listed.settled = False
        if self._stuck is not None:
            listed.durable = self._stuck.end
            self._stuck.again(listed)
            return self._stuck
        listed.durable = self.copied
        return RollJob(
            self.files, self.directory, roll, self.segment, listed, *self._hand_over(self.copied),
            self.slots_from - 1, self._caches_of(roll.ended), threads=self.bell is not None,
        )  # fmt: skip

    def finish_job(self) -> None:
        """As :meth:`Pipeline.finish_job`; at the end of a roll the new segment is the active one."""
        job = self.job
        if not isinstance(job, RollJob):
            super().finish_job()
            return
        job.wait()
        self._no_space, self._stuck = None, None
        if job.found_no_space:
            self.job, self._no_space, self._stuck = None, job.error, job
            if self._prepared is not None and self._prepared.done:
                self._forget_prepared()  # the segment after it: its space is what the manifest needs
            self.open_gate()
            return
        if job.error is None:
            listed, self._roll, self.coming = job.listed, None, None
            self.manifest.segments, self.manifest.next_segment_id = listed.segments, listed.next_segment_id
            self.manifest.durable, self.manifest.settled = listed.durable, False
            # Before the durable frontier rises, and with it the floor: who misses bytes in the ring finds the new map.
            self._adopt(job.roll.segment, job.roll.active_index, job.roll.info)
        super().finish_job()

    def _check_space(self) -> None:
        """A roll that found no space: what it holds is written, and counts for nothing yet."""
        if self._no_space is not None:
            raise self._space_error(self._no_space, manifest_path(self.directory)) from self._no_space

    def fail(self, error: OSError) -> SyncFailed:
        """As :meth:`Pipeline.fail`."""
        if isinstance(self.job, RollJob):  # its manifest must not replace the one that latches the failure
            try:
                self.finish_job()
            except SyncFailed as failed:
                return failed
        return super().fail(error)

    def open_gate(self) -> None:
        """As :meth:`Pipeline.open_gate`; shut while a roll finds no space.

        Where the segment may end before the next flush does, what opens the next one is held free: a roll behind that
        had to wait for a flush would let everybody wait, those with room of their own, too.
        """
        near = self._behind and self._roll is None and self._limit - self.durable <= self._buffered_limit
        held = self._head_bytes_max if near else 0
        self.held = held if held <= self._buffered_limit // HELD_PART else 0
        super().open_gate()
        if self._no_space is not None:
            self._open_end = 0  # needs_roll() is to look for space first

    def _let_go(self) -> None:
        """At the end: what was prepared, and a roll that was not finished."""
        self._forget_prepared()
        if self._roll is not None:
            self._roll.segment.close()
            self._roll.active_index.close()

    # ------------------------------------------------------------ a new segment
    def _active_id(self) -> int | None:
        """The segment that is open for writing and not sealed yet."""
        segments = self.manifest.segments
        return segments[-1].segment_id if self.segment is not None and not segments[-1].sealed else None

    def _as_sealed(self) -> list[SegmentInfo]:
        """The segment list as it is once the active segment is sealed where it stands."""
        segments = list(self.manifest.segments)
        if self._active_id() is not None:
            segments[-1] = segments[-1].finished(self.end, self.next_index - 1, self.last_term)
        return segments

    def _seal_active(self, write_caches: Callable[[], None], was_sealed: list[bool]) -> None:
        """The active segment's data is durable: write its index and term runs, then its seal; and say so."""
        write_caches()
        assert self.segment is not None
        self.segment.seal(self.end, self.next_index - 1, self.last_term)
        was_sealed.append(True)

    def _write_caches(self) -> None:
        """What can be rebuilt from the active segment's records."""
        self._caches_of(self._as_sealed()[-1])()

    def _caches_of(self, ended: SegmentInfo) -> Callable[[], None]:
        """Writes index and term runs of the active segment, which ends so.  To be called in any thread."""
        assert self.index is not None
        base, last, number = ended.base_index, ended.last_index or 0, ended.segment_id
        files, directory, log_id = self.files, self.directory, self.log_id
        slots, runs = self.index.used(last), self.terms.runs.between(base, last)

        def write() -> None:
            write_sealed(files, join(directory, fmt.index_name(number)), log_id, number, base, slots)
            write_sealed_runs(files, join(directory, fmt.terms_name(number)), log_id, number, runs)

        return write
