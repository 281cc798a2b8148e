"""Repair, step by step: the plan changes nothing; afterwards the log opens, holds what was promised, and is sound."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from raftlog_mp import check, errors, hard_state, layout, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.files import Files
from raftlog_mp.types import HardState

from .damaged import Damaged, build, carry_out, kept, kinds, mend, planned, promised, segment_of, term_of, written
from .journals import append, end_offset, flip, open_log, overwrite, put, read_at, snapshot, stop, tail_path, write_only
from .journals import kill as kill_journal
from .keeping import not_kept

NAME = fmt.segment_name


@pytest.fixture
def log(tmp_path: Path) -> Damaged:
    """A killed DiskFirst log of three segments."""
    return build(str(tmp_path / "log"))


# ---------------------------------------------------------------- nothing to do
def test_a_sound_log_needs_nothing(tmp_path: Path) -> None:
    for clean in (True, False):
        log = build(str(tmp_path / f"{clean}"), clean=clean)
        plan = planned(log.path)
        assert not plan.needed and plan.sentences() == ["nothing to repair"]
        assert carry_out(plan) == [] and not os.path.exists(os.path.join(log.path, fmt.QUARANTINE_NAME))


# ---------------------------------------------------------------- 1: what start-up would do
def torn(path: str) -> bytes:
    """A DiskFirst log with entry 1, and a record that nothing vouches for, damaged; its bytes."""
    journal, _ = open_log(path)
    append(journal, b"durable")
    start = end_offset(journal)
    put(journal, b"torn" * 50)
    write_only(journal)
    kill_journal(journal)
    open(os.path.join(path, fmt.LOCK_NAME), "wb").close()
    flip(tail_path(path), start + fmt.RECORD_BYTES)
    return read_at(tail_path(path), start, fmt.RECORD_BYTES + 200)


def test_a_torn_tail_is_cut_and_kept(log_dir: str) -> None:
    tail = torn(log_dir)
    plan = mend(log_dir, {1: (1, b"durable")})
    assert kinds(plan) == ["cut"] and "row N" in plan.sentences()[0] and plan.kept_bytes == len(tail)
    assert tail in kept(log_dir).values()


def test_a_tail_that_was_cut_before_is_not_cut_again(log_dir: str) -> None:
    torn(log_dir)
    name, raw = os.path.basename(tail_path(log_dir)), Files().read_file(tail_path(log_dir))
    state = Files().read_file(manifest.manifest_path(log_dir))
    repair.apply(planned(log_dir))
    evidence = manifest.load(Files(), log_dir).evidence
    assert len(evidence) == 1
    # The manifest and the tail of before come back, as from a careless copy; the evidence is still known.
    with open(os.path.join(log_dir, name), "wb") as file:
        file.write(raw)
    Files().write_file(manifest.manifest_path(log_dir), state)
    found = manifest.load(Files(), log_dir)
    found.evidence = evidence
    manifest.save(Files(), log_dir, found)
    plan = planned(log_dir)
    assert not plan.steps and "cut before and is back" in plan.sentences()[0]
    assert plan.blocked[0].needs == "--truncate-from 2"
    with pytest.raises(errors.CorruptLog, match="decision"):
        carry_out(plan)
    mend(log_dir, {1: (1, b"durable")}, truncate_from=2)


def test_an_unfinished_roll_is_set_aside(log: Damaged) -> None:
    number = manifest.load(Files(), log.path).next_segment_id
    with open(os.path.join(log.path, NAME(number)), "wb") as file:
        file.write(b"half a header")
    plan = planned(log.path)
    assert kinds(plan) == ["finish roll"]
    carry_out(plan)
    promised(log.path, written())
    assert b"half a header" in kept(log.path).values()


# ---------------------------------------------------------------- 2: caches, seals, headers
def test_missing_and_damaged_caches_are_made_anew(log: Damaged) -> None:
    before = {name: Files().read_file(os.path.join(log.path, name)) for name in (f"{1:016x}.idx", f"{2:016x}.trm")}
    os.unlink(os.path.join(log.path, f"{1:016x}.idx"))
    flip(os.path.join(log.path, f"{2:016x}.trm"), 40)
    plan = planned(log.path)
    assert kinds(plan) == ["rebuild index"] * 2
    carry_out(plan)
    for name, content in before.items():
        assert Files().read_file(os.path.join(log.path, name)) == content
    promised(log.path, written())


def test_a_damaged_seal_is_written_again(log: Damaged) -> None:
    path = os.path.join(log.path, NAME(1))
    before = Files().read_file(path)
    flip(path, fmt.SEAL_OFFSET + 20)
    bad = read_at(path, fmt.SEAL_OFFSET, fmt.BLOCK_BYTES)
    plan = mend(log.path, written())
    assert kinds(plan) == ["rewrite seal"] and bad in kept(log.path).values()
    assert Files().read_file(path) == before


@pytest.mark.parametrize("number", [0, 2])
def test_a_damaged_header_is_written_again(log: Damaged, number: int) -> None:
    info = segment_of(log.path, number)
    path = os.path.join(log.path, NAME(info.segment_id))
    overwrite(path, 0, b"nonsense")
    bad = read_at(path, 0, fmt.BLOCK_BYTES)
    plan = mend(log.path, written())
    assert kinds(plan) == ["rewrite header"] and bad in kept(log.path).values()
    assert fmt.read_segment_header(read_at(path, 0, fmt.BLOCK_BYTES)) is not None


# ---------------------------------------------------------------- 3: the manifest
@pytest.mark.parametrize("missing", [True, False])
@pytest.mark.parametrize("clean", [True, False])
def test_a_lost_manifest_is_made_from_the_segments(tmp_path: Path, missing: bool, clean: bool) -> None:
    log = build(str(tmp_path / "log"), clean=clean)
    path, old = manifest.manifest_path(log.path), manifest.load(Files(), log.path)
    os.unlink(path) if missing else flip(path, 100)
    plan = mend(log.path, written())
    assert kinds(plan)[0] == "rebuild manifest" and "cannot be known" in plan.sentences()[0]
    found = manifest.load(Files(), log.path)
    assert found.log_id == old.log_id and found.uuid != old.uuid and found.generation > old.generation
    assert ("manifest.0" in kept(log.path)) != missing


@pytest.mark.parametrize("generation", [0, 77])
def test_a_lost_manifest_and_memory_of_another_release(log: Damaged, generation: int) -> None:
    """Only the newest writer's memory may hold what the files lack: then its own release has to look."""
    os.unlink(manifest.manifest_path(log.path))
    name = fmt.control_name(generation)
    with open(os.path.join(log.path, fmt.SHM_NAME, name), "wb") as file:
        file.write((layout.CONTROL_MAGIC + 1).to_bytes(8, "little").ljust(layout.CONTROL_BYTES, b"\0"))
    if not generation:
        assert kinds(mend(log.path, written()))[0] == "rebuild manifest"
        return
    before = snapshot(log.path)
    with pytest.raises(errors.VersionMismatch, match=name):
        repair.plan(log.path)
    assert snapshot(log.path) == before


