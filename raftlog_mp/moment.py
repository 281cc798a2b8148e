"""The log at one moment, while its writer may be at work: what a copy of it has to hold.

The manifest lists the segments, and the frontiers say how far the newest one goes: those of the writer that serves, in
its control block, or those that recovery would find.  Bytes below a frontier never change, and neither does a sealed
segment; so whoever knows the moment can copy it later, as long as the files are there.

A MemFirst writer that was killed in mid-roll leaves a sealed segment and a ring that goes on behind it, in a segment
that is not listed yet.  A start puts those entries into a segment of their own (``behind``), and so has the copy to.
"""

from __future__ import annotations

import contextlib
from typing import NamedTuple

from . import errors, manifest, wakeup
from . import format as fmt
from .catalog import SegmentInfo
from .files import Files, join
from .findings import Plan, make_plan
from .manifest import Manifest
from .remains import Remains

START_SECONDS_MAX = 30.0  # for a writer that is starting or stopping to come to rest


class Moment(NamedTuple):
    """What the log consisted of at one moment, and where its newest segment ended."""

    found: Manifest
    segments: list[SegmentInfo]  # sealed ones
    tail: SegmentInfo | None
    file_end: int  # position up to which the tail's file is copied
    ring: bytes  # what follows it
    commit_index: int
    loss_possible: bool
    behind: Plan | None = None  # a dead writer's ring goes on behind a sealed segment: where, and with what


def choose_moment(files: Files, directory: str) -> Moment:
    """The log as it is now.  :class:`CorruptLog` for what start-up would refuse."""
    until = wakeup.now() + START_SECONDS_MAX
    while wakeup.now() < until:
        found = manifest.load(files, directory)
        segments, tail = list(found.segments), None
        if segments and not segments[-1].sealed:
            tail = segments.pop()
        moment: Moment | None
        if tail is None and found.settled:
            moment = Moment(found, segments, tail, 0, b"", found.commit_index, found.loss_possible)
        elif files.lock_held(join(directory, fmt.LOCK_NAME)):
            moment = _from_memory(directory, found, segments, tail)
        else:
            moment = _from_files(files, directory, found)
        # Frontiers belong to this manifest only if no other one came while they were read.
        if moment is not None and _unchanged(files, directory, found):
            return moment
        wakeup.pause(0.005)
    raise errors.WriterUnavailable(f"{directory} did not come to rest in {START_SECONDS_MAX:.0f} s; try again")


def _unchanged(files: Files, directory: str, found: Manifest) -> bool:
    return manifest.load(files, directory).as_dict() == found.as_dict()


def _from_memory(
    directory: str, found: Manifest, segments: list[SegmentInfo], tail: SegmentInfo | None
) -> Moment | None:
    """The frontiers as the writer shows them; None if it is only starting, or has moved on."""
    with contextlib.closing(Remains(directory, found)) as shown:
        if tail is None or not shown.trusted or shown.ring is None:
            return None
        end = max(found.durable, shown.durable)
        ring = shown.ring.copy(end, shown.published) if shown.published > end else b""
        commit_index = max(found.commit_index, shown.commit_index)
    return None if ring is None else Moment(found, segments, tail, end, ring, commit_index, found.loss_possible)


def _from_files(files: Files, directory: str, found: Manifest) -> Moment | None:
    """Without a writer: what recovery would keep.  None if one has begun to serve meanwhile."""
    plan = make_plan(files, directory, found)
    if not _unchanged(files, directory, found):
        return None
    plan.refuse()
    return Moment(
        found, plan.segments, plan.tail, plan.file_end, plan.ring_bytes,
        max(found.commit_index, plan.commit_index), found.loss_possible or plan.loss_possible,
        plan if plan.ring_bytes and plan.tail is None else None,
    )  # fmt: skip
