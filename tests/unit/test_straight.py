"""The straight way of an append: every way out of it, and that it leaves everything as the general way does."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import FrameType, SimpleNamespace
from typing import Any

import pytest

from raftlog_mp import client, errors, layout, shm, wakeup
from raftlog_mp.bodies import pack_body, unpack_body
from raftlog_mp.client import Client
from raftlog_mp.control import Control
from raftlog_mp.files import Files
from raftlog_mp.lane import LaneConsumer, LaneProducer
from raftlog_mp.layout import OK, SUBMISSION, SUBMISSION_BYTES
from raftlog_mp.link import Link
from raftlog_mp.protocol import BELL, CLIENT, pack_message

from .journals import small_config

LANE_BYTES = 1 << 16
PACKAGE = os.path.dirname(client.__file__)
Answer = Callable[["Bench"], object]


class Bench(Link):
    """A link whose writer is the test: real lanes and sockets, a clock by hand, and sleeps that run the next step.

    A step is what the writer does while the handle sleeps.  Where none is left, it serves, as long as ``serving``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__("/log", CLIENT, files=Files())
        monkeypatch.setattr(wakeup, "now", self._now)
        monkeypatch.setattr(wakeup, "pause", self._pass)
        self.clock, self.tick, self.up, self.serving = 0.0, 0.0, True, True  # tick: seconds from look to look
        self.steps: deque[Callable[[], object]] = deque()
        self.naps, self.connects, self.rings = list[float](), 0, 0
        self.log, self.outcomes = list[bytes](), dict[int, int]()  # of the writer: what is in it, and where
        self.config = small_config(max_entry_bytes=1000)
        self._mappings, self._socks = list[Any](), list[socket.socket]()
        self.client = Client(self)
        self._connect(0.0)

    def _connect(self, deadline: float) -> bool:
        self._drop_connection()
        if not self.up:
            return False
        self.next = int(self.hello_fields()["first_unresolved"])
        fd, mapping = shm.create_memfd("test-lane", layout.lane_file_bytes(LANE_BYTES))
        self.lane, self.rung, self.alive = LaneConsumer(mapping, LANE_BYTES), 0, True
        lane = LaneProducer(shm.map_memfd(fd))
        block = shm.map_memfd(shm.create_memfd("test-control", layout.CONTROL_BYTES)[0])
        self._mappings += [mapping, lane.mapping, block]
        mine, self.writers = socket.socketpair()
        self._socks += [mine, self.writers]
        mine.setblocking(False)
        self.writers.setblocking(False)
        self.control = Control(block)
        self.set(state=layout.STATE_RUNNING)
        self.view: Any = SimpleNamespace(control=self.control, config=self.config)
        self._sleeper, self.seat, self._sock = self, lane, mine  # type: ignore[assignment]
        self.connects += 1
        self.on_connect(lane)  # type: ignore[misc]
        return True

    # ------------------------------------------------------------ in place of a Sleeper
    def sleep(self, timeout: float) -> bool:
        """The writer's next step; where it does nothing, time passes."""
        self.naps.append(timeout)
        assert len(self.naps) < 300, "it waits for ever"
        watch = sys.getprofile()
        sys.setprofile(None)  # the writer is not interrupted
        awake = self._writers_turn()
        if not awake:
            self._pass(timeout)
        sys.setprofile(watch)
        return awake

    def _writers_turn(self) -> bool:
        """Whether there is anything to hear after it."""
        if self.steps:
            self.steps.popleft()()
        elif self.serving:
            self.serve()
        sock = self._socks[-2]
        try:
            return sock.fileno() < 0 or sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) is not None
        except BlockingIOError:
            return False

    def _now(self) -> float:
        self.clock += self.tick
        return self.clock

    def _pass(self, seconds: float) -> None:
        self.clock += seconds

    # ------------------------------------------------------------ the writer
    def set(self, **words: int) -> None:
        for name, value in words.items():
            getattr(self.control, name).store(value, shm.SEQ_CST)

    def take(self) -> list[tuple[int, int, int, int, bytes]]:
        """What came into the lane: sequence, count, flags, term, body."""
        lane, found = self.lane, list[tuple[int, int, int, int, bytes]]()
        while lane.head < lane.tail.load(shm.SEQ_CST):
            head = lane.copy(lane.head, lane.head + SUBMISSION_BYTES)
            length, _, flags, count, _, term, sequence, *_ = SUBMISSION.unpack(head)
            lane.head += SUBMISSION_BYTES + length
            found.append((sequence, count, flags, term, lane.copy(lane.head - length, lane.head)))
        return found

    def serve(self) -> None:
        """As the writer's intake: in order or not at all, each sequence once, one slot for a run of alike."""
        slots: list[tuple[int, int, int, int]] = []  # last sequence, first index, count of each, index after it
        for sequence, count, _, _, body in self.take() if self.alive else ():
            if sequence != self.next:
                self.hang_up()
                return
            self.next += 1
            if sequence not in self.outcomes:
                self.outcomes[sequence] = len(self.log) + 1
                self.log += unpack_body(body, count)
            first = self.outcomes[sequence]
            if slots and slots[-1][2:] == (count, first):
                slots[-1] = (sequence, slots[-1][1], count, first + count)
            else:
                slots.append((sequence, first, count, first + count))
        self.lane.complete([(last, OK, first, count, 1, 0) for last, first, count, _ in slots])
        self.ring()

    def hang_up(self) -> None:
        self.alive = False
        self.writers.close()

    def answer(self, last: int, first: int = 1, count: int = 1, status: int = OK, **more: int) -> None:
        self.lane.complete([(last, status, first, count, more.get("term", 1), more.get("detail", 0))])
        self.ring()

    def ring(self, wanted: int = layout.WANTS_ANSWERS) -> None:
        """As sessions.Peer: once a sleep."""
        wants = self.lane.wants.load(shm.SEQ_CST)
        if self.alive and wants & wanted and wants != self.rung:
            self.rung, self.rings = wants, self.rings + 1
            self.writers.send(BELL)

    # ------------------------------------------------------------ what must hold
    def at_rest(self) -> bool:
        """Nobody waits, leads or holds a lock, and nothing is under way."""
        waiters = self._waiters
        free = not (waiters._led or waiters._followers or waiters._mutex.locked() or self.client._lock._is_owned())  # type: ignore[attr-defined]
        return free and not self.client._pending and self.client._resume_at == 0

    def end(self) -> None:
        self.client._lane = self.client._straight = None
        for sock in self._socks:
            sock.close()
        for mapping in self._mappings:
            mapping.close()


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield (made := Bench(monkeypatch))
    made.end()


