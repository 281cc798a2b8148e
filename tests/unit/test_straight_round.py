"""The straight way of the writer's round: it does what the general way does, or it does nothing at all."""

from __future__ import annotations

import errno
import inspect
import random
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raftlog_mp as rl
from raftlog_mp import layout, pressure, shm, straight_round
from raftlog_mp.config import KIB
from raftlog_mp.lane import Completion
from raftlog_mp.types import HardState

from .journals import BOTH, entries_of
from .rounds import LATE, Stage, begun, put
from .running import Member
from .test_journal_order import OrderBroken, OrderCheck

pytestmark = pytest.mark.usefixtures("never_skipped")


# ---------------------------------------------------------------- the same as the general way
def submit_some(chance: random.Random, member: Member) -> None:
    """What a client may have in its lane when a round begins: mostly one plain entry."""
    payload, what = chance.randbytes(chance.choice([0, 1, 100, 1000, 2500, 3900])), chance.random()
    if what < 0.02:
        put(member, payload, b"second")
    elif what < 0.04:
        put(member, payload, term=chance.randrange(1, 4))
    elif what < 0.05:
        put(member, payload, crc=12345)
    elif what < 0.07:
        put(member, payload)
        put(member, payload)
    elif what < 0.09:
        put(member, chance.randbytes(chance.choice([4000, 6000, 12_001])))  # the last: above max_entry_bytes
    elif what < 0.80:
        put(member, payload)


TIMING = {"fsync_ns", "spin_ns", "retry_after_ms", "memory_used", "memory_stalled", "writer_rss", "log_id"}


STANDS = (
    "end", "copied", "written", "published", "durable", "next_index", "published_index", "durable_index", "slots_from",
    "last_term", "vouched", "tail_entries_end", "wants_mark", "appends", "entries", "bytes", "fsyncs", "_open_end",
    "_open_index",
)  # fmt: skip


def round_of(stage: Stage) -> tuple[Any, ...]:
    """One round, and where the log stands behind it."""
    journal, intake = stage.journal, stage.writer._intake
    intake.oldest = journal.sync_seconds = -1.0
    stage.sort()
    stage.go()
    aged = intake.oldest != -1.0 if stage.writer._mem_first else journal.sync_seconds != -1.0
    return aged, intake.blocked, len(journal._newest), *(getattr(journal, name) for name in STANDS)


def life(
    directory: Path, seed: int, strategy: str, *, straight: bool, **more: Any
) -> tuple[Stage, tuple[Any, ...]]:
    """What became of seeded submissions: answers, each round, control words at rest, exactly-once table, entries."""
    chance = random.Random(seed)
    # MemFirst without a roll: which round its helper threads let go on behind one is a matter of chance.
    segment_bytes = 128 * KIB if strategy == "disk_first" else 4096 * KIB
    settings: dict[str, Any] = {"max_entry_bytes": 12_000, "segment_bytes": segment_bytes} | more
    settings["max_buffered_entries"] = chance.choice([None, 3, 100])
    if strategy == "mem_first" and settings["max_buffered_entries"] != 3:
        settings["flush_policy"] = LATE
    stage = Stage(str(directory), straight=straight, strategy=strategy, **settings)
    try:
        members = [stage.client() for _ in range(3)]
        rounds: list[tuple[Any, ...]] = []
        for _ in range(70):
            for member in members:
                submit_some(chance, member)
            rounds.append(round_of(stage))
        while stage.writer._intake.count_waiting():
            rounds.append(round_of(stage))
        stage.journal.flush()
        stage.sort()
        words = {name: value for name, value in stage.control.snapshot().items() if name not in TIMING}
        table = dict(stage.journal.producers._windows), dict(stage.journal.producers._highest)
        sequences = [(peer.next_sequence, peer.lane.head) for peer in stage.writer.sessions.clients]
        answers = [member.answers() for member in members]
    finally:
        stage.end()
    return stage, (answers, rounds, words, table, sequences, entries_of(str(directory)))


@BOTH
@pytest.mark.parametrize("seed", range(5))
def test_a_life_is_the_same_with_and_without_it(tmp_path: Path, seed: int, strategy: str) -> None:
    general, expected = life(tmp_path / "general", seed, strategy, straight=False)
    stage, found = life(tmp_path / "straight", seed, strategy, straight=True)
    assert general.straight_rounds == 0 < 15 < stage.straight_rounds < stage.rounds
    names = ("answers", "rounds", "words", "table", "lanes", "entries")
    for what, mine, theirs in zip(names, found, expected, strict=True):
        assert mine == theirs, what
    assert len(found[-1]) > 100 and max(head for _, head in found[4]) > 64 * KIB, "lanes wrapped"


