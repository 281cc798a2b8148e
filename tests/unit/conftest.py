"""Logs that several test files damage, and writers whose rounds they make."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import straight_round

from .checked import copy_of, make_sound
from .rounds import Stage


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Entries 1..250 of terms 1..3 in three segments, closed in order."""
    return make_sound(str(tmp_path_factory.mktemp("check") / "log"))


@pytest.fixture
def log(sound: str, tmp_path: Path) -> str:
    """A copy to be damaged."""
    return copy_of(sound, str(tmp_path / "log"))


@pytest.fixture
def never_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lanes that were not plain do not keep the next rounds from the straight way."""
    monkeypatch.setattr(straight_round, "SKIPPED_ROUNDS", 0)


@pytest.fixture
def stage(log_dir: str) -> Iterator[Callable[..., Stage]]:
    """Makes the stage of a test, and ends it."""
    made: list[Stage] = []

    def make(**settings: Any) -> Stage:
        made.append(Stage(log_dir, **settings))
        return made[0]

    yield make
    for one in made:
        one.end()
