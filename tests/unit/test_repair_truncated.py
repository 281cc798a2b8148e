"""Repair of logs that were truncated, and repair that truncates."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import check, repair
from raftlog_mp import format as fmt
from raftlog_mp.repair_end import Mender

from .changes import batch, replace
from .damaged import build, carry_out, kept, kinds, planned, promised, written
from .journals import Entries, append, copy_log, end_offset, flip, kill, open_log, segment_path, snapshot, stop
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


def test_a_truncation_that_was_interrupted_at_its_end_has_nothing_left_to_do(tmp_path: Path) -> None:
    log, files = build(str(tmp_path / "log")), FaultyFiles()
    for index in range(18, 31):
        log.hit(index, header=True)
    repair.apply(repair.plan(copy_log(log.path, str(tmp_path / "whole")), truncate_from=18), files=files)
    last = max(at for at, step in enumerate(files.steps) if step[0] == "rename" and step[1].endswith("manifest.tmp"))
    files = FaultyFiles(crash_at=last + 1)
    with pytest.raises(Crash):
        repair.apply(repair.plan(log.path, truncate_from=18), files=files)
    files.bury()
    again = planned(log.path, truncate_from=18)
    assert again.sentences() == ["nothing to repair: the log ends with entry 17 already"] and not again.needed
    assert carry_out(again) == []
    for other in (17, 19):
        (blocked,) = planned(log.path, truncate_from=other).blocked
        assert "no entry is damaged" in blocked.sentence
    promised(log.path, written(1, 17))


def test_the_log_cannot_end_with_an_entry_that_does_not_prove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were an index accepted that lies in damage, it would be told, and the one that can be had be named."""
    log = build(str(tmp_path / "log"))
    for index in (14, 15):
        log.hit(index, header=True)
    monkeypatch.setattr(Mender, "_may_truncate", lambda *_: True)
    (blocked,) = planned(log.path, truncate_from=16).blocked
    assert blocked.sentence == "entry 15, with which the log would end, cannot be proved; it can end before 14"
    assert (blocked.needs, blocked.first_index) == ("--truncate-from 14", 14)
    assert not planned(log.path, truncate_from=14).blocked
