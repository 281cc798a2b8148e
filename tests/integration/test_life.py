"""A writer's life: started, shared, stopped, crashed, restarted; and the settings it runs with."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from pathlib import Path

import pytest
from support.processes import (
    PATIENCE_S,
    Child,
    alive,
    kill9,
    no_writer_after,
    script,
    wait_dead,
    wait_until,
    writer_pids,
)

import raftlog_mp as rl
from raftlog_mp import link

SMALL = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, linger_s=0.2)


def test_autostarted_writer_lingers_out_and_comes_back(log_dir: str) -> None:
    pids = []
    for expected in (1, 2, 3):
        with rl.open_log(log_dir, SMALL) as log:
            assert log.append(b"x") == expected
            pids.append(log.stats().writer_pid)
        wait_dead(pids[-1])
    assert len(set(pids)) == 3
    with rl.open_reader(log_dir) as reader:
        assert reader.stats().state == "stopped"
        assert [entry.index for entry in reader.read(1)] == [1, 2, 3]


def test_started_writer_outlives_its_clients_and_stops_on_exit(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL) as writer:
        for expected in (1, 2):
            with rl.open_log(log_dir, autostart=False) as log:
                assert log.append(b"x") == expected
                assert log.stats().writer_pid == writer.pid
        assert alive(writer.pid)
    assert not alive(writer.pid)
    writer.stop()
    assert rl.stop_writer(log_dir) is False


def test_second_writer_is_told_who_holds_the_log(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL) as writer:
        with pytest.raises(rl.LogLocked) as caught:
            rl.start_writer(log_dir)
        assert caught.value.pid == writer.pid
        assert str(writer.pid) in str(caught.value)
        with rl.open_log(log_dir, autostart=False) as log:
            assert log.append(b"unharmed") == 1


def test_client_of_a_stopped_writer_waits_for_the_next(log_dir: str) -> None:
    """Stopped on purpose: nobody restarts it; the append goes on when somebody starts a writer."""
    with rl.open_log(log_dir, SMALL, timeout=60.0) as log, rl.open_reader(log_dir) as reader:
        assert log.append(b"one") == 1
        assert rl.stop_writer(log_dir)
        assert log.get(1).payload == b"one" and log.last_index == 1  # type: ignore[union-attr]
        assert reader.get(1).payload == b"one"  # type: ignore[union-attr]
        with pytest.raises((rl.AppendTimeout, rl.WriterUnavailable)):
            log.append(b"two", timeout=0.3)
        assert writer_pids(log_dir) == []
        result: list[int] = []
        thread = threading.Thread(target=lambda: result.append(log.append(b"three")))
        thread.start()
        with rl.start_writer(log_dir):
            thread.join(PATIENCE_S)
            log.flush()
            payloads = [entry.payload for entry in log.read(1)]
            assert payloads.count(b"three") == 1 and payloads.count(b"two") <= 1
            assert payloads[result[0] - 1] == b"three"
            assert reader.last_index == len(payloads)


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_stop_ends_although_clients_keep_appending(log_dir: str, strategy: str) -> None:
    """Four clients never pause; everything acknowledged before the stop is there afterwards."""
    source = """
import sys, raftlog_mp as rl
with rl.open_log(sys.argv[1], autostart=False, timeout=5.0) as log:
    print("ready", flush=True)
    acked = 0
    try:
        while True:
            tickets = [log.submit([b"x"]) for _ in range(100)]
            for ticket in tickets:
                acked = max(acked, ticket.result(timeout=5.0).stop - 1)
    except (rl.AppendTimeout, rl.WriterUnavailable, rl.Backpressure):
        print(acked, flush=True)
"""
    config = rl.LogConfig(strategy=strategy, ring_bytes=1 << 20, segment_bytes=1 << 20)
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(rl.start_writer(log_dir, config))
        flood = [stack.enter_context(script(source, log_dir)) for _ in range(4)]
        for child in flood:
            assert child.line() == "ready"
        with rl.open_reader(log_dir) as reader:
            wait_until("some appends", lambda: reader.last_index > 2000)
        assert rl.stop_writer(log_dir, timeout=30.0)
        wait_dead(writer.pid)
        acked = max(int(child.line()) for child in flood)
    with rl.open_reader(log_dir) as reader:
        assert reader.last_index >= acked
        assert reader.durable_index == reader.last_index


def test_close_right_after_submit_is_drained(log_dir: str) -> None:
    """What a client put into its lane before it left is taken: a dead client's lane is drained once."""
    with rl.start_writer(log_dir, SMALL) as writer:
        with rl.open_log(log_dir, autostart=False) as log:
            log.append(b"first")
            os.kill(writer.pid, signal.SIGSTOP)
            for number in range(100):
                log.submit([b"%d" % number])
            threading.Timer(0.0, os.kill, (writer.pid, signal.SIGCONT)).start()
        with rl.open_log(log_dir, autostart=False) as log:
            wait_until("the lane was drained", lambda: log.last_index == 101, patience_s=20.0)


