"""The term runs of a log from its files: beside each sealed segment, else from the headers of its records."""

from __future__ import annotations

from typing import Any

from crc32c import crc32c

from . import format as fmt
from .catalog import SegmentInfo
from .files import Files, join
from .manifest import Manifest
from .survey import survey
from .terms import Run, read_sealed_runs, write_sealed_runs


def runs_of_log(
    files: Files, directory: str, manifest: Manifest, segments: list[SegmentInfo], *, keep: bool = False
) -> list[Run]:
    """The runs of the sealed ``segments``, in order, the purge boundary's first.

    ``keep``: put what had to be rebuilt beside its segment (a writer may; readers change nothing).
    """
    runs = [(manifest.purged_index, manifest.purged_term)] if manifest.purged_index else []
    for info in segments:
        if info.last_index is None or info.last_index < info.base_index:
            continue
        path = join(directory, fmt.terms_name(info.segment_id))
        found = read_sealed_runs(files, path, manifest.log_id, info.segment_id)
        if found is None:
            found = _runs_of_segment(files, directory, info, manifest, keep)
            if keep:
                write_sealed_runs(files, path, manifest.log_id, info.segment_id, found)
        runs += [run for run in found if run[0] <= info.last_index]
    return merged(runs)


def _runs_of_segment(
    files: Files, directory: str, info: SegmentInfo, manifest: Manifest, keep: bool
) -> list[Run]:
    """The runs of a sealed segment; nobody has looked at its records yet, and they may be damaged."""
    if all(row[2] != info.segment_id for row in manifest.lost):
        try:
            data = _bytes_of(files, directory, info, info.end or 0)
        except OSError:
            if keep:
                raise
            data = b""  # a reader tells what can be told
        found = _proved_runs(data, info, manifest.log_id)
        if found is not None:
            return found
    return survey(files, directory, info, manifest.log_id, unreadable_is_damage=not keep).runs(info)


def _proved_runs(data: bytes, info: SegmentInfo, log_id: int) -> list[Run] | None:
    """The runs if record follows record to the segment's end, by headers that prove; bodies do not matter here."""
    runs: list[Run] = []
    at, size, unpack, head = 0, (info.end or 0) - info.start, fmt.RECORD_HEADER.unpack_from, fmt.RECORD_BYTES
    magic = fmt.RECORD_MAGIC
    with memoryview(data) as view:
        while at + head <= len(data):
            fields = unpack(data, at)
            due = magic, crc32c(view[at + 8 : at + head]), log_id, info.start + at
            if (fields[0], fields[1], fields[7], fields[11]) != due:
                return None
            if fields[4] and (not runs or runs[-1][1] != fields[10]):
                runs.append((fields[9], fields[10]))
            at += head + fields[3]
    return runs if at == size else None


def runs_in_file(files: Files, directory: str, info: SegmentInfo, end: int) -> list[Run]:
    """The runs of a segment's records up to stream position ``end``, which have proved before."""
    return runs_in_records(_bytes_of(files, directory, info, end))


def _bytes_of(files: Files, directory: str, info: SegmentInfo, end: int) -> bytes:
    with files.opened(join(directory, fmt.segment_name(info.segment_id))) as fd:
        return files.pread(fd, end - info.start, fmt.DATA_OFFSET)


def runs_in_records(data: Any) -> list[Run]:
    """The runs of proved records that lie back to back."""
    runs: list[Run] = []
    at, size, unpack = 0, len(data), fmt.RECORD_HEADER.unpack_from
    while at + fmt.RECORD_BYTES <= size:
        fields = unpack(data, at)
        if fields[0] != fmt.RECORD_MAGIC:
            break
        if fields[4] and (not runs or runs[-1][1] != fields[10]):
            runs.append((fields[9], fields[10]))
        at += fmt.RECORD_BYTES + fields[3]
    return runs


def merged(runs: list[Run]) -> list[Run]:
    """Neighbours of one term as one run."""
    return [run for at, run in enumerate(runs) if at == 0 or runs[at - 1][1] != run[1]]
