"""Builds of the library that are wrong, one step each; the explorer has to catch every one.

Each is a context manager.  It is in force while a life is recorded *and* while its states are recovered, as a build is.
"""

from __future__ import annotations

import contextlib
import copy
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from raftlog_mp import format as fmt
from raftlog_mp import hard_state, manifest, provable, segment, startup
from raftlog_mp import journal as journal_module
from raftlog_mp.changes import Batch
from raftlog_mp.files import Files, join
from raftlog_mp.findings import Plan, make_plan
from raftlog_mp.journal import Journal
from raftlog_mp.manifest import Manifest
from raftlog_mp.pipeline import Pipeline
from raftlog_mp.producers import Producers
from raftlog_mp.rolling import Rolling, RollJob
from raftlog_mp.segment import SegmentWriter
from raftlog_mp.syncer import FlushJob

from .disk import RecordingFiles
from .scenarios import Profile

Patches = contextlib.AbstractContextManager[Any]


class Build(NamedTuple):
    """A wrong build, the kind of life in which it shows, and the invariants that it may break."""

    patches: Callable[[], Patches]
    profile: Profile
    breaks: tuple[str, ...]  # the first one that is noticed is one of these
    seed: int = 1


def _patch(where: Any, name: str, what: Any) -> Callable[[], Patches]:
    return lambda: mock.patch.object(where, name, what)


def _save(change: Callable[[Manifest, Manifest | None], None]) -> Callable[[], Patches]:
    """The journal saves a manifest that was changed; the change sees the one of the save before, too."""
    before: list[Manifest] = []

    def save(files: Files, directory: str, state: Manifest, **how: Any) -> None:
        wrong = copy.copy(state)
        change(wrong, before[-1] if before else None)
        before.append(copy.copy(state))
        manifest.save(files, directory, wrong, **how)

    return _patch(journal_module, "save", save)


# ---------------------------------------------------------------- syncs that are left out, or come too late
def _roll_without_sync(journal: Journal, *what: Any, right: Any = Journal.roll, **how: Any) -> None:
    """The seal is written, and synced, before anybody has synced the data."""
    with mock.patch.object(SegmentWriter, "sync", lambda writer: None):
        journal.flush()
    right(journal, *what, **how)


def _flush_published(journal: Pipeline, right: Any = Pipeline.flush) -> None:
    journal.copy_to_ring()
    journal.publish()
    right(journal)


def _write_file_unsynced(
    files: Files, path: str, data: bytes, *, ready: Callable[[], None] | None = None
) -> None:
    fd = files.open(path + ".tmp", write=True, create=True)
    files.pwrite(fd, data, 0)
    files.close(fd)
    if ready is not None:
        ready()
    files.rename(path + ".tmp", path)
    files.sync_dir(os.path.dirname(path))


def _save_hard(files: Files, directory: str, state: Any, version: int, *, syncs: int) -> None:
    slot = hard_state._pack(state, version)
    with files.opened(hard_state.hard_state_path(directory), write=True) as fd:
        for offset in (0, len(slot)):
            files.pwrite(fd, slot, offset)
        for _ in range(syncs):
            files.sync(fd)


@contextlib.contextmanager
def _recovery_without_sync() -> Iterator[None]:
    """What is read from the page cache is taken for durable."""

    def apply_plan(files: Files, *what: Any, right: Any = startup.apply_plan) -> None:
        with mock.patch.object(RecordingFiles, "sync_all", lambda files, fd: None):
            right(files, *what)

    def plan(*what: Any, fresh_reads: bool) -> Plan:
        return make_plan(*what)

    with mock.patch.object(startup, "apply_plan", apply_plan), mock.patch.object(startup, "make_plan", plan):
        yield


# ---------------------------------------------------------------- rolls behind, in the wrong order
def _listed_unsynced(job: RollJob, right: Any = RollJob._change_over) -> None:
    """The manifest counts the new segment, and what is in it, before a sync of that."""
    with mock.patch.object(job.segment, "sync", lambda: None):
        right(job)


def _sealed_first(rolling: Rolling, right: Any = Rolling.make_job) -> FlushJob:
    """The seal is written and synced before the job that syncs what the old segment still lacks."""
    roll = rolling._roll
    if roll is not None and rolling.written < roll.info.start and rolling.segment is not None:
        ended = roll.ended
        rolling.segment.seal(ended.end or 0, ended.last_index or 0, ended.last_term or 0)
    return right(rolling)


def _caches_first(job: RollJob, right: Any = RollJob._change_over) -> None:
    """Caches that end with the old segment stand beside it while recovery would still go on with it."""
    job._write_caches()
    right(job)


# ---------------------------------------------------------------- changes in the wrong order, or in place
def _unlink_first(files: Files, directory: str, state: Manifest, **how: Any) -> None:
    listed = {fmt.segment_name(info.segment_id) for info in state.segments}
    for name in os.listdir(directory):
        if name.endswith(".seg") and name not in listed:
            files.unlink(join(directory, name))
    manifest.save(files, directory, state, **how)


