"""A disk without space or with errors: what the journal refuses, latches, and goes on with."""

from __future__ import annotations

import errno

import pytest
from crc32c import crc32c
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest, shm, terms
from raftlog_mp.errors import DiskFull, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.syncer import Syncer

from .journals import BOTH, admits, append, commit, kill, open_log, put, reopen

# ---------------------------------------------------------------- no space
STEPS_OF_A_ROLL = [  # the new segment, the old one's index file, the manifest
    ("create", "{new}"), ("preallocate", "{new}"), ("pwrite", "{new}"), ("sync_all", "{new}"), ("sync", "{new}"),
    ("create", "{old}.idx.tmp"), ("pwrite", "{old}.idx.tmp"),
    ("create", "manifest.tmp"), ("pwrite", "manifest.tmp"), ("sync_all", "manifest.tmp"),
]  # fmt: skip


@BOTH
@pytest.mark.parametrize(("operation", "name"), STEPS_OF_A_ROLL)
def test_no_space_at_a_roll(log_dir: str, strategy: str, operation: str, name: str) -> None:
    """Nothing changes, everything stays readable, and it works again when there is space."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    expected = {}
    for _ in range(5):
        expected[append(journal, b"x" * 10_000)] = (1, b"x" * 10_000)
    segment = journal.segment.header.segment_id
    files.fail(operation, errno.ENOSPC, path=name.format(new=fmt.segment_name(segment + 1), old=f"{segment:016x}"))
    end, index = journal.end, journal.next_index
    with pytest.raises(DiskFull) as caught:
        for _ in range(3):
            index, end = journal.next_index, journal.end
            expected[append(journal, b"y" * 10_000)] = (1, b"y" * 10_000)
    assert caught.value.errno == errno.ENOSPC and "free space" in str(caught.value)
    assert (journal.next_index, journal.end) == (index, end) and journal.failure is None
    assert journal.control.state.load(0) != layout.STATE_FAILED
    for _ in range(9):
        expected[append(journal, b"z" * 10_000)] = (1, b"z" * 10_000)
    kill(journal)
    assert reopen(log_dir)[0] == expected


def no_space(path: str, length: int) -> shm.Mapping:
    raise OSError(errno.ENOSPC, "full")


def test_no_space_for_another_term(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused while there is room for what was let in, and nothing is latched; terms go on when there is space."""
    monkeypatch.setattr(terms, "RUNS_AT_FIRST", 16)
    journal, _ = open_log(log_dir)
    expected = {append(journal, b"x", term=term): (term, b"x") for term in range(1, 8)}
    with monkeypatch.context() as full:
        full.setattr(shm, "create_file", no_space)
        for term in range(8, 13):
            assert admits(journal, 1, 1)
            expected[append(journal, b"x", term=term)] = (term, b"x")
        index, end = journal.next_index, journal.end
        for _ in range(3):
            assert not admits(journal, 1, 1), "the hot path asks first"
            with pytest.raises(DiskFull) as caught:
                append(journal, b"y", term=13)
            assert caught.value.errno == errno.ENOSPC
        journal.flush()
        assert not admits(journal, 1, 1), "also behind a flush"
        assert (journal.next_index, journal.end) == (index, end) and journal.failure is None
        for term in range(13, 17):  # of one request that was let in
            journal.append(b"z", crc32c(b"z"), 1, term, 0, 0)
            expected[journal.next_index - 1] = (term, b"z")
        commit(journal)
        assert journal.failure is None
    for term in range(17, 40):
        expected[append(journal, b"x", term=term)] = (term, b"x")
        assert admits(journal, 1, 1)
    kill(journal)
    assert reopen(log_dir)[0] == expected


@BOTH
def test_no_space_then_killed(log_dir: str, strategy: str) -> None:
    """The old segment was sealed, the manifest could not say so; a mark follows, then the process dies."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    append(journal, b"one")
    journal.flush()
    files.fail("create", errno.ENOSPC, path="manifest.tmp")
    with pytest.raises(DiskFull):
        journal.roll()
    if journal.wants_mark:
        journal.mark()
        journal.flush()
        journal.publish()
    kill(journal)
    entries, plan = reopen(log_dir)
    assert entries == {1: (1, b"one")} and not plan.loss_possible


# ---------------------------------------------------------------- a failed fsync is final
@BOTH
def test_failed_sync_is_latched_and_never_retried(log_dir: str, strategy: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy=strategy)
    append(journal, b"durable")
    journal.flush()
    durable, published = journal.durable, journal.published
    put(journal, b"doubtful")
    files.fail("sync", errno.EIO)
    with pytest.raises(SyncFailed) as caught:
        journal.flush()
    assert caught.value.errno == errno.EIO and journal.segment.path in str(caught.value)
    assert journal.control.state.load(0) == layout.STATE_FAILED
    assert journal.durable == journal.control.durable.load(0) == durable and journal.published == published
    state = manifest.load(Files(), log_dir)
    assert state.failed and state.durable == durable
    before = len(files.steps)
    for _ in range(3):
        with pytest.raises(SyncFailed):
            journal.flush()
    assert len(files.steps) == before, "the disk is not touched again"
    with pytest.raises(SyncFailed):
        journal.roll()
    assert len(files.steps) == before
    journal.close(clean=True)
    assert not manifest.load(Files(), log_dir).clean
    journal.control.close()


@pytest.mark.parametrize("operation", ["pwrite", "sync"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_every_error_under_a_flush_is_final(log_dir: str, operation: str, code: int) -> None:
    """Space is preallocated, so even ENOSPC means that the file system breaks its word."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    put(journal, b"x")
    files.fail(operation, code, path=".seg")
    with pytest.raises(SyncFailed):
        journal.flush()
    assert journal.failure is not None
    kill(journal)


@pytest.mark.parametrize("operation", ["create", "sync_all", "rename"])
def test_io_error_at_a_roll_is_final(log_dir: str, operation: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    append(journal, b"one")
    files.fail(operation, errno.EIO)
    with pytest.raises(SyncFailed):
        journal.roll()
    assert journal.failure is not None and journal.control.state.load(0) == layout.STATE_FAILED
    kill(journal)
    assert reopen(log_dir)[0] == {1: (1, b"one")}


def test_error_in_the_helper_thread_reaches_the_main_thread(log_dir: str) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files, strategy="mem_first")
    append(journal, b"one")
    syncer = Syncer()
    files.fail("sync", errno.EIO)
    journal.job = journal.make_job()
    syncer.submit(journal.job)
    with pytest.raises(SyncFailed):
        journal.finish_job()
    syncer.close()
    assert journal.durable_index == 0
    kill(journal)
