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
from .segment import seal_segment


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
        with files.opened(join(directory, fmt.segment_name(info.segment_id)), write=True) as fd:
            seal_segment(
                files, fd, expected_header(manifest, info), info.end or 0, info.last_index or 0, info.last_term or 0
            )
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
        seal_segment(files, fd, expected_header(manifest, tail), end, last_index, last_term)
    return tail.finished(end, last_index, last_term)


def set_aside(files: Files, directory: str, name: str, offset: int, folder: str | None = None) -> None:
    """Keep a copy of everything from ``offset`` on (trailing zeros left out) in ``folder``, by default ``quarantine/``.

    Durable on return.
    """
    folder = folder or join(directory, fmt.QUARANTINE_NAME)
    files.make_dir(folder)
    with files.opened(join(directory, name)) as fd:
        data = files.pread(fd, files.size(fd), offset).rstrip(b"\0")
    if data:
        files.write_file(join(folder, f"{name}.{offset}.{crc32c(data):08x}"), data)
