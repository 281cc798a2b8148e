"""The pipeline's order, step by step: bytes before publication, sync before durability, seal after data."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest
from raftlog_mp.config import KIB, MIB
from raftlog_mp.errors import DiskFull, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal

from .journals import append, commit, entries_of, kill, open_log, put, read_at, reopen, stop

BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])


# ---------------------------------------------------------------- the order, as a harness
class OrderBroken(AssertionError):
    """A step was taken before the one it rests on."""


class RecordedCell:
    """A control word whose stores are shown to ``told``."""

    def __init__(self, cell: Any, told: Callable[[int], None]) -> None:
        self._cell, self._told, self.load = cell, told, cell.load

    def store(self, value: int, order: int) -> None:
        self._told(value)
        self._cell.store(value, order)


class OrderCheck:
    """Watches a journal: ring bytes -> (DiskFirst: written -> synced) -> published -> last_index; floor <= durable."""

    def __init__(self, journal: Journal, files: FaultyFiles) -> None:
        self.journal = journal
        self.disk_first = journal.config.strategy == "disk_first"
        self.in_ring = self.handed_over = self.synced = self.published = self.indexed = journal.end
        assert journal.segment is not None
        self.starts = {journal.segment.path: journal.segment.header.start}
        files.listener = self._file_step
        self._watch("published", self._on_published)
        self._watch("last_index", self._on_last_index)
        self._watch("durable", self._on_durable)
        self._watch("floor", self._on_floor)
        ring = journal.ring
        ring._floor_cell = journal.control.floor
        write = ring.write

        def recorded(position: int, data: bytes) -> None:
            write(position, data)
            self.in_ring = position + len(data)

        ring.write = recorded  # type: ignore[method-assign]

    def _watch(self, name: str, told: Callable[[int], None]) -> None:
        setattr(self.journal.control, name, RecordedCell(getattr(self.journal.control, name), told))

    def _file_step(self, step: tuple[Any, ...]) -> None:
        operation, path = step[0], step[1]
        if operation == "create":
            self.starts[path] = self.journal.end
        if path not in self.starts:
            return
        if operation == "pwrite" and step[2] >= fmt.DATA_OFFSET:
            at = self.starts[path] + step[2] - fmt.DATA_OFFSET
            if at <= self.handed_over:  # what is written further ahead is zeros
                self.handed_over = max(self.handed_over, at + step[3])
        elif operation in ("sync", "sync_all"):
            self.synced = self.handed_over

    def _on_published(self, value: int) -> None:
        if value > self.in_ring:
            raise OrderBroken(f"published {value} before the ring bytes ({self.in_ring})")
        if self.disk_first and value > self.synced:
            raise OrderBroken(f"published {value} before it was synced ({self.synced})")
        self.published = value

    def _on_last_index(self, value: int) -> None:
        journal = self.journal
        if journal.index is not None and value >= journal.index.base_index:
            slot = journal.index.used(value)[-8:]
            if not 0 <= int.from_bytes(slot, "little") < self.published:
                raise OrderBroken(f"entry {value} is visible, its slot is not below published")
        self.indexed = value

    def _on_durable(self, value: int) -> None:
        if value > self.synced:
            raise OrderBroken(f"durable {value} before a sync covered it ({self.synced})")

    def _on_floor(self, value: int) -> None:
        if value > self.journal.durable:
            raise OrderBroken(f"floor {value} above what is durable ({self.journal.durable})")


def work(journal: Journal) -> None:
    """Appends with rolls and more than one lap of the ring."""
    number = 0
    while journal.end < 2 * journal.ring.ring_bytes + 50 * KIB:
        put(journal, b"%d" % number * 5_000, term=number // 100 + 1)
        if number % 3 == 0:
            commit(journal)
        if number % 7 == 0 and journal.unflushed_entries:
            journal.flush()
        number += 1
    journal.flush()
    journal.publish()


@BOTH
def test_order_of_every_step(log_dir: str, strategy: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy, segment_bytes=256 * KIB)
    check = OrderCheck(journal, files)
    work(journal)
    assert check.published == check.synced == journal.end and journal.rolls > 5
    kill(journal)


def test_control_a_journal_that_skips_the_fsync_is_caught(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    OrderCheck(journal, files)
    assert journal.segment is not None
    journal.segment.sync = lambda: None  # type: ignore[method-assign]
    with pytest.raises(OrderBroken, match="before a sync covered it"):
        append(journal, b"x")
    journal.control.durable = RecordedCell(journal.control.durable._cell, lambda value: None)
    with pytest.raises(OrderBroken, match="before it was synced"):
        append(journal, b"y")
    kill(journal)


def test_control_a_journal_that_publishes_before_the_sync_is_caught(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    OrderCheck(journal, files)
    put(journal, b"x")
    journal.copy_to_ring()
    with pytest.raises(OrderBroken, match="before it was synced"):
        journal.publish()
    kill(journal)


@BOTH
def test_control_a_journal_that_publishes_before_the_ring_bytes_is_caught(log_dir: str, strategy: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    OrderCheck(journal, files)
    put(journal, b"x")
    journal.copied = journal.end  # says that it copied
    with pytest.raises(OrderBroken, match="before the ring bytes"):
        journal.publish()
    kill(journal)


def test_control_a_floor_above_the_durable_position_is_caught(log_dir: str) -> None:
    """An append loop that never asks whether there is room overwrites what is not fsynced."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy="mem_first", segment_bytes=4 * MIB)
    OrderCheck(journal, files)
    with pytest.raises(OrderBroken, match="floor"):
        for _ in range(10):
            journal.append(b"x" * 200_000, fmt.crc32c(b"x" * 200_000), 1, 1, 0, 0)
            journal.copy_to_ring()
    kill(journal)


