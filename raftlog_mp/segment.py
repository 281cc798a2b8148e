"""One segment file: created, appended to, sealed, read, scanned.

A segment is written by exactly one generation of the writer, from its header to its seal.  Whatever a crash
or a recovery cuts, the next record goes to a *new* segment: nothing is overwritten in place, so a cut entry
cannot come back.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

from crc32c import crc32c

from . import format as fmt
from .files import Files
from .format import BAD, RESIDUE, WRONG, ZERO, RecordHeader, Seal, SegmentHeader

HEADER, MAGIC = fmt.RECORD_BYTES, fmt.RECORD_MAGIC

# Blocks ahead of the end are filled with zeros in steps: fdatasync of 344-byte writes took 169-185 us into
# zeroed blocks, 179-208 into merely reserved ones, 263-279 into a growing file (docs/architecture.md).
ZERO_AHEAD_BYTES = 256 * 1024
SMALL_READ_BYTES = 4096  # of the first read of one record: most fit
READ_AHEAD_BYTES = 4 << 20  # of a sealed segment, beyond what a sequential reader has read
ZERO_FOR_PIECES_BELOW = 32 * 1024  # large writes gain nothing from it and would write everything twice


class SegmentWriter:
    """The writer's side of the active segment.

    ``prepared``: descriptor of its file, made ahead of need; then the header is yet to be written.
    """

    def __init__(self, files: Files, path: str, header: SegmentHeader, prepared: int | None = None) -> None:
        self._files = files
        self.path = path
        self.header = header
        self._zeroed = fmt.DATA_OFFSET
        self._has_header = prepared is None
        if prepared is not None:
            self.fd = prepared
            return
        self.fd = files.open(path, write=True, create=True, exclusive=True)
        try:
            files.preallocate(self.fd, header.file_bytes)
            files.pwrite(self.fd, fmt.pack_segment_header(header), fmt.SEGMENT_HEADER_OFFSET)
            files.sync_all(self.fd)
        except BaseException:
            files.close(self.fd)
            files.unlink(path)
            raise

    def begin(self) -> None:
        """Write the header of a prepared file; durable, with the first records, after :meth:`sync`."""
        if not self._has_header:
            self._files.pwrite(self.fd, fmt.pack_segment_header(self.header), fmt.SEGMENT_HEADER_OFFSET)
            self._has_header = True

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
    """Write a seal over fsynced data, durably, then give back the space behind the end."""
    files.pwrite(fd, fmt.pack_seal(seal_of(header, end, last_index, last_term)), fmt.SEAL_OFFSET)
    files.sync_all(fd)
    # Only bytes behind the end go: no reader looks there, so no mapping of them can fault.  The seal is durable
    # first, so a shorter file without a seal is damage and not a finished segment.  The cut itself need not be: a
    # sealed segment may be longer than its end.
    files.truncate(fd, fmt.DATA_OFFSET + end - header.start)


def seal_of(header: SegmentHeader, end: int, last_index: int, last_term: int) -> Seal:
    """The seal of the segment with this header."""
    return Seal(header.log_id, header.segment_id, header.generation, header.base_index, end, last_index, last_term)


class SegmentReader:
    """The bytes of one segment, by ``pread``.

    Not a mapping: where the device cannot read a block, a mapping ends the process (SIGBUS), and so does one of a
    segment that is cut to its end while it is sealed.  A read merely comes back empty or short.
    """

    def __init__(self, files: Files, path: str, start: int, *, populate: bool = False) -> None:
        self._files, self.path = files, path
        self.shift = fmt.DATA_OFFSET - start  # from a stream position to an offset in the file
        self.fd = files.open(path)
        self._copied = (0, -1)  # the last copy
        self._fetched = 0  # stream position up to which pages were asked for
        if populate:
            with suppress(OSError):
                files.will_need(self.fd, 0, files.size(self.fd))

    def _read(self, position: int, length: int) -> bytes:
        if position + self.shift < fmt.DATA_OFFSET:
            return b""
        try:
            return self._files.pread(self.fd, length, position + self.shift)
        except OSError:
            return self._before_bad_block(position + self.shift, length)

    def _before_bad_block(self, offset: int, length: int) -> bytes:
        """What the device gives before the first block that it cannot read.

        The rest is as if it were not there: the caller, which misses it, tells what is damaged.
        """
        pieces, end = list[bytes](), offset + length
        while offset < end:
            size = min(end, (offset // fmt.BLOCK_BYTES + 1) * fmt.BLOCK_BYTES) - offset
            try:
                piece = self._files.pread(self.fd, size, offset)
            except OSError:
                break
            pieces.append(piece)
            if len(piece) < size:
                break
            offset += size
        return b"".join(pieces)

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
            with suppress(OSError):  # only a hint
                self._files.will_need(self.fd, end + self.shift, READ_AHEAD_BYTES)
        return self._read(start, end - start)

    def image(self) -> bytes:
        """The whole file; raises ``OSError`` if it cannot be read."""
        return self._files.pread(self.fd, self._files.size(self.fd), 0)

    def __del__(self) -> None:
        # The last reader lets go of it, after a roll, at the end of the handle, or in mid-read of another thread.
        if hasattr(self, "fd"):
            self._files.close(self.fd)


def proves(fields: tuple[Any, ...], body: bytes) -> bool:
    """Whether both checksums of a record hold, on the copies given."""
    if fields[0] != fmt.RECORD_MAGIC or len(body) != fields[3] or crc32c(body) != fields[2]:
        return False
    return bool(crc32c(fmt.RECORD_HEADER.pack(*fields)[8:]) == fields[1])


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
    shift = fmt.DATA_OFFSET - header.start
    with memoryview(data) as view:
        stop_at = len(view) if limit is None else min(limit + shift, len(view))
        found = _good_prefix(view, header, generation, stop_at, on_record)
    at, stop = found.end + shift, found.stop
    if stop == BAD and _all_zero(data, at, len(data)):
        stop = ZERO
    later, marks = _valid_records_after(data, header.log_id, at, shift)
    return found._replace(mark=max(found.mark, marks), stop=stop, valid_after=later)


def _good_prefix(
    view: memoryview, header: SegmentHeader, generation: int, stop_at: int,
    on_record: Callable[[RecordHeader, bytes], None] | None,
) -> Scan:  # fmt: skip
    """The records that prove and continue, up to byte ``stop_at``.  Kept free of calls: a start waits for it."""
    unpack, crc, magic, head = fmt.RECORD_HEADER.unpack_from, crc32c, fmt.RECORD_MAGIC, fmt.RECORD_BYTES
    log_id, entries, made = header.log_id, fmt.KIND_ENTRIES, RecordHeader._make
    position, index, term, seen, mark, records = header.start, header.base_index, header.previous_term, 1, 0, 0
    at, size, stop = fmt.DATA_OFFSET, len(view), BAD
    while at < stop_at and at + head <= size:
        fields = unpack(view, at)
        (
            found, header_crc, body_crc, length, count, kind, _,
            log, generated, base, entry_term, place, durable, _, _,
        ) = fields  # fmt: skip
        body = at + head
        end = body + length
        if (
            found != magic or log != log_id or end > size
            or crc(view[at + 8 : body]) != header_crc or crc(view[body:end]) != body_crc
        ):  # fmt: skip
            break
        if not seen <= generated <= generation:
            stop = RESIDUE if records and generated < seen else BAD
            break
        if place != position or base != index or entry_term < term or (count > 0) != (kind == entries):
            stop = WRONG
            break
        if on_record is not None:
            on_record(made(fields), bytes(view[body:end]))
        if durable > mark:
            mark = durable
        position += end - at
        at, index, term, seen = end, index + count, entry_term, generated
        records += 1
    return Scan(position, index - 1, term, mark, stop, 0, records)


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
