"""A roll behind the back of those who append (MemFirst): nobody waits, readers see everything, orders may come."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.config import MIB
from raftlog_mp.errors import CorruptLog, SyncFailed, WriterUnavailable
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.preparation import Preparation
from raftlog_mp.reader import Reader
from raftlog_mp.types import HardState, LogId

from .changes import batch
from .journals import BOTH, append, commit, entries_of, kill, letters, reopen, stop
from .readers import reader_of
from .rolls import BODY, SYNCS, Appender, begin, do_at_once, payload, to_the_border, work


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    do_at_once(monkeypatch)


# ---------------------------------------------------------------- nobody waits
def test_no_append_waits_for_a_sync(log_dir: str) -> None:
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    before = len(files.steps)
    for _ in range(3):
        one()
    assert files.steps[before:] == [], "the roll has begun, and the disk was not touched"
    assert journal.control.last_index.load(0) == len(one.done)
    assert len(manifest.load(Files(), log_dir).segments) == 1, "not listed yet"
    stop(journal)
    assert entries_of(log_dir) == one.done


def test_order_and_number_of_the_syncs(log_dir: str) -> None:
    """Data of the old segment; its seal; the new one's header and records; the manifest and its name."""
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    old, new = (fmt.segment_name(journal.segment.header.segment_id + n) for n in (0, 1))
    one()
    before = len(files.steps)
    work(journal)
    work(journal)
    steps = [(step[0], os.path.basename(step[1])) for step in files.steps[before:]]
    assert [step for step in steps if step[0] in SYNCS] == [
        ("sync", old), ("sync_all", old), ("sync", new), ("sync_all", "manifest.tmp"), ("sync_dir", "log"),
    ]  # fmt: skip
    assert steps.index(("sync_all", old)) < steps.index(("pwrite", new)), "unsynced bytes lie in one segment at most"
    assert journal.durable == journal.end and len(manifest.load(Files(), log_dir).segments) == 2
    stop(journal)


def test_a_roll_at_once_takes_four_syncs_where_the_next_segment_is_there(log_dir: str) -> None:
    files = FaultyFiles()
    journal = begin(log_dir, files, "disk_first")
    one = Appender(journal)
    to_the_border(one)
    before = len(files.steps)
    journal.roll()
    syncs = [step[0] for step in files.steps[before:] if step[0] in SYNCS]
    assert syncs == ["sync_all", "sync", "sync_all", "sync_dir"], "seal, head, manifest and its name"
    one()
    stop(journal)
    assert entries_of(log_dir) == one.done


