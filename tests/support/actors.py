"""Processes of the crash tests: clients and followers that write down what happened to them.

Run as ``python actors.py client DIR FILE NAME SEED COUNT``, ``python actors.py follower DIR FILE STOP_PAYLOAD`` or
``python actors.py observer DIR FILE TIMELINE_SEED OPERATIONS SEED``.  Each line of FILE is one JSON list, written with
a single O_APPEND write: it survives a kill of the process.

    ["sent", number, [payload, ...]]     before a batch is submitted
    ["acked", number, first index]       its outcome
    ["refused", number, error]           surely not appended
    ["seen", [[term, index, payload], ...]]
    ["at", state, observations, how many of them showed a newer state]
    ["violation", sentence]
    ["done"]
"""

from __future__ import annotations

import json
import os
import random
import sys
from collections import deque

import raftlog_mp as rl

sys.path.append(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support.timeline import Observer, make_timeline  # noqa: E402  (found through the line above)

PIPELINE = 32
FOLLOW_CHUNK = 64
OBSERVE_CHUNK = 20


class Diary:
    """An append-only file of JSON lines."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def write(self, *row: object) -> None:
        os.write(self._fd, json.dumps(row).encode() + b"\n")


def client(directory: str, diary: Diary, name: str, seed: int, count: int) -> None:
    """Send ``count`` batches: single appends, append_many and pipelined submits, mixed by ``seed``."""
    chance = random.Random(seed)
    number = 0
    with rl.open_log(directory, timeout=100.0, name=name) as log:
        flying: deque[tuple[int, rl.Ticket]] = deque()

        def settle(limit: int) -> None:
            while len(flying) > limit:
                earlier, ticket = flying.popleft()
                diary.write("acked", earlier, ticket.result(timeout=100.0).start)

        while number < count:
            mode = chance.choice(("append", "append_many", "submit", "submit", "submit"))
            for _ in range(chance.randrange(1, 20)):
                size = 1 if mode == "append" else chance.choice((1, 2, 5, 30))
                padding = "x" * chance.choice((0, 0, 10, 200, 900))
                payloads = [f"{name}-{number}-{part}-{padding}" for part in range(size)]
                diary.write("sent", number, payloads)
                encoded = [payload.encode() for payload in payloads]
                if mode == "submit":
                    flying.append((number, log.submit(encoded)))
                    settle(PIPELINE)
                else:
                    settle(0)
                    first = log.append(encoded[0]) if mode == "append" else log.append_many(encoded).start
                    diary.write("acked", number, first)
                number += 1
            if mode == "submit":
                settle(PIPELINE // 2)
        settle(0)
    diary.write("done")


def follower(directory: str, diary: Diary, stop_payload: str) -> None:
    """Follow from the first entry until ``stop_payload`` comes by."""
    chunk: list[list[object]] = []
    with rl.open_reader(directory) as reader:
        for entry in reader.follow(1):
            chunk.append([entry.term, entry.index, entry.payload.decode()])
            last = entry.payload.decode() == stop_payload
            if last or len(chunk) >= FOLLOW_CHUNK or entry.index >= reader.last_index:
                diary.write("seen", chunk)
                chunk = []
            if last:
                break
    diary.write("done")


def observer(directory: str, diary: Diary, timeline_seed: int, operations: int, seed: int) -> None:
    """Look at the log in every way, again and again, until the last state of the timeline has come by."""
    line = make_timeline(timeline_seed, operations)
    with rl.open_reader(directory) as reader:
        watcher = Observer(reader, line, seed)
        try:
            while not watcher.ended:
                for _ in range(OBSERVE_CHUNK):
                    watcher.step()
                watcher.ends()
                diary.write("at", watcher.now, watcher.calls, watcher.steps)
        except Exception as error:  # a Violation, or an error that no reader should see
            diary.write("violation", f"at state {watcher.now}: {type(error).__name__}: {error}")
    diary.write("done")


def main(role: str, directory: str, path: str, *rest: str) -> None:
    """Play one role."""
    diary = Diary(path)
    if role == "client":
        client(directory, diary, rest[0], int(rest[1]), int(rest[2]))
    elif role == "observer":
        observer(directory, diary, int(rest[0]), int(rest[1]), int(rest[2]))
    else:
        follower(directory, diary, rest[0])


if __name__ == "__main__":
    main(*sys.argv[1:])
