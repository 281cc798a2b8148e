"""A writer that a handle started: what it reads, what it reports, what it logs, how it ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from support.processes import PATIENCE_S, kill9, wait_until

import raftlog_mp as rl
from raftlog_mp import errors

CONFIG = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, linger_s=0.0)
NEVER = rl.Batch(threshold=10**9, interval_ms=3_600_000)


class Spawned:
    """``serve DIR --spawned`` with instructions of our own; what it logs goes to ``DIR.log``."""

    def __init__(self, directory: str, instructions: Any) -> None:
        self.logged = Path(directory + ".log")
        with self.logged.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "raftlog_mp", "serve", directory, "--spawned"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(msgpack.packb(instructions) if instructions is not None else b"")
        self.process.stdin.close()

    def report(self) -> dict[str, Any]:
        """Its report; the writer hangs up behind it."""
        assert self.process.stdout is not None
        return dict(msgpack.unpackb(self.process.stdout.read()))

    def stop(self) -> int:
        """An orderly end: the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def spawned(directory: str, instructions: Any) -> Iterator[Spawned]:
    writer = Spawned(directory, instructions)
    try:
        yield writer
    finally:
        writer.process.kill()
        writer.process.wait(PATIENCE_S)
        writer.process.stdout.close()


def instructions(config: rl.LogConfig | None = CONFIG, *, linger: bool = False) -> dict[str, Any]:
    return {"config": config.as_dict() if config is not None else None, "linger": linger}


def connections(writer: Spawned) -> int:
    """How many lanes the writer has open."""
    count, folder = 0, f"/proc/{writer.process.pid}/fd"
    with contextlib.suppress(FileNotFoundError):  # it has ended, or closed one since
        count = sum(os.readlink(f"{folder}/{name}").startswith("/memfd:") for name in os.listdir(folder))
    return count


def test_it_reports_once_serves_and_ends_in_order(log_dir: str) -> None:
    with spawned(log_dir, instructions()) as writer:
        assert writer.report() == {"pid": writer.process.pid, "generation": 1}
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"one") == 1
            assert log.config == CONFIG
        writer.process.send_signal(signal.SIGINT)  # Ctrl-C in the starter's terminal is not meant for it
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"two") == 2
        assert writer.stop() == 0
    said = writer.logged.read_text()
    assert f"serving {log_dir}, generation 1, last index 0" in said and said.endswith("stopped\n")
    with rl.open_reader(log_dir) as reader:
        assert reader.last_index == reader.durable_index == 2


@pytest.mark.parametrize("sent", [None, {}, [], {"config": None}, {"linger": False}])
def test_a_starter_that_was_killed_before_it_said_how_starts_nothing(log_dir: str, sent: Any) -> None:
    with spawned(log_dir, sent) as writer:
        assert writer.process.wait(PATIENCE_S) == 3
    said = writer.logged.read_text()
    assert "killed before it said how" in said and "Traceback" not in said
    assert not Path(log_dir).exists()  # else a log with settings that nobody chose, served by one who never leaves


def test_without_settings_it_adopts_the_stored_ones(log_dir: str) -> None:
    with spawned(log_dir, instructions()) as writer:
        writer.report()
        assert writer.stop() == 0
    with spawned(log_dir, instructions(None)) as writer:
        assert writer.report()["generation"] == 2
        with rl.open_reader(log_dir) as reader:
            assert reader.config == CONFIG


def test_lingering_is_the_starters_choice(log_dir: str) -> None:
    with spawned(log_dir, instructions(linger=True)) as writer:
        writer.report()
        assert writer.process.wait(PATIENCE_S) == 0  # linger_s=0: nobody came
        assert "leaving" in writer.logged.read_text()
    with spawned(log_dir, instructions(linger=False)) as writer:
        writer.report()
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"one") == 1
        wait_until("it has noticed that it is alone", lambda: connections(writer) == 0)
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"two") == 2 and log.stats().writer_pid == writer.process.pid


@pytest.mark.parametrize(("config", "kind"), [
    ({"ring_bytes": 5}, errors.ConfigError), ({"no such setting": 1}, errors.ConfigError),
    ({"shm_dir": "/proc/nowhere"}, errors.ConfigError),
])  # fmt: skip
def test_unusable_settings_are_its_report(log_dir: str, config: dict[str, Any], kind: type[Exception]) -> None:
    with spawned(log_dir, {"config": config, "linger": False}) as writer:
        error = errors.from_wire(writer.report())
        assert type(error) is kind and next(iter(config)) in str(error)
        assert writer.process.wait(PATIENCE_S) == 3
    said = writer.logged.read_text()
    assert f"ERROR {kind.__name__}: {error}" in said and "Traceback" not in said
    assert not (Path(log_dir) / "manifest").exists()


def test_a_damaged_log_is_its_report(log_dir: str) -> None:
    with spawned(log_dir, instructions()) as writer:
        writer.report()
        assert writer.stop() == 0
    (Path(log_dir) / "manifest").write_bytes(b"damage")
    with spawned(log_dir, instructions(None)) as writer:
        error = errors.from_wire(writer.report())
        assert isinstance(error, rl.CorruptLog) and error.segment == "manifest" and log_dir in str(error)
        assert writer.process.wait(PATIENCE_S) == 3


def test_it_serves_although_its_starter_has_died(log_dir: str) -> None:
    """Nobody reads the report."""
    with spawned(log_dir, instructions()) as writer:
        assert writer.process.stdout is not None
        writer.process.stdout.close()
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            assert log.append(b"one") == 1
        assert writer.stop() == 0


@pytest.mark.parametrize("ring", ["kept", "lost"])
def test_it_logs_what_recovery_found_out_of_order(log_dir: str, ring: str) -> None:
    config = rl.LogConfig(
        strategy="mem_first", flush_policy=NEVER, segment_bytes=1 << 16, ring_bytes=1 << 20, idle_mark_ms=60_000
    )
    with spawned(log_dir, instructions(config)) as writer:
        writer.report()
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            log.append(b"only in the ring")
        kill9(writer.process.pid)
    if ring == "lost":
        next((Path(log_dir) / "shm").glob("ring-*")).unlink()
    with spawned(log_dir, instructions(None)) as writer:
        assert writer.report()["generation"] == 2
        assert writer.stop() == 0
    said = [line for line in writer.logged.read_text().splitlines() if "recovery:" in line or "WARNING" in line]
    if ring == "kept":
        assert len(said) == 1 and "recovery: replay ring-" in said[0] and "(row Q)" in said[0]
    else:
        assert len(said) == 2 and "(row S)" in said[0] and "loss_possible" in said[1]
