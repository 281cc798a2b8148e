"""Where the time of an append goes: the script runs, and each stage is found in the code, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "stages.py"


def test_every_stage_is_measured() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--small", "--json"], capture_output=True, text=True, timeout=120, check=True
    )
    results = json.loads(done.stdout)
    assert set(results) == {"disk_first", "mem_first"}
    for strategy, shapes in results.items():
        for shape, stages in shapes.items():
            unused = {stage for stage, spent in stages.items() if spent == 0}
            assert unused <= ({"writer: segment file"} if strategy == "mem_first" else set()), (strategy, shape)
