"""Repair and what a dead writer left in memory: carried along, or given up when told to."""

from __future__ import annotations

import os

import pytest

from raftlog_mp import check, errors, log_reader, manifest
from raftlog_mp import format as fmt
from raftlog_mp.files import Files

from .damaged import build, carry_out, check_reads, kept, kinds, mend, planned, promised, term_of, written
from .journals import (
    append,
    end_offset,
    failed_log,
    flip,
    kill,
    lose_memory,
    open_log,
    overwrite,
    put,
    read_at,
    tail_path,
    write_only,
)


def ring_path(log: str) -> str:
    return os.path.join(log, "shm", fmt.ring_name(manifest.load(Files(), log).generation))


def lock(log: str) -> None:
    with open(os.path.join(log, fmt.LOCK_NAME), "wb"):
        pass


def mem_first(log_dir: str, *payloads: bytes) -> int:
    """A killed MemFirst log whose entries are only in the ring; where there they begin."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    start = journal.end
    for number, payload in enumerate(payloads, 1):
        append(journal, payload, producer=7, sequence=number)
    kill(journal)
    lock(log_dir)
    return start


# ---------------------------------------------------------------- row R
def test_a_damaged_ring_is_given_up_only_when_told(log_dir: str) -> None:
    start = mem_first(log_dir, b"one", b"two", b"three")
    flip(ring_path(log_dir), start + 2 * (fmt.RECORD_BYTES + 3) + fmt.RECORD_BYTES)  # entry 3
    ring = read_at(ring_path(log_dir), start, 3 * fmt.RECORD_BYTES + 11)
    plan = planned(log_dir)
    assert [one.needs for one in plan.blocked] == ["--accept-loss"] and plan.blocked[0].first_index == 1
    assert "must not vote" in plan.sentences()[0]
    plan = mend(log_dir, {1: (1, b"one"), 2: (1, b"two")}, accept_loss=True)
    assert kinds(plan) == ["give up ring"] and "entries 1..2 are taken" in plan.sentences()[0]
    assert kept(log_dir)[f"ring.{start}"] == ring


def test_a_ring_that_cannot_be_read_at_all_is_given_up_whole(log_dir: str) -> None:
    start = mem_first(log_dir, b"one")
    flip(ring_path(log_dir), start)
    plan = planned(log_dir, accept_loss=True)
    assert kinds(plan) == ["give up ring"]
    carry_out(plan)
    promised(log_dir, {})
    journal, _ = open_log(log_dir)
    journal.producers.connect(7, 1, 1)
    assert journal.producers.look_up(7, 1)[0] == "forgotten", "whether it was appended, nobody knows"
    kill(journal)


def test_no_new_entry_gets_the_id_of_one_that_was_in_the_ring(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    start = journal.end
    append(journal, b"one", term=2)
    append(journal, b"two", term=5)
    kill(journal)
    lock(log_dir)
    flip(ring_path(log_dir), start)
    carry_out(planned(log_dir, accept_loss=True))
    assert manifest.load(Files(), log_dir).term_floor > 5


# ---------------------------------------------------------------- what is only in memory comes along
def test_a_hole_in_the_files_and_entries_in_the_ring(log_dir: str) -> None:
    log = build(log_dir, strategy="mem_first")  # segments 1 and 2 flushed, the third only in the ring
    log.hit(15)
    assert planned(log_dir).steps[0].kind == "salvage"
    expected = {i: entry for i, entry in written().items() if i != 15}
    mend(log_dir, expected, holes=((15, 15),))
    assert not manifest.load(Files(), log_dir).loss_possible


def test_a_suffix_is_dropped_from_the_ring_as_well(log_dir: str) -> None:
    log = build(log_dir, strategy="mem_first")
    os.unlink(os.path.join(log_dir, fmt.segment_name(2)))
    assert log.places[30].name == fmt.segment_name(3)
    mend(log_dir, written(1, 10), truncate_from=11)
    assert any(name.startswith("ring.") for name in kept(log_dir))


def test_a_failed_disk_leaves_what_the_ring_holds(log_dir: str) -> None:
    """Row I: nothing past the mark is trusted; what was acknowledged comes from the ring, into a new segment."""
    acknowledged = failed_log(log_dir, "mem_first")
    lock(log_dir)
    plan = mend(log_dir, acknowledged)
    assert kinds(plan) == ["cut"] and "row I" in plan.sentences()[0]


def test_after_a_reboot_the_loss_is_noted(log_dir: str) -> None:
    mem_first(log_dir, b"one")
    lose_memory(log_dir)
    plan = planned(log_dir)
    assert kinds(plan) == ["settle"] and "may be lost" in plan.sentences()[0]
    carry_out(plan)
    assert manifest.load(Files(), log_dir).loss_possible
    promised(log_dir, {})


# ---------------------------------------------------------------- rows K, L and J with a torn end
def test_a_record_in_the_wrong_place_needs_a_decision(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    start = end_offset(journal)
    append(journal, b"two")
    copy = read_at(journal.segment.path, start, fmt.RECORD_BYTES + 3)
    place = end_offset(journal)
    kill(journal)
    lock(log_dir)
    header = fmt.RecordHeader._make(fmt.RECORD_HEADER.unpack(copy[: fmt.RECORD_BYTES]))
    wrong = fmt.pack_record_header(
        header.body_crc, 3, 1, fmt.KIND_ENTRIES, header.log_id, header.generation, 9, 1, header.end, 0, 0, 0
    )
    overwrite(tail_path(log_dir), place, wrong + b"two")
    plan = planned(log_dir)
    assert plan.blocked[0].needs == "--truncate-from 3" and "wrong index, term or position" in plan.sentences()[0]
    plan = mend(log_dir, {1: (1, b"one"), 2: (1, b"two")}, truncate_from=3)
    assert wrong + b"two" in kept(log_dir).values()


def test_a_hole_and_a_torn_end(log_dir: str) -> None:
    """What a mark vouches for is a hole, what nothing vouches for is cut."""
    journal, _ = open_log(log_dir)
    places = []
    for index in range(1, 7):
        places.append(end_offset(journal))
        append(journal, b"payload %d" % index, term=term_of(index))
    torn = end_offset(journal)
    put(journal, b"never acknowledged", term=9)
    write_only(journal)
    kill(journal)
    lock(log_dir)
    flip(tail_path(log_dir), places[2] + fmt.RECORD_BYTES)
    flip(tail_path(log_dir), torn + fmt.RECORD_BYTES)
    expected = {i: (1, b"payload %d" % i) for i in (1, 2, 4, 5, 6)}
    plan = mend(log_dir, expected, holes=((3, 3),))
    assert kinds(plan) == ["salvage", "seal"] and plan.steps[1].kept_bytes > fmt.RECORD_BYTES
    assert len(manifest.load(Files(), log_dir).evidence) == 1


def test_an_unreadable_block_is_left_to_other_tools(log_dir: str) -> None:
    """The device gives an error: copying it elsewhere comes first."""
    log = build(log_dir)
    path = os.path.join(log_dir, log.places[1].name)
    os.unlink(path)
    os.mkdir(path)  # reads fail for everybody, root included
    plan = planned(log_dir)
    assert plan.blocked and plan.blocked[0].needs == "" and "cannot read" in plan.sentences()[0]
    os.rmdir(path)
    assert not check.check_log(log_dir).sound


def test_control_a_reader_sees_what_repair_brought(log_dir: str) -> None:
    """A reader that was open on the files all the time looks again."""
    log = build(log_dir)
    log.hit(25)
    with log_reader.open_reader(log_dir) as reader:
        with pytest.raises(errors.CorruptLog, match="A writer refuses to start"):
            reader.get(25)
        carry_out(planned(log_dir))
        with pytest.raises(errors.CorruptLog, match="repair has noted the hole"):
            reader.get(25)
        check_reads(reader, {i: e for i, e in written().items() if i not in (24, 25, 26)}, ((24, 26),))
