"""What was found in a log's files, in words: what it means to whoever owns the log, and what to do next."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import format as fmt
from . import hard_state
from . import recovery_table as table
from .catalog import Catalog, SegmentInfo
from .errors import AccessDenied, CorruptLog, VersionMismatch
from .files import Files, join
from .findings import Finding, Plan
from .manifest import Manifest
from .records import FoundRecord, Verdict, entries_in_words
from .segment_check import ABSENT, WRONG, Inspected

INFO, WARNING, DAMAGE = "info", "warning", "damage"

REPAIR = "keep a copy of the directory, then `raftlog-mp repair DIR` shows what can be saved and changes nothing yet"
OTHER_RELEASE = "start the release that left this memory behind once, and stop it in order"
START = "a start of a writer puts it in order; nothing else is needed"
UPGRADE = "open the log with the release that wrote it, or a newer one; nothing was changed"
DISK = "copy the directory to another disk while it can be read, then `raftlog-mp repair` on the copy"
OWNER = "ask as the user to whom the log belongs"
MOVE_AWAY = "when no writer runs, move it away; `raftlog-mp repair DIR` makes it anew"
START_SOON = "start a writer before the machine is restarted"


@dataclass(frozen=True, slots=True)
class Diagnosis(Finding):
    """A finding, how bad it is, and what to do.  ``letter``: the row of the recovery table, where start-up has one."""

    severity: str = DAMAGE  # info, warning or damage
    next_step: str = ""


def _found(severity: str, file: str, sentence: str, next_step: str = "", letter: str = "", **where: Any) -> Diagnosis:
    return Diagnosis(letter, "", file, sentence, severity=severity, next_step=next_step, **where)


def newer_in_words(error: object) -> str:
    """A :class:`VersionMismatch` without the folder and without its advice."""
    return str(error).partition(". ")[0].rpartition("/")[2]


# ---------------------------------------------------------------- segments
def of_segment(
    one: Inspected, found: Manifest, row: Finding | None, mark: int, *, live: bool
) -> Iterator[Diagnosis]:  # fmt: skip
    """Everything about one live segment.  ``row``: start-up's decision; ``mark``: what is known to be durable."""
    info, letter = one.info, "J" if live and not one.info.sealed else ""
    if row is not None:
        letter = row.letter
    where = {"first_index": info.base_index, "last_index": info.last_index}
    held = entries_in_words(info.base_index, info.last_index)
    if not one.present:
        yield _found(DAMAGE, one.file, f"the segment file is missing, and with it {held}", REPAIR, "C", **where)
        return
    if one.newer:
        yield _found(DAMAGE, one.file, newer_in_words(one.newer), UPGRADE)
        return
    if one.unreadable:
        yield _found(DAMAGE, one.file, f"the file cannot be read ({one.unreadable}): {held}", DISK, "A", **where)
        return
    if one.bytes < one.bytes_due and not any(record.verdict is Verdict.MISSING for record in one.damaged):
        yield _found(
            DAMAGE, one.file, f"the file has {one.bytes} bytes, it must have {one.bytes_due}: its end is gone", REPAIR,
            letter or "C", offset=one.bytes, **where,
        )  # fmt: skip
    hurt = bool(one.damaged or one.lost_blocks)
    if not one.header and letter not in ("G", "H"):
        yield _found(
            WARNING, one.file, "the header block is damaged; the manifest holds the same, so every entry is served",
            "`raftlog-mp repair DIR` writes it again", letter, offset=0,
        )  # fmt: skip
    if info.sealed and not one.seal:
        what = "damaged" if one.seal_damaged else "missing"
        yield _found(
            DAMAGE if hurt else WARNING, one.file, f"the seal is {what}" + (
                "; every record proves, so nothing is lost" if not hurt else ", and records are damaged, too"
            ), REPAIR if hurt else START, letter or ("F" if hurt else "E"), offset=fmt.SEAL_OFFSET,
        )  # fmt: skip
    elif one.seal_damaged and not live:
        yield _found(WARNING, one.file, "a seal was begun and never finished", START, letter, offset=fmt.SEAL_OFFSET)
    for sentence in one.contradictions:
        yield _found(DAMAGE, one.file, sentence, REPAIR, letter, **where)
    for record in one.damaged:
        yield from _of_record(record, one, found, letter, mark)
    for offset, length in one.lost_blocks:
        sentence = f"the device cannot read {length} bytes from byte {offset} on: the disk is failing"
        yield _found(DAMAGE, one.file, sentence, DISK, offset=offset)
    yield from _of_caches(one)


