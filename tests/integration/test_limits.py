"""A writer without descriptors to spare, and peers that never finish their greeting: everybody else goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from support.processes import PATIENCE_S, Child, script, wait_until

import raftlog_mp as rl
from raftlog_mp import protocol, sessions, wakeup

SMALL = rl.LogConfig(  # nothing that takes a descriptor now and then
    segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 16, scrub_bytes_per_s=0,
    pressure=rl.PressureConfig(sample_ms=60_000),
)
HELLO = protocol.pack_message(op="hello", version=protocol.PROTOCOL_VERSION, role="reader")
ROOM = 8  # peers
LIMIT = sessions.OWN_DESCRIPTORS + ROOM * sessions.PEER_DESCRIPTORS
SHORTAGE = "no more connections for now"


def lower_limit(pid: int, soft: int) -> int:
    """Set how many descriptors a process may have open; returns what it was."""
    before, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
    return before


def sockets(pid: int) -> int:
    """How many sockets the process has open."""
    targets = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(FileNotFoundError):  # closed since
            targets.append(os.readlink(f"/proc/{pid}/fd/{name}"))
    return sum(target.startswith(("socket:", "/memfd:")) for target in targets)


def free_descriptor(log_dir: str, pid: int) -> int:
    """The number that the writer's next descriptor will have, once it serves and is alone."""
    with rl.open_reader(log_dir) as reader:
        assert reader.stats().writer_pid == pid
    wait_until("only the listener is left", lambda: sockets(pid) == 1)
    used = {int(name) for name in os.listdir(f"/proc/{pid}/fd")}
    return min(set(range(len(used) + 1)) - used)


def warnings_of(log_dir: str) -> list[str]:
    return [line for line in (Path(log_dir) / "writer.log").read_text().splitlines() if " WARNING " in line]


def ran_ns(pid: int) -> int:
    """Nanoseconds a process has spent on a processor."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0])


def assert_sleeps(pid: int, idle_pid: int) -> None:
    """It uses about as little of the processor as a writer with nothing to do, over the same stretch of time."""
    before = ran_ns(pid), ran_ns(idle_pid)
    time.sleep(2 * sessions.TEND_SECONDS)  # a stretch to look at, not a wait for anything
    used, idle = ran_ns(pid) - before[0], ran_ns(idle_pid) - before[1]
    assert used <= 40 * max(idle, 100_000), f"{used} ns against {idle} ns of an idle writer"


class Greeted:
    """A reader's connection, made by hand: it says hello at once and may be let in later."""

    def __init__(self, log_dir: str, hello: bytes = HELLO) -> None:
        self.sock = wakeup.connect(log_dir, PATIENCE_S)
        self.sock.sendall(hello)

    def welcomed(self) -> bool:
        """Wait for the writer's answer; False if it hung up instead."""
        self.sock.settimeout(PATIENCE_S)
        data, fds = wakeup.receive_with_fds(self.sock)
        for fd in fds:
            os.close(fd)
        return bool(data) and protocol.Parser().feed(data)[0]["op"] == "welcome"

    def answered(self) -> bool:
        """Whether anything has arrived by now."""
        self.sock.settimeout(0.0)
        with contextlib.suppress(BlockingIOError):
            self.sock.recv(1, socket.MSG_PEEK)
            return True
        return False

    def hung_up(self) -> bool:
        """Wait for the end of the connection."""
        self.sock.settimeout(PATIENCE_S)
        with contextlib.suppress(ConnectionResetError):
            return self.sock.recv(1) == b""
        return True

    def __enter__(self) -> Greeted:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


@pytest.fixture
def idle_pid(tmp_path: Path) -> Iterator[int]:
    """A writer with nothing to do, to compare with."""
    with rl.start_writer(str(tmp_path / "idle"), SMALL) as writer:
        yield writer.pid


# ---------------------------------------------------------------- no descriptors left
def test_a_full_writer_sleeps_serves_and_lets_in_when_somebody_leaves(log_dir: str, idle_pid: int) -> None:
    with rl.start_writer(log_dir, SMALL) as writer, contextlib.ExitStack() as stack:
        log = stack.enter_context(rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S))
        lower_limit(writer.pid, LIMIT)
        inside = [stack.enter_context(Greeted(log_dir)) for _ in range(ROOM - 1)]
        assert all(peer.welcomed() for peer in inside)
        waiting = [stack.enter_context(Greeted(log_dir)) for _ in range(3)]
        wait_until("the writer says that it is full", lambda: warnings_of(log_dir))
        assert_sleeps(writer.pid, idle_pid)
        # Segments need descriptors, too: they were kept back.
        assert [log.append(b"x" * 4000) for _ in range(50)] == list(range(1, 51))
        assert log.stats().rolls >= 3 and log.stats().state == "running"
        assert not any(peer.answered() for peer in waiting)
        assert psutil.Process(writer.pid).num_fds() <= LIMIT - sessions.OWN_DESCRIPTORS // 2
        for leaver, newcomer in zip(inside, waiting, strict=False):
            leaver.sock.close()
            assert newcomer.welcomed()
        assert len(warnings_of(log_dir)) == 1 and SHORTAGE in warnings_of(log_dir)[0]
        assert f"{LIMIT} descriptors" in warnings_of(log_dir)[0] and "ulimit" in warnings_of(log_dir)[0]
        assert log.stats().dropped_peers == 0


