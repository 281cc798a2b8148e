"""Removes files of dead segments beside the writer's loop: unlinking a large one takes longer than an append may."""

from __future__ import annotations

import logging
import threading

from . import format as fmt
from .catalog import SegmentInfo
from .files import Files, join

logger = logging.getLogger(__name__)


class Sweeper:
    """Unlinks in the background, oldest first.  What a crash leaves behind, the next start removes."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files, self._directory = files, directory
        self._thread: threading.Thread | None = None
        self._begun = False

    def remove(self, dead: list[SegmentInfo]) -> None:
        """The manifest no longer lists these segments: their files may go.  Readers that map one keep it.

        The first call, at the writer's start, takes away what a crash has left without a segment, too.
        """
        strays = [] if self._begun else self._find_strays()
        self._begun = True
        if not dead and not strays:
            return
        work = (dead, strays, self._thread)
        self._thread = threading.Thread(target=self._sweep, args=work, name="raftlog-sweep", daemon=True)
        self._thread.start()

    def _find_strays(self) -> list[str]:
        try:
            return strays(self._files.list_dir(self._directory))
        except OSError as error:
            logger.warning("%s could not be looked through for leftovers: %s", self._directory, error)
            return []

    def _sweep(self, dead: list[SegmentInfo], strays: list[str], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # the order of removals is the order of the log
        try:
            for name in strays:
                self._files.unlink(join(self._directory, name))
            for info in dead:
                remove_segment(self._files, self._directory, info.segment_id)
            self._files.sync_dir(self._directory)
        except OSError as error:
            logger.warning("files of purged or replaced segments stay until the next start: %s", error)

    def close(self) -> None:
        """Wait for what is under way."""
        if self._thread is not None:
            self._thread.join()


def remove_segment(files: Files, directory: str, segment_id: int) -> None:
    """Unlink what stands beside a segment, then the segment: as long as it is there, the next start finds it."""
    for name in (fmt.index_name(segment_id), fmt.terms_name(segment_id), fmt.segment_name(segment_id)):
        files.unlink(join(directory, name))


def strays(names: list[str]) -> list[str]:
    """Of the names in a log's directory those of caches without a segment, and of caches that were not finished.

    A power cut may keep the unlink of a segment and undo those of what stood beside it, whatever their order; and a
    crash between writing a cache and renaming it leaves the temporary file.  Nobody would ever look at either again.
    """
    caches = (fmt.index_name(0), fmt.terms_name(0))
    endings = tuple(name.partition(".")[2] for name in caches)
    segments = {name.partition(".")[0] for name in names if fmt.parse_segment_name(name) is not None}
    found = []
    for name in names:
        stem, _, ending = name.removesuffix(fmt.TEMPORARY_SUFFIX).partition(".")
        ours = ending in endings and fmt.parse_segment_name(f"{stem}.seg") is not None
        if ours and (stem not in segments or name.endswith(fmt.TEMPORARY_SUFFIX)):
            found.append(name)
    return found
