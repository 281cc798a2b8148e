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
from raftlog_mp.layout import CONTROL_BYTES, CONTROL_MAGIC, CONTROL_WORDS

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

    def cell(self, offset: int) -> RecordedCell:
        return RecordedCell(self._names[offset], self.steps)


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
    for magic in (0, CONTROL_MAGIC + 1):
        control.magic.store(magic, shm.SEQ_CST)
        with pytest.raises(ValueError, match="incomplete or of another layout") as caught:
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
