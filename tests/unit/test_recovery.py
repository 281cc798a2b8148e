"""Recovery on real files: what comes back, what is cut and kept aside, what is refused with nothing changed."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest
from raftlog_mp.control import open_control
from raftlog_mp.errors import CorruptLog, SyncFailed
from raftlog_mp.files import Files

from .journals import (
    Entries,
    append,
    commit,
    copy_log,
    entries_of,
    flip,
    kill,
    open_log,
    overwrite,
    put,
    quarantined,
    read_at,
    reopen,
    snapshot,
    stop,
    tail_path,
    write_only,
)

BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])


def letters(plan) -> str:
    return "".join(finding.letter for finding in plan.findings)


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
    journal, _ = open_log(source)
    append(journal, b"durable")
    start = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"torn", term=1)
    write_only(journal)
    kill(journal)
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
    journal, _ = open_log(log_dir)
    append(journal, b"durable")
    start = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"torn")
    put(journal, b"whole, but behind the tear")
    write_only(journal)
    kill(journal)
    shutil.rmtree(os.path.join(log_dir, "shm"))
    overwrite(tail_path(log_dir), start + 20, b"\xff" * 8)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"durable")}
    assert letters(plan) == "N"
    assert b"whole, but behind the tear" in quarantined(log_dir)[0]


def test_a_cut_entry_does_not_come_back(log_dir: str) -> None:
    """After a cut the next record goes to a new segment: nothing can resurrect the old bytes."""
    journal, _ = open_log(log_dir)
    append(journal, b"kept")
    start = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"cut")
    put(journal, b"cut too")
    write_only(journal)
    kill(journal)
    shutil.rmtree(os.path.join(log_dir, "shm"))
    flip(tail_path(log_dir), start + fmt.RECORD_BYTES)
    journal, plan = open_log(log_dir)
    assert plan.last_index == 1
    append(journal, b"new")
    kill(journal)
    assert reopen(log_dir)[0] == {1: (1, b"kept"), 2: (1, b"new")}


def test_same_boot_tear_behind_the_durable_position(log_dir: str) -> None:
    """With the control block at hand, exactly what it vouches for must be there."""
    journal, _ = open_log(log_dir)
    append(journal, b"durable")
    start = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"not vouched for")
    write_only(journal)
    kill(journal)
    flip(tail_path(log_dir), start + fmt.RECORD_BYTES)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"durable")} and letters(plan) == "N"


def test_the_same_evidence_is_never_acted_on_twice(tmp_path: Path) -> None:
    """Row O: a tail that was cut and is back (a restored backup, a disk that lies) is refused."""
    log = str(tmp_path / "log")
    journal, _ = open_log(log)
    append(journal, b"durable")
    start = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"torn")
    write_only(journal)
    kill(journal)
    path = tail_path(log)
    shutil.rmtree(os.path.join(log, "shm"))
    flip(path, start + fmt.RECORD_BYTES)
    image, before = read_at(path, 0, 1 << 20), manifest.load(Files(), log)
    reopen(log)
    overwrite(path, 0, image)
    back = manifest.load(Files(), log)
    back.segments, back.clean, back.durable = before.segments, False, before.durable
    manifest.save(Files(), log, back)
    shutil.rmtree(os.path.join(log, "shm"))
    held = snapshot(log)
    with pytest.raises(CorruptLog, match="row O"):
        open_log(log)
    assert snapshot(log) == held


# ---------------------------------------------------------------- damage to what was durable is refused
def refused(log: str, row: str, **where: object) -> CorruptLog:
    """Opening raises ``CorruptLog`` by this row, and not one byte changes."""
    before = snapshot(log)
    with pytest.raises(CorruptLog) as caught:
        open_log(log)
    assert snapshot(log) == before
    assert f"row {row}" in str(caught.value) and "raftlog-mp cat" in str(caught.value)
    for name, value in where.items():
        assert getattr(caught.value, name) == value
    return caught.value


def test_damage_below_a_mark_is_refused_at_every_byte(tmp_path: Path) -> None:
    """Each byte of a record that a later record vouches for: flip one bit, and opening refuses."""
    log = str(tmp_path / "log")
    journal, _ = open_log(log)
    first = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    append(journal, b"vouched for")
    append(journal, b"its header holds the durable position of the one before")
    name = os.path.basename(journal.segment.path)
    kill(journal)
    shutil.rmtree(os.path.join(log, "shm"))
    path = os.path.join(log, name)
    for offset in range(first, first + fmt.RECORD_BYTES + len(b"vouched for")):
        flip(path, offset, offset % 8)
        error = refused(log, "J", segment=name, offset=first, first_index=1)
        assert name in str(error)
        flip(path, offset, offset % 8)
    assert reopen(log)[0][1] == (1, b"vouched for")


def test_an_idle_mark_vouches_for_the_last_group(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"last")
    assert journal.wants_mark
    journal.mark()
    commit(journal)
    assert not journal.wants_mark
    body = fmt.DATA_OFFSET + journal.durable - journal.segment.header.start - fmt.RECORD_BYTES - 1
    kill(journal)
    shutil.rmtree(os.path.join(log_dir, "shm"))
    flip(tail_path(log_dir), body)
    refused(log_dir, "J", first_index=1)


def test_zeros_below_a_mark_are_corruption(log_dir: str) -> None:
    """A lost page reads as zeros: the control block of this boot still vouches for it."""
    journal, _ = open_log(log_dir)
    append(journal, b"lost")
    kill(journal)
    path = tail_path(log_dir)
    overwrite(path, fmt.DATA_OFFSET, bytes(os.path.getsize(path) - fmt.DATA_OFFSET))
    refused(log_dir, "J", first_index=1)


@pytest.mark.parametrize("segment", [0, 1, -1])
def test_missing_or_shortened_segment(log_dir: str, segment: int) -> None:
    journal, _ = open_log(log_dir)
    for _ in range(20):
        append(journal, b"x" * 10_000)
    kill(journal)
    info = manifest.load(Files(), log_dir).segments[segment]
    path = os.path.join(log_dir, fmt.segment_name(info.segment_id))
    size = os.path.getsize(path)
    last = read_at(path, size - 1, 1)
    os.truncate(path, size - 1)
    refused(log_dir, "C", segment=os.path.basename(path))
    os.truncate(path, size)
    overwrite(path, size - 1, last)
    os.rename(path, path + ".away")
    refused(log_dir, "C", segment=os.path.basename(path))
    os.rename(path + ".away", path)
    assert len(reopen(log_dir)[0]) == 20


def test_damaged_seal_of_a_whole_segment_is_written_again(log_dir: str) -> None:
    """Row E: the records prove up to the end that the manifest states."""
    journal, _ = open_log(log_dir)
    for _ in range(10):
        append(journal, b"x" * 10_000)
    kill(journal)
    info = manifest.load(Files(), log_dir).segments[0]
    path = os.path.join(log_dir, fmt.segment_name(info.segment_id))
    overwrite(path, fmt.SEAL_OFFSET, bytes(64))
    entries, plan = reopen(log_dir)
    assert len(entries) == 10 and letters(plan)[0] == "E"
    seal = fmt.read_seal(read_at(path, fmt.SEAL_OFFSET, 512))
    assert seal is not None and (seal.end, seal.last_index) == (info.end, info.last_index)


def test_damaged_record_of_a_segment_without_seal_is_refused(log_dir: str) -> None:
    """Rows F (it has a successor) and J (marks vouch for it)."""
    journal, _ = open_log(log_dir)
    for _ in range(10):
        append(journal, b"x" * 10_000)
    kill(journal)
    info = manifest.load(Files(), log_dir).segments[0]
    path = os.path.join(log_dir, fmt.segment_name(info.segment_id))
    overwrite(path, fmt.SEAL_OFFSET, bytes(64))
    flip(path, fmt.DATA_OFFSET + 5_000)
    refused(log_dir, "F", segment=os.path.basename(path))


def test_damaged_header_of_the_newest_segment(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    kill(journal)
    flip(tail_path(log_dir), 20)
    refused(log_dir, "H")


def test_unreadable_block(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    kill(journal)
    files, before = FaultyFiles(), snapshot(log_dir)
    files.fail("pread", errno.EIO, path=".seg")
    with pytest.raises(CorruptLog, match="row A"):
        open_log(log_dir, files)
    assert snapshot(log_dir) == before


@pytest.mark.parametrize("name", ["manifest", "hard_state"])
def test_missing_file_is_corruption_not_a_first_start(log_dir: str, name: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    stop(journal)
    os.rename(os.path.join(log_dir, name), os.path.join(log_dir, "away"))
    before = snapshot(log_dir)
    with pytest.raises(CorruptLog, match=name):
        open_log(log_dir)
    assert snapshot(log_dir) == before


def test_wrong_place_in_the_log_is_refused(tmp_path: Path) -> None:
    """Row K: a record with valid checksums that does not belong where it stands."""
    log = str(tmp_path / "log")
    journal, _ = open_log(log)
    append(journal, b"one")
    at = journal.end
    header = fmt.pack_record_header(
        fmt.crc32c(b"x"), 1, 1, fmt.KIND_ENTRIES, journal.log_id, journal.generation, 7, 1, at, 0, 0, 0
    )
    offset = fmt.DATA_OFFSET + at - journal.segment.header.start
    path = journal.segment.path
    kill(journal)
    overwrite(path, offset, header + b"x")
    refused(log, "K", first_index=2)


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


# ---------------------------------------------------------------- the ring (rows P to T)
def mem_first(log_dir: str, *payloads: bytes) -> str:
    """A killed MemFirst log whose acknowledged entries are only in the ring."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    for payload in payloads:
        append(journal, payload)
    assert journal.durable < journal.published
    kill(journal)
    return log_dir


