"""Segment files: written, sealed, read, and scanned to a verdict."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp.bodies import pack_body
from raftlog_mp.format import BAD, RESIDUE, WRONG, ZERO, SegmentHeader
from raftlog_mp.segment import (
    READ_AHEAD_BYTES,
    ZERO_AHEAD_BYTES,
    Scan,
    SegmentReader,
    SegmentWriter,
    proves,
    scan_records,
)

HEADER = SegmentHeader(9, 1, 3, 5, 1000, 1000, 1, 65536, 100)
GENERATION = 3


def record(position: int, base: int, body: bytes = b"x", **other: int) -> bytes:
    values = {"count": 1, "kind": 1, "log_id": 9, "generation": GENERATION, "term": 1, "durable": 0} | other
    return fmt.pack_record_header(
        fmt.crc32c(body), len(body), values["count"], values["kind"], values["log_id"], values["generation"],
        base, values["term"], position, values["durable"], 0, 0,
    ) + body  # fmt: skip


def image(*parts: bytes, zeros: int = 4096) -> bytes:
    return bytes(fmt.DATA_OFFSET) + b"".join(parts) + bytes(zeros)


def scan(*parts: bytes, zeros: int = 4096, limit: int | None = None) -> Scan:
    return scan_records(image(*parts, zeros=zeros), HEADER, GENERATION, limit=limit)


FIRST, SECOND, THIRD = record(1000, 5), record(1089, 6), record(1178, 7)


# ---------------------------------------------------------------- verdicts
def test_clean_end() -> None:
    found = scan(FIRST, SECOND)
    assert found == Scan(end=1178, last_index=6, last_term=1, mark=0, stop=ZERO, valid_after=0, records=2)


def test_empty() -> None:
    assert scan() == Scan(1000, 4, 1, 0, ZERO, 0, 0)


def test_full_to_the_last_byte() -> None:
    assert scan(FIRST, SECOND, zeros=0).stop == ZERO


@pytest.mark.parametrize("tail", [b"\x01", FIRST[:4], SECOND[:50], SECOND[:88], SECOND[:-1] + b"y", b"\0" * 50 + b"\1"])
def test_bad_tail(tail: bytes) -> None:
    found = scan(FIRST, tail)
    assert (found.end, found.last_index, found.stop) == (1089, 5, BAD)


@pytest.mark.parametrize("zeros", [0, 1, 40])
def test_a_record_cut_off_by_the_end_of_the_file_is_bad(zeros: int) -> None:
    assert scan(FIRST, SECOND[:-1], zeros=0).stop == BAD
    assert scan(FIRST, SECOND[:50], zeros=zeros).stop == BAD


@pytest.mark.parametrize(
    "wrong",
    [
        record(1090, 6), record(1089, 7), record(1089, 5), record(1089, 6, term=0),
        record(1089, 6, count=0), record(1089, 6, kind=fmt.KIND_MARK), record(1089, 6, kind=7),
    ],
)  # fmt: skip
def test_whole_record_that_does_not_belong_there(wrong: bytes) -> None:
    found = scan(FIRST, wrong)
    assert (found.end, found.stop) == (1089, WRONG)


def test_records_of_an_older_generation_are_residue() -> None:
    found = scan(FIRST, record(1089, 6, generation=GENERATION - 1))
    assert (found.end, found.stop) == (1089, RESIDUE)


@pytest.mark.parametrize("other", [{"log_id": 8}, {"generation": GENERATION + 1}])
def test_records_of_another_log_or_of_the_future_are_bad(other: dict[str, int]) -> None:
    found = scan(FIRST, record(1089, 6, **other))
    assert (found.end, found.stop) == (1089, BAD)


def test_marks_past_the_failure_count() -> None:
    bent = bytearray(SECOND)
    bent[-1] ^= 1
    behind = record(1178, 7, durable=1178)
    found = scan(FIRST, bytes(bent), behind)
    assert (found.end, found.mark, found.valid_after) == (1089, 1178, 2), "the bent one has a valid header"
    bent[30] ^= 1
    found = scan(FIRST, bytes(bent), behind)
    assert (found.end, found.mark, found.valid_after) == (1089, 1178, 1)


def test_a_payload_that_looks_like_a_record_vouches_for_nothing() -> None:
    """Someone appends the bytes of a log: only a record at its own position counts."""
    inner = record(50, 6, durable=10**9)
    bent = bytearray(record(1089, 6, inner))
    bent[70] ^= 1
    assert scan(FIRST, bytes(bent)).mark == 0


def test_limit_ends_the_walk() -> None:
    found = scan(FIRST, SECOND, THIRD, limit=1178)
    assert (found.end, found.last_index) == (1178, 6)


def test_terms_marks_and_batches() -> None:
    batch = pack_body([b"a", b"b", b"c"])
    parts = [
        record(1000, 5, b"\x90", count=0, kind=fmt.KIND_PRODUCERS),
        record(1089, 5, batch, count=3, term=2),
        record(1089 + 88 + len(batch), 8, b"", count=0, kind=fmt.KIND_MARK, term=2, durable=1089 + 88 + len(batch)),
    ]
    seen: list[int] = []
    found = scan_records(image(*parts), HEADER, GENERATION, on_record=lambda record, body: seen.append(record.kind))
    assert seen == [fmt.KIND_PRODUCERS, fmt.KIND_ENTRIES, fmt.KIND_MARK]
    assert (found.last_index, found.last_term, found.stop) == (7, 2, ZERO)
    assert found.mark == found.end - fmt.RECORD_BYTES


def test_proves_notices_every_flipped_bit() -> None:
    for bit in range(len(FIRST) * 8):
        bent = bytearray(FIRST)
        bent[bit // 8] ^= 1 << bit % 8
        fields = fmt.RECORD_HEADER.unpack_from(bent)
        assert not proves(fields, bytes(bent[88:]))
    assert proves(fmt.RECORD_HEADER.unpack_from(FIRST), b"x")
    for cut in (b"", b"xx"):
        assert not proves(fmt.RECORD_HEADER.unpack_from(FIRST), cut)


# ---------------------------------------------------------------- the file
@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "1.seg")


def test_write_seal_read(path: str) -> None:
    files = FaultyFiles()
    writer = SegmentWriter(files, path, HEADER)
    assert os.path.getsize(path) == HEADER.file_bytes and writer.end_limit == 1000 + 65536 - fmt.DATA_OFFSET
    writer.write(1000, [memoryview(FIRST), memoryview(SECOND)])
    writer.write(1178, [THIRD[:30], THIRD[30:]])
    writer.sync()
    data = files.read_file(path)
    assert fmt.read_segment_header(data) == HEADER
    assert fmt.read_seal(data[fmt.SEAL_OFFSET : fmt.SEAL_OFFSET + 512]) is None
    assert scan_records(data, HEADER, GENERATION).last_index == 7
    before = len(files.steps)
    writer.seal(1267, 7, 1)
    assert [step[0] for step in files.steps[before:]] == ["pwrite", "sync_all", "truncate"]
    writer.close()
    assert os.path.getsize(path) == fmt.DATA_OFFSET + 267
    reader = SegmentReader(files, path, 1000, populate=True)
    found = reader.record(1089)
    assert found is not None and found[1] == b"x" and proves(*found)
    assert reader.image() == files.read_file(path)
    assert reader.copy(1000, 1089) == FIRST and reader.copy(1200, 99_999) == THIRD[22:]
    assert reader.record(999) is None and reader.record(1267) is None and reader.record(1180) is None


def test_a_hint_that_fails_costs_nothing(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system need not know of read-ahead; the bytes are there all the same."""
    files = FaultyFiles()
    writer = SegmentWriter(files, path, HEADER)
    writer.write(1000, [FIRST, SECOND])
    writer.seal(1178, 6, 1)
    writer.close()
    asked: list[int] = []

    def refused(fd: int, offset: int, length: int) -> None:
        asked.append(offset)
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(files, "will_need", refused)
    reader = SegmentReader(files, path, 1000, populate=True)
    assert reader.copy(1000, 1089) == FIRST and reader.copy(1089, 1178) == SECOND and len(asked) >= 2


