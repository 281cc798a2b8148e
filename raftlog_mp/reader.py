"""The reader: finds an entry's position in the index, its bytes in the ring or in a segment.  Lock-free.

It never asks the writer and never makes it wait.  Everything read is checked on a copy: the header must name
the position and index that were looked for; bytes from a segment file must prove by both checksums.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

from . import errors, shm, wakeup
from . import format as fmt
from .batches import EntryBatch
from .bodies import unpack_body
from .catalog import SegmentInfo
from .chunk import SMALL_BYTES, Decode, batches_in, end_of, entries_in, fitting
from .config import check_integer
from .era import Era, Gone, Overtaken
from .files import Files
from .index import IndexReader
from .link import RETRY_SECONDS
from .ring import Get
from .segment import SegmentReader, proves
from .shelf import CHUNK_BYTES, Place, Places, Shelf, copy_from_file, copy_from_ring, term_at, unreadable
from .shm import ACQUIRE
from .source import Source
from .types import Entry

TRIES = 100  # a reader that is overtaken again and again by rolls gives up; each try sees a newer catalog

T = TypeVar("T")
Reached = tuple[int, int, Callable[[int], object]]  # what short ways serve: last index, first, how to tell of more
NO_BATCH: tuple[Any, int, int, int, list[bytes]] = (None, -1, 0, 0, [])


class Reader:
    """The reading half of a handle.  Safe to use from several threads."""

    lapped_reads = property(lambda self: self._shelf.lapped_reads)  # reads of one entry that the ring no longer served

    def __init__(self, source: Source, files: Files, directory: str) -> None:
        self._source, self._directory = source, directory
        self._link = source.link
        self._shelf = Shelf(files, directory, source.index_of, source.has_holes)
        self._lock = threading.Lock()
        # Of the batch that was decoded last: view, position, term, base index, payloads.
        self._batch = NO_BATCH
        #: The entry at an index, or None outside the log.  Each map brings another; an older one serves the long way.
        self.get: Get = self._get_slowly
        self._upto: Reached = (0, 1, lambda _last: None)
        self._view: Any = None
        self._seen = -1  # catalog version that the map below belongs to
        self._epoch = 0

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it."""
        self._lock = threading.Lock()
        self._shelf.renew_lock()

    # ------------------------------------------------------------ the view
    def _settle(self) -> bool:
        """Take over the current view and its catalog; False if that cannot be had, and the map we hold has to do."""
        with self._lock:
            for _ in range(TRIES):
                view = self._source.view()
                # Odd: manifest, words and index do not fit together now.  Even and the same afterwards: they did.
                epoch = view.control.epoch.load(shm.ACQUIRE)
                if epoch & 1:
                    if not self._source.outlast(view) and view is self._view:
                        return False  # its writer died in a change, and there is no other
                    continue
                version = view.control.catalog_version.load(shm.ACQUIRE)
                active = self._source.refresh(view)
                if active is not None:
                    if (version, epoch) == (
                        view.control.catalog_version.load(shm.ACQUIRE), view.control.epoch.load(shm.ACQUIRE),
                    ):  # fmt: skip
                        self._adopt(Era(view, version, epoch), active)
                        return True
                else:
                    self._link.look()
                    if not self._link.connected:
                        # The writer of this view is gone and no other can be reached: what it had published stays
                        # readable through the map we hold.  _seen stays stale, so the next read looks again.
                        if view is self._view:
                            return False
                        self._source.forget(view)
                wakeup.pause(RETRY_SECONDS)
        raise errors.WriterUnavailable(f"the catalog of {self._directory} kept changing; try again")

    def _adopt(self, era: Era, active: IndexReader) -> None:
        view, control = era.view, era.view.control
        if view is not self._view:
            self._shelf.clear()
        else:
            self._shelf.keep_only(self._source.catalog().ids())
        self._verify, self._populate = view.config.verify_reads, view.config.strategy == "mem_first"
        self._first = partial(control.first_index.load, shm.ACQUIRE)
        # SEQ_CST: acquires everything published up to the index, and serves as a sleeper's re-check.
        self._last = partial(control.last_index.load, shm.SEQ_CST)
        self._version = partial(control.catalog_version.load, shm.ACQUIRE)
        self._ring = view.ring
        self._published = partial(control.published.load, shm.ACQUIRE)
        self._durable = partial(control.durable.load, shm.ACQUIRE)
        # One tuple, so that a thread without the lock sees base and slots of the same index.
        self._active = (active.base_index, active.slots, active)
        self._view, self._seen, self._epoch = era
        self._shelf.forget_places()
        self._find_short_way()

    def _find_short_way(self) -> None:
        """With the lock held."""
        # A purge stores the new first index after the version: while that stands, so does what is loaded here.
        (base, slots, _), first, last = self._active, self._first(), self._last()
        calm = self._source.calm(self._view, self._seen)
        from_file, reach_file = self._shelf.short_way(
            calm, first, last, self._ring.floor, self._get_inside, self._get_slowly, prove=self._verify
        )
        low = max(first, base)
        self.get, reach_ring = self._ring.short_way(
            self._link, self._view, self._view.control.catalog_version.load, self._seen, low, last, base, slots,
            from_file,
        )  # fmt: skip
        self._upto = last, low, lambda last: (reach_file(last), reach_ring(last))

    def view(self) -> Any:
        """The view in force, settled."""
        view = self._source.view()
        if view is not self._view or self._version() != self._seen:
            self._settle()
        return self._view

    def era(self) -> Era:
        """What the map in force, settled, belongs to."""
        self.view()
        return Era(self._view, self._seen, self._epoch)

    def check_readable(self, index: int) -> None:
        """Raise :class:`CorruptLog` for an index that damage, not absence, keeps from being served."""
        self._source.check_readable(index)

    def calm(self, era: Era) -> bool:
        """Whether nothing has happened since ``era``: one load.  Every change and every successor bump the version."""
        return self._view is era.view and bool(self._version() == era.version)

    def steady(self, look: Callable[[Any], T]) -> T:
        """What ``look(view)`` finds while no truncation, purge or reset is under way: words that fit together."""
        for _ in range(TRIES):
            view = self.view()
            epoch = view.control.epoch.load(shm.ACQUIRE)
            if epoch & 1:
                if not self._source.outlast(view):
                    break
                continue
            try:
                found = look(view)
                # `look` loads with ACQUIRE: an epoch that is still the same was never odd in between.
                if view.control.epoch.load(shm.ACQUIRE) == epoch:
                    return found
            except FileNotFoundError:  # the table of term runs: another edition by now, or the writer is gone
                self._source.find_terms(view)
                wakeup.pause(RETRY_SECONDS / 10)
        raise errors.WriterUnavailable(
            f"{self._directory} kept changing, or its writer died in the middle of a change; try again"
        )

    # ------------------------------------------------------------ one entry
    def _get_slowly(self, index: int) -> Entry | None:
        if type(index) is not int:
            check_integer("index", index)
        for _ in range(TRIES):
            view = self._view
            if view is None or (self._link.view is not view and not self._source.stands(view)):
                self.view()  # a new writer, or none
            reached = self._upto
            # The order matters: last_index first (it acquires everything published up to it), then the catalog
            # version: a roll before `index` was published is then visible, so the map used below is new enough.
            first, last = self._first(), self._last()
            if self._version() != self._seen and self._settle():
                continue
            if not first <= index <= last:
                self._source.check_readable(index)
                return None
            if last > reached[0]:
                self._reach(last, reached)
            try:
                return self._get_from_place(index)
            except Overtaken:
                wakeup.pause(RETRY_SECONDS / 10)
        raise errors.WriterUnavailable(f"{self._directory} kept changing; try again")

    def _reach(self, last: int, reached: Reached) -> None:
        """Tell the short way of newer entries, if it still is the one of which the caller has ``reached``."""
        with self._lock:
            if self._upto is reached:
                before, low, reach = reached
                if before < low:
                    self._find_short_way()  # the first entries: now it can guess how long they are
                else:
                    reach(last)
                    self._upto = last, low, reach

    def _get_inside(self, index: int) -> Entry | None:
        """An entry of the map in force."""
        try:
            return self._get_from_place(index)
        except Overtaken:
            return self._get_slowly(index)

    def _get_from_place(self, index: int) -> Entry | None:
        places = self._shelf.places
        place = places.find(index) or self._open_place(index, places)
        position = place.reader.slots[index - place.reader.base_index]
        view, cached, term, first, payloads = self._batch
        if cached == position and view is self._view:
            return Entry(term, index, payloads[index - first])
        found = self._ring.record(position) if self._ring.floor(ACQUIRE) <= position else None
        if found is None:
            # Lapped: what lies below the floor is durable, so the segment file has it.
            self._shelf.lapped_reads += 1
            if place.segment is None:
                place = place._replace(segment=self._segment(place.info))
                self._shelf.add(place, places)
            assert place.segment is not None
            found = place.segment.record(position)
            if found is not None and self._verify and not proves(*found):
                found = None
        entry = self._entry_in(found[0], found[1], position, index) if found is not None else None
        if entry is None:  # damaged, or overtaken by a change: the range read looks again, and names the damage
            return next(iter(self.read(index, index + 1, None)), None)
        return entry

    def _open_place(self, index: int, places: Places) -> Place:
        """Where ``index`` is looked up; kept among ``places`` for the next look."""
        info, found = self._locate(index)
        base, high = found.base_index, found.base_index + len(found.slots) - 1
        if index < self._active[0] and info.last_index is not None:
            high = min(high, info.last_index)
        low = max(info.base_index, base)
        short_way, _ = self._ring.short_way(
            self._link, self._view, self._view.control.catalog_version.load, self._seen, low, high, base, found.slots,
            self._get_inside,
        )  # fmt: skip
        place = Place(low, high, found, info, short_way, None)
        self._shelf.add(place, places)
        return place

    def _entry_in(self, fields: tuple[Any, ...], body: bytes, position: int, index: int) -> Entry | None:
        """The entry out of a record copy, or None if the record is not the one looked for."""
        count, base, term = fields[4], fields[9], fields[10]
        if fields[0] != fmt.RECORD_MAGIC or fields[11] != position or not base <= index < base + count:
            return None
        try:
            payloads = unpack_body(body, count)
        except ValueError:  # both checksums hold, and yet it is no batch: not one of ours
            return None
        if count > 1:
            self._batch = (self._view, position, term, base, payloads)
        return Entry(term, index, payloads[index - base])

    # ------------------------------------------------------------ ranges
    def read(self, start: int, stop: int, max_bytes: int | None, era: Era | None = None) -> list[Entry]:
        """Entries ``start..stop-1``; ends early after ``max_bytes`` of payload, but holds at least one entry.

        ``era``: when the caller saw that these entries are there; :class:`Overtaken` if that is no longer so.
        """
        return self._collect(start, stop, max_bytes, era, entries_in, lambda entry: len(entry.payload))

    def read_batches(
        self, start: int, stop: int, max_bytes: int | None, era: Era | None = None
    ) -> list[EntryBatch]:
        """As :meth:`read`, but the records as they stand; ``max_bytes`` counts encoded bytes."""
        return self._collect(start, stop, max_bytes, era, batches_in, lambda batch: len(batch.encoded))

    def _collect(
        self, start: int, stop: int, max_bytes: int | None, era: Era | None, decode: Decode[T],
        size_of: Callable[[T], int],
    ) -> list[T]:  # fmt: skip
        items: list[T] = []
        left = max_bytes
        try:
            for part in self.parts(start, stop, decode, max_bytes, era):
                if left is not None:
                    sizes = list(map(size_of, part))
                    used = sum(sizes)
                    if used > left:
                        return items + fitting(part, sizes, left, always=not items)
                    left -= used
                items += part
        except errors.CorruptLog:
            if max_bytes is None or not items:
                raise  # who sets a limit gets what stands before the damage; the next call names it
        return items

    def parts(
        self, start: int, stop: int, decode: Decode[T], max_bytes: int | None = None, era: Era | None = None
    ) -> Iterator[list[T]]:
        """What ``decode`` finds in entries ``start..stop-1``, chunk by chunk, in order, proved.

        :class:`Overtaken` if something was taken off the log since the first of them was looked for.
        """
        index, tries, era = start, 0, era or self.era()
        chunk_bytes = CHUNK_BYTES if max_bytes is None else min(max(max_bytes, SMALL_BYTES), CHUNK_BYTES)
        while index < stop:
            if not self.calm(era):
                now = self.era()
                if now.view is not era.view or now.epoch != era.epoch:
                    raise Overtaken
                era = now
            info, found = self._locate(index)
            position = found.slots[index - found.base_index]
            limit = self._source.before_lost(index, stop, info)
            end = min(position + chunk_bytes, end_of(found.slots, limit - 1 - found.base_index))
            data = copy_from_ring(self._ring, position, min(end, self._published()))
            from_file = data is None
            if data is None:
                end_of_segment = info.end if info.end is not None else self._durable()
                data = copy_from_file(self._segment(info), position, end, end_of_segment)
            part, due = decode(data, position, index, limit, prove=from_file and self._verify)
            if due > index:
                index, tries = due, 0
                yield part
                continue
            # Not the record that the index promised, or not a proved one: look again.
            tries += 1
            if tries > (3 if from_file else TRIES):
                raise self._damaged_record(info, position, index)
            if from_file or info.sealed:  # then the index is wrong, or the file: both are opened anew
                self._shelf.let_go(info.segment_id)
                self._settle()

    # ------------------------------------------------------------ where
    def _locate(self, index: int) -> tuple[SegmentInfo, IndexReader]:
        """The segment that holds ``index``, and the index that tells its position."""
        lost = self._source.lost_at(index)
        if lost is not None:
            raise Overtaken if self._overtaken(lost[0], lost[1]) else self._source.loss(lost)
        info = self._source.catalog().find(index)
        if info is None:
            raise self._damage(None, 0, index, index)
        base, slots, active = self._active
        if index >= base:
            at = index - base
            if at >= len(slots) or slots[at] < info.start:  # never written: the log was longer when the caller looked
                raise Overtaken
            return info, active
        found = self._index(info)
        if not 0 <= index - found.base_index < len(found.slots):
            raise self._damage(info, info.start, index, info.last_index)
        return info, found

    def _segment(self, info: SegmentInfo) -> SegmentReader:
        try:
            return self._shelf.segment(info, populate=self._populate)
        except (OSError, ValueError):
            raise self._damage(info, info.start, info.base_index, info.last_index) from None

    def _index(self, info: SegmentInfo) -> IndexReader:
        segment = self._segment(info)
        if not info.sealed:  # its index is the active one; the catalog is behind
            raise self._damage(info, info.start, info.base_index, info.last_index)
        return self._shelf.index(info, segment)

    def _damaged_record(self, info: SegmentInfo, position: int, index: int) -> Exception:
        """The error for a record: all its entries, those whose index slots name its position, are concerned."""
        if self._overtaken(index, index):
            return Overtaken()
        found = self._active[2] if index >= self._active[0] else self._index(info)
        base, slots = found.base_index, found.slots
        first = last = index
        while first > base and slots[first - 1 - base] == position:
            first -= 1
        end = self._last() if info.last_index is None else info.last_index
        while last < end and slots[last + 1 - base] == position:
            last += 1
        return self._damage(info, position, first, last)

    def _overtaken(self, first: int, last: int | None) -> bool:
        """Whether entries may be unreadable for a better reason than damage: the log has moved on."""
        moved = first > self._last() or self._version() != self._seen
        return bool(moved or (last is not None and last < self._first()))

    def _damage(self, info: SegmentInfo | None, position: int, first: int, last: int | None) -> Exception:
        if self._overtaken(first, last):
            return Overtaken()
        return unreadable(self._directory, info, position, first, last, term_at(self._view, first - 1))

    def close(self) -> None:
        """Let go of every mapping; whoever still reads gets :class:`LogClosed`."""
        with self._lock:
            self._shelf.clear()
            self._batch = NO_BATCH
            gone: Any = Gone(self._directory)
            self.get = gone
            self._view = self._ring = self._active = gone
            self._first = self._last = self._version = self._published = self._durable = gone
