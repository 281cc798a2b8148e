"""One segment file, record by record, with a verdict on each.  Reads only, also what is damaged.

:func:`iter_records` yields everything that stands in the file; :func:`scan_segment` sums it up, about as fast as Python
can checksum.  Both go on behind damage: they look for the next header that proves *and* stands at its own position, for
every record states the stream position it was written for.  They agree with the walk of start-up
(``segment.scan_records``) on where the good prefix ends, on what ended it, and on the highest durable mark.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from crc32c import crc32c

from . import format as fmt
from .errors import VersionMismatch
from .files import Files, PathLike, real_path
from .format import RecordHeader, Seal, SegmentHeader
from .walk import FoundRecord, Source, Verdict, Walk, entries_in_words

__all__ = ["FoundRecord", "SegmentScan", "Verdict", "entries_in_words", "iter_records", "scan_segment"]


@dataclass(slots=True)
class SegmentScan:
    """What a whole segment file holds.  ``good_end``, ``last_*``, ``slots`` and ``runs`` are of the good prefix."""

    path: str
    bytes: int  # of the file
    used_bytes: int = 0  # of the file up to the last record or damaged stretch: behind them are only zeros
    header: SegmentHeader | None = None  # None if the header block is damaged
    seal: Seal | None = None  # None if there is none, or a damaged one
    seal_damaged: bool = False  # there is something in the seal's place, and it does not prove
    segment_id: int | None = None
    first_index: int | None = None  # None: nothing tells it
    last_index: int = 0  # of the good prefix
    last_term: int = 0
    last_good_index: int = 0  # of the last good record, damage passed over
    start: int = 0  # stream position of the first record
    good_end: int = 0  # stream position after the good prefix
    mark: int = 0  # highest stream position that any provable header vouches for, also behind damage
    stop: str = fmt.ZERO  # what ended the good prefix, as the recovery table names it
    records: int = 0  # good ones, those behind damage included
    entries: int = 0
    damaged: list[FoundRecord] = field(default_factory=list)
    unreadable: list[tuple[int, int]] = field(default_factory=list)  # (offset, length): the device gave an error
    slots: array[int] = field(default_factory=lambda: array("Q"))  # index slots: the position of each entry's record
    runs: list[tuple[int, int]] = field(default_factory=list)  # (first index, term): where each term begins

    @property
    def sound(self) -> bool:
        """Whether nothing in the file is damaged."""
        return self.header is not None and not (self.damaged or self.unreadable or self.seal_damaged)

    @property
    def good_offset(self) -> int:
        """Byte in the file where the good prefix ends."""
        return fmt.DATA_OFFSET + self.good_end - self.start

    def sentences(self) -> list[str]:
        """What was found, for people: a line for the file, one for each damaged stretch."""
        found = [f"{self.records} good records, {self.entries} entries, {self.bytes} bytes"]
        if self.header is None:
            found.append("the segment header is damaged")
        if self.seal_damaged:
            found.append("the seal is damaged")
        found += [f"byte {offset}, {length} bytes: the device cannot read them" for offset, length in self.unreadable]
        return found + [record.sentence() for record in self.damaged]


# ---------------------------------------------------------------- opening
class _Opened:
    """What the first two blocks say, and a walk that begins behind them, whatever state they are in."""

    def __init__(
        self, files: Files, fd: int, path: str, *, verify: bool = True,
        header: SegmentHeader | None = None, limit: int | None = None, end: int | None = None,
    ) -> None:  # fmt: skip
        self.source = source = Source(files, fd, end)
        self.path = path
        self.segment_id = fmt.parse_segment_name(path.rpartition("/")[2])
        self.seal, self.seal_damaged = self._seal()
        self.header = self._header()
        known = header or self.header
        at = fmt.DATA_OFFSET if known or self.seal or self.segment_id is not None else 0
        if self.seal is not None and known is not None and self.seal[:4] != _seal_names(known):
            self.seal, self.seal_damaged = None, True
        if known is None:
            known, at = self._guess(at)
        self.start, self.walk = known, None
        if known is not None:
            if limit is None and self.seal is not None:
                limit = self.seal.end
            self.walk = Walk(source, path, known, at, limit, verify)
            self.walk.seal_last = self.seal.last_index if self.seal is not None else None
        self.first = at

    def _seal(self) -> tuple[Seal | None, bool]:
        raw = self.source.read(fmt.SEAL_OFFSET, 512)
        try:
            seal = fmt.read_seal(raw, self.path)
        except VersionMismatch:
            if crc32c(raw[:12] + raw[16:72]) == int.from_bytes(raw[12:16], "little"):
                raise  # a newer release sealed it
            seal = None
        return seal, seal is None and any(raw)

    def _header(self) -> SegmentHeader | None:
        raw = self.source.read(0, fmt.BLOCK_BYTES)
        try:
            return fmt.read_segment_header(raw, self.path)
        except VersionMismatch:
            # A newer release may lay the header out anew, but then it seals with its own version, too.
            if self.seal is None or crc32c(raw[:12] + raw[16:88]) == int.from_bytes(raw[12:16], "little"):
                raise
            return None  # the version field itself has rotted

    def _guess(self, start: int) -> tuple[SegmentHeader | None, int]:
        """A header made up from the first record that proves, and where that record would have begun.

        One of which only the header proves will do, unless the first that proves as a whole contradicts it.
        """
        chosen: tuple[int, RecordHeader] | None = None
        for at in self.source.find(fmt.RECORD_MAGIC, start):
            record = fmt.read_record_header(self.source.view(at, fmt.RECORD_BYTES), 0)
            if record is None or (self.seal is not None and record.log_id != self.seal.log_id):
                continue
            length = fmt.RECORD_BYTES + record.body_bytes
            body = self.source.view(at, length)[fmt.RECORD_BYTES : length]
            whole = len(body) == record.body_bytes and crc32c(body) == record.body_crc
            if chosen is None or (whole and not _may_follow(record, chosen[1], at - chosen[0])):
                chosen = at, record
            if whole:
                break
        if chosen is None:
            return None, start
        at, record = chosen
        origin = record.position - (at - start)
        base = self.seal.base_index if self.seal is not None else record.base_index
        generation = self.seal.generation if self.seal is not None else record.generation
        return SegmentHeader(record.log_id, self.segment_id or 0, generation, base, origin, origin, 0, 0, 0), start

    def nothing(self) -> FoundRecord | None:
        """The one stretch of a file in which not one record proves; None if it has no room for records."""
        size = self.source.size
        used = self.source.used_end(self.first, size)
        if size <= self.first:
            return None
        verdict, end = (Verdict.ZERO, size) if used == self.first else (Verdict.BAD_HEADER, used)
        return FoundRecord(self.path, self.first, end - self.first, verdict)


def _seal_names(header: SegmentHeader) -> tuple[int, int, int, int]:
    return header.log_id, header.segment_id, header.generation, header.base_index


def _may_follow(record: RecordHeader, before: RecordHeader, distance: int) -> bool:
    """Whether ``record`` may stand ``distance`` bytes behind ``before`` in one segment."""
    same = (record.log_id, record.generation, record.position) == (
        before.log_id, before.generation, before.position + distance
    )  # fmt: skip
    return same and record.base_index > before.last_index and record.term >= before.term


def iter_records(path: PathLike, *, verify: bool = True, files: Files | None = None) -> Iterator[FoundRecord]:
    """Everything that stands in a segment file, in order: records, damaged stretches, the zeros behind.

    Needs no manifest, and goes on behind damage; a file without a segment header (from ``quarantine/``, for example) is
    read from its first byte on.  ``verify=False`` believes the bodies: only headers are checked.  Raises ``OSError`` if
    the file cannot be opened, :class:`VersionMismatch` if a newer release wrote it.
    """
    return _records(files or Files(), real_path(path), verify, None)


def records_of(path: PathLike, header: SegmentHeader, *, files: Files | None = None) -> Iterator[FoundRecord]:
    """As :func:`iter_records`, of a segment of which the manifest tells the ``header``, whatever stands in the file."""
    return _records(files or Files(), real_path(path), True, header)


def _records(files: Files, place: str, verify: bool, header: SegmentHeader | None) -> Iterator[FoundRecord]:
    with files.opened(place) as fd:
        opened = _Opened(files, fd, place, verify=verify, header=header)
        walk = opened.walk
        if walk is None:
            found = opened.nothing()
            if found is not None:
                yield found
            return
        while walk.at < walk.end:
            yield walk.step()[0]


def scan_segment(
    path: PathLike, *, progress: Callable[[int], object] | None = None, files: Files | None = None,
    header: SegmentHeader | None = None, limit: int | None = None, end: int | None = None,
) -> SegmentScan:  # fmt: skip
    """Walk a whole segment file and sum up what it holds.  Reads only.

    ``progress(bytes)`` is told of bytes as they are done.  Where more is known than the file says: ``header`` as the
    manifest has it, ``limit``: the stream position where the records end, ``end``: the bytes of the file to look at.
    Raises ``OSError`` if the file cannot be opened, :class:`VersionMismatch` if a newer release wrote it.
    """
    files, place = files or Files(), real_path(path)
    with files.opened(place) as fd:
        opened = _Opened(files, fd, place, header=header, limit=limit, end=end)
        scan = SegmentScan(
            place, files.size(fd), 0, opened.header, opened.seal, opened.seal_damaged, opened.segment_id
        )
        _sum_up(opened, scan, progress)
        scan.unreadable = opened.source.unreadable()
        return scan


def _sum_up(opened: _Opened, scan: SegmentScan, progress: Callable[[int], object] | None) -> None:
    walk, known, source = opened.walk, opened.start, opened.source
    if walk is None or known is None:
        found = opened.nothing()
        if found is not None:
            scan.used_bytes = found.offset + (found.length if found.verdict is not Verdict.ZERO else 0)
            scan.stop = fmt.ZERO if found.verdict is Verdict.ZERO else fmt.BAD
            scan.damaged += [found] if scan.stop == fmt.BAD else []
        return
    scan.first_index, scan.start = known.base_index, known.start
    stop = None
    scan.used_bytes = walk.at
    while True:
        before = walk.at
        walk.run(progress)
        scan.used_bytes = walk.at if walk.at > before else scan.used_bytes
        if stop is None:
            _note_prefix(scan, walk)
        if walk.at >= walk.end:
            break
        before = walk.at
        found, why = walk.step()
        scan.used_bytes = walk.at if found.verdict is not Verdict.ZERO else scan.used_bytes
        if progress is not None:
            progress(walk.at - before)
        if stop is None and why is None:
            _note_prefix(scan, walk)
        stop = stop or why
        if found.verdict is not Verdict.GOOD and (found.verdict is not Verdict.ZERO or walk.limited):
            scan.damaged.append(found)
    if stop in (None, fmt.BAD) and source.used_end(scan.good_offset, source.size) == scan.good_offset:
        stop = fmt.ZERO
    scan.stop = stop or fmt.BAD
    scan.mark = max(scan.mark, walk.marks_behind(scan.good_offset))
    scan.records, scan.entries, scan.last_good_index = walk.records, walk.entries, walk.next_index - 1
    scan.slots = walk.slots[: scan.last_index + 1 - known.base_index]
    scan.runs = [run for run in walk.runs if run[0] <= scan.last_index]


def _note_prefix(scan: SegmentScan, walk: Walk) -> None:
    scan.good_end, scan.last_index, scan.last_term = walk.position, walk.next_index - 1, walk.term
    scan.mark = walk.mark
