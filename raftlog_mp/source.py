"""Where a reader's frontiers, ring and catalog come from: a live writer, or the files alone.

``View`` (view.py) and :class:`FileView` look alike; a handle that began on files goes live as soon as a
writer appears, and one whose writer died goes on with what that writer had published.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from . import errors, layout, manifest, provable, shm, wakeup
from . import format as fmt
from .catalog import Catalog, SegmentInfo
from .config import LogConfig
from .files import Files, Watched, join
from .findings import Plan, expected_header
from .index import BlockKeeper, IndexReader, from_slots, open_active, open_sealed
from .link import Link
from .manifest import Manifest
from .ring import Get, ShortWay
from .segment import SegmentReader, scan_records
from .survey import survey
from .term_history import history_of_log, runs_in_file, runs_in_records
from .terms import Run, TermRuns, Unknown, unknown_terms
from .types import LogId

T = TypeVar("T")
NO_INDEX = 1 << 63  # beyond every index: an active index that holds nothing
CHANGE_SECONDS_MAX = 60.0  # that a reader waits for a living writer in the middle of a change: an fsync may take long
NEXT_WRITER_SECONDS = 1.0  # that it waits for another if that one is gone
LOOK_SECONDS = 0.05  # how often a reader without a writer looks whether one has appeared


class _Constant:
    """A word that does not change: a frontier of a log that nobody writes."""

    def __init__(self, value: int) -> None:
        self.value = value

    def load(self, _order: int = 0) -> int:
        return self.value


class _FileControl:
    """Stands in for the control block of a log without a writer."""

    def __init__(self, words: dict[str, int]) -> None:
        for name in layout.CONTROL_WORDS:
            setattr(self, name, _Constant(words.get(name, 0)))

    def __getattr__(self, name: str) -> Any:  # for the type checker; every word was set above
        raise AttributeError(name)

    def lowest_removed(self, since_epoch: int, epoch: int) -> int:
        """Nothing changes without a writer."""
        return layout.NOTHING_REMOVED

    def snapshot(self) -> dict[str, int]:
        return {name: getattr(self, name).load() for name in layout.CONTROL_WORDS}


class _FileRing:
    """Stands in for the ring: the acknowledged bytes that only a dead writer's ring still held."""

    def __init__(self, start: int, data: bytes) -> None:
        self._start, self._data = start, data

    def floor(self, _order: int) -> int:
        return self._start

    def short_way(self, *_: Any) -> ShortWay:
        """As :meth:`RingReader.short_way`: there is none, also because every read has to look at the manifest."""
        otherwise: Get = _[-1]
        return otherwise, lambda _last: None

    def copy(self, start: int, end: int) -> bytes | None:
        low, high = start - self._start, end - self._start
        return self._data[low:high] if 0 <= low < high <= len(self._data) else None

    def record(self, position: int) -> tuple[tuple[Any, ...], bytes] | None:
        head = self.copy(position, position + fmt.RECORD_BYTES)
        if head is None:
            return None
        fields = fmt.RECORD_HEADER.unpack(head)
        body = self.copy(position + fmt.RECORD_BYTES, position + fmt.RECORD_BYTES + fields[3])
        return fields, body or b""


class _FileTerms:
    """Stands in for the table of term runs: found in the files when it is first asked for."""

    def __init__(
        self, files: Files, directory: str, found: Manifest, plan: Plan, tail_runs: list[Run] | None = None
    ) -> None:  # fmt: skip
        self._files, self._directory, self._manifest, self._plan = files, directory, found, plan
        self._tail_runs = tail_runs
        self._runs: TermRuns | None = None
        self.damage: list[list[int]] = []  # where they are a guess that no repair has noted; known once asked

    def ask(self, _word: int, question: Callable[[TermRuns], T]) -> T:
        """As :meth:`TermReader.ask`."""
        if self._runs is None:
            plan, files, directory = self._plan, self._files, self._directory
            runs, self.damage = history_of_log(files, directory, self._manifest, plan.segments)
            if self._tail_runs is not None:
                runs += self._tail_runs
            elif plan.tail is not None:
                runs += runs_in_file(files, directory, plan.tail, plan.file_end)
            self._runs = TermRuns(runs + runs_in_records(plan.ring_bytes))
        return question(self._runs)


