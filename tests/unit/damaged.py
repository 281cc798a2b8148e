"""Logs to be damaged, and what repair promises: nothing changes before ``apply``; then the log opens and is sound."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from support.faulty_files import FaultyFiles

from raftlog_mp import check, errors, log_reader, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.files import Files
from raftlog_mp.log_reader import LogReader

from .journals import Entries, append, flip, kill, open_log, snapshot, stop
from .keeping import not_kept

PRODUCER = 0xA1
LAST = 30
ROLLS = (11, 21)  # entries that begin a segment
BATCH = range(24, 27)  # entries that share a record


def term_of(index: int) -> int:
    """Terms change inside segments, and at the border of none of them."""
    return 1 + index // 7


def payload_of(index: int) -> bytes:
    """Long enough to be hit."""
    return b"entry %d " % index * 9


def written(first: int = 1, last: int = LAST) -> Entries:
    """What the log holds."""
    return {index: (term_of(index), payload_of(index)) for index in range(first, last + 1)}


class Place(NamedTuple):
    """Where a record stands."""

    name: str
    offset: int


class Damaged(NamedTuple):
    """A log, and where each of its entries stands."""

    path: str
    places: dict[int, Place]

    def hit(self, index: int, *, header: bool = False) -> None:
        """Damage the record of one entry."""
        place = self.places[index]
        flip(os.path.join(self.path, place.name), place.offset + (1 if header else fmt.RECORD_BYTES + 1))


def build(
    path: str, *, strategy: str = "disk_first", clean: bool = False, purged: int = 0, committed: int = 0
) -> Damaged:  # fmt: skip
    """Three segments, entries 1..30, each acknowledged, those up to ``purged`` gone; killed, or closed in order."""
    journal, _ = open_log(path, strategy=strategy)
    with open(os.path.join(path, fmt.LOCK_NAME), "wb"):
        pass
    places = {}
    for index in range(1, LAST + 1):
        if index in ROLLS:
            journal.roll()
        if index in BATCH and index != BATCH[0]:
            places[index] = places[BATCH[0]]
            continue
        where = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
        places[index] = Place(os.path.basename(journal.segment.path), where)
        group = BATCH if index == BATCH[0] else (index,)
        append(journal, *map(payload_of, group), term=term_of(index), producer=PRODUCER, sequence=index)
    if purged:
        journal.purge_to(purged)
    journal.commit_to(committed)
    stop(journal) if clean else kill(journal)
    return Damaged(path, places)


def segment_of(path: str, number: int) -> SegmentInfo:
    """A listed segment."""
    return manifest.load(Files(), path).segments[number]


def planned(path: str, **how: object) -> repair.RepairPlan:
    """The plan; making it changes nothing."""
    before = snapshot(path)
    plan = repair.plan(path, **how)  # type: ignore[arg-type]
    assert snapshot(path) == before
    return plan


def kinds(plan: repair.RepairPlan) -> list[str]:
    """What the steps are called."""
    return [step.kind for step in plan.steps]


def mend(path: str, expected: Entries, *, holes: tuple[tuple[int, int], ...] = (), **how: object) -> repair.RepairPlan:
    """Check sees it; repair, and nothing goes without a copy; what is promised holds, also after two more starts."""
    assert not check.check_log(path).sound
    plan, before = planned(path, **how), snapshot(path)
    assert plan.needed and not plan.blocked, plan.sentences()
    assert carry_out(plan) == plan.steps
    assert not_kept(before, path) == []
    promised(path, expected, holes)
    for _ in range(2):
        journal, _ = open_log(path)
        index, term = journal.next_index, journal.last_term + 1
        append(journal, b"after", term=term)
        stop(journal)
        expected = expected | {index: (term, b"after")}
        promised(path, expected, holes)
    return plan


def carry_out(plan: repair.RepairPlan) -> list[repair.Step]:
    """Apply it, without waiting for the disk."""
    return repair.apply(plan, files=FaultyFiles())


def promised(path: str, expected: Entries, holes: tuple[tuple[int, int], ...] = ()) -> None:
    """The log is sound, needs no repair, and every way of reading serves what it must."""
    report = check.check_log(path)
    assert report.sound, [(found.file, found.sentence) for found in report.problems]
    assert not planned(path).needed, planned(path).sentences()
    with log_reader.open_reader(path) as reader:
        check_reads(reader, expected, holes)


def check_reads(reader: LogReader, expected: Entries, holes: tuple[tuple[int, int], ...] = ()) -> None:
    """get, read, follow and term_of."""
    lost = {index for first, last in holes for index in range(first, last + 1)}
    assert set(expected) & lost == set()
    indexes = sorted([*expected, *lost])
    assert indexes == list(range(reader.first_index, reader.last_index + 1))
    for index in indexes:
        if index in lost:
            where = refused(lambda index=index: reader.get(index))
            assert where == next(hole for hole in holes if hole[0] <= index <= hole[1])
        else:
            entry = reader.get(index)
            assert entry is not None and (entry.term, entry.payload) == expected[index]
            assert reader.term_of(index) == expected[index][0]
    if not indexes:
        return
    starts = [indexes[0], *(last + 1 for _, last in holes if last < indexes[-1])]
    ends = [*(first - 1 for first, _ in holes), indexes[-1]]
    for start, end in zip(starts, ends, strict=len(starts) == len(ends)):
        due = [(index, *expected[index]) for index in range(start, end + 1)]
        assert [(e.index, e.term, e.payload) for e in reader.read(start, end + 1)] == due
        assert followed(reader, start, holes)[: len(due)] == due
    for first, _ in holes:
        refused(lambda first=first: reader.read(max(first - 1, indexes[0]), first + 1))


def refused(read: Callable[[], object]) -> tuple[int | None, int | None]:
    """The range that :class:`CorruptLog` names."""
    try:
        read()
    except errors.CorruptLog as error:
        assert "append_entries" in str(error) and "truncate_from" in str(error)
        return error.first_index, error.last_index
    raise AssertionError("it was served")


def followed(reader: LogReader, start: int, holes: tuple[tuple[int, int], ...]) -> list[tuple[int, int, bytes]]:
    """What a follower yields before the end or the next hole."""
    found = []
    try:
        for entry in reader.follow(start, timeout=0):
            found.append((entry.index, entry.term, entry.payload))
    except errors.CorruptLog as error:
        assert (error.first_index, error.last_index) in holes
    return found


def kept(path: str) -> dict[str, bytes]:
    """The files of every repair: name -> content."""
    folder = os.path.join(path, fmt.QUARANTINE_NAME)
    return {
        os.path.basename(name): content for name, content in snapshot(folder).items() if name.startswith("repair-")
    }
