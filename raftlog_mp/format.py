"""DISK BYTES: every byte this library writes to a file, and nothing else.

Little endian throughout; every structure carries a CRC-32C; the format version is
read before any CRC, so a newer file says *newer*, not *damaged*.  ``docs/format.md`` shows the same
tables, and a test ties the two together.

The log's bytes are one endless **stream** addressed by a 64-bit *position*.  A segment file holds
the positions ``[start, end)`` of it behind two fixed blocks::

    segment file   0      segment header   (one block)
                   4096   seal             (one block, zero until the segment is finished)
                   8192   records          byte at position p lies at 8192 + p - start

A **record** is a header and a body; it is the unit of append, of checksums and of recovery::

    0        4         8         12       16       20     22      24
    +--------+---------+---------+--------+--------+------+-------+-----------+
    | magic  | hdr crc | bodycrc | length | count  | kind | flags | log id    |
    +--------+---------+---------+--------+--------+------+-------+-----------+
    32             40            48       56         64         72            80           88
    | generation   | base index  | term   | position | durable  | producer id | sequence   |
    +--------------+-------------+--------+----------+----------+-------------+------------+

The body of one entry is its payload, raw; of several, a msgpack array of byte strings.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import Any, NamedTuple

import msgpack
from crc32c import crc32c

from .errors import CorruptLog, VersionMismatch

FORMAT_VERSION = 1
BLOCK_BYTES = 4096

# ---------------------------------------------------------------- names of files
LOCK_NAME = "LOCK"
START_NAME = "START"
HARD_STATE_NAME = "hard_state"
MANIFEST_NAME = "manifest"
WRITER_LOG_NAME = "writer.log"
SOCKET_NAME = "writer.sock"
SHM_NAME = "shm"
QUARANTINE_NAME = "quarantine"
TEMPORARY_SUFFIX = ".tmp"


def segment_name(segment_id: int) -> str:
    """File name of a segment; ids are never reused, so a name has one content for ever."""
    return f"{segment_id:016x}.seg"


def parse_segment_name(name: str) -> int | None:
    """The segment id in a file name; None if it is no segment's name."""
    stem, dot, suffix = name.partition(".")
    try:
        return int(stem, 16) if (dot, suffix) == (".", "seg") and len(stem) == 16 else None
    except ValueError:
        return None


def index_name(segment_id: int) -> str:
    """File name of a sealed segment's index."""
    return f"{segment_id:016x}.idx"


def control_name(generation: int) -> str:
    """File name (below the shm folder) of a generation's control block."""
    return f"control-{generation:016x}"


def ring_name(generation: int) -> str:
    """File name (below the shm folder) of a generation's ring."""
    return f"ring-{generation:016x}"


def active_index_name(generation: int, segment_id: int) -> str:
    """File name (below the shm folder) of the active segment's index."""
    return f"index-{generation:016x}-{segment_id:016x}"


def terms_name(segment_id: int) -> str:
    """File name of a sealed segment's term runs."""
    return f"{segment_id:016x}.trm"


def terms_table_name(generation: int, edition: int) -> str:
    """File name (below the shm folder) of an edition of the table of term runs."""
    return f"terms-{generation:016x}-{edition:08x}"


# ---------------------------------------------------------------- records
RECORD_MAGIC = b"\xf1RLr"
KIND_ENTRIES = 1  # count >= 1 entries of one term
KIND_MARK = 2  # no body: vouches for the durable position in its header
KIND_PRODUCERS = 3  # body: snapshot of the exactly-once table; first record of a segment

_RECORD_HEAD = struct.Struct("<4sI")
_RECORD_TAIL = struct.Struct("<IIIHHQQQQQQQQ")
RECORD_HEADER = struct.Struct("<4sIIIIHHQQQQQQQQ")
RECORD_BYTES = RECORD_HEADER.size
assert RECORD_BYTES == 88 == _RECORD_HEAD.size + _RECORD_TAIL.size
# What a reader decides by, out of the same bytes: magic, body bytes, count, base index, term, position.  Decoding six
# fields takes half the time of all fifteen.
RECORD_GIST = struct.Struct("<4s8xII20xQQQ24x")
RECORD_CRCS = struct.Struct("<4xII76x")  # the two checksums: of the header from byte 8 on, of the body
assert RECORD_GIST.size == RECORD_CRCS.size == RECORD_BYTES


