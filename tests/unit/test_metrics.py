"""Statistics: every figure from the word it names, and none that contradicts another."""

from __future__ import annotations

import dataclasses
import json
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from raftlog_mp import layout
from raftlog_mp.cli.stat import notices
from raftlog_mp.config import Batch, LogConfig
from raftlog_mp.control import Control
from raftlog_mp.metrics import LogStats, stats_of

# Figures that are a word of the control block, as it stands.
PLAIN = (
    "generation", "writer_pid", "first_index", "last_index", "commit_index", "appends", "entries",
    "bytes", "fsyncs", "unflushed_entries", "unflushed_bytes", "segments", "rolls", "marks", "clients", "readers",
    "dropped_peers", "scrubbed_bytes", "scrub_passes", "scrub_damage", "damaged_offset", "pressure_changes",
)  # fmt: skip
# Figures that are made of something else.
DERIVED = {"path", "state", "strategy", "flush_policy", "fsync_ms_mean", "pressure_level", "lapped_reads",
           "loss_possible", "damaged_file", "durable_index", "memory_used_bytes", "memory_limit_bytes",
           "memory_stalled", "writer_rss_bytes"}  # fmt: skip
DISTINCT = {name: 100_000 + number for number, name in enumerate(layout.CONTROL_WORDS)}


def view_of(config: LogConfig | None = None, **words: int) -> Any:
    """A view whose control block holds ``words``, and zeros besides."""
    held = dict.fromkeys(layout.CONTROL_WORDS, 0) | words
    return SimpleNamespace(control=SimpleNamespace(snapshot=lambda: held), config=config or LogConfig())


def test_every_figure_comes_from_the_word_of_its_name() -> None:
    stats = stats_of(view_of(**DISTINCT), "/log")
    assert {name: getattr(stats, name) for name in PLAIN} == {name: DISTINCT[name] for name in PLAIN}


def test_every_figure_is_looked_at_here() -> None:
    assert set(PLAIN) | DERIVED == {field.name for field in dataclasses.fields(LogStats)}


def test_what_is_known_without_a_word() -> None:
    config = LogConfig(strategy="mem_first", flush_policy=Batch(7, 20))  # type: ignore[arg-type]
    stats = stats_of(view_of(config), "/some/log", lapped_reads=5)
    assert (stats.path, stats.strategy, stats.flush_policy) == ("/some/log", "mem_first", "batch:7:20")
    assert stats.lapped_reads == 5
    assert stats_of(view_of(), "/log").lapped_reads == 0


@pytest.mark.parametrize("number", layout.STATE_NAMES)
def test_states_have_names(number: int) -> None:
    assert stats_of(view_of(state=number), "/log").state == layout.STATE_NAMES[number]


@pytest.mark.parametrize("number", layout.LEVEL_NAMES)
def test_pressure_levels_have_names(number: int) -> None:
    assert stats_of(view_of(pressure_level=number), "/log").pressure_level == layout.LEVEL_NAMES[number]


def test_numbers_of_a_newer_writer_do_not_break_stats() -> None:
    stats = stats_of(view_of(state=99, pressure_level=99), "/log")
    assert (stats.state, stats.pressure_level) == ("unknown", "none")


@pytest.mark.parametrize(
    ("fsyncs", "nanoseconds", "milliseconds"),
    [(0, 0, 0.0), (0, 5, 0.0), (1, 1_500_000, 1.5), (4, 1_000_000, 0.25), (3, 1_000_000, 0.3333)],
)
def test_the_mean_of_the_fsyncs_is_in_milliseconds(fsyncs: int, nanoseconds: int, milliseconds: float) -> None:
    assert stats_of(view_of(fsyncs=fsyncs, fsync_ns=nanoseconds), "/log").fsync_ms_mean == milliseconds


def test_possible_loss_is_yes_or_no() -> None:
    assert stats_of(view_of(loss_possible=1), "/log").loss_possible is True
    assert stats_of(view_of(loss_possible=0), "/log").loss_possible is False


