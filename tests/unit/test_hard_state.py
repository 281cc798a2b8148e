"""The hard state: either slot alone is enough, and rot never brings back an older vote."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from support.faulty_files import KEPT, LOST, TORN, Crash, FaultyFiles, PoweredFiles

from raftlog_mp import format as fmt
from raftlog_mp import hard_state, layout, repair, startup
from raftlog_mp.errors import CorruptLog, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.types import HardState, LogId

from .journals import flip, kill, open_log, quarantined, read_at

FILES = Files()


def slots(*states: tuple[HardState, int]) -> bytes:
    return b"".join(hard_state._pack(state, version) for state, version in states)


def test_initial(tmp_path: Path) -> None:
    hard_state.create(FILES, str(tmp_path))
    assert hard_state.load(FILES, str(tmp_path)) == HardState(0, None)
    assert os.path.getsize(hard_state.hard_state_path(str(tmp_path))) == fmt.HARD_STATE_FILE_BYTES


@pytest.mark.parametrize("vote", ["n1", 7, None, "", "ü" * 100])
def test_votes_of_every_kind(tmp_path: Path, vote: str | int | None) -> None:
    FILES.write_file(hard_state.hard_state_path(str(tmp_path)), slots((HardState(3, vote), 1), (HardState(3, vote), 1)))
    assert hard_state.load(FILES, str(tmp_path)) == HardState(3, vote)


def test_the_newer_slot_counts_wherever_it_stands(tmp_path: Path) -> None:
    old, new = (HardState(3, "a"), 4), (HardState(4, "b"), 5)
    for order in ((old, new), (new, old)):
        FILES.write_file(hard_state.hard_state_path(str(tmp_path)), slots(*order))
        assert hard_state.load(FILES, str(tmp_path)) == HardState(4, "b")


@pytest.mark.parametrize("slot", [0, fmt.HARD_STATE_SLOT_BYTES])
def test_one_rotten_slot_at_any_byte(tmp_path: Path, slot: int) -> None:
    """Any bit of one slot: the other one still says the vote."""
    path, raw = hard_state.hard_state_path(str(tmp_path)), slots((HardState(4, "b"), 5), (HardState(4, "b"), 5))
    length = len(hard_state._pack(HardState(4, "b"), 5).rstrip(b"\0"))
    FILES.write_file(path, raw)
    for offset in range(slot, slot + length):
        for bit in range(8):
            flip(path, offset, bit)
            assert hard_state.load(FILES, str(tmp_path)) == HardState(4, "b"), (offset, bit)
            flip(path, offset, bit)


@pytest.mark.parametrize("keep", [60, 100, 4095, 4096, 5000])
def test_a_file_that_was_cut_gets_both_slots_back(tmp_path: Path, keep: int) -> None:
    """The slot that still says the vote is rewritten last, and only if it is not whole."""
    path = hard_state.hard_state_path(str(tmp_path))
    whole = slots((HardState(4, "b"), 5), (HardState(4, "b"), 5))
    FILES.write_file(path, whole)
    os.truncate(path, keep)
    assert keep >= len(whole[: fmt.HARD_STATE_SLOT_BYTES].rstrip(b"\0")), "the first slot still says it"
    files = FaultyFiles()
    assert hard_state.heal(files, str(tmp_path)) == (HardState(4, "b"), 5)
    assert FILES.read_file(path) == whole
    written = [step[2] for step in files.steps if step[0] == "pwrite"]
    assert written == ([fmt.HARD_STATE_SLOT_BYTES, 0] if keep < fmt.HARD_STATE_SLOT_BYTES else [4096])
    assert hard_state.heal(files, str(tmp_path)) == (HardState(4, "b"), 5)
    assert len([step for step in files.steps if step[0] == "pwrite"]) == len(written), "nothing is left to heal"


def test_both_slots_rotten_or_file_missing(tmp_path: Path) -> None:
    path = hard_state.hard_state_path(str(tmp_path))
    with pytest.raises(CorruptLog, match="missing"):
        hard_state.load(FILES, str(tmp_path))
    hard_state.create(FILES, str(tmp_path))
    flip(path, 30)
    flip(path, 30 + fmt.HARD_STATE_SLOT_BYTES)
    with pytest.raises(CorruptLog, match="both slots"):
        hard_state.load(FILES, str(tmp_path))
    os.truncate(path, 0)
    with pytest.raises(CorruptLog):
        hard_state.load(FILES, str(tmp_path))


def test_what_cannot_be_read_is_damage_that_names_the_reason(tmp_path: Path) -> None:
    files, path = FaultyFiles(), hard_state.hard_state_path(str(tmp_path))
    hard_state.create(FILES, str(tmp_path))
    files.fail("pread", errno.EIO, path=fmt.HARD_STATE_NAME)
    with pytest.raises(CorruptLog, match="cannot be read") as caught:
        hard_state.load(files, str(tmp_path))
    assert path in str(caught.value) and isinstance(caught.value.__cause__, OSError)
    os.unlink(path)
    os.mkdir(path)
    with pytest.raises(CorruptLog, match="cannot be read: Is a directory"):
        hard_state.load(FILES, str(tmp_path))


# ---------------------------------------------------------------- saving
OLD, NEW = HardState(7, "a" * 1500), HardState(8, "b" * 1800)  # of several sectors each, so that a slot can be torn


def test_save_writes_and_syncs_each_slot_in_turn(tmp_path: Path) -> None:
    files = FaultyFiles()
    hard_state.create(files, str(tmp_path))
    for version in (1, 2, 3):
        files.steps.clear()
        hard_state.save(files, str(tmp_path), HardState(version, "x"), version)
        first = version % 2 * fmt.HARD_STATE_SLOT_BYTES
        assert [(step[0], *step[2:3]) for step in files.steps] == [
            ("pwrite", first), ("sync",), ("pwrite", fmt.HARD_STATE_SLOT_BYTES - first), ("sync",),
        ]  # fmt: skip
        assert hard_state.load_version(FILES, str(tmp_path)) == (HardState(version, "x"), version)
        assert (tmp_path / fmt.HARD_STATE_NAME).read_bytes() == slots(*[(HardState(version, "x"), version)] * 2)


def test_a_reader_takes_no_version_that_is_not_known_to_be_durable(tmp_path: Path) -> None:
    path = hard_state.hard_state_path(str(tmp_path))
    FILES.write_file(path, slots((OLD, 4), (NEW, 5)))
    assert hard_state.load(FILES, str(tmp_path), 4) == OLD and hard_state.load(FILES, str(tmp_path), 5) == NEW
    assert hard_state.load_version(FILES, str(tmp_path), 4) == (OLD, 4)
    FILES.write_file(path, slots((NEW, 5), (NEW, 5)))
    assert hard_state.load(FILES, str(tmp_path), 4) == NEW, "the first slot was synced before the second was written"


# ---------------------------------------------------------------- crashes
def saved(folder: Path, files: FaultyFiles, crash_at: int) -> bool:
    """A file with OLD, acknowledged, and a save of NEW that dies before a step.  Whether it was complete."""
    folder.mkdir()
    hard_state.create(files, str(folder))
    hard_state.save(files, str(folder), OLD, 1)
    files.revive(crash_at)
    try:
        hard_state.save(files, str(folder), NEW, 2)
    except Crash:
        return False
    return True


def power_cuts(folder: Path, files: PoweredFiles, torn: int = 24) -> Iterator[str]:
    """What the next boot may find."""
    for fate, seeds in ((LOST, 1), (KEPT, 1), (TORN, torn)):
        for seed in range(seeds):
            dark = files.power_cut(str(folder), f"{folder}-dark", fate, seed)
            yield dark
            shutil.rmtree(dark)


@pytest.mark.parametrize("at", range(5))
def test_a_power_cut_inside_a_save_leaves_the_old_state_or_the_new(tmp_path: Path, at: int) -> None:
    files, folder = PoweredFiles(), tmp_path / "log"
    complete = saved(folder, files, at)
    found = {hard_state.load(FILES, dark) for dark in power_cuts(folder, files)}
    assert found <= {OLD, NEW}
    assert complete == (at == 4) and (not complete or found == {NEW}), "what was answered stays"
    assert at != 0 or found == {OLD}


@pytest.mark.parametrize("at", range(5))
def test_a_crash_inside_a_save_then_a_power_cut_inside_the_next_start(tmp_path: Path, at: int) -> None:
    """The writer dies, its successor heals and serves what it found, the power fails: never back, never torn."""
    for again in range(5):
        files, folder = PoweredFiles(), tmp_path / f"log{again}"
        saved(folder, files, at)
        files.revive(again)
        served = None
        try:
            served = hard_state.heal(files, str(folder))[0]
        except Crash:
            pass
        for dark in power_cuts(folder, files):
            found = hard_state.heal(FaultyFiles(), dark)[0]
            assert found in (OLD, NEW) and served in (None, found), (again, files.steps)
            raw = Path(hard_state.hard_state_path(dark)).read_bytes()
            assert raw[: fmt.HARD_STATE_SLOT_BYTES] == raw[fmt.HARD_STATE_SLOT_BYTES :], "healed"


def rotten(folder: Path, files: Files, slot: int) -> bytes:
    """A log directory with a vote, one slot of it damaged; what stands in that slot."""
    folder.mkdir()
    hard_state.create(files, str(folder))
    hard_state.save(files, str(folder), OLD, 1)
    path = hard_state.hard_state_path(str(folder))
    flip(path, 300 + slot * fmt.HARD_STATE_SLOT_BYTES)
    return read_at(path, slot * fmt.HARD_STATE_SLOT_BYTES, fmt.HARD_STATE_SLOT_BYTES).rstrip(b"\0")


def heal_as_a_start(files: Files, folder: str) -> HardState:
    """What a start does; the damaged bytes go to ``quarantine/`` first."""
    return hard_state.heal(files, folder, keep=lambda at, size: startup._keep_slot(files, folder, at, size))[0]


@pytest.mark.parametrize("slot", [0, 1])
def test_a_damaged_slot_is_kept_before_a_start_writes_it_again(tmp_path: Path, slot: int) -> None:
    """A crash before each step of it, a kill or a power cut: the vote is there, and the bytes, in place or aside."""
    at, complete = 0, False
    while not complete:
        files, folder = PoweredFiles(), tmp_path / f"at{at}"
        bad = rotten(folder, FILES, slot)
        files.close(files.open(hard_state.hard_state_path(str(folder))))  # from here on the disk is a model
        files.revive(at)
        try:
            heal_as_a_start(files, str(folder))
            complete = True
        except Crash:
            pass
        for dark in chain(power_cuts(folder, files, torn=3), [str(folder)]):
            raw = Path(hard_state.hard_state_path(dark)).read_bytes()
            assert bad in quarantined(dark) or bad in raw, at
            assert heal_as_a_start(FaultyFiles(), dark) == OLD
            raw = Path(hard_state.hard_state_path(dark)).read_bytes()
            assert raw == slots((OLD, 1), (OLD, 1)) and bad in quarantined(dark)
        at += 1
    assert at > 6


def test_a_quarantine_that_a_killed_start_has_made_is_synced_by_the_next(tmp_path: Path) -> None:
    """Before the damaged bytes go: or a power cut would take the folder, and what was kept in it."""
    files, folder = FaultyFiles(), tmp_path / "log"
    rotten(folder, FILES, 0)
    (folder / fmt.QUARANTINE_NAME).mkdir()
    heal_as_a_start(files, str(folder))
    steps = [step[:2] for step in files.steps]
    overwritten = steps.index(("pwrite", hard_state.hard_state_path(str(folder))))
    assert ("sync_dir", str(folder)) in steps[:overwritten]


def test_so_it_is_by_a_repair(log_dir: str) -> None:
    kill(open_log(log_dir)[0])
    flip(hard_state.hard_state_path(log_dir), 30)
    Path(log_dir, fmt.LOCK_NAME).touch()
    Path(log_dir, fmt.QUARANTINE_NAME).mkdir()
    files = FaultyFiles()
    repair.apply(repair.plan(log_dir), files=files)
    steps = [step[:2] for step in files.steps]
    overwritten = steps.index(("pwrite", hard_state.hard_state_path(log_dir)))
    assert ("sync_dir", log_dir) in steps[:overwritten]


class LazyFiles(PoweredFiles):
    """Leaves out the first sync of each process."""

    def sync(self, fd: int) -> None:
        if "sync" in [step[0] for step in self.steps]:
            super().sync(fd)
        else:
            self._step("sync", "left out")


def test_control_a_save_that_writes_both_slots_before_it_syncs_is_caught(tmp_path: Path) -> None:
    files, folder = LazyFiles(), tmp_path / "log"
    saved(folder, files, 3)
    with pytest.raises(CorruptLog, match="both slots"):
        for dark in power_cuts(folder, files):
            hard_state.load(FILES, dark)


def test_control_a_start_that_heals_from_an_unsynced_slot_is_caught(tmp_path: Path) -> None:
    files, folder = LazyFiles(), tmp_path / "log"
    saved(folder, files, 1)
    files.revive(2)
    with pytest.raises(Crash):
        hard_state.heal(files, str(folder))
    with pytest.raises(CorruptLog, match="both slots"):
        for dark in power_cuts(folder, files):
            hard_state.load(FILES, dark)


# ---------------------------------------------------------------- in a log
def test_a_log_comes_back_with_its_hard_state_whatever_happens_to_its_entries(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    journal.save_hard_state(HardState(3, "n1"))
    journal.save_hard_state(HardState(4, None))
    assert journal.hard == HardState(4, None)
    words = journal.control.snapshot()
    assert (words["hard_term"], words["hard_version"]) == (4, 2)
    journal.reset(LogId(2, 9), 1, 1)
    assert journal.hard == HardState(4, None)
    kill(journal)
    flip(hard_state.hard_state_path(log_dir), 30)
    bad = read_at(hard_state.hard_state_path(log_dir), 0, fmt.HARD_STATE_SLOT_BYTES).rstrip(b"\0")
    journal, _ = open_log(log_dir)
    words = journal.control.snapshot()
    assert journal.hard == HardState(4, None) and (words["hard_term"], words["hard_version"]) == (4, 2)
    raw = Path(hard_state.hard_state_path(log_dir)).read_bytes()
    assert raw == slots((HardState(4, None), 2), (HardState(4, None), 2)), "the rotten slot was healed"
    assert quarantined(log_dir) == [bad], "and is kept"
    kill(journal)


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("at", range(4))
def test_an_error_at_any_step_of_a_save_is_latched_and_forgets_no_vote(log_dir: str, at: int, code: int) -> None:
    files = FaultyFiles()
    journal, _ = open_log(log_dir, files)
    journal.save_hard_state(OLD)
    files.revive()
    files.fail_at(at, code)
    with pytest.raises(SyncFailed):
        journal.save_hard_state(NEW)
    words = journal.control.snapshot()
    assert journal.failure is not None and words["state"] == layout.STATE_FAILED
    assert journal.hard == OLD and (words["hard_term"], words["hard_version"]) == (OLD.term, 1), "not told to anybody"
    assert hard_state.load(FILES, log_dir, 1) == (NEW if at == 3 else OLD)
    kill(journal)
    journal, _ = open_log(log_dir)
    assert journal.hard in (OLD, NEW)
    kill(journal)