@lru_cache(maxsize=16)
def lone_record(body_bytes: int) -> struct.Struct:
    """``RECORD_GIST`` without the magic, and the ``body_bytes`` that follow the header."""
    return struct.Struct(f"<12xII20xQQQ24x{body_bytes}s")


def whole_record(length: int) -> struct.Struct:
    """Decoder of a record of ``length`` bytes: ``RECORD_GIST`` with the checksums behind the magic, and the body."""
    return struct.Struct(f"<4sIIII20xQQQ24x{length - RECORD_BYTES}s")


@lru_cache(maxsize=16)
def like_records(records: int, body_bytes: int) -> tuple[struct.Struct, struct.Struct]:
    """Decoders of ``records`` records back to back whose bodies are alike long: one call for all of them.

    The first gives magic, body crc, body bytes, count, base index, term, position and body of each, the second header
    crc and what that covers.
    """
    fields = f"4s4xIII20xQQQ24x{body_bytes}s"
    return struct.Struct("<" + fields * records), struct.Struct("<" + f"4xI80s{body_bytes}x" * records)


class RecordHeader(NamedTuple):
    """The decoded header of a record, in the order of its bytes."""

    magic: bytes
    header_crc: int
    body_crc: int
    body_bytes: int
    count: int  # type: ignore[assignment]  # shadows tuple.count
    kind: int
    flags: int
    log_id: int
    generation: int
    base_index: int
    term: int
    position: int
    durable: int
    producer: int
    sequence: int

    @property
    def end(self) -> int:
        """Position after this record."""
        return self.position + RECORD_BYTES + self.body_bytes

    @property
    def last_index(self) -> int:
        """Index of the last entry (``base_index - 1`` when it holds none)."""
        return self.base_index + self.count - 1


def pack_record_header(
    body_crc: int, body_bytes: int, count: int, kind: int, log_id: int, generation: int,
    base_index: int, term: int, position: int, durable: int, producer: int, sequence: int,
) -> bytes:  # fmt: skip
    """The 88 bytes before a body, its own CRC included."""
    tail = _RECORD_TAIL.pack(
        body_crc, body_bytes, count, kind, 0, log_id, generation,
        base_index, term, position, durable, producer, sequence,
    )  # fmt: skip
    return _RECORD_HEAD.pack(RECORD_MAGIC, crc32c(tail)) + tail


def pack_singles(
    bodies: list[bytes], body_crcs: list[int], log_id: int, generation: int,
    index: int, term: int, position: int, durable: int, producer: int, sequence: int,
) -> tuple[list[bytes], list[int]]:  # fmt: skip
    """Records of one entry each, back to back, from ``index``, ``position`` and ``sequence`` on.

    Returns headers and bodies in turn, and the records' positions.  A loop without calls: it is the writer's cost.
    """
    parts: list[bytes] = []
    positions: list[int] = []
    tail_of, head_of, crc, magic, kind, head_bytes = (
        _RECORD_TAIL.pack, _RECORD_HEAD.pack, crc32c, RECORD_MAGIC, KIND_ENTRIES, RECORD_BYTES,
    )  # fmt: skip
    for body, body_crc in zip(bodies, body_crcs, strict=True):
        length = len(body)
        tail = tail_of(
            body_crc, length, 1, kind, 0, log_id, generation, index, term, position, durable, producer, sequence
        )
        parts += (head_of(magic, crc(tail)), tail, body)
        positions.append(position)
        position += head_bytes + length
        index += 1
        sequence += 1
    return parts, positions


def read_record_header(buffer: Any, offset: int) -> RecordHeader | None:
    """The record header at ``offset``, or None if magic or CRC are wrong or it does not fit."""
    raw = bytes(buffer[offset : offset + RECORD_BYTES])
    if len(raw) < RECORD_BYTES or raw[:4] != RECORD_MAGIC:
        return None
    header = RecordHeader._make(RECORD_HEADER.unpack(raw))
    return header if crc32c(raw[8:]) == header.header_crc else None


# ---------------------------------------------------------------- envelopes of one block
#
#    0          8          12       16
#    +----------+----------+--------+------------------------
#    | magic    | version  | crc    | fields      crc: of magic, version and fields
#    +----------+----------+--------+------------------------
_ENVELOPE = struct.Struct("<8sII")
_ENVELOPE_HEAD = struct.Struct("<8sI")
assert _ENVELOPE.size == 16


