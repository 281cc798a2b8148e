"""Repair of logs that were truncated, and repair that truncates."""

from __future__ import annotations

import os

import pytest

from raftlog_mp import check
from raftlog_mp import format as fmt

from .changes import batch, replace
from .damaged import carry_out, kept, kinds, planned, promised
from .journals import Entries, append, end_offset, flip, kill, open_log, segment_path, snapshot, stop
from .keeping import not_kept


def entries(first: int, last: int) -> Entries:
    """Terms change at 5 and 10."""
    return {index: (1 + index // 5, b"entry %d" % index) for index in range(first, last + 1)}


@pytest.mark.parametrize("by", ["a start", "repair"])
def test_a_damaged_seal_of_a_segment_that_was_truncated(log_dir: str, by: str) -> None:
    """It is written again with the entry that the log kept of the segment then; a later truncation goes deeper."""
    journal, _ = open_log(log_dir)
    for term, payload in entries(1, 10).values():
        append(journal, payload, term=term)
    replace(7, batch(4, b"new 7"))(journal)
    stop(journal)
    flip(segment_path(log_dir, 0), fmt.SEAL_OFFSET + 20)
    assert not check.check_log(log_dir).sound
    if by == "repair":
        plan = planned(log_dir)
        assert kinds(plan) == ["rewrite seal"]
        carry_out(plan)
        promised(log_dir, entries(1, 6) | {7: (4, b"new 7")})
    journal, _ = open_log(log_dir)
    replace(5, batch(5, b"new 5"))(journal)
    kill(journal)
    promised(log_dir, entries(1, 4) | {5: (5, b"new 5")})
    path = segment_path(log_dir, 0)
    with open(path, "rb") as file:
        seal = fmt.read_seal(file.read()[fmt.SEAL_OFFSET :])
    assert seal is not None and (seal.last_index, seal.last_term) == (6, 2)
    with open(path, "r+b") as file:  # no entry ends like that
        file.seek(fmt.SEAL_OFFSET)
        file.write(fmt.pack_seal(seal._replace(last_term=1)))
    assert [one.sentence for one in check.check_log(log_dir).problems] == [
        "its seal says that entry 6 is the last, its records end with 10"
    ]


def test_what_two_steps_take_from_one_place_is_kept_twice(log_dir: str) -> None:
    """The header is written again, then the whole segment goes: the damaged header is not to be overwritten."""
    journal, _ = open_log(log_dir)
    offsets = []
    for term, payload in entries(1, 10).values():
        offsets.append(end_offset(journal))
        append(journal, payload, term=term)
    journal.purge_to(4)
    kill(journal)
    path = segment_path(log_dir, 0)
    for offset in (30, *(offset + 2 for offset in offsets[4:])):
        flip(path, offset)
    before = snapshot(log_dir)
    plan = planned(log_dir, truncate_from=5, accept_loss=True)
    assert kinds(plan) == ["rewrite header", "drop suffix"]
    carry_out(plan)
    name = os.path.basename(path)
    assert {f"{name}.0", f"{name}.0.1"} <= set(kept(log_dir)) and not_kept(before, log_dir) == []
    promised(log_dir, {})
