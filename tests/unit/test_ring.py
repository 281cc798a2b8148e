"""The ring: true bytes or "lapped", never a mixture; with the floor cell as the seam where the writer runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import ring as ring_module
from raftlog_mp import shm
from raftlog_mp.ring import RingReader, RingWriter

RING_BYTES = 4096


class Cell:
    """A floor cell in plain memory."""

    def __init__(self) -> None:
        self.value = 0

    def load(self, order: int) -> int:
        return self.value

    def store(self, value: int, order: int) -> None:
        self.value = value


class SteppedCell(Cell):
    """Runs ``step`` before the n-th load: between two of the reader's own steps, another process moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.loads, self.at, self.step = 0, -1, lambda: None

    def arm(self, at: int, step: Callable[[], None]) -> None:
        self.loads, self.at, self.step = 0, at, step

    def load(self, order: int) -> int:
        if self.loads == self.at:
            self.step()
        self.loads += 1
        return self.value


@pytest.fixture
def mapping(tmp_path) -> Iterator[shm.Mapping]:
    mapping = shm.create_file(str(tmp_path / "ring"), RING_BYTES)
    yield mapping
    mapping.close()


def record(position: int, body: bytes) -> bytes:
    return fmt.pack_record_header(fmt.crc32c(body), len(body), 1, 1, 9, 1, 1, 1, position, 0, 0, 0) + body