def test_a_lost_manifest_knows_truncations_and_purges(log_dir: str) -> None:
    log = build(log_dir, clean=True)
    journal, _ = open_log(log_dir)
    journal.replace_from(18, [], 0xB2, 1)
    journal.purge_to(12)
    append(journal, b"new", term=9)
    stop(journal)
    assert segment_of(log_dir, 0).base_index == 11
    os.unlink(manifest.manifest_path(log_dir))
    plan = mend(log.path, written(11, 17) | {18: (9, b"new")})
    assert "entry 10, the one before the first segment" in plan.sentences()[0]
    assert manifest.load(Files(), log_dir).purged_term == term_of(10)


def test_a_lost_manifest_does_not_know_what_a_lost_segment_replaced(tmp_path: Path) -> None:
    log = build(str(tmp_path / "log"), clean=True)
    journal, _ = open_log(log.path)
    journal.replace_from(18, [], 0xB2, 1)
    assert journal.segment is not None
    gone = journal.segment.path
    append(journal, b"new", b"new", term=9)
    journal.roll()
    append(journal, b"newer", term=9)
    stop(journal)
    os.unlink(manifest.manifest_path(log.path))
    os.unlink(gone)
    assert "which entries a segment had replaced that is gone, too" in planned(log.path).sentences()[0]
    mend(log.path, written(1, 19) | {20: (9, b"newer")})


def test_segments_without_headers_are_known_by_their_first_records(log: Damaged) -> None:
    os.unlink(manifest.manifest_path(log.path))
    for number in (1, 2, 3):
        overwrite(os.path.join(log.path, NAME(number)), 0, bytes(512))
    plan = mend(log.path, written())
    assert kinds(plan)[:4] == ["rebuild manifest", *["rewrite header"] * 3]


