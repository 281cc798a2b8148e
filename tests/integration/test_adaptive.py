"""``Adaptive`` with real writers: who shares an fsync, and that nobody waits for nobody."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.faulty_files import FaultyFiles
from support.processes import no_writer_after
from unit.running import Running

import raftlog_mp as rl

LONG = rl.Adaptive(target_ms=60_000)
BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])


@contextmanager
def serving(path: Path, policy: rl.Adaptive, **settings: Any) -> Iterator[rl.Log]:
    config = rl.LogConfig(flush_policy=policy, **settings)
    with no_writer_after(str(path)), rl.start_writer(path, config), rl.open_log(path, timeout=60.0) as log:
        yield log


def slow_disk(files: FaultyFiles, seconds: float) -> None:
    """Each fsync of a segment takes so long: clients come back well within it, however busy the machine is."""

    def listen(step: tuple[Any, ...]) -> None:
        if step[0] == "sync" and str(step[1]).endswith(".seg"):
            time.sleep(seconds)

    files.listener = listen


def test_one_client_has_an_fsync_of_its_own_each_time(tmp_path: Path) -> None:
    with serving(tmp_path / "log", LONG) as log:
        before = log.stats()
        for _ in range(50):
            log.append(b"x")
        after = log.stats()
        assert after.fsyncs - before.fsyncs == after.appends - before.appends == 50


def test_clients_share_each_fsync_without_being_counted_by_anybody(log_dir: str) -> None:
    """Four threads, each with a lane of its own; Immediate would need an fsync for two of them."""
    running = Running(log_dir, flush_policy=LONG).start()
    try:
        slow_disk(running.files, 0.005)
        members = [running.member() for _ in range(4)]
        threads = [threading.Thread(target=lambda m=m: [m.append(b"x") for _ in range(60)]) for m in members]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert running.word("entries") == 240
        assert running.word("fsyncs") <= 0.32 * 240
    finally:
        running.end()


@BOTH
def test_a_full_lane_is_not_waited_on(tmp_path: Path, strategy: str) -> None:
    """The target is a minute, the stream does not fit the lane, nor the ring: it goes through without a pause."""
    with serving(
        tmp_path / "log", LONG, strategy=strategy, lane_bytes=64 << 10, ring_bytes=1 << 20, max_buffered_entries=300
    ) as log:
        tickets = [log.submit([bytes(1000)]) for _ in range(1500)]
        assert tickets[-1].result(30.0) == range(1500, 1501)
        log.wait_durable(1500, timeout=30.0)
        assert log.stats().fsyncs < 750


@BOTH
def test_everything_becomes_durable_by_itself(tmp_path: Path, strategy: str) -> None:
    """Bursts with nobody behind them: each is durable long before the target, which nobody waits for."""
    with serving(tmp_path / "log", LONG, strategy=strategy) as log:
        for size in (1, 100, 7, 1):
            last = [log.submit([b"x"]) for _ in range(size)][-1].result(30.0)[-1]
            log.wait_durable(last, timeout=30.0)
            assert log.durable_index == last


def test_flush_does_not_wait_for_the_group(tmp_path: Path) -> None:
    with serving(tmp_path / "log", LONG, strategy="mem_first") as log:
        for _ in range(8):
            for _ in range(50):
                log.append(b"x")
            log.flush(timeout=30.0)
            assert log.durable_index == log.last_index


def test_mem_first_leaves_the_disk_in_peace_under_a_stream(log_dir: str) -> None:
    """Nobody waits for these fsyncs; flushed at once, they would run back to back."""
    running = Running(log_dir, strategy="mem_first", flush_policy=rl.Adaptive(target_ms=100)).start()
    try:
        slow_disk(running.files, 0.005)
        member, began = running.member(), time.monotonic()
        while (elapsed := time.monotonic() - began) < 0.6:
            member.append(b"x")
        assert 0 < running.word("fsyncs") * 0.005 <= 0.5 * elapsed
    finally:
        running.end()
