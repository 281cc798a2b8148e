"""The journal: the pipeline, and the steps across segments: roll, replace, truncate, purge, reset, close.

Nothing is overwritten in place.  Whatever takes entries off the log begins a new segment, and one swap of the
manifest makes both true at once: the old entries are gone and the new ones are there.  Until the swap a crash leaves
the log as it was; after it, as it shall be.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from functools import partial

from . import format as fmt
from . import shm
from .catalog import SegmentInfo, clipped
from .changes import Batch, Carried, Change
from .errors import DiskFull, RaftLogError, SyncFailed
from .files import join
from .index import pack_slot
from .layout import NOTHING_REMOVED
from .manifest import save
from .preparation import Together
from .producers import KEPT_BYTES_MAX
from .rolling import Rolling, RollJob
from .segment import SegmentWriter
from .shortage import FULL, remove_caches, remove_half_made
from .sweeper import remove_segment
from .terms import Run, TermRuns
from .types import LogId


class Journal(Rolling):
    """Where the log stands, and the steps that move it on.  Made by ``startup.open_journal``."""

    def mark(self) -> None:
        """Append a record without entries whose header vouches for everything durable so far."""
        if self.end + fmt.RECORD_BYTES <= self._limit:
            self._append_mark()
            return
        try:
            self.roll()  # the head of the next segment says as much
        except DiskFull:
            self.vouched = self.durable  # not before there is space: the next append begins that segment

    # ------------------------------------------------------------ steps
    def roll(self, body_bytes: int = 0, count: int = 0, *, carried: Carried | None = None) -> None:
        """Seal the active segment and start the next, with room for a record of this size.

        ``carried`` (only right after recovery) goes to the head of the new segment, durable before it is listed.

        Raises :class:`DiskFull` with nothing changed if there is no space, :class:`SyncFailed` for good.
        """
        if carried is None and self._roll_behind(body_bytes, count):
            return
        self._settle()
        self._begin_segment(self.next_index, self.last_term, carried, body_bytes=body_bytes, count=count)

    def replace_from(self, index: int, batches: list[Batch], producer: int, sequence: int) -> None:
        """In one durable step: entries from ``index`` on are gone, and ``batches`` (none: a truncation) stand there.

        Raises as :meth:`roll`; then nothing has changed.
        """
        self._settle()
        previous_term = self.terms.runs.term_of(index - 1) or 0
        self.producers.record(producer, sequence, self._outcome(index, batches))
        carried = self._carry(index, batches, producer, sequence) if batches else None
        change = Change(index, self.purged, self.manifest.commit_index)
        self._begin_or_forget(producer, sequence, index, previous_term, carried, change)

    def reset(self, boundary: LogId, producer: int, sequence: int) -> None:
        """In one durable step: the log is empty and goes on after ``boundary``.  The hard state stays."""
        self._settle()
        self.producers.record(producer, sequence, (boundary.index + 1, 0, boundary.term))
        commit = self.manifest.commit_index  # 0 = unset stays so; else the snapshot covers what is committed
        commit = max(commit, boundary.index) if commit else 0
        same = (self.terms.runs.term_of(boundary.index) or 0) == boundary.term  # else another entry goes
        change = Change(boundary.index + same, boundary, commit)
        self._begin_or_forget(producer, sequence, boundary.index + 1, boundary.term, None, change)

    def _begin_or_forget(
        self, producer: int, sequence: int, base_index: int, previous_term: int, carried: Carried | None, change: Change
    ) -> None:
        try:
            self._begin_segment(base_index, previous_term, carried, change=change)
        except RaftLogError:
            self.producers.unrecord(producer, sequence)
            raise

    def settle_to(self, index: int) -> None:
        """Everything up to ``index`` is durable, so that it can be purged.

        Where that wants space which is not there, in MemFirst, the files of what is durable go at once: it would go in
        any case.  Raises :class:`DiskFull` if not even that helps.
        """
        if index <= self.durable_index and self.failure is None:
            return
        try:
            self._settle()
        except DiskFull:
            if self.durable_index <= self.purged.index:
                raise
            self.purge_to(self.durable_index)
            for info in self.take_dead():
                with suppress(OSError):  # the next start removes it
                    remove_segment(self.files, self.directory, info.segment_id)
            self._settle()

    def purge_to(self, index: int) -> None:
        """Entries up to ``index`` are gone for readers and for ever; durable on return.  Their files go later."""
        if index > self.durable_index or self.failure is not None:
            self._settle()  # the boundary must never lie beyond what the files hold
        if isinstance(self.job, RollJob):
            self.finish_job()  # else the manifest that it writes might replace ours
        manifest, before = self.manifest, (self.manifest.segments, self.purged, self.manifest.durable)
        purged = LogId(self.terms.runs.term_of(index) or 0, index)
        newest = manifest.segments[-1]  # goes on, or was sealed by a roll that found no space: the next one follows it
        kept = [info for info in manifest.segments if info is newest or (info.last_index or 0) > index]
        dead = [info for info in manifest.segments if info not in kept]
        try:
            manifest.segments, manifest.durable = kept, self.durable
            manifest.purged_index, manifest.purged_term = purged.index, purged.term
            self._save_purge(dead)
        except OSError as error:
            manifest.segments, (manifest.purged_term, manifest.purged_index), manifest.durable = before
            self.control.close_change(happened=False)
            remove_half_made(self.files, self.directory, newest.segment_id)
            raise self._space_error(error, self.directory) from error
        self._bump_catalog()
        self._tell_purged(purged)
        self.control.segments.store(len(kept), shm.RELAXED)
        self.terms.runs.purge_to(index)
        self.control.close_change(happened=True)
        self.dead += dead

    def _save_purge(self, dead: list[SegmentInfo]) -> None:
        """Swap the manifest, also on a full disk: purging is how its user makes room."""
        ready = partial(self.control.open_change, NOTHING_REMOVED)
        try:
            save(self.files, self.directory, self.manifest, ready=ready)
        except OSError as error:
            if error.errno not in FULL or not remove_caches(self.files, self.directory, dead):
                raise
            save(self.files, self.directory, self.manifest, ready=ready)

    def take_dead(self) -> list[SegmentInfo]:
        """The segments whose files may go; the caller removes them."""
        dead, self.dead = self.dead, []
        return dead

    # ------------------------------------------------------------ a new segment
    def _settle(self) -> None:
        """Everything is durable and published: no sync is in flight that could raise a frontier later."""
        if self.failure is not None:
            raise self.failure
        self.flush()
        if self.config.strategy == "mem_first" or self.published < self.copied:
            self.publish()

    def _begin_segment(
        self, base_index: int, previous_term: int, carried: Carried | None = None, *,
        change: Change | None = None, body_bytes: int = 0, count: int = 0,
    ) -> None:  # fmt: skip
        """Create a segment with its head, and swap the manifest for one that lists it (and no longer what goes)."""
        manifest, active_id = self.manifest, self._active_id()
        before = (manifest.segments, manifest.next_segment_id, self.purged, manifest.commit_index)
        sealed = self._as_sealed()
        kept = sealed if change is None else clipped(sealed, base_index, previous_term)
        if change is not None and change.purged.index >= base_index - 1:
            kept = []
        if carried is not None:
            count = len(carried.slots) // fmt.SLOT_BYTES
        head = self._head_of_segment(base_index, previous_term, carried)
        info = self._describe(base_index, previous_term, kept, len(head) + fmt.RECORD_BYTES + body_bytes, count)
        segment, index, table, together, was_sealed = self._create_segment(info), None, None, None, list[bool]()
        try:
            index = self._create_index(info)
            if change is not None:
                table = self.terms.stage(self._runs_after(base_index, change.purged, carried))
            # Seal and head are durable before the manifest lists the segment: recovery reads no older table for it.
            # Before that neither counts, so their syncs, and that of the manifest's new content, may overlap.
            steps = [partial(self._begin_file, segment, head)]
            if any(one.segment_id == active_id for one in kept):
                steps.insert(0, partial(self._seal_active, self._caches_of(sealed[-1]), was_sealed))
            together = Together(steps, threads=self.bell is not None)
            if change is not None:
                manifest.purged_term, manifest.purged_index = change.purged
                manifest.commit_index = change.commit_index
            manifest.segments, manifest.next_segment_id = [*kept, info], self._after(info)
            manifest.durable, manifest.settled = self.end + len(head), False  # vouches for what the segment begins with
            save(self.files, self.directory, manifest, ready=partial(self._before_the_swap, together, change))
        except OSError as error:
            if together is not None:
                together.end()
            manifest.segments, manifest.next_segment_id, purged, manifest.commit_index = before
            if was_sealed:
                manifest.segments = sealed
            manifest.durable, (manifest.purged_term, manifest.purged_index) = self.durable, purged
            self.control.close_change(happened=False)
            self.terms.discard(table)
            self._give_up(segment, index, error)
            raise self._space_error(error, segment.path) from error
        self.dead += [one for one in sealed if all(one.segment_id != other.segment_id for other in kept)]
        self._adopt(segment, index, info)
        if table is not None:
            self.terms.adopt(table)
        self._stand_at(base_index, previous_term, head, carried, change)
        self.control.close_change(happened=True)

    def _begin_file(self, segment: SegmentWriter, head: bytes) -> None:
        segment.begin()
        segment.write(self.end, [head])
        segment.sync()

    def _before_the_swap(self, together: Together, change: Change | None) -> None:
        together.wait()
        if change is not None:
            self.control.open_change(change.removed)

    def _stand_at(
        self, base_index: int, previous_term: int, head: bytes, carried: Carried | None, change: Change | None
    ) -> None:
        """The manifest says so: bring memory, words and frontiers to where the new segment begins."""
        assert self.index is not None
        self.next_index, self.last_term = base_index, previous_term
        if change is not None:
            self._tell_purged(change.purged)
            self.control.commit_index.store(change.commit_index, shm.SEQ_CST)
        if carried is not None:
            self.index.write(base_index, carried.slots)
            self.next_index, self.last_term = carried.last_index + 1, carried.last_term
        if len(head) <= self.ring.ring_bytes * 3 // 4:
            self.ring.write(self.end, head)  # everything that this overwrites is durable: we settled before
        else:
            self.ring.skip_to(self.end + len(head))
        self.slots_from = self.next_index
        self.vouched = self.durable
        self.end += len(head)
        self.copied = self.written = self.durable = self.end
        last = self.next_index - 1
        if last < self.published_index:
            self.durable_index = min(self.durable_index, last)  # lowered first: it is never seen above last_index
            self._tell_durable()
        self.publish()
        self.durable_index = last
        self._tell_durable()

    def _carry(self, index: int, batches: Iterable[Batch], producer: int, sequence: int) -> Carried:
        """Records that replace a suffix.  Only the last names the submission: with it all of them are there."""
        parts, slots, runs, position = [], [], list[Run](), self.end
        batches = list(batches)
        for number, batch in enumerate(batches):
            mine = (producer, sequence) if number == len(batches) - 1 else (0, 0)
            parts += [fmt.pack_record_header(
                batch.body_crc, len(batch.body), batch.count, fmt.KIND_ENTRIES, self.log_id, self.generation,
                index, batch.term, position, self.durable, *mine,
            ), batch.body]  # fmt: skip
            slots.append(pack_slot(position) * batch.count)
            runs.append((index, batch.term))
            position += fmt.RECORD_BYTES + len(batch.body)
            index += batch.count
        self.appends += 1
        self.entries += sum(batch.count for batch in batches)
        self.bytes += sum(len(batch.body) for batch in batches)
        return Carried(b"".join(parts), b"".join(slots), runs, index - 1, batches[-1].term)

    @staticmethod
    def _outcome(index: int, batches: list[Batch]) -> tuple[int, int, int]:
        before = sum(batch.count for batch in batches[:-1])
        return (index + before, batches[-1].count, batches[-1].term) if batches else (index, 0, 0)

    def _runs_after(self, index: int, purged: LogId, carried: Carried | None) -> TermRuns:
        """The term runs as they are once the entries from ``index`` on are replaced."""
        kept = [run for run in self.terms.runs.runs() if run[0] < index] if purged.index < index - 1 else []
        if not kept and purged.index:
            kept = [(purged.index, purged.term)]
        return TermRuns([*kept, *(carried.runs if carried is not None else ())])

    def _tell_purged(self, purged: LogId) -> None:
        """Inside a change: where the log begins, and what went from its end."""
        control = self.control
        control.purged_term.store(purged.term, shm.SEQ_CST)
        control.purged_index.store(purged.index, shm.SEQ_CST)
        control.first_index.store(purged.index + 1, shm.SEQ_CST)

    # ------------------------------------------------------------ end
    def close(self, *, clean: bool) -> None:
        """Release everything; ``clean``: flush, seal, and say so in the manifest, as far as the disk lets us."""
        self.stop_preparing()
        clean = clean and self.failure is None and self._finish()
        self._let_go()
        if self.segment is not None:
            self.segment.close()
        if self.index is not None and clean:
            self.index.close()
        self.ring.close()
        self.terms.close(remove=clean)
        if clean:
            shm.remove(join(self.folder, fmt.ring_name(self.generation)))  # nothing in it that the files lack

    def _finish(self) -> bool:
        """Flush, seal, and say so; False if there is no space for that: then the next start does it."""
        try:
            self.flush()
        except DiskFull:
            return False
        self.publish()
        manifest, sealed = self.manifest, self._as_sealed()
        assert self.segment is not None
        try:
            try:
                self._write_caches()
            except OSError as error:
                if error.errno not in FULL:
                    raise
                remove_half_made(self.files, self.directory, sealed[-1].segment_id)
            self.segment.seal(self.end, self.next_index - 1, self.last_term)  # gives back what the segment did not use
            manifest.segments = sealed
            manifest.producers = self.producers.to_keep(KEPT_BYTES_MAX)
            manifest.durable, manifest.clean, manifest.settled = self.durable, True, True
            save(self.files, self.directory, manifest)
        except OSError as error:
            manifest.clean = manifest.settled = False
            remove_half_made(self.files, self.directory, sealed[-1].segment_id)
            failed = self._space_error(error, self.directory)
            if isinstance(failed, SyncFailed):
                raise failed from error
            return False
        return True
