"""The straight way of the writer's round when the disk fails, when more arrives meanwhile, and over several rounds."""

from __future__ import annotations

import errno
import select
from collections.abc import Callable

import pytest

import raftlog_mp as rl
from raftlog_mp import layout, manifest, straight_round, wakeup
from raftlog_mp import shm as memory
from raftlog_mp.files import Files
from raftlog_mp.protocol import READER
from raftlog_mp.types import HardState

from .journals import BOTH, entries_of, reopen
from .rounds import LATE, Stage, begun, ok, put
from .running import Member

FAILED = (layout.SYNC_FAILED, 0, 0, 0, errno.EIO)


pytestmark = pytest.mark.usefixtures("never_skipped")


# ---------------------------------------------------------------- the disk fails
@pytest.mark.parametrize("operation", ["sync", "pwrite"])
def test_who_was_taken_when_the_disk_fails_is_told_and_nothing_is_shown(
    stage: Callable[..., Stage], log_dir: str, operation: str
) -> None:
    one = stage()
    members = begun(one)
    shown = {name: one.word(name) for name in ("published", "last_index", "durable", "durable_index", "entries")}
    syncs = one.word("fsyncs")
    one.files.fail(operation, errno.EIO, path=".seg")
    for member in members:
        put(member, b"lost")
    assert one.go(), "it was a straight round"
    assert members[0].answers() == [(3, *FAILED)] and members[1].answers() == [(2, *FAILED)]
    assert {name: one.word(name) for name in shown} == shown
    assert (one.word("state"), one.word("fsyncs")) == (layout.STATE_FAILED, syncs + 1)
    assert (one.word("unflushed_entries"), one.word("unflushed_bytes")) == (0, 0)
    assert manifest.load(Files(), log_dir).failed
    steps = len(one.files.operations(".seg"))
    put(members[0], b"later")
    assert not one.go()
    assert members[0].answers() == [(4, *FAILED)] and len(one.files.operations(".seg")) == steps
    one.start()
    with rl.open_reader(log_dir) as reader:
        assert [entry.payload for entry in reader.read(1)] == [b"first", b"plain", b"plain"]
    one.end()
    assert reopen(log_dir)[0] == {1: (1, b"first"), 2: (1, b"plain"), 3: (1, b"plain")}


def test_what_was_lost_is_refused_to_who_sends_it_again(stage: Callable[..., Stage]) -> None:
    one = stage()
    member = begun(one, 1)[0]
    one.files.fail("sync", errno.EIO, path=".seg")
    put(member, b"lost")
    assert one.go() and member.answers() == [(3, *FAILED)]
    again = one.member(producer=1, first_unresolved=3, highest_sent=3)
    again._sequence = 2
    put(again, b"lost")
    assert not one.go() and again.answers() == [(3, *FAILED)]


def test_a_sync_in_the_background_that_fails_takes_back_nothing(stage: Callable[..., Stage]) -> None:
    one = stage(strategy="mem_first")
    members = begun(one)
    one.files.fail("sync", errno.EIO, path=".seg")
    for member in members:
        put(member, b"acknowledged")
    assert one.go()
    assert members[0].answers() == [ok(3, 4)] and members[1].answers() == [ok(2, 5)]
    assert (one.word("state"), one.word("last_index"), one.word("durable_index")) == (layout.STATE_FAILED, 5, 3)
    put(members[0], b"refused")
    assert not one.go() and members[0].answers() == [(4, *FAILED)] and one.word("last_index") == 5


# ---------------------------------------------------------------- more arrives meanwhile
class Arriving:
    """A lane's cursor: when it is looked at for the ``number``-th time, something happens first."""

    def __init__(self, stage: Stage, member: Member, act: Callable[[], None], number: int = 1) -> None:
        lane = stage.lane(member)
        self._cell, self._act, self._number = lane.tail, act, number
        lane.tail = self

    def load(self, order: int) -> int:
        self._number -= 1
        if self._number == 0:
            self._act()
        return int(self._cell.load(order))