# ---------------------------------------------------------------- what it leaves alone
def state_of(stage: Stage) -> dict[str, Any]:
    """Everything that a round might change."""
    found: dict[str, Any] = {f"word {name}": value for name, value in stage.control.snapshot().items()}
    for what in (stage.journal, stage.writer._intake, *stage.writer.sessions.clients):
        for name, value in vars(what).items():
            found[f"{type(what).__name__} {name} {id(what)}"] = list(value) if isinstance(value, list) else value
    for member in stage._members:
        found[f"posted {id(member)}"] = member.lane.done.load(shm.SEQ_CST)
    lanes = [(peer.lane.head, peer.lane.done, list(peer.answers)) for peer in stage.writer.sessions.clients]
    table = {producer: dict(window) for producer, window in stage.journal.producers._windows.items()}
    ring, index = stage.journal.ring, stage.journal.index
    assert index is not None
    memory = bytes(ring.mapping.data[:8192]), ring.floor, bytes(index._mapping.data[:4096])
    return found | {"lanes": lanes, "table": table, "memory": memory, "steps": len(stage.files.steps)}


def move_tail(stage: Stage, member: Member, by: int) -> None:
    member.lane._tail_cell.store((member.lane.tail + by) % (1 << 64), shm.SEQ_CST)


def resumed(stage: Stage, member: Member) -> None:
    stage.peer(member).resumed_until = member._sequence + 1
    put(member, b"sent again")


def no_room(stage: Stage, member: Member) -> None:
    stage.journal._open_end = stage.journal.end + 2 * 96  # the first one fits
    put(member, b"x" * 100)


def no_slot(stage: Stage, member: Member) -> None:
    stage.journal._open_index = stage.journal.next_index + 1
    put(member, b"x")


def two_in_a_row(stage: Stage, member: Member) -> None:
    put(member, b"x")
    put(member, b"x")


def lapped(stage: Stage, member: Member) -> None:
    put(member, b"x")
    move_tail(stage, member, 64 * KIB)


NOT_PLAIN: dict[str, Callable[[Stage, Member], None]] = {
    "a batch": lambda stage, member: put(member, b"x", b"y"),
    "a term": lambda stage, member: put(member, b"x", term=2),
    "an unknown flag": lambda stage, member: put(member, b"x", flags=4),
    "a bad checksum": lambda stage, member: put(member, b"x", crc=1),
    "another kind": lambda stage, member: put(member, b"", kind=layout.SUBMIT_TRUNCATE),
    "two in a row": two_in_a_row,
    "larger than a small copy": lambda stage, member: put(member, bytes(4096)),
    "above the limit of an entry": lambda stage, member: put(member, bytes(2001)),
    "a sequence ahead": lambda stage, member: put(member, b"x", sequence=member._sequence + 2),
    "a sequence behind": lambda stage, member: put(member, b"x", sequence=member._sequence),
    "a length that lies": lambda stage, member: put(member, b"x" * 10, length=9),
    "a length beyond everything": lambda stage, member: put(member, b"x", length=(1 << 32) - 1),
    "a cursor that went back": lambda stage, member: move_tail(stage, member, -1),
    "a cursor inside a header": lambda stage, member: move_tail(stage, member, 1),
    "a cursor beyond the lane": lapped, "sent before a reconnect": resumed, "no room": no_room, "no slot": no_slot,
}  # fmt: skip


@pytest.mark.parametrize(("name", "strategy"), [
    (name, ("disk_first", "mem_first")[at % 2]) for at, name in enumerate(NOT_PLAIN)
])  # fmt: skip
def test_a_lane_that_is_not_plain_leaves_all_of_them_to_the_general_way(
    stage: Callable[..., Stage], name: str, strategy: str
) -> None:
    one = stage(strategy=strategy, flush_policy=LATE if strategy == "mem_first" else rl.Immediate(),
                max_entry_bytes=2000 if "limit" in name else None)  # fmt: skip
    plain, other, last = begun(one, 3)
    put(plain, b"plain")
    put(last, b"plain")
    NOT_PLAIN[name](one, other)
    one.sort()
    before = state_of(one)
    assert not one.writer._straight()
    assert state_of(one) == before
    one.journal.open_gate()
    one.go()
    assert [len(member.answers()) for member in (plain, last)] == [1, 1]
    assert one.word("last_index") >= 6


def spoil(stage: Stage, what: str, patch: pytest.MonkeyPatch) -> None:
    """Something is due beside what the lanes hold."""
    writer, journal = stage.writer, stage.journal
    if what == "not settled":
        patch.setattr(journal, "durable" if not writer._mem_first else "published", journal.end - 1)
    elif what == "a reserve to divide":
        patch.setattr(writer._intake.reserve, "_clients", 7)
    elif what == "a term below the floor":
        patch.setattr(journal, "last_term", 0)
    else:
        where, name, value = {
            "a failure": (journal, "failure", rl.SyncFailed("it failed")), "a job": (journal, "job", object()),
            "a segment that comes": (journal, "coming", object()), "a hard term": (journal, "hard", HardState(3)),
            "answers that are owed": (writer._intake, "owing", [stage.writer.sessions.clients[0]]),
            "what waits for room": (writer._intake, "blocked", True),
            "memory pressure": (writer._relief, "level", pressure.SOFT),
            "late bells": (writer._completions, "late", []),
        }[what]  # fmt: skip
        patch.setattr(where, name, value)


