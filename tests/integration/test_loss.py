"""A MemFirst suffix that is lost for good, with the machine's memory: nobody is told that it is there."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from support.processes import kill9, no_writer_after, wait_until

import raftlog_mp as rl

LAZY = rl.LogConfig(strategy="mem_first", flush_policy=rl.Batch(10**6, 3_600_000))


def lose(log: rl.Log) -> None:
    """The writer dies, and the memory with it: what was not flushed is gone."""
    pid = log.stats().writer_pid
    os.kill(pid, signal.SIGSTOP)
    shutil.rmtree(Path(log.path) / "shm")
    kill9(pid)


@pytest.fixture
def log(log_dir: str):
    with no_writer_after(log_dir), rl.open_log(log_dir, LAZY, timeout=60.0) as log:
        log.append_many([b"kept"] * 3)
        log.flush()
        yield log


def test_a_checkpoint_among_the_lost_entries_is_truncated(log: rl.Log) -> None:
    """Other entries take the lost ones' indexes, but never their ids."""
    log.append_many([b"lost"] * 5)
    checkpoint = log.last_log_id
    lose(log)
    assert log.append_many([b"other"] * 8) == range(4, 12)
    assert log.last_log_id.term > checkpoint.term and log.stats().loss_possible
    with pytest.raises(rl.Truncated):
        log.follow(after=checkpoint, timeout=0)
    assert [e.payload for e in log.follow(after=rl.LogId(1, 3), timeout=0)] == [b"other"] * 8


def test_the_new_term_stays_through_a_clean_restart(log: rl.Log) -> None:
    """Nothing is appended between the loss and the next start: the ids of the lost entries stay taken."""
    log.append_many([b"lost"] * 5)
    checkpoint = log.last_log_id
    lose(log)
    with rl.open_log(log.path):  # the next writer is there
        rl.stop_writer(log.path)
    with rl.start_writer(log.path):
        log.append_many([b"other"] * 8)
        assert log.last_log_id.term > checkpoint.term
        with pytest.raises(rl.Truncated):
            log.follow(after=checkpoint, timeout=0)


def test_a_live_follower_is_told(log: rl.Log) -> None:
    follower = log.follow(1)
    log.append_many([b"lost"] * 5)
    for _ in range(8):
        entry = next(follower)
    assert entry.payload == b"lost"
    lose(log)
    log.append_many([b"other"] * 8)
    with pytest.raises(rl.Truncated):
        next(follower)


def test_an_append_that_says_its_term_keeps_it(log: rl.Log) -> None:
    log.append(b"lost")
    lose(log)
    assert log.append(b"other", term=1) == 4 and log.term_of(4) == 1


def test_no_loss_no_new_term(log: rl.Log) -> None:
    log.append_many([b"in the ring"] * 5)
    kill9(log.stats().writer_pid)
    log.append(b"after")
    assert log.last_log_id == rl.LogId(1, 9) and not log.stats().loss_possible


def test_flush_that_waits_through_a_loss_says_so(log: rl.Log) -> None:
    log.append_many([b"lost"] * 5)
    pid = log.stats().writer_pid
    os.kill(pid, signal.SIGSTOP)  # the request is sent and not taken
    caught: list[BaseException] = []

    def flush() -> None:
        try:
            log.flush(timeout=60)
        except BaseException as error:
            caught.append(error)

    thread = threading.Thread(target=flush)
    thread.start()
    wait_until("flush waits", lambda: log._link._waiters._led)
    shutil.rmtree(Path(log.path) / "shm")
    kill9(pid)
    thread.join(60)
    assert len(caught) == 1 and isinstance(caught[0], rl.Truncated) and caught[0].last_index == 3


def test_flush_that_waits_through_a_crash_without_loss_returns(log: rl.Log) -> None:
    log.append_many([b"kept too"] * 5)
    pid = log.stats().writer_pid
    os.kill(pid, signal.SIGSTOP)
    thread = threading.Thread(target=log.flush, kwargs={"timeout": 60})
    thread.start()
    wait_until("flush waits", lambda: log._link._waiters._led)
    kill9(pid)
    thread.join(60)
    assert not thread.is_alive() and log.durable_index == log.last_index == 8


def test_flush_of_a_log_that_was_stopped_on_purpose_returns_at_once(log: rl.Log) -> None:
    log.append(b"x")
    rl.stop_writer(log.path)
    log.flush(timeout=0)
    log.wait_durable(4, timeout=0)
