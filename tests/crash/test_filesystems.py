"""The same promises on real file systems, cut by their own shutdown.  Needs root, loop devices and the mkfs tools."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from .real_disk import MAKE, missing, run

ROUNDS = 12


@pytest.fixture
def place(tmp_path: Path) -> Iterator[str]:
    """A folder for image and mount point; afterwards neither mount nor loop device nor image may be left."""
    folder = str(tmp_path / "disk")
    yield folder
    assert folder not in Path("/proc/self/mountinfo").read_text()
    loops = [path.read_text() for path in Path("/sys/block").glob("loop*/loop/backing_file")]
    assert not [loop for loop in loops if folder in loop]
    assert not Path(folder).exists()


def demand(kind: str) -> None:
    """Skip, and say why, where it cannot be done."""
    why = missing(kind)
    if why is not None:
        pytest.skip(f"no power cut on a real {kind}: {why}")


def test_a_power_cut_on_ext4(place: str) -> None:
    demand("ext4")
    result = run("ext4", place, rounds=1, seed=1, strategy="disk_first", timeout=100)
    assert result["operations"] > 30 and result["last"] > 0 and len(result["lost"]) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
@pytest.mark.parametrize("kind", sorted(MAKE))
def test_power_cuts_on_real_file_systems(place: str, kind: str, strategy: str) -> None:
    """One log, cut again and again.  From memory the newest entries go, which shows that the cuts are cuts."""
    demand(kind)
    result = run(kind, place, rounds=ROUNDS, seed=3, strategy=strategy, timeout=800)
    assert len(result["lost"]) == ROUNDS and result["operations"] > 40 * ROUNDS
    assert strategy == "disk_first" or sum(result["lost"]) > 0


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(MAKE))
def test_control_a_build_that_never_syncs_is_caught(place: str, tmp_path: Path, kind: str) -> None:
    demand(kind)
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text("import os\nos.fsync = os.fdatasync = lambda fd: None\n")
    with pytest.raises(AssertionError, match="acknowledged|CorruptLog|NotALog|none of them"):
        run(kind, place, rounds=2, seed=1, strategy="disk_first", timeout=100, site=str(site))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert missing("ext4") == "only root can mount a file system"
    monkeypatch.undo()
    monkeypatch.setenv("PATH", "/nowhere")
    assert missing("xfs") in ("mkfs.xfs is not installed", "only root can mount a file system")


@pytest.mark.slow
def test_rounds_that_are_killed_leave_nothing_behind(place: str) -> None:
    """Writer, appender, mount and loop device go with the first process of the namespace."""
    demand("ext4")
    with pytest.raises(subprocess.TimeoutExpired):
        run("ext4", place, rounds=1000, seed=1, strategy="mem_first", timeout=15)
    assert not [one for one in psutil.process_iter(["cmdline"]) if place in " ".join(one.info["cmdline"] or [])]
