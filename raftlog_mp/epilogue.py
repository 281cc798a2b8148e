"""How repair ends a log, and a copy of one: a sealed segment of its own, behind everything that stays.

Nothing is overwritten in place, so nothing that repair dropped can come back.  The segment holds what was only in a
dead writer's ring, and the exactly-once table.
"""

from __future__ import annotations

from crc32c import crc32c

from . import format as fmt
from .catalog import SegmentInfo
from .files import Files, join
from .findings import Plan, absorb_record
from .format import RecordHeader
from .index import write_sealed
from .manifest import Manifest
from .producers import Producers
from .segment import SegmentWriter, proves
from .survey import header_of
from .term_history import runs_in_records
from .terms import write_sealed_runs


def end_the_log(
    files: Files, directory: str, manifest: Manifest, plan: Plan, table: bytes, *, start: int
) -> SegmentInfo:
    """Write the segment from stream position ``start`` on, as the next generation; durable, sealed, not yet listed.

    ``table``: a snapshot of the exactly-once table.  What ``plan`` takes from the ring goes into it, too, if no
    other got it.
    """
    info, data, slots = describe_end(manifest, plan, table, start=start)
    path = join(directory, fmt.segment_name(info.segment_id))
    files.unlink(path)  # of a repair that was cut short
    writer = SegmentWriter(files, path, header_of(info, manifest.log_id))
    try:
        writer.write(start, [data])
        writer.sync()
        writer.seal(start + len(data), plan.last_index, plan.last_term)
    finally:
        writer.close()
    place = join(directory, fmt.index_name(info.segment_id))
    write_sealed(files, place, manifest.log_id, info.segment_id, info.base_index, slots)
    place = join(directory, fmt.terms_name(info.segment_id))
    write_sealed_runs(files, place, manifest.log_id, info.segment_id, runs_in_records(data))
    files.sync_dir(directory)
    return info.finished(start + len(data), plan.last_index, plan.last_term)


def describe_end(manifest: Manifest, plan: Plan, table: bytes, *, start: int) -> tuple[SegmentInfo, bytes, bytes]:
    """That segment, behind those of ``manifest``: its row while it is not sealed, its records, its index slots."""
    data, slots, base, term = b"", b"", plan.last_index + 1, plan.last_term
    if plan.ring_to_new_segment and plan.ring_bytes:
        data, slots, base, term = plan.ring_bytes, plan.ring_slots, plan.file_last_index + 1, plan.file_last_term
    head = fmt.pack_record_header(
        crc32c(table), len(table), 0, fmt.KIND_PRODUCERS, manifest.log_id, manifest.generation + 1,
        plan.last_index + 1, plan.last_term, start + len(data), start, 0, 0,
    )  # fmt: skip
    data += head + table
    kept = manifest.segments
    info = SegmentInfo(
        segment_id=manifest.next_segment_id, generation=manifest.generation + 1, base_index=base, start=start,
        previous_end=(kept[-1].end or 0) if kept else start, previous_term=term,
        file_bytes=fmt.DATA_OFFSET + len(data), index_slots=len(slots) // fmt.SLOT_BYTES,
    )  # fmt: skip
    return info, data, slots


def take_prefix(plan: Plan, data: bytes, manifest: Manifest) -> int:
    """Let ``plan`` take what proves at the head of the ring's ``data``, and no more; returns its length in bytes."""
    at, slots, producers = 0, list[bytes](), Producers()
    while at + fmt.RECORD_BYTES <= len(data):
        record = RecordHeader._make(fmt.RECORD_HEADER.unpack_from(data, at))
        body = data[at + fmt.RECORD_BYTES : at + fmt.RECORD_BYTES + record.body_bytes]
        if not proves(record, body) or (record.log_id, record.position) != (manifest.log_id, plan.end):
            break
        if record.base_index != plan.last_index + 1 or record.term < plan.last_term:
            break
        absorb_record(record, body, slots, producers)
        plan.last_index, plan.last_term, plan.end = record.last_index, record.term, record.end
        at += fmt.RECORD_BYTES + record.body_bytes
    plan.ring_bytes, plan.ring_slots = data[:at], b"".join(slots)
    plan.ring_to_new_segment = bool(at) and (plan.ring_to_new_segment or plan.tail is None)
    return at
