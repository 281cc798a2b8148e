"""Damage in the newest segment, which no seal vouches for yet: readers serve what repair would keep, and no more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from raftlog_mp import errors, log_reader, manifest, provable, walk
from raftlog_mp import format as fmt
from raftlog_mp.files import Files
from raftlog_mp.types import LogId

from .damaged import LAST, Damaged, build, planned, term_of, written
from .journals import append, flip, kill, lose_memory, open_log, overwrite, put, tail_path
from .serving import Served, as_after_repair, served

NEWEST = fmt.segment_name(3)  # of `damaged.build`: entries 21 to 30


@pytest.fixture
def log(tmp_path: Path) -> Damaged:
    """A killed DiskFirst log of three segments."""
    return build(str(tmp_path / "log"))


def newest(log: Damaged) -> str:
    return os.path.join(log.path, NEWEST)


def record_at(log: Damaged, index: int) -> tuple[int, fmt.RecordHeader, bytes]:
    """Offset, header and body of the record of an entry."""
    offset, raw = log.places[index].offset, Path(newest(log)).read_bytes()
    header = fmt.read_record_header(raw, offset)
    assert header is not None
    return offset, header, raw[offset + fmt.RECORD_BYTES :][: header.body_bytes]


def forge(log: Damaged, index: int, **changed: int) -> None:
    """A whole record in the place of another one, with something else in its header."""
    offset, header, body = record_at(log, index)
    made = header._replace(**changed)
    overwrite(newest(log), offset, fmt.pack_record_header(
        made.body_crc, made.body_bytes, made.count, made.kind, made.log_id, made.generation, made.base_index,
        made.term, made.position, made.durable, made.producer, made.sequence,
    ) + body)  # fmt: skip


def less(*holes: tuple[int, int], last: int = LAST) -> Served:
    """What the log held up to ``last``; None in the holes."""
    hidden = {index for low, high in holes for index in range(low, high + 1)}
    return {index: None if index in hidden else entry for index, entry in written(1, last).items()}


# ---------------------------------------------------------------- every kind of damage
def body(log: Damaged) -> None:
    log.hit(23)


def header(log: Damaged) -> None:
    log.hit(23, header=True)


def batch_and_neighbour(log: Damaged) -> None:
    log.hit(25, header=True)
    log.hit(27, header=True)


def both_kinds(log: Damaged) -> None:
    log.hit(22)
    log.hit(28, header=True)


def first_record(log: Damaged) -> None:
    """The exactly-once table that the segment begins with, and the first entry."""
    overwrite(newest(log), fmt.DATA_OFFSET + 10, bytes(log.places[22].offset - fmt.DATA_OFFSET - 10))


def zeroed_page(log: Damaged) -> None:
    start, end = log.places[23].offset, log.places[27].offset
    overwrite(newest(log), start, bytes(end - start))


def header_block(log: Damaged) -> None:
    overwrite(newest(log), 0, bytes(100))
    log.hit(23)


def torn_seal(log: Damaged) -> None:
    overwrite(newest(log), fmt.SEAL_OFFSET, b"RLMPSEAL and nonsense")
    log.hit(23)


def older_writer(log: Damaged) -> None:
    """Its record stands at its own position, and continues the log: but it is residue."""
    forge(log, 23, generation=0)


def older_writer_behind_damage(log: Damaged) -> None:
    """Nothing before it tells its age, but the segment does."""
    first_record(log)
    forge(log, 22, generation=0, base_index=29)
    forge(log, 23, generation=0, base_index=50)


def another_log(log: Damaged) -> None:
    forge(log, 23, log_id=12345)


def moved(log: Damaged) -> None:
    """A whole record that was written for another place."""
    _, header, _ = record_at(log, 23)
    forge(log, 23, position=header.position + 1000)


def wrong_index(log: Damaged) -> None:
    forge(log, 28, base_index=35)
    log.hit(23)


def cut_short(log: Damaged) -> None:
    os.truncate(newest(log), log.places[28].offset + 20)
    log.hit(23)


def no_end(log: Damaged) -> None:
    log.hit(23)
    overwrite(newest(log), log.places[28].offset, bytes(5000))


DAMAGE: dict[str, tuple[Callable[[Damaged], None], Served, bool]] = {
    "a body": (body, less((23, 23)), False),
    "a header": (header, less((23, 23)), False),
    "a batch and its neighbour": (batch_and_neighbour, less((24, 27)), False),
    "two places": (both_kinds, less((22, 22), (28, 28)), False),
    "the first record": (first_record, less((21, 21)), False),
    "zeros": (zeroed_page, less((23, 26)), False),
    "the header block, too": (header_block, less((23, 23)), False),
    "a seal that was begun": (torn_seal, less((23, 23)), False),
    "residue": (older_writer, less((23, 23)), False),
    "residue behind damage": (older_writer_behind_damage, less((21, 23)), False),
    "another log's record": (another_log, less(last=22), True),
    "a record of another place": (moved, less(last=22), True),
    "a wrong index behind a hole": (wrong_index, less((23, 23), last=27), True),
    "the file is cut short": (cut_short, less((23, 23), last=27), True),
    "the end is gone": (no_end, less((23, 23), last=27), True),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_reader_sees_before_the_repair_what_it_sees_after_it(log: Damaged, name: str) -> None:
    damage, expected, refused = DAMAGE[name]
    damage(log)
    with pytest.raises(errors.CorruptLog):
        open_log(log.path)
    assert as_after_repair(log.path) == (expected, max(expected), refused)


def unsynced(path: str) -> dict[int, int]:
    """Entries 1 to 5 durable, 6 and 7 only written; then the machine went down.  The offset of each."""
    journal, _ = open_log(path)
    offsets = {}
    for index in range(1, 8):
        offsets[index] = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
        if index <= 5:
            append(journal, b"entry %d" % index)
        else:
            put(journal, b"entry %d" % index)
    journal.copy_to_ring()
    journal.make_job().run()
    kill(journal)
    lose_memory(path)
    return offsets


@pytest.mark.parametrize(("hit", "holes", "last"), [([], [], 7), ([6], [], 5), ([3, 6], [3], 5), ([3], [3], 7)])
def test_a_torn_tail_is_cut_not_served(tmp_path: Path, hit: list[int], holes: list[int], last: int) -> None:
    """Nothing vouches for entry 6, so a crash in mid-write may have left it, although a whole one stands behind it."""
    path = str(tmp_path / "log")
    offsets = unsynced(path)
    for index in hit:
        flip(tail_path(path), offsets[index] + 20)
    expected = {index: None if index in holes else (1, b"entry %d" % index) for index in range(1, last + 1)}
    assert as_after_repair(path) == (expected, last, False)


def test_no_read_goes_through_residue_in_place_of_a_record_without_entries(log_dir: str) -> None:
    """It would fit: its index is that of the entry behind it."""
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    append(journal, b"two")
    position, offset = journal.end, fmt.DATA_OFFSET + journal.end - journal.segment.header.start
    journal.mark()
    journal.flush()
    append(journal, b"three")
    kill(journal)
    overwrite(tail_path(log_dir), offset, fmt.pack_record_header(
        fmt.crc32c(b""), 0, 1, fmt.KIND_ENTRIES, journal.log_id, 0, 3, 1, position, position, 0, 0
    ))  # fmt: skip
    with log_reader.open_reader(log_dir) as reader:
        assert [entry.payload for entry in reader.read(1)] == [b"one", b"two", b"three"]
    assert as_after_repair(log_dir)[1:] == (3, False)


# ---------------------------------------------------------------- memory, and a disk that failed
def flushed_in_the_middle(path: str) -> None:
    """A killed MemFirst log: entries 1 to 4 flushed, the third of them damaged; 5 and 6 in the ring alone."""
    journal, _ = open_log(path, strategy="mem_first")
    for index in range(1, 7):
        offset = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
        if index == 3:
            third = offset
        append(journal, b"entry %d" % index, term=index)
        if index == 4:
            journal.flush()
    kill(journal)
    flip(tail_path(path), third + fmt.RECORD_BYTES)


@pytest.mark.parametrize("memory", [True, False])
def test_a_hole_in_what_was_flushed(tmp_path: Path, memory: bool) -> None:
    path = str(tmp_path / "log")
    flushed_in_the_middle(path)
    if not memory:
        lose_memory(path)
        assert served(path)[1] == 2, "without the memory nothing vouches for entries 3 and 4: a torn tail"
        return
    found, last, refused = as_after_repair(path)
    assert (last, refused) == (6, False)
    assert found == {i: None if i == 3 else (i, b"entry %d" % i) for i in range(1, 7)}


def test_damage_in_a_sealed_segment_does_not_hide_the_ring(tmp_path: Path) -> None:
    """Row F; what was acknowledged last is in the dead writer's memory alone."""
    log = build(str(tmp_path / "log"), strategy="mem_first")
    log.hit(5)
    flip(os.path.join(log.path, fmt.segment_name(1)), fmt.SEAL_OFFSET + 20)
    with pytest.raises(errors.CorruptLog, match="row F"):
        open_log(log.path)
    found, last, _ = served(log.path)
    assert (found, last) == (less((5, 5)), 30)


