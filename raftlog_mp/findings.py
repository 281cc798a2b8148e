"""Scan -> findings -> plan: what a log's files (and a dead writer's ring) prove.  Reads only.

One algorithm for start-up, for readers without a writer, for check and for repair.  The decisions are the
tables of ``recovery_table.py``; ``mending.py`` carries a plan out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from crc32c import crc32c

from . import format as fmt
from . import recovery_table as table
from .catalog import Catalog, SegmentInfo
from .files import Files, join
from .format import RecordHeader, SegmentHeader
from .manifest import Manifest
from .producers import ALL_FORGOTTEN, Producers
from .remains import Remains
from .segment import Scan, proves, scan_records
from .term_history import guess_in, history_of_log, term_changes
from .types import PersistenceStrategy


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one file, with the row that decided it."""

    letter: str
    action: str
    file: str
    sentence: str
    offset: int | None = None
    first_index: int | None = None
    last_index: int | None = None  # None: to the end of the log
    term: int | None = None  # of the entry before


@dataclass(slots=True)
class Plan:
    """What opening this log means: where it ends, and what has to be done to the files first."""

    findings: list[Finding] = field(default_factory=list)
    segments: list[SegmentInfo] = field(default_factory=list)  # sealed ones, as the manifest will state them
    tail: SegmentInfo | None = None  # the newest segment while it is unsealed
    end: int = 0
    last_index: int = 0
    last_term: int = 0
    cut: bool = False  # the tail's bytes past `end` go to quarantine
    file_end: int = 0  # where the files end; [file_end, end) comes from the ring
    file_last_index: int = 0
    file_last_term: int = 0
    ring_bytes: bytes = b""
    ring_slots: bytes = b""  # index slots of the entries in ring_bytes
    ring_to_new_segment: bool = False  # FAILED: not onto the same pages
    loss_possible: bool = False
    refusal: Finding | None = None
    producers: Producers = field(default_factory=Producers)
    slots: bytes = b""  # index slots of the unsealed tail
    reseal: list[SegmentInfo] = field(default_factory=list)
    evidence: str | None = None
    commit_index: int = 0  # as the dead writer of this boot knew it
    directory: str = ""
    dead: list[SegmentInfo] = field(default_factory=list)  # files of purged or replaced segments
    durable: int = 0  # highest position that manifest and memory vouch for; records in the tail may vouch for more
    failed: bool = False  # the disk failed under the last writer
    gap: bool = False  # the newest segment does not continue its predecessor, as the manifest states them

    def refuse(self) -> None:
        """Raise the refusal, if there is one."""
        if self.refusal is not None:
            found = self.refusal
            until = "to the last one" if found.last_index is None else f"to {found.last_index}"
            raise fmt.corrupt(
                f"{join(self.directory, found.file)}: {found.sentence} (row {found.letter}), offset {found.offset}: "
                f"entries {found.first_index} {until} are concerned, behind one of term {found.term}",
                self.directory, segment=found.file, offset=found.offset, first_index=found.first_index,
                last_index=found.last_index, term=found.term,
            )  # fmt: skip


def make_plan(files: Files, directory: str, manifest: Manifest, *, fresh_reads: bool = False) -> Plan:
    """Look at everything and decide.  Reads only.

    ``fresh_reads`` (the writer's start-up) fsyncs the unsealed tail and drops its cached pages first, so that
    the decision rests on what the device holds and not on pages that a failed write-back left behind.
    """
    old = Remains(directory, manifest)
    try:
        plan = Plan(
            segments=[], commit_index=old.commit_index, directory=directory,
            durable=max(manifest.durable, old.durable), failed=manifest.failed or old.failed,
        )  # fmt: skip
        _scan_files(files, directory, manifest, old, plan, fresh_reads)
        if plan.refusal is None and fresh_reads:
            _check_terms(files, directory, manifest, plan)
        if plan.refusal is None and manifest.strategy == PersistenceStrategy.MEM_FIRST:
            decide_ring(manifest, old, plan)
        if manifest.clean and manifest.producers:
            plan.producers.restore(manifest.producers)  # the sealed segments were not read
        for producer, sequence in manifest.purges:
            plan.producers.record_purge(producer, sequence, (manifest.purged_index + 1, 0, 0))
        return plan
    finally:
        old.close()


