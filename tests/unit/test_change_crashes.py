"""A crash or a power cut at every step of a truncation, replacement, purge or reset: the old log or the new one."""

from __future__ import annotations

import copy
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faulty_files import KEPT, LOST, TORN, Crash, FaultyFiles, PoweredFiles

from raftlog_mp import format as fmt
from raftlog_mp import journal as journal_module
from raftlog_mp import manifest
from raftlog_mp.catalog import clipped
from raftlog_mp.errors import CorruptLog
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.manifest import Manifest
from raftlog_mp.producers import Producers
from raftlog_mp.segment import SegmentWriter

from .changes import CASES, Case, build, goes_on, look, perform
from .journals import copy_log, kill, open_log, snapshot

DURABLE = ("sync", "sync_all", "sync_dir")  # steps that change what the device holds, and nothing that a process sees
SOME_STEPS = 31  # about as many as a start takes: the second crash comes at another one for each first crash


def crashes(
    folder: Path, strategy: str, case: Case, skip: tuple[str, ...], *, flushed: bool
) -> Iterator[tuple[int, str, PoweredFiles]]:
    """Logs whose process died after each step of the change, but for steps named in ``skip``, and after the last."""
    due = [0]
    while due:
        at = due.pop()
        log, files = str(folder / f"at{at}"), PoweredFiles()
        journal = build(log, files, strategy, case, flushed=flushed)
        files.revive(crash_at=at or None)
        try:
            perform(journal, case)
        except Crash:
            pass
        if at == 0:  # nothing went wrong: now every step is known; the last crash comes when all is done
            due = [n for n, step in enumerate(files.steps, 1) if step[0] not in skip or n == len(files.steps)][::-1]
        files.bury()
        files.crashed = True
        kill(journal)
        if at:
            yield at, log, files
        shutil.rmtree(log)


def check(log: str, case: Case, at: int, where: str, *, torn: bool = False) -> bool:
    """Old or new, all of it, and so it stays.  Whether it is the new one.

    It stays so after another crash in the middle of the start, or if more is appended, in turn.
    """
    again = copy_log(log, log + "-again")
    picture, recorded, _ = look(log, torn=torn)
    assert picture in (case.old, case.new), f"{where}: neither the old log nor the new one"
    happened = picture == case.new
    assert recorded == (happened and case.recorded), f"{where}: the table does not say what happened"
    if at % 2:
        goes_on(again, picture)
    else:
        files = FaultyFiles(crash_at=at * 3 % SOME_STEPS)
        try:
            kill(open_log(again, files)[0])
        except Crash:
            pass
        files.bury()
        assert look(again, torn=torn)[:2] == (picture, recorded), f"{where}, then after {files.steps[-1:]} of a start"
    shutil.rmtree(again)
    return happened


def swap_of(files: PoweredFiles) -> int:
    """How many steps came after the rename of the manifest, the rename included; 0: it did not come to that."""
    return next((len(files.steps) - n for n, step in enumerate(files.steps) if str(step[-1]).endswith("/manifest")), 0)


def crash_everywhere(folder: Path, strategy: str, case: Case, *, flushed: bool, shift: int = 0) -> list[bool]:
    """Kill the process after every step: it has happened from the rename of the manifest on."""
    happened = []
    for at, log, files in crashes(folder, strategy, case, DURABLE, flushed=flushed):
        happened.append(check(log, case, at + shift, f"after {files.steps[-1:]}"))
        assert happened[-1] == (swap_of(files) > 0), files.steps
    return happened


def cut_everywhere(folder: Path, strategy: str, case: Case, fate: str) -> list[bool]:
    """Cut the power after every step that changes what a power cut may leave."""
    happened = []
    # What is lost depends on what was synced; what may be torn grows until the next sync.
    skip = ("create", "preallocate", "pwrite", "truncate", "rename", "unlink") if fate == LOST else DURABLE
    for at, log, files in crashes(folder, strategy, case, skip, flushed=True):
        dark = files.power_cut(log, log + "-dark", fate, seed=at)
        happened.append(check(dark, case, at, f"{fate} after {files.steps[-1:]}", torn=fate == TORN))
        shutil.rmtree(dark)
        swapped = [step[0] for step in files.steps[len(files.steps) - swap_of(files) :]]
        if fate == LOST or not swapped or "sync_dir" in swapped:
            assert happened[-1] == ("sync_dir" in swapped), files.steps
    return happened


