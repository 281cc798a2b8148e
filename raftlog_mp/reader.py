"""The reader: finds an entry's position in the index, its bytes in the ring or in a segment.  Lock-free.

It never asks the writer and never makes it wait.  Everything read is checked on a copy: the header must name
the position and index that were looked for; bytes from a segment file must prove by both checksums.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat
from typing import Any, TypeVar

from . import errors, shm, wakeup
from . import format as fmt
from .catalog import SegmentInfo
from .era import Era, Gone, Overtaken
from .files import Files, join
from .index import IndexReader
from .link import RETRY_SECONDS
from .segment import SegmentReader, proves, whole_records
from .source import Source
from .types import Entry

CHUNK_BYTES = 256 * 1024  # of one copy during a range read
OPEN_SEGMENTS = 64  # open at once in one handle
TRIES = 100  # a reader that is overtaken again and again by rolls gives up; each try sees a newer catalog

Fields = tuple[Any, ...]
T = TypeVar("T")


class Reader:
    """The reading half of a handle.  Safe to use from several threads."""

    def __init__(self, source: Source, files: Files, directory: str) -> None:
        self._source, self._files, self._directory = source, files, directory
        self._link = source.link
        self._segments: OrderedDict[tuple[int, bool], SegmentReader] = OrderedDict()
        self._indexes: OrderedDict[int, IndexReader] = OrderedDict()
        self._lock = threading.Lock()
        self._batch: tuple[Any, int, list[bytes]] = (None, -1, [])  # view, position, payloads of the one decoded last
        self._view: Any = None
        self._seen = -1  # catalog version that the map below belongs to
        self._epoch = 0
        self.lapped_reads = 0  # reads that the ring could no longer serve

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it."""
        self._lock = threading.Lock()

    # ------------------------------------------------------------ the view
    def _settle(self) -> None:
        """Take over the current view and its catalog.  Bound C-level callables keep the hot path short."""
        with self._lock:
            for _ in range(TRIES):
                view = self._source.view()
                # Odd: manifest, words and index do not fit together now.  Even and the same afterwards: they did.
                epoch = view.control.epoch.load(shm.ACQUIRE)
                if epoch & 1:
                    if not self._source.outlast(view) and view is self._view:
                        return  # its writer died in a change, and there is no other: the map we hold stays readable
                    continue
                version = view.control.catalog_version.load(shm.ACQUIRE)
                active = self._source.refresh(view)
                if active is not None:
                    if (version, epoch) == (
                        view.control.catalog_version.load(shm.ACQUIRE), view.control.epoch.load(shm.ACQUIRE),
                    ):  # fmt: skip
                        self._adopt(Era(view, version, epoch), active)
                        return
                else:
                    self._link.look()
                    if not self._link.connected:
                        # The writer of this view is gone and no other can be reached: what it had published stays
                        # readable through the map we hold.  _seen stays stale, so the next read looks again.
                        if view is self._view:
                            return
                        self._source.forget(view)
                wakeup.pause(RETRY_SECONDS)
        raise errors.WriterUnavailable(f"the catalog of {self._directory} kept changing; try again")

    def _adopt(self, era: Era, active: IndexReader) -> None:
        view, control = era.view, era.view.control
        if view is not self._view:
            self._segments.clear()
            self._indexes.clear()
        else:  # files that are gone give their space back only when nobody holds them
            live = self._source.catalog().ids()
            for gone in ({key[0] for key in self._segments} | set(self._indexes)) - live:
                self._let_go(gone)
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
    def get(self, index: int) -> Entry | None:
        """The entry at ``index``, or None outside ``first_index..last_index``."""
        if self._link.view is not self._view or self._view is None:
            self.view()  # a new writer, or none yet
        # The order matters: last_index first (it acquires everything published up to it), then the catalog version:
        # a roll that happened before `index` was published is then visible, so the map used below is new enough.
        inside = self._first() <= index <= self._last()
        while self._version() != self._seen:
            self._settle()
            inside = self._first() <= index <= self._last()
        if not inside:
            self._source.check_readable(index)
            return None
        base, slots, _ = self._active
        if index >= base:
            position = slots[index - base]
            found = self._ring.record(position)
            if found is not None:
                entry = self._entry_in(found[0], found[1], position, index)
                if entry is not None:
                    return entry
        return self._get_slowly(index)

    def _get_slowly(self, index: int) -> Entry | None:
        for attempt in range(TRIES):
            if attempt:  # get() has just settled it
                self.view()
            if not self._first() <= index <= self._last():
                return None
            try:
                return self._get_from_file(index)
            except Overtaken:
                wakeup.pause(RETRY_SECONDS / 10)
        raise errors.WriterUnavailable(f"{self._directory} kept changing; try again")

    def _get_from_file(self, index: int) -> Entry | None:
        info, position = self._locate(index)
        found = self._ring.record(position)
        if found is None:
            # Lapped: what lies below the floor is durable, so the segment file has it.
            self.lapped_reads += 1
            found = self._segment(info).record(position)
            if found is None or (self._verify and not proves(*found)):
                found = None
        entry = self._entry_in(found[0], found[1], position, index) if found is not None else None
        if entry is None:  # damaged, or overtaken by a change: the range read looks again, and names the damage
            return next(iter(self.read(index, index + 1, None)), None)
        return entry

    def _entry_in(self, fields: Fields, body: bytes, position: int, index: int) -> Entry | None:
        """The entry out of a record copy, or None if the record is not the one looked for."""
        count, base = fields[4], fields[9]
        if fields[0] != fmt.RECORD_MAGIC or fields[11] != position or not base <= index < base + count:
            return None
        if count == 1:
            return Entry(fields[10], index, body)
        view, cached_position, payloads = self._batch
        if cached_position != position or view is not self._view:
            payloads = fmt.unpack_body(body, count)
            self._batch = (self._view, position, payloads)
        return Entry(fields[10], index, payloads[index - base])

    # ------------------------------------------------------------ ranges
    def read(self, start: int, stop: int, max_bytes: int | None, era: Era | None = None) -> list[Entry]:
        """Entries ``start..stop-1``; ends early after ``max_bytes`` of payload, but holds at least one entry.

        ``era``: when the caller saw that these entries are there; :class:`Overtaken` if that is no longer so.
        """
        entries: list[Entry] = []
        try:
            for fields, body, low, high in self.records(start, stop, era):
                term, base, count = fields[10], fields[9], fields[4]
                if count == 1:
                    batch = [Entry(term, base, body)]
                else:
                    payloads = fmt.unpack_body(body, count)
                    batch = list(map(Entry, repeat(term), range(low, high), payloads[low - base : high - base]))
                if max_bytes is None:
                    entries += batch
                    continue
                for entry in batch:
                    max_bytes -= len(entry.payload)
                    if max_bytes < 0 and entries:
                        return entries
                    entries.append(entry)
        except errors.CorruptLog:
            if max_bytes is None or not entries:
                raise  # who sets a limit gets what stands before the damage; the next call names it
        return entries

    def records(self, start: int, stop: int, era: Era | None = None) -> Iterator[tuple[Fields, bytes, int, int]]:
        """``(header fields, body, low, high)`` of the records that hold entries ``start..stop-1``, in order, proved.

        ``low..high-1`` are the wanted entries of the record: a truncation may have cut a batch.  :class:`Overtaken` if
        something was taken off the log since the first of them was looked for.
        """
        index, tries, era = start, 0, era or self.era()
        while index < stop:
            if not self.calm(era):
                now = self.era()
                if now.view is not era.view or now.epoch != era.epoch:
                    raise Overtaken
                era = now
            info, position = self._locate(index)
            data, durable_copy = self._copy(info, position)
            before, limit = index, self._source.before_lost(index, stop, info)
            for fields, body in whole_records(data, position):
                base, count = fields[9], fields[4]
                if durable_copy and self._verify and not proves(fields, body):
                    if index > before:
                        break  # it may hold none of the wanted entries: the index knows
                    raise self._damaged_record(info, fields[11], index)
                if count:
                    if not base <= index < base + count:
                        break  # not the record the index promised: look again
                    high = min(base + count, limit)
                    yield fields, body, index, high
                    index = high
                    if index >= limit:
                        break  # what follows in the stream belongs to another segment, or was cut off
            if index == before:
                tries += 1
                if tries > (3 if durable_copy else TRIES):
                    raise self._damaged_record(info, position, index)
                if durable_copy:
                    self._forget(info.segment_id)
                    self._settle()
            else:
                tries = 0

    def _copy(self, info: SegmentInfo, position: int) -> tuple[bytes, bool]:
        """A true copy of stream bytes from a record border on: ``(bytes, from a file)``; at least one whole record."""
        ring = self._ring
        head = ring.copy(position, position + fmt.RECORD_BYTES)
        if head is not None:
            fields = fmt.RECORD_HEADER.unpack(head)
            limit = min(self._published(), position + CHUNK_BYTES)
            end = max(position + fmt.RECORD_BYTES + fields[3], limit)
            data = ring.copy(position, end)
            if data is not None:
                return data, False
        segment = self._segment(info)
        end_of_segment = info.end if info.end is not None else self._durable()
        length = fmt.RECORD_BYTES
        head = segment.copy(position, position + length)
        if len(head) == length:
            length += fmt.RECORD_HEADER.unpack(head)[3]
        end = min(end_of_segment, max(position + length, position + CHUNK_BYTES))
        return segment.copy(position, end), True

    # ------------------------------------------------------------ where
    def _locate(self, index: int) -> tuple[SegmentInfo, int]:
        """The segment and stream position of the record that holds ``index``."""
        lost = self._source.lost_at(index)
        if lost is not None:
            raise Overtaken if self._overtaken(lost[0], lost[1]) else self._source.loss(lost)
        info = self._source.catalog().find(index)
        if info is None:
            raise self._damage(None, 0, index, index)
        base, active_slots, _ = self._active
        if index >= base:
            position = active_slots[index - base] if index - base < len(active_slots) else -1
            if position < info.start:  # a slot that was never written: the log was longer when the caller looked
                raise Overtaken
            return info, position
        slots = self._index(info)
        at = index - slots.base_index
        if not 0 <= at < len(slots.slots):
            raise self._damage(info, info.start, index, info.last_index)
        return info, slots.slots[at]

    def _segment(self, info: SegmentInfo) -> SegmentReader:
        """The bytes of a segment, from a small cache; what is evicted goes with its last user."""
        key = (info.segment_id, info.sealed)
        segment = self._segments.get(key)
        if segment is None:
            path = join(self._directory, fmt.segment_name(info.segment_id))
            try:
                populate = self._populate and info.sealed
                segment = SegmentReader(self._files, path, info.start, populate=populate)
            except (OSError, ValueError):
                raise self._damage(info, info.start, info.base_index, info.last_index) from None
            self._keep(self._segments, key, segment)
        return segment

    def _index(self, info: SegmentInfo) -> IndexReader:
        """The index of a sealed segment, from a small cache."""
        index = self._indexes.get(info.segment_id)
        if index is None:
            segment = self._segment(info)
            if not info.sealed:  # its index is the active one; the catalog is behind
                raise self._damage(info, info.start, info.base_index, info.last_index)
            index = self._source.index_of(info, segment)
            self._keep(self._indexes, info.segment_id, index)
        return index

    def _keep(self, cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        with self._lock:
            cache[key] = value
            while len(cache) > OPEN_SEGMENTS:
                cache.popitem(last=False)

    def _forget(self, segment_id: int) -> None:
        with self._lock:
            self._let_go(segment_id)

    def _let_go(self, segment_id: int) -> None:
        self._segments.pop((segment_id, True), None)
        self._segments.pop((segment_id, False), None)
        self._indexes.pop(segment_id, None)

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
        name = fmt.segment_name(info.segment_id) if info is not None else fmt.MANIFEST_NAME
        offset = fmt.DATA_OFFSET + position - info.start if info is not None else 0
        what = f"entry {first}" if first == last else f"entries {first} to {last if last is not None else 'the last'}"
        return fmt.corrupt(
            f"{what} cannot be read from {join(self._directory, name)} at offset {offset}: "
            "the record is missing or fails its checksum",
            segment=name, offset=offset, first_index=first, last_index=last,
        )  # fmt: skip

    def close(self) -> None:
        """Let go of every mapping; whoever still reads gets :class:`LogClosed`."""
        with self._lock:
            self._segments.clear()
            self._indexes.clear()
            self._batch = (None, -1, [])
            gone: Any = Gone(self._directory)
            self._view = self._ring = self._active = gone
            self._first = self._last = self._version = self._published = self._durable = gone
