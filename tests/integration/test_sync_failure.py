"""A disk that fails under a real writer process: it is final, everybody is told, nothing acknowledged is lost."""

from __future__ import annotations

import errno
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import Child, no_writer_after, script, wait_until
from support.small_disk import Disk, small_disk

import raftlog_mp as rl
from raftlog_mp import manifest
from raftlog_mp.cli import main
from raftlog_mp.files import Files

BOTH = pytest.mark.parametrize("strategy", list(rl.PersistenceStrategy))
SUPPORT = Path(__file__).parents[1] / "support"
NEVER = rl.Batch(threshold=10**9, interval_ms=3_600_000)
SMALL = {"ring_bytes": 1 << 20, "segment_bytes": 1 << 16, "lane_bytes": 1 << 16, "idle_mark_ms": 60_000, "linger_s": 0}

Start = Callable[..., Child]


class Fault:
    """What fails from now on in the writer under test."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def begin(self, *lines: str) -> None:
        part = self.path.with_suffix(".part")
        part.write_text("".join(f"{line} {errno.EIO}\n" for line in lines))
        part.rename(self.path)

    def end(self) -> None:
        self.path.unlink()


@pytest.fixture
def fault(tmp_path: Path) -> Fault:
    return Fault(tmp_path / "fault")


@pytest.fixture
def start(log_dir: str, fault: Fault) -> Iterator[Start]:
    """Starts the writer of ``log_dir`` with a disk that can fail."""
    running: list[Child] = []

    def begin(*, linger: bool = False, **settings: Any) -> Child:
        spec = {"config": rl.LogConfig(**(SMALL | settings)).as_dict(), "linger": linger}
        Path(log_dir).mkdir(mode=0o700, exist_ok=True)
        child = Child(str(SUPPORT / "failing_writer.py"), log_dir, str(fault.path), json.dumps(spec))
        running.append(child)
        assert child.line() == "serving"
        return child

    with no_writer_after(log_dir):
        yield begin
        for child in running:
            child.__exit__(None, None, None)


def stat(path: str, capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    """What `raftlog-mp stat` says, to people and to scripts."""
    assert main(["stat", path]) == 0
    text = capsys.readouterr().out
    assert main(["stat", path, "--json"]) == 0
    return " ".join(text.split()), json.loads(capsys.readouterr().out)


CALLS: dict[str, Callable[[rl.Log], Any]] = {
    "append": lambda log: log.append(b"x", term=9),
    "append_many": lambda log: log.append_many([b"x", b"y"], term=9),
    "submit": lambda log: log.submit([b"x"], term=9).result(60.0),
    "flush": lambda log: log.flush(),
    "append_entries": lambda log: log.append_entries(log.last_log_id, [rl.Entry(9, log.last_index + 1, b"x")]),
    "truncate_from": lambda log: log.truncate_from(2),
    "purge_to": lambda log: log.purge_to(1),
    "reset": lambda log: log.reset(),
    "save_hard_state": lambda log: log.save_hard_state(rl.HardState(9, "n9")),
    "commit_to": lambda log: log.commit_to(1),
}


@BOTH
def test_every_caller_is_told_and_reading_goes_on(
    log_dir: str, start: Start, fault: Fault, strategy: rl.PersistenceStrategy, capsys: pytest.CaptureFixture[str]
) -> None:
    mem_first = strategy == "mem_first"
    writer = start(strategy=strategy, flush_policy=NEVER if mem_first else rl.Immediate(), linger=True)
    with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
        log.append_many([b"one", b"two"], term=1)
        log.save_hard_state(rl.HardState(1, "n1"))
        log.flush()
        fault.begin("sync .seg")
        if mem_first:
            assert log.append(b"three", term=1) == 3, "acknowledged from memory: it stays"
        tickets = [log.submit([b"doubtful"], term=1) for _ in range(0 if mem_first else 5)]
        for ticket in tickets:
            with pytest.raises(rl.SyncFailed):
                ticket.result(60.0)
        with pytest.raises(rl.SyncFailed) as caught:
            log.flush() if mem_first else log.append(b"later", term=1)
        assert "read-only" in str(caught.value) and "restart the writer" in str(caught.value)
        fault.end()  # whether it works again does not matter any more
        last = 3 if mem_first else 2
        for name, call in CALLS.items():
            if name == "flush" and not mem_first:
                continue  # everything visible is durable: there is nothing to wait for
            with pytest.raises(rl.SyncFailed):
                call(log)
        if mem_first:
            with pytest.raises(rl.SyncFailed):
                log.wait_durable(3)
        log.wait_durable(2)
        with rl.open_reader(log_dir) as reader:
            expected = [b"one", b"two", b"three"][:last]
            for handle in (log, reader):
                assert [entry.payload for entry in handle.read(1)] == expected
                assert handle.get(last).payload == expected[-1] and handle.term_of(last) == 1
                assert (handle.last_index, handle.durable_index, handle.hard_state) == (last, 2, rl.HardState(1, "n1"))
            assert [entry.payload for entry in reader.follow(1, timeout=0)] == expected
        text, found = stat(log_dir, capsys)
        assert "FAILED" in text and f"raftlog-mp stop {log_dir}" in text and "SyncFailed" in text
        assert found["state"] == "failed" and len(found["notices"]) == (2 if mem_first else 1)
        assert found["unflushed_entries"] == last - 2, "what was refused waits for nothing"
        assert ("Entries 3 to 3" in text) == mem_first
    with pytest.raises(subprocess.TimeoutExpired):
        writer.wait(timeout=0.7)  # its last client has left, and it lingers for 0 s: but it ends only when told
    assert rl.stop_writer(log_dir) and writer.wait() == 0


@pytest.mark.parametrize(("strategy", "told"), [
    ("disk_first", ["sync .seg"]), ("mem_first", ["sync .seg"]),
    ("mem_first", ["sync .seg", "sync_all *", "rename *", "pwrite manifest.tmp"]),  # latched in memory only
], ids=["disk_first", "mem_first", "not one file can be written"])  # fmt: skip
def test_a_restart_reads_everything_with_suspicion(
    log_dir: str, start: Start, fault: Fault, strategy: str, told: list[str]
) -> None:
    """Row I: not one byte past the durable mark is believed, whatever the page cache says."""
    mem_first = strategy == "mem_first"
    writer = start(strategy=strategy, flush_policy=NEVER if mem_first else rl.Immediate())
    with rl.open_log(log_dir, timeout=60.0) as log:
        log.append(b"durable")
        log.flush()
        fault.begin(*told)
        if mem_first:
            log.append(b"in memory")
        with pytest.raises(rl.SyncFailed):
            log.flush() if mem_first else log.append(b"doubtful")
        assert rl.stop_writer(log_dir) and writer.wait() == 0
        assert manifest.load(Files(), log_dir).failed == (len(told) == 1)
        if len(told) == 1:
            with pytest.raises(rl.WriterUnavailable, match="stopped on purpose"):
                log.append(b"nobody starts another writer on that disk by himself", timeout=0.2)
        fault.end()
    with rl.open_reader(log_dir) as reader:
        assert reader.get(1).payload == b"durable"
    with rl.start_writer(log_dir), rl.open_log(log_dir, timeout=60.0) as log:
        assert [entry.payload for entry in log.read(1)] == ([b"durable", b"in memory"] if mem_first else [b"durable"])
        assert log.stats().state == "running" and not log.stats().loss_possible
        assert log.append(b"goes on") == log.last_index == (3 if mem_first else 2)
        log.flush()
    assert "(row I)" in Path(log_dir, "writer.log").read_text()


def test_a_failure_while_stopping_is_told(log_dir: str, start: Start, fault: Fault) -> None:
    """The seal cannot be written: the writer ends all the same, and the next start is suspicious."""
    writer = start()
    with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
        log.append(b"durable")
    fault.begin("sync_all .seg")
    assert rl.stop_writer(log_dir) and writer.wait() == 0
    fault.end()
    found = manifest.load(Files(), log_dir)
    assert found.failed and not found.clean
    with rl.start_writer(log_dir), rl.open_log(log_dir, timeout=60.0) as log:
        assert [entry.payload for entry in log.read(1)] == [b"durable"]


APPENDER = """
import sys, raftlog_mp as rl
with rl.open_log(sys.argv[1], autostart=False, timeout=60.0) as log:
    acked = 0
    try:
        while True:
            acked = log.append(b"%06d" % (acked + 1) * 500)
            if acked == 5:
                print("appending", flush=True)
    except rl.SyncFailed as failed:
        print(acked, failed.errno, flush=True)
