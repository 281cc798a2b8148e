"""The soak itself, in a small size, and what it is made of: processes, pressure, a slow disk."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import memory_soak
import psutil
import pytest
import soak_pressure
from soak_plan import make_plan
from soak_pressure import MIB, Disk, Real, Simulated
from soak_run import Slot, Soak
from soak_screen import Screen
from soak_slow_writer import read_delay_ms
from soak_verdict import Limits
from test_demo_run import processes_of

import raftlog_mp as rl

TOOLS = Path(memory_soak.__file__).parent
SOAK = [sys.executable, str(TOOLS / "memory_soak.py")]
SOAK_SECONDS = 20
PATIENCE_SECONDS = 60.0
SMALL = ["--producers", "2", "--readers", "1"]
CALM = ["--grace", "20", "--recovered", "0.3"]  # other programs may have this machine busy


def soak(*options: str, seconds: float = SOAK_SECONDS) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SOAK, "--seconds", str(seconds), *options], capture_output=True, text=True, check=False, timeout=seconds + 100
    )


def test_a_small_soak_passes_and_leaves_nothing(tmp_path: Path) -> None:
    place, report = tmp_path / "place", tmp_path / "report"
    place.mkdir()
    ran = soak(*SMALL, "--kills", "2", "--stops", "2", "--seed", "5", "--timeout", "1", *CALM, "--json",
               "--dir", str(place), "--report", str(report))  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads(ran.stdout)
    assert found["verdict"] == "pass" and found == json.loads((report / "soak.json").read_text())
    assert found["figures"]["kills"] == found["figures"]["stops"] == 2
    assert found["figures"]["acknowledged"] == found["integrity"]["acknowledged"] > 0
    assert {sample["phase"] for sample in found["samples"]} == {"before", "rise", "high", "fall", "after"}
    assert "PASS" in ran.stderr and (report / "soak.html").stat().st_size > 10_000
    assert list(place.iterdir()) == [] and processes_of(tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [
    ["--strategy", "disk_first", "--flush-policy", "immediate"],
    ["--fsync-ms", "50", "--ring-mib", "1", "--rate", "0", "--recovered", "0.4"],
    ["--pressure", "real", "--hold-mib", "128"],
], ids=["disk first", "slow disk and small ring", "real"])  # fmt: skip
def test_longer_soaks(tmp_path: Path, how: list[str]) -> None:
    ran = soak(*how, "--kills", "6", "--stops", "6", "--dir", str(tmp_path), seconds=30)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert list(tmp_path.iterdir()) == [] and processes_of(tmp_path) == []


def test_an_interrupted_soak_ends_all_its_processes(tmp_path: Path) -> None:
    running = subprocess.Popen([*SOAK, *SMALL, "--seconds", "60", "--dir", str(tmp_path)], stdout=subprocess.PIPE,
                               stderr=subprocess.DEVNULL, text=True)  # fmt: skip
    assert running.stdout is not None
    with running.stdout:
        for line in running.stdout:
            if "phase: before" in line:
                break
        running.send_signal(signal.SIGTERM)
        running.stdout.read()
    assert running.wait(PATIENCE_SECONDS) == 130
    assert list(tmp_path.iterdir()) == [] and processes_of(tmp_path) == []


def make_soak(folder: Path, seconds: float = 4) -> Soak:
    plan = make_plan(
        seconds=seconds, producers=1, readers=0, kills=0, stops=0, fsync_ms=0, rate=10, payload_bytes=64, seed=1
    )
    limits = Limits(MIB, MIB, 1.0, 1.0, 0.7, "none")
    return Soak(plan, limits, rl.LogConfig(ring_bytes=MIB), folder, seed=1, pressure=None, disk=Disk(folder),
                screen=Screen())  # fmt: skip


def test_readers_of_a_long_run_sit_out_the_pressure(tmp_path: Path) -> None:
    """While it is hard nothing is appended: that is no silence that anybody should fear."""
    one = make_soak(tmp_path, seconds=600)
    high = next(phase for phase in one.plan.phases if phase.name == "high")
    one.slots["reader-1"] = Slot("reader-1")
    assert one._reader_spec(one.slots["reader-1"])["silence_s"] > high.end_s - high.start_s + 60


def test_a_process_that_is_left_is_found_and_ended(tmp_path: Path) -> None:
    """The soak did not start it, but its command line names the folder, as a writer's does."""
    left = subprocess.Popen([sys.executable, "-c", "input()", str(tmp_path / "log")], stdin=subprocess.PIPE)
    one = make_soak(tmp_path)
    assert [process.pid for process, _ in one._remaining()] == [left.pid]
    one.end()
    assert one._remaining() == [] and not psutil.pid_exists(left.pid)
    assert left.stdin is not None
    left.stdin.close()
    left.wait(PATIENCE_SECONDS)


