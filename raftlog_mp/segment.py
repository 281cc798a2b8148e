"""One segment file: created, appended to, sealed, read, scanned.

A segment is written by exactly one generation of the writer, from its header to its seal.  Whatever a crash
or a recovery cuts, the next record goes to a *new* segment: nothing is overwritten in place, so a cut entry
cannot come back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from crc32c import crc32c

from . import format as fmt
from .files import Files
from .format import BAD, RESIDUE, WRONG, ZERO, RecordHeader, Seal, SegmentHeader

# Blocks ahead of the end are filled with zeros in steps: fdatasync of 344-byte writes took 169-185 us into
# zeroed blocks, 179-208 into merely reserved ones, 263-279 into a growing file (docs/architecture.md).
ZERO_AHEAD_BYTES = 256 * 1024
SMALL_READ_BYTES = 4096  # of the first read of one record: most fit
READ_AHEAD_BYTES = 4 << 20  # of a sealed segment, beyond what a sequential reader has read
ZERO_FOR_PIECES_BELOW = 32 * 1024  # large writes gain nothing from it and would write everything twice


class SegmentWriter:
    """The writer's side of the active segment."""

    def __init__(self, files: Files, path: str, header: SegmentHeader) -> None:
        self._files = files
        self.path = path
        self.header = header
        self.fd = files.open(path, write=True, create=True, exclusive=True)
        try:
            files.preallocate(self.fd, header.file_bytes)
            files.pwrite(self.fd, fmt.pack_segment_header(header), fmt.SEGMENT_HEADER_OFFSET)
            files.sync_all(self.fd)
        except BaseException:
            files.close(self.fd)
            files.unlink(path)
            raise
        self._zeroed = fmt.DATA_OFFSET

    @property
    def end_limit(self) -> int:
        """Stream position that the last record may reach."""
        return self.header.start + self.header.file_bytes - fmt.DATA_OFFSET

    def write(self, position: int, pieces: list[memoryview] | list[bytes]) -> None:
        """Hand stream bytes from ``position`` on to the operating system.  Durable after :meth:`sync`."""
        offset = fmt.DATA_OFFSET + position - self.header.start
        for piece in pieces:
            end = offset + len(piece)
            if end > self._zeroed:
                high = end
                if end < self.header.file_bytes and len(piece) < ZERO_FOR_PIECES_BELOW:
                    high = min(end + ZERO_AHEAD_BYTES, self.header.file_bytes)
                    self._files.pwrite(self.fd, bytes(high - end), end)
                self._zeroed = high
            self._files.pwrite(self.fd, piece, offset)
            offset = end

    def sync(self) -> None:
        """All that was written is durable when this returns."""
        self._files.sync(self.fd)

    def seal(self, end: int, last_index: int, last_term: int) -> None:
        """Finish the segment: its data is fsynced, so the seal vouches for all of it.  Durable on return."""
        seal_segment(self._files, self.fd, self.header, end, last_index, last_term)

    def close(self) -> None:
        """Give the descriptor back."""
        self._files.close(self.fd)


def seal_segment(files: Files, fd: int, header: SegmentHeader, end: int, last_index: int, last_term: int) -> None:
    """Write a seal over fsynced data, then give back the space behind the end.  Durable on return."""
    seal = Seal(header.log_id, header.segment_id, header.generation, header.base_index, end, last_index, last_term)
    files.pwrite(fd, fmt.pack_seal(seal), fmt.SEAL_OFFSET)
    files.sync_all(fd)
    # Only bytes behind the end go: no reader looks there, so no mapping of them can fault.  The seal is durable
    # first, so a shorter file without a seal is damage and not a finished segment.
    files.truncate(fd, fmt.DATA_OFFSET + end - header.start)
    files.sync_all(fd)


class SegmentReader:
    """The bytes of one segment, by ``pread``.

    Not a mapping: where the device cannot read a block, a mapping ends the process (SIGBUS), and so does one of a
    segment that is cut to its end while it is sealed.  A read merely comes back empty or short.
    """

    def __init__(self, files: Files, path: str, start: int, *, populate: bool = False) -> None:
        self._files, self.path, self._shift = files, path, fmt.DATA_OFFSET - start
        self._fd = files.open(path)
        self._copied = (0, -1)  # the last copy
        self._fetched = 0  # stream position up to which pages were asked for
        if populate:
            files.will_need(self._fd, 0, files.size(self._fd))

    def _read(self, position: int, length: int) -> bytes:
        if position + self._shift < fmt.DATA_OFFSET:
            return b""
        try:
            return self._files.pread(self._fd, length, position + self._shift)
        except OSError:
            return b""  # as if it were not there: the caller, which misses it, tells what is damaged

    def record(self, position: int) -> tuple[tuple[Any, ...], bytes] | None:
        """``(header fields, body)`` of the record at ``position``, or None if no header can be read there."""
        raw = self._read(position, SMALL_READ_BYTES)
        if len(raw) < fmt.RECORD_BYTES:
            return None
        fields = fmt.RECORD_HEADER.unpack_from(raw)
        length = fmt.RECORD_BYTES + fields[3]
        if length > len(raw):
            raw = self._read(position, length)
        return fields, raw[fmt.RECORD_BYTES : length]

    def copy(self, start: int, end: int) -> bytes:
        """The stream bytes ``[start, end)``; shorter if the file ends before, empty if they cannot be read.

        One copy behind the other is a sequential reader: the kernel is asked for what comes next meanwhile.
        """
        before, self._copied = self._copied, (start, end)
        if before[0] <= start <= before[1] and end + READ_AHEAD_BYTES // 2 > self._fetched:
            self._fetched = end + READ_AHEAD_BYTES
            self._files.will_need(self._fd, end + self._shift, READ_AHEAD_BYTES)
        return self._read(start, end - start)

    def image(self) -> bytes:
        """The whole file; raises ``OSError`` if it cannot be read."""
        return self._files.pread(self._fd, self._files.size(self._fd), 0)

    def __del__(self) -> None:
        # The last reader lets go of it, after a roll, at the end of the handle, or in mid-read of another thread.
        if hasattr(self, "_fd"):
            self._files.close(self._fd)