def test_an_end_of_the_shortage_is_noticed_without_anybody_leaving(log_dir: str) -> None:
    """The limit was raised from outside.  The next shortage is told anew."""
    with rl.start_writer(log_dir, SMALL) as writer, contextlib.ExitStack() as stack:
        plenty = lower_limit(writer.pid, LIMIT)
        peers = [stack.enter_context(Greeted(log_dir)) for _ in range(ROOM + 2)]
        assert all(peer.welcomed() for peer in peers[:ROOM])
        wait_until("the writer says that it is full", lambda: warnings_of(log_dir))
        lower_limit(writer.pid, plenty)
        assert all(peer.welcomed() for peer in peers[ROOM:])
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"in") == 1
        lower_limit(writer.pid, LIMIT)
        stack.enter_context(Greeted(log_dir))
        wait_until("it says so again", lambda: len(warnings_of(log_dir)) == 2)


def test_accept_fails_while_the_listener_stays_readable(log_dir: str, idle_pid: int) -> None:
    with rl.start_writer(log_dir, SMALL) as writer:
        plenty = lower_limit(writer.pid, free_descriptor(log_dir, writer.pid))
        with Greeted(log_dir) as newcomer:
            wait_until("accept fails", lambda: warnings_of(log_dir))
            assert_sleeps(writer.pid, idle_pid)
            assert not newcomer.answered()
            assert len(warnings_of(log_dir)) == 1 and "Too many open files" in warnings_of(log_dir)[0]
            lower_limit(writer.pid, plenty)
            assert newcomer.welcomed()
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"still there") == 1 and log.stats().writer_pid == writer.pid


def test_no_descriptor_for_a_lane(log_dir: str) -> None:
    """Accepted, but the lane cannot be made: the client is hung up on, tries again, and gets in later."""
    with rl.start_writer(log_dir, SMALL) as writer, contextlib.ExitStack() as stack:
        plenty = lower_limit(writer.pid, free_descriptor(log_dir, writer.pid) + 1)
        with Greeted(log_dir) as peer:
            assert peer.hung_up()
        opened: list[rl.Log] = []
        thread = threading.Thread(
            target=lambda: opened.append(rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S))
        )
        stack.callback(thread.join)
        stack.callback(lower_limit, writer.pid, plenty)
        thread.start()
        with Greeted(log_dir) as peer:
            assert peer.hung_up()
        assert not opened
        stack.close()
        with opened.pop() as log:
            assert log.append(b"in") == 1
            assert log.stats().dropped_peers == 0  # it was not the clients' fault
        assert len(warnings_of(log_dir)) == 1


OWN_CLOCK = """
import sys
from raftlog_mp import sessions, writer
from raftlog_mp.config import LogConfig
sessions.GREETING_SECONDS, sessions.TEND_SECONDS = float(sys.argv[2]), float(sys.argv[3])
config = LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 16)
writer.serve(sys.argv[1], config, linger=False, interrupt=False, on_ready=lambda _: print("serving", flush=True))
"""


def test_who_leaves_makes_room_at_once(log_dir: str) -> None:
    """With a clock that never comes round."""
    with script(OWN_CLOCK, log_dir, "1e6", "1e6") as writer, contextlib.ExitStack() as stack:
        assert writer.line() == "serving"
        lower_limit(writer.pid, LIMIT)
        peers = [stack.enter_context(Greeted(log_dir)) for _ in range(ROOM + 1)]
        assert all(peer.welcomed() for peer in peers[:ROOM])
        peers[0].sock.close()
        assert peers[ROOM].welcomed()
        stack.close()
        rl.stop_writer(log_dir)
        writer.finish()


# ---------------------------------------------------------------- greetings that do not end
@pytest.fixture
def impatient(log_dir: str) -> Iterator[Child]:
    """A writer that waits a fraction of a second for a hello."""
    with script(OWN_CLOCK, log_dir, "0.3", "0.1") as writer:
        assert writer.line() == "serving"
        yield writer
        rl.stop_writer(log_dir)
        writer.finish()


