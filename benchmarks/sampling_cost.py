"""What looking at memory costs the writer: processor time of a reading, as a share of the time between two of them.

    python benchmarks/sampling_cost.py [--small] [--rounds 7] [--readings 300] [--json]

A reading is what the writer's main loop takes each ``PressureConfig.sample_ms`` while anybody is connected: control
groups, the host's memory, stalls (PSI) and its own size.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import raftlog_mp as rl
from raftlog_mp.memory import MemoryProbe


def microseconds_of_a_reading(probe: MemoryProbe, readings: int) -> float:
    """Processor time of this thread for one reading, the mean of ``readings``."""
    start = time.thread_time()
    for _ in range(readings):
        probe.read()
    return (time.thread_time() - start) / readings * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a few readings: that it runs, not what it says")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--readings", type=int, default=300, help="in a round")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if options.small:
        options.rounds, options.readings = 3, 20
    probe, sample_ms = MemoryProbe("/"), rl.PressureConfig().sample_ms
    probe.read()
    costs = sorted(microseconds_of_a_reading(probe, options.readings) for _ in range(options.rounds))
    shares = [cost / (sample_ms * 1000) for cost in costs]
    result = {
        "reading_us": statistics.median(costs), "reading_us_min": costs[0], "reading_us_max": costs[-1],
        "sample_ms": sample_ms, "share_of_a_core": statistics.median(shares), "share_max": shares[-1],
        "source": probe.read().source,
    }  # fmt: skip
    if options.json:
        print(json.dumps(result))
        return
    print(
        f"a reading ({result['source']}): {result['reading_us']:.0f} us of processor time "
        f"({costs[0]:.0f} .. {costs[-1]:.0f}), "
        f"each {sample_ms} ms\n"
        f"share of a core: {result['share_of_a_core']:.3%} "
        f"({shares[0]:.3%} .. {shares[-1]:.3%}); wanted: under 0.5 %"
    )


if __name__ == "__main__":
    main()
