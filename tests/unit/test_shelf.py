"""The short way to one entry of a segment file: what it serves, and what it hands on to the long way."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import index as index_module
from raftlog_mp import shelf as shelf_module
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.index import from_slots, pack_slot
from raftlog_mp.segment import SegmentReader
from raftlog_mp.shelf import Place, Shelf, no_places
from raftlog_mp.types import Entry

from .journals import open_log, stop
from .readers import fill, payload, reader_of

START = 1000  # stream position of the segment's first record
BODIES = [b"first", b"second", b"", b"x" * 9000, b"fifth", b"last"]
BORDER = 1 << 40  # of a ring: all positions here lie below


def record(position: int, index: int, body: bytes, count: int = 1) -> bytes:
    return fmt.pack_record_header(fmt.crc32c(body), len(body), count, 1, 9, 1, index, 4, position, 0, 0, 0) + body


class Short:
    """A short way to entries 1..6 in a file, and what it hands on."""

    def __init__(
        self, path: Path, *, prove: bool = True, floor: int = BORDER, gap: bytes = b"",
        bend: Callable[[bytearray, list[int]], None] | None = None, slots: dict[int, int] | None = None,
        low: int = 1, upto: int = 6, counts: dict[int, int] | None = None,
    ) -> None:  # fmt: skip
        stream, positions = b"", []
        for index, body in enumerate(BODIES, 1):
            positions.append(START + len(stream))
            stream += record(positions[-1], index, body, (counts or {}).get(index, 1)) + (gap if index == 1 else b"")
        raw = bytearray(bytes(fmt.DATA_OFFSET) + stream)
        if bend is not None:
            bend(raw, [fmt.DATA_OFFSET + position - START for position in positions])
        path.write_bytes(raw)
        for index, position in (slots or {}).items():
            positions[index - 1] = position
        self.files, self.inside, self.otherwise, self.ring = FaultyFiles(), list[Any](), list[Any](), list[Any]()
        self.calm, self.floor = True, floor
        self.shelf = Shelf(self.files, "", lambda *_: None, lambda: False)  # type: ignore[arg-type, return-value]
        info = SegmentInfo(1, 1, 1, START, START, 0, len(raw), 6, START + len(stream), 6, 4)
        found = from_slots(1, b"".join(map(pack_slot, positions)))
        segment = SegmentReader(self.files, str(path), START)
        self.shelf.add(Place(1, 6, found, info, self.ring.append, segment), self.shelf.places)
        self.get, self.reach = self.shelf.short_way(
            lambda: self.calm, low, upto, lambda _: self.floor, self.inside.append, self.otherwise.append, prove=prove
        )


@pytest.mark.parametrize("prove", [True, False])
def test_lone_records_of_every_length_are_served(tmp_path: Path, prove: bool) -> None:
    """All but the last, behind which no slot tells how long it is."""
    short = Short(tmp_path / "x", prove=prove)
    for _ in range(2):
        assert [short.get(index) for index in range(1, 6)] == [
            Entry(4, index, body) for index, body in enumerate(BODIES[:5], 1)
        ]
    assert (short.inside, short.otherwise, short.ring) == ([], [], []) and short.shelf.lapped_reads == 10
    assert short.get(6) is None and short.inside == [6] and short.shelf.lapped_reads == 10


def test_what_is_no_entry_of_the_map_goes_the_long_way(tmp_path: Path) -> None:
    short = Short(tmp_path / "x", low=2, upto=3)
    strangers: list[Any] = [0, 1, 4, -1, True, 2.0, "2", None, 1 << 70]
    assert [short.get(index) for index in strangers] == [None] * 9 and short.otherwise == strangers
    assert short.get(3) == Entry(4, 3, b"")
    short.reach(4)
    assert short.get(4) == Entry(4, 4, BODIES[3])
    short.calm = False
    assert short.get(3) is None and short.otherwise == [*strangers, 3] and short.inside == []


def test_what_the_ring_still_has_is_not_read_from_the_file(tmp_path: Path) -> None:
    """Where the ring ends is asked anew for what was not below it before."""
    short = Short(tmp_path / "x", floor=START + fmt.RECORD_BYTES + 5)
    assert short.get(1) == Entry(4, 1, b"first") and short.get(2) is None and short.ring == [2]
    short.floor = BORDER
    assert short.get(2) == Entry(4, 2, b"second") and short.ring == [2]


def test_a_record_without_entries_may_stand_between(tmp_path: Path) -> None:
    short = Short(tmp_path / "x", gap=b"\0" * fmt.RECORD_BYTES, slots={})
    assert short.get(1) == Entry(4, 1, b"first") and short.inside == []


def test_one_of_several_entries_goes_the_long_way(tmp_path: Path) -> None:
    short = Short(tmp_path / "x", counts={1: 2}, slots={})
    assert short.get(1) is None and short.inside == [1]


# Offset in the record, whether the record's own fields tell even where checksums are not asked for.
BENT = {
    "magic": (0, True), "header crc": (4, False), "body crc": (8, False), "length": (12, True), "count": (16, True),
    "body": (fmt.RECORD_BYTES + 2, False),
}  # fmt: skip


@pytest.mark.parametrize("what", BENT)
@pytest.mark.parametrize("prove", [True, False])
def test_a_bent_record_goes_the_long_way(tmp_path: Path, what: str, prove: bool) -> None:
    offset, told = BENT[what]

    def bend(raw: bytearray, at: list[int]) -> None:
        raw[at[1] + offset] ^= 0x40

    short = Short(tmp_path / "x", bend=bend, prove=prove)
    assert (short.get(2) is None) == (short.inside == [2]) == (prove or told)
    assert short.get(1) == Entry(4, 1, b"first") and short.get(3) == Entry(4, 3, b"")


def test_every_flipped_bit_of_a_record_is_found(tmp_path: Path) -> None:
    length = fmt.RECORD_BYTES + len(BODIES[1])
    for bit in random.Random(5).sample(range(8 * length), 120):

        def bend(raw: bytearray, at: list[int], bit: int = bit) -> None:
            raw[at[1] + bit // 8] ^= 1 << bit % 8

        short = Short(tmp_path / "x", bend=bend)
        assert short.get(2) is None and short.inside == [2], bit


def test_a_whole_record_that_belongs_elsewhere_goes_the_long_way(tmp_path: Path) -> None:
    """Its checksums hold, and it has the index that is looked for."""

    def bend(raw: bytearray, at: list[int]) -> None:
        moved = record(START + 5, 2, BODIES[1])
        raw[at[1] : at[1] + len(moved)] = moved

    short = Short(tmp_path / "x", bend=bend)
    assert short.get(2) is None and short.inside == [2]


@pytest.mark.parametrize("position", [0, START + 3, START + fmt.RECORD_BYTES + 5 + 1, START + 20_000, (1 << 64) - 1])
def test_a_slot_that_is_wrong_goes_the_long_way(tmp_path: Path, position: int) -> None:
    """The slot itself, and the one behind it, which tells the length."""
    short = Short(tmp_path / "x", slots={3: position})
    assert short.get(3) is None and (short.inside, short.ring) in (([3], []), ([], [3]))
    found = short.get(2)
    assert found is None or found == Entry(4, 2, b"second")


def test_what_cannot_be_read_or_was_cut_goes_the_long_way(tmp_path: Path) -> None:
    short = Short(tmp_path / "x")
    short.files.fail("pread", errno.EIO)
    assert short.get(2) is None and short.inside == [2]
    short.files.heal()
    assert short.get(2) == Entry(4, 2, b"second")
    with open(tmp_path / "x", "r+b") as file:
        file.truncate(fmt.DATA_OFFSET + 2 * fmt.RECORD_BYTES + 9)
    assert short.get(2) is None and short.inside == [2, 2] and short.get(1) == Entry(4, 1, b"first")


def test_decoders_of_many_lengths_are_not_all_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "DECODERS", 2)
    short = Short(tmp_path / "x")
    assert [short.get(index) for index in (1, 2, 3, 4, 5, 1)] == [
        Entry(4, index, BODIES[index - 1]) for index in (1, 2, 3, 4, 5, 1)
    ]


# ---------------------------------------------------------------- places
def place(low: int, high: int) -> Place:
    slots = from_slots(low, b"".join(map(pack_slot, range(high + 1 - low))))
    return Place(low, high, slots, None, lambda _: None, None)  # type: ignore[arg-type]


def test_places_are_found_and_replaced() -> None:
    first, last, between = place(1, 4), place(10, 12), place(5, 8)
    places = no_places().with_one(last).with_one(first).with_one(between)
    assert no_places().find(1) is no_places().find(0) is None
    assert [places.find(index) for index in (0, 1, 4, 5, 8, 9, 10, 12, 13)] == [
        None, first, first, between, between, None, last, last, None,
    ]  # fmt: skip
    other = place(5, 7)
    assert places.with_one(other).find(6) is other and places.find(6) is between, "never changed, only replaced"


@pytest.mark.parametrize("end", ["forget_places", "clear", "let_go"])
def test_a_place_of_an_older_map_is_not_kept(end: str) -> None:
    """Another thread may have taken over a newer map while it was looked up; also if neither had any place."""
    shelf = Shelf(FaultyFiles(), "", lambda *_: None, lambda: False)  # type: ignore[arg-type, return-value]
    before = shelf.places
    getattr(shelf, end)(*([7] if end == "let_go" else []))
    shelf.add(place(1, 4), before)
    assert shelf.places.find(1) is None
    shelf.add(place(1, 4), shelf.places)
    assert shelf.places.find(1) is not None


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
@pytest.mark.parametrize("live", [True, False])
def test_once_its_place_is_known_an_entry_takes_the_short_way(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, kept_bytes: int, live: bool
) -> None:
    """With a writer and without, from sealed segments and from the one being written."""
    monkeypatch.setattr(index_module, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr("raftlog_mp.source.LOOK_SECONDS", float("inf"))
    journal, _ = open_log(log_dir, segment_bytes=1 << 20)
    fill(journal, 600)
    if not live:
        stop(journal)
    reader, _ = reader_of(log_dir, journal if live else None)
    inside, indexes = list[int](), [*range(1, 400, 7), 599]
    for _ in range(3):
        assert [reader.get(index) for index in indexes] == [Entry(1, index, payload(index)) for index in indexes]
    plain = reader._get_from_place
    monkeypatch.setattr(reader, "_get_from_place", lambda index: (inside.append(index), plain(index))[1])
    before = reader.lapped_reads
    assert [reader.get(index) for index in indexes] == [Entry(1, index, payload(index)) for index in indexes]
    assert reader.lapped_reads - before >= 50
    assert len(inside) <= 5, "at most the last entry of each segment"
    reader.close()
    if live:
        stop(journal)


@pytest.mark.parametrize("change", ["truncate", "purge", "nothing"])
def test_without_a_writer_each_get_sees_what_was_changed_before_it(
    log_dir: str, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    """Also the short way, and however long the next look for a writer is off."""
    monkeypatch.setattr("raftlog_mp.source.LOOK_SECONDS", float("inf"))
    journal, _ = open_log(log_dir)
    fill(journal, 30)
    stop(journal)
    reader, _ = reader_of(log_dir, None)
    for _ in range(3):
        assert reader.get(20) == Entry(1, 20, payload(20))
    journal, _ = open_log(log_dir)
    if change == "truncate":
        journal.replace_from(20, [], 0, 0)
    elif change == "purge":
        journal.purge_to(25)
    assert reader.get(20) == (Entry(1, 20, payload(20)) if change == "nothing" else None)
    stop(journal)
    assert reader.get(20) == (Entry(1, 20, payload(20)) if change == "nothing" else None)
    reader.close()
