"""The catalog finds a segment by index, and says every contradiction."""

from __future__ import annotations

from dataclasses import replace

import pytest

from raftlog_mp import format as fmt
from raftlog_mp.catalog import Catalog, SegmentInfo, clipped

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
        (replace(TWO, previous_end=600), "continues position 600"),
        (replace(TWO, base_index=12), "begins at entry 12"),
    ],
)
def test_each_contradiction_is_a_sentence(after: SegmentInfo, words: str) -> None:
    (sentence,) = Catalog([ONE, after]).check()
    assert words in sentence and "0000000000000002" in sentence


def test_segments_without_entries_may_be_missing_between_two_others() -> None:
    """They are dropped at the next start; what followed them still continues their end."""
    assert Catalog([ONE, replace(TWO, previous_end=700, start=700)]).check() == []


def test_an_unsealed_segment_has_no_successor() -> None:
    (sentence,) = Catalog([replace(ONE, end=None, last_index=None), TWO]).check()
    assert "not sealed" in sentence


def test_sizes_and_sealing() -> None:
    assert not THREE.sealed and THREE.size_due() == 65536 and THREE.size_due(1000) == fmt.DATA_OFFSET + 100
    done = THREE.finished(1000, 25, 3)
    assert done.sealed and (done.end, done.last_index, done.last_term) == (1000, 25, 3)
    assert done.size_due() == fmt.DATA_OFFSET + 100
    assert SegmentInfo(**done.as_dict()) == done


# ---------------------------------------------------------------- clipped
DONE = THREE.finished(1500, 30, 3)
EMPTY = SegmentInfo(4, 3, 31, 1500, 1500, 3, 65536, 100, end=1600, last_index=30, last_term=3)
ALL = [ONE, TWO, DONE, EMPTY]


def test_clipping_everywhere_leaves_just_the_entries_before() -> None:
    """Every cut of four segments, compared with what each index means."""
    for index in range(1, 33):
        kept = clipped(ALL, index, 77)
        held = [i for info in kept for i in range(info.base_index, (info.last_index or 0) + 1)]
        assert held == list(range(1, min(index, 31))), index
        assert [info.segment_id for info in kept] == [info.segment_id for info in ALL if info.base_index < index]
        for info in kept:
            before = next(one for one in ALL if one.segment_id == info.segment_id)
            if before.last_index is not None and before.last_index < index:
                assert info == before, "nothing of it goes"
            else:
                assert info == replace(before, last_index=index - 1, last_term=77), "its bytes stay"


def test_a_clipped_catalog_is_sound_and_so_is_what_follows_it() -> None:
    """The next segment begins where the stream ends, behind bytes that nobody reads any more."""
    for index in range(2, 31):
        kept = clipped(ALL, index, 2)
        after = SegmentInfo(9, 3, index, 1600, kept[-1].end or 0, 2, 65536, 100)
        catalog = Catalog([*kept, after])
        assert catalog.check() == []
        assert catalog.find(index) == after and catalog.find(index - 1) == kept[-1]


def test_clipping_at_the_first_entry_leaves_nothing() -> None:
    assert clipped(ALL, 1, 0) == clipped([], 5, 0) == []
    assert clipped(ALL, 31, 3) == [ONE, TWO, DONE], "an empty segment behind the cut holds nothing to keep"
