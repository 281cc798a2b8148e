"""The source: a live writer's view or the files alone, and the catalog and indexes that belong to it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any
from unittest.mock import Mock

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest, shm, source
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.errors import CorruptLog, WriterUnavailable
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.segment import SegmentReader
from raftlog_mp.source import FileView, Source
from raftlog_mp.view import View

from .journals import append, flip, kill, open_log, overwrite, put, snapshot, stop, tail_path
from .readers import view_of

FILES = Files()


class StubLink:
    """A connection that is there or not as the test says, and notes what was asked of it."""

    def __init__(self, view: View | None = None) -> None:
        self.view, self.asked = view, list[str]()
        self.next_view: View | None = None  # of a writer that would answer

    def try_connect(self) -> bool:
        self.asked.append("try_connect")
        self.view = self.next_view or self.view
        return self.next_view is not None

    def ensure(self, deadline: float) -> Any:
        self.asked.append("ensure")
        raise WriterUnavailable("none")

    def renew(self, superseded: View) -> None:
        self.asked.append("renew")
        self.view = self.next_view or self.view

    def forget_view(self, view: View) -> None:
        self.asked.append("forget_view")
        if self.view is view:
            self.view = None


def source_of(log_dir: str, view: View | None = None, *, files_allowed: bool = True) -> tuple[Source, StubLink]:
    link = StubLink(view)
    return Source(link, FILES, log_dir, files_allowed=files_allowed), link  # type: ignore[arg-type]


def file_view(log_dir: str) -> FileView:
    return FileView(FILES, log_dir, manifest.load(FILES, log_dir))


def words(view: Any, *names: str) -> tuple[int, ...]:
    return tuple(getattr(view.control, name).load(shm.ACQUIRE) for name in names)


# ---------------------------------------------------------------- the files alone
def test_a_log_that_was_stopped(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"a", b"b", term=3)
    stop(journal)
    before = snapshot(log_dir)
    view = file_view(log_dir)
    assert words(view, "first_index", "last_index", "last_term", "durable_index") == (1, 2, 3, 2)
    assert words(view, "state", "fsyncs", "writer_sleeping") == (layout.STATE_STOPPED, 0, 0)
    assert (view.uuid, view.log_id, view.generation) == (journal.manifest.uuid, journal.log_id, 1)
    assert view.config == journal.config and len(view.catalog()) == 1
    assert set(view.control.snapshot()) == set(layout.CONTROL_WORDS)
    with pytest.raises(AttributeError):
        _ = view.control.no_such_word
    assert snapshot(log_dir) == before, "looking changes nothing"


def test_a_log_whose_writer_was_killed_ends_where_its_ring_does(log_dir: str) -> None:
    """MemFirst: what was acknowledged but not flushed is served out of the dead writer's ring."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"flushed")
    journal.flush()
    durable = journal.durable
    append(journal, b"x", b"y")
    put(journal, b"never published")
    journal.copy_to_ring()
    kill(journal)
    view = file_view(log_dir)
    assert words(view, "last_index", "durable_index", "state") == (3, 1, layout.STATE_CRASHED)
    assert words(view, "durable", "published") == (durable, journal.published)
    slots = view.tail_index()
    assert slots.base_index == 1 and slots.slots[1] == slots.slots[2] == durable and len(slots.slots) == 3
    fields, body = view.ring.record(durable)  # type: ignore[misc]
    assert (fields[9], body) == (2, b"\x92\xc4\x01x\xc4\x01y")
    info = view.catalog().find(3)
    assert info is not None and (info.end, info.last_index) == (durable, 3), "its file ends before what the ring adds"


def test_the_ring_of_a_dead_writer_serves_its_own_bytes_only(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"in the ring")
    kill(journal)
    view, start, end = file_view(log_dir), journal.durable, journal.published
    whole = view.ring.copy(start, end)
    assert whole is not None and len(whole) == end - start and whole.endswith(b"in the ring")
    assert view.ring.copy(start + 1, end - 1) == whole[1:-1]
    assert view.ring.copy(start - 1, end) is None and view.ring.copy(start, end + 1) is None
    assert view.ring.record(0) is None and view.ring.record(end) is None


