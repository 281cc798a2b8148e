"""What the scrubber costs appends: the same appends with and without it, in turns, against one log of sealed segments.

    python benchmarks/scrub_cost.py [--small] [--rounds 3] [--seconds 2] [--rates 0,1M,64M,1G]

The rates take turns, each second round backwards.  A figure is the median of the rounds; the ratio beside it is the
median of each round's ratio to its own first rate.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time

import raftlog_mp as rl

UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
PAYLOAD = b"x" * 256
OLD_ENTRIES = 60_000  # 344 bytes each in sealed segments: the worst case for a check in Python


def parse_rate(text: str) -> int:
    return int(text[:-1]) * UNITS[text[-1]] if text[-1] in UNITS else int(text)


def config(strategy: str, rate: int) -> rl.LogConfig:
    kind = rl.PersistenceStrategy(strategy)
    return rl.LogConfig(strategy=kind, scrub_bytes_per_s=rate, segment_bytes=8 << 20, ring_bytes=8 << 20)


def fill(path: str, strategy: str, entries: int) -> None:
    """A log of singles, the way pipelined appends leave them."""
    with rl.start_writer(path, config(strategy, 0)), rl.open_log(path) as log:
        tickets: list[rl.Ticket] = []
        for _ in range(entries):
            tickets.append(log.submit([PAYLOAD]))
            if len(tickets) == 512:
                tickets.pop().result()
                tickets.clear()
        log.flush()


def one_round(path: str, strategy: str, rate: int, seconds: float) -> tuple[float, float, float, float]:
    """p50 and p99 of appends one at a time in microseconds, pipelined appends a second, scrubbed MiB a second."""
    with rl.start_writer(path, config(strategy, rate)), rl.open_log(path) as log:
        for _ in range(200):
            log.append(PAYLOAD)
        took, began, before = [], time.perf_counter(), log.stats().scrubbed_bytes
        while time.perf_counter() - began < seconds:
            at = time.perf_counter()
            log.append(PAYLOAD)
            took.append(time.perf_counter() - at)
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            tickets = [log.submit([PAYLOAD]) for _ in range(256)]
            tickets[-1].result()
            count += len(tickets)
        end = time.perf_counter()
        scrubbed = (log.stats().scrubbed_bytes - before) / (end - began) / (1 << 20)
    took.sort()
    return took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6, count / (end - start), scrubbed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--rates", default="0,1M,64M,1G")
    parser.add_argument("--small", action="store_true", help="a short run: that it works, not what it says")
    options = parser.parse_args()
    entries = OLD_ENTRIES
    if options.small:
        entries, options.rounds, options.seconds = 600, 1, 0.05
    rates = [parse_rate(text) for text in options.rates.split(",")]
    for strategy in ("disk_first", "mem_first"):
        with tempfile.TemporaryDirectory() as folder:
            fill(f"{folder}/log", strategy, entries)
            found: dict[int, list[tuple[float, float, float, float]]] = {rate: [] for rate in rates}
            for number in range(options.rounds):
                for rate in rates if number % 2 else reversed(rates):
                    found[rate].append(one_round(f"{folder}/log", strategy, rate, options.seconds))
        print(f"{strategy}: rate, p50 us (ratio), p99 us (ratio), pipelined/s (ratio), scrubbed MiB/s")
        for rate in rates:
            p50, p99, speed, scrubbed = (statistics.median(column) for column in zip(*found[rate], strict=True))
            pairs = list(zip(found[rate], found[rates[0]], strict=True))
            r50, r99, rspeed = (statistics.median(one[at] / base[at] for one, base in pairs) for at in range(3))
            waits = f"{p50:8.0f} ({r50:.2f}) {p99:8.0f} ({r99:.2f})"
            print(f"  {rate:>11} {waits} {speed:9.0f} ({rspeed:.2f}) {scrubbed:8.1f}", flush=True)


if __name__ == "__main__":
    main()
