"""Index and term files beside segments: what check says of them, and that repair does what check says it does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest, repair
from raftlog_mp.check import check_log
from raftlog_mp.files import Files
from raftlog_mp.index import write_sealed
from raftlog_mp.terms import Run, write_sealed_runs

from .checked import informed
from .damaged import carry_out, kinds, planned, promised
from .journals import append, copy_log, end_offset, flip, open_log, segment_path, stop

Hole = tuple[int, int]
RUNS = [(1, 1), (5, 2), (9, 3)]
WRITTEN = {index: (1 + (index - 1) // 4, b"x%d" % index) for index in range(1, 13)}


def closed(log_dir: str, *, purged: int = 0) -> int:
    """Entries 1..12 of three terms in one segment, those up to ``purged`` gone; closed.  Where the first one stands."""
    journal, _ = open_log(log_dir)
    offset = end_offset(journal)
    for term, payload in WRITTEN.values():
        append(journal, payload, term=term)
    if purged:
        journal.purge_to(purged)
    stop(journal)
    return offset


def write_runs(log_dir: str, runs: list[Run]) -> str:
    """A term file that is whole and says this; its path."""
    path, state = segment_path(log_dir, 0)[:-3] + "trm", manifest.load(Files(), log_dir)
    write_sealed_runs(Files(), path, state.log_id, state.segments[0].segment_id, runs)
    return path


@pytest.mark.parametrize("purged", [4, 6, 11])
def test_a_term_file_may_begin_at_the_purge_boundary(purged: int, log_dir: str) -> None:
    closed(log_dir, purged=purged)
    assert Path(segment_path(log_dir, 0)[:-3] + "trm").exists() and informed(log_dir) == []
    write_runs(log_dir, RUNS)  # as it is if the purge comes later
    assert check_log(log_dir).sound
    write_runs(log_dir, [*RUNS[:2], (10, 3)])
    assert check_log(log_dir).sound is (purged >= 9)


def test_repair_makes_anew_what_check_calls_wrong(log_dir: str) -> None:
    """Checksums hold, and yet they do not tell what the records say."""
    closed(log_dir)
    write_runs(log_dir, [*RUNS[:2], (10, 3)])
    state, path = manifest.load(Files(), log_dir), segment_path(log_dir, 0)[:-3] + "idx"
    info, slots = state.segments[0], Path(path).read_bytes()[fmt.INDEX_HEADER_BYTES :]
    swapped = slots[8:16] + slots[:8] + slots[16:]
    write_sealed(Files(), path, state.log_id, info.segment_id, info.base_index, swapped)
    assert ["rebuilds index and term files" in one.next_step for one in check_log(log_dir).problems] == [True, True]
    plan = planned(log_dir)
    assert kinds(plan) == ["rebuild index"] * 2
    carry_out(plan)
    promised(log_dir, WRITTEN)


@pytest.mark.parametrize("damaged", [False, True])
def test_entries_that_are_back_from_a_purge_have_their_terms(log_dir: str, tmp_path: Path, damaged: bool) -> None:
    """The manifest is gone, and with it the purge; the term file was written behind the boundary."""
    offset = closed(log_dir, purged=6)
    expected, holes = WRITTEN, tuple[Hole, ...]()
    if damaged:  # of what stands behind it a scan cannot say that the term file leaves it out
        flip(segment_path(log_dir, 0), offset + fmt.RECORD_BYTES)
        expected, holes = {index: WRITTEN[index] for index in range(2, 13)}, ((1, 1),)
    os.unlink(manifest.manifest_path(log_dir))
    files = FaultyFiles()
    repair.apply(repair.plan(copy_log(log_dir, str(tmp_path / "whole"))), files=files)
    last = max(at for at, step in enumerate(files.steps) if step[0] == "rename" and step[1].endswith("manifest.tmp"))
    for at in (last, last + 1):
        path = copy_log(log_dir, str(tmp_path / f"crash{at}"))
        files = FaultyFiles(crash_at=at)
        with pytest.raises(Crash):
            repair.apply(repair.plan(path), files=files)
        files.bury()
        if at == last:
            carry_out(planned(path))
        promised(path, expected, holes)


def test_nobody_reads_the_caches_of_a_segment_without_entries(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"1")
    journal.roll()
    journal.roll()
    append(journal, b"2")
    stop(journal)
    first, empty = manifest.load(Files(), log_dir).segments[:2]
    assert first.last_index == empty.last_index == 1 < empty.base_index
    flip(segment_path(log_dir, 1)[:-3] + "idx", 10)
    assert informed(log_dir) == []
    promised(log_dir, {1: (1, b"1"), 2: (1, b"2")})
