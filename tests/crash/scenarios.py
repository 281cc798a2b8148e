"""Lives of a log: seeded operations on a journal in this process, every step recorded, every promise noted.

A profile says which strategy the log has and which operations its life is made of.  Within a life processes die, disks
fail and writers start again; what the power may do is not decided here, but at each step of the recorded trace.
"""

from __future__ import annotations

import contextlib
import errno
import random
from collections.abc import Callable
from typing import NamedTuple
from unittest import mock

from unit.changes import batch
from unit.journals import Entries, admits, commit, kill, open_log, put, stop

from raftlog_mp.errors import DiskFull, RaftLogError, SyncFailed
from raftlog_mp.findings import Plan
from raftlog_mp.journal import Journal
from raftlog_mp.preparation import Preparation
from raftlog_mp.sweeper import remove_segment
from raftlog_mp.types import HardState, LogId

from .disk import Op, RecordingFiles
from .look import Found, Violation, look_at, version_of
from .memory import Memory, snapshot_of
from .story import NOWHERE, Story

PRODUCER = 0xA1
LONG_VOTE = "a candidate with a name that is longer than a sector " * 14  # a slot that can be torn


class Profile(NamedTuple):
    """One row of the explorer's table."""

    name: str
    strategy: str
    operations: tuple[str, ...]  # names of methods of Life; the more often, the more likely
    length: int = 14


APPENDS = ("append",) * 5
PROFILES: tuple[Profile, ...] = (
    Profile("appends, each synced", "disk_first", (*APPENDS, "idle", "roll", "commit_index")),
    Profile("appends, group commit", "disk_first", ("append_group", "append_group", "append", "roll", "idle")),
    Profile("appends from memory", "mem_first", (*APPENDS, "append_group", "flush", "flush_behind", "flush_behind",
                                                  "roll", "roll_behind", "idle")),
    Profile("conflicts", "disk_first", ("append", "append", "truncate", "replace", "commit_index", "sweep")),
    Profile("conflicts from memory", "mem_first", ("append", "append", "append_group", "truncate", "replace", "flush",
                                                     "roll_behind")),
    Profile("purges and resets", "disk_first", (*APPENDS, "roll", "purge", "purge", "reset", "sweep")),
    Profile("purges from memory", "mem_first", (*APPENDS, "flush", "roll", "roll_behind", "purge", "purge", "reset",
                                                 "sweep")),
    Profile("hard states", "disk_first", ("save_hard_state", "save_hard_state", "append", "restart"), 9),
    Profile("restarts", "disk_first", (*APPENDS, "commit_index", "restart", "die", "die_behind", "truncate"), 10),
    Profile("restarts from memory", "mem_first", (*APPENDS, "flush", "restart", "die", "die_behind", "purge",
                                                   "roll_behind"), 10),
    Profile("failing disks", "disk_first", (*APPENDS, "fail_flush", "fail_change", "fill_disk", "roll"), 9),
    Profile("failing disks, memory", "mem_first", (*APPENDS, "fail_flush", "fail_change", "fill_disk", "flush",
                                                    "roll_behind"), 9),
)