def _of_record(
    record: FoundRecord, one: Inspected, found: Manifest, letter: str, mark: int
) -> Iterator[Diagnosis]:
    """A damaged stretch, unless start-up's plan or a known loss tells it already."""
    info, first, last = one.info, record.first_index, record.last_index
    position = record.offset - fmt.DATA_OFFSET + one.start
    if _given_up(record, info.segment_id, found):
        return
    if not info.sealed and position >= mark and letter != "K":
        return  # a torn tail: start-up's row tells it
    where: dict[str, Any] = {"offset": record.offset, "first_index": first, "last_index": last, "term": record.term}
    if info.last_index is not None and (first, last) == (info.last_index + 1, info.last_index):
        if found.clean or info is not found.segments[-1]:
            sentence = f"damage where nobody reads: {record.length} bytes behind the last entry"
            yield _found(INFO, one.file, sentence, **where)
        else:
            sentence = (
                f"{record.length} bytes behind the last entry are damaged, which say what became of submissions: of "
                "those that are sent again nobody knows (OutcomeUnknown)"
            )
            yield _found(DAMAGE, one.file, sentence, REPAIR, letter, **where)
        return
    gone = info.last_index is not None and first is not None and first > info.last_index
    purged = last is not None and last <= found.purged_index and first is not None and first <= last
    if gone or purged:
        how = "truncated" if gone else "purged"
        yield _found(INFO, one.file, f"damage where nobody reads: {_held(record)} were {how} long ago", **where)
        return
    yield _found(DAMAGE, one.file, _meaning(record), REPAIR, letter, **where)


def _given_up(record: FoundRecord, segment_id: int, found: Manifest) -> bool:
    """Whether repair has sealed this damage off: the very stretch, or nothing but entries that are known to be lost."""
    rows = sorted(row for row in found.lost if row[2] == segment_id)
    if any(row[3] == record.offset for row in rows):
        return True
    first, last = record.first_index, record.last_index
    if first is None or last is None or first > last:
        return False
    for low, high, _, _ in rows:
        if low <= first <= high:
            first = high + 1  # the next row may go on where this one ends
    return first > last


def _held(record: FoundRecord) -> str:
    held = entries_in_words(record.first_index, record.last_index)
    return f"{held} of term {record.term}" if record.term and held != "no entries" else held


def _meaning(record: FoundRecord) -> str:
    held, verdict = _held(record), record.verdict
    if held == "no entries":
        return f"{record.length} bytes are damaged ({verdict}) between entries; no entry was in them"
    if verdict is Verdict.BAD_BODY:
        return f"{held}: the checksum of the body is wrong; reads raise CorruptLog"
    if verdict is Verdict.ZERO:
        return f"{held}: {record.length} bytes are zeros where records must be"
    if verdict is Verdict.MISSING:
        return f"{held}: the file ends at byte {record.offset}, before its records do"
    if verdict is Verdict.WRONG:
        return f"{held}: a whole record stands here that does not continue the log"
    if verdict is Verdict.RESIDUE:
        return f"{held}: a record of an older writer stands where newer ones must be"
    return f"{held}: {record.length} bytes in which no record proves; reads raise CorruptLog"


def _of_caches(one: Inspected) -> Iterator[Diagnosis]:
    for state, name, what in (
        (one.index_file, fmt.index_name(one.info.segment_id), "index file"),
        (one.terms_file, fmt.terms_name(one.info.segment_id), "term file"),
    ):
        if state == WRONG:
            yield _found(
                WARNING, name, f"the {what} does not match the segment's records; it is a cache, no entry is lost",
                "`raftlog-mp repair DIR` rebuilds index and term files",
            )  # fmt: skip
        elif state == ABSENT:
            yield _found(INFO, name, f"the {what} is missing; readers rebuild it from the records")


def between(before: SegmentInfo, after: SegmentInfo) -> Iterator[Diagnosis]:
    """Contradictions between two neighbours, as the manifest states them."""
    for sentence in Catalog([before, after]).check():
        yield _found(DAMAGE, fmt.segment_name(after.segment_id), sentence, REPAIR, "C", first_index=after.base_index)


