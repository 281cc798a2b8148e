"""The handles users hold: :func:`open_log`, :func:`open_reader`, :func:`start_writer`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable
from typing import Any, Literal, Self

from . import errors, hard_state, layout, place, processes, shm, wakeup
from . import format as fmt
from .client import Client, Payload, Ticket, as_bytes, check_failed, check_term, deadline_of
from .config import LogConfig, check_config, check_integer, check_timeout
from .files import Files, PathLike, join, real_path
from .follow import UPTO, Follower, compacted, start_of
from .link import Link
from .metrics import LogStats, stats_of
from .protocol import CLIENT, READER
from .reader import Reader
from .source import Source
from .types import Entry, HardState, LogId


class _Default:
    def __repr__(self) -> str:
        return "the handle's timeout"


DEFAULT: Any = _Default()
Timeout = float | None


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
        if type(index) is not int:
            check_integer("index", index)
        if self._link.closed:
            self._link.check_open()
        return self._reader.get(index)

    def read(self, start: int, stop: int | None = None, max_bytes: int | None = None) -> list[Entry]:
        """Entries ``start..stop-1`` (``stop=None``: to the end).

        Only the end is clipped: to the last entry, and after ``max_bytes`` of payload, though one entry is always
        given.  ``start`` below the first index raises :class:`Compacted`.
        """
        check_integer("start", start)
        check_integer("stop", stop, optional=True)
        check_integer("max_bytes", max_bytes, optional=True)
        control = self._control()
        # last before first: a purge between the two loads can only make the range look emptier, never hole-y
        last, first = control.last_index.load(shm.SEQ_CST), control.first_index.load(shm.ACQUIRE)
        if start < first:
            raise compacted(start, first)
        stop = last + 1 if stop is None else min(stop, last + 1)
        if start >= stop:
            self._source.check_readable(start)
            return []
        return self._reader.read(start, stop, max_bytes)

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
        return Follower(self._reader, self._link, start_of(self._reader, start, after), upto, seconds)

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
        """Everything up to here was fsynced."""
        return int(self._control().durable_index.load(shm.SEQ_CST))

    @property
    def commit_index(self) -> int:
        """Raft's commit index; 0 = unset."""
        return int(self._control().commit_index.load(shm.ACQUIRE))

    @property
    def purged_log_id(self) -> LogId:
        """Id of the last purged entry; ``LogId(0, 0)`` if none was."""
        control = self._control()
        return LogId(control.purged_term.load(shm.ACQUIRE), control.purged_index.load(shm.ACQUIRE))

    @property
    def last_log_id(self) -> LogId:
        """Id of the last visible entry; the purge boundary when the log is empty."""
        while True:
            last = self.last_index
            entry = self._reader.get(last)
            if entry is not None:
                return entry.log_id
            if last == self.last_index:
                return self.purged_log_id

    @property
    def uuid(self) -> str:
        """Identity of this log, for ever; a copy restored from a backup has the same."""
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
        return hard_state.load(self._files, self.path)

    def __len__(self) -> int:
        control = self._control()
        last = int(control.last_index.load(shm.SEQ_CST))
        return last + 1 - int(control.first_index.load(shm.ACQUIRE))

    def __bool__(self) -> bool:
        return True

    def wait_durable(self, index: int | LogId, timeout: Timeout = DEFAULT) -> None:
        """Return once the entry at ``index`` is fsynced.

        Raises :class:`IndexGap` if there is no such entry, :class:`Truncated` if a ``LogId`` names another term than
        the log has there, :class:`SyncFailed` if the disk failed,
        :class:`LogTimeout` at the timeout (seconds; None: for ever).
        """
        target, deadline = index.index if isinstance(index, LogId) else index, self._deadline(timeout)
        check_integer("index", target)
        if target > self.last_index:
            last = self.last_index
            raise errors.IndexGap(f"entry {target} does not exist: the last entry is {last}", last_index=last)

        if isinstance(index, LogId) and index.index >= self.first_index:
            entry = self._reader.get(index.index)
            if entry is None or entry.log_id != index:
                last = self.last_index
                raise errors.Truncated(f"{index} is not in the log: another entry stands there", last_index=last)

        def durable() -> bool:
            view = self._reader.view()
            if view.control.durable_index.load(shm.SEQ_CST) >= target:
                return True
            check_failed(view)
            return False

        if not self._link.wait(durable, deadline, layout.WANTS_PROGRESS):
            raise errors.LogTimeout(
                f"entry {target} was not durable in time; the writer goes on flushing, nothing is lost"
            )

    def stats(self) -> LogStats:
        """Counters and frontiers, read from shared memory at one moment."""
        self._link.check_open()
        self._link.look()  # a writer that died is noticed here, not only by the next one who waits
        view = self._reader.view()
        stats = stats_of(view, self.path, lapped_reads=self._reader.lapped_reads)
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

    def __enter__(self) -> Self:
        self._link.check_open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._link.closed else "open"
        return f"<{type(self).__name__} {self.path!r} {state}>"


