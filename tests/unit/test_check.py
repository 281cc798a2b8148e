"""``check_log``: each finding, made by damaging a real log; and that looking changes nothing."""

from __future__ import annotations

import errno
import itertools
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import check, hard_state, manifest
from raftlog_mp import format as fmt
from raftlog_mp.check import check_log
from raftlog_mp.diagnoses import DAMAGE, WARNING
from raftlog_mp.errors import NotALog, VersionMismatch
from raftlog_mp.files import Files
from raftlog_mp.findings import make_plan
from raftlog_mp.index import write_sealed
from raftlog_mp.types import HardState

from .changes import batch, purge, replace
from .checked import PER_SEGMENT, RECORD, edit, expect, informed, name_of, offset_of
from .journals import (
    append,
    flip,
    kill,
    make_newer,
    open_log,
    overwrite,
    segment_path,
    snapshot,
    stop,
)  # fmt: skip


# ---------------------------------------------------------------- sound logs
def test_a_sound_log(sound: str) -> None:
    report = check_log(sound)
    assert report.sound and report.findings == [] and not report.live
    assert (report.first_index, report.last_index, report.entries, len(report.segments)) == (1, 250, 250, 3)
    assert report.bytes == sum(os.path.getsize(segment_path(sound, number)) for number in range(3))
    assert [one["entries"] for one in report.as_dict()["segments"]] == [PER_SEGMENT, PER_SEGMENT, 56]


def test_an_empty_log(log_dir: str) -> None:
    stop(open_log(log_dir)[0])
    assert informed(log_dir) == [] and check_log(log_dir).entries == 0


