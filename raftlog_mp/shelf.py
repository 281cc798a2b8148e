"""The shelf: segments and their indexes that a reader holds open, a bounded number of them."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from crc32c import crc32c

from . import format as fmt
from .catalog import SegmentInfo
from .chunk import whole_bytes
from .errors import RaftLogError
from .files import Files, join
from .index import IndexReader
from .ring import Get, ShortWay
from .segment import HEADER, MAGIC, SegmentReader
from .shm import ACQUIRE
from .types import Entry

OPEN_SEGMENTS = 64  # open at once in one handle
DECODERS = 256  # kept: of records of so many lengths
CHUNK_BYTES = 256 * 1024  # of one copy during a range read, and of a record at the first attempt


class Place(NamedTuple):
    """Where the entries ``low..high`` of one segment are looked up."""

    low: int
    high: int
    reader: IndexReader
    info: SegmentInfo
    short_way: Get  # for what is still in the ring
    segment: SegmentReader | None  # for what no longer is; None until that is looked for

    def steps(self) -> tuple[Any, ...]:
        """All that a short way needs, to be had in one step; the first: up to which entry it goes."""
        base, segment = self.reader.base_index, self.segment
        blocks, bits, load = self.reader.blocks
        upto = min(self.high, base + len(self.reader.slots) - 2)  # of the last one, no slot behind it tells the length
        fd, shift = (segment.fd, segment.shift) if segment is not None else (-1, 0)
        # The segment itself goes along: as long as somebody has it in hands, the descriptor is its own.
        return upto, base, blocks, bits, (1 << bits) - 1, load, fd, shift, self.short_way, segment


class Places(NamedTuple):
    """Those that are known, sorted.  Never changed, only replaced: who has it, has what fits together."""

    lows: list[int]
    steps: list[tuple[Any, ...]]
    places: list[Place | None]

    def find(self, index: int) -> Place | None:
        """The one that holds ``index``."""
        place = self.places[bisect_right(self.lows, index) - 1]
        return place if place is not None and index <= place.high else None

    def with_one(self, place: Place) -> Places:
        """These and another; it takes the place of one that begins alike."""
        at = bisect_right(self.lows, place.low)
        before = at - (self.lows[at - 1] == place.low)
        return Places(
            [*self.lows[:before], place.low, *self.lows[at:]],
            [*self.steps[:before], place.steps(), *self.steps[at:]],
            [*self.places[:before], place, *self.places[at:]],
        )


def no_places() -> Places:
    """None is known.  Made anew each time: those of one map are told from those of another by who they are."""
    # No entry has index -1: a look for any of them finds something, and sees that this is not it.
    return Places([-1], [(-1, *[None] * 9)], [None])


class Shelf:
    """Safe to use from several threads; what is let go of goes with its last user."""

    def __init__(
        self, files: Files, directory: str, index_of: Callable[[SegmentInfo, SegmentReader], IndexReader],
        has_holes: Callable[[], bool],
    ) -> None:  # fmt: skip
        self._files, self._directory, self._index_of, self._has_holes = files, directory, index_of, has_holes
        self.segments: OrderedDict[tuple[int, bool], SegmentReader] = OrderedDict()
        self.indexes: OrderedDict[int, IndexReader] = OrderedDict()
        self.places = no_places()  # replaced under the lock
        self.lapped_reads = 0  # that came from a file
        self._lock = threading.Lock()

    def renew_lock(self) -> None:
        """In a forked child: another thread of the parent may have held it."""
        self._lock = threading.Lock()

    def segment(self, info: SegmentInfo, *, populate: bool) -> SegmentReader:
        """The bytes of a segment.  ``OSError`` if it cannot be opened."""
        key = (info.segment_id, info.end is not None)
        segment = self.segments.get(key)
        if segment is None:
            path = join(self._directory, fmt.segment_name(info.segment_id))
            segment = SegmentReader(self._files, path, info.start, populate=populate and info.sealed)
            self._keep(self.segments, key, segment)
        return segment

    def index(self, info: SegmentInfo, segment: SegmentReader) -> IndexReader:
        """The index of a sealed segment."""
        index = self.indexes.get(info.segment_id)
        if index is None:
            index = self._index_of(info, segment)
            self._keep(self.indexes, info.segment_id, index)
        return index

    def _keep(self, cache: OrderedDict[Any, Any], key: Any, value: Any) -> None:
        with self._lock:
            cache[key] = value
            while len(cache) > OPEN_SEGMENTS:
                cache.popitem(last=False)
                self.places = no_places()  # one of which may hold on to it

    def let_go(self, segment_id: int) -> None:
        """Whoever asks for it next opens it anew."""
        with self._lock:
            self.segments.pop((segment_id, True), None)
            self.segments.pop((segment_id, False), None)
            self.indexes.pop(segment_id, None)
            self.places = no_places()

    def add(self, place: Place, places: Places) -> None:
        """Keep ``place`` if ``places`` are still those in force.

        A new map ends with new ones: if they are still those from before ``place`` was looked up, then everything in
        them belongs to one map.
        """
        with self._lock:
            if self.places is places and not self._has_holes():  # beside a hole, each look is a new one
                self.places = places.with_one(place)

    def keep_only(self, live: set[int]) -> None:
        """Files that are gone give their space back only when nobody holds them."""
        for gone in ({segment_id for segment_id, _ in self.segments} | set(self.indexes)) - live:
            self.let_go(gone)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self.segments.clear()
            self.indexes.clear()
            self.places = no_places()

    def forget_places(self) -> None:
        """The last step of a new map of the log."""
        with self._lock:
            self.places = no_places()

    def short_way(
        self, calm: Callable[[], bool], low: int, upto: int, floor: Callable[[int], int], inside: Get, otherwise: Get,
        *, prove: bool,
    ) -> ShortWay:  # fmt: skip
        """As :meth:`RingReader.short_way`, for what is no longer in the ring: one ``pread`` of one record.

        It serves entries ``low..upto`` as long as ``calm()``: whether the map that they belong to is still right.
        What is no lone entry in a known place goes ``inside``, which need not ask that again, and so does whatever is
        not as it should be: the long way looks closer, and names the damage.  The rest goes ``otherwise``.
        """
        pread, unpacks = self._files.pread, dict[int, Callable[[bytes], tuple[Any, ...]]]()
        lapped = floor(ACQUIRE)  # it only rises: what once was below it stays so

        def new_unpack(length: int) -> Callable[[bytes], tuple[Any, ...]]:
            if len(unpacks) >= DECODERS:
                unpacks.clear()
            return unpacks.setdefault(length, fmt.whole_record(length).unpack)

        def get(index: int) -> Entry | None:
            nonlocal lapped
            # The map is right before the place is looked up.  What is read after it was there at that moment: nobody
            # changes a record in a file, and a file that is gone lives on as long as it is held.
            if not (type(index) is int and low <= index <= upto and calm()):
                return otherwise(index)
            lows, steps, _ = self.places
            ring_way: Get
            high, base, blocks, bits, mask, load, fd, shift, ring_way, _held = steps[bisect_right(lows, index) - 1]
            if index > high:
                return inside(index)
            at = index - base
            block = blocks[at >> bits] or load(at >> bits)
            at &= mask
            position = block[at]
            length = block[at + 1] - position
            if not HEADER <= length <= CHUNK_BYTES:
                return inside(index)  # one of several in a record, or a large one
            if position >= lapped:
                lapped = floor(ACQUIRE)
                if position >= lapped:
                    return ring_way(index)
            if fd < 0:
                return inside(index)
            try:
                raw = pread(fd, length, position + shift)
            except OSError:
                return inside(index)
            if len(raw) != length:
                return inside(index)
            unpack = unpacks.get(length) or new_unpack(length)
            magic, header_crc, body_crc, size, count, first, term, place, payload = unpack(raw)
            if size != length - HEADER:
                payload = payload[:size]  # something without entries stands between this and the next, or it is longer
            if (
                place != position or first != index or count != 1 or magic != MAGIC or len(payload) != size
                or prove and (crc32c(payload) != body_crc or crc32c(raw[8:HEADER]) != header_crc)
            ):  # fmt: skip
                return inside(index)
            self.lapped_reads += 1
            return Entry(term, index, payload)

        def reach(last: int) -> None:
            nonlocal upto
            upto = last

        return get, reach


def copy_from_ring(ring: Any, position: int, end: int) -> bytes | None:
    """A true copy from a record's border on, about up to ``end``, but one whole record at least; None if lapped."""
    data: bytes | None = ring.copy(position, end)
    if data is not None and whole_bytes(data) > len(data):
        data = ring.copy(position, position + whole_bytes(data))
    return data


