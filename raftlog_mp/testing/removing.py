"""Rules of truncation, purge and reset."""

from __future__ import annotations

from functools import partial

from ..errors import CommittedEntry, Compacted, IndexGap, StaleTerm, Truncated
from ..types import HardState, LogId
from .checks import NOTHING, Log, Rules, entries, fill, raised, refused, same, same_log, same_terms

TERMS = (1, 1, 2, 2, 5)


def _purged(upto: int | LogId, log: Log) -> None:
    fill(log, *TERMS)
    log.purge_to(upto)


def _reset(boundary: LogId, log: Log) -> None:
    fill(log, *TERMS)
    log.reset(boundary)


class Removing(Rules):
    """truncate_from, purge_to, reset."""

    # ------------------------------------------------------------ truncate_from
    def test_truncate_removes_the_suffix(self) -> None:
        """Entries from the index on are gone, also after reopening."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.truncate_from(4, leader_term=5)

        self.kept(change, lambda log: same_log(log, 1, 1, 2))

    def test_truncate_behind_the_last_entry_removes_nothing(self) -> None:
        """last + 1 is allowed and changes nothing; beyond it is IndexGap."""
        with self.log(*TERMS) as log:
            log.truncate_from(6)
            same("last_index of the error", refused(log, IndexGap, "truncate_from", 7).last_index, 5)
            same_log(log, *TERMS)

    def test_truncate_everything(self) -> None:
        """The log may be emptied; it goes on at 1, or behind the boundary."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.truncate_from(1)
            same_log(log)
            fill(log, *TERMS)
            log.purge_to(3)
            log.truncate_from(4)

        self.kept(change, lambda log: same_log(log, purged=LogId(2, 3)))

    def test_truncate_at_or_below_the_boundary_is_refused(self) -> None:
        """What was purged cannot be truncated: Compacted with the first index."""
        with self.log(*TERMS) as log:
            log.purge_to(3)
            for index in (3, 1):
                same("first_index of the error", refused(log, Compacted, "truncate_from", index).first_index, 4)

    def test_truncate_by_a_stale_leader_is_refused(self) -> None:
        """A leader_term below the last entry's or the hard state's is StaleTerm; nothing changes."""
        with self.log(*TERMS) as log:
            refused(log, StaleTerm, "truncate_from", 4, leader_term=4)
            log.save_hard_state(HardState(6, None))
            refused(log, StaleTerm, "truncate_from", 4, leader_term=5)
            log.truncate_from(4, leader_term=6)
            same_log(log, 1, 1, 2)

    def test_append_goes_on_where_the_log_was_truncated(self) -> None:
        """The next entry takes the first removed index; its term is measured by what is left."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.truncate_from(3)
            fill(log, 1, 3, 4)
            log.truncate_from(5)
            refused(log, StaleTerm, "append", b"x", 2)
            fill(log, 4)

        self.kept(change, lambda log: same_log(log, 1, 1, 1, 3, 4))

    def test_truncated_entries_never_come_back(self) -> None:
        """After truncating and appending again and again the log is what was written last, also after reopening."""

        def change(log: Log) -> None:
            for term in range(1, 12):
                fill(log, *[term] * 5)
                log.truncate_from(term + 1)

        self.kept(change, lambda log: same_log(log, *range(1, 12)))

    # ------------------------------------------------------------ purge_to
    def test_purge_is_inclusive_and_remembers_the_term(self) -> None:
        """Entries up to the index are gone; it is the boundary, and its term is known, also after reopening."""

        def check(log: Log) -> None:
            same_log(log, 2, 5, purged=LogId(2, 3))
            same("term_of(2), term_of(3)", (log.term_of(2), log.term_of(3)), (None, 2))
            for start in (1, 3):
                error = raised(Compacted, f"read({start})", partial(log.read, start))
                same("first_index of the error", error.first_index, 4)

        for upto in (3, LogId(2, 3)):
            self.kept(partial(_purged, upto), check)

    def test_purge_never_moves_back(self) -> None:
        """Purging again, or to a lower index, changes nothing."""
        with self.log(*TERMS) as log:
            log.purge_to(3)
            for upto in (3, 2, 1, 0, LogId(2, 3), LogId(1, 1)):
                log.purge_to(upto)
                same_log(log, 2, 5, purged=LogId(2, 3))

    def test_purge_with_another_term_is_refused(self) -> None:
        """A log id that names another entry than the log has is Truncated; nothing changes."""
        with self.log(*TERMS) as log:
            refused(log, Truncated, "purge_to", LogId(1, 3))
            log.purge_to(3)
            refused(log, Truncated, "purge_to", LogId(5, 3))
            refused(log, Truncated, "purge_to", LogId(2, 5))

    def test_purge_beyond_the_end_is_refused(self) -> None:
        """An index above the last is IndexGap; nothing changes."""
        with self.log(*TERMS) as log:
            same("last_index of the error", refused(log, IndexGap, "purge_to", 6).last_index, 5)
            refused(log, IndexGap, "purge_to", LogId(5, 6))

    def test_after_everything_is_purged_the_log_goes_on(self) -> None:
        """The next index is boundary + 1, last_log_id the boundary, a term below its is stale; also after reopening."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.purge_to(5)

        def check(log: Log) -> None:
            same_log(log, purged=LogId(5, 5))
            same_terms(log, purged=LogId(5, 5))
            refused(log, StaleTerm, "append", b"x", 4)
            refused(log, IndexGap, "truncate_from", 7)

        def append(log: Log) -> None:
            if log.last_index == 5:
                check(log)
                fill(log, 5, 6)
            same_log(log, 5, 6, purged=LogId(5, 5))

        self.kept(change, check)
        self.kept(change, append)

    # ------------------------------------------------------------ reset
    def test_reset_empties_the_log_and_keeps_the_hard_state(self) -> None:
        """Without a boundary the log begins at 1 again; term and vote stay; also after reopening."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            log.purge_to(2)
            log.save_hard_state(HardState(7, "a"))
            log.reset()

        def check(log: Log) -> None:
            same_log(log)
            same_terms(log)
            same("hard_state", HardState(*log.hard_state), HardState(7, "a"))
            refused(log, StaleTerm, "append", b"x", 6)

        self.kept(change, check)

    def test_reset_to_a_boundary_goes_on_behind_it(self) -> None:
        """The boundary of an installed snapshot may lie anywhere ahead; no entry stays; also after reopening."""

        def check(log: Log) -> None:
            same_log(log, purged=boundary)
            same_terms(log, purged=boundary)
            refused(log, StaleTerm, "append", b"x", boundary.term - 1)

        for boundary in (LogId(6, 100), LogId(5, 5), LogId(2, 3)):
            self.kept(partial(_reset, boundary), check)
        with self.log() as log:
            log.reset(LogId(6, 100))
            fill(log, 6, 7)
            same_log(log, 6, 7, purged=LogId(6, 100))
            result = log.append_entries(LogId(6, 100), entries(101, 8), leader_term=8)
            same("matched", result.matched, LogId(8, 101))
            same_log(log, 8, purged=LogId(6, 100))

    def test_reset_never_moves_the_boundary_back(self) -> None:
        """A boundary below the old one is Compacted; nothing changes."""
        with self.log(*TERMS) as log:
            log.purge_to(4)
            refused(log, Compacted, "reset", LogId(2, 3))
            log.reset(LogId(2, 4))
            same_log(log, purged=LogId(2, 4))

    def test_reset_never_contradicts_what_is_committed(self) -> None:
        """A boundary at the commit index has the term of the entry there, else CommittedEntry; purged or not."""
        with self.log(*TERMS) as log:
            log.commit_to(4)
            for term in (1, 3, 5):
                refused(log, CommittedEntry, "reset", LogId(term, 4))
            log.purge_to(4)
            refused(log, CommittedEntry, "reset", LogId(5, 4))
            log.reset(LogId(2, 4))
            same_log(log, purged=LogId(2, 4))

    def test_reset_to_the_boundarys_index_has_its_term(self) -> None:
        """Another entry at the old boundary than the log knows there is Truncated; nothing changes."""
        with self.log(*TERMS) as log:
            log.purge_to(4)
            for term in (1, 3):
                refused(log, Truncated, "reset", LogId(term, 4))
            log.reset(LogId(2, 4))
            same_log(log, purged=LogId(2, 4))

    def test_reset_never_lets_terms_fall(self) -> None:
        """A boundary ahead with a term below the old boundary's, or the commit index's, is StaleTerm."""
        with self.log(*TERMS) as log:
            log.purge_to(4)
            same("current_term", refused(log, StaleTerm, "reset", LogId(1, 100)).current_term, 2)
            log.commit_to(5)
            same("current_term", refused(log, StaleTerm, "reset", LogId(4, 100)).current_term, 5)
            log.reset(LogId(5, 100))
            refused(log, StaleTerm, "reset", LogId(4, 101))
            same_log(log, purged=LogId(5, 100))

    def test_reset_replaces_whatever_is_not_committed(self) -> None:
        """What a deposed leader left above the commit index proves nothing, whatever its terms are."""
        for boundary in (LogId(2, 5), LogId(2, 9), LogId(3, 3), LogId(1, 3)):
            with self.log(*TERMS) as log:
                log.commit_to(2)
                log.reset(boundary)
                same_log(log, purged=boundary)
                same("commit_index", log.commit_index, boundary.index)

    def test_committed_entries_are_never_removed(self) -> None:
        """truncate_from and reset at or below the commit index are CommittedEntry; above it they are allowed."""
        with self.log(*TERMS) as log:
            log.commit_to(3)
            for index in (3, 1):
                error = refused(log, CommittedEntry, "truncate_from", index)
                same("commit_index of the error", error.commit_index, 3)
            refused(log, CommittedEntry, "reset")
            refused(log, CommittedEntry, "reset", LogId(1, 2))
            log.truncate_from(4)
            same_log(log, 1, 1, 2)
            log.reset(LogId(2, 3))
            same_log(log, purged=LogId(2, 3))

    def test_a_reset_log_has_no_boundary(self) -> None:
        """After a reset without boundary nothing is left of the old one: LogId(0, 0)."""
        with self.log(*TERMS) as log:
            log.purge_to(5)
            log.reset()
            same("purged_log_id", log.purged_log_id, NOTHING)
            fill(log, 1)
            same_log(log, 1)
