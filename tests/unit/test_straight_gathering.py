"""The straight way under ``Adaptive``: a whole group goes to the disk at once, one that waits goes the general way."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import raftlog_mp as rl
from raftlog_mp import grouping, layout, straight_round

from .journals import entries_of
from .rounds import Stage, begun, put
from .running import Member
from .test_straight_round import life, state_of

pytestmark = pytest.mark.usefixtures("never_skipped")


class Scripted:
    """Decides by the size of the group alone, and writes down what it is told."""

    whole = 2

    def __init__(self, _: float) -> None:
        self.group = self.under_way = 0
        self.told: list[Any] = []

    def arrived(self, _: float, submissions: int) -> None:
        self.group += submissions
        if submissions:
            self.told.append(("arrived", submissions))

    def due_with(self, _: float, submissions: int) -> bool:
        return self.group + submissions >= self.whole

    def seconds_until_flush(self, _: float) -> float:
        return 0.0 if self.group >= self.whole else 60.0

    def settled(self) -> None:
        self.group = 0

    def flushing(self, _: float) -> None:
        self.under_way, self.group = self.group, 0
        self.told.append(("flushing", self.under_way))

    def flushed(self, _: float, missed: float) -> None:
        self.told.append(("flushed", missed))


def told_of(stage: Stage) -> list[Any]:
    gathering: Any = stage.writer._grouping._gathering
    return list(gathering.told)


def begun_in_pairs(one: Stage, clients: int = 2) -> list[Member]:
    """Clients of a log that is begun; from here on a group of two is whole."""
    gathering: Any = one.writer._grouping._gathering
    gathering.whole = 1
    members = begun(one, clients)
    gathering.whole = 2
    return members


@pytest.mark.parametrize("seed", range(4))
def test_a_life_is_the_same_with_and_without_it_and_so_is_what_the_policy_learns(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "Gathering", Scripted)
    policy = rl.Adaptive()
    general, expected = life(tmp_path / "general", seed, "disk_first", straight=False, flush_policy=policy)
    stage, found = life(tmp_path / "straight", seed, "disk_first", straight=True, flush_policy=policy)
    assert general.straight_rounds == 0 < 10 < stage.straight_rounds < stage.rounds
    assert found == expected
    assert told_of(stage) == told_of(general) and len(told_of(stage)) > 100


def test_who_came_during_the_sync_is_told_to_the_policy(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the general way does: so many as each of those in the group had."""
    monkeypatch.setattr(grouping, "Gathering", Scripted)
    one = stage(flush_policy=rl.Adaptive())
    first, second, third = begun_in_pairs(one, 3)
    segment: Any = one.journal.segment
    sync = segment.sync

    def come_meanwhile() -> None:
        put(third, b"during the sync")
        sync()

    put(first, b"x")
    put(second, b"x")
    monkeypatch.setattr(segment, "sync", come_meanwhile)
    assert one.go()
    assert told_of(one)[-3:] == [("arrived", 2), ("flushing", 2), ("flushed", 1.0)]
    assert third.answers() == [] and len(first.answers()) == len(second.answers()) == 1


def test_a_group_that_has_to_wait_is_left_as_it_was(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "Gathering", Scripted)
    one = stage(flush_policy=rl.Adaptive())
    first, second = begun_in_pairs(one)
    put(first, b"x")
    before, told = state_of(one), told_of(one)
    assert one.writer._straight() is False
    assert state_of(one) == before and told_of(one) == told
    assert not one.go() and first.answers() == [], "it waits, the general way"
    put(second, b"x")
    assert not one.go()
    assert len(first.answers()) == len(second.answers()) == 1


def test_after_a_group_that_had_to_wait_the_next_rounds_are_not_tried(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "Gathering", Scripted)
    monkeypatch.setattr(straight_round, "SKIPPED_ROUNDS", 3)
    one = stage(flush_policy=rl.Adaptive())
    first, second = begun_in_pairs(one)
    put(first, b"x")
    assert not one.go(), "tried"
    put(second, b"x")
    assert not one.go(), "the rest of the group: something is unflushed"
    straight = []
    for _ in range(5):
        put(first, b"x")
        put(second, b"x")
        straight.append(one.go())
    assert straight == [False] * 3 + [True] * 2


