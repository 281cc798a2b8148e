"""The history of a storm, in which suffixes come and go and processes die at will, and whether it fits together.

Pure functions, as in ``support/history.py``: an empty list of problems means that the history is sound.  There is no
clock: every line that a process wrote carries a *stamp* from one counter in shared memory, so what ended before
something else began is known, and what overlapped may have happened in either order.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from support.history import Row

NEVER = 1 << 62  # the stamp of an outcome that nobody learned


class Append(NamedTuple):
    """A batch that somebody asked for, and what became of it.  Stamps are one total order over all processes."""

    client: str
    number: int  # in program order of that client
    called: int
    done: int  # NEVER: its process died, or the outcome is unknown
    outcome: str  # acked, refused (surely not appended), unknown
    term: int
    payloads: tuple[bytes, ...]
    first: int | None = None

    @property
    def name(self) -> str:
        return f"append {self.number} of {self.client}"


class Request(NamedTuple):
    """Something else that was asked for: ``remove`` (from an index on), ``purge``, ``commit`` (up to one), ``save``."""

    kind: str
    value: int  # the index; of "save" the term
    called: int
    done: int
    outcome: str
    term: int = 0  # of the leader: a newer one fences it
    vote: str | None = None


class Seen(NamedTuple):
    """One entry as a reader saw it, at some moment between two stamps."""

    before: int
    after: int
    row: Row


class Run(NamedTuple):
    """What one follower saw in one go, until it ended or was told that it cannot go on."""

    who: str
    upto: str  # visible, durable, committed
    seen: tuple[Seen, ...]


class Frontiers(NamedTuple):
    """The log's frontiers as somebody saw them, at some moment between two stamps."""

    who: str
    before: int
    after: int
    generation: int
    last: int
    durable: int
    commit: int
    live: bool  # beside a writer; without one a reader looks at the files, and only now and then for a new writer


class HardSeen(NamedTuple):
    """Term and vote as somebody read them, at some moment between two stamps."""

    who: str
    before: int
    after: int
    term: int
    vote: str | None


class Storm(NamedTuple):
    """Everything that was written down, and the log at the end: its rows, and the boundary below them."""

    strategy: str
    appends: Sequence[Append]
    requests: Sequence[Request]
    runs: Sequence[Run]
    frontiers: Sequence[Frontiers]
    hard: Sequence[HardSeen]
    boundary: int
    log: Sequence[Row]


def check_storm(storm: Storm) -> list[str]:
    """Every way in which the history of a storm breaks a promise of the log."""
    return _StormChecker(storm).check()


