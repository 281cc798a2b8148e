"""The straight way of an append: every way out of it, and that it leaves everything as the general way does."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftlog_mp import client, errors, layout, shm, wakeup
from raftlog_mp.bodies import pack_body
from raftlog_mp.protocol import BELL, pack_message

from .answering import Bench


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
    assert lane.freed == lane.tail > 0
    client.append_one(b"b", 30.0)
    assert puts == [1, 2]
    lane.freed = lane.tail - lane.lane_bytes + 10  # as if an answer had not been read
    assert client.append_one(b"c", 30.0) == range(4, 5) and puts[2:] == [4]
    for state in set(layout.STATE_NAMES) - {layout.STATE_RUNNING, layout.STATE_STOPPED}:
        bench.set(state=state)
        client.append_one(b"d", 30.0)
    assert len(puts) == 3 + len(layout.STATE_NAMES) - 2 and bench.at_rest()


@pytest.mark.parametrize("why", ["pressure", "stopped", "stopped and hung up"])
def test_a_writer_that_must_not_be_given_more(bench: Bench, why: str) -> None:
    """Hard memory pressure, or stopped on purpose: nothing goes into the lane, as on the general way."""
    bench.set(**{"pressure_level": layout.LEVEL_HARD} if why == "pressure" else {"state": layout.STATE_STOPPED})
    bench.up = bench.serving = False
    if why == "stopped and hung up":
        bench.hang_up()
    for number, call in enumerate(
        (lambda: bench.client.append_one(b"x", 2.0), lambda: bench.client.append([b"x", b"y"], 1, 2.0)), 1
    ):
        with pytest.raises(errors.Backpressure if why == "pressure" else errors.WriterUnavailable, match="appended"):
            call()
        assert bench.clock == pytest.approx(2.0 * number), "as long as it was told, and asleep"
    assert bench.take() == [] and bench.client._next_sequence == 1 and bench.at_rest()
    bench.up = bench.serving = True
    if why == "stopped":
        bench.hang_up()
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


class Contended:
    """A lock that another thread has first."""

    def __init__(self, other: Callable[[], object]) -> None:
        self.lock, self.other = threading.RLock(), deque([other])

    def __enter__(self) -> None:
        if self.other:
            self.other.pop()()
        self.lock.acquire()

    def __exit__(self, *_: object) -> None:
        self.lock.release()


@pytest.mark.parametrize("other", ["submits", "appends", "connects"])
def test_what_another_thread_does_before_it_has_the_lock(bench: Bench, other: str) -> None:
    made: list[Any] = []
    does: dict[str, Callable[[], object]] = {
        "submits": lambda: made.append(bench.client.submit([b"other"], None, 0.0)),
        "appends": lambda: made.append(bench.client.append([b"other"], None, 30.0)),
        "connects": lambda: bench._connect(0.0),
    }
    does_it = Contended(lambda: None)
    bench.client._lock = does_it  # type: ignore[assignment]
    bench._connect(0.0)
    connects = bench.connects
    does_it.other.append(does[other])
    index = 1 if other == "connects" else 2
    assert bench.client.append_one(b"x", 30.0) == range(index, index + 1)
    assert bench.log == [b"other"][: index - 1] + [b"x"] and not bench.client._pending
    assert bench.connects == connects + (other == "connects"), "the writer found nothing wrong"


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

    bench.client._straight = lambda *_: pytest.fail("that of before")
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
    assert ticket[1].result(0.0) == range(4, 5)
    bench.steps.append(lambda: (ticket.append(bench.client.submit([b"p", b"q"], None, 0.0)), bench.serve()))
    assert bench.client.append_one(b"z", 30.0) == range(5, 6), "two slots"
    assert ticket[2].result(0.0) == range(6, 8) and bench.at_rest()


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


def test_another_thread_has_the_next_connection_by_then(bench: Bench) -> None:
    """The old lane's answer was read when it was lost; of the new lane nothing was."""
    bench.steps.append(lambda: (bench.serve(), bench._connect(0.0)))
    assert bench.client.append_one(b"x", 30.0) == range(1, 2) and bench.connects == 2 and bench.client._seen == 0
    assert bench.client.append_one(b"y", 30.0) == range(2, 3) and bench.at_rest()


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