def ring_path(log: str) -> str:
    return os.path.join(log, "shm", fmt.ring_name(manifest.load(Files(), log).generation))


def test_ring_is_replayed_with_index_and_exactly_once_table(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one", producer=5, sequence=1)
    append(journal, b"two", b"three", producer=5, sequence=2)
    kill(journal)
    journal, plan = open_log(log_dir)
    assert letters(plan) == "MQ" and not plan.loss_possible
    assert journal.durable_index == 3, "what was taken from the ring is durable before anybody is served"
    assert journal.producers.look_up(5, 1) == ("appended", (1, 1, 1))
    assert journal.producers.look_up(5, 2) == ("appended", (2, 2, 1))
    stop(journal)
    assert entries_of(log_dir) == {1: (1, b"one"), 2: (1, b"two"), 3: (1, b"three")}


def test_nothing_past_published_is_taken(log_dir: str) -> None:
    """A whole, valid record lies in the ring behind the commit word: nobody was told about it."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"acknowledged")
    put(journal, b"copied, never published")
    journal.copy_to_ring()
    assert journal.copied > journal.published
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"acknowledged")} and letters(plan) == "MQ"


def test_damaged_ring_is_refused(log_dir: str) -> None:
    """Row R: an acknowledged entry exists nowhere else."""
    log = mem_first(log_dir, b"one", b"two")
    with open(ring_path(log), "rb") as file:
        at = file.read().index(b"two")
    flip(ring_path(log), at)
    refused(log, "R")


def test_missing_ring_says_that_loss_is_possible(log_dir: str) -> None:
    log = mem_first(log_dir, b"one")
    os.unlink(ring_path(log))
    entries, plan = reopen(log)
    assert plan.loss_possible and letters(plan) == "MS"
    assert entries == {}
    assert manifest.load(Files(), log).loss_possible


def test_ring_of_another_boot_is_ignored(log_dir: str) -> None:
    log = mem_first(log_dir, b"one")
    generation = manifest.load(Files(), log).generation
    control = open_control(os.path.join(log, "shm", fmt.control_name(generation)), writable=True)
    control.boot_id_low.store(control.boot_id_low.load(0) ^ 1, 0)
    control.close()
    entries, plan = reopen(log)
    assert plan.loss_possible and letters(plan) == "MT" and entries == {}


@pytest.mark.parametrize("word", ["log_id", "generation", "magic"])
def test_control_block_of_something_else_is_not_believed(log_dir: str, word: str) -> None:
    log = mem_first(log_dir, b"one")
    generation = manifest.load(Files(), log).generation
    overwrite(os.path.join(log, "shm", fmt.control_name(generation)), layout.CONTROL_WORDS[word], b"\x77")
    assert letters(reopen(log)[1]) == "MS"


def test_ring_that_wrapped_is_replayed(log_dir: str) -> None:
    """More than a ring of bytes went through; the unflushed suffix crosses the ring's end."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    expected: Entries = {}
    while journal.end < journal.ring.ring_bytes - 20_000:
        expected[append(journal, b"f" * 9_000)] = (1, b"f" * 9_000)
    journal.flush()
    while journal.end < journal.ring.ring_bytes + 10_000:
        payload = b"%d" % journal.end * 700
        expected[append(journal, payload)] = (1, payload)
    assert journal.durable < journal.ring.ring_bytes < journal.published
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == expected and letters(plan).endswith("Q")


# ---------------------------------------------------------------- FAILED
def failed_log(log_dir: str, strategy: str) -> tuple[Entries, FaultyFiles]:
    """A log whose disk failed: entry 1 durable, entry 2 only written."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    append(journal, b"durable")
    journal.flush()
    put(journal, b"doubtful")
    if strategy == "mem_first":
        commit(journal)
    files.fail("sync", errno.EIO)
    with pytest.raises(SyncFailed):
        journal.flush()
    kill(journal)
    acknowledged = {1: (1, b"durable")} | ({2: (1, b"doubtful")} if strategy == "mem_first" else {})
    return acknowledged, files


@BOTH
def test_after_a_failed_sync_only_durable_bytes_and_the_ring_count(log_dir: str, strategy: str) -> None:
    """Row I: the pages past the mark look right, but the device may not have them; the ring is the true copy."""
    acknowledged, _ = failed_log(log_dir, strategy)
    old = os.path.basename(tail_path(log_dir))
    journal, plan = open_log(log_dir)
    assert letters(plan) == ("IQ" if strategy == "mem_first" else "I")
    assert not plan.loss_possible
    assert os.path.basename(journal.segment.path) != old, "not onto the same pages"
    assert journal.durable_index == len(acknowledged)
    assert append(journal, b"goes on") == len(acknowledged) + 1
    stop(journal)
    assert entries_of(log_dir) == acknowledged | {len(acknowledged) + 1: (1, b"goes on")}
    assert b"doubtful" in quarantined(log_dir)[0]
    assert not manifest.load(Files(), log_dir).failed


def test_the_latch_holds_from_the_control_block_alone(log_dir: str) -> None:
    """The disk took not even the manifest: the control block of this boot still says FAILED."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"durable")
    put(journal, b"doubtful")
    files.fail("sync", errno.EIO)
    files.fail("create", errno.EIO, path="manifest.tmp")
    with pytest.raises(SyncFailed):
        journal.flush()
    kill(journal)
    assert not manifest.load(Files(), log_dir).failed
    entries, plan = reopen(log_dir)
    assert letters(plan) == "I" and entries == {1: (1, b"durable")}


# ---------------------------------------------------------------- a crash inside recovery
def crash_everywhere(tmp_path: Path, source: str, expected: Entries, *, loss_possible: bool = False) -> int:
    """Kill the recovering process before each of its steps; the next one must find the same log."""
    at = 0
    while True:
        log = copy_log(source, str(tmp_path / f"crash{at}"))
        files = FaultyFiles(crash_at=at)
        try:
            journal, _ = open_log(log, files)
        except Crash:
            entries, plan = reopen(log)
            assert entries == expected, f"after a crash before {at}: {files.steps[-1:]}"
            assert plan.loss_possible == loss_possible, f"after a crash before {at}: {files.steps[-1:]}"
            shutil.rmtree(log)
            at += 1
            continue
        files.crash_at = None
        stop(journal)
        assert entries_of(log) == expected
        return at


@BOTH
def test_crash_inside_recovery_of_a_killed_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source, strategy=strategy)
    for index in range(1, 10):
        append(journal, b"%d" % index * 3_000, term=index)
    kill(journal)
    assert crash_everywhere(tmp_path, source, {i: (i, b"%d" % i * 3_000) for i in range(1, 10)}) > 15


