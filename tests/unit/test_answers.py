"""What is said of a submission without an answer: each kind has its own words, and not each advises to ask again."""

from __future__ import annotations

import pytest

from raftlog_mp import errors, layout
from raftlog_mp.answers import closed_early, no_answer, refusal

KINDS = range(layout.SUBMIT_APPEND, layout.SUBMIT_COMMIT + 1)
NOT_TWICE = {layout.SUBMIT_APPEND: "append", layout.SUBMIT_TRUNCATE: "truncate", layout.SUBMIT_RESET: "reset"}


@pytest.mark.parametrize("kind", KINDS)
def test_the_advice_fits_the_kind(kind: int) -> None:
    late, closed = no_answer(kind, "/log", None), closed_early(kind)
    for text in (late, closed):
        assert "Outcome unknown" in text
        assert ("ask again" in text) == (kind not in NOT_TWICE), text
    assert "in time. " in late and ".ticket" in late and "/log" in late
    if kind in NOT_TWICE:
        assert f"do not {NOT_TWICE[kind]}" in late and f"before you {NOT_TWICE[kind]}" in closed
    if kind != layout.SUBMIT_APPEND:
        assert "append" not in late, "it is no append"


def test_each_kind_has_its_own_words() -> None:
    assert len({no_answer(kind, "/log", None) for kind in KINDS}) == len(KINDS)
    assert len({closed_early(kind) for kind in KINDS}) == len(KINDS)


def test_why_there_is_no_answer_is_told() -> None:
    assert "in time: it is damaged. " in no_answer(layout.SUBMIT_RESET, "/log", errors.CorruptLog("it is damaged"))


def test_a_stale_boundary_is_no_stale_leader() -> None:
    answer = (layout.STALE_TERM, 0, 0, 9, 0)
    leader = refusal(answer, "/log", layout.SUBMIT_ENTRIES, 7)
    snapshot = refusal(answer, "/log", layout.SUBMIT_RESET, 7)
    assert isinstance(leader, errors.StaleTerm) and isinstance(snapshot, errors.StaleTerm)
    assert (leader.term, leader.current_term) == (snapshot.term, snapshot.current_term) == (7, 9)
    assert "step down" in str(leader) and "step down" not in str(snapshot) and "snapshot" in str(snapshot)
