"""The handle users append with: :func:`open_log`."""

from __future__ import annotations

from collections.abc import Iterable

from . import place, wakeup
from .arguments import Payload, as_bytes, check_term
from .batches import EntryBatch
from .client import Client
from .config import LogConfig, check_config, check_timeout
from .files import Files, PathLike, real_path
from .link import Link
from .log_reader import DEFAULT, LogReader, Timeout
from .protocol import CLIENT
from .requests import Requests
from .ticket import Ticket
from .types import AppendResult, Entry, HardState, LogId


class Log(LogReader):
    """A log: everything :class:`LogReader` has, and appending.  Thread-safe; usable after fork."""

    name = ""

    def __init__(self, link: Link, files: Files, directory: str, timeout: Timeout) -> None:
        self._client = Client(link)
        self._requests = Requests(self._client)
        super().__init__(link, files, directory, timeout, files_allowed=False)

    def append(self, payload: Payload, term: int | None = None, timeout: Timeout = DEFAULT) -> int:
        """Append one entry and return its index, acknowledged as the log's strategy promises.

        ``term=None`` takes the last entry's (at least 1; a new one after a loss, see docs/raft.md).  Raises
        :class:`EntryTooLarge`, :class:`StaleTerm`, :class:`Backpressure` (surely not appended),
        :class:`AppendTimeout` (outcome unknown, ``.ticket`` lives on), :class:`DiskFull`, :class:`SyncFailed`,
        :class:`WriterUnavailable`, :class:`LogClosed`.
        """
        if term is None and timeout is DEFAULT and type(payload) is bytes and not self._link.closed:
            return self._client.append_one(payload, self._timeout).start
        return self._append([payload if type(payload) is bytes else as_bytes(payload)], term, timeout).start

    def append_many(self, payloads: Iterable[Payload], term: int | None = None, timeout: Timeout = DEFAULT) -> range:
        """Append a batch, all or nothing, at contiguous indexes; ``[]`` appends nothing and gives ``range(0)``."""
        return self._append(payloads, term, timeout)

    def _append(self, payloads: Iterable[Payload], term: int | None, timeout: Timeout) -> range:
        self._link.check_open()
        check_term(term)
        return self._client.append(payloads, term, self._seconds(timeout))

    def submit(self, payloads: Iterable[Payload], term: int | None = None) -> Ticket[range]:
        """Append a batch without waiting: a :class:`Ticket` whose ``result()`` is the range.

        Waits only for room in this handle's lane, up to the handle's timeout, then raises :class:`Backpressure`.
        """
        if term is None and type(payloads) is list and len(payloads) == 1 and type(payloads[0]) is bytes:
            submit_one = self._client.submit_one
            ticket = submit_one(payloads[0]) if submit_one is not None and not self._link.closed else None
            if ticket is not None:
                return ticket
        self._link.check_open()
        check_term(term)
        return self._client.submit(payloads, term, self._timeout)

    def wait_for_room(self, timeout: Timeout = DEFAULT) -> None:
        """Return once an append would find room: no hard memory pressure, and space in this handle's lane.

        For those who would rather wait than handle :class:`Backpressure`; it reserves nothing.  Raises
        :class:`LogTimeout` (nothing was appended), :class:`LogClosed`.
        """
        self._link.check_open()
        self._client.wait_for_room(self._seconds(timeout))

    def close(self) -> None:
        """Leave the log.  Idempotent; what was acknowledged stays, the writer goes on."""
        super().close()
        self._client.close()

    def flush(self, timeout: Timeout = DEFAULT) -> None:
        """Return once everything visible now is fsynced, whatever the policy; :class:`SyncFailed` if the disk fails."""
        self._link.check_open()
        self._client.flush(self._deadline(timeout))

    # ------------------------------------------------------------ Raft
    def append_entries(
        self, prev: LogId, entries: Iterable[Entry | EntryBatch], *, leader_term: int | None = None,
        timeout: Timeout = DEFAULT,
    ) -> AppendResult:  # fmt: skip
        """A follower's AppendEntries: put the leader's ``entries`` behind ``prev``, as Raft's section 5.3 says.

        Entries that are there already are skipped; at the first whose term differs the suffix is replaced from there,
        in one atomic durable step.  Batches from :meth:`read_batches` are taken as they are.  ``prev`` may be
        ``LogId(0, 0)`` or the purge boundary.  If it does not match, nothing changes and the result says where to
        look next.  Durable on return in DiskFirst; in MemFirst call ``wait_durable(result.matched)`` before answering
        the leader.

        Raises :class:`StaleTerm` if ``leader_term`` is over, :class:`IndexGap` for entries that do not follow ``prev``
        one by one, :class:`CommittedEntry` rather than replace one, ``TypeError`` for what is no :class:`Entry`, and
        what :meth:`append` raises; sending the same again after :class:`AppendTimeout` is safe.
        """
        self._link.check_open()
        return self._requests.append_entries(prev, entries, leader_term, self._seconds(timeout))

    def truncate_from(self, index: int, *, leader_term: int | None = None, timeout: Timeout = DEFAULT) -> None:
        """Remove the entries from ``index`` on.  Durable on return; a removed entry never comes back.

        ``index = last + 1`` removes nothing.  Raises :class:`IndexGap` beyond that, :class:`Compacted` at or below the
        purge boundary, :class:`CommittedEntry`, :class:`StaleTerm`.
        """
        self._link.check_open()
        self._requests.truncate_from(index, leader_term, self._seconds(timeout))

    def purge_to(self, upto: int | LogId, *, timeout: Timeout = DEFAULT) -> None:
        """Remove the entries up to and including ``upto``, whose id becomes the boundary.  Durable on return.

        Never moves back: an ``upto`` at or below the boundary changes nothing.  Raises :class:`IndexGap` beyond the
        last entry, :class:`Truncated` if a ``LogId`` names another term than the log has there.
        """
        self._link.check_open()
        self._requests.purge_to(upto, self._seconds(timeout))

    def reset(self, boundary: LogId | None = None, *, timeout: Timeout = DEFAULT) -> None:
        """Remove every entry; the log goes on at ``boundary.index + 1`` (None: at 1).  Durable on return.

        ``boundary`` is the last entry that an installed snapshot covers.  The hard state stays.  Raises
        :class:`CommittedEntry` if that would lose or rewrite committed entries, :class:`Compacted` for one below the
        old boundary, :class:`Truncated` for another term at its index, :class:`StaleTerm` for a term below what is
        committed or purged.
        """
        self._link.check_open()
        self._requests.reset(boundary, self._seconds(timeout))

    def save_hard_state(self, state: HardState, *, timeout: Timeout = DEFAULT) -> None:
        """Make term and vote durable: on return they survive any crash.

        Raises :class:`StaleTerm` for a term below the saved one and for another vote in the same term; the same vote
        again is fine, and ``voted_for=None`` never forgets a vote given in that term.
        """
        self._link.check_open()
        self._requests.save_hard_state(state, self._seconds(timeout))

    def commit_to(self, index: int, *, timeout: Timeout = DEFAULT) -> int:
        """Raise the commit index, at most to the last entry, and return it.  It never falls.

        Nothing at or below it is removed or replaced afterwards.  Persisted lazily: a clean stop keeps it exactly,
        after a crash it may be lower, as Raft allows.
        """
        self._link.check_open()
        return self._requests.commit_to(index, self._seconds(timeout))


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
