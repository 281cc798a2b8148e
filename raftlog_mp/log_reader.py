"""The reading half of a handle, and :func:`open_reader`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, Self, TypeVar

from . import errors, hard_state, layout, place, shm
from .arguments import as_log_id, check_index
from .batches import EntryBatch
from .client import check_failed
from .config import LogConfig, check_integer, check_timeout
from .era import Era, Overtaken
from .files import Files, PathLike, real_path
from .follow import UPTO, Follower, bounds, compacted, holds
from .link import Link
from .metrics import LogStats, stats_of
from .protocol import READER
from .reader import TRIES, Reader
from .source import Source
from .term_history import unknown_error
from .terms import TermRuns, Unknown
from .types import Entry, HardState, LogId
from .wakeup import deadline_of


class _Default:
    def __repr__(self) -> str:
        return "the handle's timeout"


DEFAULT: Any = _Default()
Timeout = float | None
Bounds = tuple[int, int, LogId]  # first index, last index, purge boundary
T = TypeVar("T")


class LogReader:
    """The reading half of a log: entries, frontiers, following.  Thread-safe; usable after fork."""

    def __init__(self, link: Link, files: Files, directory: str, timeout: Timeout, *, files_allowed: bool) -> None:
        self.path = directory
        self._link, self._files, self._timeout = link, files, timeout
        self._source = Source(link, files, directory, files_allowed=files_allowed)
        self._reader = Reader(self._source, files, directory)
        previous = link.on_fork

        def on_fork() -> None:
            self._reader.renew_lock()
            if previous is not None:
                previous()

        link.on_fork = on_fork

    # ------------------------------------------------------------ entries
    def get(self, index: int) -> Entry | None:
        """The entry at ``index``, or None outside ``first_index..last_index``."""
        return self._reader.get(index)  # which tells what is no index, and that the handle was closed

    def read(self, start: int, stop: int | None = None, max_bytes: int | None = None) -> list[Entry]:
        """Entries ``start..stop-1`` (``stop=None``: to the end).

        Only the end is clipped: to the last entry, and after ``max_bytes`` of payload, though one entry is always
        given.  ``start`` below the first index raises :class:`Compacted`.
        """
        return self._range(start, stop, max_bytes, self._reader.read)

    def read_batches(
        self, start: int, stop: int | None = None, max_bytes: int | None = None
    ) -> list[EntryBatch]:
        """Entries ``start..stop-1`` as the batches that they were appended in, undecoded: see :class:`EntryBatch`.

        Clips and raises as :meth:`read`; ``max_bytes`` counts encoded bytes, and one batch is always given.
        """
        return self._range(start, stop, max_bytes, self._reader.read_batches)

    def _range(
        self, start: int, stop: int | None, max_bytes: int | None, read: Callable[[int, int, int | None, Era], list[T]]
    ) -> list[T]:
        check_integer("start", start)
        check_integer("stop", stop, optional=True)
        check_integer("max_bytes", max_bytes, optional=True)
        self._link.check_open()
        for _ in range(TRIES):
            era = self._reader.era()
            first, last, _ = self._reader.steady(bounds)
            if start < first:
                raise compacted(start, first)
            end = last + 1 if stop is None else min(stop, last + 1)
            if start >= end:
                self._source.check_readable(start)
                return []
            if max_bytes is None and (stop is None or stop > end):
                # Who sets no limit is not to take the part before the damage for all there is.
                self._source.check_readable(end)
            try:
                return read(start, end, max_bytes, era)
            except Overtaken:  # truncated, purged or reset under us: what was read so far may be gone
                continue
        raise errors.WriterUnavailable(f"{self.path} kept changing while it was read; try again")

    def follow(
        self, start: int | None = None, *, after: LogId | None = None,
        upto: Literal["visible", "durable", "committed"] = "visible", timeout: Timeout = None,
    ) -> Follower:  # fmt: skip
        """Iterate from ``start`` (None: the first entry) or past the checkpoint ``after``; wakes on append.

        ``timeout=None`` waits for ever; when nothing came for ``timeout`` seconds iteration ends (0 = drain).
        ``upto`` stops at entries that are visible, durable, or committed.
        """
        self._link.check_open()
        if upto not in UPTO:
            allowed = ", ".join(UPTO)
            raise errors.ConfigError(
                f"upto={upto!r} is not allowed: give {allowed}", field="upto", value=upto, allowed=allowed
            )
        seconds = check_timeout(timeout)
        if after is not None:
            self._check_term_known(as_log_id("after", after).index)
        return Follower(self._reader, self._link, start, after, upto, seconds)

    # ------------------------------------------------------------ terms
    def term_of(self, index: int) -> int | None:
        """The term of the entry at ``index``, or of the purge boundary; None if there is no such entry.

        :class:`CorruptLog` if the entry is damaged and the term changes in the damage.
        """
        check_integer("index", index)

        def look(runs: TermRuns, where: Bounds, unknown: list[Unknown]) -> int | None | Unknown:
            first, last, purged = where
            if index == purged.index:
                return purged.term or None
            if not first <= index <= last:
                return None
            return next((one for one in unknown if one.holds(index)), None) or runs.term_of(index)

        found = self._ask_terms(look)
        if found is None:
            self._source.check_readable(index)
        return found

    def first_index_of_term(self, term: int) -> int | None:
        """Index of the first entry of ``term`` in the log; None if there is none.

        :class:`CorruptLog` if damage hides where the term begins, or whether there is such an entry.
        """
        return self._end_of_term(term, last=False)

    def last_index_of_term(self, term: int) -> int | None:
        """Index of the last entry of ``term`` in the log; None if there is none.

        :class:`CorruptLog` if damage hides where the term ends, or whether there is such an entry.
        """
        return self._end_of_term(term, last=True)

    def _end_of_term(self, term: int, *, last: bool) -> int | None:
        check_integer("term", term)

        def look(runs: TermRuns, where: Bounds, unknown: list[Unknown]) -> int | None | Unknown:
            for one in unknown:
                # Terms never fall: this one ends in the damage, begins there, or lies in it if it is there at all.
                ends, begins = term == one.before, term == one.after
                if one.first == where[0]:  # whether an entry of the boundary's term is left, nobody knows
                    begins = begins or ends
                if one.before < term < one.after or (ends if last else begins):
                    return one
            low, high = runs.range_of(term)
            low, high = max(low, where[0]), min(high, where[1])
            return (high if last else low) if low <= high else None

        return self._ask_terms(look)

    def _ask_terms(self, look: Callable[[TermRuns, Bounds, list[Unknown]], int | None | Unknown]) -> int | None:
        """What ``look`` finds in the table; :class:`CorruptLog` for entries whose terms nobody knows."""
        self._link.check_open()

        def ask(view: Any) -> int | None | Unknown:
            # last_index before the table: the term of a visible entry is in it.
            where = bounds(view)

            def question(runs: TermRuns) -> int | None | Unknown:
                return look(runs, where, self._source.unknown_terms(view, runs, where[2], where[1]))

            answer: int | None | Unknown = view.terms.ask(view.control.terms.load(shm.ACQUIRE), question)
            return answer

        for _ in range(TRIES):
            era = self._reader.era()
            found = self._reader.steady(ask)
            if not isinstance(found, Unknown):
                return found
            if self._reader.calm(era):  # else the damage that the manifest named may be gone by now
                raise unknown_error(self.path, found)
        raise errors.WriterUnavailable(f"{self.path} kept changing while it was read; try again")

    def _check_term_known(self, index: int) -> None:
        """:class:`CorruptLog` if nobody knows the term of the entry there, so that nothing can be compared with it."""
        self._ask_terms(lambda _, __, unknown: next((one for one in unknown if one.holds(index)), None))

    # ------------------------------------------------------------ frontiers
    def _control(self) -> Any:
        self._link.check_open()
        return self._reader.view().control

    @property
    def first_index(self) -> int:
        """Index of the first entry; ``last_index + 1`` when the log is empty."""
        return int(self._control().first_index.load(shm.ACQUIRE))

    @property
    def last_index(self) -> int:
        """Index of the last visible entry; the purge boundary (0 at first) when the log is empty."""
        return int(self._control().last_index.load(shm.SEQ_CST))

    @property
    def durable_index(self) -> int:
        """Every entry up to here is visible and fsynced; never above :attr:`last_index`."""
        control = self._control()
        # DiskFirst publishes after the fsync: for a moment the disk is ahead of what anybody may see.
        durable = int(control.durable_index.load(shm.SEQ_CST))
        return min(durable, int(control.last_index.load(shm.SEQ_CST)))

    @property
    def commit_index(self) -> int:
        """Raft's commit index; 0 = unset."""
        return int(self._control().commit_index.load(shm.ACQUIRE))

    @property
    def purged_log_id(self) -> LogId:
        """Id of the last purged entry, the boundary; ``LogId(0, 0)`` if none was purged."""
        self._link.check_open()
        return self._reader.steady(bounds)[2]

    @property
    def last_log_id(self) -> LogId:
        """Id of the last visible entry; the purge boundary when the log is empty."""
        self._link.check_open()

        def look(view: Any) -> LogId:
            _, last, purged = bounds(view)
            if last == purged.index:
                return purged
            term = view.terms.ask(view.control.terms.load(shm.ACQUIRE), lambda runs: runs.term_of(last))
            return LogId(term or 0, last)

        return self._reader.steady(look)

    @property
    def uuid(self) -> str:
        """Identity of this log and its history: the first writer of a backup gives that a new one.

        A consumer keeps it beside its checkpoint, and starts over where it finds another.
        """
        self._link.check_open()
        return str(self._reader.view().uuid)

    @property
    def config(self) -> LogConfig:
        """The settings in force."""
        self._link.check_open()
        config: LogConfig = self._reader.view().config
        return config

    @property
    def hard_state(self) -> HardState:
        """The durable term and vote."""
        self._link.check_open()
        return hard_state.load(self._files, self.path, self._control().hard_version.load(shm.ACQUIRE))

    def __len__(self) -> int:
        self._link.check_open()
        first, last, _ = self._reader.steady(bounds)
        return last + 1 - first

    def __bool__(self) -> bool:
        return True

    def wait_durable(self, index: int | LogId, timeout: Timeout = DEFAULT) -> None:
        """Return once the entry at ``index`` is fsynced; at once for a purged one, and for 0, before the first.

        Raises :class:`IndexGap` if there is no such entry, :class:`Truncated` if a ``LogId`` names another term than
        the log has there (below the purge boundary: one above the boundary's, which cannot have been there),
        :class:`SyncFailed` if the disk failed, :class:`LogTimeout` at the timeout (seconds; None: for ever).
        """
        deadline = self._deadline(timeout)
        if isinstance(index, tuple):
            index = as_log_id("index", index)
        target = index.index if isinstance(index, LogId) else index
        check_integer("index", target)
        last = self.last_index
        if target < 0:
            check_index(target, lowest=0)
        if target > last:
            raise errors.IndexGap(f"entry {target} does not exist: the last entry is {last}", last_index=last)

        def durable() -> bool:
            view = self._reader.view()
            # Durable first, then what stands there: an entry that is still the same one was durable before.
            done = bool(view.control.durable_index.load(shm.SEQ_CST) >= target)
            if isinstance(index, LogId) or not done:
                self._check_there(index)
            if not done:
                check_failed(view)
            return done

        if not self._link.wait(durable, deadline, layout.WANTS_PROGRESS):
            raise errors.LogTimeout(
                f"entry {target} was not durable in time; the writer goes on flushing, nothing is lost"
            )

    def _check_there(self, index: int | LogId) -> None:
        """:class:`Truncated` if the entry went, or another one took its place, while somebody waits for it."""
        target, last = index.index if isinstance(index, LogId) else index, self.last_index
        if target > last:
            raise errors.Truncated(f"entry {target} was truncated: the log ends at index {last}", last_index=last)
        if not isinstance(index, LogId):
            return
        self._check_term_known(target)

        def look(view: Any) -> bool:
            purged = bounds(view)[2]
            return holds(view, index) and (index.index > purged.index or index.term <= purged.term)

        if not self._reader.steady(look):
            self._source.check_readable(target)
            raise errors.Truncated(f"{index} is not in the log: another entry stands there", last_index=last)

    def stats(self) -> LogStats:
        """Counters and frontiers, read from shared memory at one moment."""
        self._link.check_open()
        self._link.look()  # a writer that died is noticed here, not only by the next one who waits
        lapped = self._reader.lapped_reads
        stats = self._reader.steady(lambda view: stats_of(view, self.path, lapped_reads=lapped))
        if not self._link.connected and stats.state in ("starting", "running"):
            stats = dataclasses.replace(stats, state="crashed")
        return stats if self._link.connected else dataclasses.replace(stats, writer_pid=0)

    # ------------------------------------------------------------ life
    def _seconds(self, timeout: Timeout) -> Timeout:
        return self._timeout if timeout is DEFAULT else check_timeout(timeout)

    def _deadline(self, timeout: Timeout) -> float:
        return deadline_of(self._seconds(timeout))

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._link.closed

    def close(self) -> None:
        """Leave the log.  Idempotent; what was acknowledged stays, the writer goes on."""
        if not self._link.closed:
            self._link.close()
            self._reader.close()
            self._source.close()

    def __enter__(self) -> Self:
        self._link.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._link.closed else "open"
        return f"<{type(self).__name__} {self.path!r} {state}>"


def open_reader(path: PathLike, *, timeout: Timeout = 30.0) -> LogReader:
    """Open the log at ``path`` for reading: live beside its writer, or read-only from the files if none runs.

    Changes nothing on disk.  A damaged log can be opened too: what is provably right is served, for the rest
    :class:`CorruptLog` is raised.
    """
    seconds, directory, files = check_timeout(timeout), real_path(path), Files()
    place.check_place(files, directory, create=False)
    reader = LogReader(Link(directory, READER, files=files), files, directory, seconds, files_allowed=True)
    try:
        reader._reader.view()
    except BaseException:
        reader.close()
        raise
    return reader
