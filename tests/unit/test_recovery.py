"""Recovery on real files: what comes back, and what is cut and kept aside."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.files import Files

from .journals import (
    BOTH,
    Entries,
    append,
    copy_log,
    entries_of,
    flip,
    kill,
    killed_before_the_sync,
    letters,
    lose_memory,
    open_log,
    overwrite,
    quarantined,
    read_at,
    refused,
    reopen,
    stop,
    tail_path,
)


# ---------------------------------------------------------------- nothing wrong
@BOTH
def test_clean_stop(log_dir: str, strategy: str) -> None:
    journal, plan = open_log(log_dir, strategy=strategy)
    assert not plan.loss_possible
    append(journal, b"one")
    append(journal, b"two", b"three", term=2)
    stop(journal)
    expected = {1: (1, b"one"), 2: (2, b"two"), 3: (2, b"three")}
    assert entries_of(log_dir) == expected
    entries, plan = reopen(log_dir)
    assert entries == expected
    assert letters(plan) == ("DP" if strategy == "mem_first" else "D")
    assert not plan.loss_possible and not quarantined(log_dir)


@BOTH
def test_killed_writer_loses_nothing_acknowledged(log_dir: str, strategy: str) -> None:
    journal, _ = open_log(log_dir, strategy=strategy)
    expected: Entries = {}
    for index in range(1, 40):
        append(journal, b"%d" % index * index, term=index // 10 + 1)
        expected[index] = (index // 10 + 1, b"%d" % index * index)
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == expected
    assert not plan.loss_possible
    assert letters(plan) == ("MQ" if strategy == "mem_first" else "M")


@BOTH
def test_empty_log_killed(log_dir: str, strategy: str) -> None:
    for _ in range(3):
        journal, plan = open_log(log_dir, strategy=strategy)
        assert not plan.loss_possible
        kill(journal)
    assert reopen(log_dir)[0] == {}


@BOTH
def test_killed_after_rolls(log_dir: str, strategy: str) -> None:
    """Several sealed segments and an unsealed tail; sealed ones are trusted, the tail is walked."""
    journal, _ = open_log(log_dir, strategy=strategy)
    for index in range(1, 31):
        append(journal, bytes([index]) * 10_000)
    assert journal.rolls >= 5
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == {index: (1, bytes([index]) * 10_000) for index in range(1, 31)}
    assert letters(plan).rstrip("PQ") == "D" * (journal.rolls - 1) + "M"


class ReadFiles(FaultyFiles):
    """Counts the bytes of records that are read from each segment; its first two blocks are not records."""

    def __init__(self) -> None:
        super().__init__()
        self.record_bytes: dict[str, int] = {}

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        data = super().pread(fd, length, offset)
        path = self._paths[fd]
        if path.endswith(".seg") and offset + len(data) > fmt.DATA_OFFSET:
            self.record_bytes[path] = self.record_bytes.get(path, 0) + len(data)
        return data


@pytest.mark.parametrize("suspicious", [False, True])
@BOTH
def test_a_start_after_a_crash_reads_only_what_no_seal_vouches_for(
    log_dir: str, strategy: str, suspicious: bool
) -> None:
    """However many segments there are.  Control: after a failed disk all of them are read, and that is counted."""
    journal, _ = open_log(log_dir, strategy=strategy)
    for number in range(20):
        append(journal, b"%d" % number * 3000)
        journal.roll()
    append(journal, b"in the newest")
    kill(journal)
    state = manifest.load(Files(), log_dir)
    paths = [os.path.join(log_dir, fmt.segment_name(info.segment_id)) for info in state.segments]
    assert len(paths) == 21
    if suspicious:
        state.failed = True
        manifest.save(Files(), log_dir, state)
    files = ReadFiles()
    journal, plan = open_log(log_dir, files)
    assert plan.last_index == 21
    assert set(files.record_bytes) == set(paths if suspicious else paths[-1:])
    stop(journal)


def test_two_kills_in_a_row(log_dir: str) -> None:
    expected: Entries = {}
    for generation in range(1, 6):
        journal, _ = open_log(log_dir, strategy="mem_first")
        assert journal.generation == generation
        for _ in range(3):
            index = append(journal, b"%d" % generation)
            expected[index] = (1, b"%d" % generation)
        kill(journal)
    assert reopen(log_dir)[0] == expected


# ---------------------------------------------------------------- torn tails (rows L, M, N)
def test_torn_tail_at_every_byte(tmp_path: Path) -> None:
    """A power cut leaves any prefix of the last write: it is cut, kept aside, and never served."""
    source = str(tmp_path / "source")
    start = killed_before_the_sync(source, b"torn")
    path = tail_path(source)
    record = read_at(path, start, fmt.RECORD_BYTES + len(b"torn"))
    for kept in range(len(record) + 1):
        torn = copy_log(source, str(tmp_path / f"torn{kept}"), power_cut=True)
        overwrite(os.path.join(torn, os.path.basename(path)), start, record[:kept].ljust(len(record), b"\0"))
        entries, plan = reopen(torn)
        whole = kept == len(record)
        assert entries == {1: (1, b"durable")} | ({2: (1, b"torn")} if whole else {}), kept
        assert letters(plan) == ("M" if kept == 0 or whole else "N"), kept
        assert quarantined(torn) == ([] if kept == 0 or whole else [record[:kept].rstrip(b"\0")]), kept
        assert reopen(torn)[0] == entries, "and it stays so"
        shutil.rmtree(torn)


def test_unsynced_writes_may_persist_out_of_order(log_dir: str) -> None:
    """A whole record behind a torn one is part of the torn tail as long as no mark vouches for it."""
    start = killed_before_the_sync(log_dir, b"torn", b"whole, but behind the tear")
    lose_memory(log_dir)
    overwrite(tail_path(log_dir), start + 20, b"\xff" * 8)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"durable")}
    assert letters(plan) == "N"
    assert b"whole, but behind the tear" in quarantined(log_dir)[0]


def test_a_cut_entry_does_not_come_back(log_dir: str) -> None:
    """After a cut the next record goes to a new segment: nothing can resurrect the old bytes."""
    start = killed_before_the_sync(log_dir, b"cut", b"cut too")
    lose_memory(log_dir)
    flip(tail_path(log_dir), start + fmt.RECORD_BYTES)
    journal, plan = open_log(log_dir)
    assert plan.last_index == 1
    append(journal, b"new")
    kill(journal)
    assert reopen(log_dir)[0] == {1: (1, b"durable"), 2: (1, b"new")}


def test_same_boot_tear_behind_the_durable_position(log_dir: str) -> None:
    """With the control block at hand, exactly what it vouches for must be there."""
    start = killed_before_the_sync(log_dir, b"not vouched for")
    flip(tail_path(log_dir), start + fmt.RECORD_BYTES)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"durable")} and letters(plan) == "N"


def test_the_same_evidence_is_never_acted_on_twice(tmp_path: Path) -> None:
    """Row O: a tail that was cut and is back (a restored backup, a disk that lies) is refused."""
    log = str(tmp_path / "log")
    start = killed_before_the_sync(log, b"torn")
    path = tail_path(log)
    lose_memory(log)
    flip(path, start + fmt.RECORD_BYTES)
    image, before = read_at(path, 0, 1 << 20), manifest.load(Files(), log)
    reopen(log)
    overwrite(path, 0, image)
    back = manifest.load(Files(), log)
    back.segments, back.clean, back.durable = before.segments, False, before.durable
    manifest.save(Files(), log, back)
    lose_memory(log)
    refused(log, "O")


# ---------------------------------------------------------------- unfinished rolls
def test_orphan_of_an_unfinished_roll_is_set_aside(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    info = manifest.load(Files(), log_dir)
    orphan = os.path.join(log_dir, fmt.segment_name(info.next_segment_id))
    kill(journal)
    with open(orphan, "wb") as file:
        file.write(b"half a header".ljust(64 * 1024, b"\0"))
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"one")}
    assert "G" in letters(plan)
    assert b"half a header" in quarantined(log_dir)[0]
    assert read_at(orphan, 0, 13) != b"half a header" if os.path.exists(orphan) else True


def test_a_foreign_file_that_looks_like_a_segment_is_left_alone(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    stop(journal)
    path = os.path.join(log_dir, "backup.seg")
    with open(path, "wb") as file:
        file.write(b"mine")
    assert reopen(log_dir)[0] == {1: (1, b"one")}
    assert read_at(path, 0, 9) == b"mine"
