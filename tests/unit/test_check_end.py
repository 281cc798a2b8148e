"""``check_log`` where a log ends and around it: the unsealed tail, the ring, leftovers, a running writer."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import check, layout, manifest, shm
from raftlog_mp import format as fmt
from raftlog_mp.check import check_log
from raftlog_mp.diagnoses import DAMAGE, DISK, WARNING
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.log_reader import open_reader
from raftlog_mp.segment_check import Inspected, inspect
from raftlog_mp.sweeper import remove_segment

from . import damaged
from .changes import purge
from .checked import PER_SEGMENT, edit, expect, informed, name_of, offset_of
from .journals import (
    append,
    end_offset,
    failed_log,
    flip,
    kill,
    killed_before_the_sync,
    lose_memory,
    make_newer,
    open_log,
    overwrite,
    put,
    segment_path,
    stop,
    tail_path,
    write_only,
)  # fmt: skip


# ---------------------------------------------------------------- the unsealed tail
def test_torn_tail(log_dir: str) -> None:
    start = killed_before_the_sync(log_dir, b"one" * 10, b"two" * 10)
    flip(tail_path(log_dir), start + 100)
    expect(log_dir, WARNING, "a torn tail after entry 1: 236 bytes", "nothing that was acknowledged", letter="N",
           offset=start, file=name_of(log_dir, 0))  # fmt: skip


def test_damage_to_what_was_durable(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    for _ in range(5):
        append(journal, b"x" * 500)
    kill(journal)
    flip(tail_path(log_dir), offset_of(1) + 100)
    expect(log_dir, DAMAGE, "entry 2", letter="J", offset=offset_of(1), first_index=2, last_index=2)


def test_wrong_record_in_the_tail(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x" * 500)
    journal.next_index += 1
    put(journal, b"y" * 500)
    write_only(journal)
    kill(journal)
    expect(log_dir, DAMAGE, "entry 3", "does not continue the log", letter="K", offset=offset_of(1))


def test_header_of_the_newest_segment(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x" * 500)
    kill(journal)
    flip(tail_path(log_dir), 30)
    expect(log_dir, DAMAGE, "header of the newest segment is damaged", letter="H")


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_failed_disk(strategy: str, log_dir: str) -> None:
    failed_log(log_dir, strategy)
    expect(log_dir, WARNING, "the disk failed under the last writer", letter="I")


def test_this_tail_was_cut_before(log_dir: str) -> None:
    start = killed_before_the_sync(log_dir, b"one" * 10)
    flip(tail_path(log_dir), start + 100)
    copy = log_dir + ".copy"
    shutil.copytree(log_dir, copy)
    stop(open_log(log_dir)[0])
    evidence = manifest.load(Files(), log_dir).evidence
    edit(copy, lambda state: state.evidence.extend(evidence))
    expect(copy, DAMAGE, "cut before", letter="O")
    assert "took off the log are kept here: 0000" in informed(log_dir)[-1].sentence


# ---------------------------------------------------------------- the ring of a MemFirst log
def test_ring(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"on disk")
    journal.flush()
    append(journal, b"in memory")
    published = journal.published
    kill(journal)
    found = informed(log_dir)
    assert [one.letter for one in found] == ["M", "Q"] and "entry 2: acknowledged" in found[1].sentence
    ring = os.path.join(log_dir, fmt.SHM_NAME, fmt.ring_name(1))
    flip(ring, published - 1)
    expect(log_dir, DAMAGE, "ring is damaged", letter="R")
    lose_memory(log_dir)
    expect(log_dir, WARNING, "after entry 1", letter="S")


# ---------------------------------------------------------------- everything else
def test_leftovers_are_information(log: str) -> None:
    highest = manifest.load(Files(), log).next_segment_id
    for name in (fmt.segment_name(highest), fmt.index_name(77), "notes.txt", "manifest.tmp"):
        Path(log, name).write_bytes(b"x")
    Path(log, fmt.QUARANTINE_NAME).mkdir()
    Path(log, fmt.QUARANTINE_NAME, "0000000000000001.seg.8192.00000000").write_bytes(b"x")
    edit(log, lambda state: setattr(state, "next_segment_id", highest))
    said = {one.file: one.sentence for one in informed(log)}
    assert "unfinished roll" in said[fmt.segment_name(highest)] and "no file of the log" in said["notes.txt"]
    assert "segment that is gone" in said[fmt.index_name(77)] and "kept here" in said["quarantine/"]
    assert "purged or replaced" in dead_segment(log)


def dead_segment(directory: str) -> str:
    """What is said of a segment that the manifest has dropped."""
    edit(directory, lambda state: state.segments.pop(0))
    edit(directory, lambda state: setattr(state, "purged_index", PER_SEGMENT))
    return next(one.sentence for one in check_log(directory).findings if one.letter == "B")


def test_end_offset_is_where_these_tests_think_records_stand(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x" * 500)
    assert end_offset(journal) == offset_of(1)
    stop(journal)


# ---------------------------------------------------------------- beside a running writer
@pytest.fixture
def running(log_dir: str) -> Iterator[Journal]:
    """A journal whose log is locked, as a writer's is: three sealed segments and an active one."""
    journal, _ = open_log(log_dir)
    for _ in range(320):
        append(journal, b"x" * 500)
    journal.control.state.store(layout.STATE_RUNNING, shm.RELAXED)
    files = Files()
    fd = files.open(os.path.join(log_dir, fmt.LOCK_NAME), write=True, create=True)
    assert files.lock(fd)
    yield journal
    files.close(fd)
    kill(journal)


