"""What the scrubber costs: the script runs, for both strategies and every rate, so that it cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scrub_cost.py"


def test_a_small_run_has_a_row_for_each_rate() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--rates", "0,1G"], capture_output=True, text=True, timeout=120,
        check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert [line.split(":")[0] for line in lines if ":" in line] == ["disk_first", "mem_first"]
    rows = [line.split() for line in lines if ":" not in line]
    assert [row[0] for row in rows] == ["0", "1073741824"] * 2
    for row in rows:
        assert float(row[1]) > 0 and float(row[5]) > 0, row
        assert row[2] == "(1.00)" or row[0] != "0", row
    assert all(float(row[-1]) == 0 for row in rows if row[0] == "0")