# ---------------------------------------------------------------- the process dies
@pytest.mark.parametrize(("name", "strategy"), [(name, "disk_first") for name in CASES] + [
    (name, "mem_first") for name in (
        "truncate inside a record of the newest segment", "truncate everything", "replace by several terms",
        "purge everything", "reset to a boundary ahead",
    )
])  # fmt: skip
def test_crash_inside_a_change(tmp_path: Path, name: str, strategy: str) -> None:
    """In MemFirst the end of the old log is only in the ring when the change begins."""
    disk_first = strategy == "disk_first"
    happened = crash_everywhere(tmp_path, strategy, CASES[name], flushed=disk_first, shift=int(disk_first))
    assert happened == sorted(happened) and not happened[0] and happened[-1] and len(happened) > 5


# ---------------------------------------------------------------- the power is cut
@pytest.mark.parametrize(("name", "strategy"), [
    ("truncate inside a record of an older segment", "disk_first"), ("truncate down to the boundary", "mem_first"),
    ("replace by several terms", "disk_first"), ("replace by several terms", "mem_first"),
    ("replace the last entry by a longer suffix", "disk_first"), ("purge inside a record", "mem_first"),
    ("reset to a boundary ahead", "disk_first"),
])  # fmt: skip
@pytest.mark.parametrize("fate", [LOST, TORN])
def test_power_cut_inside_a_change(tmp_path: Path, name: str, strategy: str, fate: str) -> None:
    """What was answered stays, whatever the device made of the writes under way."""
    happened = cut_everywhere(tmp_path, strategy, CASES[name], fate)
    assert not happened[0] and happened[-1]


# ---------------------------------------------------------------- controls: builds that are wrong, and get caught
REPLACE = CASES["replace by several terms"]


def test_control_a_manifest_that_lists_an_unsynced_segment_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SegmentWriter, "sync", lambda segment: None)
    with pytest.raises((AssertionError, CorruptLog)):
        cut_everywhere(tmp_path, "disk_first", REPLACE, LOST)


def test_control_a_suffix_that_is_clipped_before_the_new_one_is_there_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Journal.replace_from

    def replace_from(journal: Journal, index: int, *what: Any) -> None:
        state = copy.copy(journal.manifest)
        state.segments = clipped(journal._as_sealed(), index, journal.terms.runs.term_of(index - 1) or 0)
        manifest.save(journal.files, journal.directory, state)
        right(journal, index, *what)

    monkeypatch.setattr(Journal, "replace_from", replace_from)
    with pytest.raises(AssertionError, match="submission 4|neither the old log nor the new one"):
        crash_everywhere(tmp_path, "disk_first", REPLACE, flushed=True)


def test_control_a_change_that_is_answered_before_it_is_durable_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_file(files: Files, path: str, data: bytes, **_: Any) -> None:
        fd = files.open(path + ".tmp", write=True, create=True)
        files.pwrite(fd, data, 0)
        files.close(fd)
        files.rename(path + ".tmp", path)

    monkeypatch.setattr(PoweredFiles, "write_file", write_file)
    with pytest.raises((AssertionError, CorruptLog)):
        happened = cut_everywhere(tmp_path, "disk_first", REPLACE, LOST)
        assert happened[-1]


def test_control_files_that_go_before_the_manifest_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(files: Files, directory: str, state: Manifest, **how: Any) -> None:
        listed = {fmt.segment_name(info.segment_id) for info in state.segments}
        for name in os.listdir(directory):
            if name.endswith(".seg") and name not in listed:
                files.unlink(os.path.join(directory, name))
        manifest.save(files, directory, state, **how)

    monkeypatch.setattr(journal_module, "save", save)
    with pytest.raises((AssertionError, CorruptLog)):
        crash_everywhere(tmp_path, "disk_first", REPLACE, flushed=True)


def test_control_a_change_that_forgets_who_sent_what_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Producers, "snapshot", lambda table, budget: b"\x90")
    with pytest.raises(AssertionError, match="submission 1"):
        crash_everywhere(tmp_path, "disk_first", REPLACE, flushed=True)


def test_control_entries_that_come_back_are_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncation that forgets to state where the older segment ends now."""
    monkeypatch.setattr(journal_module, "clipped", lambda infos, index, _: [i for i in infos if i.base_index < index])
    with pytest.raises((AssertionError, CorruptLog)):
        crash_everywhere(tmp_path, "disk_first", CASES["truncate inside a record of an older segment"], flushed=True)


# ---------------------------------------------------------------- the double itself
def test_a_power_cut_that_spares_everything_leaves_the_directory_as_it_is(tmp_path: Path) -> None:
    """The double's own picture of the files is the one on the real disk."""
    for at, log, files in crashes(tmp_path, "disk_first", REPLACE, (), flushed=True):
        dark = files.power_cut(log, log + "-dark", KEPT)
        assert snapshot(dark) == {name: data for name, data in snapshot(log).items() if not name.startswith("shm/")}, at
        shutil.rmtree(dark)
