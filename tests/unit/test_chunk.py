"""The loops of a range read: what they give is right, whole and in order, whatever the bytes are."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from raftlog_mp import chunk
from raftlog_mp import format as fmt
from raftlog_mp.batches import EntryBatch
from raftlog_mp.bodies import pack_body
from raftlog_mp.chunk import ALIKE, batches_in, end_of, entries_in, fitting, whole_bytes
from raftlog_mp.types import Entry

START, FIRST = 5000, 10


def record(payloads: list[bytes], index: int, position: int, term: int = 3) -> bytes:
    body, kind = pack_body(payloads) if payloads else b"", fmt.KIND_ENTRIES if payloads else fmt.KIND_MARK
    return fmt.pack_record_header(
        fmt.crc32c(body), len(body), len(payloads), kind, 9, 1, index, term, position, 0, 0, 0
    ) + body


def stream(sizes: list[list[int]], seed: int = 1) -> tuple[bytes, list[Entry], list[int]]:
    """Records of entries with these sizes; what they hold; where each record ends."""
    rng, data, entries, ends = random.Random(seed), b"", [], []
    index = FIRST
    for number, record_sizes in enumerate(sizes):
        payloads, term = [rng.randbytes(size) for size in record_sizes], 3 + number // 50
        entries += [Entry(term, at, payload) for at, payload in enumerate(payloads, index)]
        data += record(payloads, index, START + len(data), term)
        index += len(payloads)
        ends.append(len(data))
    return data, entries, ends


MIXED = [[5], [300], [], [1, 2, 3], [0], [0, 0], [], [], [88], [7] * 40, [64], [64]]
LIKE = [[24]] * (ALIKE * 2 + 5)
SIZES = [MIXED, LIKE, MIXED + LIKE[:ALIKE] + MIXED, [[24]] * (ALIKE - 1) + [[25]] + LIKE, [[0]] * ALIKE, []]


def unpacked(found: tuple[list[EntryBatch], int]) -> tuple[list[Entry], int]:
    return [entry for batch in found[0] for entry in batch.entries()], found[1]


DECODE: list[Callable[..., tuple[list[Entry], int]]] = [
    entries_in, lambda *args, **kind: unpacked(batches_in(*args, **kind)),
]  # fmt: skip
BOTH = pytest.mark.parametrize("decode", DECODE, ids=["entries", "batches"])


@BOTH
@pytest.mark.parametrize("prove", [False, True])
@pytest.mark.parametrize("sizes", SIZES, ids=range(len(SIZES)))
def test_all_of_it_and_every_part(decode: Any, sizes: list[list[int]], prove: bool) -> None:
    data, entries, _ = stream(sizes)
    last = FIRST + len(entries)
    assert decode(data, START, FIRST, last, prove=prove) == (entries, last)
    assert decode(data, START, FIRST, last + 99, prove=prove) == (entries, last), "no more than there is"
    for limit in range(FIRST, last):
        assert decode(data, START, FIRST, limit, prove=prove) == (entries[: limit - FIRST], limit)


@BOTH
def test_a_chunk_that_is_cut_off_anywhere_gives_its_whole_records(decode: Any) -> None:
    data, entries, ends = stream(SIZES[2])
    for size in range(0, len(data), 41):
        whole = max((end for end in ends if end <= size), default=0)
        found, due = decode(data[:size], START, FIRST, 1 << 40, prove=True)
        assert found == entries[: due - FIRST]
        assert due == FIRST + sum(map(len, (SIZES[2][: ends.index(whole) + 1] if whole else [])))


@BOTH
def test_it_may_begin_inside_a_batch(decode: Any) -> None:
    data, entries, ends = stream(MIXED)
    batch = data[ends[2] :]  # entries 12, 13, 14, and what follows
    for index in (12, 13, 14):
        assert decode(batch, START + ends[2], index, 15, prove=True) == (entries[index - FIRST : 5], 15)
    assert decode(batch, START + ends[2], 11, 15, prove=True) == ([], 11), "not the record that holds it"
    assert decode(batch, START + ends[2], 15, 16, prove=True) == ([], 15)
    assert decode(batch, START + ends[2] + 1, 12, 15, prove=True) == ([], 12), "not the place that it names"


@BOTH
@pytest.mark.parametrize("sizes", [MIXED, LIKE], ids=["mixed", "alike"])
def test_no_flipped_bit_gets_through(decode: Any, sizes: list[list[int]]) -> None:
    data, entries, ends = stream(sizes)
    rng = random.Random(2)
    for at in rng.sample(range(len(data)), 150):
        bent = bytearray(data)
        bent[at] ^= 1 << rng.randrange(8)
        found, due = decode(bytes(bent), START, FIRST, 1 << 40, prove=True)
        struck = next(number for number, end in enumerate(ends) if at < end)
        before = sum(map(len, sizes[:struck]))
        assert (found, due) == (entries[:before], FIRST + before), f"byte {at}, of record {struck}"


FIELDS = {"magic": 0, "header crc": 4, "body crc": 8, "length": 12, "count": 16, "base index": 40, "position": 56}


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("number", [0, 1, ALIKE - 2, ALIKE - 1, ALIKE])
def test_in_columns_each_field_of_each_record_counts(field: str, number: int) -> None:
    data, entries, _ = stream(LIKE)
    bent = bytearray(data)
    bent[number * (88 + 24) + FIELDS[field]] ^= 2
    assert entries_in(bytes(bent), START, FIRST, 1 << 40, prove=True) == (entries[:number], FIRST + number)
    if field in ("magic", "base index", "position"):  # what bytes of the ring are told by, which are not proved
        assert entries_in(bytes(bent), START, FIRST, 1 << 40, prove=False) == (entries[:number], FIRST + number)


def test_columns_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two blocks of records that are alike; and where they are not, one look a block."""
    blocks, alike = [], chunk._alike

    def counted(*args: Any, **kind: Any) -> list[Entry]:
        found = alike(*args, **kind)
        blocks.append(len(found))
        return found

    monkeypatch.setattr(chunk, "_alike", counted)
    for sizes, expected in ((LIKE, [ALIKE, ALIKE]), ([[n] for n in range(2 * ALIKE)], [0, 0])):
        data, entries, _ = stream(sizes)
        blocks.clear()
        assert entries_in(data, START, FIRST, 1 << 40, prove=True)[0] == entries
        assert blocks == expected