class Log(LogReader):
    """A log: everything :class:`LogReader` has, and appending.  Thread-safe; usable after fork."""

    name = ""

    def __init__(self, link: Link, files: Files, directory: str, timeout: Timeout) -> None:
        self._client = Client(link)
        super().__init__(link, files, directory, timeout, files_allowed=False)

    def append(self, payload: Payload, term: int | None = None, timeout: Timeout = DEFAULT) -> int:
        """Append one entry and return its index, acknowledged as the log's strategy promises.

        ``term=None`` takes the last entry's (at least 1).  Raises :class:`EntryTooLarge`, :class:`StaleTerm`,
        :class:`Backpressure` (surely not appended), :class:`AppendTimeout` (outcome unknown, ``.ticket`` lives on),
        :class:`DiskFull`, :class:`SyncFailed`, :class:`WriterUnavailable`, :class:`LogClosed`.
        """
        return self._append([payload if type(payload) is bytes else as_bytes(payload)], term, timeout).start

    def append_many(self, payloads: Iterable[Payload], term: int | None = None, timeout: Timeout = DEFAULT) -> range:
        """Append a batch, all or nothing, at contiguous indexes; ``[]`` appends nothing and gives ``range(0)``."""
        return self._append(payloads, term, timeout)

    def _append(self, payloads: Iterable[Payload], term: int | None, timeout: Timeout) -> range:
        self._link.check_open()
        check_term(term)
        seconds = self._seconds(timeout)
        ticket = self._client.submit(payloads, term, seconds)
        if not ticket._done:
            self._client.await_ticket(ticket, deadline_of(seconds))
        if ticket._error is not None:
            raise ticket._error
        return ticket._range

    def submit(self, payloads: Iterable[Payload], term: int | None = None) -> Ticket:
        """Append a batch without waiting: a :class:`Ticket` whose ``result()`` is the range.

        Waits only for room in this handle's lane, up to the handle's timeout, then raises :class:`Backpressure`.
        """
        self._link.check_open()
        check_term(term)
        return self._client.submit(payloads, term, self._timeout)

    def close(self) -> None:
        """Leave the log.  Idempotent; what was acknowledged stays, the writer goes on."""
        super().close()
        self._client.close()

    def flush(self, timeout: Timeout = DEFAULT) -> None:
        """Return once everything visible now is fsynced, whatever the policy; :class:`SyncFailed` if the disk fails."""
        self._link.check_open()
        self._client.flush(self._deadline(timeout))


class Writer:
    """A writer process that :func:`start_writer` started."""

    def __init__(self, directory: str, process: Any, pid: int) -> None:
        self.path, self.pid, self._process = directory, pid, process

    def stop(self, timeout: Timeout = 30.0) -> None:
        """Drain, flush, seal, exit.  Idempotent; connected clients do not restart it.

        :class:`LogTimeout` if it has not ended in ``timeout`` seconds (None: wait for ever); it goes on flushing.
        """
        seconds = check_timeout(timeout)
        if self._process.poll() is None:
            self._process.terminate()
            if not processes.wait_child(self._process, seconds):
                raise errors.LogTimeout(
                    f"the writer {self.pid} of {self.path} did not stop in {timeout} s; it goes on flushing"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_writer(path: PathLike, config: LogConfig | None = None) -> Writer:
    """Start the dedicated writer process of the log at ``path``; returns when it serves.

    A log that is not there is created.  ``config=None`` adopts the stored settings.  Raises the writer's own reason
    if it cannot serve: :class:`LogLocked`, :class:`CorruptLog`, :class:`ConfigError`, :class:`DiskFull` ...
    It lives until stopped, whatever its clients do.
    """
    check_config(config)
    directory, files = real_path(path), Files()
    if not place.check_place(files, directory, create=True):
        place.prepare_directory(files, directory)
    place.check_owner(files, directory)
    process, raw = processes.start_writer(directory, config.as_dict() if config is not None else None, linger=False)
    report = processes.decode_report(raw)
    if "error" in report:
        processes.wait_child(process, 10.0)
        raise errors.from_wire(report)
    if not report:
        raise errors.WriterUnavailable(
            f"the writer of {directory} died while starting; see writer.log in that directory"
        )
    return Writer(directory, process, int(report["pid"]))


def stop_writer(path: PathLike, timeout: Timeout = 30.0) -> bool:
    """Stop the writer of the log at ``path``: drain, flush, seal.  False if none runs.  Returns when it has ended.

    :class:`LogTimeout` if that takes more than ``timeout`` seconds (None: wait for ever).
    """
    directory, files, deadline = real_path(path), Files(), deadline_of(check_timeout(timeout))
    place.check_place(files, directory, create=False)
    with contextlib.closing(Link(directory, READER, files=files)) as link:
        while not link.try_connect() or link.view is None:
            if not files.lock_held(join(directory, fmt.LOCK_NAME)):
                return False
            if wakeup.now() >= deadline:  # it is starting, or ending, and takes no one in
                raise errors.LogTimeout(f"the writer of {directory} did not answer in {timeout} s; try again")
            wakeup.pause(0.005)
        with contextlib.closing(processes.Watch(link.view.control.writer_pid.load(shm.ACQUIRE))) as watch:
            link.send(op="stop")
            if not watch.wait(deadline - wakeup.now()):
                raise errors.LogTimeout(f"the writer of {directory} did not stop in {timeout} s; it goes on flushing")
        return True


def open_log(
    path: PathLike, config: LogConfig | None = None, *, create: bool = True, autostart: bool = True,
    timeout: Timeout = 30.0, name: str = "",
) -> Log:  # fmt: skip
    """Open the log at ``path`` for appending and reading, starting a writer if none runs.

    An autostarted writer belongs to nobody and exits ``linger_s`` after its last client left.  ``timeout`` (seconds;
    None: for ever) is the default of everything that waits.  ``name`` shows in diagnostics only.
    """
    check_config(config)
    seconds, directory, files = check_timeout(timeout), real_path(path), Files()
    place.check_place(files, directory, create=create)
    link = Link(directory, CLIENT, files=files, config=config, autostart=autostart, create=create)
    log = Log(link, files, directory, seconds)
    log.name = name or f"pid-{wakeup.process_id()}"
    try:
        link.ensure(log._deadline(DEFAULT))
    except BaseException:
        log.close()
        raise
    return log


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
