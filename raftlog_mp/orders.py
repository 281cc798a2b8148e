"""What a client asks of the writer besides plain appends: AppendEntries, truncation, purge, reset, hard state, commit.

Each is decided here, at execution, in the order of its lane.  Everything but the commit index is durable before it is
answered, and each may be sent again after a crash: it either finds its own outcome, or changes nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from crc32c import crc32c

from . import errors, layout
from . import format as fmt
from .bodies import pack_body, unpack_body
from .changes import Batch
from .errors import RaftLogError
from .journal import Journal
from .lane import Completion
from .layout import ENTRY_RUN, ENTRY_RUN_BYTES, FLAG_TERM_GIVEN, INDEX_MAX, TERM_MAX
from .matching import Committed, Match, Mismatch, Standing, decide
from .protocol import BOUNDARY_INDEX_MAX, unpack_hard_state
from .terms import Unknown, unknown_terms
from .types import HardState, LogId

PURGES_KEPT = 64  # submissions of the newest purges that the manifest names
Fields = tuple[int, ...]  # of layout.SUBMISSION


class Orders:
    """Executes submissions of every kind but plain appends.

    ``make_room()`` is called when the journal has no room: it flushes and returns True if there may be room now.
    """

    def __init__(self, journal: Journal, make_room: Callable[[], bool]) -> None:
        self.journal, self._make_room = journal, make_room
        self.news = False  # something changed that followers may wait for, or that wants its answer soon
        self._kinds: dict[int, Callable[[Fields, Any, int], Completion | None]] = {
            layout.SUBMIT_ENTRIES: self._entries, layout.SUBMIT_TRUNCATE: self._truncate,
            layout.SUBMIT_PURGE: self._purge, layout.SUBMIT_RESET: self._reset,
            layout.SUBMIT_HARD_STATE: self._hard_state, layout.SUBMIT_COMMIT: self._commit,
        }  # fmt: skip

    def execute(self, fields: Fields, body: Any, producer: int) -> Completion | None:
        """Decide one submission; None if there is no room for it now."""
        execute, sequence = self._kinds.get(fields[1]), fields[6]
        if execute is None or fields[7] > INDEX_MAX or fields[8] > TERM_MAX:
            return sequence, layout.MALFORMED, 0, 0, 0, 0
        self.news |= fields[1] != layout.SUBMIT_ENTRIES
        try:
            return execute(fields, body, producer)
        except errors.SyncFailed as failed:
            return sequence, layout.SYNC_FAILED, 0, 0, 0, failed.errno or 0
        except errors.DiskFull as full:
            return sequence, layout.DISK_FULL, 0, 0, 0, full.errno or 0

    def done(self, sequence: int) -> Completion:
        """It is as the client asked; the log ends here."""
        last = self._last
        return sequence, layout.OK, last.index, last.term, 0, 0

    @property
    def _last(self) -> LogId:
        return LogId(self.journal.last_term, self.journal.next_index - 1)

    def _stale(self, fields: Fields) -> Completion | None:
        """The answer to a term that is over, if one was given: another leader has been here."""
        current = max(self.journal.last_term, self.journal.hard.term)
        if fields[2] & FLAG_TERM_GIVEN and fields[5] < current:
            return fields[6], layout.STALE_TERM, 0, 0, current, 0
        return None

    # ------------------------------------------------------------ AppendEntries
    def _entries(self, fields: Fields, body: Any, producer: int) -> Completion | None:
        sequence, prev, journal = fields[6], LogId(fields[8], fields[7]), self.journal
        batches = self._parse(fields, body, prev.term)
        if isinstance(batches, int):
            return sequence, batches, 0, 0, 0, self.journal.config.entry_bytes_limit
        if not fields[2] & FLAG_TERM_GIVEN and journal.hard.term:
            return sequence, layout.TERM_REQUIRED, 0, 0, journal.last_term, 0
        stale = self._stale(fields)
        if stale is not None:
            return stale
        here = self._standing()
        match decide(prev, [(batch.term, batch.count) for batch in batches], here):
            case Mismatch(conflict):
                last = self._last
                return sequence, layout.MISMATCH, last.index, last.term, conflict.term, conflict.index
            case Committed():
                return sequence, layout.COMMITTED, here.commit_index, 0, 0, 0
            case Match(skip, cut):
                rest = _without(batches, skip)
                if cut is not None:
                    self.news = True
                    journal.replace_from(cut, rest, producer, sequence)
                elif rest and not self._append(rest, producer, sequence):
                    return None
        return self.done(sequence)

    def _standing(self) -> Standing:
        """This log as AppendEntries sees it.  In a hole that repair left stands no entry that could match."""
        journal, runs, state = self.journal, self.journal.terms.runs, self.journal.manifest
        holes = [row for row in state.live_lost() if row[0] <= row[1]]
        if not holes:
            return Standing(
                self._last, journal.purged, state.commit_index, runs.term_of, runs.first_of, runs.end_of
            )

        def term_of(index: int) -> int | None:
            return None if any(row[0] <= index <= row[1] for row in holes) else runs.term_of(index)

        def end_of(index: int) -> int | None:
            ends = [runs.end_of(index), *(row[0] for row in holes if row[0] > index)]
            return min((end for end in ends if end is not None), default=None)

        last = self._last
        if term_of(last.index) is None and last.index > journal.purged.index:
            last = LogId(-1, last.index)  # its term is known, but nobody has it: no leader may count it
        return Standing(last, journal.purged, state.commit_index, term_of, runs.first_of, end_of)

    def _unknown(self, index: int) -> Unknown | None:
        """The hole that holds the entry, if nobody knows which term that had."""
        journal = self.journal
        found = unknown_terms(
            journal.terms.runs, journal.manifest.live_lost(), journal.purged, journal.next_index - 1
        )
        return next((one for one in found if one.holds(index)), None)

    def _parse(self, fields: Fields, body: Any, term: int) -> list[Batch] | int:
        """The batches in a verified copy, or the status to answer; ``term`` is that of prev."""
        count, size, config = fields[3], len(body), self.journal.config
        at = count * ENTRY_RUN_BYTES
        if at > size or crc32c(body[:at]) != fields[4]:
            return layout.MALFORMED
        if size - at + max(0, count - 1) * fmt.RECORD_BYTES > config.batch_bytes_limit:
            return layout.TOO_LARGE
        batches = []
        for run_term, entries, length, crc, zero in ENTRY_RUN.iter_unpack(body[:at]):
            part = body[at : at + length]
            if zero or not term <= run_term <= TERM_MAX or run_term < 1 or entries < 1 or len(part) != length:
                return layout.MALFORMED
            if fields[2] & FLAG_TERM_GIVEN and run_term > fields[5]:
                return layout.MALFORMED
            if crc32c(part) != crc:
                return layout.MALFORMED
            longest = length
            if entries > 1:
                try:
                    longest = max(map(len, unpack_body(part, entries)))
                except ValueError:
                    return layout.MALFORMED
            if longest > config.entry_bytes_limit:
                return layout.TOO_LARGE
            batches.append(Batch(part, crc, entries, run_term))
            at, term = at + length, run_term
        return batches if at == size else layout.MALFORMED

    def _append(self, batches: list[Batch], producer: int, sequence: int) -> bool:
        """Append them to the end, in one segment; False if there is no room now."""
        journal = self.journal
        count = sum(batch.count for batch in batches)
        size = sum(len(batch.body) for batch in batches) + (len(batches) - 1) * fmt.RECORD_BYTES
        if not journal.fits(size, count) and not self._make_room():
            return False
        if journal.needs_roll(size, count):
            journal.roll(size, count)
        for batch in batches[:-1]:
            journal.append(*batch, 0, 0)
        # Only the last record names the submission: if it is in the log after a crash, all of them are.
        journal.append(*batches[-1], producer, sequence)
        return True

    # ------------------------------------------------------------ what takes entries away
    def _truncate(self, fields: Fields, _: Any, producer: int) -> Completion:
        sequence, index, journal, last = fields[6], fields[7], self.journal, self._last
        stale = self._stale(fields)
        if stale is not None:
            return stale
        if index > last.index + 1:
            return sequence, layout.GAP, last.index, 0, 0, 0
        if index <= journal.purged.index:
            return sequence, layout.PURGED, journal.purged.index + 1, 0, 0, 0
        if index <= journal.manifest.commit_index:
            return sequence, layout.COMMITTED, journal.manifest.commit_index, 0, 0, 0
        if index <= last.index:
            one = self._unknown(index - 1)  # the term that the log would end with
            if one is not None:
                return sequence, layout.TERM_UNKNOWN, one.first, 0, one.before, 0
            journal.replace_from(index, [], producer, sequence)
        return self.done(sequence)

    def _purge(self, fields: Fields, _: Any, producer: int) -> Completion:
        sequence, index, term, journal = fields[6], fields[7], fields[8], self.journal
        purged, last = journal.purged, self._last
        if index > last.index:
            return sequence, layout.GAP, last.index, 0, 0, 0
        one = self._unknown(index)  # the boundary's term is stated for good
        if one is not None:
            return sequence, layout.TERM_UNKNOWN, one.first, 0, one.before, 0
        if index >= purged.index and term:
            found = journal.terms.runs.term_of(index) or 0
            if found != term:
                return sequence, layout.OTHER_ENTRY, last.index, 0, found, 0
        if index > purged.index:
            self._purge_once(index, producer, sequence)
        return self.done(sequence)

    def _purge_once(self, index: int, producer: int, sequence: int) -> None:
        """A purge leaves no record that names its submission, so the manifest does: after a reset the same index is
        another entry, and a purge that is sent again must not take that."""
        self.journal.settle_to(index)
        state = self.journal.manifest
        before, state.purges = state.purges, [*state.purges[1 - PURGES_KEPT :], [producer, sequence]]
        try:
            self.journal.purge_to(index)
        except RaftLogError:
            state.purges = before
            raise
        self.journal.producers.record(producer, sequence, (index + 1, 0, 0))

    def _reset(self, fields: Fields, _: Any, producer: int) -> Completion:
        sequence, boundary, journal = fields[6], LogId(fields[8], fields[7]), self.journal
        purged, commit, last = journal.purged, journal.manifest.commit_index, self._last
        committed_term = highest = journal.terms.runs.term_of(commit) or 0
        if (one := self._unknown(commit)) is not None:
            committed_term, highest = one.before, one.after
        lowest = max(purged.term, committed_term)
        if boundary.index > BOUNDARY_INDEX_MAX:
            return sequence, layout.MALFORMED, 0, 0, 0, 0
        if boundary.index < commit:
            return sequence, layout.COMMITTED, commit, 0, 0, 0
        if 0 < boundary.index < purged.index:
            return sequence, layout.PURGED, purged.index + 1, 0, 0, 0
        if boundary.index == commit and not committed_term <= boundary.term <= highest:
            return sequence, layout.COMMITTED, commit, 0, 0, 0
        if boundary.index == purged.index and boundary.term != purged.term:
            return sequence, layout.OTHER_ENTRY, last.index, 0, purged.term, 0
        if boundary.index and boundary.term < lowest:  # what is committed or purged here is part of any snapshot
            return sequence, layout.STALE_TERM, 0, 0, lowest, 0
        journal.reset(boundary, producer, sequence)
        return self.done(sequence)

    # ------------------------------------------------------------ hard state and commit index
    def _hard_state(self, fields: Fields, body: Any, _: int) -> Completion:
        sequence, journal = fields[6], self.journal
        try:
            wanted = unpack_hard_state(bytes(body))
        except ValueError:
            return sequence, layout.MALFORMED, 0, 0, 0, 0
        held = journal.hard
        if wanted.term < held.term:
            return sequence, layout.STALE_TERM, 0, 0, held.term, 0
        if wanted.term == held.term and held.voted_for is not None:
            if wanted.voted_for not in (None, held.voted_for):
                return sequence, layout.VOTED, 0, 0, held.term, 0
            wanted = HardState(held.term, held.voted_for)  # a vote that was given is never forgotten
        if wanted != held:
            journal.save_hard_state(wanted)
        return self.done(sequence)

    def _commit(self, fields: Fields, _: Any, __: int) -> Completion:
        return fields[6], layout.OK, self.journal.commit_to(fields[7]), 0, 0, 0


def _without(batches: list[Batch], skip: int) -> list[Batch]:
    """The batches without their first ``skip`` entries; a batch that is cut gets a new body and checksum."""
    rest = []
    for batch in batches:
        if skip >= batch.count:
            skip -= batch.count
            continue
        if skip:
            payloads = unpack_body(batch.body, batch.count)[skip:]
            body = payloads[0] if len(payloads) == 1 else pack_body(payloads)
            batch = Batch(body, crc32c(body), len(payloads), batch.term)
            skip = 0
        rest.append(batch)
    return rest
