"""DOOR TO THE MEMORY LIMITS: how much of the memory that this process may use is in use.

In a container the host's figures are wrong in both directions: the limit that kills is the control group's.  So the
limit is the smallest of the control groups that this process is in (v2, v1, or both) and of the host's memory; what
is used is the group's usage without the file pages that the kernel can take back, or psutil's figure for the host.

Everything is looked up below a root, ``/`` but for tests and rehearsals.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import psutil

UNLIMITED_BYTES = 1 << 62  # v1 says "no limit" as 0x7ffffffffffff000
RESOLVE_EVERY = 256  # readings: a process may be moved to another group


@dataclass(frozen=True, slots=True)
class Reading:
    """Memory at one moment, in bytes."""

    limit_bytes: int  # the smallest limit that applies; 0 if nothing could be found out
    used_bytes: int  # of that limit, without file pages that can be taken back
    source: str  # whose limit: "host", or the path of the control group
    rss_bytes: int  # of this process
    stalled: float | None  # PSI: share of the last 10 s in which some task waited for memory, 0..1; None: not told

    @property
    def share(self) -> float:
        """Used part of the limit, 0 if there is none."""
        return self.used_bytes / self.limit_bytes if self.limit_bytes else 0.0


@dataclass(frozen=True, slots=True)
class _Group:
    """Names of the files that tell limits and usage, in the words of one version of control groups."""

    limits: tuple[str, ...]
    usage: str
    reclaimable: tuple[str, ...]  # rows of memory.stat: file pages, and below what of them must be written first
    busy: tuple[str, ...]


_V2 = _Group(("memory.max", "memory.high"), "memory.current", ("active_file", "inactive_file"),
             ("file_dirty", "file_writeback"))  # fmt: skip
_V1 = _Group(("memory.limit_in_bytes",), "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"),
             ("total_dirty", "total_writeback"))  # fmt: skip


class MemoryProbe:
    """Takes readings.  A reading never raises: what cannot be read is left out."""

    def __init__(self, root: str = "/") -> None:
        self._root = root
        self._proc = os.path.join(root, "proc")
        self._process = psutil.Process()
        self._groups: list[tuple[_Group, str]] = []
        self._readings = 0

    def read(self) -> Reading:
        """Look now."""
        if self._readings % RESOLVE_EVERY == 0:
            self._groups = self._find_groups()
        self._readings += 1
        limit, used, source = self._host()
        for group, folder in self._groups:
            found = _limit_of(group, folder)
            if found is not None and (found < limit or not limit):
                limit, used, source = found, _usage_of(group, folder), folder
        try:
            rss = int(self._process.memory_info().rss)
        except psutil.Error:
            rss = 0
        return Reading(limit, used, source, rss, self._stalled())

    def _host(self) -> tuple[int, int, str]:
        before = getattr(psutil, "PROCFS_PATH", "/proc")
        psutil.PROCFS_PATH = self._proc  # psutil's own way to look elsewhere
        try:
            memory = psutil.virtual_memory()
            return int(memory.total), int(memory.total - memory.available), "host"
        except (OSError, ValueError, KeyError, psutil.Error):
            return 0, 0, "host"
        finally:
            psutil.PROCFS_PATH = before

    def _find_groups(self) -> list[tuple[_Group, str]]:
        """The control groups that this process is in, from its own up to the root, that tell of memory."""
        found: list[tuple[_Group, str]] = []
        mounts = os.path.join(self._root, "sys/fs/cgroup")
        for line in _lines(os.path.join(self._proc, "self/cgroup")):
            number, _, rest = line.partition(":")
            controllers, _, path = rest.partition(":")
            if number == "0" and not controllers:
                # In a hybrid set-up v2 is mounted one level deeper, and has the memory only if v1 has not.
                group, places = _V2, [mounts, os.path.join(mounts, "unified")]
            elif "memory" in controllers.split(","):
                group, places = _V1, [os.path.join(mounts, "memory")]
            else:
                continue
            for mount in places:
                found += [(group, folder) for folder in _ancestry(mount, path) if _tells(group, folder)]
        return found

    def _stalled(self) -> float | None:
        for line in _lines(os.path.join(self._proc, "pressure/memory")):
            kind, _, rest = line.partition(" ")
            if kind == "some":
                for word in rest.split():
                    name, _, value = word.partition("=")
                    if name == "avg10":
                        try:
                            return float(value) / 100
                        except ValueError:
                            return None
        return None


def _ancestry(mount: str, path: str) -> list[str]:
    """The folder of a group and of each group above it, the mount last.

    In a container the path may be the one outside, while the mount shows the container's own group as its top.
    """
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    return [os.path.join(mount, *parts[:depth]) for depth in range(len(parts), -1, -1)]


def _tells(group: _Group, folder: str) -> bool:
    return os.path.exists(os.path.join(folder, group.usage))


def _limit_of(group: _Group, folder: str) -> int | None:
    limits = [_number(os.path.join(folder, name)) for name in group.limits]
    real = [limit for limit in limits if limit is not None and 0 < limit < UNLIMITED_BYTES]
    return min(real, default=None)


def _usage_of(group: _Group, folder: str) -> int:
    usage = _number(os.path.join(folder, group.usage)) or 0
    rows = dict(line.partition(" ")[::2] for line in _lines(os.path.join(folder, "memory.stat")))

    def total(names: tuple[str, ...]) -> int:
        return sum(int(rows[name]) for name in names if rows.get(name, "").isdigit())

    return max(usage - max(total(group.reclaimable) - total(group.busy), 0), 0)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []


def _number(path: str) -> int | None:
    """The number in a file; None if it cannot be read or says ``max``."""
    lines = _lines(path)
    try:
        return int(lines[0]) if lines else None
    except ValueError:
        return None
