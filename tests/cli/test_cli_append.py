"""``append``: what goes in, what it answers, and what it says when it cannot go on."""

from __future__ import annotations

import json
import os
import pty
import random
import subprocess
from pathlib import Path

import pytest

import raftlog_mp as rl

from .conftest import COMMAND, WAIT_SECONDS


def payloads(path: Path) -> list[bytes]:
    with rl.open_reader(path) as reader:
        return [entry.payload for entry in reader.read(1)] if reader.last_index else []


def test_arguments_become_entries(command, log_dir):
    done = command("append", log_dir, "one", "", "zwölf")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"1..3 (3 entries)\n", b"")
    done = command("append", log_dir, "four")
    assert done.stdout == b"4..4 (1 entry)\n"
    assert payloads(log_dir) == [b"one", b"", "zwölf".encode(), b"four"]


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_lines_of_stdin_come_back_from_cat(command, log_dir, batch):
    rng = random.Random(batch)
    lines = [rng.randbytes(rng.randrange(40)).replace(b"\n", b"") for _ in range(2500)]
    done = command("append", log_dir, "--batch", batch, "--json", stdin=b"\n".join(lines) + b"\n")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"first_index": 1, "last_index": 2500, "entries": 2500, "contiguous": True}
    assert command("cat", log_dir).stdout == b"".join(line + b"\n" for line in lines)


def test_batch_says_how_many_entries_share_a_record(command, log_dir):
    with rl.start_writer(log_dir):
        command("append", log_dir, "--batch", "4", stdin=b"a\nb\nc\nd\ne\nlast line without its end")
        with rl.open_reader(log_dir) as reader:
            assert (reader.stats().appends, reader.stats().entries) == (2, 6)
    assert payloads(log_dir)[-1] == b"last line without its end"


def test_nothing_to_append_is_fine(command, log_dir):
    done = command("append", log_dir)
    assert (done.returncode, done.stdout) == (0, b"no entries\n")
    nothing = {"first_index": None, "last_index": None, "entries": 0, "contiguous": True}
    assert json.loads(command("append", log_dir, "--json").stdout) == nothing


def test_a_stale_term_is_a_usage_error(command, log_dir):
    assert command("append", log_dir, "--term", "5", "a").returncode == 0
    done = command("append", log_dir, "--term", "4", "b")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"raftlog-mp: ") and b"5" in done.stderr and done.stderr.count(b"\n") == 1
    assert command("append", log_dir, "c").returncode == 0
    with rl.open_reader(log_dir) as reader:
        assert [entry.term for entry in reader.read(1)] == [5, 5]


def test_an_error_in_the_middle_says_what_was_acknowledged(command, log_dir):
    with rl.start_writer(log_dir, rl.LogConfig(max_entry_bytes=100)):
        done = command("append", log_dir, stdin=b"a\nb\n" + b"x" * 101 + b"\nc\n")
    assert done.returncode == 2 and done.stdout == b""
    assert b"101 bytes" in done.stderr and b"[acknowledged: 1..2 (2 entries)]" in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert payloads(log_dir) == [b"a", b"b"]


def test_no_create_refuses_a_missing_log(command, log_dir):
    done = command("append", log_dir, "--no-create", "a")
    assert done.returncode == 3 and b"there is no log at" in done.stderr
    assert not log_dir.exists()


def test_interleaved_clients_are_told(capsys):
    from raftlog_mp.cli.append import Appended

    done = Appended()
    done.add(range(3, 5))
    done.add(range(9, 10))
    assert str(done) == "3..9 (3 entries, other clients' entries between them)"
    assert done.as_dict()["contiguous"] is False


def test_a_long_file_gets_a_progress_bar_on_a_terminal(log_dir, tmp_path):
    lines = tmp_path / "lines"
    lines.write_bytes(b"".join(b"%01023d\n" % number for number in range(2048)))
    master, terminal = pty.openpty()
    try:
        with lines.open("rb") as stdin:
            process = subprocess.Popen(
                [*COMMAND, "append", str(log_dir), "--batch", "64"],
                stdin=stdin, stdout=subprocess.PIPE, stderr=terminal,
            )  # fmt: skip
            os.close(terminal)
            shown = b""
            while True:
                try:
                    shown += os.read(master, 4096)
                except OSError:  # the last process with this terminal has ended
                    break
            out, _ = process.communicate(timeout=WAIT_SECONDS)
    finally:
        os.close(master)
    assert (process.returncode, out) == (0, b"1..2048 (2048 entries)\n")
    assert b"appending" in shown and b"MiB" in shown
