"""The demo itself, in a small size."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import dev
import psutil
import pytest

DEMO = [sys.executable, str(Path(dev.__file__).with_name("demo.py"))]
SMALL = ["--seconds", "4", "--clients", "2", "--connections", "2"]


def processes_of(folder: Path) -> list[str]:
    """Command lines that name the folder."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        if str(folder) in line and process.status() != psutil.STATUS_ZOMBIE:
            found.append(line)
    return found


@pytest.mark.parametrize(
    "how", [["disk_first", "immediate"], pytest.param(["mem_first", "batch:64:20"], marks=pytest.mark.slow)]
)
def test_the_small_demo_passes_and_leaves_nothing(tmp_path: Path, how: list[str]) -> None:
    strategy, policy = how
    options = [*SMALL, "--strategy", strategy, "--flush-policy", policy, "--dir", str(tmp_path)]
    ran = subprocess.run([*DEMO, *options], capture_output=True, text=True, check=False, timeout=110)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "PASS" in ran.stdout and "FAIL" not in ran.stdout
    assert re.search(r"pid \d+ killed with SIGKILL", ran.stdout)
    assert "requests" in ran.stdout and "fsync" in ran.stdout
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_demo_ends_all_its_processes(tmp_path: Path, number: signal.Signals) -> None:
    demo = subprocess.Popen([*DEMO, "--seconds", "60", "--dir", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    with demo.stdout:
        for line in demo.stdout:
            if line.startswith("load:"):
                break
        demo.send_signal(number)
        rest = demo.stdout.read()
    assert demo.wait(60) == 130
    assert "interrupted" in rest
    assert list(tmp_path.iterdir()) == []
    assert processes_of(tmp_path) == []


def test_a_demo_that_cannot_go_on_fails_and_keeps_its_folder(tmp_path: Path) -> None:
    """The server is killed under load: not what the demo is about, but it must say so and exit with 1."""
    demo = subprocess.Popen([*DEMO, "--seconds", "60", "--dir", str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert demo.stdout is not None
    with demo.stdout:
        for line in demo.stdout:
            if line.startswith("load:"):
                break
        server = next(p for p in psutil.Process(demo.pid).children() if "uvicorn" in p.cmdline())
        server.terminate()
        rest = demo.stdout.read()
    assert demo.wait(60) == 1
    assert "FAIL: server ended early" in rest and "kept for inspection" in rest
    assert len(list(tmp_path.iterdir())) == 1
    assert processes_of(tmp_path) == []


@pytest.mark.parametrize("options", [["--seconds", "1"], ["--clients", "0"], ["--strategy", "none"]])
def test_usage_errors(options: list[str]) -> None:
    ran = subprocess.run([*DEMO, *options], capture_output=True, text=True, check=False, timeout=60)
    assert ran.returncode == 2 and "usage:" in ran.stderr
