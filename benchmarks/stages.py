"""Where the time of an append goes: processor time of each stage of the pipeline, per batch and per entry.

    python benchmarks/stages.py [--small] [--json]

One process plays client and writer in turns, so that no wake-up, no other process and no disk is in the figures: the
syncs are left out.  What a real append takes beyond the sum is waiting: for the disk, for a core, for a wake-up.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import raftlog_mp as rl
from raftlog_mp import straight_round
from raftlog_mp.client import Client
from raftlog_mp.files import Files
from raftlog_mp.index import ActiveIndex
from raftlog_mp.intake import Intake
from raftlog_mp.lane import LaneConsumer, LaneProducer
from raftlog_mp.link import Link
from raftlog_mp.pipeline import Pipeline
from raftlog_mp.producers import Producers
from raftlog_mp.ring import RingWriter
from raftlog_mp.segment import SegmentWriter
from raftlog_mp.writer import Writer

STAGES: dict[str, list[tuple[type, tuple[str, ...]]]] = {
    "client: check, pack, checksum, bell": [(Client, ("submit",)), (Link, ("ring_writer",))],  # and Client.submit_one
    "client: into the lane": [(Client, ("put",)), (LaneProducer, ("put",))],
    "writer: copy out of the lane": [(LaneConsumer, ("copy",))],
    "writer: check and decide": [
        (Intake, ("drain", "_take", "_take_one", "_take_singles", "_execute", "_append", "_refusal")),
    ],
    "writer: records and table": [(Pipeline, ("append", "append_singles")), (Producers, ("record", "record_singles"))],
    "writer: ring and index": [(Pipeline, ("copy_to_ring",)), (RingWriter, ("write",)), (ActiveIndex, ("write",))],
    "writer: segment file": [(SegmentWriter, ("write",))],
    "writer: publish": [(Pipeline, ("publish", "_tell_durable"))],
    "writer: answer": [(LaneConsumer, ("complete",))],
    "writer: the loop around": [(Writer, ("_commit", "_go_straight"))],
    "client: take the answer": [(Client, ("poll", "_reap"))],
}
# The round for lanes that hold one entry (straight_round.py): functions that are made once a writer.  Its records are
# made where its entries are checked, and what is nobody else's part is publishing.
MADE = {"_taker": "writer: check and decide", "_answerer": "writer: answer", "_durable_round": "writer: publish",
        "_memory_round": "writer: publish"}  # fmt: skip
SHAPES = ((1, 1), (1, 64), (10, 16), (100, 8), (1000, 2))  # entries in a batch, batches in a round
ENTRY_BYTES = 256


class Stopwatch:
    """Self time of wrapped functions: what they call, if that is wrapped too, counts there."""

    def __init__(self) -> None:
        self.spent: dict[str, int] = {}
        self._inner = [0]
        self._restore: list[tuple[Any, str, Any]] = []
        self.cost = 0  # nanoseconds of a wrapper itself, measured on one around nothing

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Count ``owner.name`` to ``label`` from now on."""
        original: Callable[..., Any] = getattr(owner, name)
        inner, spent, clock, cost = self._inner, self.spent, time.perf_counter_ns, self.cost

        def timed(*args: Any, **kwargs: Any) -> Any:
            inner.append(0)
            start = clock()
            try:
                return original(*args, **kwargs)
            finally:
                took = clock() - start
                spent[label] = spent.get(label, 0) + took - inner.pop()
                inner[-1] += took + cost

        self._restore.append((owner, name, original))
        setattr(owner, name, timed)

    def wrap_made(self, owner: Any, name: str, label: str) -> None:
        """Count what ``owner.name`` returns, a function made for each connection or writer, to ``label``."""
        factory = getattr(owner, name)

        class Holder:
            made: Any

        def make(*args: Any, **kwargs: Any) -> Any:
            Holder.made = staticmethod(factory(*args, **kwargs))
            self.wrap(Holder, "made", label)
            self._restore.pop()  # it goes with the one it was made for
            return Holder.made

        self._restore.append((owner, name, factory))
        setattr(owner, name, make)

    def calibrate(self) -> None:
        """Find out what a wrapper adds to the function around it."""

        class Nothing:
            def outer(self) -> None:
                for _ in range(2000):
                    self.inner()

            def inner(self) -> None:
                pass

        nothing, costs = Nothing(), []
        self.wrap(Nothing, "outer", "outer")
        self.wrap(Nothing, "inner", "inner")
        for _ in range(20):
            self.spent.clear()
            nothing.outer()
            costs.append(self.spent["outer"] // 2000)
        self.spent.clear()
        self.close()
        self.cost = min(costs)

    def close(self) -> None:
        """Put everything back."""
        for owner, name, original in reversed(self._restore):
            setattr(owner, name, original)
        self._restore.clear()


class NoSync(Files):
    """Files whose syncs cost nothing: the disk is not what is measured here."""

    def sync(self, fd: int) -> None:
        """Nothing."""


def connected(folder: str, strategy: str) -> tuple[Writer, rl.Log]:
    """A writer and a client of it in this process; from here on the writer runs when it is called."""
    policy = rl.Immediate() if strategy == "disk_first" else rl.Batch(threshold=10**9, interval_ms=60_000)
    config = rl.LogConfig(strategy=strategy, flush_policy=policy, ring_bytes=8 << 20)  # type: ignore[arg-type]  # its value
    writer, done = Writer(folder, config, linger=False, files=NoSync()), threading.Event()

    def greet() -> None:
        while not done.is_set():
            writer.sessions.handle(writer.sessions.poller.wait(0.02))

    thread = threading.Thread(target=greet)
    thread.start()
    log = rl.open_log(folder, create=False, autostart=False)
    done.set()
    thread.join()
    return writer, log


def one_round(writer: Writer, log: rl.Log, payloads: list[bytes], batches: int) -> None:
    """Submit, serve, take the answers."""
    tickets = [log.submit(payloads) for _ in range(batches)]
    while not tickets[-1].done():
        if not writer._go_straight():
            writer._commit(writer._intake.drain())
    for ticket in tickets:
        ticket.result(0)


def measure(strategy: str, entries: int, batches: int, rounds: int) -> dict[str, float]:
    """Nanoseconds of each stage for one batch: the least of several medians, as noise only adds."""
    watch = Stopwatch()
    watch.calibrate()
    payloads, found = [bytes([n % 256]) * ENTRY_BYTES for n in range(entries)], list[dict[str, float]]()
    with tempfile.TemporaryDirectory(prefix="raftlog-stages-") as folder:
        for name, label in MADE.items():
            watch.wrap_made(straight_round, name, label)
        for label, methods in STAGES.items():
            for owner, names in methods:
                for name in names:
                    watch.wrap(owner, name, label)
        writer, log = connected(folder, strategy)
        watch.wrap(log._client, "submit_one", next(iter(STAGES)))  # made for each connection, not a method
        try:
            for _ in range(rounds):
                watch.spent.clear()
                one_round(writer, log, payloads, batches)
                found.append({label: watch.spent.get(label, 0) / batches for label in STAGES})
                writer.journal.flush()  # MemFirst: makes room; its time is not counted
        finally:
            watch.close()
            log.close()
            writer._shut_down()
    third = max(len(found) // 3, 1)
    groups = [found[at : at + third] for at in range(0, third * 3, third) if found[at : at + third]]
    return {
        label: max(min(statistics.median(each[label] for each in group) for group in groups), 0.0)
        for label in STAGES
    }


def show(results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Tables for people."""
    for strategy, shapes in results.items():
        print(f"\n{strategy}, {ENTRY_BYTES}-byte entries: microseconds for one batch (last line: ns for one entry)\n")
        print(f"{'':36}" + "".join(f"{shape:>14}" for shape in shapes))
        for label in STAGES:
            print(f"{label:36}" + "".join(f"{stages[label] / 1000:14.2f}" for stages in shapes.values()))
        sums = {shape: sum(stages.values()) for shape, stages in shapes.items()}
        print(f"{'all stages':36}" + "".join(f"{total / 1000:14.2f}" for total in sums.values()))
        each = [total / int(shape.split()[0]) for shape, total in sums.items()]
        print(f"{'ns an entry':36}" + "".join(f"{total:14.0f}" for total in each))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a few rounds: that it runs, not what it says")
    parser.add_argument("--json", action="store_true", help="nanoseconds for one batch, by strategy, shape and stage")
    options = parser.parse_args()
    results: dict[str, dict[str, dict[str, float]]] = {}
    for strategy in ("disk_first", "mem_first"):
        results[strategy] = {}
        for entries, batches in SHAPES:
            rounds = 3 if options.small else max(100, 6000 // (entries * batches) * 10)  # several turns of the ring
            shape = f"{entries} x {batches}"
            results[strategy][shape] = measure(strategy, entries, batches, rounds)
    if options.json:
        print(json.dumps(results))
    else:
        show(results)


if __name__ == "__main__":
    main()