def test_what_proves_at_the_head_of_a_damaged_ring_is_served(tmp_path: Path) -> None:
    """Row R, and a hole in the file as well: up to the damage in the ring."""
    path = str(tmp_path / "log")
    flushed_in_the_middle(path)
    ring = os.path.join(path, "shm", fmt.ring_name(manifest.load(Files(), path).generation))
    with open(ring, "rb") as file:
        at = file.read().index(b"entry 6")
    flip(ring, at)
    found, last, refused = as_after_repair(path)
    assert (last, refused) == (5, True) and [index for index, entry in found.items() if entry is None] == [3]


def test_after_a_failed_disk_nothing_past_the_mark_is_served(log: Damaged) -> None:
    state = manifest.load(Files(), log.path)
    state.failed = True
    manifest.save(Files(), log.path, state)
    lose_memory(log.path)
    log.hit(23)
    found, last, refused = as_after_repair(log.path)
    assert (found, last, refused) == (less((23, 23), last=29), 29, False), "its own record vouches for the one before"


# ---------------------------------------------------------------- what the reader is told
def test_a_hole_names_place_range_term_and_the_next_command(log: Damaged) -> None:
    log.hit(25)
    with log_reader.open_reader(log.path) as reader, pytest.raises(errors.CorruptLog) as told:
        reader.get(26)
    error, text = told.value, str(told.value)
    assert (error.segment, error.offset, error.first_index, error.last_index, error.term) == (
        NEWEST, log.places[25].offset, 24, 26, term_of(23)
    )  # fmt: skip
    assert f"entries 24 to 26 are damaged: the bytes in {log.path}/{NEWEST} at offset {error.offset}" in text
    assert f"an entry of term {term_of(23)}" in text and "A writer refuses to start" in text
    assert f"`raftlog-mp check {log.path}`" in text and f"`raftlog-mp repair {log.path}`" in text


