"""Following the log: an iterator that yields entries as they come, and sleeps in between."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from . import errors, shm, wakeup
from .config import check_integer
from .layout import WANTS_PROGRESS
from .link import FOREVER, Link
from .reader import Reader
from .types import Entry, LogId

BATCH_ENTRIES = 1024
BATCH_BYTES = 1 << 20
UPTO = ("visible", "durable", "committed")


class Follower(Iterator[Entry]):
    """Iterates over entries in order, without a gap, through restarts of the writer.

    Ends when nothing came for ``timeout`` seconds (None: never).  Raises :class:`LogClosed` when the handle is closed.
    """

    def __init__(self, reader: Reader, link: Link, next_index: int, upto: str, timeout: float | None) -> None:
        self._reader, self._link, self._next, self._timeout = reader, link, next_index, timeout
        self._era = link.era
        self._buffer: deque[Entry] = deque()
        self._limit = self._limit_of(upto)

    def _limit_of(self, upto: str) -> Callable[[], int]:
        word = {"visible": "last_index", "durable": "durable_index", "committed": "commit_index"}[upto]

        def limit() -> int:
            control = self._reader.view().control
            # SEQ_CST: the sleeper's re-check; and it acquires the entries published before the frontier moved.
            return int(min(getattr(control, word).load(shm.SEQ_CST), control.last_index.load(shm.SEQ_CST)))

        return limit

    def __iter__(self) -> Follower:
        return self

    def __next__(self) -> Entry:
        self._check()
        if not self._buffer:
            self._fill()
        entry = self._buffer.popleft()
        self._next = entry.index + 1
        return entry

    def _check(self) -> None:
        self._link.check_open()
        if self._era != self._link.era:
            raise errors.LogClosed("this iterator belongs to the parent of this forked process; follow anew here")

    def _fill(self) -> None:
        limit = self._limit()
        if limit < self._next:
            deadline = FOREVER if self._timeout is None else wakeup.now() + self._timeout
            if not self._link.wait(lambda: self._limit() >= self._next, deadline, WANTS_PROGRESS):
                raise StopIteration
            self._check()
            limit = self._limit()
        first = self._reader.view().control.first_index.load(shm.ACQUIRE)
        if self._next < first:
            raise compacted(self._next, first)
        self._buffer.extend(self._reader.read(self._next, min(limit + 1, self._next + BATCH_ENTRIES), BATCH_BYTES))


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


def start_of(reader: Reader, start: int | None, after: LogId | None) -> int:
    """The first index to yield.  Raises :class:`Compacted`, :class:`Truncated` or :class:`IndexGap`.

    ``TypeError`` for what is no index or no log id.
    """
    control = reader.view().control
    first, last = int(control.first_index.load(shm.ACQUIRE)), int(control.last_index.load(shm.ACQUIRE))
    if after is not None:
        if start is not None:
            raise TypeError("give start or after, not both")
        if not isinstance(after, tuple) or len(after) != 2:
            raise TypeError(f"after is a LogId(term, index), not {after!r}")
        after = LogId(*after)
        check_integer("after.index", after.index)
        if after.index + 1 < first:
            raise compacted(after.index + 1, first)
        if after.index + 1 == first:
            found = LogId(control.purged_term.load(shm.ACQUIRE), first - 1)
        else:
            entry = reader.get(after.index)
            found = entry.log_id if entry is not None else LogId(0, 0)
        if found != after:
            raise errors.Truncated(
                f"the checkpointed entry {after} is no longer in the log, which ends at index {last}; "
                "undo what followed from it, then follow from an earlier checkpoint", last_index=last,
            )  # fmt: skip
        return after.index + 1
    if start is None:
        return first
    check_integer("start", start)
    if start < first:
        raise compacted(start, first)
    if start > last + 1:
        raise errors.IndexGap(f"start={start} lies beyond the end: the last entry is {last}", last_index=last)
    return start
