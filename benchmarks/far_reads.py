"""What a random get from segment files costs as the log grows, and how much of that the machine takes by itself.

    python benchmarks/far_reads.py [--small] [--rounds 5] [--sizes 10000,1000000,10000000] [--dir FOLDER]

Everything that a get reads is written down once: which bytes of which file.  Then, in turns and over the same entries:
the gets; the same ``pread`` calls by themselves; the same calls and a checksum of what they brought, which has to touch
it.  What the last of these grows by, no reader that copies its records out of the page cache and proves them can avoid.

The column *near* is the largest log again, but all gets are among as many neighbours in its middle as the smallest log
has entries: what costs more there than in the smallest log is the log's size, and the rest is that gets lie far apart.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from crc32c import crc32c

import raftlog_mp as rl

Call = tuple[int, int, int]  # descriptor, bytes, offset
PAYLOAD, BATCH = os.urandom(256), 10  # as in the bench's growth cases
GETS, GETS_SMALL, TIMED = 20_000, 1_000, 20  # gets of one measurement, and how many are timed together
STEPS = ("get", "its preads", "preads and checksum")


def fill(directory: Path, count: int) -> None:
    """A log of ``count`` entries, stopped cleanly."""
    with rl.start_writer(directory), rl.open_log(directory) as log:
        for _ in range(count // BATCH):
            log.submit([PAYLOAD] * BATCH)
        log.flush()


def calls_of(reader: rl.LogReader, indexes: list[int]) -> list[list[Call]]:
    """The ``pread`` calls of each get."""
    found: list[list[Call]] = []
    real = os.pread

    def noted(fd: int, length: int, offset: int) -> bytes:
        found[-1].append((fd, length, offset))
        return real(fd, length, offset)

    os.pread = noted
    try:
        for index in indexes:
            found.append([])
            entry = reader.get(index)
            assert entry is not None and entry.index == index and entry.payload == PAYLOAD
    finally:
        os.pread = real
    return found


def us_each(step: Callable[[int], object], count: int) -> float:
    """Median time of ``step(number)``, some timed together."""
    clock, times = time.perf_counter, []
    for at in range(0, count, TIMED):
        start = clock()
        for number in range(at, at + TIMED):
            step(number)
        times.append(clock() - start)
    return statistics.median(times) / TIMED * 1e6


class Log:
    """One log, open for reading without a writer; gets are ``among`` these entries."""

    def __init__(self, directory: Path, among: range, gets: int) -> None:
        self.reader = rl.open_reader(directory)
        self.indexes = random.Random(len(among)).choices(among, k=gets)
        for index in self.indexes:
            self.reader.get(index)  # cached before anything is timed
        self.calls = calls_of(self.reader, self.indexes)

    def round(self) -> dict[str, float]:
        """Each step once."""
        get, pread, indexes, calls = self.reader.get, os.pread, self.indexes, self.calls

        def preads(number: int) -> None:
            for fd, length, offset in calls[number]:
                pread(fd, length, offset)

        def proved(number: int) -> None:
            for fd, length, offset in calls[number]:
                crc32c(pread(fd, length, offset))

        steps: tuple[Callable[[int], object], ...] = (lambda number: get(indexes[number]), preads, proved)
        return {name: us_each(step, len(indexes)) for name, step in zip(STEPS, steps, strict=True)}


def measure(folder: Path, sizes: list[int], rounds: int, gets: int) -> dict[str, dict[str, float]]:
    """Medians for each size, and how many calls and bytes a get takes."""
    logs = {}
    for size in sizes:
        fill(folder / str(size), size)
        logs[f"{size:,}"] = Log(folder / str(size), range(1, size + 1), gets)
    middle = (sizes[-1] - sizes[0]) // 2
    logs["near"] = Log(folder / str(sizes[-1]), range(middle + 1, middle + sizes[0] + 1), gets)
    found: dict[str, dict[str, list[float]]] = {title: {name: [] for name in STEPS} for title in logs}
    for number in range(rounds):
        for title in list(logs)[:: -1 if number % 2 else 1]:
            for name, us in logs[title].round().items():
                found[title][name].append(us)
    table = {}
    for title, log in logs.items():
        table[title] = {name: statistics.median(times) for name, times in found[title].items()}
        every = [call for calls in log.calls for call in calls]
        table[title] |= {"calls": len(every) / gets, "bytes": sum(length for _, length, _ in every) / gets}
        log.reader.close()
    return table


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="few entries: shows that it runs, no figures to quote")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", default="10000,1000000,10000000", help="entries of the logs, the smallest first")
    parser.add_argument("--dir", default=None, help="where the logs go (a folder that is removed afterwards)")
    options = parser.parse_args()
    sizes = [1_000, 5_000] if options.small else [int(size) for size in options.sizes.split(",")]
    rounds, gets = (1, GETS_SMALL) if options.small else (options.rounds, GETS)
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        table = measure(Path(name), sizes, rounds, gets)
    first, largest = table[f"{sizes[0]:,}"], table[f"{sizes[-1]:,}"]
    print(f"{'us, median':20}", *(f"{title:>12}" for title in table), "   the largest : the smallest")
    for row in STEPS:
        ratio = f"   {largest[row] / first[row]:.2f}"
        print(f"{row:20}", *(f"{column[row]:12.2f}" for column in table.values()), ratio)
    for row in ("calls", "bytes"):
        print(f"{row + ' a get':20}", *(f"{column[row]:12,.2f}" for column in table.values()))


if __name__ == "__main__":
    main()