"""


def test_a_real_device_that_fails(tmp_path: Path) -> None:
    """An ext4 image whose own disk has no room for its blocks: the loop device fails, and fsync says so."""
    with small_disk(tmp_path / "outer", "tmpfs", 24) as outer:
        inner = Disk(tmp_path / "inner", "ext4", 16, image=outer.path / "image")
        with inner:
            path = str(inner.path / "log")
            with no_writer_after(path):
                config = rl.LogConfig(**SMALL | {"segment_bytes": 4 << 20})
                writer = rl.start_writer(path, config)
                with script(APPENDER, path) as client:
                    assert client.line() == "appending"
                    outer.fill()
                    acked, code = map(int, client.line().split())
                    assert code in (errno.EIO, errno.ENOSPC, errno.EROFS) and acked >= 5
                    assert client.wait() == 0
                with rl.open_reader(path) as reader:
                    assert reader.stats().state == "failed" and reader.last_index == acked
                    assert reader.get(acked).payload == b"%06d" % acked * 500, "still served, from the ring"
                writer.stop()
            outer.free()
            inner.remount(check=True)
            with no_writer_after(path), rl.start_writer(path), rl.open_log(path, timeout=60.0) as log:
                # What was refused may have reached the device, in part or whole; what was acknowledged is there.
                assert acked <= log.last_index <= acked + 1
                assert all(entry.payload == b"%06d" % entry.index * 500 for entry in log.read(1))


def test_control_a_failure_that_is_not_injected_is_not_told(log_dir: str, start: Start, fault: Fault) -> None:
    """The seam itself changes nothing."""
    start()
    with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
        fault.begin("sync elsewhere")
        assert log.append(b"x") == 1 and log.stats().state == "running"
        wait_until("it is durable", lambda: log.durable_index == 1)
    rl.stop_writer(log_dir)
