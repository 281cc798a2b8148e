"""The hard state file: two checksummed slots, 4 KiB apart, each written and fsynced on every save.

Both slots are kept the same, so that a rotted newest slot cannot revert a vote.
"""

from __future__ import annotations

from . import format as fmt
from .errors import VersionMismatch
from .files import Files, join
from .types import HardState


def hard_state_path(directory: str) -> str:
    """Where the hard state stands."""
    return join(directory, fmt.HARD_STATE_NAME)


def create(files: Files, directory: str) -> None:
    """The initial file: both slots hold ``HardState(0, None)``.  Durable on return."""
    slot = _pack(HardState(0, None), 0)
    files.write_file(hard_state_path(directory), slot + slot)


def _pack(state: HardState, version: int) -> bytes:
    document = {"term": state.term, "voted_for": state.voted_for, "version": version}
    return fmt.pack_document(fmt.HARD_STATE_MAGIC, document).ljust(fmt.HARD_STATE_SLOT_BYTES, b"\0")


def load(files: Files, directory: str) -> HardState:
    """The newest valid slot.  :class:`CorruptLog` if the file is missing or no slot is valid."""
    path = hard_state_path(directory)
    try:
        raw = files.read_file(path)
    except FileNotFoundError:
        raise fmt.corrupt(f"{path} is missing; a vote may have been forgotten", segment=fmt.HARD_STATE_NAME) from None
    newest, newer_version = None, None
    for offset in (0, fmt.HARD_STATE_SLOT_BYTES):
        try:
            document = fmt.read_document(fmt.HARD_STATE_MAGIC, raw[offset : offset + fmt.HARD_STATE_SLOT_BYTES], path)
        except VersionMismatch as error:  # or a rotten version field: the other slot decides
            newer_version, document = error, None
        if document is not None and (newest is None or document["version"] > newest["version"]):
            newest = document
    if newest is None and newer_version is not None:
        raise newer_version
    if newest is None:
        raise fmt.corrupt(
            f"{path} is damaged in both slots; a vote may have been forgotten", segment=fmt.HARD_STATE_NAME
        )
    return HardState(newest["term"], newest["voted_for"])