def test_a_producer_that_dies_by_itself_fails_the_soak(tmp_path: Path, monkeypatch) -> None:
    one = make_soak(tmp_path)
    monkeypatch.setattr(one, "_producer_spec", lambda slot: {"number": 1})
    run = one.execute()
    assert any("producer-1 ended with code 1" in line for line in run.failures)
    assert processes_of(tmp_path) == []


def test_nobody_connects_to_a_stopped_writer(tmp_path: Path) -> None:
    """The wait for it would keep the soak from letting it go on; one that is connected already can be sampled."""
    one = make_soak(tmp_path)
    slot = one.slots["writer"]
    slot.process = SimpleNamespace(pid=7)
    assert one._can_sample()
    slot.stopped_until = 1.0
    assert not one._can_sample()
    one._sampled_pid = 7
    assert one._can_sample()


# ------------------------------------------------------------ pressure
def test_injected_readings(tmp_path: Path) -> None:
    simulated = Simulated(tmp_path)
    for height, share in ((0.0, 0.40), (1.0, 0.97)):
        simulated.apply(height)
        lines = (simulated.root / "proc" / "meminfo").read_text().splitlines()
        fields = {line.split()[0].rstrip(":"): int(line.split()[1]) for line in lines}
        assert 1 - fields["MemAvailable"] / fields["MemTotal"] == pytest.approx(share, abs=1e-6)


def test_memory_is_held_and_given_back(tmp_path: Path) -> None:
    real = Real(tmp_path, 128)
    assert real.hold_mib == 128
    holder = subprocess.Popen([sys.executable, str(TOOLS / "soak_pressure.py"), str(real.target)])
    try:
        probe = psutil.Process(holder.pid)
        real.apply(1.0)
        assert until(lambda: probe.memory_info().rss > 128 * MIB)
        real.apply(0.0)
        assert until(lambda: probe.memory_info().rss < 64 * MIB)
        assert Path(f"/proc/{holder.pid}/oom_score_adj").read_text().strip() == "1000"
    finally:
        holder.kill()
        holder.wait()


def test_no_more_memory_is_held_than_the_machine_can_spare(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(soak_pressure, "limit_and_used_bytes", lambda: (1000 * MIB, 900 * MIB))
    assert Real(tmp_path, 1 << 20).hold_mib == 50


# ------------------------------------------------------------ a slow disk
def test_the_disk_is_as_slow_as_the_file_says(tmp_path: Path) -> None:
    """Only the lower bound of a time is asserted: a sync cannot take less than its delay."""
    disk = Disk(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(json.dumps(rl.LogConfig(strategy="disk_first").as_dict()))
    log_dir = str(tmp_path / "log")
    writer = subprocess.Popen(
        [sys.executable, str(TOOLS / "soak_slow_writer.py"), log_dir, "--config", str(config),
         "--delay", str(disk.path)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=TOOLS.parent,
    )  # fmt: skip
    assert writer.stdout is not None
    with writer.stdout:
        assert writer.stdout.readline() == b"serving\n"
        with rl.open_log(log_dir, autostart=False) as log:
            log.append(b"fast")
            disk.apply(200.0)
            before = time.monotonic()
            log.append(b"slow")
            assert time.monotonic() - before >= 0.2
            disk.apply(0.0)
        writer.terminate()
        assert writer.wait(PATIENCE_SECONDS) == 0
    with rl.open_reader(log_dir) as reader:
        assert [entry.payload for entry in reader.read(1)] == [b"fast", b"slow"]


def test_without_a_file_there_is_no_delay(tmp_path: Path) -> None:
    assert read_delay_ms(tmp_path / "missing") == 0.0
    (tmp_path / "there").write_text("12.5\n")
    assert read_delay_ms(tmp_path / "there") == 12.5


def until(ready) -> bool:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not ready() and time.monotonic() < deadline:
        os.sched_yield()
        time.sleep(0.01)
    return ready()
