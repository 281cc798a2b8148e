"""Repair where the device cannot read a file at all: what may be whole is not replaced, a cache is made anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp.errors import CorruptLog

from .damaged import build, mend, planned, written


def unreadable(path: str) -> None:
    """A directory in its place: it opens, and every read of it fails."""
    if os.path.exists(path):
        os.unlink(path)
    os.mkdir(path)


def test_a_manifest_that_cannot_be_read_is_not_made_anew(tmp_path: Path) -> None:
    log = build(str(tmp_path / "log"))
    unreadable(os.path.join(log.path, fmt.MANIFEST_NAME))
    with pytest.raises(CorruptLog, match="manifest"):
        planned(log.path, accept_loss=True)


def test_a_vote_that_cannot_be_read_is_not_forgotten(tmp_path: Path) -> None:
    log = build(str(tmp_path / "log"))
    unreadable(os.path.join(log.path, fmt.HARD_STATE_NAME))
    (blocked,) = planned(log.path, accept_loss=True).blocked
    assert blocked.file == fmt.HARD_STATE_NAME and not blocked.needs and "sound disk" in blocked.sentence


@pytest.mark.parametrize("name", [fmt.index_name(1), fmt.terms_name(1)])
def test_a_cache_that_cannot_be_read_is_made_anew(tmp_path: Path, name: str) -> None:
    log = build(str(tmp_path / "log"))
    unreadable(os.path.join(log.path, name))
    mend(log.path, written(1))
    assert os.path.isfile(os.path.join(log.path, name))
