"""No space or a failing disk at every step of a truncation, replacement, purge or reset; and rot in what came of it."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from crc32c import crc32c
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest, shm
from raftlog_mp.errors import DiskFull, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.layout import NOTHING_REMOVED

from .changes import ASKER, CASES, Case, build, check_words, goes_on, look
from .journals import BOTH, append, copy_log, entries_of, flip, kill, lose_memory, open_log, refused, stop

CHOSEN = [
    "truncate inside a record of the newest segment", "replace by several terms", "purge inside a record",
    "reset to a boundary ahead",
]  # fmt: skip


def every_step(folder: Path, strategy: str, case: Case, *, flushed: bool = True) -> list[tuple[Any, ...]]:
    """The steps of the change when nothing goes wrong."""
    files = FaultyFiles()
    journal = build(str(folder / "steps"), files, strategy, case, flushed=flushed)
    files.revive()
    case.act(journal)
    kill(journal)
    return files.steps


def begin(log: str, strategy: str, case: Case, *, flushed: bool = True) -> tuple[FaultyFiles, Journal]:
    """A log where the change is about to begin."""
    files = FaultyFiles()
    journal = build(log, files, strategy, case, flushed=flushed)
    files.revive()
    return files, journal


def as_before(journal: Journal, case: Case, epoch: int) -> None:
    """In memory nothing has changed; readers are told that nothing went, and need not wait."""
    words = journal.control.snapshot()
    assert (journal.purged, journal.last_term, journal.next_index - 1) == (case.old.purged, *case.old.last)
    assert (words["purged_term"], words["purged_index"]) == case.old.purged
    assert (words["last_term"], words["last_index"]) == case.old.last
    assert journal.terms.runs.term_of(case.old.last.index) == case.old.last.term
    assert words["terms"] % (1 << layout.TERM_EDITION_SHIFT) >= len(journal.terms.runs)
    assert words["epoch"] % 2 == 0
    assert journal.control.lowest_removed(epoch, words["epoch"]) == NOTHING_REMOVED
    assert journal.producers.look_up(ASKER, 1) == ("new", None), "whoever asks again is not told that it happened"
    shared = [name.partition("-")[0] for name in os.listdir(journal.folder)]
    assert sorted(shared) == ["control", "index", "ring", "terms"], "what was made for the change is gone"


# ---------------------------------------------------------------- no space
@pytest.mark.parametrize(("strategy", "name"), [("disk_first", name) for name in CHOSEN] + [("mem_first", CHOSEN[1])])
def test_no_space_at_any_step_changes_nothing(tmp_path: Path, strategy: str, name: str) -> None:
    """DiskFull; the log goes on, and the same change succeeds when there is space."""
    case = CASES[name]
    full, helped, steps = 0, 0, every_step(tmp_path, strategy, case)
    for at, step in enumerate(steps):
        log = str(tmp_path / f"full{at}")
        files, journal = begin(log, strategy, case)
        epoch = journal.control.epoch.load(shm.ACQUIRE)
        files.fail_at(at, errno.ENOSPC)
        try:
            case.act(journal)
        except DiskFull as error:
            full += 1
            assert error.errno == errno.ENOSPC and "nothing was changed" in str(error), step
        except SyncFailed:
            # Once the manifest was renamed nobody can say what a crash would leave: the failure is final.
            assert step[0] == "sync_dir" and steps[at - 1][0] == "rename", step
            kill(journal)
            shutil.rmtree(log)
            continue
        else:
            # A purge finds room for its manifest in the files that it is about to remove.
            assert name.startswith("purge") and "manifest.tmp" in step[1], f"the error at {step} was passed over"
            assert check_words(journal)[1:] == case.new[1:]
            helped += 1
            kill(journal)
            assert look(log)[:2] == (case.new, case.recorded), step
            shutil.rmtree(log)
            continue
        assert journal.failure is None
        assert not [left for left in os.listdir(log) if left.endswith(".tmp")], "nothing is left half made"
        as_before(journal, case, epoch)
        killed = copy_log(log, log + "-killed")
        assert look(killed)[:2] == (case.old, False), step
        case.act(journal)
        assert check_words(journal)[1:] == case.new[1:], step
        kill(journal)
        assert look(log)[:2] == (case.new, case.recorded), step
        shutil.rmtree(log)
        shutil.rmtree(killed)
    assert full + helped > 3 and bool(helped) == name.startswith("purge")


@pytest.mark.parametrize("kind", ["index", "terms"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.ENOMEM])
def test_no_room_for_shared_memory_changes_nothing(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, kind: str, code: int
) -> None:
    """The index and the table of term runs stand on a file system, too: usually the log's own."""
    case = CASES["replace by several terms"]
    _, journal = begin(log_dir, "disk_first", case)
    epoch, create = journal.control.epoch.load(shm.ACQUIRE), shm.create_file

    def short(path: str, length: int) -> shm.Mapping:
        if os.path.basename(path).startswith(kind):
            raise OSError(code, "injected")
        return create(path, length)

    with monkeypatch.context() as patch:
        patch.setattr(shm, "create_file", short)
        with pytest.raises(DiskFull):
            case.act(journal)
    as_before(journal, case, epoch)
    assert journal.failure is None
    killed = copy_log(log_dir, log_dir + "-killed", power_cut=True)
    assert look(killed)[0] == case.old
    case.act(journal)
    kill(journal)
    lose_memory(log_dir)
    assert look(log_dir)[0] == case.new