def test_what_lies_ahead_is_zeros_up_to_the_end_of_the_file(path: str) -> None:
    writer = SegmentWriter(FaultyFiles(), path, HEADER._replace(file_bytes=3 * ZERO_AHEAD_BYTES))
    body = b"y" * 100_000
    position = 1000
    for _ in range(7):
        writer.write(position, [body])
        position += len(body)
    assert os.path.getsize(path) == 3 * ZERO_AHEAD_BYTES
    data = Path(path).read_bytes()[fmt.DATA_OFFSET :]
    assert data[: 7 * len(body)] == body * 7 and not data[7 * len(body) :].strip(b"\0")
    writer.close()


@pytest.mark.parametrize("operation", ["preallocate", "pwrite", "sync_all"])
def test_a_creation_that_fails_leaves_no_file(path: str, operation: str) -> None:
    files = FaultyFiles()
    files.fail(operation, errno.ENOSPC)
    with pytest.raises(OSError):
        SegmentWriter(files, path, HEADER)
    assert not os.path.exists(path)


def test_a_segment_is_never_made_over_an_old_one(path: str) -> None:
    Path(path).write_bytes(b"old")
    with pytest.raises(FileExistsError):
        SegmentWriter(FaultyFiles(), path, HEADER)
    assert Path(path).read_bytes() == b"old"


