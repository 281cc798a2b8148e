"""A client process of the bench: one JSON command a line on stdin, one JSON answer a line on stdout.

Not a command: the bench starts it as ``python -m raftlog_mp.cli.bench.worker NUMBER``.
"""

from __future__ import annotations

import json
import random
import statistics
import sys
import time
from collections import deque
from typing import Any

from ... import log_reader, shm, wakeup
from ...ticket import Ticket
from .limits import ENTRY_BYTES
from .stores import OPEN_SECONDS, Ours, Store, open_store

POOL = 1024  # distinct entries of a client; entry number k carries payload k % POOL
POOL_BYTES = 4 << 20  # large entries: fewer of them
IN_FLIGHT = 256  # submissions
SAMPLES = 64
ECHO_BYTES = 64
SPIN_STOP = 1 << 40  # a word that ends the spinning
SPIN_PATIENCE = 1_000_000  # looks in vain before the core is offered to the other side
SPIN_IDLE_MAX = 500  # times that it was offered before the other side is given up
GETS = 256  # random gets between two looks at the clock
STAMP_BYTES = 8
END = b"end of the measurement"


def pool_size(size: int) -> int:
    """How many distinct entries of ``size`` bytes a client has."""
    return min(POOL, max(16, POOL_BYTES // size))


def payload_of(client: int, number: int, size: int = ENTRY_BYTES) -> bytes:
    """What entry ``number`` of client ``client`` holds: random bytes that anybody can make again."""
    number %= pool_size(size)
    return random.Random(client << 32 | number).randbytes(size)


def percentiles(seconds: list[float]) -> list[float]:
    """The 1st to the 99th percentile, in microseconds."""
    times = seconds * 2 if len(seconds) == 1 else seconds
    return [at * 1e6 for at in statistics.quantiles(times, n=100, method="inclusive")]


class Worker:
    """Holds an open store between commands."""

    def __init__(self, client: int) -> None:
        self.client = client
        self.pools: dict[int, list[bytes]] = {}
        self.store: Store | None = None
        self.kept: list[Store | None] = []
        self.follower: Any = None

    def pool(self, size: int) -> list[bytes]:
        """This client's entries of that size."""
        if size not in self.pools:
            self.pools[size] = [payload_of(self.client, number, size) for number in range(pool_size(size))]
        return self.pools[size]

    def open(self, subject: str, directory: str, durable: bool = True, shared: bool = False) -> dict[str, Any]:
        """Open a store; ours is connected to the writer that runs."""
        self.close()
        if subject == "ours":
            self.store = Ours(directory, name=f"bench-{self.client}")
        else:
            self.store = open_store(subject, directory, durable=durable, shared=shared)
        return {}

    def keep(self) -> dict[str, Any]:
        """Leave the store open until this process ends."""
        self.kept.append(self.store)
        self.store = None
        return {}

    def close(self) -> dict[str, Any]:
        """Leave the store."""
        if self.store is not None:
            self.store.close()
            self.store = None
        return {}

    # ------------------------------------------------------------ appending
    def one(self, seconds: float, size: int, batch: int = 1) -> dict[str, Any]:
        """Append one entry after the other, each acknowledged before the next."""
        assert self.store is not None
        append, clock, pool = self.store.append, time.perf_counter, self.pool(size)
        indexes: list[int] = []
        times: list[float] = []
        turn = len(pool)
        start = before = clock()
        while before - start < seconds:
            indexes.append(append(pool[len(indexes) % turn]))
            after = clock()
            times.append(after - before)
            before = after
        answer = self._answer([range(i, i + 1) for i in indexes], 1, before - start, size, turn)
        return answer | {"percentiles": percentiles(times)}

    def batches(self, seconds: float, size: int, batch: int) -> dict[str, Any]:
        """Append batches, each acknowledged before the next."""
        assert self.store is not None
        append, clock, (groups, turn) = self.store.append_many, time.perf_counter, self._groups(size, batch)
        ranges: list[range] = []
        start = clock()
        while clock() - start < seconds:
            ranges.append(append(groups[len(ranges) % len(groups)]))
        return self._answer(ranges, batch, clock() - start, size, turn)

    def pipelined(self, seconds: float, size: int, batch: int) -> dict[str, Any]:
        """Submit batches without waiting for each; the time ends when the last one is acknowledged.

        Peers know no such thing: they get the same batches, one transaction each.
        """
        if not isinstance(self.store, Ours):
            return self.one(seconds, size) if batch == 1 else self.batches(seconds, size, batch)
        submit, clock, (groups, turn) = self.store.submit, time.perf_counter, self._groups(size, batch)
        waiting: deque[Ticket[range]] = deque()
        ranges: list[range] = []
        sent, start = 0, clock()
        while clock() - start < seconds:
            waiting.append(submit(groups[sent % len(groups)]))
            sent += 1
            while waiting and (len(waiting) >= IN_FLIGHT or waiting[0].done()):
                ranges.append(waiting.popleft().result(None))
        while waiting:
            ranges.append(waiting.popleft().result(None))
        return self._answer(ranges, batch, clock() - start, size, turn)

    def fill(self, count: int, batch: int, size: int) -> dict[str, Any]:
        """Append ``count`` entries, as fast as it goes; entry k has the payload number k."""
        store, pool = self.store, self.pool(size)
        assert store is not None
        waiting: deque[Ticket[range]] = deque()
        turn = len(pool)
        for at in range(0, count, batch):
            group = [pool[number % turn] for number in range(at, min(at + batch, count))]
            if not isinstance(store, Ours):
                store.append_many(group)
                continue
            waiting.append(store.submit(group))
            if len(waiting) >= IN_FLIGHT:
                waiting.popleft().result(None)
        while waiting:
            waiting.popleft().result(None)
        return {}

    def _groups(self, size: int, batch: int) -> tuple[list[list[bytes]], int]:
        """Batches out of whole turns of the pool, so that numbers and payloads agree; and the entries of a turn."""
        pool = self.pool(size)
        groups = [pool[at : at + batch] for at in range(0, len(pool) - batch + 1, batch)]
        return groups, len(groups) * batch

    def _answer(self, ranges: list[range], batch: int, seconds: float, size: int, turn: int) -> dict[str, Any]:
        """Counts, and a sample of ``(index, number)`` that tells which payload must stand at which index."""
        chosen = random.Random(len(ranges)).sample(range(len(ranges)), min(SAMPLES, len(ranges)))
        samples = [(ranges[at][0], at * batch % turn) for at in chosen] + [
            (ranges[-1][-1], (len(ranges) * batch - 1) % turn)
        ]
        return {
            "client": self.client, "entries": len(ranges) * batch, "seconds": seconds, "samples": samples, "size": size,
        }  # fmt: skip

    # ------------------------------------------------------------ reading
    def gets(self, seconds: float, count: int, size: int) -> dict[str, Any]:
        """Random gets among the first ``count`` entries, which client 0 has filled in."""
        assert self.store is not None
        get, clock = self.store.fresh_get, time.perf_counter
        chosen = random.Random(self.client).choices(range(count), k=GETS)
        done, start = 0, clock()
        while clock() - start < seconds:
            found = [get(number + 1) for number in chosen]
            done += GETS
        spent = clock() - start
        wrong = [
            number + 1 for number, entry in zip(chosen, found, strict=True)
            if entry is None or (entry.index, entry.payload) != (number + 1, payload_of(0, number, size))
        ]  # fmt: skip
        return {"client": self.client, "gets": done, "seconds": spent, "wrong": wrong, "compared": len(found)}

    # ------------------------------------------------------------ following
    def begin_follow(self, directory: str) -> dict[str, Any]:
        """Follow from the end of the log on."""
        reader = log_reader.open_reader(directory)
        first = reader.last_index + 1
        self.follower = (reader, first, reader.follow(first, timeout=OPEN_SECONDS))
        return {}

    def follow(self) -> dict[str, Any]:
        """Take entries until the last one; each carries the time at which its append was called."""
        reader, first, entries = self.follower
        clock, rest, wrong = time.monotonic_ns, self.pool(ENTRY_BYTES)[0][STAMP_BYTES:], 0
        delays: list[float] = []
        for expected, entry in enumerate(entries, first):
            now, payload = clock(), entry.payload
            if payload == END:
                break
            delays.append((now - int.from_bytes(payload[:STAMP_BYTES], "little")) / 1e9)
            wrong += payload[STAMP_BYTES:] != rest or entry.index != expected
        reader.close()
        return {"entries": len(delays), "wrong": wrong, "percentiles": percentiles(delays)}

    def stamps(self, seconds: float, pause: float, rest: int) -> dict[str, Any]:
        """Append entries that carry the time, ``pause`` seconds apart, padded as the client ``rest`` expects it."""
        assert self.store is not None
        append, clock, padding = self.store.append, time.monotonic_ns, payload_of(rest, 0)[STAMP_BYTES:]
        end, number = clock() + int(seconds * 1e9), 0
        while (now := clock()) < end:
            append(now.to_bytes(STAMP_BYTES, "little") + padding)
            number += 1
            if pause:
                time.sleep(pause)  # measured is the entry after an idle moment
        append(END)
        return {"entries": number}

    # ------------------------------------------------------------ the other end of raw limits
    def echo(self, directory: str) -> dict[str, Any]:
        """Answer every message on the socket in ``directory`` until the other side closes it."""
        with wakeup.connect(directory, OPEN_SECONDS) as peer:
            peer.settimeout(None)
            while message := peer.recv(ECHO_BYTES):
                peer.sendall(message)
        return {}

    def spin(self, path: str) -> dict[str, Any]:
        """Repeat every word of the shared file's first cell in its second, until it is the last one."""
        words = shm.open_file(path, writable=True)
        ask, reply = words.cell(0), words.cell(64)
        seen, vain, idle = 0, 0, 0
        while seen < SPIN_STOP:
            now = ask.load(shm.ACQUIRE)
            if now != seen:
                reply.store(now, shm.RELEASE)
                seen, vain, idle = now, 0, 0
                continue
            vain += 1
            if vain == SPIN_PATIENCE:
                vain, idle = 0, idle + 1
                wakeup.pause(0)  # the other side may need this core
                if idle == SPIN_IDLE_MAX:
                    raise TimeoutError("the other side has stopped spinning")
        words.close()
        return {}


def main() -> int:
    """Obey until stdin ends."""
    worker = Worker(int(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(worker, command.pop("do"))(**command)
        except Exception as error:  # the bench tells it, and ends
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    worker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
