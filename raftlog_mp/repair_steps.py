"""What repair does to a log, step by step.  Run against a ``Rehearsal`` it is the plan; against the files, the deed.

The order makes it repeatable after a crash at any point: bytes are kept aside before they go, what is accepted as lost
is in the manifest before anything else believes it, and the last manifest, which lists the log as it then is, comes
before the first unlink.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from . import format as fmt
from . import hard_state, manifest
from .catalog import SegmentInfo
from .errors import CorruptLog
from .files import SHORTAGES, Files, join
from .findings import Finding
from .index import write_sealed
from .manifest import Manifest
from .rebuild import rebuild
from .records import SegmentScan, scan_segment
from .remains import Remains
from .segment import seal_segment
from .segment_check import ABSENT, RIGHT, WRONG, Task, caches_of
from .survey import Part, Survey, header_of, survey
from .terms import write_sealed_runs
from .types import HardState
from .walk import entries_in_words

COPY_BYTES = 1 << 22
Progress = Callable[[int, int], object]  # bytes done, bytes in all


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that repair does.  ``kept_bytes`` go to quarantine first; ``reversible``: they are all there was."""

    kind: str
    file: str
    sentence: str
    offset: int | None = None
    kept_bytes: int = 0
    first_index: int | None = None
    last_index: int | None = None
    reversible: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Blocked:
    """What repair does not do unasked.  ``needs``: the option that asks for it; empty if there is none."""

    file: str
    sentence: str
    needs: str = ""
    first_index: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


