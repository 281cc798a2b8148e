"""Whose time it is: who computes how much of each entry that a client pipelines, and what a range read consists of.

    python benchmarks/busy.py [--small] [--rounds 5] [--seconds 1] [--dir FOLDER]

Pipelined: one client submits and takes its answers, 256 submissions under way, as the bench does.  Beside the time that
passes for an entry stands the processor time that each thread took of it, as the kernel counts it, and how often memory
was touched for the first time (minor page faults).  A thread whose time is all that passes is what bounds the rate.

First touch: what a MiB costs that is written into a file piece by piece, where no page cache holds it, and again.

Range: entries of their own records out of the ring, read(1000 entries), beside its parts by themselves.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

import psutil

import raftlog_mp as rl
from raftlog_mp import chunk
from raftlog_mp import format as fmt

ENTRY_BYTES, IN_FLIGHT, RANGE = 256, 256, 1000
CASES = (("mem_first", 1), ("mem_first", 100), ("disk_first", 100), ("disk_first", 1000))  # strategy, entries a batch
COLUMNS = ("passes", "client", "of it system", "writer", "of it system", "helpers", "of it system")


# ---------------------------------------------------------------- pipelined
def submit_for(log: rl.Log, seconds: float, batch: int) -> int:
    """How many entries were acknowledged in about ``seconds``."""
    payloads = [random.Random(number).randbytes(ENTRY_BYTES) for number in range(1000)]
    groups = [payloads[at : at + batch] for at in range(0, len(payloads), batch)]
    waiting: deque[rl.Ticket[range]] = deque()
    sent, until = 0, time.perf_counter() + seconds
    while time.perf_counter() < until:
        waiting.append(log.submit(groups[sent % len(groups)]))
        sent += 1
        while waiting and (len(waiting) >= IN_FLIGHT or waiting[0].done()):
            waiting.popleft().result()
    while waiting:
        waiting.popleft().result()
    return sent * batch


def faults_of(pid: int) -> int:
    """Minor page faults of a process so far."""
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[7])


def clocks(writer_pid: int) -> list[float]:
    """What has passed, and the time of this thread, the writer's main thread and its others, each with system time."""
    own = resource.getrusage(resource.RUSAGE_THREAD)
    found = [time.perf_counter(), own.ru_utime + own.ru_stime, own.ru_stime, 0.0, 0.0, 0.0, 0.0]
    for thread in psutil.Process(writer_pid).threads():
        at = 3 if thread.id == writer_pid else 5
        found[at] += thread.user_time + thread.system_time
        found[at + 1] += thread.system_time
    return found


def pipelined(directory: Path, strategy: str, batch: int, seconds: float) -> list[float]:
    """Microseconds for each entry, and the page faults of client and writer for a thousand."""
    config = rl.LogConfig(strategy=rl.PersistenceStrategy(strategy))
    with rl.start_writer(directory, config) as writer, rl.open_log(directory) as log:
        submit_for(log, seconds / 4, batch)
        before, faults = clocks(writer.pid), [faults_of(pid) for pid in (os.getpid(), writer.pid)]
        entries = submit_for(log, seconds, batch)
        after, more = clocks(writer.pid), [faults_of(pid) for pid in (os.getpid(), writer.pid)]
    spent = [(end - start) / entries * 1e6 for start, end in zip(before, after, strict=True)]
    return spent + [(end - start) / entries * 1e3 for start, end in zip(faults, more, strict=True)]


# ---------------------------------------------------------------- first touch
def touch(path: Path, total_bytes: int, piece_bytes: int) -> tuple[float, float]:
    """Milliseconds a MiB of a new file, and of the same file again."""
    piece, found = os.urandom(piece_bytes), []
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        os.posix_fallocate(fd, 0, total_bytes)
        for _ in range(2):
            start = time.perf_counter()
            for offset in range(0, total_bytes - piece_bytes + 1, piece_bytes):
                os.pwrite(fd, piece, offset)
            found.append((time.perf_counter() - start) * 1e3 / (total_bytes / (1 << 20)))
    finally:
        os.close(fd)
        path.unlink()
    return found[0], found[1]


