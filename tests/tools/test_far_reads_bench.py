"""What a get from files costs as the log grows: the script runs, so that it cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "far_reads.py"


def test_every_step_is_measured_in_both_logs(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    head, *rows = done.stdout.splitlines()
    assert head.split()[2:4] == ["1,000", "5,000"] and head.split()[4] == "near"
    found = {" ".join(row.split()[:-4]): [float(word) for word in row.split()[-4:]] for row in rows[:3]}
    assert list(found) == ["get", "its preads", "preads and checksum"]
    for small, large, near, ratio in found.values():
        assert min(small, large, near) > 0 and abs(ratio - large / small) < 0.05 * ratio + 0.02
    assert found["get"][0] > found["its preads"][0], "a get does more than its calls"
    calls, read = ([float(word.replace(",", "")) for word in row.split()[-3:]] for row in rows[3:])
    assert all(1 <= count < 3 for count in calls) and all(count > 256 for count in read)
    assert list(tmp_path.iterdir()) == []
