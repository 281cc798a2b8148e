"""The figures of the Raft half: the script runs in its small mode, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "raft_half.py"


def test_the_small_mode_measures_everything(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--json", "--folder", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    result = json.loads(done.stdout)
    for name in ("append_entries / append_many", "conflict, long / short log", "term_of / get"):
        assert 0 < result[name]["min"] <= result[name]["ratio"] <= result[name]["max"]
    assert result["purge of half"]["purge_ms"] > 0 and list(tmp_path.iterdir()) == []
