"""What repair seals off: a hole that is named when it is read, and everything around it served, as long as it is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlog_mp import check, errors, log_reader, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.files import Files
from raftlog_mp.records import iter_records
from raftlog_mp.types import LogId

from .damaged import (
    ROLLS,
    Damaged,
    build,
    carry_out,
    check_reads,
    kept,
    kinds,
    mend,
    planned,
    promised,
    term_of,
    written,
)
from .journals import append, open_log, read_at, stop

NAME = fmt.segment_name
Hole = tuple[int, int]


@pytest.fixture
def log(tmp_path: Path) -> Damaged:
    """A killed DiskFirst log of three segments."""
    return build(str(tmp_path / "log"))


def without(*holes: Hole) -> dict[int, tuple[int, bytes]]:
    """What the log holds, less what is lost."""
    return {i: entry for i, entry in written().items() if not any(low <= i <= high for low, high in holes)}


def lost(path: str) -> list[Hole]:
    """The index ranges of the manifest's ``lost``."""
    return [(row[0], row[1]) for row in manifest.load(Files(), path).lost]


# ---------------------------------------------------------------- every place
@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize(
    ("hit", "holes"),
    [([25], [(24, 26)]), ([20], [(20, 20)]), ([1], [(1, 1)]), ([12, 13, 27], [(12, 12), (13, 13), (27, 27)]),
     *(pytest.param([n], [(n, n)], marks=pytest.mark.slow) for n in (2, 10, 11, 15, 21, 22, 29))],
)  # fmt: skip
def test_damage_is_sealed_off(log: Damaged, hit: list[int], holes: list[Hole], header: bool) -> None:
    for index in hit:
        log.hit(index, header=header)
    if header and hit == [12, 13, 27]:
        holes = [(12, 13), (27, 27)]  # between them nothing says where one ends and the next begins
    place = log.places[hit[0]]
    bad = read_at(os.path.join(log.path, place.name), place.offset, fmt.RECORD_BYTES)
    plan = mend(log.path, without(*holes), holes=tuple(holes))
    tail = holes[-1][0] >= ROLLS[1]
    assert kinds(plan) == ["salvage"] * len(holes) + ["seal"] * tail and lost(log.path) == holes
    assert [(step.first_index, step.last_index) for step in plan.steps if step.kind == "salvage"] == holes
    assert any(content.startswith(bad) for content in kept(log.path).values())


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_damage_in_a_closed_log_is_sealed_off(tmp_path: Path, strategy: str) -> None:
    log = build(str(tmp_path / "log"), strategy=strategy, clean=True)
    log.hit(30)
    mend(log.path, without((30, 30)), holes=((30, 30),))


def test_what_only_the_ring_holds_comes_along(tmp_path: Path) -> None:
    """MemFirst: a hole in what was flushed, and acknowledged entries that were not."""
    log = build(str(tmp_path / "log"), strategy="mem_first")
    log.hit(5)
    mend(log.path, without((5, 5)), holes=((5, 5),))


def test_damage_without_an_entry_costs_none(log: Damaged) -> None:
    """A mark, or the exactly-once table at the head of a segment."""
    info = manifest.load(Files(), log.path).segments[1]
    Damaged(log.path, {0: log.places[11]._replace(offset=fmt.DATA_OFFSET)}).hit(0)
    plan = mend(log.path, written())
    assert "no entry of the log" in plan.sentences()[0]
    assert manifest.load(Files(), log.path).lost == [[11, 10, info.segment_id, fmt.DATA_OFFSET]]


# ---------------------------------------------------------------- for how long
def holed(log: Damaged) -> str:
    """Holes 15 and 24..26."""
    log.hit(15)
    log.hit(24, header=True)
    carry_out(planned(log.path))
    promised(log.path, without((15, 15), (24, 26)), ((15, 15), (24, 26)))
    return log.path


def test_a_hole_outlives_its_index_files(log: Damaged) -> None:
    path = holed(log)
    for name in os.listdir(path):
        if name.endswith((".idx", ".trm")):
            os.unlink(os.path.join(path, name))
    with log_reader.open_reader(path) as reader:
        check_reads(reader, without((15, 15), (24, 26)), ((15, 15), (24, 26)))
    carry_out(planned(path))
    promised(path, without((15, 15), (24, 26)), ((15, 15), (24, 26)))


def test_a_purged_hole_is_forgotten(log: Damaged) -> None:
    path = holed(log)
    journal, _ = open_log(path)
    journal.purge_to(24)
    stop(journal)
    assert lost(path) == [(25, 26)]
    promised(path, written(27, 30), ((25, 26),))
    journal, _ = open_log(path)
    journal.purge_to(26)
    stop(journal)
    promised(path, written(27, 30))


def test_a_truncated_hole_is_forgotten_and_may_be_filled(log: Damaged) -> None:
    """As a Raft node fetches it from a peer."""
    path = holed(log)
    journal, _ = open_log(path)
    journal.replace_from(24, [], 0, 0)
    for index in range(24, 31):
        append(journal, written()[index][1], term=term_of(index))
    stop(journal)
    promised(path, without((15, 15)), ((15, 15),))
    journal, _ = open_log(path)
    journal.replace_from(15, [], 0, 0)
    stop(journal)
    promised(path, written(1, 14))
    journal, _ = open_log(path)
    journal.reset(LogId(9, 90), 0, 0)
    stop(journal)
    assert manifest.load(Files(), path).lost == []


