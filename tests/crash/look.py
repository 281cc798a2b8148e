"""What a recovered log looks like, and whether it may look like that: the invariants."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass, field

from unit.changes import check_words
from unit.journals import Entries, letters

from raftlog_mp import findings, segment
from raftlog_mp import format as fmt
from raftlog_mp.bodies import unpack_body
from raftlog_mp.files import Files
from raftlog_mp.findings import Plan
from raftlog_mp.journal import Journal
from raftlog_mp.types import HardState, LogId

from .story import NOWHERE, Limits, Outcome, Story

PRODUCER = 0xA1  # of every operation of a story
SEQUENCES_MAX = 96  # of its submissions
INVARIANTS = {
    "opens": "recovery never refuses what a crash alone has left",
    "durable": "everything acknowledged as durable is there, with the right bytes",
    "one version": "what remains is the log after one operation: no hole, no mixture, nothing foreign, nothing cut",
    "exactly once": "the table of submissions knows what is in the log, and nothing else",
    "boundary": "the purge boundary, index and term, is never behind what was acknowledged",
    "hard state": "the hard state is never older than acknowledged, and never half",
    "commit index": "the commit index is never above the end; after a clean stop it is exact",
    "loss told": "if an entry that was visible is gone, loss_possible says so",
    "words": "control block, manifest and term table say the same",
    "reader": "a reader without a writer finds what recovery finds",
    "goes on": "the log takes an entry, and the next recovery finds it behind the same log",
    "directory": "only files that the manifest lists are there, and each index leads to its entries",
}


class Violation(AssertionError):
    """An invariant is broken."""

    def __init__(self, invariant: str, text: str) -> None:
        super().__init__(f"{invariant}: {text}")
        self.invariant = invariant


@dataclass(slots=True)
class Found:
    """A log as recovery finds it."""

    entries: Entries = field(default_factory=dict)
    purged: LogId = NOWHERE
    last: LogId = NOWHERE
    hard: HardState = HardState()
    commit: int = 0
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    loss_possible: bool = False
    rows: str = ""  # of the decision table
    problems: list[Violation] = field(default_factory=list)  # that no promise could excuse


def look_at(journal: Journal, plan: Plan) -> Found:
    """An open log, from its words and its files."""
    found = Found(loss_possible=plan.loss_possible or journal.manifest.loss_possible, rows=letters(plan))
    found.purged, found.last = journal.purged, LogId(journal.last_term, journal.next_index - 1)
    found.hard, found.commit = journal.hard, journal.manifest.commit_index
    look_up = journal.producers.look_up
    answers = {number: look_up(PRODUCER, number)[1] for number in range(1, SEQUENCES_MAX)}
    found.outcomes = {number: outcome for number, outcome in answers.items() if outcome is not None}
    try:
        check_words(journal)
        found.entries = entries_now(journal)
        runs = journal.terms.runs
        assert [runs.term_of(i) for i in found.entries] == [term for term, _ in found.entries.values()]
    except AssertionError as error:
        found.problems.append(Violation("words", str(error) or "they do not fit"))
    return found


def entries_now(journal: Journal) -> Entries:
    """The entries of an open log whose bytes are all in its files, read by nothing but the format."""
    entries, manifest, files = dict[int, tuple[int, bytes]](), journal.manifest, Files()
    for info in manifest.segments:
        records: list[tuple[fmt.RecordHeader, bytes]] = []
        data = files.read_file(os.path.join(journal.directory, fmt.segment_name(info.segment_id)))
        end, last = (info.end, info.last_index) if info.sealed else (journal.end, journal.next_index - 1)
        scan = segment.scan_records(
            data, findings.expected_header(manifest, info), info.generation, limit=end,
            on_record=lambda *record, into=records: into.append(record),
        )  # fmt: skip
        assert scan.end == end, f"segment {info.segment_id} proves up to {scan.end}, not {end}"
        for record, body in records:
            payloads = unpack_body(body, record.count) if record.kind == fmt.KIND_ENTRIES else ()
            for index, payload in enumerate(payloads, record.base_index):
                if journal.purged.index < index <= (last or 0):
                    entries[index] = (record.term, payload)
    first = journal.purged.index + 1
    assert list(entries) == list(range(first, journal.next_index)), "indexes have a hole"
    return entries


def _matches(story: Story, limits: Limits, found: Found, number: int) -> bool:
    entries = story.versions[number].entries
    return any(
        found.purged == boundary and found.entries == {i: entries[i] for i in entries if i > boundary.index}
        for boundary in story.boundaries(limits, number)
    )


def version_of(story: Story, limits: Limits, found: Found) -> int:
    """The version that was found.  Raises :class:`Violation` if it is none that may be there."""
    matching = [n for n in range(limits.high, limits.low - 1, -1) if _matches(story, limits, found, n)]
    for number in matching:
        if story.versions[number].outcomes == found.outcomes:
            return number
    what = f"found {found.last} behind {found.purged} (rows {found.rows}); versions {limits.low}..{limits.high} may be"
    if matching:
        answers = story.versions[matching[0]].outcomes
        wrong = sorted(key for key in answers.keys() | found.outcomes if answers.get(key) != found.outcomes.get(key))
        raise Violation("exactly once", f"{what}; submissions {wrong} are answered wrongly")
    sure = min(max(story.boundaries(limits, n)[0].index for n in range(limits.low, limits.high + 1)), found.last.index)
    for number in range(limits.low, limits.high + 1):
        entries = story.versions[number].entries
        if found.entries == {i: entries[i] for i in entries if i > found.purged.index}:
            raise Violation("boundary", f"{what}; the boundary cannot be {found.purged}")
    due, gone = story.versions[limits.low].entries, max(sure, found.purged.index)
    lost = [index for index, entry in due.items() if index > gone and found.entries.get(index) != entry]
    if lost and limits.low == limits.high or lost and found.last.index < max(lost):
        raise Violation("durable", f"{what}; entries {lost[0]}..{lost[-1]} were acknowledged")
    raise Violation("one version", f"{what}; it is none of them")


def judge(
    story: Story, limits: Limits, found: Found, *, killed: bool, without: Collection[str] = ()
) -> list[Violation]:
    """The invariants, but for those in ``without``, that what was found breaks."""
    broken = list(found.problems)
    if not any(one.invariant == "opens" for one in broken):
        number = limits.high
        try:
            number = version_of(story, limits, found)
        except Violation as violation:
            broken.append(violation)
        if found.hard not in limits.hard:
            broken.append(Violation("hard state", f"{found.hard} is none of {limits.hard}"))
        floor = min(limits.promise.commit, found.last.index)
        if not floor <= found.commit <= min(found.last.index, max(limits.commit, floor)):
            broken.append(Violation("commit index", f"{found.commit}, last {found.last.index}, asked {limits.commit}"))
        if not killed and number < limits.promise.visible and not found.loss_possible:
            broken.append(Violation("loss told", f"version {number} of {limits.promise.visible} without a word"))
    return [one for one in broken if one.invariant not in without]
