"""The walk over the records of a segment file, through damage: what ``records.py`` is made of.

A fast loop over good records, and a careful step for whatever is not plainly good.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from enum import StrEnum

import msgspec
from crc32c import crc32c

from . import format as fmt
from .bodies import unpack_body
from .files import Files
from .format import RecordHeader, SegmentHeader
from .types import Entry

WINDOW_BYTES = 1 << 20  # read at once: it fits the cache, and the calls do not count


class Verdict(StrEnum):
    """What became of a record, or of the bytes where one should stand."""

    GOOD = "good"
    BAD_HEADER = "bad header"  # no header proves here; the stretch ends where the next one does
    BAD_BODY = "bad body"  # the header proves; the body's checksum, length or structure does not
    RESIDUE = "residue"  # a whole record of an older writer; it was never part of this log's end
    WRONG = "wrong"  # both checksums hold, but index, term, position or log id do not continue
    ZERO = "zero"  # nothing but zeros from here to the end
    MISSING = "missing"  # the file ends before the end that its seal states


_MEANING = {
    Verdict.GOOD: "whole",
    Verdict.BAD_HEADER: "no record proves here",
    Verdict.BAD_BODY: "the header is whole, the body is damaged",
    Verdict.RESIDUE: "a record of an older writer, which the log had left behind",
    Verdict.WRONG: "a whole record that does not continue the log here",
    Verdict.ZERO: "zeros to the end",
    Verdict.MISSING: "the file ends before its records do",
}


class FoundRecord(msgspec.Struct, frozen=True):
    """A record, or a damaged stretch up to the next one.

    ``first_index..last_index``: its entries (``last_index == first_index - 1``: none); of a damaged stretch deduced
    from its neighbours, None where nothing tells.  ``body``: as it stands in the file; empty where no header proves.
    """

    path: str
    offset: int  # byte in the file
    length: int  # bytes, header included
    verdict: Verdict
    header: RecordHeader | None = None
    body: bytes = b""
    first_index: int | None = None
    last_index: int | None = None
    term: int | None = None

    def entries(self) -> list[Entry]:
        """The entries of a good record; none of any other."""
        header = self.header
        if self.verdict is not Verdict.GOOD or header is None or not header.count:
            return []
        payloads = unpack_body(self.body, header.count)
        return [Entry(header.term, header.base_index + at, payload) for at, payload in enumerate(payloads)]

    def raw(self, files: Files | None = None) -> bytes:
        """All its bytes, read from the file again."""
        files = files or Files()
        with files.opened(self.path) as fd:
            return files.pread(fd, self.length, self.offset)

    def sentence(self) -> str:
        """Where it stands, what it holds, and what is wrong with it."""
        held = entries_in_words(self.first_index, self.last_index)
        term = f" of term {self.term}" if self.term and held != "no entries" else ""
        return f"byte {self.offset}, {self.length} bytes: {_MEANING[self.verdict]}; {held}{term}"


def entries_in_words(first: int | None, last: int | None) -> str:
    """``entry 5``, ``entries 5..9``, ``entries from 5 on``, ``no entries``."""
    if first is None:
        return "entries unknown" if last is None else f"entries up to {last}"
    if last is None:
        return f"entries from {first} on"
    if last < first:
        return "no entries"
    return f"entry {first}" if first == last else f"entries {first}..{last}"


# ---------------------------------------------------------------- the file
class Source:
    """The bytes of a file through a window.  Blocks that the device cannot read are zeros here, and noted."""

    def __init__(self, files: Files, fd: int, end: int | None = None) -> None:
        self._files, self._fd = files, fd
        self.size = files.size(fd) if end is None else min(end, files.size(fd))
        self._bad: set[int] = set()
        self._start, self._window = 0, memoryview(b"")

    def view(self, offset: int, need: int) -> memoryview:
        """At least ``need`` bytes from ``offset``, more if they are at hand; fewer only at the end of the file."""
        need = min(need, self.size - offset)
        if not self._start <= offset <= offset + need <= self._start + len(self._window):
            self._start = offset
            self._window = memoryview(self.read(offset, max(need, WINDOW_BYTES)))
        return self._window[offset - self._start :]

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file."""
        length = max(min(length, self.size - offset), 0)
        try:
            return self._files.pread(self._fd, length, offset)
        except OSError:
            first = offset // fmt.BLOCK_BYTES * fmt.BLOCK_BYTES
            blocks = b"".join(map(self._block, range(first, offset + length, fmt.BLOCK_BYTES)))
            return blocks[offset - first : offset - first + length]

    def _block(self, offset: int) -> bytes:
        try:
            return self._files.pread(self._fd, fmt.BLOCK_BYTES, offset).ljust(fmt.BLOCK_BYTES, b"\0")
        except OSError:
            self._bad.add(offset)
            return bytes(fmt.BLOCK_BYTES)

    def unreadable(self) -> list[tuple[int, int]]:
        """The stretches that could not be read so far: (offset, length)."""
        found: list[tuple[int, int]] = []
        for offset in sorted(self._bad):
            if found and sum(found[-1]) == offset:
                found[-1] = (found[-1][0], found[-1][1] + fmt.BLOCK_BYTES)
            else:
                found.append((offset, fmt.BLOCK_BYTES))
        return found

    def find(self, needle: bytes, offset: int) -> Iterator[int]:
        """Every place of ``needle`` from ``offset`` on."""
        step = min(fmt.BLOCK_BYTES, WINDOW_BYTES)  # what is looked for is mostly near
        while offset < self.size:
            chunk = self.read(offset, step)
            at = chunk.find(needle)
            while at >= 0:
                yield offset + at
                at = chunk.find(needle, at + 1)
            offset += max(len(chunk) - len(needle) + 1, 1)
            step = min(8 * step, WINDOW_BYTES)

    def used_end(self, offset: int, end: int) -> int:
        """Where the last byte before ``end`` that is not zero ends; ``offset`` if there is none from there on."""
        while end > offset:
            low = max(offset, end - WINDOW_BYTES)
            chunk = self.read(low, end - low)
            if chunk != bytes(len(chunk)):
                return low + len(chunk.rstrip(b"\0"))
            end = low
        return offset


