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

from ... import log, wakeup
from ...client import Ticket
from .cases import ENTRY_BYTES

POOL = 4096  # distinct entries of a client; entry number k carries payload k % POOL
IN_FLIGHT = 256  # submissions
SAMPLES = 64
ECHO_BYTES = 64
OPEN_SECONDS = 30.0


def payload_of(client: int, number: int) -> bytes:
    """What entry ``number`` of client ``client`` holds: random bytes that anybody can make again."""
    number %= POOL
    return random.Random(client << 32 | number).randbytes(ENTRY_BYTES)


class Worker:
    """Holds the open log between commands."""

    def __init__(self, client: int) -> None:
        self.client = client
        self.pool = [payload_of(client, number) for number in range(POOL)]
        self.handle: log.Log | None = None

    def open(self, directory: str) -> dict[str, Any]:
        """Connect to the writer that runs."""
        self.close()
        self.handle = log.open_log(
            directory, create=False, autostart=False, timeout=OPEN_SECONDS, name=f"bench-{self.client}"
        )
        return {}

    def close(self) -> dict[str, Any]:
        """Leave the log."""
        if self.handle is not None:
            self.handle.close()
            self.handle = None
        return {}

    def one(self, seconds: float) -> dict[str, Any]:
        """Append one entry after the other, each acknowledged before the next."""
        assert self.handle is not None
        append, clock, pool = self.handle.append, time.perf_counter, self.pool
        indexes: list[int] = []
        times: list[float] = []
        start = before = clock()
        while before - start < seconds:
            indexes.append(append(pool[len(indexes) % POOL]))
            after = clock()
            times.append(after - before)
            before = after
        return self._answer([range(i, i + 1) for i in indexes], 1, before - start) | {
            "p50_us": statistics.median(times) * 1e6
        }

    def pipelined(self, seconds: float, batch: int) -> dict[str, Any]:
        """Submit batches without waiting for each; the time ends when the last one is acknowledged."""
        assert self.handle is not None
        submit, clock = self.handle.submit, time.perf_counter
        groups = [[self.pool[(at + k) % POOL] for k in range(batch)] for at in range(0, POOL, batch)]
        if batch > 1:
            groups = groups[
                : POOL // batch
            ]  # whole turns of the pool only, so that numbers and payloads agree
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
        return self._answer(ranges, batch, clock() - start)

    def _answer(self, ranges: list[range], batch: int, seconds: float) -> dict[str, Any]:
        """Counts, and a sample of ``(index, number)`` that tells which payload must stand at which index."""
        turn = POOL // batch * batch
        chosen = random.Random(len(ranges)).sample(range(len(ranges)), min(SAMPLES, len(ranges)))
        samples = [(ranges[at][0], at * batch % turn) for at in chosen] + [
            (ranges[-1][-1], (len(ranges) * batch - 1) % turn)
        ]
        return {
            "client": self.client, "entries": len(ranges) * batch, "seconds": seconds, "samples": samples,
            "first": ranges[0][0], "last": ranges[-1][-1],
        }  # fmt: skip

    def echo(self, directory: str) -> dict[str, Any]:
        """Answer every message on the socket in ``directory`` until the other side closes it."""
        with wakeup.connect(directory, OPEN_SECONDS) as peer:
            peer.settimeout(None)
            while message := peer.recv(ECHO_BYTES):
                peer.sendall(message)
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
