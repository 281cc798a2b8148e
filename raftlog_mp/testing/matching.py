"""Rules of AppendEntries: what matches, what is skipped, what is replaced, what is refused."""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

from ..errors import CommittedEntry, IndexGap, StaleTerm
from ..types import AppendResult, Entry, HardState, LogId
from .checks import NOTHING, Log, Rules, entries, entry, fill, holds, refused, same, same_log, same_terms

TERMS = (1, 1, 2, 2, 2, 4)  # of the log that most rules begin with
LAST = LogId(4, 6)


class Lookalike(NamedTuple):
    """Has the names of an entry, and is none."""

    term: int
    index: int  # type: ignore[assignment]  # shadows tuple.index, which nobody asks it for
    payload: bytes


def matches(log: Log, prev: LogId, new: list[Entry], leader_term: int | None, matched: LogId, last: LogId) -> None:
    """AppendEntries succeeds with exactly this answer."""
    result = log.append_entries(prev, new, leader_term=leader_term)
    same(f"the answer to prev={prev}", AppendResult(*result), AppendResult(True, matched, last, None))


def mismatches(log: Log, prev: LogId, new: list[Entry], leader_term: int, conflict: LogId) -> None:
    """AppendEntries finds another entry at prev, says where to look next, and changes nothing."""
    before, last = log.read(log.first_index), log.last_log_id
    result = log.append_entries(prev, new, leader_term=leader_term)
    same(f"the answer to prev={prev}", AppendResult(*result), AppendResult(False, None, last, conflict))
    same("the log after a mismatch", (log.read(log.first_index), log.last_log_id), (before, last))


def _filled_and_purged(stop: int, log: Log) -> None:
    fill(log, *TERMS[:stop])
    log.purge_to(4)


