"""What is measured, against which raw limit and which peers, and what is to be reached: one table, as data."""

from __future__ import annotations

from dataclasses import dataclass

from .limits import ENTRY_BYTES, KIB, LIMITS

GROUPS = {  # in the order in which they are run and shown
    "durable": "durable (DiskFirst)",
    "sizes": "durable, other entry sizes",
    "memory": "in memory (MemFirst)",
    "reads": "reads",
    "follow": "append to follower",
    "mixed": "4 writers and 4 readers",
    "open": "open",
    "growth": "growth",
}
RAW, BEST = "raw", "best peer"


@dataclass(frozen=True, slots=True)
class Target:
    """What a case is to reach: ours over ``against``, or ours itself if that is empty."""

    against: str  # RAW, BEST, the name of a peer, "fsyncs", or ""
    bound: float
    at_most: bool = False

    def reached(self, value: float) -> bool:
        """Whether ``value`` is good enough."""
        return value <= self.bound if self.at_most else value >= self.bound


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement.

    ``prototype`` is the range of ratios to the limit that a 150-line prototype reached: the figures of its own
    notes divided by the limits measured in the same minutes (12.8k fdatasyncs/s, 4.4M entries/s, 16 us).
    """

    name: str
    what: str
    group: str
    kind: str  # how it is run: a method of its group, or of the client process
    limit: str
    unit: str = "rate"  # rate: higher is better; us, bytes: lower is better
    strategy: str = "disk_first"
    clients: int = 1
    batch: int = 1
    size: int = ENTRY_BYTES
    entries: int = 0  # that the log holds
    spin: bool = True  # whether clients look before they sleep; False: spin_us=0
    peers: str = "all"  # all, shared (those that several processes can append to), or empty
    targets: tuple[Target, ...] = ()
    prototype: tuple[float, float] | None = None
    full: bool = False  # only with --full

    @property
    def higher(self) -> bool:
        """Whether more is better."""
        return self.unit == "rate"

    def reached(self, ratio: float) -> bool | None:
        """Whether the ratio reaches the prototype's (the near end of its range); None if it has none."""
        if self.prototype is None:
            return None
        return ratio >= self.prototype[0] if self.higher else ratio <= self.prototype[1]


def _durable() -> list[Case]:
    one = {1: (0.51, 0.51), 4: (1.3, 1.6), 8: (1.6, 2.1)}
    targets = {1: (Target(RAW, 0.75), Target(BEST, 1)), 8: (Target(BEST, 4), Target("fsyncs", 0.3, at_most=True))}
    cases = [
        Case(f"durable_{n}", f"one at a time, {n} client{'s' if n > 1 else ''}", "durable", "one", "disk_one",
             clients=n, peers="shared" if n > 1 else "all", prototype=one.get(n), targets=targets.get(n, ()))
        for n in (1, 2, 4, 8, 16)
    ]  # fmt: skip
    cases += [
        Case("durable_pipelined", "pipelined singles", "durable", "pipelined", "disk_one",
             targets=(Target(BEST, 2),), prototype=(12, 20)),
        Case("durable_waiting_100", "batches of 100, one at a time", "durable", "batches", "disk_100", batch=100),
        Case("durable_10", "batches of 10, pipelined", "durable", "pipelined", "disk_10", batch=10),
        Case("durable_100", "batches of 100, pipelined", "durable", "pipelined", "disk_1000", batch=100,
             targets=(Target(BEST, 2),), prototype=(0.2, 0.43)),
        Case("durable_1000", "batches of 1000, pipelined", "durable", "pipelined", "disk_1000", batch=1000,
             targets=(Target(BEST, 2),), prototype=(0.2, 0.43)),
    ]  # fmt: skip
    return cases


def _sizes() -> list[Case]:
    return [
        Case(f"size_{label}", f"{what}, one at a time", "sizes", "one", limit, size=size)
        for label, what, size, limit in (
            ("16b", "16 B", 16, "disk_16b"), ("4k", "4 KiB", 4 * KIB, "disk_4k"),
            ("64k", "64 KiB", 64 * KIB, "disk_64k"),
        )
    ]  # fmt: skip