@pytest.mark.parametrize("foreign", [True, False])
def test_a_segment_that_is_left_out_is_kept(log: Damaged, tmp_path: Path, foreign: bool) -> None:
    """A start takes it for one whose entries were purged, and removes it: then the copy is all there is."""
    os.unlink(manifest.manifest_path(log.path))
    path = os.path.join(log.path, NAME(2))
    if foreign:
        shutil.copy(os.path.join(build(str(tmp_path / "other")).path, NAME(2)), path)
    else:
        overwrite(path, 0, bytes(512))
        overwrite(path, fmt.DATA_OFFSET, bytes(8))
    before = snapshot(log.path)
    repair.apply(planned(log.path, truncate_from=11, accept_loss=True))
    journal, _ = open_log(log.path)
    stop(journal)
    assert not os.path.exists(path) and not_kept(before, log.path, endings=(".seg",)) == []


def test_a_segment_that_tells_nothing_is_not_left_out_unasked(log: Damaged) -> None:
    os.unlink(manifest.manifest_path(log.path))
    overwrite(os.path.join(log.path, NAME(3)), 0, bytes(512))
    overwrite(os.path.join(log.path, NAME(3)), fmt.DATA_OFFSET, bytes(8))
    plan = planned(log.path)
    assert [(one.file, one.needs) for one in plan.blocked] == [(NAME(3), "--accept-loss")]
    assert planned(log.path, accept_loss=True).needed
    for number in (1, 2):
        overwrite(os.path.join(log.path, NAME(number)), 0, bytes(512))
        overwrite(os.path.join(log.path, NAME(number)), fmt.DATA_OFFSET, bytes(8))
    with pytest.raises(errors.CorruptLog, match="no segment has a header"):
        repair.plan(log.path)


# ---------------------------------------------------------------- 5: a suffix that nothing proves
def test_a_missing_segment_needs_a_decision(log: Damaged) -> None:
    os.unlink(os.path.join(log.path, NAME(2)))
    plan = planned(log.path)
    assert [one.needs for one in plan.blocked] == ["--truncate-from 11"] and plan.blocked[0].first_index == 11
    third = Files().read_file(os.path.join(log.path, NAME(3)))
    plan = mend(log.path, written(1, 10), truncate_from=11)
    assert kinds(plan) == ["drop suffix"] and not plan.steps[0].reversible
    assert third in kept(log.path).values()


@pytest.mark.parametrize("index", [1, 21, 25])
def test_a_hopeless_end_is_dropped_from_any_index_before_it(log: Damaged, index: int) -> None:
    log.hit(30)
    overwrite_rest(log)
    assert planned(log.path).blocked[0].needs == "--truncate-from 27"
    mend(log.path, written(1, index - 1), truncate_from=index)
    assert manifest.load(Files(), log.path).lost == []


def overwrite_rest(log: Damaged) -> None:
    """Nothing proves from entry 27 on."""
    for index in range(27, 31):
        log.hit(index, header=True)


def test_a_suffix_is_not_dropped_where_it_need_not_be(log: Damaged) -> None:
    assert "no entry is damaged" in planned(log.path, truncate_from=5).sentences()[-1]
    overwrite_rest(log)
    assert "above the first damaged one, 27" in planned(log.path, truncate_from=28).sentences()[-1]


def test_committed_entries_are_not_dropped_unasked(log: Damaged) -> None:
    journal, _ = open_log(log.path)
    journal.commit_to(20)
    stop(journal)
    os.unlink(os.path.join(log.path, NAME(2)))
    plan = planned(log.path, truncate_from=11)
    assert "entries up to 20 are committed" in plan.sentences()[-1]
    assert plan.blocked[-1].needs == "--truncate-from 11 --accept-loss"
    mend(log.path, written(1, 10), truncate_from=11, accept_loss=True)
    assert manifest.load(Files(), log.path).commit_index == 10


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_no_new_entry_gets_the_id_of_a_dropped_one(tmp_path: Path, strategy: str) -> None:
    """Not even of one that was only in memory."""
    log = build(str(tmp_path / "log"), strategy=strategy)
    os.unlink(os.path.join(log.path, NAME(2)))
    carry_out(planned(log.path, truncate_from=11))
    assert manifest.load(Files(), log.path).term_floor > term_of(30)


@pytest.mark.parametrize("clean", [False, True])
def test_a_resend_of_what_was_dropped_gets_no_guess(tmp_path: Path, clean: bool) -> None:
    log = build(str(tmp_path / "log"), clean=clean)
    overwrite_rest(log)
    repair.apply(planned(log.path, truncate_from=27))
    assert manifest.load(Files(), log.path).clean is clean, "a log that was stopped is not shown as crashed"
    journal, _ = open_log(log.path)
    journal.producers.connect(0xA1, 29, 30)
    assert journal.producers.look_up(0xA1, 30)[0] == "forgotten"
    stop(journal)


