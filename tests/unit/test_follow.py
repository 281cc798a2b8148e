"""Following: where it starts, what it yields and up to where, when it ends, and what it rides over."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import pytest

from raftlog_mp import follow, shm, wakeup
from raftlog_mp.config import MIB
from raftlog_mp.errors import Compacted, IndexGap, LogClosed, SyncFailed, Truncated
from raftlog_mp.files import Files
from raftlog_mp.follow import Follower, start_of
from raftlog_mp.journal import Journal
from raftlog_mp.layout import WANTS_PROGRESS
from raftlog_mp.reader import Reader
from raftlog_mp.source import Source
from raftlog_mp.types import LogId
from raftlog_mp.view import View
from raftlog_mp.wakeup import FOREVER

from .journals import append, kill, open_log, stop


class StubLink:
    """A connection whose waits run what the test has prepared: each step is something that others do meanwhile."""

    def __init__(self, journal: Journal) -> None:
        self.era, self.closed, self.connected = 0, False, True
        self.steps: deque[Callable[[], object]] = deque()
        self.deadlines: list[float] = []
        self.rests: list[float] = []
        self.show(journal)

    def show(self, journal: Journal) -> None:
        """The writer of this journal serves now."""
        self.view: View | None = View({
            "folder": journal.folder, "generation": journal.generation, "log_id": journal.log_id,
            "uuid": journal.manifest.uuid, "config": journal.config.as_dict(),
        })  # fmt: skip

    def look(self) -> None:
        """Nothing new from the socket."""

    def renew(self, superseded: View) -> None:
        """No newer writer answers."""

    def check_open(self) -> None:
        if self.closed:
            raise LogClosed("closed")

    def rest(self, word: Callable[[int], int], seen: int, deadline: float) -> None:
        self.rests.append(deadline)
        if word(shm.SEQ_CST) == seen and self.steps:
            self.steps.popleft()()

    def wait(self, ready: Callable[[], bool], deadline: float, wants: int) -> bool:
        assert wants == WANTS_PROGRESS, "a follower waits for frontiers, not for answers"
        self.deadlines.append(deadline)
        while not ready():
            self.check_open()
            if not self.steps:
                return False  # the time ran out
            self.steps.popleft()()
            self.check_open()
        return True


class Followed:
    """A log of a journal and the means to follow it."""

    def __init__(self, log_dir: str, **settings: Any) -> None:
        self.log_dir = log_dir
        self.journal, _ = open_log(log_dir, **settings)
        self.link: Any = StubLink(self.journal)
        self.reader = Reader(Source(self.link, Files(), log_dir, files_allowed=False), Files(), log_dir)

    def append(self, count: int = 1, term: int = 1) -> None:
        for _ in range(count):
            append(self.journal, b"%d" % self.journal.next_index, term=term)

    def set(self, **words: int) -> None:
        """What a purge or a commit would store."""
        for name, value in words.items():
            getattr(self.journal.control, name).store(value, shm.SEQ_CST)

    def follow(self, start: int = 1, upto: str = "visible", timeout: float | None = 0.0) -> Follower:
        return Follower(self.reader, self.link, start, None, upto, timeout)

    def restart(self) -> None:
        """The writer dies and the next one serves."""
        kill(self.journal)
        self.journal, _ = open_log(self.log_dir)
        self.link.show(self.journal)

    def end(self) -> None:
        self.reader.close()
        stop(self.journal)


def indexes(follower: Follower) -> list[int]:
    """What it yields until it ends; each entry must hold its own number."""
    entries = list(follower)
    assert all(entry.payload == b"%d" % entry.index for entry in entries)
    return [entry.index for entry in entries]


# ---------------------------------------------------------------- where it starts
def test_start_is_the_first_entry_or_any_up_to_one_past_the_end(log_dir: str) -> None:
    log = Followed(log_dir)
    assert start_of(log.reader, None, None) == 1, "an empty log: what comes first"
    log.append(5)
    assert [start_of(log.reader, start, None) for start in (None, 1, 5, 6)] == [1, 1, 5, 6]
    with pytest.raises(IndexGap) as gap:
        start_of(log.reader, 7, None)
    assert gap.value.last_index == 5
    for start in (0, -3):
        with pytest.raises(Compacted, match="start at 1") as below:
            start_of(log.reader, start, None)
        assert below.value.first_index == 1
    log.end()


def test_start_below_what_was_purged(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(5)
    log.set(first_index=4, purged_index=3, purged_term=1)
    assert start_of(log.reader, None, None) == 4
    with pytest.raises(Compacted, match="purged") as below:
        start_of(log.reader, 3, None)
    assert below.value.first_index == 4
    log.end()


def test_after_a_checkpoint(log_dir: str) -> None:
    """The checkpoint is believed only if the log still holds exactly that entry."""
    log = Followed(log_dir)
    assert start_of(log.reader, None, LogId(0, 0)) == 1, "before the first entry"
    log.append(3)
    log.append(2, term=4)
    assert [start_of(log.reader, None, LogId(term, index)) for term, index in ((1, 3), (4, 4), (4, 5))] == [4, 5, 6]
    for replaced in (LogId(2, 3), LogId(1, 4), LogId(4, 6), LogId(9, 99)):
        with pytest.raises(Truncated) as gone:
            start_of(log.reader, None, replaced)
        assert gone.value.last_index == 5
    log.end()


def test_after_the_purge_boundary(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(3)
    log.append(2, term=4)
    log.set(first_index=4, purged_index=3, purged_term=1)
    assert start_of(log.reader, None, LogId(1, 3)) == 4, "its entry is gone, but its term is known"
    with pytest.raises(Truncated):
        start_of(log.reader, None, LogId(2, 3))
    with pytest.raises(Compacted) as below:
        start_of(log.reader, None, LogId(1, 2))
    assert below.value.first_index == 4
    log.end()


@pytest.mark.parametrize(
    ("start", "after"), [(1, LogId(0, 0)), ("1", None), (True, None), (1.0, None), (None, 3), (None, (1, "2"))]
)
def test_what_is_no_place_to_start(log_dir: str, start: Any, after: Any) -> None:
    log = Followed(log_dir)
    log.append()
    with pytest.raises(TypeError):
        start_of(log.reader, start, after)
    log.end()


# ---------------------------------------------------------------- what it yields
def test_every_entry_in_order_then_the_end(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(10)
    assert indexes(log.follow(1)) == list(range(1, 11))
    assert indexes(log.follow(8)) == [8, 9, 10]
    assert indexes(log.follow(11)) == []
    log.end()


def test_long_logs_come_in_portions_without_a_gap(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "BATCH_ENTRIES", 7)
    log = Followed(log_dir)
    log.append(50)
    assert indexes(log.follow(1)) == list(range(1, 51))
    monkeypatch.setattr(follow, "BATCH_BYTES", 1)
    assert indexes(log.follow(1)) == list(range(1, 51)), "one entry at least, whatever a portion may hold"
    log.end()


@pytest.mark.parametrize(("upto", "expected"), [("visible", 6), ("durable", 4), ("committed", 2)])
def test_upto_a_frontier(log_dir: str, upto: str, expected: int) -> None:
    log = Followed(log_dir, strategy="mem_first")
    log.append(4)
    log.journal.flush()
    log.append(2)
    log.set(commit_index=2)
    assert indexes(log.follow(1, upto)) == list(range(1, expected + 1))
    log.end()


def test_a_frontier_that_moves_wakes_and_no_entry_beyond_it_is_yielded(log_dir: str) -> None:
    log = Followed(log_dir, strategy="mem_first")
    log.append(3)
    follower = log.follow(1, "durable", None)
    log.link.steps += [lambda: log.append(2), log.journal.flush, lambda: log.append(1)]
    assert [next(follower).index for _ in range(5)] == [1, 2, 3, 4, 5]
    assert len(log.link.steps) == 1, "what is merely visible woke it, but was not yielded"
    log.end()


def test_a_commit_index_beyond_the_log_yields_no_entry_that_is_not_there(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(2)
    log.set(commit_index=9)
    assert indexes(log.follow(1, "committed")) == [1, 2]
    log.end()


# ---------------------------------------------------------------- waiting and ending
def test_it_sleeps_until_something_comes(log_dir: str) -> None:
    log = Followed(log_dir)
    follower = log.follow(1, timeout=None)
    log.link.steps += [lambda: None, lambda: log.append(2)]
    assert (next(follower).index, next(follower).index) == (1, 2)
    assert log.link.deadlines == [FOREVER], "one wait for both: what has come is given before it sleeps again"
    log.end()


def test_the_time_starts_anew_with_every_wait(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """``timeout`` is how long nothing may come, not how long the whole may take."""
    log, clock = Followed(log_dir), [100.0]
    monkeypatch.setattr(wakeup, "now", lambda: clock[0])
    follower = log.follow(1, timeout=2.5)

    def come() -> None:
        clock[0] += 2.0
        log.append()

    log.link.steps += [come, come, come]
    assert indexes(follower) == [1, 2, 3]
    assert log.link.rests == [102.5, 104.5, 106.5, 108.5] and log.link.deadlines == [108.5]
    log.end()


def test_a_change_ends_the_rest_though_no_frontier_moves(log_dir: str) -> None:
    """A bell that was rung before the follower was armed is not heard: its look afterwards has to see the change."""
    log = Followed(log_dir)
    log.append(2)
    follower = log.follow(1)
    assert [next(follower).index, next(follower).index] == [1, 2]

    def rest(word: Callable[[int], int], seen: int, deadline: float) -> None:
        assert word(shm.SEQ_CST) == seen
        log.journal.roll()
        assert word(shm.SEQ_CST) != seen
        log.append()

    log.link.rest = rest
    assert next(follower).index == 3
    log.end()


def test_timeout_zero_drains(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(3)
    follower = log.follow(1, timeout=0)
    assert iter(follower) is follower and indexes(follower) == [1, 2, 3]
    assert log.link.deadlines and log.link.deadlines[0] <= wakeup.now()
    log.end()


def test_closing_ends_it_with_an_error(log_dir: str) -> None:
    """Not with a silent end: that would look like a log with no more entries.  Prefetched ones do not count."""
    log = Followed(log_dir)
    log.append(3)
    ahead, asleep = log.follow(1), log.follow(4, timeout=None)
    assert next(ahead).index == 1
    log.link.steps.append(lambda: setattr(log.link, "closed", True))
    with pytest.raises(LogClosed):
        next(asleep)
    with pytest.raises(LogClosed):
        next(ahead)
    log.end()


def test_the_parents_iterator_is_no_use_in_a_forked_child(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(3)
    follower = log.follow(1)
    assert next(follower).index == 1
    log.link.era += 1
    with pytest.raises(LogClosed, match="parent"):
        next(follower)
    assert indexes(log.follow(2)) == [2, 3], "the child follows anew"
    log.end()


def test_an_error_of_the_wait_comes_through(log_dir: str) -> None:
    log = Followed(log_dir)

    def fail() -> None:
        raise SyncFailed("injected")

    log.link.steps.append(fail)
    with pytest.raises(SyncFailed):
        next(log.follow(1))
    log.end()


# ---------------------------------------------------------------- a log that moves on
def test_it_rides_over_rolls_and_restarts_of_the_writer(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(3)
    follower = log.follow(1, timeout=None)
    seen = [next(follower).index for _ in range(3)]

    def restart_and_append() -> None:
        log.restart()
        log.append(2)

    for step in (log.journal.roll, lambda: log.append(2), log.restart, lambda: log.append(2), restart_and_append):
        log.link.steps.append(step)
    assert seen + [next(follower).index for _ in range(6)] == list(range(1, 10))
    log.end()


def test_a_slow_follower_is_lapped_by_the_ring_and_misses_nothing(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(3)
    follower = log.follow(1)
    assert next(follower).index == 1
    start = log.journal.end
    while log.journal.end < start + 2 * MIB:
        append(log.journal, bytes(30_000))
        log.append()
    found = [(entry.index, len(entry.payload)) for entry in follower]
    last = log.journal.next_index - 1
    assert [index for index, _ in found] == list(range(2, last + 1))
    assert sum(size == 30_000 for _, size in found) == (last - 3) // 2
    log.end()


def test_what_is_purged_before_it_was_reached(log_dir: str) -> None:
    log = Followed(log_dir)
    log.append(3)
    follower = log.follow(1)
    assert [next(follower).index for _ in range(3)] == [1, 2, 3]
    log.append(3)
    log.set(first_index=6)
    with pytest.raises(Compacted) as gone:
        next(follower)
    assert gone.value.first_index == 6
    log.set(first_index=1)  # as after a reset: what comes does not follow from what was yielded
    for _ in range(2):
        with pytest.raises(Compacted) as again:
            next(follower)
        assert again.value is gone.value and not follower.at_hand()
    log.end()
