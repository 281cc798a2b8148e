"""Memory words: unique, aligned, and one cache line never written by two sides."""

from __future__ import annotations

import itertools

import pytest

from raftlog_mp import layout
from raftlog_mp.layout import CONTROL_WORDS, LANE_WORDS, LINE

from .tables import DOCS, fields_of, rows_of, tables_of

# Who writes each word of a lane or seat.
LANE_SIDES = {"magic": "writer", "lane_bytes": "writer", "done": "writer",
              "tail": "client", "wants": "client", "reaped": "client"}  # fmt: skip
# Words of the control block that must not share a line: written at each publish, each sync, each lap, each sleep ...
HOT = ("published", "durable", "floor", "catalog_version", "epoch", "writer_sleeping", "fsyncs")


@pytest.mark.parametrize("words", [CONTROL_WORDS, LANE_WORDS])
def test_offsets_are_unique_and_aligned(words: dict[str, int]) -> None:
    assert len(set(words.values())) == len(words)
    assert all(offset % 8 == 0 and offset >= 0 for offset in words.values())


def test_words_lie_inside_their_memory() -> None:
    assert max(CONTROL_WORDS.values()) + 8 <= layout.CONTROL_BYTES
    assert max(LANE_WORDS.values()) + 8 <= layout.SEAT_BYTES <= layout.COMPLETIONS_OFFSET


def test_each_side_of_a_lane_writes_its_own_lines() -> None:
    assert set(LANE_SIDES) == set(LANE_WORDS)
    for one, other in itertools.combinations(LANE_WORDS, 2):
        if LANE_SIDES[one] != LANE_SIDES[other]:
            assert LANE_WORDS[one] // LINE != LANE_WORDS[other] // LINE, (one, other)
    for one, other in itertools.combinations(["tail", "wants", "reaped", "done"], 2):
        assert LANE_WORDS[one] // LINE != LANE_WORDS[other] // LINE, (one, other)


def test_hot_control_words_have_their_own_lines() -> None:
    lines = [CONTROL_WORDS[name] // LINE for name in HOT]
    assert len(set(lines)) == len(lines)
    assert CONTROL_WORDS["magic"] // LINE not in lines, "identity is written once"


def test_regions_of_a_lane_do_not_overlap() -> None:
    slots = layout.COMPLETION_SLOTS * layout.COMPLETION_BYTES
    assert layout.COMPLETIONS_OFFSET + slots == layout.LANE_DATA_OFFSET
    assert layout.lane_file_bytes(1000) == layout.LANE_DATA_OFFSET + 1000
    assert layout.COMPLETION.size == 48 == layout.SUBMISSION.size


def test_names_of_states_and_levels() -> None:
    states = {value for name, value in vars(layout).items() if name.startswith("STATE_") and isinstance(value, int)}
    assert states == set(layout.STATE_NAMES)
    assert layout.WANTS_ANSWERS & layout.WANTS_PROGRESS == 0
    assert (layout.WANTS_ANSWERS | layout.WANTS_PROGRESS) < 4, "they fit below the number of the sleep"


# ---------------------------------------------------------------- docs/shared_memory.md
TABLES = tables_of("shared_memory.md")


def test_documented_control_words() -> None:
    assert [(int(row["offset"]), row["word"]) for row in TABLES["Control block"]] == [
        (offset, name) for name, offset in CONTROL_WORDS.items()
    ]
    assert f"{layout.CONTROL_MAGIC:#x}" in TABLES["Control block"][0]["meaning"]


def test_documented_lane_words_and_their_writers() -> None:
    rows = {row["word"]: (int(row["offset"]), row["written by"]) for row in TABLES["Lane"]}
    assert rows == {name: (offset, LANE_SIDES[name]) for name, offset in LANE_WORDS.items()}
    assert f"{layout.LANE_MAGIC:#x}" in TABLES["Lane"][0]["meaning"]


def test_documented_submission_and_completion() -> None:
    submission = ("length", "kind", "flags", "count", "body_crc", "term", "sequence", "a", "b")
    assert rows_of(TABLES["Submission"]) == fields_of((layout.SUBMISSION, submission))
    completion = ("sequence", "status", "first_index", "count", "term", "detail")
    assert rows_of(TABLES["Completion"]) == fields_of((layout.COMPLETION, completion))


def test_documented_statuses() -> None:
    for row in TABLES["Statuses"]:
        assert getattr(layout, row["name"]) == int(row["status"])
    assert len(TABLES["Statuses"]) == layout.TERM_UNKNOWN + 1


def test_documented_kinds_of_submissions() -> None:
    text = (DOCS / "shared_memory.md").read_text(encoding="utf-8")
    for name, value in vars(layout).items():
        if name.startswith("SUBMIT_"):
            assert f"| {value} | `{name}` |" in text
    assert f"A run header is {layout.ENTRY_RUN_BYTES} bytes" in text


def test_documented_sizes() -> None:
    text = (DOCS / "shared_memory.md").read_text(encoding="utf-8")
    for size in (layout.CONTROL_BYTES, layout.SEAT_BYTES, layout.COMPLETIONS_OFFSET, layout.LANE_DATA_OFFSET):
        assert str(size) in text
    assert f"{layout.COMPLETION_SLOTS} of {layout.COMPLETION_BYTES} bytes" in text


def test_documented_states() -> None:
    state = next(row for row in TABLES["Control block"] if row["word"] == "state")
    assert state["meaning"] == ", ".join(f"{value} {name}" for value, name in layout.STATE_NAMES.items())
