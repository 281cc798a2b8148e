"""A roll behind the back of those who append (MemFirst): a crash, a power cut or an error at each step of it."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faulty_files import LOST, TORN, Crash, FaultyFiles, PoweredFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest
from raftlog_mp.backup import make_copy
from raftlog_mp.check import check_log
from raftlog_mp.errors import CorruptLog, DiskFull, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.findings import make_plan
from raftlog_mp.mending import apply_plan
from raftlog_mp.rolling import RollJob
from raftlog_mp.segment import SegmentWriter

from .journals import admits, entries_of, kill, letters, open_log, reopen, snapshot, stop
from .readers import reader_of
from .rolls import PRODUCER, SYNCS, Appender, begin, do_at_once, life, to_the_border, work


@pytest.fixture(autouse=True, params=[1, -1], ids=["in order", "the other way round"])
def _at_once(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps of a roll whose syncs overlap, one after the other in either order."""
    do_at_once(monkeypatch, request.param)


def dry_run(folder: Path, rolls: int = 1) -> list[tuple[Any, ...]]:
    """Every step of that life."""
    files = FaultyFiles()
    journal = begin(str(folder / "steps"), files)
    files.revive()
    life(Appender(journal), rolls)
    assert journal.rolls == rolls + 1 and journal._roll is None
    kill(journal)
    return files.steps


def check_killed(log: str, one: Appender) -> None:
    """Nothing acknowledged is lost, nothing else is there, no sentence of ``check`` is worse than a note."""
    reader, _ = reader_of(log, None)
    assert {e.index: (e.term, e.payload) for e in reader.read(1, len(one.done) + 1, None)} == one.done
    reader.close()
    assert not [found for found in check_log(log).findings if found.severity == "damage"]
    journal, plan = open_log(log)
    for index, (term, _) in one.done.items():
        assert journal.producers.look_up(PRODUCER, index) == ("appended", (index, 1, term))
        assert journal.terms.runs.term_of(index) == term
    stop(journal)
    entries = entries_of(log)
    assert entries in (one.done, one.done | one.begun) and not plan.loss_possible, letters(plan)
    assert not os.path.exists(os.path.join(log, fmt.QUARANTINE_NAME))
    listed = {fmt.segment_name(info.segment_id) for info in manifest.load(Files(), log).segments}
    assert {name for name in os.listdir(log) if name.endswith(".seg")} == listed


def crashes(
    folder: Path, skip: tuple[str, ...] = (), rolls: int = 1
) -> Iterator[tuple[str, PoweredFiles, Appender, int]]:
    """The log after a crash before each step: path, disk, what was acknowledged, and what was durable."""
    for at, step in enumerate(dry_run(folder, rolls)):
        if step[0] in skip:
            continue
        log, files = str(folder / f"at{at}"), PoweredFiles()
        journal = begin(log, files)
        one = Appender(journal)
        files.revive(crash_at=at)
        with pytest.raises(Crash):
            life(one, rolls)
        files.bury()
        durable = journal.control.durable_index.load(0)
        kill(journal)
        yield log, files, one, durable
        shutil.rmtree(log)


# ---------------------------------------------------------------- crashes
ROLLS = pytest.mark.parametrize("rolls", [1, pytest.param(3, marks=pytest.mark.slow)])


@ROLLS
def test_killed_at_every_step(tmp_path: Path, rolls: int) -> None:
    seen = 0
    for log, _, one, _ in crashes(tmp_path, SYNCS, rolls):
        check_killed(log, one)
        seen += 1
    assert seen > 15


