"""The shelf: segments and their indexes that a reader holds open, a bounded number of them."""

from __future__ import annotations

import threading
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from . import format as fmt
from .catalog import SegmentInfo
from .chunk import whole_bytes
from .errors import RaftLogError
from .files import Files, join
from .index import IndexReader
from .ring import Get
from .segment import SegmentReader
from .shm import ACQUIRE

OPEN_SEGMENTS = 64  # open at once in one handle


class Place(NamedTuple):
    """Where the entries ``low..high`` of one segment are looked up.  Sorted by ``low``; no two begin alike."""

    low: int
    high: int
    base: int
    slots: Sequence[int]
    info: SegmentInfo
    short_way: Get  # for what is still in the ring


def find_place(places: list[Place], index: int) -> Place | None:
    """The one that holds ``index``."""
    at = bisect_right(places, (index + 1,)) - 1  # a tuple of one sorts before all longer ones that begin alike
    if at < 0:
        return None
    place = places[at]
    return place if index <= place[1] else None


class Shelf:
    """Safe to use from several threads; what is let go of goes with its last user."""

    def __init__(
        self, files: Files, directory: str, index_of: Callable[[SegmentInfo, SegmentReader], IndexReader]
    ) -> None:
        self._files, self._directory, self._index_of = files, directory, index_of
        self.segments: OrderedDict[tuple[int, bool], SegmentReader] = OrderedDict()
        self.indexes: OrderedDict[int, IndexReader] = OrderedDict()
        self.places: list[Place] = []  # changed under the lock
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
                self.places = []  # one of which may hold on to it

    def let_go(self, segment_id: int) -> None:
        """Whoever asks for it next opens it anew."""
        with self._lock:
            self.segments.pop((segment_id, True), None)
            self.segments.pop((segment_id, False), None)
            self.indexes.pop(segment_id, None)
            self.places = []

    def add(self, place: Place, places: list[Place]) -> None:
        """Keep ``place`` if ``places`` is still the list in force.

        A new map ends with a new list: if it is still that from before ``place`` was looked up, then everything in it
        belongs to one map.
        """
        with self._lock:
            if self.places is places and not any(other.low == place.low for other in places):
                insort(places, place)

    def keep_only(self, live: set[int]) -> None:
        """Files that are gone give their space back only when nobody holds them."""
        for gone in ({segment_id for segment_id, _ in self.segments} | set(self.indexes)) - live:
            self.let_go(gone)

    def clear(self) -> None:
        """Let go of everything."""
        with self._lock:
            self.segments.clear()
            self.indexes.clear()
            self.places = []

    def forget_places(self) -> None:
        """The last step of a new map of the log."""
        with self._lock:
            self.places = []


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
