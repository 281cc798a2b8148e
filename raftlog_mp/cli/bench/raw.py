"""The raw limits: what this machine's disk, socket and memory give without any log."""

from __future__ import annotations

import contextlib
import mmap
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from ... import shm, wakeup
from ...files import Files, join
from ...types import Entry
from .clients import Clients
from .limits import ENTRY_BYTES, RECORD_BYTES, Limit
from .stores import OPEN_SECONDS
from .worker import ECHO_BYTES, SPIN_PATIENCE, SPIN_STOP, percentiles

FILE_BYTES = 64 << 20
SMALL_FILE_BYTES = 8 << 20
CHUNK_BYTES = 1 << 20
LOOKUPS = 2000  # random places between two looks at the clock
PAGE_BYTES = 4096


def rate_of(step: Callable[[], object], count: int, seconds: float) -> float:
    """How many a second, if each ``step`` does ``count``: steps for ``seconds``."""
    clock, done, start = time.perf_counter, 0, time.perf_counter()
    while (spent := clock() - start) < seconds or not done:
        step()
        done += count
    return done / spent if spent > 0 else done / (clock() - start)


class Limits:
    """Measures each limit on demand, in ``folder``.  Close it to give files, socket and processes back."""

    def __init__(self, folder: str, seconds: float, *, small: bool) -> None:
        self._files, self._seconds, self._folder = Files(), seconds, folder
        self._bytes = SMALL_FILE_BYTES if small else FILE_BYTES
        self._entries = 3_000 if small else 100_000
        self._clients = Clients()
        self._stack = contextlib.ExitStack()
        self._stack.callback(self._clients.close)
        self._mapped: mmap.mmap | None = None
        self.percentiles: list[float] = []  # of the last latency that was measured, in microseconds

    def measure(self, limit: Limit) -> float:
        """Events a second, or microseconds (median)."""
        self.percentiles = []
        found: float = getattr(self, f"_{limit.kind}")(limit)
        return found

    def close(self) -> None:
        """Give everything back."""
        self._stack.close()

    # ------------------------------------------------------------ disk
    def _disk(self, limit: Limit) -> float:
        """Records a second, each write followed by fdatasync.

        As a log writes: every byte to space that was reserved before and never written.  Rewriting the same blocks
        would be faster, but no log that keeps its entries can do it.
        """
        data = os.urandom(limit.record_bytes) * limit.count
        return self._appends(lambda fd, at: self._files.pwrite(fd, data, at), limit, sync=True)

    def _writev(self, limit: Limit) -> float:
        """Records a second, written from pieces in one call, and nothing synced."""
        pieces = [os.urandom(limit.record_bytes)] * limit.count
        return self._appends(lambda fd, at: os.pwritev(fd, pieces, at), limit, sync=False)

    def _appends(self, write: Callable[[int, int], object], limit: Limit, *, sync: bool) -> float:
        files, clock, length = self._files, time.perf_counter, limit.record_bytes * limit.count
        path, written, spent, times = join(self._folder, "raw"), 0, 0.0, []
        while spent < self._seconds:
            fd = files.open(path, write=True, create=True)
            files.preallocate(fd, self._bytes)
            files.sync_all(fd)
            at, start = 0, clock()
            before = start
            while spent + before - start < self._seconds and at + length <= self._bytes:
                write(fd, at)
                if sync:
                    files.sync(fd)
                at += length
                written += limit.count
                after = clock()
                times.append(after - before)
                before = after
            spent += before - start
            files.close(fd)
            files.unlink(path)
        self.percentiles = percentiles(times)
        return written / spent

    # ------------------------------------------------------------ other processes
    def _socket(self, _: Limit) -> float:
        """Median microseconds from sending a message to another process to having its answer."""
        listener = wakeup.listen(self._folder)
        with listener:
            self._clients.need(1)
            self._clients.tell(0, do="echo", directory=self._folder)
            poller = wakeup.Poller()
            poller.add(listener.fileno(), listener)
            arrived = poller.wait(OPEN_SECONDS)
            poller.close()
            if not arrived:
                raise TimeoutError("the echo process did not connect")
            peer = listener.accept()[0]
        with peer:
            peer.setblocking(True)
            message = bytes(ECHO_BYTES)

            def trip() -> None:
                peer.send(message)
                peer.recv(ECHO_BYTES)

            found = self._trips(trip)
        self._clients.answer(0)
        wakeup.unlink_socket(self._folder)
        return found

    def _spin(self, _: Limit) -> float:
        """Median microseconds from storing a word to seeing another process's answer, both spinning."""
        path = join(self._folder, "words")
        words = shm.create_file(path, PAGE_BYTES)
        ask, reply, number = words.cell(0), words.cell(64), 0
        self._clients.need(1)
        self._clients.tell(0, do="spin", path=path)

        def trip() -> None:
            nonlocal number
            number += 1
            ask.store(number, shm.RELEASE)
            for _ in range(SPIN_PATIENCE):
                if reply.load(shm.ACQUIRE) == number:
                    return
            wakeup.pause(0)  # the other side has no core now

        end = wakeup.now() + OPEN_SECONDS
        while reply.load(shm.ACQUIRE) != 1:  # until it is there
            if wakeup.now() > end:
                raise TimeoutError("the spinning process did not start")
            number = 0
            trip()
        found = self._trips(trip)
        ask.store(SPIN_STOP, shm.RELEASE)
        self._clients.answer(0)
        words.close()
        shm.remove(path)
        return found

    def _trips(self, trip: Callable[[], None]) -> float:
        clock = time.perf_counter
        times: list[float] = []
        start = before = clock()
        while before - start < self._seconds or len(times) < 2:
            trip()
            after = clock()
            times.append(after - before)
            before = after
        self.percentiles = percentiles(times)
        return statistics.median(times) * 1e6

    def _process(self, _: Limit) -> float:
        """Microseconds from starting a Python process that imports what a writer imports to its end."""
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "import raftlog_mp.writer"], check=True)
        return (time.perf_counter() - start) * 1e6

    # ------------------------------------------------------------ memory
    def _map(self) -> mmap.mmap:
        if self._mapped is None:
            fd = self._files.open(join(self._folder, "mapped"), write=True, create=True)
            self._stack.callback(self._files.close, fd)
            for at in range(0, self._bytes, CHUNK_BYTES):
                self._files.pwrite(fd, bytes(CHUNK_BYTES), at)
            self._mapped = self._files.map(fd, self._bytes, populate=True)
            self._stack.callback(self._mapped.close)
        return self._mapped

    def _mapping(self, _: Limit) -> float:
        """Mean microseconds to copy one entry's bytes from a random place of a mapped file."""
        mapping, chosen = self._map(), random.Random(1)
        places = [chosen.randrange(self._bytes - ENTRY_BYTES) for _ in range(LOOKUPS)]

        def copies() -> None:
            for at in places:
                mapping[at : at + ENTRY_BYTES]

        return 1e6 / rate_of(copies, LOOKUPS, self._seconds)

    def _memcpy(self, _: Limit) -> float:
        """Records a second that can be copied out of a mapped file, a large chunk at a time."""
        mapping = self._map()

        def copies() -> None:
            for at in range(0, self._bytes, CHUNK_BYTES):
                mapping[at : at + CHUNK_BYTES]

        return rate_of(copies, self._bytes // RECORD_BYTES, self._seconds)

    def _dict(self, _: Limit) -> float:
        """Random look-ups a second in a plain dict of as many entries as are read elsewhere."""
        payload = bytes(ENTRY_BYTES)
        entries = {index: Entry(1, index, payload) for index in range(1, self._entries + 1)}
        get, chosen = entries.get, random.Random(1).choices(range(1, self._entries + 1), k=LOOKUPS)
        return rate_of(lambda: [get(index) for index in chosen], LOOKUPS, self._seconds)
