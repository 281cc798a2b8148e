"""Where a run took place, and how often the device under it was told to flush."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable
from typing import Any

from ... import __version__, probe, wakeup
from .stores import PEERS

WHERE = ("--plot", "--dir")  # options that name a place on this machine


def facts(folder: str, peers: Iterable[str]) -> dict[str, Any]:
    """The machine, the software and the command, as plain data."""
    return {
        "command": command(sys.argv[1:]),
        "cpu": cpu(), "cores": wakeup.cores(), "kernel": platform.release(), "machine": platform.machine(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "filesystem": probe.filesystem(folder) or "unknown", "version": __version__,
        "peers": {name: version(name) for name in peers},
    }  # fmt: skip


def command(arguments: list[str]) -> str:
    """The command line that repeats the run; where its output went is left out."""
    kept, places = list[str](), iter(arguments)
    for one in places:
        if one in WHERE:
            next(places, None)
        elif one.partition("=")[0] not in WHERE:
            kept.append(one)
    return " ".join(["raftlog-mp", *kept])


def version(peer: str) -> str:
    """The installed version of a peer."""
    package = PEERS[peer].package
    return importlib.metadata.version(package) if package else sqlite3.sqlite_version


def cpu() -> str:
    """The processor's model name, as the kernel tells it; else the architecture."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


class Flushes:
    """Flush requests that the device under a folder has served: counted by the kernel, for whoever caused them.

    Alike for ours, the raw limits and every peer, and the only count that none of them keeps itself.  Others who
    write to the same device are counted, too: use a quiet machine.
    """

    FIELD = 15  # of /sys/dev/block/M:N/stat: flush requests; only whole disks count them

    def __init__(self, folder: str) -> None:
        device = os.stat(folder).st_dev
        place = os.path.realpath(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}")
        if os.path.exists(os.path.join(place, "partition")):
            place = os.path.dirname(place)
        self._path = os.path.join(place, "stat")

    def count(self) -> int | None:
        """So far; None if this kernel or device does not tell."""
        try:
            with open(self._path, encoding="ascii") as file:
                return int(file.read().split()[self.FIELD])
        except (OSError, IndexError, ValueError):
            return None
