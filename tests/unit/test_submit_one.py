"""The straight way of a submission that nobody waits for yet."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import raftlog_mp as rl
from raftlog_mp import errors, layout

from .answering import LANE_BYTES, Bench
from .journals import small_config


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    yield (made := Bench(monkeypatch))
    made.end()


def submit_one(bench: Bench, body: bytes) -> rl.Ticket[range] | None:
    assert bench.client.submit_one is not None
    return bench.client.submit_one(body)


def test_many_under_way(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("submit", "put", "_has_room"):
        monkeypatch.setattr(bench.client, name, lambda *_: pytest.fail("the general way"))
    for turn in range(5):  # more than a lane holds at once
        bodies = [b"%d" % number * (turn * 100) for number in range(20)]
        tickets = [submit_one(bench, body[:900]) for body in bodies]
        assert all(ticket is not None and not ticket.done() for ticket in tickets)
        assert [ticket.result(5.0) for ticket in tickets if ticket is not None] == [
            range(number, number + 1) for number in range(20 * turn + 1, 20 * turn + 21)
        ]
        assert bench.log[20 * turn :] == [body[:900] for body in bodies] and bench.at_rest()
    assert bench.rings == 5 and bench.clock == 0.0


def test_what_the_writer_finds_in_the_lane(bench: Bench) -> None:
    submit_one(bench, b"")
    submit_one(bench, b"\x93" * 1000)
    assert bench.take() == [(1, 1, 0, 0, b""), (2, 1, 0, 0, b"\x93" * 1000)]


def test_the_writer_is_woken_if_it_sleeps(bench: Bench) -> None:
    submit_one(bench, b"it looks")
    with pytest.raises(BlockingIOError):
        bench.writers.recv(10)
    bench.set(writer_sleeping=1)
    submit_one(bench, b"it sleeps")
    assert bench.writers.recv(10) == rl.protocol.BELL


def test_what_is_not_as_usual_is_left_to_the_general_way(bench: Bench) -> None:
    assert submit_one(bench, b"x" * 1001) is None  # EntryTooLarge is said there
    for words, usual in (
        ({"pressure_level": layout.LEVEL_HARD}, {"pressure_level": layout.LEVEL_HARD - 1}),
        ({"state": layout.STATE_FAILED}, {"state": layout.STATE_RUNNING}),
    ):
        bench.set(**words)
        assert submit_one(bench, b"x") is None
        bench.set(**usual)
    assert bench.take() == [] and bench.client._next_sequence == 1 and bench.at_rest()


def test_a_full_lane(bench: Bench) -> None:
    room = LANE_BYTES // (layout.SUBMISSION_BYTES + 1000)
    assert all(submit_one(bench, b"x" * 1000) for _ in range(room)) and submit_one(bench, b"x" * 1000) is None
    bench.serve()
    assert bench.client.submit([b"y" * 1000], None, 0.0).result(5.0) == range(room + 1, room + 2)
    assert submit_one(bench, b"x" * 1000) is not None  # the general way has read the answers


def test_as_many_under_way_as_there_are_slots(bench: Bench) -> None:
    for _ in range(layout.COMPLETION_SLOTS):
        assert submit_one(bench, b"") is not None
    assert submit_one(bench, b"") is None and len(bench.client._pending) == layout.COMPLETION_SLOTS


def test_without_a_connection_there_is_none(bench: Bench) -> None:
    before = bench.client.submit_one
    assert before is not None
    bench._drop_connection()
    assert bench.client.submit_one is None and before(b"x") is None and bench.client._next_sequence == 1
    bench.ensure(0.0)
    ticket = submit_one(bench, b"x")
    assert ticket is not None and ticket.result(5.0) == range(1, 2) and before(b"y") is None
    bench.client._start_over()  # a forked child
    assert bench.client.submit_one is None


def test_a_handle_takes_either_way(log_dir: str) -> None:
    with rl.start_writer(log_dir, small_config()), rl.open_log(log_dir, autostart=False, timeout=30.0) as log:
        tickets = [
            log.submit([b"1"]), log.submit([bytearray(b"2")]), log.submit((b"3",)), log.submit([b"4"], term=1),
            log.submit([b"5", b"6"]), log.submit(payload for payload in (b"7",)), log.submit([b"8"]),
        ]  # fmt: skip
        values = [ticket.result(30.0) for ticket in tickets]
        assert [index for value in values for index in value] == list(range(1, 9))
        assert [entry.payload for entry in log.read(1)] == [b"%d" % number for number in range(1, 9)]
        for wrong in (b"x", "x", [1], ["x"]):
            with pytest.raises(TypeError):
                log.submit(wrong)  # type: ignore[arg-type]
        with pytest.raises(errors.EntryTooLarge):
            log.submit([b"x" * (log.config.entry_bytes_limit + 1)])
    with pytest.raises(errors.LogClosed):
        log.submit([b"x"])
