"""No space: which errors mean that, what may be removed to make some, and what must not be left half made."""

from __future__ import annotations

import contextlib
import errno

from . import format as fmt
from .catalog import SegmentInfo
from .errors import DiskFull
from .files import SHORTAGES as SHORTAGES
from .files import Files, join

FULL = (errno.ENOSPC, errno.EDQUOT)


def disk_full(error: OSError, path: str) -> DiskFull:
    """What a caller is told when a step came to nothing for want of space, or of descriptors."""
    return DiskFull(
        f"{path} cannot be created ({error.strerror}): nothing was changed. What was acknowledged stays "
        "readable; free space (or purge the log) and try again.", errno=error.errno,
    )  # fmt: skip


def remove_half_made(files: Files, directory: str, segment_id: int) -> None:
    """Remove what a step that found no space has begun to write beside this segment, and of the manifest."""
    for name in (fmt.index_name(segment_id), fmt.terms_name(segment_id), fmt.MANIFEST_NAME):
        with contextlib.suppress(OSError):  # the next attempt replaces it
            files.unlink(join(directory, name + fmt.TEMPORARY_SUFFIX))


def remove_caches(files: Files, directory: str, going: list[SegmentInfo]) -> bool:
    """Remove index and term runs of segments that are about to go; whether there were any.

    That gives room on a full disk for the manifest that lets go of them.  Should that come to nothing after all, no
    entry is lost: readers rebuild both from the records.
    """
    paths = [join(directory, name(info.segment_id)) for info in going for name in (fmt.index_name, fmt.terms_name)]
    there = [path for path in paths if files.exists(path)]
    for path in there:
        files.unlink(path)
    return bool(there)
