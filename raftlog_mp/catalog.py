"""The catalog: which segment holds which entries.  Built from the manifest, by the writer and by every reader."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from sortedcontainers import SortedDict

from . import format as fmt


@dataclass(frozen=True, slots=True)
class SegmentInfo:
    """A live segment as the manifest states it.  ``end``, ``last_index``, ``last_term`` are None while it is active."""

    segment_id: int
    generation: int
    base_index: int
    start: int
    previous_end: int
    previous_term: int
    file_bytes: int
    index_slots: int
    end: int | None = None
    last_index: int | None = None
    last_term: int | None = None

    @property
    def sealed(self) -> bool:
        """Whether the segment is finished."""
        return self.end is not None

    def finished(self, end: int, last_index: int, last_term: int) -> SegmentInfo:
        """This segment, sealed."""
        return replace(self, end=end, last_index=last_index, last_term=last_term)

    def size_due(self, end: int | None = None) -> int:
        """Bytes its file has at least: the preallocated size, or up to the end once it is sealed."""
        end = self.end if end is None else end
        return self.file_bytes if end is None else fmt.DATA_OFFSET + end - self.start

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the manifest."""
        return asdict(self)


class Catalog:
    """Live segments by the index of their first entry."""

    def __init__(self, segments: list[SegmentInfo]) -> None:
        # Two segments share a base index only if the older one holds no entry; the newer one wins.
        self._by_base: Any = SortedDict((segment.base_index, segment) for segment in segments)

    def find(self, index: int) -> SegmentInfo | None:
        """The segment whose range begins at or before ``index``."""
        at = self._by_base.bisect_right(index) - 1
        if at < 0:
            return None
        segment: SegmentInfo = self._by_base.peekitem(at)[1]
        return segment

    def last(self) -> SegmentInfo | None:
        """The newest segment."""
        return self._by_base.peekitem(-1)[1] if self._by_base else None

    def ids(self) -> set[int]:
        """The segments' numbers."""
        return {segment.segment_id for segment in self._by_base.values()}

    def __len__(self) -> int:
        return len(self._by_base)

    def check(self) -> list[str]:
        """Every contradiction inside the catalog, as sentences; empty if it is sound."""
        found, segments = [], list(self._by_base.values())
        for before, after in zip(segments, segments[1:], strict=False):
            if before.end is None:
                found.append(f"segment {before.segment_id:016x} is not sealed but has a successor")
            elif not before.end <= after.previous_end <= after.start:
                # Not equal: segments without entries between them may have been dropped.  That no other one is missing
                # is what the indexes say.
                found.append(
                    f"segment {after.segment_id:016x} continues position {after.previous_end}, "
                    f"but {before.segment_id:016x} ends at {before.end}"
                )
            elif before.last_index is not None and after.base_index != before.last_index + 1:
                found.append(
                    f"segment {after.segment_id:016x} begins at entry {after.base_index}, "
                    f"but {before.segment_id:016x} ends with entry {before.last_index}"
                )
        return found


def clipped(segments: list[SegmentInfo], index: int, previous_term: int) -> list[SegmentInfo]:
    """The sealed segments without the entries from ``index`` on; ``previous_term`` is the term before it.

    A segment that keeps some of its entries keeps all of its bytes: ``end`` stays, only ``last_index`` falls.
    """
    kept = []
    for info in segments:
        if info.base_index >= index:
            continue
        if info.last_index is not None and info.last_index >= index:
            info = replace(info, last_index=index - 1, last_term=previous_term)
        kept.append(info)
    return kept
