"""The control block: every word where the layout says, the magic last, and nobody but the writer stores into it."""

from __future__ import annotations

import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import layout, shm
from raftlog_mp.control import Control, create_control, open_control
from raftlog_mp.errors import VersionMismatch
from raftlog_mp.layout import (
    CONTROL_BYTES,
    CONTROL_MAGIC,
    CONTROL_WORDS,
    HISTORY_OFFSET,
    HISTORY_SLOTS,
    NOTHING_REMOVED,
)

# A value of its own for each word; the magic's is not free.
VALUES = {name: 1000 + number for number, name in enumerate(CONTROL_WORDS) if name != "magic"}


class RecordedCell:
    """A word that tells when it is stored to and loaded."""

    def __init__(self, name: str, steps: list[tuple[Any, ...]]) -> None:
        self._name, self._steps, self._value = name, steps, 0

    def store(self, value: int, order: Any) -> None:
        self._value = value
        self._steps.append(("store", self._name, value, order))

    def load(self, order: Any) -> int:
        self._steps.append(("load", self._name, order))
        return self._value


class RecordedMapping:
    """A mapping that records the order in which its words are touched."""

    length = CONTROL_BYTES

    def __init__(self) -> None:
        self.steps: list[tuple[Any, ...]] = []
        self._names = {offset: name for name, offset in CONTROL_WORDS.items()}
        self._names |= {HISTORY_OFFSET + 8 * slot: f"history {slot}" for slot in range(HISTORY_SLOTS)}
        self._cells: dict[int, RecordedCell] = {}

    def cell(self, offset: int) -> RecordedCell:
        return self._cells.setdefault(offset, RecordedCell(self._names[offset], self.steps))


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "control")


@pytest.fixture
def control(path: str) -> Iterator[Control]:
    control = create_control(path, VALUES)
    yield control
    control.close()


def test_every_word_lies_where_the_layout_says(control: Control, path: str) -> None:
    raw = Path(path).read_bytes()
    assert len(raw) == CONTROL_BYTES
    for name, value in (VALUES | {"magic": CONTROL_MAGIC}).items():
        assert struct.unpack_from("<Q", raw, CONTROL_WORDS[name]) == (value,), name


def test_words_that_were_not_given_are_zero(path: str) -> None:
    control = create_control(path, {"generation": 7})
    assert control.snapshot() == dict.fromkeys(CONTROL_WORDS, 0) | {"generation": 7, "magic": CONTROL_MAGIC}
    control.close()


def test_an_unknown_word_is_an_error(path: str) -> None:
    """A misspelt word must not become an attribute that nobody shares."""
    with pytest.raises(AttributeError):
        create_control(path, {"generatoin": 7})


def test_every_word_is_shared_both_ways(control: Control, path: str) -> None:
    theirs, successor = open_control(path), open_control(path, writable=True)
    for number, name in enumerate(CONTROL_WORDS):
        getattr(control, name).store(2**64 - 1 - number, shm.SEQ_CST)
        assert getattr(theirs, name).load(shm.SEQ_CST) == 2**64 - 1 - number, name
    successor.superseded_by.store(9, shm.SEQ_CST)
    assert control.superseded_by.load(shm.SEQ_CST) == theirs.superseded_by.load(shm.SEQ_CST) == 9
    theirs.close()
    successor.close()


def test_a_snapshot_has_every_word(control: Control) -> None:
    assert control.snapshot() == VALUES | {"magic": CONTROL_MAGIC}


def test_a_snapshot_reads_frontiers_before_those_they_may_not_pass() -> None:
    """The writer stores published, then last_index, and durable_index after both: the reader goes the other way."""
    mapping = RecordedMapping()
    Control(mapping).snapshot()  # type: ignore[arg-type]
    order = [step[1] for step in mapping.steps]
    assert order.index("durable_index") < order.index("last_index") < order.index("published")
    assert order.index("durable") < order.index("published")
    assert {step[2] for step in mapping.steps} == {shm.ACQUIRE}


