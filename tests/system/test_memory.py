"""The writer and a reader stay within ring + index + 64 MiB, however long the log grows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

import raftlog_mp as rl

MIB = 1 << 20
READER = """
import sys, psutil, raftlog_mp as rl
with rl.open_reader(sys.argv[1]) as reader:
    last = 0
    for entry in reader.follow(1, timeout=0):
        last = entry.index
    info = psutil.Process().memory_info()
    print(last, info.rss - info.shared)
"""
LIMIT_BYTES = 64 * MIB


def own_bytes(pid: int) -> int:
    """Resident memory without mapped files: what the ring, the index and the process itself cost beyond them."""
    info = psutil.Process(pid).memory_info()
    return int(info.rss - info.shared)


def test_memory_does_not_grow_with_the_log(tmp_path: Path) -> None:
    """96 MiB through a ring of 1 MiB and segments of 1 MiB: neither side holds on to any of it."""
    config = rl.LogConfig(strategy="mem_first", ring_bytes=MIB, segment_bytes=MIB, flush_policy=rl.Batch(1000, 50))
    batch = [b"m" * 1000] * 100
    with rl.start_writer(tmp_path / "log", config) as writer, rl.open_log(tmp_path / "log") as log:
        reader = log.follow(1)
        log.append_many(batch)
        before_writer, seen = own_bytes(writer.pid), 0
        before_reader = own_bytes(psutil.Process().pid)
        for _ in range(1000):
            log.append_many(batch)
            for _ in range(100):
                seen = next(reader).index
        assert seen == 100_000
        command = [sys.executable, "-c", READER, str(tmp_path / "log")]  # a reader and nothing else, through all of it
        read, held = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()
        assert int(read) == log.last_index and int(held) < LIMIT_BYTES
        assert log.stats().segments > 50
        assert own_bytes(writer.pid) < LIMIT_BYTES
        assert own_bytes(writer.pid) - before_writer < 16 * MIB
        assert own_bytes(psutil.Process().pid) - before_reader < 16 * MIB