# ---------------------------------------------------------------- 6: what was promised and is gone
def test_a_forgotten_vote_needs_a_decision(log: Damaged) -> None:
    path = hard_state.hard_state_path(log.path)
    hard_state.save(Files(), log.path, HardState(9, "n1"), 1)
    flip(path, 20)
    flip(path, fmt.HARD_STATE_SLOT_BYTES + 20)
    bad = Files().read_file(path)
    plan = planned(log.path)
    assert plan.blocked[0].needs == "--accept-loss" and "rejoin the cluster as a new node" in plan.sentences()[0]
    mend(log.path, written(), accept_loss=True)
    assert hard_state.load(Files(), log.path) == HardState(term_of(30), None)
    assert bad in kept(log.path).values()


def test_one_bad_slot_is_healed(log: Damaged) -> None:
    hard_state.save(Files(), log.path, HardState(9, "n1"), 1)
    flip(hard_state.hard_state_path(log.path), 20)
    assert kinds(mend(log.path, written())) == ["heal hard state"]
    assert hard_state.load(Files(), log.path) == HardState(9, "n1")


@pytest.mark.parametrize("bad_slot", [False, True])
def test_what_stands_behind_the_hard_state_is_cut(log: Damaged, bad_slot: bool) -> None:
    path, end = hard_state.hard_state_path(log.path), 2 * fmt.HARD_STATE_SLOT_BYTES
    hard_state.save(Files(), log.path, HardState(9, "n1"), 1)
    hard_state.heal(Files(), log.path)
    with open(path, "ab") as file:
        file.write(b"x" * 88)
    if bad_slot:
        flip(path, 20)
    assert any("88 bytes of something else" in found.sentence for found in check.check_log(log.path).problems)
    assert kinds(mend(log.path, written())) == ["heal hard state"] * bad_slot + ["cut"]
    assert hard_state.load(Files(), log.path) == HardState(9, "n1")
    assert os.path.getsize(path) == end and kept(log.path)[f"{fmt.HARD_STATE_NAME}.{end}"] == b"x" * 88


# ---------------------------------------------------------------- life
def test_the_plan_is_kept_with_the_bytes(log: Damaged) -> None:
    overwrite_rest(log)
    for number in (1, 2):
        plan = planned(log.path, truncate_from=27)
        if number == 2:
            break
        carry_out(plan)
    assert json.loads(kept(log.path)["plan.json"])["steps"][0]["kind"] == "drop suffix"
    flip(os.path.join(log.path, NAME(1)), fmt.SEAL_OFFSET + 20)
    repair.apply(planned(log.path))
    assert sorted(os.listdir(os.path.join(log.path, "quarantine"))) == ["repair-0001", "repair-0002"]


def test_a_plan_of_another_moment_is_not_carried_out(log: Damaged) -> None:
    log.hit(12)
    plan = planned(log.path)
    log.hit(15)
    with pytest.raises(errors.CorruptLog, match="changed since the plan"):
        carry_out(plan)
    assert not os.path.exists(os.path.join(log.path, fmt.QUARANTINE_NAME))


def test_a_served_log_is_left_alone(log: Damaged) -> None:
    log.hit(12)
    plan = planned(log.path)
    files, path = Files(), os.path.join(log.path, fmt.LOCK_NAME)
    with files.opened(path, write=True) as fd:
        files.pwrite(fd, b"4711\n", 0)
        assert files.lock(fd)
        for act in (lambda: repair.plan(log.path), lambda: carry_out(plan)):
            with pytest.raises(errors.LogLocked, match="raftlog-mp stop") as caught:
                act()
            assert caught.value.pid == 4711


def test_what_is_no_log_is_said_to_be_none(tmp_path: Path) -> None:
    with pytest.raises(errors.NotALog):
        repair.plan(tmp_path / "nowhere")
    with pytest.raises(errors.NotALog):
        repair.plan(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can own what belongs to another")
def test_root_leaves_no_file_of_its_own(log: Damaged) -> None:
    for folder, names, files in os.walk(log.path):
        for name in [*names, *files, "."]:
            os.chown(os.path.join(folder, name), 4242, 4343)
    os.unlink(os.path.join(log.path, fmt.LOCK_NAME))
    os.unlink(os.path.join(log.path, f"{1:016x}.idx"))
    log.hit(12)
    overwrite_rest(log)
    repair.apply(planned(log.path, truncate_from=27))
    for folder, names, files in os.walk(log.path):
        for name in [*names, *files]:
            found = os.stat(os.path.join(folder, name))
            assert (found.st_uid, found.st_gid) == (4242, 4343), name
