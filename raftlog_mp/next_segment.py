"""The next segment: made ahead of need, described, created, and taken for the active one."""

from __future__ import annotations

from collections.abc import Callable

from crc32c import crc32c

from . import format as fmt
from . import shm
from .catalog import SegmentInfo
from .changes import Carried
from .files import join
from .index import ActiveIndex
from .pipeline import Pipeline
from .preparation import Preparation
from .segment import SegmentWriter
from .shortage import FULL, SHORTAGES, remove_half_made

NO_ROOM = (*FULL, *SHORTAGES)


class NextSegment(Pipeline):
    """The pipeline, and what its step into another segment is made of.  ``Rolling`` takes the step."""

    # Set by a writer that has a main loop: called in a helper thread when something is done that the loop waits for.
    bell: Callable[[], None] | None = None
    _next_id = 0
    _prepared: Preparation | None = None

    # ------------------------------------------------------------ ahead of need
    def _prepare(self) -> None:
        """Have the next segment's file made, in a thread."""
        if self.bell is None or self._prepared is not None or self.failure is not None:
            return
        number, config = self._id_of_next(), self.config
        self._prepared = Preparation(
            self.files, self.directory, fmt.segment_name(number), config.segment_bytes,
            self.folder, fmt.active_index_name(self.generation, number),
            self._slots_of(self._slots_for(config.segment_bytes)),
        )  # fmt: skip
        self._prepared.start(self.bell)

    def stop_preparing(self) -> None:
        """From now on nothing is done ahead or behind: the writer ends.  Waits for what is under way."""
        self.bell = None
        if self._prepared is not None:
            self._prepared.wait()

    def _forget_prepared(self) -> None:
        if self._prepared is not None:
            self._prepared.discard()
            self._prepared = None

    def _has_prepared(self, info: SegmentInfo) -> bool:
        """Whether the file of this segment was made ahead.  One that does not fit, or came to nothing, is removed."""
        ready = self._prepared
        if ready is None:
            return False
        ready.wait()
        error = ready.error
        if error is not None and error.errno not in NO_ROOM:
            raise self.fail(error) from error
        size = info.file_bytes, self._slots_of(info.index_slots)
        if error is None and (ready.file_bytes, ready.index_slots) == size:
            return True
        self._forget_prepared()
        return False

    def _id_of_next(self) -> int:
        """Number of the next segment.  The manifest has passed it before its file is made, see ``_after``: one that is
        prepared, and never listed, is known by its number as one that may go."""
        return self._next_id or self.manifest.next_segment_id

    @staticmethod
    def _after(info: SegmentInfo) -> int:
        """What the manifest that lists ``info`` as its newest segment says comes next: see ``_id_of_next``.

        While a roll behind is under way to the next number, the file of the one after it may be made.
        """
        return info.segment_id + 3

    # ------------------------------------------------------------ create and adopt
    def _describe(
        self, base_index: int, previous_term: int, kept: list[SegmentInfo], record_bytes: int, count: int
    ) -> SegmentInfo:
        file_bytes = max(self.config.segment_bytes, fmt.DATA_OFFSET + record_bytes)
        return SegmentInfo(
            segment_id=self._id_of_next(), generation=self.generation, base_index=base_index,
            start=self.end, previous_end=(kept[-1].end or 0) if kept else self.end, previous_term=previous_term,
            file_bytes=file_bytes, index_slots=max(self._slots_for(file_bytes), count),
        )  # fmt: skip

    @staticmethod
    def _slots_for(file_bytes: int) -> int:
        return max(file_bytes // 64, 1 << 16)

    def _slots_of(self, slots: int) -> int:
        """Slots of the shared index of a segment that is to have so many: in MemFirst it also takes the entries that
        come while a roll is under way behind."""
        return slots + (self.ring.ring_bytes // 64 if self.config.strategy == "mem_first" else 0)

    def _head_of_segment(self, base_index: int, term: int, carried: Carried | None) -> bytes:
        """What opens a segment: records that come with it, and a snapshot of the exactly-once table."""
        data, index = b"", base_index
        if carried is not None:
            data, index, term = carried.data, carried.last_index + 1, carried.last_term
        snapshot = self.producers.snapshot(self.ring.ring_bytes // 4)
        header = fmt.pack_record_header(
            crc32c(snapshot), len(snapshot), 0, fmt.KIND_PRODUCERS, self.log_id, self.generation,
            index, term, self.end + len(data), self.durable, 0, 0,
        )  # fmt: skip
        return data + header + snapshot

    def _create_segment(self, info: SegmentInfo) -> SegmentWriter:
        header = fmt.SegmentHeader(
            self.log_id, info.segment_id, info.generation, info.base_index, info.start,
            info.previous_end, info.previous_term, info.file_bytes, info.index_slots,
        )  # fmt: skip
        path, segment = join(self.directory, fmt.segment_name(info.segment_id)), None
        if self._has_prepared(info):
            assert self._prepared is not None
            fd, self.coming = self._prepared.take(info.base_index)
            self._prepared = None
            return SegmentWriter(self.files, path, header, fd)
        try:
            self.files.unlink(path)  # of a creation that failed before the manifest knew of it
            segment = SegmentWriter(self.files, path, header)
            self.files.sync_dir(self.directory)
        except OSError as error:
            if segment is not None:
                self._give_up(segment, None, error)
            raise self._space_error(error, path) from error
        return segment

    def _create_index(self, info: SegmentInfo) -> ActiveIndex:
        if self.coming is not None:  # made ahead, with the segment
            made, self.coming = self.coming, None
            if self.files.exists(made.path):
                return made
            made.close()
        shm.make_folder(self.folder)  # again, should somebody have wiped it under us
        path = join(self.folder, fmt.active_index_name(self.generation, info.segment_id))
        return ActiveIndex(path, info.base_index, self._slots_of(info.index_slots))

    def _give_up(self, segment: SegmentWriter, index: ActiveIndex | None, error: OSError) -> None:
        segment.close()
        if error.errno in FULL:
            self.files.unlink(segment.path)  # the manifest does not know it; its space is wanted elsewhere
            for newest in self.manifest.segments[-1:]:
                remove_half_made(self.files, self.directory, newest.segment_id)
        if index is not None:
            index.close()
        self._limit = self._open_end = 0  # the old segment may be sealed by now: the next append has to roll, too

    def _adopt(self, segment: SegmentWriter, index: ActiveIndex, info: SegmentInfo) -> None:
        old_segment, old_index = self.segment, self.index
        self.segment, self.index = segment, index
        self._limit = segment.end_limit
        self._index_limit = info.base_index + info.index_slots
        self._next_id = info.segment_id + 1
        self.open_gate()
        self.rolls += 1
        control = self.control
        control.active_segment.store(info.segment_id, shm.RELAXED)
        control.active_base.store(info.base_index, shm.RELAXED)
        control.active_start.store(info.start, shm.RELAXED)
        control.segments.store(len(self.manifest.segments), shm.RELAXED)
        control.rolls.store(self.rolls, shm.RELAXED)
        self._bump_catalog()
        if old_segment is not None:
            old_segment.close()
        if old_index is not None:
            old_index.close()

    def _bump_catalog(self) -> None:
        version = self.control.catalog_version
        # Manifest and index file are in place; a reader that sees the new version rereads them.  In a roll no entry of
        # the new segment is published before this store (RELEASE).  In a change this store comes before every frontier
        # moves (SEQ_CST): a reader loads a frontier, then the version; if the version is the one it knows, the frontier
        # belongs to the map it knows, and if not, it waits for the even epoch.
        version.store(version.load(shm.RELAXED) + 1, shm.SEQ_CST)
