"""One thread leads and sleeps, the others follow; nobody is forgotten."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from types import SimpleNamespace

import pytest

from raftlog_mp import layout, shm, wakeup
from raftlog_mp.lane import Seat
from raftlog_mp.protocol import BELL
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


# ---------------------------------------------------------------- alone
class Nap:
    """In place of a Sleeper: what happens while the leader sleeps, and whether the socket has something afterwards."""

    def __init__(self, happens: Callable[[], object] = lambda: None) -> None:
        self.happens, self.timeouts = happens, list[float]()

    def sleep(self, timeout: float) -> bool:
        self.timeouts.append(timeout)
        self.happens()
        return True


def alone(bench: Bench, nap: object, deadline: float = wakeup.FOREVER, spin: float = 0.0, word: int = 0) -> list[bytes]:
    """What was heard and is no bell."""
    heard: list[bytes] = []
    load = lambda order: word  # noqa: E731
    bench.waiters.alone(load, 0, spin, deadline, nap, bench.seat, bench.mine, lambda _, data: heard.append(data))  # type: ignore[arg-type]
    return heard


def test_alone_raises_the_flag_for_one_sleep_and_takes_its_bell() -> None:
    bench, seen = Bench(), list[int]()

    def ring() -> None:
        seen.append(bench.seat.wants.load(shm.SEQ_CST))
        bench.writers.send(BELL)

    for _ in range(3):
        assert alone(bench, Nap(ring)) == [], "a bell says nothing"
    bench.turn(lambda: bool(ring()))
    assert [value >> 2 for value in seen] == [1, 2, 3, 4], "each sleep has a number of its own, or nobody would ring"
    assert {value & 3 for value in seen} == {layout.WANTS_ANSWERS}
    assert bench.seat.wants.load(shm.SEQ_CST) == 0 and wakeup.receive_now(bench.mine) is None
    assert not bench.waiters._led
    bench.close()


def test_alone_does_not_sleep_on_an_answer_that_is_there() -> None:
    bench, nap = Bench(), Nap()
    assert alone(bench, nap, word=1) == [] and nap.timeouts == [] and not bench.waiters._led
    bench.close()


def test_alone_sleeps_until_the_deadline_and_no_longer_than_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wakeup, "now", lambda: 10.0)
    bench, nap = Bench(), Nap()
    for deadline in (10.25, 99.0, wakeup.FOREVER):
        alone(bench, nap, deadline)
    assert nap.timeouts == [0.25, 1.0, 1.0]
    bench.close()


@pytest.mark.parametrize("said", [BELL + BELL, b"\x02more", b""])
def test_alone_passes_on_what_is_no_bell(said: bytes) -> None:
    bench = Bench()
    assert alone(bench, Nap(lambda: bench.writers.send(said) if said else bench.writers.close())) == [said]
    bench.close()


def test_alone_hears_that_the_socket_was_closed_under_it() -> None:
    bench = Bench()

    def close() -> None:
        bench.mine.close()
        raise ValueError("closed")

    assert alone(bench, Nap(close)) == [b""] and not bench.waiters._led
    bench.close()


def test_alone_leaves_it_to_others_who_wait() -> None:
    bench, nap = Bench(), Nap()
    alone(bench, Nap(lambda: alone(bench, nap)))
    bench.turn(lambda: alone(bench, nap) == [])
    follower = (bool, threading.Event(), layout.WANTS_PROGRESS)
    bench.waiters._followers.append(follower)
    alone(bench, nap)
    assert nap.timeouts == []
    bench.close()


def test_the_bell_of_the_next_leader_is_not_taken_by_the_last() -> None:
    """Whoever has given up the lead leaves the socket alone: the bell in it may wake somebody else."""
    bench, heard = Bench(), list[bool]()
    receive = wakeup.receive_now

    class Watched:
        """The socket: who reads it must be the leader."""

        def recv(self, size: int, flags: int) -> bytes:
            heard.append(bench.waiters._led)
            return bench.mine.recv(size, flags)

    assert receive(Watched()) is None  # type: ignore[arg-type]
    heard.clear()
    nap = Nap(lambda: bench.writers.send(BELL))
    bench.waiters.alone(lambda _: 0, 0, 0.0, 9e9, nap, bench.seat, Watched(), pytest.fail)  # type: ignore[arg-type]
    assert heard == [True]
    bench.close()


def test_a_follower_of_one_alone_arms_its_own_bits_and_takes_over_the_lead() -> None:
    bench, joined, waits, seen = Bench(), threading.Event(), list[bool](), list[int]()

    def followers() -> bool:
        joined.set()
        return False

    def wait() -> None:
        bench.turn(followers, layout.WANTS_PROGRESS)  # behind the one alone
        waits.append(bench.waiters._led)
        bench.turn(followers, layout.WANTS_PROGRESS)  # leads

    follower = threading.Thread(target=wait)

    def happens() -> None:
        follower.start()
        assert joined.wait(30)
        seen.append(bench.seat.wants.load(shm.SEQ_CST))
        bench.writers.send(BELL)

    alone(bench, Nap(happens))
    bench.writers.send(BELL)
    follower.join(30)
    assert not follower.is_alive() and waits == [False]
    assert seen == [1 << 2 | layout.WANTS_ANSWERS | layout.WANTS_PROGRESS] and not bench.waiters._led
    bench.close()


@pytest.mark.parametrize("way", ["alone", "turn"])
def test_an_exception_hands_the_lead_over(way: str) -> None:
    """And never that of another thread, which has it by then."""
    bench = Bench()

    def interrupt() -> bool:
        raise KeyboardInterrupt

    woken = threading.Event()
    with pytest.raises(KeyboardInterrupt):
        if way == "alone":
            follower = (lambda: False, woken, layout.WANTS_PROGRESS)
            alone(bench, Nap(lambda: bench.waiters._followers.append(follower) or interrupt()))
        else:
            bench.turn(lambda: bench.waiters._followers.append((lambda: False, woken, 2)) or interrupt())
    assert woken.is_set() and not bench.waiters._led and not bench.waiters._mutex.locked()
    bench.waiters._followers.clear()
    bench.waiters._led = True  # another thread leads
    bench.waiters._hand_over()
    assert bench.waiters._led
    bench.close()


def test_a_follower_that_is_interrupted_is_forgotten() -> None:
    """Behind it nobody would go straight any more."""
    bench = Bench()

    class Broken(Seat):
        wants = SimpleNamespace(store=lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))

        def __init__(self) -> None: ...

    bench.waiters._led, bench.waiters._seat, bench.waiters._armed = True, Broken(), 5
    with pytest.raises(KeyboardInterrupt):
        bench.turn(lambda: False, layout.WANTS_PROGRESS)
    assert bench.waiters._followers == [] and bench.waiters._led
    bench.close()


def test_looking_in_vain_and_with_luck(monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks as long as it was told, no longer than to the deadline, and less often the more often in vain."""
    clock, words = [0.0], iter([0, 0, 1])

    def now() -> float:
        clock[0] += 1.0
        return clock[0]

    monkeypatch.setattr(wakeup, "now", now)
    bench, nap = Bench(), Nap()
    bench.waiters.alone(lambda _: next(words), 0, 10.0, 9e9, nap, bench.seat, bench.mine, pytest.fail)  # type: ignore[arg-type]
    assert nap.timeouts == [] and clock == [3.0] and not bench.waiters._led
    alone(bench, nap, spin=10.0)
    assert len(nap.timeouts) == 1 and clock == [15.0]
    clock[0] = 0.0
    alone(bench, nap, deadline=4.0, spin=10.0)
    assert clock == [5.0] and nap.timeouts[1] < 0
    alone(bench, nap, spin=10.0)
    assert clock == [6.0], "twice in vain: this time it sleeps at once"
    bench.close()