def _note(plan: Plan, row: table.Row, file: str, **where: Any) -> None:
    finding = Finding(row.letter, row.action, file, row.sentence, **where)
    plan.findings.append(finding)
    if row.action == table.REFUSE and plan.refusal is None:
        plan.refusal = finding


def _scan_files(
    files: Files, directory: str, manifest: Manifest, old: Remains, plan: Plan, fresh_reads: bool
) -> None:
    plan.last_index, plan.last_term = manifest.purged_index, manifest.purged_term
    plan.end = manifest.durable if not manifest.segments else 0
    previous: SegmentInfo | None = None
    for at, info in enumerate(manifest.segments):
        gap = previous is not None and bool(Catalog([previous, info]).check())
        inspection = _Inspection(files, directory, manifest, old, info, last=at == len(manifest.segments) - 1, gap=gap)
        inspection.look(fresh_reads)
        _conclude(plan, inspection)
        previous, plan.gap = info, gap
    plan.file_end, plan.file_last_index, plan.file_last_term = plan.end, plan.last_index, plan.last_term
    for number in _segments_on_disk(files, directory) - {info.segment_id for info in manifest.segments}:
        if number < manifest.next_segment_id:
            _note(plan, table.decide_segment(table.SegmentFacts(dead=True)), fmt.segment_name(number))
            plan.dead.append(SegmentInfo(number, 0, 0, 0, 0, 0, 0, 0))
            continue
        name = fmt.segment_name(number)
        plan.findings.append(Finding("G", table.RECREATE, name, "an unfinished roll left this file; it holds no entry"))


def _check_terms(files: Files, directory: str, manifest: Manifest, plan: Plan) -> None:
    """A writer compares terms for other nodes: it does not start over a guess (readers name what they cannot tell)."""
    history = history_of_log(files, directory, manifest, plan.segments, unreadable_is_damage=False)
    guess = guess_in(history, manifest, plan.segments)
    if guess is not None:
        plan.refusal = Finding(
            "F", table.REFUSE, fmt.segment_name(guess.segment_id), term_changes(guess), guess.offset, guess.first,
            guess.last, guess.before,
        )  # fmt: skip
        plan.findings.append(plan.refusal)


def _segments_on_disk(files: Files, directory: str) -> set[int]:
    """Ids of the segment files that are there, listed or not."""
    ids = map(fmt.parse_segment_name, files.list_dir(directory))
    return {found for found in ids if found is not None}


