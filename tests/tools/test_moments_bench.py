"""The moments of an append: the script runs in its small mode, and finds each of them, so that it cannot rot."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "moments.py"


def test_every_moment_is_seen(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--small", "--json", "--dir", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) == 6
    for title, rows in results.items():
        times = [values for _, values in rows]
        assert len(rows) >= 6 and min(map(len, times)) > 0, title
        if rows[-1][0] == "all of it":  # the parts make up the whole
            for parts in zip(*times, strict=True):
                assert abs(sum(parts[:-1]) - parts[-1]) < 1e-6, title
                assert min(parts) >= 0, title
    assert list(tmp_path.iterdir()) == []
