"""Memory pressure through a real writer: readings of our own, levels that clients see, waits and refusals."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.memory_tree import MemoryTree
from support.processes import no_writer_after, wait_until

import raftlog_mp as rl

BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
CALM, SOFT, HARD = 900, 300, 100  # MiB available of 1000


class Rehearsal:
    """A writer whose readings come from a tree."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.tree = MemoryTree(path / "root", total_mib=1000, available_mib=CALM)
        self.log_dir = str(path / "log")
        pressure = rl.PressureConfig(soft=0.5, hard=0.8, sample_ms=10, root=str(path / "root"))
        self.config = rl.LogConfig(pressure=pressure, **settings)  # type: ignore[arg-type]  # settings of a test

    def level(self, log: rl.Reader, available_mib: int, level: str) -> None:
        """Let memory be so short, and wait until the writer has seen it."""
        self.tree.host(1000, available_mib)
        wait_until(f"the level is {level}", lambda: log.stats().pressure_level == level)


@pytest.fixture
def rehearsal(tmp_path: Path) -> Iterator[Rehearsal]:
    made = Rehearsal(tmp_path)
    with no_writer_after(made.log_dir):
        yield made


@BOTH
def test_hard_pressure_refuses_after_the_timeout_and_nothing_was_appended(tmp_path: Path, strategy: str) -> None:
    rig = Rehearsal(tmp_path, strategy=strategy)
    with no_writer_after(rig.log_dir), rl.start_writer(rig.log_dir, rig.config), rl.open_log(rig.log_dir) as log:
        assert log.append(b"before") == 1
        rig.level(log, HARD, "hard")
        for call in (
            lambda: log.append(b"x", timeout=0.05), lambda: log.append_many([b"x"] * 3, timeout=0.05),
            lambda: log.append_entries(rl.LogId(1, 1), [rl.Entry(1, 2, b"x")], leader_term=1, timeout=0.05),
        ):  # fmt: skip
            with pytest.raises(rl.Backpressure, match="surely not appended") as caught:
                call()
            assert caught.value.level == "hard" and 0 < caught.value.retry_after_ms <= 10_000
        # Reads, and what makes room, go on.
        assert log.get(1).payload == b"before" and log.read(1) and list(log.follow(1, timeout=0))
        log.flush()
        log.save_hard_state(rl.HardState(2, "n"))
        log.purge_to(1)
        assert log.last_index == 1 and len(log) == 0
        rig.level(log, CALM, "none")
        assert log.append(b"after", term=2) == 2


def test_an_append_waits_through_hard_pressure(rehearsal: Rehearsal) -> None:
    with rl.start_writer(rehearsal.log_dir, rehearsal.config), rl.open_log(rehearsal.log_dir) as log:
        rehearsal.level(log, HARD, "hard")
        answers: list[int] = []
        threads = [threading.Thread(target=lambda: answers.append(log.append(b"x", timeout=60))) for _ in range(4)]
        for thread in threads:
            thread.start()
        with pytest.raises(rl.LogTimeout, match="hard memory pressure; nothing was appended"):
            log.wait_for_room(timeout=0.05)
        assert log.last_index == 0 and not answers
        rehearsal.tree.host(1000, CALM)
        for thread in threads:
            thread.join(60)
        assert sorted(answers) == [1, 2, 3, 4]


def test_wait_for_room_returns_when_the_pressure_goes(rehearsal: Rehearsal) -> None:
    with rl.start_writer(rehearsal.log_dir, rehearsal.config), rl.open_log(rehearsal.log_dir) as log:
        log.wait_for_room(timeout=0)
        rehearsal.level(log, HARD, "hard")
        thread = threading.Thread(target=log.wait_for_room, kwargs={"timeout": 60})
        thread.start()
        rehearsal.tree.host(1000, CALM)
        thread.join(60)
        assert not thread.is_alive() and log.append(b"x", timeout=1) == 1