class Matching(Rules):
    """append_entries."""

    # ------------------------------------------------------------ prev matches
    def test_entries_are_appended_behind_a_prev_that_matches(self) -> None:
        """Entries of any terms up to the leader's go behind prev in one call, also into an empty log."""

        def change(log: Log) -> None:
            matches(log, NOTHING, entries(1, *TERMS), 4, LAST, LAST)
            matches(log, LAST, entries(7, 4, 5, 5, 8), 9, LogId(8, 10), LogId(8, 10))

        self.kept(change, lambda log: same_log(log, *TERMS, 4, 5, 5, 8))

    def test_prev_before_the_first_entry_matches_and_wipes_nothing(self) -> None:
        """LogId(0, 0) matches every log; what is behind it stays."""
        with self.log(*TERMS) as log:
            matches(log, NOTHING, [], 4, NOTHING, LAST)
            matches(log, NOTHING, entries(1, 1, 1), 4, LogId(1, 2), LAST)
            same_log(log, *TERMS)

    def test_a_heartbeat_changes_nothing(self) -> None:
        """Without entries the answer is whether prev matches; matched is prev, whatever the log holds behind it."""
        with self.log(*TERMS) as log:
            matches(log, LAST, [], 4, LAST, LAST)
            matches(log, LogId(2, 3), [], 9, LogId(2, 3), LAST)
            same_log(log, *TERMS)

    def test_a_duplicate_changes_nothing(self) -> None:
        """The same call again, late or twice, skips what is there and never shortens the log."""
        with self.log(*TERMS) as log:
            for _ in range(2):
                matches(log, LAST, entries(7, 4, 4), 4, LogId(4, 8), LogId(4, 8))
            matches(log, LogId(1, 1), entries(2, 1, 2), 4, LogId(2, 3), LogId(4, 8))
            matches(log, NOTHING, entries(1, 1), 4, LogId(1, 1), LogId(4, 8))
            same_log(log, *TERMS, 4, 4)

    def test_known_entries_are_skipped_and_the_rest_is_appended(self) -> None:
        """Where a call overlaps the log, entries with the same term stay as they are and only new ones are added."""
        with self.log(*TERMS) as log:
            known = [Entry(2, 5, b"never written"), Entry(4, 6, b"never written")]
            matches(log, LogId(2, 4), [*known, *entries(7, 4, 5)], 5, LogId(5, 8), LogId(5, 8))
            same_log(log, *TERMS, 4, 5)

    def test_matched_is_prev_and_the_entries_and_nothing_behind(self) -> None:
        """matched never tells of entries that the call did not name; last_log_id is the end of the log."""
        with self.log(*TERMS) as log:
            matches(log, LogId(1, 2), entries(3, 2), 4, LogId(2, 3), LAST)
            matches(log, LogId(2, 3), entries(4, 2, 2, 4, 4), 4, LogId(4, 7), LogId(4, 7))

    # ------------------------------------------------------------ conflicts
    def test_a_conflict_is_replaced_from_the_first_entry_that_differs(self) -> None:
        """What agrees before the conflict is not touched, everything from the conflict on is replaced."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            known = [Entry(1, 2, b"never written"), Entry(2, 3, b"never written")]
            matches(log, LogId(1, 1), [*known, *entries(4, 3, 3, 5, 6)], 6, LogId(6, 7), LogId(6, 7))

        def check(log: Log) -> None:
            same_log(log, 1, 1, 2, 3, 3, 5, 6)
            same_terms(log, 1, 1, 2, 3, 3, 5, 6)

        self.kept(change, check)

    def test_a_shorter_replacement_ends_the_log(self) -> None:
        """Nothing of the old suffix stands behind a replacement that is shorter."""

        def change(log: Log) -> None:
            fill(log, *TERMS)
            matches(log, LogId(1, 2), entries(3, 5), 5, LogId(5, 3), LogId(5, 3))

        def check(log: Log) -> None:
            same_log(log, 1, 1, 5)
            same_terms(log, 1, 1, 5)

        self.kept(change, check)

    def test_the_whole_log_can_be_replaced(self) -> None:
        """A conflict at the first entry replaces everything."""
        with self.log(*TERMS) as log:
            matches(log, NOTHING, entries(1, 3, 5), 5, LogId(5, 2), LogId(5, 2))
            same_log(log, 3, 5)
            fill(log, 5)
            same_log(log, 3, 5, 5)

    def test_a_replacement_is_durable(self) -> None:
        """When a replacement returns it is fsynced, whatever the strategy."""
        with self.log(*TERMS) as log:
            log.append_entries(LogId(2, 4), entries(5, 3, 3), leader_term=4)
            same("durable_index after a replacement", log.durable_index, 6)

    # ------------------------------------------------------------ prev does not match
    def test_another_term_at_prev_names_the_first_index_of_that_term(self) -> None:
        """conflict is the term that stands at prev.index and where it begins; nothing changes."""
        with self.log(*TERMS) as log:
            mismatches(log, LogId(3, 5), entries(6, 3), 4, LogId(2, 3))
            mismatches(log, LogId(1, 4), [], 4, LogId(2, 3))
            mismatches(log, LogId(3, 6), entries(7, 5), 5, LogId(4, 6))
            mismatches(log, LogId(2, 1), [], 4, LogId(1, 1))
            same_log(log, *TERMS)

    def test_prev_beyond_the_end_names_the_next_index(self) -> None:
        """If the log ends before prev, conflict is LogId(0, last + 1)."""
        with self.log(*TERMS) as log:
            mismatches(log, LogId(4, 7), entries(8, 4), 4, LogId(0, 7))
            mismatches(log, LogId(5, 900), [], 5, LogId(0, 7))
        with self.log() as log:
            mismatches(log, LogId(1, 1), entries(2, 1), 1, LogId(0, 1))

    def test_hints_step_back_by_whole_terms(self) -> None:
        """A leader that follows the hints needs one call for each term that differs, not one for each entry."""
        leader = [1] * 3 + [2] * 3 + [7] * 120
        with self.log(*[1] * 3, *[3] * 40, *[4] * 40, *[6] * 30) as log:
            prev, calls = LogId(7, 126), 1
            while not (result := log.append_entries(prev, [], leader_term=7)).success:
                back = result.conflict.index - 1
                holds(f"the hint {result.conflict} for prev={prev} does not lead back", back < prev.index)
                prev, calls = LogId(leader[back - 1], back) if back else NOTHING, calls + 1
            same("where leader and log agree", prev, LogId(1, 3))
            same("calls", calls, 5)  # beyond the end, then the terms 6, 4 and 3, then the match
            missing = entries(4, *leader[3:])
            matches(log, prev, missing, 7, LogId(7, 126), LogId(7, 126))
            same_log(log, *leader)

    # ------------------------------------------------------------ at the purge boundary
    def test_the_boundary_matches_with_its_own_term_only(self) -> None:
        """prev at the purge boundary is compared with the boundary's term, also when the log is empty."""

        def check(log: Log) -> None:
            same("the boundary", log.purged_log_id, LogId(2, 4))
            matches(log, LogId(2, 4), [], 4, LogId(2, 4), log.last_log_id)
            mismatches(log, LogId(1, 4), [], 4, LogId(2, 4))
            mismatches(log, LogId(3, 4), entries(5, 3), 4, LogId(2, 4))

        for stop in (6, 4):  # with entries behind the boundary, and with none
            self.kept(partial(_filled_and_purged, stop), check)

    def test_prev_below_the_boundary_matches_if_the_boundary_does(self) -> None:
        """Purged entries of a call are skipped if the one at the boundary has its term; else nothing changes."""
        with self.log(*TERMS) as log:
            log.purge_to(LogId(2, 4))
            matches(log, LogId(1, 2), entries(3, 2, 2, 2), 4, LogId(2, 5), LAST)
            matches(log, NOTHING, entries(1, *TERMS, 4), 4, LogId(4, 7), LogId(4, 7))
            matches(log, LogId(1, 1), entries(2, 1, 2), 4, LogId(2, 3), LogId(4, 7))
            mismatches(log, LogId(1, 2), entries(3, 2, 3, 3), 4, LogId(2, 4))
            same_log(log, 2, 4, 4, purged=LogId(2, 4))
            matches(log, LogId(1, 2), entries(3, 2, 2, 6), 6, LogId(6, 5), LogId(6, 5))
            same_log(log, 6, purged=LogId(2, 4))

    def test_what_cannot_have_stood_below_the_boundary_does_not_match(self) -> None:
        """A term above the boundary's, of prev or of an entry at or below it, is a mismatch: terms never fall."""
        with self.log(*TERMS) as log:
            log.purge_to(LogId(2, 4))
            mismatches(log, LogId(3, 1), [], 4, LogId(2, 4))
            mismatches(log, LogId(3, 1), entries(2, 3, 3), 4, LogId(2, 4))
            mismatches(log, LogId(1, 1), entries(2, 1, 3), 4, LogId(2, 4))
            mismatches(log, NOTHING, entries(1, 4, 4), 4, LogId(2, 4))
            mismatches(log, LogId(3, 3), entries(4, 3, 3, 5), 5, LogId(2, 4))
            matches(log, LogId(2, 2), entries(3, 2), 4, LogId(2, 3), LAST)
            same_log(log, 2, 4, purged=LogId(2, 4))

    def test_hints_do_not_lead_below_the_boundary(self) -> None:
        """A term that begins below the boundary is named from the first entry that is there."""
        with self.log(*TERMS) as log:
            log.purge_to(3)
            mismatches(log, LogId(1, 5), [], 4, LogId(2, 4))

    # ------------------------------------------------------------ refused
    def test_entries_that_do_not_follow_prev_are_refused(self) -> None:
        """Gaps behind prev or among the entries, doubles and unsorted ones are IndexGap; nothing changes."""
        with self.log(*TERMS) as log:
            for prev, new in (
                (LAST, entries(8, 4)), (LAST, entries(6, 4)), (NOTHING, entries(2, 1)),
                (LAST, [entry(4, 7), entry(4, 9)]), (LAST, [entry(4, 8), entry(4, 7)]),
                (LAST, [entry(4, 7), entry(4, 7)]), (LogId(2, 3), [entry(3, 4), entry(3, 6)]),
            ):  # fmt: skip
                refused(log, IndexGap, "append_entries", prev, new, leader_term=4)
            same_log(log, *TERMS)

    def test_what_is_no_entry_is_refused(self) -> None:
        """Only Entry values of two integers and bytes are taken; anything else is a TypeError, and nothing changes."""
        with self.log(*TERMS) as log:
            for wrong in (
                Lookalike(4, 8, b"x"), (4, 8, b"x"), None, Entry(4, 8.0, b"x"),  # type: ignore[arg-type]  # on purpose
                Entry(4.0, 8, b"x"), Entry(4, 8, "x"), Entry(True, 8, b"x"),  # type: ignore[arg-type]  # on purpose
            ):  # fmt: skip
                refused(log, TypeError, "append_entries", LAST, [entry(4, 7), wrong], leader_term=4)
                refused(log, TypeError, "append_entries", LogId(4, 7), [wrong], leader_term=4)
            refused(log, TypeError, "append_entries", LAST, b"xyz", leader_term=4)
            same_log(log, *TERMS)

    def test_terms_that_fall_are_refused(self) -> None:
        """A term below the one before it, prev's included, or above the leader's is StaleTerm; nothing changes."""
        with self.log(*TERMS) as log:
            refused(log, StaleTerm, "append_entries", LAST, entries(7, 5, 4), leader_term=5)
            refused(log, StaleTerm, "append_entries", LAST, entries(7, 3), leader_term=5)
            refused(log, StaleTerm, "append_entries", LogId(2, 3), entries(4, 3, 1), leader_term=5)
            refused(log, StaleTerm, "append_entries", LAST, entries(7, 6), leader_term=5)
            same_log(log, *TERMS)

    def test_a_stale_leader_is_refused(self) -> None:
        """A leader_term below the last entry's or the hard state's is StaleTerm, even for a heartbeat."""
        with self.log(*TERMS) as log:
            refused(log, StaleTerm, "append_entries", LAST, [], leader_term=3)
            refused(log, StaleTerm, "append_entries", LogId(2, 3), entries(4, 3, 3), leader_term=3)
            refused(log, StaleTerm, "append_entries", LogId(9, 99), [], leader_term=3)
            log.save_hard_state(HardState(8, None))
            error = refused(log, StaleTerm, "append_entries", LAST, entries(7, 7), leader_term=7)
            same("current_term", error.current_term, 8)
            matches(log, LAST, entries(7, 4), 8, LogId(4, 7), LogId(4, 7))

    def test_committed_entries_are_never_replaced(self) -> None:
        """A conflict at or below the commit index is CommittedEntry; known committed entries are skipped as ever."""
        with self.log(*TERMS) as log:
            log.commit_to(4)
            error = refused(log, CommittedEntry, "append_entries", LogId(1, 2), entries(3, 5), leader_term=5)
            same("commit_index of the error", error.commit_index, 4)
            refused(log, CommittedEntry, "append_entries", LogId(2, 3), entries(4, 3, 5), leader_term=5)
            matches(log, LogId(1, 2), entries(3, 2, 2, 5), 5, LogId(5, 5), LogId(5, 5))
            same_log(log, 1, 1, 2, 2, 5)
