"""This package's own log under the conformance suite that it ships, and the suite under logs that lie."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.lies import LIES, Lie, Lying
from support.nursery import Nursery
from support.processes import Child

import raftlog_mp as rl
from raftlog_mp import testing
from raftlog_mp.testing import LogConformance


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery
        nursery.finish()


def config_of(strategy: str) -> rl.LogConfig:
    """Segments so small that the rules roll and purge some."""
    return rl.LogConfig(strategy=strategy, segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 18)


class Ours(LogConformance):
    strategy: str

    @pytest.fixture(autouse=True)
    def place(self, nursery: Nursery, tmp_path: Path) -> None:
        self.nursery, self.folder = nursery, tmp_path

    def open(self, name: str) -> contextlib.AbstractContextManager[rl.Log]:
        return self.nursery.log(str(self.folder / name), config_of(self.strategy))


class TestDiskFirst(Ours):
    strategy = "disk_first"


class TestMemFirst(Ours):
    strategy = "mem_first"


# ---------------------------------------------------------------- negative controls
@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.name)
def test_control_the_suite_catches_a_lie(nursery: Nursery, tmp_path: Path, lie: Lie) -> None:
    """One line of the log is wrong: the rule that is named after it does not hold."""

    class Caught(LogConformance):
        @contextlib.contextmanager
        def open(self, name: str) -> Iterator[Lying]:
            with nursery.log(str(tmp_path / name), config_of("mem_first")) as log:
                yield lie.told_of(log)

    check: Callable[[], None] = getattr(Caught(), "test_" + lie.rule)
    with pytest.raises(AssertionError) as caught:
        check()
    assert "not new" not in str(caught.value)  # caught by the rule, not before it began


def test_every_part_of_the_suite_has_a_lie() -> None:
    parts = {part.__name__: part for part in LogConformance.__mro__ if part.__name__ in PARTS}
    assert set(parts) == PARTS
    for name, part in parts.items():
        assert any("test_" + lie.rule in vars(part) for lie in LIES), f"no lie tries the rules of {name}"


PARTS = {"Appending", "Matching", "Removing", "Committing", "Following"}


# ---------------------------------------------------------------- without pytest
def test_run_reports_every_rule(nursery: Nursery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    some = {"a_new_log_is_empty", "hard_state_never_falls", "read_is_half_open_and_clips_the_end"}
    every = set(testing.rules())
    assert every == {name.removeprefix("test_") for name in dir(TestDiskFirst) if name.startswith("test_")}
    monkeypatch.setattr(testing, "rules", lambda: sorted(some))
    lie = next(lie for lie in LIES if lie.rule == "hard_state_never_falls")

    @contextlib.contextmanager
    def open_log(name: str) -> Iterator[Lying]:
        with nursery.log(str(tmp_path / name), config_of("mem_first")) as log:
            yield lie.told_of(log)

    report = testing.run(open_log)
    assert [finding.rule for finding in report] == sorted(some)
    broken = [finding for finding in report if finding.problem is not None]
    assert [finding.rule for finding in broken] == ["hard_state_never_falls"]
    assert "should raise StaleTerm" in str(broken[0].problem)


def test_run_reports_a_log_that_cannot_be_opened() -> None:
    report = testing.run(lambda name: rl.open_log("/dev/null/nowhere"))
    assert len(report) == len(testing.rules()) > 70
    unaffected = [rule for rule, problem in report if problem is None]
    assert unaffected == ["a_leader_counts_only_what_is_durable"]  # it asks no log
    assert all("/dev/null" in problem for _, problem in report if problem is not None)


def test_a_name_that_is_reused_is_told(nursery: Nursery, tmp_path: Path) -> None:
    class Same(LogConformance):
        def open(self, name: str) -> contextlib.AbstractContextManager[rl.Log]:
            return nursery.log(str(tmp_path / "always this one"), config_of("mem_first"))

    suite = Same()
    suite.test_append_gives_the_next_index()
    with pytest.raises(AssertionError, match="not new"):
        suite.test_append_gives_the_next_index()


def test_the_suite_needs_no_pytest() -> None:
    code = "import sys; sys.modules['pytest'] = None; import raftlog_mp.testing as t; print(len(t.rules()))"
    with Child("-O", "-c", code) as child:
        assert int(child.finish()) > 70


def test_open_must_be_overridden() -> None:
    with pytest.raises(NotImplementedError, match="override open"):
        LogConformance().test_a_new_log_is_empty()