EITHER = [
    "not settled", "a term below the floor", "a failure", "a hard term", "answers that are owed",
    "what waits for room", "memory pressure",
]  # fmt: skip
DUE = [(strategy, what) for strategy in ("disk_first", "mem_first") for what in EITHER]
DUE += [("disk_first", "a job"), ("disk_first", "late bells")]
DUE += [("mem_first", "a segment that comes"), ("mem_first", "a reserve to divide")]


@pytest.mark.parametrize(("strategy", "what"), DUE)
def test_where_anything_else_is_due_it_does_nothing(
    stage: Callable[..., Stage], strategy: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = stage(strategy=strategy)
    members = begun(one)
    for member in members:
        put(member, b"x")
    spoil(one, what, monkeypatch)
    before = state_of(one)
    assert not one.writer._straight()
    assert state_of(one) == before
    monkeypatch.undo()
    assert one.go(), "without it all is plain"


def test_a_policy_that_gathers_by_the_clock_has_no_straight_way_to_the_disk(stage: Callable[..., Stage]) -> None:
    one = stage(flush_policy=LATE)
    member = one.client()
    for _ in range(3):
        put(member, b"x")
        assert not one.go()


# ---------------------------------------------------------------- the order of its steps
def build(*changes: tuple[str, str]) -> Callable[..., straight_round.Round]:
    """``straight_round`` of another build: each text, which stands there once, replaced."""
    source = inspect.getsource(straight_round)
    for before, after in changes:
        assert source.count(before) == 1, before
        source = source.replace(before, after)
    module = types.ModuleType("raftlog_mp.bent_straight_round")
    module.__package__ = "raftlog_mp"
    exec(compile(source, "bent", "exec"), module.__dict__)
    way: Callable[..., straight_round.Round] = module.straight_round
    return way


def watch(stage: Stage, way: Callable[..., straight_round.Round] = straight_round.straight_round) -> None:
    """An order check around the writer, and around its answers: of what is visible, and in DiskFirst durable."""
    check = OrderCheck(stage.journal, stage.files)
    for peer in stage.writer.sessions.clients:
        complete = peer.lane.complete

        def watched(completions: list[Completion], complete: Any = complete) -> None:
            for _, _, index, count, _, _ in completions:
                if index + count - 1 > check.indexed:
                    raise OrderBroken(f"entry {index} is answered before it is visible")
            complete(completions)

        peer.lane.complete = watched
    stage.take_way(way)


def serve_plain(stage: Stage, members: list[Member], rounds: int) -> None:
    for _ in range(rounds):
        for member in members:
            put(member, b"x" * 3000)
        assert stage.go()


@BOTH
def test_every_step_rests_on_the_one_before_it(stage: Callable[..., Stage], strategy: str) -> None:
    one = stage(strategy=strategy, segment_bytes=4096 * KIB)
    members = begun(one)
    watch(one)
    serve_plain(one, members, 200)  # more than one lap of the ring
    assert one.journal.ring.floor > 0 and one.word("durable_index") == one.word("last_index") == 403


RING, TOLD = "ring.write(start, data)\n", "\n        published(end, release)\n"
DISK_RING, MEMORY_RING = (f"{RING}        index.write(first, slots)\n        {x}" for x in ("# All", "journal.entered"))
BUILDS = {
    "no sync": ("disk_first", "before a sync", [("segment.sync()", "pass")]),
    "tells before the sync": ("disk_first", "before a sync", [
        ("segment.sync()", "tell(end, first + count - 1, count, len(data), 0.0); segment.sync()"),
    ]),
    "shows before the sync": ("disk_first", "before it was synced", [
        ("segment.sync()", "intake.control.published.store(end, shm.RELEASE); segment.sync()"),
    ]),
    "shows before the ring bytes": ("disk_first", "before the ring bytes", [
        (DISK_RING, "intake.control.published.store(start + len(data), shm.RELEASE); " + DISK_RING),
    ]),
    "the index first": ("disk_first", "slot is not below", [(TOLD, "\n        last_index(last, seq_cst)" + TOLD)]),
    "answers before it shows": ("disk_first", "before it is visible", [
        ("tell(end, first", "answer(taken, first); tell(end, first"),
    ]),
    "shows memory before the ring bytes": ("mem_first", "before the ring bytes", [
        (MEMORY_RING, "journal.control.published.store(start + len(data), 0); " + MEMORY_RING),
    ]),
    "answers memory before it shows": ("mem_first", "before it is visible", [
        ("journal.publish()\n        answer(taken, first)", "answer(taken, first)\n        journal.publish()"),
    ]),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILDS)
def test_control_a_build_that_breaks_the_order_is_caught(stage: Callable[..., Stage], name: str) -> None:
    strategy, says, changes = BUILDS[name]
    one = stage(strategy=strategy)
    members = begun(one)
    watch(one, build(*changes))
    with pytest.raises(OrderBroken, match=says):
        serve_plain(one, members, 3)
    one.take_way()
    one.journal.fail(OSError(errno.EIO, "nothing of this log counts"))