def test_what_lies_behind_the_last_provable_entry_is_refused_there(log: Damaged) -> None:
    no_end(log)
    with log_reader.open_reader(log.path) as reader, pytest.raises(errors.CorruptLog, match="row J") as told:
        reader.get(28)
    assert (told.value.first_index, told.value.last_index, told.value.term) == (28, None, term_of(27))
    assert told.value.offset == log.places[28].offset


@pytest.mark.parametrize("gone", [True, False])
def test_without_its_manifest_nothing_of_a_log_is_served(log: Damaged, gone: bool) -> None:
    """Row A: nobody knows which segments count, nor what was purged or truncated."""
    path = manifest.manifest_path(log.path)
    os.unlink(path) if gone else flip(path, 100)
    with pytest.raises(errors.CorruptLog, match="nothing can be served without it"):
        log_reader.open_reader(log.path)


def test_every_way_of_reading_stops_at_the_hole_and_goes_on_behind_it(log: Damaged) -> None:
    log.hit(23)
    with log_reader.open_reader(log.path) as reader:
        assert [e.index for e in reader.read(20, max_bytes=1 << 20)] == [20, 21, 22]
        assert [e.index for e in reader.read(24)] == list(range(24, 31)) == [
            e.index for batch in reader.read_batches(24) for e in batch.entries()
        ]  # fmt: skip
        for call in (lambda: reader.read(20), lambda: reader.read_batches(20, 25), lambda: reader.read(23, max_bytes=1),
                     lambda: list(reader.follow(23, timeout=0))):  # fmt: skip
            with pytest.raises(errors.CorruptLog) as told:
                call()
            assert (told.value.first_index, told.value.last_index) == (23, 23)
        assert [e.index for e in reader.follow(after=LogId(term_of(24), 24), timeout=0)] == list(range(25, 31))
        assert reader.last_log_id == LogId(term_of(30), 30) and reader.durable_index == 30
        assert reader.read(31) == [] and reader.get(31) is None
        assert reader.first_index_of_term(term_of(28)) == 28


