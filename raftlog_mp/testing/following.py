"""Rules of following: order, frontiers, checkpoints, and entries that go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from ..errors import Compacted, IndexGap, Truncated
from ..types import Entry, LogId
from .checks import NOTHING, Log, Rules, entries, entry, fill, holds, raised, same

TERMS = (1, 1, 2, 2, 5)
PATIENCE_S = 60.0  # of a follower that is woken; only a log that breaks the rule lets it wait so long


def woken(follower: Any, act: Callable[[], object]) -> Entry | None:
    """What a follower that waits in a thread yields after ``act``; None if it ends without an entry."""
    found: list[Entry | None] = []
    waiting = threading.Thread(target=lambda: found.append(next(follower, None)))
    waiting.start()
    try:
        act()
    finally:
        waiting.join()
    return found[0] if found else None


def _first_after(log: Log, after: LogId) -> Any:
    return next(log.follow(after=after, timeout=0))


def _with_lower_boundary(log: Log) -> None:
    fill(log, *TERMS)
    log.reset(LogId(2, 10))


class Following(Rules):
    """follow."""

    def test_follow_yields_every_entry_in_order(self) -> None:
        """From start, or from the first entry; with timeout=0 it ends at the end of the log."""
        with self.log(*TERMS) as log:
            for start in (None, 1, 3, 5, 6):
                first = start or 1
                same(f"follow({start})", list(log.follow(start, timeout=0)), entries(1, *TERMS)[first - 1 :])
            log.purge_to(2)
            same("follow() after a purge", list(log.follow(timeout=0)), entries(3, 2, 2, 5))

    def test_follow_wakes_on_append(self) -> None:
        """A follower that waits gets an entry when it is appended."""
        with self.log(1) as log:
            follower = log.follow(timeout=PATIENCE_S)
            same("the first entry", next(follower), entry(1, 1))
            same("what the waiting follower got", woken(follower, lambda: fill(log, 1)), entry(1, 2))

    def test_follow_beyond_the_end_is_refused(self) -> None:
        """start may be last + 1; beyond it is IndexGap."""
        with self.log(*TERMS) as log:
            raised(IndexGap, "follow(7)", lambda: next(log.follow(7, timeout=0)))

    def test_follow_of_purged_entries_is_compacted(self) -> None:
        """A start that was purged is Compacted with the first index; so is a follower that is overtaken by a purge."""
        with self.log(*TERMS) as log:
            late = log.follow(timeout=0)
            same("the first entry", next(late), entry(1, 1))
            log.purge_to(3)
            for what, act in (("follow(3)", lambda: next(log.follow(3, timeout=0))), ("next()", lambda: next(late))):
                same(f"first_index of the error of {what}", raised(Compacted, what, act).first_index, 4)

    # ------------------------------------------------------------ frontiers
    def test_follow_upto_committed_yields_committed_entries_only(self) -> None:
        """The follower stops at the commit index and goes on when it rises."""
        with self.log(*TERMS) as log:
            same("before a commit", list(log.follow(upto="committed", timeout=0)), [])
            log.commit_to(2)
            same("follow(upto='committed')", list(log.follow(upto="committed", timeout=0)), entries(1, 1, 1))
            log.commit_to(4)
            same("after(1, 2)", list(log.follow(after=LogId(1, 2), upto="committed", timeout=0)), entries(3, 2, 2))

    def test_follow_upto_committed_is_never_truncated(self) -> None:
        """Truncation and replacement above the commit index do not concern a follower of committed entries."""
        with self.log(*TERMS) as log:
            log.commit_to(2)
            follower = log.follow(upto="committed", timeout=0)
            same("two entries", [next(follower), next(follower)], entries(1, 1, 1))
            log.append_entries(LogId(2, 3), entries(4, 6), leader_term=6)
            log.truncate_from(3)
            fill(log, 7)
            log.commit_to(3)
            same("the rest", list(follower), entries(3, 7))

    def test_follow_upto_durable_yields_durable_entries_only(self) -> None:
        """After a flush the follower has yielded everything; never anything above durable_index."""
        with self.log(*TERMS) as log:
            for one in log.follow(upto="durable", timeout=0):
                holds(f"{one.log_id} is above durable_index {log.durable_index}", one.index <= log.durable_index)
            log.flush()
            same("after a flush", list(log.follow(upto="durable", timeout=0)), entries(1, *TERMS))

    # ------------------------------------------------------------ entries that go
    def test_what_a_snapshot_of_a_lower_term_replaced_is_truncated(self) -> None:
        """An entry of a higher term than the boundary behind it was not purged: it is gone, and that is told."""

        def check(log: Log) -> None:
            raised(Truncated, "follow(after=LogId(5, 5))", partial(_first_after, log, LogId(5, 5)))
            raised(Compacted, "follow(after=LogId(2, 3))", partial(_first_after, log, LogId(2, 3)))

        with self.log(*TERMS) as log:
            follower = log.follow(timeout=0)
            same("five entries", [next(follower) for _ in range(5)], entries(1, *TERMS))
            log.reset(LogId(2, 10))
            raised(Truncated, "next() after reset(LogId(2, 10))", partial(next, follower))
        self.kept(_with_lower_boundary, check)

    def test_a_follower_whose_last_entry_is_gone_is_told(self) -> None:
        """Truncated, with the last index, after truncation, replacement and reset of what was yielded."""
        changes: tuple[tuple[Callable[[Log], object], int], ...] = (
            (lambda log: log.truncate_from(3), 2),
            (lambda log: (log.truncate_from(1), fill(log, 5, 6, 7, 8)), 4),
            (lambda log: log.append_entries(LogId(1, 2), entries(3, 6, 6), leader_term=6), 4),
            (lambda log: log.reset(), 0),
            (lambda log: log.reset(LogId(1, 2)), 2),
        )
        for number, (change, last) in enumerate(changes):
            with self.log(*TERMS) as log:
                follower = log.follow(timeout=0)
                same("three entries", [next(follower) for _ in range(3)], entries(1, 1, 1, 2))
                change(log)
                error = raised(Truncated, f"next() after change {number}", partial(next, follower))
                same("last_index of the error", error.last_index, last)

    def test_a_follower_that_was_told_never_goes_on(self) -> None:
        """Truncated and Compacted are final: each further next() raises the same, whatever the log becomes."""
        with self.log(*TERMS) as log:
            follower = log.follow(timeout=0)
            same("three entries", [next(follower) for _ in range(3)], entries(1, 1, 1, 2))
            log.append_entries(LogId(1, 1), entries(2, 6, 6, 6, 6, 6), leader_term=6)
            for _ in range(3):
                error = raised(Truncated, "next()", lambda: next(follower))
                same("last_index of the error", error.last_index, 6)
                fill(log, 6)
            late = log.follow(timeout=0)
            same("the first entry", next(late), entry(1, 1))
            log.purge_to(5)
            same("first_index", raised(Compacted, "next()", lambda: next(late)).first_index, 6)
            log.reset()
            fill(log, 6, 6, 6)
            for told, error in ((follower, Truncated), (late, Compacted)):
                raised(error, "next() after a reset", partial(next, told))

    def test_a_live_follower_notices_an_entry_that_was_appended_anew(self) -> None:
        """Truncated also if another entry of the same term took the place of the one that was yielded."""
        with self.log(1, 1, 1) as log:
            follower = log.follow(timeout=0)
            same("three entries", [next(follower) for _ in range(3)], entries(1, 1, 1, 1))
            log.truncate_from(3)
            log.append(b"anew", 1)
            raised(Truncated, "next()", lambda: next(follower))

    def test_a_follower_never_yields_what_was_truncated(self) -> None:
        """Entries that were fetched ahead and went are not yielded; what stands there now is."""
        with self.log(*TERMS) as log:
            follower = log.follow(timeout=0)
            same("one entry", next(follower), entry(1, 1))
            log.truncate_from(3)
            fill(log, 7, 7)
            same("the rest", list(follower), entries(2, 1, 7, 7))

    def test_a_follower_that_waits_at_a_truncated_end_goes_on(self) -> None:
        """Truncation of what was not yielded yet leaves a follower where it is, waiting for what comes."""
        with self.log(1, 1) as log:
            follower = log.follow(timeout=PATIENCE_S)
            same("the first entry", next(follower), entry(1, 1))
            log.truncate_from(2)
            same("what the waiting follower got", woken(follower, lambda: fill(log, 3)), entry(3, 2))

    # ------------------------------------------------------------ checkpoints
    def test_a_checkpoint_resumes_behind_it(self) -> None:
        """after=log_id goes on with the next entry, at any entry, after reopening too."""

        def check(log: Log) -> None:
            for at in range(5):
                done = entries(1, *TERMS)[at - 1].log_id if at else NOTHING
                same(f"follow(after={done})", list(log.follow(after=done, timeout=0)), entries(1, *TERMS)[at:])

        self.kept(lambda log: fill(log, *TERMS), check)

    def test_a_checkpoint_that_is_gone_is_truncated(self) -> None:
        """If another term stands there, or the log ends before it: Truncated."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.append_entries(LogId(1, 2), entries(3, 6), leader_term=6)

        def check(log: Log) -> None:
            for gone in (LogId(2, 3), LogId(2, 4), LogId(5, 5)):
                raised(Truncated, f"follow(after={gone})", partial(_first_after, log, gone))
            same("after=LogId(1, 2)", list(log.follow(after=LogId(1, 2), timeout=0)), entries(3, 6))

        self.kept(change, check)

    def test_a_checkpoint_at_the_boundary_is_good(self) -> None:
        """after=the boundary resumes at the first entry, below it is Compacted, with another term Truncated."""

        def check(log: Log) -> None:
            same("after the boundary", list(log.follow(after=LogId(2, 3), timeout=0)), entries(4, 2, 5))
            for below in (LogId(1, 2), NOTHING):
                raised(Compacted, f"after={below}", partial(_first_after, log, below))
            raised(Truncated, "after=LogId(1, 3)", lambda: next(log.follow(after=LogId(1, 3), timeout=0)))

        self.kept(lambda log: (fill(log, *TERMS), log.purge_to(3)), check)

    def test_checkpoints_across_a_reset(self) -> None:
        """Behind a reset only its boundary is a valid checkpoint, or LogId(0, 0) if there is none."""

        def check(log: Log) -> None:
            same("after the boundary", list(log.follow(after=LogId(6, 9), timeout=0)), entries(10, 6))
            raised(Compacted, "after=LogId(5, 5)", lambda: next(log.follow(after=LogId(5, 5), timeout=0)))

        self.kept(lambda log: (fill(log, *TERMS), log.reset(LogId(6, 9)), fill(log, 6)), check)
        with self.log(*TERMS) as log:
            log.reset()
            raised(Truncated, "after=LogId(2, 3)", lambda: next(log.follow(after=LogId(2, 3), timeout=0)))
            fill(log, 7)
            same("after=LogId(0, 0)", list(log.follow(after=NOTHING, timeout=0)), entries(1, 7))