class _Inspection:
    """Everything found out about one segment: the facts for the table, and what the walk collected."""

    def __init__(
        self, files: Files, directory: str, manifest: Manifest, old: Remains, info: SegmentInfo,
        *, last: bool, gap: bool,
    ) -> None:  # fmt: skip
        self.files, self.manifest, self.info = files, manifest, info
        self.name = fmt.segment_name(info.segment_id)
        self.path = join(directory, self.name)
        self.mark = max(manifest.durable, old.durable) if last else 0
        failed = manifest.failed or old.failed
        self.failed = last and failed
        # A disk that failed is believed nothing: sealed segments, too, are read again from the device.
        self.suspect = failed and all(row[2] != info.segment_id for row in manifest.lost)
        self.facts: dict[str, Any] = {
            "last": last, "gap": gap, "failed": self.failed, "before_marks": self.mark > info.start,
        }  # fmt: skip
        self.seal: fmt.Seal | None = None
        self.scan: Scan | None = None
        self.slots: list[bytes] = []
        self.producers = Producers()
        self.evidence: str | None = None

    def look(self, fresh_reads: bool) -> None:
        """Read the segment as far as no seal vouches for it."""
        try:
            with self.files.opened(self.path) as fd:
                self._look(fd, fresh_reads)
        except FileNotFoundError:
            self.facts["present"] = False
        except OSError:
            self.facts["readable"] = False

    def _look(self, fd: int, fresh_reads: bool) -> None:
        files, info, facts = self.files, self.info, self.facts
        if fresh_reads and (self.suspect or not info.sealed):
            files.sync_all(fd)
            files.drop_cache(fd)
        size = files.size(fd)
        header = fmt.read_segment_header(files.pread(fd, fmt.BLOCK_BYTES, 0), self.path)
        facts["header"] = header == expected_header(self.manifest, info)
        seal = fmt.read_seal(files.pread(fd, 512, fmt.SEAL_OFFSET), self.path)
        if seal is not None and seal[:4] == (self.manifest.log_id, info.segment_id, info.generation, info.base_index):
            self.seal = seal
        facts["present"] = size >= info.size_due(self.seal.end if self.seal else None)
        facts["seal"] = (
            self.seal is not None and facts["present"] and facts["header"]
            and info.end in (None, self.seal.end) and self.seal.end >= self.mark
        )  # fmt: skip
        # A sealed segment is not read again, but for one: after a crash the newest holds the exactly-once table.
        unread = facts["seal"] and not self.suspect and (self.manifest.clean or not facts["last"])
        if not facts["present"] or unread:
            return
        data = files.load(fd, size)  # a mapping would fault where a block cannot be read, or a writer cuts the file
        try:
            self._walk(data)
        finally:
            data.close()
        if self.suspect and self.seal is not None and self.scan is not None and self.scan.end != self.seal.end:
            facts["seal"] = False  # it does not vouch for what is there now
        if self.scan is not None and self.scan.stop == fmt.BAD:
            bad = files.pread(fd, 4096, self.offset)
            self.evidence = f"{info.segment_id:016x}:{self.scan.end}:{crc32c(bad):08x}"
            facts["seen_before"] = self.evidence in self.manifest.evidence

    @property
    def offset(self) -> int:
        """Byte in the file where the good prefix ends."""
        return 0 if self.scan is None else fmt.DATA_OFFSET + self.scan.end - self.info.start

    def _walk(self, data: Any) -> None:
        header = expected_header(self.manifest, self.info)
        scan = scan_records(data, header, self.info.generation, limit=self.info.end, on_record=self._on_record)
        self.mark = max(self.mark, scan.mark)
        self.facts.update(
            records=scan.records > 0 or scan.valid_after > 0, stop=scan.stop, damaged=scan.end < self.mark,
            whole=self.info.end is not None and scan.end == self.info.end,
        )  # fmt: skip
        if self.failed and scan.end > self.mark:
            # Row I: only what was durable counts; collect anew up to the mark, which is a record border.
            self.slots, self.producers = [], Producers()
            limited = scan_records(data, header, self.info.generation, limit=self.mark, on_record=self._on_record)
            scan = limited._replace(stop=scan.stop)
        self.scan = scan

    def _on_record(self, record: RecordHeader, body: bytes) -> None:
        absorb_record(record, body, self.slots, self.producers)


def absorb_record(record: RecordHeader, body: bytes, slots: list[bytes], producers: Producers) -> None:
    """Take a proved record into index slots and the exactly-once table."""
    if record.kind == fmt.KIND_ENTRIES:
        slots.append(record.position.to_bytes(8, "little") * record.count)
        if record.producer:
            producers.record(record.producer, record.sequence, (record.base_index, record.count, record.term))
    elif record.kind == fmt.KIND_PRODUCERS:
        producers.restore(body)


def expected_header(manifest: Manifest, info: SegmentInfo) -> SegmentHeader:
    """The header that the segment's file must have."""
    return SegmentHeader(
        manifest.log_id, info.segment_id, info.generation, info.base_index, info.start,
        info.previous_end, info.previous_term, info.file_bytes, info.index_slots,
    )  # fmt: skip


