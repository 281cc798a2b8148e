"""Answers, then bells; in a flood the bells only when the next group is written, and never later than the next wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from raftlog_mp import completions, layout
from raftlog_mp.completions import FLOOD_BYTES, Completions

from .running import Running


class Stage:
    """An intake, sessions, a relief and lanes that only write down what is done to them."""

    def __init__(self) -> None:
        self.steps: list[str] = []
        self.owing: list[Any] = []
        self.waiting, self.held = 0, False

    def bytes_waiting(self) -> int:
        return self.waiting

    def ring_all(self) -> None:
        self.steps.append("frontiers")

    def holds_answers(self) -> bool:
        return self.held

    def owe(self, *names: str) -> None:
        self.owing += [Peer(self, name) for name in names]


class Peer:
    def __init__(self, stage: Stage, name: str) -> None:
        self.stage, self.name, self.lane, self.answers = stage, name, self, [(1, layout.OK, 1, 1, 1, 0)]

    def complete(self, answers: list[Any]) -> None:
        self.stage.steps.append(f"answer {self.name}")

    def ring(self, wanted: int) -> None:
        assert wanted == layout.WANTS_ANSWERS and not self.answers
        self.stage.steps.append(f"bell {self.name}")


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def under_test(stage: Stage) -> Completions:
    return Completions(stage, stage, stage)  # type: ignore[arg-type]


def test_all_answers_come_before_the_first_bell(stage: Stage, under_test: Completions) -> None:
    stage.owe("a", "b")
    stage.waiting = FLOOD_BYTES - 1
    under_test.post_and_tell()
    assert stage.steps == ["answer a", "answer b", "bell a", "bell b", "frontiers"] and not stage.owing
    under_test.ring_late()
    assert len(stage.steps) == 5, "nothing was put off"


def test_in_a_flood_the_answers_stand_at_once_and_the_bells_come_later(stage: Stage, under_test: Completions) -> None:
    stage.waiting = FLOOD_BYTES
    stage.owe("a", "b")
    under_test.post_and_tell()
    assert stage.steps == ["answer a", "answer b"]
    stage.owe("c")
    under_test.post_and_tell()  # another sync before anybody was rung
    stage.steps.clear()
    under_test.ring_late()
    assert stage.steps == ["bell a", "bell b", "bell c", "frontiers"]
    under_test.ring_late()
    assert len(stage.steps) == 4


def test_frontiers_are_told_though_answers_are_held(stage: Stage, under_test: Completions) -> None:
    """Under memory pressure nobody is answered for a while, but the log has grown."""
    stage.waiting, stage.held = FLOOD_BYTES, True
    stage.owe("a")
    under_test.post_and_tell()
    under_test.ring_late()
    assert stage.steps == ["frontiers"] and len(stage.owing) == 1


@pytest.fixture
def flooded(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A writer that takes every moment for a flood."""
    monkeypatch.setattr(completions, "FLOOD_BYTES", 0)
    running = Running(log_dir, strategy="disk_first", spin_us=0.0).start()
    yield running
    running.end()


def test_whoever_sleeps_is_woken_though_nothing_follows(flooded: Running) -> None:
    """No next group comes that would ring: the writer rings before it waits."""
    clients, reader = [flooded.member() for _ in range(3)], flooded.member(role="reader")
    for number in range(1, 31):
        for client in clients:
            client.submit(b"x" * number)
        for client in clients:
            assert client.wait_answers(number)[-1][1] == layout.OK  # asleep, or it fails for want of a bell
    reader.sleep(layout.WANTS_PROGRESS, lambda: flooded.word("durable_index") == 90)
    assert flooded.word("durable_index") == flooded.word("last_index") == 90