def test_a_running_log_is_checked_as_far_as_it_is_durable(running: Journal) -> None:
    directory, end = running.directory, end_offset(running)
    report = check_log(directory)
    assert report.sound and report.live and report.findings == [] and report.last_index == 320
    assert sum(one.entries for one in report.segments) == 320
    put(running, b"y" * 500)  # half of it reaches the file, and nothing vouches for it
    overwrite(tail_path(directory), end, b"\xf1RLr and so on")
    assert informed(directory) == []
    flip(tail_path(directory), offset_of(2) + 100)
    expect(directory, DAMAGE, "checksum of the body", letter="J", offset=offset_of(2))


def test_a_segment_that_goes_while_it_is_looked_at(running: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []

    def inspect_late(task: Any, *rest: Any) -> Inspected:
        if not gone:
            purge(200)(running)
            for info in running.take_dead():
                gone.append(fmt.segment_name(info.segment_id))
                remove_segment(running.files, running.directory, info.segment_id)
        return inspect(task, *rest)

    monkeypatch.setattr(check, "inspect", inspect_late)
    report = check_log(running.directory)
    assert len(gone) == 2 and report.sound and report.findings == [] and report.first_index == 201
    os.unlink(segment_path(running.directory, 0))
    expect(running.directory, DAMAGE, "the segment file is missing", letter="C")


def test_a_roll_while_it_is_looked_at(running: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    rolls: list[int] = []

    frontiers = check._Examination._frontiers

    def frontiers_late(examination: Any, found: manifest.Manifest) -> tuple[int, int]:
        if not rolls:  # the manifest was read before, the frontiers are read after
            rolls.append(running.rolls)
            for _ in range(100):
                append(running, b"z" * 500)
        return frontiers(examination, found)

    monkeypatch.setattr(check._Examination, "_frontiers", frontiers_late)
    assert informed(running.directory) == [] and running.rolls > rolls[0]


def test_a_segment_that_is_sealed_and_not_yet_in_the_manifest(running: Journal) -> None:
    """Between the two the writer may wait for its disk for long."""
    assert running.segment is not None
    running.segment.seal(running.end, running.next_index - 1, running.last_term)
    overwrite(tail_path(running.directory), fmt.SEAL_OFFSET, bytes(512))  # it was read a moment before it was written
    assert os.path.getsize(tail_path(running.directory)) < running.manifest.segments[-1].file_bytes
    assert informed(running.directory) == []


def test_a_running_writer_whose_disk_failed(running: Journal) -> None:
    running.control.state.store(layout.STATE_FAILED, shm.RELAXED)
    expect(running.directory, WARNING, "the disk failed under the running writer", first_index=321)


def test_a_control_block_of_another_boot_says_nothing(running: Journal) -> None:
    flip(tail_path(running.directory), offset_of(2) + 100)
    running.control.boot_id_low.store(1, shm.RELAXED)
    assert informed(running.directory) == [] and check_log(running.directory).last_index == 0


def test_damage_in_a_sealed_segment_of_a_running_log(running: Journal) -> None:
    flip(segment_path(running.directory, 0), offset_of(3) + 100)
    expect(running.directory, DAMAGE, "entry 4 of term 1", letter="")
    make_newer(os.path.join(running.directory, fmt.HARD_STATE_NAME))
    assert len(check_log(running.directory).problems) == 2


# ---------------------------------------------------------------- damage in front of the end
@pytest.mark.parametrize("hit", [[23], [24], [21, 29]])
def test_the_summary_names_what_readers_serve(log_dir: str, hit: list[int]) -> None:
    """Records behind the damage prove, and so do its neighbours."""
    log = damaged.build(log_dir)
    for index in hit:
        log.hit(index)
    report = check_log(log_dir)
    with open_reader(log_dir) as reader:
        assert report.last_index == reader.last_index == damaged.LAST
        assert (report.first_index, report.entries) == (reader.first_index, damaged.LAST)
    assert {found.first_index for found in report.problems} == set(hit)


# ---------------------------------------------------------------- a bad device
@pytest.mark.parametrize("name", [fmt.MANIFEST_NAME, fmt.HARD_STATE_NAME])
def test_single_files_that_cannot_be_read(log: str, name: str) -> None:
    path = os.path.join(log, name)
    os.rename(path, path + ".old")
    os.mkdir(path)
    found = expect(log, DAMAGE, "cannot be read", "Is a directory", file=name)
    assert found.next_step == DISK
