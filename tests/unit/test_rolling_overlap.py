"""The syncs of a roll that overlap: an error in one of them, in whatever thread, and the order that is left."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import journal as journal_module
from raftlog_mp import manifest, rolling
from raftlog_mp.errors import DiskFull, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.preparation import Together

from .journals import entries_of, kill, reopen, stop
from .rolls import SYNCS, Appender, begin, do_at_once, to_the_border, work


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    do_at_once(monkeypatch)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("operation", "name"), [
    ("pwrite", "{old}.seg"), ("sync_all", "{old}.seg"), ("pwrite", "{new}.seg"), ("sync", "{new}.seg"),
    ("sync_all", "manifest.tmp"), ("create", "manifest.tmp"), ("create", "{old}.idx.tmp"),
])  # fmt: skip
def test_an_error_under_syncs_that_overlap(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, operation: str, name: str, code: int
) -> None:
    """In whatever thread: the manifest does not list the segment, and the error means what it means in one thread."""
    monkeypatch.setattr(journal_module, "Together", Together)
    files = FaultyFiles()
    journal = begin(log_dir, files, "disk_first")
    one = Appender(journal)
    to_the_border(one)
    number = journal.segment.header.segment_id
    files.fail(operation, code, path=name.format(old=f"{number:016x}", new=f"{number + 1:016x}"))
    with pytest.raises(DiskFull if code == errno.ENOSPC else SyncFailed):
        journal.roll()
    assert not [thread for thread in threading.enumerate() if thread.name == "raftlog-roll"], "nobody is left behind"
    assert len(manifest.load(Files(), log_dir).segments) == 1
    if code == errno.ENOSPC:
        one()
        assert journal.rolls == 2
    kill(journal)
    assert reopen(log_dir)[0] == one.done


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize(("operation", "name"), [
    ("pwrite", "{old}.seg"), ("sync_all", "{old}.seg"), ("pwrite", "{new}.seg"), ("sync", "{new}.seg"),
    ("sync_all", "manifest.tmp"), ("create", "manifest.tmp"),
])  # fmt: skip
def test_an_error_under_syncs_that_overlap_behind(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, operation: str, name: str, code: int
) -> None:
    """MemFirst: a lack of space for the manifest is tried again; whatever else fails is a failed disk."""
    monkeypatch.setattr(rolling, "Together", Together)
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    number = journal.segment.header.segment_id
    one()
    work(journal)
    files.fail(operation, code, path=name.format(old=f"{number:016x}", new=f"{number + 1:016x}"))
    again = code == errno.ENOSPC and "manifest" in name
    journal.job = journal.make_job()
    journal.job.run()
    assert not [thread for thread in threading.enumerate() if thread.name == "raftlog-roll"], "nobody is left behind"
    assert len(manifest.load(Files(), log_dir).segments) == 1
    if again:
        journal.finish_job()
        work(journal)
        assert journal.rolls == 2 and journal.durable == journal.end
    else:
        with pytest.raises(SyncFailed):
            journal.finish_job()
    kill(journal)
    assert reopen(log_dir)[0] == one.done


def test_overlapping_syncs_end_before_the_manifest_is_replaced(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal_module, "Together", Together)
    files = FaultyFiles()
    journal = begin(log_dir, files, "disk_first")
    one, syncing, seen = Appender(journal), threading.Event(), list[str]()
    to_the_border(one)

    def told(step: tuple[Any, ...]) -> None:
        if step[0] == "sync_all" and step[1].endswith("manifest.tmp"):
            syncing.set()
        if step[0] in ("sync", "sync_all") and step[1].endswith(".seg"):
            assert syncing.wait(60), "the manifest's own sync does not wait for these"
        cache = any(str(part).endswith((".idx", ".trm", ".idx.tmp", ".trm.tmp")) for part in step[1:])
        if step[0] in (*SYNCS, "rename") and not cache:  # caches may come before, between or after the syncs
            seen.append(step[0] if step[0] != "sync_all" else "sync")

    files.listener = told
    journal.roll()
    assert seen[-5:] == ["sync", "sync", "sync", "rename", "sync_dir"], seen
    files.listener = None
    stop(journal)
    assert entries_of(log_dir) == one.done


@pytest.mark.parametrize("tries", [2, 3])
def test_a_purge_makes_the_room_that_a_roll_did_not_find(log_dir: str, tries: int) -> None:
    """Acknowledged entries wait in the ring for it: what is durable goes first, then they are written, then they go."""
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    one()
    work(journal)
    for _ in range(tries):  # the roll's own try, and the first of the purge
        files.fail("create", errno.ENOSPC, path="manifest.tmp")
    work(journal)
    last = journal.next_index - 1
    assert journal.durable_index < last
    if tries == 3:  # not even what was durable can be let go of: nothing has changed
        with pytest.raises(DiskFull):
            journal.settle_to(last)
        assert journal.purged.index == 0 and journal.durable_index < last
    journal.settle_to(last)
    assert journal.durable_index == last and journal.purged.index == (last - 1 if tries == 2 else 0)
    journal.purge_to(last)
    one()
    stop(journal)
    assert entries_of(log_dir) == {last + 1: one.done[last + 1]}
