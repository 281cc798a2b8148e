"""Every error this library raises, as one tree.

::

    RaftLogError
    |- ConfigError        ValueError         a setting is wrong: fix the call
    |- EntryTooLarge      ValueError         an entry or batch is over the limit; nothing was changed
    |- StaleTerm          ValueError         the term is older than the log's or the hard state's
    |- IndexGap           ValueError         the index lies beyond the end
    |- CommittedEntry     ValueError         a committed entry may not be removed or replaced
    |- Compacted          LookupError        the index was purged         (.first_index)
    |- Truncated          LookupError        the entry was replaced       (.last_index)
    |- Backpressure       RaftLogError       surely not appended          (.level, .retry_after_ms)
    |- LogTimeout         TimeoutError       the wait ran out
    |  `- AppendTimeout                      outcome unknown; wait on     (.ticket)
    |- OutcomeUnknown     RaftLogError       nobody can tell any more whether it was appended
    |- WriterUnavailable  ConnectionError    no writer, and none could be started
    |- LogLocked          RaftLogError       another writer owns the log  (.pid)
    |- LogClosed          ValueError         this handle was closed
    |- AccessDenied       PermissionError    not this user's log
    |- NotALog            OSError            the path holds no log
    |- VersionMismatch    RaftLogError       written by a newer version
    |- CorruptLog         RaftLogError       damage to what was durable   (.segment, .offset, ...)
    |- SyncFailed         OSError            the disk failed; the log is read-only (errno set)
    `- DiskFull           OSError            no space left (errno set)

Each class is also the standard kind its users catch.  All of them pickle, and
all of them cross the writer's socket as ``to_wire``/``from_wire`` dictionaries.
"""

from __future__ import annotations

import errno as _errno
import pickle as _pickle
from typing import Any


class RaftLogError(Exception):
    """Base of all errors of raftlog_mp.  ``str(error)`` says what is wrong, where, and what to do next."""

    _fields: tuple[str, ...] = ()

    def __init__(self, message: str = "", **fields: Any) -> None:
        super().__init__(message)
        for name in self._fields:
            setattr(self, name, fields.pop(name, None))
        for name, value in fields.items():
            setattr(self, name, value)

    @property
    def message(self) -> str:
        """The text, as ``str(error)`` gives it."""
        return str(self.args[0]) if self.args else ""

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {name: getattr(self, name) for name in self._fields})


def _rebuild(cls: type[RaftLogError], message: str, fields: dict[str, Any]) -> RaftLogError:
    return cls(message, **fields)


class ConfigError(RaftLogError, ValueError):
    """A setting is wrong.  ``.field``, ``.value`` and ``.allowed`` name it."""

    _fields = ("field", "value", "allowed")
    field: str
    value: Any
    allowed: str

    def __reduce__(self) -> tuple[Any, ...]:
        make, (cls, message, fields) = super().__reduce__()
        try:
            _pickle.dumps(self.value)
        except Exception:  # whatever the caller gave: a lambda, a lock, a class of its own
            fields["value"] = repr(self.value)
        return make, (cls, message, fields)


class EntryTooLarge(RaftLogError, ValueError):
    """An entry or a batch is above its limit.  Nothing was changed."""

    _fields = ("size_bytes", "limit_bytes")
    size_bytes: int
    limit_bytes: int


class StaleTerm(RaftLogError, ValueError):
    """The term is lower than the last entry's, the hard state's, or (of a boundary) than what is committed."""

    _fields = ("term", "current_term")
    term: int
    current_term: int


class IndexGap(RaftLogError, ValueError):
    """The index lies beyond the end of the log."""

    _fields = ("last_index",)
    last_index: int


class CommittedEntry(RaftLogError, ValueError):
    """The operation would remove or replace an entry at or below the commit index."""

    _fields = ("commit_index",)
    commit_index: int


class Compacted(RaftLogError, LookupError):
    """The index was purged.  ``.first_index`` is the first one that can still be read."""

    _fields = ("first_index",)
    first_index: int


