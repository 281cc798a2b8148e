"""The order of the pipeline's steps, watched: bytes before publication, sync before durability."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp.config import KIB, MIB
from raftlog_mp.journal import Journal
from raftlog_mp.syncer import Syncer
from raftlog_mp.types import LogId

from .journals import BOTH, append, commit, kill, open_log, put, stop


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


class SlowSync(FaultyFiles):
    """Its data syncs end when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.begun, self.may_end = threading.Event(), threading.Event()
        self.may_end.set()

    def sync(self, fd: int) -> None:
        self.begun.set()
        assert self.may_end.wait(60)
        super().sync(fd)


@pytest.mark.parametrize("change", ["truncate", "reset"])
def test_an_fsync_in_flight_does_not_raise_the_frontier_again(log_dir: str, change: str) -> None:
    """It covered entries that are gone: the change waits for it, and from then on durable_index stays below them."""
    files = SlowSync()
    journal, _ = open_log(log_dir, files, strategy="mem_first")
    append(journal, b"1", b"2", b"3", b"4")
    told: list[int] = []
    journal.control.durable_index = RecordedCell(journal.control.durable_index, told.append)
    syncer = Syncer()
    files.begun.clear()
    files.may_end.clear()
    journal.job = journal.make_job()
    syncer.submit(journal.job)
    assert files.begun.wait(60), "the fsync is in flight"

    def act() -> None:
        if change == "truncate":
            journal.replace_from(2, [], 0, 0)
        else:
            journal.reset(LogId(0, 0), 0, 0)

    changing = threading.Thread(target=act)
    changing.start()
    assert changing.is_alive() and told == []
    files.may_end.set()
    changing.join(60)
    left = 1 if change == "truncate" else 0
    assert journal.durable_index == left and told[-1] == left and 4 in told
    before = len(told)
    append(journal, b"another", term=2)
    assert journal.control.durable_index.load() == left, "the entry at the same index is not durable yet"
    journal.flush()
    assert told[before:] and max(told[before:]) == left + 1
    syncer.close()
    stop(journal)
