"""The reserve: of the last part of the room everybody who is connected has a share.  MemFirst, flushes by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from crc32c import crc32c

from raftlog_mp import format as fmt
from raftlog_mp import layout
from raftlog_mp.config import KIB, MIB
from raftlog_mp.reserve import RESERVE_PART

from .rooms import BODY, RECORD, ROOM, Room
from .running import Running

SHARE = ROOM // RESERVE_PART // 2  # of two clients


@pytest.fixture
def make(log_dir: str) -> Iterator[Callable[..., Room]]:
    made: list[Room] = []

    def make_one(**settings: Any) -> Room:
        made.append(Room(log_dir, **settings))
        return made[-1]

    yield make_one
    for room in made:
        room.close()


@pytest.fixture
def room(make: Callable[..., Room]) -> Room:
    return make()


# ---------------------------------------------------------------- who gets in
def test_beside_a_flood_a_polite_client_finds_room(room: Room) -> None:
    """The flood waits as with a full ring, flush included; its neighbour is answered, until its share is used, too."""
    flood, polite = room.crowd(1500, 0)
    room.fill()
    assert ROOM - SHARE - RECORD < room.unflushed <= ROOM - SHARE
    assert room.intake.blocked and room.journal.job is not None, "who waits for room has the flush begin"
    assert all(answer[1] == layout.OK for answer in flood.answers())
    for number in range(SHARE // RECORD):
        polite.submit(b"p" * BODY)
        assert room.intake.drain()
        assert [answer[:2] for answer in polite.answers()] == [(number + 1, layout.OK)]
    assert not flood.answers()
    polite.submit(b"p" * BODY)
    assert not room.intake.drain() and not polite.answers() and room.unflushed <= ROOM
    room.flushed()
    room.fill()
    assert [answer[0] for answer in polite.answers()] == [SHARE // RECORD + 1]
    assert flood.answers()[-1][0] == 1500 and not room.intake.blocked
    assert len(room.finish()) == 1500 + SHARE // RECORD + 1


def test_shares_are_for_every_flush_anew(room: Room) -> None:
    flood, polite = room.crowd(3900, 0)
    for _ in range(4):
        room.fill()
        assert room.intake.blocked
        for _ in range(SHARE // RECORD // 2):
            polite.submit(b"p" * BODY)
        assert room.intake.drain() and not room.intake.waiting()
        assert polite.answers()[-1][0] == polite.sequence - 1
        room.flushed()
    assert flood.answers() and flood.lane.tail > flood.peer.lane.head


def test_a_flush_of_little_gives_nobody_the_shares_of_others(room: Room) -> None:
    """The frontier has risen, but what waits still reaches into the reserve: what was used of it stays used."""
    first, flood, polite = room.crowd(1, 1500, 0)
    room.intake.drain()  # a little of it
    room._make_room()  # whose flush covers no more than that
    room.fill()
    share = ROOM // RESERVE_PART // 3
    assert ROOM - 2 * share - RECORD < room.unflushed <= ROOM - 2 * share
    ended = room.journal.job.end - room.journal.durable
    room.flushed()
    room.fill()
    assert room.unflushed <= ROOM - 2 * share and ended > 0
    polite.submit(b"p" * BODY)
    assert room.intake.drain() and polite.answers()


def test_entries_have_a_reserve_like_bytes(make: Callable[..., Room]) -> None:
    room = make(max_buffered_entries=80)
    flood, polite = room.crowd(200, 0, body=10)
    room.fill()
    assert room.journal.unflushed_entries == 75
    for _ in range(6):
        polite.submit(b"p")
    room.fill()
    assert room.journal.unflushed_entries == 80 and [answer[2] for answer in polite.answers()] == [76, 77, 78, 79, 80]
    room.flushed()
    room.fill()
    for _ in range(4):
        polite.submit(b"p")
    room.intake.drain()
    assert room.journal.unflushed_entries > 75 and polite.answers()[-1][0] == 10
    room.flushed()
    room.fill()
    assert flood.answers()[-1][0] == 200


def test_append_entries_keep_to_their_share(room: Room) -> None:
    """Whatever brings entries asks the same question; what brings none needs no room."""
    leader, polite = room.crowd(0, 0)
    body = b"x" * 10_000
    run = layout.ENTRY_RUN.pack(1, 1, len(body), crc32c(body), 0)
    for index in range(120):
        previous = {"a": index, "b": 1 if index else 0}
        leader.put(run + body, kind=layout.SUBMIT_ENTRIES, crc=crc32c(run), **previous)
    room.fill()
    assert ROOM - SHARE - 10_088 < room.unflushed <= ROOM - SHARE
    polite.submit(b"p" * BODY)
    assert room.intake.drain() and polite.answers()


def test_a_batch_beyond_the_limit_itself_leaves_nobody_in_debt(make: Callable[..., Room]) -> None:
    """It enters when nothing waits; a room too small to be shared is nobody's."""
    room = make(max_buffered_entries=7)
    batches, other = room.crowd(0, 0)
    batches.submit(*[b"x"] * 20)
    room.fill()
    assert room.journal.unflushed_entries == 20
    room.journal.flush()  # in the middle of a round, as a roll at once does it
    for _ in range(2):
        batches.submit(*[b"x"] * 3)
    other.submit(b"y")
    assert room.intake.drain() and not room.intake.blocked and room.journal.unflushed_entries == 7