class Truncated(RaftLogError, LookupError):
    """An entry that was yielded, checkpointed or named is not in the log.  ``.last_index`` is the end now."""

    _fields = ("last_index",)
    last_index: int


class Backpressure(RaftLogError):
    """The writer cannot take more now.  Surely **not** appended: try again after ``.retry_after_ms``."""

    _fields = ("level", "retry_after_ms")
    level: str
    retry_after_ms: int


class LogTimeout(RaftLogError, TimeoutError):
    """The wait ran out of time."""


class AppendTimeout(LogTimeout):
    """No answer in time.  Outcome unknown: wait on ``.ticket``; its ``result()`` is what the call would have given."""

    _fields = ("ticket",)
    ticket: Any

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {})  # a ticket belongs to its process


class OutcomeUnknown(RaftLogError):
    """Nobody can tell any more whether the entry was appended.  Read the log's end to find out."""


class WriterUnavailable(RaftLogError, ConnectionError):
    """No writer serves the log and none could be started.  Surely not appended."""


class LogLocked(RaftLogError):
    """Another writer process owns the log.  ``.pid`` is its process id (informative)."""

    _fields = ("pid",)
    pid: int | None


class LogClosed(RaftLogError, ValueError):
    """The handle was closed, or the ticket belongs to the parent of this forked process."""


class AccessDenied(RaftLogError, PermissionError):
    """The log belongs to another user, or its directory cannot be written."""


class NotALog(RaftLogError, OSError):
    """The path holds no log."""


class VersionMismatch(RaftLogError):
    """The files were written by a newer version of raftlog_mp than this one."""


class CorruptLog(RaftLogError):
    """What was durable is damaged.  The log refuses to open for writing; nothing was changed.

    ``.segment`` file name, ``.offset`` byte in it, ``.first_index``..``.last_index`` the entries concerned.
    """

    _fields = ("segment", "offset", "first_index", "last_index", "term")
    segment: str | None
    offset: int | None
    first_index: int | None
    last_index: int | None
    term: int | None


class _DiskError(RaftLogError, OSError):
    _default_errno = _errno.EIO

    def __init__(self, message: str = "", **fields: Any) -> None:
        code = fields.pop("errno", None) or self._default_errno
        super().__init__(message, **fields)
        self.errno = code

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, {"errno": self.errno})


class SyncFailed(_DiskError):
    """A write or fsync failed.  Final: the log is read-only until a restart has re-read everything."""


class DiskFull(_DiskError):
    """No space left on the device.  What was acknowledged stays readable; free space and try again."""

    _default_errno = _errno.ENOSPC


_BY_NAME = {
    cls.__name__: cls
    for cls in (
        RaftLogError, ConfigError, EntryTooLarge, StaleTerm, IndexGap, CommittedEntry, Compacted, Truncated,
        Backpressure, LogTimeout, AppendTimeout, OutcomeUnknown, WriterUnavailable, LogLocked, LogClosed,
        AccessDenied, NotALog, VersionMismatch, CorruptLog, SyncFailed, DiskFull,
    )
}  # fmt: skip


def to_wire(error: RaftLogError) -> dict[str, Any]:
    """The error as plain data, for the writer's socket and its start-up report."""
    fields: dict[str, Any] = {}
    for name in (*error._fields, *(("errno",) if isinstance(error, _DiskError) else ())):
        value = getattr(error, name)
        fields[name] = value if isinstance(value, (int, str, float, type(None))) else str(value)
    return {"error": type(error).__name__, "message": error.message, "fields": fields}


def from_wire(data: dict[str, Any]) -> RaftLogError:
    """The inverse of :func:`to_wire`; an unknown name becomes a plain :class:`RaftLogError`."""
    cls = _BY_NAME.get(str(data.get("error")), RaftLogError)
    fields = data.get("fields") or {}
    known = (*cls._fields, "errno")
    return cls(str(data.get("message", "")), **{k: v for k, v in fields.items() if k in known})
