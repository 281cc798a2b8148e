"""The fixture that fails a test which leaves something behind, tried on tests that do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil

CONFTEST = Path(__file__).parents[1] / "conftest.py"

LEAKY = '''
import os, socket, subprocess, sys
import raftlog_mp as rl
from raftlog_mp import shm

kept = []

def test_clean(log_dir):
    with rl.start_writer(log_dir) as writer, rl.open_log(log_dir) as log:
        log.append(b"x")

def test_socket():
    kept.append(socket.socket(socket.AF_UNIX))

def test_memfd():
    kept.append(shm.create_memfd("raftlog-test", 4096))

def test_file(tmp_path):
    kept.append(os.open(tmp_path / "f", os.O_CREAT | os.O_RDWR))

def test_mapping(tmp_path):
    kept.append(shm.create_file(str(tmp_path / "f"), 4096))

def test_child():
    code = "import time; print(flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    child.stdout.readline()
    print("PID", child.pid)
    kept.append(child)

def test_writer(log_dir):
    writer = rl.start_writer(log_dir)
    print("PID", writer.pid)
    kept.append(writer)
'''


def test_control_each_kind_of_leak_is_caught_and_processes_are_ended(tmp_path: Path) -> None:
    text = CONFTEST.read_text(encoding="utf-8").replace("PATIENCE_S = 10.0", "PATIENCE_S = 0.5")
    (tmp_path / "conftest.py").write_text(text, encoding="utf-8")
    (tmp_path / "test_leaky.py").write_text(LEAKY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "-p", "no:xdist",
         f"--basetemp={tmp_path}/base", str(tmp_path / "test_leaky.py")],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    caught = {line.split("::")[1].split()[0] for line in done.stdout.splitlines() if line.startswith("ERROR ")}
    leaky = {"test_socket", "test_memfd", "test_file", "test_mapping", "test_child", "test_writer"}
    assert caught == leaky, done.stdout
    for words in ("socket:", "/memfd:", "child process left behind", "a writer of this test still runs"):
        assert words in done.stdout
    pids = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("PID ")]
    assert len(pids) >= 2 and not any(psutil.pid_exists(pid) for pid in pids)
