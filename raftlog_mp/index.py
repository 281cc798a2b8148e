"""The index: entry index -> stream position of the record that holds it.  Dense, 8 bytes an entry.

Slots are write-once.  The active segment's index is a shared file of fixed capacity; a sealed segment's
is a checksummed file beside it, which is read and never mapped.  Both are caches: they can always be rebuilt from the
records.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import overload

from crc32c import crc32c

from . import format as fmt
from . import shm
from .errors import VersionMismatch
from .files import Files

pack_slot = struct.Struct("<Q").pack
_unpack_slot = struct.Struct("<Q").unpack

READ_BYTES = 1 << 20  # of a sealed index at once, while it is proved
KEPT_BYTES = 256 * 1024  # of a sealed index that is held in memory; of a larger one, blocks are read as they are needed
BLOCK_BITS = 9  # 512 slots to a block, and the one behind them: 4 KiB cost one pread little more than 8 bytes do
KEPT_BLOCKS = 1024  # of all indexes of a handle: 4 MiB
WHOLE_BITS = 48  # no index has as many slots: all of them are one block
_LOW_BITS = (1 << BLOCK_BITS) - 1
UNKNOWN = -1  # a position that lies before every ring and every segment: nothing is ever found there


class ActiveIndex:
    """The writer's side of the active segment's index."""

    def __init__(self, path: str, base_index: int, slots: int) -> None:
        self.path = path
        self.base_index = base_index
        self.slots = slots
        self._mapping = shm.create_file(path, max(slots, 1) * fmt.SLOT_BYTES)

    def write(self, index: int, slots: bytes) -> None:
        """Store slots from entry ``index`` on.  Not yet visible: readers look only below the published index."""
        at = (index - self.base_index) * fmt.SLOT_BYTES
        self._mapping.data[at : at + len(slots)] = slots

    def used(self, last_index: int) -> bytes:
        """The slots up to ``last_index``, for the sealed file."""
        return self._mapping.data[: (last_index + 1 - self.base_index) * fmt.SLOT_BYTES]

    def close(self) -> None:
        """Unmap and remove the name; readers that map it keep it."""
        self._mapping.close()
        shm.remove(self.path)


Block = Sequence[int]
Blocks = tuple[list[Block | None], int, Callable[[int], Block]]


class BlockKeeper:
    """Which blocks of sealed indexes are held in memory: a bounded number, of which the oldest goes first.

    Without a lock: each step is one operation of a list or a deque, and whoever reads a block holds it.  A block is
    noted after it is put down, so each that is there is noted or about to be; one that two threads put down is let go
    of twice, which is once too often and never once too few.
    """

    def __init__(self) -> None:
        self._kept: deque[tuple[list[Block | None], int]] = deque()

    def keep(self, blocks: list[Block | None], number: int, block: Block) -> None:
        """Put ``block`` where it belongs, and let go of an older one if there are too many."""
        blocks[number] = block
        self._kept.append((blocks, number))
        if len(self._kept) > KEPT_BLOCKS:
            oldest, number = self._kept.popleft()
            oldest[number] = None

    def __len__(self) -> int:
        return len(self._kept)


class IndexReader:
    """Positions by entry index, from any of the three places they live in."""

    def __init__(self, base_index: int, slots: memoryview | _SlotsOnDisk, mapping: shm.Mapping | None = None) -> None:
        self.base_index = base_index
        self.slots = slots
        # For a loop that cannot afford a call: slot ``at`` and the one behind it are items ``at & ((1 << bits) - 1)``
        # and the next of ``blocks[at >> bits]``, or where that is None, of ``load(at >> bits)``.
        self.blocks: Blocks
        if isinstance(slots, _SlotsOnDisk):
            self.blocks = slots.blocks, BLOCK_BITS, slots.load
        else:
            self.blocks = [slots], WHOLE_BITS, lambda _: slots
        self._mapping = mapping  # keeps the memory alive as long as the slots

    def close(self) -> None:
        """Let go of the memory."""
        self.slots.release()
        if self._mapping is not None:
            self._mapping.close()


class _SlotsOnDisk(Sequence[int]):
    """The slots of a sealed index that is too large to be held: read by blocks, some of which stay in memory.

    Not a mapping: a block that the device cannot read any more ends the process there (SIGBUS).  Here its slots are
    ``UNKNOWN``; whoever misses the record then takes the index for damaged and has it made anew.
    """

    def __init__(self, files: Files, fd: int, count: int, keeper: BlockKeeper) -> None:
        self._files, self._fd, self._count, self._keeper = files, fd, count, keeper
        self.blocks: list[Block | None] = [None] * ((count >> BLOCK_BITS) + 1)

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, at: int) -> int: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[int]: ...
    def __getitem__(self, at: int | slice) -> int | Sequence[int]:
        if isinstance(at, slice):
            return [self[one] for one in range(*at.indices(self._count))]
        if not 0 <= at < self._count:
            raise IndexError(f"slot {at} of {self._count}")
        number = at >> BLOCK_BITS
        return (self.blocks[number] or self.load(number))[at & _LOW_BITS]

    def load(self, number: int) -> Block:
        """A block and the slot behind it, from now on in memory if all of it can be read."""
        first = number << BLOCK_BITS
        count = min((1 << BLOCK_BITS) + 1, self._count - first)
        try:
            data = self._files.pread(self._fd, 8 * count, fmt.INDEX_HEADER_BYTES + 8 * first)
        except OSError:
            data = b""
        if len(data) < 8 * count:
            return [self._slot(first + at) for at in range(count)]
        block = memoryview(data).cast("Q")
        self._keeper.keep(self.blocks, number, block)
        return block

    def _slot(self, at: int) -> int:
        """One, beside others that cannot be read: that may concern a part of a block only."""
        try:
            slot: int = _unpack_slot(self._files.pread(self._fd, 8, fmt.INDEX_HEADER_BYTES + 8 * at))[0]
        except (OSError, struct.error):
            return UNKNOWN  # unreadable, or cut off
        return slot

    def release(self) -> None:
        """Give the descriptor back."""
        fd, self._fd = self._fd, -1
        if fd != -1:
            self._files.close(fd)

    def __del__(self) -> None:
        self.release()  # evicted from a cache while another thread reads: it goes with its last user


def open_active(path: str, base_index: int) -> IndexReader:
    """Map the active segment's index read-only.  ``FileNotFoundError`` if the writer has moved on."""
    mapping = shm.open_file(path)
    return IndexReader(base_index, mapping.view().cast("Q"), mapping)


