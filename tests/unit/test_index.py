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


@pytest.mark.parametrize("how", ["unreadable", "cut"])
def test_a_block_that_goes_bad_later_is_an_unknown_slot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """In a mapping it would end the process."""
    monkeypatch.setattr(index, "KEPT_BYTES", 0)
    path, files = str(tmp_path / "x.idx"), FaultyFiles()
    index.write_sealed(FILES, path, 9, 2, 10, SLOTS)
    reader = index.open_sealed(files, path, 9, 2, 10, 4)
    assert reader is not None and reader.slots[1] == 88
    if how == "cut":
        os.truncate(path, fmt.INDEX_HEADER_BYTES + 12)
        assert list(reader.slots) == [0] + [index.UNKNOWN] * 3
    else:
        files.fail("pread", errno.EIO)
        assert list(reader.slots) == [index.UNKNOWN] * 4
    reader.close()
    assert index.open_sealed(files, path, 9, 2, 10, 4) is None


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
