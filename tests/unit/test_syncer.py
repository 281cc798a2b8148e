"""Flush jobs, and the thread that runs them: in order, one at a time, with errors carried back."""

from __future__ import annotations

import errno
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from raftlog_mp import wakeup
from raftlog_mp.syncer import FlushJob, Syncer

PATIENCE_S = 30.0


class FakeSegment:
    """Records what is done to it; waits or fails on demand."""

    def __init__(self, *, fail_write: int = 0, fail_sync: int = 0, hold: threading.Event | None = None) -> None:
        self.steps: list[Any] = []
        self.threads: set[threading.Thread] = set()
        self.entered = threading.Event()
        self._fail_write, self._fail_sync, self._hold = fail_write, fail_sync, hold

    def write(self, position: int, pieces: list[memoryview]) -> None:
        self.threads.add(threading.current_thread())
        self.steps.append(("write", position, [bytes(piece) for piece in pieces]))
        if self._fail_write:
            raise OSError(self._fail_write, "injected into write")

    def sync(self) -> None:
        self.entered.set()
        if self._hold is not None:
            assert self._hold.wait(PATIENCE_S)
        self.steps.append("sync")
        if self._fail_sync:
            raise OSError(self._fail_sync, "injected into sync")


def job_of(segment: FakeSegment, *pieces: bytes, start: int = 100, last_index: int = 1) -> FlushJob:
    end = start + sum(map(len, pieces))
    return FlushJob(segment, start, [memoryview(piece) for piece in pieces], end, last_index)  # type: ignore[arg-type]


def released(piece: memoryview) -> bool:
    try:
        piece.tobytes()
    except ValueError:
        return True
    return False


# ---------------------------------------------------------------- a job by itself
def test_a_job_writes_then_syncs() -> None:
    segment = FakeSegment()
    job = job_of(segment, b"end of ring", b"start of it", start=4000, last_index=17)
    job.run()
    assert segment.steps == [("write", 4000, [b"end of ring", b"start of it"]), "sync"]
    assert job.error is None
    assert (job.start, job.end, job.last_index) == (4000, 4022, 17), "what the sync covers was fixed before it"


@pytest.mark.parametrize(
    ("faults", "steps"), [({"fail_write": errno.EIO}, ["write"]), ({"fail_sync": errno.EIO}, ["write", "sync"])]
)
def test_an_error_is_kept_for_the_main_thread(faults: dict[str, int], steps: list[str]) -> None:
    """A failed write is not followed by a sync, which might report success."""
    segment = FakeSegment(**faults)
    job = job_of(segment, b"bytes")
    job.run()
    assert job.error is not None and job.error.errno == errno.EIO
    assert [step if isinstance(step, str) else step[0] for step in segment.steps] == steps


@pytest.mark.parametrize("faults", [{}, {"fail_write": errno.EIO}, {"fail_sync": errno.ENOSPC}])
def test_the_ring_can_be_unmapped_after_a_job(faults: dict[str, int]) -> None:
    """The views of the ring are let go, whatever happened."""
    job = job_of(FakeSegment(**faults), b"one", b"two")
    assert not any(map(released, job.pieces))
    job.run()
    assert len(job.pieces) == 2 and all(map(released, job.pieces))


def test_a_job_says_how_long_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([5.0, 7.5])
    monkeypatch.setattr(wakeup, "now", lambda: next(clock))
    job = job_of(FakeSegment(), b"x")
    job.run()
    assert job.seconds == 2.5


# ---------------------------------------------------------------- the thread
@pytest.fixture
def syncer() -> Iterator[Syncer]:
    syncer = Syncer()
    yield syncer
    syncer.close()


def finish(job: FlushJob) -> None:
    assert job.finished is not None and job.finished.wait(PATIENCE_S)


def test_jobs_run_in_another_thread_and_in_order(syncer: Syncer) -> None:
    segment = FakeSegment()
    jobs = [job_of(segment, b"%d" % number, start=number) for number in range(50)]
    for job in jobs:
        syncer.submit(job)
    for job in jobs:
        finish(job)
    writes = [("write", number, [b"%d" % number]) for number in range(50)]
    assert segment.steps == [step for write in writes for step in (write, "sync")], "one at a time"
    assert len(segment.threads) == 1 and threading.current_thread() not in segment.threads


def test_submit_does_not_wait_and_a_job_is_finished_only_after_its_sync(syncer: Syncer) -> None:
    hold = threading.Event()
    segment = FakeSegment(hold=hold)
    first, second = job_of(segment, b"first"), job_of(segment, b"second")
    syncer.submit(first)
    syncer.submit(second)
    assert segment.entered.wait(PATIENCE_S)
    assert first.finished is not None and not first.finished.is_set()
    assert segment.steps == [("write", 100, [b"first"])], "the second waits for its turn"
    hold.set()
    finish(first)
    finish(second)
    assert segment.steps[1] == "sync" and len(segment.steps) == 4


def test_the_event_wakes_the_poller_once_the_result_is_there(syncer: Syncer) -> None:
    hold, poller = threading.Event(), wakeup.Poller()
    poller.add(syncer.event.fd, syncer)
    segment = FakeSegment(hold=hold)
    job = job_of(segment, b"x")
    syncer.submit(job)
    assert segment.entered.wait(PATIENCE_S)
    assert poller.wait(0) == []
    hold.set()
    assert poller.wait(PATIENCE_S) == [syncer]
    assert job.finished is not None and job.finished.is_set(), "whoever is woken finds the job finished"
    assert poller.wait(0) == [syncer], "the event stays until it is cleared"
    syncer.event.clear()
    assert poller.wait(0) == []
    poller.close()


def test_an_error_comes_back_and_the_thread_goes_on(syncer: Syncer) -> None:
    bad, good = job_of(FakeSegment(fail_sync=errno.EIO), b"x"), job_of(FakeSegment(), b"y")
    syncer.submit(bad)
    syncer.submit(good)
    finish(bad)
    finish(good)
    assert bad.error is not None and bad.error.errno == errno.EIO
    assert good.error is None


def test_close_runs_what_was_submitted_and_ends_the_thread() -> None:
    syncer, segment = Syncer(), FakeSegment()
    jobs = [job_of(segment, b"%d" % number) for number in range(10)]
    for job in jobs:
        syncer.submit(job)
    syncer.close()
    assert segment.steps.count("sync") == 10
    assert all(job.finished is not None and job.finished.is_set() for job in jobs)
    assert not any(thread.is_alive() for thread in segment.threads)


def test_what_is_no_error_of_the_disk_reaches_the_main_thread(syncer: Syncer) -> None:
    """A thread that ended silently would leave everybody waiting."""
    job = job_of(FakeSegment(), b"bytes")
    job.segment = None  # type: ignore[assignment]
    syncer.submit(job)
    with pytest.raises(AttributeError):
        job.wait()
    after = job_of(FakeSegment(), b"bytes")
    syncer.submit(after)
    after.wait()
    assert after.error is None


def test_what_is_done_before_the_sync_is_no_time_of_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies and statistics count on how long a sync takes."""
    clock = [100.0]
    monkeypatch.setattr(wakeup, "now", lambda: clock[0])
    segment = FakeSegment()
    job = job_of(segment, b"bytes")

    def bells() -> None:
        assert len(segment.steps) == 1, "when all is written, and before the wait for the disk"
        clock[0] += 5.0

    def sync() -> None:
        clock[0] += 0.25

    job.before_sync, segment.sync = bells, sync  # type: ignore[method-assign]  # of a double
    job.run()
    assert job.seconds == 0.25
