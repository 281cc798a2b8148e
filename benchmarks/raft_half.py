"""Figures of the Raft half: four ratios, each within one run.

    python benchmarks/raft_half.py [--small] [--json]

append_entries without a conflict beside append_many; a conflict in a long log beside one in a short log; term_of
beside get; and the writer's time for a purge of half of the log.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import raftlog_mp as rl

PAYLOAD = bytes(256)
BATCH = 100
MEM_FIRST = rl.LogConfig(strategy="mem_first", flush_policy=rl.Batch())


def median_ratio(pairs: list[tuple[float, float]]) -> dict[str, float]:
    """Median, least and largest of first over second."""
    ratios = sorted(one / other for one, other in pairs)
    return {"ratio": statistics.median(ratios), "min": ratios[0], "max": ratios[-1]}


def seconds_of(step: Any) -> float:
    """How long ``step()`` takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def fill(log: rl.Log, entries: int, size: int = 256) -> None:
    """Entries of term 1, in pipelined batches."""
    payload, tickets = bytes(size), []
    for _ in range(entries // BATCH):
        tickets.append(log.submit([payload] * BATCH, term=1))
        if len(tickets) > 64:
            tickets.pop(0).result()
    for ticket in tickets:
        ticket.result()
    log.flush()


def no_conflict(folder: Path, rounds: int) -> list[tuple[float, float]]:
    """AppendEntries of 100 entries that all go to the end, beside append_many of the same."""
    pairs = []
    with rl.start_writer(folder, MEM_FIRST), rl.open_log(folder) as log:
        for _ in range(rounds):
            ours, plain = 0.0, 0.0
            for _ in range(20):
                prev = log.last_log_id
                entries = [rl.Entry(1, prev.index + 1 + k, PAYLOAD) for k in range(BATCH)]
                ours += seconds_of(lambda p=prev, e=entries: log.append_entries(p, e, leader_term=1))
                plain += seconds_of(lambda: log.append_many([PAYLOAD] * BATCH, term=1))
            pairs.append((ours, plain))
    return pairs


def conflict(folder: Path, long: int, short: int, rounds: int) -> list[tuple[float, float]]:
    """Replacing the last 10 entries of a long log, beside the same in a short one."""
    pairs, term = [], 1
    config = rl.LogConfig(max_entry_bytes=1 << 16)
    with (
        rl.start_writer(folder / "long", config), rl.start_writer(folder / "short", config),
        rl.open_log(folder / "long") as one, rl.open_log(folder / "short") as other,
    ):  # fmt: skip
        fill(one, long, 64)
        fill(other, short, 64)
        for _ in range(rounds):
            term += 1
            spent = []
            for log in (one, other):
                last = log.last_index
                prev = rl.LogId(log.term_of(last - 10) or 0, last - 10)
                entries = [rl.Entry(term, prev.index + 1 + k, PAYLOAD) for k in range(10)]
                spent.append(seconds_of(lambda h=log, p=prev, e=entries, t=term: h.append_entries(p, e, leader_term=t)))
            pairs.append((spent[0], spent[1]))
    return pairs


def look_ups(folder: Path, entries: int, rounds: int) -> list[tuple[float, float]]:
    """term_of of random indexes beside get of the same, in a log of many terms."""
    pairs = []
    with rl.start_writer(folder), rl.open_log(folder) as log:
        for term in range(1, entries // BATCH + 1):
            log.submit([PAYLOAD] * BATCH, term=term)
        log.flush()
        chosen = random.Random(1).choices(range(1, entries + 1), k=5000)
        for _ in range(rounds):
            pairs.append((seconds_of(lambda: [log.term_of(i) for i in chosen]),
                          seconds_of(lambda: [log.get(i) for i in chosen])))  # fmt: skip
    return pairs


def purge(folder: Path, total_bytes: int) -> dict[str, float]:
    """How long a purge of half of the log takes, and the longest append of another handle meanwhile."""
    with (
        rl.start_writer(folder, MEM_FIRST),
        rl.open_log(folder) as log, rl.open_log(folder) as other,
    ):  # fmt: skip
        entries = total_bytes // 4096 // BATCH * BATCH
        fill(log, entries, 4096)
        stop, times = threading.Event(), []

        def appender() -> None:
            while not stop.is_set():
                times.append(seconds_of(lambda: other.append(b"x", term=1)))

        thread = threading.Thread(target=appender)
        thread.start()
        spent = seconds_of(lambda: log.purge_to(entries // 2))
        stop.set()
        thread.join()
    return {"purge_ms": spent * 1e3, "longest_append_ms": max(times, default=0.0) * 1e3, "bytes": total_bytes}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="few entries: shows that it runs, no figures to quote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", default=None, help="where the logs go (a folder that is removed afterwards)")
    options = parser.parse_args()
    small, rounds = options.small, 3 if options.small else 15
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        result: dict[str, Any] = {
            "append_entries / append_many": median_ratio(no_conflict(folder / "a", rounds)),
            "conflict, long / short log": median_ratio(
                conflict(folder / "b", 10_000 if small else 1_000_000, 1000, rounds)
            ),
            "term_of / get": median_ratio(look_ups(folder / "c", 2000 if small else 100_000, rounds)),
            "purge of half": purge(folder / "d", (16 if small else 1024) << 20),
        }
    if options.json:
        print(json.dumps(result))
        return
    for what, figures in result.items():
        print(f"{what:30}", "  ".join(f"{key} {value:,.2f}" for key, value in figures.items()))


if __name__ == "__main__":
    main()
