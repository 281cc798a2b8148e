"""What recovery does, as tables.  Pure: facts in, one lettered row out; the first match wins.

Words used below:

* **P** end of the good prefix of a segment; **D** the highest durable mark known, from manifest, seals, the
  control block of this boot, and every header-valid record, those past the first failure included;
* **T** ``published`` of the control block; *trusted* if log id, generation and boot id match.

A power cut may persist unsynced writes out of order.  So valid records after a bad one prove corruption only
if some durable mark vouches for the bad one (P < D, row J); otherwise they are part of a torn tail (row N).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from .format import BAD, RESIDUE, WRONG, ZERO

IGNORE, TRUST, FINISH, RECREATE, CUT, CUT_AT_MARK, KEEP, REFUSE = (
    "ignore", "trust", "finish", "recreate", "cut", "cut at mark", "keep", "refuse",
)  # fmt: skip
DONE, REPLAY, OPEN_WITH_LOSS = "done", "replay", "open with loss"


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What was found out about one segment."""

    readable: bool = True  # manifest and segment could be read
    dead: bool = False  # wholly purged or superseded
    present: bool = True  # the file exists with at least the size it must have
    gap: bool = False  # it does not continue its predecessor
    last: bool = True
    seal: bool = False  # a valid seal, not contradicted by any mark
    whole: bool = False  # no valid seal, but its records prove up to the end that the manifest states
    header: bool = True  # the header block is valid
    records: bool = True  # at least one valid record in it
    before_marks: bool = False  # D > its start
    failed: bool = False  # FAILED was latched
    damaged: bool = False  # P < D
    stop: str = ZERO  # what ended the good prefix
    seen_before: bool = False  # this very evidence was cut before


@dataclass(frozen=True, slots=True)
class RingFacts:
    """What was found out about the ring, if the log recorded MemFirst."""

    clean: bool = False  # the last writer finished everything
    trusted: bool = False  # T may be believed
    covered: bool = False  # T <= end of the files
    proves: bool = False  # every batch in [end, T) proves
    same_boot: bool = True


class Row(NamedTuple):
    """One row: letter, condition, what is done, and the sentence that explains it to people."""

    letter: str
    applies: Callable[..., bool]
    action: str
    sentence: str


SEGMENT_ROWS: tuple[Row, ...] = (
    Row("A", lambda f: not f.readable, REFUSE, "the manifest or the segment cannot be read"),
    Row("B", lambda f: f.dead, IGNORE, "every entry of the segment was purged or superseded"),
    Row("C", lambda f: not f.present or f.gap, REFUSE,
        "a live segment is missing, shortened, or does not continue the one before"),
    Row("D", lambda f: f.seal, TRUST, "the segment is sealed; its records are verified when they are read"),
    Row("E", lambda f: f.whole, FINISH,
        "the seal is missing, or the header damaged, but every record proves; both are written again"),
    Row("F", lambda f: not f.last, REFUSE, "a segment that has a successor is damaged"),
    Row("G", lambda f: not f.header and not f.records and not f.before_marks, RECREATE,
        "the segment was being created"),
    Row("H", lambda f: not f.header, REFUSE, "the header of the newest segment is damaged"),
    Row("I", lambda f: f.failed and not f.damaged, CUT_AT_MARK,
        "the disk failed under the last writer; nothing past the last durable mark is trusted"),
    Row("J", lambda f: f.damaged, REFUSE, "records that were durable are damaged"),
    Row("K", lambda f: f.stop == WRONG, REFUSE, "a record with valid checksums has the wrong index, term or position"),
    Row("O", lambda f: f.seen_before, REFUSE,
        "this tail was cut before and is back; repair never acts twice on the same evidence"),
    Row("L", lambda f: f.stop == RESIDUE, CUT,
        "bytes of an older writer follow; they were never part of this log's end"),
    Row("M", lambda f: f.stop == ZERO, KEEP, "the segment ends cleanly"),
    Row("N", lambda f: f.stop == BAD, CUT, "the tail is torn; nothing vouches for it; it is kept aside and cut"),
)  # fmt: skip

RING_ROWS: tuple[Row, ...] = (
    Row("P", lambda f: f.clean or (f.trusted and f.covered), DONE, "everything that was acknowledged is in the files"),
    Row("Q", lambda f: f.trusted and f.proves, REPLAY, "acknowledged entries are taken from the ring"),
    Row("R", lambda f: f.trusted, REFUSE, "an acknowledged entry in the ring is damaged"),
    Row("S", lambda f: f.same_boot, OPEN_WITH_LOSS, "the ring is missing or partial; a suffix may be lost"),
    Row("T", lambda f: True, OPEN_WITH_LOSS, "the machine was restarted; a suffix that was never flushed may be lost"),
)


def decide_segment(facts: SegmentFacts) -> Row:
    """The row for a segment."""
    return next(row for row in SEGMENT_ROWS if row.applies(facts))


def decide_ring(facts: RingFacts) -> Row:
    """The row for the ring of a MemFirst log."""
    return next(row for row in RING_ROWS if row.applies(facts))