def _memory() -> list[Case]:
    # The prototype's: 235-318k/s beside a 16 us round trip (62.5k/s); 1.7-3.9M/s beside 4.4M/s
    return [
        Case("memory_1", "one at a time, p50", "memory", "one", "socket", "us", "mem_first",
             targets=(Target(RAW, 0.6, at_most=True),), prototype=(1.9, 1.9)),
        Case("memory_1_asleep", "one at a time, p50, spin_us=0", "memory", "one", "socket", "us", "mem_first",
             spin=False, peers="", targets=(Target(RAW, 1.5, at_most=True),)),
        Case("memory_1_spin", "one at a time, beside spinning", "memory", "one", "spin", "us", "mem_first", peers=""),
        Case("memory_pipelined", "pipelined singles", "memory", "pipelined", "socket", strategy="mem_first",
             targets=(Target("", 200_000), Target(RAW, 4)), prototype=(3.8, 5.1)),
        Case("memory_pipelined_asleep", "pipelined singles, spin_us=0", "memory", "pipelined", "socket",
             strategy="mem_first", spin=False, peers=""),
        Case("memory_100", "batches of 100, pipelined", "memory", "pipelined", "disk_1000", strategy="mem_first",
             batch=100, targets=(Target("", 2_000_000),), prototype=(0.39, 0.89)),
        Case("memory_100_writev", "batches of 100, beside writev", "memory", "pipelined", "writev_100",
             strategy="mem_first", batch=100, peers=""),
    ]  # fmt: skip


def _reads() -> list[Case]:
    lmdb_get = (Target("lmdb", 1.2), Target("lmdb bare", 1))
    others = (Target("rocksdict", 1), Target("sqlite3", 1))
    return [
        Case("get_hot", "random get, ring", "reads", "get", "dict", targets=lmdb_get),
        Case("get_cold", "random get, segments", "reads", "get_cold", "dict", targets=lmdb_get),
        Case("get_hot_mapped", "random get, ring, mean", "reads", "get_us", "mapping", "us", peers=""),
        Case("get_batched", "random get, 100-entry batches", "reads", "get_batched", "dict", batch=100),
        Case("range_1", "range of singles", "reads", "range", "memcpy", targets=(Target("lmdb", 1.2), *others)),
        Case("range_1_cold", "range of singles, segments", "reads", "range_cold", "memcpy"),
        Case("range_100", "range of 100-entry batches", "reads", "range", "memcpy", batch=100,
             targets=(Target("lmdb", 2), Target("lmdb bare", 1), *others)),
        Case("range_100_cold", "range of 100-batches, segments", "reads", "range_cold", "memcpy", batch=100),
        Case("read_batches", "read_batches, 100-entry batches", "reads", "read_batches", "memcpy", batch=100,
             targets=(Target("lmdb bare", 5),)),
    ]  # fmt: skip


def _follow() -> list[Case]:
    return [
        Case("follow", "MemFirst, back to back, p50", "follow", "back_to_back", "socket", "us", "mem_first", peers="",
             targets=(Target(RAW, 3, at_most=True),)),
        Case("follow_idle", "MemFirst, one each ms, p50", "follow", "idle", "socket", "us", "mem_first", peers=""),
        Case("follow_durable", "DiskFirst, back to back, p50", "follow", "back_to_back", "socket", "us", peers=""),
    ]  # fmt: skip


def _mixed() -> list[Case]:
    return [
        Case("mixed_appends", "durable appends of all writers", "mixed", "mixed", "disk_one", clients=8,
             peers="shared"),
        Case("mixed_gets", "random gets of all readers", "mixed", "mixed_gets", "dict", clients=8, peers="shared"),
    ]  # fmt: skip


def _by_count() -> list[Case]:
    cases = []
    for label, entries in (("10k", 10_000), ("1M", 1_000_000), ("10M", 10_000_000)):
        full, big = entries > 1_000_000, entries > 10_000
        growing = (Target(RAW, 1.3, at_most=True),) if big else ()
        opens = (Target("", 500_000, at_most=True), Target("smallest", 1.3, at_most=True)) if big else ()
        for name, what, group, unit, limit, targets in (
            ("open_clean", "open after a clean stop", "open", "us", "process", opens),
            ("open_killed", "open after a kill", "open", "us", "process", ()),
            ("growth_get_ring", "get, newest entries", "growth", "us", "smallest", growing),
            ("growth_get_segments", "get, any entry, segments", "growth", "us", "smallest", growing),
            ("growth_append", "append, DiskFirst, p50", "growth", "us", "smallest", growing),
            ("growth_memory_append", "append, MemFirst, p50", "growth", "us", "smallest", growing),
            ("growth_bytes", "writer's memory an entry", "growth", "bytes", "smallest",
             (Target("", 16, at_most=True),) if big else ()),
        ):  # fmt: skip
            peers = "all" if group == "open" and not full else ""
            cases.append(Case(f"{name}_{label}", f"{what}, {label}", group, name, limit, unit,
                              entries=entries, full=full, peers=peers, targets=targets))  # fmt: skip
    return cases


CASES = tuple(
    case
    for group in GROUPS
    for case in (*_durable(), *_sizes(), *_memory(), *_reads(), *_follow(), *_mixed(), *_by_count())
    if case.group == group
)
assert len({case.name for case in CASES}) == len(CASES) and all(case.limit in LIMITS for case in CASES)
