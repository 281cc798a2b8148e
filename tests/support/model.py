"""What a log should do, as plain lists: no process, no file, no time, and each rule spelled out entry by entry.

What the log must refuse the model raises, with the fields that the error has to carry.
"""

from __future__ import annotations

import raftlog_mp as rl

from .history import Row

START = rl.LogId(0, 0)


class ModelFollower:
    """What an iterator over the log has come to: what it yielded, and whether that is gone."""

    def __init__(self, start: int, yielded: rl.LogId | None) -> None:
        self.next, self.yielded, self.gone = start, yielded, False
        self.over: rl.Truncated | rl.Compacted | None = None  # what it was told once it is told for ever
        self.restarts = 0  # of the writer since it looked: with two of them history is told by terms alone


class ModelLog:
    """Entries behind a boundary, a hard state, a commit index."""

    def __init__(self) -> None:
        self.purged = START
        self.rows: list[Row] = []
        self.hard = rl.HardState(0, None)
        self.commit = 0
        self.durable = 0  # at least
        self.followers: list[ModelFollower] = []

    # ------------------------------------------------------------ where it stands
    @property
    def first_index(self) -> int:
        return self.purged.index + 1

    @property
    def last_index(self) -> int:
        return self.purged.index + len(self.rows)

    @property
    def last_log_id(self) -> rl.LogId:
        return rl.LogId(self.rows[-1].term, self.rows[-1].index) if self.rows else self.purged

    @property
    def current_term(self) -> int:
        """Below it a term is stale."""
        return max(self.last_log_id.term, self.hard.term)

    def get(self, index: int) -> Row | None:
        """The entry, or None outside the log."""
        return self.rows[index - self.first_index] if self.first_index <= index <= self.last_index else None

    def term_of(self, index: int) -> int | None:
        """The entry's term, or the boundary's."""
        if index == self.purged.index:
            return self.purged.term or None
        row = self.get(index)
        return row.term if row else None

    def range_of_term(self, term: int) -> tuple[int | None, int | None]:
        """First and last index of the term's entries."""
        found = [row.index for row in self.rows if row.term == term]
        return (found[0], found[-1]) if found else (None, None)

    def read(self, start: int, stop: int | None, max_bytes: int | None) -> list[Row]:
        """Entries ``start..stop-1``, clipped at the end and by payload bytes, but at least one."""
        if start < self.first_index:
            raise rl.Compacted(first_index=self.first_index)
        rows = [row for row in self.rows if row.index >= start and (stop is None or row.index < stop)]
        if max_bytes is None:
            return rows
        taken, total = [], 0
        for row in rows:
            total += len(row.payload)
            if total > max_bytes and taken:
                break
            taken.append(row)
        return taken

    # ------------------------------------------------------------ appending
    def append(self, payloads: list[bytes], term: int | None) -> range:
        """The indexes that the entries get."""
        if not payloads:
            return range(0)
        self._check_term(term, required=True)
        first, term = self.last_index + 1, term if term is not None else max(1, self.last_log_id.term)
        self.rows += [Row(term, index, payload) for index, payload in enumerate(payloads, first)]
        return range(first, self.last_index + 1)

    def _check_term(self, term: int | None, *, required: bool) -> None:
        if term is None:
            if required and self.hard.term:
                raise rl.StaleTerm
        elif term < self.current_term:
            raise rl.StaleTerm(current_term=self.current_term)

    def append_entries(self, prev: rl.LogId, entries: list[rl.Entry], leader_term: int | None) -> rl.AppendResult:
        """Raft, section 5.3, one entry after the other."""
        if [entry.index for entry in entries] != [prev.index + 1 + n for n in range(len(entries))]:
            raise rl.IndexGap
        terms = [prev.term, *(entry.term for entry in entries)]
        if terms != sorted(terms) or (leader_term is not None and entries and terms[-1] > leader_term):
            raise rl.StaleTerm
        self._check_term(leader_term, required=True)
        conflict = self._conflict(prev, entries)
        if conflict is not None:
            return rl.AppendResult(False, None, self.last_log_id, conflict)
        for entry in entries:
            if entry.index <= self.purged.index or self.term_of(entry.index) == entry.term:
                continue
            if entry.index <= self.last_index:
                if entry.index <= self.commit:
                    raise rl.CommittedEntry(commit_index=self.commit)
                self._remove_from(entry.index)
            self.rows.append(Row(entry.term, entry.index, bytes(entry.payload)))
        return rl.AppendResult(True, entries[-1].log_id if entries else prev, self.last_log_id, None)

    def _conflict(self, prev: rl.LogId, entries: list[rl.Entry]) -> rl.LogId | None:
        if prev.index > self.last_index:
            return rl.LogId(0, self.last_index + 1)
        if prev.index < self.purged.index:  # the boundary is the first entry that can be compared
            claimed = {prev.index: prev.term} | {entry.index: entry.term for entry in entries}
            below = [term for index, term in claimed.items() if index <= self.purged.index]
            right = claimed.get(self.purged.index, self.purged.term) == self.purged.term
            return None if right and max(below) <= self.purged.term else self.purged
        found = self.term_of(prev.index) or 0
        if found == prev.term:
            return None
        return self.purged if prev.index == self.purged.index else rl.LogId(found, self.range_of_term(found)[0] or 0)

    # ------------------------------------------------------------ taking away
    def truncate_from(self, index: int, leader_term: int | None) -> None:
        """Entries from ``index`` on are gone."""
        self._check_term(leader_term, required=False)
        if index > self.last_index + 1:
            raise rl.IndexGap(last_index=self.last_index)
        if index <= self.purged.index:
            raise rl.Compacted(first_index=self.first_index)
        if index <= self.commit:
            raise rl.CommittedEntry(commit_index=self.commit)
        if index <= self.last_index:
            self._remove_from(index)

    def _remove_from(self, index: int) -> None:
        del self.rows[index - self.first_index :]
        self.durable = self.last_index
        for follower in self.followers:
            follower.gone |= follower.yielded is not None and follower.yielded.index >= index

    def purge_to(self, upto: int | rl.LogId) -> None:
        """Entries up to ``upto`` are gone, it is the boundary."""
        index = upto.index if isinstance(upto, rl.LogId) else upto
        if index > self.last_index:
            raise rl.IndexGap(last_index=self.last_index)
        if isinstance(upto, rl.LogId) and index >= self.purged.index and (self.term_of(index) or 0) != upto.term:
            raise rl.Truncated
        if index > self.purged.index:
            boundary = rl.LogId(self.term_of(index) or 0, index)
            self.rows = self.rows[index - self.purged.index :]
            self.purged = boundary
            self.durable = max(self.durable, index)

    def reset(self, boundary: rl.LogId | None) -> None:
        """No entries; the log goes on behind ``boundary``."""
        boundary = boundary or START
        if boundary.index < self.commit:
            raise rl.CommittedEntry(commit_index=self.commit)
        if 0 < boundary.index < self.purged.index:
            raise rl.Compacted(first_index=self.first_index)
        committed = self.term_of(self.commit) or 0
        if boundary.index == self.commit and boundary.term != committed:
            raise rl.CommittedEntry(commit_index=self.commit)
        if boundary.index == self.purged.index and boundary.term != self.purged.term:
            raise rl.Truncated(last_index=self.last_index)
        if boundary.index and boundary.term < max(self.purged.term, committed):
            raise rl.StaleTerm(current_term=max(self.purged.term, committed))
        for follower in self.followers:
            at = follower.yielded
            if at is not None:
                follower.gone |= at.index > boundary.index or (at.index == boundary.index and at != boundary)
        self.rows, self.purged, self.durable = [], boundary, boundary.index
        self.commit = max(self.commit, boundary.index) if self.commit else 0

    # ------------------------------------------------------------ hard state and commit index
    def save_hard_state(self, state: rl.HardState) -> None:
        """Term and vote; a vote that was given in a term stays."""
        if state.term < self.hard.term:
            raise rl.StaleTerm(current_term=self.hard.term)
        voted = self.hard.voted_for if state.term == self.hard.term else None
        if voted is not None and state.voted_for not in (None, voted):
            raise rl.StaleTerm(current_term=self.hard.term)
        self.hard = state if voted is None else self.hard

    def commit_to(self, index: int) -> int:
        """It rises, at most to the last entry."""
        self.commit = max(self.commit, min(index, self.last_index))
        return self.commit

    # ------------------------------------------------------------ following
    def follow(self, start: int | None, after: rl.LogId | None) -> ModelFollower:
        """A follower from ``start``, or behind a checkpoint."""
        if after is not None:
            if after.index < self.purged.index:
                raise rl.Compacted(first_index=self.first_index)
            if after.index > self.last_index or (self.term_of(after.index) or 0) != after.term:
                raise rl.Truncated(last_index=self.last_index)
            return ModelFollower(after.index + 1, after)
        start = self.first_index if start is None else start
        if start < self.first_index:
            raise rl.Compacted(first_index=self.first_index)
        if start > self.last_index + 1:
            raise rl.IndexGap(last_index=self.last_index)
        return ModelFollower(start, None)

    def drain(self, follower: ModelFollower, limit: int | None = None) -> list[Row]:
        """What it yields now, up to ``limit``."""
        follower.restarts = 0
        if follower.over is None and follower.gone:
            follower.over = rl.Truncated(last_index=self.last_index)
        elif follower.over is None and follower.next < self.first_index:
            follower.over = rl.Compacted(first_index=self.first_index)
        if follower.over is not None:
            raise follower.over
        rows = [row for row in self.rows if row.index >= follower.next and (limit is None or row.index <= limit)]
        if rows:
            follower.next, follower.yielded = rows[-1].index + 1, rl.LogId(rows[-1].term, rows[-1].index)
        return rows

    # ------------------------------------------------------------ life
    def restarted(self) -> None:
        """Another writer serves."""
        for follower in self.followers:
            follower.restarts += 1