# ---------------------------------------------------------------- who loses nothing
def test_a_client_alone_has_all_of_the_room(room: Room) -> None:
    room.crowd(1500)
    room.fill()
    assert ROOM - RECORD < room.unflushed <= ROOM and room.journal.room()[0] >= 0, "on the short way"


@pytest.mark.parametrize("each", [1, 3])  # entries: the short way, and the careful one
def test_when_the_others_leave_their_shares_are_free(room: Room, each: int) -> None:
    flood, other = room.crowd(0, 0)
    while flood.lane.tail < ROOM - SHARE:  # with the larger headers of records that is more than the other leaves
        flood.submit(*[b"x" * (BODY // each)] * each)
    room.fill()
    assert room.intake.blocked and ROOM - SHARE - 2 * RECORD < room.unflushed <= ROOM - SHARE
    room.clients.remove(other.peer)
    room.fill()
    assert not room.intake.blocked and room.unflushed > ROOM - SHARE
    flood.submit(b"next")
    assert room.intake.waiting() and room.intake.drain()


def test_disk_first_knows_no_reserve(make: Callable[..., Room]) -> None:
    room = make(strategy="disk_first")
    room.crowd(1500, 0)
    room.fill()
    assert ROOM - RECORD < room.unflushed <= ROOM


@pytest.mark.parametrize("taken", [0.0, 0.3, 0.45])
def test_the_largest_batch_gets_in_where_it_did(make: Callable[..., Room], taken: float) -> None:
    """While half of the room is free; also beyond what its share is."""
    room = make(lane_bytes=4 * MIB)
    room.crowd(int(taken * ROOM / RECORD), 0)
    room.fill()
    (big,) = room.crowd(1, body=room.journal.config.batch_bytes_limit)
    room.fill()
    assert big.answers()[0][1] == layout.OK and not room.intake.blocked


@pytest.mark.parametrize("settings", [
    {"max_buffered_bytes": 32 * KIB - 256}, {"max_buffered_entries": 1}, {"max_buffered_entries": 9},
])  # fmt: skip
def test_with_next_to_no_room_everybody_gets_a_turn(make: Callable[..., Room], settings: dict[str, int]) -> None:
    room = make(**settings)
    crowd = room.crowd(7, 7, 7, body=room.journal.config.batch_bytes_limit)
    for _ in range(21):
        room.fill()
        room.flushed()
    assert all(client.answers()[-1][0] == 7 for client in crowd)


# ---------------------------------------------------------------- who sleeps
def test_a_lane_that_waits_for_room_keeps_nobody_awake(room: Room) -> None:
    """And hides nobody else; when the frontier has risen it counts again."""
    flood, polite = room.crowd(1500, 0)
    room.fill()
    assert room.intake.blocked and not room.intake.waiting()
    flood.submit(b"behind")
    assert not room.intake.waiting()
    polite.submit(b"p")
    assert room.intake.waiting()
    room.intake.drain()
    assert room.intake.blocked and not room.intake.waiting()
    room.flushed()
    assert room.intake.waiting()


@pytest.mark.parametrize("waits", ["flood", "batch"])
def test_who_comes_just_before_the_writer_sleeps_is_seen(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, waits: str
) -> None:
    """No bell was rung, as the writer did not sleep yet; that somebody else waits for room hides nobody."""
    running = Running(log_dir, strategy="mem_first", max_buffered_entries=16)
    try:
        flood, polite = running.member(), running.member()
        intake, slept = running.writer._intake, list[float]()
        monkeypatch.setattr(running.writer.sessions.poller, "wait", lambda seconds: slept.append(seconds) or [])
        if waits == "flood":
            for _ in range(20):
                flood.submit(b"x")
        else:
            flood.submit(*[b"x"] * 10)
            flood.submit(*[b"x"] * 10)
        intake.drain()
        assert intake.blocked
        running.writer._sleep(30.0)
        polite.submit(b"p")
        running.writer._sleep(30.0)
        assert slept == [30.0, 0.0]
        intake.drain()
        running.writer._commit(True)
        assert polite.answers()
        running.writer._sleep(30.0)
        assert slept[2:] == [30.0]
    finally:
        monkeypatch.undo()
        running.end()


def test_during_a_flush_without_end_a_polite_client_is_served(
    log_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole writer: the disk stands still, the flood waits; when it goes on, so does the flood."""
    running = Running(log_dir, strategy="mem_first", max_buffered_entries=160)
    syncer, held = running.writer._syncer, list[Any]()
    assert syncer is not None
    submit = syncer.submit
    monkeypatch.setattr(syncer, "submit", held.append)
    try:
        flood, polite = running.member(), running.member()
        running.start()
        for _ in range(400):
            flood.submit(b"x")
        flood.wait_answers(150)
        for number in range(10):
            assert polite.append(b"p")[:2] == (number + 1, layout.OK)
        assert flood.answers() == [] and len(held) == 1
        monkeypatch.undo()
        submit(held[0])
        assert flood.wait_answers(400)[-1][1] == layout.OK
    finally:
        monkeypatch.undo()
        if running.journal.job is not None and running.journal.job.finished is None:
            submit(running.journal.job)
        running.end()


# ---------------------------------------------------------------- at random
def bounds_hold(room: Room, largest: tuple[int, int]) -> None:
    """The hard bounds; only a batch that is beyond them itself may enter, when nothing waits."""
    config = room.journal.config
    assert room.unflushed <= max(config.buffered_bytes_limit, fmt.RECORD_BYTES + largest[0])
    if config.max_buffered_entries is not None:
        assert room.journal.unflushed_entries <= max(config.max_buffered_entries, largest[1])


@pytest.mark.parametrize("seed", range(12))
def test_nobody_waits_for_ever(make: Callable[..., Room], seed: int) -> None:
    """Clients with batches of all sizes, flushes that end when they like: bounds hold, and everybody is served."""
    dice = random.Random(seed)
    settings: dict[str, int] = {"lane_bytes": dice.choice([64 * KIB, MIB, 4 * MIB])}
    if dice.random() < 0.5:
        settings["max_buffered_entries"] = dice.choice([1, 5, 17, 64, 1000])
    if dice.random() < 0.3:
        settings["max_buffered_bytes"] = min(settings["lane_bytes"], MIB) // 2
    room = make(**settings)
    limit = room.journal.config.batch_bytes_limit
    crowd = [room.client(lane_bytes=16 * MIB) for _ in range(dice.randrange(1, 6))]
    largest, waited, heads = [0, 0], [0] * len(crowd), [0] * len(crowd)
    for _ in range(400):
        for client in crowd:
            if client.lane.tail < 14 * MIB and dice.random() < 0.5:
                count = dice.choice([1, 1, 2, 30])
                size = int(limit * dice.random() ** dice.choice([1, 4, 16])) // count
                client.submit(*[b"x" * max(1, size - 10)] * count)
                largest = [max(largest[0], max(1, size - 10) * count + 6 * count), max(largest[1], count)]
        room.intake.drain()
        bounds_hold(room, (largest[0], largest[1]))
        if dice.random() < 0.3 and room.journal.job is not None:
            for number, client in enumerate(crowd):
                head = client.peer.lane.head
                waited[number] = waited[number] + 1 if head == heads[number] < client.lane.tail else 0
                heads[number] = head
            assert max(waited) < 12 * len(crowd), "flushes end, and one waits for all of them"
            room.flushed()
    for _ in range(1 + sum(client.sequence for client in crowd)):
        room.fill()
        if not room.intake.blocked:
            break
        room.flushed()
    assert not room.intake.waiting() and room.bad == []
    for client in crowd:
        answers = client.answers()
        assert client.sequence == 1 or answers[-1][0] == client.sequence - 1
        assert {answer[1] for answer in answers} <= {layout.OK, layout.TOO_LARGE}


@pytest.mark.parametrize("seed", range(6))
def test_a_polite_client_never_waits_beside_floods(make: Callable[..., Room], seed: int) -> None:
    """Whatever the flushes do: one small entry between two of them is taken in the next round."""
    dice = random.Random(seed)
    room = make(lane_bytes=256 * KIB)
    floods, polite = room.crowd(*[0] * dice.randrange(1, 5)), room.client(lane_bytes=MIB)
    blocked = 0
    for _ in range(300):
        for flood in floods:
            while flood.lane.tail - flood.peer.lane.head < 256 * KIB:
                count = dice.choice([1, 1, 16])
                flood.submit(*[b"x" * dice.randrange(1, 4000)] * count)
        room.intake.drain()
        blocked += room.intake.blocked
        if dice.random() < 0.15:
            polite.submit(b"p" * 200)
            assert room.intake.waiting() and room.intake.drain()
            assert polite.answers()[-1][0] == polite.sequence - 1, "it waited"
            room.flushed()
        bounds_hold(room, (0, 0))
    assert blocked > 50 and polite.sequence > 20
