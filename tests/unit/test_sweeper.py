"""Files of dead segments: removed beside the loop, in order, and never at the cost of anything else."""

from __future__ import annotations

import errno
import logging
import os
import threading
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles
from support.processes import wait_until

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.sweeper import Sweeper, remove_segment, strays

from .journals import append, open_log, stop


def dead(folder: Path, *numbers: int) -> list[SegmentInfo]:
    """Segments, with the files that stand for them."""
    for number in numbers:
        for name in (fmt.segment_name(number), fmt.index_name(number), fmt.terms_name(number)):
            (folder / name).write_bytes(b"x")
    return [SegmentInfo(number, 1, 1, 0, 0, 0, 65536, 9) for number in numbers]


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class SlowFiles(FaultyFiles):
    """Does not unlink before it may."""

    def __init__(self) -> None:
        super().__init__()
        self.may, self.threads = threading.Event(), set[str]()

    def unlink(self, path: str) -> None:
        assert self.may.wait(30)
        self.threads.add(threading.current_thread().name)
        super().unlink(path)


def test_what_stands_beside_a_segment_goes_first(tmp_path: Path) -> None:
    """As long as the segment is there, the next start finds what a crash has left."""
    dead(tmp_path, 7)
    files = FaultyFiles()
    remove_segment(files, str(tmp_path), 7)
    assert [Path(step[1]).suffix for step in files.steps] == [".idx", ".trm", ".seg"] and not left(tmp_path)
    remove_segment(files, str(tmp_path), 7)
    assert len(files.steps) == 3, "gone is gone"


@pytest.mark.parametrize("at", range(3))
def test_after_a_crash_the_rest_can_be_removed(tmp_path: Path, at: int) -> None:
    dead(tmp_path, 7)
    with pytest.raises(Crash):
        remove_segment(FaultyFiles(crash_at=at), str(tmp_path), 7)
    assert fmt.segment_name(7) in left(tmp_path)
    remove_segment(FaultyFiles(), str(tmp_path), 7)
    assert not left(tmp_path)


def test_only_the_files_of_the_dead_go(tmp_path: Path) -> None:
    dead(tmp_path, 1, 2, 3)
    sweeper = Sweeper(FaultyFiles(), str(tmp_path))
    sweeper.remove(dead(tmp_path, 2))
    sweeper.close()
    assert left(tmp_path) == {name(n) for n in (1, 3) for name in (fmt.segment_name, fmt.index_name, fmt.terms_name)}


def test_the_caller_does_not_wait_and_the_order_is_that_of_the_log(tmp_path: Path) -> None:
    files = SlowFiles()
    sweeper = Sweeper(files, str(tmp_path))
    sweeper.remove(dead(tmp_path, 1, 2))
    sweeper.remove(dead(tmp_path, 3))
    sweeper.remove(dead(tmp_path, 4))
    assert len(left(tmp_path)) == 12, "it came back at once"
    files.may.set()
    sweeper.close()
    assert not left(tmp_path) and files.threads == {"raftlog-sweep"}
    unlinked = [fmt.parse_segment_name(Path(step[1]).name) for step in files.steps if step[0] == "unlink"]
    assert [number for number in unlinked if number is not None] == [1, 2, 3, 4]
    last = max(n for n, step in enumerate(files.steps) if step[0] == "unlink")
    assert ("sync_dir", str(tmp_path)) in files.steps[last:], "durable in the end"


def test_nothing_to_remove_is_nothing_done(tmp_path: Path) -> None:
    files, before = FaultyFiles(), threading.active_count()
    sweeper = Sweeper(files, str(tmp_path))
    sweeper.remove([])
    assert threading.active_count() == before
    sweeper.close()
    assert files.steps == []


def test_what_a_power_cut_left_without_a_segment_goes_at_the_start(tmp_path: Path) -> None:
    """Caches without their segment, and temporary files of caches; nothing else, and only once."""
    dead(tmp_path, 1, 2)
    gone = [fmt.index_name(7), fmt.terms_name(8), fmt.index_name(9) + ".tmp", fmt.terms_name(1) + ".tmp"]
    foreign = ["manifest", "manifest.tmp", "hard_state", "x.idx", "0000000000000007.txt", "zz00000000000007.idx"]
    for name in gone + foreign:
        (tmp_path / name).touch()
    before = left(tmp_path)
    sweeper = Sweeper(FaultyFiles(), str(tmp_path))
    sweeper.remove([])
    sweeper.close()
    assert left(tmp_path) == before - set(gone)
    (tmp_path / gone[2]).touch()  # by now it may be one that the writer is about to rename
    sweeper.remove([])
    sweeper.close()
    assert gone[2] in left(tmp_path)


def test_a_start_removes_them(tmp_path: Path) -> None:
    """Through the writer: the segment's unlink survived the power cut, those beside it did not."""
    directory = str(tmp_path / "log")
    journal, _ = open_log(directory)
    append(journal, b"one")
    journal.roll()
    append(journal, b"two")
    stop(journal)
    (tmp_path / "log" / fmt.LOCK_NAME).touch()
    whole = left(tmp_path / "log") - {fmt.SHM_NAME}
    for name in (fmt.index_name(99), fmt.terms_name(99), fmt.index_name(1) + ".tmp"):
        (tmp_path / "log" / name).write_bytes(b"left")
    with rl.start_writer(directory):
        wait_until("the sweep", lambda: not strays(os.listdir(directory)))
    assert whole <= left(tmp_path / "log") and not strays(os.listdir(directory))


@pytest.mark.parametrize("operation", ["unlink", "sync_dir"])
def test_an_error_is_told_and_harms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture, operation: str) -> None:
    """The files stay until the next start; the next sweep goes on."""
    files = FaultyFiles()
    files.fail(operation, errno.EIO)
    sweeper = Sweeper(files, str(tmp_path))
    with caplog.at_level(logging.WARNING):
        sweeper.remove(dead(tmp_path, 1))
        sweeper.remove(dead(tmp_path, 2))
        sweeper.close()
    (told,) = caplog.records
    assert "until the next start" in told.getMessage() and "injected" in told.getMessage()
    stay = {fmt.segment_name(1), fmt.index_name(1), fmt.terms_name(1)} if operation == "unlink" else set()
    assert left(tmp_path) == stay
