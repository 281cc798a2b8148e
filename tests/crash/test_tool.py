"""The command line of the explorer: exit codes, the JSON, and a violation that says how to see it again."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

from .broken import BUILDS
from .scenarios import PROFILES

PATH = Path(__file__).resolve().parents[2] / "tools" / "crash.py"


@pytest.fixture(scope="module")
def tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("crash_tool", PATH)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_json_has_every_profile_and_their_sum(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--states", "12", "--seed", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["profile"] for row in found["profiles"]] == [profile.name for profile in PROFILES]
    assert found["all"]["distinct"] == sum(row["distinct"] for row in found["profiles"]) >= 12
    assert found["seed"] == 3 and found["all"]["violations"] == []


def test_a_violation_is_printed_with_the_command_that_repeats_it(
    tool: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    arguments = ["--states", "100", "--profile", PROFILES[0].name]
    with BUILDS["records are never synced"].patches():
        assert tool.main(arguments) == 1
        printed = capsys.readouterr().out
        place = printed.split('--replay "')[1].split('"')[0]
        assert tool.main(["--replay", place, "--keep", str(tmp_path / "kept")]) == 1
    assert "broken:" in capsys.readouterr().out and (tmp_path / "kept" / "manifest").exists()
    assert tool.main(["--replay", place]) == 0
    assert "every promise holds" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--states", "0"], ["--profile", "none"], ["--what"]])
def test_wrong_usage_is_exit_2(tool: ModuleType, arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        tool.main(arguments)
    assert ended.value.code == 2


def test_a_place_that_names_no_state_is_exit_2(tool: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["--replay", "nowhere"]) == 2
    assert "does not name a state" in capsys.readouterr().out
