"""``append``: what goes in, what it answers, and what it says when it cannot go on."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raftlog_mp as rl
from raftlog_mp.cli import append as append_module
from raftlog_mp.cli import commands

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


def test_a_closed_stdin_is_told_before_a_log_is_made(log_dir):
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" <&-', "sh", *COMMAND, "append", str(log_dir)], capture_output=True, timeout=WAIT_SECONDS
    )
    assert done.returncode == 2 and b"stdin is closed" in done.stderr and b"Traceback" not in done.stderr
    assert not log_dir.exists()


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


# ---------------------------------------------------------------- Ctrl-C
def wait_until(condition: Callable[[], object]) -> None:
    """Poll for progress seen from outside; only a test that is about to fail waits long."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@pytest.fixture
def piped() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start ``raftlog-mp append`` with a pipe as stdin that stays open; killed at the end if it still runs."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*arguments: object) -> subprocess.Popen[bytes]:
        words = [*COMMAND, "append", *map(str, arguments)]
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        started.append(subprocess.Popen(words, bufsize=0, **pipes))
        return started[-1]

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def last_index(reader: rl.LogReader, index: int) -> Callable[[], bool]:
    return lambda: reader.last_index >= index


def interrupt(process: subprocess.Popen[bytes]) -> tuple[int, bytes, bytes]:
    """Ctrl-C, with stdin still open: exit code, output, errors."""
    process.send_signal(signal.SIGINT)
    process.wait(WAIT_SECONDS)
    out, err = process.stdout.read(), process.stderr.read()
    return process.returncode, out, err


def test_ctrl_c_while_stdin_is_open_says_what_was_acknowledged(piped, log_dir):
    with rl.start_writer(log_dir), rl.open_reader(log_dir) as reader:
        process = piped(log_dir)
        process.stdin.write(b"a\nb\nc\nhalf a line")
        wait_until(last_index(reader, 3))
        assert interrupt(process) == (130, b"", b"raftlog-mp: interrupted [acknowledged: 1..3 (3 entries)]\n")
        assert [entry.payload for entry in reader.read(1)] == [b"a", b"b", b"c"]


def test_ctrl_c_with_json_still_prints_the_object(piped, log_dir):
    with rl.start_writer(log_dir), rl.open_reader(log_dir) as reader:
        process = piped(log_dir, "--json")
        process.stdin.write(b"a\n")  # once it is there, the process is reading
        wait_until(last_index(reader, 1))
        code, out, err = interrupt(process)
        assert (code, json.loads(out)["entries"]) == (130, 1)
        assert err == b"raftlog-mp: interrupted [acknowledged: 1..1 (1 entry)]\n"


@pytest.mark.parametrize("batch", [1, 10])
def test_ctrl_c_in_a_stream_loses_nothing_that_it_reported(piped, log_dir, batch):
    """The pipe is never empty: the signal arrives anywhere in reading, submitting and collecting."""
    with rl.start_writer(log_dir), rl.open_reader(log_dir) as reader:
        process = piped(log_dir, "--batch", batch)
        os.set_blocking(process.stdin.fileno(), False)
        written = 0

        def feed_until(index: int) -> None:
            nonlocal written
            rest = b""
            while reader.last_index < index:
                rest = rest or b"".join(b"line %d\n" % number for number in range(written, written + 1000))
                sent = process.stdin.write(rest) or 0
                written += rest[:sent].count(b"\n")
                rest = rest[sent:]

        feed_until(5000)
        code, out, err = interrupt(process)
        assert (code, out) == (130, b"")
        match = re.fullmatch(rb"raftlog-mp: interrupted \[acknowledged: 1\.\.(\d+) \((\d+) entries\)\]\n", err)
        assert match, err
        assert int(match[1]) == int(match[2]) == reader.last_index >= 5000  # every answer was waited for
        entries = reader.read(1)
        assert [entry.payload for entry in entries] == [b"line %d" % number for number in range(len(entries))]


# What can be arranged only from inside.
class NoAnswer:
    """A handle, and its tickets, of a writer that stands still: the user's patience ends while an answer is due."""

    def submit(self, group: list[bytes], term: int | None) -> NoAnswer:
        return self

    def done(self) -> bool:
        return False

    def result(self, timeout: float | None) -> range:
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("not interrupted")


def test_a_second_ctrl_c_ends_the_wait_for_answers(monkeypatch, capsys, log_dir):
    def lines() -> Iterator[bytes]:
        yield b"a"
        yield b"b"
        os.kill(os.getpid(), signal.SIGINT)
        yield b"never"

    monkeypatch.setattr(append_module.log, "open_log", lambda *_, **__: contextlib.nullcontext(NoAnswer()))
    monkeypatch.setattr(append_module, "source", lambda _: contextlib.nullcontext(lines()))
    assert commands.run(["append", str(log_dir)]) == 130
    said = "raftlog-mp: interrupted [acknowledged: no entries; without an answer: 2, appended or not]\n"
    assert capsys.readouterr() == ("", said)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_between_two_submissions_ends_the_reading():
    interrupt = append_module.Interrupt()
    lines = iter([b"a", b"b", b"c", b"d"])
    assert interrupt.take(lines, 2) == [b"a", b"b"]
    with interrupt.heard():
        try:
            os.kill(os.getpid(), signal.SIGINT)  # while nothing is read: remembered
        except KeyboardInterrupt:
            pytest.fail("a submission would have been interrupted halfway")
        with pytest.raises(KeyboardInterrupt):
            interrupt.take(lines, 2)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert list(lines) == [b"c", b"d"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_ignored_ctrl_c_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with append_module.Interrupt().heard():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
