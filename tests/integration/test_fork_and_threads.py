"""Handles across fork, among threads, and in the ways that programs really start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from support.processes import PATIENCE_S, Child, alive, no_writer_after, script, wait_dead, wait_until, writer_pids

import raftlog_mp as rl

SMALL = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, linger_s=0.2)


def lingers_out(log_dir: str) -> None:
    """Wait until the autostarted writer has ended by itself."""
    wait_until("the writer lingers out", lambda: not writer_pids(log_dir))


def run_to_the_end(source: str, log_dir: str) -> None:
    """Run a program to its good end, and until the writer that it started is gone."""
    with no_writer_after(log_dir), script(source, log_dir) as child:
        child.finish()
        lingers_out(log_dir)


def start_threads(roles: Iterable[tuple[Callable[..., object], Any]]) -> tuple[list[threading.Thread], list[Any]]:
    """A thread for each ``(role, argument)``, and the list that gets what each returned or raised."""
    outcomes: list[Any] = []

    def play(role: Callable[..., object], argument: Any) -> None:
        try:
            outcomes.append(role(argument))
        except BaseException as error:  # noqa: BLE001
            outcomes.append(error)

    threads = [threading.Thread(target=play, args=pair) for pair in roles]
    for thread in threads:
        thread.start()
    return threads, outcomes


def join(threads: list[threading.Thread]) -> None:
    """Wait for their ends; a thread that hangs fails the test."""
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not any(thread.is_alive() for thread in threads)


def test_fork_while_another_thread_holds_every_lock(log_dir: str) -> None:
    run_to_the_end("""
import os, sys, threading
import raftlog_mp as rl

config = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, linger_s=0.2)
log = rl.open_log(sys.argv[1], config, timeout=30.0)        # as at import, before the server forks
log.append_many([b"one", b"two", b"three"])
iterator = log.follow(1)
assert next(iterator).payload == b"one"
ticket = log.submit([b"four"])
held, release = threading.Event(), threading.Event()

def locks(thing, seen):
    if id(thing) in seen or not type(thing).__module__.startswith("raftlog_mp"):
        return
    seen.add(id(thing))
    for value in list(vars(thing).values()) if hasattr(thing, "__dict__") else ():
        if type(value).__name__ in ("lock", "RLock"):
            yield value
        else:
            yield from locks(value, seen)

mine = list(locks(log, set()))
assert len(mine) >= 3, mine

def hold():
    for lock in mine:
        lock.acquire()
    held.set()
    release.wait()
    for lock in reversed(mine):
        lock.release()

thread = threading.Thread(target=hold)
thread.start()
held.wait()
pid = os.fork()
if pid == 0:
    def refused(call):
        try:
            call()
        except rl.LogClosed:
            return True
    try:
        assert refused(lambda: ticket.result(timeout=5.0)), "ticket"
        assert refused(ticket.done), "done"
        assert refused(lambda: next(iterator)), "iterator"
        index = log.append(b"of the child")
        assert log.get(index).payload == b"of the child"
        assert [e.payload for e in log.read(1, 4)] == [b"one", b"two", b"three"]
        log.close()
        os._exit(0)
    except BaseException as error:
        import traceback
        traceback.print_exc()
        os._exit(1)
release.set()
thread.join()
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
assert ticket.result(timeout=30.0) == range(4, 5)
assert [next(iterator).payload for _ in range(4)] == [b"two", b"three", b"four", b"of the child"]
assert log.append(b"of the parent") == 6
log.close()
""", log_dir)


def test_forked_workers_append_at_once(log_dir: str) -> None:
    """gunicorn with preload: opened in the parent, used in the workers."""
    run_to_the_end("""
import os, sys
import raftlog_mp as rl

log = rl.open_log(sys.argv[1], rl.LogConfig(linger_s=0.2, ring_bytes=1 << 20, segment_bytes=1 << 16), timeout=60.0)
workers = []
for number in range(4):
    pid = os.fork()
    if pid == 0:
        try:
            for turn in range(50):
                index = log.append(b"%d-%d" % (number, turn))
                assert log.get(index).payload == b"%d-%d" % (number, turn)
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
    workers.append(pid)