# ---------------------------------------------------------------- what each step leaves behind
def test_disk_first_flush_is_write_sync_publish(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    put(journal, b"one")
    put(journal, b"two")
    assert journal.published < journal.end and journal.unflushed_entries == 2
    assert journal.control.last_index.load(0) == 0
    before = len(files.steps)
    journal.flush()
    name = os.path.basename(journal.segment.path)
    assert [step[0] for step in files.steps[before:] if step[1].endswith(name)][-2:] == ["pwrite", "sync"]
    assert [step[0] for step in files.steps[before:]].count("sync") == 1
    assert journal.durable == journal.end and journal.unflushed_entries == 0
    assert journal.control.last_index.load(0) == 0, "durable, and not yet visible"
    journal.publish()
    assert journal.control.last_index.load(0) == 2 and journal.control.durable_index.load(0) == 2
    stop(journal)


def test_one_fsync_covers_everything_that_was_appended(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    fsyncs = journal.fsyncs
    for _ in range(100):
        put(journal, b"x")
    journal.flush()
    assert journal.fsyncs == fsyncs + 1 and journal.durable_index == 100
    journal.flush()
    assert journal.fsyncs == fsyncs + 1, "nothing to do, nothing done"
    stop(journal)


def test_mem_first_publishes_before_it_syncs(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one")
    assert journal.control.last_index.load(0) == 1 and journal.control.durable_index.load(0) == 0
    assert journal.control.unflushed_entries.load(0) == 1
    journal.flush()
    assert journal.control.durable_index.load(0) == 1 and journal.control.unflushed_entries.load(0) == 0
    stop(journal)


def test_a_job_covers_only_what_was_copied_when_it_was_made(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one")
    job = journal.job = journal.make_job()
    append(journal, b"two")
    job.run()
    journal.finish_job()
    assert journal.durable_index == 1 and journal.unflushed_entries == 1
    stop(journal)
    assert len(entries_of(log_dir)) == 2


def test_roll_order(log_dir: str) -> None:
    """Create k+1 and make it durable; seal k, durably; k+1's head, durably; only then list it in the manifest."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"one")
    old, new = (fmt.segment_name(journal.segment.header.segment_id + n) for n in (0, 1))
    before = len(files.steps)
    journal.roll()
    journal.flush()
    steps = [(step[0], os.path.basename(step[1]), *step[2:3]) for step in files.steps[before:]]

    def place(operation: str, name: str, at: Any = None) -> int:
        wanted = (operation, name) if at is None else (operation, name, at)
        return next(number for number, step in enumerate(steps) if step[: len(wanted)] == wanted)

    created = place("create", new)
    assert created < place("sync_all", new) < place("sync_dir", "log") < place("pwrite", old, fmt.SEAL_OFFSET)
    assert place("pwrite", old, fmt.SEAL_OFFSET) < place("sync_all", old) < place("truncate", old)
    assert place("truncate", old) < place("pwrite", new, fmt.DATA_OFFSET) < place("sync", new)
    assert place("sync", new) < place("rename", "manifest.tmp")
    assert ("pwrite", old) not in [step[:2] for step in steps[place("truncate", old) :]], "nobody writes to k again"
    stop(journal)


def test_segment_is_listed_with_its_size_before_its_first_record(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    for _ in range(8):
        append(journal, b"x" * 10_000)
        state = manifest.load(Files(), log_dir)
        newest = state.segments[-1]
        assert newest.segment_id == journal.segment.header.segment_id and not newest.sealed
        assert os.path.getsize(journal.segment.path) == newest.file_bytes
        assert all(info.sealed for info in state.segments[:-1])
    stop(journal)


def test_roll_by_index_capacity(log_dir: str) -> None:
    """Zero-byte payloads fill the index before they fill the segment."""
    journal, _ = open_log(log_dir, segment_bytes=MIB)
    slots = journal.index.slots
    batch = [b""] * 30_000
    while journal.next_index < slots + 10:
        append(journal, *batch)
    assert journal.rolls >= 2
    stop(journal)
    assert len(entries_of(log_dir)) == journal.next_index - 1


# ---------------------------------------------------------------- no space
STEPS_OF_A_ROLL = [  # the new segment, the old one's index file, the manifest
    ("create", "{new}"), ("preallocate", "{new}"), ("pwrite", "{new}"), ("sync_all", "{new}"), ("sync", "{new}"),
    ("create", "{old}.idx.tmp"), ("pwrite", "{old}.idx.tmp"),
    ("create", "manifest.tmp"), ("pwrite", "manifest.tmp"), ("sync_all", "manifest.tmp"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("operation", "name"), STEPS_OF_A_ROLL)
def test_no_space_at_a_roll(log_dir: str, strategy: str, operation: str, name: str) -> None:
    """Nothing changes, everything stays readable, and it works again when there is space."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    expected = {}
    for _ in range(5):
        expected[append(journal, b"x" * 10_000)] = (1, b"x" * 10_000)
    segment = journal.segment.header.segment_id
    files.fail(operation, errno.ENOSPC, path=name.format(new=fmt.segment_name(segment + 1), old=f"{segment:016x}"))
    end, index = journal.end, journal.next_index
    with pytest.raises(DiskFull) as caught:
        for _ in range(3):
            index, end = journal.next_index, journal.end
            expected[append(journal, b"y" * 10_000)] = (1, b"y" * 10_000)
    assert caught.value.errno == errno.ENOSPC and "free space" in str(caught.value)
    assert (journal.next_index, journal.end) == (index, end) and journal.failure is None
    assert journal.control.state.load(0) != layout.STATE_FAILED
    for _ in range(9):
        expected[append(journal, b"z" * 10_000)] = (1, b"z" * 10_000)
    kill(journal)
    assert reopen(log_dir)[0] == expected


@BOTH
def test_no_space_then_killed(log_dir: str, strategy: str) -> None:
    """The old segment was sealed, the manifest could not say so; a mark follows, then the process dies."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    append(journal, b"one")
    journal.flush()
    files.fail("create", errno.ENOSPC, path="manifest.tmp")
    with pytest.raises(DiskFull):
        journal.roll()
    if journal.wants_mark:
        journal.mark()
        journal.flush()
        journal.publish()
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"one")} and not plan.loss_possible


# ---------------------------------------------------------------- a failed fsync is final
@BOTH
def test_failed_sync_is_latched_and_never_retried(log_dir: str, strategy: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    append(journal, b"durable")
    journal.flush()
    durable, published = journal.durable, journal.published
    put(journal, b"doubtful")
    files.fail("sync", errno.EIO)
    with pytest.raises(SyncFailed) as caught:
        journal.flush()
    assert caught.value.errno == errno.EIO and journal.segment.path in str(caught.value)
    assert journal.control.state.load(0) == layout.STATE_FAILED
    assert journal.durable == journal.control.durable.load(0) == durable and journal.published == published
    state = manifest.load(Files(), log_dir)
    assert state.failed and state.durable == durable
    before = len(files.steps)
    for _ in range(3):
        with pytest.raises(SyncFailed):
            journal.flush()
    assert len(files.steps) == before, "the disk is not touched again"
    with pytest.raises(SyncFailed):
        journal.roll()
    assert len(files.steps) == before
    journal.close(clean=True)
    assert not manifest.load(Files(), log_dir).clean
    journal.control.close()


@pytest.mark.parametrize("operation", ["pwrite", "sync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_every_error_under_a_flush_is_final(log_dir: str, operation: str, code: int) -> None:
    """Space is preallocated, so even ENOSPC means that the file system breaks its word."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    put(journal, b"x")
    files.fail(operation, code, path=".seg")
    with pytest.raises(SyncFailed):
        journal.flush()
    assert journal.failure is not None
    kill(journal)


@pytest.mark.parametrize("operation", ["create", "sync_all", "rename"])
def test_io_error_at_a_roll_is_final(log_dir: str, operation: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"one")
    files.fail(operation, errno.EIO)
    with pytest.raises(SyncFailed):
        journal.roll()
    assert journal.failure is not None and journal.control.state.load(0) == layout.STATE_FAILED
    kill(journal)
    assert reopen(log_dir)[0] == {1: (1, b"one")}


def test_error_in_the_helper_thread_reaches_the_main_thread(log_dir: str) -> None:
    from raftlog_mp.syncer import Syncer

    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy="mem_first")
    append(journal, b"one")
    syncer = Syncer()
    files.fail("sync", errno.EIO)
    journal.job = journal.make_job()
    syncer.submit(journal.job)
    with pytest.raises(SyncFailed):
        journal.finish_job()
    syncer.close()
    assert journal.durable_index == 0
    kill(journal)


# ---------------------------------------------------------------- room
def test_a_full_ring_asks_for_a_flush_first(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first", segment_bytes=4 * MIB)
    while journal.fits(30_000, 1):
        append(journal, b"x" * 30_000)
    assert journal.control.floor.load(0) <= journal.durable
    assert journal.end - journal.durable <= journal.ring.ring_bytes
    journal.flush()
    assert journal.fits(30_000, 1)
    append(journal, b"x" * 30_000)
    stop(journal)


def test_the_buffer_limits_are_kept(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first", max_buffered_bytes=100_000, max_buffered_entries=5)
    for _ in range(5):
        assert journal.fits(10, 1)
        append(journal, b"x" * 10)
    assert not journal.fits(10, 1)
    journal.flush()
    assert journal.fits(90_000, 1) and journal.fits(10, 50), "an empty buffer takes any legal batch"
    append(journal, b"x" * 50)
    assert not journal.fits(100_000, 1)
    stop(journal)


def test_a_mark_stays_inside_the_preallocated_segment(log_dir: str) -> None:
    """A mark in a segment that is full to its last byte must not grow the file: space there is not reserved."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"x" * (journal.segment.end_limit - journal.end - fmt.RECORD_BYTES))
    assert journal.end == journal.segment.end_limit and journal.wants_mark
    path = journal.segment.path
    journal.mark()
    commit(journal)
    assert os.path.getsize(path) <= journal.segment.header.file_bytes
    kill(journal)
    assert len(reopen(log_dir)[0]) == 1


@BOTH
def test_a_mark_is_wanted_once(log_dir: str, strategy: str) -> None:
    journal, _ = open_log(log_dir, strategy=strategy)
    assert not journal.wants_mark
    append(journal, b"x")
    journal.flush()
    assert journal.wants_mark
    journal.mark()
    assert not journal.wants_mark
    commit(journal)
    journal.flush()
    assert not journal.wants_mark
    stop(journal)
    assert len(entries_of(log_dir)) == 1


def test_header_states_what_was_durable_when_it_was_written(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    durable, at = journal.durable, fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    append(journal, b"two")
    header = fmt.read_record_header(read_at(journal.segment.path, at, 88), 0)
    assert header is not None
    assert (header.durable, header.generation, header.base_index) == (durable, 1, 2)
    stop(journal)
