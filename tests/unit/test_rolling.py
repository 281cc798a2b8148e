"""A roll behind the back of those who append (MemFirst): a crash, a power cut, an error or an order at each step."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faulty_files import LOST, TORN, Crash, FaultyFiles, PoweredFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest
from raftlog_mp.check import check_log
from raftlog_mp.config import MIB
from raftlog_mp.errors import CorruptLog, DiskFull, SyncFailed, WriterUnavailable
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.preparation import Preparation
from raftlog_mp.reader import Reader
from raftlog_mp.rolling import RollJob
from raftlog_mp.segment import SegmentWriter
from raftlog_mp.types import HardState, LogId

from .changes import batch
from .journals import BOTH, Entries, append, commit, entries_of, kill, letters, open_log, reopen, stop
from .readers import reader_of

PRODUCER = 0xB2
BODY = 6000  # ten records fill a segment
SYNCS = ("sync", "sync_all", "sync_dir")
Append = Callable[[], None]


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is made ahead is made in the test's own thread, so that every step has its place."""
    monkeypatch.setattr(Preparation, "start", lambda made, bell: (made.run(), bell()))


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
        entry = (1 + index // 7, payload(index))
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
        work(journal)  # what the old segment lacks
        one()
        journal.job = journal.make_job()
        one()
        journal.job.run()
        one()
        journal.finish_job()
        one()
    work(journal)


def dry_run(folder: Path, rolls: int = 1) -> list[tuple[Any, ...]]:
    """Every step of that life."""
    files = FaultyFiles()
    journal = begin(str(folder / "steps"), files)
    files.revive()
    life(Appender(journal), rolls)
    assert journal.rolls == rolls + 1 and journal._roll is None
    kill(journal)
    return files.steps


def check_killed(log: str, one: Appender) -> None:
    """Nothing acknowledged is lost, nothing else is there, no sentence of ``check`` is worse than a note."""
    reader, _ = reader_of(log, None)
    assert {e.index: (e.term, e.payload) for e in reader.read(1, len(one.done) + 1, None)} == one.done
    reader.close()
    assert not [found for found in check_log(log).findings if found.severity == "damage"]
    journal, plan = open_log(log)
    for index, (term, _) in one.done.items():
        assert journal.producers.look_up(PRODUCER, index) == ("appended", (index, 1, term))
    stop(journal)
    entries = entries_of(log)
    assert entries in (one.done, one.done | one.begun) and not plan.loss_possible, letters(plan)
    assert not os.path.exists(os.path.join(log, fmt.QUARANTINE_NAME))
    listed = {fmt.segment_name(info.segment_id) for info in manifest.load(Files(), log).segments}
    assert {name for name in os.listdir(log) if name.endswith(".seg")} == listed


def crashes(
    folder: Path, skip: tuple[str, ...] = (), rolls: int = 1
) -> Iterator[tuple[str, PoweredFiles, Appender, int]]:
    """The log after a crash before each step: path, disk, what was acknowledged, and what was durable."""
    for at, step in enumerate(dry_run(folder, rolls)):
        if step[0] in skip:
            continue
        log, files = str(folder / f"at{at}"), PoweredFiles()
        journal = begin(log, files)
        one = Appender(journal)
        files.revive(crash_at=at)
        with pytest.raises(Crash):
            life(one, rolls)
        files.bury()
        durable = journal.control.durable_index.load(0)
        kill(journal)
        yield log, files, one, durable
        shutil.rmtree(log)


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


# ---------------------------------------------------------------- crashes
ROLLS = pytest.mark.parametrize("rolls", [1, pytest.param(3, marks=pytest.mark.slow)])


@ROLLS
def test_killed_at_every_step(tmp_path: Path, rolls: int) -> None:
    seen = 0
    for log, _, one, _ in crashes(tmp_path, SYNCS, rolls):
        check_killed(log, one)
        seen += 1
    assert seen > 15


@pytest.mark.parametrize("moment", range(5))
def test_killed_while_the_ring_holds_records_of_two_segments(log_dir: str, moment: int) -> None:
    """Between the jobs; what the old segment's file gets of the new one's records may be more than it had room for."""
    journal = begin(log_dir)
    one = Appender(journal)
    to_the_border(one)
    for _ in range(9):
        one()
    assert journal._roll is not None
    for _ in range(moment // 2):
        work(journal)
    if moment % 2:  # a job was done, and nobody has learnt of it
        journal.make_job().run()
    kill(journal)
    check_killed(log_dir, one)
    assert reopen(log_dir)[0] == entries_of(log_dir)


def check_dark(log: str, one: Appender, durable: int) -> None:
    """After a power cut: everything that was durable, and of the rest a suffix may be missing, which is told."""
    entries, plan = reopen(log)
    everything = one.done | one.begun
    assert entries == {index: everything[index] for index in range(1, len(entries) + 1)}
    assert len(entries) >= durable
    assert plan.loss_possible or len(entries) >= len(one.done)


@ROLLS
@pytest.mark.parametrize("fate", [LOST, TORN])
def test_power_cut_at_every_step(tmp_path: Path, fate: str, rolls: int) -> None:
    skip = ("create", "preallocate", "pwrite", "truncate", "rename", "unlink") if fate == LOST else SYNCS
    for at, (log, files, one, durable) in enumerate(crashes(tmp_path, skip, rolls)):
        dark = files.power_cut(log, log + "-dark", fate, seed=at)
        check_dark(dark, one, durable)
        shutil.rmtree(dark)


def test_control_a_segment_that_is_listed_before_its_records_are_synced_is_caught(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change_over(job: RollJob, right: Any = RollJob._change_over) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(SegmentWriter, "sync", lambda segment: None)
            right(job)

    monkeypatch.setattr(RollJob, "_change_over", change_over)
    with pytest.raises((AssertionError, CorruptLog)):
        test_power_cut_at_every_step(tmp_path, LOST, 1)


# ---------------------------------------------------------------- errors
def test_an_error_at_every_step_is_latched(tmp_path: Path) -> None:
    """In whatever thread it came up.  What was acknowledged stays readable, and is there after a restart."""
    for at, step in enumerate(dry_run(tmp_path)):
        log, files = str(tmp_path / f"bad{at}"), FaultyFiles()
        journal = begin(log, files)
        one = Appender(journal)
        files.revive()
        files.fail_at(at, errno.EIO)
        with pytest.raises(SyncFailed):
            life(one)
            journal.roll()  # needs the segment that could not be prepared
        assert journal.failure is not None and journal.control.state.load(0) == layout.STATE_FAILED, step
        reader, _ = reader_of(log, journal)
        assert len(reader.read(1, len(one.done) + 1, None)) == len(one.done)
        reader.close()
        with pytest.raises(SyncFailed):
            journal.roll()
        kill(journal)
        assert reopen(log)[0] in (one.done, one.done | one.begun), step
        shutil.rmtree(log)


def test_no_space_at_every_step_loses_nothing_and_goes_on(tmp_path: Path) -> None:
    final = 0
    for at, step in enumerate(dry_run(tmp_path)):
        log, files = str(tmp_path / f"full{at}"), FaultyFiles()
        journal = begin(log, files)
        one = Appender(journal)
        files.revive()
        files.fail_at(at, errno.ENOSPC)
        try:
            life(one)
            journal.flush()
            assert journal.failure is None and journal.rolls == 2
        except SyncFailed:
            final += 1
            # A disk that breaks its word: the space of a segment is reserved, and a name is as large as before.
            assert step[1].endswith(".seg") or step[0] == "sync_dir", step
        kill(journal)
        assert reopen(log)[0] in (one.done, one.done | one.begun), step
        shutil.rmtree(log)
    assert final


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE])
def test_no_space_to_list_the_next_segment(log_dir: str, code: int) -> None:
    """Appends are refused, with nothing changed, until there is space; what was acknowledged is not at risk."""
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    one()
    work(journal)
    for _ in range(5):
        files.fail("create", code, path="manifest.tmp")
    work(journal)
    assert journal.failure is None and journal.owes_work and not journal.admits(1, 1) and journal.fits(1, 1)
    for act in (one, journal.flush, lambda: journal.replace_from(1, [], 0, 0)):
        with pytest.raises(DiskFull):
            act()
    work(journal)
    copy = shutil.copytree(log_dir, log_dir + "-killed")
    assert reopen(copy)[0] == one.done
    journal.purge_to(2)  # which takes space, and makes some
    one()
    one()
    assert journal.rolls == 2
    stop(journal)
    assert entries_of(log_dir) == {index: entry for index, entry in one.done.items() if index > 2}


def test_no_space_at_the_end_leaves_the_rest_in_memory(log_dir: str) -> None:
    files = FaultyFiles()
    journal = begin(log_dir, files)
    one = Appender(journal)
    to_the_border(one)
    one()
    for _ in range(3):
        files.fail("create", errno.ENOSPC, path="manifest.tmp")
    journal.close(clean=True)
    assert not manifest.load(Files(), log_dir).clean and journal.failure is None
    journal.control.close()
    assert reopen(log_dir)[0] == one.done


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
