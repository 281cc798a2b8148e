"""What a soak appends, what its processes write down, and whether the log holds it.

Every payload is unique and names itself: (producer, sequence), bytes that follow from these and the seed, a CRC.
So any entry of the log can be checked alone, by anybody, without a copy of what was sent.
"""

from __future__ import annotations

import random
import struct
import zlib
from array import array
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from demo_check import shorten

ACKNOWLEDGED, REFUSED, UNKNOWN = 0, 1, 2
NAMES = {ACKNOWLEDGED: "acknowledged", REFUSED: "refused", UNKNOWN: "unknown"}
RECORD = struct.Struct("<QIIQdddd")
HEAD, TAIL = struct.Struct("<IQ"), struct.Struct("<I")
PAYLOAD_BYTES_MIN, PAYLOAD_BYTES_MAX = HEAD.size + TAIL.size, 32 * 1024
BLOCK_BYTES = 1 << 16
_REFUSED_AT = (1 << 64) - 1


class Record(NamedTuple):
    """One submission, as its producer saw it.  Clock values are CLOCK_MONOTONIC, which all processes share."""

    sequence: int  # of its first payload
    count: int
    outcome: int
    index: int  # of its first entry; 0 without an answer
    sent_s: float
    done_s: float
    waited_s: float  # the longest call that it took
    overrun_s: float  # the most by which a call took longer than it was told to


class Payloads:
    """Makes and checks payloads."""

    def __init__(self, seed: int) -> None:
        block = random.Random(f"{seed}/payloads").randbytes(BLOCK_BYTES)
        self._block = block + block[:PAYLOAD_BYTES_MAX]

    def make(self, producer: int, sequence: int, size: int) -> bytes:
        """The payload with this name, ``size`` bytes long."""
        head = HEAD.pack(producer, sequence)
        start = (sequence * 7919 + producer * 104_729) % BLOCK_BYTES
        body = head + self._block[start : start + size - PAYLOAD_BYTES_MIN]
        return body + TAIL.pack(zlib.crc32(body))

    def name(self, payload: bytes) -> tuple[int, int] | None:
        """(producer, sequence) of a payload; None if not every byte of it is right."""
        if len(payload) < PAYLOAD_BYTES_MIN:
            return None
        producer, sequence = HEAD.unpack_from(payload)
        return (producer, sequence) if payload == self.make(producer, sequence, len(payload)) else None


def read_records(path: Path, start: int = 0) -> list[Record]:
    """The whole records of a producer's file from byte ``start`` on; a killed producer may leave half a one."""
    with path.open("rb") as file:
        file.seek(start)
        data = file.read()
    data = data[: len(data) // RECORD.size * RECORD.size]
    return [Record(*fields) for fields in RECORD.iter_unpack(data)]


class Integrity(NamedTuple):
    """What the log holds, compared with what was sent."""

    problems: list[str]
    entries: int
    acknowledged: int  # payloads
    refused: int
    unknown: int
    last_index: int
    chain: int  # CRC over all payloads in order


class Claims:
    """What one producer was told about each of its payloads."""

    def __init__(self, records: Iterable[Record]) -> None:
        last: dict[int, Record] = {}
        for record in records:
            last[record.sequence] = record  # an answer that came late replaces "unknown"
        self.at = array("Q")  # index by sequence; 0: nothing was said
        self.counts = [0, 0, 0]
        for sequence, record in sorted(last.items()):
            self.counts[record.outcome] += record.count
            self._grow(sequence + record.count)
            for place in range(record.count):
                if record.outcome == ACKNOWLEDGED:
                    self.at[sequence + place] = record.index + place
                elif record.outcome == REFUSED:
                    self.at[sequence + place] = _REFUSED_AT
        self.seen = bytearray(len(self.at))

    def _grow(self, length: int) -> None:
        if length > len(self.at):
            self.at.frombytes(bytes(8 * (length - len(self.at))))

    def see(self, sequence: int) -> tuple[int, bool]:
        """Note that the log holds this payload: the index that was promised, and whether it was seen before."""
        self._grow(sequence + 1)
        self.seen.extend(bytes(len(self.at) - len(self.seen)))
        before, self.seen[sequence] = bool(self.seen[sequence]), 1
        return self.at[sequence], before


def check_log(
    log: Iterable[tuple[int, bytes]], records: Mapping[int, Sequence[Record]], payloads: Payloads
) -> Integrity:
    """Compare the whole log (index, payload) with the records of each producer (by its number)."""
    claims = {number: Claims(found) for number, found in records.items()}
    order, foreign, doubles, refused, elsewhere, lost = [], [], [], [], [], []
    entries = last = chain = 0
    for index, payload in log:
        entries += 1
        if index != last + 1:
            order.append(f"index {index} follows index {last}")
        last, chain = index, zlib.crc32(payload, chain)
        name = payloads.name(payload)
        if name is None or name[0] not in claims:
            foreign.append(f"index {index} holds bytes that nobody sent")
            continue
        promised, before = claims[name[0]].see(name[1])
        what = f"payload {name[1]} of producer {name[0]}"
        if before:
            doubles.append(f"{what} is in the log twice, the second time at index {index}")
        elif promised == _REFUSED_AT:
            refused.append(f"{what} was refused, but is in the log at index {index}")
        elif promised and promised != index:
            elsewhere.append(f"{what} was acknowledged at index {promised}, but stands at {index}")
    for number, claim in claims.items():
        for sequence, promised in enumerate(claim.at):
            if promised not in (0, _REFUSED_AT) and not claim.seen[sequence]:
                lost.append(f"LOST: payload {sequence} of producer {number}, acknowledged at index {promised}")
    found = [line for kind in (lost, doubles, elsewhere, refused, foreign, order) for line in shorten(kind)]
    totals = [sum(claim.counts[outcome] for claim in claims.values()) for outcome in NAMES]
    return Integrity(found, entries, *totals, last, chain)
