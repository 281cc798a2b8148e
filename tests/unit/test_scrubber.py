"""The scrubber: every flipped bit of a sealed segment is found and named, and nothing else is called damage."""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import manifest, scrubber
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.control import Control, create_control
from raftlog_mp.files import Files
from raftlog_mp.manifest import Manifest
from raftlog_mp.scrubber import Damage, Inspection, Scrubber, concerns, sentence

from .journals import append, failed_log, open_log, put, stop

SLICES = (4096, 16384, 65536)
PATIENCE_S = 30.0


class Memory:
    """Stands in for the device: files as bytes, with reads that may fail."""

    def __init__(self, directory: str) -> None:
        self.files = {name: Files().read_file(os.path.join(directory, name)) for name in os.listdir(directory)
                      if name.endswith((".seg", ".idx", ".trm"))}  # fmt: skip
        self.open_now, self.on_read = 0, lambda name, offset: None

    def __call__(self, path: str, slice_bytes: int) -> Any:
        name = os.path.basename(path)
        if name not in self.files:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.open_now += 1
        return _MemoryFile(self, name, slice_bytes)

    def flip(self, name: str, offset: int, bit: int = 0) -> None:
        data = self.files[name]
        self.files[name] = data[:offset] + bytes([data[offset] ^ 1 << bit]) + data[offset + 1 :]


class _MemoryFile:
    def __init__(self, memory: Memory, name: str, slice_bytes: int) -> None:
        self._memory, self._name, self._slice_bytes = memory, name, slice_bytes

    def read(self, offset: int) -> bytes:
        assert offset % self._slice_bytes == 0, "a direct read starts at a multiple of its length"
        self._memory.on_read(self._name, offset)
        return self._memory.files[self._name][offset : offset + self._slice_bytes]

    def close(self) -> None:
        self._memory.open_now -= 1


def look(directory: str, memory: Memory, info: SegmentInfo, slice_bytes: int = 65536) -> list[Damage]:
    """What one inspection finds."""
    found: list[Damage] = []
    log_id = manifest.load(Files(), directory).log_id
    Inspection(directory, log_id, info, found.append).run(slice_bytes, memory, lambda count: None)
    assert memory.open_now == 0, "every file is closed"
    return found


def segments(log: str) -> list[SegmentInfo]:
    return manifest.load(Files(), log).segments


@pytest.fixture
def varied(log_dir: str) -> str:
    """A sealed log of three segments: singles, batches, empty entries, bodies longer than a slice, a changed suffix."""
    journal, _ = open_log(log_dir, segment_bytes=256 * 1024)
    for number in range(40):
        append(journal, b"single %d" % number, term=1, producer=5, sequence=number + 1)
        append(journal, *[b"x" * size for size in range(number)], b"", b"", term=1)
    append(journal, b"L" * 150_000, term=3)
    append(journal, b"after", term=3)
    journal.roll()
    for number in range(300):
        put(journal, b"%d" % number * 50, term=4)
    journal.flush()
    journal.publish()
    journal.replace_from(journal.next_index - 100, [], 0, 0)
    append(journal, b"newest", term=5)
    stop(journal)
    return log_dir


@pytest.fixture
def small(log_dir: str) -> str:
    """A sealed log of one segment with five records: the exactly-once table, then entries 1, 2 to 4, 5, 6."""
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    append(journal, b"two", b"three", b"four")
    append(journal, b"five")
    append(journal, b"six")
    stop(journal)
    return log_dir


# ---------------------------------------------------------------- what is right
@pytest.mark.parametrize("slice_bytes", SLICES)
def test_a_sound_log_has_no_damage(varied: str, slice_bytes: int) -> None:
    memory, seals = Memory(varied), []
    for info in segments(varied):
        assert look(varied, memory, info, slice_bytes) == []
        seals.append(fmt.read_seal(memory.files[fmt.segment_name(info.segment_id)][fmt.SEAL_OFFSET :]))
    clipped = [seal.last_index - info.last_index for seal, info in zip(seals, segments(varied), strict=True)]
    assert clipped == [0, 100, 0]


