"""The index: slots by entry, sealed files that prove themselves, rebuilt when they do not."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import index
from raftlog_mp.files import Files

from .journals import flip

FILES = Files()
SLOTS = b"".join(index.pack_slot(position) for position in (0, 88, 88, 2**63))


def test_active_index_is_seen_by_readers_and_outlives_its_name(tmp_path: Path) -> None:
    path = str(tmp_path / "index")
    active = index.ActiveIndex(path, base_index=10, slots=100)
    reader = index.open_active(path, 10)
    active.write(10, SLOTS)
    active.write(14, index.pack_slot(7))
    assert list(reader.slots[:5]) == [0, 88, 88, 2**63, 7]
    assert active.used(13) == SLOTS and active.used(9) == b""
    active.close()
    assert not os.path.exists(path) and reader.slots[1] == 88
    with pytest.raises(TypeError):
        reader.slots[0] = 1
    reader.close()
    with pytest.raises(FileNotFoundError):
        index.open_active(path, 10)


def test_an_index_without_entries_can_be_made(tmp_path: Path) -> None:
    index.ActiveIndex(str(tmp_path / "index"), 1, 0).close()


@pytest.fixture(params=["held", "on disk"])
def kept(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether a sealed index of these tests is small enough to be held in memory."""
    if request.param == "on disk":
        monkeypatch.setattr(index, "KEPT_BYTES", 0)
    return request.param == "held"


def test_sealed_index_round_trip(tmp_path: Path, kept: bool) -> None:
    path = str(tmp_path / "x.idx")
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)
    reader = index.open_sealed(FILES, path, 9, 2, 10, 4)
    assert reader is not None and list(reader.slots) == [0, 88, 88, 2**63] and reader.base_index == 10
    reader.close()
    index.write_sealed(FILES, path, 9, 2, 10, b"")
    empty = index.open_sealed(FILES, path, 9, 2, 10, 0)
    assert empty is not None and len(empty.slots) == 0
    empty.close()
    assert os.listdir(tmp_path) == ["x.idx"]


def test_a_slot_that_is_not_there_is_no_position(tmp_path: Path, kept: bool) -> None:
    path = str(tmp_path / "x.idx")
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)
    reader = index.open_sealed(FILES, path, 9, 2, 10, 4)
    assert reader is not None
    with pytest.raises(IndexError):
        reader.slots[4]
    assert list(reader.slots[1:3]) == [88, 88]
    reader.close()


def test_no_file_is_mapped_and_no_descriptor_stays(tmp_path: Path, kept: bool) -> None:
    """A small index is in memory; a larger one is read as it is needed, and goes with its last user."""
    path = str(tmp_path / "x.idx")
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)

    def held() -> int:
        return sum(os.path.samefile(f"/proc/self/fd/{fd}", path) for fd in map(int, os.listdir("/proc/self/fd"))
                   if os.path.exists(f"/proc/self/fd/{fd}"))  # fmt: skip

    reader = index.open_sealed(FILES, path, 9, 2, 10, 4)
    assert reader is not None and held() == (0 if kept else 1)
    assert path not in Path("/proc/self/maps").read_text(encoding="utf-8")
    reader.close()
    reader.close()
    assert held() == 0
    evicted = index.open_sealed(FILES, path, 9, 2, 10, 4)
    assert evicted is not None
    del evicted
    assert index.open_sealed(FILES, path, 9, 2, 10, 5) is None and held() == 0


