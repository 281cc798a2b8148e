"""DOOR TO THE MACHINE'S STATE: file systems, what processes map."""

from __future__ import annotations

import os

import psutil

# File systems on which fsync, rename, flock and shared mappings mean what this library needs.  overlay is in:
# each generation writes new files only, so copy-up cannot split a file that somebody already maps.
LOCAL_FILESYSTEMS = frozenset({
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "bcachefs", "jfs", "reiserfs", "nilfs2",
    "tmpfs", "ramfs", "overlay",
})  # fmt: skip


def filesystem(path: str) -> str:
    """Type of the file system that holds ``path`` (``ext4``, ``nfs4`` ...); empty if it cannot be told."""
    real = os.path.realpath(path)
    best, kind = -1, ""
    for partition in psutil.disk_partitions(all=True):
        point = partition.mountpoint
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= best:  # of mounts stacked on one point, the last one counts
            best, kind = len(point), partition.fstype
    return kind


def mapped_bytes(pid: int) -> dict[str, tuple[int, int]]:
    """What a process of this library maps: kind of file -> (bytes, resident bytes).  Empty if it may not be looked at.

    Kinds are ring, index, terms, control (files of the log's shared memory) and lanes (of its clients).
    """
    found: dict[str, tuple[int, int]] = {}
    try:
        rows = psutil.Process(pid).memory_maps(grouped=True)
    except (psutil.Error, OSError):
        return found
    for row in rows:
        name = os.path.basename(row.path)
        kind = "lanes" if "memfd:raftlog-lane" in row.path else name.partition("-")[0]
        if kind in ("ring", "index", "terms", "control", "lanes"):
            size, resident = found.get(kind, (0, 0))
            found[kind] = size + int(row.size), resident + int(row.rss)
    return found
