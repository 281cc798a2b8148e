"""Whose time a pipelined entry is, and what a range read consists of: the script runs, so that it cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "busy.py"


def test_a_small_run_shows_all_of_it(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    lines = done.stdout.splitlines()
    rows = {line[:23].strip(): [float(word) for word in line[23:].split()] for line in lines[1:5]}
    assert list(rows) == ["mem_first, 1", "mem_first, 100", "disk_first, 100", "disk_first, 1000"]
    for passes, client, system, *_ in rows.values():
        assert passes > 0 and 0 <= system <= client <= passes * 1.05  # of one thread, by two clocks
    assert "MiB" in lines[6]
    parts = {line[:32].strip(): int(line[32:]) for line in lines[9:]}
    assert len(parts) == 5 and all(ns > 0 for ns in parts.values())
    assert list(tmp_path.iterdir()) == []
