"""Apply: bring the files of a log to what a plan says.

The only part of recovery that changes files, and it changes them so that running it again after a crash at any
point leads to the same log.
"""

from __future__ import annotations

from crc32c import crc32c

from . import format as fmt
from . import recovery_table as table
from .catalog import SegmentInfo
from .files import Files, join
from .findings import Plan, expected_header
from .index import write_sealed
from .manifest import Manifest
from .segment import seal_of, seal_segment


def apply_plan(files: Files, directory: str, manifest: Manifest, plan: Plan, *, aside: str | None = None) -> None:
    """Carry the plan out on the files and bring ``manifest`` (not yet saved) up to it: every live segment is sealed.

    ``aside``: the folder for the bytes that go; ``quarantine/`` itself if None.

    The order makes it repeatable: bytes aside first, then the data, then the seal; the manifest that states
    it all is saved by the caller, and until then a second run finds the same or a finished state.
    """
    plan.refuse()
    for finding in plan.findings:
        if finding.action == table.RECREATE:
            set_aside(files, directory, finding.file, 0, aside)
            files.unlink(join(directory, finding.file))
    for info in plan.reseal:
        _finish_sealed(files, directory, manifest, info, aside)
    segments = list(plan.segments)
    if plan.tail is not None:
        segments.append(_finish_tail(files, directory, manifest, plan, plan.tail, aside))
    manifest.segments = segments
    manifest.durable = plan.file_end if plan.ring_to_new_segment else plan.end
    manifest.failed = False
    # Said by a start that was itself cut short: then it still holds.
    manifest.loss_possible = plan.loss_possible or (manifest.loss_possible and manifest.settled and not manifest.clean)
    if plan.evidence is not None:
        manifest.evidence = [*manifest.evidence[-63:], plan.evidence]
    files.sync_dir(directory)


def _finish_sealed(files: Files, directory: str, manifest: Manifest, info: SegmentInfo, aside: str | None) -> None:
    """Write header and seal of a segment again whose records prove up to the end that the manifest states."""
    name, header = fmt.segment_name(info.segment_id), expected_header(manifest, info)
    block, place = fmt.pack_segment_header(header), (info.end or 0, info.last_index or 0, info.last_term or 0)
    with files.opened(join(directory, name), write=True) as fd:
        if files.pread(fd, len(block), fmt.SEGMENT_HEADER_OFFSET) != block:
            set_aside(files, directory, name, fmt.SEGMENT_HEADER_OFFSET, aside, length=len(block))
            files.pwrite(fd, block, fmt.SEGMENT_HEADER_OFFSET)
        # A seal that does not prove is written over, and the file is cut to its end, whatever stands behind it.
        _keep_seal(files, directory, fd, seal_of(header, *place), aside)
        set_aside(files, directory, name, info.size_due(), aside)
        seal_segment(files, fd, header, *place)


def _keep_seal(files: Files, directory: str, fd: int, seal: fmt.Seal, aside: str | None) -> None:
    """What stands where ``seal`` is going to be written, unless it is that already."""
    length = fmt.DATA_OFFSET - fmt.SEAL_OFFSET
    if files.pread(fd, length, fmt.SEAL_OFFSET).rstrip(b"\0") != fmt.pack_seal(seal).rstrip(b"\0"):
        set_aside(files, directory, fmt.segment_name(seal.segment_id), fmt.SEAL_OFFSET, aside, length=length)


def _finish_tail(
    files: Files, directory: str, manifest: Manifest, plan: Plan, tail: SegmentInfo, aside: str | None
) -> SegmentInfo:
    name = fmt.segment_name(tail.segment_id)
    if plan.cut:
        set_aside(files, directory, name, fmt.DATA_OFFSET + plan.file_end - tail.start, aside)
    end, last_index, last_term, slots = plan.end, plan.last_index, plan.last_term, plan.slots + plan.ring_slots
    if plan.ring_to_new_segment:
        end, last_index, last_term, slots = plan.file_end, plan.file_last_index, plan.file_last_term, plan.slots
    with files.opened(join(directory, name), write=True) as fd:
        if end > plan.file_end:
            files.pwrite(fd, plan.ring_bytes, fmt.DATA_OFFSET + plan.file_end - tail.start)
        files.sync_all(fd)
        write_sealed(
            files, join(directory, fmt.index_name(tail.segment_id)), manifest.log_id, tail.segment_id,
            tail.base_index, slots,
        )  # fmt: skip
        header = expected_header(manifest, tail)
        _keep_seal(files, directory, fd, seal_of(header, end, last_index, last_term), aside)
        seal_segment(files, fd, header, end, last_index, last_term)
    return tail.finished(end, last_index, last_term)


def set_aside(
    files: Files, directory: str, name: str, offset: int, folder: str | None = None, *, length: int | None = None
) -> None:
    """Keep a copy of ``length`` bytes from ``offset`` on (None: all), trailing zeros left out, in ``folder``.

    That is ``quarantine/`` by default.  Durable on return.
    """
    folder = folder or join(directory, fmt.QUARANTINE_NAME)
    with files.opened(join(directory, name)) as fd:
        data = files.pread(fd, files.size(fd) if length is None else length, offset).rstrip(b"\0")
    if data:
        files.make_dir(folder)
        files.sync_dir(directory)  # who made the folder may have been killed before its name was synced
        files.write_file(join(folder, f"{name}.{offset}.{crc32c(data):08x}"), data)