def test_the_magic_is_stored_last_and_releases_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    mapping = RecordedMapping()
    monkeypatch.setattr(shm, "create_file", lambda path, length: mapping)
    create_control("anywhere", VALUES)
    assert mapping.steps[-1] == ("store", "magic", CONTROL_MAGIC, shm.RELEASE)
    assert {step[1]: step[2] for step in mapping.steps[:-1]} == VALUES


# ---------------------------------------------------------------- what is no control block
def test_without_its_magic_a_block_is_incomplete(control: Control, path: str) -> None:
    """As its creator leaves it when it dies before the last store."""
    for magic in (0, CONTROL_MAGIC ^ 1 << 40):
        control.magic.store(magic, shm.SEQ_CST)
        with pytest.raises(ValueError, match="incomplete") as caught:
            open_control(path)
        assert path in str(caught.value)


@pytest.mark.parametrize("size", [CONTROL_BYTES, 2 * CONTROL_BYTES])
def test_a_block_of_another_layout_is_told_from_an_incomplete_one(path: str, size: int) -> None:
    """Whatever its size is there: the half of the magic that stays says what it is."""
    for magic in (CONTROL_MAGIC + 1, CONTROL_MAGIC - 1, CONTROL_MAGIC + (1 << 16)):
        Path(path).write_bytes(struct.pack("<Q", magic).ljust(size, b"\0"))
        with pytest.raises(VersionMismatch, match="layout version 0x") as caught:
            open_control(path)
        assert path in str(caught.value)


@pytest.mark.parametrize("size", [0, 8, layout.PAGE, CONTROL_BYTES - 1, CONTROL_BYTES + 1])
def test_a_block_of_another_size_is_refused(path: str, size: int) -> None:
    Path(path).write_bytes(struct.pack("<Q", CONTROL_MAGIC).ljust(size, b"\0")[:size])
    with pytest.raises(ValueError) as caught:
        open_control(path)
    assert path in str(caught.value)


def test_a_missing_block_is_told_from_a_bad_one(path: str) -> None:
    with pytest.raises(FileNotFoundError):
        open_control(path)