@BOTH
def test_what_comes_while_others_are_taken_goes_with_them(stage: Callable[..., Stage], strategy: str) -> None:
    """Also a second one of the same client: one sync is enough for all of them."""
    one = stage(strategy=strategy)
    early, late = begun(one)
    syncs = one.word("fsyncs")
    put(late, b"1")
    Arriving(one, late, lambda: put(early, b"2"))
    Arriving(one, late, lambda: put(late, b"3"), number=2)
    assert one.go() and one.word("fsyncs") == syncs + 1 and one.word("last_index") == 6
    assert early.answers() == [ok(3, 5)] and late.answers() == [ok(2, 4), ok(3, 6)]
    assert one.journal.producers.look_up(2, 3) == ("appended", (6, 1, 1))
    one.end()
    assert [payload for _, payload in entries_of(one.directory).values()][3:] == [b"1", b"2", b"3"]


def test_the_looks_at_the_lanes_are_bounded(stage: Callable[..., Stage]) -> None:
    """Who submits faster than the writer takes does not keep the others from their answers."""
    one = stage()
    early, late = begun(one)
    put(late, b"x")
    for number in range(1, 30):
        Arriving(one, late, lambda: put(early, b"x"), number)
    assert one.go() and len(late.answers()) == 1 and 0 < len(early.answers()) < 10


