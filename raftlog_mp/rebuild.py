"""A manifest made anew from what the segments say about themselves.

Each segment's header states its place in the stream and in the log, and a newer segment supersedes older ones from its
first index on.  What only the manifest knew is lost: settings, purge boundary, identity.
"""

from __future__ import annotations

import uuid

from . import format as fmt
from .catalog import SegmentInfo, clipped
from .config import LogConfig
from .control import open_control
from .errors import CorruptLog, VersionMismatch
from .files import Files, join
from .manifest import Manifest
from .records import SegmentScan, iter_records, scan_segment
from .types import PersistenceStrategy
from .walk import Verdict


def rebuild(files: Files, directory: str) -> tuple[Manifest, list[str], list[str], list[str]]:
    """The manifest that the segments prove; what cannot be known, in words.

    Then the segments that tell nothing about their place, and those of other logs.  :class:`CorruptLog` if no segment
    tells its place.
    """
    names = [name for name in files.list_dir(directory) if fmt.parse_segment_name(name) is not None]
    scans = [scan_segment(join(directory, name), files=files) for name in names]
    headers = {scan.path: scan.header or _made_up(files, scan) for scan in scans}
    log_ids = [header.log_id for header in headers.values() if header is not None]
    if not log_ids:
        raise CorruptLog(
            f"the manifest of {directory} is gone, and no segment has a header that proves: nothing says what the log "
            "was. Restore a backup; `raftlog-mp dump` shows the records that are left.", segment=fmt.MANIFEST_NAME,
        )  # fmt: skip
    log_id = max(set(log_ids), key=log_ids.count)
    known, told, untold, foreign = dict[int, SegmentScan](), list[str](), list[str](), list[str]()
    for scan in scans:
        header = headers[scan.path]
        if header is None:
            if scan.records or scan.damaged:
                untold.append(_name(scan))
            told.append(f"{_name(scan)} tells nothing about its place and is left out")
        elif header.log_id != log_id:
            foreign.append(_name(scan))
            told.append(f"{_name(scan)} belongs to another log and is left out")
        else:
            scan.header = header
            known[header.segment_id] = scan
    segments: list[SegmentInfo] = []
    mine = sorted(known)
    for number in mine:
        segments = _with(segments, known[number], known.get(segments[-1].segment_id) if segments else None)
    first = segments[0]
    found = Manifest(
        uuid=str(uuid.uuid4()), log_id=log_id, config=LogConfig().as_dict(),
        # Nobody knows the strategy.  As MemFirst, a ring that is still there is looked at, and a loss is not ruled out.
        strategy=PersistenceStrategy.MEM_FIRST.value, clean=False, settled=False,
        generation=_newest_generation(files, directory, known, log_id), next_segment_id=mine[-1] + 1,
        segments=segments, purged_index=first.base_index - 1,
        purged_term=first.previous_term if first.base_index > 1 else 0,
    )  # fmt: skip
    return found, told, untold, foreign


def _name(scan: SegmentScan) -> str:
    return scan.path.rpartition("/")[2]


def _made_up(files: Files, scan: SegmentScan) -> fmt.SegmentHeader | None:
    """The header of a segment whose first block is damaged, as its first record (the exactly-once table) says it.

    None for one that begins with entries that replaced others: the term before them is not in it.
    """
    first = next(iter_records(scan.path, files=files), None)
    record = first.header if first is not None and first.verdict is Verdict.GOOD else None
    if record is None or scan.segment_id is None or record.kind != fmt.KIND_PRODUCERS:
        return None
    start = record.position
    return fmt.SegmentHeader(
        record.log_id, scan.segment_id, record.generation, record.base_index, start, start, record.term, scan.bytes,
        1 << 16,
    )  # fmt: skip


def _with(segments: list[SegmentInfo], scan: SegmentScan, older: SegmentScan | None) -> list[SegmentInfo]:
    """The list with one more, newer segment; ``older``: what was found of the one before."""
    assert scan.header is not None
    info = SegmentInfo(*scan.header[1:])
    if scan.seal is not None:
        info = info.finished(scan.seal.end, scan.seal.last_index, scan.seal.last_term)
    before = segments[-1] if segments else None
    if before is not None and not before.sealed and older is not None:
        if before.start <= older.good_end <= info.previous_end:  # the seal is gone; the next one says where it was
            before = before.finished(info.previous_end, info.base_index - 1, info.previous_term)
        else:
            before = before.finished(older.good_end, older.last_index, older.last_term)
        segments = [*segments[:-1], before]
    if before is not None and info.base_index > (before.last_index or 0) + 1 and info.start == before.end:
        return [info]  # the stream goes on, the indexes jump: a reset; what was before it is gone
    if before is not None and before.last_index is not None and info.base_index <= before.last_index:
        segments = clipped(segments, info.base_index, info.previous_term)
    if before is not None and info.base_index == before.base_index:
        segments = [one for one in segments if one.base_index < info.base_index]  # it held nothing
    return [*segments, info]


def _newest_generation(files: Files, directory: str, known: dict[int, SegmentScan], log_id: int) -> int:
    """Above it every generation is free.  A control block that is still there may be newer than every segment."""
    found = max(scan.header.generation for scan in known.values() if scan.header is not None)
    folder = join(directory, fmt.SHM_NAME)
    for name in files.list_dir(folder):
        stem, _, number = name.partition("-")
        if stem == "control" and len(number) == 16:
            try:
                control = open_control(join(folder, name))
            except VersionMismatch:
                found = max(found, int(number, 16))  # of another release: who looks for its ring will say so
                continue
            except (OSError, ValueError):
                continue
            words = control.snapshot()
            control.close()
            if words["log_id"] == log_id:
                found = max(found, words["generation"])
    return int(found)