def test_a_hole_lies_above_the_commit_index(log: Damaged) -> None:
    """Or a Raft node could not replace it."""
    journal, _ = open_log(log.path)
    journal.commit_to(30)
    stop(journal)
    path = holed(log)
    assert manifest.load(Files(), path).commit_index == 14


def test_the_term_of_a_lost_entry_is_told_only_if_it_is_known(log: Damaged) -> None:
    log.hit(12)  # terms of 11, 12, 13: 2, 2, 2
    log.hit(14)  # and of 13, 14, 15: 2, 3, 3
    carry_out(planned(log.path))
    with log_reader.open_reader(log.path) as reader:
        assert reader.term_of(12) == 2
        with pytest.raises(errors.CorruptLog):
            reader.term_of(14)


def test_a_resend_of_what_was_lost_gets_no_guess(log: Damaged) -> None:
    log.hit(28)
    carry_out(planned(log.path))
    journal, _ = open_log(log.path)
    journal.producers.connect(0xA1, 28, 30)
    assert [journal.producers.look_up(0xA1, n)[0] for n in (28, 29, 30)] == ["forgotten"] * 3
    stop(journal)


def test_a_second_hole_joins_the_first(log: Damaged) -> None:
    path = holed(log)
    log.hit(18)
    holes = ((15, 15), (18, 18), (24, 26))
    mend(path, without(*holes), holes=holes)


def test_a_limited_read_ends_before_the_hole(log: Damaged) -> None:
    path = holed(log)
    with log_reader.open_reader(path) as reader:
        assert [entry.index for entry in reader.read(12, max_bytes=1 << 20)] == [12, 13, 14]
        with pytest.raises(errors.CorruptLog, match="entry 15 is lost"):
            reader.read(15, max_bytes=1 << 20)
        with pytest.raises(errors.CorruptLog, match="entries 24 to 26 are lost"):
            reader.read(20)


def test_the_last_segment_is_mended_with_its_header(log: Damaged) -> None:
    """Both at once: the header block, and a record."""
    with open(os.path.join(log.path, NAME(3)), "r+b") as file:
        file.write(bytes(64))
    log.hit(22)
    plan = mend(log.path, without((22, 22)), holes=((22, 22),))
    assert kinds(plan) == ["rewrite header", "salvage", "seal"]


def test_a_lost_manifest_and_a_hole(log: Damaged) -> None:
    os.unlink(manifest.manifest_path(log.path))
    log.hit(5)
    plan = mend(log.path, without((5, 5)), holes=((5, 5),))
    assert kinds(plan)[:2] == ["rebuild manifest", "salvage"]


def test_a_shortened_segment_is_a_hole_at_its_end(log: Damaged) -> None:
    place = log.places[18]
    os.truncate(os.path.join(log.path, place.name), place.offset + 10)
    plan = mend(log.path, without((18, 20)), holes=((18, 20),))
    assert kinds(plan) == ["lengthen", "salvage"] and check.check_log(log.path).sound


def test_control_a_log_that_was_not_repaired_is_refused(log: Damaged) -> None:
    log.hit(25)
    with pytest.raises(errors.CorruptLog):
        open_log(log.path)
    assert repair.plan(log.path).needed


def test_a_short_segment_lacks_a_seal_only_if_it_ends_before_it(log: Damaged) -> None:
    path = os.path.join(log.path, NAME(1))
    due = f"bytes and must have {os.path.getsize(path)};"
    for size, seal in ((fmt.DATA_OFFSET, False), (fmt.SEAL_OFFSET, True)):
        os.truncate(path, size)
        plan = planned(log.path)
        assert any(step.kind == "lengthen" and f"{size} {due}" in step.sentence for step in plan.steps)
        assert [step.sentence.partition(";")[0] for step in plan.steps if step.kind == "rewrite seal"] == (
            ["the seal is missing"] if seal else []
        )
    mend(log.path, written(11), holes=((1, 10),))


# ---------------------------------------------------------------- what was kept
def verdicts(path: str) -> list[tuple[str, int | None, int | None]]:
    return [(found.verdict.value, found.first_index, found.last_index) for found in iter_records(path)]


def test_what_was_salvaged_tells_what_it_held(log: Damaged) -> None:
    """Nothing in the copy proves but the record's header."""
    log.hit(15)
    log.hit(25)
    carry_out(planned(log.path))
    folder = os.path.join(log.path, fmt.QUARANTINE_NAME, "repair-0001")
    for index, held in ((15, (15, 15)), (25, (24, 26))):
        name, offset = log.places[index]
        assert verdicts(os.path.join(folder, f"{name}.{offset}")) == [("bad body", *held)]


def test_a_piece_begins_with_the_first_header_that_nothing_contradicts(log: Damaged, tmp_path: Path) -> None:
    name = os.path.join(log.path, log.places[12].name)

    def record_of(index: int) -> bytes:
        start = log.places[index].offset
        return read_at(name, start, log.places[index + 1].offset - start)

    piece = tmp_path / "piece"
    damaged = record_of(12)[:-1] + b"?"
    piece.write_bytes(damaged + record_of(13))
    assert verdicts(str(piece)) == [("bad body", 12, 12), ("good", 13, 13)]
    piece.write_bytes(damaged + record_of(15) + record_of(16))
    assert [found[1:] for found in verdicts(str(piece)) if found[0] == "good"] == [(15, 15), (16, 16)]