class Fetching(FaultyFiles):
    """Notes what the kernel is asked to read in the background."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[tuple[int, int]] = []

    def will_need(self, fd: int, offset: int, length: int) -> None:
        self.fetched.append((offset, offset + length))
        super().will_need(fd, offset, length)


@pytest.fixture
def large(tmp_path: Path) -> Iterator[tuple[Fetching, SegmentReader]]:
    """A sealed segment of three times the distance that is read ahead, sparse."""
    path = tmp_path / "large.seg"
    path.touch()
    os.truncate(path, fmt.DATA_OFFSET + 3 * READ_AHEAD_BYTES)
    files = Fetching()
    yield files, SegmentReader(files, str(path), 1000)
    files.bury()


def test_a_sequential_reader_has_the_kernel_read_ahead(large: tuple[Fetching, SegmentReader]) -> None:
    files, reader = large
    step, end = 256 * 1024, 1000 + 3 * READ_AHEAD_BYTES
    for start in range(1000, end, step):
        assert len(reader.copy(start, start + 88)) == 88  # the header first, then what it names
        assert len(reader.copy(start, min(start + step, end))) == min(step, end - start)
    assert 3 <= len(files.fetched) <= 7, "in large steps"
    covered = 0
    for start, stop in files.fetched:
        assert start - fmt.DATA_OFFSET <= covered + step, "no hole between what is asked for"
        covered = stop - fmt.DATA_OFFSET
    assert covered >= 3 * READ_AHEAD_BYTES


def test_a_random_reader_fetches_nothing_ahead(large: tuple[Fetching, SegmentReader]) -> None:
    files, reader = large
    for at in (5_000_000, 9_000_000, 1000, 8_000_000, 20_000):
        assert len(reader.copy(at, at + 300)) == 300
    assert files.fetched == []


def test_what_the_device_cannot_read_is_not_there(large: tuple[Fetching, SegmentReader]) -> None:
    """An error, never a signal: a mapping would end the process."""
    files, reader = large
    files.fail("pread", errno.EIO)
    assert reader.record(1000) is None and reader.copy(1000, 1100) == b""
    files.heal()
    assert len(reader.copy(1000, 1100)) == 100
    assert reader.record(0) is None, "the blocks before the first record are no records"