def test_a_killed_writer_is_information(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    kill(journal)
    (found,) = informed(log_dir)
    assert (found.letter, found.file) == ("M", name_of(log_dir, 0)) and "its end is whole" in found.sentence


def test_truncated_purged_and_replaced_logs_are_sound(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    for number in range(300):
        append(journal, b"x" * 500, term=1 + number // 100)
    replace(150, batch(5, b"new"))(journal)
    purge(50)(journal)
    stop(journal)
    assert informed(log_dir) == []
    report = check_log(log_dir)
    assert (report.first_index, report.last_index) == (51, 150)


def test_no_log(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "missing"):
        with pytest.raises(NotALog):
            check_log(place)


def test_nothing_is_changed(log: str) -> None:
    """Not a byte, not a time, not a file, whatever is wrong; also where nothing may be written."""
    flip(segment_path(log, 1), offset_of(3) + 100)
    flip(segment_path(log, 0), fmt.SEAL_OFFSET + 20)
    flip(os.path.join(log, fmt.HARD_STATE_NAME), 20)
    os.unlink(segment_path(log, 0)[:-3] + "idx")
    folders = [folder for folder, _, _ in os.walk(log)]
    for folder in folders:
        os.chmod(folder, 0o500)
    before = snapshot(log), times(log)
    assert len(check_log(log).problems) == 3
    assert (snapshot(log), times(log)) == before
    for folder in folders:
        os.chmod(folder, 0o700)


def times(directory: str) -> dict[str, tuple[int, int, int]]:
    paths = [os.path.join(folder, name) for folder, some, names in os.walk(directory) for name in [*some, *names, "."]]
    return {path: (found.st_mtime_ns, found.st_ctime_ns, found.st_mode) for path in paths for found in [os.stat(path)]}


def test_progress(sound: str) -> None:
    seen: list[tuple[int, int]] = []
    check_log(sound, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen) and seen[-1][1] >= seen[-1][0] > 0


@pytest.mark.parametrize(
    ("processes", "seconds", "asked"),
    [(1, 9.0, []), (9, 0.0, [3, 3]), (2, 0.0, [3, 2]), (None, 0.1, []), (None, 1.2, [2, 2])],
)
def test_segments_are_read_in_other_processes_where_it_pays(
    sound: str, monkeypatch: pytest.MonkeyPatch, processes: int | None, seconds: float, asked: list[int]
) -> None:
    """Unless told otherwise: once the first segments have taken two seconds, and the rest would take two more."""
    alone = check_log(sound, processes=1).as_dict()
    told: list[int] = []
    clock = itertools.count(0.0, seconds)

    def in_workers(function: Any, tasks: list[Any], count: int) -> Any:
        told.extend([len(tasks), count] if tasks else [])
        yield from map(function, reversed(tasks))

    monkeypatch.setattr(check, "in_workers", in_workers)
    monkeypatch.setattr(check.wakeup, "cores", lambda: 2)
    monkeypatch.setattr(check.wakeup, "now", lambda: next(clock))
    assert check_log(sound, processes=processes).as_dict() == alone and told == asked
    monkeypatch.setattr(check.wakeup, "cores", lambda: 1)
    assert check_log(sound).as_dict() == alone and told == asked, "one core: nothing to gain"


# ---------------------------------------------------------------- records of sealed segments
def test_bad_body(log: str) -> None:
    flip(segment_path(log, 1), offset_of(3) + 100)
    expect(log, DAMAGE, "entry 101 of term 2", "checksum of the body", file=name_of(log, 1), offset=offset_of(3),
           first_index=101, last_index=101, term=2, letter="D")  # fmt: skip
    assert check_log(log).last_index == 250


def test_bad_header(log: str) -> None:
    flip(segment_path(log, 1), offset_of(4) + 50)
    expect(log, DAMAGE, "entry 102 of term 2", "no record proves", first_index=102, last_index=102, term=2)


def test_zeros_and_a_long_stretch(log: str) -> None:
    overwrite(segment_path(log, 0), offset_of(10) + 7, bytes(20 * RECORD))
    found = check_log(log).problems
    assert {(one.severity, one.letter) for one in found} == {(DAMAGE, "D")}
    assert min(one.first_index or 0 for one in found) == 11 and max(one.last_index or 0 for one in found) == 31


def test_damage_between_entries_costs_none(log: str) -> None:
    flip(segment_path(log, 1), fmt.DATA_OFFSET + 50)
    expect(log, DAMAGE, "no entry was in them", offset=fmt.DATA_OFFSET)


def test_damage_in_what_was_truncated_is_information(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    for _ in range(10):
        append(journal, b"x" * 500)
    replace(5)(journal)
    stop(journal)
    flip(segment_path(log_dir, 0), offset_of(7) + 100)
    (found,) = informed(log_dir)
    assert "truncated long ago" in found.sentence and found.first_index == 8


def test_a_known_loss_is_information(log: str) -> None:
    """As repair leaves it: the manifest names the hole, and the damage in it is no news."""
    flip(segment_path(log, 1), offset_of(3) + 100)
    segment_id = manifest.load(Files(), log).segments[1].segment_id
    edit(log, lambda state: state.lost.append([101, 101, segment_id, offset_of(3)]))
    (found,) = informed(log)
    assert "entry 101: given up by a repair" in found.sentence and "peer" in found.next_step
    assert check_log(log).lost == 1 and check_log(log).as_dict()["lost"] == 1
    flip(segment_path(log, 1), offset_of(5) + 100)
    expect(log, DAMAGE, "entry 103")
    edit(log, lambda state: state.lost.extend([[102, 102, segment_id, 0], [103, 105, segment_id, 1]]))
    assert len(informed(log)) == 3, "damage within known losses, wherever it begins, is no news"


# ---------------------------------------------------------------- segment files
def test_missing_segment(log: str) -> None:
    os.unlink(segment_path(log, 1))
    expect(log, DAMAGE, "missing, and with it entries 98..194", letter="C", file=name_of(log, 1))


def test_shortened_segment(log: str) -> None:
    os.truncate(segment_path(log, 1), offset_of(20))
    expect(log, DAMAGE, "entries 118..194", "the file ends at byte", letter="C", offset=offset_of(20))


def test_damaged_seal(log: str) -> None:
    flip(segment_path(log, 1), fmt.SEAL_OFFSET + 20)
    expect(log, WARNING, "the seal is damaged", "nothing is lost", letter="E", offset=fmt.SEAL_OFFSET)


def test_missing_seal(log: str) -> None:
    overwrite(segment_path(log, 1), fmt.SEAL_OFFSET, bytes(fmt.BLOCK_BYTES))
    expect(log, WARNING, "the seal is missing", letter="E")


def test_damaged_seal_and_records(log: str) -> None:
    flip(segment_path(log, 1), fmt.SEAL_OFFSET + 20)
    flip(segment_path(log, 1), offset_of(3) + 100)
    found = check_log(log).problems
    assert [(one.severity, one.letter) for one in found] == [(DAMAGE, "F"), (DAMAGE, "F")]


def test_seal_that_contradicts_the_manifest(log: str) -> None:
    path = segment_path(log, 1)
    raw = Path(path).read_bytes()
    seal = fmt.read_seal(raw[fmt.SEAL_OFFSET :])
    assert seal is not None
    overwrite(path, fmt.SEAL_OFFSET, fmt.pack_seal(seal._replace(last_index=seal.last_index - 1)))
    expect(log, DAMAGE, "its seal says that entry 193 is the last", "194")


def test_damaged_segment_header(log: str) -> None:
    flip(segment_path(log, 1), 30)
    expect(log, WARNING, "header block is damaged", "every entry is served", offset=0)


def test_gap_between_segments(log: str) -> None:
    edit(log, lambda state: state.segments.pop(1))
    found = expect(log, DAMAGE, "begins at entry 195, but", letter="C", file=name_of(log, 1))
    assert found.first_index == 195


def test_newer_segment(log: str) -> None:
    make_newer(segment_path(log, 1), 72)
    expect(log, DAMAGE, "has format version 2", file=name_of(log, 1))


def test_a_rotten_version_number_is_no_newer_release(log: str) -> None:
    """What start-up makes of it is told, too, as long as it takes it for one."""
    flip(segment_path(log, 1), 8, bit=1)
    found = check_log(log).problems
    assert {one.file for one in found} == {name_of(log, 1)}
    assert any("header block is damaged" in one.sentence for one in found)
    try:
        make_plan(Files(), log, manifest.load(Files(), log))
    except VersionMismatch:
        assert [one for one in found if one.severity == DAMAGE and "refuses to start" in one.sentence]


# ---------------------------------------------------------------- caches
@pytest.mark.parametrize(("suffix", "what"), [("idx", "index file"), ("trm", "term file")])
def test_wrong_and_missing_caches(suffix: str, what: str, log: str) -> None:
    path = segment_path(log, 0)[:-3] + suffix
    flip(path, 90 if suffix == "idx" else 30)
    expect(log, WARNING, f"the {what} does not match", "no entry is lost", file=os.path.basename(path))
    os.unlink(path)
    (found,) = informed(log)
    assert f"the {what} is missing" in found.sentence


def test_caches_of_another_segment(log: str) -> None:
    for suffix in ("idx", "trm"):
        shutil.copy(segment_path(log, 1)[:-3] + suffix, segment_path(log, 0)[:-3] + suffix)
    assert [one.severity for one in check_log(log).problems] == [WARNING, WARNING]


def test_an_index_with_a_checksum_that_holds_and_wrong_positions(log: str) -> None:
    info = manifest.load(Files(), log).segments[0]
    path = segment_path(log, 0)[:-3] + "idx"
    slots = Path(path).read_bytes()[fmt.INDEX_HEADER_BYTES :]
    swapped = slots[8:16] + slots[:8] + slots[16:]
    write_sealed(Files(), path, manifest.load(Files(), log).log_id, info.segment_id, info.base_index, swapped)
    expect(log, WARNING, "the index file does not match")
    write_sealed(Files(), path, manifest.load(Files(), log).log_id, info.segment_id, info.base_index, slots[:-8])
    expect(log, WARNING, "the index file does not match")


# ---------------------------------------------------------------- a device that fails
class Failing(Files):
    """One block of each segment cannot be read."""

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        if offset <= fmt.DATA_OFFSET + 8192 < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return super().pread(fd, length, offset)


def test_blocks_that_the_device_cannot_read(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "Files", Failing)
    found = check_log(log).problems
    blocks = [one for one in found if "the device cannot read 4096 bytes" in one.sentence]
    assert [one.file for one in blocks] == [name_of(log, number) for number in range(3)]
    assert "another disk" in blocks[0].next_step and {one.severity for one in found} == {DAMAGE}
    assert any("entry 14 of term 1" in one.sentence for one in found)


def test_a_segment_that_cannot_be_opened(log: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(Files):
        def open(self, path: str, **how: bool) -> int:  # type: ignore[override]
            if path == segment:
                raise OSError(errno.EIO, "Input/output error")
            return super().open(path, **how)

    segment = segment_path(log, 1)
    monkeypatch.setattr(check, "Files", Refusing)
    found = [one for one in check_log(log).problems if one.file == name_of(log, 1)]
    assert "cannot be read (Input/output error): entries 98..194" in found[0].sentence and found[0].letter == "A"


# ---------------------------------------------------------------- single files
def test_damaged_and_missing_manifest(log: str) -> None:
    path = os.path.join(log, fmt.MANIFEST_NAME)
    flip(path, 100)
    expect(log, DAMAGE, "the manifest is damaged", letter="A", file=fmt.MANIFEST_NAME)
    assert [one.sentence for one in check_log(log).findings if "entries 98..194" in one.sentence]
    os.unlink(path)
    flip(segment_path_by_name(log), offset_of(3) + 100)
    sentences = [one.sentence for one in check_log(log).problems]
    assert "the manifest is missing" in sentences[1] and "entry 4" in sentences[0]


def segment_path_by_name(directory: str) -> str:
    return os.path.join(directory, min(name for name in os.listdir(directory) if name.endswith(".seg")))


def test_newer_manifest(log: str) -> None:
    make_newer(os.path.join(log, fmt.MANIFEST_NAME))
    expect(log, DAMAGE, "format version 2", file=fmt.MANIFEST_NAME)


def test_hard_state_slots(log: str) -> None:
    path = os.path.join(log, fmt.HARD_STATE_NAME)
    hard_state.save(Files(), log, HardState(7, "me"), 1)
    assert informed(log) == []
    flip(path, fmt.HARD_STATE_SLOT_BYTES + 20)
    expect(log, WARNING, "slot 2 of 2 is damaged", "term 7", file=fmt.HARD_STATE_NAME)
    flip(path, 20)
    expect(log, DAMAGE, "both slots are damaged", "vote")
    os.unlink(path)
    expect(log, DAMAGE, "the hard state is missing")


def test_interrupted_save_of_the_hard_state(log: str) -> None:
    path = os.path.join(log, fmt.HARD_STATE_NAME)
    before = Path(path).read_bytes()
    hard_state.save(Files(), log, HardState(7, "me"), 1)
    overwrite(path, 0, before[: fmt.HARD_STATE_SLOT_BYTES])
    (found,) = informed(log)
    assert "a save was interrupted" in found.sentence


def test_newer_hard_state(log: str) -> None:
    path = os.path.join(log, fmt.HARD_STATE_NAME)
    slot = Path(path).read_bytes()[: fmt.HARD_STATE_SLOT_BYTES]
    make_newer(path, 8 + int.from_bytes(slot[16:24], "little"))
    expect(log, DAMAGE, "format version 2", file=fmt.HARD_STATE_NAME)


# ---------------------------------------------------------------- any damage at all
def unnoticed(directory: str, step: int) -> list[tuple[str, int]]:
    """Flips one bit of every ``step``-th byte that means something: which of them a check does not notice."""
    missed = []
    for name in sorted(os.listdir(directory)):
        path = Path(directory, name)
        raw = path.read_bytes() if path.is_file() else b""
        # Padding means nothing; of an index file that is bytes 56 to 63, everywhere else zeros.
        meaning = [at for at, byte in enumerate(raw) if byte and not (name.endswith("idx") and 56 <= at < 64)]
        for at in meaning[::step]:
            path.write_bytes(raw[:at] + bytes([raw[at] ^ 1 << at % 8]) + raw[at + 1 :])
            missed += [(name, at)] if check_log(directory).sound else []
        if path.is_file():
            path.write_bytes(raw)
    assert check_log(directory).sound
    return missed


@pytest.mark.parametrize("step", [17, pytest.param(1, marks=pytest.mark.slow)])
def test_every_flipped_byte_is_noticed(step: int, log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    for number in range(4):
        append(journal, b"entry %d" % number, b"more")
    stop(journal)
    assert unnoticed(log_dir, step) == []


def test_garbage_in_place_of_any_file_is_told_and_raises_nothing(log: str) -> None:
    chosen = random.Random(1)
    for name in sorted(name for name in os.listdir(log) if Path(log, name).is_file() and name != fmt.LOCK_NAME):
        path = Path(log, name)
        raw = path.read_bytes()
        for length in (0, 5, 100, len(raw) // 2, len(raw)):
            path.write_bytes(chosen.choice([raw[:100], b""]).ljust(length, b"x")[:length] if length < len(raw) else
                             chosen.randbytes(length))  # fmt: skip
            assert not check_log(log).sound, (name, length)
        path.write_bytes(raw)
    assert check_log(log).sound