# ---------------------------------------------------------------- what start-up would do
def of_plan(plan: Plan, found: Manifest, seen: list[Inspected], known: list[Diagnosis]) -> Iterator[Diagnosis]:
    """What the next start would do, where the findings do not tell it already."""
    told = {one.file for one in known if one.severity == DAMAGE}
    segments = {one.file: one for one in seen}
    for row in plan.findings:
        where: dict[str, Any] = {
            "letter": row.letter, "first_index": row.first_index, "last_index": row.last_index,
            "offset": row.offset if row.file in segments else None,  # of the ring it is no byte of a file
        }  # fmt: skip
        if row.action == table.REFUSE:
            if row.file not in told:
                ring = "; `raftlog-mp repair DIR --accept-loss` gives it up" if row.letter == "R" else ""
                yield _found(DAMAGE, row.file, row.sentence + ": a writer refuses to start", REPAIR + ring,
                             term=plan.last_term or None, **where)  # fmt: skip
        elif row.action in (table.CUT, table.CUT_AT_MARK):
            yield _found(WARNING, row.file, _cut_in_words(row, plan, segments.get(row.file)), START, **where)
        elif row.action == table.RECREATE and row.file in segments:
            yield _found(INFO, row.file, "the segment was being created when the writer died; it holds no entry", START,
                         **where)  # fmt: skip
        elif row.action == table.KEEP:
            yield _found(INFO, row.file, "the last writer did not close the log; its end is whole", START, **where)
        elif row.action == table.FINISH and not any(one.file == row.file for one in known):
            yield _found(WARNING, row.file, row.sentence, START, **where)
        elif row.action == table.REPLAY:
            where |= {"first_index": plan.file_last_index + 1, "last_index": plan.last_index}
            held = entries_in_words(plan.file_last_index + 1, plan.last_index)
            sentence = f"{held}: acknowledged, and so far only in shared memory; the next start writes them to disk"
            yield _found(INFO, row.file, sentence, START_SOON, **where)
        elif row.action == table.OPEN_WITH_LOSS:
            sentence = f"{row.sentence}; whatever came after entry {plan.last_index}, and was in memory only, is gone"
            yield _found(WARNING, row.file, sentence, "fetch it from a peer; the next start opens without it", **where)


def _cut_in_words(row: Finding, plan: Plan, one: Inspected | None) -> str:
    size = max(one.used_bytes - (row.offset or 0), 0) if one is not None else 0
    after = f"after entry {plan.file_last_index}" if plan.file_last_index else "at the beginning"
    if row.action == table.CUT_AT_MARK:
        return f"the disk failed under the last writer: nothing {after} is trusted; it is kept aside and cut"
    if row.letter == "L":
        return f"{size} bytes {after} are of an older writer; they are kept aside and cut"
    return (
        f"a torn tail {after}: {size} bytes, as a crash in mid-write leaves them. Nothing vouches for them, so they "
        "are kept aside and cut; nothing that was acknowledged as durable is lost"
    )


def of_losses(found: Manifest) -> Iterator[Diagnosis]:
    """Entries that a repair has given up."""
    for first, last, segment_id, offset in found.live_lost():
        held = entries_in_words(first, last)
        what = f"{held}: given up by a repair" if last >= first else "damage that repair has sealed off; no entry in it"
        yield _found(
            INFO, fmt.segment_name(segment_id), what, "fetch them from a peer, or leave them" if last >= first else "",
            offset=offset, first_index=first, last_index=last,
        )  # fmt: skip
    if found.loss_possible:
        sentence = "an earlier start may have lost entries that were acknowledged from memory"
        yield _found(INFO, fmt.MANIFEST_NAME, sentence)


# ---------------------------------------------------------------- hard state
def hard_state_of(files: Files, directory: str) -> list[Diagnosis]:
    """Both slots of the hard state, and what stands behind them."""
    name = fmt.HARD_STATE_NAME
    try:
        raw = files.read_file(hard_state.hard_state_path(directory))
    except FileNotFoundError:
        return [_found(DAMAGE, name, "the hard state is missing: the vote of this term may be forgotten", REPAIR)]
    except OSError as error:
        return [_found(DAMAGE, name, f"the hard state cannot be read: {error.strerror}", DISK)]
    found, end = _slots_of(raw), 2 * fmt.HARD_STATE_SLOT_BYTES
    if len(raw) > end:
        sentence = f"{len(raw) - end} bytes of something else stand behind both slots; nothing reads them"
        next_step = "`raftlog-mp repair DIR` keeps them aside and cuts them"
        found.append(_found(WARNING, name, sentence, next_step, offset=end))
    return found


