"""The hard state file: two checksummed slots, 4 KiB apart, each written and fsynced on every save.

Both slots are kept the same, so that a rotted newest slot cannot revert a vote.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import format as fmt
from .errors import AccessDenied, VersionMismatch
from .files import SHORTAGES, Files, join
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


def save(files: Files, directory: str, state: HardState, version: int) -> None:
    """Replace the hard state: each slot written and fsynced in turn.  Durable on return.

    The older slot goes first, so that at every moment one slot is whole: the state before, or this one.
    """
    slot = _pack(state, version)
    with files.opened(hard_state_path(directory), write=True) as fd:
        first = version % 2
        for number in (first, 1 - first):
            files.pwrite(fd, slot, number * fmt.HARD_STATE_SLOT_BYTES)
            files.sync(fd)


def heal(
    files: Files, directory: str, *, keep: Callable[[int, int], object] = lambda offset, length: None
) -> tuple[HardState, int]:
    """Make both slots the same again, after a crash in the middle of a save, or rot in one.  Durable on return.

    ``keep(offset, length)`` is called, with the file still as it was, for each slot whose bytes go and prove nothing.
    """
    state, version = load_version(files, directory)
    raw, slot = files.read_file(hard_state_path(directory)), _pack(state, version)
    size, document = len(slot), slot.rstrip(b"\0")
    found = [raw[:size], raw[size : 2 * size]]
    bad = [number for number in (0, 1) if found[number] != slot]
    for number in bad:
        if not (slot.startswith(found[number].rstrip(b"\0")) or _whole(found[number])):
            keep(number * size, size)
    if bad:
        # A good slot is not touched, and one that lacks only padding comes last: at every moment one slot holds the
        # newest state.
        bad.sort(key=lambda number: found[number].startswith(document))
        with files.opened(hard_state_path(directory), write=True) as fd:
            files.sync(fd)  # it may have been written and not synced before its writer was killed
            for number in bad:
                files.pwrite(fd, slot, number * size)
                files.sync(fd)
    return state, version


def _whole(slot: bytes) -> bool:
    """Whether the slot is one that was saved, every byte of it."""
    try:
        document = fmt.read_document(fmt.HARD_STATE_MAGIC, slot, fmt.HARD_STATE_NAME)
    except VersionMismatch:
        return False
    return document is not None and fmt.pack_document(fmt.HARD_STATE_MAGIC, document).ljust(len(slot), b"\0") == slot


def load(files: Files, directory: str, newest: int | None = None) -> HardState:
    """The newest valid slot's state; of a live log, none newer than ``newest``, the version known to be durable.

    If both slots are newer by now, the first of them was synced before the second was written.
    """
    return load_version(files, directory, newest)[0]


def load_version(files: Files, directory: str, limit: int | None = None) -> tuple[HardState, int]:
    """The newest valid slot and its version.  :class:`CorruptLog` if the file is missing or no slot is valid.

    Its cause is the ``OSError``, if the device could not read the file: then it may be whole.
    """
    path = hard_state_path(directory)
    try:
        raw = files.read_file(path)
    except FileNotFoundError:
        raise fmt.corrupt(f"{path} is missing; a vote may have been forgotten", segment=fmt.HARD_STATE_NAME) from None
    except PermissionError:
        raise AccessDenied(f"{path} cannot be read by this user; the log belongs to whoever may") from None
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise fmt.corrupt(
            f"{path} cannot be read: {error.strerror}; the vote in it is not known", directory,
            segment=fmt.HARD_STATE_NAME, offset=0,
        ) from error  # fmt: skip
    found: list[dict[str, Any]] = []
    newer_version = None
    for offset in (0, fmt.HARD_STATE_SLOT_BYTES):
        try:
            document = fmt.read_document(fmt.HARD_STATE_MAGIC, raw[offset : offset + fmt.HARD_STATE_SLOT_BYTES], path)
        except VersionMismatch as error:
            if fmt.document_holds(raw[offset : offset + fmt.HARD_STATE_SLOT_BYTES]):
                raise  # a newer release has voted: its other slot may be older than that
            newer_version, document = error, None  # a rotten version field: the other slot decides
        if document is not None:
            found.append(document)
    within = [document for document in found if limit is None or document["version"] <= limit]
    newest = max(within or found, key=lambda document: int(document["version"]), default=None)
    if newest is None and newer_version is not None:
        raise newer_version
    if newest is None:
        raise fmt.corrupt(
            f"{path} is damaged in both slots; a vote may have been forgotten", segment=fmt.HARD_STATE_NAME
        )
    return HardState(newest["term"], newest["voted_for"]), int(newest["version"])
