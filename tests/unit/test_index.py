"""The index: slots by entry, sealed files that prove themselves, rebuilt when they do not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

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


def test_sealed_index_round_trip(tmp_path: Path) -> None:
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


def test_a_missing_cut_or_damaged_index_is_not_used(tmp_path: Path) -> None:
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