def copy_from_file(segment: SegmentReader, position: int, end: int, end_of_segment: int) -> bytes:
    """As :func:`copy_from_ring`, but not beyond the segment's end, and not proved."""
    data = segment.copy(position, min(end, end_of_segment))
    if whole_bytes(data) > len(data):
        data = segment.copy(position, min(position + whole_bytes(data), end_of_segment))
    return data


def term_at(view: Any, index: int) -> int | None:
    """The term of an entry for an error's words, or of the purge boundary; None if nothing tells it now."""
    try:
        term: int | None = view.terms.ask(view.control.terms.load(ACQUIRE), lambda runs: runs.term_of(index))
    except (OSError, ValueError, RaftLogError):  # it must not hide the error that it belongs to
        return None
    return term


def unreadable(
    directory: str, info: SegmentInfo | None, position: int, first: int, last: int | None, term: int | None
) -> Exception:
    """The error for entries whose record at ``position`` is missing or damaged, behind an entry of ``term``.

    ``last`` None: up to the end.
    """
    name = fmt.segment_name(info.segment_id) if info is not None else fmt.MANIFEST_NAME
    offset = fmt.DATA_OFFSET + position - info.start if info is not None else 0
    what = f"entry {first}" if first == last else f"entries {first} to {last if last is not None else 'the last'}"
    return fmt.corrupt(
        f"{what} cannot be read from {join(directory, name)} at offset {offset}: "
        f"the record is missing or fails its checksum{f', behind an entry of term {term}' if term else ''}",
        directory, segment=name, offset=offset, first_index=first, last_index=last, term=term,
    )  # fmt: skip
