"""A full disk: appends are refused, everything else goes on, and so do appends when there is space again."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles
from support.processes import alive, no_writer_after, script, wait_until
from support.small_disk import Disk, small_disk
from unit.journals import BOTH, append, entries_of, kill, open_log, reopen

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal

SMALL = {"ring_bytes": 1 << 20, "segment_bytes": 256 << 10, "lane_bytes": 64 << 10, "idle_mark_ms": 5}

# Appends, says of every refusal where the log ends then, and ends with the first append after a purge.
APPENDER = """
import sys, time, raftlog_mp as rl
with rl.open_log(sys.argv[1], autostart=False, timeout=60.0) as log:
    while True:
        try:
            index = log.append(b"b" * 9000)
            if log.first_index > 1:
                break
        except rl.DiskFull as error:
            assert error.errno == 28 and "free space" in str(error)
            print("full", log.last_index, flush=True)
            time.sleep(0.05)
    print("again", index, flush=True)
"""


def half_made(path: str) -> list[str]:
    """Files that a step has begun and not finished."""
    return [name for folder, _, names in os.walk(path) for name in names if name.endswith(".tmp")]


def everything(log: rl.Log | rl.LogReader) -> list[bytes]:
    return [entry.payload for entry in log.read(log.first_index)]


@pytest.mark.parametrize(("kind", "size_mib", "strategy"), [
    ("ext4", 12, "disk_first"), ("tmpfs", 8, "mem_first"),
    pytest.param("tmpfs", 8, "disk_first", marks=pytest.mark.slow),
    pytest.param("ext4", 12, "mem_first", marks=pytest.mark.slow),
])  # fmt: skip
def test_a_real_full_disk(tmp_path: Path, kind: str, size_mib: int, strategy: str) -> None:
    with small_disk(tmp_path / "disk", kind, size_mib) as disk:
        path = str(disk.path / "log")
        with no_writer_after(path):
            writer = rl.start_writer(path, rl.LogConfig(strategy=strategy, **SMALL))  # type: ignore[arg-type]
            with script(APPENDER, path) as other, rl.open_log(path, timeout=60.0) as log:
                for _ in range(66):  # several segments: a purge that lets no file go needs space for itself
                    log.append_many([b"a" * 9000] * 3)
                full_and_idle(disk, log, path)
                last = log.last_index
                while other.line() != f"full {last}":
                    pass  # refused before: a roll that failed gave its space back, and somebody found it
                # What a writer that never sleeps for long does when it is idle, it has tried many times by now.
                assert alive(writer.pid) and log.stats().state == "running" and half_made(path) == []
                generation = log.stats().generation
                assert log.last_index == last, "refused to one handle, and to the other"
                purge_makes_room(disk, log, last)
                while (said := other.line().split())[0] == "full":
                    assert int(said[1]) == last
                again = int(said[1])
                assert other.wait() == 0 and last < again, "one handle after the other, as space allows"
                assert log.append(b"after") > again and log.stats().generation == generation, "without a restart"
                full_and_idle(disk, log, path)
                held = everything(log)
            writer.stop()
            disk.fill()
            stopped_on_a_full_disk(disk, path, held)


def full_and_idle(disk: Disk, log: rl.Log, path: str) -> None:
    """Not one byte is left.  Appends are refused with the reason; hard state and reading go on."""
    disk.fill()
    with pytest.raises(rl.DiskFull) as caught:
        while True:
            log.append(b"a" * 9000)
    disk.fill()  # what the roll that failed has given back
    assert caught.value.errno == errno.ENOSPC and "free space" in str(caught.value)
    with pytest.raises(rl.DiskFull):
        log.truncate_from(log.last_index)
    with rl.open_reader(path) as reader:
        assert reader.get(reader.last_index) is not None and len(everything(reader)) == len(reader)


def purge_makes_room(disk: Disk, log: rl.Log, last: int) -> None:
    """With no space at all a purge succeeds, and its files' space comes back."""
    disk.fill()
    log.purge_to(last - 5)
    assert log.first_index == last - 4
    wait_until("the space is there", lambda: disk.free_bytes > 1 << 20)


def stopped_on_a_full_disk(disk: Disk, path: str, held: list[bytes]) -> None:
    """Readers need no space; a writer does, and says so; with space it goes on where it was."""
    with rl.open_reader(path) as reader:
        assert everything(reader) == held
    with pytest.raises(rl.DiskFull):
        rl.start_writer(path)
    disk.free()
    with rl.start_writer(path), rl.open_log(path, timeout=60.0) as log:
        assert everything(log) == held
        log.save_hard_state(rl.HardState(7, "n1"))
        assert log.append(b"goes on", term=7) == log.last_index


