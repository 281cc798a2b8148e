"""What nobody need wait for: the next segment, made ahead of need, syncs, one of which would follow another, memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial

from . import processes, shm
from .files import Files, join
from .index import ActiveIndex

PREFAULT_BYTES = 256 * 1024  # at once: some 0.2 ms


def _start(work: Callable[[], None], name: str) -> list[threading.Thread]:
    """Do it in a thread; at once, where the system has none to give."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    try:
        thread.start()
    except RuntimeError:
        work()
        return []
    return [thread]


class Together:
    """Steps that need not wait for each other: one after the other at once, or each in a thread of its own."""

    def __init__(self, steps: Sequence[Callable[[], None]], *, threads: bool) -> None:
        self._errors: list[OSError] = []
        self._threads: list[threading.Thread] = []
        for step in steps:
            if threads:
                self._threads += _start(partial(self._run, step), "raftlog-roll")
            else:
                step()

    def _run(self, step: Callable[[], None]) -> None:
        try:
            step()
        except OSError as error:
            self._errors.append(error)

    def end(self) -> None:
        """Until every step has ended, well or not."""
        for thread in self._threads:
            thread.join()

    def wait(self) -> None:
        """As :meth:`end`; raises the first error."""
        self.end()
        if self._errors:
            raise self._errors[0]


class Prefault:
    """Has the kernel find memory for a mapping before anybody needs it, step by step, in a thread of its own.

    Without it the first turn of a ring met a stall of 34 ms each 10 MiB (ext4, 2 virtual cores): nobody was answered.
    """

    def __init__(self, mapping: shm.Mapping) -> None:
        self._mapping, self._stopped = mapping, threading.Event()
        self._thread: threading.Thread | None = threading.Thread(target=self._run, name="raftlog-prefault", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the system has none to give; in this one it would take longer than it saves
            self._thread = None

    def _run(self) -> None:
        processes.yield_to_others()
        for offset in range(0, self._mapping.length, PREFAULT_BYTES):
            length = min(PREFAULT_BYTES, self._mapping.length - offset)
            if self._stopped.is_set() or not self._mapping.prefault(offset, length):
                return

    def close(self) -> None:
        """Stop, before the mapping is closed."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()


class Preparation:
    """An empty segment file: its space reserved, file and name durable.  :meth:`run` touches nothing else.

    The file has no header yet and the manifest does not list it; a crash leaves it to the next start, which knows by
    its number that it was never used.
    """

    def __init__(
        self, files: Files, directory: str, name: str, file_bytes: int, folder: str, index_name: str, index_slots: int
    ) -> None:
        self.path, self.file_bytes, self.index_slots = join(directory, name), file_bytes, index_slots
        self._folder, self._index_path = folder, join(folder, index_name)
        self.fd: int | None = None
        self.index: ActiveIndex | None = None
        self.error: OSError | None = None
        self._files, self._directory = files, directory
        self._done = threading.Event()

    def start(self, bell: Callable[[], None]) -> None:
        """Do it in a thread of its own; ``bell()`` is called there at the end."""

        def run() -> None:
            self.run()
            bell()

        _start(run, "raftlog-prepare")

    def run(self) -> None:
        """Do it; an error is kept for whoever takes the result."""
        try:
            self._files.unlink(self.path)  # of an attempt that failed
            self.fd = self._files.open(self.path, write=True, create=True, exclusive=True)
            self._files.preallocate(self.fd, self.file_bytes)
            self._files.sync_all(self.fd)
            self._files.sync_dir(self._directory)
            shm.make_folder(self._folder)  # again, should somebody have wiped it under us
            self.index = ActiveIndex(self._index_path, 0, self.index_slots)
        except OSError as error:
            self.error = error
            self._remove()
        finally:
            self._done.set()

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self._done.is_set()

    def wait(self) -> None:
        """Until there is a result."""
        self._done.wait()

    def take(self, base_index: int) -> tuple[int, ActiveIndex]:
        """The file's descriptor and the index, which are the caller's from now on."""
        assert self.fd is not None and self.index is not None
        fd, index = self.fd, self.index
        self.fd = self.index = None
        index.base_index = base_index
        return fd, index

    def discard(self) -> None:
        """Nobody needs it: remove what is there."""
        self.wait()
        self._remove()

    def _remove(self) -> None:
        if self.index is not None:
            self.index.close()
            self.index = None
        if self.fd is not None:
            self._files.close(self.fd)
            self.fd = None
            self._files.unlink(self.path)