class SegmentMender:
    """One run of repair: its first half, everything that stands in a file by itself.  ``repair_end.py`` is the second.

    ``acts=False``: ``files`` is a rehearsal, so nothing has to be kept aside.
    """

    def __init__(
        self, files: Files, directory: str, folder: str, *, truncate_from: int | None, accept_loss: bool, acts: bool,
        progress: Progress | None = None,
    ) -> None:  # fmt: skip
        self.files, self.directory, self.folder, self._acts, self._progress = files, directory, folder, acts, progress
        self._read_bytes = 0
        self._cut_at, self._accept = truncate_from, accept_loss
        self.steps: list[Step] = []
        self.blocked: list[Blocked] = []
        self.findings: list[Finding] = []
        self.manifest: Manifest
        self._surveys: dict[int, Survey] = {}
        self._damaged_from: int | None = None  # first index that damage concerns, mendable or not
        self._committed = 0  # commit index before holes have lowered it
        self._hopeless: tuple[int, str, str] | None = None  # first index that no step mends, its file, what it is
        self._changes_log = False  # the manifest must say something else afterwards
        self._forgets = False  # what producers' newest submissions became is not known any more
        self._rebuilt = False
        self._bad_caches: list[tuple[SegmentInfo, bool, bool]] = []  # segment; index file, term file

    # ------------------------------------------------------------ small things
    def _step(self, kind: str, file: str, sentence: str, **more: Any) -> None:
        self.steps.append(Step(kind, file, sentence, **more))

    def _block(self, file: str, sentence: str, needs: str = "", index: int | None = None) -> None:
        self.blocked.append(Blocked(file, sentence, needs, index))

    def _keep(self, name: str, offset: int = 0, end: int | None = None) -> int:
        """Copy bytes of a file into the quarantine folder, durable; how many.  None of a cache that cannot be read."""
        files, path = self.files, join(self.directory, name)
        if not files.exists(path) or (name.endswith((".idx", ".trm")) and not self._can_be_read(path)):
            return 0
        with files.opened(path) as fd:
            end = files.size(fd) if end is None else min(end, files.size(fd))
            if self._acts and end > offset:
                target = files.open(self._copy_of(f"{name}.{offset}"), write=True, create=True)
                try:
                    for at in range(offset, end, COPY_BYTES):
                        files.pwrite(target, files.pread(fd, min(COPY_BYTES, end - at), at), at - offset)
                    files.sync_all(target)
                finally:
                    files.close(target)
                files.sync_dir(self.folder)
        return max(end - offset, 0)

    def _copy_of(self, name: str) -> str:
        """Where a copy goes; what was there before an earlier step of this run changed it stays as it is."""
        path, number = join(self.folder, name), 1
        while self.files.exists(path):
            path, number = join(self.folder, f"{name}.{number}"), number + 1
        return path

    def _can_be_read(self, path: str) -> bool:
        try:
            self.files.read_file(path)
        except OSError as error:
            if error.errno in SHORTAGES:
                raise
            return False
        return True

    def _keep_behind(self, name: str, offset: int) -> int:
        """Keep what stands from ``offset`` to the end of a file, trailing zeros left out; how many bytes."""
        with self.files.opened(join(self.directory, name)) as fd:
            behind = self.files.pread(fd, self.files.size(fd), offset).rstrip(b"\0")
        return self._keep(name, offset, offset + len(behind)) if behind else 0

    def _keep_segment(self, segment_id: int) -> int:
        """Keep a segment's file and the caches beside it; how many bytes."""
        names = fmt.segment_name(segment_id), fmt.index_name(segment_id), fmt.terms_name(segment_id)
        return sum(map(self._keep, names))

    def _save_manifest(self) -> None:
        """Replace the manifest; what the log said of itself before the repair is kept aside."""
        if not self.files.exists(join(self.folder, f"{fmt.MANIFEST_NAME}.0")):
            self._keep(fmt.MANIFEST_NAME)
        manifest.save(self.files, self.directory, self.manifest)

    def _has_read(self, count: int) -> None:
        self._read_bytes += count
        if self._progress is not None:
            total = sum((one.end or one.start + one.file_bytes) - one.start for one in self.manifest.segments)
            self._progress(min(self._read_bytes, total), total)

    def _path(self, info: SegmentInfo) -> str:
        return join(self.directory, fmt.segment_name(info.segment_id))

    def _give_up_from(self, index: int, file: str, sentence: str) -> None:
        index = max(index, self.manifest.purged_index + 1)  # the log cannot end before what was purged
        if self._hopeless is None or index < self._hopeless[0]:
            self._hopeless = (index, file, sentence)
        self._note_damage(index)

    def _note_damage(self, index: int) -> None:
        index = max(index, self.manifest.purged_index + 1)
        self._damaged_from = index if self._damaged_from is None else min(index, self._damaged_from)

    # ------------------------------------------------------------ manifest and hard state
    def _find_manifest(self) -> None:
        try:
            self.manifest = manifest.load(self.files, self.directory)
        except CorruptLog as error:
            if isinstance(error.__cause__, OSError):
                raise  # the device cannot read it: it may be whole, and nothing is to be made anew in its place
            self.manifest, told, untold, foreign = rebuild(self.files, self.directory)
            first, kept = self.manifest.purged_index + 1, self._keep(fmt.MANIFEST_NAME)
            # Not listed any more: the next start takes them for what was purged or replaced.
            kept += sum(map(self._keep, [*untold, *foreign]))
            self._changes_log = self._rebuilt = True
            sentence = "; ".join([
                f"made anew from {len(self.manifest.segments)} segments: a newer one supersedes older ones from its "
                "first index on. What cannot be known: settings and strategy (defaults), the purge boundary (entry "
                f"{first - 1}, the one before the first segment: purged entries may be back), the commit index "
                "(unset), the identity (a new uuid), which entries a segment had replaced that is gone, too (their old "
                "content is back: compare with a peer)", *told,
            ])  # fmt: skip
            for name in untold if not self._accept else ():
                self._block(name, "the manifest is gone, and the segment's own header is damaged: nothing says where "
                            "its entries belong. Without it they are given up", "--accept-loss")  # fmt: skip
            self._step("rebuild manifest", fmt.MANIFEST_NAME, sentence, kept_bytes=kept, reversible=kept > 0)

    def _mend_hard_state(self, term: int) -> None:
        name, files, directory = fmt.HARD_STATE_NAME, self.files, self.directory
        try:
            hard_state.load_version(files, directory)
        except CorruptLog as error:
            if isinstance(error.__cause__, OSError):
                why = error.__cause__.strerror
                return self._block(name, f"the device cannot read it ({why}): it may be whole. Copy the directory to a "
                                   "sound disk, and repair the copy")  # fmt: skip
            return self._forget_vote(term)
        path, end = hard_state.hard_state_path(directory), 2 * fmt.HARD_STATE_SLOT_BYTES
        raw = files.read_file(path)
        if raw[: fmt.HARD_STATE_SLOT_BYTES] != raw[fmt.HARD_STATE_SLOT_BYTES : end]:
            kept = self._keep(name)
            self._step("heal hard state", name, "one slot is older or damaged; the newest good one is copied over it",
                       kept_bytes=kept)  # fmt: skip
            for _ in range(2):  # a file that was cut short may lack both
                hard_state.heal(files, directory)
        if len(raw) > end:
            sentence = f"{len(raw) - end} bytes of something else stand behind both slots; they are kept aside and cut"
            self._step("cut", name, sentence, offset=end, kept_bytes=self._keep(name, end))
            with files.opened(path, write=True) as fd:
                files.truncate(fd, end)
                files.sync_all(fd)
        return None

    def _forget_vote(self, term: int) -> None:
        name, files, directory = fmt.HARD_STATE_NAME, self.files, self.directory
        sentence = (
            "term and vote are lost in both slots. A Raft node that forgot its vote must not vote again in old terms: "
            "let it rejoin the cluster as a new node"
        )
        if not self._accept:
            return self._block(name, sentence, "--accept-loss")
        kept = self._keep(name)
        self._step("forget vote", name, f"{sentence}. It begins anew with the last entry's term, {term}, and no vote",
                   kept_bytes=kept, reversible=False)  # fmt: skip
        # Made in the quarantine folder and moved: a crash never leaves an older term that looks whole.
        hard_state.create(files, self.folder)
        hard_state.save(files, self.folder, HardState(term, None), 1)
        files.rename(hard_state.hard_state_path(self.folder), hard_state.hard_state_path(directory))
        return files.sync_dir(directory)

    # ------------------------------------------------------------ caches
    def _judge_caches(self, info: SegmentInfo, scan: SegmentScan) -> None:
        """What check calls wrong is made anew, and so is what is missing."""
        log_id, purged = self.manifest.log_id, self.manifest.purged_index
        index, terms = caches_of(
            self.files, Task(self.directory, info, header_of(info, log_id), info.end, purged=purged), scan
        )  # fmt: skip
        if self._rebuilt and scan.damaged and terms == RIGHT:  # as far as anybody can tell behind damage
            terms = WRONG  # it may have been written after a purge that is not known any more
        index_bad, terms_bad = (state in (ABSENT, WRONG) for state in (index, terms))
        if index_bad or terms_bad:
            self._bad_caches.append((info, index_bad, terms_bad))

    def _rebuild_caches(self, info: SegmentInfo, index_bad: bool, terms_bad: bool) -> None:
        now = next((one for one in self.manifest.segments if one.segment_id == info.segment_id), None)
        if now is None or now.last_index is None:
            return
        for bad, name in ((index_bad, fmt.index_name(now.segment_id)), (terms_bad, fmt.terms_name(now.segment_id))):
            if bad:
                self._step("rebuild index", name, "made anew from the records", kept_bytes=self._keep(name))
        self._write_caches(now, self._survey(now), index=index_bad, terms=terms_bad)

    def _write_caches(self, info: SegmentInfo, seen: Survey, *, index: bool = True, terms: bool = True) -> None:
        following, files, log_id = (info.last_index or 0) + 1, self.files, self.manifest.log_id
        if index:
            path = join(self.directory, fmt.index_name(info.segment_id))
            slots = seen.slots(info.base_index, following)
            write_sealed(files, path, log_id, info.segment_id, info.base_index, slots)
        if terms:
            path = join(self.directory, fmt.terms_name(info.segment_id))
            write_sealed_runs(files, path, log_id, info.segment_id, seen.runs(info))

    # ------------------------------------------------------------ one segment
    def _durable(self, scan: SegmentScan) -> tuple[int, bool]:
        """Up to which stream position bytes were durable, as anybody knows; whether the disk failed."""
        old = Remains(self.directory, self.manifest)
        old.close()
        return max(self.manifest.durable, old.durable, scan.mark), self.manifest.failed or old.failed

    def _survey(self, info: SegmentInfo) -> Survey:
        found = self._surveys.get(info.segment_id)
        if found is None:
            found = self._surveys[info.segment_id] = survey(self.files, self.directory, info, self.manifest.log_id)
        return found

    def _mend_segment(self, info: SegmentInfo) -> None:
        """Header, seal and holes of a segment; what an unsealed one ends with comes later."""
        name, files = fmt.segment_name(info.segment_id), self.files
        try:
            scan = scan_segment(self._path(info), progress=self._has_read, files=files, limit=info.end,
                                header=header_of(info, self.manifest.log_id))  # fmt: skip
        except FileNotFoundError:
            return self._give_up_from(info.base_index, name, "the segment is missing")
        except OSError as error:
            return self._block(name, f"the segment cannot be read ({error.strerror}); see to that first")
        if scan.unreadable:
            return self._block(
                name, f"the device cannot read {len(scan.unreadable)} blocks from byte {scan.unreadable[0][0]} on; "
                "copy the directory to a sound disk (ddrescue) and repair the copy",
            )  # fmt: skip
        due = header_of(info, self.manifest.log_id)
        if self._cut_at is not None and info.base_index >= self._cut_at:
            if scan.damaged or scan.header != due:
                self._note_damage(info.base_index)
            return None
        if info.sealed:
            self._judge_caches(info, scan)
        if scan.header != due and (info.sealed or scan.records):
            self._step("rewrite header", name, "its first block is damaged; the manifest knows what it said", offset=0,
                       kept_bytes=self._keep(name, 0, fmt.BLOCK_BYTES))  # fmt: skip
            with files.opened(self._path(info), write=True) as fd:
                files.pwrite(fd, fmt.pack_segment_header(due), fmt.SEGMENT_HEADER_OFFSET)
                files.sync_all(fd)
        seal = scan.seal
        if not info.sealed and seal is not None and seal.end >= self._durable(scan)[0]:
            # A crash came between the seal and the manifest that would have stated it.
            info = info.finished(seal.end, seal.last_index, seal.last_term)
            others = [one for one in self.manifest.segments if one.segment_id != info.segment_id]
            self.manifest.segments = [*others, info]
        if not info.sealed:
            if scan.seal_damaged or seal is not None:
                kept = self._keep(name, fmt.SEAL_OFFSET, fmt.DATA_OFFSET)
                what = "a seal was begun and never finished" if seal is None else "its seal leaves durable bytes out"
                self._step("settle", name, f"{what}; the segment is sealed where it ends",
                           offset=fmt.SEAL_OFFSET, kept_bytes=kept)  # fmt: skip
                self._changes_log = True
            return None
        if scan.bytes < info.size_due():  # what is gone is damage like any other then, at a place that stays
            sentence = f"it has {scan.bytes} bytes and must have {info.size_due()}; zeros stand for what is gone"
            self._step("lengthen", name, sentence, offset=scan.bytes)
            with files.opened(self._path(info), write=True) as fd:
                files.truncate(fd, info.size_due())
                files.sync_all(fd)
        if scan.damaged or scan.bytes < info.size_due() or scan.good_end < (info.end or 0):
            self._accept_holes(info, self._survey(info).damage)
        if seal is None or (seal.segment_id, seal.end) != (info.segment_id, info.end):
            kept, behind = self._keep(name, fmt.SEAL_OFFSET, fmt.DATA_OFFSET), self._keep_behind(name, info.size_due())
            what = "damaged" if scan.seal_damaged or seal is not None else "missing"
            sentence = f"the seal is {what}; the manifest knows what it said"
            if behind:
                sentence += f". {behind} bytes of something else stand behind the end; they are kept aside and cut"
            self._step("rewrite seal", name, sentence, offset=fmt.SEAL_OFFSET, kept_bytes=kept + behind)
            with files.opened(self._path(info), write=True) as fd:
                files.sync_all(fd)
                seal_segment(files, fd, due, info.end or 0, info.last_index or 0, info.last_term or 0)
        return None

    def _accept_holes(self, info: SegmentInfo, parts: list[Part]) -> None:
        """Damage with provable records around it: the entries in it are lost, everything else goes on."""
        known = {(row[2], row[3]) for row in self.manifest.lost}
        holes = [part for part in parts if (info.segment_id, self._offset(info, part)) not in known]
        if not holes:
            return
        self._changes_log = True
        old = Remains(self.directory, self.manifest)
        old.close()
        self._committed = max(self._committed, self.manifest.commit_index, old.commit_index)
        if not self.manifest.clean:  # else the table is in the manifest, whole
            self._forgets |= info.segment_id == self.manifest.segments[-1].segment_id
        for part in holes:
            self._accept_hole(info, part)
        # Committed or not: what lies behind a hole cannot be applied, and must be replaceable by what a peer has.  In
        # the manifest that states the hole: if this run is cut short, nobody lowers it later.
        before = [row[0] - 1 for row in self.manifest.lost[-len(holes) :] if row[0] <= row[1]]
        self.manifest.commit_index = min([self.manifest.commit_index, *before])
        self._save_manifest()  # before a seal vouches for what is around them

    def _accept_hole(self, info: SegmentInfo, part: Part) -> None:
        name, offset = fmt.segment_name(info.segment_id), self._offset(info, part)
        first, last = max(part.first, self.manifest.purged_index + 1), part.next - 1
        if info.last_index is not None:
            last = min(last, info.last_index)
        if last >= first:
            self._note_damage(first)
        row = [first, max(last, first - 1), info.segment_id, offset]  # whole: until the suffix is gone it is in the log
        if self._cut_at is not None:  # what is dropped anyway is no hole
            last = min(last, self._cut_at - 1)
        last = max(last, first - 1)
        sentence = "damaged; it holds no entry of the log. Noted, so that nobody stumbles over it"
        if last >= first:
            sentence = (
                f"{entries_in_words(first, last)} cannot be read; the records around prove where they stood. A hole "
                "stays: reading it raises CorruptLog, everything else is served. Fetch it from a peer with "
                "truncate_from() and append_entries(); until then this node should neither vote nor count"
            )
        kept = self._keep(name, offset, offset + part.end - part.start)
        self._step("salvage", name, sentence, offset=offset, first_index=first, last_index=last, kept_bytes=kept,
                   reversible=False)  # fmt: skip
        self.manifest.lost.append(row)

    @staticmethod
    def _offset(info: SegmentInfo, part: Part) -> int:
        return fmt.DATA_OFFSET + part.start - info.start
