"""The reader at the border between ring and segments: lapped, sealed, evicted, purged, unreadable."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import index as index_module
from raftlog_mp import shelf
from raftlog_mp.config import MIB
from raftlog_mp.errors import CorruptLog
from raftlog_mp.log_reader import open_reader
from raftlog_mp.reader import Reader
from raftlog_mp.source import Source
from raftlog_mp.types import Entry

from .damaged import build, written
from .journals import append, flip, kill, open_log, overwrite, stop, tail_path
from .readers import OVER_THE_RING, StubLink, fill, payload, payloads, reader_of


# ---------------------------------------------------------------- ring or segment
@pytest.mark.parametrize("segment_bytes", [64 * 1024, 4 * MIB])
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_lapped_reads_come_from_the_segment_and_are_counted(log_dir: str, segment_bytes: int, strategy: str) -> None:
    """From sealed segments, and from the one that is still being written."""
    journal, _ = open_log(log_dir, segment_bytes=segment_bytes, strategy=strategy)
    reader, _ = reader_of(log_dir, journal)
    fill(journal, 2)
    assert reader.get(1) == Entry(1, 1, payload(1)) and reader.lapped_reads == 0
    fill(journal, OVER_THE_RING)
    newest = journal.next_index - 1
    assert reader.get(newest) == Entry(1, newest, payload(newest)) and reader.lapped_reads == 0
    for expected in (1, 2):
        assert reader.get(2) == Entry(1, 2, payload(2)) and reader.lapped_reads == expected
    reader.close()
    stop(journal)


def test_a_segment_that_was_open_when_it_was_read_and_is_sealed_now(log_dir: str) -> None:
    """Sealing cuts the file to its end: what the reader holds of it must not fault, nor serve less."""
    journal, _ = open_log(log_dir, segment_bytes=4 * MIB)
    reader, _ = reader_of(log_dir, journal)
    fill(journal, OVER_THE_RING)
    assert reader.get(1) == Entry(1, 1, payload(1)) and reader.lapped_reads == 1
    journal.roll()
    assert [reader.get(index) for index in (1, 50)] == [Entry(1, index, payload(index)) for index in (1, 50)]
    assert payloads(reader.read(1, OVER_THE_RING + 1, None)) == [payload(i) for i in range(1, OVER_THE_RING + 1)]
    reader.close()
    stop(journal)


def test_purged_segments_are_let_go(log_dir: str) -> None:
    """Whoever holds a file that is gone keeps its space: a purge would make no room."""
    journal, _ = open_log(log_dir, segment_bytes=64 * 1024)
    reader, _ = reader_of(log_dir, journal)
    fill(journal, OVER_THE_RING)
    assert len(reader.read(1, 60, None)) == 59
    held = {segment for segment, _ in reader._shelf.segments} | set(reader._shelf.indexes)
    assert len(held) > 5
    journal.purge_to(50)
    assert reader.get(60) == Entry(1, 60, payload(60))
    live = {info.segment_id for info in journal.manifest.segments}
    assert held - live and {segment for segment, _ in reader._shelf.segments} | set(reader._shelf.indexes) <= live
    for info in journal.take_dead():
        assert not [fd for fd in os.listdir("/proc/self/fd") if fmt.segment_name(info.segment_id) in link_of(fd)]
    reader.close()
    stop(journal)


def link_of(fd: str) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return ""


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_few_segments_stay_open_and_none_is_mapped(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(shelf, "OPEN_SEGMENTS", 2)
    monkeypatch.setattr(index_module, "KEPT_BYTES", kept_bytes)
    journal, _ = open_log(log_dir)
    fill(journal, OVER_THE_RING)
    last, segments = journal.next_index - 1, len(journal.manifest.segments)
    stop(journal)
    reader, _ = reader_of(log_dir, None)
    for index in (*range(1, last + 1, 5), 1):
        assert reader.get(index) == Entry(1, index, payload(index))
    maps = Path("/proc/self/maps").read_text(encoding="utf-8")
    assert not [line for line in maps.splitlines() if log_dir in line and line.endswith((".seg", ".idx"))]
    kinds = [os.path.splitext(link_of(fd))[1] for fd in os.listdir("/proc/self/fd") if log_dir in link_of(fd)]
    assert segments > 20 and kinds.count(".seg") <= 2 and kinds.count(".idx") <= (0 if kept_bytes else 2), kinds
    reader.close()


@pytest.mark.parametrize("fault", ["unreadable", "cut", "flipped"])
def test_an_index_that_goes_bad_under_a_reader_is_made_anew(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """Too large to be held, so its slots are read as they are needed: what is wrong there costs one rebuild."""
    monkeypatch.setattr(index_module, "KEPT_BYTES", 0)
    journal, _ = open_log(log_dir)
    fill(journal, OVER_THE_RING)
    last = journal.next_index - 1
    stop(journal)
    files = FaultyFiles()
    reader = Reader(Source(StubLink(None), files, log_dir, files_allowed=True), files, log_dir)  # type: ignore[arg-type]
    assert reader.get(2) == Entry(1, 2, payload(2))
    if fault == "unreadable":
        files.fail("pread", errno.EIO, path=".idx")
    for name in sorted(os.listdir(log_dir)):
        if name.endswith(".idx") and fault == "cut":
            os.truncate(os.path.join(log_dir, name), fmt.INDEX_HEADER_BYTES)
        elif name.endswith(".idx") and fault == "flipped":
            for offset in range(fmt.INDEX_HEADER_BYTES, os.path.getsize(os.path.join(log_dir, name)), 8):
                flip(os.path.join(log_dir, name), offset)
    for index in (1, 2, last // 2, last):
        assert reader.get(index) == Entry(1, index, payload(index)), index
    assert payloads(reader.read(1, last + 1, None)) == [payload(index) for index in range(1, last + 1)]
    reader.close()


# ---------------------------------------------------------------- a damaged log, read from its files
@pytest.fixture
def damaged(log_dir: str) -> str:
    """Entries 1 to 3, all durable; the third is damaged, and the writer dead."""
    journal, _ = open_log(log_dir)
    append(journal, b"a")
    append(journal, b"b")
    at = fmt.DATA_OFFSET + journal.end - journal.manifest.segments[-1].start
    append(journal, b"c" * 100)
    journal.mark()
    journal.flush()
    kill(journal)
    flip(tail_path(log_dir), at + fmt.RECORD_BYTES)
    return log_dir


def test_the_part_before_the_damage_is_never_taken_for_everything(damaged: str) -> None:
    """Who asks for more than can be served is told; who sets a limit gets what stands before it."""
    with open_reader(damaged) as reader:
        assert [entry.payload for entry in reader.read(1, 3)] == [b"a", b"b"] == [
            entry.payload for entry in reader.read(1, max_bytes=1000)
        ]  # fmt: skip
        for call in (
            lambda: reader.read(1), lambda: reader.read(1, 4), lambda: reader.read(3), lambda: reader.read_batches(2),
            lambda: reader.get(3), lambda: list(reader.follow(3, timeout=0)),
        ):  # fmt: skip
            with pytest.raises(CorruptLog) as told:
                call()
            assert told.value.first_index == 3
        follower = reader.follow(1, timeout=0)
        assert [next(follower).payload, next(follower).payload] == [b"a", b"b"]
        with pytest.raises(CorruptLog):
            next(follower)


def test_the_refusal_names_place_range_term_and_command(damaged: str) -> None:
    with pytest.raises(CorruptLog) as told:
        open_log(damaged)
    error, text = told.value, str(told.value)
    assert error.segment is not None and (error.first_index, error.last_index, error.term) == (3, None, 1)
    assert f"{damaged}/{error.segment}" in text and f"offset {error.offset}" in text
    assert "entries 3 to the last one" in text and "term 1" in text and f"raftlog-mp check {damaged}" in text


@pytest.mark.parametrize("index", [1, 9, 14])
def test_damage_in_a_sealed_segment_names_term_and_command_as_well(log_dir: str, index: int) -> None:
    """The term is that of the entry before, as where a start refuses; there is none before the first."""
    build(log_dir).hit(index)
    with open_reader(log_dir) as reader:
        for read in (reader.get, reader.read):
            with pytest.raises(CorruptLog) as told:
                read(index)
            term = reader.term_of(index - 1) if index > 1 else None
            assert (told.value.first_index, told.value.term) == (index, term)
            assert f"raftlog-mp check {log_dir}" in str(told.value) and "DIR" not in str(told.value)
            assert (f"term {term}" if term else "checksum. ") in str(told.value)


@pytest.mark.parametrize("caches", [True, False])
def test_what_stands_behind_damage_in_a_sealed_segment_is_found(log_dir: str, caches: bool) -> None:
    """Index and term runs are rebuilt around it: nothing behind it is refused, and no term is told wrong."""
    log = build(log_dir, clean=True)
    log.hit(12, header=True)
    for name in os.listdir(log_dir) if not caches else ():
        if name.endswith((".idx", ".trm")):
            os.unlink(os.path.join(log_dir, name))
    with open_reader(log_dir) as reader:
        for index, (term, payload) in written().items():
            if index == 12:
                with pytest.raises(CorruptLog):
                    reader.get(index)
            else:
                assert (reader.get(index), reader.term_of(index)) == (Entry(term, index, payload), term)


def test_a_whole_record_that_is_no_batch_is_damage(log_dir: str) -> None:
    """Both checksums hold, as only a broken or forged writer makes them; every way of reading names the entries."""
    journal, _ = open_log(log_dir)
    append(journal, b"first")
    at = fmt.DATA_OFFSET + journal.end - journal.manifest.segments[-1].start
    append(journal, b"a", b"b", b"c")
    append(journal, b"last")
    stop(journal)
    path = min(map(str, Path(log_dir).glob("*.seg")))
    raw = Path(path).read_bytes()[at:]
    header = fmt.read_record_header(raw, 0)
    assert header is not None and header.count == 3
    body = b"\xc0" * header.body_bytes
    raw = fmt.pack_record_header(fmt.crc32c(body), *header[3:6], *header[7:]) + body  # no flags
    overwrite(path, at, raw)
    with open_reader(log_dir) as reader:
        for read in (lambda: reader.get(3), lambda: reader.read(1, 6), lambda: reader.read_batches(3, 6)):
            with pytest.raises(CorruptLog) as caught:
                read()
            assert (caught.value.first_index, caught.value.last_index) == (2, 4)
            assert caught.value.segment == os.path.basename(path)
        assert [entry.index for entry in reader.read(5, 6)] == [5] and reader.get(1) is not None
