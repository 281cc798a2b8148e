"""A crash at every step of recovery, of the creation of a log, and of a roll: the next start finds the same log."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.files import Files

from .journals import (
    BOTH,
    Entries,
    append,
    copy_log,
    entries_of,
    failed_log,
    flip,
    kill,
    killed_before_the_sync,
    open_log,
    overwrite,
    reopen,
    segment_path,
    snapshot,
    stop,
    tail_path,
)
from .keeping import not_kept


# ---------------------------------------------------------------- a crash inside recovery
def crash_everywhere(tmp_path: Path, source: str, expected: Entries, *, loss_possible: bool = False) -> int:
    """Kill the recovering process before each of its steps; the next one must find the same log."""
    at, before = 0, snapshot(source) if expected else {}  # segments without entries go

    def gone(log: str) -> object:
        return not_kept(before, log, endings=(".seg",))

    while True:
        log = copy_log(source, str(tmp_path / f"crash{at}"))
        files = FaultyFiles(crash_at=at)
        try:
            journal, _ = open_log(log, files)
        except Crash:
            entries, plan = reopen(log)
            assert entries == expected, f"after a crash before {at}: {files.steps[-1:]}"
            assert plan.loss_possible == loss_possible, f"after a crash before {at}: {files.steps[-1:]}"
            assert not gone(log), f"after a crash before {at}: {files.steps[-1:]}"
            shutil.rmtree(log)
            at += 1
            continue
        files.crash_at = None
        stop(journal)
        assert entries_of(log) == expected
        assert not gone(log)
        return at


@BOTH
def test_crash_inside_recovery_of_a_killed_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source, strategy=strategy)
    for index in range(1, 10):
        append(journal, b"%d" % index * 3_000, term=index)
    kill(journal)
    assert crash_everywhere(tmp_path, source, {i: (i, b"%d" % i * 3_000) for i in range(1, 10)}) > 15


@BOTH
def test_crash_inside_recovery_of_an_empty_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source, strategy=strategy)
    kill(journal)
    crash_everywhere(tmp_path, source, {})


@BOTH
def test_crash_inside_recovery_of_a_cleanly_stopped_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source, strategy=strategy)
    append(journal, b"one")
    stop(journal)
    crash_everywhere(tmp_path, source, {1: (1, b"one")})


def test_crash_inside_recovery_of_a_torn_log(tmp_path: Path) -> None:
    source = str(tmp_path / "source")
    start = killed_before_the_sync(source, b"torn")
    flip(tail_path(source), start + fmt.RECORD_BYTES)
    crash_everywhere(tmp_path, source, {1: (1, b"durable")})


@BOTH
def test_crash_inside_recovery_of_a_failed_log(tmp_path: Path, strategy: str) -> None:
    source = str(tmp_path / "source")
    acknowledged = failed_log(source, strategy)
    crash_everywhere(tmp_path, source, acknowledged)


def test_crash_inside_recovery_that_rewrites_seals(tmp_path: Path) -> None:
    """Row E: what stands behind the end of a sealed segment goes with the new seal, but not without a copy."""
    source = str(tmp_path / "source")
    journal, _ = open_log(source)
    append(journal, b"one")
    journal.roll()
    append(journal, b"two")
    kill(journal)
    sealed = segment_path(source, 0)
    flip(sealed, fmt.SEAL_OFFSET + 20)
    with open(sealed, "ab") as file:
        file.write(b"whose is this?" * 9)
    overwrite(tail_path(source), fmt.SEAL_OFFSET, b"a seal that was begun")
    crash_everywhere(tmp_path, source, {1: (1, b"one"), 2: (1, b"two")})


def test_crash_inside_recovery_with_an_orphan(tmp_path: Path) -> None:
    source = str(tmp_path / "source")
    journal, _ = open_log(source)
    append(journal, b"one")
    orphan = os.path.join(source, fmt.segment_name(manifest.load(Files(), source).next_segment_id))
    kill(journal)
    with open(orphan, "wb") as file:
        file.write(b"half a header")
    crash_everywhere(tmp_path, source, {1: (1, b"one")})


@BOTH
def test_crash_inside_the_creation_of_a_log(tmp_path: Path, strategy: str) -> None:
    """Until the manifest exists nothing was promised; the next start creates the log."""
    at = 0
    while True:
        log, files = str(tmp_path / f"new{at}"), FaultyFiles(crash_at=at)
        try:
            journal, _ = open_log(log, files, strategy=strategy)
        except Crash:
            at += 1
            journal, plan = open_log(log, strategy=strategy)
            assert not plan.loss_possible, files.steps[-1:]
            append(journal, b"x")
            kill(journal)
            assert reopen(log)[0] == {1: (1, b"x")}
            shutil.rmtree(log)
            continue
        files.crash_at = None
        stop(journal)
        break
    assert at > 10


@BOTH
def test_crash_inside_a_roll(tmp_path: Path, strategy: str) -> None:
    """Both strategies' rolls are the same steps; entries acknowledged before it are there after any crash."""
    for at in range(60):
        log, files = str(tmp_path / f"roll{at}"), FaultyFiles()
        journal, _ = open_log(log, files, strategy=strategy)
        expected: Entries = {}
        files.crash_at = len(files.steps) + at
        try:
            for _ in range(8):
                expected[append(journal, b"x" * 10_000)] = (1, b"x" * 10_000)
            before = journal.rolls
        except Crash:
            kill(journal)
            entries, plan = reopen(log)
            assert not plan.loss_possible, files.steps[-1:]
            assert {index: entries[index] for index in expected} == expected, files.steps[-1:]
            assert len(entries) <= len(expected) + 1
            shutil.rmtree(log)
            continue
        kill(journal)
        assert before >= 2
        break
    else:
        pytest.fail("the harness never got past the roll")