def test_the_hard_state_is_saved_on_a_full_disk(tmp_path: Path) -> None:
    """Both slots are there from the log's creation: a vote needs no space."""
    with small_disk(tmp_path / "disk", "ext4", 10) as disk:
        path = str(disk.path / "log")
        config = rl.LogConfig(**SMALL)  # type: ignore[arg-type]
        with no_writer_after(path), rl.start_writer(path, config), rl.open_log(path, timeout=60.0) as log:
            disk.fill()
            for term in range(1, 20):
                log.save_hard_state(rl.HardState(term, "x" * 200))
            assert disk.free_bytes < 4096 and log.hard_state == rl.HardState(19, "x" * 200)


# ---------------------------------------------------------------- every step, with files that say ENOSPC
def filled(log_dir: str, files: FaultyFiles, strategy: str) -> tuple[Journal, dict[int, tuple[int, bytes]]]:
    """A log of several segments."""
    journal, _ = open_log(log_dir, files, strategy=strategy)
    expected = {append(journal, payload): (1, payload) for payload in [b"%d" % n * 6000 for n in range(24)]}
    assert len(journal.manifest.segments) > 2
    return journal, expected


@BOTH
def test_an_idle_mark_without_space_waits_for_the_next_append(log_dir: str, strategy: str) -> None:
    """A mark is no reason to fail, nor to try again and again."""
    files = FaultyFiles()
    journal, expected = filled(log_dir, files, strategy)
    journal.flush()
    assert journal.wants_mark
    journal._limit = journal.end  # the segment is full to its last byte
    files.fail("preallocate", errno.ENOSPC)
    journal.mark()
    assert not journal.wants_mark and journal.failure is None
    expected[append(journal, b"next")] = (1, b"next")
    journal.flush()
    assert journal.wants_mark, "it is owed again"
    kill(journal)
    assert reopen(log_dir)[0] == expected


@BOTH
def test_a_purge_without_space_finds_it_in_what_goes(log_dir: str, strategy: str) -> None:
    """At every step that writes the manifest; killed right afterwards, the log is purged."""
    for operation in ("create", "pwrite", "sync_all"):
        place, files = f"{log_dir}-{operation}", FaultyFiles()
        journal, expected = filled(place, files, strategy)
        files.fail(operation, errno.ENOSPC, path="manifest.tmp")
        journal.purge_to(20)
        assert journal.failure is None and journal.purged == (1, 20) and half_made(place) == []
        kill(journal)
        assert reopen(place)[0] == {index: entry for index, entry in expected.items() if index > 20}


def test_a_purge_that_finds_no_space_changes_nothing(log_dir: str) -> None:
    """The caches that it removed in vain are rebuilt by whoever needs them."""
    files = FaultyFiles()
    journal, expected = filled(log_dir, files, "disk_first")
    for _ in range(2):
        files.fail("pwrite", errno.ENOSPC, path="manifest.tmp")
    with pytest.raises(rl.DiskFull):
        journal.purge_to(20)
    assert journal.purged == (0, 0) and journal.failure is None and half_made(log_dir) == []
    kill(journal)
    with rl.open_reader(log_dir) as reader:
        assert {entry.index: (entry.term, entry.payload) for entry in reader.read(1)} == expected
    assert reopen(log_dir)[0] == expected


@BOTH
def test_stopping_without_space_loses_nothing(log_dir: str, strategy: str) -> None:
    """At every step of the end: what can be left out is left out, and the next start finds the rest by itself."""
    files = FaultyFiles()
    journal, _ = filled(log_dir, files, strategy)
    files.revive()
    journal.close(clean=True)
    journal.control.close()
    clean = []
    for at, step in enumerate(files.steps):
        if step[0] in ("unlink", "truncate", "sync"):
            continue  # they need no space
        place, faulty = f"{log_dir}-{at}", FaultyFiles()
        journal, expected = filled(place, faulty, strategy)
        faulty.revive()
        faulty.fail_at(at, errno.ENOSPC)
        try:
            journal.close(clean=True)
        except rl.SyncFailed:
            # Into blocks that were reserved: a disk that has no space for those has failed.
            assert step[0] == "sync_dir" or (step[0] == "pwrite" and step[1].endswith(".seg"))
            journal.close(clean=False)
        clean.append(manifest.load(Files(), place).clean)
        assert half_made(place) == [] and journal.control.state.load(0) != layout.STATE_STOPPED
        journal.control.close()
        entries, plan = reopen(place)
        assert entries == expected and not plan.loss_possible, step
    assert True in clean and False in clean


def test_a_cache_that_found_no_space_is_rebuilt(log_dir: str) -> None:
    """The log is stopped in order without them."""
    files = FaultyFiles()
    journal, expected = filled(log_dir, files, "disk_first")
    name = fmt.index_name(manifest.load(Files(), log_dir).segments[-1].segment_id)
    files.fail("create", errno.ENOSPC, path=name + ".tmp")
    journal.close(clean=True)
    journal.control.close()
    assert manifest.load(Files(), log_dir).clean and name not in os.listdir(log_dir)
    assert entries_of(log_dir) == expected
    with rl.open_reader(log_dir) as reader:
        assert {entry.index: (entry.term, entry.payload) for entry in reader.read(1)} == expected
