"""Changes of a log (truncation, replacement, purge, reset), and how a log is looked at after a crash in one."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from crc32c import crc32c

from raftlog_mp import format as fmt
from raftlog_mp import index, layout, manifest, shm
from raftlog_mp.bodies import pack_body
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.changes import Batch
from raftlog_mp.config import KIB
from raftlog_mp.files import Files
from raftlog_mp.findings import Plan
from raftlog_mp.journal import Journal
from raftlog_mp.manifest import Manifest
from raftlog_mp.sweeper import remove_segment
from raftlog_mp.types import LogId

from .journals import Entries, append, entries_of, kill, open_log, records_in, stop

OLDER, ASKER = 0xA1, 0xB2  # producers: who appended the old entries, and who asks for the change
OLD_ENTRIES: Entries = {
    **{i: (1, b"old %d" % i) for i in range(1, 5)},
    **{i: (2, b"old %d" % i) for i in range(5, 8)},
    **{i: (3, b"old %d" % i) for i in range(8, 11)},
    11: (4, b"old 11"),
}
OLD_OUTCOMES = {1: (1, 3, 1), 2: (4, 1, 1), 3: (5, 3, 2), 4: (8, 3, 3), 5: (11, 1, 4)}  # sequence -> where it went


class Picture(NamedTuple):
    """A log as everybody sees it."""

    entries: Entries
    purged: LogId
    last: LogId


OLD = Picture(OLD_ENTRIES, LogId(0, 0), LogId(4, 11))


class Case(NamedTuple):
    """A change, and the log that it leads to."""

    act: Callable[[Journal], None]
    new: Picture
    recorded: bool = True  # the exactly-once table holds its outcome
    prepare: Callable[[Journal], None] = lambda journal: None
    old: Picture = OLD


def old(first: int, last: int) -> Entries:
    """Some of the old entries."""
    return {i: OLD_ENTRIES[i] for i in range(first, last + 1)}


def batch(term: int, *payloads: bytes) -> Batch:
    """A batch as the writer has verified it."""
    body = pack_body(list(payloads))
    return Batch(body, crc32c(body), len(payloads), term)


def replace(at: int, *batches: Batch) -> Callable[[Journal], None]:
    """Replace the suffix from ``at`` on; without batches a truncation."""
    return lambda journal: journal.replace_from(at, list(batches), ASKER, 1)


def purge(upto: int) -> Callable[[Journal], None]:
    """Remove the prefix."""
    return lambda journal: journal.purge_to(upto)


def reset(term: int, at: int) -> Callable[[Journal], None]:
    """Empty the log."""
    return lambda journal: journal.reset(LogId(term, at), ASKER, 1)


NOWHERE = LogId(0, 0)
BIG = b"big" * (30 * KIB)  # larger than a segment
AFTER_PURGE = Picture(old(5, 11), LogId(1, 4), LogId(4, 11))
CASES: dict[str, Case] = {
    "truncate inside a record of an older segment": Case(
        replace(6), Picture(old(1, 5), NOWHERE, LogId(2, 5))),
    "truncate inside a record of the newest segment": Case(
        replace(9), Picture(old(1, 8), NOWHERE, LogId(3, 8))),
    "truncate at the border of segments": Case(
        replace(8), Picture(old(1, 7), NOWHERE, LogId(2, 7))),
    "truncate everything": Case(
        replace(1), Picture({}, NOWHERE, NOWHERE)),
    "truncate down to the boundary": Case(
        replace(5), Picture({}, LogId(1, 4), LogId(1, 4)), prepare=purge(4), old=AFTER_PURGE),
    "replace by several terms": Case(
        replace(6, batch(4, b"a", b"b"), batch(5, b"c"), batch(7, b"d", b"", b"f")),
        Picture(old(1, 5) | {6: (4, b"a"), 7: (4, b"b"), 8: (5, b"c"), 9: (7, b"d"), 10: (7, b""), 11: (7, b"f")},
                NOWHERE, LogId(7, 11))),
    "replace the last entry by a longer suffix": Case(
        replace(11, batch(3, b"a"), batch(4, BIG, b"b")),
        Picture(old(1, 10) | {11: (3, b"a"), 12: (4, BIG), 13: (4, b"b")}, NOWHERE, LogId(4, 13))),
    "replace everything": Case(
        replace(1, batch(9, b"a")), Picture({1: (9, b"a")}, NOWHERE, LogId(9, 1))),
    "purge inside a record": Case(
        purge(6), Picture(old(7, 11), LogId(2, 6), LogId(4, 11)), recorded=False),
    "purge everything": Case(
        purge(11), Picture({}, LogId(4, 11), LogId(4, 11)), recorded=False),
    "reset to a boundary ahead": Case(
        reset(20, 90), Picture({}, LogId(20, 90), LogId(20, 90))),
    "reset to the beginning": Case(
        reset(0, 0), Picture({}, NOWHERE, NOWHERE), prepare=purge(4), old=AFTER_PURGE),
}  # fmt: skip


def build(directory: str, files: Files, strategy: str, case: Case, *, flushed: bool) -> Journal:
    """A log of three segments, where the case begins; unless ``flushed``, MemFirst holds the end of it in memory."""
    journal, _ = open_log(directory, files, strategy=strategy)
    for sequence, (first, count, term) in OLD_OUTCOMES.items():
        if sequence in (3, 4):
            journal.roll()
        payloads = [OLD_ENTRIES[i][1] for i in range(first, first + count)]
        append(journal, *payloads, term=term, producer=OLDER, sequence=sequence)
    case.prepare(journal)
    if flushed:
        journal.flush()
        journal.publish()
    return journal


def perform(journal: Journal, case: Case) -> None:
    """The change, and what the writer does with the files that it leaves behind."""
    case.act(journal)
    for info in journal.take_dead():
        remove_segment(journal.files, journal.directory, info.segment_id)
    journal.files.sync_dir(journal.directory)


# ---------------------------------------------------------------- looking
def look(directory: str, *, torn: bool = False) -> tuple[Picture, bool, Plan]:
    """Recover the log, compare everything that says where it stands, close it.

    What there is; whether the table knows that the change happened; what recovery found.
    """
    journal, plan = open_log(directory)
    try:
        said = check_words(journal)
        known = check_outcomes(journal)
    except BaseException:
        kill(journal)
        raise
    runs = journal.terms.runs
    stop(journal)
    entries = entries_of(directory)
    last = max(entries, default=said.purged.index)
    assert said.last == LogId(entries[last][0] if entries else said.purged.term, last)
    assert [runs.term_of(i) for i in entries] == [term for term, _ in entries.values()]
    check_files(directory, torn=torn)
    return Picture(entries, said.purged, said.last), known, plan


def check_words(journal: Journal) -> Picture:
    """Boundary and end of the log: the journal, its manifest and every shared word say the same."""
    word = journal.control.snapshot()
    purged, last = journal.purged, LogId(journal.last_term, journal.next_index - 1)
    assert (word["purged_term"], word["purged_index"]) == purged and word["first_index"] == purged.index + 1
    assert (word["last_term"], word["last_index"], word["durable_index"]) == (*last, last.index)
    assert word["published"] == word["durable"] == journal.end
    assert word["commit_index"] == journal.manifest.commit_index <= last.index
    assert word["epoch"] % 2 == 0
    assert word["segments"] == len(journal.manifest.segments)
    on_disk = manifest.load(Files(), journal.directory)
    assert (on_disk.purged_term, on_disk.purged_index) == purged
    assert on_disk.segments == journal.manifest.segments
    assert journal.terms.runs.term_of(purged.index) == (purged.term if purged.index else None)
    assert word["terms"] % (1 << layout.TERM_EDITION_SHIFT) >= len(journal.terms.runs)
    return Picture({}, purged, last)


def check_outcomes(journal: Journal) -> bool:
    """Exactly once: whoever appended the old entries gets the old answer, also if they are gone by now.

    Whether the table knows of the change.
    """
    for sequence, outcome in OLD_OUTCOMES.items():
        assert journal.producers.look_up(OLDER, sequence) == ("appended", outcome), f"submission {sequence}"
    known, found = journal.producers.look_up(ASKER, 1)
    if found is not None and found[1]:
        assert (found[2], found[0] + found[1] - 1) == (journal.last_term, journal.next_index - 1)
    return known == "appended"


def check_files(directory: str, *, torn: bool = False) -> None:
    """Only what the manifest lists stands in the directory, and each index leads to its entries."""
    state = manifest.load(Files(), directory)
    # A power cut that undoes half of the unlinks may leave an index without its segment: useless, and harmless.
    kinds = (fmt.segment_name,) if torn else (fmt.segment_name, fmt.index_name, fmt.terms_name)
    listed = {name(info.segment_id) for info in state.segments for name in kinds}
    endings = {name(0).partition(".")[2] for name in kinds}
    found = {name for name in os.listdir(directory) if name.removesuffix(".tmp").partition(".")[2] in endings}
    assert found <= listed, f"nobody lists {sorted(found - listed)}"
    for info in state.segments:
        check_index(directory, state, info)


def check_index(directory: str, state: Manifest, info: SegmentInfo) -> None:
    """Each slot of a sealed segment's index is the position of the record with that entry."""
    count = (info.last_index or 0) + 1 - info.base_index
    if count == 0:
        return
    path = os.path.join(directory, fmt.index_name(info.segment_id))
    slots = index.open_sealed(Files(), path, state.log_id, info.segment_id, info.base_index, count)
    if slots is None:
        return  # a cache: a power cut took it, readers rebuild it
    due = [record.position for record, _ in records_in(directory, state, info) for _ in range(record.count)]
    assert list(slots.slots[:count]) == due[:count]
    slots.close()


def goes_on(directory: str, before: Picture) -> None:
    """The log takes another entry, dies, and has all of them: nothing that was removed comes back."""
    journal, _ = open_log(directory)
    term = journal.last_term + 1
    where = append(journal, b"after", term=term)
    runs = journal.terms.runs
    journal.flush()
    durable = journal.control.durable_index.load(shm.ACQUIRE)
    kill(journal)
    assert where == durable == before.last.index + 1
    assert runs.term_of(where) == term and runs.first_of(term) == where
    journal, _ = open_log(directory)
    stop(journal)
    assert entries_of(directory) == before.entries | {where: (term, b"after")}
