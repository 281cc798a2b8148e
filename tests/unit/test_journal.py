"""What each step of the pipeline leaves behind, in memory and on disk."""

from __future__ import annotations

import os
from typing import Any

from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.config import MIB
from raftlog_mp.files import Files

from .journals import BOTH, append, commit, end_offset, entries_of, kill, open_log, put, read_at, reopen, stop


# ---------------------------------------------------------------- what each step leaves behind
def test_disk_first_flush_is_write_sync_publish(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    put(journal, b"one")
    put(journal, b"two")
    assert journal.published < journal.end and journal.unflushed_entries == 2
    assert journal.control.last_index.load(0) == 0
    before = len(files.steps)
    journal.flush()
    name = os.path.basename(journal.segment.path)
    assert [step[0] for step in files.steps[before:] if step[1].endswith(name)][-2:] == ["pwrite", "sync"]
    assert [step[0] for step in files.steps[before:]].count("sync") == 1
    assert journal.durable == journal.end and journal.unflushed_entries == 0
    assert journal.control.last_index.load(0) == 0, "durable, and not yet visible"
    journal.publish()
    assert journal.control.last_index.load(0) == 2 and journal.control.durable_index.load(0) == 2
    stop(journal)


def test_one_fsync_covers_everything_that_was_appended(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    fsyncs = journal.fsyncs
    for _ in range(100):
        put(journal, b"x")
    journal.flush()
    assert journal.fsyncs == fsyncs + 1 and journal.durable_index == 100
    journal.flush()
    assert journal.fsyncs == fsyncs + 1, "nothing to do, nothing done"
    stop(journal)


def test_mem_first_publishes_before_it_syncs(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one")
    assert journal.control.last_index.load(0) == 1 and journal.control.durable_index.load(0) == 0
    assert journal.control.unflushed_entries.load(0) == 1
    journal.flush()
    assert journal.control.durable_index.load(0) == 1 and journal.control.unflushed_entries.load(0) == 0
    stop(journal)


def test_a_job_covers_only_what_was_copied_when_it_was_made(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"one")
    job = journal.job = journal.make_job()
    append(journal, b"two")
    job.run()
    journal.finish_job()
    assert journal.durable_index == 1 and journal.unflushed_entries == 1
    stop(journal)
    assert len(entries_of(log_dir)) == 2


def test_roll_order(log_dir: str) -> None:
    """Create k+1 and make it durable; seal k, durably; k+1's head, durably; only then list it in the manifest."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"one")
    old, new = (fmt.segment_name(journal.segment.header.segment_id + n) for n in (0, 1))
    before = len(files.steps)
    journal.roll()
    journal.flush()
    steps = [(step[0], os.path.basename(step[1]), *step[2:3]) for step in files.steps[before:]]

    def place(operation: str, name: str, at: Any = None) -> int:
        wanted = (operation, name) if at is None else (operation, name, at)
        return next(number for number, step in enumerate(steps) if step[: len(wanted)] == wanted)

    created = place("create", new)
    assert created < place("sync_all", new) < place("sync_dir", "log") < place("pwrite", old, fmt.SEAL_OFFSET)
    assert place("pwrite", old, fmt.SEAL_OFFSET) < place("sync_all", old) < place("truncate", old)
    assert place("truncate", old) < place("pwrite", new, fmt.DATA_OFFSET) < place("sync", new)
    assert place("sync", new) < place("rename", "manifest.tmp")
    assert ("pwrite", old) not in [step[:2] for step in steps[place("truncate", old) :]], "nobody writes to k again"
    stop(journal)


def test_segment_is_listed_with_its_size_before_its_first_record(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    for _ in range(8):
        append(journal, b"x" * 10_000)
        state = manifest.load(Files(), log_dir)
        newest = state.segments[-1]
        assert newest.segment_id == journal.segment.header.segment_id and not newest.sealed
        assert os.path.getsize(journal.segment.path) == newest.file_bytes
        assert all(info.sealed for info in state.segments[:-1])
    stop(journal)


def test_roll_by_index_capacity(log_dir: str) -> None:
    """Zero-byte payloads fill the index before they fill the segment."""
    journal, _ = open_log(log_dir, segment_bytes=MIB)
    slots = journal.index.slots
    batch = [b""] * 30_000
    while journal.next_index < slots + 10:
        append(journal, *batch)
    assert journal.rolls >= 2
    stop(journal)
    assert len(entries_of(log_dir)) == journal.next_index - 1


# ---------------------------------------------------------------- room
def test_a_full_ring_asks_for_a_flush_first(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first", segment_bytes=4 * MIB)
    while journal.fits(30_000, 1):
        append(journal, b"x" * 30_000)
    assert journal.control.floor.load(0) <= journal.durable
    assert journal.end - journal.durable <= journal.ring.ring_bytes
    journal.flush()
    assert journal.fits(30_000, 1)
    append(journal, b"x" * 30_000)
    stop(journal)


def test_the_buffer_limits_are_kept(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first", max_buffered_bytes=100_000, max_buffered_entries=5)
    for _ in range(5):
        assert journal.fits(10, 1)
        append(journal, b"x" * 10)
    assert not journal.fits(10, 1)
    journal.flush()
    assert journal.fits(90_000, 1) and journal.fits(10, 50), "an empty buffer takes any legal batch"
    append(journal, b"x" * 50)
    assert not journal.fits(100_000, 1)
    stop(journal)


def test_a_mark_stays_inside_the_preallocated_segment(log_dir: str) -> None:
    """A mark in a segment that is full to its last byte must not grow the file: space there is not reserved."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"x" * (journal.segment.end_limit - journal.end - fmt.RECORD_BYTES))
    assert journal.end == journal.segment.end_limit and journal.wants_mark
    path = journal.segment.path
    journal.mark()
    commit(journal)
    assert os.path.getsize(path) <= journal.segment.header.file_bytes
    kill(journal)
    assert len(reopen(log_dir)[0]) == 1


@BOTH
def test_a_mark_is_wanted_once(log_dir: str, strategy: str) -> None:
    journal, _ = open_log(log_dir, strategy=strategy)
    assert not journal.wants_mark
    append(journal, b"x")
    journal.flush()
    assert journal.wants_mark
    journal.mark()
    assert not journal.wants_mark
    commit(journal)
    journal.flush()
    assert not journal.wants_mark
    stop(journal)
    assert len(entries_of(log_dir)) == 1


def test_header_states_what_was_durable_when_it_was_written(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    durable, at = journal.durable, end_offset(journal)
    append(journal, b"two")
    header = fmt.read_record_header(read_at(journal.segment.path, at, 88), 0)
    assert header is not None
    assert (header.durable, header.generation, header.base_index) == (durable, 1, 2)
    stop(journal)
