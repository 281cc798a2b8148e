"""A segment that may be damaged, as good and bad parts, and what the good ones prove about the bad ones.

Every record states its index, term and stream position; so the records on both sides of a damaged stretch say exactly
which entries stood in it.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from . import format as fmt
from .catalog import SegmentInfo
from .files import Files, join
from .records import records_of
from .terms import Run
from .walk import Verdict

READ_BYTES = 1 << 22


@dataclass(slots=True)
class Part:
    """Bytes ``[start, end)`` of the stream: good records back to back, or damage."""

    start: int
    end: int
    verdict: Verdict
    first: int  # index of its first entry
    next: int  # index after its last entry; of damage: as its neighbours prove, ``first`` if nobody can tell
    term: int  # of its last entry; of damage: of the entry before it
    slots: array[int] = field(default_factory=lambda: array("Q"))
    runs: list[Run] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether its records prove."""
        return self.verdict is Verdict.GOOD

    def up_to(self, position: int) -> Part:
        """What is left of a good part if nothing from ``position`` on, a border of records, counts."""
        if position >= self.end:
            return self
        slots = self.slots[: bisect_left(self.slots, position)]
        following = self.first + len(slots)
        runs = [run for run in self.runs if run[0] < following]
        term = runs[-1][1] if runs else self.term
        return replace(self, end=position, next=following, slots=slots, runs=runs, term=term)

    def end_of(self, index: int) -> int:
        """Stream position behind the record that holds the entry at ``index``."""
        at = bisect_right(self.slots, self.slots[index - self.first])
        return int(self.slots[at]) if at < len(self.slots) else self.end


@dataclass(slots=True)
class Survey:
    """The parts of one segment, in order; ``mark``: the highest durable position that a record in it vouches for."""

    parts: list[Part] = field(default_factory=list)
    mark: int = 0

    @property
    def damage(self) -> list[Part]:
        """The parts that do not prove."""
        return [part for part in self.parts if not part.good]

    @property
    def records(self) -> bool:
        """Whether at least one record proves."""
        return any(part.good for part in self.parts)

    def slots(self, base_index: int, next_index: int) -> bytes:
        """The index of entries ``base_index..next_index-1``; entries in a hole have the position of the hole."""
        found = array("Q")
        for part in self.parts:
            if part.first > base_index + len(found):
                found.extend([part.start] * (part.first - base_index - len(found)))
            if part.good:
                found.extend(part.slots)
            else:
                found.extend([part.start] * (part.next - part.first))
        found.extend([self.parts[-1].start if self.parts else 0] * (next_index - base_index - len(found)))
        return found[: next_index - base_index].tobytes()

    def runs(self, info: SegmentInfo) -> list[Run]:
        """Where each term begins; of entries in a hole the term before it is assumed, but for the segment's last."""
        runs: list[Run] = []
        last = info.last_index if info.last_index is not None else info.base_index - 1
        for part in self.parts:
            runs += [run for run in part.runs if run[0] <= last and (not runs or runs[-1][1] != run[1])]
        if info.last_term is not None and last >= info.base_index and (not runs or runs[-1][1] != info.last_term):
            runs.append((last, info.last_term))
        return runs


class Ending(NamedTuple):
    """Where a segment without a seal ends once the damage in it is sealed off, and what of it stays."""

    kept: list[Part]  # good parts, and the damage between them
    end: int
    last_index: int
    last_term: int
    wrong: bool  # there comes a whole record that does not belong there: nobody knows what the log held from here on
    short: bool  # bytes that were durable are damaged, and nothing behind them proves what stood there

    @property
    def hopeless(self) -> bool:
        """Whether what follows may have been part of the log, and cannot be proved: it must be given up or fetched."""
        return self.wrong or self.short

    @property
    def holes(self) -> list[Part]:
        """The damage inside."""
        return [part for part in self.kept if not part.good]