NOT_PLAIN: dict[str, Callable[[Member], None]] = {
    "a batch": lambda member: put(member, b"x", b"y"), "a term": lambda member: put(member, b"x", b"y", term=1),
    "a bad checksum": lambda member: put(member, b"x", crc=1),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("name", NOT_PLAIN)
def test_what_comes_late_and_is_not_plain_waits_intact_for_the_next_round(
    stage: Callable[..., Stage], name: str, strategy: str
) -> None:
    one = stage(strategy=strategy)
    early, late = begun(one)
    put(late, b"x")
    Arriving(one, late, lambda: NOT_PLAIN[name](early))
    head, due = one.lane(early).head, one.peer(early).next_sequence
    assert one.go() and late.answers() == [ok(2, 4)] and early.answers() == []
    assert (one.lane(early).head, one.peer(early).next_sequence) == (head, due)
    assert one.writer._intake.waiting()
    assert not one.go()
    expected = (3, layout.MALFORMED, 0, 0, 0, 0) if name == "a bad checksum" else ok(3, 5, count=2)
    assert early.answers() == [expected]


@BOTH
def test_a_number_that_comes_twice_costs_its_client_its_lane(stage: Callable[..., Stage], strategy: str) -> None:
    """As on the general way: what has the number of one that was taken a moment ago is not taken as well."""
    one = stage(strategy=strategy)
    honest, liar = begun(one)
    put(honest, b"x")
    put(liar, b"once")
    Arriving(one, liar, lambda: put(liar, b"twice", sequence=2), number=2)
    assert one.go() and one.word("last_index") == 5
    assert not one.go() and one.word("dropped_peers") == 1
    assert honest.answers() == [ok(3, 4)] and liar.answers() == [ok(2, 5)]
    one.end()
    assert [payload for _, payload in entries_of(one.directory).values()][3:] == [b"x", b"once"]


# ---------------------------------------------------------------- over several rounds
@BOTH
@pytest.mark.parametrize("meanwhile", [False, True])
def test_a_lane_that_is_never_plain_is_not_starved(
    stage: Callable[..., Stage], strategy: str, meanwhile: bool
) -> None:
    """Whether its submissions stand there when a round begins, or always come while the others are taken."""
    one = stage(strategy=strategy)
    odd, *plain = begun(one, 4)
    for number in range(3, 13):
        for member in plain:
            put(member, b"x")
        if meanwhile:
            one.sort()
            Arriving(one, plain[0], lambda: put(odd, b"y", b"z"))
        else:
            put(odd, b"y", b"z")
        assert one.go() == meanwhile
        assert [len(member.answers()) for member in plain] == [1] * 3
        if meanwhile:
            for member in plain:
                put(member, b"x")
            assert not one.go(), "what was left is in the next round"
            assert [len(member.answers()) for member in plain] == [1] * 3
        assert [(answer[0], answer[1]) for answer in odd.answers()] == [(number, layout.OK)]


@BOTH
def test_after_lanes_that_were_not_plain_some_rounds_go_the_general_way(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    """Who floods goes on: no need to find that out in every round."""
    monkeypatch.setattr(straight_round, "SKIPPED_ROUNDS", 3)
    one = stage(strategy=strategy)
    member, other = begun(one, 2)
    put(member, b"x", b"y")
    assert not one.go()
    ways = []
    for _ in range(6):
        put(member, b"x")
        put(other, b"x")
        ways.append(one.go())
        assert len(other.answers()) == 1
    assert ways == [False] * 3 + [True] * 3


@BOTH
@pytest.mark.parametrize("hard", [False, True])
def test_who_gives_the_term_of_the_last_entry_goes_straight(
    stage: Callable[..., Stage], strategy: str, hard: bool
) -> None:
    """A leader of Raft: its term is the log's as long as it leads."""
    one = stage(strategy=strategy)
    leader, other = begun(one, 2)
    put(leader, b"first", term=5)
    assert not one.go() and [answer[4] for answer in leader.answers()] == [5], "a new term has to begin"
    if hard:
        one.journal.hard = HardState(5)
    put(leader, b"second", term=5)
    assert one.go() and [answer[1:5] for answer in leader.answers()] == [(layout.OK, 5, 1, 5)]
    put(leader, b"third", term=4)
    assert not one.go() and [answer[1] for answer in leader.answers()] == [layout.STALE_TERM]
    put(other, b"without")
    assert one.go() != hard, "none given: only where nobody votes"
    assert [answer[1] for answer in other.answers()] == [layout.TERM_REQUIRED if hard else layout.OK]


def test_where_something_waits_for_room_the_general_way_finds_out_when_there_is_some(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A writer that believes a lane blocked neither spins nor gathers: it must not go on believing it."""
    one = stage(strategy="mem_first", flush_policy=LATE, max_buffered_entries=2)
    member = one.client()
    intake, journal = one.writer._intake, one.journal
    started: list[None] = []
    monkeypatch.setattr(one.writer, "_start_background_flush", lambda: started.append(None))
    for _ in range(3):
        put(member, b"x")
    one.go()
    assert intake.blocked and started and one.word("last_index") == 2
    monkeypatch.undo()
    one.writer._start_background_flush()
    while journal.job is not None:
        journal.job.wait()
        one.writer._finish_background_flush()
    one.go()
    assert not intake.blocked and member.answers()[-1] == ok(3, 3)
    put(member, b"x")
    assert one.go() and not intake.blocked


# ---------------------------------------------------------------- bells
@BOTH
def test_who_sleeps_is_rung_once_a_sleep_and_nobody_else(stage: Callable[..., Stage], strategy: str) -> None:
    one = stage(strategy=strategy, flush_policy=LATE if strategy == "mem_first" else rl.Immediate())
    asleep, awake = begun(one)
    reader = one.member(role=READER)
    for sleep in (1, 2):
        asleep.seat.wants.store(sleep << 2 | layout.WANTS_ANSWERS, memory.SEQ_CST)
        reader.seat.wants.store(sleep << 2 | layout.WANTS_PROGRESS, memory.SEQ_CST)
        for bell in (True, False):
            for member in (asleep, awake):
                put(member, b"x")
            assert one.go()
            socks = [member.caller.sock for member in (asleep, awake, reader)]
            rung = select.select(socks, [], [], 0)[0]
            assert rung == ([socks[0], socks[2]] if bell else [])
            for sock in rung:
                wakeup.receive_now(sock)


def test_who_has_hung_up_holds_nobody_up(stage: Callable[..., Stage]) -> None:
    """It is answered, and rung, into the void; what it submitted stays."""
    one = stage()
    gone, here = begun(one)
    gone.seat.wants.store(1 << 2 | layout.WANTS_ANSWERS, memory.SEQ_CST)
    put(gone, b"last words")
    put(here, b"x")
    gone.leave()
    assert one.go() and here.answers() == [ok(2, 5)] and gone.answers() == [ok(3, 4)]
    one.writer._sleep(0.0)
    assert one.word("clients") == 1
    put(here, b"x")
    assert one.go() and here.answers() == [ok(3, 6)]


@BOTH
def test_who_submits_is_at_work_and_who_is_merely_connected_is_not(stage: Callable[..., Stage], strategy: str) -> None:
    """Whether anybody looks before sleeping depends on it."""
    one = stage(strategy=strategy)
    one.client()
    assert one.writer._intake.count_active() == 0
    _, member, _ = begun(one, 3)
    assert one.writer._intake.count_active() == 3
    put(member, b"x")
    assert one.go() and one.writer._intake.count_active() == 1 and one.writer._intake.count_active() == 0