BLOCK = 1 << index.BLOCK_BITS
MANY = [88 * number for number in range(2 * BLOCK + 10)]  # positions, more than two blocks of them


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Path of a sealed index that is read by blocks."""
    monkeypatch.setattr(index, "KEPT_BYTES", 0)
    path = str(tmp_path / "x.idx")
    index.write_sealed(FILES, path, 9, 2, 10, b"".join(map(index.pack_slot, MANY)))
    return path


@pytest.mark.parametrize("how", ["unreadable", "cut"])
def test_a_block_that_goes_bad_later_is_an_unknown_slot(many: str, how: str) -> None:
    """In a mapping it would end the process.  What was read before stays."""
    files = FaultyFiles()
    reader = index.open_sealed(files, many, 9, 2, 10, len(MANY))
    assert reader is not None and reader.slots[1] == 88
    if how == "cut":
        os.truncate(many, fmt.INDEX_HEADER_BYTES + 8 * BLOCK + 12)
        assert list(reader.slots) == MANY[: BLOCK + 1] + [index.UNKNOWN] * (BLOCK + 9)
    else:
        files.fail("pread", errno.EIO)
        assert list(reader.slots) == MANY[:BLOCK] + [index.UNKNOWN] * (BLOCK + 10)
    reader.close()
    assert index.open_sealed(files, many, 9, 2, 10, len(MANY)) is None


def test_a_block_that_could_not_be_read_is_read_again(many: str) -> None:
    files = FaultyFiles()
    reader = index.open_sealed(files, many, 9, 2, 10, len(MANY))
    assert reader is not None
    files.fail("pread", errno.EIO)
    assert reader.slots[5] == index.UNKNOWN
    files.heal()
    assert reader.slots[5] == MANY[5]
    reader.close()


class Counting(Files):
    """Counts what is read, and how much of it in all."""

    def __init__(self) -> None:
        self.reads = 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        self.reads += 1
        return super().pread(fd, length, offset)


def test_blocks_are_read_once_and_the_oldest_goes_first(many: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all indexes that share a keeper, no more blocks stay in memory than it allows."""
    monkeypatch.setattr(index, "KEPT_BLOCKS", 2)
    files, keeper = Counting(), index.BlockKeeper()
    readers = [index.open_sealed(files, many, 9, 2, 10, len(MANY), keeper) for _ in range(2)]
    assert readers[0] is not None and readers[1] is not None
    first, second = readers[0], readers[1]

    def reads(reader: index.IndexReader, at: int) -> int:
        before = files.reads
        assert reader.slots[at] == MANY[at]
        return files.reads - before

    assert [reads(first, at) for at in (0, BLOCK - 1, BLOCK, 7, BLOCK + 7)] == [1, 0, 1, 0, 0]
    assert reads(second, 0) == 1 and [reads(first, at) for at in (BLOCK, 0, BLOCK)] == [0, 1, 1]
    assert sum(block is not None for reader in (first, second) for block in reader.blocks[0]) == 2
    first.close()
    second.close()


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20])
def test_a_slot_and_the_one_behind_it_are_found_without_a_call(
    many: str, monkeypatch: pytest.MonkeyPatch, kept_bytes: int
) -> None:
    monkeypatch.setattr(index, "KEPT_BYTES", kept_bytes)
    reader = index.open_sealed(FILES, many, 9, 2, 10, len(MANY))
    assert reader is not None
    blocks, bits, load = reader.blocks
    for at in range(len(MANY) - 1):
        block, inside = blocks[at >> bits] or load(at >> bits), at & ((1 << bits) - 1)
        assert [block[inside], block[inside + 1]] == MANY[at : at + 2]
    reader.close()


@pytest.mark.parametrize("wrong", [(8, 2, 10, 4), (9, 3, 10, 4), (9, 2, 11, 4), (9, 2, 10, 5)])
def test_an_index_of_something_else_is_not_used(tmp_path: Path, wrong: tuple[int, int, int, int]) -> None:
    path = str(tmp_path / "x.idx")
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)
    assert index.open_sealed(FILES, path, *wrong) is None


def test_a_segment_that_lost_its_end_keeps_its_index(tmp_path: Path) -> None:
    """A truncation takes entries off a sealed segment; the file beside it still has the slots of all of them."""
    path = str(tmp_path / "x.idx")
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)
    reader = index.open_sealed(FILES, path, 9, 2, 10, 3)
    assert reader is not None and list(reader.slots)[:3] == [0, 88, 88]
    reader.close()


def test_a_missing_cut_or_damaged_index_is_not_used(tmp_path: Path, kept: bool) -> None:
    path = str(tmp_path / "x.idx")
    assert index.open_sealed(FILES, path, 9, 2, 10, 4) is None
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)
    size = os.path.getsize(path)
    for offset in [*range(8), *range(12, 56), *range(fmt.INDEX_HEADER_BYTES, size)]:
        flip(path, offset, offset % 8)
        assert index.open_sealed(FILES, path, 9, 2, 10, 4) is None, offset
        flip(path, offset, offset % 8)
    os.truncate(path, size - 1)
    assert index.open_sealed(FILES, path, 9, 2, 10, 4) is None


def test_rebuilt_in_memory() -> None:
    reader = index.from_slots(10, SLOTS)
    assert list(reader.slots) == [0, 88, 88, 2**63]
    reader.close()
