"""What a reader's map of the log belongs to, and what it means when the log has moved on."""

from __future__ import annotations

from typing import Any, NamedTuple

from . import errors


class Overtaken(Exception):
    """The log was truncated, purged, reset or taken over while it was read: what was read so far may not fit together.

    Internal: whoever reads starts over.
    """


class Era(NamedTuple):
    """What a reader's map belongs to.  Between two looks nothing was taken off the log if all three are the same."""

    view: Any
    version: int  # of the catalog
    epoch: int  # of truncations, purges and resets


class Gone:
    """Stands in for everything a closed reader had."""

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def _raise(self, *_: Any) -> Any:
        raise errors.LogClosed(f"this handle of {self._directory} was closed; open a new one")

    __call__ = __iter__ = __getattr__ = _raise
