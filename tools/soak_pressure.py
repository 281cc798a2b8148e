"""Pressure: injected readings, memory that is really held, a disk that is really slow.

Run as a program it is the process that holds memory::

    soak_pressure.py TARGET_FILE

It takes memory in steps until it holds as many MiB as TARGET_FILE says, touches every page, and gives back what is
too much.  It asks the kernel to choose it first, should memory run out after all.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from soak_plan import share_of

from raftlog_mp.memory import MemoryProbe

MIB = 1 << 20
STEP_MIB = 16
STEP_SECONDS = 0.02
FIXTURE_TOTAL_KIB = 8 << 20  # the machine that the injected readings speak of has 8 GiB
RESERVE_SHARE = 0.5  # of the memory that is free at the start: never taken


def write_whole(path: Path, text: str) -> None:
    """Replace the file: whoever reads it sees the old text or the new one."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text, encoding="ascii")
    os.replace(fresh, path)


class Simulated:
    """Injected readings: a tree with ``proc/meminfo`` that ``PressureConfig(root=...)`` points at."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "machine"
        (self.root / "proc").mkdir(parents=True)
        self.apply(0.0)

    def apply(self, height: float) -> None:
        """Inject a reading."""
        self.used_share = share_of(height)
        available = int(FIXTURE_TOTAL_KIB * (1 - self.used_share))
        lines = {"MemTotal": FIXTURE_TOTAL_KIB, "MemFree": available, "MemAvailable": available, "Buffers": 0,
                 "Cached": 0, "SReclaimable": 0, "Shmem": 0, "SwapTotal": 0, "SwapFree": 0}  # fmt: skip
        text = "".join(f"{name + ':':<16}{value:>12} kB\n" for name, value in lines.items())
        write_whole(self.root / "proc" / "meminfo", text)


class Real:
    """A process that holds memory: ``apply(1.0)`` is ``hold_mib``, less if the machine has not got it to spare."""

    def __init__(self, folder: Path, hold_mib: int) -> None:
        self.target = folder / "hold_mib"
        self.hold_mib = min(hold_mib, int(room_bytes() * (1 - RESERVE_SHARE)) // MIB)
        self.apply(0.0)

    def apply(self, height: float) -> None:
        """Say how much to hold."""
        write_whole(self.target, f"{round(self.hold_mib * height)}\n")


def room_bytes() -> int:
    """Memory that is free under the limit that applies here: the container's, or the machine's."""
    limit, used = limit_and_used_bytes()
    return max(0, limit - used)


def limit_and_used_bytes() -> tuple[int, int]:
    """The memory limit that applies here and what is used of it, as the log's own probe reads them."""
    reading = MemoryProbe().read()
    return reading.limit_bytes, reading.used_bytes


class Disk:
    """How slow the writer's disk is, told through a file."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "fsync_ms"
        self._ms = -1.0
        self.apply(0.0)

    def apply(self, fsync_ms: float) -> None:
        """From the next sync on."""
        if fsync_ms != self._ms:
            self._ms = fsync_ms
            write_whole(self.path, f"{fsync_ms}\n")


def hold(target: Path) -> None:
    """The life of the process that holds memory; SIGTERM ends it."""
    Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    held: list[bytearray] = []
    while True:
        wanted = int(target.read_text(encoding="ascii")) // STEP_MIB
        if len(held) < wanted and room_bytes() > 2 * STEP_MIB * MIB:
            block = bytearray(STEP_MIB * MIB)
            block[::4096] = b"\1" * len(range(0, len(block), 4096))  # an untouched page is not held
            held.append(block)
        elif len(held) > wanted:
            held.pop()
        time.sleep(STEP_SECONDS)


if __name__ == "__main__":
    hold(Path(sys.argv[1]))
