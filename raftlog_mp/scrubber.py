"""The scrubber: reads sealed segments again, slowly, so that rot is found while other copies still exist.

A thread of the writer reads and checks.  It touches files only, by reads that go past the page cache, and maps none.
What it finds goes into a queue.  The writer's main thread, which owns all state, empties the queue now and then: it
knows which segments still belong to the log, and it alone tells the counters and the writer's log.

Why a thread: a read may take as long as the disk likes, and the main thread has appends to answer.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from crc32c import crc32c

from . import format as fmt
from . import shm, wakeup
from .catalog import SegmentInfo
from .control import Control
from .device import ALIGNMENT, DeviceFile
from .errors import VersionMismatch
from .files import join
from .index import pack_slot
from .manifest import Manifest

logger = logging.getLogger(__name__)

SLICE_BYTES_MAX = 64 * 1024  # read at once
SLICES_A_SECOND = 16  # so that a slow rate is many small reads and not a few large ones
PASS_SECONDS_MIN = 1.0  # from the start of one pass to that of the next: a small log is not read without a break
Open = Callable[[str, int], DeviceFile]


class Damage(NamedTuple):
    """A place in a file of a sealed segment that is not as it was written."""

    segment_id: int
    file: str
    offset: int
    first_index: int | None  # entries concerned; None: none, the file can be rebuilt
    last_index: int | None
    what: str


class Stream:
    """The bytes of one file in order, a window of them at a time.  ``pace(count)`` is called after each read."""

    def __init__(self, path: str, slice_bytes: int, opener: Open, pace: Callable[[int], None]) -> None:
        self._file, self._slice_bytes, self._pace = opener(path, slice_bytes), slice_bytes, pace
        self.data, self.base, self.read_to = b"", 0, 0  # the window, its offset in the file, and where it ends

    def more(self, keep: int) -> bool:
        """Let go of what lies before offset ``keep`` and read the next slice; False at the end of the file."""
        piece = b""
        if self.read_to % self._slice_bytes == 0:  # else the last slice was short: that was the end
            piece = self._file.read(self.read_to)
            self._pace(len(piece))
        self.data, self.base = self.data[keep - self.base :] + piece, keep
        self.read_to += len(piece)
        return bool(piece)

    def seek(self, offset: int) -> None:
        """Read anew from the slice that holds ``offset`` on."""
        self.base = self.read_to = offset // self._slice_bytes * self._slice_bytes
        self.data = b""

    def checksum(self, start: int, end: int) -> int:
        """Checksum of ``[start, end)``, however long, in a window of one slice; -1 if the file ends before."""
        crc, at = 0, start
        while at < end:
            low = at - self.base
            piece = self.data[low : end - self.base]
            crc, at = crc32c(piece, crc), at + len(piece)
            if at < end and not self.more(at):
                return -1
        return crc

    def close(self) -> None:
        """Give the descriptor back."""
        self._file.close()


class Inspection:
    """One sealed segment and the files beside it, checked once."""

    def __init__(self, directory: str, log_id: int, info: SegmentInfo, found: Callable[[Damage], None]) -> None:
        self._directory, self._info, self._found = directory, info, found
        self._identity = (log_id, info.segment_id, info.generation, info.base_index)
        self._name, self._shift = fmt.segment_name(info.segment_id), fmt.DATA_OFFSET - info.start
        self._next_index, self._term = info.base_index, info.previous_term
        self._slots, self._slots_crc = 0, 0  # of the index, as the records have it
        self._sound = True

    def run(self, slice_bytes: int, opener: Open, pace: Callable[[int], None]) -> None:
        """Read everything and report to ``found``."""
        index, runs = fmt.index_name(self._info.segment_id), fmt.terms_name(self._info.segment_id)
        for file, check in ((self._name, self._segment), (index, self._index), (runs, self._runs)):
            stream = None
            try:
                stream = Stream(join(self._directory, file), slice_bytes, opener, pace)
                check(stream, file)
            except FileNotFoundError:
                if file == self._name:  # the others are caches, which a crash or a full disk may have taken
                    self._tell(0, "it is missing", self._next_index, self._info.last_index)
            except OSError as error:
                self._tell_file(file, stream.read_to if stream else 0, f"it cannot be read ({error.strerror})")
            finally:
                if stream is not None:
                    stream.close()

    def _tell(self, offset: int, what: str, first: int, last: int | None) -> None:
        self._sound = False
        self._found(Damage(self._info.segment_id, self._name, offset, first, last, what))

    def _tell_file(self, file: str, offset: int, what: str) -> None:
        if file == self._name:
            self._tell(offset, what, self._next_index, self._info.last_index)
        else:
            self._found(Damage(self._info.segment_id, file, offset, None, None, what))

    # ------------------------------------------------------------ the segment
    def _segment(self, stream: Stream, name: str) -> None:
        info = self._info
        while len(stream.data) < fmt.DATA_OFFSET and stream.more(0):
            pass
        header = _parsed(fmt.read_segment_header, stream.data, name)
        seal = _parsed(fmt.read_seal, stream.data[fmt.SEAL_OFFSET : fmt.DATA_OFFSET], name)
        if header is None or header[:5] != (*self._identity, info.start):
            self._tell_file(name, 0, "the header fails its checksum, or is that of another segment")
        # A truncation lowers what the manifest counts; the file and its seal stay as they were.
        if seal is None or seal[:5] != (*self._identity, info.end) or seal.last_index < (info.last_index or 0):
            self._tell_file(name, fmt.SEAL_OFFSET, "the seal fails its checksum, or contradicts the manifest")
        at, end = fmt.DATA_OFFSET, (info.end or 0) + self._shift
        while at < end:
            bad = self._records(stream, at, end)
            at = end if bad is None else self._behind(stream, bad, end)
        if self._sound and seal is not None and self._next_index != seal.last_index + 1:
            self._tell_file(name, end, f"its entries do not end with {seal.last_index}, as its seal says")

    def _records(self, stream: Stream, at: int, limit: int) -> int | None:
        """Check records from offset ``at`` on; the offset of the first that is not right, or None."""
        unpack, header_bytes, crc_of = fmt.RECORD_HEADER.unpack_from, fmt.RECORD_BYTES, crc32c
        while at < limit:
            low = at - stream.base
            if low + header_bytes > len(stream.data):
                if not stream.more(at):
                    return at
                continue
            data = stream.data
            fields = unpack(data, low)
            body, end = at + header_bytes, at + header_bytes + fields[3]
            header_crc = crc_of(data[low + 8 : low + header_bytes])
            if header_crc != fields[1] or end > limit or not self._continues(fields, at):
                return at
            if end - stream.base <= len(data):
                crc = crc_of(data[low + header_bytes : end - stream.base])
            else:
                crc = stream.checksum(body, end)
            if crc != fields[2]:
                return at
            count = fields[4]
            if count:
                self._slots_crc = crc_of(pack_slot(fields[11]) * count, self._slots_crc)
                self._slots += count
            self._next_index, self._term, at = fields[9] + count, fields[10], end
        return None

    def _continues(self, fields: tuple[Any, ...], at: int) -> bool:
        """Whether a header belongs here: this log, this place in stream and log, a term that does not fall."""
        return bool(
            fields[0] == fmt.RECORD_MAGIC and fields[11] + self._shift == at and fields[9] == self._next_index
            and fields[10] >= self._term and fields[7] == self._identity[0]
            and fields[8] <= self._identity[2]  # older only where recovery carried records from the ring
            and (fields[4] > 0) == (fields[5] == fmt.KIND_ENTRIES)
        )  # fmt: skip

    def _behind(self, stream: Stream, bad: int, end: int) -> int:
        """Tell that the record at ``bad`` is damaged; the offset of the next one that stands at its own position."""
        first, at = self._next_index, bad + 1
        if stream.base > bad:  # a long body was read: its bytes are searched, too
            stream.seek(bad)
        while at < end:
            low = stream.data.find(fmt.RECORD_MAGIC, max(at - stream.base, 0))
            if low < 0:  # the magic may begin in the last three bytes
                at = max(at, stream.read_to - len(fmt.RECORD_MAGIC) + 1)
            else:
                at = stream.base + low
            if low < 0 or low + fmt.RECORD_BYTES > len(stream.data):
                if not stream.more(min(at, stream.read_to)):
                    break
                continue
            record = fmt.read_record_header(stream.data, low)
            if record is not None and record.position + self._shift == at and record.base_index >= first:
                self._next_index, self._term = record.base_index, record.term
                self._tell(bad, "a record fails its checksum", first, record.base_index - 1)
                return at
            at += 1
        self._tell(bad, "a record fails its checksum or is missing, and none follows it", first, self._info.last_index)
        return end

    # ------------------------------------------------------------ beside it
    def _index(self, stream: Stream, name: str) -> None:
        """The sealed index: its own checksums, and that it says what the records say."""
        stream.more(0)
        header = _parsed(fmt.read_index_header, stream.data, name)
        crc, at = 0, fmt.INDEX_HEADER_BYTES
        while at < stream.read_to:
            crc, at = crc32c(stream.data[at - stream.base :], crc), stream.read_to
            stream.more(at)
        slots = (at - fmt.INDEX_HEADER_BYTES) // fmt.SLOT_BYTES
        log_id, number, _, base_index = self._identity
        if header != (log_id, number, base_index, slots, crc):
            self._tell_file(name, 0, "the index fails its checksum")
        elif self._sound and (slots, crc) != (self._slots, self._slots_crc):
            self._tell_file(name, fmt.INDEX_HEADER_BYTES, "the index contradicts the records")

    def _runs(self, stream: Stream, name: str) -> None:
        """The sealed term runs."""
        while stream.more(0):
            pass
        found = _parsed(lambda raw, what: fmt.read_document(fmt.TERMS_MAGIC, raw, what), stream.data, name)
        if found is None or (found.get("log_id"), found.get("segment_id")) != self._identity[:2]:
            self._tell_file(name, 0, "the term runs fail their checksum")


def _parsed(parse: Callable[[bytes, str], Any], raw: bytes, what: str) -> Any:
    """What ``parse`` makes of the bytes; None for a "newer" version: this log's own writers wrote it, so it is rot."""
    try:
        return parse(raw, what)
    except (VersionMismatch, ValueError):
        return None


