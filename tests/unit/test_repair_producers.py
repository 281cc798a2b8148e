"""What repair lets the next writer say to clients that come back and ask what became of their submissions."""

from __future__ import annotations

import contextlib
import os

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import check, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.errors import CorruptLog
from raftlog_mp.files import Files
from raftlog_mp.producers import APPENDED, FORGOTTEN, NEW

from . import damaged as damaged_logs
from .damaged import BATCH, LAST, build, planned
from .journals import BOTH, SMALL, append, copy_log, flip, open_log, read_at, segment_path, stop, tail_path
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


# ---------------------------------------------------------------- a table that is not whole is never believed
def verdicts(path: str) -> dict[int, str]:
    """What the next writer says of the sequences that ``damaged.build`` has used."""
    journal, _ = open_log(path)
    journal.producers.connect(damaged_logs.PRODUCER, 1, 31)
    used = [index for index in range(1, LAST + 1) if index not in BATCH or index == BATCH[0]]
    found = {}
    for sequence in used:
        found[sequence], outcome = journal.producers.look_up(damaged_logs.PRODUCER, sequence)
        assert outcome is None or outcome[0] == sequence
    found[31] = journal.producers.look_up(damaged_logs.PRODUCER, 31)[0]
    kill_journal(journal)
    return found


def test_a_purge_that_the_manifest_names_does_not_make_a_forgotten_table_whole(log_dir: str) -> None:
    log = build(log_dir)
    journal, _ = open_log(log_dir)
    journal.purge_to(3)
    journal.manifest.purges = [(damaged_logs.PRODUCER, 30)]
    for index in (31, 32):
        append(journal, b"entry %d" % index, term=9, producer=damaged_logs.PRODUCER, sequence=index)
    kill_journal(journal)
    manifest.save(Files(), log_dir, journal.manifest)
    raw = read_at(tail_path(log.path), 0, SMALL["segment_bytes"])
    flip(tail_path(log.path), raw.index(b"entry 31"))
    repair.apply(planned(log_dir))
    journal, _ = open_log(log_dir)
    journal.producers.connect(damaged_logs.PRODUCER, 31, 32)
    assert [journal.producers.look_up(damaged_logs.PRODUCER, n)[0] for n in (31, 32)] == [FORGOTTEN] * 2
    kill_journal(journal)


@pytest.mark.parametrize("rebuilt", [False, True], ids=["manifest whole", "manifest gone"])
def test_a_repair_that_dies_at_any_step_leaves_no_table_that_is_believed(log_dir: str, rebuilt: bool) -> None:
    """Repaired again, or started as it is: nothing that was appended is taken for new."""
    log = build(log_dir)
    log.hit(25)
    if rebuilt:
        flip(manifest.manifest_path(log_dir), 100)
    files, path = FaultyFiles(), copy_log(log_dir, log_dir + "whole")
    repair.apply(planned(path), files=files)
    assert set(verdicts(path).values()) == {FORGOTTEN}
    for at in range(0, len(files.steps), 3):
        path, bent = copy_log(log_dir, f"{log_dir}{at}"), FaultyFiles(crash_at=at)
        with pytest.raises(Crash):
            repair.apply(planned(path), files=bent)
        bent.bury()
        again = copy_log(path, f"{path}again")
        if (plan := planned(again)).needed:
            repair.apply(plan)
        told = [verdicts(again)]
        with contextlib.suppress(CorruptLog):
            told.append(verdicts(path))  # a start without a second repair
        for one in told:
            assert NEW not in one.values(), (at, one)


@pytest.mark.parametrize("clean", [True, False], ids=["stopped", "killed"])
def test_damage_in_the_table_itself_is_told_and_forgets(log_dir: str, clean: bool) -> None:
    """The newest segment may consist of the table alone: a seal vouches for what is not there any more."""
    log = build(log_dir, clean=clean)
    log.hit(15)
    repair.apply(planned(log_dir))
    flip(tail_path(log_dir), fmt.DATA_OFFSET + fmt.RECORD_BYTES + 3)
    report = check.check_log(log_dir)
    if clean:  # the manifest holds it, too
        assert report.sound and set(verdicts(log_dir).values()) == {APPENDED, FORGOTTEN, NEW}
        return
    assert not report.sound and any("OutcomeUnknown" in one.sentence for one in report.findings)
    assert set(verdicts(log_dir).values()) == {FORGOTTEN}
    repair.apply(planned(log_dir))
    assert check.check_log(log_dir).sound and NEW not in verdicts(log_dir).values()


def test_what_a_rebuilt_manifest_gave_up_is_forgotten(log_dir: str) -> None:
    build(log_dir, clean=True)
    flip(manifest.manifest_path(log_dir), 100)
    repair.apply(planned(log_dir))
    assert set(verdicts(log_dir).values()) == {FORGOTTEN}