def test_the_term_of_an_entry_in_a_hole_is_told_only_if_it_is_known(log: Damaged) -> None:
    log.hit(22)  # terms of 21, 22, 23: all the same
    log.hit(28)  # of 27, 28, 29: the term changes
    with log_reader.open_reader(log.path) as reader:
        assert reader.term_of(22) == term_of(21) == term_of(23)
        with pytest.raises(errors.CorruptLog):
            reader.term_of(28)


def test_a_hole_that_repair_has_noted_before_it_died_is_not_noted_twice(log: Damaged) -> None:
    """The manifest lists it; the segment is not sealed yet."""
    log.hit(23)
    state = manifest.load(Files(), log.path)
    state.lost = [[23, 23, 3, log.places[23].offset]]
    manifest.save(Files(), log.path, state)
    seen = provable.look(Files(), log.path, manifest.load(Files(), log.path))
    assert seen.manifest.lost == state.lost and not seen.holes
    assert as_after_repair(log.path) == (less((23, 23)), 30, False)


def test_a_purged_part_of_a_hole_is_no_part_of_it(log: Damaged) -> None:
    log.hit(25)
    state = manifest.load(Files(), log.path)
    state.purged_index, state.purged_term = 25, term_of(25)
    manifest.save(Files(), log.path, state)
    found, last, refused = as_after_repair(log.path)
    assert (list(found), found[26], last, refused) == (list(range(26, 31)), None, 30, False)


def test_a_log_of_which_nothing_is_damaged_is_looked_at_once(log: Damaged, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(provable, "survey")
    monkeypatch.delattr(provable, "scan_segment")
    assert served(log.path) == (less(), 30, False)


# ---------------------------------------------------------------- a control
def test_control_residue_would_be_served_if_its_age_were_not_looked_at(
    log: Damaged, monkeypatch: pytest.MonkeyPatch
) -> None:
    older_writer_behind_damage(log)
    monkeypatch.setattr(walk.Walk, "_continues", lambda self, header: header.base_index >= self.next_index)
    resync = walk.Walk._header
    monkeypatch.setattr(walk.Walk, "_resync", lambda self, at: next(
        filter(None, (resync(self, place) for place in self._source.find(fmt.RECORD_MAGIC, at))), None
    ))  # fmt: skip
    assert served(log.path)[0] != less((21, 23))
    assert planned(log.path).needed
