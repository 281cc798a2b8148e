"""Recovery from a dead writer's ring, and after a disk that failed: the ring is the true copy then."""

from __future__ import annotations

import errno
import os

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest
from raftlog_mp.control import open_control
from raftlog_mp.errors import SyncFailed
from raftlog_mp.files import Files

from .journals import (
    BOTH,
    Entries,
    append,
    entries_of,
    failed_log,
    flip,
    kill,
    letters,
    open_log,
    overwrite,
    put,
    quarantined,
    refused,
    reopen,
    stop,
    tail_path,
)


# ---------------------------------------------------------------- the ring (rows P to T)
def mem_first(log_dir: str, *payloads: bytes) -> str:
    """A killed MemFirst log whose acknowledged entries are only in the ring."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    for payload in payloads:
        append(journal, payload)
    assert journal.durable < journal.published
    kill(journal)
    return log_dir


def ring_path(log: str) -> str:
    return os.path.join(log, "shm", fmt.ring_name(manifest.load(Files(), log).generation))


def test_ring_is_replayed_with_index_and_exactly_once_table(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one", producer=5, sequence=1)
    append(journal, b"two", b"three", producer=5, sequence=2)
    kill(journal)
    journal, plan = open_log(log_dir)
    assert letters(plan) == "MQ" and not plan.loss_possible
    assert journal.durable_index == 3, "what was taken from the ring is durable before anybody is served"
    assert journal.producers.look_up(5, 1) == ("appended", (1, 1, 1))
    assert journal.producers.look_up(5, 2) == ("appended", (2, 2, 1))
    stop(journal)
    assert entries_of(log_dir) == {1: (1, b"one"), 2: (1, b"two"), 3: (1, b"three")}


def test_nothing_past_published_is_taken(log_dir: str) -> None:
    """A whole, valid record lies in the ring behind the commit word: nobody was told about it."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"acknowledged")
    put(journal, b"copied, never published")
    journal.copy_to_ring()
    assert journal.copied > journal.published
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"acknowledged")} and letters(plan) == "MQ"


def test_damaged_ring_is_refused(log_dir: str) -> None:
    """Row R: an acknowledged entry exists nowhere else."""
    log = mem_first(log_dir, b"one", b"two")
    with open(ring_path(log), "rb") as file:
        at = file.read().index(b"two")
    flip(ring_path(log), at)
    refused(log, "R")


def test_no_new_entry_gets_the_id_of_one_that_was_lost_with_the_ring(log_dir: str) -> None:
    """The files know nothing of its term; the dead writer's control block does."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one", term=2)
    append(journal, b"two", term=5)
    generation = journal.generation
    kill(journal)
    os.unlink(os.path.join(log_dir, "shm", fmt.ring_name(generation)))
    journal, plan = open_log(log_dir)
    assert plan.loss_possible and journal.manifest.term_floor > 5
    kill(journal)


def test_missing_ring_says_that_loss_is_possible(log_dir: str) -> None:
    log = mem_first(log_dir, b"one")
    os.unlink(ring_path(log))
    entries, plan = reopen(log)
    assert plan.loss_possible and letters(plan) == "MS"
    assert entries == {}
    assert manifest.load(Files(), log).loss_possible


def test_ring_of_another_boot_is_ignored(log_dir: str) -> None:
    log = mem_first(log_dir, b"one")
    generation = manifest.load(Files(), log).generation
    control = open_control(os.path.join(log, "shm", fmt.control_name(generation)), writable=True)
    control.boot_id_low.store(control.boot_id_low.load(0) ^ 1, 0)
    control.close()
    entries, plan = reopen(log)
    assert plan.loss_possible and letters(plan) == "MT" and entries == {}


@pytest.mark.parametrize("word", ["log_id", "generation", "magic"])
def test_control_block_of_something_else_is_not_believed(log_dir: str, word: str) -> None:
    log = mem_first(log_dir, b"one")
    generation = manifest.load(Files(), log).generation
    offset = layout.CONTROL_WORDS[word] + (7 if word == "magic" else 0)  # its low half is the version of the layout
    overwrite(os.path.join(log, "shm", fmt.control_name(generation)), offset, b"\x77")
    assert letters(reopen(log)[1]) == "MS"


def test_ring_that_wrapped_is_replayed(log_dir: str) -> None:
    """More than a ring of bytes went through; the unflushed suffix crosses the ring's end."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    expected: Entries = {}
    while journal.end < journal.ring.ring_bytes - 20_000:
        expected[append(journal, b"f" * 9_000)] = (1, b"f" * 9_000)
    journal.flush()
    while journal.end < journal.ring.ring_bytes + 10_000:
        payload = b"%d" % journal.end * 700
        expected[append(journal, payload)] = (1, payload)
    assert journal.durable < journal.ring.ring_bytes < journal.published
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == expected and letters(plan).endswith("Q")


# ---------------------------------------------------------------- FAILED
@BOTH
def test_after_a_failed_sync_only_durable_bytes_and_the_ring_count(log_dir: str, strategy: str) -> None:
    """Row I: the pages past the mark look right, but the device may not have them; the ring is the true copy."""
    acknowledged = failed_log(log_dir, strategy)
    old = os.path.basename(tail_path(log_dir))
    journal, plan = open_log(log_dir)
    assert letters(plan) == ("IQ" if strategy == "mem_first" else "I")
    assert not plan.loss_possible
    assert os.path.basename(journal.segment.path) != old, "not onto the same pages"
    assert journal.durable_index == len(acknowledged)
    assert append(journal, b"goes on") == len(acknowledged) + 1
    stop(journal)
    assert entries_of(log_dir) == acknowledged | {len(acknowledged) + 1: (1, b"goes on")}
    assert b"doubtful" in quarantined(log_dir)[0]
    assert not manifest.load(Files(), log_dir).failed


def test_the_latch_holds_from_the_control_block_alone(log_dir: str) -> None:
    """The disk took not even the manifest: the control block of this boot still says FAILED."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"durable")
    put(journal, b"doubtful")
    files.fail("sync", errno.EIO)
    files.fail("create", errno.EIO, path="manifest.tmp")
    with pytest.raises(SyncFailed):
        journal.flush()
    kill(journal)
    assert not manifest.load(Files(), log_dir).failed
    entries, plan = reopen(log_dir)
    assert letters(plan) == "I" and entries == {1: (1, b"durable")}
