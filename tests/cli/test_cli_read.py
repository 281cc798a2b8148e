"""``cat`` and ``tail``: entries to stdout, with and without a writer."""

from __future__ import annotations

import base64
import json
import signal

import pytest

import raftlog_mp as rl
from raftlog_mp.cli import main

from .conftest import WAIT_SECONDS


def lines(start: int, last: int) -> bytes:
    return b"".join(b"entry %d\n" % number for number in range(start, last + 1))


@pytest.mark.parametrize(
    ("options", "first", "last"),
    [
        ([], 1, 50),
        (["--from", "48"], 48, 50),
        (["--to", "3"], 1, 3),
        (["--from", "10", "--to", "12"], 10, 12),
        (["--from", "50", "--to", "900"], 50, 50),
        (["--from", "51"], 51, 50),
        (["--from", "9", "--to", "8"], 9, 8),
    ],
)
def test_cat_prints_the_range(filled, capfdbinary, options, first, last):
    assert main(["cat", str(filled), *options]) == 0
    assert capfdbinary.readouterr() == (lines(first, last), b"")


def test_cat_json_is_lossless(command, log_dir):
    payloads = [b"text", "zwölf".encode(), b"\xff\x00raw", b"", b'"quoted"\nline']
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        log.append_many(payloads, term=7)
        done = command("cat", log_dir, "--json")
    objects = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(o["index"], o["term"]) for o in objects] == [(i, 7) for i in range(1, 6)]
    assert [o["encoding"] for o in objects] == ["utf-8", "utf-8", "base64", "utf-8", "utf-8"]
    decoders = {"utf-8": str.encode, "base64": base64.b64decode}
    assert [decoders[o["encoding"]](o["payload"]) for o in objects] == payloads


def test_reading_changes_nothing(filled, capfdbinary):
    def state() -> list[tuple[str, int, int]]:
        return sorted((str(p), p.stat().st_mtime_ns, p.stat().st_size) for p in filled.rglob("*"))

    before = state()
    for arguments in (["cat"], ["tail"], ["stat"], ["stat", "--json"]):
        assert main([arguments[0], str(filled), *arguments[1:]]) == 0
    assert state() == before


@pytest.mark.parametrize(("options", "first"), [([], 41), (["-n", "3"], 48), (["-n", "0"], 51), (["-n", "999"], 1)])
def test_tail_prints_the_end(filled, capfdbinary, options, first):
    assert main(["tail", str(filled), *options]) == 0
    assert capfdbinary.readouterr().out == lines(first, 50)


def test_tail_of_an_empty_log(command, log_dir):
    rl.start_writer(log_dir).stop()
    for arguments in (["tail"], ["cat"]):
        done = command(*arguments, log_dir)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_tail_follows_another_process_until_interrupted(command, background, filled):
    process = background("tail", filled, "-f", "-n", "1")
    assert process.stdout.readline() == b"entry 50\n"  # from the files: no writer runs yet
    with rl.start_writer(filled):
        assert command("append", filled, "from another process").stdout == b"51..51 (1 entry)\n"
        assert process.stdout.readline() == b"from another process\n"
    with rl.start_writer(filled), rl.open_log(filled) as log:  # a later writer
        log.append(b"after a restart")
        assert process.stdout.readline() == b"after a restart\n"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=WAIT_SECONDS)
    assert (process.returncode, out, err) == (0, b"", b"")


def test_tail_follow_json(background, log_dir):
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        process = background("tail", log_dir, "-f", "--json")
        log.append(b"hello", term=3)
        assert json.loads(process.stdout.readline()) == {"index": 1, "term": 3, "payload": "hello", "encoding": "utf-8"}


@pytest.mark.parametrize("verb", [["cat"], ["tail", "-n", "100000"], ["tail", "-f", "-n", "100000"]])
def test_a_reader_that_leaves_ends_it_quietly(background, log_dir, verb):
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        for _ in range(20):
            log.append_many([b"a line of some length %d" % number for number in range(1000)])
        process = background(verb[0], log_dir, *verb[1:])
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(WAIT_SECONDS) == 0
