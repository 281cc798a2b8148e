"""Logs that several test files damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from .checked import copy_of, make_sound


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Entries 1..250 of terms 1..3 in three segments, closed in order."""
    return make_sound(str(tmp_path_factory.mktemp("check") / "log"))


@pytest.fixture
def log(sound: str, tmp_path: Path) -> str:
    """A copy to be damaged."""
    return copy_of(sound, str(tmp_path / "log"))
