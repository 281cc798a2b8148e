"""``check``: exit codes, the table for people, one JSON document for scripts, several processes."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import subprocess
import threading

import pytest

import raftlog_mp as rl
from raftlog_mp import check as checking
from raftlog_mp.cli import main

from .conftest import COMMAND, WAIT_SECONDS, flip

SEGMENT = "0000000000000001.seg"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Fifty entries in one batch, then some more segments of one batch each; closed in order."""
    path = tmp_path_factory.mktemp("check") / "log"
    with rl.start_writer(path, rl.LogConfig(segment_bytes=64 << 10, ring_bytes=1 << 20)), rl.open_log(path) as log:
        log.append_many([b"entry %d" % number for number in range(1, 51)])
        for _ in range(3):
            log.append_many([bytes(1000)] * 50)
    return path


@pytest.fixture
def filled(made, tmp_path):
    """A copy of it."""
    return shutil.copytree(made, tmp_path / "log")


@pytest.fixture
def damaged(filled):
    """Its fifty entries stand in one record, which is damaged; and the index file is wrong."""
    flip(filled / SEGMENT, 8192 + 89 + 88 + 10)
    flip(filled / SEGMENT.replace("seg", "idx"), 70)
    return filled


def test_sound(filled, capsys):
    assert main(["check", str(filled)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("sound: ") and "200 entries 1..200, " in out and "KiB read" in out and err == ""
    assert len(out.splitlines()) == 1


def test_sound_as_json(filled, capsys):
    assert main(["check", str(filled), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["entries"], found["first_index"], found["last_index"]) == (True, 200, 1, 200)
    assert found["findings"] == [] and found["segments"][0]["file"] == SEGMENT


def test_damage_as_a_table(damaged, capsys):
    assert main(["check", str(damaged)]) == 1
    out, err = capsys.readouterr()
    assert "entries 1..50 of term 1: the checksum of the body is wrong" in " ".join(out.split()) and err == ""
    assert SEGMENT in out and "byte 8,281" in out and "the index file does not match" in out
    assert f"`raftlog-mp repair {damaged}`" in out
    assert out.splitlines()[-1].startswith("1 damage, 1 warning: ")
    assert max(map(len, out.split("next: ")[0].splitlines())) <= 120


def test_damage_as_json(damaged, capsys):
    assert main(["check", str(damaged), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    first = found["findings"][0]
    assert not found["sound"] and [one["severity"] for one in found["findings"]] == ["damage", "warning"]
    assert (first["file"], first["offset"], first["first_index"], first["last_index"]) == (SEGMENT, 8281, 1, 50)
    assert first["sentence"] and first["next_step"] and first["term"] == 1
    assert [one["sound"] for one in found["segments"]][0] is False


def test_a_damaged_manifest_is_a_finding_and_no_error(filled, capsys):
    flip(filled / "manifest", 100)
    assert main(["check", str(filled), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["findings"][0]["file"] == "manifest"


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_no_log_at_all(what, tmp_path, capsys):
    path = tmp_path / "place"
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_bytes(b"x")
    assert main(["check", str(path)]) == 3
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("raftlog-mp: ") and str(path) in err and len(err.splitlines()) == 1


def test_in_several_processes(damaged, command, capsys):
    assert main(["check", str(damaged), "--json"]) == 1
    alone = json.loads(capsys.readouterr().out)
    done = command("check", damaged, "--json", "--processes", 2)
    assert (done.returncode, done.stderr) == (1, b"")
    assert json.loads(done.stdout) == alone and len(alone["segments"]) >= 3


def test_beside_a_running_writer(log_dir, capsys):
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        log.append_many([b"x"] * 10)
        assert main(["check", str(log_dir)]) == 0
        assert "10 entries 1..10" in (out := capsys.readouterr().out) and "a writer is running" in out
        log.append(b"y")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_no_false_alarm_while_everything_changes(strategy, log_dir):
    """Appends, rolls, truncations, purges and hard states, and checks of it all the while."""
    config = rl.LogConfig(strategy=strategy, segment_bytes=64 << 10, ring_bytes=1 << 20, lane_bytes=64 << 10)
    enough, done = threading.Event(), []

    def change(log):
        chosen, term = random.Random(1), 1
        while not enough.is_set():
            what = chosen.random()
            if what < 0.9:
                size = chosen.randrange(2000)
                log.append_many([chosen.randbytes(size)] * chosen.randrange(1, 10), term=term)
            elif what < 0.95 and log.last_index > log.first_index + 5:
                term += 1
                log.truncate_from(log.last_index - chosen.randrange(5))
            elif what < 0.97:
                log.save_hard_state(rl.HardState(term, "me"))
            elif log.last_index > 200:
                log.purge_to(log.last_index - chosen.randrange(50, 150))
            done.append(what)

    with rl.start_writer(log_dir, config), rl.open_log(log_dir) as log:
        thread = threading.Thread(target=change, args=(log,))
        thread.start()
        try:
            while len(done) < 1500 and thread.is_alive():
                report = checking.check_log(log_dir)
                assert report.live and report.sound, report.problems
        finally:
            enough.set()
            thread.join()
    assert len(done) >= 1500 and checking.check_log(log_dir).findings == []


def test_the_table_fits_a_narrow_terminal(damaged):
    shown = in_terminal(80, "check", str(damaged))
    plain = re.sub(r"\x1b\[[0-9;]*m", "", shown)
    assert max(map(len, plain.split("next: ")[0].splitlines())) <= 80 and "byte 8,281" in plain and plain != shown


def in_terminal(width, *arguments):
    """What the command shows on a terminal of that many columns."""
    master, slave = pty.openpty()
    environment = os.environ | {"COLUMNS": str(width), "LINES": "40", "TERM": "xterm"}
    words = [*COMMAND, *arguments]
    with subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=environment) as process:
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 1 << 16):
                shown += chunk
        except OSError:  # the terminal closed with its process
            pass
        process.wait(WAIT_SECONDS)
    os.close(master)
    return shown.decode()
