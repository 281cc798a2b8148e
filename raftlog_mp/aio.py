"""The log for asyncio: the same names, and whatever may wait is awaited.

>>> async with rl.aio.open_log("log") as log:             # doctest: +SKIP
...     index = await log.append(b"hello")
...     async for entry in log.follow(1, timeout=1):
...         print(entry.payload)

Waiting happens in threads of the handle's own pool, so nothing here blocks the event loop, and appends that wait at
the same time share an fsync.  **Cancelling** an ``await`` gives up the waiting, not the operation: a cancelled append
may be in the log, exactly once, as after :class:`AppendTimeout`.  A handle does not survive a fork, as no event loop
does: open one in each process.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, Self, TypeVar

from .arguments import Payload
from .batches import EntryBatch
from .config import LogConfig, check_timeout
from .files import PathLike
from .follow import Follower
from .log import Log
from .log import open_log as _open_log
from .log_reader import DEFAULT, LogReader, Timeout
from .log_reader import open_reader as _open_reader
from .metrics import LogStats
from .ticket import Ticket
from .types import AppendResult, Entry, HardState, LogId

T = TypeVar("T")
THREADS = 64  # operations of one handle that may wait at the same time; more queue up
SLICE_SECONDS = 0.25  # a follower that waits looks so often whether it is still wanted


class AsyncTicket:
    """A submitted batch; see :class:`raftlog_mp.Ticket`."""

    def __init__(self, handle: AsyncLog, ticket: Ticket[range]) -> None:
        self._handle, self._ticket = handle, ticket

    def done(self) -> bool:
        """Whether the answer has arrived."""
        return self._ticket.done()

    async def result(self, timeout: Timeout = None) -> range:
        """The indexes; raises what :meth:`raftlog_mp.Ticket.result` raises."""
        if self._ticket.done():
            return self._ticket.result(0)
        return await self._handle._call(self._ticket.result, timeout)


class AsyncLogReader:
    """The reading half; see :class:`raftlog_mp.LogReader` for what each name means."""

    def __init__(self, handle: LogReader, pool: ThreadPoolExecutor) -> None:
        self._reader, self._pool = handle, pool

    async def _call(self, act: Callable[..., T], *arguments: Any, **options: Any) -> T:
        if self._reader.closed:
            return act(*arguments, **options)  # raises LogClosed at once; the pool takes nothing more
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._pool, functools.partial(act, *arguments, **options))

    # ------------------------------------------------------------ awaited
    async def get(self, index: int) -> Entry | None:
        """See :meth:`raftlog_mp.LogReader.get`."""
        return await self._call(self._reader.get, index)

    async def read(self, start: int, stop: int | None = None, max_bytes: int | None = None) -> list[Entry]:
        """See :meth:`raftlog_mp.LogReader.read`."""
        return await self._call(self._reader.read, start, stop, max_bytes)

    async def read_batches(
        self, start: int, stop: int | None = None, max_bytes: int | None = None
    ) -> list[EntryBatch]:
        """See :meth:`raftlog_mp.LogReader.read_batches`."""
        return await self._call(self._reader.read_batches, start, stop, max_bytes)

    async def term_of(self, index: int) -> int | None:
        """See :meth:`raftlog_mp.LogReader.term_of`."""
        return await self._call(self._reader.term_of, index)

    async def first_index_of_term(self, term: int) -> int | None:
        """See :meth:`raftlog_mp.LogReader.first_index_of_term`."""
        return await self._call(self._reader.first_index_of_term, term)

    async def last_index_of_term(self, term: int) -> int | None:
        """See :meth:`raftlog_mp.LogReader.last_index_of_term`."""
        return await self._call(self._reader.last_index_of_term, term)

    async def wait_durable(self, index: int | LogId, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.LogReader.wait_durable`."""
        await self._call(self._reader.wait_durable, index, timeout)

    async def stats(self) -> LogStats:
        """See :meth:`raftlog_mp.LogReader.stats`."""
        return await self._call(self._reader.stats)

    async def follow(
        self, start: int | None = None, *, after: LogId | None = None, upto: str = "visible", timeout: Timeout = None
    ) -> AsyncIterator[Entry]:
        """See :meth:`raftlog_mp.LogReader.follow`; ends, too, when the task that iterates is cancelled."""
        seconds, loop = check_timeout(timeout), asyncio.get_running_loop()
        slice_s = SLICE_SECONDS if seconds is None else min(seconds, SLICE_SECONDS)
        follower = await self._call(self._reader.follow, start, after=after, upto=upto, timeout=slice_s)
        since = loop.time()
        while True:
            # What was fetched ahead is taken here, without a thread: next() looks whether it is still in the log.
            entry = next(follower) if follower.at_hand() else await self._call(_next, follower)
            if entry is not None:
                yield entry
                since = loop.time()
            elif seconds is not None and loop.time() - since >= seconds:
                return

    # ------------------------------------------------------------ words that are there
    @property
    def first_index(self) -> int:
        """Index of the oldest entry that is there; one above the purge boundary."""
        return self._reader.first_index

    @property
    def last_index(self) -> int:
        """Index of the newest visible entry; 0 if there is none."""
        return self._reader.last_index

    @property
    def durable_index(self) -> int:
        """Every entry up to here is fsynced."""
        return self._reader.durable_index

    @property
    def commit_index(self) -> int:
        """Every entry up to here is committed; 0 = unset."""
        return self._reader.commit_index

    @property
    def last_log_id(self) -> LogId:
        """Term and index of the end of the log."""
        return self._reader.last_log_id

    @property
    def purged_log_id(self) -> LogId:
        """The purge boundary."""
        return self._reader.purged_log_id

    @property
    def hard_state(self) -> HardState:
        """Term and vote, as last saved."""
        return self._reader.hard_state

    @property
    def uuid(self) -> str:
        """Identity of the log."""
        return self._reader.uuid

    @property
    def config(self) -> LogConfig:
        """The settings in force."""
        return self._reader.config

    def __len__(self) -> int:
        return len(self._reader)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<aio {self._reader!r}>"

    # ------------------------------------------------------------ end
    @property
    def closed(self) -> bool:
        """Whether the handle was closed."""
        return self._reader.closed

    async def close(self) -> None:
        """Close the handle; idempotent.  Whoever waits on it gets :class:`LogClosed`."""
        await asyncio.to_thread(self._reader.close)  # the pool may be full of those who wait
        self._pool.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncLog(AsyncLogReader):
    """A handle for appending and reading; see :class:`raftlog_mp.Log` for what each name means."""

    def __init__(self, handle: Log, pool: ThreadPoolExecutor) -> None:
        super().__init__(handle, pool)
        self._log = handle

    async def append(self, payload: Payload, term: int | None = None, timeout: Timeout = DEFAULT) -> int:
        """See :meth:`raftlog_mp.Log.append`."""
        return await self._call(self._log.append, payload, term, timeout)

    async def append_many(
        self, payloads: Iterable[Payload], term: int | None = None, timeout: Timeout = DEFAULT
    ) -> range:
        """See :meth:`raftlog_mp.Log.append_many`."""
        return await self._call(self._log.append_many, payloads, term, timeout)

    async def submit(self, payloads: Iterable[Payload], term: int | None = None) -> AsyncTicket:
        """See :meth:`raftlog_mp.Log.submit`; waits for room only."""
        return AsyncTicket(self, await self._call(self._log.submit, payloads, term))

    async def flush(self, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.Log.flush`."""
        await self._call(self._log.flush, timeout)

    async def wait_for_room(self, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.Log.wait_for_room`."""
        await self._call(self._log.wait_for_room, timeout)

    async def append_entries(
        self, prev: LogId, entries: Iterable[Entry | EntryBatch], *, leader_term: int | None = None,
        timeout: Timeout = DEFAULT,
    ) -> AppendResult:  # fmt: skip
        """See :meth:`raftlog_mp.Log.append_entries`."""
        return await self._call(self._log.append_entries, prev, entries, leader_term=leader_term, timeout=timeout)

    async def truncate_from(self, index: int, *, leader_term: int | None = None, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.Log.truncate_from`."""
        await self._call(self._log.truncate_from, index, leader_term=leader_term, timeout=timeout)

    async def purge_to(self, upto: int | LogId, *, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.Log.purge_to`."""
        await self._call(self._log.purge_to, upto, timeout=timeout)

    async def reset(self, boundary: LogId | None = None, *, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.Log.reset`."""
        await self._call(self._log.reset, boundary, timeout=timeout)

    async def save_hard_state(self, state: HardState, *, timeout: Timeout = DEFAULT) -> None:
        """See :meth:`raftlog_mp.Log.save_hard_state`."""
        await self._call(self._log.save_hard_state, state, timeout=timeout)

    async def commit_to(self, index: int, *, timeout: Timeout = DEFAULT) -> int:
        """See :meth:`raftlog_mp.Log.commit_to`."""
        return await self._call(self._log.commit_to, index, timeout=timeout)


H = TypeVar("H", bound=AsyncLogReader)


class _Opening(Generic[H]):
    """What ``open_log()`` gives: to be awaited, or used with ``async with``."""

    def __init__(self, make: Callable[[], H]) -> None:
        self._make = make
        self._handle: H | None = None

    async def _open(self) -> H:
        return await asyncio.to_thread(self._make)  # it may start a writer, which may run a recovery

    def __await__(self) -> Generator[Any, None, H]:
        return self._open().__await__()

    async def __aenter__(self) -> H:
        handle = self._handle = await self._open()
        return handle

    async def __aexit__(self, *_: object) -> None:
        if self._handle is not None:
            await self._handle.close()


def open_log(
    path: PathLike, config: LogConfig | None = None, *, create: bool = True, autostart: bool = True,
    timeout: Timeout = 30.0, name: str = "",
) -> _Opening[AsyncLog]:  # fmt: skip
    """See :func:`raftlog_mp.open_log`: ``async with rl.aio.open_log(path) as log``, or ``await`` it."""

    def make() -> AsyncLog:
        log = _open_log(path, config, create=create, autostart=autostart, timeout=timeout, name=name)
        return AsyncLog(log, ThreadPoolExecutor(THREADS, "raftlog-aio"))

    return _Opening(make)


def open_reader(path: PathLike, *, timeout: Timeout = 30.0) -> _Opening[AsyncLogReader]:
    """See :func:`raftlog_mp.open_reader`."""

    def make() -> AsyncLogReader:
        return AsyncLogReader(_open_reader(path, timeout=timeout), ThreadPoolExecutor(THREADS, "raftlog-aio"))

    return _Opening(make)


def _next(follower: Follower) -> Entry | None:
    """The next entry, or None when the slice is over: StopIteration cannot pass through a future."""
    return next(follower, None)
