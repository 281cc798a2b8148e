"""Following the log: an iterator that yields entries as they come, and sleeps in between."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator
from typing import Any

from . import errors, shm, wakeup
from .arguments import as_log_id
from .config import check_integer
from .era import Overtaken
from .layout import WANTS_PROGRESS
from .link import Link
from .reader import Reader
from .types import Entry, LogId
from .wakeup import FOREVER

BATCH_ENTRIES = 1024
BATCH_BYTES = 1 << 20
UPTO = ("visible", "durable", "committed")


class Follower(Iterator[Entry]):
    """Iterates over entries in order, without a gap, through restarts of the writer.

    Ends when nothing came for ``timeout`` seconds (None: never).  Raises :class:`LogClosed` when the handle is closed.
    :class:`Truncated` and :class:`Compacted` are final: what comes next does not follow from what was yielded, so
    each further ``next()`` raises the same again.  Follow anew.
    """

    def __init__(
        self, reader: Reader, link: Link, start: int | None, after: LogId | None, upto: str, timeout: float | None
    ) -> None:
        self._reader, self._link, self._timeout = reader, link, timeout
        self._fork_era = link.era
        self._era = reader.era()  # before the start is checked: a truncation from here on is noticed
        self._next = start_of(reader, start, after)
        self._yielded = LogId(*after) if after is not None else None  # the last one, or the checkpoint
        self._buffer: deque[Entry] = deque()
        self._word = {"visible": "last_index", "durable": "durable_index", "committed": "commit_index"}[upto]
        self._over: errors.Truncated | errors.Compacted | None = None  # why it never goes on

    def _limit(self) -> int:
        """The last index that may be yielded now."""
        calm = self._reader.calm(self._era)  # one load: nothing to find out about the view then
        control = (self._era.view if calm else self._reader.view()).control
        # SEQ_CST: the sleeper's re-check; and it acquires the entries published before the frontier moved.
        return int(min(getattr(control, self._word).load(shm.SEQ_CST), control.last_index.load(shm.SEQ_CST)))

    def __iter__(self) -> Follower:
        return self

    def __next__(self) -> Entry:
        self._check()
        try:
            if not self._reader.calm(self._era):
                self._look_back()  # also what was fetched ahead may be gone
            while not self._buffer:
                self._fill()
        except (errors.Truncated, errors.Compacted) as over:
            self._over = over
            self._buffer.clear()
            raise
        entry = self._buffer.popleft()
        self._next = entry.index + 1
        self._yielded = entry.log_id
        return entry

    def at_hand(self) -> bool:
        """Whether ``next()`` need neither wait nor read: an entry was fetched ahead, and nothing has changed."""
        return bool(self._buffer) and self._reader.calm(self._era)

    def _check(self) -> None:
        self._link.check_open()
        if self._fork_era != self._link.era:
            raise errors.LogClosed("this iterator belongs to the parent of this forked process; follow anew here")
        if self._over is not None:
            raise self._over.with_traceback(None)

    def _look_back(self) -> None:
        """The log was rolled, changed or taken over: :class:`Truncated` if what was yielded is gone."""
        before, self._era = self._era, self._reader.era()
        now, yielded = self._era, self._yielded
        if now.view is before.view and now.epoch == before.epoch:
            return
        self._buffer.clear()
        if yielded is None:
            return
        if now.view is before.view:
            removed = [now.view.control.lowest_removed(before.epoch, now.epoch)]
        else:  # another writer: what the old one did before it ended, and all that the new one has done
            # An odd epoch: it died in a change, which came about or not.  What the log holds now tells.
            last_epoch = before.view.control.epoch.load(shm.SEQ_CST) & ~1
            removed = [before.view.control.lowest_removed(before.epoch, last_epoch),
                       now.view.control.lowest_removed(0, now.epoch)]  # fmt: skip
        # A history that is forgotten (None) leaves the term to tell: enough in Raft, where an index and a term name
        # one entry for ever.
        if any(lowest is not None and lowest <= yielded.index for lowest in removed) or not self._reader.steady(
            lambda view: holds(view, yielded)
        ):
            raise truncated(yielded, self._reader)

    def _fill(self) -> None:
        if self._limit() == self._next and self._take_next():
            return
        if self._reader.era() != self._era:
            self._look_back()  # looking at the frontiers may have shown it; entries are only taken from our own era
        era, calm, word = self._era, self._reader.calm, getattr(self._era.view.control, self._word).load
        seen = word(shm.SEQ_CST)  # before the limit: what moves it from here on ends the rest
        limit = self._limit()
        if limit < self._next:
            self._reader.check_readable(self._next)
            deadline = FOREVER if self._timeout is None else wakeup.now() + self._timeout
            self._link.rest(lambda order: word(order) if calm(era) else -1, seen, deadline)
            if self._limit() >= self._next:
                return  # the caller comes again
            moved = self._link.wait(
                lambda: self._limit() >= self._next or self._reader.era() != self._era, deadline, WANTS_PROGRESS
            )
            if not moved:
                raise StopIteration
            self._check()
            return  # the caller comes again
        first = self._reader.view().control.first_index.load(shm.ACQUIRE)
        if self._next < first:
            if self._reader.era() != self._era:
                self._look_back()  # what was yielded may be gone: that comes first
            raise compacted(self._next, first)
        with contextlib.suppress(Overtaken):  # then the era has changed: the caller looks back, and again
            stop = min(limit + 1, self._next + BATCH_ENTRIES)
            entries = self._reader.read(self._next, stop, BATCH_BYTES, self._era)
            if self._reader.era() == self._era:
                self._buffer.extend(entries)
            else:
                self._look_back()

    def _take_next(self) -> bool:
        """The one entry that came, where nothing else has happened: the common case of who waits."""
        entry = self._reader.get(self._next)
        # If the version is our era's now, it was when the entry was read: it is of our own era.
        if entry is None or not self._reader.calm(self._era):
            return False
        self._buffer.append(entry)
        return True


def truncated(log_id: LogId, reader: Reader) -> errors.Truncated:
    """The error for an entry that is gone."""
    last = int(reader.view().control.last_index.load(shm.SEQ_CST))
    return errors.Truncated(
        f"the entry {log_id}, which was yielded or checkpointed, is no longer in the log, which ends at index {last}; "
        "undo what followed from it, then follow from an earlier checkpoint", last_index=last,
    )  # fmt: skip


def compacted(index: int, first_index: int) -> errors.Compacted:
    """The error for an index below the first."""
    if index < 1:
        return errors.Compacted(
            f"there is no entry {index}: indexes start at 1, and the first entry that can be read is {first_index}",
            first_index=first_index,
        )
    return errors.Compacted(
        f"entry {index} was purged; the first entry that can be read is {first_index}. "
        "Start there, after restoring what the purged entries led to from a snapshot.", first_index=first_index,
    )  # fmt: skip


def bounds(view: Any) -> tuple[int, int, LogId]:
    """First index, last index and purge boundary; call it inside :meth:`Reader.steady`."""
    control = view.control
    last = int(control.last_index.load(shm.SEQ_CST))
    purged = LogId(control.purged_term.load(shm.ACQUIRE), control.purged_index.load(shm.ACQUIRE))
    return purged.index + 1, last, purged


def holds(view: Any, log_id: LogId) -> bool:
    """Whether the log has this entry, as far as its term can tell; yes if it was purged.  Inside ``steady``, too.

    Terms never fall, so what was purged cannot have had a higher term than the boundary: that is gone otherwise.
    """
    _, last, purged = bounds(view)
    if log_id.index <= purged.index:
        return log_id == purged or (log_id.index < purged.index and log_id.term <= purged.term)
    term = view.terms.ask(view.control.terms.load(shm.ACQUIRE), lambda runs: runs.term_of(log_id.index))
    return bool(log_id.index <= last and term == log_id.term)


def start_of(reader: Reader, start: int | None, after: LogId | None) -> int:
    """The first index to yield.  Raises :class:`Compacted`, :class:`Truncated` or :class:`IndexGap`.

    ``TypeError`` for what is no index or no log id.
    """
    first, last, purged = reader.steady(bounds)
    if after is not None:
        if start is not None:
            raise TypeError("give start or after, not both")
        after = as_log_id("after", after)
        if after.index + 1 < first and after.term > purged.term:
            raise truncated(after, reader)  # no such entry can be among those that were purged
        if after.index + 1 < first:
            raise compacted(after.index + 1, first)
        if after.index + 1 == first:
            found = purged
        else:
            entry = reader.get(after.index)
            found = entry.log_id if entry is not None else LogId(0, 0)
        if found != after:
            raise truncated(after, reader)
        return after.index + 1
    if start is None:
        return first
    check_integer("start", start)
    if start < first:
        raise compacted(start, first)
    if start > last + 1:
        raise errors.IndexGap(f"start={start} lies beyond the end: the last entry is {last}", last_index=last)
    return start
