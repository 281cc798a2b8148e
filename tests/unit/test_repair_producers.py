"""What repair lets the next writer say to clients that come back and ask what became of their submissions."""

from __future__ import annotations

import os

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import repair
from raftlog_mp.producers import APPENDED, FORGOTTEN, NEW

from .damaged import planned
from .journals import BOTH, SMALL, append, flip, open_log, read_at, segment_path, stop
from .journals import kill as kill_journal

PRODUCER, OTHER = 7, 8


def damaged(path: str, strategy: str, *, clean: bool, older: bool) -> None:
    """Entries 1..4, the third damaged; sequences as the indexes.  ``older``: the newest segment is another one."""
    journal, _ = open_log(path, strategy=strategy)
    for sequence in range(1, 5):
        append(journal, b"entry %d" % sequence, producer=PRODUCER, sequence=sequence)
    if older:
        journal.roll()
        append(journal, b"entry 5", producer=PRODUCER, sequence=5)
    append(journal, b"of another", producer=OTHER, sequence=1)
    journal.flush()
    (stop if clean else kill_journal)(journal)
    open(os.path.join(path, fmt.LOCK_NAME), "wb").close()
    raw = read_at(segment_path(path, 0), 0, SMALL["segment_bytes"])
    flip(segment_path(path, 0), raw.index(b"entry 3"))


@BOTH
@pytest.mark.parametrize("older", [False, True], ids=["newest segment", "older segment"])
@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_only_what_nobody_knows_is_forgotten(log_dir: str, strategy: str, clean: bool, older: bool) -> None:
    damaged(log_dir, strategy, clean=clean, older=older)
    repair.apply(planned(log_dir))
    journal, _ = open_log(log_dir)
    table, last = journal.producers, 5 if older else 4
    table.connect(PRODUCER, 3, last + 1)
    table.connect(OTHER, 1, 1)
    verdicts = [table.look_up(PRODUCER, sequence)[0] for sequence in range(3, last + 2)]
    if clean or older:  # the table stands in the manifest of a stopped log, and at the head of the newest segment
        assert verdicts == [FORGOTTEN, *[APPENDED] * (last - 3), NEW], "entry 3 is lost: it is not appended again"
        assert table.look_up(OTHER, 1) == (APPENDED, (last + 1, 1, 1))
    else:  # whose submission was in the damaged record?
        assert verdicts == [FORGOTTEN] * len(verdicts) and table.look_up(OTHER, 1)[0] == FORGOTTEN
    stop(journal)


def test_a_table_that_stays_in_the_manifest_is_mended_too(log_dir: str) -> None:
    """Also if the log is repaired twice before a writer starts."""
    damaged(log_dir, "disk_first", clean=True, older=False)
    repair.apply(planned(log_dir))
    raw = read_at(segment_path(log_dir, 0), 0, SMALL["segment_bytes"])
    flip(segment_path(log_dir, 0), raw.index(b"entry 4"))
    repair.apply(planned(log_dir))
    journal, _ = open_log(log_dir)
    journal.producers.connect(PRODUCER, 2, 5)
    verdicts = [journal.producers.look_up(PRODUCER, sequence)[0] for sequence in range(2, 6)]
    assert verdicts == [APPENDED, FORGOTTEN, FORGOTTEN, NEW]
    stop(journal)
