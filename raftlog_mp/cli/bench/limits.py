"""The raw limits by name: what is measured, as data."""

from __future__ import annotations

from dataclasses import dataclass

ENTRY_BYTES = 256
RECORD_HEAD_BYTES = 88  # what an entry costs on disk besides itself
RECORD_BYTES = RECORD_HEAD_BYTES + ENTRY_BYTES
KIB = 1 << 10


@dataclass(frozen=True, slots=True)
class Limit:
    """A raw limit of the machine.  ``unit`` is a rate (higher is better) or microseconds (lower is better).

    ``count`` records of entries of ``size`` bytes are written at once, where anything is written.
    """

    name: str
    unit: str
    label: str
    what: str
    kind: str  # disk, writev, socket, spin, mapping, memcpy, dict, process
    count: int = 1
    size: int = ENTRY_BYTES

    @property
    def record_bytes(self) -> int:
        """Bytes of one record."""
        return RECORD_HEAD_BYTES + self.size


def _disk(name: str, label: str, count: int, size: int = ENTRY_BYTES) -> Limit:
    record = RECORD_HEAD_BYTES + size
    what = f"pwrite of {count} x {record} B and fdatasync, into a preallocated file, counted in entries"
    if count == 1:
        what = f"pwrite of {record} B and fdatasync, into a preallocated file"
    return Limit(name, "rate", label, what, "disk", count, size)


LIMITS = {
    limit.name: limit
    for limit in (
        _disk("disk_one", "fdatasync", 1),
        _disk("disk_16b", "fdatasync 16 B", 1, 16),
        _disk("disk_4k", "fdatasync 4K", 1, 4 * KIB),
        _disk("disk_64k", "fdatasync 64K", 1, 64 * KIB),
        _disk("disk_10", "10/fdatasync", 10),
        _disk("disk_100", "100/fdatasync", 100),
        _disk("disk_1000", "1000/fdatasync", 1000),
        Limit("writev_100", "rate", "writev", f"pwritev of 100 x {RECORD_BYTES} B, nothing synced, counted in entries",
              "writev", 100),
        Limit("socket", "us", "round trip", "a unix socket message to another process and its answer, p50", "socket"),
        Limit("spin", "us", "spin round trip", "two processes that spin on words in shared memory, p50", "spin"),
        Limit("mapping", "us", "mapped bytes", f"copying {ENTRY_BYTES} B from a random place of a mapped file",
              "mapping"),
        Limit("memcpy", "rate", "memcpy", f"copying 1 MiB at a time out of a mapped file, counted in {RECORD_BYTES} B",
              "memcpy"),
        Limit("dict", "rate", "dict", "random look-ups of entries in a plain dict", "dict"),
        Limit("process", "us", "new process",
              "starting a Python process that imports what a writer imports, and its end", "process"),
        Limit("smallest", "", "at the smallest", "the same figure of ours in the smallest log of the round", ""),
    )
}  # fmt: skip
