"""The cost of looking at memory: the script runs, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "sampling_cost.py"


def test_it_measures_a_reading() -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--json"]
    result = json.loads(subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout)
    assert 0 < result["reading_us_min"] <= result["reading_us"] <= result["reading_us_max"]
    assert result["share_of_a_core"] == result["reading_us"] / (result["sample_ms"] * 1000)