def test_a_roll_waits_for_what_is_not_ready(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the next segment is being made, and while the roll before is not done, there is no room: ask again."""
    made: list[Preparation] = []
    monkeypatch.setattr(Preparation, "start", lambda one, bell: made.append(one))
    journal = begin(log_dir)
    one = Appender(journal)
    to_the_border(one)
    assert len(made) == 1 and not journal.fits(BODY, 1) and journal.fits(10, 1), "what does not need the roll goes on"
    made[0].run()
    assert journal.fits(BODY, 1)
    one()
    one.fill()
    assert journal._roll is not None and not journal.fits(BODY, 1)
    work(journal)
    work(journal)
    assert len(made) == 1 and not journal.fits(BODY, 1) and len(made) == 2
    made[1].run()
    assert journal.fits(BODY, 1)
    one()
    stop(journal)
    assert entries_of(log_dir) == one.done


def test_a_record_that_the_prepared_segment_cannot_take_gets_its_own(log_dir: str) -> None:
    journal = begin(log_dir)
    one = Appender(journal)
    to_the_border(one)
    large = b"x" * 200_000
    index = append(journal, large, term=9)
    assert journal._roll is None and journal.segment.header.file_bytes > len(large)
    stop(journal)
    assert entries_of(log_dir) == one.done | {index: (9, large)}


def test_entries_that_fill_the_index_roll_behind(log_dir: str) -> None:
    journal = begin(log_dir, segment_bytes=MIB)
    slots = journal.manifest.segments[-1].index_slots
    while journal._roll is None:
        append(journal, *[b""] * 10_000)
        if journal._roll is None:
            work(journal)
    assert slots - 10_000 < journal.manifest.segments[-1].base_index + journal.next_index <= slots + 10_001
    append(journal, *[b""] * 10_000)
    assert journal.next_index > slots + 1, "in the index of the old segment, too"
    count = journal.next_index - 1
    stop(journal)
    assert len(entries_of(log_dir)) == count


# ---------------------------------------------------------------- readers
def look(reader: Reader, one: Appender) -> None:
    """Everything that was acknowledged is read, by index and as a range."""
    for index in (1, len(one.done) - 2, len(one.done)):
        entry = reader.get(index)
        assert entry is not None and (entry.term, entry.payload) == one.done[index]
    found = reader.read(1, len(one.done) + 1, None)
    assert {e.index: (e.term, e.payload) for e in found} == one.done


def test_a_reader_sees_every_entry_at_every_stage(log_dir: str) -> None:
    """Through one map: entries of the next segment are found in the old index until the new segment is listed."""
    journal = begin(log_dir)
    one, version = Appender(journal), journal.control.catalog_version.load(0)
    reader, _ = reader_of(log_dir, journal)
    to_the_border(one)
    look(reader, one)
    one()
    one()
    look(reader, one)
    work(journal)
    look(reader, one)
    assert journal.control.catalog_version.load(0) == version, "nobody had to look at the manifest"
    work(journal)
    while journal.end < 3 * MIB:  # laps the ring: what was read from it is read from files
        one()
        if not journal.fits(BODY, 1) or journal.end % 3 == 0:
            journal.flush()
    look(reader, one)
    reader.close()
    stop(journal)


@pytest.mark.parametrize("missed", ["old", "new"])
def test_control_slots_that_only_one_of_the_indexes_gets_are_missed(log_dir: str, missed: str) -> None:
    journal = begin(log_dir)
    one = Appender(journal)
    reader, _ = reader_of(log_dir, journal)
    to_the_border(one)
    one()
    index = journal.index if missed == "old" else journal.coming
    index.write = lambda *what: None
    one()
    wrong = pytest.raises((AssertionError, CorruptLog, WriterUnavailable))
    with wrong if missed == "old" else contextlib.nullcontext():
        look(reader, one)
    journal.flush()
    with wrong if missed == "new" else contextlib.nullcontext():
        look(reader, one)
    reader.close()
    kill(journal)


# ---------------------------------------------------------------- orders in the middle of a roll
def truncate(journal: Journal, one: Appender) -> None:
    journal.replace_from(len(one.done) - 1, [], 0, 0)
    del one.done[len(one.done)], one.done[len(one.done)]


def replace(journal: Journal, one: Appender) -> None:
    last = len(one.done)
    journal.replace_from(last, [batch(99, b"other", b"more")], 0, 0)
    one.done |= {last: (99, b"other"), last + 1: (99, b"more")}


def purge(journal: Journal, one: Appender) -> None:
    journal.purge_to(3)
    for index in (1, 2, 3):
        del one.done[index]


def purge_everything(journal: Journal, one: Appender) -> None:
    journal.purge_to(len(one.done))
    one.done.clear()


def reset(journal: Journal, one: Appender) -> None:
    journal.reset(LogId(99, 500), 0, 0)
    one.done.clear()


def vote(journal: Journal, _: Appender) -> None:
    journal.save_hard_state(HardState(1000, "n1"))


def end(journal: Journal, _: Appender) -> None:
    journal.flush()


ORDERS = [truncate, replace, purge, purge_everything, reset, vote, end]


@pytest.mark.parametrize("stage", ["begun", "old segment", "between", "new segment"])
@pytest.mark.parametrize("order", ORDERS)
def test_orders_in_the_middle_of_a_roll(log_dir: str, order: Callable[..., None], stage: str) -> None:
    """Whatever is under way, in another thread, when they come."""
    journal = begin(log_dir)
    one = Appender(journal)
    to_the_border(one)
    one()
    one()
    if stage in ("between", "new segment"):
        work(journal)
    if stage in ("old segment", "new segment"):
        journal.job = journal.make_job()
        journal.job.finished = threading.Event()
        threading.Thread(target=journal.job.run).start()
    order(journal, one)
    before = journal.next_index
    payloads = {before + n: (100, payload(before + n)) for n in range(14)}  # and the log rolls on
    for term, body in payloads.values():
        append(journal, body, term=term)
    copy = shutil.copytree(log_dir, log_dir + "-killed")
    stop(journal)
    assert entries_of(log_dir) == one.done | payloads
    assert reopen(copy)[0] == one.done | payloads


def test_a_failed_vote_does_not_lose_its_latch_to_a_roll(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest that says FAILED comes after the one that lists the new segment."""
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    one()
    work(journal)
    job = journal.job = journal.make_job()
    job.finished = threading.Event()
    files.fail("sync", errno.EIO, path="hard_state")
    monkeypatch.setattr(job.finished, "wait", lambda: job.run())  # it ends only when somebody waits for it
    with pytest.raises(SyncFailed):
        journal.save_hard_state(HardState(1000, "n1"))
    state = manifest.load(Files(), log_dir)
    assert state.failed and len(state.segments) == 2
    kill(journal)
    assert reopen(log_dir)[0] == one.done


# ---------------------------------------------------------------- what is left
@BOTH
def test_a_clean_end_leaves_no_prepared_segment(log_dir: str, strategy: str) -> None:
    journal = begin(log_dir, strategy=strategy)
    one = Appender(journal)
    to_the_border(one)
    assert journal._prepared is not None and os.path.exists(journal._prepared.path)
    stop(journal)
    names = os.listdir(log_dir)
    assert len([name for name in names if name.endswith(".seg")]) == 1
    assert not [name for name in os.listdir(os.path.join(log_dir, "shm")) if name.startswith("index")]


@BOTH
def test_a_prepared_segment_that_a_crash_left_goes_at_the_next_start(log_dir: str, strategy: str) -> None:
    journal = begin(log_dir, strategy=strategy)
    one = Appender(journal)
    to_the_border(one)
    assert journal._prepared is not None
    path = journal._prepared.path
    kill(journal)
    assert os.path.getsize(path) == 64 * 1024
    assert "B" in letters(reopen(log_dir)[1])
    assert not os.path.exists(path) and not os.path.exists(os.path.join(log_dir, fmt.QUARANTINE_NAME))
    assert entries_of(log_dir) == one.done


def test_commit_index_moves_during_a_roll(log_dir: str) -> None:
    """It is stated by the next manifest, whoever writes it."""
    journal = begin(log_dir)
    one = Appender(journal)
    to_the_border(one)
    one()
    work(journal)
    job = journal.job = journal.make_job()
    journal.commit_to(5)
    job.run()
    journal.finish_job()
    commit(journal)
    assert journal.manifest.commit_index == 5
    stop(journal)
    assert manifest.load(Files(), log_dir).commit_index == 5


@BOTH
def test_a_system_without_threads_to_give_rolls_all_the_same(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, strategy: str
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.undo()
    monkeypatch.setattr(threading.Thread, "start", start)
    journal = begin(log_dir, strategy=strategy)
    shutil.rmtree(os.path.join(log_dir, "shm"))  # and somebody wiped the folder
    one = Appender(journal)
    to_the_border(one)
    for _ in range(12):
        one()
        journal.flush()
    assert journal.rolls >= 2 and journal.failure is None
    kill(journal)
    assert reopen(log_dir)[0] == one.done
