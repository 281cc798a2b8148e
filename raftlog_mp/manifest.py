"""The manifest: the durable truth about what the log consists of.  Replaced as a whole, atomically."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any

from . import format as fmt
from .catalog import SegmentInfo
from .errors import AccessDenied, CorruptLog, NotALog, VersionMismatch
from .files import SHORTAGES, Files, join

# Added after version 1 was fixed: left out while they say nothing, so that old bytes stay what they were.
ADDED = ("lost", "purges", "copied", "term_floor", "producers")
_row_of = attrgetter(*(one.name for one in fields(SegmentInfo)))


@dataclass(slots=True)
class Manifest:
    """Content of the manifest file; one writer changes it, everybody reads it."""

    uuid: str
    log_id: int
    config: dict[str, Any]
    strategy: str
    generation: int = 0  # of the newest writer; durable before that writer uses it
    next_segment_id: int = 1
    segments: list[SegmentInfo] = field(default_factory=list)
    purged_index: int = 0
    purged_term: int = 0
    durable: int = 0  # stream position that was durable when this was written
    clean: bool = True  # the last writer answered everything it had taken, flushed, and sealed
    settled: bool = True  # everything acknowledged is in the files: no ring is needed to recover
    failed: bool = False  # a write or fsync failed: never trust bytes past `durable`
    loss_possible: bool = False  # a power cut may have taken a suffix that was acknowledged from memory
    shm_dir: str | None = None
    evidence: list[str] = field(default_factory=list)  # torn tails that were cut, so that none is cut twice
    commit_index: int = 0
    # Damage that repair has accepted: [first_index, last_index, segment_id, offset in its file].  A row whose last
    # index lies below its first cost no entry (or none that is still in the log): known damage, nothing more.
    lost: list[list[int]] = field(default_factory=list)
    producers: bytes = b""  # the exactly-once table at a clean stop: its clients may come back later
    purges: list[list[int]] = field(default_factory=list)  # [producer, sequence] of the newest ones
    copied: bool = False  # a backup that no writer has served yet: the first one begins another history
    term_floor: int = 0  # lowest term of an append that says none: raised when a suffix may have been lost

    def live_lost(self) -> list[list[int]]:
        """The rows of ``lost`` as the log stands now: less what was purged, truncated or replaced since."""
        if not self.lost:
            return []
        listed, rows = {info.segment_id: info for info in self.segments}, []
        for first, last, segment_id, offset in self.lost:
            info = listed.get(segment_id)
            if info is not None:
                low = max(first, self.purged_index + 1)
                high = last if info.last_index is None else min(last, info.last_index)
                rows.append([low, max(high, low - 1), segment_id, offset])
        return rows

    def lost_at(self, index: int) -> list[int] | None:
        """The row that holds ``index``, if repair has given the entry up."""
        return next((row for row in self.live_lost() if row[0] <= index <= row[1]), None)

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        # Field by field: asdict() copies deeply, and took 32 ms for 1000 segments, at every roll.
        data = {one.name: getattr(self, one.name) for one in fields(self)}
        data["segments"] = list(map(_row_of, self.segments))
        data["lost"] = self.live_lost()
        for name in ADDED:
            if not data[name]:
                del data[name]
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Manifest:
        """The inverse of :meth:`as_dict`."""
        values = dict(data)
        values["segments"] = [SegmentInfo(*row) for row in values.get("segments", [])]
        return cls(**values)


def manifest_path(directory: str) -> str:
    """Where the manifest stands."""
    return join(directory, fmt.MANIFEST_NAME)


def shm_folder(directory: str, manifest: Manifest) -> str:
    """The folder of control, ring and active index: ``DIR/shm``, or one per log below the configured folder."""
    if manifest.shm_dir is None:
        return join(directory, fmt.SHM_NAME)
    return join(manifest.shm_dir, f"raftlog-{manifest.uuid}")


def load(files: Files, directory: str) -> Manifest:
    """Read the manifest.  :class:`NotALog`, :class:`CorruptLog` or :class:`VersionMismatch` if that cannot be.

    The cause of a :class:`CorruptLog` is the ``OSError``, if the device could not read it: then it may be whole.
    """
    path = manifest_path(directory)
    try:
        raw = files.read_file(path)
    except FileNotFoundError:
        raise missing(files, directory) from None
    except PermissionError:
        raise AccessDenied(
            f"{path} cannot be read by this user; the log belongs to whoever may, unless somebody else, root for "
            "example, has written into it"
        ) from None
    except NotADirectoryError:
        raise NotALog(f"{directory} is a file, not the directory of a log; give a directory") from None
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        raise fmt.corrupt(
            f"{path} cannot be read: {error.strerror}", directory, served=False, segment=fmt.MANIFEST_NAME, offset=0
        ) from error
    try:
        document = fmt.read_document(fmt.MANIFEST_MAGIC, raw, path)
        if document is not None:
            _refuse_unknown(document, path)
            return Manifest.from_dict(document)
    except (TypeError, ValueError, KeyError):
        pass
    raise fmt.corrupt(
        f"{path} is damaged: its checksum or structure is wrong", served=False, segment=fmt.MANIFEST_NAME, offset=0
    )


def _refuse_unknown(document: dict[str, Any], path: str) -> None:
    unknown = sorted(set(map(str, document)) - {one.name for one in fields(Manifest)})
    if unknown:
        raise VersionMismatch(
            f"{path} states {', '.join(unknown)}, which this raftlog_mp does not know: another release wrote it. "
            "Upgrade raftlog_mp to open this log; nothing was changed."
        )


def missing(files: Files, directory: str) -> NotALog | CorruptLog:
    """What it means that there is no manifest."""
    if any(name.endswith(".seg") for name in files.list_dir(directory)):
        return fmt.corrupt(
            f"{manifest_path(directory)} is missing although {directory} holds segments", served=False,
            segment=fmt.MANIFEST_NAME, offset=0,
        )  # fmt: skip
    if not files.is_dir(directory):
        return NotALog(f"there is no log at {directory}; create one with open_log() or `raftlog-mp serve {directory}`")
    return NotALog(
        f"{directory} holds no log (no manifest in it); give the directory of a log, or an empty one to create it"
    )


def save(files: Files, directory: str, manifest: Manifest, *, ready: Callable[[], None] | None = None) -> None:
    """Replace the manifest.  Durable on return; ``ready()`` is called when everything but the rename is done."""
    document = fmt.pack_document(fmt.MANIFEST_MAGIC, manifest.as_dict())
    files.write_file(manifest_path(directory), document, ready=ready)
