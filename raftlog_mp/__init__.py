"""raftlog_mp: a durable Raft log that many Python processes on one machine share.

>>> import raftlog_mp as rl
>>> with rl.open_log("/var/lib/app/log") as log:          # doctest: +SKIP
...     index = log.append(b"hello")                      # fsynced when it returns (DiskFirst)
...     log.get(index).payload
b'hello'
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .batches import EntryBatch
from .config import Adaptive, Batch, Immediate, LogConfig, PressureConfig
from .errors import (
    AccessDenied,
    AppendTimeout,
    Backpressure,
    CommittedEntry,
    Compacted,
    ConfigError,
    CorruptLog,
    DiskFull,
    EntryTooLarge,
    IndexGap,
    LogClosed,
    LogLocked,
    LogTimeout,
    NotALog,
    OutcomeUnknown,
    RaftLogError,
    StaleTerm,
    SyncFailed,
    Truncated,
    VersionMismatch,
    WriterUnavailable,
)
from .lifecycle import Writer, start_writer, stop_writer
from .log import Log, open_log
from .log_reader import LogReader, open_reader
from .metrics import LogStats
from .ticket import Ticket
from .types import AppendResult, Entry, HardState, LogId, PersistenceStrategy, majority_match_index

if TYPE_CHECKING:
    from . import aio

__version__ = "0.1.0"

__all__ = [
    # handles
    "open_log", "open_reader", "aio", "start_writer", "stop_writer", "Log", "LogReader", "Writer", "Ticket", "LogStats",
    # values
    "Entry", "EntryBatch", "LogId", "HardState", "AppendResult", "majority_match_index",
    # settings
    "LogConfig", "PersistenceStrategy", "Immediate", "Batch", "Adaptive", "PressureConfig",
    # errors
    "RaftLogError", "ConfigError", "EntryTooLarge", "StaleTerm", "IndexGap", "CommittedEntry", "Compacted",
    "Truncated", "Backpressure", "LogTimeout", "AppendTimeout", "OutcomeUnknown", "WriterUnavailable", "LogLocked",
    "LogClosed", "AccessDenied", "NotALog", "VersionMismatch", "CorruptLog", "SyncFailed", "DiskFull",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """``raftlog_mp.aio`` on first use: who does not ask for it does not load asyncio."""
    if name == "aio":
        return importlib.import_module(".aio", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
