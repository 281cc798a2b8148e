"""The reader: index to position, position to bytes, out of the ring or a segment; clipped, counted, and proved."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import manifest, reader, shm, wakeup
from raftlog_mp.bodies import unpack_body
from raftlog_mp.chunk import entries_in
from raftlog_mp.errors import CorruptLog, LogClosed, WriterUnavailable
from raftlog_mp.reader import Reader
from raftlog_mp.source import Source
from raftlog_mp.types import Entry

from .journals import append, commit, flip, kill, open_log, put, stop
from .readers import FILES, OVER_THE_RING, fill, payload, payloads, reader_of, view_of


@pytest.fixture
def batches(log_dir: str) -> Iterator[Reader]:
    """Five batches: entries 1-3 (term 1), 4 (term 1), 5-8 (term 2), 9 empty, 10-11 (term 4)."""
    journal, _ = open_log(log_dir)
    append(journal, b"1", b"22", b"333")
    append(journal, b"4444")
    append(journal, b"5", b"6", b"7", b"8", term=2)
    append(journal, b"", term=2)
    append(journal, b"10", b"11", term=4)
    reader, link = reader_of(log_dir, journal)
    yield reader
    reader.close()
    link.view = None  # pytest still holds the reader
    stop(journal)


# ---------------------------------------------------------------- one entry
def test_get_inside_and_outside(batches: Reader) -> None:
    assert batches.get(1) == Entry(1, 1, b"1") and batches.get(3) == Entry(1, 3, b"333")
    assert batches.get(4) == Entry(1, 4, b"4444") and batches.get(9) == Entry(2, 9, b"")
    assert batches.get(11) == Entry(4, 11, b"11")
    assert [batches.get(index) for index in (-1, 0, 12, 1 << 63)] == [None] * 4


def test_an_empty_log_has_no_entries(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    reader, _ = reader_of(log_dir, journal)
    assert reader.get(0) is None and reader.get(1) is None
    append(journal, b"now")
    assert reader.get(1) == Entry(1, 1, b"now"), "the same reader, without being told"
    reader.close()
    stop(journal)


def test_what_is_not_published_is_not_there(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"seen")
    reader, _ = reader_of(log_dir, journal)
    put(journal, b"not yet")
    journal.copy_to_ring()
    assert reader.get(2) is None and payloads(reader.read(1, 2, None)) == [b"seen"]
    commit(journal)
    assert reader.get(2) == Entry(1, 2, b"not yet")
    reader.close()
    stop(journal)


def test_the_batch_that_was_decoded_last_is_kept(batches: Reader, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded, unpack = [], unpack_body

    def counted(body: bytes, count: int) -> list[bytes]:
        decoded.append(count)
        return unpack(body, count)

    monkeypatch.setattr(reader, "unpack_body", counted)
    assert [batches.get(index).payload for index in (5, 8, 6, 7, 5)] == [b"5", b"8", b"6", b"7", b"5"]  # type: ignore[union-attr]
    assert decoded == [4]
    assert batches.get(4) == Entry(1, 4, b"4444") and decoded == [4], "a single entry needs no decoding"
    assert batches.get(2) == Entry(1, 2, b"22") and batches.get(6) == Entry(2, 6, b"6")
    assert decoded == [4, 3, 4]


def test_a_get_that_was_bound_before_stays_right_through_every_change(log_dir: str) -> None:
    """The short way belongs to one map of the log: an older one goes the long way, and finds the same."""
    journal, _ = open_log(log_dir)
    reader, link = reader_of(log_dir, journal)
    bound = [reader.get]
    assert bound[0](1) is None
    append(journal, b"a")
    append(journal, b"b")
    append(journal, b"c")

    def check(expected: dict[int, bytes]) -> None:
        bound.append(reader.get)
        for index in range(6):
            entry = Entry(1, index, expected[index]) if index in expected else None
            assert [get(index) for get in bound] == [entry] * len(bound), index

    check({1: b"a", 2: b"b", 3: b"c"})
    journal.roll()
    check({1: b"a", 2: b"b", 3: b"c"})
    append(journal, b"d")
    check({1: b"a", 2: b"b", 3: b"c", 4: b"d"})
    journal.replace_from(3, [], 7, 1)
    check({1: b"a", 2: b"b"})
    append(journal, b"C")
    check({1: b"a", 2: b"b", 3: b"C"})
    journal.purge_to(1)
    check({2: b"b", 3: b"C"})
    link.view, link.closed = None, True  # the link goes first
    reader.close()
    for get in bound[1:]:
        with pytest.raises(LogClosed):
            get(2)
    stop(journal)


# ---------------------------------------------------------------- ranges
@pytest.mark.parametrize(("start", "stop"), [(1, 12), (2, 3), (3, 6), (6, 8), (8, 11), (11, 12), (5, 5), (7, 3)])
def test_ranges_are_half_open_and_may_begin_and_end_inside_a_batch(batches: Reader, start: int, stop: int) -> None:
    entries = batches.read(start, stop, None)
    assert [entry.index for entry in entries] == list(range(start, stop))
    assert entries == [batches.get(index) for index in range(start, stop)]


@pytest.mark.parametrize(
    ("start", "max_bytes", "indexes"),
    [
        (1, 1 << 30, range(1, 12)),
        (1, 6, range(1, 4)),  # 1 + 2 + 3 fit exactly
        (1, 5, range(1, 3)),
        (1, 9, range(1, 4)),  # the fourth would make ten
        (1, 10, range(1, 5)),
        (4, 0, range(4, 5)),  # one entry is given whatever it costs
        (4, 3, range(4, 5)),
        (9, 0, range(9, 10)),
        (5, 4, range(5, 10)),  # an empty entry costs nothing
        (5, 3, range(5, 8)),
    ],
)  # fmt: skip
def test_max_bytes_of_payload_but_one_entry_at_least(
    batches: Reader, start: int, max_bytes: int, indexes: range
) -> None:
    assert [entry.index for entry in batches.read(start, 12, max_bytes)] == list(indexes)


def test_batches_are_the_records_that_hold_the_range(batches: Reader) -> None:
    found = batches.read_batches(2, 7, None)
    assert [(batch.term, batch.first_index, batch.count) for batch in found] == [(1, 2, 2), (1, 4, 1), (2, 5, 2)]
    assert [entry for batch in found for entry in batch.entries()] == batches.read(2, 7, None)
    assert found[1].encoded == b"4444", "a whole record is what stands in the log"


def test_a_range_over_marks_rolls_ring_and_files(log_dir: str) -> None:
    """Records without entries lie between; the older half was lapped and is in sealed segments."""
    journal, _ = open_log(log_dir)
    reader, _ = reader_of(log_dir, journal)
    for _ in range(OVER_THE_RING // 50):
        fill(journal, 50)
        journal.mark()
        commit(journal)
    last = journal.next_index - 1
    assert len(journal.manifest.segments) > 20 and reader.get(1) == Entry(1, 1, payload(1))
    assert payloads(reader.read(1, last + 1, None)) == [payload(index) for index in range(1, last + 1)]
    assert payloads(reader.read(last - 1, last + 1, None)) == [payload(last - 1), payload(last)]
    reader.close()
    stop(journal)


# ---------------------------------------------------------------- damage
def damage_entry(log_dir: str, index: int) -> tuple[str, int]:
    """Flip a bit in the payload of an entry that fills a record; the segment's name and the record's offset."""
    found = manifest.load(FILES, log_dir)
    info = next(info for info in reversed(found.segments) if info.base_index <= index)
    path = os.path.join(log_dir, fmt.segment_name(info.segment_id))
    with open(path, "rb") as file:
        offset = file.read().index(payload(index)) - fmt.RECORD_BYTES
    flip(path, offset + fmt.RECORD_BYTES + 100)
    return os.path.basename(path), offset


def test_damage_in_a_file_is_named_and_the_rest_is_served(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    fill(journal, OVER_THE_RING)
    segment, offset = damage_entry(log_dir, 3)
    reader, _ = reader_of(log_dir, journal)
    for read in (lambda: reader.get(3), lambda: reader.read(3, 4, None), lambda: reader.read(1, 9, None)):
        with pytest.raises(CorruptLog) as refused:
            read()
        error = refused.value
        assert (error.segment, error.offset, error.first_index) == (segment, offset, 3)
    assert reader.get(2) == Entry(1, 2, payload(2)) and reader.get(4) == Entry(1, 4, payload(4))
    assert payloads(reader.read(4, 9, None)) == [payload(index) for index in range(4, 9)]
    reader.close()
    stop(journal)


def test_files_are_not_proved_where_that_was_switched_off(log_dir: str) -> None:
    journal, _ = open_log(log_dir, verify_reads=False)
    fill(journal, OVER_THE_RING)
    damage_entry(log_dir, 3)
    reader, _ = reader_of(log_dir, journal)
    entry = reader.get(3)
    assert entry is not None and entry.payload != payload(3) and len(entry.payload) == len(payload(3))
    assert reader.read(3, 4, None) == [entry]
    reader.close()
    stop(journal)


def test_a_segment_that_is_gone_is_damage(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    fill(journal, OVER_THE_RING)
    info = journal.manifest.segments[0]
    os.unlink(os.path.join(log_dir, fmt.segment_name(info.segment_id)))
    reader, _ = reader_of(log_dir, journal)
    with pytest.raises(CorruptLog, match="entries? 1 ") as refused:
        reader.get(1)
    assert refused.value.segment == fmt.segment_name(info.segment_id)
    beyond = journal.manifest.segments[1].base_index
    assert reader.get(beyond) == Entry(1, beyond, payload(beyond))
    reader.close()
    stop(journal)


# ---------------------------------------------------------------- a log that moves on
def test_a_new_generation_is_taken_over(log_dir: str) -> None:
    """MemFirst lost its ring: the new writer puts another batch at the same indexes, and no old one is served."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"kept")
    journal.flush()
    append(journal, b"lost 2", b"lost 3")
    reader, link = reader_of(log_dir, journal)
    assert reader.get(3) == Entry(1, 3, b"lost 3")
    kill(journal)
    for name in shm.names(journal.folder):
        os.unlink(os.path.join(journal.folder, name))
    journal, plan = open_log(log_dir)
    assert plan.loss_possible
    append(journal, b"new 2", b"new 3", term=2)
    link.view = view_of(journal)
    assert reader.get(3) == Entry(2, 3, b"new 3") and reader.get(1) == Entry(1, 1, b"kept")
    assert payloads(reader.read(1, 4, None)) == [b"kept", b"new 2", b"new 3"]
    assert reader.view() is link.view
    reader.close()
    stop(journal)