def proves(fields: tuple[Any, ...], body: bytes) -> bool:
    """Whether both checksums of a record hold, on the copies given."""
    if fields[0] != fmt.RECORD_MAGIC or len(body) != fields[3] or crc32c(body) != fields[2]:
        return False
    return bool(crc32c(fmt.RECORD_HEADER.pack(*fields)[8:]) == fields[1])


def whole_records(data: bytes, position: int) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """``(header fields, body)`` of the records at the head of stream bytes from ``position`` on, not proved.

    Stops at the first that is cut off or out of place.
    """
    at, size = 0, len(data)
    unpack, header_bytes = fmt.RECORD_HEADER.unpack_from, fmt.RECORD_BYTES
    while at + header_bytes <= size:
        fields = unpack(data, at)
        end = at + header_bytes + fields[3]
        if end > size or fields[0] != fmt.RECORD_MAGIC or fields[11] != position + at:
            return
        yield fields, data[at + header_bytes : end]
        at = end


# ---------------------------------------------------------------- scanning
class Scan(NamedTuple):
    """What a walk over a segment's records found: the good prefix, and what ended it."""

    end: int  # P: stream position after the good prefix
    last_index: int
    last_term: int
    mark: int  # highest durable position any header-valid record vouches for, also past the first failure
    stop: str  # ZERO, BAD, RESIDUE or WRONG; ZERO at the end of a full segment
    valid_after: int  # header-valid records found past the first failure
    records: int


def scan_records(
    data: Any, header: SegmentHeader, generation: int, *, limit: int | None = None,
    on_record: Callable[[RecordHeader, bytes], None] | None = None,
) -> Scan:  # fmt: skip
    """Walk the records of a segment image ``data`` (the whole file, from its first block on).

    ``generation`` is the newest one whose records may stand here; ``limit`` ends the walk at that position.
    ``on_record`` sees each good record in order.
    """
    position = header.start
    shift = fmt.DATA_OFFSET - header.start
    next_index, term, seen_generation, mark, records = header.base_index, header.previous_term, 0, 0, 0
    size, stop = len(data), BAD
    while limit is None or position < limit:
        at = position + shift
        record = fmt.read_record_header(data, at)
        if record is None:
            break
        body = bytes(data[at + fmt.RECORD_BYTES : at + fmt.RECORD_BYTES + record.body_bytes])
        if record.log_id != header.log_id or len(body) != record.body_bytes or crc32c(body) != record.body_crc:
            break
        if record.generation < max(seen_generation, 1) or record.generation > generation:
            stop = RESIDUE if record.generation < seen_generation else BAD
            break
        in_order = record.position == position and record.base_index == next_index and record.term >= term
        if not in_order or (record.count > 0) != (record.kind == fmt.KIND_ENTRIES):
            stop = WRONG
            break
        if on_record is not None:
            on_record(record, body)
        position, next_index, seen_generation = record.end, next_index + record.count, record.generation
        term = record.term
        mark = max(mark, record.durable)
        records += 1
    at = position + shift
    if stop == BAD and _all_zero(data, at, size):
        stop = ZERO
    later, marks = _valid_records_after(data, header.log_id, at, shift)
    return Scan(position, next_index - 1, term, max(mark, marks), stop, later, records)


def _all_zero(data: Any, start: int, end: int) -> bool:
    step = 1 << 20
    for at in range(start, end, step):
        chunk = bytes(data[at : min(at + step, end)])
        if chunk != bytes(len(chunk)):  # ten times as fast as counting
            return False
    return True


def _valid_records_after(data: Any, log_id: int, start: int, shift: int) -> tuple[int, int]:
    """Header-valid records of this log past ``start`` that stand at their own position, and their highest mark."""
    found, mark = 0, 0
    find = getattr(data, "find", None) or bytes(data).find
    at = find(fmt.RECORD_MAGIC, start)
    while at >= 0:
        record = fmt.read_record_header(data, at)
        if record is not None and record.log_id == log_id and record.position + shift == at:
            found, mark = found + 1, max(mark, record.durable)
        at = find(fmt.RECORD_MAGIC, at + 1)
    return found, mark
