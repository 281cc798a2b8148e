"""``raftlog-mp repair``: the plan for people and for scripts, what it changes, and its exit codes."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.journals import append, open_log, stop

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp.cli import main

Command = Callable[..., subprocess.CompletedProcess[bytes]]
FIRST = fmt.segment_name(1)


def hit(log: Path, index: int) -> None:
    """Damage the payload of an entry of the filled log."""
    path = log / FIRST
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"entry %d" % index) + 2] ^= 1
    path.write_bytes(raw)


def files_of(log: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in log.rglob("*") if path.is_file()}


@pytest.fixture
def singles(log_dir: Path) -> Path:
    """A log of the entries ``entry 1`` .. ``entry 9``, each a record, cleanly stopped."""
    journal, _ = open_log(str(log_dir))
    for number in range(1, 10):
        append(journal, b"entry %d" % number)
    stop(journal)
    (log_dir / fmt.LOCK_NAME).touch(0o600)
    return log_dir


def test_from_damage_to_a_sound_log(singles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", str(singles)]) == 0
    assert capsys.readouterr().out == "nothing to repair\n"
    hit(singles, 5)
    assert main(["check", str(singles)]) == 1
    capsys.readouterr()

    before = files_of(singles)
    assert main(["repair", str(singles)]) == 1
    shown = capsys.readouterr().out
    for word in ("salvage", FIRST, "entry 5 cannot be read", "nothing was changed: 1 step", f"repair {singles} --yes"):
        assert word in shown
    assert files_of(singles) == before

    assert main(["repair", str(singles), "--yes"]) == 0
    assert "done: 1 step; what was removed and the plan are kept in" in capsys.readouterr().out
    assert main(["check", str(singles)]) == 0 == main(["repair", str(singles)])
    capsys.readouterr()
    with rl.start_writer(singles), rl.open_log(singles) as log:
        assert log.append(b"after") == 10
        assert [entry.index for entry in log.read(6)] == [6, 7, 8, 9, 10]
        with pytest.raises(rl.CorruptLog, match="entry 5 is lost") as lost:
            log.get(5)
        assert (lost.value.first_index, lost.value.last_index, lost.value.segment) == (5, 5, FIRST)
        log.truncate_from(5)
        log.append_entries(rl.LogId(1, 4), [rl.Entry(1, index, b"entry %d" % index) for index in range(5, 10)])
        assert [entry.payload for entry in log.read(1)] == [b"entry %d" % index for index in range(1, 10)]


def test_json_for_scripts(singles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hit(singles, 5)
    assert main(["repair", str(singles), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["needed"] and not found["done"] and found["blocked"] == []
    assert [(step["kind"], step["file"], step["first_index"]) for step in found["steps"]] == [("salvage", FIRST, 5)]
    assert main(["repair", str(singles), "--json", "--yes"]) == 0
    assert json.loads(capsys.readouterr().out)["done"]
    assert main(["repair", str(singles), "--json"]) == 0
    assert not json.loads(capsys.readouterr().out)["needed"]


def test_a_decision_is_asked_for(singles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.unlink(singles / FIRST)
    before = files_of(singles)
    assert main(["repair", str(singles), "--yes"]) == 1
    shown = capsys.readouterr().out
    assert "--truncate-from 1" in shown and "the segment is missing" in shown and "needs a decision first" in shown
    assert files_of(singles) == before
    assert main(["repair", str(singles), "--truncate-from", "1"]) == 1
    assert "--truncate-from 1 --yes`" in capsys.readouterr().out
    assert main(["repair", str(singles), "--truncate-from", "1", "--yes"]) == 0
    assert main(["check", str(singles)]) == 0


def test_a_served_log_is_left_alone(singles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with rl.start_writer(singles) as writer:
        assert main(["repair", str(singles), "--yes"]) == 3
        out, err = capsys.readouterr()
        assert out == "" and f"writer process {writer.pid}" in err and f"`raftlog-mp stop {singles}`" in err


def test_what_cannot_be_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["repair", str(tmp_path / "nope")]) == 3
    assert "there is no log at" in capsys.readouterr().err
    assert main(["repair", str(tmp_path), "--truncate-from", "0"]) == 2
    assert list(tmp_path.iterdir()) == []


def test_it_runs_as_a_command(command: Command, singles: Path) -> None:
    hit(singles, 5)
    done = command("repair", singles)
    assert done.returncode == 1 and b"salvage" in done.stdout and done.stderr == b""
