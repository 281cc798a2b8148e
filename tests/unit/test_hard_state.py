"""The hard state: either slot alone is enough, and rot never brings back an older vote."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import hard_state
from raftlog_mp.errors import CorruptLog
from raftlog_mp.files import Files
from raftlog_mp.types import HardState

from .journals import flip

FILES = Files()


def slots(*states: tuple[HardState, int]) -> bytes:
    return b"".join(hard_state._pack(state, version) for state, version in states)


def test_initial(tmp_path: Path) -> None:
    hard_state.create(FILES, str(tmp_path))
    assert hard_state.load(FILES, str(tmp_path)) == HardState(0, None)
    assert os.path.getsize(hard_state.hard_state_path(str(tmp_path))) == fmt.HARD_STATE_FILE_BYTES


@pytest.mark.parametrize("vote", ["n1", 7, None, "", "ü" * 100])
def test_votes_of_every_kind(tmp_path: Path, vote: str | int | None) -> None:
    FILES.write_file(hard_state.hard_state_path(str(tmp_path)), slots((HardState(3, vote), 1), (HardState(3, vote), 1)))
    assert hard_state.load(FILES, str(tmp_path)) == HardState(3, vote)


def test_the_newer_slot_counts_wherever_it_stands(tmp_path: Path) -> None:
    old, new = (HardState(3, "a"), 4), (HardState(4, "b"), 5)
    for order in ((old, new), (new, old)):
        FILES.write_file(hard_state.hard_state_path(str(tmp_path)), slots(*order))
        assert hard_state.load(FILES, str(tmp_path)) == HardState(4, "b")


@pytest.mark.parametrize("slot", [0, fmt.HARD_STATE_SLOT_BYTES])
def test_one_rotten_slot_at_any_byte(tmp_path: Path, slot: int) -> None:
    """Any bit of one slot: the other one still says the vote."""
    path, raw = hard_state.hard_state_path(str(tmp_path)), slots((HardState(4, "b"), 5), (HardState(4, "b"), 5))
    length = len(hard_state._pack(HardState(4, "b"), 5).rstrip(b"\0"))
    FILES.write_file(path, raw)
    for offset in range(slot, slot + length):
        for bit in range(8):
            flip(path, offset, bit)
            assert hard_state.load(FILES, str(tmp_path)) == HardState(4, "b"), (offset, bit)
            flip(path, offset, bit)


def test_both_slots_rotten_or_file_missing(tmp_path: Path) -> None:
    path = hard_state.hard_state_path(str(tmp_path))
    with pytest.raises(CorruptLog, match="missing"):
        hard_state.load(FILES, str(tmp_path))
    hard_state.create(FILES, str(tmp_path))
    flip(path, 30)
    flip(path, 30 + fmt.HARD_STATE_SLOT_BYTES)
    with pytest.raises(CorruptLog, match="both slots"):
        hard_state.load(FILES, str(tmp_path))
    os.truncate(path, 0)
    with pytest.raises(CorruptLog):
        hard_state.load(FILES, str(tmp_path))