assert [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in workers] == [0] * 4
payloads = [entry.payload for entry in log.read(1)]
assert sorted(payloads) == sorted(b"%d-%d" % (n, t) for n in range(4) for t in range(50))
assert log.append(b"parent") == 201
log.close()
""", log_dir)


def test_child_of_a_parent_that_left_may_start_a_writer(log_dir: str) -> None:
    """A daemon: opened, forked, the parent exits; the writer lingers out before the child's first use."""
    child = script("""
import os, sys
import raftlog_mp as rl

log = rl.open_log(sys.argv[1], rl.LogConfig(linger_s=0.05, ring_bytes=1 << 20, segment_bytes=1 << 16), timeout=20.0)
assert log.append(b"one") == 1
if os.fork():
    os._exit(0)
sys.stdin.readline()                     # until the test has seen the writer end
assert log.append(b"two") == 2
print("appended", os.getpid(), flush=True)
""", log_dir)
    with no_writer_after(log_dir), child:
        child.wait()
        lingers_out(log_dir)
        child.say("go")
        said, daemon = child.line().split()
        assert said == "appended"
        wait_until("the daemon ends", lambda: not alive(int(daemon)))


def test_threads_share_one_handle(log_dir: str) -> None:
    """Sixteen threads append, pipeline, follow and get at once, while segments roll under them."""
    with rl.open_log(log_dir, SMALL, timeout=60.0) as log:

        def appender(number: int) -> None:
            for turn in range(60):
                payload = b"%d-%d-" % (number, turn) + b"." * 300
                index = log.append(payload)
                assert log.get(index).payload == payload  # type: ignore[union-attr]

        def pipeliner(number: int) -> None:
            payloads = [b"%d-%d" % (number, turn) for turn in range(200)]
            tickets = [log.submit([payload]) for payload in payloads]
            indexes = [ticket.result(timeout=60.0).start for ticket in tickets]
            assert indexes == sorted(set(indexes))
            assert all(log.read(i, i + 1)[0].payload == p for i, p in zip(indexes, payloads, strict=True))

        total = 8 * 60 + 4 * 200

        def follower(number: int) -> None:
            follow = log.follow(1)
            assert [next(follow).index for _ in range(total)] == list(range(1, total + 1))

        roles = [appender] * 8 + [pipeliner] * 4 + [follower] * 4
        threads, outcomes = start_threads((role, number) for number, role in enumerate(roles))
        join(threads)
        assert outcomes == [None] * 16
        assert len(log) == total
    lingers_out(log_dir)


def test_an_error_in_one_thread_stays_there(log_dir: str) -> None:
    """A waiter whose own condition raises must not take the threads beside it along."""
    with rl.start_writer(log_dir, SMALL) as writer, rl.open_log(log_dir, autostart=False, timeout=30.0) as log:
        log.append(b"one")
        os.kill(writer.pid, signal.SIGSTOP)
        threads, results = start_threads([(log.append, b"two")] * 3)
        calls = [0]

        def broken() -> bool:
            calls[0] += 1
            if calls[0] > 1:
                raise rl.SyncFailed("of this waiter only")
            return False

        try:
            with pytest.raises(rl.SyncFailed):
                log._link.wait(broken, float("inf"), 2)
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        join(threads)
        assert sorted(results, key=str) == [2, 3, 4]


def test_closing_wakes_threads_that_wait(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL) as writer:
        log = rl.open_log(log_dir, timeout=None)
        log.append(b"one")
        os.kill(writer.pid, signal.SIGSTOP)
        started = threading.Barrier(7)

        def waits(call: Callable[[], object]) -> None:
            started.wait()
            call()

        ticket = log.submit([b"two"])
        follow = log.follow(2)
        calls = [lambda: log.append(b"x")] * 3 + [ticket.result, lambda: next(follow), lambda: next(log.follow(2))]
        threads, caught = start_threads((waits, call) for call in calls)
        started.wait()
        try:
            log.close()
            join(threads)
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        assert [type(error) for error in caught] == [rl.LogClosed] * 6
        log.close()
        for call in (lambda: log.append(b"y"), lambda: log.get(1), lambda: log.read(1), lambda: log.follow(1),
                     lambda: log.last_index, log.stats, log.flush, lambda: len(log), lambda: log.submit([b"y"]),
                     lambda: log.wait_durable(1), lambda: log.config, lambda: log.append_many([])):  # fmt: skip
            with pytest.raises(rl.LogClosed):
                call()
        assert bool(log) and log.closed


