"""``backup``: what it prints, what it makes, and what it refuses."""

from __future__ import annotations

import json
import os

import pytest

import raftlog_mp as rl
from raftlog_mp.cli import main


def payloads(directory) -> list[bytes]:
    with rl.open_reader(directory) as reader:
        return [entry.payload for entry in reader.read(1)]


def test_backup_of_a_stopped_log(filled, tmp_path, capfd):
    target = tmp_path / "copy"
    assert main(["backup", str(filled), str(target)]) == 0
    out, err = capfd.readouterr()
    assert out.startswith(f"{target}: entries 1 to 50;") and "every record proved" in out and err == ""
    assert payloads(target) == payloads(filled)


def test_backup_beside_a_writer(command, log_dir, tmp_path):
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        log.append_many([b"a", b"b"], term=4)
        log.save_hard_state(rl.HardState(4, "n1"))
        done = command("backup", log_dir, tmp_path / "copy", "--json")
        assert done.returncode == 0 and done.stderr == b""
        made = json.loads(done.stdout)
        assert (made["first_index"], made["last_index"], made["last_term"]) == (1, 2, 4)
        assert made["hard_state"] == {"term": 4, "voted_for": "n1"} and made["verified"] is True
        assert made["target"] == str(tmp_path / "copy") and made["uuid"] == log.uuid
    assert payloads(tmp_path / "copy") == [b"a", b"b"]


def test_backup_of_an_empty_log_says_so(log_dir, tmp_path, capfd):
    rl.start_writer(log_dir).stop()
    assert main(["backup", str(log_dir), str(tmp_path / "copy")]) == 0
    assert "no entries, the last index is 0" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("target", "told"), [("log", "is a log"), ("log/copy", "lies inside a log"), ("full", "it holds x")]
)
def test_a_bad_target_is_a_usage_error(filled, tmp_path, capfd, target, told):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    assert main(["backup", str(filled), str(tmp_path / target)]) == 2
    out, err = capfd.readouterr()
    assert out == "" and told in err and err.count("\n") == 1 and err.startswith("raftlog-mp: ")


def test_what_is_no_log_or_damaged_is_told(filled, tmp_path, capfd):
    assert main(["backup", str(tmp_path / "nothing"), str(tmp_path / "copy")]) == 3
    assert "there is no log" in capfd.readouterr().err
    segment = max(filled.glob("*.seg"), key=lambda path: path.stat().st_size)
    raw = segment.read_bytes()
    segment.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    assert main(["backup", str(filled), str(tmp_path / "copy")]) == 3
    assert segment.name in capfd.readouterr().err
    assert not (tmp_path / "copy").is_dir() or os.listdir(tmp_path / "copy") == []