def _state_of(found: Manifest) -> int:
    if found.failed:
        return layout.STATE_FAILED
    return layout.STATE_STOPPED if found.clean else layout.STATE_CRASHED


class FileView:
    """What the files (and a dead writer's ring) prove, found by recovery's own scan, without changing anything."""

    def __init__(self, files: Files, directory: str, found: Manifest, held: Watched | None = None) -> None:
        self.held = held or Watched(files, manifest.manifest_path(directory))  # the manifest that `found` was read from
        seen = provable.look(files, directory, found)
        plan: Plan = seen.plan
        self.plan, self.manifest, self.holes = plan, seen.manifest, seen.holes
        self.uuid, self.generation, self.log_id = found.uuid, found.generation, found.log_id
        self.config = LogConfig.from_dict(found.config)
        self.control: Any = _FileControl({
            "log_id": found.log_id, "generation": found.generation, "published": plan.end,
            "last_index": plan.last_index, "last_term": plan.last_term, "durable": plan.file_end,
            "durable_index": plan.file_last_index, "written": plan.file_end,
            "first_index": found.purged_index + 1, "purged_index": found.purged_index,
            "purged_term": found.purged_term, "hard_version": NO_INDEX,
            "commit_index": min(max(found.commit_index, plan.commit_index), plan.last_index),
            "loss_possible": int(plan.loss_possible or found.loss_possible),
            "state": _state_of(found), "segments": len(found.segments),
        })  # fmt: skip
        self.ring = _FileRing(plan.file_end, plan.ring_bytes)
        self.terms = _FileTerms(files, directory, seen.manifest, plan, seen.runs)

    def catalog(self) -> Catalog:
        """Live segments; the unsealed tail ends where its good prefix does."""
        segments = list(self.plan.segments)
        if self.plan.tail is not None:
            segments.append(
                self.plan.tail.finished(self.plan.file_end, self.plan.last_index, self.plan.last_term)
            )
        if self.plan.ring_slots and (not segments or self.plan.tail is None):
            base = self.plan.file_last_index + 1
            carried = SegmentInfo(0, self.generation, base, self.plan.file_end, self.plan.file_end, 0, 0, 0)
            segments.append(carried)
        return Catalog(segments)

    def tail_index(self) -> IndexReader:
        """Index of the part that no sealed index covers."""
        if self.plan.tail is None:
            return from_slots(self.plan.file_last_index + 1, self.plan.ring_slots)
        return from_slots(self.plan.tail.base_index, self.plan.slots + self.plan.ring_slots)