@BOTH
def test_crash_inside_recovery_of_an_empty_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source, strategy=strategy)
    kill(journal)
    crash_everywhere(tmp_path, source, {})


@BOTH
def test_crash_inside_recovery_of_a_cleanly_stopped_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source, strategy=strategy)
    append(journal, b"one")
    stop(journal)
    crash_everywhere(tmp_path, source, {1: (1, b"one")})


def test_crash_inside_recovery_of_a_torn_log(tmp_path: Path) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source)
    append(journal, b"durable")
    start = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"torn")
    write_only(journal)
    kill(journal)
    flip(tail_path(source), start + fmt.RECORD_BYTES)
    crash_everywhere(tmp_path, source, {1: (1, b"durable")})


@BOTH
def test_crash_inside_recovery_of_a_failed_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    acknowledged, _ = failed_log(source, strategy)
    crash_everywhere(tmp_path, source, acknowledged)


def test_crash_inside_recovery_with_an_orphan(tmp_path: Path) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source)
    append(journal, b"one")
    orphan = os.path.join(source, fmt.segment_name(manifest.load(Files(), source).next_segment_id))
    kill(journal)
    with open(orphan, "wb") as file:
        file.write(b"half a header")
    crash_everywhere(tmp_path, source, {1: (1, b"one")})


