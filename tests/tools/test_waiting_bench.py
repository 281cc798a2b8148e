"""The figures of waiting: the script runs in its small mode, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "waiting.py"


def test_the_small_mode_measures_everything(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--json", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert {name.split(":")[0] for name in result} == {"switch interval", "helper thread", "giving way", "looking"}
    assert all(0 < one["min"] <= one["median"] <= one["max"] for one in result.values())
    assert list(tmp_path.iterdir()) == []