def _conclude(plan: Plan, seen: _Inspection) -> None:
    info, scan, seal = seen.info, seen.scan, seen.seal
    row = table.decide_segment(table.SegmentFacts(**seen.facts))
    where: dict[str, Any] = {"offset": seen.offset, "first_index": info.base_index, "last_index": info.last_index}
    if scan is not None and row.action != table.TRUST:
        where["first_index"] = scan.last_index + 1
    where["term"] = info.previous_term if scan is None else scan.last_term
    _note(plan, row, seen.name, **where)
    plan.producers = seen.producers
    end = seal.end if seal is not None and row.action == table.TRUST else info.end
    if scan is not None and end is not None and scan.end != end:
        plan.producers.restore(ALL_FORGOTTEN)  # what came behind the place where the walk ended nobody knows
    if info.sealed or row.action == table.TRUST:
        sealed = info
        if not info.sealed and seal is not None:
            sealed = info.finished(seal.end, seal.last_index, seal.last_term)
        plan.segments.append(sealed)
        plan.end, plan.last_index, plan.last_term = sealed.end or 0, sealed.last_index or 0, sealed.last_term or 0
        if row.action == table.FINISH:
            plan.reseal.append(sealed)
    elif (
        scan is not None and row.action != table.RECREATE
    ):  # kept or cut; when refused, readers may still serve the good prefix
        plan.tail = info
        plan.slots = b"".join(seen.slots)
        plan.end, plan.last_index, plan.last_term = scan.end, scan.last_index, scan.last_term
        plan.cut = row.action in (table.CUT, table.CUT_AT_MARK)
        plan.ring_to_new_segment = row.action == table.CUT_AT_MARK
        plan.evidence = seen.evidence if row.action == table.CUT else None


def decide_ring(manifest: Manifest, old: Remains, plan: Plan) -> None:
    """Rows P to T: what of the acknowledged suffix is only in the ring."""
    data, good = b"", False
    if old.trusted and old.ring is not None and old.published > plan.end:
        data = old.ring.copy(plan.end, old.published) or b""
        good = bool(data) and _prove_ring(data, manifest, plan)
    facts = table.RingFacts(
        clean=manifest.settled and plan.tail is None, trusted=old.trusted, covered=old.published <= plan.end,
        proves=good, same_boot=old.same_boot,
    )  # fmt: skip
    row = table.decide_ring(facts)
    _note(plan, row, fmt.ring_name(manifest.generation), first_index=plan.last_index + 1, offset=plan.end,
          term=plan.last_term)  # fmt: skip
    plan.loss_possible = row.action == table.OPEN_WITH_LOSS
    if row.action == table.REPLAY:
        plan.ring_bytes = data
        plan.ring_to_new_segment = plan.ring_to_new_segment or plan.tail is None
        slots: list[bytes] = []
        for record, body in ring_records(data, plan.end) or []:
            absorb_record(record, body, slots, plan.producers)
            plan.last_index, plan.last_term = record.last_index, record.term
        plan.end += len(data)
        plan.ring_slots = b"".join(slots)


def ring_records(data: bytes, position: int) -> list[tuple[RecordHeader, bytes]] | None:
    """The records in ``data``, each proved and at its own position; None if anything is off."""
    records, at = [], 0
    while at < len(data):
        if at + fmt.RECORD_BYTES > len(data):
            return None
        fields = fmt.RECORD_HEADER.unpack_from(data, at)
        body = data[at + fmt.RECORD_BYTES : at + fmt.RECORD_BYTES + fields[3]]
        if not proves(fields, body) or fields[11] != position + at:
            return None
        records.append((RecordHeader._make(fields), body))
        at += fmt.RECORD_BYTES + len(body)
    return records


def _prove_ring(data: bytes, manifest: Manifest, plan: Plan) -> bool:
    records = ring_records(data, plan.end)
    if records is None:
        return False
    next_index, term = plan.last_index + 1, plan.last_term
    for record, _ in records:
        if record.log_id != manifest.log_id or record.base_index != next_index or record.term < term:
            return False
        next_index, term = next_index + record.count, record.term
    return True
