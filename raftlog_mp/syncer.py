"""The helper thread that syncs while the writer's main thread goes on (MemFirst)."""

from __future__ import annotations

import queue
import threading

from .journal import FlushJob
from .wakeup import Event


class Syncer:
    """Runs one flush job at a time; ``event`` wakes the main thread when it is done."""

    def __init__(self) -> None:
        self.event = Event()
        self._jobs: queue.SimpleQueue[FlushJob | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="raftlog-sync", daemon=True)
        self._thread.start()

    def submit(self, job: FlushJob) -> None:
        """Hand a job over.  ``job.finished`` is set, and the event rings, when it is done."""
        job.finished = threading.Event()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run()
            self.event.set()

    def close(self) -> None:
        """End the thread and wait for it."""
        self._jobs.put(None)
        self._thread.join()
        self.event.close()
