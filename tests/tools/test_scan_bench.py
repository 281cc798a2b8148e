"""The figures of the scan: the script runs in its small mode, so that it cannot rot."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "scan.py"


@pytest.fixture
def scan() -> ModuleType:
    """The script as a module."""
    spec = importlib.util.spec_from_file_location("benchmark_scan", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_small_mode_measures_everything(
    scan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scan.py", "--small", "--json", "--folder", str(tmp_path)])
    scan.main()
    result = json.loads(capsys.readouterr().out)
    for name in ("256 B", "64 KiB"):
        ratio, rates = result[name]["scan / plain"], result[name]["MB/s"]
        assert 0 < ratio["min"] <= ratio["median"] <= ratio["max"]
        assert set(rates) == {"plain", "scan", "iterate"} and all(rate["min"] > 0 for rate in rates.values())
    assert result["check_log"]["MB/s"]["whole"]["min"] > 0 and list(tmp_path.iterdir()) == []


def test_for_people(
    scan: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["scan.py", "--small", "--folder", str(tmp_path)])
    monkeypatch.setattr(scan, "whole_log", lambda *_: scan.figures([1.0]))
    scan.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 9 and sum("scan / plain" in line for line in lines) == 2
