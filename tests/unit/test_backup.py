"""A copy of a log is a log: whole, true, its own; and what could not be finished is none."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import check, hard_state, manifest, shm
from raftlog_mp import format as fmt
from raftlog_mp.backup import Backup, Progress, backup, make_copy
from raftlog_mp.errors import ConfigError, CorruptLog, NotALog, VersionMismatch
from raftlog_mp.files import Files
from raftlog_mp.findings import make_plan
from raftlog_mp.types import HardState

from . import changes
from .changes import OLD, Case, purge, replace, reset
from .journals import (
    BOTH,
    append,
    entries_of,
    flip,
    kill,
    lose_memory,
    make_newer,
    open_log,
    overwrite,
    put,
    read_at,
    segment_path,
    snapshot,
    stop,
    tail_path,
    write_only,
)  # fmt: skip

NO_CHANGE = Case(lambda journal: None, OLD)
REPLACED = Case(replace(6, changes.batch(7, b"new 6")), OLD)
PURGED = Case(purge(5), OLD)
EMPTY = Case(reset(20, 90), OLD)


def copy(
    directory: str, files: Files | None = None, *, progress: Progress | None = None, verify: bool = True
) -> Backup:
    """A copy beside the log; not one byte of the log changes."""
    before = snapshot(directory)
    try:
        return make_copy(files or FaultyFiles(), directory, directory + ".copy", progress=progress, verify=verify)
    finally:
        assert snapshot(directory) == before


def holds_nothing(target: str) -> bool:
    """Nothing was left there."""
    return not os.path.isdir(target) or os.listdir(target) == []


def crashed(directory: str, strategy: str, case: Case = NO_CHANGE, *, flushed: bool = False) -> None:
    """A log of several segments whose writer died; in MemFirst its end is only in the ring, unless ``flushed``."""
    journal = changes.build(directory, FaultyFiles(), strategy, case, flushed=flushed)
    changes.perform(journal, case)
    Path(directory, fmt.LOCK_NAME).touch()
    journal.save_hard_state(HardState(9, "n2"))
    kill(journal)


# ---------------------------------------------------------------- what the copy holds
@BOTH
@pytest.mark.parametrize("case", [NO_CHANGE, REPLACED, PURGED, EMPTY], ids=["plain", "replaced", "purged", "reset"])
def test_the_copy_holds_what_the_log_held(log_dir: str, strategy: str, case: Case) -> None:
    crashed(log_dir, strategy, case)
    made = copy(log_dir)
    assert check.check_log(made.target).problems == []
    copied, _, plan = changes.look(made.target)
    assert copied == changes.look(log_dir)[0] and not plan.loss_possible
    assert (made.first_index, made.last_index, made.last_term) == (
        copied.purged.index + 1, copied.last.index, copied.last.term)  # fmt: skip
    assert made.hard_state == HardState(9, "n2") == hard_state.load(Files(), made.target) and made.verified


@BOTH
def test_a_log_that_was_stopped_in_order(log_dir: str, strategy: str) -> None:
    journal, _ = open_log(log_dir, strategy=strategy)
    append(journal, b"a", b"b")
    journal.commit_to(2)
    stop(journal)
    assert copy(log_dir).commit_index == 2
    found = manifest.load(Files(), log_dir + ".copy")
    assert found.clean and found.commit_index == 2 and entries_of(log_dir + ".copy") == entries_of(log_dir)


def test_a_log_that_was_never_written(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    stop(journal)
    made = copy(log_dir)
    assert (made.first_index, made.last_index, made.hard_state) == (1, 0, HardState(0, None))
    restored, plan = open_log(made.target)
    assert append(restored, b"first") == 1 and plan.refusal is None
    kill(restored)


@BOTH
def test_after_a_power_cut(log_dir: str, strategy: str) -> None:
    """Without shared memory the files alone tell."""
    crashed(log_dir, strategy, flushed=True)
    lose_memory(log_dir)
    copy(log_dir)
    found = manifest.load(Files(), log_dir + ".copy")
    assert found.loss_possible == (strategy == "mem_first"), "what the original would say"
    assert changes.look(log_dir + ".copy")[0] == OLD


def test_a_torn_tail_is_left_out(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"durable")
    end = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    put(journal, b"written, not synced")
    put(journal, b"torn")
    write_only(journal)
    kill(journal)
    flip(tail_path(log_dir), end + 2 * fmt.RECORD_BYTES + len(b"written, not synced") + 1)
    copy(log_dir)
    assert entries_of(log_dir + ".copy") == {1: (1, b"durable"), 2: (1, b"written, not synced")}


@BOTH
def test_a_seal_that_a_crash_took_is_written_into_the_copy(log_dir: str, strategy: str) -> None:
    crashed(log_dir, strategy)
    overwrite(segment_path(log_dir, 0), fmt.SEAL_OFFSET, bytes(512))
    copy(log_dir)
    plan = make_plan(Files(), log_dir + ".copy", manifest.load(Files(), log_dir + ".copy"))
    assert {finding.letter for finding in plan.findings} <= {"D", "P"}
    assert changes.look(log_dir + ".copy")[0] == OLD


def test_damaged_indexes_and_one_rotten_slot_do_not_reach_the_copy(log_dir: str) -> None:
    crashed(log_dir, "disk_first")
    for path in [*Path(log_dir).glob("*.idx"), *Path(log_dir).glob("*.trm"), Path(log_dir, fmt.HARD_STATE_NAME)]:
        flip(str(path), 20)
    assert copy(log_dir).hard_state == HardState(9, "n2")
    raw = Path(log_dir + ".copy", fmt.HARD_STATE_NAME).read_bytes()
    assert raw[: len(raw) // 2] == raw[len(raw) // 2 :]
    changes.check_files(log_dir + ".copy")


# ---------------------------------------------------------------- who the copy is
def test_the_copy_is_the_same_log_in_another_life(dev_shm: str, log_dir: str) -> None:
    """Same uuid and log id; but its shared memory and generations are its own."""
    journal, _ = open_log(log_dir, shm_dir=dev_shm)
    append(journal, b"x")
    before = set(Path(dev_shm).rglob("*"))
    copy(log_dir)
    old, new = manifest.load(Files(), log_dir), manifest.load(Files(), log_dir + ".copy")
    assert (new.uuid, new.log_id) == (old.uuid, old.log_id)
    assert old.generation + 1 <= new.generation < 1 << 31 and new.shm_dir is None
    restored, _ = open_log(log_dir + ".copy")
    assert restored.folder == log_dir + ".copy/shm" and restored.config.shm_dir is None
    assert not journal.control.superseded_by.load(shm.ACQUIRE), "the original's writer goes on undisturbed"
    append(journal, b"y")
    stop(restored)
    assert before <= set(Path(dev_shm).rglob("*"))
    stop(journal)
    for folder in Path(dev_shm).iterdir():
        for path in folder.iterdir():
            path.unlink()


def test_two_copies_do_not_have_one_generation(log_dir: str) -> None:
    stop(open_log(log_dir)[0])
    generations = set()
    for number in range(4):
        backup(log_dir, f"{log_dir}.{number}")
        generations.add(manifest.load(Files(), f"{log_dir}.{number}").generation)
    assert len(generations) == 4, "one in a quarter of a million that two of four agree"


def test_a_copy_of_a_copy(log_dir: str) -> None:
    crashed(log_dir, "mem_first")
    copy(log_dir)
    copy(log_dir + ".copy")
    assert changes.look(log_dir + ".copy.copy")[0] == OLD


# ---------------------------------------------------------------- damage
def damage_body(directory: str) -> None:
    flip(segment_path(directory, 0), os.path.getsize(segment_path(directory, 0)) - 1)


def damage_header(directory: str) -> None:
    flip(segment_path(directory, 1), 40)


def shorten(directory: str) -> None:
    with open(segment_path(directory, 0), "r+b") as file:
        file.truncate(fmt.DATA_OFFSET + 50)


DAMAGE: dict[str, Callable[[str], None]] = {
    "a record": damage_body,
    "a header": damage_header,
    "cut short": shorten,
    "missing": lambda directory: os.unlink(segment_path(directory, 1)),
    "the tail": lambda directory: flip(tail_path(directory), fmt.DATA_OFFSET + 100),
    "the manifest": lambda directory: flip(os.path.join(directory, fmt.MANIFEST_NAME), 30),
    "the hard state": lambda directory: overwrite(os.path.join(directory, fmt.HARD_STATE_NAME), 0, bytes(8192)),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damage_is_refused_and_nothing_is_left(log_dir: str, what: str) -> None:
    crashed(log_dir, "disk_first")
    DAMAGE[what](log_dir)
    with pytest.raises(CorruptLog) as caught:
        copy(log_dir)
    assert caught.value.segment and caught.value.segment in str(caught.value)
    assert holds_nothing(log_dir + ".copy")


def test_a_damaged_record_is_named(log_dir: str) -> None:
    crashed(log_dir, "disk_first")
    damage_body(log_dir)
    with pytest.raises(CorruptLog, match="does not prove") as caught:
        copy(log_dir)
    first = manifest.load(Files(), log_dir).segments[0]
    assert caught.value.segment == fmt.segment_name(first.segment_id)
    assert 1 <= caught.value.first_index <= caught.value.last_index == first.last_index == 4
    assert fmt.DATA_OFFSET < caught.value.offset < os.path.getsize(segment_path(log_dir, 0))


@pytest.mark.parametrize("name", ["manifest", "hard_state", "segment"])
def test_a_newer_version_is_refused(log_dir: str, name: str) -> None:
    crashed(log_dir, "disk_first")
    path = segment_path(log_dir, 0) if name == "segment" else os.path.join(log_dir, name)
    if name == "hard_state":
        make_newer(path, 8 + int.from_bytes(read_at(path, 16, 8), "little"))  # one slot of two
    else:
        make_newer(path, 72 if name == "segment" else None)
    with pytest.raises(VersionMismatch, match="Upgrade raftlog_mp"):
        copy(log_dir)
    assert holds_nothing(log_dir + ".copy")


class BendingFiles(FaultyFiles):
    """A disk that stores one byte of the first segment's copy wrongly."""

    def pwrite(self, fd: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        if offset == 0 and self._paths[fd].endswith("1.seg.tmp"):
            data = bytearray(data)
            data[fmt.DATA_OFFSET + 50] ^= 1
        super().pwrite(fd, data, offset)


def test_what_the_disk_made_of_the_copy_is_read_back(log_dir: str) -> None:
    crashed(log_dir, "disk_first")
    with pytest.raises(CorruptLog, match="does not prove"):
        copy(log_dir, BendingFiles())
    assert holds_nothing(log_dir + ".copy")


def test_control_without_verification_it_would_not_be_noticed(log_dir: str) -> None:
    journal = changes.build(log_dir, FaultyFiles(), "disk_first", NO_CHANGE, flushed=True)
    stop(journal)
    made = copy(log_dir, BendingFiles(), verify=False)
    assert not made.verified
    with pytest.raises(AssertionError):
        entries_of(made.target)


# ---------------------------------------------------------------- the target, the progress
def bad_targets(directory: str, folder: Path) -> Iterator[tuple[str, str]]:
    """``(target, what is told)``."""
    (folder / "full").mkdir()
    (folder / "full" / "x").touch()
    (folder / "file").touch()
    (folder / "link").symlink_to(directory)
    (folder / "shm").symlink_to(directory + "/shm")
    yield directory, "is a log"
    yield directory + "/copy", "inside a log"
    yield directory + "/a/b/c", "inside a log"
    yield f"{folder}/link", "is a log"
    yield f"{folder}/link/copy", "inside a log"
    yield f"{folder}/shm/copy", "inside a log"
    yield f"{folder}/full", "not empty: it holds x"
    yield str(folder), "not empty"
    yield f"{folder}/file", "is a file"
    yield f"{folder}/file/copy", "file"


def test_bad_targets_are_refused_with_words(log_dir: str, tmp_path: Path) -> None:
    crashed(log_dir, "disk_first")
    for target, told in bad_targets(log_dir, tmp_path):
        before = snapshot(str(tmp_path))
        with pytest.raises(ConfigError, match=told) as caught:
            backup(log_dir, target)
        assert caught.value.field == "target" and "empty or missing" in str(caught.value)
        assert snapshot(str(tmp_path)) == before
    with pytest.raises(NotALog, match="no log"):
        backup(f"{tmp_path}/full", f"{tmp_path}/new")
    assert not os.path.exists(f"{tmp_path}/new")


def test_one_of_two_backups_to_the_same_place_gives_way(log_dir: str) -> None:
    crashed(log_dir, "disk_first")

    class Overtaken(FaultyFiles):
        """Another backup comes between the look and the first file."""

        def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
            if exclusive and path == f"{log_dir}.copy/LOCK":
                backup(log_dir, log_dir + ".copy")
            return super().open(path, write=write, create=create, exclusive=exclusive)

    with pytest.raises(ConfigError, match="somebody else"):
        copy(log_dir, Overtaken())
    assert changes.look(log_dir + ".copy")[0] == OLD, "the other one's copy stays"


def test_an_empty_directory_will_do_and_the_copy_is_private(log_dir: str) -> None:
    crashed(log_dir, "disk_first")
    os.mkdir(log_dir + ".copy")
    copy(log_dir)
    assert changes.look(log_dir + ".copy")[0] == OLD
    copied = [path for path in Path(log_dir + ".copy").iterdir() if path.suffix]
    assert copied and {path.stat().st_mode & 0o777 for path in copied} == {0o600}
    backup(log_dir, log_dir + ".new")
    assert os.stat(log_dir + ".new").st_mode & 0o777 == 0o700


@pytest.mark.parametrize("verify", [True, False])
def test_progress_rises_to_the_end(log_dir: str, verify: bool) -> None:
    crashed(log_dir, "disk_first")
    seen: list[tuple[int, int]] = []
    made = copy(log_dir, progress=lambda done, total: seen.append((done, total)), verify=verify)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and len(seen) > made.segments
    assert seen[-1][0] == seen[-1][1] == made.data_bytes * (1 + verify)