def _seal_envelope(magic: bytes, fields: bytes) -> bytes:
    head = _ENVELOPE_HEAD.pack(magic, FORMAT_VERSION)
    return _ENVELOPE.pack(magic, FORMAT_VERSION, crc32c(head + fields)) + fields


def _open_envelope(magic: bytes, raw: bytes, fields_bytes: int, what: str) -> bytes | None:
    """The CRC-checked fields, or None if damaged.  A newer version raises :class:`VersionMismatch`."""
    if len(raw) < _ENVELOPE.size:
        return None
    found, version, crc = _ENVELOPE.unpack_from(raw)
    if found != magic:
        return None
    fields = raw[_ENVELOPE.size : _ENVELOPE.size + fields_bytes]
    one_bit = (version ^ FORMAT_VERSION).bit_count() == 1
    if one_bit and crc32c(_ENVELOPE_HEAD.pack(magic, FORMAT_VERSION) + fields) == crc:
        return None  # a single bit off, and all else is right for this version: it is the version that has rotted
    check_version(version, what)
    head = raw[: _ENVELOPE_HEAD.size]
    return fields if len(fields) == fields_bytes and crc32c(head + fields) == crc else None


def check_version(version: int, what: str) -> None:
    """Refuse a version this code does not know, before anything else is believed."""
    # A single flipped bit must not turn damage into "newer": versions count up from 1 in small steps.
    if FORMAT_VERSION < version < FORMAT_VERSION + 1024:
        raise VersionMismatch(
            f"{what} has format version {version}; this raftlog_mp reads up to {FORMAT_VERSION}. "
            "Upgrade raftlog_mp to open this log; nothing was changed."
        )


# ---------------------------------------------------------------- segment header
SEGMENT_MAGIC = b"RLMPSEGM"
SEGMENT_HEADER_OFFSET = 0
SEAL_OFFSET = BLOCK_BYTES
DATA_OFFSET = 2 * BLOCK_BYTES
_SEGMENT_FIELDS = struct.Struct("<QQQQQQQQQ")
assert _SEGMENT_FIELDS.size == 72


class SegmentHeader(NamedTuple):
    """First block of a segment: who it is and where it stands in stream and log."""

    log_id: int
    segment_id: int
    generation: int  # of the writer that created it; only that writer appends to it
    base_index: int  # index of its first entry
    start: int  # stream position of its first record
    previous_end: int  # stream position where its predecessor ends
    previous_term: int  # term of the entry before base_index
    file_bytes: int  # preallocated size
    index_slots: int  # entries its index has room for


def pack_segment_header(header: SegmentHeader) -> bytes:
    """The first block of a segment file, padded with zeros."""
    return _seal_envelope(SEGMENT_MAGIC, _SEGMENT_FIELDS.pack(*header)).ljust(BLOCK_BYTES, b"\0")


def read_segment_header(raw: bytes, what: str = "segment") -> SegmentHeader | None:
    """The header in ``raw``, or None if damaged; a newer version raises :class:`VersionMismatch`."""
    fields = _open_envelope(SEGMENT_MAGIC, raw, _SEGMENT_FIELDS.size, what)
    return None if fields is None else SegmentHeader._make(_SEGMENT_FIELDS.unpack(fields))


# ---------------------------------------------------------------- seal
SEAL_MAGIC = b"RLMPSEAL"
_SEAL_FIELDS = struct.Struct("<QQQQQQQ")
assert _SEAL_FIELDS.size == 56


class Seal(NamedTuple):
    """Second block of a finished segment: written after its data was fsynced, so it vouches for all of it."""

    log_id: int
    segment_id: int
    generation: int
    base_index: int
    end: int  # stream position after the last record
    last_index: int  # base_index - 1 when the segment holds no entry
    last_term: int


def pack_seal(seal: Seal) -> bytes:
    """The seal block.  One 512-byte sector holds it, so a power cut leaves all of it or nothing."""
    return _seal_envelope(SEAL_MAGIC, _SEAL_FIELDS.pack(*seal))


