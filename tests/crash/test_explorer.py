"""Power cuts and kills at the steps of many lives of a log: 1,500 states here, 100,000 with tools/crash.py."""

from __future__ import annotations

import pytest

from .broken import BUILDS
from .campaign import explore_profile, replay
from .explorer import Report
from .look import INVARIANTS, Violation
from .scenarios import PROFILES, Profile

STATES = 120  # distinct ones of each profile
EVERY = 29  # prefixes, so that a life is seen to its end
MANY_STATES = 8_400


def sentences(report: Report) -> str:
    return "\n".join(f"{where}\n    {violation}" for where, violation in report.violations)


@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_no_crash_breaks_a_promise(profile: Profile) -> None:
    report = explore_profile(profile, STATES, seed=11, every=EVERY, coins=2)
    assert not report.violations, sentences(report)
    assert report.distinct >= STATES and report.states > report.distinct
    assert report.kills >= 3 and report.prefixes >= 10
    assert report.checks == report.states * len(INVARIANTS)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
def test_no_crash_breaks_a_promise_long(profile: Profile) -> None:
    report = explore_profile(profile, MANY_STATES, seed=1)
    assert not report.violations, sentences(report)
    assert report.distinct >= MANY_STATES and report.nested > 1000


# ---------------------------------------------------------------- controls
@pytest.mark.parametrize("name", BUILDS)
def test_control_a_wrong_build_is_caught(name: str) -> None:
    build = BUILDS[name]
    with build.patches():
        report = explore_profile(build.profile, 400, build.seed, every=3, violations_max=1)
    assert report.violations, "nothing was noticed"
    assert {violation.invariant for _, violation in report.violations} <= set(build.breaks), sentences(report)


@pytest.mark.parametrize("name", [
    "a reader misses the last entry", pytest.param("a loss is not told", marks=pytest.mark.slow),
    pytest.param("unlisted files stay", marks=pytest.mark.slow),
])  # fmt: skip
def test_control_a_model_that_forgets_an_invariant_notices_nothing(name: str) -> None:
    """It is this invariant that catches the build, and no other does its work."""
    build = BUILDS[name]
    with build.patches():
        report = explore_profile(build.profile, 45, build.seed, every=3, without=build.breaks)
        assert not report.violations, sentences(report)
        assert report.checks == report.states * (len(INVARIANTS) - 1)
        assert explore_profile(build.profile, 45, build.seed, every=3).violations


# ---------------------------------------------------------------- one state again
def test_a_violation_can_be_replayed() -> None:
    build = BUILDS["records are never synced"]
    profile = PROFILES[0]
    with build.patches():
        report = explore_profile(profile, 400, 1, every=3, violations_max=1)
        where, violation = report.violations[0]
        steps, found, again = replay(where)
    assert violation.invariant in {one.invariant for one in again} and found is not None
    assert steps and all(isinstance(step, str) for step in steps)
    assert replay(where)[2] == [], "with the right build the same place is sound"


def test_a_crash_inside_a_recovery_can_be_replayed() -> None:
    where = "profile='appends, each synced' seed=1 prefix=40 choice='all', then in its recovery prefix=9 choice='none'"
    steps, found, violations = replay(where)
    assert violations == [] and found is not None and found.last.index > 0 and steps


@pytest.mark.parametrize("where", [
    "", "nonsense", "profile='unknown' seed=1 prefix=3 choice='all'",
    "profile='conflicts' seed=1 prefix=99999 choice='all'", "profile='conflicts' seed=1 prefix=3 choice='bogus'",
])  # fmt: skip
def test_a_place_that_names_no_state_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="does not name a"):
        replay(where)


def test_a_violation_names_its_invariant() -> None:
    assert str(Violation("opens", "row J")) == "opens: row J" and "opens" in INVARIANTS