def _slots_of(raw: bytes) -> list[Diagnosis]:
    name = fmt.HARD_STATE_NAME
    slots = [_slot(raw, number) for number in (0, 1)]
    newer = [slot for slot in slots if isinstance(slot, str)]
    good = [slot for slot in slots if isinstance(slot, dict)]
    if not good and not newer:  # as hard_state.load_version(): without a good slot the number is believed unproved
        newer = [slot for number in (0, 1) if isinstance(slot := _slot(raw, number, proved=False), str)]
    if newer:
        return [_found(DAMAGE, name, newer_in_words(newer[0]), UPGRADE)]
    if not good:
        return [_found(DAMAGE, name, "both slots are damaged: the vote of this term is forgotten", REPAIR, offset=0)]
    if len(good) == 1:
        bad = slots.index(None)
        return [_found(
            WARNING, name, f"slot {bad + 1} of 2 is damaged; the other one holds term {good[0].get('term')} and counts",
            START, offset=bad * fmt.HARD_STATE_SLOT_BYTES,
        )]  # fmt: skip
    if good[0] != good[1]:
        return [_found(INFO, name, "the slots differ: a save was interrupted; the newer one counts", START)]
    return []


def _slot(raw: bytes, number: int, *, proved: bool = True) -> dict[str, Any] | str | None:
    """The document in a slot; None if it is damaged, words if it is of a newer release (``proved``: by checksum)."""
    slot = raw[number * fmt.HARD_STATE_SLOT_BYTES : (number + 1) * fmt.HARD_STATE_SLOT_BYTES]
    try:
        found = fmt.read_document(fmt.HARD_STATE_MAGIC, slot, fmt.HARD_STATE_NAME)
    except VersionMismatch as error:
        return str(error) if not proved or fmt.document_holds(slot) else None
    except ValueError:
        return None
    return found if found is not None and {"term", "voted_for", "version"} <= found.keys() else None


# ---------------------------------------------------------------- lock
def lock_of(files: Files, directory: str) -> list[Diagnosis]:
    """Whether the lock can be asked who holds it."""
    path = join(directory, fmt.LOCK_NAME)
    if not files.exists(path):
        return [_found(DAMAGE, fmt.LOCK_NAME, "the file is missing: no writer starts", REPAIR)]
    try:
        files.lock_held(path)
    except AccessDenied as error:
        return [_found(DAMAGE, fmt.LOCK_NAME, str(error), OWNER)]
    except CorruptLog as error:
        words = str(error).removeprefix(directory + "/").partition(". ")[0]
        return [_found(DAMAGE, fmt.LOCK_NAME, f"{words}; no writer starts", MOVE_AWAY)]
    return []


# ---------------------------------------------------------------- everything else in the directory
_KNOWN = {
    fmt.LOCK_NAME, fmt.START_NAME, fmt.HARD_STATE_NAME, fmt.MANIFEST_NAME, fmt.WRITER_LOG_NAME, fmt.SOCKET_NAME,
    fmt.SHM_NAME, fmt.QUARANTINE_NAME,
}  # fmt: skip


def leftovers(files: Files, directory: str, found: Manifest | None, *, live: bool) -> Iterator[Diagnosis]:
    """Files that the log does not consist of.  Information: nothing reads them."""
    listed = {info.segment_id for info in found.segments} if found is not None else set()
    there = files.list_dir(directory)
    on_disk = {number for name in there if (number := fmt.parse_segment_name(name)) is not None}
    for name in there:
        stem, _, suffix = name.partition(".")
        number = fmt.parse_segment_name(f"{stem}.seg") if suffix in ("seg", "idx", "trm") else None
        if name in _KNOWN or number in listed or (number is not None and (found is None or live)):
            continue
        if name.endswith(fmt.TEMPORARY_SUFFIX):
            if not live:
                yield _found(INFO, name, "an unfinished write, as a crash leaves it; nothing reads it")
        elif number is None:
            yield _found(INFO, name, "no file of the log; nothing reads it")
        elif number not in on_disk:
            yield _found(INFO, name, "a cache file of a segment that is gone; nothing reads it")
        elif suffix == "seg" and found is not None and number >= found.next_segment_id:
            yield _found(INFO, name, "an unfinished roll left this segment; it holds no entry", START, "G")
        elif suffix == "seg":
            yield _found(INFO, name, "every entry of this segment was purged or replaced", START, "B")
    aside = files.list_dir(join(directory, fmt.QUARANTINE_NAME))
    if aside:
        yield _found(
            INFO, fmt.QUARANTINE_NAME + "/", "bytes that recovery or repair took off the log are kept here: "
            + ", ".join(aside[:3]) + f" and {len(aside) - 3} more" * (len(aside) > 3),
        )  # fmt: skip