def read_seal(raw: bytes, what: str = "seal") -> Seal | None:
    """The seal in ``raw``, or None."""
    fields = _open_envelope(SEAL_MAGIC, raw, _SEAL_FIELDS.size, what)
    return None if fields is None else Seal._make(_SEAL_FIELDS.unpack(fields))


# ---------------------------------------------------------------- sealed index
INDEX_MAGIC = b"RLMPINDX"
INDEX_HEADER_BYTES = 64
SLOT_BYTES = 8
_INDEX_FIELDS = struct.Struct("<QQQQQ")


class IndexHeader(NamedTuple):
    """Head of a sealed segment's index; the slots follow at byte 64, one u64 stream position an entry."""

    log_id: int
    segment_id: int
    base_index: int
    slots: int
    slots_crc: int


def pack_index(header: IndexHeader, slots: bytes) -> bytes:
    """A whole sealed index file."""
    return _seal_envelope(INDEX_MAGIC, _INDEX_FIELDS.pack(*header)).ljust(INDEX_HEADER_BYTES, b"\0") + slots


def read_index_header(raw: bytes, what: str = "index") -> IndexHeader | None:
    """The head of an index file, or None; the caller checks the slots against ``slots_crc``."""
    fields = _open_envelope(INDEX_MAGIC, raw, _INDEX_FIELDS.size, what)
    return None if fields is None else IndexHeader._make(_INDEX_FIELDS.unpack(fields))


# ---------------------------------------------------------------- manifest and hard state (msgpack in an envelope)
MANIFEST_MAGIC = b"RLMPMANI"
HARD_STATE_MAGIC = b"RLMPHARD"
TERMS_MAGIC = b"RLMPTERM"  # term runs of a sealed segment: a cache, rebuilt from the records if it is not right
HARD_STATE_SLOT_BYTES = BLOCK_BYTES
HARD_STATE_FILE_BYTES = 2 * HARD_STATE_SLOT_BYTES
_LENGTH = struct.Struct("<Q")


def pack_document(magic: bytes, document: dict[str, Any]) -> bytes:
    """A msgpack document behind magic, version, CRC and length."""
    body = msgpack.packb(document)
    return _seal_envelope(magic, _LENGTH.pack(len(body)) + body)


def read_document(magic: bytes, raw: bytes, what: str) -> dict[str, Any] | None:
    """The document in ``raw``, or None if damaged."""
    if len(raw) < _ENVELOPE.size + _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack_from(raw, _ENVELOPE.size)
    fields = _open_envelope(magic, raw, _LENGTH.size + length, what) if length <= len(raw) else None
    if fields is None:
        if raw[: len(magic)] == magic and length > len(raw):
            check_version(_ENVELOPE.unpack_from(raw)[1], what)  # laid out in another way
        return None
    document = msgpack.unpackb(fields[_LENGTH.size :], strict_map_key=False)
    return document if isinstance(document, dict) else None


def document_holds(raw: bytes) -> bool:
    """Whether a document's checksum holds, whatever its version says: rot, or really a newer version?"""
    if len(raw) < _ENVELOPE.size + _LENGTH.size:
        return False
    crc = _ENVELOPE.unpack_from(raw)[2]
    end = _ENVELOPE.size + _LENGTH.size + _LENGTH.unpack_from(raw, _ENVELOPE.size)[0]
    fields = raw[_ENVELOPE.size : end]
    return bool(end <= len(raw) and crc32c(raw[: _ENVELOPE_HEAD.size] + fields) == crc)


# ---------------------------------------------------------------- how a run of records can end
ZERO = "zero"  # nothing but zeros to the end
BAD = "bad"  # bytes that are no record, or fail a checksum
RESIDUE = "residue"  # a whole record of an older generation
WRONG = "wrong"  # a whole record of this generation with the wrong index, term or position


def corrupt(message: str, directory: str = "DIR", *, served: bool = True, **where: Any) -> CorruptLog:
    """A :class:`CorruptLog` whose text ends with what to do next.  ``served``: readers can still read."""
    rest = "open_reader() still serves what is provably right" if served else "nothing can be served without it"
    return CorruptLog(
        f"{message}. Nothing was changed; {rest}. Next: `raftlog-mp check "
        f"{directory}` says what is damaged and what that means, `raftlog-mp repair {directory}` what can be done.",
        **where,
    )  # fmt: skip