class _StormChecker:
    """What is known of each entry: who sent it, where it stood, since when at the latest, what may have removed it."""

    def __init__(self, storm: Storm) -> None:
        self.storm = storm
        self.found: list[str] = []
        self.last = storm.boundary + len(storm.log)
        self.final = {row.payload: row for row in storm.log}
        self.sent = {payload: append for append in storm.appends for payload in append.payloads}
        self.removals = self._removals()
        self.purged = max((r.value for r in self._asked("purge")), default=0)
        self.committed = max((r.value for r in self._asked("commit") if r.outcome == "acked"), default=0)
        self.place: dict[bytes, int] = {}
        self.known: dict[bytes, int] = {}  # payload -> the earliest stamp at which it surely was in the log
        self._gone: dict[bytes, int] = {}  # what _gone_at found; valid once all places are noted
        self._note_places()

    def check(self) -> list[str]:
        self._check_log()
        for append in self.storm.appends:
            self._check_append(append)
        self._check_presence()
        self._check_same_index()
        self._check_program_order()
        for run in self.storm.runs:
            self._check_run(run)
        self._check_frontiers()
        self._check_hard()
        return self.found

    def _asked(self, kind: str) -> list[Request]:
        """Requests of a kind that were, or may have been, executed."""
        return [r for r in self.storm.requests if r.kind == kind and r.outcome != "refused"]

    def _removals(self) -> list[Request]:
        """Truncations and replacements in order.  One whose leader died is over once a newer term was saved."""
        saves = [r for r in self._asked("save") if r.outcome == "acked"]
        removals = []
        for removal in self._asked("remove"):
            if removal.done == NEVER:
                fence = min((s.done for s in saves if s.value > removal.term), default=NEVER)
                removal = removal._replace(done=fence)
            removals.append(removal)
        return sorted(removals, key=lambda r: r.called)

    def _may_be_gone(self, index: int, since: int, until: int = NEVER) -> bool:
        """Whether a removal may have taken what stood at ``index``, asked for at ``since``, before ``until``.

        A replacement is one request with the entries that it puts there: it does not remove those.
        """
        removals = self.removals
        return any(r.value <= index and r.done > since and r.called != since and r.called < until for r in removals)

    def _gone_at(self, payload: bytes) -> int:
        """The stamp from which on an entry is surely gone: it was there, and then a removal was acknowledged."""
        if payload not in self._gone:
            index, known = self.place[payload], self.known[payload]
            sure = (r for r in self.removals if r.outcome == "acked" and r.value <= index and r.called > known)
            self._gone[payload] = min((r.done for r in sure), default=NEVER)
        return self._gone[payload]

    def _note_places(self) -> None:
        def note(payload: bytes, index: int, stamp: int, who: str) -> None:
            if self.place.setdefault(payload, index) != index:
                self.found.append(f"{payload!r} is at index {index} for {who}, and was at {self.place[payload]}")
            self.known[payload] = min(self.known.get(payload, NEVER), stamp)

        for append in self.storm.appends:
            if append.outcome == "acked":
                for index, payload in enumerate(append.payloads, append.first or 0):
                    note(payload, index, append.done, append.name)
        for run in self.storm.runs:
            for seen in run.seen:
                note(seen.row.payload, seen.row.index, seen.after, run.who)
        for row in self.storm.log:
            note(row.payload, row.index, NEVER, "the log at the end")

    def _check_origin(self, row: Row, who: str) -> None:
        append = self.sent.get(row.payload)
        if append is None:
            self.found.append(f"{who}: {row.payload!r} at index {row.index}, but nobody sent it")
        elif append.outcome == "refused":
            self.found.append(f"{who}: {row.payload!r} at index {row.index}, but {append.name} was refused")
        elif append.term != row.term:
            self.found.append(f"{who}: {row.payload!r} has term {row.term}, {append.name} gave it {append.term}")

    def _check_log(self) -> None:
        """Contiguous behind the boundary, terms never fall, each entry once, and nothing that was not sent."""
        for expected, row in enumerate(self.storm.log, self.storm.boundary + 1):
            if row.index != expected:
                self.found.append(f"index {row.index} stands where {expected} was due")
                break
        for before, after in zip(self.storm.log, self.storm.log[1:], strict=False):
            if after.term < before.term:
                self.found.append(f"term falls from {before.term} to {after.term} at index {after.index}")
        for payload, count in Counter(row.payload for row in self.storm.log).items():
            if count > 1:
                self.found.append(f"{payload!r} is in the log {count} times")
        for row in self.storm.log:
            self._check_origin(row, "the log at the end")
        if self.storm.boundary > self.purged:
            self.found.append(f"the log begins behind {self.storm.boundary}, but was purged to {self.purged} at most")
        purged = max((r.value for r in self._asked("purge") if r.outcome == "acked"), default=0)
        if self.storm.boundary < purged:
            self.found.append(f"the log begins behind {self.storm.boundary}, but was purged to {purged}")
        if self.last < self.committed:
            self.found.append(f"the log ends at {self.last}, but {self.committed} was committed")

    def _check_append(self, append: Append) -> None:
        """All of a batch is there, but for what a purge took off its head or a removal off its end."""
        rows = [self.final.get(payload) for payload in append.payloads]
        there = [row.index for row in rows if row is not None]
        if append.outcome == "refused" or not there:
            return
        if there != list(range(there[0], there[0] + len(there))):
            self.found.append(f"{append.name} is torn: indexes {there}")
        head = next(number for number, row in enumerate(rows) if row is not None)
        if head and there[0] != self.storm.boundary + 1:
            self.found.append(f"{append.name} is there from its entry {head} on, and nothing was purged before that")
        cut = head + len(there) < len(rows)
        later = [r for r in self.removals if r.done > append.called and r.called != append.called]
        if cut and not any(r.value == there[-1] + 1 for r in later):
            self.found.append(f"{append.name}: {len(there)} of its {len(rows)} entries are in the log")

    def _check_presence(self) -> None:
        """What was acknowledged or seen is there, or was removed; what was removed is not there."""
        for payload, index in self.place.items():
            append, row = self.sent.get(payload), self.final.get(payload)
            if row is not None:
                if self._gone_at(payload) != NEVER:
                    self.found.append(f"{payload!r} at index {index} was truncated, and is in the log again")
            elif append is not None and index > self.storm.boundary:
                if self._was_committed(payload, append):
                    self.found.append(f"{payload!r} at index {index} was committed, and is not in the log")
                elif not self._may_be_gone(index, append.called):
                    self.found.append(f"{payload!r} was acknowledged or seen at index {index}, and is lost")

    def _was_committed(self, payload: bytes, append: Append) -> bool:
        """Whether it stood there, not to be removed any more, when a commit index at or above it was asked for."""
        index, known = self.place[payload], self.known[payload]
        commits = [r for r in self._asked("commit") if r.outcome == "acked" and r.value >= index and r.called > known]
        return any(not self._may_be_gone(index, append.called, r.called) for r in commits)

    def _check_same_index(self) -> None:
        """Two entries were acknowledged at one index only if a removal came between them."""
        taken: dict[int, Append] = {}
        for append in sorted((a for a in self.storm.appends if a.outcome == "acked"), key=lambda a: a.done):
            first = append.first or 0
            for index in range(first, first + len(append.payloads)):
                other = taken.get(index)
                if other is not None and not self._may_be_gone(index, min(other.called, append.called), append.done):
                    self.found.append(f"{append.name} and {other.name} were both acknowledged at index {index}")
                taken[index] = append

    def _check_program_order(self) -> None:
        """What one client submitted later stands later, unless a removal came between."""
        before: dict[str, Append] = {}
        for append in sorted(self.storm.appends, key=lambda a: (a.client, a.number)):
            index = self.place.get(append.payloads[0]) if append.payloads else None
            if index is None:
                continue
            other = before.get(append.client)
            late = other is not None and self.place[other.payloads[0]] >= index
            if other is not None and late and not self._may_be_gone(index, other.called, append.done):
                self.found.append(f"{append.name} stands before {other.name}")
            before[append.client] = append

    # ------------------------------------------------------------ what others saw
    def _check_run(self, run: Run) -> None:
        """Gapless, of one log at a time; nothing that was gone, and nothing more after what it had seen was gone."""
        commits = self._asked("commit")
        gone, gone_row = NEVER, None
        for number, seen in enumerate(run.seen):
            row = seen.row
            self._check_origin(row, run.who)
            if number:
                previous = run.seen[number - 1].row
                if row.index != previous.index + 1:
                    self.found.append(f"{run.who} saw index {row.index} where {previous.index + 1} was due")
                if row.term < previous.term:
                    self.found.append(f"{run.who} saw term {row.term} after {previous.term} at index {row.index}")
            if seen.before > gone and gone_row is not None:
                self.found.append(f"{run.who} saw {row.payload!r} and was not told that {gone_row.payload!r} was gone")
                break
            if (since := self._gone_at(row.payload)) < gone:
                gone, gone_row = since, row
            if seen.before > since:
                self.found.append(f"{run.who} saw {row.payload!r} at index {row.index} after it was truncated")
            if run.upto == "committed" and not any(r.value >= row.index and r.called < seen.after for r in commits):
                self.found.append(f"{run.who} saw index {row.index} before anybody committed it")

    def _check_frontiers(self) -> None:
        """Commit never falls within a writer's life, nor passes what was asked; what was acknowledged lies within."""
        highest: dict[int, Frontiers] = {}
        epochs = self._epochs()
        for seen in sorted(self.storm.frontiers, key=lambda f: f.before):
            top = highest.get(seen.generation)
            if top is not None and top.after < seen.before and seen.commit < top.commit:
                self.found.append(f"{seen.who} saw commit index {seen.commit} after {top.commit}")
            if top is None or seen.commit > top.commit:
                highest[seen.generation] = seen
            asked = max((r.value for r in self._asked("commit") if r.called < seen.after), default=0)
            if seen.commit > asked:
                self.found.append(f"{seen.who} saw commit index {seen.commit}, and only {asked} was asked for")
            due = self._due(seen, epochs)
            word, value = ("durable", seen.durable) if self.storm.strategy == "disk_first" else ("last", seen.last)
            if seen.live and value < due:
                self.found.append(f"{seen.who} saw {word} index {value}, but {due} had been acknowledged")

    def _epochs(self) -> list[list[tuple[int, int]]]:
        """(done, last index) of what was acknowledged, by how many removals were over when it was asked for."""
        ends = sorted(r.done for r in self.removals)
        own = {r.called: r.done for r in self.removals}  # a replacement's entries come after its removal
        epochs: list[list[tuple[int, int]]] = [[] for _ in range(len(ends) + 1)]
        for append in self.storm.appends:
            if append.outcome == "acked":
                since = own.get(append.called, append.called)
                epochs[bisect.bisect(ends, since)].append((append.done, (append.first or 0) + len(append.payloads) - 1))
        return epochs

    def _due(self, seen: Frontiers, epochs: list[list[tuple[int, int]]]) -> int:
        """The index up to which entries surely were there: acknowledged, and not removed since."""
        removals = sorted(self.removals, key=lambda r: r.done)
        due, limit = 0, NEVER
        for number in range(len(epochs) - 1, -1, -1):  # the newest first: all later removals may cut what is older
            if number < len(removals) and removals[number].called < seen.after:
                limit = min(limit, removals[number].value - 1)
            last = max((index for done, index in epochs[number] if done < seen.before), default=0)
            due = max(due, min(last, limit))
        return due

    def _check_hard(self) -> None:
        """Term and vote are never older than what was saved before, and never what nobody saved."""
        saves = self._asked("save")
        votes = {(r.value, r.vote) for r in saves} | {(0, None)}
        for seen in self.storm.hard:
            low = max((r.value for r in saves if r.outcome == "acked" and r.done < seen.before), default=0)
            high = max((r.value for r in saves if r.called < seen.after), default=0)
            if not low <= seen.term <= high:
                self.found.append(f"{seen.who} read term {seen.term}, which must be from {low} to {high}")
            if (seen.term, seen.vote) not in votes:
                self.found.append(f"{seen.who} read vote {seen.vote!r} in term {seen.term}: nobody gave it")
        before = None
        for seen in sorted(self.storm.hard, key=lambda h: h.before):
            if before is not None and before.after < seen.before and seen.term < before.term:
                self.found.append(f"{seen.who} read term {seen.term} after {before.who} had read {before.term}")
            if before is None or seen.term > before.term:
                before = seen