def test_script_without_a_main_guard(log_dir: str, tmp_path: Path) -> None:
    path = tmp_path / "plain.py"
    path.write_text(
        "import sys, raftlog_mp as rl\n"
        "log = rl.open_log(sys.argv[1], rl.LogConfig(linger_s=0.2, ring_bytes=1 << 20))\n"
        "print(log.append(b'hello'))\n"
    )
    with no_writer_after(log_dir):
        done = subprocess.run([sys.executable, str(path), log_dir], capture_output=True, text=True, timeout=PATIENCE_S)
        assert (done.returncode, done.stdout, done.stderr) == (0, "1\n", "")
        lingers_out(log_dir)


def test_captured_output_ends_although_the_writer_lives_on(log_dir: str) -> None:
    source = "import sys, raftlog_mp as rl; log = rl.open_log(sys.argv[1]); "
    source += "print(log.append(b'x'), log.stats().writer_pid)"
    with no_writer_after(log_dir):
        command = [sys.executable, "-c", source, log_dir]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S)
        assert done.returncode == 0, done.stderr
        index, pid = done.stdout.split()
        assert index == "1" and alive(int(pid))
        fds = {os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert not any(name.startswith("pipe:") for name in fds), fds
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert rl.stop_writer(log_dir)
        wait_dead(int(pid))


def test_interrupt_of_the_process_group_spares_the_writer(log_dir: str) -> None:
    """Ctrl-C in the terminal reaches every process of the foreground group, and only those."""
    source = """
import sys, time, raftlog_mp as rl
log = rl.open_log(sys.argv[1])
print(log.append(b'x'), log.stats().writer_pid, flush=True)
for entry in log.follow(2):
    pass
"""
    with no_writer_after(log_dir), Child("-c", source, log_dir, start_new_session=True) as child:
        _, pid = child.line().split()
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait() == -signal.SIGINT
        assert alive(int(pid))
        with rl.open_log(log_dir, autostart=False) as log:
            assert log.append(b"y") == 2
        assert rl.stop_writer(log_dir)


def test_no_zombies(log_dir: str) -> None:
    """Writers that a handle started and that were killed are collected by its next life, not kept for ever."""
    with no_writer_after(log_dir), rl.open_log(log_dir, SMALL, timeout=30.0) as log:
        pids = []
        for number in range(3):
            pids.append(log.stats().writer_pid)
            os.kill(pids[-1], signal.SIGKILL)
            assert log.append(b"%d" % number) == number + 1
        for pid in pids:
            assert not Path(f"/proc/{pid}").exists()
        assert rl.stop_writer(log_dir)


def test_fork_while_another_thread_starts_the_writer(log_dir: str) -> None:
    """The child inherits the claim of whoever starts a writer; it must not keep it after the parent has let go."""
    run_to_the_end("""
import os, signal, sys, threading
import raftlog_mp as rl
from raftlog_mp import processes

starting, go_on = threading.Event(), threading.Event()
start_writer = processes.start_writer

def slowly(*arguments, **options):
    starting.set()
    go_on.wait()
    return start_writer(*arguments, **options)

processes.start_writer = slowly
opened, config = [], rl.LogConfig(linger_s=0.2)
thread = threading.Thread(target=lambda: opened.append(rl.open_log(sys.argv[1], config, timeout=30.0)))
thread.start()
starting.wait()
end, mine = os.pipe()
pid = os.fork()
if pid == 0:
    os.close(mine)
    os.read(end, 1)          # an idle worker, for as long as the parent lives
    os._exit(0)
go_on.set()
thread.join()
assert opened[0].append(b"one") == 1
os.kill(opened[0].stats().writer_pid, signal.SIGKILL)
assert opened[0].append(b"two", timeout=20.0) == 2
opened[0].close()
os.close(mine)
os.waitpid(pid, 0)
""", log_dir)
