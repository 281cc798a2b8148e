"""KeyboardInterrupt at every place of an append where Python looks for signals: nothing stays behind."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from support.processes import wait_until

import raftlog_mp as rl
from raftlog_mp import client, lane

from .answering import LANE_BYTES, Bench
from .journals import small_config

PACKAGE = os.path.dirname(client.__file__)


class Interrupt:
    """Raises KeyboardInterrupt at the n-th place in the package where Python would look for signals: at a function's
    beginning, and after each call of what is no Python function."""

    def __init__(self, number: int) -> None:
        self.left = number

    def _event(self, frame: FrameType, event: str, _: object) -> None:
        code = frame.f_code
        if event in ("call", "c_return") and (code.co_filename.startswith(PACKAGE) or code is Bench.sleep.__code__):
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    def run(self, call: Callable[[], object]) -> bool:
        """Whether it came to that."""
        before = sys.getprofile()
        sys.setprofile(self._event)
        try:
            call()
        except KeyboardInterrupt:
            return True
        finally:
            sys.setprofile(before)
        return False


def straight(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    return Interrupt(number).run(lambda: bench.client.append_one(b"x", 30.0)), []


def apart(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Head and body are written one after the other, as of large ones."""
    before, lane.APART_BYTES = lane.APART_BYTES, 0
    try:
        return general(bench, number)
    finally:
        lane.APART_BYTES = before


def general(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Behind others, so that a gap in the sequences would stay."""
    first = bench.client.submit([b"pending"], None, 0.0)
    return Interrupt(number).run(lambda: bench.client.append_one(b"x", 30.0)), [first]


def submitted(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Put into the lane and not waited for, behind others."""
    first, submit_one = bench.client.submit([b"pending"], None, 0.0), bench.client.submit_one
    assert submit_one is not None
    return Interrupt(number).run(lambda: submit_one(b"x")), [first]


def several(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Three in one slot, and one in the next: amid them the answers must not go to the wrong tickets."""
    tickets = [bench.client.submit([b"%d" % n] * (1 + n // 3), None, 0.0) for n in range(4)]
    return Interrupt(number).run(lambda: tickets[3].result(30.0)), tickets


def beside(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Another thread reads the answers, and is interrupted."""
    was: list[bool] = []
    bench.steps.append(lambda: (bench.serve(), was.append(Interrupt(number).run(bench.client._reap))))
    assert bench.client.append_one(b"x", 30.0) == range(1, 2), number
    return was[0], []


def check(bench: Bench, tickets: list[Any], number: int) -> None:
    """Nothing is held, nothing is lost or there twice, every ticket has its own value, and the handle goes on."""
    waiters = bench._waiters
    assert not waiters._led and not waiters._followers and not waiters._mutex.locked(), number
    assert not bench.client._lock._is_owned(), number  # type: ignore[attr-defined]
    after = bench.client.append([b"after"], None, 30.0)
    values = [ticket.result(30.0) for ticket in tickets]
    assert [bench.log[value.start - 1] for value in values] == [b"pending"][: len(tickets)] or values == [
        range(1, 2), range(2, 3), range(3, 4), range(4, 6)
    ], number  # fmt: skip
    assert bench.log[after.start - 1] == b"after" and len(bench.log) <= after.start, number
    assert bench.log.count(b"x") <= 1 and bench.log.count(b"after") == 1, number
    for turn in range(LANE_BYTES // 1000 + 2):  # more than the lane holds: all of it is free again
        bench.naps.clear()
        assert bench.client.append_one(b"%03d" % turn * 333, 30.0).start == len(bench.log), number
    assert bench.clock == 0.0, f"{number}: a wait in vain"
    assert bench.at_rest(), number


@pytest.mark.parametrize("way", [straight, general, apart, submitted, several, beside])
def test_an_interrupt_at_any_place(monkeypatch: pytest.MonkeyPatch, way: Callable[..., tuple[bool, list[Any]]]) -> None:
    """The submission stays pending like any other, every lead and lock is given back, and the handle goes on."""
    number, interrupted = 0, True
    while interrupted:
        number += 1
        bench = Bench(monkeypatch)
        try:
            interrupted, tickets = way(bench, number)
            check(bench, tickets, number)
        finally:
            bench.end()
    assert number > 4


def test_a_real_signal_while_a_real_writer_owes_the_answer(log_dir: str) -> None:
    """The interrupted entry is there once, and the next call, a batch and a forked child find everything in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    def main_sleeps() -> None:
        wait_until("the leader sleeps", lambda: log._link._waiters._armed)
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with rl.start_writer(log_dir, small_config()) as writer, rl.open_log(log_dir, autostart=False) as log:
            assert log.append(b"one") == 1
            os.kill(writer.pid, signal.SIGSTOP)
            thread = threading.Thread(target=main_sleeps)
            thread.start()
            try:
                with pytest.raises(KeyboardInterrupt):
                    log.append(b"interrupted")
            finally:
                thread.join(30)
                os.kill(writer.pid, signal.SIGCONT)
            assert log.append(b"three") == 3 and log.append_many([b"four", b"five"], timeout=30.0) == range(4, 6)
            child = os.fork()
            if child == 0:  # no assertion here: nothing of the test runner may run twice
                os._exit(0 if log.append(b"of the child") == 6 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            assert log.append(b"seven") == 7 and log._link._waiters._led is False
            assert [entry.payload for entry in log.read(1)] == [
                b"one", b"interrupted", b"three", b"four", b"five", b"of the child", b"seven"
            ]  # fmt: skip
    finally:
        signal.signal(signal.SIGUSR1, before)
