"""An append of a polite client beside flooding ones, and what the machine alone makes of a wait in that crowd.

    python benchmarks/crowded.py [--small] [--rounds 3] [--seconds 4] [--fsync-ms 50] [--ring-mib 64] [--dir FOLDER]

Four processes pipeline entries of 1 KiB into a MemFirst log whose fsyncs are made slow.  Meanwhile, 50 times a second:

* *append*: a client of that log appends one entry and waits for its answer;
* *echo*: a process sends 1 KiB over a unix socket to another one, which sends it back; the log has no part in it;
* *sleep*: a process sleeps for 20 ms; counted is by how much it is late.

The same three alone, before.  What an echo or a sleep loses in the crowd no log can give back: it waited for a core.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import raftlog_mp as rl
from raftlog_mp import files, writer

PRODUCERS, IN_FLIGHT, PAYLOAD, PAUSE_SECONDS = 4, 512, bytes(1024), 0.02
POLITE = ("append", "echo", "sleep")


# ---------------------------------------------------------------- processes
def serve(directory: str, fsync_ms: float, ring_mib: int) -> None:
    """The writer, on a disk that is slower by so much."""
    sync = files.Files.sync

    def slow(self: files.Files, fd: int) -> None:
        time.sleep(fsync_ms / 1000)
        sync(self, fd)

    files.Files.sync = slow  # type: ignore[method-assign]  # a slower disk
    config = rl.LogConfig(strategy=rl.PersistenceStrategy.MEM_FIRST, ring_bytes=ring_mib << 20)
    writer.serve(directory, config, linger=False, interrupt=True, on_ready=lambda _: say("ready"))


def flood(log: rl.Log, until: float) -> int:
    """As many entries as it takes; how many."""
    waiting: deque[rl.Ticket[range]] = deque()
    sent = 0
    while time.monotonic() < until:
        waiting.append(log.submit([PAYLOAD]))
        sent += 1
        if len(waiting) >= IN_FLIGHT:
            for _ in range(IN_FLIGHT // 2):
                waiting.popleft().result()
    for ticket in waiting:
        ticket.result()
    return sent


def politely(step: Callable[[], float], until: float) -> list[float]:
    """What ``step()`` returns, again and again."""
    found = []
    while time.monotonic() < until:
        found.append(step())
        time.sleep(PAUSE_SECONDS)
    return found


def timed(step: Callable[[], object]) -> float:
    start = time.monotonic()
    step()
    return time.monotonic() - start


def echo() -> Callable[[], float]:
    """A step that waits for another process's answer over a socket."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    if os.fork() == 0:
        here.close()
        while data := there.recv(2 * len(PAYLOAD)):
            there.sendall(data)
        os._exit(0)
    there.close()

    def step() -> None:
        here.sendall(PAYLOAD)
        here.recv(2 * len(PAYLOAD))

    return lambda: timed(step)


def act(role: str, directory: str, seconds: float) -> None:
    """A process of the crowd, or a polite one: says that it is there, and begins when it is told to."""
    with rl.open_log(directory, autostart=False, timeout=60.0) as log:
        steps = {
            "append": lambda: timed(lambda: log.append(PAYLOAD)),
            "sleep": lambda: timed(lambda: time.sleep(PAUSE_SECONDS)) - PAUSE_SECONDS,
        }  # fmt: skip
        step = echo() if role == "echo" else steps.get(role)
        say("ready")
        sys.stdin.readline()
        until = time.monotonic() + seconds
        say(json.dumps(flood(log, until) if step is None else politely(step, until)))


def say(text: str) -> None:
    print(text, flush=True)


# ---------------------------------------------------------------- measuring
def start(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(Path(__file__).resolve()), "--role", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    if hear(process) != "ready":
        raise SystemExit(f"{arguments[0]} did not start; what it says stands above")
    return process


def hear(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def crowd(directory: Path, producers: int, seconds: float) -> tuple[dict[str, list[float]], float]:
    """What each of the polite ones found, sorted, in ms; and the entries a second of the others."""
    everybody = [start(role, directory, seconds) for role in (*POLITE, *["flood"] * producers)]
    for process in everybody:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [json.loads(hear(process)) for process in everybody]
    for process in everybody:
        process.communicate()
    found = {role: sorted(one * 1e3 for one in took) for role, took in zip(POLITE, said, strict=False)}
    return found, sum(said[len(POLITE) :]) / seconds


def one_round(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Alone, then among those who flood."""
    serving = start("serve", folder / "log", options.fsync_ms, options.ring_mib)
    try:
        alone, _ = crowd(folder / "log", 0, options.seconds)
        among, rate = crowd(folder / "log", PRODUCERS, options.seconds)
    finally:
        serving.terminate()
        serving.communicate()
    return {"alone": alone, "among": among, "rate": rate}


def quantile(values: list[float], share: float) -> float:
    return values[min(len(values) - 1, int(len(values) * share))]


def show(rounds: list[dict[str, Any]]) -> None:
    """Medians of the rounds, with the least and the largest."""
    print(f"{'ms':8}" + "".join(f"{f'{when}, {name}':>24}" for when in ("alone", "among") for name in ("p50", "p99")))
    for role in POLITE:
        cells = []
        for when in ("alone", "among"):
            for share in (0.5, 0.99):
                values = [quantile(one[when][role], share) for one in rounds]
                cells.append(f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})")
        print(f"{role:8}" + "".join(f"{cell:>24}" for cell in cells))
    print(f"{statistics.median(one['rate'] for one in rounds):,.0f} entries a second of those who flood")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="short: shows that it runs, no figures to quote")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each half of a round")
    parser.add_argument("--fsync-ms", type=float, default=50.0, help="by how much each fsync is slower")
    parser.add_argument("--ring-mib", type=int, default=64)
    parser.add_argument("--dir", default=None, help="where the log goes (a folder that is removed afterwards)")
    parser.add_argument("--role", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, directory, *rest = options.role
        serve(directory, float(rest[0]), int(rest[1])) if role == "serve" else act(role, directory, float(rest[0]))
        return
    if options.small:
        options.rounds, options.seconds = 1, 0.2
    rounds = []
    for _ in range(options.rounds):
        with tempfile.TemporaryDirectory(dir=options.dir) as name:
            rounds.append(one_round(Path(name), options))
    show(rounds)


if __name__ == "__main__":
    main()
