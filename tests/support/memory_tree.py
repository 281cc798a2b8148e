"""A root folder with proc/ and sys/ as a kernel would show them: readings of memory that a test decides."""

from __future__ import annotations

import os
from pathlib import Path

MIB = 1 << 20
NO_LIMIT_V1 = 0x7FFF_FFFF_FFFF_F000


class MemoryTree:
    """Files are replaced whole: a writer that reads meanwhile sees the old or the new one."""

    def __init__(self, root: Path, *, total_mib: int = 1000, available_mib: int = 600) -> None:
        self.root = root
        self.host(total_mib, available_mib)

    def write(self, path: str, text: str) -> None:
        """One file."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        new = place.with_name(place.name + ".new")
        new.write_text(text)
        os.replace(new, place)

    def host(self, total_mib: int, available_mib: int) -> None:
        """The host's memory."""
        rows = {"MemTotal": total_mib, "MemFree": available_mib // 2, "MemAvailable": available_mib, "Buffers": 1,
                "Cached": 1, "Active": 1, "Inactive": 1, "Shmem": 0, "Slab": 0}  # fmt: skip
        self.write("proc/meminfo", "".join(f"{name}: {mib * 1024} kB\n" for name, mib in rows.items()))

    def membership(self, *lines: str) -> None:
        """The control groups that the process is in."""
        self.write("proc/self/cgroup", "".join(line + "\n" for line in lines))

    def v2(self, folder: str, current_mib: int, limit: str = "max", high: str = "max", **stat_mib: int) -> None:
        """A group of version 2."""
        self.write(f"{folder}/memory.max", limit + "\n")
        self.write(f"{folder}/memory.high", high + "\n")
        self.write(f"{folder}/memory.current", f"{current_mib * MIB}\n")
        self.write(f"{folder}/memory.stat", "".join(f"{name} {mib * MIB}\n" for name, mib in stat_mib.items()))

    def v1(self, folder: str, usage_mib: int, limit: int = NO_LIMIT_V1, **stat_mib: int) -> None:
        """A group of version 1."""
        self.write(f"{folder}/memory.limit_in_bytes", f"{limit}\n")
        self.write(f"{folder}/memory.usage_in_bytes", f"{usage_mib * MIB}\n")
        self.write(f"{folder}/memory.stat", "".join(f"{name} {mib * MIB}\n" for name, mib in stat_mib.items()))
