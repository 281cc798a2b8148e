"""The pace of a flood: pure, then an intake whose flushes are done by hand."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from raftlog_mp import layout, wakeup
from raftlog_mp.config import MIB
from raftlog_mp.errors import SyncFailed
from raftlog_mp.intake import DRAIN_BYTES_MIN
from raftlog_mp.pace import FLUSH_SECONDS_MIN, LIKE_SECONDS, NEVER, STEPS, Pace
from raftlog_mp.reserve import RESERVE_PART

from .lanes import Client
from .rooms import BODY, RECORD, ROOM, Room

FLUSH = 0.05


def paced(*, full: bool = True, flush_seconds: float = FLUSH) -> Pace:
    pace = Pace()
    if full:
        pace.found_full()
    pace.begin(100.0, 5000, 1600, flush_seconds)
    return pace


# ---------------------------------------------------------------- pure
def test_the_room_opens_step_by_step_until_a_little_before_the_flush_is_expected_to_end() -> None:
    pace, opened, now = paced(), list[int](), 100.0
    while (limit := pace.limit(now)) is not None:
        opened.append(limit)
        assert now < pace.next_step <= now + FLUSH * LIKE_SECONDS / STEPS + 1e-9
        now = pace.next_step + 1e-9
    assert opened == [5000 + 1600 * step // STEPS for step in range(1, STEPS)]
    assert now == pytest.approx(100.0 + FLUSH * LIKE_SECONDS * (STEPS - 1) / STEPS, abs=1e-6)
    assert pace.next_step == NEVER and pace.limit(100.0) is None, "what is open stays open"


def test_who_looks_late_finds_all_steps_that_are_due() -> None:
    pace = paced()
    assert pace.limit(100.0 + FLUSH * LIKE_SECONDS / 2 + 1e-6) == 5000 + 1600 * (STEPS // 2 + 1) // STEPS


@pytest.mark.parametrize("how", [{"full": False}, {"flush_seconds": FLUSH_SECONDS_MIN * 0.99}, {"flush_seconds": 0.0}])
def test_where_the_disk_keeps_up_nobody_is_held_back(how: dict[str, float]) -> None:
    pace = paced(**how)  # type: ignore[arg-type]  # names and values of the parameters above
    assert pace.limit(100.0) is None and pace.next_step == NEVER


def test_one_flush_after_which_nobody_found_it_full_ends_it() -> None:
    pace = paced()
    pace.begin(100.05, 6000, 1600, FLUSH)
    assert pace.limit(100.05) is None


def test_a_flush_that_is_done_opens_everything() -> None:
    pace = paced()
    assert pace.limit(100.0) is not None
    pace.end()
    assert pace.limit(100.0) is None and pace.next_step == NEVER


# ---------------------------------------------------------------- in the intake
class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr(wakeup, "now", found)
    return found


@pytest.fixture
def room(log_dir: str, clock: Clock) -> Iterator[Room]:
    made = Room(log_dir, segment_bytes=16 * MIB)
    yield made
    made.close()


def end_flush(room: Room) -> None:
    room.flushed()
    room.intake.pacing.end()


def wait_of(room: Room) -> float:
    """As the writer asks, before it sleeps."""
    return room.intake.pacing.seconds_until_more() if room.intake.blocked else NEVER


def hold_back(room: Room, extra: Client) -> tuple[int, int]:
    """The room was full, and a flush of one entry begins: where the log ends, and how much more may enter."""
    room.fill()
    assert room.intake.blocked and wait_of(room) == NEVER, "for room one waits, not for a moment"
    while room.unflushed:
        room._make_room()
        end_flush(room)
        room.fill()
    extra.submit(b"x" * BODY)
    room.fill()
    extra.answers()
    room.intake.pacing.found_full()
    room.journal.sync_seconds = FLUSH
    room.intake.pacing.begin()
    room._make_room()
    return room.journal.end, room.journal.spare_bytes


def held(room: Room, flood: Client, entries: int) -> None:
    """So much more comes, which is more than may enter now."""
    for _ in range(entries):
        flood.submit(b"f" * BODY)
    room.fill()
    assert flood.peer.lane is not None and flood.peer.lane.head < flood.lane.tail


def test_a_flood_gets_in_as_the_disk_lets_go_of_it_and_the_others_at_once(room: Room, clock: Clock) -> None:
    *flooders, polite = room.crowd(500, 500, 0)
    start, spare = hold_back(room, polite)
    assert spare == ROOM - ROOM // RESERVE_PART // 3 * 3 - RECORD
    for flooder in flooders:
        for _ in range(1500):
            flooder.submit(b"f" * BODY)
    for step in range(1, STEPS):
        room.fill()
        assert room.intake.blocked and wait_of(room) < FLUSH / STEPS
        taken = room.journal.end - start - (step - 1) * RECORD
        assert spare * step // STEPS - step * RECORD <= taken < spare * step // STEPS + DRAIN_BYTES_MIN, step
        assert not room.intake.waiting(), "who is held back keeps nobody awake"
        polite.submit(b"p" * BODY)
        assert room.intake.waiting() and room.intake.drain()
        assert polite.answers()[0][:2] == (step + 1, layout.OK)
        clock.now += wait_of(room) + 1e-6
    room.fill()
    assert wait_of(room) == NEVER and spare - (room.journal.end - start) < RECORD
    assert all(answer[1] == layout.OK for flooder in flooders for answer in flooder.answers())


def test_one_large_entry_is_no_flood(room: Room) -> None:
    flood, polite = room.crowd(1000, 0)
    hold_back(room, polite)
    held(room, flood, 300)
    assert room.intake.blocked
    for size in (DRAIN_BYTES_MIN, room.intake.entry_limit):
        polite.submit(b"p" * size)
        room.fill()
        assert [answer[1] for answer in polite.answers()] == [layout.OK]


@pytest.mark.parametrize("how", ["in the middle of a round", "with an error"])
def test_a_flush_of_whose_end_nobody_tells_holds_nothing_back(room: Room, how: str) -> None:
    flood, other = room.crowd(1000, 0)
    hold_back(room, other)
    held(room, flood, 300)
    assert room.intake.blocked and room.journal.job is not None
    if how == "with an error":
        room.journal.job.error = OSError(5, "Input/output error")
        with pytest.raises(SyncFailed):
            room.journal.finish_job()
    else:
        room.journal.flush()
    room.fill()
    assert not room.intake.blocked and flood.peer.lane.head == flood.lane.tail


def test_the_last_of_a_log_is_not_held_back(room: Room) -> None:
    """Whatever is flushed while the lanes are emptied."""
    flood, other = room.crowd(1000, 0)
    hold_back(room, other)
    held(room, flood, 1500)
    assert room.intake.blocked
    room.intake.pacing.stop()
    while flood.peer.lane.head < flood.lane.tail:
        assert room.intake.drain(), "until there is no room"
        if room.intake.blocked:
            room.journal.flush()
            room.intake.pacing.begin()