# ---------------------------------------------------------------- the disk fails
@pytest.mark.parametrize(("name", "strategy", "lasting"), [
    (CHOSEN[0], "disk_first", False), (CHOSEN[0], "mem_first", True), (CHOSEN[1], "disk_first", True),
    (CHOSEN[1], "mem_first", False), (CHOSEN[2], "disk_first", False), (CHOSEN[3], "disk_first", False),
])  # fmt: skip
def test_a_failing_disk_is_latched_and_a_restart_shows_the_old_or_the_new_log(
    tmp_path: Path, name: str, strategy: str, lasting: bool
) -> None:
    """At every step; ``lasting``: every step that follows fails, too.  In MemFirst the end was not flushed before."""
    case, flushed = CASES[name], strategy == "disk_first"
    for at, step in enumerate(every_step(tmp_path, strategy, case, flushed=flushed)):
        log = str(tmp_path / f"bad{at}")
        files, journal = begin(log, strategy, case, flushed=flushed)
        epoch = journal.control.epoch.load(shm.ACQUIRE)
        files.fail_at(at, errno.EIO, lasting=lasting)
        with pytest.raises(SyncFailed):
            case.act(journal)
        assert journal.failure is not None and journal.control.state.load(shm.ACQUIRE) == layout.STATE_FAILED
        as_before(journal, case, epoch)
        files.heal()
        before = len(files.steps)
        journal.append(b"x", crc32c(b"x"), 1, 100, 0, 0)
        with pytest.raises(SyncFailed):
            journal.flush()
        assert len(files.steps) == before, "the disk is not touched again"
        kill(journal)
        picture, recorded, _ = look(log)
        assert picture in (case.old, case.new), step
        assert recorded == (picture == case.new and case.recorded), step
        goes_on(log, picture)
        shutil.rmtree(log)


@BOTH
def test_after_no_space_a_purge_of_everything_helps(log_dir: str, strategy: str) -> None:
    """What the error advises: the active segment is sealed already, holds nothing any more, and the log goes on."""
    case = CASES["truncate inside a record of the newest segment"]
    files, journal = begin(log_dir, strategy, case)
    files.fail("create", errno.ENOSPC, path="manifest.tmp")
    with pytest.raises(DiskFull):
        journal.roll()
    journal.purge_to(11)
    assert append(journal, b"goes on", term=4) == 12
    stop(journal)
    assert entries_of(log_dir) == {12: (4, b"goes on")}


def test_after_no_space_and_a_purge_of_everything_a_log_closes(log_dir: str) -> None:
    files, journal = begin(log_dir, "disk_first", CASES["purge everything"])
    files.fail("create", errno.ENOSPC, path="manifest.tmp")
    with pytest.raises(DiskFull):
        journal.roll()
    journal.purge_to(11)
    stop(journal)
    state = manifest.load(Files(), log_dir)
    assert (state.purged_index, state.purged_term, state.clean) == (11, 4, True)
    journal, _ = open_log(log_dir)
    picture = check_words(journal)
    stop(journal)
    assert picture == CASES["purge everything"].new


# ---------------------------------------------------------------- rot
@pytest.mark.parametrize("name", ["replace by several terms", "replace everything"])
def test_rot_in_a_replaced_suffix_is_corruption_and_not_a_torn_tail(log_dir: str, name: str) -> None:
    """It was durable before anybody was told: a power cut cannot have torn it."""
    _, journal = begin(log_dir, "disk_first", CASES[name])
    CASES[name].act(journal)
    path, end = journal.segment.path, fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    kill(journal)
    lose_memory(log_dir)
    for offset in (fmt.DATA_OFFSET + 60, fmt.DATA_OFFSET + fmt.RECORD_BYTES, end - 1):
        flip(path, offset)
        refused(log_dir, "J", segment=os.path.basename(path))
        flip(path, offset)
    assert look(log_dir)[0] == CASES[name].new


# ---------------------------------------------------------------- what is left behind
def test_files_that_a_crash_left_behind_go_at_the_next_start(log_dir: str) -> None:
    """Row B: files of segments that the manifest has passed and no longer lists."""
    _, journal = begin(log_dir, "disk_first", CASES["replace everything"])
    CASES["replace everything"].act(journal)
    dead = [fmt.segment_name(info.segment_id) for info in journal.take_dead()]
    kill(journal)
    assert len(dead) == 3 and set(dead) < set(os.listdir(log_dir)), "the process died before it removed them"
    _, _, plan = look(log_dir)
    assert [(found.letter, found.file) for found in plan.findings if found.letter == "B"] == [("B", n) for n in dead]
    assert not set(dead) & set(os.listdir(log_dir))
    assert not os.path.exists(os.path.join(log_dir, fmt.QUARANTINE_NAME)), "removed on purpose: nothing to keep aside"