# ---------------------------------------------------------------- range
def us_each(step: Callable[[], object], times: int = 200) -> float:
    """Median microseconds of ``step()`` for each of ``RANGE`` entries."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        step()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1e6 / RANGE


def parts_of_a_range(directory: Path) -> dict[str, float]:
    """Nanoseconds an entry: the whole, and its parts by themselves."""
    with rl.start_writer(directory), rl.open_log(directory) as log:
        tickets = [log.submit([random.Random(number).randbytes(ENTRY_BYTES)]) for number in range(2 * RANGE)]
        first = tickets[RANGE].result()[0]
        tickets[-1].result()
        chunks: list[tuple[bytes, int, int, int]] = []

        def noted(data: bytes, position: int, index: int, limit: int, *, prove: bool) -> tuple[list[rl.Entry], int]:
            chunks.append((data, position, index, limit))
            return chunk.entries_in(data, position, index, limit, prove=prove)

        reader, entries = log._reader, list(log.read(first, first + RANGE))
        assert [entry for part in reader.parts(first, first + RANGE, noted) for entry in part] == entries
        assert len(entries) == RANGE
        columns, _ = fmt.like_records(chunk.ALIKE, ENTRY_BYTES)
        step = chunk.ALIKE * (fmt.RECORD_BYTES + ENTRY_BYTES)
        terms, indexes, payloads = zip(*((one.term, one.index, one.payload) for one in entries), strict=True)

        def copy() -> None:
            for data, position, _, _ in chunks:
                reader._ring.copy(position, position + len(data))

        def decode() -> None:
            for data, position, index, limit in chunks:
                chunk.entries_in(data, position, index, limit, prove=False)

        def unpack() -> None:
            for data, _, _, _ in chunks:
                for at in range(0, len(data) - step + 1, step):
                    columns.unpack_from(data, at)

        return {
            "read()": us_each(lambda: list(log.read(first, first + RANGE))), "copy out of the ring": us_each(copy),
            "check and decode": us_each(decode), "of it: unpack, payloads copied": us_each(unpack),
            "of it: build the entries": us_each(lambda: list(map(rl.Entry, terms, indexes, payloads))),
        }  # fmt: skip


def show(folder: Path, rounds: int, seconds: float, piece_mib: int) -> None:
    """Measure and print everything."""
    found: dict[tuple[str, int], list[list[float]]] = {case: [] for case in CASES}
    for number in range(rounds):
        for strategy, batch in CASES if number % 2 == 0 else CASES[::-1]:
            place = folder / f"{strategy}-{batch}-{number}"
            found[strategy, batch].append(pipelined(place, strategy, batch, seconds))
    print("pipelined, us an entry " + "".join(f"{name:>14}" for name in COLUMNS) + "   faults for 1000: client  writer")
    for (strategy, batch), several in found.items():
        middle = [statistics.median(column) for column in zip(*several, strict=True)]
        print(f"{strategy + ', ' + str(batch):23}" + "".join(f"{us:14.2f}" for us in middle[:7])
              + f"{middle[7]:26.1f}{middle[8]:8.1f}")  # fmt: skip
    touched = [touch(folder / "touched", piece_mib << 20, 100 * (ENTRY_BYTES + 88)) for _ in range(rounds)]
    fresh, again = (statistics.median(column) for column in zip(*touched, strict=True))
    print(f"\nwriting a MiB into a file: {fresh:.2f} ms where it is new, {again:.2f} ms again")
    ranges = [parts_of_a_range(folder / f"range-{number}") for number in range(rounds)]
    print("\nrange of singles, ns an entry")
    for name in ranges[0]:
        print(f"{name:32}{statistics.median(one[name] for one in ranges) * 1e3:8.0f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="short: shows that it runs, no figures to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each pipelined measurement")
    parser.add_argument("--dir", default=None, help="where the logs go (a folder that is removed afterwards)")
    options = parser.parse_args()
    rounds, seconds, mib = (1, 0.05, 2) if options.small else (options.rounds, options.seconds, 64)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        show(Path(name), rounds, seconds, mib)


if __name__ == "__main__":
    main()