class _Stop(Exception):
    """The writer ends."""


class _Gone(Exception):
    """The segment was purged or replaced: its file must not be held open, or its space would not come back."""


class Scrubber:
    """Checks all sealed segments again and again, in a thread of its own, at a rate of bytes a second."""

    def __init__(self, directory: str, log_id: int, bytes_per_s: int, *, opener: Open = DeviceFile) -> None:
        self._directory, self._log_id, self._rate, self._open = directory, log_id, bytes_per_s, opener
        slices = bytes_per_s // SLICES_A_SECOND // ALIGNMENT * ALIGNMENT
        self._slice_bytes = min(max(slices, ALIGNMENT), SLICE_BYTES_MAX)
        self._due = 0.0
        self._stopping = threading.Event()
        self._found: queue.SimpleQueue[Damage] = queue.SimpleQueue()
        self._told: set[tuple[str, int]] = set()
        # Each is written by one thread; the other takes the reference, or the number, as it is.
        self._segments: list[SegmentInfo] = []
        self._looked_at: list[SegmentInfo] | None = None  # the list that still had the segment being checked
        self._bytes = self._passes = 0
        self._thread = threading.Thread(target=self._run, name="raftlog-scrub", daemon=True)

    # ------------------------------------------------------------ the thread
    def _run(self) -> None:
        try:
            while True:
                began = self._due = wakeup.now()
                sealed = [info for info in self._segments if info.sealed]
                for info in sealed:
                    self._scrub(info)
                self._passes += bool(sealed)
                self._wait(began + PASS_SECONDS_MIN - wakeup.now())
        except _Stop:
            pass

    def _scrub(self, info: SegmentInfo) -> None:
        """Check one segment, as long as the log has it."""
        self._looked_at = None
        try:
            self._check_listed(info)
            inspection = Inspection(self._directory, self._log_id, info, self._found.put)
            inspection.run(self._slice_bytes, self._open, lambda count: self._pace(info, count))
        except _Gone:
            pass

    def _check_listed(self, info: SegmentInfo) -> None:
        segments = self._segments
        if segments is not self._looked_at:
            if not any(info.segment_id == one.segment_id for one in segments):
                raise _Gone
            self._looked_at = segments

    def _pace(self, info: SegmentInfo, count: int) -> None:
        """Wait until ``count`` bytes may have taken this long; time that was lost is not made up for."""
        self._bytes += count
        self._check_listed(info)
        now = wakeup.now()
        self._due = max(self._due, now - 1.0) + count / self._rate
        self._wait(self._due - now)

    def _wait(self, seconds: float) -> None:
        if self._stopping.wait(max(seconds, 0.0)):
            raise _Stop

    # ------------------------------------------------------------ the writer's main thread
    def start(self) -> None:
        """Begin; :meth:`tend` has said which segments there are."""
        self._thread.start()

    def tend(self, manifest: Manifest, control: Control) -> None:
        """Hand over the list of segments as it is now; take what was found, tell it, and count."""
        self._segments = manifest.segments
        while not self._found.empty():
            damage = self._found.get()
            if (damage.file, damage.offset) not in self._told and concerns(damage, manifest):
                self._told.add((damage.file, damage.offset))
                logger.error("%s", sentence(damage, self._directory))
                control.damaged_segment.store(damage.segment_id, shm.RELAXED)
                control.damaged_offset.store(damage.offset, shm.RELAXED)
                control.scrub_damage.store(len(self._told), shm.RELEASE)
        control.scrubbed_bytes.store(self._bytes, shm.RELAXED)
        control.scrub_passes.store(self._passes, shm.RELAXED)

    def close(self) -> None:
        """End the thread and wait for it."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()


def concerns(damage: Damage, manifest: Manifest) -> bool:
    """Whether the log still needs what is damaged: not purged, replaced or cut off meanwhile, nor known to be lost."""
    info = next((one for one in manifest.segments if one.segment_id == damage.segment_id), None)
    if info is None:
        return False
    first, last = damage.first_index, damage.last_index
    if first is None or last is None:
        return True
    if first <= last and (last <= manifest.purged_index or first > (info.last_index or 0)):
        return False
    return not any(row[2:] == [damage.segment_id, damage.offset] for row in getattr(manifest, "lost", ()))


def sentence(damage: Damage, directory: str) -> str:
    """What was found, where, what it means, and what to do next."""
    first, last = damage.first_index, damage.last_index
    if first is None or last is None:
        effect = "no entry is lost: readers rebuild this file in memory, `raftlog-mp repair` on disk"
    elif first <= last:
        which = f"entry {first}" if first == last else f"entries {first} to {last}"
        effect = f"{which} may be unreadable, everything else is served"
    else:
        effect = "no entry is known to be concerned"
    return (
        f"the scrubber found damage in {join(directory, damage.file)} at offset {damage.offset}: {damage.what}; "
        f"{effect}. Run `raftlog-mp check {directory}` to see all of it."
    )
