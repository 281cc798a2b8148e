"""What enters the log, and leaves it, in one step across segments."""

from __future__ import annotations

from typing import NamedTuple

from .terms import Run
from .types import LogId


class Carried(NamedTuple):
    """Records that enter the log together with the segment that they open: durable before it is listed."""

    data: bytes
    slots: bytes
    runs: list[Run]
    last_index: int
    last_term: int


class Change(NamedTuple):
    """A step that takes entries off the log: what the manifest lists afterwards, and what readers are told."""

    removed: int  # lowest index that goes, or NOTHING_REMOVED
    purged: LogId
    commit_index: int


class Batch(NamedTuple):
    """A verified batch that waits for its indexes."""

    body: bytes
    body_crc: int
    count: int  # type: ignore[assignment]  # shadows tuple.count
    term: int
