"""Stuck and dead peers: who is stopped, dead, slow or greedy costs the others nothing but its own share."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.processes import Actor, kill9, no_writer_after, rows_of, wait_until

import raftlog_mp as rl

BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
RING = 1 << 20


def small(strategy: str) -> rl.LogConfig:
    """A ring that goes round every few batches."""
    return rl.LogConfig(strategy=strategy, ring_bytes=RING, segment_bytes=256 << 10, lane_bytes=64 << 10)


@contextlib.contextmanager
def stopped(actor: Actor) -> Iterator[None]:
    """The process stands still."""
    os.kill(actor.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(actor.pid, signal.SIGCONT)


@BOTH
def test_a_stopped_client_and_a_stopped_reader_slow_nobody(log_dir: str, tmp_path: Path, strategy: str) -> None:
    """The ring goes round several times while both stand still; afterwards both go on, the reader from the files."""
    with (
        no_writer_after(log_dir), rl.start_writer(log_dir, small(strategy)), rl.open_log(log_dir) as log,
        Actor("client", log_dir, tmp_path / "client", "c", 1, 50) as client,
        Actor("follower", log_dir, tmp_path / "follower", "last") as follower,
    ):  # fmt: skip
        wait_until("both are at work", lambda: client.progress("acked") >= 3 and follower.progress("seen") >= 1)
        with stopped(client), stopped(follower):
            for number in range(150):
                log.append(b"%d" % number + bytes(30_000), timeout=60)
            assert log.stats().bytes > 4 * RING
        assert client.wait() == 0, "it goes on where it stood"
        log.append(b"last")
        assert follower.wait() == 0
        with rl.open_reader(log_dir) as reader:
            assert follower.seen() == rows_of(reader.read(1))


@BOTH
def test_the_lane_of_a_dead_client_is_freed_at_once(log_dir: str, tmp_path: Path, strategy: str) -> None:
    with no_writer_after(log_dir), rl.start_writer(log_dir, small(strategy)) as writer, rl.open_log(log_dir) as log:
        descriptors = f"/proc/{writer.pid}/fd"
        before = len(os.listdir(descriptors))
        for number in range(3):
            with Actor("client", log_dir, tmp_path / f"client-{number}", "c", number, 10_000) as client:
                wait_until("it appends", lambda actor=client: actor.progress("acked") >= 3)
                assert log.stats().clients == 2
                kill9(client.pid)
            wait_until("its lane is freed", lambda: log.stats().clients == 1)
        # The next segment may have been prepared meanwhile, or be in the making.
        wait_until("nothing of them is left", lambda: len(os.listdir(descriptors)) <= before + 2)
        log.append(b"and the writer goes on")


@BOTH
def test_one_flooding_client_does_not_starve_the_others(log_dir: str, strategy: str) -> None:
    """Lanes are drained in turn, each with a byte budget: a polite append waits for one round, not for the flood."""
    config = rl.LogConfig(strategy=strategy, ring_bytes=4 * RING, lane_bytes=16 * RING, max_entry_bytes=RING // 4)
    with (
        no_writer_after(log_dir), rl.start_writer(log_dir, config) as writer,
        rl.open_log(log_dir) as flood, rl.open_log(log_dir) as polite,
    ):  # fmt: skip
        polite.append(b"polite")
        os.kill(writer.pid, signal.SIGSTOP)  # so that the whole flood lies in the lane before the polite one comes
        try:
            tickets = [flood.submit([bytes(50_000)]) for _ in range(100)]
            late = polite.submit([b"polite"])
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        index = late.result(60).start
        assert [ticket.result(60) for ticket in tickets][-1].start == 102
        assert index <= 2 + 2 * (256 * 1024 // 50_000 + 1), "behind two rounds of the flood at most"


def test_a_reader_that_never_catches_up_is_served_from_files(log_dir: str) -> None:
    with no_writer_after(log_dir), rl.start_writer(log_dir, small("mem_first")), rl.open_log(log_dir) as log:
        slow = log.follow(1)
        log.append(b"0" + bytes(1000))
        assert next(slow).index == 1
        for number in range(1, 4000):
            log.submit([b"%d" % number + bytes(1000)])
        log.flush()
        for index in range(2, 4001, 1):
            entry = next(slow)
            assert (entry.index, entry.payload[:4].rstrip(b"\0")) == (index, b"%d" % (index - 1))
        assert log.get(1).payload == b"0" + bytes(1000) and log.stats().lapped_reads > 0