STARTS = {"nothing": b"", "a bell": protocol.BELL, "one byte": HELLO[:1], "half a hello": HELLO[: len(HELLO) // 2]}


@pytest.mark.parametrize("start", STARTS)
def test_a_connection_without_a_hello_is_dropped(log_dir: str, impatient: Child, start: str) -> None:
    """Nothing else happens meanwhile: no other event may be needed to end it."""
    before = sockets(impatient.pid)
    with Greeted(log_dir, STARTS[start]) as silent:
        assert silent.hung_up()
    with rl.open_reader(log_dir) as reader:
        assert reader.stats().dropped_peers == 1
    wait_until("its descriptors are free", lambda: sockets(impatient.pid) == before)


def test_others_work_while_many_are_silent(log_dir: str, impatient: Child) -> None:
    with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log, contextlib.ExitStack() as stack:
        before = sockets(impatient.pid)
        silent = [stack.enter_context(Greeted(log_dir, start)) for start in STARTS.values() for _ in range(10)]
        # The clock runs although the writer is busy.
        wait_until("they are dropped", lambda: log.append(b"x") and log.stats().dropped_peers == len(silent))
        assert all(peer.hung_up() for peer in silent)
        assert log.append(b"after") == log.last_index
        wait_until("their descriptors are free", lambda: sockets(impatient.pid) <= before)


def test_a_greeted_peer_may_be_silent_for_ever(log_dir: str, impatient: Child) -> None:
    with Greeted(log_dir) as quiet, Greeted(log_dir, b"") as silent:
        assert quiet.welcomed()
        assert silent.hung_up()
        with rl.open_reader(log_dir) as reader:
            wait_until("the silent one is counted", lambda: reader.stats().dropped_peers == 1)
            assert reader.stats().readers == 2
        assert not quiet.answered()


GREETER = """
import os, signal, sys
from raftlog_mp import wakeup
sock = wakeup.connect(sys.argv[1], 30.0)
sock.sendall(bytes.fromhex(sys.argv[2]))
print("sent", flush=True)
os.kill(os.getpid(), signal.SIGSTOP)
sock.settimeout(60.0)
print(len(sock.recv(1 << 16)), flush=True)
"""


def test_a_peer_stopped_in_the_middle_of_its_greeting(log_dir: str, impatient: Child) -> None:
    with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        with script(GREETER, log_dir, HELLO[:9].hex()) as peer:
            assert peer.line() == "sent"
            wait_until("it is dropped", lambda: log.stats().dropped_peers == 1)
            assert log.append(b"meanwhile") == 1
            peer.send_signal(signal.SIGCONT)
            assert peer.line() == "0"  # the end of the stream
        with script(GREETER, log_dir, HELLO.hex()) as peer:
            assert peer.line() == "sent"
            wait_until("it has its seat", lambda: log.stats().readers == 1)
            assert log.append(b"nobody waits for it") == 2
            peer.kill()  # the welcome was never read
            wait_until("its seat is free", lambda: log.stats().readers == 0)
        assert log.stats().dropped_peers == 1


def test_peers_that_die_right_after_connect(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL) as writer, rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        assert log.append(b"before") == 1
        before = sockets(writer.pid)
        for number in range(300):
            Greeted(log_dir, list(STARTS.values())[number % len(STARTS)]).sock.close()
            if number % 30 == 0:
                log.append(b"meanwhile")
        assert log.append(b"after") == 12
        wait_until("their descriptors are free", lambda: sockets(writer.pid) == before)
        assert log.stats().clients == 1 and log.stats().dropped_peers == 0


# ---------------------------------------------------------------- what the writer's clock is made of
@pytest.fixture
def poller() -> Iterator[wakeup.Poller]:
    made = wakeup.Poller()
    yield made
    made.close()


def test_a_reminder_ends_a_wait_once(poller: wakeup.Poller) -> None:
    what = object()
    poller.remind(0.0, what)
    assert poller.wait(None) == [what]  # without the reminder: for ever
    assert poller.wait(0.0) == []
    poller.remind(1000.0, what)
    assert poller.wait(0.0) == []


@pytest.mark.parametrize("seconds", [(0.0, 1000.0), (1000.0, 0.0)])
def test_of_several_reminders_the_earliest_stays(poller: wakeup.Poller, seconds: tuple[float, float]) -> None:
    for wait in seconds:
        poller.remind(wait, wait)
    assert poller.wait(None) == [0.0]


def test_a_reminder_comes_after_the_events_of_its_round(poller: wakeup.Poller) -> None:
    """A hello that has arrived is heard before its sender can be dropped for silence."""
    event = wakeup.Event()
    poller.add(event.fd, event)
    event.set()
    poller.remind(0.0, "due")
    assert poller.wait(None) == [event, "due"]
    poller.remove(event.fd)
    event.close()