@pytest.mark.parametrize("clients", [1, 3])
def test_at_low_load_every_round_is_straight(stage: Callable[..., Stage], clients: int) -> None:
    """With the real policy: nobody is missing, so nothing waits."""
    one = stage(flush_policy=rl.Adaptive())
    members, chance = begun(one, clients), random.Random(clients)
    for _ in range(50):
        for member in members:
            put(member, chance.randbytes(100))
        assert one.go()
    assert one.word("durable_index") == one.word("last_index") == 1 + 51 * clients


def test_a_lane_that_was_looked_at_twice_is_put_back_to_its_first_entry(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its second entry came while the straight way gathered; then the group had to wait."""
    monkeypatch.setattr(grouping, "Gathering", Scripted)
    one = stage(flush_policy=rl.Adaptive())
    (member,) = begun_in_pairs(one, 1)
    gathering: Any = one.writer._grouping._gathering
    gathering.whole = 3
    lane = one.lane(member)
    copy, late = lane.copy, [b"second"]

    def copy_and_more_comes(start: int, end: int) -> bytes:
        data: bytes = copy(start, end)
        if late:
            put(member, late.pop())
        return data

    monkeypatch.setattr(lane, "copy", copy_and_more_comes)
    put(member, b"first")
    before = state_of(one)
    assert one.writer._straight() is False and late == []
    assert state_of(one) == before
    put(member, b"third")
    assert not one.go()
    assert member.answers() == [(5, layout.OK, 3, 1, 1, 0)] and one.word("last_index") == 5, "none of them was lost"


# ---------------------------------------------------------------- whatever comes while it looks
class Busy:
    """A client that submits, by chance, while the writer copies out of its lane or another's."""

    def __init__(self, stage: Stage, members: list[Member], seed: int) -> None:
        self._chance, self._left = random.Random(seed), 150
        self.sent: dict[Member, list[bytes]] = {member: [] for member in members}
        for member in members:
            lane = stage.lane(member)
            lane.copy = self._around(lane.copy)

    def _around(self, copy: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
        def copy_while_more_comes(start: int, end: int) -> bytes:
            data = copy(start, end)
            while self._left and self._chance.random() < 0.4:
                self.submit()
            return data

        return copy_while_more_comes

    def submit(self) -> None:
        """One entry, or seldom a batch, of anybody."""
        self._left -= 1
        member = self._chance.choice(list(self.sent))
        payloads = [b"%d of %d" % (len(self.sent[member]), id(member))]
        if self._chance.random() < 0.05:
            payloads.append(b"and another")
        self.sent[member] += [b"\n".join(payloads)]
        put(member, *payloads)


def answered(member: Member, first_sequence: int) -> list[tuple[int, int]]:
    """First index and count of each submission: a slot may answer several that lie in a row."""
    found: list[tuple[int, int]] = []
    for last, status, index, count, _, _ in member.answers():
        assert status == layout.OK
        while first_sequence + len(found) <= last:
            found.append((index, count))
            index += count
    return found


@pytest.mark.parametrize("whole", [None, 1, 2, 4])
@pytest.mark.parametrize("seed", range(4))
def test_each_answer_tells_where_the_submission_is_whatever_comes_while_the_writer_looks(
    log_dir: str, stage: Callable[..., Stage], seed: int, whole: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouping, "Gathering", Scripted)
    one = stage(flush_policy=rl.Adaptive() if whole else rl.Immediate())
    members = begun_in_pairs(one, 3) if whole else begun(one, 3)
    if whole:
        one.writer._grouping._gathering.whole = whole  # type: ignore[union-attr]
    begins = {member: member._sequence + 1 for member in members}
    busy, journal = Busy(one, members, seed), one.journal
    while busy._left:
        busy.submit()
        one.go()
    while one.writer._intake.count_waiting():
        one.go()
    one.writer._flush_and_publish()
    assert one.straight_rounds > 5 or whole == 4
    answers = {member: answered(member, begins[member]) for member in members}
    one.end()
    entries, taken = entries_of(log_dir), 1 + len(members)
    for member, found in answers.items():
        assert len(found) == len(busy.sent[member]), "each is answered, once"
        for (index, count), sent in zip(found, busy.sent[member], strict=True):
            assert b"\n".join(entries[at][1] for at in range(index, index + count)) == sent
            taken += count
    assert max(entries) == taken == journal.next_index - 1, "and nothing else is there"
