"""A polite client beside flooding ones, and the machine alone: the script runs, so that it cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "crowded.py"


def test_a_small_run_has_a_row_for_each_of_the_polite(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--fsync-ms", "1", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    _, *rows, last = done.stdout.splitlines()
    assert [row.split()[0] for row in rows] == ["append", "echo", "sleep"]
    for row in rows:
        p50, p99 = float(row.split()[1]), float(row.split()[5])
        assert 0 < p50 <= p99, row
    assert int(last.split()[0].replace(",", "")) > 0
    assert list(tmp_path.iterdir()) == []