class Life:
    """A log while it lives: ``files`` has the trace, ``story`` what it means, ``memory`` what shared memory held."""

    def __init__(self, directory: str, strategy: str, seed: int, story: Story | None = None, base: object = None,
                 *, keep_memory: bool = True) -> None:  # fmt: skip
        self.directory, self.strategy, self.random = directory, strategy, random.Random(seed)
        self.files = RecordingFiles(directory, base, dropped=bool(seed % 2))  # type: ignore[arg-type]  # what that takes
        self.story = story or Story()
        self.memory: dict[int, Memory] = {}
        self._keep_memory, self._blocks = keep_memory, dict[bytes, bytes]()
        self._journal: Journal | None = None
        self._sequence, self._number = max(self.story.versions[-1].outcomes, default=0), 0
        self.files.watch = self._watch

    @property
    def at(self) -> int:
        return len(self.files.trace)

    @property
    def journal(self) -> Journal:
        assert self._journal is not None
        return self._journal

    def _watch(self) -> None:
        if self._journal is not None:
            self.story.listen(self.at, self._journal)
        if self._keep_memory:
            self.memory[self.at] = snapshot_of(self.directory, self._blocks)

    def tick(self) -> None:
        """Something changed in memory only."""
        self.files.note(Op("tick"))

    # ------------------------------------------------------------ beginning and end
    def start(self) -> tuple[Plan, Found]:
        """Open the log, as new or after whatever came before.  What is found is what the story goes on from."""
        limits = self.story.limits(self.at + 1, killed=True)
        self._journal = None
        new = {} if self.story.promise.exists else {"strategy": self.strategy}
        try:
            journal, plan = open_log(self.directory, self.files, **new)
        except RaftLogError as error:
            raise Violation("opens", f"after step {self.at}: {error}") from error
        found = look_at(journal, plan)
        self.story.go_on_from(self.at, version_of(self.story, limits, found))
        self.story.purge_done(self.at, found.purged)
        states = [state for _, state in self.story.hard]
        self.story.promised(self.at, hard=max(n for n, state in enumerate(states) if state == found.hard), exists=True)
        self._journal, self.story.changing = journal, False
        self.tick()
        return plan, found

    def live(self, profile: Profile) -> None:
        """All of a life."""
        self.start()
        self.append()
        for _ in range(profile.length):
            getattr(self, self.random.choice(profile.operations))()
            self.tick()
        self.end(clean=self.random.random() < 0.5)

    def end(self, *, clean: bool) -> None:
        """The writer stops in order, or is killed."""
        journal = self.journal
        if clean:
            committed = journal.manifest.commit_index
            newest = len(self.story.versions) - 1
            self.story.forget_submissions(self.at)
            self.story.changing = True
            stop(journal)
            self.story.changing = False
            self.story.promised(self.at, durable=newest, visible=newest, commit=committed)
        else:
            kill(journal)
            self.files.bury()
        self._journal = None
        self.tick()

    def restart(self) -> None:
        self.end(clean=True)
        self.start()

    def die(self) -> None:
        """Killed between two operations."""
        self.end(clean=False)
        self.start()

    def die_behind(self) -> None:
        """Killed when bytes had reached the file but no sync had."""
        if self._append_begins(1):
            self.journal.copy_to_ring()
            if self.strategy == "mem_first":
                self.journal.publish()
                self.tick()
            job = self.journal.make_job()
            with contextlib.suppress(SyncFailed):
                self.files.fail("sync", errno.EINTR)  # it never came to that
                job.run()
            self.files.heal()
        self.die()

    # ------------------------------------------------------------ appends
    def _payload(self, large: bool = False) -> bytes:
        self._number += 1
        size = self.random.choice((0, 40, 700, 1500)) if not large else 9000
        return f"{self._number}.".encode() + self.random.randbytes(16) * (size // 16)

    def _last(self) -> LogId:
        return LogId(self.journal.last_term, self.journal.next_index - 1)

    def _append_begins(self, count: int) -> bool:
        """One batch; False if it would need a roll or a flush first."""
        payloads = [self._payload() for _ in range(count)]
        if not admits(self.journal, sum(map(len, payloads)) + 64, count):
            return False
        self._put(payloads)
        return True

    def _put(self, payloads: list[bytes]) -> None:
        last, newest = self._last(), self.story.versions[-1]
        term = last.term + (self.random.random() < 0.25) or 1
        self._sequence += 1
        first, count = last.index + 1, len(payloads)
        entries = newest.entries | {first + n: (term, payload) for n, payload in enumerate(payloads)}
        outcome = (self._sequence, (first, count, term))
        self.story.begin(self.at, entries, LogId(term, last.index + count), outcome)
        put(self.journal, *payloads, term=term, producer=PRODUCER, sequence=self._sequence)

    def append(self) -> None:
        large = self.random.random() < 0.15
        self._put([self._payload(large) for _ in range(self.random.choice((1, 1, 2)))])
        commit(self.journal)

    def append_group(self) -> None:
        """Several batches share a sync, as a batch policy makes them."""
        for _ in range(self.random.randint(2, 4)):
            self._put([self._payload() for _ in range(self.random.choice((1, 2)))])
        commit(self.journal)

    def flush(self) -> None:
        self.journal.flush()
        self.journal.publish()

    def flush_behind(self) -> None:
        """As the helper thread does it: entries arrive while the sync is under way, which does not cover them."""
        journal = self.journal
        if journal.copied > journal.written:
            journal.job = journal.make_job()
            if self._append_begins(1):
                journal.copy_to_ring()
                journal.publish()
                self.tick()
            journal.job.run()
            journal.finish_job()

    def idle(self) -> None:
        """An idle writer vouches for what it has made durable."""
        self.flush()
        if self.journal.wants_mark:
            self.journal.mark()
            self.flush()

    def roll(self) -> None:
        self.journal.roll()

    def roll_behind(self) -> None:
        """As a MemFirst writer does it: into a segment made ahead, in memory; its syncs come with later flushes."""
        journal = self.journal
        journal.bell = lambda: None
        with mock.patch.object(Preparation, "start", lambda made, bell: made.run()):
            journal._prepare()
        self.tick()
        journal._roll_behind(0, 0)
        journal.bell = None
        self._append_begins(1)
        commit(journal)

    # ------------------------------------------------------------ changes
    def _change(self, act: Callable[[], None]) -> None:
        self.story.changing = True
        try:
            act()
        except DiskFull:
            self.story.changing = False  # nothing was changed; after SyncFailed nobody knows before the next start
            raise
        self.story.changing = False
        self.story.done(self.at)
        if self.random.random() < 0.6:
            self.sweep()

    def sweep(self) -> None:
        """Unlink what the manifest no longer lists."""
        for info in self.journal.take_dead():
            remove_segment(self.files, self.directory, info.segment_id)
        self.files.sync_dir(self.directory)

    def _replace(self, count: int) -> None:
        journal, newest = self.journal, self.story.versions[-1]
        first, last = max(journal.purged.index, journal.manifest.commit_index) + 1, self._last()
        if first > last.index:
            return
        at, term = self.random.randint(max(first, last.index - 6), last.index), last.term + 1
        payloads = [self._payload() for _ in range(count)]
        entries: Entries = {i: entry for i, entry in newest.entries.items() if i < at}
        before = LogId(journal.terms.runs.term_of(at - 1) or 0, at - 1) if at > 1 else NOWHERE
        entries |= {at + n: (term, payload) for n, payload in enumerate(payloads)}
        after = LogId(term, at + count - 1) if count else before
        self._sequence += 1
        outcome = (at, count, term) if count else (at, 0, 0)
        self.story.begin(self.at, entries, after, (self._sequence, outcome), change=True)
        batches = [batch(term, *payloads)] if count else []
        self._change(lambda: journal.replace_from(at, batches, PRODUCER, self._sequence))

    def truncate(self) -> None:
        self._replace(0)

    def replace(self) -> None:
        self._replace(self.random.randint(1, 3))

    def purge(self) -> None:
        journal = self.journal
        first, last = journal.purged.index + 1, journal.next_index - 1
        if first > last:
            return
        upto = self.random.randint(first, last) if self.random.random() < 0.9 else last
        self.story.begin_purge(self.at, LogId(journal.terms.runs.term_of(upto) or 0, upto))
        journal.purge_to(upto)
        self.story.purge_done(self.at, journal.purged)

    def reset(self) -> None:
        last = self._last()
        ahead = self.random.choice((0, 3, 30))
        boundary = LogId(last.term + bool(ahead), last.index + ahead) if last.index else LogId(5, 9)
        self._sequence += 1
        outcome = (self._sequence, (boundary.index + 1, 0, boundary.term))
        self.story.begin(self.at, {}, boundary, outcome, change=True, reset=True)
        if self.journal.manifest.commit_index:
            self.story.commits.append((self.at, boundary.index))
        self._change(lambda: self.journal.reset(boundary, PRODUCER, self._sequence))

    # ------------------------------------------------------------ hard state, commit index
    def save_hard_state(self) -> None:
        state = self.story.hard[-1][1]
        vote = self.random.choice((None, self._number, "n1", LONG_VOTE))
        state = HardState(state.term + 1, vote)
        self.story.hard.append((self.at, state))
        self.journal.save_hard_state(state)
        self.story.promised(self.at, hard=len(self.story.hard) - 1)

    def commit_index(self) -> None:
        index = self.random.randint(0, self.journal.published_index)
        self.story.commits.append((self.at, index))
        self.journal.commit_to(index)

    # ------------------------------------------------------------ what goes wrong
    def _failing(self, act: Callable[[], None]) -> None:
        with contextlib.suppress(SyncFailed):
            act()
        self.files.heal()
        if self.journal.failure is not None:
            self.tick()
            self.die()

    def fail_flush(self) -> None:
        """A write or a sync of records fails: that is final, and the next writer starts from what is durable."""
        self.files.fail(self.random.choice(("sync", "pwrite")), errno.EIO, path=".seg", after=self.random.randint(0, 1))
        self._failing(self._append_and_flush)

    def _append_and_flush(self) -> None:
        self.append()
        self.flush()

    def fail_change(self) -> None:
        """Some step of a change fails."""
        kind = self.random.choice(("sync", "sync_all", "rename", "sync_dir", "pwrite"))
        self.files.fail(kind, errno.EIO, after=self.random.randint(0, 5))
        self._failing(self.random.choice((self.truncate, self.replace, self.purge, self.roll, self.save_hard_state)))

    def fill_disk(self) -> None:
        """A roll or a change finds no space: nothing is changed, and later it works."""
        self.files.fail("preallocate", errno.ENOSPC)
        before = len(self.story.versions)
        try:
            self.random.choice((self.roll, self.replace))()
        except DiskFull:
            if len(self.story.versions) > before:
                self.story.refused(self.at)
        finally:
            self.files.heal()