def test_a_batch_is_what_stands_in_the_log_unless_it_is_cut() -> None:
    data, _, ends = stream(MIXED)
    whole, _ = batches_in(data, START, FIRST, 15, prove=True)
    assert [(batch.first_index, batch.count) for batch in whole] == [(10, 1), (11, 1), (12, 3)]
    assert whole[2].encoded == data[ends[2] + fmt.RECORD_BYTES : ends[3]]
    (part,), _ = batches_in(data[ends[2] :], START + ends[2], 13, 14, prove=True)
    assert (part.first_index, part.count, part.encoded) == (13, 1, whole[2].entries()[1].payload)


@pytest.mark.parametrize("prove", [False, True])
def test_a_whole_record_that_is_no_batch_ends_it(prove: bool) -> None:
    good, body = record([b"a"], FIRST, START), b"\xc0" * 9
    forged = fmt.pack_record_header(
        fmt.crc32c(body), len(body), 3, fmt.KIND_ENTRIES, 9, 1, FIRST + 1, 3, START + len(good), 0, 0, 0
    ) + body  # fmt: skip
    behind = record([b"b"], FIRST + 4, START + len(good + forged))
    assert entries_in(good + forged + behind, START, FIRST, FIRST + 5, prove=prove) == (
        [Entry(3, FIRST, b"a")], FIRST + 1,
    )  # fmt: skip
    assert batches_in(good + forged, START, FIRST, FIRST + 3, prove=prove)[1] == FIRST + 1, "a part of it is wanted"


def test_sizes() -> None:
    data, _, ends = stream([[5], [6, 7]])
    assert whole_bytes(data) == ends[0] == 93 and whole_bytes(data[:88]) == 93 and whole_bytes(data[:87]) == 0
    slots = memoryview(b"".join(n.to_bytes(8, "little") for n in (100, 200, 200, 0))).cast("Q")
    assert [end_of(slots, at) for at in range(4)] == [200, 200 + 4096, 200 + 4096, 4096]
    assert fitting([1, 2, 3], [5, 5, 5], 10, always=False) == [1, 2]
    assert fitting([1, 2, 3], [5, 5, 5], 15, always=False) == [1, 2, 3]
    assert fitting([1, 2, 3], [5, 5, 5], 4, always=False) == [] and fitting([1, 2], [5, 5], 4, always=True) == [1]