def no_general_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("submit", "put", "await_ticket", "_reap"):
        monkeypatch.setattr(bench.client, name, lambda *_: pytest.fail("the general way"))


def general_way(bench: Bench) -> list[int]:
    """Counts the submissions that go the general way."""
    puts: list[int] = []
    put = bench.client.put

    def counted(ticket: Any, *rest: Any) -> None:
        put(ticket, *rest)
        puts.append(ticket.sequence)

    bench.client.put = counted  # type: ignore[method-assign]
    return puts


# ---------------------------------------------------------------- straight to the end
def test_one_entry_at_a_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    no_general_way(bench, monkeypatch)
    for number in range(200):  # more than a lane holds at once
        payload = b"%d" % number * 300
        assert bench.client.append_one(payload[:1000], 30.0) == range(number + 1, number + 2)
    assert bench.client.append([b"in", b"a", b"batch"], None, None) == range(201, 204)
    assert bench.log[200:] == [b"in", b"a", b"batch"] and bench.at_rest()
    assert bench.rings == len(bench.naps) == 201 and bench.clock == 0.0 and max(bench.naps) == 1.0
    reaped = bench.lane.mapping.cell(layout.LANE_WORDS["reaped"]).load(shm.SEQ_CST)
    assert reaped == 201 and bench.lane.wants.load(shm.SEQ_CST) == 0


def test_what_the_writer_finds_in_the_lane(bench: Bench) -> None:
    found: list[tuple[int, int, int, int, bytes]] = []
    straight = (
        lambda: bench.client.append_one(b"one", None),
        lambda: bench.client.append([b"two"], 7, None),
        lambda: bench.client.append((p for p in (bytearray(b"a"), memoryview(b""), b"c")), layout.TERM_MAX, None),
    )
    for number, call in enumerate(straight, 1):
        bench.steps.append(lambda: (found.extend(bench.take()), bench.answer(number, number)))  # noqa: B023
        call()
    assert found == [
        (1, 1, 0, 0, b"one"), (2, 1, layout.FLAG_TERM_GIVEN, 7, b"two"),
        (3, 3, layout.FLAG_TERM_GIVEN, layout.TERM_MAX, pack_body([b"a", b"", b"c"])),
    ]  # fmt: skip


