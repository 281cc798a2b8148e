"""Backup: a verified copy of a log, taken while its writer runs, or without one, after a crash too.

**Which moment.**  The copy is the log as it was at one moment after the call began: the manifest, and of the segment
that is being written everything that was durable or visible then.  So it holds whatever was acknowledged before the
call, in MemFirst also what was only in the ring.  What came later may be missing, and never a part from the middle.
The hard state is read last: it may be newer than the entries, never older.

**How.**  Bytes below a frontier never change, nor does a sealed segment, so nobody has to be asked or stopped.  If a
purge or truncation unlinks a segment meanwhile, the moment is chosen anew, and what was copied of segments that are
still listed is kept.  Bytes are read and written, not shared: a hard link is the same file, which repair or a stray
write would change in both places, and a reflink the same blocks, which rot in both.  The newest segment of the copy is
sealed where it ends, as recovery would; what a writer that was killed in mid-roll left in the ring alone gets a segment
of its own, as it would.  Indexes and term runs are made anew from the records that were proved.

**Never half a log.**  Segments are ``*.tmp`` until all of them are copied, synced and proved; the manifest is written
last.  A copy that was interrupted has none: it is no log.  A failed one removes what it wrote.

**Who the copy is.**  Its log id stays, as it stands in every record, and its ``uuid`` until it is started: the first
writer of a copy gives it a new one, and a new term to appends that say none, for from there on it is another history.
So a consumer that keeps the uuid beside its checkpoint knows, and to one that does not, no entry is ever given the id
of one that only the original had (:class:`Truncated` if its checkpoint is not in the copy). A copy made by other
means keeps its uuid: nothing tells it from a log that was moved. The exactly-once table comes along in the records.
The generation jumps by a random step and the shared memory folder is ``shm/`` of the copy, so what is left in memory
of the original, or of a writer that goes on there, is never taken for the copy's.

A Raft node that was restored from a copy has forgotten what it acknowledged and voted since: it has to join its group
as a new member.  The copy belongs to the user who makes it, as with ``cp``, and its files are 0600; nothing in the
log's own directory is written.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from crc32c import crc32c

from . import errors, hard_state, manifest, place, wakeup
from . import format as fmt
from .catalog import SegmentInfo
from .config import LogConfig
from .epilogue import describe_end
from .files import Files, PathLike, join, real_path
from .findings import Plan, expected_header, make_plan
from .index import write_sealed
from .moment import Moment, choose_moment
from .records import scan_segment
from .segment import seal_segment
from .terms import write_sealed_runs
from .types import HardState

PIECE_BYTES = 1 << 20
MOMENTS_MAX = 1000  # tries to find a moment whose segments can be copied before they go; each keeps what was copied
LEVELS_MAX = 64  # of directories above the target
GENERATION_STEPS = 1 << 20

Progress = Callable[[int, int], object]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Backup:
    """What a copy holds.  ``data_bytes``: of its segment files; ``verified``: every record was read back and proved
    (of a segment that repair has sealed around known damage: the bytes were compared)."""

    target: str
    uuid: str
    first_index: int
    last_index: int
    last_term: int
    commit_index: int
    hard_state: HardState
    segments: int
    data_bytes: int
    verified: bool
    lost_entries: int  # in holes that a repair had left: they are not in the copy either

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {**asdict(self), "hard_state": self.hard_state._asdict()}


def backup(directory: PathLike, target: PathLike, *, progress: Progress | None = None, verify: bool = True) -> Backup:
    """Copy the log at ``directory`` to ``target``, which must be empty or missing; changes nothing in ``directory``.

    ``progress(done_bytes, total_bytes)`` is called as it goes on.  ``verify=False`` leaves out reading sealed segments
    back and proving their records.  To restore: stop the writer, move the damaged directory away and a copy of
    ``target`` to its place.

    Raises :class:`NotALog`, :class:`CorruptLog` (start-up would refuse, or a record does not prove) and
    :class:`VersionMismatch` for ``directory``; :class:`ConfigError` for a target that is not empty or lies inside a
    log, :class:`AccessDenied`, :class:`DiskFull` and :class:`SyncFailed`.  Then all that was written is removed, but
    for the empty directory.
    """
    files, source, place_of_copy = Files(), real_path(directory), real_path(target)
    return make_copy(files, source, place_of_copy, progress=progress, verify=verify)


def make_copy(files: Files, directory: str, target: str, *, progress: Progress | None, verify: bool) -> Backup:
    """As :func:`backup`, with this door to the disk."""
    place.check_place(files, directory, create=False)
    moment = choose_moment(files, directory)
    _prepare_target(files, target)
    copy = _Copy(files, directory, target, progress, verify)
    try:
        with _told(target):
            return copy.make(moment)
    except BaseException:
        copy.remove()
        raise


@contextlib.contextmanager
def _told(target: str) -> Iterator[None]:
    """Errors of the target's file system in the library's words; those of the log's files never come here."""
    try:
        yield
    except OSError as error:
        if isinstance(error, errors.RaftLogError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            why = f"no space for the copy in {target}: it was removed; free space and try again"
            raise errors.DiskFull(why, errno=error.errno) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise errors.AccessDenied(f"the copy cannot be written to {target}: {error.strerror}") from error
        why = f"the copy could not be written to {target} ({error.strerror}): it was removed; the log was not touched"
        raise errors.SyncFailed(why, errno=error.errno) from error


def _bad_target(target: str, why: str) -> errors.ConfigError:
    allowed = "a directory that is empty or missing, outside of any log"
    return errors.ConfigError(f"{target} {why}; give {allowed}", field="target", value=target, allowed=allowed)


def _prepare_target(files: Files, target: str) -> None:
    there = target
    while not files.exists(there):
        there = there.rpartition("/")[0] or "/"
    if not files.is_dir(there):
        raise _bad_target(target, "is a file, or lies below one")
    for level in range(LEVELS_MAX):  # the kernel's "..": the true parents, whatever symbolic links stand in the path
        above = join(there, *[".."] * level)
        if files.exists(join(above, fmt.MANIFEST_NAME)) and files.exists(join(above, fmt.LOCK_NAME)):
            raise _bad_target(target, "lies inside a log" if level or there != target else "is a log")
    names = files.list_dir(target)
    if names:
        unfinished = any(name.endswith(fmt.TEMPORARY_SUFFIX) for name in names)
        what = "a copy that was not finished" if unfinished else names[0]
        raise _bad_target(target, f"is not empty: it holds {what}")
    place.prepare_directory(files, target)


# ---------------------------------------------------------------- the copy
class _Copy:
    """The copy while it is made."""

    def __init__(self, files: Files, directory: str, target: str, progress: Progress | None, verify: bool) -> None:
        self._files, self._directory, self._target = files, directory, target
        self._progress, self._verify = progress, verify
        self._found: Any = None  # the manifest of the moment
        self._made: list[str] = []  # names, so that a failure can take them away
        self._rows: dict[int, tuple[int, SegmentInfo]] = {}  # segment id -> end of what was copied, and its row
        self._done_bytes = self._total_bytes = 0

    def make(self, moment: Moment) -> Backup:
        """Copy, prove, and make it a log."""
        files = self._files
        try:
            # First of all, and exclusively: another backup to the same place stops here.
            files.close(files.open(join(self._target, fmt.LOCK_NAME), write=True, create=True, exclusive=True))
        except FileExistsError:
            raise _bad_target(self._target, "is being written by somebody else") from None
        self._made.append(fmt.LOCK_NAME)
        for _ in range(MOMENTS_MAX):
            try:
                rows = self._take(moment)
                break
            except errors.CorruptLog as error:
                listed = manifest.load(files, self._directory).segments
                if any(fmt.segment_name(info.segment_id) == error.segment for info in listed):
                    raise
                files.unlink(join(self._target, f"{error.segment}{fmt.TEMPORARY_SUFFIX}"))
            moment = choose_moment(files, self._directory)  # the segment was purged or replaced meanwhile
        else:
            raise errors.WriterUnavailable(f"{self._directory} kept changing while it was copied; try again")
        state, version = hard_state.load_version(files, self._directory)  # not older than the entries
        self._made += [fmt.HARD_STATE_NAME, fmt.HARD_STATE_NAME + fmt.TEMPORARY_SUFFIX]
        hard_state.create(files, self._target)
        hard_state.save(files, self._target, state, version)
        return self._finish(moment, rows, state)

    def _take(self, moment: Moment) -> list[SegmentInfo]:
        """Every segment of the moment, copied; rows as the copy's manifest states them."""
        self._found = moment.found
        newest = [] if moment.tail is None else [(moment.tail, moment.file_end, moment.ring)]
        if moment.behind is not None:
            newest = [self._end_of_its_own(moment, moment.behind)]
        parts = [(info, info.end or 0, b"") for info in moment.segments] + newest
        missing = [(info, end) for info, end, _ in parts if not self._has(info, end)]
        self._total_bytes = self._done_bytes + (1 + self._verify) * sum(info.size_due(end) for info, end in missing)
        rows = {}
        # Purges take the oldest: they are copied last, when it is known whether they are needed.  The newest segment
        # may still grow: it comes at the very end, or it might be copied again.
        for info, end, ring in [*reversed(parts[: len(moment.segments)]), *newest]:
            if not self._has(info, end):
                self._rows[info.segment_id] = end, self._copy_segment(info, end, ring)
            # A truncation may have clipped a segment since: its bytes stay the same, its row is the newer one.
            rows[info.segment_id] = info if info.sealed else self._rows[info.segment_id][1]
        return [rows[info.segment_id] for info, _, _ in parts]

    def _end_of_its_own(self, moment: Moment, plan: Plan) -> tuple[SegmentInfo, int, bytes]:
        """What the ring alone holds: a segment of the copy without one in the log, with the exactly-once table."""
        table = plan.producers.snapshot(LogConfig.from_dict(moment.found.config).ring_bytes // 4)
        listed = replace(moment.found, segments=moment.segments)
        info, data, _ = describe_end(listed, plan, table, start=plan.file_end)
        return info, info.start, data

    def _has(self, info: SegmentInfo, end: int) -> bool:
        return info.sealed and self._rows.get(info.segment_id, (None,))[0] == end

    def _advance(self, count: int) -> None:
        self._done_bytes += count
        if self._progress is not None:
            self._progress(min(self._done_bytes, self._total_bytes), self._total_bytes)

    def _copy_segment(self, info: SegmentInfo, end: int, ring: bytes) -> SegmentInfo:
        """The segment's file up to ``end``, and ``ring`` behind it: synced, proved, sealed."""
        files, name = self._files, fmt.segment_name(info.segment_id)
        path = join(self._target, name + fmt.TEMPORARY_SUFFIX)
        self._made.append(name + fmt.TEMPORARY_SUFFIX)
        files.close(files.open(path, write=True, create=True))
        with contextlib.ExitStack() as stack:
            fd = stack.enter_context(files.opened(path, write=True))
            if info.segment_id < self._found.next_segment_id:
                source = stack.enter_context(self._opened_source(name))
            else:  # the log has no file of it that counts
                source, head = None, fmt.pack_segment_header(expected_header(self._found, info))
                head = head.ljust(fmt.DATA_OFFSET, b"\0")
            at, size = 0, info.size_due(end)
            checksum, begun = 0, self._done_bytes
            while at < size:
                piece = head if source is None else self._read(source, name, min(PIECE_BYTES, size - at), at)
                files.pwrite(fd, piece, at)
                checksum, at = crc32c(piece, checksum), at + len(piece)
                self._advance(len(piece))
            files.pwrite(fd, ring, at)
            files.truncate(fd, at + len(ring))
            files.sync_all(fd)
            files.drop_cache(fd)  # what is read back comes from the device
            if any(segment_id == info.segment_id for _, _, segment_id, _ in self._found.live_lost()):
                row = self._compare(fd, info, checksum)
            else:
                row = self._prove(fd, info, end + len(ring))
            self._advance(begun + size * (1 + self._verify) - self._done_bytes)
            return row

    @contextlib.contextmanager
    def _opened_source(self, name: str) -> Iterator[int]:
        path = join(self._directory, name)
        try:
            fd = self._files.open(path)
        except FileNotFoundError:
            raise fmt.corrupt(f"{path} is missing", segment=name, offset=0) from None
        except OSError as error:
            raise errors.AccessDenied(f"{path} cannot be opened: {error.strerror}") from error
        try:
            yield fd
        finally:
            self._files.close(fd)

    def _read(self, fd: int, name: str, length: int, offset: int) -> bytes:
        path = join(self._directory, name)
        try:
            piece = self._files.pread(fd, length, offset)
        except OSError as error:
            raise fmt.corrupt(f"{path} cannot be read: {error.strerror}", segment=name, offset=offset) from error
        if len(piece) < length:
            raise fmt.corrupt(f"{path} is shorter than the manifest says", segment=name, offset=offset + len(piece))
        return piece

    def _compare(self, fd: int, info: SegmentInfo, checksum: int) -> SegmentInfo:
        """A segment that repair sealed around known damage cannot prove: the same bytes, and what leads to them."""
        files, found = self._files, 0
        for at in range(0, info.size_due(), PIECE_BYTES):
            found = crc32c(files.pread(fd, PIECE_BYTES, at), found)
            self._advance(min(PIECE_BYTES, info.size_due() - at) * self._verify)
        if found != checksum:
            name = fmt.segment_name(info.segment_id)
            raise fmt.corrupt(f"{self._target}: the copy of {name} is not what was written", segment=name, offset=0)
        for name in (fmt.index_name(info.segment_id), fmt.terms_name(info.segment_id)):
            try:
                cache = files.read_file(join(self._directory, name))
            except OSError:
                continue  # missing, or not to be read: whoever opens the copy makes it anew
            self._made += [name, name + fmt.TEMPORARY_SUFFIX]
            files.write_file(join(self._target, name), cache)
        return info

    def _prove(self, fd: int, info: SegmentInfo, end: int) -> SegmentInfo:
        """Read the copied segment back.  Its row, sealed; the seal is written if it is not there or not right."""
        files, name = self._files, fmt.segment_name(info.segment_id)
        header, path = expected_header(self._found, info), join(self._directory, name)
        if fmt.read_segment_header(files.pread(fd, fmt.BLOCK_BYTES, 0), path) != header:
            raise fmt.corrupt(f"{path}: the header of the segment is damaged", segment=name, offset=0)
        seal = fmt.read_seal(files.pread(fd, 512, fmt.SEAL_OFFSET), path)
        vouched = info.sealed and seal is not None and seal[:5] == (*header[:4], end)
        if vouched and not self._verify:
            return info
        copied, progress = join(self._target, name + fmt.TEMPORARY_SUFFIX), self._advance if self._verify else None
        scan = scan_segment(copied, files=files, header=header, limit=end, progress=progress)
        if scan.good_end != end or scan.damaged or scan.unreadable or scan.last_index < (info.last_index or 0):
            raise fmt.corrupt(
                f"{path}: the record at offset {scan.good_offset}, behind entry {scan.last_index}, does not prove",
                segment=name, offset=scan.good_offset, first_index=scan.last_index + 1, last_index=info.last_index,
                term=scan.last_term,
            )  # fmt: skip
        row = info if info.sealed else info.finished(end, scan.last_index, scan.last_term)
        if not vouched:
            seal_segment(files, fd, header, end, scan.last_index, scan.last_term)
        index, terms = fmt.index_name(info.segment_id), fmt.terms_name(info.segment_id)
        self._made += [index, terms, index + fmt.TEMPORARY_SUFFIX, terms + fmt.TEMPORARY_SUFFIX]
        log_id, segment_id, base_index = header.log_id, header.segment_id, header.base_index
        write_sealed(files, join(self._target, index), log_id, segment_id, base_index, scan.slots.tobytes())
        write_sealed_runs(files, join(self._target, terms), log_id, segment_id, scan.runs)
        return row

    def _finish(self, moment: Moment, rows: list[SegmentInfo], state: HardState) -> Backup:
        """Names, directory, manifest: with the last of them the copy is a log."""
        files, found, kept = self._files, moment.found, {info.segment_id for info in rows}
        for segment_id in set(self._rows) - kept:  # purged or replaced while it was copied
            segment = fmt.segment_name(segment_id) + fmt.TEMPORARY_SUFFIX
            for name in (fmt.index_name(segment_id), fmt.terms_name(segment_id), segment):
                files.unlink(join(self._target, name))
        last_index, last_term, end = found.purged_index, found.purged_term, found.durable
        for info in rows:
            name = fmt.segment_name(info.segment_id)
            self._made.append(name)
            files.rename(join(self._target, name + fmt.TEMPORARY_SUFFIX), join(self._target, name))
            last_index, last_term, end = info.last_index or 0, info.last_term or 0, info.end or 0
        files.sync_dir(self._target)
        copied = replace(
            found, segments=rows, durable=end, settled=True, failed=False, loss_possible=moment.loss_possible,
            # Not clean, unless it was: then a start reads the newest segment again, and with it the exactly-once table.
            clean=found.clean and moment.tail is None, commit_index=min(moment.commit_index, last_index),
            generation=found.generation + 1 + wakeup.random_u64() % GENERATION_STEPS,
            next_segment_id=max([found.next_segment_id, *(number + 1 for number in kept)]),
            copied=True, shm_dir=None, config={**found.config, "shm_dir": None},
        )  # fmt: skip
        make_plan(files, self._target, copied).refuse()  # the copy opens
        self._made += [fmt.MANIFEST_NAME, fmt.MANIFEST_NAME + fmt.TEMPORARY_SUFFIX]
        manifest.save(files, self._target, copied)
        return Backup(
            self._target, copied.uuid, copied.purged_index + 1, last_index, last_term, copied.commit_index, state,
            len(rows), sum(info.size_due() for info in rows), self._verify,
            sum(max(last + 1 - first, 0) for first, last, *_ in copied.live_lost()),
        )  # fmt: skip

    def remove(self) -> None:
        """Take away what was written: the manifest first, as with it the copy would be a log."""
        for name in reversed(self._made):
            with contextlib.suppress(OSError):
                self._files.unlink(join(self._target, name))
        with contextlib.suppress(OSError):
            self._files.sync_dir(self._target)
