"""Progress of long work: on stderr, only where that is a terminal, and never in what a script reads."""

from __future__ import annotations

import json
import os
import pty
import select
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from unit.journals import append, open_log, stop

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp.cli import main, screen

from .conftest import WAIT_SECONDS, flip


@pytest.fixture
def singles(log_dir: Path) -> Path:
    """Fifty entries, each a record, cleanly stopped."""
    journal, _ = open_log(str(log_dir))
    for number in range(1, 51):
        append(journal, b"entry %d" % number)
    stop(journal)
    (log_dir / fmt.LOCK_NAME).touch(0o600)
    return log_dir


Become = Callable[[], None]
COMMANDS = [
    (["check"], "checking", 1), (["repair"], "reading", 1), (["repair", "--yes"], "reading again", 0),
]  # fmt: skip


@pytest.mark.parametrize(("words", "shown", "code"), COMMANDS)
def test_reading_a_long_log_has_a_bar(
    singles: Path, become_a_terminal: Become, capsys: pytest.CaptureFixture[str],
    words: list[str], shown: str, code: int,
) -> None:  # fmt: skip
    """Over bytes, and nothing of it in what scripts read."""
    flip(singles / fmt.segment_name(1), fmt.DATA_OFFSET + 3000)
    become_a_terminal()
    assert main([words[0], str(singles), *words[1:], "--json"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out) and shown in err and "KiB" in err and "100%" not in out


def test_a_backup_of_a_long_log_has_a_bar(
    singles: Path, tmp_path: Path, become_a_terminal: Become, capsys: pytest.CaptureFixture[str]
) -> None:
    become_a_terminal()
    assert main(["backup", str(singles), str(tmp_path / "copy"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["last_index"] == 50 and "copying" in err and "KiB" in err


def test_a_short_log_has_none(
    singles: Path, tmp_path: Path, become_a_terminal: Become, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    become_a_terminal()
    monkeypatch.setattr(screen, "LONG_BYTES", 1 << 30)
    for words in (["check", str(singles)], ["repair", str(singles)], ["backup", str(singles), str(tmp_path / "copy")]):
        assert main(words) == 0
        assert capsys.readouterr().err == ""


@pytest.mark.parametrize("to_file", [True, False])
def test_entries_that_go_to_a_file_are_counted(
    singles: Path, tmp_path: Path, become_a_terminal: Become, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str], to_file: bool,
) -> None:  # fmt: skip
    """Not those that go into a pipe: a pager draws on the same terminal."""
    become_a_terminal()
    if not to_file:
        assert main(["cat", str(singles)]) == 0
        assert capsys.readouterr() == ("".join(f"entry {number}\n" for number in range(1, 51)), "")
        return
    with (tmp_path / "out").open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert main(["cat", str(singles), "--from", "11"]) == 0
    assert "printing" in (err := capsys.readouterr().err) and "40/40" in err
    assert (tmp_path / "out").read_text() == "".join(f"entry {number}\n" for number in range(11, 51))


SERVE = "import sys; from raftlog_mp.cli import main, screen; screen.LATE_SECONDS = 0; main(['serve', sys.argv[1]])"


def test_a_start_that_takes_long_shows_that_it_is_alive(singles: Path) -> None:
    """Until it serves, and not a moment longer."""
    master, slave = pty.openpty()
    words = [sys.executable, "-c", SERVE, str(singles)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=slave, env=environment)
    os.close(slave)
    try:
        assert process.stdout is not None and process.stdout.readline().startswith(b"serving ")
        seen = b""
        while select.select([master], [], [], 0)[0]:
            seen += os.read(master, 1 << 16)
        assert b"opening" in seen and b" read" in seen
        assert rl.stop_writer(singles)
        assert process.wait(WAIT_SECONDS) == 0
        assert select.select([master], [], [], 0)[0] == [] or not os.read(master, 1 << 16)
    except OSError:
        pass  # the terminal closed with its process: nothing more was written
    finally:
        os.close(master)
        process.kill()
        process.communicate()