def test_records_carried_from_an_older_generation_are_no_damage(log_dir: str) -> None:
    """Recovery writes what only the ring held to the head of a new segment, as the older generation made it."""
    expected = failed_log(log_dir, "mem_first")
    journal, _ = open_log(log_dir)
    assert journal.next_index == len(expected) + 1
    stop(journal)
    memory = Memory(log_dir)
    assert [look(log_dir, memory, info) for info in segments(log_dir)] == [[]] * len(segments(log_dir))


def test_missing_caches_are_no_damage(small: str) -> None:
    memory = Memory(small)
    (info,) = segments(small)
    del memory.files[fmt.index_name(info.segment_id)], memory.files[fmt.terms_name(info.segment_id)]
    assert look(small, memory, info) == []


# ---------------------------------------------------------------- what is not
def test_every_flipped_byte_of_a_segment_is_found(small: str) -> None:
    """But for the padding behind header and seal, which nobody reads."""
    memory, (info,) = Memory(small), segments(small)
    name = fmt.segment_name(info.segment_id)
    header, seal, size = 16 + 72, fmt.SEAL_OFFSET + 16 + 56, len(memory.files[name])
    for offset in (*range(header), *range(fmt.SEAL_OFFSET, seal), *range(fmt.DATA_OFFSET, size)):
        memory.flip(name, offset, offset % 8)
        assert look(small, memory, info), offset
        memory.flip(name, offset, offset % 8)
    for offset in (header, fmt.SEAL_OFFSET - 1, seal, fmt.DATA_OFFSET - 1):
        memory.flip(name, offset)
    assert look(small, memory, info) == []


def test_every_flipped_byte_beside_a_segment_is_found_and_costs_no_entry(small: str) -> None:
    memory, (info,) = Memory(small), segments(small)
    for name, padding in ((fmt.index_name(info.segment_id), range(56, 64)), (fmt.terms_name(info.segment_id), ())):
        for offset in set(range(len(memory.files[name]))) - set(padding):
            memory.flip(name, offset)
            (found,) = look(small, memory, info)
            assert (found.file, found.first_index, found.last_index) == (name, None, None)
            memory.flip(name, offset)


def record_offsets(memory: Memory, info: SegmentInfo) -> list[int]:
    data, at, found = memory.files[fmt.segment_name(info.segment_id)], fmt.DATA_OFFSET, []
    while (record := fmt.read_record_header(data, at)) is not None:
        found.append(at)
        at += fmt.RECORD_BYTES + record.body_bytes
    return found


@pytest.mark.parametrize("where", [0, 40, fmt.RECORD_BYTES], ids=["magic", "header", "body"])
def test_a_damaged_record_is_named_with_its_entries(small: str, where: int) -> None:
    memory, (info,) = Memory(small), segments(small)
    name = fmt.segment_name(info.segment_id)
    for offset, entries in zip(record_offsets(memory, info), [(1, 0), (1, 1), (2, 4), (5, 5), (6, 6)], strict=True):
        memory.flip(name, offset + where)
        (found,) = look(small, memory, info)
        assert (found.offset, found.first_index, found.last_index) == (offset, *entries)
        memory.flip(name, offset + where)


@pytest.mark.parametrize("slice_bytes", SLICES)
def test_damage_in_a_long_body_ends_where_the_next_record_begins(varied: str, slice_bytes: int) -> None:
    memory, info = Memory(varied), segments(varied)[0]
    offset = record_offsets(memory, info)[-2]
    memory.flip(fmt.segment_name(info.segment_id), offset + 120_000)
    (found,) = look(varied, memory, info, slice_bytes)
    assert (found.offset, found.first_index, found.last_index) == (offset, info.last_index - 1, info.last_index - 1)


def test_several_damages_are_all_found(varied: str) -> None:
    memory, info = Memory(varied), segments(varied)[1]
    for offset in (offsets := record_offsets(memory, info)[3::50]):
        memory.flip(fmt.segment_name(info.segment_id), offset + 100)
    assert [found.offset for found in look(varied, memory, info, 4096)] == offsets


def test_a_whole_record_of_another_place_is_damage(small: str) -> None:
    """Checksums hold; it stands where it does not belong."""
    memory, (info,) = Memory(small), segments(small)
    name, (_, _, _, five, six) = fmt.segment_name(info.segment_id), record_offsets(memory, info)
    data = memory.files[name]
    memory.files[name] = data[:five] + data[six:].ljust(six - five, b"\0")[: six - five] + data[six:]
    (found,) = look(small, memory, info)
    assert (found.offset, found.first_index, found.last_index) == (five, 5, 5)


