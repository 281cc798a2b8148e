"""The catalog finds a segment by index, and says every contradiction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog_mp import format as fmt
from raftlog_mp.catalog import Catalog, SegmentInfo

ONE = SegmentInfo(1, 1, 1, 0, 0, 0, 65536, 100, end=500, last_index=10, last_term=1)
TWO = SegmentInfo(2, 1, 11, 500, 500, 1, 65536, 100, end=900, last_index=20, last_term=2)
THREE = SegmentInfo(3, 2, 21, 900, 900, 2, 65536, 100)


def test_find_by_index() -> None:
    catalog = Catalog([THREE, ONE, TWO])
    assert len(catalog) == 3 and catalog.last() == THREE
    assert [catalog.find(index) for index in (1, 10, 11, 20, 21, 999)] == [ONE, ONE, TWO, TWO, THREE, THREE]
    assert catalog.find(0) is None
    assert Catalog([]).find(1) is None and Catalog([]).last() is None


def test_the_newer_of_two_segments_with_one_base_wins() -> None:
    empty = replace(TWO, segment_id=4, end=500, last_index=10)
    assert Catalog([ONE, empty, TWO]).find(11) == TWO


def test_a_sound_catalog_has_no_contradiction() -> None:
    assert Catalog([]).check() == Catalog([ONE]).check() == Catalog([ONE, TWO, THREE]).check() == []


@pytest.mark.parametrize(
    ("after", "words"),
    [
        (replace(TWO, previous_end=400), "continues position 400"),
        (replace(TWO, start=499), "ends at 500"),
        (replace(TWO, base_index=12), "begins at entry 12"),
    ],
)
def test_each_contradiction_is_a_sentence(after: SegmentInfo, words: str) -> None:
    (sentence,) = Catalog([ONE, after]).check()
    assert words in sentence and "0000000000000002" in sentence


def test_an_unsealed_segment_has_no_successor() -> None:
    (sentence,) = Catalog([replace(ONE, end=None, last_index=None), TWO]).check()
    assert "not sealed" in sentence


def test_sizes_and_sealing() -> None:
    assert not THREE.sealed and THREE.size_due() == 65536 and THREE.size_due(1000) == fmt.DATA_OFFSET + 100
    done = THREE.finished(1000, 25, 3)
    assert done.sealed and (done.end, done.last_index, done.last_term) == (1000, 25, 3)
    assert done.size_due() == fmt.DATA_OFFSET + 100
    assert SegmentInfo(**done.as_dict()) == done
