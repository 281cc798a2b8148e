"""Rules of the frontiers: what is durable, what is committed, what a leader may count."""

from __future__ import annotations

from functools import partial

from ..errors import IndexGap, Truncated
from ..types import LogId, majority_match_index
from .checks import Log, Rules, entries, entry, fill, holds, raised, refused, same, same_log

TERMS = (1, 1, 2, 2, 5)


class Committing(Rules):
    """durable_index, wait_durable, flush, commit_to, majority_match_index."""

    # ------------------------------------------------------------ durable
    def test_flush_makes_everything_durable(self) -> None:
        """After flush, durable_index is last_index."""
        with self.log(*TERMS) as log:
            log.flush()
            same("durable_index", log.durable_index, 5)
            log.submit([one.payload for one in entries(6, 5, 5)], 5)
            log.flush()
            same("durable_index and last_index", (log.durable_index, log.last_index), (7, 7))

    def test_wait_durable_returns_when_it_is_true(self) -> None:
        """After wait_durable(index or log id), durable_index is at least there."""
        with self.log() as log:
            for index in range(1, 20):
                log.append(b"x", 3)
                log.wait_durable(index if index % 2 else LogId(3, index))
                holds(f"durable_index {log.durable_index} is below {index}", log.durable_index >= index)

    def test_wait_durable_for_what_is_not_there_is_refused(self) -> None:
        """Beyond the end it is IndexGap; for a log id whose place another entry has it is Truncated."""
        with self.log(*TERMS) as log:
            error = raised(IndexGap, "wait_durable(6)", lambda: log.wait_durable(6))
            same("last_index of the error", error.last_index, 5)
            raised(IndexGap, "wait_durable(LogId(5, 6))", lambda: log.wait_durable(LogId(5, 6)))
            raised(Truncated, "wait_durable(LogId(1, 3))", lambda: log.wait_durable(LogId(1, 3)))

    def test_wait_durable_for_what_was_purged(self) -> None:
        """It returns at once, as for 0; a term that cannot have been there is Truncated, a negative index IndexGap."""
        with self.log(*TERMS) as log:
            log.purge_to(4)
            for there in (0, 1, 4, LogId(0, 0), LogId(1, 2), LogId(2, 4), (2, 4), (5, 5)):
                log.wait_durable(there)
            for gone in (LogId(1, 4), LogId(5, 4), LogId(3, 2), LogId(9, 1), (3, 4)):
                raised(Truncated, f"wait_durable({gone})", partial(log.wait_durable, gone))
            raised(IndexGap, "wait_durable(-1)", lambda: log.wait_durable(-1))

    def test_durable_is_never_above_the_last_entry(self) -> None:
        """Truncation, replacement and reset lower durable_index with the log's end; it is exact after reopening."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.flush()
            log.truncate_from(4)
            same("durable_index after truncate_from(4)", log.durable_index, 3)
            log.append_entries(LogId(1, 1), entries(2, 3), leader_term=3)
            same("durable_index after a shorter replacement", log.durable_index, 2)
            log.reset()
            same("durable_index after reset()", log.durable_index, 0)
            log.reset(LogId(3, 9))
            same("durable_index after reset(boundary)", log.durable_index, 9)
            fill(log, 3)

        def check(log: Log) -> None:
            holds("durable_index is above the last entry", log.durable_index <= log.last_index)

        self.kept(change, check)

    def test_what_is_appended_after_a_truncation_becomes_durable(self) -> None:
        """The entry that takes a truncated, durable one's index is waited for anew."""

        def change(log: Log) -> None:
            for term in range(1, 9):
                fill(log, *[term] * 4)
                log.wait_durable(LogId(term, log.last_index))
                log.truncate_from(term + 1)
                holds("durable_index is above the last entry", log.durable_index <= log.last_index)
                log.append(b"again", term)
                log.wait_durable(log.last_log_id)
                same("durable_index", log.durable_index, term + 1)
                log.truncate_from(term + 1)

        self.kept(change, lambda log: same_log(log, *range(1, 9)))

    def test_a_leader_counts_only_what_is_durable(self) -> None:
        """majority_match_index is the highest index that most members hold, this one up to durable_index."""
        for others, durable, wanted in (
            ([], 7, 7), ([5], 9, 5), ([9], 5, 5), ([4, 9], 6, 6), ([0, 0], 9, 0), ([9, 9], 0, 9), ([3, 4, 5, 9], 8, 5),
            ([2, 4, 9], 3, 3),
        ):  # fmt: skip
            same(f"majority_match_index({others}, {durable})", majority_match_index(others, durable), wanted)

    # ------------------------------------------------------------ commit index
    def test_commit_index_rises_and_never_falls(self) -> None:
        """commit_to gives the commit index; a lower one changes nothing; one above the end is clamped to it."""
        with self.log(*TERMS) as log:
            same("commit_index at first", log.commit_index, 0)
            for index, wanted in ((2, 2), (1, 2), (0, 2), (4, 4), (2, 4), (99, 5)):
                same(f"commit_to({index})", log.commit_to(index), wanted)
                same("commit_index", log.commit_index, wanted)
            refused(log, IndexGap, "commit_to", -1)
            log.append(entry(5, 6).payload, 5)
            same("commit_index after an append", log.commit_index, 5)

    def test_commit_index_survives_a_clean_close(self) -> None:
        """After closing and opening again the commit index is exactly what it was."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.commit_to(2)
            log.purge_to(1)
            log.commit_to(4)

        self.kept(change, lambda log: same("commit_index", log.commit_index, 4))

    def test_commit_index_of_an_empty_log_is_zero(self) -> None:
        """There is nothing to commit in an empty log."""
        with self.log() as log:
            same("commit_to(5)", log.commit_to(5), 0)
            fill(log, 1)
            same("commit_index", log.commit_index, 0)

    def test_commit_index_stays_when_entries_are_purged(self) -> None:
        """Purging committed entries leaves the commit index where it is."""
        with self.log(*TERMS) as log:
            log.commit_to(3)
            log.purge_to(2)
            same("commit_index", log.commit_index, 3)