def test_a_file_that_ends_early_or_is_missing_is_damage(small: str) -> None:
    memory, (info,) = Memory(small), segments(small)
    name = fmt.segment_name(info.segment_id)
    memory.files[name] = memory.files[name][:-1]
    (found,) = look(small, memory, info)
    assert (found.first_index, found.last_index) == (6, 6)
    del memory.files[name]
    (found,) = look(small, memory, info)
    assert (found.first_index, found.last_index, found.what) == (1, 6, "it is missing")


def test_an_unreadable_block_is_damage_and_what_stands_beside_is_checked_all_the_same(varied: str) -> None:
    memory, info = Memory(varied), segments(varied)[0]
    memory.flip(fmt.index_name(info.segment_id), 0)

    def fail(name: str, offset: int) -> None:
        if name.endswith(".seg") and offset == 65536:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    memory.on_read = fail
    found = look(varied, memory, info)
    assert [one.file for one in found] == [fmt.segment_name(info.segment_id), fmt.index_name(info.segment_id)]
    assert found[0].offset == 65536 and "Input/output error" in found[0].what and found[0].last_index == info.last_index


def test_an_index_that_contradicts_the_records_is_damage(small: str) -> None:
    """Its own checksum holds."""
    memory, (info,) = Memory(small), segments(small)
    name = fmt.index_name(info.segment_id)
    slots = memory.files[name][fmt.INDEX_HEADER_BYTES :]
    wrong = slots[8:16] + slots[8:]
    head = fmt.IndexHeader(*fmt.read_index_header(memory.files[name])[:4], scrubber.crc32c(wrong))  # type: ignore[index]
    memory.files[name] = fmt.pack_index(head, wrong)
    (found,) = look(small, memory, info)
    assert "contradicts" in found.what and found.file == name


# ---------------------------------------------------------------- what concerns the log
INFO = SegmentInfo(4, 1, 11, 0, 0, 1, 65536, 9, end=500, last_index=20, last_term=1)
CONCERNS: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({}, {"segments": []}, False),  # purged, or replaced as a whole
    ({}, {"purged_index": 14}, True),
    ({}, {"purged_index": 15}, False),  # purged inside the segment
    ({"first_index": 21, "last_index": 25}, {}, False),  # a truncation cut these off
    ({"first_index": 20, "last_index": 25}, {}, True),
    ({"first_index": 21, "last_index": 20}, {}, True),  # a record without entries
    ({"first_index": None, "last_index": None}, {"purged_index": 30}, True),
    ({}, {"lost": [[12, 15, 4, 9000]]}, False),  # repair has accepted it
    ({}, {"lost": [[12, 15, 4, 9001], [12, 15, 5, 9000]]}, True),
]


def test_only_what_the_log_still_needs_is_reported() -> None:
    for damage, state, expected in CONCERNS:
        found = Damage(4, fmt.segment_name(4), 9000, 12, 15, "rot")._replace(**damage)
        held = Manifest("u", 1, {}, "disk_first", segments=[INFO])
        for name, value in state.items():
            setattr(held, name, value)
        assert concerns(found, held) is expected, (damage, state)


def test_a_sentence_says_where_what_and_what_to_do() -> None:
    found = Damage(4, "0000000000000004.seg", 9000, 12, 15, "a record fails its checksum")
    for part in ("/log/0000000000000004.seg", "offset 9000", "entries 12 to 15", "checksum", "raftlog-mp check /log"):
        assert part in sentence(found, "/log")
    assert "entry 12 may" in sentence(found._replace(last_index=12), "/log")
    assert "no entry is lost" in sentence(found._replace(first_index=None, last_index=None), "/log")


# ---------------------------------------------------------------- the thread
@pytest.fixture
def control(tmp_path: Any) -> Iterator[Control]:
    words = create_control(str(tmp_path / "control"), {})
    yield words
    words.close()


@pytest.fixture
def scrub(small: str) -> Iterator[Callable[..., tuple[Scrubber, Manifest, Memory]]]:
    made: list[Scrubber] = []

    def make(rate: int = 1 << 30) -> tuple[Scrubber, Manifest, Memory]:
        state, memory = manifest.load(Files(), small), Memory(small)
        made.append(Scrubber(small, state.log_id, rate, opener=memory))
        return made[-1], state, memory

    yield make
    for one in made:
        one.close()
        assert not one._thread.is_alive()


