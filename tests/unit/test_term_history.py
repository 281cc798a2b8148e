"""The term runs of a log from its files: from beside the segments, or from the records, with the same outcome."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.files import Files
from raftlog_mp.log_reader import open_reader
from raftlog_mp.term_history import merged, runs_in_file, runs_in_records, runs_of_log
from raftlog_mp.terms import TermRuns

from .changes import CASES, build
from .journals import append, entries_of, flip, open_log, stop


def closed_log(directory: str, name: str) -> tuple[manifest.Manifest, list[tuple[int, int]]]:
    """A cleanly stopped log after the change: its manifest, and the runs of the entries that it has."""
    case = CASES[name]
    journal = build(directory, FaultyFiles(), "disk_first", case, flushed=True)
    case.act(journal)
    stop(journal)
    entries = entries_of(directory)
    runs = [(i, term) for i, (term, _) in entries.items() if i - 1 not in entries or entries[i - 1][0] != term]
    return manifest.load(Files(), directory), runs


def trm_files(directory: str) -> list[str]:
    return sorted(os.path.join(directory, name) for name in os.listdir(directory) if name.endswith(".trm"))


def known(state: manifest.Manifest, runs: list[tuple[int, int]]) -> list[tuple[int, int | None]]:
    """The term of each index that anybody may ask for."""
    last = state.segments[-1].last_index if state.segments else state.purged_index
    table = TermRuns(runs)
    assert all(first <= (last or 0) for first, _ in runs), "a run of removed entries would swallow the next one"
    return [(index, table.term_of(index)) for index in range(max(state.purged_index, 1), (last or 0) + 1)]


@pytest.mark.parametrize("name", CASES)
def test_runs_are_those_of_the_entries_after_every_change(log_dir: str, name: str) -> None:
    """A clipped segment keeps the runs of entries that it lost: they do not count."""
    state, expected = closed_log(log_dir, name)
    boundary = [(state.purged_index, state.purged_term)] if state.purged_index else []
    with_files = known(state, runs_of_log(Files(), log_dir, state, state.segments))
    assert with_files == known(state, merged(boundary + expected))
    for path in trm_files(log_dir):
        os.unlink(path)
    assert known(state, runs_of_log(Files(), log_dir, state, state.segments)) == with_files
    assert not trm_files(log_dir), "who only reads changes nothing"


def test_what_had_to_be_rebuilt_is_kept_by_a_writer(log_dir: str) -> None:
    state, _ = closed_log(log_dir, "replace by several terms")
    before = runs_of_log(Files(), log_dir, state, state.segments)
    paths = trm_files(log_dir)
    contents = [Path(path).read_bytes() for path in paths]
    os.unlink(paths[0])
    flip(paths[1], 30)
    assert runs_of_log(Files(), log_dir, state, state.segments, keep=True) == before
    # The clipped segment is read to its end: what is put beside it is what stood there.
    assert [Path(path).read_bytes() for path in paths] == contents


def test_a_log_that_opens_again_knows_its_terms_without_the_files(log_dir: str) -> None:
    _, expected = closed_log(log_dir, "replace by several terms")
    for path in trm_files(log_dir):
        os.unlink(path)
    journal, _ = open_log(log_dir)
    assert journal.terms.runs.runs() == expected
    append(journal, b"x", term=9)
    assert journal.terms.runs.runs() == [*expected, (12, 9)]
    stop(journal)


def test_a_log_starts_although_a_directory_stands_where_a_term_file_belongs(log_dir: str) -> None:
    """Nothing in it is lost: it is moved aside when the cache is made anew."""
    _, expected = closed_log(log_dir, "replace by several terms")
    entries = entries_of(log_dir)
    path = trm_files(log_dir)[0]
    os.unlink(path)
    os.mkdir(path)
    Path(path, "notes").write_text("mine")
    with open_reader(log_dir) as reader:
        assert [reader.term_of(index) for index in entries] == [term for term, _ in entries.values()]
    journal, _ = open_log(log_dir)
    assert journal.terms.runs.runs() == expected
    stop(journal)
    assert Path(path).is_file() and Path(path + ".directory", "notes").read_text() == "mine"
    assert entries_of(log_dir) == entries


def test_term_files_that_the_device_cannot_read_keep_no_log_from_its_terms(log_dir: str) -> None:
    state, _ = closed_log(log_dir, "replace by several terms")
    files = FaultyFiles()
    files.fail("pread", errno.EIO, path=".trm")
    before = runs_of_log(Files(), log_dir, state, state.segments)
    assert runs_of_log(files, log_dir, state, state.segments) == before
    assert runs_of_log(files, log_dir, state, state.segments, keep=True) == before


def test_segments_without_entries_are_not_looked_at(tmp_path: Path) -> None:
    """Neither the active one nor an empty one has runs; their files need not be there."""
    state = manifest.Manifest("u", 1, {}, "disk_first", purged_index=6, purged_term=3)
    active, empty = SegmentInfo(1, 1, 7, 0, 0, 3, 65536, 9), SegmentInfo(2, 1, 7, 0, 0, 3, 65536, 9, 50, 6, 3)
    assert runs_of_log(Files(), str(tmp_path), state, [empty, active], keep=True) == [(6, 3)]
    state.purged_index = 0
    assert runs_of_log(Files(), str(tmp_path), state, []) == []


# ---------------------------------------------------------------- from records
def record(first: int, term: int, count: int = 1, body: bytes = b"abc", kind: int = fmt.KIND_ENTRIES) -> bytes:
    return fmt.pack_record_header(0, len(body), count, kind, 1, 1, first, term, 0, 0, 0, 0) + body


def test_runs_in_records() -> None:
    data = b"".join((
        record(4, 9, 0, b"\x90", fmt.KIND_PRODUCERS), record(4, 1, 3), record(7, 1),
        record(8, 0, 0, b"", fmt.KIND_MARK), record(8, 2), record(9, 5, 2),
    ))  # fmt: skip
    assert runs_in_records(data) == [(4, 1), (8, 2), (9, 5)]
    assert runs_in_records(data + bytes(200)) == runs_in_records(data), "zeros follow"
    assert runs_in_records(data[:-2]) == [(4, 1), (8, 2), (9, 5)], "the header says it; records have proved before"
    assert runs_in_records(b"") == runs_in_records(bytes(50)) == []


def test_runs_in_file_stop_at_the_position_given(tmp_path: Path) -> None:
    info = SegmentInfo(1, 1, 4, 1000, 1000, 1, 65536, 9)
    one, two = record(4, 1), record(5, 2)
    (tmp_path / fmt.segment_name(1)).write_bytes(bytes(fmt.DATA_OFFSET) + one + two)
    assert runs_in_file(Files(), str(tmp_path), info, 1000 + len(one)) == [(4, 1)]
    assert runs_in_file(Files(), str(tmp_path), info, 1000 + len(one + two)) == [(4, 1), (5, 2)]


def test_neighbours_of_one_term_are_one_run() -> None:
    assert merged([]) == [] and merged([(1, 1)]) == [(1, 1)]
    assert merged([(1, 1), (5, 1), (7, 2), (8, 2), (9, 3)]) == [(1, 1), (7, 2), (9, 3)]