def _replace_in_place(journal: Journal, index: int, batches: list[Batch], producer: int, sequence: int,
                      right: Any = Journal.replace_from) -> None:  # fmt: skip
    """The new suffix is written over the old one, in the same segment."""
    assert journal.index is not None
    base = journal.manifest.segments[-1].base_index
    slots = journal.index.used(journal.next_index - 1)
    positions = [int.from_bytes(slots[at : at + 8], "little") for at in range(0, len(slots), 8)]
    if index <= base or not batches or positions[index - base] == positions[index - base - 1]:
        right(journal, index, batches, producer, sequence)  # not at the border of a record of this segment
        return
    journal._settle()
    position = positions[index - base]
    journal.terms.adopt(journal.terms.stage(journal._runs_after(index, journal.purged, None)))
    journal.end = journal.copied = journal.written = journal.durable = position
    journal.next_index = journal._slots_from = index
    journal.last_term = journal.terms.runs.term_of(index - 1) or 0
    for one in batches:
        journal.append(one.body, one.body_crc, one.count, one.term, producer, sequence)
    journal.flush()
    journal.publish()


# ---------------------------------------------------------------- recoveries and readers that look away
class _Agrees(int):
    """A checksum that is always right."""

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = int.__hash__


def _plan_without_loss(*what: Any, **how: Any) -> Plan:
    plan = make_plan(*what, **how)
    plan.loss_possible = False
    return plan


def _plan_one_short(*what: Any, **how: Any) -> Plan:
    plan = make_plan(*what, **how)
    plan.last_index -= plan.last_index > 0
    return plan


def _without_commit_index(state: Manifest, right: Any = Manifest.as_dict) -> dict[str, Any]:
    return right(state) | ({"commit_index": 0} if state.clean else {})


def _boundary_of_before(wrong: Manifest, before: Manifest | None) -> None:
    if before is not None and before.log_id == wrong.log_id:
        wrong.purged_index, wrong.purged_term = before.purged_index, before.purged_term


APPENDS = Profile("control: appends", "disk_first", ("append", "append", "roll"), 6)
MEMORY = Profile("control: memory", "mem_first", ("append", "append", "roll"), 6)
CONFLICTS = Profile("control: conflicts", "disk_first", ("append",) * 5 + ("replace",), 8)
BEHIND = Profile("control: rolls behind", "mem_first", ("append", "append", "roll_behind", "flush_behind"), 8)
PURGES = Profile("control: purges", "disk_first", ("append", "append", "roll", "purge"), 8)
VOTES = Profile("control: votes", "disk_first", ("save_hard_state",), 12)
RESTARTS = Profile("control: restarts", "disk_first", ("append", "restart", "die_behind"), 6)
STOPS = Profile("control: stops", "disk_first", ("commit_index", "restart"), 3)

BUILDS: dict[str, Build] = {
    "records are never synced": Build(
        _patch(SegmentWriter, "sync", lambda writer: None), APPENDS, ("durable", "opens")),
    "directories are never synced": Build(
        _patch(RecordingFiles, "sync_dir", lambda files, path: None), APPENDS, ("opens", "durable")),
    "a seal is published before its data": Build(
        _patch(Journal, "roll", _roll_without_sync), MEMORY, ("durable", "words")),
    "a sync is announced before it was made": Build(
        _patch(Pipeline, "flush", _flush_published), APPENDS, ("durable",)),
    "a roll behind lists its segment before the records are synced": Build(
        _patch(RollJob, "_change_over", _listed_unsynced), BEHIND, ("durable", "opens", "words"), 5),
    "a roll behind seals before the data is synced": Build(
        _patch(Rolling, "make_job", _sealed_first), BEHIND,
        ("durable", "one version", "opens", "words", "goes on"), 6),
    "a roll behind writes caches before the seal": Build(
        _patch(RollJob, "_change_over", _caches_first), BEHIND, ("words", "reader"), 7),
    "a suffix is replaced in place": Build(
        _patch(Journal, "replace_from", _replace_in_place), CONFLICTS,
        ("durable", "one version", "exactly once", "opens", "words"), 5),
    "a manifest is renamed before it was synced": Build(
        _patch(RecordingFiles, "write_file", _write_file_unsynced), PURGES, ("opens",)),
    "files go before the manifest is durable": Build(
        _patch(journal_module, "save", _unlink_first), PURGES, ("opens", "goes on", "durable")),
    "the hard state is not synced": Build(
        _patch(hard_state, "save", lambda *what: _save_hard(*what, syncs=0)), VOTES, ("hard state", "opens")),
    "both slots of the hard state share one sync": Build(
        _patch(hard_state, "save", lambda *what: _save_hard(*what, syncs=1)), VOTES, ("opens", "hard state")),
    "recovery takes the page cache for the disk": Build(
        _recovery_without_sync, RESTARTS, ("durable", "opens", "one version", "words", "goes on", "directory")),
    "recovery does not check what it reads": Build(
        _patch(segment, "crc32c", lambda body: _Agrees(0)), APPENDS,
        ("one version", "goes on", "opens", "words")),
    "the table of submissions is not kept": Build(
        _patch(Producers, "snapshot", lambda table, budget: b"\x90"), APPENDS, ("exactly once", "goes on")),
    "a loss is not told": Build(
        _patch(startup, "make_plan", _plan_without_loss), MEMORY, ("loss told",)),
    "a reader misses the last entry": Build(
        _patch(provable, "make_plan", _plan_one_short), APPENDS, ("reader",)),
    "a purge states the boundary of the one before": Build(
        _save(_boundary_of_before), PURGES, ("boundary", "words", "goes on")),
    "a clean stop forgets the commit index": Build(
        _patch(Manifest, "as_dict", _without_commit_index), STOPS, ("commit index",), 5),
    "unlisted files stay": Build(
        _patch(Journal, "take_dead", lambda journal: []), PURGES, ("directory",)),
}  # fmt: skip