def test_crashed_writer_is_restarted_by_exactly_one(log_dir: str) -> None:
    source = """
import sys, raftlog_mp as rl
with rl.open_log(sys.argv[1], timeout=60.0) as log:
    print("ready", flush=True)
    for line in sys.stdin:
        log.append(line.encode())
        print(log.stats().writer_pid, flush=True)
"""
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        log = stack.enter_context(rl.open_log(log_dir, SMALL, timeout=60.0))
        clients = [stack.enter_context(script(source, log_dir)) for _ in range(6)]
        for client in clients:
            assert client.line() == "ready"
        for turn in range(3):
            kill9(log.stats().writer_pid)
            for client in clients:
                client.say(f"turn {turn}")
            pids = {client.line() for client in clients}
            log.append(b"mine")
            assert pids == {str(log.stats().writer_pid)}
            assert [str(pid) for pid in writer_pids(log_dir)] == list(pids)
            assert log.stats().generation == turn + 2
        for client in clients:
            client.process.stdin.close()  # type: ignore[union-attr]
            client.wait()
        assert rl.stop_writer(log_dir)


def test_many_processes_create_one_log_at_once(log_dir: str) -> None:
    source = """
import sys, raftlog_mp as rl
sys.stdin.readline()
with rl.open_log(sys.argv[1], rl.LogConfig(linger_s=0.2, ring_bytes=1 << 20), timeout=60.0) as log:
    print(log.append(sys.argv[2].encode()), log.uuid, flush=True)
    sys.stdin.readline()
"""
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        children = [stack.enter_context(script(source, log_dir, str(number))) for number in range(6)]
        for child in children:
            child.say("go")
        answers = [child.line().split() for child in children]
        assert sorted(int(index) for index, _ in answers) == [1, 2, 3, 4, 5, 6]
        assert len({uuid for _, uuid in answers}) == 1
        for child in children:
            child.say("end")
            child.wait()
        wait_until("the writer lingers out", lambda: not writer_pids(log_dir))


def test_settings_are_adopted_compared_and_stored(log_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    first = rl.LogConfig(strategy="mem_first", flush_policy=rl.Batch(10, 50), segment_bytes=1 << 17, ring_bytes=1 << 20)
    with rl.start_writer(log_dir, first):
        with rl.open_log(log_dir, autostart=False) as log:
            assert log.config == first
        with pytest.raises(rl.ConfigError) as caught:
            rl.open_log(log_dir, rl.LogConfig(strategy="disk_first"))
        assert caught.value.field == "strategy"
        other = rl.LogConfig(strategy="mem_first", segment_bytes=1 << 18)
        with caplog.at_level(logging.WARNING, logger="raftlog_mp"), rl.open_log(log_dir, other) as log:
            assert log.config == first
        assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        assert log.config == first
    second = rl.LogConfig(strategy="disk_first", segment_bytes=1 << 16, ring_bytes=2 << 20)
    with rl.start_writer(log_dir, second), rl.open_log(log_dir) as log:
        assert log.config == second
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        assert log.config == second


def test_writer_that_cannot_start_says_why(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        log.append(b"x")
    manifest = Path(log_dir) / "manifest"
    whole = manifest.read_bytes()
    manifest.write_bytes(whole[:-4] + b"ruin")
    for call in (lambda: rl.start_writer(log_dir), lambda: rl.open_log(log_dir), lambda: rl.open_reader(log_dir)):
        with pytest.raises(rl.CorruptLog) as caught:
            call()
        assert str(manifest) in str(caught.value)
    manifest.write_bytes(whole)
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        assert log.append(b"y") == 2


def test_a_killed_starter_does_not_block_the_next(log_dir: str) -> None:
    """The process that was about to start a writer dies: its claim dies with it."""
    with no_writer_after(log_dir):
        child: Child = script("""
import os, signal, sys
import raftlog_mp as rl
from raftlog_mp import link
from raftlog_mp import processes
processes.start_writer = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
rl.open_log(sys.argv[1])
""", log_dir)
        with child:
            assert child.wait() == -signal.SIGKILL
        with rl.open_log(log_dir, SMALL, timeout=30.0) as log:
            assert log.append(b"x") == 1
        wait_until("the writer lingers out", lambda: not writer_pids(log_dir))


def test_a_writer_that_stands_still_holds_up_a_look_once(log_dir: str) -> None:
    """Its successor is stopped: stats() of a reader tells what it knows, and does not wait for it again and again."""
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        one = rl.start_writer(log_dir)
        reader = stack.enter_context(rl.open_reader(log_dir, timeout=0.2))
        assert reader.stats().state == "running"
        kill9(one.pid)
        one._process.wait()
        two = stack.enter_context(rl.start_writer(log_dir))
        os.kill(two.pid, signal.SIGSTOP)
        stack.callback(os.kill, two.pid, signal.SIGCONT)
        looks: list[float] = []
        original = link.Link._connect
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(link, "GREETING_SECONDS", 0.05)
            patch.setattr(link, "MUTE_SECONDS", 60.0)
            patch.setattr(link.Link, "_connect", lambda self, until: looks.append(until) or original(self, until))
            for _ in range(20):
                reader.stats()
        assert 1 <= len(looks) <= 2
        with pytest.raises(rl.WriterUnavailable, match="owns it but does not answer"):
            rl.open_log(log_dir, timeout=0.2, autostart=False)
