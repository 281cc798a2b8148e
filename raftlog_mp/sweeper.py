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

    def remove(self, dead: list[SegmentInfo]) -> None:
        """The manifest no longer lists these segments: their files may go.  Readers that map one keep it."""
        if not dead:
            return
        before = self._thread
        self._thread = threading.Thread(target=self._sweep, args=(dead, before), name="raftlog-sweep", daemon=True)
        self._thread.start()

    def _sweep(self, dead: list[SegmentInfo], before: threading.Thread | None) -> None:
        if before is not None:
            before.join()  # the order of removals is the order of the log
        try:
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