@BOTH
def test_crash_inside_the_creation_of_a_log(tmp_path: Path, strategy: str) -> None:
    """Until the manifest exists nothing was promised; the next start creates the log."""
    at = 0
    while True:
        log, files = str(tmp_path / f"new{at}"), FaultyFiles(crash_at=at)
        try:
            journal, _ = open_log(log, files, strategy=strategy)
        except Crash:
            at += 1
            journal, plan = open_log(log, strategy=strategy)
            assert not plan.loss_possible, files.steps[-1:]
            append(journal, b"x")
            kill(journal)
            assert reopen(log)[0] == {1: (1, b"x")}
            shutil.rmtree(log)
            continue
        files.crash_at = None
        stop(journal)
        break
    assert at > 10


@BOTH
def test_crash_inside_a_roll(tmp_path: Path, strategy: str) -> None:
    """Both strategies' rolls are the same steps; entries acknowledged before it are there after any crash."""
    for at in range(60):
        log, files = str(tmp_path / f"roll{at}"), FaultyFiles()
        journal, _ = open_log(log, files, strategy=strategy)
        expected: Entries = {}
        files.crash_at = len(files.steps) + at
        try:
            for _ in range(8):
                expected[append(journal, b"x" * 10_000)] = (1, b"x" * 10_000)
            before = journal.rolls
        except Crash:
            kill(journal)
            entries, plan = reopen(log)
            assert not plan.loss_possible, files.steps[-1:]
            assert {index: entries[index] for index in expected} == expected, files.steps[-1:]
            assert len(entries) <= len(expected) + 1
            shutil.rmtree(log)
            continue
        kill(journal)
        assert before >= 2
        break
    else:
        pytest.fail("the harness never got past the roll")
