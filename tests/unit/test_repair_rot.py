"""Random damage of any file: repair mends it or names the decision; no entry is served wrong, none is lost silently."""

from __future__ import annotations

import os
import random
import re
import shutil
from pathlib import Path

import pytest

from raftlog_mp import check, errors, log_reader, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.files import Files

from .damaged import LAST, build, carry_out, kinds, planned, written
from .journals import append, flip, open_log, overwrite, snapshot, stop
from .keeping import not_kept

USED_BYTES = 10_100  # of a segment of this log: everything behind is zero
MAY_LOSE = {"give up ring", "settle", "cut"}  # steps behind which an end that nothing vouched for is missing


def damage(path: str, rng: random.Random) -> list[tuple[str, str, int]]:
    """One to four wounds: bits, zeros, junk, a cut, a missing file."""
    wounds = []
    for _ in range(rng.choice((1, 1, 2, 4))):
        names = sorted(n for n in os.listdir(path) if n.endswith((".seg", ".idx", ".trm")) or n in SINGLE)
        segments = [name for name in names if name.endswith(".seg")]
        name = rng.choice(segments if segments and rng.random() < 0.7 else names)
        file = os.path.join(path, name)
        size = min(os.path.getsize(file), USED_BYTES)
        places = (rng.randrange(fmt.DATA_OFFSET, USED_BYTES), rng.randrange(88), fmt.SEAL_OFFSET + rng.randrange(72))
        at = min(rng.choice(places) if name in segments else rng.randrange(size or 1), max(size - 1, 0))
        how = rng.choice(("flip", "flip", "flip", "flip", "zero", "junk", "cut", "gone"))
        wounds.append((name, how, at))
        if how == "gone":
            os.unlink(file)
        elif how == "cut" or not size:
            os.truncate(file, at)
        elif how == "flip":
            flip(file, at, rng.randrange(8))
        else:
            overwrite(file, at, bytes(40) if how == "zero" else rng.randbytes(200))
    return wounds


SINGLE = (fmt.MANIFEST_NAME, fmt.HARD_STATE_NAME)


def decided(path: str) -> tuple[repair.RepairPlan, int]:
    """A plan in which every decision is taken as it is proposed; the last index that may be expected."""
    how: dict[str, object] = {}
    for _ in range(8):
        plan = planned(path, **how)
        if not plan.blocked:
            return plan, int(str(how.get("truncate_from", LAST + 1))) - 1
        asked = " ".join(one.needs for one in plan.blocked)
        assert asked.strip(), plan.sentences()
        cuts = [int(number) for number in re.findall(r"--truncate-from (\d+)", asked)]
        if cuts:
            how["truncate_from"] = min(cuts)
        if "--accept-loss" in asked:
            how["accept_loss"] = True
    raise AssertionError(f"never decided: {plan.sentences()}")


def survives(path: str, rng: random.Random) -> None:
    """Damage, repair, and look at everything; then write on, and look again."""
    wounds = damage(path, rng)
    sound = check.check_log(path).sound
    plan, last = decided(path)
    steps = set(kinds(plan))
    assert plan.needed or sound, wounds
    before = snapshot(path)
    carry_out(plan) if plan.needed else None
    assert not_kept(before, path) == [], wounds
    for _ in range(2):
        report = check.check_log(path)
        assert report.sound and not planned(path).needed, (wounds, [found.sentence for found in report.problems])
        look(path, last if not steps & MAY_LOSE else None, wounds)
        journal, _ = open_log(path)
        append(journal, b"after", term=journal.last_term + 1)
        stop(journal)


def look(path: str, last: int | None, wounds: object) -> None:
    """Every entry is right, or known to be lost."""
    truth, rows = written(), manifest.load(Files(), path).lost
    with log_reader.open_reader(path) as reader:
        assert last is None or reader.last_index >= last, wounds
        for index in range(reader.first_index, min(reader.last_index, last or 0) + 1):
            known = any(first <= index <= end for first, end, _, _ in rows)
            try:
                entry = reader.get(index)
            except errors.CorruptLog:
                assert known, (wounds, index)
                continue
            assert entry is not None and not known
            assert (entry.term, entry.payload) == truth[index], (wounds, index)
            assert reader.term_of(index) == entry.term


@pytest.mark.parametrize("seed", [*range(4), *(pytest.param(n, marks=pytest.mark.slow) for n in range(4, 80))])
def test_random_damage(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    source = build(str(tmp_path / "log"), strategy=("disk_first", "mem_first")[seed % 2], clean=seed % 4 < 2).path
    for number in range(2):
        path = str(tmp_path / f"{number}")
        shutil.copytree(source, path)
        survives(path, rng)
        shutil.rmtree(path)
