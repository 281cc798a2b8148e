"""Index and term files beside segments: what check says of them, and that repair does what check says it does."""

from __future__ import annotations

from pathlib import Path

import pytest

from raftlog_mp import manifest
from raftlog_mp.check import check_log
from raftlog_mp.files import Files
from raftlog_mp.terms import Run, write_sealed_runs

from .checked import informed
from .damaged import promised
from .journals import append, flip, open_log, segment_path, stop

RUNS = [(1, 1), (5, 2), (9, 3)]


def closed(log_dir: str, *, purged: int = 0) -> None:
    """Entries 1..12 of three terms in one segment, those up to ``purged`` gone; closed in order."""
    journal, _ = open_log(log_dir)
    for index in range(1, 13):
        append(journal, b"x%d" % index, term=1 + (index - 1) // 4)
    if purged:
        journal.purge_to(purged)
    stop(journal)


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
