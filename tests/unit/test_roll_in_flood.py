"""A flood fills the room, and a segment ends: the roll behind lets nobody wait who has room of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftlog_mp import layout
from raftlog_mp.config import KIB, MIB

from .lanes import Client
from .rolls import do_at_once
from .rooms import BODY, ROOM, Room

ROLLS = 20


@pytest.fixture(params=[18, 22, 26, 30])
def room(log_dir: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Room]:
    """Segments of several lengths: they end where the ring is empty, nearly full, and between."""
    do_at_once(monkeypatch)
    made = Room(log_dir, segment_bytes=request.param * MIB // 16)
    made.journal.bell = lambda: None  # as a writer with a main loop: rolls go on behind
    yield made
    monkeypatch.undo()
    made.flushed()
    made.close()


def flooded_until_rolled(room: Room, flooders: list[Client], polite: Client, rolls: int) -> Iterator[int]:
    """Flush by flush: the flood fills the room, then the polite client appends; yields what it was answered then."""
    journal = room.journal
    while journal.rolls < rolls:
        for flooder in flooders:
            while flooder.lane.tail - flooder.peer.lane.head < 2 * ROOM:
                flooder.submit(b"f" * BODY)
        room.fill()
        assert room.intake.blocked and room.unflushed <= ROOM
        polite.submit(b"p" * BODY)
        room.fill()
        yield len(polite.answers())
        for flooder in flooders:
            assert all(answer[1] == layout.OK for answer in flooder.answers())
        room._make_room()
        room.flushed()


@pytest.mark.parametrize("flooding", [1, 4])
def test_a_roll_in_a_flood_lets_nobody_wait_who_has_room(room: Room, flooding: int) -> None:
    *flooders, polite = room.crowd(*[0] * (flooding + 1))
    before = room.journal.rolls
    told = list(flooded_until_rolled(room, flooders, polite, before + ROLLS))
    assert told == [1] * len(told) and len(told) >= ROLLS
    polite.submit(b"last")
    room._make_room()
    room.flushed()
    assert len(room.finish()) == room.journal.next_index - 1


def test_what_opens_a_segment_is_held_free_only_where_one_may_end(
    room: Room, monkeypatch: pytest.MonkeyPatch
) -> None:
    flooders, journal, free = room.crowd(0, 0, 0), room.journal, []
    open_gate, roll_behind = journal.open_gate, journal._roll_behind

    def looks() -> None:
        open_gate()
        near = journal._limit - journal.durable <= ROOM and journal._roll is None
        assert (journal.held > 0) is near

    def rolls(body_bytes: int, count: int) -> bool:
        free.append((journal.held, ROOM - room.unflushed))
        return roll_behind(body_bytes, count)

    monkeypatch.setattr(journal, "open_gate", looks)
    monkeypatch.setattr(journal, "_roll_behind", rolls)
    for _ in flooded_until_rolled(room, flooders[:2], flooders[2], journal.rolls + ROLLS):
        pass
    assert len(free) >= ROLLS and all(0 < held <= left for held, left in free)


def test_a_client_alone_has_that_room_too(room: Room) -> None:
    """It would wait for the flush in any case."""
    room.crowd(1000)
    room.fill()
    room._make_room()
    room.flushed()
    journal = room.journal
    assert journal.held > 0 and journal.room()[0] == min(journal._limit, journal.durable + ROOM) - journal.end


def test_where_a_table_would_take_much_of_the_room_nothing_is_held_free(
    log_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then a roll may wait for a flush; the shares stay what they are, and everybody gets in."""
    do_at_once(monkeypatch)
    room = Room(log_dir, max_buffered_bytes=512 * KIB, segment_bytes=512 * KIB)
    try:
        room.journal.bell = lambda: None
        crowd = room.crowd(*[300] * 15, 0)
        polite, rounds = crowd.pop(), 0
        while room.journal.rolls < 6:
            rounds += 1
            room.fill()
            assert room.journal.held == 0 and room.unflushed <= 512 * KIB
            polite.submit(b"p" * BODY)
            room.fill()
            room._make_room()
            room.flushed()
        assert rounds >= 6 and len(polite.answers()) >= rounds - 1
    finally:
        room.flushed()
        room.close()


def test_who_has_left_holds_no_room(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 200 that went without a word their few submissions count, and no more."""
    do_at_once(monkeypatch)
    room = Room(log_dir, segment_bytes=MIB)
    try:
        room.journal.bell = lambda: None
        for client in room.crowd(*[1] * 200):
            room.fill()
            room.clients.remove(client.peer)
            room.journal.producers.disconnect(client.peer.producer, for_good=False)
        room.journal.flush()
        room.crowd(0, 0)
        room.intake.drain()
        assert 0 < room.journal.held < MIB // 6
    finally:
        room.close()
