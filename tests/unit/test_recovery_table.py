"""Every combination of facts meets exactly one row, and it is the right one."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from raftlog_mp import recovery_table as table
from raftlog_mp.format import BAD, RESIDUE, WRONG, ZERO
from raftlog_mp.recovery_table import (
    CUT,
    CUT_AT_MARK,
    DONE,
    FINISH,
    IGNORE,
    KEEP,
    OPEN_WITH_LOSS,
    RECREATE,
    REFUSE,
    REPLAY,
    RING_ROWS,
    SEGMENT_ROWS,
    TRUST,
    RingFacts,
    SegmentFacts,
    decide_ring,
    decide_segment,
)

# The design, in its order: letter -> what is done.
SEGMENTS = {
    "A": REFUSE, "B": IGNORE, "C": REFUSE, "D": TRUST, "E": FINISH, "F": REFUSE, "G": RECREATE, "H": REFUSE,
    "I": CUT_AT_MARK, "J": REFUSE, "K": REFUSE, "O": REFUSE, "L": CUT, "M": KEEP, "N": CUT,
}  # fmt: skip
RINGS = {"P": DONE, "Q": REPLAY, "R": REFUSE, "S": OPEN_WITH_LOSS, "T": OPEN_WITH_LOSS}


def every(cls: type) -> Iterator[Any]:
    """All combinations of facts."""
    names = [field.name for field in dataclasses.fields(cls)]
    values = [(ZERO, BAD, RESIDUE, WRONG) if name == "stop" else (False, True) for name in names]
    for combination in itertools.product(*values):
        yield cls(**dict(zip(names, combination, strict=True)))


def expected_segment(f: SegmentFacts) -> str:
    """The table of the design, written a second time, as nested questions."""
    if not f.readable:
        return "A"
    if f.dead:
        return "B"
    if not f.present or f.gap:
        return "C"
    if f.seal:
        return "D"
    if f.whole:
        return "E"
    if not f.last:
        return "F"
    if not f.header:
        return "H" if f.records or f.before_marks else "G"
    if f.damaged:
        return "J"
    if f.failed:
        return "I"
    if f.stop == WRONG:
        return "K"
    if f.seen_before:
        return "O"
    return {RESIDUE: "L", ZERO: "M", BAD: "N"}[f.stop]


def expected_ring(f: RingFacts) -> str:
    if f.clean:
        return "P"
    if f.trusted:
        return "P" if f.covered else "Q" if f.proves else "R"
    return "S" if f.same_boot else "T"


def test_every_combination_of_segment_facts() -> None:
    met = Counter[str]()
    for facts in every(SegmentFacts):
        row = decide_segment(facts)
        assert row.letter == expected_segment(facts), facts
        met[row.letter] += 1
    assert set(met) == set(SEGMENTS), "every row can be reached"
    assert met.total() == 4 * 2 ** (len(dataclasses.fields(SegmentFacts)) - 1)


def test_every_combination_of_ring_facts() -> None:
    met = Counter(decide_ring(facts).letter for facts in every(RingFacts))
    assert all(decide_ring(facts).letter == expected_ring(facts) for facts in every(RingFacts))
    assert set(met) == set(RINGS)


@pytest.mark.parametrize(("rows", "expected"), [(SEGMENT_ROWS, SEGMENTS), (RING_ROWS, RINGS)])
def test_rows_in_order_with_action_and_sentence(rows: tuple[table.Row, ...], expected: dict[str, str]) -> None:
    assert [(row.letter, row.action) for row in rows] == list(expected.items())
    assert len({row.sentence for row in rows}) == len(rows)
    assert all(row.sentence[0].islower() and not row.sentence.endswith(".") for row in rows), "they stand inside a text"


def test_letters_are_used_once() -> None:
    letters = [row.letter for row in SEGMENT_ROWS + RING_ROWS]
    assert sorted(letters) == list("ABCDEFGHIJKLMNOPQRST")


# ---------------------------------------------------------------- what must hold whatever the table becomes
def test_nothing_vouched_for_is_ever_cut() -> None:
    for facts in every(SegmentFacts):
        if facts.readable and not facts.dead and facts.damaged and not facts.seal and not facts.whole:
            assert decide_segment(facts).action in (REFUSE, RECREATE), facts
            if facts.header:
                assert decide_segment(facts).action == REFUSE


def test_after_a_latched_failure_the_tail_is_never_kept() -> None:
    for facts in every(SegmentFacts):
        if facts.failed:
            assert decide_segment(facts).action not in (KEEP, CUT)


def test_evidence_is_acted_on_once() -> None:
    for facts in every(SegmentFacts):
        if facts.seen_before and not facts.failed:
            assert decide_segment(facts).action not in (KEEP, CUT)


def test_an_untrusted_ring_is_never_replayed() -> None:
    for facts in every(RingFacts):
        if decide_ring(facts).action == REPLAY:
            assert facts.trusted and facts.proves and not facts.covered


def test_loss_is_never_silent() -> None:
    """Done means: the last writer finished, or the files reach up to what was published."""
    for facts in every(RingFacts):
        if decide_ring(facts).action == DONE:
            assert facts.clean or (facts.trusted and facts.covered)