@pytest.mark.parametrize("moment", range(5))
def test_killed_while_the_ring_holds_records_of_two_segments(log_dir: str, moment: int) -> None:
    """Between the jobs; what the old segment's file gets of the new one's records may be more than it had room for."""
    journal = begin(log_dir)
    one = Appender(journal)
    to_the_border(one)
    for _ in range(9):
        one()
    assert journal._roll is not None
    for _ in range(moment // 2):
        work(journal)
    if moment % 2:  # a job was done, and nobody has learnt of it
        journal.make_job().run()
    kill(journal)
    check_killed(log_dir, one)
    assert reopen(log_dir)[0] == entries_of(log_dir)


def check_dark(log: str, one: Appender, durable: int) -> None:
    """After a power cut: everything that was durable, and of the rest a suffix may be missing, which is told."""
    entries, plan = reopen(log)
    everything = one.done | one.begun
    assert entries == {index: everything[index] for index in range(1, len(entries) + 1)}
    assert len(entries) >= durable
    assert plan.loss_possible or len(entries) >= len(one.done)


@ROLLS
@pytest.mark.parametrize("fate", [LOST, TORN])
def test_power_cut_at_every_step(tmp_path: Path, fate: str, rolls: int) -> None:
    skip = ("create", "preallocate", "pwrite", "truncate", "rename", "unlink") if fate == LOST else SYNCS
    for at, (log, files, one, durable) in enumerate(crashes(tmp_path, skip, rolls)):
        dark = files.power_cut(log, log + "-dark", fate, seed=at)
        check_dark(dark, one, durable)
        shutil.rmtree(dark)


def test_control_a_segment_that_is_listed_before_its_records_are_synced_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_over(job: RollJob, right: Any = RollJob._change_over) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(SegmentWriter, "sync", lambda segment: None)
            right(job)

    monkeypatch.setattr(RollJob, "_change_over", change_over)
    with pytest.raises((AssertionError, CorruptLog)):
        test_power_cut_at_every_step(tmp_path, LOST, 1)


# ---------------------------------------------------------------- errors
def test_an_error_at_every_step_is_latched(tmp_path: Path) -> None:
    """In whatever thread it came up.  What was acknowledged stays readable, and is there after a restart."""
    for at, step in enumerate(dry_run(tmp_path)):
        log, files = str(tmp_path / f"bad{at}"), FaultyFiles()
        journal = begin(log, files)
        one = Appender(journal)
        files.revive()
        files.fail_at(at, errno.EIO)
        with pytest.raises(SyncFailed):
            life(one)
            journal.roll()  # needs the segment that could not be prepared
        assert journal.failure is not None and journal.control.state.load(0) == layout.STATE_FAILED, step
        reader, _ = reader_of(log, journal)
        assert len(reader.read(1, len(one.done) + 1, None)) == len(one.done)
        reader.close()
        with pytest.raises(SyncFailed):
            journal.roll()
        kill(journal)
        assert reopen(log)[0] in (one.done, one.done | one.begun), step
        shutil.rmtree(log)


def test_no_space_at_every_step_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    final = 0
    for at, step in enumerate(dry_run(tmp_path)):
        log, files = str(tmp_path / f"full{at}"), FaultyFiles()
        journal = begin(log, files)
        one = Appender(journal)
        files.revive()
        files.fail_at(at, errno.ENOSPC)
        try:
            life(one)
            journal.flush()
            assert journal.failure is None and journal.rolls == 2
        except SyncFailed:
            final += 1
            # A disk that breaks its word: the space of a segment is reserved, and a name is as large as before.
            assert step[1].endswith(".seg") or step[0] == "sync_dir", step
        kill(journal)
        assert reopen(log)[0] in (one.done, one.done | one.begun), step
        shutil.rmtree(log)
    assert final


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_no_space_to_list_the_next_segment(log_dir: str, code: int) -> None:
    """Appends are refused, with nothing changed, until there is space; what was acknowledged is not at risk."""
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    one()
    work(journal)
    for _ in range(5):
        files.fail("create", code, path="manifest.tmp")
    work(journal)
    assert journal.failure is None and journal.owes_work and not admits(journal, 1, 1) and journal.fits(1, 1)
    for act in (one, journal.flush, lambda: journal.replace_from(1, [], 0, 0)):
        with pytest.raises(DiskFull):
            act()
    work(journal)
    copy = shutil.copytree(log_dir, log_dir + "-killed")
    assert reopen(copy)[0] == one.done
    journal.purge_to(2)  # which takes space, and makes some
    one()
    one()
    assert journal.rolls == 2
    stop(journal)
    assert entries_of(log_dir) == {index: entry for index, entry in one.done.items() if index > 2}


def test_no_space_at_the_end_leaves_the_rest_in_memory(log_dir: str) -> None:
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    one()
    for _ in range(3):
        files.fail("create", errno.ENOSPC, path="manifest.tmp")
    journal.close(clean=True)
    assert not manifest.load(Files(), log_dir).clean and journal.failure is None
    journal.control.close()
    assert reopen(log_dir)[0] == one.done


def test_a_copy_after_a_kill_at_every_step_is_what_recovery_would_keep(tmp_path: Path) -> None:
    """Also where the old segment is sealed and the next one not listed: the ring's entries stand in neither."""
    behind = seen = 0
    for log, _, one, _ in crashes(tmp_path, SYNCS):
        plan, seen = make_plan(Files(), log, manifest.load(Files(), log)), seen + 1
        sealed = bool(plan.ring_bytes) and plan.tail is None
        if not sealed and seen % 3:
            continue
        behind += sealed
        Path(log, fmt.LOCK_NAME).touch()
        before = snapshot(log)
        made = make_copy(FaultyFiles(), log, log + ".copy", progress=None, verify=True)
        assert snapshot(log) == before and made.verified and not check_log(made.target).problems
        assert made.segments == len(plan.segments) + 1
        check_killed(made.target, one)
        check_killed(log, one)
        assert entries_of(made.target) == entries_of(log)
        shutil.rmtree(made.target)
    assert behind > 3


def test_a_copy_after_a_start_that_was_killed_too(log_dir: str) -> None:
    """The disk had failed: what the ring holds goes behind the seal, and does not begin with a table."""
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    one()
    journal.flush()
    one()
    files.fail("sync", errno.EIO)
    with pytest.raises(SyncFailed):
        journal.flush()
    kill(journal)
    found = manifest.load(Files(), log_dir)
    apply_plan(Files(), log_dir, found, make_plan(Files(), log_dir, found))  # and dies before it has said so
    Path(log_dir, fmt.LOCK_NAME).touch()
    made = make_copy(FaultyFiles(), log_dir, log_dir + ".copy", progress=None, verify=True)
    assert (made.last_index, made.segments) == (2, 2)
    assert not check_log(made.target).problems
    check_killed(made.target, one)