def open_sealed(
    files: Files, path: str, log_id: int, segment_id: int, base_index: int, count: int,
    keeper: BlockKeeper | None = None,
) -> IndexReader | None:  # fmt: skip
    """The sealed index at ``path``, or None if it is missing or not exactly right (then rebuild it).

    ``keeper``: of the blocks of a large one.
    """
    try:
        fd = files.open(path)
    except OSError:
        return None  # missing, or not to be read: a cache, made anew
    try:
        size = files.size(fd)
        header = fmt.read_index_header(files.pread(fd, fmt.INDEX_HEADER_BYTES, 0), path)
        if (
            header is None
            or header[:3] != (log_id, segment_id, base_index)
            or header.slots < count  # more, if the segment lost its end to a truncation
            or size != fmt.INDEX_HEADER_BYTES + header.slots * fmt.SLOT_BYTES
        ):
            return None
        piece, crc = b"", 0
        for offset in range(fmt.INDEX_HEADER_BYTES, size, READ_BYTES):
            piece = files.pread(fd, READ_BYTES, offset)
            crc = crc32c(piece, crc)
        if crc != header.slots_crc:
            return None
        if size <= KEPT_BYTES:
            return from_slots(base_index, piece)  # the one piece is all of it
        slots, fd = _SlotsOnDisk(files, fd, header.slots, BlockKeeper() if keeper is None else keeper), -1
        return IndexReader(base_index, slots)
    except (OSError, VersionMismatch):
        return None  # a cache: made anew, like one that is damaged
    finally:
        if fd != -1:
            files.close(fd)


def write_sealed(files: Files, path: str, log_id: int, segment_id: int, base_index: int, slots: bytes) -> None:
    """Put a sealed index beside its segment.  Not synced: if a crash tears it, its CRC says so and it is rebuilt."""
    header = fmt.IndexHeader(log_id, segment_id, base_index, len(slots) // fmt.SLOT_BYTES, crc32c(slots))
    files.write_cache(path, fmt.pack_index(header, slots))


def from_slots(base_index: int, slots: bytes) -> IndexReader:
    """An index in this process's own memory, rebuilt from a scan."""
    return IndexReader(base_index, memoryview(slots).cast("Q"))