def ending_of(seen: Survey, info: SegmentInfo, durable: int, *, failed: bool) -> Ending:
    """What of an unsealed segment proves, up to the first damage that nothing vouches for: from there on it is torn.

    ``durable``: the highest position that anything vouches for; ``failed``: the disk failed under the last writer, so
    nothing past it is believed.
    """
    kept, wrong = list[Part](), False
    for part in seen.parts:
        wrong = part.verdict is Verdict.WRONG
        if wrong or ((failed or not part.good) and part.start >= durable):
            break
        kept.append(part.up_to(durable) if part.good and failed else part)
    while kept and not kept[-1].good:
        kept.pop()
    last = kept[-1] if kept else None
    end, following, term = (last.end, last.next, last.term) if last else (
        info.start, info.base_index, info.previous_term
    )  # fmt: skip
    return Ending(kept, end, following - 1, term, wrong, end < durable)


def survey(
    files: Files, directory: str, info: SegmentInfo, log_id: int, *, unreadable_is_damage: bool = False
) -> Survey:  # fmt: skip
    """Walk the segment's file; ``FileNotFoundError`` if there is none, ``OSError`` if the device cannot read it.

    ``unreadable_is_damage``: take blocks that the device cannot read for damage, as a copy of what it can read has it.
    """
    path, found = join(directory, fmt.segment_name(info.segment_id)), Survey()
    if not unreadable_is_damage:
        with files.opened(path) as fd:
            for offset in range(0, files.size(fd), READ_BYTES):
                files.pread(fd, READ_BYTES, offset)  # a block that cannot be read is an error, not damage to be cut
    _collect(files, found, path, info, header_of(info, log_id))
    _complete(found.parts, info)
    return found


def header_of(info: SegmentInfo, log_id: int) -> fmt.SegmentHeader:
    """The header that the segment's file must have."""
    return fmt.SegmentHeader(
        log_id, info.segment_id, info.generation, info.base_index, info.start,
        info.previous_end, info.previous_term, info.file_bytes, info.index_slots,
    )  # fmt: skip


def _collect(files: Files, found: Survey, path: str, info: SegmentInfo, due: fmt.SegmentHeader) -> None:
    parts, log_id = found.parts, due.log_id
    for record in records_of(path, due, files=files):
        start = info.start + record.offset - fmt.DATA_OFFSET
        if info.end is not None and start >= info.end:
            break
        header, mine = record.header, record.header is not None and record.header.log_id == log_id
        index, term = (parts[-1].next, parts[-1].term) if parts else (info.base_index, info.previous_term)
        if header is not None and mine:
            found.mark = max(found.mark, header.durable)
        if record.verdict is Verdict.GOOD and header is not None and mine:
            if not (parts and parts[-1].good):
                parts.append(Part(start, start, Verdict.GOOD, header.base_index, header.base_index, term))
            part = parts[-1]
            part.end, part.next, part.term = header.end, header.base_index + header.count, header.term
            part.slots.extend([start] * header.count)
            if header.count and (not part.runs or part.runs[-1][1] != header.term):
                part.runs.append((header.base_index, header.term))
        else:
            # What does not belong here tells nothing of the entries that do.
            known = record.last_index is not None and record.verdict not in (Verdict.WRONG, Verdict.RESIDUE)
            following = max(index, (record.last_index or 0) + 1) if known else index
            parts.append(Part(start, start + record.length, record.verdict, index, following, term))


def _complete(parts: list[Part], info: SegmentInfo) -> None:
    """What only the manifest knows: where the segment ends; then how many entries each hole holds."""
    end, last = parts[-1].end if parts else info.start, parts[-1] if parts else None
    if info.end is not None:
        if last is not None and not last.good:
            last.end = info.end
        elif end < info.end:
            index, term = (last.next, last.term) if last is not None else (info.base_index, info.previous_term)
            parts.append(Part(end, info.end, Verdict.MISSING, index, index, term))
    for at, part in enumerate(parts):
        following = parts[at + 1] if at + 1 < len(parts) else None
        if not part.good:
            if following is not None and following.good:
                part.next = max(part.first, following.first)
            elif following is None and info.last_index is not None:
                part.next = max(part.first, info.last_index + 1)
