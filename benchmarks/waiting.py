"""How waiting is done, measured: the GIL switch interval, the helper thread, giving way, and looking at all.

    python benchmarks/waiting.py [--small] [--json] [--rounds 5]

Four figures, each a ratio within one run:

* ``switch interval``: time of an fsync in a helper thread beside a main thread that works in Python, with the
  interpreter's default of 5 ms and with the writer's 0.1 ms, over the same fsync without any other thread.
* ``helper thread``: time of an fsync that is handed to the helper thread and waited for, over one done inline.
* ``giving way``: work done by a process whose core is shared with one that looks and gives way, and with one that only
  looks, over the work done alone.
* ``looking``: p50 of appends one at a time with looking (``spin_us=50``) over without (``spin_us=0``), by clients.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import raftlog_mp as rl
from raftlog_mp.writer import SWITCH_INTERVAL_SECONDS

DEFAULT_INTERVAL_SECONDS = 0.005  # the interpreter's
RECORD = bytes(344)
HOG = "import time\nn, end = 0, time.monotonic() + {0}\nwhile time.monotonic() < end: n += 1\nprint(n)"
GIVES_WAY = "import os, time\nend = time.monotonic() + {0}\nwhile time.monotonic() < end: os.sched_yield()"
LOOKS = "import time\nend = time.monotonic() + {0}\nwhile time.monotonic() < end: pass"
CLIENT = """
import sys, time, raftlog_mp as rl
taken = []
with rl.open_log(sys.argv[1], create=False, autostart=False) as log:
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + float(sys.argv[2])
    while (began := time.monotonic()) < end:
        log.append(bytes(256))
        taken.append(time.monotonic() - began)
taken.sort()
print(taken[len(taken) // 2])
"""
Pairs = dict[str, list[float]]


def p90(step: Callable[[], Any], count: int) -> float:
    """The 90th percentile of the seconds that a step takes."""
    taken = []
    for _ in range(count):
        began = time.perf_counter()
        step()
        taken.append(time.perf_counter() - began)
    return sorted(taken)[count * 9 // 10]


class Helper:
    """A thread that does what it is handed, as the writer's does."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[tuple[Callable[[], Any], threading.Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            job[0]()
            job[1].set()

    def submit(self, step: Callable[[], Any]) -> threading.Event:
        """Hand over; the event is set when it is done."""
        done = threading.Event()
        self._jobs.put((step, done))
        return done

    def close(self) -> None:
        """End the thread."""
        self._jobs.put(None)
        self._thread.join()


def threads(folder: Path, count: int, found: Pairs) -> None:
    """Switch interval and helper thread."""
    fd = os.open(folder / "file", os.O_RDWR | os.O_CREAT)
    helper = Helper()
    try:
        os.pwrite(fd, bytes(1 << 20), 0)
        os.fsync(fd)

        def sync() -> None:
            os.pwrite(fd, RECORD, 0)
            os.fdatasync(fd)

        def beside_work() -> None:
            done = helper.submit(sync)
            while not done.is_set():  # the main thread serves clients meanwhile
                sum(range(50))

        inline = p90(sync, count)
        before = sys.getswitchinterval()
        for name, seconds in (("5 ms", DEFAULT_INTERVAL_SECONDS), ("writer's", SWITCH_INTERVAL_SECONDS)):
            sys.setswitchinterval(seconds)
            found.setdefault(f"switch interval: {name} / no other thread", []).append(p90(beside_work, count) / inline)
        waited = p90(lambda: helper.submit(sync).wait(), count)
        sys.setswitchinterval(before)
        found.setdefault("helper thread: handed over / inline", []).append(waited / inline)
    finally:
        helper.close()
        os.close(fd)


def giving_way(seconds: float, found: Pairs) -> None:
    """Work beside a process that looks, on one core."""
    core = {max(os.sched_getaffinity(0))}

    def work(beside: str | None) -> int:
        def pin() -> None:
            os.sched_setaffinity(0, core)

        others = [beside] if beside is not None else []
        looking = [
            subprocess.Popen([sys.executable, "-c", code.format(seconds + 0.5)], preexec_fn=pin) for code in others
        ]
        time.sleep(0.2 if beside else 0.0)
        code = [sys.executable, "-c", HOG.format(seconds)]
        done = int(subprocess.run(code, preexec_fn=pin, capture_output=True, text=True, check=True).stdout)
        for process in looking:
            process.wait()
        return done

    alone, gives_way, looks = work(None), work(GIVES_WAY), work(LOOKS)
    found.setdefault("giving way: work beside one that gives way / alone", []).append(gives_way / alone)
    found.setdefault("giving way: work beside one that only looks / alone", []).append(looks / alone)


def looking(folder: Path, strategy: str, count: int, seconds: float, found: Pairs) -> None:
    """The same clients with looking and without."""
    medians = {}
    for spin_us in (50.0, 0.0):
        path = folder / f"{strategy}-{count}-{spin_us:.0f}"
        config = rl.LogConfig(
            strategy=strategy,  # type: ignore[arg-type]  # its value, as text
            spin_us=spin_us, scrub_bytes_per_s=0, ring_bytes=8 << 20,
        )  # fmt: skip
        with contextlib.ExitStack() as stack:
            stack.enter_context(rl.start_writer(path, config))
            clients = [
                subprocess.Popen(
                    [sys.executable, "-c", CLIENT, str(path), str(seconds)], stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE, text=True,
                )
                for _ in range(count)
            ]  # fmt: skip
            for process in clients:
                assert process.stdout is not None and process.stdout.readline() == "ready\n"
            for process in clients:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
            medians[spin_us] = statistics.median(float(process.communicate()[0]) for process in clients)
    name = f"looking: {strategy}, {count} client{'s' if count > 1 else ''}, p50 with / without"
    found.setdefault(name, []).append(medians[50.0] / medians[0.0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a short run that shows only that everything works")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", default=None, help="where the logs are made")
    options = parser.parse_args()
    count, seconds, cases = 300, 0.5, [(strategy, n) for strategy in ("disk_first", "mem_first") for n in (1, 8)]
    if options.small:
        count, seconds, cases = 30, 0.05, [("mem_first", 1)]
    found: Pairs = {}
    for _ in range(1 if options.small else options.rounds):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            threads(Path(folder), count, found)
            giving_way(seconds, found)
            for strategy, clients in cases:
                looking(Path(folder), strategy, clients, seconds, found)
    result = {
        name: {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}
        for name, ratios in found.items()
    }
    if options.json:
        print(json.dumps(result))
        return
    for name, one in result.items():
        print(f"{name:>60}  {one['median']:6.2f} ({one['min']:.2f}-{one['max']:.2f})")


if __name__ == "__main__":
    main()