def test_it_goes_round_again_and_again_and_counts(
    scrub: Any, control: Control, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubber, "PASS_SECONDS_MIN", 0.0)
    one, state, memory = scrub()
    one.tend(state, control)
    one.start()
    size = sum(map(len, memory.files.values()))
    wait_for(lambda: one._passes >= 3)
    one.close()
    one.tend(state, control)
    words = control.snapshot()
    assert words["scrub_passes"] >= 3 and words["scrubbed_bytes"] >= 3 * size and words["scrub_damage"] == 0


def wait_for(condition: Callable[[], bool]) -> None:
    """Poll for something that another thread does."""
    patience = threading.Event()
    for _ in range(int(PATIENCE_S / 0.002)):
        if condition():
            return
        patience.wait(0.002)
    raise AssertionError("waited in vain")


def test_each_damage_is_told_and_counted_once(
    scrub: Any, control: Control, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(scrubber, "PASS_SECONDS_MIN", 0.0)
    one, state, memory = scrub()
    (info,) = state.segments
    offset = record_offsets(memory, info)[2]
    memory.flip(fmt.segment_name(info.segment_id), offset + 90)
    one.tend(state, control)
    one.start()
    wait_for(lambda: one._passes >= 3)
    one.close()
    with caplog.at_level(logging.ERROR):
        one.tend(state, control)
    assert len(caplog.records) == 1 and "entries 2 to 4" in caplog.text
    words = control.snapshot()
    assert (words["scrub_damage"], words["damaged_segment"], words["damaged_offset"]) == (1, info.segment_id, offset)


def test_a_segment_that_is_purged_meanwhile_is_let_go_of_at_once(scrub: Any, control: Control) -> None:
    """Its file must not stay open: the space would not come back."""
    one, state, memory = scrub()
    reads: list[int] = []

    def purge(name: str, offset: int) -> None:
        reads.append(offset)
        state.segments = []
        one.tend(state, control)

    one.tend(state, control)
    memory.on_read = purge
    one._scrub(state.segments[0])
    assert reads == [0] and memory.open_now == 0 and one._found.empty()


def test_the_rate_is_kept_and_lost_time_is_not_made_up_for(scrub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a clock of our own: a second's worth of bytes takes a second, also after a disk that hung for a minute."""
    one, _, _ = scrub(rate=1 << 20)
    clock = [100.0]
    monkeypatch.setattr(scrubber.wakeup, "now", lambda: clock[0])
    monkeypatch.setattr(one, "_wait", lambda seconds: clock.__setitem__(0, clock[0] + max(seconds, 0.0)))
    monkeypatch.setattr(one, "_check_listed", lambda info: None)
    assert one._slice_bytes == 65536
    one._due = clock[0]
    for _ in range(64):
        one._pace(INFO, 65536)
    assert clock[0] == pytest.approx(104.0)
    clock[0] += 60.0
    began = clock[0]
    for _ in range(64):
        one._pace(INFO, 65536)
    assert 3.0 <= clock[0] - began <= 4.0


def test_slow_rates_read_small_slices() -> None:
    for rate, slice_bytes in ((1, 4096), (4096, 4096), (1 << 18, 16384), (1 << 20, 65536), (1 << 34, 65536)):
        assert Scrubber("/log", 1, rate)._slice_bytes == slice_bytes


def test_the_end_does_not_wait_for_a_slow_rate(scrub: Any, control: Control) -> None:
    one, state, _ = scrub(rate=1)
    one.tend(state, control)
    one.start()
    wait_for(lambda: one._bytes > 0)
    one.close()  # the fixture sees that the thread has ended; the slice would have taken an hour
    assert one._bytes == 4096 and one._passes == 0


def test_an_empty_log_has_no_passes(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    one, waits = Scrubber("/nowhere", 1, 1), []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 3:
            raise scrubber._Stop

    monkeypatch.setattr(one, "_wait", wait)
    one._run()
    assert one._passes == 0 and all(0.9 < seconds <= scrubber.PASS_SECONDS_MIN for seconds in waits)