def test_wait_for_room_waits_for_the_lane_too(tmp_path: Path) -> None:
    rig = Rehearsal(tmp_path, ring_bytes=1 << 20, lane_bytes=64 << 10, segment_bytes=1 << 20)
    with (
        no_writer_after(rig.log_dir), rl.start_writer(rig.log_dir, rig.config) as writer,
        rl.open_log(rig.log_dir, timeout=0.05) as log,
    ):  # fmt: skip
        os.kill(writer.pid, signal.SIGSTOP)
        try:
            with pytest.raises(rl.Backpressure):
                while True:
                    log.submit([bytes(5000)])
            with pytest.raises(rl.LogTimeout, match="a full lane"):
                log.wait_for_room()
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        log.wait_for_room(timeout=60)
        assert log.append(b"x", timeout=60) > 1


@BOTH
def test_soft_pressure_slows_senders_and_flushes_now(tmp_path: Path, strategy: str) -> None:
    rig = Rehearsal(tmp_path, strategy=strategy, flush_policy=rl.Batch(10**6, 3_600_000))
    with no_writer_after(rig.log_dir), rl.start_writer(rig.log_dir, rig.config), rl.open_log(rig.log_dir) as log:
        first = log.submit([b"x"])  # a batch policy would wait an hour
        rig.level(log, SOFT, "soft")
        assert first.result(60) == range(1, 2)
        log.wait_durable(1, timeout=60)
        began = time.monotonic()
        for _ in range(5):
            log.append(b"y", timeout=60)
        slow = time.monotonic() - began
        # 70 % used, soft at 50 %, hard at 80 %: each answer is held back for 22 ms at least.  A lower bound is safe.
        assert slow >= 5 * 0.022
        assert log.stats().pressure_changes == 1


def test_pipelined_submissions_are_answered_in_groups_under_soft_pressure(rehearsal: Rehearsal) -> None:
    with rl.start_writer(rehearsal.log_dir, rehearsal.config), rl.open_log(rehearsal.log_dir) as log:
        rehearsal.level(log, SOFT, "soft")
        tickets = [log.submit([b"%d" % n]) for n in range(500)]
        assert [ticket.result(60).start for ticket in tickets] == list(range(1, 501))


def test_a_writer_that_is_killed_under_hard_pressure_hangs_nobody(rehearsal: Rehearsal) -> None:
    with rl.start_writer(rehearsal.log_dir, rehearsal.config) as writer, rl.open_log(rehearsal.log_dir) as log:
        rehearsal.level(log, HARD, "hard")
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(log.append(b"x", timeout=60)))
        thread.start()
        os.kill(writer.pid, signal.SIGKILL)
        rehearsal.tree.host(1000, CALM)
        thread.join(60)
        assert answers == [1]


def test_a_stop_under_hard_pressure_is_said(rehearsal: Rehearsal) -> None:
    with rl.start_writer(rehearsal.log_dir, rehearsal.config) as writer, rl.open_log(rehearsal.log_dir) as log:
        rehearsal.level(log, HARD, "hard")
        writer.stop()
        with pytest.raises(rl.WriterUnavailable, match="stopped on purpose"):
            log.append(b"x", timeout=5)


def test_the_change_of_level_is_in_the_writers_log(rehearsal: Rehearsal) -> None:
    with rl.open_log(rehearsal.log_dir, rehearsal.config) as log:
        rehearsal.level(log, HARD, "hard")
        rehearsal.level(log, CALM, "none")
        said = Path(rehearsal.log_dir) / "writer.log"
        wait_until("both are told", lambda: "INFO memory pressure none (was hard)" in said.read_text())
        assert "WARNING memory pressure hard (was none): 90.0 % of 1000 MiB used" in said.read_text()
        stats = log.stats()
        assert stats.pressure_changes == 2 and stats.writer_rss_bytes > 1 << 20
        assert (stats.memory_limit_bytes, stats.memory_used_bytes) == (1000 << 20, 100 << 20)


def test_a_writer_that_starts_under_pressure_knows_it_before_it_serves(rehearsal: Rehearsal) -> None:
    rehearsal.tree.host(1000, HARD)
    with rl.start_writer(rehearsal.log_dir, rehearsal.config), rl.open_log(rehearsal.log_dir) as log:
        assert log.stats().pressure_level == "hard"
        with pytest.raises(rl.Backpressure):
            log.append(b"x", timeout=0.05)
