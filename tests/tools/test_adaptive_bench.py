"""The sweep over loads and policies: the script runs in its small mode, so that it cannot rot."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "adaptive_sweep.py"
PNG = b"\x89PNG"


def run(*options: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([sys.executable, str(SCRIPT), *options], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done


def test_the_small_mode_measures_everything_and_draws_it(tmp_path: Path) -> None:
    folder, kept, picture = tmp_path / "logs", tmp_path / "result.json", tmp_path / "picture.png"
    folder.mkdir()
    draws = importlib.util.find_spec("matplotlib") is not None
    done = run("--small", "--json", "--folder", str(folder), "--save", str(kept), *["--plot", str(picture)] * draws)
    assert list(folder.iterdir()) == []
    result = json.loads(done.stdout)
    assert result == json.loads(kept.read_text())
    assert [row["load"] for row in result["rows"]] == [{"clients": 2, "rate": 1000}, {"clients": 1}]
    for row in result["rows"]:
        assert list(row["policies"]) == ["immediate", "batch:4:5", "adaptive:5"]
        for cells in row["policies"].values():
            for figures in cells.values():
                assert 0 < figures["min"] <= figures["median"] <= figures["max"]
            assert cells["fsyncs_per_append"]["max"] <= 1.5 and cells["p50_ms"]["min"] <= cells["p99_ms"]["max"]
    if draws:
        assert picture.read_bytes().startswith(PNG) and picture.stat().st_size > 20_000


@pytest.mark.slow
def test_the_picture_of_a_kept_result(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    for kept in (SCRIPT.parent / "results").glob("adaptive*.json"):
        picture = tmp_path / f"{kept.stem}.png"
        run("--draw", str(kept), "--plot", str(picture))
        assert picture.read_bytes().startswith(PNG)
