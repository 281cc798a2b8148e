"""Workers that stay connected while their log is stopped, repaired and started again."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path

import pytest
from support.processes import Child, kill9, no_writer_after, script, wait_until, writer_pids

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.cli import main
from raftlog_mp.files import Files

SMALL = rl.LogConfig(strategy="mem_first", ring_bytes=1 << 20, segment_bytes=1 << 16)
LARGE = rl.LogConfig(strategy="mem_first", ring_bytes=1 << 20, segment_bytes=1 << 26)  # it never rolls in this test
WORKERS = 3
WORKER = """
import sys, threading, raftlog_mp as rl
name, enough = sys.argv[2], threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), enough.set()), daemon=True).start()
with rl.open_log(sys.argv[1], timeout=120.0) as log:
    number, tickets = 0, []
    while not enough.is_set():
        tickets.append(log.submit([f"{name} {number}".encode()]))  # several are on their way whenever it stops
        number += 1
        if len(tickets) == 8:
            tickets.pop(0).result()
        if number == 100:
            print("at work", flush=True)
    for ticket in tickets:
        ticket.result()
    print(number, flush=True)
"""


def damage(log_dir: str, payload: bytes) -> None:
    path = Path(log_dir) / fmt.segment_name(1)
    raw = bytearray(path.read_bytes())
    raw[raw.index(payload)] ^= 1
    path.write_bytes(raw)


def ended(workers: list[Child]) -> list[Child]:
    return [worker for worker in workers if worker.process.poll() is not None]


def at_work(stack: contextlib.ExitStack, log_dir: str) -> list[Child]:
    workers = [stack.enter_context(script(WORKER, log_dir, f"worker {number}")) for number in range(WORKERS)]
    for worker in workers:
        assert worker.line() == "at work"
    return workers


@pytest.mark.parametrize("config", [SMALL, LARGE], ids=["an older segment", "the newest segment"])
def test_workers_wait_for_the_repair_and_go_on(
    log_dir: str, capsys: pytest.CaptureFixture[str], config: rl.LogConfig
) -> None:
    """They do not start the writer that was stopped on purpose, and what was on its way is appended once."""
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        with rl.start_writer(log_dir, config), rl.open_log(log_dir) as log:
            log.append(b"kept before")
            log.append(b"to be lost")
            log.append(b"kept behind")
            workers = at_work(stack, log_dir)
            wait_until("the first segment is full", lambda: config is LARGE or log.stats().segments > 1)
            assert main(["stop", log_dir]) == 0
        started = os.stat(Path(log_dir) / fmt.WRITER_LOG_NAME).st_size  # each writer writes down that it serves
        assert (len(manifest.load(Files(), log_dir).segments) == 1) == (config is LARGE)
        damage(log_dir, b"to be lost")
        assert main(["repair", log_dir]) == 1 and "entry 2 cannot be read" in capsys.readouterr().out
        assert main(["repair", log_dir, "--yes"]) == 0 and main(["check", log_dir]) == 0
        assert writer_pids(log_dir) == [] and os.stat(Path(log_dir) / fmt.WRITER_LOG_NAME).st_size == started
        assert all(worker.process.poll() is None for worker in workers)
        repaired = manifest.load(Files(), log_dir)

        with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False) as log:
            end = repaired.segments[-1].last_index or 0
            wait_until("they go on, or fail", lambda: log.last_index > end + 200 or ended(workers))
            for worker in ended(workers):
                worker.line()  # which says why
            assert log.stats().generation == repaired.generation + 1
            for worker in workers:
                worker.say("enough")
            due = {f"worker {name} {n}".encode() for name in range(WORKERS) for n in range(int(workers[name].line()))}
            found = Counter(entry.payload for entry in log.read(3))
            assert found.pop(b"kept behind") == 1 and set(found) == due and set(found.values()) == {1}
            assert log.get(1) == rl.Entry(1, 1, b"kept before")
            with pytest.raises(rl.CorruptLog, match="entry 2 is lost"):
                log.get(2)


def test_control_workers_restart_a_writer_that_was_not_stopped(
    log_dir: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """So a repair without `stop` meets a writer, and refuses."""
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        writer = stack.enter_context(rl.start_writer(log_dir, SMALL))
        workers = at_work(stack, log_dir)
        started = os.stat(Path(log_dir) / fmt.WRITER_LOG_NAME).st_size
        kill9(writer.pid)
        wait_until("another serves", lambda: os.stat(Path(log_dir) / fmt.WRITER_LOG_NAME).st_size > started)
        assert set(writer_pids(log_dir)) - {writer.pid}
        assert main(["repair", log_dir, "--yes"]) == 3 and f"raftlog-mp stop {log_dir}" in capsys.readouterr().err
        for worker in workers:
            worker.say("enough")
            assert int(worker.line()) > 100
        assert rl.stop_writer(log_dir)
