"""Repair dies at any step: the next one brings the log to the same end, and nothing is lost that was not given up."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import check, errors, hard_state, log_reader, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.files import Files

from .damaged import Damaged, build, carry_out, written
from .journals import Entries, copy_log, flip, kill, open_log, snapshot
from .keeping import not_kept

Hole = tuple[int, int]
DURABLE = ("sync", "sync_all", "sync_dir")  # a process that dies before them leaves the same as one that dies behind


def hole_in_the_tail(log: Damaged) -> None:
    log.hit(25)


def holes_everywhere(log: Damaged) -> None:
    for index in (5, 15, 25):
        log.hit(index, header=True)
    flip(os.path.join(log.path, fmt.segment_name(1)), fmt.SEAL_OFFSET + 20)
    flip(os.path.join(log.path, fmt.segment_name(3)), 20)


def no_manifest(log: Damaged) -> None:
    flip(manifest.manifest_path(log.path), 100)
    log.hit(15)


def segment_gone(log: Damaged) -> None:
    os.unlink(os.path.join(log.path, fmt.segment_name(2)))


def end_gone(log: Damaged) -> None:
    for index in range(27, 31):
        log.hit(index, header=True)


def behind_the_seal(log: Damaged) -> None:
    """Something stands where a sealed segment has ended, and its seal is damaged: it is cut when that is rewritten."""
    path = os.path.join(log.path, fmt.segment_name(1))
    flip(path, fmt.SEAL_OFFSET + 20)
    with open(path, "ab") as file:
        file.write(b"whose is this?" * 50)
    log.hit(5)


def short(log: Damaged) -> None:
    """A sealed segment ends in mid-record, its seal is whole."""
    place = log.places[8]
    os.truncate(os.path.join(log.path, place.name), place.offset + 10)


def vote_gone(log: Damaged) -> None:
    for slot in range(2):
        flip(hard_state.hard_state_path(log.path), 20 + slot * fmt.HARD_STATE_SLOT_BYTES)


def purged_and_gone(log: Damaged) -> None:
    """The purge boundary lies inside the segment that is missing."""
    journal, _ = open_log(log.path)
    journal.purge_to(5)
    kill(journal)
    os.unlink(os.path.join(log.path, fmt.segment_name(1)))


CASES: dict[str, tuple[Callable[[Damaged], None], int, tuple[Hole, ...], dict[str, object]]] = {
    "a hole in the tail": (hole_in_the_tail, 30, ((24, 26),), {}),
    "holes, seals, headers": (holes_everywhere, 30, ((5, 5), (15, 15), (24, 26)), {}),
    "manifest and a hole": (no_manifest, 30, ((15, 15),), {}),
    "a missing segment": (segment_gone, 10, (), {"truncate_from": 11}),
    "a missing segment, partly purged": (purged_and_gone, 0, (), {"truncate_from": 6}),
    "a hopeless end": (end_gone, 24, (), {"truncate_from": 25}),
    "bytes behind a seal": (behind_the_seal, 30, ((5, 5),), {}),
    "a short segment": (short, 30, ((8, 10),), {}),
    "a forgotten vote": (vote_gone, 30, (), {"accept_loss": True}),
}


def crash_everywhere(tmp_path: Path, source: str, expected: Entries, how: dict[str, object], stride: int) -> int:
    """Kill the repairing process before every ``stride``-th step that changes a file; plan again, and end the same."""
    files, path, before = FaultyFiles(), copy_log(source, str(tmp_path / "whole")), snapshot(source)
    repair.apply(repair.plan(path, **how), files=files)  # type: ignore[arg-type]
    assert not_kept(before, path) == []
    due = [at for at, step in enumerate(files.steps) if step[0] not in DURABLE][::stride]
    for at in due:
        path, files = copy_log(source, str(tmp_path / f"crash{at}")), FaultyFiles(crash_at=at)
        with pytest.raises(Crash):
            repair.apply(repair.plan(path, **how), files=files)  # type: ignore[arg-type]
        files.bury()
        where, again = f"after a crash before {at}, {files.steps[-1:]}", repair.plan(path)
        if again.needed:
            again = repair.plan(path, **how) if again.blocked else again  # type: ignore[arg-type]
            assert not again.blocked, f"{where}: {again.sentences()}"
            carry_out(again)
        assert check.check_log(path).sound and not repair.plan(path).needed, where
        with log_reader.open_reader(path) as reader:
            assert served(reader) == expected, where
        assert not_kept(before, path) == [], where
        shutil.rmtree(path)
    return len(due)


def served(reader: log_reader.LogReader) -> Entries:
    """Everything that is not lost."""
    found: Entries = {}
    for index in range(reader.first_index, reader.last_index + 1):
        with contextlib.suppress(errors.CorruptLog):
            entry = reader.get(index)
            assert entry is not None
            found[index] = (entry.term, entry.payload)
    return found


@pytest.mark.parametrize("stride", [5, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CASES)
def test_a_crash_at_every_step(tmp_path: Path, name: str, stride: int) -> None:
    damage, last, holes, how = CASES[name]
    log = build(str(tmp_path / "log"))
    damage(log)
    lost = {index for low, high in holes for index in range(low, high + 1)}
    expected = {index: entry for index, entry in written(1, last).items() if index not in lost}
    assert crash_everywhere(tmp_path, log.path, expected, how, stride) * stride > 10


def test_control_a_crash_before_the_manifest_leaves_work_to_do(tmp_path: Path) -> None:
    """Were the bytes cut before anything was kept, the second repair could not tell."""
    log, files = build(str(tmp_path / "log")), FaultyFiles()
    hole_in_the_tail(log)
    repair.apply(repair.plan(log.path), files=files)
    steps = [(step[0], os.path.basename(str(step[-1 if step[0] == "rename" else 1]))) for step in files.steps]
    kept, sealed = steps.index(("rename", "plan.json")), steps.index(("truncate", fmt.segment_name(3)))
    noted = steps.index(("rename", fmt.MANIFEST_NAME))
    assert kept < noted < sealed < len(steps)
    assert Files().exists(manifest.manifest_path(log.path))


def test_a_crash_before_a_suffix_is_dropped_leaves_its_damage_known(tmp_path: Path) -> None:
    """What was to be dropped is still in the log then: its damage is a hole, in which no entry matches."""
    log, files = build(str(tmp_path / "log"), clean=True), FaultyFiles()
    for index in (15, 16, 17):
        log.hit(index, header=True)
    whole = copy_log(log.path, str(tmp_path / "whole"))
    repair.apply(repair.plan(whole, truncate_from=15), files=files)
    first = next(at for at, step in enumerate(files.steps) if step[0] == "rename" and step[1].endswith("manifest.tmp"))
    files = FaultyFiles(crash_at=first + 1)
    with pytest.raises(Crash):
        repair.apply(repair.plan(log.path, truncate_from=15), files=files)
    files.bury()
    assert manifest.load(Files(), log.path).lost_at(16) is not None and check.check_log(log.path).lost == 3
    with log_reader.open_reader(log.path) as reader, pytest.raises(errors.CorruptLog, match="15 to 17 are lost"):
        reader.get(16)


@pytest.mark.parametrize("again", [False, True], ids=["a start", "another repair"])
@pytest.mark.parametrize("clean", [False, True], ids=["killed", "closed"])
def test_a_hole_of_an_interrupted_repair_can_be_filled(tmp_path: Path, clean: bool, again: bool) -> None:
    """Whatever was committed: the manifest that notes the hole says that nothing behind it is."""
    log, files = build(str(tmp_path / "log"), clean=clean, committed=29), FaultyFiles()
    log.hit(15)
    repair.apply(repair.plan(copy_log(log.path, str(tmp_path / "whole"))), files=files)
    noted = next(at for at, step in enumerate(files.steps) if step[0] == "rename" and step[1].endswith("manifest.tmp"))
    files = FaultyFiles(crash_at=noted + 1)
    with pytest.raises(Crash):
        repair.apply(repair.plan(log.path), files=files)
    files.bury()
    if again:
        carry_out(repair.plan(log.path))
    for _ in range(2):
        journal, _ = open_log(log.path)
        kill(journal)
        assert journal.manifest.commit_index == 14 and manifest.load(Files(), log.path).lost_at(15)


def test_an_interrupted_repair_does_not_make_committed_entries_droppable(tmp_path: Path) -> None:
    """A hole in one segment is noted before the next one turns out to be gone."""
    log = build(str(tmp_path / "log"), committed=29)
    log.hit(5)
    segment_gone(log)
    plan = repair.plan(log.path, truncate_from=5)
    assert [one.needs for one in plan.blocked] == ["--truncate-from 5 --accept-loss"]
    assert "up to 29 are committed" in plan.blocked[0].sentence
