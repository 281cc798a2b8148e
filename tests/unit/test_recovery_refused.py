"""Recovery refuses what damage has made of durable bytes, names the place, and changes nothing."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.errors import CorruptLog
from raftlog_mp.files import Files

from .journals import (
    append,
    commit,
    end_offset,
    flip,
    kill,
    letters,
    lose_memory,
    open_log,
    overwrite,
    quarantined,
    read_at,
    refused,
    reopen,
    segment_path,
    snapshot,
    stop,
    tail_path,
)


# ---------------------------------------------------------------- damage to what was durable is refused
def test_damage_below_a_mark_is_refused_at_every_byte(tmp_path: Path) -> None:
    """Each byte of a record that a later record vouches for: flip one bit, and opening refuses."""
    log = str(tmp_path / "log")
    journal, _ = open_log(log)
    first = end_offset(journal)
    append(journal, b"vouched for")
    append(journal, b"its header holds the durable position of the one before")
    name = os.path.basename(journal.segment.path)
    kill(journal)
    lose_memory(log)
    path = os.path.join(log, name)
    for offset in range(first, first + fmt.RECORD_BYTES + len(b"vouched for")):
        flip(path, offset, offset % 8)
        error = refused(log, "J", segment=name, offset=first, first_index=1)
        assert name in str(error)
        flip(path, offset, offset % 8)
    assert reopen(log)[0][1] == (1, b"vouched for")


def test_an_idle_mark_vouches_for_the_last_group(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"last")
    assert journal.wants_mark
    journal.mark()
    commit(journal)
    assert not journal.wants_mark
    body = fmt.DATA_OFFSET + journal.durable - journal.segment.header.start - fmt.RECORD_BYTES - 1
    kill(journal)
    lose_memory(log_dir)
    flip(tail_path(log_dir), body)
    refused(log_dir, "J", first_index=1)


def test_zeros_below_a_mark_are_corruption(log_dir: str) -> None:
    """A lost page reads as zeros: the control block of this boot still vouches for it."""
    journal, _ = open_log(log_dir)
    append(journal, b"lost")
    kill(journal)
    path = tail_path(log_dir)
    overwrite(path, fmt.DATA_OFFSET, bytes(os.path.getsize(path) - fmt.DATA_OFFSET))
    refused(log_dir, "J", first_index=1)


@pytest.mark.parametrize("segment", [0, 1, -1])
def test_missing_or_shortened_segment(log_dir: str, segment: int) -> None:
    journal, _ = open_log(log_dir)
    for _ in range(20):
        append(journal, b"x" * 10_000)
    kill(journal)
    path = segment_path(log_dir, segment)
    size = os.path.getsize(path)
    last = read_at(path, size - 1, 1)
    os.truncate(path, size - 1)
    refused(log_dir, "C", segment=os.path.basename(path))
    os.truncate(path, size)
    overwrite(path, size - 1, last)
    os.rename(path, path + ".away")
    refused(log_dir, "C", segment=os.path.basename(path))
    os.rename(path + ".away", path)
    assert len(reopen(log_dir)[0]) == 20


def test_damaged_seal_of_a_whole_segment_is_written_again(log_dir: str) -> None:
    """Row E: the records prove up to the end that the manifest states."""
    journal, _ = open_log(log_dir)
    for _ in range(10):
        append(journal, b"x" * 10_000)
    kill(journal)
    info, path = manifest.load(Files(), log_dir).segments[0], segment_path(log_dir, 0)
    overwrite(path, fmt.SEAL_OFFSET, bytes(64))
    entries, plan = reopen(log_dir)
    assert len(entries) == 10 and letters(plan)[0] == "E"
    seal = fmt.read_seal(read_at(path, fmt.SEAL_OFFSET, 512))
    assert seal is not None and (seal.end, seal.last_index) == (info.end, info.last_index)


@pytest.mark.parametrize("seal", [True, False])
def test_damaged_header_of_a_whole_segment_is_written_again(log_dir: str, seal: bool) -> None:
    """Row E, once: what was there is kept, and the next start finds nothing to mend."""
    journal, _ = open_log(log_dir)
    for _ in range(10):
        append(journal, b"x" * 10_000)
    kill(journal)
    path = segment_path(log_dir, 0)
    whole = Path(path).read_bytes()
    flip(path, 20)
    if not seal:
        overwrite(path, fmt.SEAL_OFFSET, bytes(fmt.BLOCK_BYTES))
    damaged = read_at(path, 0, fmt.BLOCK_BYTES).rstrip(b"\0")
    entries, plan = reopen(log_dir)
    assert len(entries) == 10 and letters(plan)[0] == "E"
    assert Path(path).read_bytes() == whole and quarantined(log_dir) == [damaged]
    assert "E" not in letters(reopen(log_dir)[1]) and quarantined(log_dir) == [damaged]


def test_damaged_record_of_a_segment_without_seal_is_refused(log_dir: str) -> None:
    """Rows F (it has a successor) and J (marks vouch for it)."""
    journal, _ = open_log(log_dir)
    for _ in range(10):
        append(journal, b"x" * 10_000)
    kill(journal)
    path = segment_path(log_dir, 0)
    overwrite(path, fmt.SEAL_OFFSET, bytes(64))
    flip(path, fmt.DATA_OFFSET + 5_000)
    refused(log_dir, "F", segment=os.path.basename(path))


def test_damaged_header_of_the_newest_segment(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    kill(journal)
    flip(tail_path(log_dir), 20)
    refused(log_dir, "H")


def test_unreadable_block(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    kill(journal)
    files, before = FaultyFiles(), snapshot(log_dir)
    files.fail("pread", errno.EIO, path=".seg")
    with pytest.raises(CorruptLog, match="row A"):
        open_log(log_dir, files)
    assert snapshot(log_dir) == before


@pytest.mark.parametrize("name", ["manifest", "hard_state"])
def test_missing_file_is_corruption_not_a_first_start(log_dir: str, name: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    stop(journal)
    os.rename(os.path.join(log_dir, name), os.path.join(log_dir, "away"))
    before = snapshot(log_dir)
    with pytest.raises(CorruptLog, match=name):
        open_log(log_dir)
    assert snapshot(log_dir) == before


def test_wrong_place_in_the_log_is_refused(tmp_path: Path) -> None:
    """Row K: a record with valid checksums that does not belong where it stands."""
    log = str(tmp_path / "log")
    journal, _ = open_log(log)
    append(journal, b"one")
    at = journal.end
    header = fmt.pack_record_header(
        fmt.crc32c(b"x"), 1, 1, fmt.KIND_ENTRIES, journal.log_id, journal.generation, 7, 1, at, 0, 0, 0
    )
    offset = fmt.DATA_OFFSET + at - journal.segment.header.start
    path = journal.segment.path
    kill(journal)
    overwrite(path, offset, header + b"x")
    refused(log, "K", first_index=2)


@pytest.mark.parametrize("failed", [True, False])
def test_after_a_failed_disk_sealed_segments_are_read_again(log_dir: str, failed: bool) -> None:
    """Else they are trusted at the start, and verified when they are read."""
    journal, _ = open_log(log_dir)
    for number in range(20):
        append(journal, b"%d" % number * 3000)
    stop(journal)
    state = manifest.load(Files(), log_dir)
    assert len(state.segments) == 2
    state.failed, state.clean = failed, False
    manifest.save(Files(), log_dir, state)
    path = segment_path(log_dir, 0)
    flip(path, fmt.DATA_OFFSET + 3 * fmt.RECORD_BYTES)
    if failed:
        error = refused(log_dir, "F")
        assert error.segment == os.path.basename(path) and error.last_index == state.segments[0].last_index
    else:
        stop(open_log(log_dir)[0])
