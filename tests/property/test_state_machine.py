"""The real clients, readers and writers against plain lists, in every order that Hypothesis can think of."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from support.model import ModelLog

import raftlog_mp as rl

from .machine import LogMachine

CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None,
        "report_multiple_bugs": False}  # fmt: skip
# Shrinking starts a writer for each attempt: with it a failure of the long run takes minutes more to be told.
QUICK = settings(max_examples=10, stateful_step_count=25, phases=(Phase.generate,), **CALM)
LONG = settings(max_examples=300, stateful_step_count=50, phases=(Phase.generate, Phase.shrink), **CALM)


@pytest.mark.timeout(300)
def test_log_against_a_list() -> None:
    run_state_machine_as_test(LogMachine, settings=QUICK)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_log_against_a_list_for_long() -> None:
    run_state_machine_as_test(LogMachine, settings=LONG)


# ---------------------------------------------------------------- negative controls: a model that lies is found out
class TruncatesTooLittle(ModelLog):
    """One entry more is left."""

    def truncate_from(self, index: int, leader_term: int | None) -> None:
        super().truncate_from(min(index + 1, self.last_index + 1) if index <= self.last_index else index, leader_term)


class ForgetsTheBoundary(ModelLog):
    """The term of the last purged entry is not known any more."""

    def term_of(self, index: int) -> int | None:
        return None if index == self.purged.index else super().term_of(index)


class VotesTwice(ModelLog):
    """Another vote in the same term is fine."""

    def save_hard_state(self, state: rl.HardState) -> None:
        if state.term < self.hard.term:
            raise rl.StaleTerm(current_term=self.hard.term)
        self.hard = state


class FencesNobody(ModelLog):
    """A hard state does not make an older term stale."""

    def _check_term(self, term: int | None, *, required: bool) -> None:
        if term is None or term >= self.last_log_id.term:
            return
        super()._check_term(term, required=required)


class HintsAtTheEnd(ModelLog):
    """The conflict hint does not go back to where the term begins."""

    def range_of_term(self, term: int) -> tuple[int | None, int | None]:
        first, last = super().range_of_term(term)
        return last, last if first else None


class LetsTermsFall(ModelLog):
    """A boundary ahead may have any term."""

    def reset(self, boundary: rl.LogId | None) -> None:
        try:
            super().reset(boundary)
        except rl.StaleTerm:
            self.rows, self.purged = [], boundary or rl.LogId(0, 0)


class BelievesAnythingPurged(ModelLog):
    """What may have stood below the boundary is not asked."""

    def _conflict(self, prev: rl.LogId, entries: list[rl.Entry]) -> rl.LogId | None:
        return None if prev.index < self.purged.index else super()._conflict(prev, entries)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("lie", [
    TruncatesTooLittle, *(pytest.param(lie, marks=pytest.mark.slow) for lie in (ForgetsTheBoundary, HintsAtTheEnd))
])  # fmt: skip
def test_a_model_that_lies_is_found_out(lie: type[ModelLog]) -> None:
    machine = type("Lying", (LogMachine,), {"model_class": lie})
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=QUICK)


@pytest.mark.parametrize("lie", [None, VotesTwice, FencesNobody])
def test_a_lie_about_the_hard_state_is_found_out(lie: type[ModelLog] | None) -> None:
    """What is rare in a random series, step by step."""
    machine = LogMachine()
    machine.model_class = lie or ModelLog
    try:
        machine.create("mem_first", rl.Immediate())
        machine.append(b"one", 0, "log")
        machine.save_hard_state([(1, "a")], "other")
        machine.as_the_model()
        with contextlib.nullcontext() if lie is None else pytest.raises(AssertionError):
            machine.append(b"of the deposed leader", -1, "log")
            machine.save_hard_state([(0, "b")], "log")
    finally:
        machine.teardown()


@pytest.mark.parametrize("lie", [None, LetsTermsFall, BelievesAnythingPurged])
def test_a_lie_about_what_was_purged_is_found_out(lie: type[ModelLog] | None) -> None:
    machine = LogMachine()
    machine.model_class = lie or ModelLog
    try:
        machine.create("mem_first", rl.Immediate())
        machine.append_many([b"one", b"two", b"three"], 4, "log")
        machine.purge_to(0, None, "log")
        with contextlib.nullcontext() if lie is None else pytest.raises(AssertionError):
            machine.append_entries(2, 1, 0, 0, [], 0, 0, False, "log")
            machine.reset(-5, -1, "log")
            machine.as_the_model()
    finally:
        machine.teardown()
