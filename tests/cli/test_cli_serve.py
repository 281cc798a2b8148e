"""``serve`` and ``stop``: a writer in the foreground, its settings, its orderly end."""

from __future__ import annotations

import re
import signal
import subprocess

import pytest

import raftlog_mp as rl

from .conftest import WAIT_SECONDS


def ready(process: subprocess.Popen[bytes]) -> str:
    """The line that says it serves."""
    line = process.stdout.readline().decode()
    assert line.startswith("serving "), (line, process.stderr.read())
    return line


def end(process: subprocess.Popen[bytes], number: int = signal.SIGTERM) -> tuple[int, str, str]:
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out.decode(), err.decode()


def stored(path) -> rl.LogConfig:
    with rl.open_reader(path) as reader:
        return reader.config


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_an_orderly_stop(background, log_dir, number):
    process = background("serve", log_dir)
    line = ready(process)
    assert f"pid {process.pid}" in line and "last index 0" in line and "nothing to repair" in line
    with rl.open_log(log_dir, autostart=False) as log:
        assert log.append(b"x") == 1
        code, out, err = end(process, number)
    assert (code, err) == (0, "")
    assert out == f"stopped {log_dir}: last index 1, all of it durable\n"
    with rl.open_reader(log_dir) as reader:
        assert reader.get(1).payload == b"x"


def test_it_stays_without_clients_and_stop_ends_it(command, background, log_dir):
    process = background("serve", log_dir, "--linger-s", "0")  # lingering is for writers that handles start
    ready(process)
    with rl.open_log(log_dir, autostart=False) as log:
        log.append(b"a")
    with rl.open_log(log_dir, autostart=False) as log:
        log.append(b"b")
    done = command("stop", log_dir)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"stopped the writer of {log_dir}\n".encode(), b"")
    assert process.wait(WAIT_SECONDS) == 0
    done = command("stop", log_dir)
    assert (done.returncode, done.stdout) == (0, f"no writer was running for {log_dir}\n".encode())


def test_a_second_writer_is_told_who_owns_the_log(command, background, log_dir):
    process = background("serve", log_dir)
    ready(process)
    done = command("serve", log_dir)
    assert done.returncode == 3 and f"{process.pid}".encode() in done.stderr and done.stdout == b""
    assert end(process)[0] == 0


def test_settings_are_stored_and_changed_one_by_one(background, log_dir, tmp_path):
    options = ["--strategy", "mem_first", "--flush-policy", "batch:64:20", "--max-entry-bytes", "4K"]
    sizes = ["--segment-bytes", "1M", "--ring-bytes", "2m"]
    process = background("serve", log_dir, *options, *sizes, "--no-verify-reads")
    assert "mem_first, flush batch:64:20.0" in ready(process)
    assert end(process)[0] == 0
    wanted = rl.LogConfig(
        strategy="mem_first", flush_policy=rl.Batch(64, 20.0), segment_bytes=1 << 20, ring_bytes=2 << 20,
        max_entry_bytes=4096, verify_reads=False,
    )  # fmt: skip
    assert stored(log_dir) == wanted

    process = background("serve", log_dir)  # nothing given: the stored settings
    assert "mem_first, flush batch:64:20.0" in ready(process)
    assert end(process)[0] == 0
    assert stored(log_dir) == wanted

    process = background("serve", log_dir, "--flush-policy", "immediate")  # one given: the others stay
    ready(process)
    assert end(process)[0] == 0
    changed = stored(log_dir)
    assert changed.flush_policy == rl.Immediate() and changed.ring_bytes == 2 << 20 and changed.strategy == "mem_first"

    settings = tmp_path / "settings.toml"
    settings.write_text('[raftlog_mp]\nstrategy = "disk_first"\nring_bytes = 3145728\nlane_bytes = 131072\n')
    process = background("serve", log_dir, "--config", settings, "--ring-bytes", "4M")
    ready(process)
    assert end(process)[0] == 0
    assert stored(log_dir) == rl.LogConfig(strategy="disk_first", ring_bytes=4 << 20, lane_bytes=131072)


def test_it_recovers_what_a_killed_writer_had_acknowledged(background, log_dir):
    first = background("serve", log_dir, "--strategy", "mem_first", "--flush-policy", "batch:100000:60000")
    ready(first)
    with rl.open_log(log_dir, autostart=False) as log:
        log.append_many([b"%d" % number for number in range(500)])
        first.kill()
        first.wait(WAIT_SECONDS)
    second = background("serve", log_dir)
    line = ready(second)
    assert "last index 500" in line and "generation 2" in line
    assert re.search(r"recovery: [1-9]\d* findings?\n$", line)
    assert second.stdout.readline().startswith(b"  recovery: ")
    assert end(second)[0] == 0


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--flush-policy", "sometimes"], b"immediate, batch:THRESHOLD:INTERVAL_MS or adaptive:TARGET_MS"),
        (["--flush-policy", "batch:0:1"], b"flush_policy.threshold=0"),
        (["--strategy", "none"], b"disk_first"),
        (["--ring-bytes", "17"], b"ring_bytes=17"),
        (["--ring-bytes", "64X"], b"is no size"),
        (["--config", "no/such/file.toml"], b"no/such/file.toml"),
    ],
)
def test_bad_settings_are_usage_errors_and_create_nothing(command, log_dir, options, word):
    done = command("serve", log_dir, *options)
    assert done.returncode == 2 and word in done.stderr and done.stdout == b""
    assert done.stderr.startswith(b"raftlog-mp: ") and done.stderr.count(b"\n") == 1
    assert not log_dir.exists()


def test_a_bad_config_file_is_named(command, log_dir, tmp_path):
    settings = tmp_path / "settings.toml"
    for text, word in (("a = [", b"settings.toml is not valid TOML"), ("ring = 1", b"'ring' is no setting of a log")):
        settings.write_text(text)
        done = command("serve", log_dir, "--config", settings)
        assert done.returncode == 2 and word in done.stderr


def test_a_damaged_log_is_refused(command, filled):
    manifest = filled / "manifest"
    names = [path.name for path in filled.iterdir()]
    assert manifest.exists(), names
    raw = bytearray(manifest.read_bytes())
    raw[len(raw) // 2] ^= 1
    manifest.write_bytes(raw)
    for arguments in (["serve"], ["stat"], ["cat"], ["append", "x"]):
        done = command(arguments[0], filled, *arguments[1:])
        assert done.returncode == 3 and b"is damaged" in done.stderr and done.stderr.count(b"\n") == 1
    assert manifest.read_bytes() == bytes(raw)
