"""A roll behind needs room for the head of the next segment: as much as that takes, and no more."""

from __future__ import annotations

import errno

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp.config import KIB, MIB
from raftlog_mp.format import segment_name
from raftlog_mp.producers import PRODUCER_BYTES, WINDOW, Producers

from .journals import entries_of, stop
from .rolls import BODY, Appender, begin, do_at_once, to_the_border, work


def test_a_roll_needs_room_for_the_producers_that_there_are(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the largest table that there may be: a quarter of the ring is more than is kept free by then."""
    do_at_once(monkeypatch)
    journal = begin(log_dir, segment_bytes=900 * KIB)
    try:
        one = Appender(journal)
        while journal.end < 450 * KIB:
            one()
        journal.copy_to_ring()
        journal.job = journal.make_job()  # which has the next segment prepared, and does not end
        one.fill()
        assert journal.end - journal.durable > MIB * 3 // 4
        assert journal.fits(BODY, 1)
        one()
        assert journal._roll is not None
        journal.job.run()
        journal.finish_job()
    finally:
        stop(journal)


def test_no_table_of_one_producer_is_larger_than_reckoned() -> None:
    producers, large = Producers(), (1 << 64) - 1
    for sequence in range(large - WINDOW, large):
        producers.record(large, sequence, (large, large, large))
    body = producers.snapshot(MIB)
    assert len(producers) == 1 and WINDOW * 36 < len(body) <= PRODUCER_BYTES


@pytest.mark.parametrize(("connected", "idle"), [(0, 0), (1, 0), (3, 2), (0, 256), (2, 256)])
def test_a_table_is_never_larger_than_reckoned(connected: int, idle: int) -> None:
    """However much those who are connected submit after the reckoning; who is idle counts for what it has done."""
    producers, first = Producers(), (1 << 64) - 1 - 3 * WINDOW
    for number in range(connected + idle):
        producer = (1 << 64) - 1 - number
        producers.connect(producer, first)
        for sequence in range(first, first + 5):
            producers.record(producer, sequence, (sequence, sequence, sequence))
        if number >= connected:
            producers.disconnect(producer, for_good=False)
    reckoned = producers.snapshot_bytes_max()
    assert reckoned <= PRODUCER_BYTES * (1 + connected) + idle * 256, "idle ones cost next to nothing"
    for number in range(connected):
        for sequence in range(first + 5, first + 2 * WINDOW):
            producers.record((1 << 64) - 1 - number, sequence, (sequence, sequence, sequence))
    assert len(producers.snapshot(64 * MIB)) <= reckoned


@pytest.mark.parametrize("records", [1, 4])
def test_after_a_large_flush_the_next_segment_is_made_at_once(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """What is left of this one may fill before it is half durable; where little comes, no file lies there unused."""
    do_at_once(monkeypatch)
    journal = begin(log_dir, segment_bytes=128 * KIB)  # an eighth: less than three records
    try:
        one = Appender(journal)
        for _ in range(records):
            one()
        work(journal)
        assert journal.written < 64 * KIB and (journal._prepared is not None) is (records == 4)
    finally:
        stop(journal)


@pytest.mark.parametrize("records", [0, 1])
def test_in_a_flood_the_segment_after_the_one_that_comes_is_made_while_the_log_rolls(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, records: int
) -> None:
    """A roll takes several syncs; the segment it leads to may fill meanwhile, and then everybody would wait."""
    do_at_once(monkeypatch)
    journal = begin(log_dir, segment_bytes=64 * KIB)
    try:
        one = Appender(journal)
        to_the_border(one)
        one()
        assert journal._roll is not None and journal._prepared is None
        coming = journal._roll.info.segment_id
        for _ in range(records):
            one()
        journal.prepare_in_time()
        if not records:
            assert journal._prepared is None, "little comes: no file lies there unused"
            return
        assert journal._prepared is not None and journal._prepared.path.endswith(segment_name(coming + 1))
        work(journal)
        work(journal)
        assert journal._roll is None and journal.manifest.segments[-1].segment_id == coming
        assert journal.manifest.next_segment_id > coming + 1, "its number is passed: a crash leaves a file that may go"
        one.fill()
        one()
        assert journal._roll is not None and journal._roll.info.segment_id == coming + 1
    finally:
        stop(journal)
    assert entries_of(log_dir) == one.done


class SmallDisk(FaultyFiles):
    """So many bytes are free for segments and manifests; None: enough."""

    def __init__(self) -> None:
        super().__init__()
        self.free: int | None = None
        self._reserved: dict[int, int] = {}

    def preallocate(self, fd: int, length: int) -> None:
        if self.free is not None:
            if length > self.free:
                raise OSError(errno.ENOSPC, "No space left on device")
            self.free -= length
            self._reserved[fd] = length
        super().preallocate(fd, length)

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if self.free is not None and "manifest" in path and write and self.free < 4 * KIB:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().open(path, write=write, create=create, exclusive=exclusive)

    def close(self, fd: int) -> None:
        super().close(fd)
        if self.free is not None:
            self.free += self._reserved.pop(fd, 0)  # only one that was never used is closed in this test


def test_what_was_made_ahead_makes_room_for_the_manifest(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is nearly full the segment after the one that comes gives its space back, and the log goes on."""
    do_at_once(monkeypatch)
    files = SmallDisk()
    journal = begin(log_dir, files, segment_bytes=64 * KIB)
    try:
        one = Appender(journal)
        to_the_border(one)
        one()
        files.free = 66 * KIB  # for one more segment or for the manifest
        one()
        journal.prepare_in_time()
        assert journal._prepared is not None and journal._prepared.error is None
        work(journal)
        work(journal)
        assert journal._no_space is not None and journal._prepared is None, "given back"
        journal.prepare_in_time()
        assert journal._prepared is None, "and not made again before the log has gone on"
        work(journal)
        assert journal._roll is None and journal._no_space is None
    finally:
        files.free = None
        stop(journal)
    assert entries_of(log_dir) == one.done
