"""The ring: true bytes or "lapped", never a mixture; with the floor cell as the seam where the writer runs."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import ring as ring_module
from raftlog_mp import shm
from raftlog_mp.ring import RingReader, RingWriter
from raftlog_mp.types import Entry

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


# ---------------------------------------------------------------- the short way to one entry
class Short:
    """A short way to entries 1..3 at the positions given, and what it hands on to the long way."""

    def __init__(self, reader: RingReader, positions: list[int], *, low: int = 1, upto: int = 3) -> None:
        self.handed_on: list[object] = []
        self.link, self.version = SimpleNamespace(view=self), 7
        slots = memoryview(b"".join(position.to_bytes(8, "little") for position in positions)).cast("Q")
        self.get, self.reach = reader.short_way(
            self.link, self, lambda _order: self.version, 7, low, upto, 1, slots, self.hand_on
        )

    def hand_on(self, index: object) -> None:
        self.handed_on.append(index)


def lone(position: int, index: int, body: bytes, count: int = 1) -> bytes:
    return fmt.pack_record_header(fmt.crc32c(body), len(body), count, 1, 9, 1, index, 4, position, 0, 0, 0) + body


@pytest.mark.parametrize("newest", [b"three", b"333", b""], ids=["guessed wrong", "guessed right", "empty"])
def test_the_short_way_serves_lone_entries_and_hands_on_the_rest(mapping: shm.Mapping, newest: bytes) -> None:
    cell = Cell()
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    writer.write(0, lone(0, 1, b"111") + lone(91, 2, b"\x92\xc4\x01a\xc4\x01b", count=2) + lone(186, 3, newest))
    short = Short(reader, [0, 91, 186])
    assert short.get(1) == Entry(4, 1, b"111") and short.get(3) == Entry(4, 3, newest) and short.handed_on == []
    strangers: list[Any] = [0, 2, 4, True, 1.0, "1", None]
    assert [short.get(index) for index in strangers] == [None] * 7
    assert short.handed_on == strangers
    for change in ("version", "view"):
        short = Short(reader, [0, 91, 186])
        setattr(*((short, "version", 8) if change == "version" else (short.link, "view", None)))
        assert short.get(1) is None and short.handed_on == [1], "a newer map, or another view"
    misled = Short(reader, [186, 0, 0])
    assert misled.get(1) is None and misled.get(2) is None and misled.handed_on == [1, 2], "not what the slot promised"
    part = Short(reader, [0, 91, 186], low=2, upto=1)
    assert part.get(3) is None
    part.reach(3)
    assert part.get(3) == Entry(4, 3, newest) and part.get(1) is None and part.handed_on == [3, 1]


@pytest.mark.parametrize("guess", [1, 4, 9])
def test_the_short_way_at_every_place_of_the_seam(mapping: shm.Mapping, guess: int) -> None:
    """What wraps is handed on, and never served in part."""
    for offset in (*range(RING_BYTES - 100, RING_BYTES), 0, 17):
        newest, position = RING_BYTES + 500, 2 * RING_BYTES + offset
        cell = Cell()
        writer, reader = RingWriter(mapping, cell, newest), RingReader(mapping, cell)
        writer.write(newest, lone(newest, 3, b"x" * guess))
        short = Short(reader, [position, position, newest])
        cell.value = writer.floor = RING_BYTES + 1000
        writer.write(position, lone(position, 1, b"body"))
        wraps = offset + fmt.RECORD_BYTES + max(guess, 4) > RING_BYTES
        assert (short.get(1), short.handed_on) == ((None, [1]) if wraps else (Entry(4, 1, b"body"), []))


@pytest.mark.parametrize("honest", [True, False], ids=["", "control"])
@pytest.mark.parametrize("guess", [4, 10])
def test_the_short_way_is_overwritten_at_each_of_its_steps(
    mapping: shm.Mapping, monkeypatch: pytest.MonkeyPatch, guess: int, honest: bool
) -> None:
    """Before the header is read, between header and body, before the floor is looked at; the control never looks."""
    cell, steps, false = Cell(), [], 0
    decoder = fmt.lone_record

    def stepped(body_bytes: int) -> object:
        def unpack_from(*args: object) -> object:
            found = decoder(body_bytes).unpack_from(*args)  # type: ignore[arg-type]
            steps.pop()()
            return found

        return SimpleNamespace(unpack_from=unpack_from)

    monkeypatch.setattr(fmt, "lone_record", stepped)
    writer, reader = RingWriter(mapping, cell, 0), RingReader(mapping, cell)
    for damage in (lone(RING_BYTES, 9, b"later....."), b"\xee" * 200, lone(RING_BYTES, 1, b"later.....")):
        cell.value = writer.floor = 0
        writer.write(0, lone(0, 1, b"true bytes") + lone(98, 3, b"x" * guess))
        if not honest:
            reader.floor = lambda _order: 0
        short = Short(reader, [0, 98, 98])
        steps.append(lambda damage=damage: writer.write(RING_BYTES, damage))
        found = short.get(1)
        false += found not in (None, Entry(4, 1, b"true bytes"))
        assert not honest or (found is None and short.handed_on == [1])
    assert bool(false) == (not honest and guess == 4), "with a right guess, header and body are one copy"
