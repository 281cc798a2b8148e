"""The raw limits: what this machine's disk, socket and memory give without any log."""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING

from ... import wakeup
from ...files import Files, join
from .cases import ENTRY_BYTES, RECORD_BYTES
from .worker import ECHO_BYTES, OPEN_SECONDS

if TYPE_CHECKING:
    from .rounds import Clients

FILE_BYTES = 64 << 20
SMALL_FILE_BYTES = 8 << 20
FILL_BYTES = 1 << 20


class Limits:
    """Measures each limit on demand, in ``folder``.  Close it to give file and socket back."""

    def __init__(self, folder: str, clients: Clients, seconds: float, *, small: bool) -> None:
        self._files, self._seconds = Files(), seconds
        self._bytes = SMALL_FILE_BYTES if small else FILE_BYTES
        self._folder = folder
        self._fd = self._files.open(join(folder, "mapped"), write=True, create=True)
        for at in range(0, self._bytes, FILL_BYTES):
            self._files.pwrite(self._fd, bytes(FILL_BYTES), at)
        self._map = self._files.map(self._fd, self._bytes, populate=True)
        listener = wakeup.listen(folder)
        with listener:
            self._echo = clients.begin_echo(folder)
            poller = wakeup.Poller()
            poller.add(listener.fileno(), listener)
            arrived = poller.wait(OPEN_SECONDS)
            poller.close()
            if not arrived:
                raise TimeoutError("the echo process did not connect")
            self._peer = listener.accept()[0]
        self._peer.setblocking(True)

    def measure(self, name: str) -> float:
        """The limit called ``name``: events a second, or microseconds (median)."""
        if name == "disk_one":
            return self._disk(1)
        if name == "disk_1000":
            return self._disk(1000)
        return self._socket() if name == "socket" else self._mapping()

    def _disk(self, batch: int) -> float:
        """Records a second, each write followed by fdatasync.

        As a log writes: every byte to space that was reserved before and never written.  Rewriting the same blocks
        would be faster, but no log that keeps its entries can do it.
        """
        files, clock, data = self._files, time.perf_counter, bytes(range(256)) * (RECORD_BYTES * batch // 256 + 1)
        data = data[: RECORD_BYTES * batch]
        path, written, spent = join(self._folder, "raw"), 0, 0.0
        while spent < self._seconds:
            fd = files.open(path, write=True, create=True)
            files.preallocate(fd, self._bytes)
            files.sync_all(fd)
            at, start = 0, clock()
            while spent + clock() - start < self._seconds and at + len(data) <= self._bytes:
                files.pwrite(fd, data, at)
                files.sync(fd)
                at += len(data)
                written += batch
            spent += clock() - start
            files.close(fd)
            files.unlink(path)
        return written / spent

    def _socket(self) -> float:
        """Median microseconds from sending a message to another process to having its answer."""
        peer, message, clock, times = self._peer, bytes(ECHO_BYTES), time.perf_counter, []
        start = before = clock()
        while before - start < self._seconds:
            peer.send(message)
            peer.recv(ECHO_BYTES)
            after = clock()
            times.append(after - before)
            before = after
        return statistics.median(times) * 1e6

    def _mapping(self) -> float:
        """Mean microseconds to copy one entry's bytes from a random place of a mapped file."""
        mapping, step = self._map, ENTRY_BYTES
        places = [random.Random(1).randrange(self._bytes - step) for _ in range(4096)]
        copied, start = 0, time.perf_counter()
        while time.perf_counter() - start < self._seconds:
            for at in places:
                mapping[at : at + step]
            copied += len(places)
        return (time.perf_counter() - start) / copied * 1e6

    def close(self) -> None:
        """Close file, mapping and socket; the echo process goes back to its commands."""
        self._peer.close()
        self._echo()
        self._map.close()
        self._files.close(self._fd)