def test_a_latched_failure_shows(log_dir: str) -> None:
    """What the disk did not take is served from the ring, past the tail that is trusted no more."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"a")
    journal.flush()
    append(journal, b"b")
    journal.fail(OSError(5, "injected"))
    kill(journal)
    view = file_view(log_dir)
    assert words(view, "state", "last_index", "durable_index") == (layout.STATE_FAILED, 2, 1)
    position = view.tail_index().slots[2 - view.tail_index().base_index]
    assert view.ring.record(position)[1] == b"b"  # type: ignore[index]
    assert view.catalog().find(2) is not None


# ---------------------------------------------------------------- which view is in force
def test_a_live_writer_is_asked_for_before_the_files_are_read(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    source, link = source_of(log_dir)
    link.next_view = view_of(journal)
    assert source.view() is link.next_view
    assert source.view() is link.next_view and link.asked == ["try_connect"], "once connected nothing is asked"
    stop(journal)


def test_a_handle_that_needs_a_writer_does_not_read_the_files(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    stop(journal)
    source, link = source_of(log_dir, files_allowed=False)
    with pytest.raises(WriterUnavailable):
        source.view()
    assert link.asked == ["try_connect", "ensure"]


def test_without_a_writer_the_files_are_read_once(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    stop(journal)
    source, _ = source_of(log_dir)
    view = source.view()
    assert isinstance(view, FileView) and source.view() is view


def test_a_reader_of_files_goes_live_as_soon_as_a_writer_answers(
    log_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, _ = open_log(log_dir)
    source_, link = source_of(log_dir)  # its writer does not answer yet
    on_files = source_.view()
    link.next_view = view_of(journal)
    monkeypatch.setattr(source, "LOOK_SECONDS", float("inf"))
    assert source_.view() is on_files, "it does not look at every read"
    monkeypatch.setattr(source, "LOOK_SECONDS", -1.0)
    assert source_.view() is link.next_view
    stop(journal)


def test_a_reader_of_files_looks_at_once_when_the_manifest_was_replaced(
    log_dir: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every change that takes entries away replaces it: none of them is served after that was answered."""
    stop(open_log(log_dir)[0])
    source_, link = source_of(log_dir)
    on_files = source_.view()
    monkeypatch.setattr(source, "LOOK_SECONDS", float("inf"))
    assert source_.view() is on_files
    journal, _ = open_log(log_dir)
    link.next_view = view_of(journal)
    assert source_.view() is link.next_view
    stop(journal)