# ---------------------------------------------------------------- who may store
def test_a_store_through_a_readers_mapping_faults(control: Control, path: str) -> None:
    """In a process of its own: the kernel ends it, and the word is unharmed."""
    code = (
        "import sys, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "from raftlog_mp import shm; from raftlog_mp.control import open_control;"
        "control = open_control(sys.argv[1]); assert control.generation.load(shm.ACQUIRE) == int(sys.argv[2]);"
        "control.published.store(7, shm.SEQ_CST)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, path, str(VALUES["generation"])], capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert control.snapshot() == VALUES | {"magic": CONTROL_MAGIC}


def test_cells_of_a_closed_block_raise(path: str) -> None:
    control = create_control(path, VALUES)
    control.close()
    control.close()
    with pytest.raises(ValueError):
        control.published.load(shm.ACQUIRE)
    theirs = open_control(path)
    assert theirs.snapshot() == VALUES | {"magic": CONTROL_MAGIC}, "the file outlives its mappings"
    theirs.close()


# ---------------------------------------------------------------- changes and their history
def change(control: Control, removed: int, *, happened: bool = True) -> int:
    """One whole change; the epoch after it."""
    control.open_change(removed)
    control.close_change(happened=happened)
    return int(control.epoch.load(shm.ACQUIRE))


@pytest.fixture
def fresh(path: str) -> Iterator[Control]:
    control = create_control(path, {})
    yield control
    control.close()


def test_the_epoch_is_odd_during_a_change_and_counts_changes(fresh: Control) -> None:
    for number in range(1, 5):
        fresh.open_change(9)
        assert fresh.epoch.load(shm.ACQUIRE) == 2 * number - 1
        fresh.close_change(happened=True)
        assert fresh.epoch.load(shm.ACQUIRE) == 2 * number


def test_closing_without_a_change_under_way_is_nothing(fresh: Control) -> None:
    """An error may strike before the change was opened."""
    change(fresh, 7)
    fresh.close_change(happened=False)
    fresh.close_change(happened=True)
    assert fresh.epoch.load(shm.ACQUIRE) == 2 and fresh.lowest_removed(0, 2) == 7


def test_the_lowest_index_between_two_epochs(fresh: Control) -> None:
    removed = [30, 20, NOTHING_REMOVED, 25, 40, 10]
    for lowest in removed:
        change(fresh, lowest)
    for since in range(len(removed) + 1):
        for upto in range(since, len(removed) + 1):
            expected = min(removed[since:upto], default=NOTHING_REMOVED)
            assert fresh.lowest_removed(2 * since, 2 * upto) == expected, (since, upto)


def test_a_change_that_came_to_nothing_removed_nothing(fresh: Control) -> None:
    change(fresh, 30)
    assert change(fresh, 5, happened=False) == 4, "who waited looks again"
    assert fresh.lowest_removed(0, 4) == 30 and fresh.lowest_removed(2, 4) == NOTHING_REMOVED


def test_the_history_knows_the_last_changes_and_says_when_it_has_forgotten(fresh: Control) -> None:
    """However often the slots are used again: what is older than they reach is not guessed."""
    count = 2 * HISTORY_SLOTS + 7
    removed = [(number * 7919) % 1000 + 1 for number in range(count)]
    for lowest in removed:
        change(fresh, lowest)
    for since in (count, count - 1, count - 100, count - HISTORY_SLOTS + 1):
        expected = min(removed[since:], default=NOTHING_REMOVED)
        assert fresh.lowest_removed(2 * since, 2 * count) == expected, since
    for since in (count - HISTORY_SLOTS, count - HISTORY_SLOTS - 1, count - HISTORY_SLOTS - 2, 500, 0):
        assert fresh.lowest_removed(2 * since, 2 * count) is None, since


def test_an_answer_is_withheld_if_the_writer_came_round_meanwhile(fresh: Control) -> None:
    """The epochs asked for may be old by the time the slots are read; the change under way uses one, too."""
    for number in range(HISTORY_SLOTS - 1):
        change(fresh, 1000 + number)
    assert fresh.lowest_removed(0, 4) == 1000
    fresh.open_change(3)
    assert fresh.lowest_removed(0, 4) is None, "the next change may be using its slot before anybody can tell"
    assert fresh.lowest_removed(2, 4) == 1001
    fresh.close_change(happened=True)
    assert fresh.lowest_removed(0, 4) is None and fresh.lowest_removed(2, 4) == 1001


def test_the_history_touches_no_other_word(path: str) -> None:
    control = create_control(path, VALUES | {"epoch": 0})
    for number in range(HISTORY_SLOTS + 3):
        change(control, number)
    assert control.snapshot() == VALUES | {"epoch": 2 * HISTORY_SLOTS + 6, "magic": CONTROL_MAGIC}
    control.close()


def test_the_words_of_a_change_are_stored_in_order() -> None:
    """What goes is told before the epoch is odd, and that before it is even: all in the one order of SEQ_CST."""
    mapping = RecordedMapping()
    control = Control(mapping)  # type: ignore[arg-type]
    change(control, 7)
    change(control, 8, happened=False)
    stores = [step[1:] for step in mapping.steps if step[0] == "store"]
    assert stores == [
        ("history 1", 7, shm.SEQ_CST), ("epoch", 1, shm.SEQ_CST), ("epoch", 2, shm.SEQ_CST),
        ("history 2", 8, shm.SEQ_CST), ("epoch", 3, shm.SEQ_CST), ("history 2", NOTHING_REMOVED, shm.SEQ_CST),
        ("epoch", 4, shm.SEQ_CST),
    ]  # fmt: skip
    mapping.steps.clear()
    assert control.lowest_removed(0, 4) == 7
    assert [step[1] for step in mapping.steps] == ["history 1", "history 2", "epoch"], "slots first, then their age"
