"""``stat``: the same numbers for people and for scripts."""

from __future__ import annotations

import json
import signal

import raftlog_mp as rl
from raftlog_mp.cli import main

from .conftest import WAIT_SECONDS


def test_json_has_every_number_and_the_settings(command, log_dir):
    with rl.start_writer(log_dir, rl.LogConfig(ring_bytes=2 << 20)) as writer, rl.open_log(log_dir) as log:
        log.append_many([b"abc"] * 5)
        log.append(b"d")
        done = command("stat", log_dir, "--json")
        found = json.loads(done.stdout)
        assert set(found) == set(log.stats().as_dict()) | {"uuid", "config", "notices", "mapped"}
        assert found["notices"] == [] and found["mapped"]["ring"]["bytes"] == 2 << 20
        assert found["uuid"] == log.uuid and rl.LogConfig.from_dict(found["config"]) == log.config
    assert (found["state"], found["writer_pid"]) == ("running", writer.pid)
    assert (found["first_index"], found["last_index"], found["durable_index"]) == (1, 6, 6)
    assert (found["appends"], found["entries"], found["clients"]) == (2, 6, 1)


def test_the_table_names_every_number(filled, capsys):
    with rl.start_writer(filled):
        assert main(["stat", str(filled)]) == 0
        shown = capsys.readouterr().out
    with rl.open_reader(filled) as reader:
        names = set(reader.stats().as_dict()) - {"path", "lapped_reads"}  # its own reads: it makes none
    assert [name for name in sorted(names) if f" {name} " not in shown] == []
    assert str(filled) in shown and "ring_bytes" in shown and "64.0 MiB" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_without_a_writer(filled, capsys):
    assert main(["stat", str(filled), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["state"], found["writer_pid"], found["last_index"]) == ("stopped", 0, 50)
    assert main(["stat", str(filled)]) == 0
    shown = capsys.readouterr().out
    assert "stopped" in shown and "  fsyncs " not in shown  # counters belong to a writer


def test_watch_goes_on_until_interrupted(background, log_dir):
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        process = background("stat", log_dir, "--watch", "--json", "--interval", "0.05")
        assert json.loads(process.stdout.readline())["last_index"] == 0
        log.append(b"x")
        while json.loads(process.stdout.readline())["last_index"] != 1:
            pass
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, err) == (0, b"")


def test_watch_draws_tables(background, filled):
    process = background("stat", filled, "--watch", "--interval", "0.05")
    assert str(filled).encode() in process.stdout.readline()
    while b"last_index" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, err) == (0, b"")
