"""What a check of a damaged log says, for the tests of ``check``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.check import Report, check_log
from raftlog_mp.diagnoses import INFO, Diagnosis
from raftlog_mp.files import Files

from .journals import append, open_log, segment_path, stop

RECORD = fmt.RECORD_BYTES + 500  # bytes of each entry's record
ENTRIES, PER_SEGMENT = 250, 97
TABLE = fmt.RECORD_BYTES + 1  # the record of the exactly-once table that each segment begins with




def make_sound(directory: str) -> str:
    """Entries 1..250 of terms 1..3 in three segments, closed in order."""
    journal, _ = open_log(directory)
    for number in range(ENTRIES):
        append(journal, b"%03d" % number + b"x" * 497, term=1 + number // 100)
    stop(journal)
    return directory


def copy_of(directory: str, target: str) -> str:
    """A log to be damaged."""
    return shutil.copytree(directory, target)


def offset_of(number: int) -> int:
    """Where the record of a segment's entry ``number`` (from 0) stands."""
    return fmt.DATA_OFFSET + TABLE + number * RECORD


def only(report: Report) -> Diagnosis:
    """The one finding that is more than information."""
    assert len(report.problems) == 1, report.problems
    assert not report.sound and report.as_dict()["sound"] is False
    return report.problems[0]


def expect(directory: str, severity: str, *words: str, **where: Any) -> Diagnosis:
    """The log has this one problem."""
    found = only(check_log(directory))
    assert found.severity == severity
    assert [word for word in words if word not in found.sentence] == [], found.sentence
    assert {name: getattr(found, name) for name in where} == where
    assert found.next_step or severity == INFO
    return found


def informed(directory: str) -> list[Diagnosis]:
    """What is told of a sound log."""
    report = check_log(directory)
    assert report.sound, report.problems
    assert {found.severity for found in report.findings} <= {INFO}
    return report.findings


def name_of(directory: str, number: int, suffix: str = "seg") -> str:
    return os.path.basename(segment_path(directory, number)).replace("seg", suffix)


def edit(directory: str, change: Callable[[manifest.Manifest], None]) -> None:
    """Write another manifest, with a checksum that holds."""
    state = manifest.load(Files(), directory)
    change(state)
    manifest.save(Files(), directory, state)