def test_a_writer_that_came_and_went_is_noticed(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stop(open_log(log_dir)[0])
    monkeypatch.setattr(source, "LOOK_SECONDS", -1.0)
    source_, _ = source_of(log_dir)
    first = source_.view()
    assert source_.view() is first, "the same generation: nothing new to read"
    journal, _ = open_log(log_dir)
    append(journal, b"meanwhile")
    stop(journal)
    assert words(source_.view(), "last_index", "generation") == (1, 2)


def test_a_superseded_view_is_left_for_its_successor(log_dir: str) -> None:
    old, _ = open_log(log_dir)
    source, link = source_of(log_dir, view_of(old))
    kill(old)
    journal, _ = open_log(log_dir)
    link.next_view = view_of(journal)
    assert source.view() is link.next_view and link.asked == ["renew"]
    stop(journal)


@pytest.mark.parametrize("files_allowed", [True, False])
def test_a_superseded_view_whose_successor_is_gone_too(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, files_allowed: bool
) -> None:
    """A reader reads the files, anew; a client asks for a writer: what it has is known to be wrong."""
    monkeypatch.setattr(source, "LOOK_SECONDS", float("inf"))
    stop(open_log(log_dir)[0])
    source_, link = source_of(log_dir, files_allowed=files_allowed)
    assert not files_allowed or words(source_.view(), "last_index") == (0,)
    old, _ = open_log(log_dir)
    link.view = superseded = view_of(old)
    assert source_.view() is superseded
    kill(old)
    journal, _ = open_log(log_dir)
    append(journal, b"by the successor")
    stop(journal)
    if files_allowed:
        assert isinstance(source_.view(), FileView) and words(source_.view(), "last_index") == (1,)
    else:
        with pytest.raises(WriterUnavailable):
            source_.view()
        assert link.asked == ["renew", "ensure"]


def test_forget_lets_go_of_the_view_in_force_only(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    view, other = view_of(journal), view_of(journal)
    source, link = source_of(log_dir, view)
    source.forget(other)
    assert link.view is view
    source.forget(view)
    assert link.view is None
    client, link = source_of(log_dir, view, files_allowed=False)
    client.forget(view)
    assert link.view is view, "a client has nothing else"
    stop(journal)


@pytest.mark.parametrize("changes", [1, 1000])
def test_files_that_change_while_they_are_read_are_read_again(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, changes: int
) -> None:
    """A writer starts, rolls and stops meanwhile: what was seen does not fit together.  It is not tried for ever."""
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    stop(journal)
    calls, load = [], manifest.load

    def moving(files: Files, directory: str) -> manifest.Manifest:
        calls.append(directory)
        found = load(files, directory)
        found.durable += min(len(calls), 1 + changes)  # the one look and the next differ, `changes` times
        return found

    monkeypatch.setattr(source.manifest, "load", moving)
    source_, _ = source_of(log_dir)
    if changes == 1:
        assert words(source_.view(), "last_index") == (1,) and len(calls) == 4
    else:
        with pytest.raises(WriterUnavailable, match="kept changing"):
            source_.view()


# ---------------------------------------------------------------- catalog and active index
def test_refresh_takes_over_what_the_writer_shows(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"a", b"b")
    journal.roll()
    append(journal, b"c")
    source, view = source_of(log_dir)[0], view_of(journal)
    assert source.catalog().find(1) is None, "nothing was taken over yet"
    active = source.refresh(view)
    assert active is not None and active.base_index == 3
    assert active.slots[0] == journal.end - fmt.RECORD_BYTES - 1
    first, second = source.catalog().find(2), source.catalog().find(3)
    assert first is not None and second is not None and first.sealed and not second.sealed
    stop(journal)


def test_refresh_after_an_orderly_end_has_everything_in_sealed_segments(log_dir: str) -> None:
    """The writer took its active index along; the view that a handle still holds needs none."""
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    source, view = source_of(log_dir)[0], view_of(journal)
    stop(journal)
    active = source.refresh(view)
    assert active is not None and active.base_index > 1 << 62 and len(active.slots) == 0
    info = source.catalog().find(1)
    assert info is not None and info.sealed


def test_refresh_of_files_is_the_files_own_catalog(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"a")
    kill(journal)
    source, _ = source_of(log_dir)
    active = source.refresh(source.view())
    assert active is not None and active.base_index == 1 and len(active.slots) == 1
    assert source.catalog().find(1) is not None


def _other_generation(journal: Journal) -> None:
    journal.manifest.generation += 1
    manifest.save(FILES, journal.directory, journal.manifest)


def _rolled_on(journal: Journal) -> None:
    os.unlink(journal.index.path)  # type: ignore[union-attr]


@pytest.mark.parametrize("change", [_other_generation, _rolled_on])
def test_refresh_says_so_if_the_log_moved_on_meanwhile(log_dir: str, change: Callable[[Journal], None]) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    source, view = source_of(log_dir)[0], view_of(journal)
    assert source.refresh(view) is not None
    taken = source.catalog()
    change(journal)
    assert source.refresh(view) is None
    assert source.catalog() is taken, "nothing was taken over by half"
    kill(journal)


# ---------------------------------------------------------------- a sealed segment's index
@pytest.mark.parametrize("damage", ["none", "missing", "flipped", "short"])
def test_a_sealed_index_is_a_cache_that_can_be_rebuilt(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    scan = Mock(side_effect=source.scan_records)
    monkeypatch.setattr(source, "scan_records", scan)
    journal, _ = open_log(log_dir)
    expected = []
    for payloads in ([b"a"], [b"b", b"c", b"d"], [b"e"]):
        expected += [journal.end] * len(payloads)
        append(journal, *payloads)
    stop(journal)
    source_, _ = source_of(log_dir)
    source_.refresh(source_.view())
    info = source_.catalog().find(1)
    assert info is not None
    path = os.path.join(log_dir, fmt.index_name(info.segment_id))
    if damage == "missing":
        os.unlink(path)
    elif damage == "flipped":
        flip(path, fmt.INDEX_HEADER_BYTES + 8)
    elif damage == "short":
        os.truncate(path, os.path.getsize(path) - 8)
    segment = SegmentReader(FILES, os.path.join(log_dir, fmt.segment_name(info.segment_id)), info.start)
    index = source_.index_of(info, segment)
    assert (index.base_index, list(index.slots)) == (1, expected)
    assert scan.call_count == (damage != "none"), "read again only if it has to be"
    index.close()


# ---------------------------------------------------------------- damage
def damaged(log_dir: str) -> SegmentInfo:
    """Three entries, all durable; the third is damaged and the writer dead."""
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    append(journal, b"b")
    position = journal.end
    append(journal, b"c" * 100)
    journal.mark()
    journal.flush()
    info = journal.manifest.segments[-1]
    kill(journal)
    overwrite(tail_path(log_dir), fmt.DATA_OFFSET + position - info.start + fmt.RECORD_BYTES, b"X")
    return info


def test_an_index_that_damage_keeps_from_being_served_is_named(log_dir: str) -> None:
    """What proves behind the damage makes it a hole; what nothing follows is refused as the end that is missing."""
    info, (source, _) = damaged(log_dir), source_of(log_dir)
    assert source.refresh(source.view()) is not None and source.lost_at(2) is None
    assert source.loss(source.lost_at(3) or []).segment == fmt.segment_name(info.segment_id)
    overwrite(tail_path(log_dir), fmt.DATA_OFFSET + 3 * fmt.RECORD_BYTES, bytes(1000))
    source, _ = source_of(log_dir)
    assert words(source.view(), "last_index") == (1,)
    with pytest.raises(CorruptLog):
        source.check_readable(2)


def test_absence_is_no_damage(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    source, link = source_of(log_dir, view_of(journal))
    source.check_readable(99)  # live: the writer has recovered the log
    stop(journal)
    link.view = None
    assert isinstance(source.view(), FileView)
    source.check_readable(99)