def test_nothing_to_append(bench: Bench) -> None:
    assert bench.client.append([], None, 0.0) == bench.client.append(iter(()), 3, 0.0) == range(0)
    assert bench.take() == [] and bench.naps == []


def test_an_answer_that_is_there_before_the_sleep(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the flag is up the writer rings no bell, so the flag's owner looks once more."""
    monkeypatch.setattr(wakeup, "ring_bell", lambda sock: bench.serve())
    bench._connect(0.0)
    no_general_way(bench, monkeypatch)
    bench.set(writer_sleeping=1)
    assert bench.client.append_one(b"x", 30.0) == range(1, 2)
    assert bench.naps == [] and bench.rings == 0 and bench.at_rest()


# ---------------------------------------------------------------- not the straight way
def test_what_is_not_as_usual_goes_the_general_way(bench: Bench) -> None:
    puts = general_way(bench)
    client, lane = bench.client, bench.client._lane
    assert lane is not None
    ticket = client.submit([b"pending"], None, 0.0)
    assert client.append_one(b"a", 30.0) == range(2, 3) and puts == [1, 2] and ticket.done()
    client.append_one(b"b", 30.0)
    assert puts == [1, 2]
    lane.freed = lane.tail - lane.lane_bytes + 10  # as if an answer had not been read
    assert client.append_one(b"c", 30.0) == range(4, 5) and puts[2:] == [4]
    for state in set(layout.STATE_NAMES) - {layout.STATE_RUNNING, layout.STATE_STOPPED}:
        bench.set(state=state)
        client.append_one(b"d", 30.0)
    assert len(puts) == 3 + len(layout.STATE_NAMES) - 2 and bench.at_rest()


@pytest.mark.parametrize("stopped", [False, True])
def test_a_writer_that_must_not_be_given_more(bench: Bench, stopped: bool) -> None:
    """Hard memory pressure, or stopped on purpose: nothing goes into the lane, as on the general way."""
    bench.set(**{"state": layout.STATE_STOPPED} if stopped else {"pressure_level": layout.LEVEL_HARD})
    bench.up = bench.serving = False
    if stopped:
        bench.hang_up()
    for call in (lambda: bench.client.append_one(b"x", 2.0), lambda: bench.client.append([b"x", b"y"], 1, 2.0)):
        with pytest.raises(errors.Backpressure if not stopped else errors.WriterUnavailable, match="appended"):
            call()
    assert bench.take() == [] and bench.client._next_sequence == 1 and bench.at_rest()
    bench.up = bench.serving = True
    bench.set(pressure_level=0)
    assert bench.client.append_one(b"x", 2.0) == range(1, 2)


@pytest.mark.parametrize(
    ("payloads", "limit"), [([b"x" * 1001], 1000), ([b"x", b"y" * 1001], 1000), ([b"x" * 900] * 80, 0)]
)
def test_what_is_too_large_is_not_sent(bench: Bench, payloads: list[bytes], limit: int) -> None:
    """The caller learns how large, which the writer's refusal does not say."""
    limit = limit or bench.config.batch_bytes_limit
    calls = [lambda: bench.client.append(payloads, None, 0.0)]
    if len(payloads) == 1:
        calls.append(lambda: bench.client.append_one(payloads[0], 0.0))
    for call in calls:
        with pytest.raises(errors.EntryTooLarge) as large:
            call()
        assert large.value.limit_bytes == limit < (large.value.size_bytes or 0)
    assert bench.take() == [] and bench.at_rest()


def test_a_batch_that_cannot_go_straight_is_packed_once(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []
    monkeypatch.setattr(client, "pack_body", lambda entries: (packed.append(len(entries)), pack_body(entries))[1])
    bench.client.submit([b"pending"], None, 0.0)
    assert bench.client.append([b"a", b"b"], None, 30.0) == range(2, 4)
    assert packed == [2]


def test_what_gives_the_payloads_may_lose_the_connection(bench: Bench) -> None:
    """Or fork: the way is looked up behind it."""
    stale = bench.client._straight

    def payloads() -> Iterator[bytes]:
        yield b"a"
        bench._connect(0.0)
        yield b"b"

    assert stale is not None and bench.client.append(payloads(), None, 30.0) == range(1, 3)
    assert bench.client._straight is not stale
    assert stale(b"x", 1, None, 30.0) is None and bench.take() == [], "what belongs to a lane that is gone does nothing"


# ---------------------------------------------------------------- answers that are not as usual
REFUSALS = [
    layout.STALE_TERM, layout.TERM_REQUIRED, layout.TOO_LARGE, layout.SYNC_FAILED, layout.DISK_FULL, layout.UNKNOWN,
    layout.MALFORMED, 99,
]  # fmt: skip


@pytest.mark.parametrize("status", REFUSALS)
@pytest.mark.parametrize("term", [None, 4])
def test_a_refusal_is_the_same_error_as_on_the_general_way(bench: Bench, status: int, term: int | None) -> None:
    told: list[errors.RaftLogError] = []
    calls: list[Callable[[], object]] = [
        lambda: bench.client.submit([b"x"], term, 1.0).result(1.0), lambda: bench.client.append([b"x"], term, 1.0)
    ]  # fmt: skip
    if term is None:
        calls.append(lambda: bench.client.append_one(b"x", 1.0))
    for number, call in enumerate(calls, 1):
        bench.steps.append(lambda: bench.answer(number, 0, 0, status, term=9, detail=28))  # noqa: B023
        with pytest.raises(errors.RaftLogError) as refused:
            call()
        told.append(refused.value)
    assert {(type(error), str(error), repr(vars(error))) for error in told} == {
        (type(told[0]), str(told[0]), repr(vars(told[0])))
    }
    assert bench.at_rest() and bench.client._lane is not None
    assert bench.client._lane.freed == bench.client._lane.tail


def test_another_thread_may_have_read_the_answer(bench: Bench) -> None:
    """Whoever comes first under the lock reads every slot that is there, and those behind find nothing to do."""
    ticket: list[Any] = []

    def both() -> None:
        ticket.append(bench.client.submit([b"behind"], None, 0.0))
        bench.serve()
        assert ticket[0].done()

    bench.steps.append(both)
    assert bench.client.append_one(b"x", 30.0) == range(1, 2) and ticket[0].result(0.0) == range(2, 3)
    bench.steps.append(lambda: (ticket.append(bench.client.submit([b"behind"], None, 0.0)), bench.serve()))
    assert bench.client.append_one(b"y", 30.0) == range(3, 4), "one slot answers both"
    assert ticket[1].result(0.0) == range(4, 5) and bench.at_rest()


# ---------------------------------------------------------------- time
@pytest.mark.parametrize("timeout", [0.0, 0.3, 2.5])
@pytest.mark.parametrize("spin", [0, 50_000])
def test_no_answer_in_time(bench: Bench, timeout: float, spin: int) -> None:
    """It waits as long as it was told and no longer; the ticket lives on."""
    bench.serving = False
    bench.set(spin_ns=spin)
    bench.tick = 1e-6
    with pytest.raises(errors.AppendTimeout, match="Outcome unknown") as late:
        bench.client.append_one(b"x", timeout)
    assert timeout <= bench.clock < timeout + 2e-4
    bench.serving = True
    ticket = late.value.ticket
    assert ticket is not None and not ticket.done() and ticket.result(1.0) == range(1, 2)
    assert bench.client.append_one(b"y", 1.0) == range(2, 3) and bench.log == [b"x", b"y"] and bench.at_rest()


def test_it_looks_before_it_sleeps_if_the_writer_says_so(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def now() -> float:
        looks.append(bench.clock)
        if len(looks) == 10:
            bench.serve()
        bench.clock += 1e-6
        return bench.clock

    bench.set(spin_ns=50_000)
    monkeypatch.setattr(wakeup, "now", now)
    assert bench.client.append_one(b"x", 30.0) == range(1, 2)
    assert bench.naps == [] and bench.rings == 0 and len(looks) == 10
    bench.client.append_one(b"y", 30.0)
    assert len(bench.naps) == 1, "in vain: it sleeps"
    looks.clear()
    bench.set(spin_ns=0)
    bench.client.append_one(b"z", 30.0)
    assert len(looks) < 10 and len(bench.naps) == 2 and bench.at_rest()


# ---------------------------------------------------------------- the end of a writer, and of the handle
@pytest.mark.parametrize("taken", [False, True])
@pytest.mark.parametrize("answered", [False, True])
def test_a_writer_that_dies_between_the_submission_and_the_answer(bench: Bench, taken: bool, answered: bool) -> None:
    """Exactly once: its successor is sent the submission again, unless the answer lies in the old lane."""
    bench.client.append_one(b"before", 30.0)

    def die() -> None:
        if taken or answered:
            bench.serve()
        if taken and not answered:  # appended, but the answer came into no lane
            bench.lane._done_cell.store(1, shm.SEQ_CST)
        bench.hang_up()

    bench.steps.append(die)
    assert bench.client.append_one(b"x", 30.0) == range(2, 3)
    assert bench.log == [b"before", b"x"] and bench.at_rest()
    assert bench.client.append_one(b"y", 30.0) == range(3, 4) and bench.connects == 2


def test_a_writer_that_is_stopped_and_gives_no_answer(bench: Bench) -> None:
    def stop() -> None:
        bench.set(state=layout.STATE_STOPPED)
        bench.up = bench.serving = False
        bench.hang_up()

    bench.steps.append(stop)
    with pytest.raises(errors.AppendTimeout) as late:
        bench.client.append_one(b"x", 3.0)
    assert 3.0 <= bench.clock < 3.3 and bench.client._straight is None
    bench.up = bench.serving = True
    assert late.value.ticket is not None and late.value.ticket.result(1.0) == range(1, 2) and bench.log == [b"x"]


@pytest.mark.parametrize("answered", [False, True])
def test_a_handle_that_is_closed_by_another_thread(bench: Bench, answered: bool) -> None:
    def close() -> None:
        if answered:
            bench.serve()
        bench.close()

    bench.steps.append(close)
    if answered:
        assert bench.client.append_one(b"x", None) == range(1, 2)
    else:
        with pytest.raises(errors.LogClosed, match="Outcome unknown"):
            bench.client.append_one(b"x", None)
    assert bench.client._straight is None and bench.connects == 1
    with pytest.raises(errors.LogClosed):
        bench.client.append_one(b"y", None)


@pytest.mark.parametrize(("said", "connects"), [
    (BELL * 3, 1), (pack_message(op="news"), 1), (pack_message(op="news")[:3], 1), (b"\xff", 2), (b"", 2),
])  # fmt: skip
def test_what_else_the_writer_says(bench: Bench, said: bytes, connects: int) -> None:
    """Nothing is owed to it; nonsense ends the connection, as on the general way."""
    bench.steps.append(lambda: bench.writers.send(said) if said else bench.hang_up())
    assert bench.client.append_one(b"x", 30.0) == range(1, 2)
    assert bench.connects == connects and bench.log == [b"x"] and bench.at_rest()


# ---------------------------------------------------------------- signals, and other exceptions
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


def general(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Behind others, so that a gap in the sequences would stay."""
    first = bench.client.submit([b"pending"], None, 0.0)
    return Interrupt(number).run(lambda: bench.client.append_one(b"x", 30.0)), [first]


def several(bench: Bench, number: int) -> tuple[bool, list[Any]]:
    """Three in one slot, and one in the next: amid them the answers must not go to the wrong tickets."""
    tickets = [bench.client.submit([b"%d" % n] * (1 + n // 3), None, 0.0) for n in range(4)]
    return Interrupt(number).run(lambda: tickets[3].result(30.0)), tickets


@pytest.mark.parametrize("way", [straight, general, several])
def test_an_interrupt_at_any_place(monkeypatch: pytest.MonkeyPatch, way: Callable[..., tuple[bool, list[Any]]]) -> None:
    """The submission stays pending like any other, every lead and lock is given back, and the handle goes on."""
    number, places = 0, True
    while places:
        number += 1
        bench = Bench(monkeypatch)
        places, tickets = way(bench, number)
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
        bench.end()
    assert number > 20


# ---------------------------------------------------------------- fork
def test_a_forked_child_uses_nothing_of_the_parents_way(bench: Bench) -> None:
    """Also while another thread of the parent is amid it, and has its locks for ever as far as the child can see."""
    parents, held, release = bench.client._straight, threading.Event(), threading.Event()
    old = bench.client._lock

    def hold() -> None:
        with old, bench._waiters._mutex:
            held.set()
            release.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30) and parents is not None
    bench.after_fork()  # as in the child
    release_later = bench.client.append_one(b"of the child", 30.0)
    release.set()
    thread.join(30)
    assert release_later == range(1, 2) and bench.connects == 2 and bench.client._straight is not parents
    assert parents(b"x", 1, None, 30.0) is None and bench.at_rest()
