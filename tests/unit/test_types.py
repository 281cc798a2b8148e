"""The words: entries, log ids, hard state, strategies."""

from __future__ import annotations

import pickle

import pytest

from raftlog_mp import Entry, HardState, LogId, PersistenceStrategy, majority_match_index


def test_entry_is_an_immutable_value() -> None:
    entry = Entry(2, 7, b"x")
    assert entry == Entry(2, 7, b"x") != Entry(2, 8, b"x")
    assert hash(entry) == hash(Entry(2, 7, b"x")) and len({entry, Entry(2, 7, b"x")}) == 1
    assert pickle.loads(pickle.dumps(entry)) == entry
    assert entry.log_id == LogId(2, 7)
    with pytest.raises(AttributeError):
        entry.term = 3  # type: ignore[misc]
    match entry:
        case Entry(term=2, index=7, payload=b"x"):
            pass
        case _:
            pytest.fail("entries match by attribute")


def test_log_ids_are_ordered_by_term_then_index() -> None:
    assert LogId(0, 0) < LogId(1, 9) < LogId(2, 1) < LogId(2, 2)


def test_initial_hard_state() -> None:
    assert HardState() == HardState(0, None) == (0, None)


def test_strategies_are_plain_strings() -> None:
    assert PersistenceStrategy.DISK_FIRST == "disk_first" and PersistenceStrategy("mem_first") == "mem_first"
    assert str(PersistenceStrategy.MEM_FIRST) == "mem_first"


@pytest.mark.parametrize(
    ("others", "own", "agreed"),
    [
        ([], 5, 5), ([0, 0], 9, 0), ([9, 0], 9, 9), ([7, 8], 9, 8), ([3, 3], 9, 3),
        ([1, 2, 3, 4], 5, 3), ([5], 9, 5), ([4, 6, 8], 10, 6),
    ],
)  # fmt: skip
def test_majority_match_index(others: list[int], own: int, agreed: int) -> None:
    assert majority_match_index(others, own) == agreed
    members = [*others, own]
    assert sum(index >= agreed for index in members) > len(members) // 2
    assert sum(index > agreed for index in members) <= len(members) // 2
