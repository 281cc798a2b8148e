"""One flush as a job, and the helper thread that runs it while the writer's main thread goes on (MemFirst)."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

from . import wakeup
from .segment import SegmentWriter


class FlushJob:
    """Write ring bytes ``[start, end)`` to the segment and sync it.  Runs in any thread; touches nothing else."""

    def __init__(self, segment: SegmentWriter, start: int, pieces: list[Any], end: int, last_index: int) -> None:
        self.segment, self.start, self.pieces = segment, start, pieces
        # What the sync will cover is fixed here, before it is issued: later bytes are not in it.
        self.end, self.last_index = end, last_index
        self.error: OSError | None = None
        self.seconds = 0.0
        self.before_sync: Callable[[], None] | None = None  # called when all is written; raises nothing
        self.finished: threading.Event | None = None  # set by the helper thread, if one runs it
        self.crash: BaseException | None = None  # no error of the disk: for the main thread to end with

    def run(self) -> None:
        """Do it; an error is kept for the main thread."""
        began = wakeup.now()
        try:
            self.segment.write(self.start, self.pieces)
            if self.before_sync is not None:
                paused = wakeup.now()
                self.before_sync()
                began += wakeup.now() - paused  # no time of the disk's: policies count on that
            self.segment.sync()
        except OSError as error:
            self.error = error
        finally:
            self._let_go()
        self.seconds = wakeup.now() - began
        if self.finished is not None:
            self.finished.set()

    def wait(self) -> None:
        """Until it is done, if another thread runs it.  Raises what ended it there, but for errors of the disk."""
        if self.finished is not None:
            self.finished.wait()
        if self.crash is not None:
            raise self.crash

    def _let_go(self) -> None:
        for piece in self.pieces:
            if type(piece) is memoryview:  # of the ring, which could not be unmapped else
                piece.release()


class Syncer:
    """Runs one flush job at a time; ``event`` wakes the main thread when it is done."""

    def __init__(self) -> None:
        self.event = wakeup.Event()
        self._jobs: queue.SimpleQueue[FlushJob | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raftlog-sync", daemon=True)
        self._thread.start()

    def submit(self, job: FlushJob) -> None:
        """Hand a job over.  ``job.finished`` is set, and the event rings, when it is done."""
        job.finished = threading.Event()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job.run()
            except BaseException as error:  # a thread that ended silently would leave everybody waiting
                job.crash = error
                if job.finished is not None:
                    job.finished.set()
            self.event.set()

    def close(self) -> None:
        """End the thread and wait for it."""
        self._jobs.put(None)
        self._thread.join()
        self.event.close()
