"""Storms over the writer as it is, which must come out sound, and over broken ones, which must not."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.processes import alive, wait_until

TOOL = Path(__file__).resolve().parents[2] / "tools" / "storm.py"
STRATEGIES = ("disk_first", "mem_first")
# A broken build, the strategy that suffers from it, and what the checker, or who was told before it, says.
BENT = {
    "forget_sent": ("disk_first", "and was at|was refused"),
    "skip_ring": ("mem_first", "and was at|the memory that held them was lost with the writer"),
    "keep_removed": ("disk_first", "after it was truncated|was truncated, and is in the log again"),
    "lazy_vote": ("mem_first", "read term"),
    "publish_early": ("mem_first", "was committed, and is not in the log"), "never_odd": ("mem_first", "was not told"),
}  # fmt: skip


def storm(folder: Path, *arguments: str, seconds: float = 100.0) -> dict[str, Any]:
    """Run the tool; its figures.  What it keeps goes where the test's own files go."""
    done = subprocess.run(
        [sys.executable, str(TOOL), "--json", "--folder", str(folder), *arguments],
        capture_output=True, text=True, timeout=seconds, check=False,
    )  # fmt: skip
    assert done.stdout, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == int(not found["sound"]), done.stderr
    return found


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_short_storm_is_sound(tmp_path: Path, strategy: str) -> None:
    found = storm(tmp_path, "--kills", "15", "--seed", "1", "--strategy", strategy)
    assert found["problems"] == [] and found["kills"] >= 15 and found["rounds"] == 1
    assert found["entries"] > 0 and found["sightings"] > 0
    assert list(tmp_path.iterdir()) == []  # a sound round leaves nothing


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_long_storm_is_sound(tmp_path: Path, strategy: str) -> None:
    found = storm(tmp_path, "--kills", "300", "--seed", "2", "--strategy", strategy, seconds=800.0)
    assert found["problems"] == [] and found["kills"] >= 300
    assert {"writer", "writer starting", "producer", "leader", "reader"} <= found["kills_of"].keys()
    assert found["removals"] > 0 and found["purges"] > 0 and found["pauses"] > 0 and found["clean_stops"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("bend", BENT)
def test_control_a_broken_writer_is_noticed(tmp_path: Path, bend: str) -> None:
    strategy, sentence = BENT[bend]
    found = storm(tmp_path, "--kills", "200", "--seed", "3", "--strategy", strategy, "--bend", bend)
    assert found["problems"] and any(re.search(sentence, problem) for problem in found["problems"])
    assert list(Path(found["kept"]).glob("*.jsonl")) and (Path(found["kept"]) / "log").is_dir()


def test_ctrl_c_leaves_nothing_behind(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, str(TOOL), "--kills", "1000", "--json", "--folder", str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    ) as tool:  # fmt: skip
        place = tmp_path / "round-0"
        wait_until("somebody appends", lambda: [path for path in place.glob("p1*.jsonl") if path.stat().st_size])
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent_of(path) == tool.pid]
        assert pids
        tool.send_signal(signal.SIGINT)
        try:
            out, err = tool.communicate(timeout=60.0)
        finally:
            tool.kill()
    assert tool.returncode == 130, out + err
    assert not json.loads(out)["sound"]
    assert not any(alive(pid) for pid in pids)


def parent_of(folder: Path) -> int:
    """The parent of the process in /proc; 0 if it is gone."""
    try:
        return int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
    except OSError:
        return 0
