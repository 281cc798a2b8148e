"""What is measured, against which raw limit, and what the prototype of this design reached."""

from __future__ import annotations

from dataclasses import dataclass

ENTRY_BYTES = 256
RECORD_BYTES = 344  # an entry of 256 bytes with its record header


@dataclass(frozen=True, slots=True)
class Limit:
    """A raw limit of the machine.  ``unit`` is a rate (higher is better) or microseconds (lower is better)."""

    name: str
    unit: str
    label: str
    what: str


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement of ours.

    ``prototype`` is the range of ratios to the limit that a 150-line prototype reached: the figures of its own
    notes divided by the limits measured in the same minutes (12.8k fdatasyncs/s, 4.4M entries/s, 16 us).
    """

    name: str
    what: str
    limit: str
    unit: str
    kind: str  # one, pipelined, get
    strategy: str  # disk_first, mem_first
    clients: int = 1
    batch: int = 1
    prototype: tuple[float, float] | None = None

    def reached(self, ratio: float) -> bool | None:
        """Whether the ratio reaches the prototype's (the near end of its range); None if it has none."""
        if self.prototype is None:
            return None
        return ratio >= self.prototype[0] if self.unit == "rate" else ratio <= self.prototype[1]


LIMITS = {
    limit.name: limit
    for limit in (
        Limit(
            "disk_one",
            "rate",
            "fdatasync",
            f"pwrite of {RECORD_BYTES} B and fdatasync, into a preallocated file",
        ),
        Limit(
            "disk_1000",
            "rate",
            "1000/fdatasync",
            f"the same with 1000 x {RECORD_BYTES} B, counted in entries",
        ),
        Limit("socket", "us", "round trip", "a unix socket message to another process and its answer, p50"),
        Limit(
            "mapping", "us", "mapped bytes", f"copying {ENTRY_BYTES} B from a random place of a mapped file"
        ),
    )
}

CASES = (
    Case(
        "durable_1",
        "one at a time, 1 client",
        "disk_one",
        "rate",
        "one",
        "disk_first",
        prototype=(0.51, 0.51),
    ),
    Case(
        "durable_4",
        "one at a time, 4 clients",
        "disk_one",
        "rate",
        "one",
        "disk_first",
        clients=4,
        prototype=(1.3, 1.6),
    ),
    Case(
        "durable_8",
        "one at a time, 8 clients",
        "disk_one",
        "rate",
        "one",
        "disk_first",
        clients=8,
        prototype=(1.6, 2.1),
    ),
    Case(
        "durable_pipelined",
        "pipelined singles",
        "disk_one",
        "rate",
        "pipelined",
        "disk_first",
        prototype=(12, 20),
    ),
    Case("get_live", "random get, live writer", "mapping", "us", "get", "disk_first"),
    Case(
        "durable_100",
        "batches of 100",
        "disk_1000",
        "rate",
        "pipelined",
        "disk_first",
        batch=100,
        prototype=(0.2, 0.43),
    ),
    Case(
        "durable_1000",
        "batches of 1000",
        "disk_1000",
        "rate",
        "pipelined",
        "disk_first",
        batch=1000,
        prototype=(0.2, 0.43),
    ),
    Case("get_files", "random get, from segments", "mapping", "us", "get", "disk_first"),
    Case("memory_1", "one at a time, p50", "socket", "us", "one", "mem_first", prototype=(1.9, 1.9)),
    # 235-318k/s beside a 16 us round trip (62.5k/s); 1.7-3.9M/s beside 4.4M/s
    Case(
        "memory_pipelined",
        "pipelined singles",
        "socket",
        "rate",
        "pipelined",
        "mem_first",
        prototype=(3.8, 5.1),
    ),
    Case(
        "memory_100",
        "batches of 100",
        "disk_1000",
        "rate",
        "pipelined",
        "mem_first",
        batch=100,
        prototype=(0.39, 0.89),
    ),
)
