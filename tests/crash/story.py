"""What a log was told to do, and what it has promised, at each moment of its trace: the model of the explorer.

A *version* is the log after one operation (append, replacement, truncation, reset).  Operations are ordered, so a
crash may leave any version between the newest promised one and the newest one begun, and nothing else: no hole, no
mixture, no entry that was cut.  The purge boundary and the hard state have histories of their own.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import NamedTuple

from unit.journals import Entries

from raftlog_mp import shm
from raftlog_mp.journal import Journal
from raftlog_mp.types import HardState, LogId

NOWHERE = LogId(0, 0)
Outcome = tuple[int, int, int]  # first index, count, term: what the exactly-once table answers


class Version(NamedTuple):
    """The log after one operation, purges left out."""

    begun: int  # length of the trace when the operation began
    entries: Entries  # since the last reset, purged ones included
    base: LogId  # what the last reset (or the beginning) left
    last: LogId
    outcomes: dict[int, Outcome]  # by sequence, of everything that happened so far
    change: int  # number of the newest version that is no append, this one included
    reset: int  # number of the newest version that is a reset


class Purge(NamedTuple):
    begun: int
    version: int  # the newest one when the purge began
    boundary: LogId


class Promise(NamedTuple):
    """What holds from a moment on, until the next promise."""

    durable: int = 0  # version that no power cut takes back
    visible: int = 0  # version that no kill takes back
    purged: LogId = NOWHERE  # boundary, of the versions since purged_at
    purged_at: int = 0
    hard: int = 0  # number of the state
    commit: int = 0  # stated by a clean stop
    exists: bool = False  # the log was created


class Limits(NamedTuple):
    """What may be found after a crash at one moment."""

    low: int
    high: int
    promise: Promise
    purges: list[Purge]
    hard: list[HardState]
    commit: int  # highest index that was ever said to be committed


class Story:
    """Versions, histories and promises, each with the length of the trace at which it became true."""

    def __init__(self) -> None:
        self.versions = [Version(-1, {}, NOWHERE, NOWHERE, {}, 0, 0)]
        self.purges: list[Purge] = []
        self.hard = [(-1, HardState())]
        self.commits = [(-1, 0)]
        self.promises = [(-1, Promise())]
        self.changing = False  # words of the journal are moving

    # ------------------------------------------------------------ what is begun
    def begin(
        self, at: int, entries: Entries, last: LogId, outcome: tuple[int, Outcome] | None = None, *,
        change: bool = False, reset: bool = False,
    ) -> None:  # fmt: skip
        """An operation begins that shall lead to this log."""
        old, number = self.versions[-1], len(self.versions)
        outcomes = old.outcomes | ({outcome[0]: outcome[1]} if outcome else {})
        self.versions.append(Version(
            at, entries, last if reset else old.base, last, outcomes,
            number if change else old.change, number if reset else old.reset,
        ))  # fmt: skip

    def begin_purge(self, at: int, boundary: LogId) -> None:
        self.purges.append(Purge(at, len(self.versions) - 1, boundary))

    # ------------------------------------------------------------ what is promised
    @property
    def promise(self) -> Promise:
        return self.promises[-1][1]

    def promised(self, at: int, **what: object) -> None:
        """From now on this holds."""
        new = self.promise._replace(**what)
        if new != self.promise:
            self.promises.append((at, new))

    def done(self, at: int) -> None:
        """The change that was begun last returned: it is durable."""
        newest = len(self.versions) - 1
        self.promised(at, durable=newest, visible=newest)

    def purge_done(self, at: int, boundary: LogId) -> None:
        """The purge returned, or recovery found its boundary."""
        self.promised(at, purged=boundary, purged_at=len(self.versions) - 1)

    def listen(self, at: int, journal: Journal) -> None:
        """Take the journal at its words: what they show to every process is promised."""
        if self.changing:
            return
        control = journal.control
        durable, visible = (
            self._version_at(word.load(shm.ACQUIRE)) for word in (control.durable_index, control.last_index)
        )
        if journal.config.strategy == "disk_first":
            durable = max(durable, visible)
        durable = max(durable, self.promise.durable)
        self.promised(at, durable=durable, visible=max(visible, durable))

    def _version_at(self, index: int) -> int:
        """The newest version that ends at or below ``index``, of those since the last change."""
        number = len(self.versions) - 1
        while number > self.versions[-1].change and self.versions[number].last.index > index:
            number -= 1
        return number if self.versions[number].last.index <= index else 0

    def refused(self, at: int) -> None:
        """The operation begun last raised "nothing was changed"."""
        self.go_on_from(at, len(self.versions) - 2, sure=False)

    def go_on_from(self, at: int, number: int, *, sure: bool = True) -> None:
        """What came after version ``number`` is cut, and must never come back.  ``sure``: durably so."""
        new = len(self.versions)
        self.versions.append(self.versions[number]._replace(begun=at, change=new))
        if sure:
            self.promised(at, durable=new, visible=new)

    def forget_submissions(self, at: int) -> None:
        """A clean stop begins: everything was answered and nobody asks again, so the table may go, and need not."""
        self.versions.append(self.versions[-1]._replace(begun=at, outcomes={}))

    # ------------------------------------------------------------ what may be found
    def limits(self, length: int, *, killed: bool) -> Limits:
        """After a crash when the trace had this length; ``killed``: of the process only."""
        promise = self.promises[bisect_right(self.promises, length, key=lambda one: one[0]) - 1][1]
        low = max(promise.durable, promise.visible) if killed else promise.durable
        high = bisect_left(self.versions, length, key=lambda version: version.begun) - 1
        hard = [state for begun, state in self.hard if begun < length]
        commit = max(index for begun, index in self.commits if begun < length)
        purges = [purge for purge in self.purges if purge.begun < length]
        return Limits(low, max(low, high), promise, purges, hard[promise.hard :], commit)

    def boundaries(self, limits: Limits, number: int) -> list[LogId]:
        """Purge boundaries that version ``number`` may have: at least the promised ones, at most those begun."""
        version = self.versions[number]
        promise, sure = limits.promise, version.base
        if promise.purged_at >= version.reset:
            sure = max(sure, promise.purged)
        later = [purge.boundary for purge in limits.purges if purge.version >= version.reset]
        return [sure, *(boundary for boundary in later if boundary > sure)]

    def following(self, limits: Limits) -> Story:
        """The story of a log that is found after such a crash: nothing else is known of it."""
        new = Story()
        new.versions = [version._replace(begun=-1) for version in self.versions[: limits.high + 1]]
        new.purges = [purge._replace(begun=-1) for purge in limits.purges]
        new.hard = [(-1, state) for state in limits.hard]
        new.commits = [(-1, limits.commit)]
        new.promises = [(-1, limits.promise._replace(durable=limits.low, visible=limits.low, hard=0))]
        return new
