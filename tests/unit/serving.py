"""What a reader serves of a damaged log, by every way of reading, and what repair makes of it."""

from __future__ import annotations

import re

import pytest

from raftlog_mp import errors, log_reader, repair
from raftlog_mp.log_reader import LogReader

from .damaged import carry_out
from .journals import snapshot

Served = dict[int, tuple[int, bytes] | None]  # index -> term and payload; None: the reader raises CorruptLog


def served(path: str) -> tuple[Served, int, bool]:
    """Every entry up to the last one, by every way of reading, which agree; whether what comes next is refused."""
    before, found = snapshot(path), Served()
    with log_reader.open_reader(path) as reader:
        last = reader.last_index
        for index in range(reader.first_index, last + 1):
            found[index] = one(reader, index)
        assert followed(reader) == [index for index, entry in found.items() if entry is not None]
        try:
            refused = reader.get(last + 1) is not None
        except errors.CorruptLog as error:
            assert error.first_index == last + 1 and error.last_index is None
            refused = True
    assert snapshot(path) == before, "looking changes nothing"
    return found, last, refused


def one(reader: LogReader, index: int) -> tuple[int, bytes] | None:
    try:
        entry = reader.get(index)
    except errors.CorruptLog as error:
        assert (error.first_index or 0) <= index <= (error.last_index or 0)
        for read in (reader.read, reader.read_batches):
            with pytest.raises(errors.CorruptLog):
                read(index, index + 1)
        return None
    assert entry is not None and [entry] == reader.read(index, index + 1)
    assert [entry] == [each for batch in reader.read_batches(index, index + 1) for each in batch.entries()]
    assert reader.term_of(index) == entry.term
    return entry.term, entry.payload


def followed(reader: LogReader) -> list[int]:
    """What a follower yields that goes on behind each hole."""
    found, start = list[int](), reader.first_index
    while start <= reader.last_index:
        try:
            for entry in reader.follow(start, timeout=0):
                found.append(entry.index)
            return found
        except errors.CorruptLog as error:
            assert error.last_index is not None or error.first_index == reader.last_index + 1
            start = (error.last_index or reader.last_index) + 1
    return found


def decided(path: str) -> repair.RepairPlan:
    """A plan in which every decision is taken as it is proposed."""
    how: dict[str, object] = {}
    for _ in range(8):
        plan = repair.plan(path, **how)  # type: ignore[arg-type]
        if not plan.blocked:
            return plan
        asked = " ".join(blocked.needs for blocked in plan.blocked)
        cuts = [int(number) for number in re.findall(r"--truncate-from (\d+)", asked)]
        how |= ({"truncate_from": min(cuts)} if cuts else {}) | ({"accept_loss": True} if "accept" in asked else {})
    raise AssertionError(f"never decided: {plan.sentences()}")


def as_after_repair(path: str) -> tuple[Served, int, bool]:
    """What is served now, which is what is served after a repair."""
    found, last, refused = served(path)
    plan = decided(path)
    if plan.needed:
        carry_out(plan)
    assert served(path) == (found, last, False)
    assert refused == (plan.truncate_from is not None or plan.accept_loss), plan.sentences()
    return found, last, refused
