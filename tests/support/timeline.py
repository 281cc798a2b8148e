"""A seeded series of changes to a log, the state after each, and observers that hold what they see against them.

One client makes the changes one by one, so the log goes through known states.  Whatever one reader sees, one call after
the other, must be true of a state that is not older than the one it saw before: then nothing that was truncated came
back, no range had a hole, and no bytes stood under another index.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import raftlog_mp as rl

from .history import Row
from .model import ModelLog
from .processes import rows_of

Operation = tuple[Any, ...]


class State(NamedTuple):
    """The log after an operation."""

    purged: rl.LogId
    rows: tuple[Row, ...]

    @property
    def first_index(self) -> int:
        return self.purged.index + 1

    @property
    def last_index(self) -> int:
        return self.purged.index + len(self.rows)

    @property
    def last_log_id(self) -> rl.LogId:
        return rl.LogId(self.rows[-1].term, self.rows[-1].index) if self.rows else self.purged

    def get(self, index: int) -> Row | None:
        return self.rows[index - self.first_index] if self.first_index <= index <= self.last_index else None

    def agrees(self, row: Row) -> bool:
        """Whether the entry is there, or may be what was purged."""
        if row.index > self.purged.index:
            return self.get(row.index) is row
        return row.index < self.purged.index or (row.term, row.index) == self.purged

    def slice(self, start: int, stop: int) -> list[Row]:
        return list(self.rows[start - self.first_index : max(0, stop - self.first_index)])

    def term_of(self, index: int) -> int | None:
        row = self.get(index)
        return row.term if row else (self.purged.term or None) if index == self.purged.index else None

    def range_of_term(self, term: int) -> list[int]:
        return [row.index for row in self.rows if row.term == term]


class Timeline:
    """Operations and the states between them.

    ``removed[row]`` is the operation that took an entry, or an index below one that was purged, off the end.
    """

    def __init__(self) -> None:
        self.model = ModelLog()
        self.operations: list[Operation] = []
        self.states = [State(rl.LogId(0, 0), ())]
        self.removed: dict[Row, int] = {}
        self._made = 0
        self._standing: list[Row] = []  # every entry that was not taken off the end, also if it was purged

    def add(self, name: str, *arguments: Any) -> bool:
        """One more operation, if the model allows it."""
        try:
            getattr(self.model, name)(*arguments)
        except rl.RaftLogError:
            return False
        after = State(self.model.purged, tuple(self.model.rows))
        self.operations.append((name, *arguments))
        self.states.append(after)
        standing = self._standing
        while standing and not after.agrees(standing[-1]):
            self.removed[standing.pop()] = len(self.operations)
        standing += [row for row in after.rows if not standing or row.index > standing[-1].index]
        return True

    def payload(self, index: int, term: int, padding: int = 0) -> bytes:
        """Says where it belongs; no two entries have the same."""
        self._made += 1
        return b"index %d term %d incarnation %d after %d operations " % (
            index, term, self._made, len(self.operations)) + b"." * padding  # fmt: skip

    def append(self, chance: random.Random, count: int, term: int) -> bool:
        """Append entries of one term."""
        first, padding = self.model.last_index + 1, chance.choice((0, 0, 50, 3000))
        return self.add("append", [self.payload(first + n, term, padding) for n in range(count)], term)

    def replace(self, chance: random.Random, back: int, count: int, term: int) -> bool:
        """AppendEntries that replaces the last ``back`` entries by ``count`` others of a higher term."""
        at = max(self.model.purged.index, self.model.last_index - back)
        prev = rl.LogId(self.model.term_of(at) or 0, at)
        entries = [rl.Entry(term, index, self.payload(index, term, chance.choice((0, 40))))
                   for index in range(at + 1, at + 1 + count)]  # fmt: skip
        return self.add("append_entries", prev, entries, term)


def make_timeline(seed: int, count: int) -> Timeline:
    """``count`` operations: appends, truncations, replaced suffixes, purges, resets; segments roll by themselves."""
    line, chance = Timeline(), random.Random(seed)
    while len(line.operations) < count - 1:
        model = line.model
        term, size = max(1, model.current_term), len(model.rows)
        kinds = ["append"] * (5 if size < 60 else 2) + ["replace", "replace", "truncate", "purge"]
        kinds += ["reset"] if chance.random() < 0.2 else []
        kind = chance.choice(kinds)
        if kind == "append":
            line.append(chance, chance.choice((1, 1, 3, 10)), term + (chance.random() < 0.2))
        elif kind == "replace":
            line.replace(chance, chance.randrange(0, 15), chance.randrange(1, 15), term + 1)
        elif kind == "truncate" and size:
            lowest = max(model.first_index, model.last_index - 15)
            line.add("truncate_from", chance.randrange(lowest, model.last_index + 1), None)
        elif kind == "purge" and size:
            line.add("purge_to", chance.randrange(model.first_index, model.last_index + 1))
        elif kind == "reset":
            late = len(line.operations) > count * 2 // 3  # behind an installed snapshot only towards the end
            index = model.last_index + chance.randrange(0, 20)
            line.add("reset", rl.LogId(term + 1, index) if late and index else None)
    line.append(chance, 1, line.model.current_term + 1)  # a last entry like no other
    return line


def perform(log: rl.Log, operation: Operation) -> None:
    """The operation, on a real log."""
    name, *arguments = operation
    if name == "append":
        log.append_many(arguments[0], term=arguments[1])
    elif name == "append_entries":
        assert log.append_entries(arguments[0], arguments[1], leader_term=arguments[2]).success
    else:
        getattr(log, name)(arguments[0])


class Violation(Exception):
    """What a reader saw was not true of any state that it could be in."""


class Observer:
    """One reader, and the newest state that it surely has seen."""

    def __init__(self, reader: rl.LogReader, line: Timeline, seed: int) -> None:
        self.reader, self.line, self.chance = reader, line, random.Random(seed)
        self.now = 0
        self.calls = self.steps = 0  # observations; and how often one showed that the log had moved on
        self._follower: Any = None
        self._next = 0
        self._yielded: Row | None = None

    @property
    def ended(self) -> bool:
        """Whether it has seen the last state."""
        return self.now == len(self.line.states) - 1

    def note(self, what: str, fits: Callable[[State, int], bool]) -> None:
        """Something was seen: advance to the first state of which it is true."""
        self.calls += 1
        for number in range(self.now, len(self.line.states)):
            if fits(self.line.states[number], number):
                self.steps += number > self.now
                self.now = number
                return
        raise Violation(f"{what} is not true of any state from {self.now} on")

    def seen(self, name: str, look: Callable[[], Any], truth: Callable[[State], Any]) -> None:
        """What ``look()`` returns must be ``truth`` of a state."""
        found = look()
        self.note(f"{name} = {found!r:.300}", lambda state, _: truth(state) == found)

    def around(self) -> int:
        """An index near the entries of the state that was seen last."""
        state = self.line.states[self.now]
        return max(1, self.chance.randrange(state.first_index - 3, state.last_index + 6))

    # ------------------------------------------------------------ observations
    def step(self) -> None:
        """One observation, of a random kind."""
        kinds = (self.get, self.get, self.read, self.read, self.term_of, self.ends, self.terms, self.pull, self.pull)
        self.chance.choice(kinds)()

    def get(self, index: int | None = None) -> None:
        """A single entry."""
        index = self.around() if index is None else index
        entry = self.reader.get(index)
        row = rows_of([entry])[0] if entry else None
        self.note(f"get({index}) = {row!r:.300}", lambda state, _: state.get(index) == row)

    def read(self) -> None:
        """A range: the whole of it, of one state."""
        start = self.around()
        stop = start + self.chance.choice((1, 5, 30, 200))
        try:
            rows = rows_of(self.reader.read(start, stop))
        except rl.Compacted as error:
            first = error.first_index
            self.note(f"read({start}) Compacted({first})", lambda state, _: start < first == state.first_index)
            return
        self.note(
            f"read({start}, {stop}) = {rows!r:.300}",
            lambda state, _: start >= state.first_index and state.slice(start, stop) == rows,
        )

    def term_of(self) -> None:
        """The term of an index."""
        index = self.around()
        self.seen(f"term_of({index})", lambda: self.reader.term_of(index), lambda state: state.term_of(index))

    def terms(self) -> None:
        """Where a term begins and ends."""
        term = max(1, self.line.states[self.now].last_log_id.term - self.chance.randrange(-1, 4))
        self.seen(f"first_index_of_term({term})", lambda: self.reader.first_index_of_term(term),
                  lambda state: min(state.range_of_term(term), default=None))  # fmt: skip
        self.seen(f"last_index_of_term({term})", lambda: self.reader.last_index_of_term(term),
                  lambda state: max(state.range_of_term(term), default=None))  # fmt: skip

    def ends(self) -> None:
        """Words that belong together, and words alone."""
        reader = self.reader
        self.seen("last_log_id", lambda: reader.last_log_id, lambda state: state.last_log_id)
        self.seen("purged_log_id", lambda: reader.purged_log_id, lambda state: state.purged)
        self.seen("last_index", lambda: reader.last_index, lambda state: state.last_index)
        self.seen("first_index", lambda: reader.first_index, lambda state: state.first_index)
        self.seen("len", lambda: len(reader), lambda state: len(state.rows))

    # ------------------------------------------------------------ following
    def follow(self, start: int) -> None:
        """A live follower from ``start``."""
        self._yielded, self._next = None, start
        try:
            self._follower = self.reader.follow(start, timeout=0)
        except rl.Compacted as error:
            first = error.first_index
            self.note(f"follow({start}) Compacted({first})", lambda state, _: start < first == state.first_index)
        except rl.IndexGap as error:
            last = error.last_index
            self.note(f"follow({start}) IndexGap({last})", lambda state, _: start > last + 1 == state.last_index + 1)

    def gone(self, number: int) -> bool:
        """Whether what was yielded last is truncated in that state."""
        return self._yielded is not None and self.line.removed.get(self._yielded, number + 1) <= number

    def pull(self) -> None:
        """Some entries from the live follower, which ends only for a reason."""
        if self._follower is None:
            self.follow(self.around())
        for _ in range(self.chance.choice((1, 3, 40))):
            if self._follower is None or not self._pull_one():
                return

    def _pull_one(self) -> bool:
        due, yielded = self._next, self._yielded
        told = f"the follower that yielded {yielded!r:.200} before"
        try:
            row = rows_of([next(self._follower)])[0]
        except StopIteration:
            self.note(f"{told} found no entry {due}", lambda state, n: state.last_index < due and not self.gone(n))
            return False
        except rl.Truncated:
            self._follower = None
            self.note(f"{told} raised Truncated", lambda _, n: self.gone(n))
            return False
        except rl.Compacted as error:
            self._follower, first = None, error.first_index
            self.note(f"{told} raised Compacted({first}) at {due}",
                      lambda state, n: due < first == state.first_index and not self.gone(n))  # fmt: skip
            return False
        self.note(f"{told} yielded {row!r:.200}",
                  lambda state, n: row.index == due and state.get(due) == row and not self.gone(n))  # fmt: skip
        self._next, self._yielded = row.index + 1, row
        return True
