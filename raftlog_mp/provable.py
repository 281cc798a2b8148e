"""What may be served of a log that start-up refuses to open: what repair would keep of it, and no more.  Reads only.

A reader without a writer serves everything that can be proved.  If the newest segment, which no seal vouches for yet,
is damaged, that is more than its good prefix: the records behind the damage prove themselves and say what stood in it.
The same two functions decide here and in repair (``survey``, ``ending_of``), so a reader sees before the repair what it
will see after it, holes included.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field, replace

from . import format as fmt
from . import recovery_table as table
from .catalog import SegmentInfo
from .epilogue import take_prefix
from .files import Files, join
from .findings import Finding, Plan, decide_ring, make_plan
from .manifest import Manifest
from .records import scan_segment
from .remains import Remains
from .survey import Ending, Part, Survey, ending_of, header_of, survey
from .terms import Run
from .types import PersistenceStrategy


@dataclass(slots=True)
class Hole:
    """Damage with provable records on both sides.  ``term``: of the entry before it."""

    first: int
    last: int
    segment_id: int
    offset: int
    term: int


@dataclass(slots=True)
class Provable:
    """A plan that ends where what can be proved does, and the manifest that belongs to it."""

    plan: Plan  # its ``refusal``: why more entries may have followed; its ``findings``: what start-up found
    manifest: Manifest  # with the holes in ``lost``: those that repair has noted, and those that it would note
    holes: list[Hole] = field(default_factory=list)  # those that nobody has noted yet
    runs: list[Run] | None = None  # of the newest segment, if the files do not tell them as they stand


def look(files: Files, directory: str, found: Manifest) -> Provable:
    """What the files (and a dead writer's ring) prove."""
    plan = make_plan(files, directory, found)
    seen = Provable(plan, found)
    if plan.refusal is None:
        return seen
    if plan.refusal.letter != "R":
        # Damage in other segments is told entry by entry; only that of the newest one hides where the log ends.
        plan.refusal = _look_behind(files, directory, seen)
        if plan.refusal is None and found.strategy == PersistenceStrategy.MEM_FIRST:
            with contextlib.closing(Remains(directory, found)) as old:
                decide_ring(found, old, plan)
    if plan.refusal is not None and plan.refusal.letter == "R":
        _take_from_ring(directory, seen)
    return seen


def _look_behind(files: Files, directory: str, seen: Provable) -> Finding | None:
    """Let the log end where the newest segment does if the damage in it is sealed off; why it may not end there."""
    plan, listed = seen.plan, seen.manifest.segments
    name = fmt.segment_name(listed[-1].segment_id) if listed else ""
    refused = next((one for one in plan.findings if one.file == name and one.action == table.REFUSE), None)
    if refused is None or listed[-1].sealed:
        return None
    # Row O: these bytes were cut before.  A gap: nothing proves that the segment belongs to the log at all.
    if refused.letter == "O" or plan.gap:
        return refused
    try:
        ending, info = _ending(files, directory, seen.manifest, plan, listed[-1])
    except OSError:
        return refused  # it is gone, or this user may not read it
    seen.holes = _holes(info, ending.holes, seen.manifest)
    rows = [[hole.first, hole.last, hole.segment_id, hole.offset] for hole in seen.holes]
    seen.manifest = replace(seen.manifest, lost=[*seen.manifest.lost, *rows])
    kept, following = Survey(ending.kept), ending.last_index + 1
    seen.runs = kept.runs(info.finished(ending.end, ending.last_index, ending.last_term))
    plan.tail, plan.slots = info, kept.slots(info.base_index, following)
    plan.end = plan.file_end = ending.end
    plan.last_index = plan.file_last_index = ending.last_index
    plan.last_term = plan.file_last_term = ending.last_term
    return _refusal(name, info, ending) if ending.hopeless else None


def _ending(
    files: Files, directory: str, found: Manifest, plan: Plan, info: SegmentInfo
) -> tuple[Ending, SegmentInfo]:
    """Where the newest segment ends, as repair would seal it."""
    scan = scan_segment(join(directory, fmt.segment_name(info.segment_id)), files=files,
                        header=header_of(info, found.log_id))  # fmt: skip
    durable, seal = max(plan.durable, scan.mark), scan.seal
    if seal is not None and seal.end >= durable:  # a crash came before the manifest could state it
        info = info.finished(seal.end, seal.last_index, seal.last_term)
    around = survey(files, directory, info, found.log_id, unreadable_is_damage=True)
    if info.sealed:
        return Ending(around.parts, info.end or 0, info.last_index or 0, info.last_term or 0, False, False), info
    return ending_of(around, info, durable, failed=plan.failed), info


def _holes(info: SegmentInfo, parts: list[Part], found: Manifest) -> list[Hole]:
    noted = {(row[2], row[3]) for row in found.lost}
    holes = []
    for part in parts:
        offset = fmt.DATA_OFFSET + part.start - info.start
        first = max(part.first, found.purged_index + 1)
        last = part.next - 1 if info.last_index is None else min(part.next - 1, info.last_index)
        if (info.segment_id, offset) not in noted:
            holes.append(Hole(first, max(last, first - 1), info.segment_id, offset, part.term))
    return holes


def _refusal(name: str, info: SegmentInfo, ending: Ending) -> Finding:
    """Why nothing is served from the end on, although something must have stood there."""
    letter = "K" if ending.wrong else "J"
    sentence = next(row.sentence for row in table.SEGMENT_ROWS if row.letter == letter)
    offset = fmt.DATA_OFFSET + ending.end - info.start
    return Finding(letter, table.REFUSE, name, sentence, offset, ending.last_index + 1, None, ending.last_term)


def _take_from_ring(directory: str, seen: Provable) -> None:
    """Row R: an acknowledged entry in the dead writer's ring is damaged.  Those before it prove."""
    plan = seen.plan
    with contextlib.closing(Remains(directory, seen.manifest)) as old:
        data = None
        if old.trusted and old.ring is not None and old.published > plan.end:
            data = old.ring.copy(plan.end, old.published)
    take_prefix(plan, data or b"", seen.manifest)
    if plan.refusal is not None:
        plan.refusal = replace(
            plan.refusal, offset=plan.end, first_index=plan.last_index + 1, term=plan.last_term
        )  # fmt: skip
