"""One live segment against everything that is said about it: its header, its seal, the manifest, its caches.

Plain values in, plain values out, so that it can run in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from crc32c import crc32c
from msgspec.structs import replace

from . import format as fmt
from .catalog import SegmentInfo
from .errors import RaftLogError, VersionMismatch
from .files import Files, join
from .format import Seal, SegmentHeader
from .records import FoundRecord, SegmentScan, scan_segment
from .terms import TermRuns, read_sealed_runs

RIGHT, ABSENT, WRONG, UNCHECKED = "right", "absent", "wrong", "unchecked"  # what a cache file can be


@dataclass(frozen=True, slots=True)
class Task:
    """A segment to look at.  ``limit``: stream position up to which records must be there, None: wherever they end."""

    directory: str
    info: SegmentInfo
    header: SegmentHeader  # as the manifest has it
    limit: int | None
    live: bool = False  # a writer appends to it: nothing behind ``limit`` is looked at
    purged: int = 0  # index of the last purged entry of the log

    @property
    def file(self) -> str:
        """Name of the segment file."""
        return fmt.segment_name(self.info.segment_id)


@dataclass(slots=True)
class Inspected:
    """What was found in one segment."""

    file: str
    info: SegmentInfo
    present: bool = True
    unreadable: str = ""  # why nothing could be read at all
    newer: str = ""  # a newer release wrote it: its words
    bytes: int = 0
    bytes_due: int = 0
    used_bytes: int = 0  # of the file: behind them are only zeros
    records: int = 0
    entries: int = 0
    start: int = 0
    good_end: int = 0
    last_index: int = 0  # of the good prefix
    last_good_index: int = 0  # of the last good record, damage passed over
    last_term: int = 0
    mark: int = 0
    stop: str = fmt.ZERO
    header: bool = True  # the header block is there and says what the manifest says
    seal: bool = False  # there is one that proves
    contradictions: list[str] = field(default_factory=list)  # between seal, records and manifest
    seal_damaged: bool = False
    damaged: list[FoundRecord] = field(default_factory=list)
    lost_blocks: list[tuple[int, int]] = field(default_factory=list)  # (offset, length) that the device cannot read
    index_file: str = UNCHECKED
    terms_file: str = UNCHECKED

    @property
    def sound(self) -> bool:
        """Whether nothing at all is out of order."""
        whole = self.present and self.header and not (self.unreadable or self.newer or self.seal_damaged)
        whole = whole and (self.seal or not self.info.sealed) and self.bytes >= self.bytes_due
        caches = WRONG not in (self.index_file, self.terms_file)
        return whole and caches and not (self.contradictions or self.damaged or self.lost_blocks)


def inspect(task: Task, progress: Callable[[int], object] | None = None, files: Files | None = None) -> Inspected:
    """Read the whole segment and compare.  Reads only; damage is told, never raised."""
    files = files or Files()
    info = task.info
    found = Inspected(task.file, info)
    path = join(task.directory, task.file)
    try:
        end = _live_end(task) if task.live else None
        scan = scan_segment(path, progress=progress, files=files, header=task.header, limit=task.limit, end=end)
    except FileNotFoundError:
        found.present = False
        return found
    except VersionMismatch as error:
        found.newer = str(error)
        return found
    except OSError as error:
        found.unreadable = error.strerror or str(error)
        return found
    _take(found, scan, task)
    if info.sealed:
        _compare_seal(found, scan, info)
        found.index_file, found.terms_file = caches_of(files, task, scan)
    return found


def _live_end(task: Task) -> int:
    """Bytes of the file that a running writer vouches for."""
    return fmt.DATA_OFFSET + (task.limit or task.info.start) - task.info.start


def _take(found: Inspected, scan: SegmentScan, task: Task) -> None:
    found.bytes, found.records, found.entries, found.mark = scan.bytes, scan.records, scan.entries, scan.mark
    found.start, found.good_end, found.stop = scan.start, scan.good_end, scan.stop
    found.last_index, found.last_good_index, found.last_term = scan.last_index, scan.last_good_index, scan.last_term
    found.header, found.seal, found.seal_damaged = scan.header == task.header, scan.seal is not None, scan.seal_damaged
    found.damaged, found.used_bytes = _joined(scan.damaged), scan.used_bytes
    found.lost_blocks = list(scan.unreadable)
    end = scan.seal.end if scan.seal is not None else None
    # A writer cuts the file when it seals it, a moment before the manifest says so.
    found.bytes_due = _live_end(task) if task.live else task.info.size_due(end)


def _joined(damaged: list[FoundRecord]) -> list[FoundRecord]:
    """Neighbours with the same verdict as one, without their bodies."""
    joined: list[FoundRecord] = []
    for record in damaged:
        before = joined[-1] if joined else None
        if before is not None and before.verdict is record.verdict and before.offset + before.length == record.offset:
            joined[-1] = replace(
                before, length=before.length + record.length, last_index=record.last_index, header=None,
                term=before.term if before.term == record.term else None,
            )  # fmt: skip
        else:
            joined.append(replace(record, body=b""))
    return joined


def _compare_seal(found: Inspected, scan: SegmentScan, info: SegmentInfo) -> None:
    say, seal = found.contradictions.append, scan.seal
    whole = not scan.damaged
    if seal is not None and seal.end != info.end:
        say(f"its seal says that it ends at position {seal.end}, the manifest says {info.end}")
    if seal is not None and whole and not _ends_as_sealed(seal, scan, info):
        say(f"its seal says that entry {seal.last_index} is the last, its records end with {scan.last_index}")
    if info.last_index is not None and whole and info.last_index > scan.last_index:
        say(f"the manifest says that it holds entries up to {info.last_index}, its records end with {scan.last_index}")
    if whole and info.end != scan.good_end:
        say(f"the manifest says that it ends at position {info.end}, its records end at {scan.good_end}")


def _ends_as_sealed(seal: Seal, scan: SegmentScan, info: SegmentInfo) -> bool:
    """Whether the seal names the last entry, or, if it was written again after a truncation, the last one then."""
    if (seal.last_index, seal.last_term) == (scan.last_index, scan.last_term):
        return True
    clipped = (info.last_index or 0) <= seal.last_index < scan.last_index
    return clipped and TermRuns(scan.runs).term_of(seal.last_index) == seal.last_term


def caches_of(files: Files, task: Task, scan: SegmentScan) -> tuple[str, str]:
    """What the index and the term file beside a sealed segment are; nobody reads those of one without entries."""
    if (task.info.last_index or 0) < task.info.base_index:
        return UNCHECKED, UNCHECKED
    return _index_state(files, task, scan), _terms_state(files, task, scan)


def _index_state(files: Files, task: Task, scan: SegmentScan) -> str:
    """The index file beside a sealed segment: a cache, so a wrong one costs time and no entry."""
    info, path = task.info, join(task.directory, fmt.index_name(task.info.segment_id))
    try:
        raw = files.read_file(path)
        header = fmt.read_index_header(raw[: fmt.INDEX_HEADER_BYTES], path)
    except FileNotFoundError:
        return ABSENT
    except (OSError, RaftLogError):
        return WRONG
    slots = memoryview(raw)[fmt.INDEX_HEADER_BYTES :]
    if header is None or header[:3] != (task.header.log_id, info.segment_id, info.base_index):
        return WRONG
    if header.slots * fmt.SLOT_BYTES != len(slots) or crc32c(slots) != header.slots_crc:
        return WRONG
    known = scan.slots.tobytes()  # of damage, nothing is known that could contradict it
    enough = header.slots >= (info.last_index or 0) + 1 - info.base_index
    return RIGHT if enough and slots[: len(known)] == known[: len(slots)] else WRONG


def _terms_state(files: Files, task: Task, scan: SegmentScan) -> str:
    """The term runs beside a sealed segment, a cache as well."""
    info, path = task.info, join(task.directory, fmt.terms_name(task.info.segment_id))
    if not files.exists(path):
        return ABSENT
    try:
        runs = read_sealed_runs(files, path, task.header.log_id, info.segment_id)
    except (OSError, RaftLogError, ValueError):
        return WRONG
    # A file that was written after a purge may begin at its boundary, one that is older begins with the segment.
    live = task.purged + 1, min(scan.last_index, info.last_index or 0)
    right = runs is not None and TermRuns(runs).between(*live) == TermRuns(scan.runs).between(*live)
    return RIGHT if right else WRONG