# ---------------------------------------------------------------- plain
def test_every_offset_and_length_wraps_right(mapping: shm.Mapping) -> None:
    cell = Cell()
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    random_bytes, position, stream = random.Random(1), 0, b""
    while position < 5 * RING_BYTES:
        data = random_bytes.randbytes(random_bytes.choice([1, 7, 88, 1000, RING_BYTES // 2, RING_BYTES]))
        writer.write(position, data)
        stream, position = stream + data, position + len(data)
        assert cell.value == writer.floor == max(0, position - RING_BYTES)
        for _ in range(20):
            start = random_bytes.randint(max(0, position - RING_BYTES), position)
            end = random_bytes.randint(start, position)
            assert reader.copy(start, end) == stream[start:end]
            pieces = writer.slices(start, end)
            assert b"".join(pieces) == stream[start:end] and len(pieces) <= 2
            for piece in pieces:
                piece.release()


def test_what_lies_below_the_floor_is_not_served(mapping: shm.Mapping) -> None:
    cell = Cell()
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    writer.write(0, bytes(RING_BYTES))
    writer.write(RING_BYTES, b"xyz")
    assert reader.copy(2, 10) is None and reader.record(2) is None
    assert reader.copy(3, 10) == bytes(7)
    assert reader.copy(RING_BYTES, 2 * RING_BYTES + 1) is None, "longer than the ring"


def test_skip_to_hides_everything_before(mapping: shm.Mapping) -> None:
    cell = Cell()
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    writer.skip_to(1000)
    assert reader.copy(999, 1001) is None and reader.copy(1000, 1001) == b"\0"


@pytest.mark.parametrize("offset", [*range(RING_BYTES - 100, RING_BYTES), 0, 17])
def test_record_at_every_place_of_the_seam(mapping: shm.Mapping, offset: int) -> None:
    """Header, body, or neither wraps."""
    cell = Cell()
    position = RING_BYTES + offset
    writer, reader = RingWriter(mapping, cell, position), RingReader(mapping, cell)
    writer.skip_to(position)
    writer.write(position, record(position, b"body"))
    found = reader.record(position)
    assert found is not None
    assert found[1] == b"body" and found[0][11] == position


# ---------------------------------------------------------------- a writer that runs between the reader's steps
READS: list[Callable[[RingReader, int, int], object]] = [
    lambda reader, start, end: reader.copy(start, end),
    lambda reader, start, end: (found := reader.record(start)) and found[1],
]


class FloorAfterBytes(RingWriter):
    """Broken on purpose: it overwrites first and raises the floor afterwards."""

    def write(self, position: int, data: bytes) -> None:
        offset, room = position % self.ring_bytes, self.ring_bytes - position % self.ring_bytes
        self._data[offset : offset + min(len(data), room)] = data[:room]
        self._data[: max(0, len(data) - room)] = data[room:]
        self.after_bytes()
        self.floor = max(self.floor, position + len(data) - self.ring_bytes)
        self._floor_cell.store(self.floor, shm.SEQ_CST)

    def after_bytes(self) -> None:
        """Where the harness stops it."""


class Stopped(Exception):
    """The writer was stopped between its own two steps."""


def false_reads(mapping: shm.Mapping, make: Callable[..., RingWriter], read: Callable[..., object]) -> int:
    """Reads that returned bytes that were never at their place, over every interleaving of one overwrite.

    The overwriting writer runs whole, or only up to any of its own steps, before each load of the floor.
    """
    wrong = 0
    for at in range(3):  # before the first look, between copy and second look, after it
        for stop_at in (None, "store", "fence", "bytes"):
            cell = SteppedCell()
            writer, reader = make(mapping, cell, 0), RingReader(mapping, cell)
            true = b"".join(record(n * 1024, b"%d" % n * (1024 - fmt.RECORD_BYTES)) for n in range(4))
            writer.write(0, true)
            writer.floor = cell.value = 0
            cell.arm(at, lambda writer=writer, stop_at=stop_at: overwrite(writer, stop_at))
            try:
                found = read(reader, 0, 1024)
            except Exception:
                found = b"garbage"  # decoding overwritten bytes
            if found is not None and found not in true:
                wrong += 1
    return wrong


def overwrite(writer: RingWriter, stop_at: str | None) -> None:
    """One lap on, stopped by an exception at one of the writer's steps."""
    def stop(*_: object) -> None:
        raise Stopped

    original = ring_module.shm.fence
    if stop_at == "store":
        writer._floor_cell.store = stop  # type: ignore[method-assign]
    if stop_at == "fence":
        ring_module.shm.fence = stop  # type: ignore[assignment]
    if stop_at == "bytes" and isinstance(writer, FloorAfterBytes):
        writer.after_bytes = stop  # type: ignore[method-assign]
    try:
        writer.write(RING_BYTES, b"\xee" * 2048)
    except Stopped:
        pass
    finally:
        ring_module.shm.fence = original


@pytest.mark.parametrize("read", READS)
def test_a_lapped_read_is_none_at_every_interleaving(mapping: shm.Mapping, read: Callable[..., object]) -> None:
    assert false_reads(mapping, RingWriter, read) == 0


@pytest.mark.parametrize("read", READS)
def test_overwritten_between_copy_and_second_look(mapping: shm.Mapping, read: Callable[..., object]) -> None:
    cell = SteppedCell()
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    writer.write(0, record(0, b"true bytes"))
    cell.arm(1, lambda: writer.write(RING_BYTES, b"\xee" * 512))
    assert read(reader, 0, fmt.RECORD_BYTES + 10) is None
    assert cell.loads == 2, "the writer ran between copy and check"


@pytest.mark.parametrize("read", READS)
def test_control_a_floor_raised_after_the_bytes_is_caught(mapping: shm.Mapping, read) -> None:  # type: ignore[no-untyped-def]
    assert false_reads(mapping, FloorAfterBytes, read) > 0


@pytest.mark.parametrize("read", READS)
def test_control_a_reader_that_looks_only_once_is_caught(mapping: shm.Mapping, read) -> None:  # type: ignore[no-untyped-def]
    class LooksOnce(SteppedCell):
        def load(self, order: int) -> int:
            return 0 if self.loads > 1 else super().load(order)

    cell = LooksOnce()
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    writer.write(0, record(0, b"true bytes"))
    cell.arm(0, lambda: writer._data.__setitem__(slice(0, 512), b"\xee" * 512))
    try:
        found = read(reader, 0, 20)
    except Exception:
        found = b"garbage"
    assert found is not None and found not in record(0, b"true bytes")
