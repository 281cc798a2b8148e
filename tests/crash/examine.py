"""One disk state: made real, recovered twice, looked at."""

from __future__ import annotations

import contextlib
import os
import shutil
import traceback
from collections.abc import Iterator
from unittest import mock

from unit.changes import check_files
from unit.journals import append, kill, open_log

from raftlog_mp import format as fmt
from raftlog_mp import manifest, probe, shm
from raftlog_mp.files import Files
from raftlog_mp.source import FileView
from raftlog_mp.terms import TermRuns
from raftlog_mp.types import LogId

from .disk import State, materialise
from .look import Found, Violation, look_at
from .memory import Memory

AFTER = b"after"


class QuickFiles(Files):
    """What is written survives (nothing crashes here), so no sync is needed, and no space has to be reserved."""

    def preallocate(self, fd: int, length: int) -> None:
        if length > self.size(fd):
            os.ftruncate(fd, length)

    def sync(self, fd: int) -> None:
        """Nothing."""

    def sync_all(self, fd: int) -> None:
        """Nothing."""

    def sync_dir(self, path: str) -> None:
        """Nothing."""

    def drop_cache(self, fd: int) -> None:
        """Nothing."""


def _create_file(path: str, length: int) -> shm.Mapping:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.ftruncate(fd, length)
        return shm.Mapping(fd, length, writable=True)
    finally:
        os.close(fd)


@contextlib.contextmanager
def quick_memory() -> Iterator[None]:
    """Shared files without reserved space, and no look at the mount table: both cost, and neither is examined here."""
    with (
        mock.patch.object(shm, "create_file", _create_file),
        mock.patch.object(probe, "filesystem", lambda path: "tmpfs"),
    ):
        yield


def examine(state: State, memory: Memory | None, directory: str, *, strategy: str) -> Found:
    """What recovery makes of a state, in ``directory``, which must not exist and does not afterwards.

    ``memory``: what a killed process left in shared memory; None after a power cut.
    """
    materialise(state, directory)
    if memory is not None:
        memory.restore(directory)
    try:
        return _examine(directory, strategy, power_cut=memory is None)
    finally:
        shutil.rmtree(directory)


def _examine(directory: str, strategy: str, *, power_cut: bool) -> Found:
    files, new = QuickFiles(), not os.path.exists(os.path.join(directory, fmt.MANIFEST_NAME))
    try:
        view = None if new else FileView(files, directory, manifest.load(files, directory))
        journal, plan = open_log(directory, files, **({"strategy": strategy} if new else {}))
    except Exception as error:  # whatever it is, it breaks the promise
        return Found(problems=[Violation("opens", _sentence(error))])
    try:
        found = look_at(journal, plan)
        if view is not None:
            _compare(view, found, journal.terms.runs)
        term = max(journal.last_term, journal.hard.term) + 1
        index = append(journal, AFTER, term=term)
        journal.flush()
        if journal.control.durable_index.load(shm.ACQUIRE) != index:
            found.problems.append(Violation("goes on", "a flushed entry is not durable"))
    except Exception as error:  # as above
        kill(journal)
        return Found(problems=[Violation("goes on", _sentence(error))])
    kill(journal)
    _look_again(directory, found, LogId(term, index), power_cut=power_cut)
    return found


def _sentence(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__} in {where.name}: {error}"


def _compare(view: FileView, found: Found, runs: TermRuns) -> None:
    """The reader has looked at the same files before anything was recovered."""
    words = view.control.snapshot()
    pairs = {
        "last entry": (LogId(words["last_term"], words["last_index"]), found.last),
        "boundary": (LogId(words["purged_term"], words["purged_index"]), found.purged),
        "commit index": (words["commit_index"], found.commit),
        "terms": (
            view.terms.ask(0, lambda theirs: [theirs.term_of(i) for i in found.entries]),
            [runs.term_of(i) for i in found.entries],
        ),
        "refusal": (view.plan.refusal, None),
    }
    for what, (theirs, ours) in pairs.items():
        if theirs != ours:
            found.problems.append(Violation("reader", f"{what}: {theirs}, recovery says {ours}"))


def _look_again(directory: str, found: Found, after: LogId, *, power_cut: bool) -> None:
    """Crash once more, recover once more: the same log, and the entry that was appended behind it."""
    if power_cut:
        shutil.rmtree(os.path.join(directory, fmt.SHM_NAME))
    try:
        journal, plan = open_log(directory, QuickFiles())
    except Exception as error:  # as above
        found.problems.append(Violation("goes on", f"the second recovery: {_sentence(error)}"))
        return
    try:
        again = look_at(journal, plan)
        found.problems += again.problems
        for info in journal.take_dead():
            for name in (fmt.index_name, fmt.terms_name, fmt.segment_name):
                journal.files.unlink(os.path.join(directory, name(info.segment_id)))
        journal.close(clean=True)
        journal.control.close()
    except Exception as error:  # as above
        kill(journal)
        found.problems.append(Violation("goes on", f"the second writer: {_sentence(error)}"))
        return
    expected = found.entries | {after.index: (after.term, AFTER)}
    if (again.entries, again.purged, again.hard) != (expected, found.purged, found.hard):
        what = f"{again.last} behind {again.purged}, {again.hard}; due were {after}, {found.purged}, {found.hard}"
        found.problems.append(Violation("goes on", f"the second recovery found {what}"))
    if again.outcomes != found.outcomes:
        found.problems.append(Violation("goes on", "the second recovery answers submissions otherwise"))
    try:
        check_files(directory, torn=True)
    except AssertionError as error:
        found.problems.append(Violation("directory", str(error)))


