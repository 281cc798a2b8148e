"""A writer that rolls behind the back of those who append, in one thread, step by step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raftlog_mp import journal as journal_module
from raftlog_mp import rolling
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.preparation import Preparation, Together

from .journals import Entries, append, open_log

PRODUCER = 0xB2
BODY = 6000  # ten records fill a segment
SYNCS = ("sync", "sync_all", "sync_dir")
Append = Callable[[], None]


def do_at_once(monkeypatch: pytest.MonkeyPatch, order: int = 1) -> None:
    """What is made ahead or beside is made in the test's own thread, so that every step has its place.

    ``order`` -1: of steps that need not wait for each other, the last comes first.
    """
    monkeypatch.setattr(Preparation, "start", lambda made, bell: (made.run(), bell()))
    for module in (journal_module, rolling):
        monkeypatch.setattr(module, "Together", lambda steps, threads: Together(steps[::order], threads=False))


def payload(index: int) -> bytes:
    return b"%d-" % index + bytes([index % 251]) * BODY


def begin(directory: str, files: Files | None = None, strategy: str = "mem_first", **settings: Any) -> Journal:
    """A log with a writer that does things behind."""
    journal, _ = open_log(directory, files, strategy=strategy, **settings)
    journal.bell = lambda: None
    return journal


class Appender:
    """Appends one entry after the other and notes what was acknowledged."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.done: Entries = {}
        self.begun: Entries = {}

    def __call__(self) -> None:
        index = self.journal.next_index
        entry = (1 + index // 3, payload(index))
        self.begun = {index: entry}
        how: dict[str, Any] = {"term": entry[0], "producer": PRODUCER, "sequence": index}
        append(self.journal, entry[1], **how)
        self.done[index] = entry

    def fill(self) -> None:
        """Up to the last record that fits."""
        while not self.journal.needs_roll(BODY + 10, 1):
            self()


def work(journal: Journal) -> None:
    """One job, as the helper thread does it."""
    if journal.owes_work:
        journal.job = journal.make_job()
        journal.job.run()
        journal.finish_job()


def to_the_border(one: Appender) -> None:
    """The active segment is nearly full, half of it is durable, and the next one is prepared."""
    journal = one.journal
    while journal.end < journal.segment.header.start + journal.segment.header.file_bytes // 2:
        one()
    work(journal)
    one.fill()


def life(one: Appender, rolls: int = 1) -> None:
    """Rolls behind, with appends in the middle of everything."""
    journal = one.journal
    for _ in range(rolls):
        to_the_border(one)
        one()
        one()
        journal.prepare_in_time()  # as now and then: in a flood the segment after the one that comes is made, too
        work(journal)  # what the old segment lacks
        one()
        journal.job = journal.make_job()
        one()
        journal.job.run()
        one()
        journal.finish_job()
        one()
    work(journal)