def test_the_file_of_the_last_damage_has_a_name_if_there_is_any() -> None:
    assert stats_of(view_of(scrub_damage=2, damaged_segment=0x1F), "/log").damaged_file == "000000000000001f.seg"
    assert stats_of(view_of(damaged_segment=7), "/log").damaged_file == ""


# What `raftlog-mp stat` says in words.
NOTICES: list[tuple[dict[str, int], list[tuple[str, ...]]]] = [
    ({"state": layout.STATE_RUNNING}, []),
    (
        {"state": layout.STATE_FAILED, "writer_pid": 7},
        [("FAILED", "read-only", "SyncFailed", "Check the disk, run `raftlog-mp stop /log`, then start")],
    ),
    ({"state": layout.STATE_FAILED}, [("FAILED", "Check the disk, then start a writer")]),
    (
        {"state": layout.STATE_FAILED, "last_index": 9, "durable_index": 4},
        [("FAILED",), ("Entries 5 to 9", "not durable", "shared memory")],
    ),
    (
        {"scrub_damage": 1, "damaged_segment": 3, "damaged_offset": 8192},
        [("1 damaged place,", "0000000000000003.seg at offset 8192", "CorruptLog", "raftlog-mp check /log")],
    ),
    ({"scrub_damage": 2}, [("2 damaged places",)]),
    ({"loss_possible": 1}, [("LOSS POSSIBLE",)]),
]


@pytest.mark.parametrize(("words", "said"), NOTICES, ids=str)
def test_stat_says_in_words_what_needs_attention(words: dict[str, int], said: list[tuple[str, ...]]) -> None:
    found = notices(stats_of(view_of(**words), "/log"))
    assert len(found) == len(said)
    for sentence, parts in zip(found, said, strict=True):
        assert all(part in sentence for part in parts), sentence


def test_stats_are_a_value() -> None:
    stats = stats_of(view_of(**DISTINCT), "/log")
    assert stats == stats_of(view_of(**DISTINCT), "/log") != stats_of(view_of(), "/log")
    assert pickle.loads(pickle.dumps(stats)) == stats
    with pytest.raises(dataclasses.FrozenInstanceError):
        stats.entries = 0  # type: ignore[misc]
    plain = stats.as_dict()
    assert LogStats(**json.loads(json.dumps(plain))) == stats, "plain data for JSON"


# ---------------------------------------------------------------- a writer that goes on meanwhile
class LiveMapping:
    """A control block whose writer appends and syncs one entry between any two loads of the reader."""

    def __init__(self) -> None:
        self.words = dict.fromkeys(layout.CONTROL_WORDS, 0)

    def cell(self, offset: int) -> Any:
        name = next(name for name, at in layout.CONTROL_WORDS.items() if at == offset)
        return SimpleNamespace(load=lambda order: self.load(name))

    def load(self, name: str) -> int:
        value = self.words[name]
        for step in ("last_index", "durable_index"):  # in the order of the writer
            self.words[step] += 1
        return value


def test_an_index_is_never_durable_before_it_is_there() -> None:
    """durable_index is read first: what it said is below any last_index that is read later."""
    control = Control(LiveMapping())  # type: ignore[arg-type]
    for _ in range(3):
        stats = stats_of(SimpleNamespace(control=control, config=LogConfig()), "/log")
        assert 0 <= stats.durable_index <= stats.last_index
    assert stats.last_index > 0


@pytest.mark.parametrize(("durable", "last", "told"), [(5, 7, 5), (7, 7, 7), (9, 7, 7), (0, 0, 0)])
def test_what_nobody_can_see_yet_is_not_counted_as_durable(durable: int, last: int, told: int) -> None:
    """DiskFirst publishes after the fsync."""
    assert stats_of(view_of(durable_index=durable, last_index=last), "/log").durable_index == told


def test_memory_as_the_writer_last_saw_it() -> None:
    stats = stats_of(view_of(memory_used=10, memory_limit=40, writer_rss=7, memory_stalled=250_001), "/log")
    assert (stats.memory_used_bytes, stats.memory_limit_bytes, stats.writer_rss_bytes) == (10, 40, 7)
    assert stats.memory_stalled == 0.25 and stats_of(view_of(), "/log").memory_stalled is None