@pytest.mark.parametrize("files_allowed", [True, False])
def test_what_a_dead_writer_published_stays_readable(log_dir: str, files_allowed: bool) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"a")
    reader, link = reader_of(log_dir, journal, files_allowed=files_allowed)
    assert reader.get(1) == Entry(1, 1, b"a")
    append(journal, b"b", b"c")
    kill(journal)
    link.connected = False
    assert [reader.get(index) for index in (1, 2, 3)] == [Entry(1, 1, b"a"), Entry(1, 2, b"b"), Entry(1, 3, b"c")]
    assert reader.get(4) is None
    reader.close()


def test_a_reader_of_files_serves_segments_and_the_dead_writers_ring(log_dir: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    fill(journal, 20)
    journal.flush()
    fill(journal, 3)
    kill(journal)
    reader, _ = reader_of(log_dir, None)
    assert reader.view().control.last_index.load(shm.ACQUIRE) == 23
    assert payloads(reader.read(1, 24, None)) == [payload(index) for index in range(1, 24)]
    assert [reader.get(index) for index in (1, 20, 21, 23)] == [Entry(1, i, payload(i)) for i in (1, 20, 21, 23)]
    assert reader.get(24) is None
    reader.close()


def test_a_catalog_that_changes_is_read_again_but_not_for_ever(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    reader, _ = reader_of(log_dir, journal)
    pauses, refresh = list[float](), Source.refresh
    monkeypatch.setattr(wakeup, "pause", pauses.append)
    monkeypatch.setattr(Source, "refresh", lambda source, view: None)
    with pytest.raises(WriterUnavailable, match="kept changing"):
        reader.get(1)
    pauses.clear()
    monkeypatch.setattr(Source, "refresh", lambda source, view: refresh(source, view) if len(pauses) == 3 else None)
    assert reader.get(1) == Entry(1, 1, b"a"), "it left the writer time to finish its change"
    assert len(pauses) == 3
    reader.close()
    stop(journal)


# ---------------------------------------------------------------- end
def test_whoever_still_reads_when_the_handle_closes_is_told(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    fill(journal, 100)
    reader, link = reader_of(log_dir, journal)
    assert reader.get(1) is not None
    reading = reader.parts(1, 101, entries_in)
    assert next(reading)[0].payload == payload(1)
    link.view, link.closed = None, True  # the link goes first
    reader.close()
    reader.close()
    with pytest.raises(LogClosed, match="closed"):
        list(reading)
    for use in (lambda: reader.get(1), lambda: reader.read(1, 2, None), reader.view):
        with pytest.raises(LogClosed, match="closed"):
            use()
    del reading, use
    gc.collect()  # what the errors above held
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    assert [line for line in maps if log_dir in line and " r--s " in line] == []
    stop(journal)


def test_a_lock_that_a_thread_of_the_parent_held_is_renewed(log_dir: str) -> None:
    """In a forked child that thread is gone and would never let go of it."""
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    reader, _ = reader_of(log_dir, journal)
    held = reader._lock
    with held:
        reader.renew_lock()
        found: list[Entry | None] = []
        thread = threading.Thread(target=lambda: found.append(reader.get(1)), daemon=True)
        thread.start()
        thread.join(30)
        assert found == [Entry(1, 1, b"a")]
    reader.close()
    stop(journal)