class Source:
    """The current view of a handle, and the catalog that belongs to it."""

    def __init__(self, link: Link, files: Files, directory: str, *, files_allowed: bool) -> None:
        self.link, self._files, self._directory = link, files, directory
        self._files_allowed = files_allowed
        self._file_view: FileView | None = None
        self._catalog = Catalog([])
        self._manifest: Manifest | None = None
        self._looked = 0.0
        self._keeper = BlockKeeper()

    def view(self) -> Any:
        """The view in force: live if there ever was a writer for this handle, else the files'."""
        live = self.link.view
        if live is not None:
            if not live.control.superseded_by.load(shm.ACQUIRE):
                return live
            self.link.renew(live)
            if self.link.view is not live:
                return self.link.view or self.view()
            if not self._files_allowed:
                return self.link.ensure(wakeup.now())  # that view is known to be wrong: another writer, or none
            self.link.forget_view(live)  # the newer writer is gone as well: the files know what it did
            self._file_view = None
        if self._file_view is not None:
            self._look_for_writer(self._file_view)
            return self.link.view or self._file_view
        if not self.link.try_connect():
            if not self._files_allowed:
                return self.link.ensure(wakeup.now())
            self._file_view = self._read_files()
        return self.link.view or self._file_view

    def stands(self, view: Any) -> bool:
        """Whether ``view`` is what :meth:`view` would give for the files: the same look, and no step beyond it."""
        return (
            isinstance(view, FileView) and view is self._file_view and self.link.view is None
            and wakeup.now() - self._looked <= LOOK_SECONDS and not view.held.replaced()
        )  # fmt: skip

    def calm(self, view: Any, version: int) -> Callable[[], bool]:
        """What tells whether a map of ``view`` still stands: for the files :meth:`stands`, for others the version."""
        link, now = self.link, wakeup.now
        if isinstance(view, FileView):
            replaced = view.held.replaced
            return lambda: link.view is None and now() - self._looked <= LOOK_SECONDS and not replaced()
        load = view.control.catalog_version.load
        return lambda: link.view is view and load(shm.ACQUIRE) == version

    def _read_files(self) -> FileView:
        for _ in range(10):  # a writer may start, roll and stop while we look: then what we saw does not fit together
            # Before it is read: a file that replaces it later is noticed.
            held = Watched(self._files, manifest.manifest_path(self._directory))
            found = manifest.load(self._files, self._directory)
            view = FileView(self._files, self._directory, found, held)
            if manifest.load(self._files, self._directory).as_dict() == found.as_dict():
                return view
        raise errors.WriterUnavailable(f"{self._directory} kept changing while it was read; try again")

    def _look_for_writer(self, view: FileView) -> None:
        # Every start of a writer, and everything that takes entries away, replaces the manifest before it is answered.
        now, replaced = wakeup.now(), view.held.replaced()
        if replaced or now - self._looked > LOOK_SECONDS:
            self._looked = now
            # A writer that is there and does not answer now may have changed the log all the same.
            if not self.link.try_connect() and self._files_allowed and replaced:
                self._file_view = self._read_files()

    def outlast(self, view: Any) -> bool:
        """Wait until the change in ``view`` is over; if its writer is gone, turn to the next one or to the files.

        False if there is neither, or if a living writer takes longer than anybody should wait.
        """
        until, epoch = wakeup.now() + CHANGE_SECONDS_MAX, view.control.epoch.load(shm.ACQUIRE)
        while epoch & 1 and view.control.epoch.load(shm.ACQUIRE) == epoch and wakeup.now() < until:
            self.link.look()
            if not self.link.connected or self.link.view is not view:
                break
            wakeup.pause(LOOK_SECONDS / 50)
        else:
            return not epoch & 1 or view.control.epoch.load(shm.ACQUIRE) != epoch  # the next one may have begun
        if self._files_allowed:
            self.forget(view)
            return True
        try:
            return self.link.ensure(wakeup.now() + NEXT_WRITER_SECONDS) is not view
        except errors.WriterUnavailable:
            return False

    def forget(self, view: Any) -> None:
        """Let go of a view whose writer ended before its catalog could be read; the files serve instead."""
        live = self.link.view
        if self._files_allowed and live is not None and view is live:
            self.link.forget_view(live)

    def close(self) -> None:
        """Let go of what is held open."""
        self._file_view = None

    # ------------------------------------------------------------ catalog
    def catalog(self) -> Catalog:
        """The catalog taken by the last :meth:`refresh`."""
        return self._catalog

    def refresh(self, view: Any) -> IndexReader | None:
        """Take over the catalog of ``view`` and return its active index; None if it changed meanwhile (try again)."""
        if isinstance(view, FileView):
            self._catalog, self._manifest = view.catalog(), view.manifest
            return view.tail_index()
        segment, base = view.control.active_segment.load(shm.ACQUIRE), view.control.active_base.load(shm.ACQUIRE)
        try:
            found = manifest.load(self._files, self._directory)
            if found.clean and all(info.sealed for info in found.segments):
                # The writer ended in order and took its index along: the sealed segments have everything.
                self._catalog, self._manifest = Catalog(found.segments), found
                return from_slots(NO_INDEX, b"")
            if found.generation != view.generation:
                return None
            active = open_active(join(view.folder, fmt.active_index_name(view.generation, segment)), base)
        except (FileNotFoundError, ValueError):
            return None  # rolled on, or stopped, since we looked
        self._catalog, self._manifest = Catalog(found.segments), found
        return active

    def find_terms(self, view: Any) -> None:
        """The table of term runs went with a writer that ended in order: from now on the files tell."""
        found = manifest.load(self._files, self._directory)
        if found.clean and found.generation == view.generation:
            view.terms = _FileTerms(self._files, self._directory, found, Plan(segments=found.segments))

    def index_of(self, info: SegmentInfo, segment: SegmentReader) -> IndexReader:
        """The index of a segment: its file, or rebuilt from its records if that is missing or damaged."""
        found = self._manifest
        assert found is not None
        if info.last_index is not None:
            path = join(self._directory, fmt.index_name(info.segment_id))
            count = info.last_index + 1 - info.base_index
            opened = open_sealed(self._files, path, found.log_id, info.segment_id, info.base_index, count, self._keeper)
            if opened is not None:
                return opened
        if any(row[2] == info.segment_id for row in found.lost) and info.last_index is not None:
            return self._index_around(found, info)
        slots: list[bytes] = []
        try:
            image = segment.image()
        except OSError:
            return self._index_around(found, info)
        scan = scan_records(
            image, expected_header(found, info), info.generation, limit=info.end,
            on_record=lambda record, _: slots.append(record.position.to_bytes(8, "little") * record.count),
        )  # fmt: skip
        if info.last_index is not None and scan.last_index < info.last_index:  # damaged: what stands behind it proves
            return self._index_around(found, info)
        return from_slots(info.base_index, b"".join(slots))

    def _index_around(self, found: Manifest, info: SegmentInfo) -> IndexReader:
        """The index of a damaged segment; what nobody can read has the position of the damage."""
        around = survey(self._files, self._directory, info, found.log_id, unreadable_is_damage=True)
        return from_slots(info.base_index, around.slots(info.base_index, (info.last_index or 0) + 1))

    def lost_at(self, index: int) -> list[int] | None:
        """The row of the manifest's ``lost`` that holds the entry; None if repair has not given it up."""
        found = self._manifest
        return found.lost_at(index) if found is not None and found.lost else None

    def has_holes(self) -> bool:
        """Whether repair has given up any entries."""
        return self._manifest is not None and bool(self._manifest.lost)

    def before_lost(self, index: int, stop: int, info: SegmentInfo) -> int:
        """Up to which index entries from ``index`` on may be read in one go: ``stop``, the segment's end, or a hole."""
        found = self._manifest
        if info.last_index is not None:
            stop = min(stop, info.last_index + 1)
        if found is None or not found.lost:
            return stop
        # Also before damage without an entry: whatever stands in it, no read goes through.
        return min([stop, *(first for first, _, _, _ in found.live_lost() if index < first)])

    def loss(self, row: list[int]) -> errors.CorruptLog:
        """The error for entries in a hole, one row of ``Manifest.lost``: repair has given them up, or will."""
        first, last, segment_id, offset = row
        name = fmt.segment_name(segment_id)
        what = f"entry {first} is" if first == last else f"entries {first} to {last} are"
        view = self._file_view
        holes = view.holes if view is not None and self._manifest is view.manifest else []
        hole = next((one for one in holes if (one.segment_id, one.offset) == (segment_id, offset)), None)
        if hole is not None:
            return fmt.corrupt(
                f"{what} damaged: the bytes in {join(self._directory, name)} at offset {offset}, behind an entry of "
                f"term {hole.term}, do not prove. A writer refuses to start until the log is repaired",
                self._directory, segment=name, offset=offset, first_index=first, last_index=last, term=hole.term,
            )  # fmt: skip
        return errors.CorruptLog(
            f"{what} lost: the bytes in {join(self._directory, name)} at offset {offset} were damaged, and repair has "
            "noted the hole. Everything else is served. A Raft node fetches what is missing from a peer: "
            f"truncate_from({first}), then append_entries()",
            segment=name, offset=offset, first_index=first, last_index=last,
        )  # fmt: skip

    def unknown_terms(self, view: Any, runs: TermRuns, purged: LogId, last: int) -> list[Unknown]:
        """Which entries of the log have a term that nobody knows; ``runs``: the table of ``view``."""
        damage = [*(self._manifest.live_lost() if self._manifest is not None else ()), *view.terms.damage]
        return unknown_terms(runs, damage, purged, last) if damage else []

    def check_readable(self, index: int) -> None:
        """Raise :class:`CorruptLog` for an index behind the end if damage, not absence, keeps it from being served."""
        view = self._file_view
        if (
            self.link.view is None
            and view is not None
            and view.plan.refusal is not None
            and index > view.plan.last_index
        ):
            view.plan.refuse()
