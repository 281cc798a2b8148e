"""One thread leads and sleeps, the others follow; nobody is forgotten."""

from __future__ import annotations

import socket
import threading

from raftlog_mp import layout, shm, wakeup
from raftlog_mp.lane import Seat
from raftlog_mp.waiters import Waiters


class Bench:
    """A seat, a socket pair and waiters, as a link has them."""

    def __init__(self) -> None:
        fd, mapping = shm.create_memfd("test-seat", layout.SEAT_BYTES)
        shm.close_fd(fd)
        self.seat, self.waiters = Seat(mapping), Waiters()
        self.mine, self.writers = socket.socketpair()
        self.mine.setblocking(False)
        self.sleeper = wakeup.Sleeper(self.mine)
        self.heard = 0

    def hear(self, sock: socket.socket) -> None:
        if wakeup.receive_now(sock):
            self.heard += 1

    def turn(self, ready: object, wants: int = layout.WANTS_ANSWERS, timeout: float = 30.0) -> None:
        self.waiters.turn(ready, timeout, wants, self.seat, self.sleeper, self.mine, self.hear, 0.0)  # type: ignore[arg-type]

    def close(self) -> None:
        self.mine.close()
        self.writers.close()
        self.seat.close()


def test_the_sleep_flag_is_up_only_while_it_sleeps() -> None:
    """What the writer reads: 0 awake, else the number of the sleep and what is waited for."""
    bench, seen = Bench(), []

    def ready() -> bool:
        seen.append(bench.seat.wants.load(shm.SEQ_CST))
        bench.writers.send(b"\x01")  # the writer's bell comes while it is armed
        return False

    bench.turn(ready, layout.WANTS_PROGRESS)
    assert seen[0] & 3 == layout.WANTS_PROGRESS and seen[0] >> 2 == 1
    assert bench.seat.wants.load(shm.SEQ_CST) == 0 and bench.heard == 1
    bench.close()


def test_a_cursor_stored_before_the_flag_is_not_slept_on() -> None:
    """The re-check after arming: no bell ever comes for what came first."""
    bench = Bench()
    bench.turn(lambda: True)
    assert bench.heard == 0
    bench.close()


def test_a_follower_is_woken_by_its_leader() -> None:
    """The bell reaches the leader only; it looks for the others too, and adds what they wait for to the flag."""
    bench, news, joined, led = Bench(), threading.Event(), threading.Event(), threading.Event()

    def leaders() -> bool:
        led.set()
        joined.wait(30)
        return False

    def followers() -> bool:
        joined.set()
        return news.is_set()

    leader = threading.Thread(target=bench.turn, args=(leaders, layout.WANTS_ANSWERS))
    leader.start()
    assert led.wait(30)
    follower = threading.Thread(target=bench.turn, args=(followers, layout.WANTS_PROGRESS))
    follower.start()
    assert joined.wait(30)
    news.set()
    bench.writers.send(b"\x01")
    leader.join(30)
    follower.join(30)
    assert not leader.is_alive() and not follower.is_alive()
    bench.close()


def test_an_error_of_one_threads_condition_stays_with_that_thread() -> None:
    """A leader that looks for a follower must not get the follower's SyncFailed."""
    bench, joined, led = Bench(), threading.Event(), threading.Event()

    def leaders() -> bool:
        led.set()
        joined.wait(30)
        return False

    def followers() -> bool:
        joined.set()
        if threading.current_thread() is leader:
            raise OSError("not yours")
        return False

    leader = threading.Thread(target=bench.turn, args=(leaders,))
    leader.start()
    assert led.wait(30)
    follower = threading.Thread(target=bench.turn, args=(followers,))
    follower.start()
    leader.join(30)
    follower.join(30)
    assert not leader.is_alive() and not follower.is_alive()
    bench.close()
