"""Backups that are cut short, and of a log that moves: the copy is whole and true, or it is no log."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.faulty_files import KEPT, LOST, TORN, Crash, FaultyFiles, PoweredFiles

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.backup import backup, make_copy
from raftlog_mp.errors import AccessDenied, ConfigError, CorruptLog, DiskFull, NotALog, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal

from . import changes, damaged
from .changes import OLD, Case, batch, purge, replace, reset
from .journals import BOTH, kill
from .test_backup import NO_CHANGE, BendingFiles, crashed, holds_nothing


# ---------------------------------------------------------------- faults, crashes, power cuts
def steps_of_a_copy(directory: str) -> int:
    """How many steps a whole copy takes."""
    files = FaultyFiles()
    make_copy(files, directory, directory + ".whole", progress=None, verify=True)
    return len(files.steps)


@pytest.mark.parametrize(
    ("code", "kind"), [(errno.ENOSPC, DiskFull), (errno.EIO, SyncFailed), (errno.EACCES, AccessDenied)]
)
def test_a_fault_at_any_step_leaves_nothing(log_dir: str, code: int, kind: type[Exception]) -> None:
    crashed(log_dir, "mem_first")
    for step in range(steps_of_a_copy(log_dir)):
        files = FaultyFiles()
        files.fail_at(step, code)
        with pytest.raises((AccessDenied, DiskFull, NotALog, SyncFailed)) as caught:
            make_copy(files, log_dir, log_dir + ".copy", progress=None, verify=True)
        # The directory itself; and behind a rename nobody can tell whether it is durable.
        assert caught.type in (kind, SyncFailed) or step <= 1
        assert log_dir + ".copy" in str(caught.value)
        assert holds_nothing(log_dir + ".copy"), step
        if step:
            os.rmdir(log_dir + ".copy")


@pytest.mark.parametrize("name", [fmt.MANIFEST_NAME, fmt.HARD_STATE_NAME])
def test_what_cannot_be_read_is_no_fault_of_the_target(log_dir: str, name: str) -> None:
    crashed(log_dir, "disk_first")
    files = FaultyFiles()
    files.fail("pread", errno.EIO, path=os.path.join(log_dir, name))
    with pytest.raises(CorruptLog, match=f"{log_dir}/{name} cannot be read"):
        make_copy(files, log_dir, log_dir + ".copy", progress=None, verify=True)
    assert holds_nothing(log_dir + ".copy")


def whole_or_none(target: str) -> bool:
    """Whether it is a log; if so it is the whole one."""
    try:
        manifest.load(Files(), target)
    except (NotALog, CorruptLog) as error:
        with pytest.raises((NotALog, CorruptLog)):
            rl.open_reader(target)
        assert isinstance(error, NotALog) or "manifest is missing" in str(error)
        return False
    assert changes.look(target)[0] == OLD
    return True


def test_after_a_crash_at_any_step_it_is_a_whole_log_or_none(log_dir: str) -> None:
    crashed(log_dir, "mem_first")
    whole = 0
    for step in range(steps_of_a_copy(log_dir)):
        target = f"{log_dir}.{step}"
        with pytest.raises(Crash):
            make_copy(FaultyFiles(crash_at=step), log_dir, target, progress=None, verify=True)
        whole += whole_or_none(target)
        if os.path.isdir(target) and os.listdir(target):
            with pytest.raises(ConfigError, match="not empty|is a log"):
                backup(log_dir, target)
    assert 0 < whole < 5, "the manifest comes last"


@pytest.mark.parametrize("fate", [TORN, *(pytest.param(fate, marks=pytest.mark.slow) for fate in (LOST, KEPT))])
def test_after_a_power_cut_at_any_step_it_is_a_whole_log_or_none(log_dir: str, tmp_path: Path, fate: str) -> None:
    crashed(log_dir, "mem_first")
    total, whole = steps_of_a_copy(log_dir), 0
    for step in range(total - 12, total + 1):
        files, target = PoweredFiles(crash_at=step), f"{log_dir}.{step}"
        try:
            make_copy(files, log_dir, target, progress=None, verify=True)
            assert step == total
        except Crash:
            pass
        for seed in range(8 if fate == TORN and step > total - 4 else 1):
            whole += whole_or_none(files.power_cut(target, f"{tmp_path}/cut-{step}-{seed}", fate, seed=seed))
    assert whole >= 1, "a copy that was finished is there"


# ---------------------------------------------------------------- a log that moves
class Moving(FaultyFiles):
    """Before the copy opens segment number ``number``, the log is changed."""

    def __init__(self, directory: str, number: int, change: Callable[[], None]) -> None:
        super().__init__()
        self._begun, self._source = directory + ".copy/LOCK", directory + "/"
        self._number, self._change, self.seen = number, change, 0

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if path.startswith(self._source) and path.endswith(".seg") and os.path.exists(self._begun):
            if self.seen == self._number:
                self._change()
            self.seen += 1
        return super().open(path, write=write, create=create, exclusive=exclusive)


CHANGES: dict[str, Callable[[Journal], None]] = {
    "purge": purge(9), "replace": replace(3, batch(9, b"new")), "reset": reset(0, 0),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("what", CHANGES)
def test_segments_that_go_while_they_are_copied(log_dir: str, strategy: str, what: str) -> None:
    """The copy is the log before the change, or after it."""
    for number in range(3):
        directory = f"{log_dir}{number}"
        journal = changes.build(directory, FaultyFiles(), strategy, NO_CHANGE, flushed=False)
        files = Moving(directory, number, partial(changes.perform, journal, Case(CHANGES[what], OLD)))
        make_copy(files, directory, directory + ".copy", progress=None, verify=True)
        assert files.seen > number
        kill(journal)
        copied, after = changes.look(directory + ".copy")[0], changes.look(directory)[0]
        assert copied in (OLD, after) and after != OLD
        assert copied == after or files.seen == 3, "it was chosen anew because a segment had gone"


# ---------------------------------------------------------------- a log that repair has sealed around damage
def test_a_known_hole_is_in_the_copy_too(log_dir: str) -> None:
    """What repair has given up stays told as lost; everything else is served."""
    log = damaged.build(log_dir, clean=True)
    log.hit(5)
    assert damaged.carry_out(damaged.planned(log_dir))
    rest = {index: entry for index, entry in damaged.written().items() if index != 5}
    make_copy(FaultyFiles(), log_dir, log_dir + ".copy", progress=None, verify=True)
    damaged.promised(log_dir + ".copy", rest, holes=((5, 5),))


def test_beside_a_known_hole_the_bytes_are_compared(log_dir: str) -> None:
    log = damaged.build(log_dir, clean=True)
    log.hit(5)
    damaged.carry_out(damaged.planned(log_dir))
    with pytest.raises(CorruptLog, match="not what was written"):
        make_copy(BendingFiles(), log_dir, log_dir + ".copy", progress=None, verify=True)


def test_caches_beside_a_known_hole_that_cannot_be_read_are_left_out(log_dir: str) -> None:
    log = damaged.build(log_dir)
    log.hit(14)
    damaged.carry_out(damaged.planned(log_dir))
    files = FaultyFiles()
    segment = damaged.segment_of(log_dir, 1).segment_id
    for name in (fmt.index_name(segment), fmt.terms_name(segment)):
        files.fail("pread", errno.EIO, path=os.path.join(log_dir, name))
    make_copy(files, log_dir, log_dir + ".copy", progress=None, verify=True)
    assert not os.path.exists(os.path.join(log_dir + ".copy", fmt.index_name(segment)))
    rest = {index: entry for index, entry in damaged.written().items() if index != 14}
    with rl.open_reader(log_dir + ".copy") as reader:
        damaged.check_reads(reader, rest, holes=((14, 14),))
