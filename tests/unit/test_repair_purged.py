"""Repair where damage reaches below the purge boundary: every advice leads to a log that opens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.files import Files

from .damaged import Damaged, build, kinds, mend, planned, term_of, written

STRATEGIES = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])


def gone(log: Damaged) -> None:
    """The first segment; entries 6..10 of it are live."""
    os.unlink(os.path.join(log.path, fmt.segment_name(1)))


def shortened(log: Damaged) -> None:
    """The newest segment, the only one, ends before the boundary; nothing proves any more where entries stood."""
    place = log.places[23]
    os.truncate(os.path.join(log.path, place.name), place.offset)


@STRATEGIES
@pytest.mark.parametrize(("damage", "purged"), [(gone, 5), (shortened, 25)])
def test_damage_that_reaches_below_the_boundary_can_be_given_up(
    tmp_path: Path, strategy: str, damage: object, purged: int
) -> None:
    log = build(str(tmp_path / "log"), strategy=strategy, purged=purged)
    assert callable(damage)
    damage(log)
    first = purged + 1
    advised = planned(log.path).blocked
    assert [(one.needs, one.first_index) for one in advised] == [(f"--truncate-from {first}", first)]
    above, below = (planned(log.path, truncate_from=index).blocked for index in (first + 1, first - 1))
    assert [one.needs for one in above + below] == [f"--truncate-from {first}"] * 2
    plan = mend(log.path, {}, truncate_from=first)
    assert "drop suffix" in kinds(plan) and f"ends with entry {purged}," in plan.sentences()[0]
    found = manifest.load(Files(), log.path)
    assert (found.purged_index, found.purged_term, found.lost) == (purged, term_of(purged), [])


@STRATEGIES
def test_damage_among_purged_entries_costs_nothing(tmp_path: Path, strategy: str) -> None:
    log = build(str(tmp_path / "log"), strategy=strategy, purged=25)
    log.hit(22)
    for index in (26, 28):
        plan = planned(log.path, truncate_from=index)
        assert "no entry is damaged" in plan.blocked[0].sentence and not plan.blocked[0].needs
    mend(log.path, written(26))


@STRATEGIES
def test_a_hole_across_the_boundary_stays_or_goes(tmp_path: Path, strategy: str) -> None:
    """The damaged record holds 24..26, of which only 26 is live."""
    for name, index in (("kept", None), ("dropped", 26)):
        log = build(str(tmp_path / name), strategy=strategy, purged=25)
        log.hit(25)
        assert planned(log.path, truncate_from=27).blocked[0].needs == "--truncate-from 26"
        if index is None:
            mend(log.path, written(27), holes=((26, 26),))
        else:
            mend(log.path, {}, truncate_from=index)