# ---------------------------------------------------------------- the walk
class Walk:
    """Goes through the records of one file, and knows at each moment what must come next."""

    def __init__(
        self, source: Source, path: str, header: SegmentHeader, at: int, limit: int | None, verify: bool = True
    ) -> None:
        self._source, self._path, self._verify = source, path, verify
        self.log_id, self.generation = header.log_id, header.generation
        self.shift = at - header.start  # offset in the file = stream position + shift
        self.at = at
        self.limited = limit is not None
        self.end = source.size if limit is None else limit + self.shift
        self.next_index, self.term, self._seen, self.mark = header.base_index, header.previous_term, 0, 0
        self._jump = False  # damage came just before: how many entries it held, nobody knows
        self.seal_last: int | None = None
        self.records = self.entries = 0
        self.slots, self.runs = array("Q"), list[tuple[int, int]]()

    @property
    def position(self) -> int:
        """Stream position of the next record."""
        return self.at - self.shift

    def run(self, progress: Callable[[int], object] | None = None) -> None:
        """Go on over good records, up to the first that is not plainly good."""
        need = fmt.RECORD_BYTES
        while self.at < self.end:
            view = self._source.view(self.at, need)
            before = self.at
            self._fast(view)
            if self.at > before:
                need = fmt.RECORD_BYTES
                if progress is not None:
                    progress(self.at - before)
                continue
            header = fmt.read_record_header(view, 0)
            length = 0 if header is None else fmt.RECORD_BYTES + header.body_bytes
            if not len(view) < length <= self._source.size - self.at:
                return
            need = length

    def _fast(self, view: memoryview) -> None:
        """The good records at the beginning of ``view``.  Kept free of calls and objects: this loop is the speed."""
        unpack, magic, head = fmt.RECORD_HEADER.unpack_from, fmt.RECORD_MAGIC, fmt.RECORD_BYTES
        log_id, generation, index, mark = self.log_id, self.generation, self.next_index, self.mark
        position, records, slots, runs = self.position, 0, self.slots, self.runs
        term, run_term, add = self.term, runs[-1][1] if runs else -1, slots.append
        at, size, stop = 0, len(view), min(self.end - self.at, len(view) - head + 1)
        while at < stop:
            (
                found, header_crc, body_crc, length, count, kind, _,
                log, generated, base, entry_term, place, durable, _, _,
            ) = unpack(view, at)  # fmt: skip
            body = at + head
            end = body + length
            if (
                found != magic or base != index or place != position or log != log_id or generated != generation
                or entry_term < term or end > size
                or crc32c(view[at + 8 : body]) != header_crc or crc32c(view[body:end]) != body_crc
            ):  # fmt: skip
                break
            if count == 1 and kind == 1:
                add(position)
            elif not self._fits(kind, count, view[body:end]):
                break
            elif count:
                slots.extend([position] * count)
            if entry_term != run_term and count:
                runs.append((base, entry_term))
                run_term = entry_term
            if durable > mark:
                mark = durable
            index += count
            term = entry_term
            position += end - at
            at = end
            records += 1
        if records:
            self._seen, self._jump = generation, False
        self.entries += index - self.next_index
        self.next_index, self.term, self.mark = index, term, mark
        self.records += records
        self.at += at

    @staticmethod
    def _fits(kind: int, count: int, body: memoryview | bytes) -> bool:
        """Whether kind, count and structure of the body go together."""
        if kind != fmt.KIND_ENTRIES or not count:
            return kind != fmt.KIND_ENTRIES and not count
        try:
            unpack_body(body, count)
        except ValueError:
            return False
        return True

    # ------------------------------------------------------------ with care
    def step(self) -> tuple[FoundRecord, str | None]:
        """The record or the damaged stretch here, and what start-up's walk says of it: None, or why it stops."""
        view = self._source.view(self.at, fmt.RECORD_BYTES)
        header = fmt.read_record_header(view, 0)
        if header is None:
            return self._stretch(), fmt.BAD
        length = fmt.RECORD_BYTES + header.body_bytes
        if len(view) < length:
            view = self._source.view(self.at, length)
        body = bytes(view[fmt.RECORD_BYTES : length])
        whole = len(body) == header.body_bytes and (not self._verify or crc32c(body) == header.body_crc)
        own_place = header.log_id == self.log_id and header.position == self.position
        if not whole:
            found = self._bad_body(header, body) if own_place and self._continues(header) else self._stretch()
            return found, fmt.BAD
        stop = self._stop(header)
        if own_place and self._continues(header):
            sound = not self._verify or self._fits(header.kind, header.count, body)
            self._advance(header)
            found = self._take(Verdict.GOOD if sound else Verdict.BAD_BODY, header, body)
            if sound:
                self.records, self.entries = self.records + 1, self.entries + header.count
            return found, stop
        older = stop == fmt.RESIDUE or (self._jump and header.generation < self.generation)
        verdict = Verdict.RESIDUE if older else Verdict.WRONG
        if not own_place:
            return self._stretch(verdict, header), stop
        self._jump = True
        return self._take(verdict, header, body), stop

    def _stop(self, header: RecordHeader) -> str | None:
        """What ``segment.scan_records`` says of a record whose checksums hold; None: it goes on."""
        if header.log_id != self.log_id:
            return fmt.BAD
        if header.generation < max(self._seen, 1) or header.generation > self.generation:
            return fmt.RESIDUE if header.generation < self._seen else fmt.BAD
        in_order = header.position == self.position and header.base_index == self.next_index
        if not in_order or header.term < self.term or (header.count > 0) != (header.kind == fmt.KIND_ENTRIES):
            return fmt.WRONG
        return None

    def _continues(self, header: RecordHeader) -> bool:
        """Whether its numbers may come next; behind damage entries may be missing."""
        if not max(self._seen, 1) <= header.generation <= self.generation or header.term < self.term:
            return False
        if (header.count > 0) != (header.kind == fmt.KIND_ENTRIES):
            return False
        if not self._jump:
            return header.base_index == self.next_index
        # Behind damage nothing comes before it that would tell residue: one generation writes a segment, and no other.
        return header.base_index >= self.next_index and header.generation == self.generation

    def _advance(self, header: RecordHeader) -> None:
        if header.count:
            self.slots.extend([header.position] * header.count)
            if not self.runs or self.runs[-1][1] != header.term:
                self.runs.append((header.base_index, header.term))
        self.next_index, self.term, self._seen = header.last_index + 1, header.term, header.generation
        self.mark = max(self.mark, header.durable)
        self._jump = False

    def _take(self, verdict: Verdict, header: RecordHeader, body: bytes) -> FoundRecord:
        length = min(fmt.RECORD_BYTES + header.body_bytes, self._source.size - self.at)
        found = FoundRecord(
            self._path, self.at, length, verdict, header, body, header.base_index, header.last_index, header.term
        )
        self.at += length
        return found

    def _bad_body(self, header: RecordHeader, body: bytes) -> FoundRecord:
        # Its header is right, so what it held is known, and where the next record stands.
        self.next_index, self.term, self._seen = header.last_index + 1, header.term, header.generation
        self._jump = False
        return self._take(Verdict.BAD_BODY, header, body)

    def _stretch(self, verdict: Verdict = Verdict.BAD_HEADER, header: RecordHeader | None = None) -> FoundRecord:
        """Everything up to the next header that proves at its own position."""
        start, first = self.at, self.next_index
        end = min(self.end, self._source.size)
        following = self._resync(start + 1)
        last, term = self.seal_last, None
        if following is not None:
            end, last = following.position + self.shift, following.base_index - 1
            term = self.term if following.term == self.term else None
        else:
            used = self._source.used_end(start, end)
            if start >= self._source.size:
                verdict = Verdict.MISSING
            elif used == start:
                verdict, last = Verdict.ZERO, last if self.limited else first - 1
            elif not self.limited:
                end = used
        self.at, self._jump = end if end > start else self.end, True
        return FoundRecord(self._path, start, max(end - start, 0), verdict, header, b"", first, last, term)

    def _resync(self, offset: int) -> RecordHeader | None:
        for at in self._source.find(fmt.RECORD_MAGIC, offset):
            if at >= self.end:
                break
            header = self._header(at)
            if header is None or header.generation != self.generation:
                continue  # what an older writer left says nothing about the entries in between
            if header.base_index >= self.next_index and header.term >= self.term:
                return header
        return None

    def _header(self, at: int) -> RecordHeader | None:
        """A header of this log that proves at its own position."""
        header = fmt.read_record_header(self._source.view(at, fmt.RECORD_BYTES), 0)
        if header is None or header.log_id != self.log_id or header.position + self.shift != at:
            return None
        return header

    def marks_behind(self, offset: int) -> int:
        """The highest durable position that provable headers from ``offset`` on vouch for."""
        headers = map(self._header, self._source.find(fmt.RECORD_MAGIC, offset))
        return max((header.durable for header in headers if header is not None), default=0)
