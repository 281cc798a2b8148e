"""What the writer decides about everything that is no plain append: one submission at a time, on a real journal."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import Any

import pytest
from crc32c import crc32c
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout
from raftlog_mp.bodies import pack_body
from raftlog_mp.config import KIB
from raftlog_mp.layout import ENTRY_RUN, FLAG_TERM_GIVEN, INDEX_MAX, TERM_MAX
from raftlog_mp.orders import PURGES_KEPT, Orders
from raftlog_mp.producers import APPENDED
from raftlog_mp.protocol import BOUNDARY_INDEX_MAX, pack_hard_state
from raftlog_mp.types import HardState, LogId

from .journals import Entries, append, entries_of, kill, open_log, records_of, stop

ME = 0xABC
Run = tuple[int, list[bytes]]  # term, payloads
NOTHING = LogId(0, 0)


class Desk:
    """Hands submissions to ``Orders`` as the intake does after it has checked their envelope."""

    def __init__(self, directory: str, **settings: Any) -> None:
        self.directory, self.files = directory, FaultyFiles()
        self.journal, _ = open_log(directory, self.files, **settings)
        self.rooms: list[bool] = []
        self.orders = Orders(self.journal, self._make_room)
        self.sequence, self.open = 0, True

    def _make_room(self) -> bool:
        self.journal.flush()
        self.rooms.append(True)
        return True

    def give(self, kind: int, a: int = 0, b: int = 0, *, term: int | None = None, body: bytes = b"", count: int = 0,
             crc: int = 0) -> tuple[int, ...]:  # fmt: skip
        """The answer: status, then its four numbers."""
        self.sequence += 1
        flags = 0 if term is None else FLAG_TERM_GIVEN
        fields = (len(body), kind, flags, count, crc, term or 0, self.sequence, a, b)
        answer = self.orders.execute(fields, body, ME)
        assert answer is not None and answer[0] == self.sequence
        return answer[1:]

    def entries(self, prev: LogId, *runs: Run, term: int | None = None) -> tuple[int, ...]:
        """AppendEntries."""
        bodies = [pack_body(payloads) for _, payloads in runs]
        heads = [
            ENTRY_RUN.pack(its, len(payloads), len(body), crc32c(body), 0)
            for (its, payloads), body in zip(runs, bodies, strict=True)
        ]
        table = b"".join(heads)
        return self.give(
            layout.SUBMIT_ENTRIES, prev.index, prev.term, term=term, body=table + b"".join(bodies), count=len(runs),
            crc=crc32c(table),
        )  # fmt: skip

    def raw_entries(self, body: bytes, count: int, *, crc: int | None = None, term: int | None = None) -> int:
        """The status of an AppendEntries after entry 3 with any body."""
        crc = crc32c(body[: 24 * count]) if crc is None else crc
        return self.give(layout.SUBMIT_ENTRIES, 3, 2, term=term, body=body, count=count, crc=crc)[0]

    def vote(self, term: int, voted_for: Any = None) -> tuple[int, ...]:
        return self.give(layout.SUBMIT_HARD_STATE, body=pack_hard_state(HardState(term, voted_for)))

    def saw(self) -> Entries:
        """Closes the log and reads its files."""
        self.close()
        return entries_of(self.directory)

    def close(self) -> None:
        if self.open:
            self.open = False
            if self.journal.failure is None:
                stop(self.journal)
            else:
                kill(self.journal)


@pytest.fixture
def desk(log_dir: str) -> Iterator[Desk]:
    """A log of three entries: terms 1, 2, 2."""
    desk = Desk(log_dir)
    append(desk.journal, b"1", term=1)
    append(desk.journal, b"2", b"3", term=2)
    yield desk
    desk.close()


HELD: Entries = {1: (1, b"1"), 2: (2, b"2"), 3: (2, b"3")}
DONE = (layout.OK, 3, 2, 0, 0)  # the log ends with entry 3 of term 2


# ---------------------------------------------------------------- AppendEntries
def test_entries_are_appended_as_one_record_a_run(desk: Desk) -> None:
    before = desk.journal.appends
    assert desk.entries(LogId(2, 3), (2, [b"4"]), (3, [b"5", b"6"])) == (layout.OK, 6, 3, 0, 0)
    assert desk.journal.appends == before + 2
    verdict = desk.journal.producers.look_up(ME, desk.sequence)
    assert verdict == ("appended", (5, 2, 3)), "the last record names the submission: with it all of them are there"
    assert desk.saw() == HELD | {4: (2, b"4"), 5: (3, b"5"), 6: (3, b"6")}
    records = [record for record, _ in records_of(desk.directory) if record.kind == fmt.KIND_ENTRIES]
    assert [(record.producer, record.sequence) for record in records[-2:]] == [(0, 0), (ME, 1)]


def test_known_entries_are_skipped_also_inside_a_run(desk: Desk) -> None:
    assert desk.entries(NOTHING, (1, [b"1"]), (2, [b"2", b"3", b"4"]), (2, [b"5"])) == (layout.OK, 5, 2, 0, 0)
    assert desk.saw() == HELD | {4: (2, b"4"), 5: (2, b"5")}


def test_a_duplicate_changes_nothing_and_removes_nothing_behind_it(desk: Desk) -> None:
    steps = len(desk.files.steps)
    for prev, runs in ((NOTHING, [(1, [b"1"])]), (LogId(1, 1), [(2, [b"2"])]), (LogId(2, 3), []), (NOTHING, [])):
        assert desk.entries(prev, *runs) == DONE
    assert len(desk.files.steps) == steps, "nothing was written"
    assert desk.saw() == HELD


def test_a_conflict_replaces_the_suffix_from_the_first_entry_that_differs(desk: Desk) -> None:
    assert desk.entries(NOTHING, (1, [b"1"]), (2, [b"2"]), (3, [b"x", b"y"]), term=3) == (layout.OK, 4, 3, 0, 0)
    assert desk.journal.durable_index == 4, "durable, whatever the strategy"
    assert desk.saw() == {1: (1, b"1"), 2: (2, b"2"), 3: (3, b"x"), 4: (3, b"y")}


@pytest.mark.parametrize(("prev", "conflict"), [
    (LogId(2, 4), (0, 4)), (LogId(9, 99), (0, 4)), (LogId(3, 3), (2, 2)), (LogId(1, 2), (2, 2)), (LogId(2, 1), (1, 1)),
])  # fmt: skip
def test_a_mismatch_says_where_the_log_ends_and_where_to_look_next(
    desk: Desk, prev: LogId, conflict: tuple[int, int]
) -> None:
    assert desk.entries(prev, (9, [b"x"])) == (layout.MISMATCH, 3, 2, *conflict)
    assert desk.saw() == HELD


def test_no_committed_entry_is_replaced(desk: Desk) -> None:
    desk.give(layout.SUBMIT_COMMIT, 2)
    assert desk.entries(LogId(1, 1), (3, [b"x"])) == (layout.COMMITTED, 2, 0, 0, 0)
    assert desk.entries(LogId(2, 2), (3, [b"x"]))[0] == layout.OK
    assert desk.saw() == {1: (1, b"1"), 2: (2, b"2"), 3: (3, b"x")}


def test_after_a_purge_the_boundary_matches(desk: Desk) -> None:
    desk.give(layout.SUBMIT_PURGE, 2)
    assert desk.entries(LogId(2, 2), (2, [b"3"]), (2, [b"4"]))[0] == layout.OK
    assert desk.entries(NOTHING, (1, [b"1"]), (2, [b"2", b"3", b"4", b"5"])) == (layout.OK, 5, 2, 0, 0)
    assert desk.entries(LogId(1, 2), (2, [b"x"])) == (layout.MISMATCH, 5, 2, 2, 2)
    assert desk.saw() == {3: (2, b"3"), 4: (2, b"4"), 5: (2, b"5")}


def damaged() -> dict[str, tuple[bytes, int, int]]:
    """What a client may get wrong: body, number of runs, expected status."""

    def head(term: int = 2, count: int = 1, length: int = 1, crc: int = crc32c(b"x"), zero: int = 0) -> bytes:
        return ENTRY_RUN.pack(term, count, length, crc, zero)

    bad = layout.MALFORMED
    two, long = pack_body([b"a", b"b"]), bytes(60 * KIB)
    return {
        "fewer runs than said": (head() + b"x", 2, bad), "no body": (head(), 1, bad),
        "bytes too many": (head() + b"xx", 1, bad),
        "wrong checksum": (head(crc=1) + b"x", 1, bad), "not zero": (head(zero=1) + b"x", 1, bad),
        "term falls": (head(3) + head(2) + b"xx", 2, bad), "term below prev's": (head(1) + b"x", 1, bad),
        "term 0": (head(0) + b"x", 1, bad), "term too large": (head(TERM_MAX + 1) + b"x", 1, bad),
        "no entries": (head(count=0) + b"x", 1, bad),
        "other count": (head(2, 3, len(two), crc32c(two)) + two, 1, bad),
        "too long": (head(2, 1, len(long), crc32c(long)) + long, 1, layout.TOO_LARGE),
    }  # fmt: skip


@pytest.mark.parametrize("name", damaged())
def test_damaged_or_unsorted_entries_are_refused_with_nothing_changed(desk: Desk, name: str) -> None:
    body, count, status = damaged()[name]
    assert desk.raw_entries(body, count) == status
    assert desk.saw() == HELD


def test_a_damaged_table_of_runs_is_refused(desk: Desk) -> None:
    body = ENTRY_RUN.pack(2, 1, 1, crc32c(b"x"), 0) + b"x"
    assert desk.raw_entries(body, 1, crc=1) == layout.MALFORMED
    assert desk.raw_entries(ENTRY_RUN.pack(5, 1, 1, crc32c(b"x"), 0) + b"x", 1, term=4) == layout.MALFORMED, (
        "an entry of a term above its leader's"
    )
    assert desk.raw_entries(body, 1) == layout.OK


# ---------------------------------------------------------------- fencing
def test_a_stale_term_is_refused_by_the_last_entrys_term_and_by_a_vote_alone(desk: Desk) -> None:
    requests = (
        lambda term: desk.entries(LogId(2, 3), (1, [b"x"]) if term == 1 else (2, [b"x"]), term=term),
        lambda term: desk.give(layout.SUBMIT_TRUNCATE, 4, term=term),
    )
    assert requests[1](1) == (layout.STALE_TERM, 0, 0, 2, 0)
    assert desk.vote(5)[0] == layout.OK
    for request in requests:
        assert request(4) == (layout.STALE_TERM, 0, 0, 5, 0)
    assert desk.entries(LogId(2, 3), (2, [b"x"])) == (layout.TERM_REQUIRED, 0, 0, 2, 0), "no term, but a hard state"
    assert desk.entries(LogId(2, 3), (2, [b"x"]), term=5)[0] == layout.OK, "old entries of a new leader are welcome"
    assert desk.saw() == HELD | {4: (2, b"x")}


# ---------------------------------------------------------------- truncation, purge, reset
def test_truncate(desk: Desk) -> None:
    desk.give(layout.SUBMIT_COMMIT, 1)
    assert desk.give(layout.SUBMIT_TRUNCATE, 5) == (layout.GAP, 3, 0, 0, 0)
    assert desk.give(layout.SUBMIT_TRUNCATE, 1) == (layout.COMMITTED, 1, 0, 0, 0)
    before = len(desk.files.steps)
    assert desk.give(layout.SUBMIT_TRUNCATE, 4) == DONE
    assert len(desk.files.steps) == before, "nothing to remove, nothing done"
    assert desk.give(layout.SUBMIT_TRUNCATE, 3, term=2) == (layout.OK, 2, 2, 0, 0)
    assert desk.give(layout.SUBMIT_PURGE, 2)[0] == layout.OK
    assert desk.give(layout.SUBMIT_TRUNCATE, 2) == (layout.PURGED, 3, 0, 0, 0)
    assert desk.give(layout.SUBMIT_TRUNCATE, 3)[0] == layout.OK
    assert desk.saw() == {}


def test_purge(desk: Desk) -> None:
    assert desk.give(layout.SUBMIT_PURGE, 4) == (layout.GAP, 3, 0, 0, 0)
    assert desk.give(layout.SUBMIT_PURGE, 2, 1) == (layout.OTHER_ENTRY, 3, 0, 2, 0)
    before = len(desk.files.steps)
    assert desk.give(layout.SUBMIT_PURGE, 0) == DONE and len(desk.files.steps) == before
    assert desk.give(layout.SUBMIT_PURGE, 2, 2) == DONE
    assert desk.journal.purged == LogId(2, 2)
    before = len(desk.files.steps)
    for index, term in ((2, 2), (2, 0), (1, 0), (1, 9)):
        assert desk.give(layout.SUBMIT_PURGE, index, term) == DONE
    assert desk.give(layout.SUBMIT_PURGE, 2, 9) == (layout.OTHER_ENTRY, 3, 0, 2, 0)
    assert len(desk.files.steps) == before and desk.journal.purged == LogId(2, 2), "it never moves back"
    assert desk.saw() == {3: (2, b"3")}


def test_reset(desk: Desk) -> None:
    desk.vote(3, "n1")
    desk.give(layout.SUBMIT_COMMIT, 2)
    assert desk.give(layout.SUBMIT_RESET, 1, 1) == (layout.COMMITTED, 2, 0, 0, 0)
    assert desk.give(layout.SUBMIT_RESET, 0, 0) == (layout.COMMITTED, 2, 0, 0, 0)
    assert desk.give(layout.SUBMIT_RESET, 9, 7) == (layout.OK, 9, 7, 0, 0)
    assert desk.journal.purged == LogId(7, 9) and desk.journal.manifest.commit_index == 9
    assert desk.journal.hard == HardState(3, "n1")
    assert desk.saw() == {}


def test_reset_may_forget_the_boundary_but_not_go_below_it(desk: Desk) -> None:
    desk.give(layout.SUBMIT_PURGE, 2)
    assert desk.give(layout.SUBMIT_RESET, 1, 1) == (layout.PURGED, 3, 0, 0, 0)
    assert desk.give(layout.SUBMIT_RESET, 0, 0) == (layout.OK, 0, 0, 0, 0)
    assert desk.journal.purged == NOTHING and append(desk.journal, b"anew") == 1
    assert desk.saw() == {1: (1, b"anew")}


@pytest.mark.parametrize(("purge", "commit", "boundary", "answer"), [
    (0, 2, LogId(1, 2), (layout.COMMITTED, 2, 0, 0, 0)), (0, 2, LogId(3, 2), (layout.COMMITTED, 2, 0, 0, 0)),
    (2, 2, LogId(3, 2), (layout.COMMITTED, 2, 0, 0, 0)), (2, 0, LogId(3, 2), (layout.OTHER_ENTRY, 3, 0, 2, 0)),
    (2, 0, LogId(1, 2), (layout.OTHER_ENTRY, 3, 0, 2, 0)), (2, 0, LogId(1, 3), (layout.STALE_TERM, 0, 0, 2, 0)),
    (0, 2, LogId(1, 9), (layout.STALE_TERM, 0, 0, 2, 0)), (2, 1, LogId(1, 9), (layout.STALE_TERM, 0, 0, 2, 0)),
    (3, 1, LogId(1, 2), (layout.PURGED, 4, 0, 0, 0)), (3, 2, LogId(1, 2), (layout.PURGED, 4, 0, 0, 0)),
    (0, 0, LogId(1, BOUNDARY_INDEX_MAX + 1), (layout.MALFORMED, 0, 0, 0, 0)),
])  # fmt: skip
def test_a_boundary_that_contradicts_what_is_committed_or_purged(
    desk: Desk, purge: int, commit: int, boundary: LogId, answer: tuple[int, ...]
) -> None:
    desk.give(layout.SUBMIT_COMMIT, commit)
    desk.give(layout.SUBMIT_PURGE, purge)
    assert desk.give(layout.SUBMIT_RESET, boundary.index, boundary.term) == answer
    assert desk.saw() == {index: row for index, row in HELD.items() if index > purge}, "nothing was changed"


@pytest.mark.parametrize(("commit", "boundary"), [
    (0, LogId(1, 2)), (0, LogId(1, 9)), (1, LogId(1, 2)), (1, LogId(1, 3)), (1, LogId(7, 2)), (1, LogId(1, 9)),
    (2, LogId(2, 2)), (0, LogId(1, BOUNDARY_INDEX_MAX)),
])  # fmt: skip
def test_a_boundary_replaces_whatever_is_not_committed(desk: Desk, commit: int, boundary: LogId) -> None:
    desk.give(layout.SUBMIT_COMMIT, commit)
    assert desk.give(layout.SUBMIT_RESET, boundary.index, boundary.term)[0] == layout.OK
    assert desk.journal.purged == boundary and desk.saw() == {}


# ---------------------------------------------------------------- hard state, commit index
def test_hard_state(desk: Desk) -> None:
    assert desk.vote(3, "a")[0] == layout.OK
    assert desk.vote(2, "a") == (layout.STALE_TERM, 0, 0, 3, 0)
    assert desk.vote(3, "b") == desk.vote(3, 7) == (layout.VOTED, 0, 0, 3, 0)
    before = len(desk.files.steps)
    assert desk.vote(3, "a") == desk.vote(3) == DONE
    assert desk.journal.hard == HardState(3, "a") and len(desk.files.steps) == before, "a vote is never forgotten"
    assert desk.vote(4)[0] == desk.vote(4, 7)[0] == layout.OK
    assert desk.journal.hard == HardState(4, 7)
    for body in (b"", b"\x92\x01", pack_hard_state(HardState(-1, None)), pack_hard_state(HardState(5, "x" * 3000))):
        assert desk.give(layout.SUBMIT_HARD_STATE, body=body)[0] == layout.MALFORMED
    assert desk.journal.hard == HardState(4, 7)


def test_the_commit_index_rises_to_the_last_entry_at_most_and_never_falls(desk: Desk) -> None:
    given = [desk.give(layout.SUBMIT_COMMIT, index)[:2] for index in (2, 1, 99, 0, INDEX_MAX)]
    assert given == [(layout.OK, index) for index in (2, 2, 3, 3, 3)]


# ---------------------------------------------------------------- whatever is not right
def test_unknown_kinds_and_numbers_out_of_range_are_malformed(desk: Desk) -> None:
    for kind, a, b in ((0, 0, 0), (1, 0, 0), (8, 0, 0), (layout.SUBMIT_PURGE, INDEX_MAX + 1, 0),
                       (layout.SUBMIT_RESET, 1, TERM_MAX + 1)):  # fmt: skip
        assert desk.give(kind, a, b) == (layout.MALFORMED, 0, 0, 0, 0)
    assert not desk.orders.news and desk.saw() == HELD


@pytest.mark.parametrize(("code", "status"), [(errno.ENOSPC, layout.DISK_FULL), (errno.EIO, layout.SYNC_FAILED)])
def test_errors_of_the_disk_are_answers(desk: Desk, code: int, status: int) -> None:
    desk.files.fail("create", code, path=".seg")
    assert desk.give(layout.SUBMIT_TRUNCATE, 2) == (status, 0, 0, 0, code)
    assert desk.orders.news


def test_news_is_told_of_whatever_was_executed(desk: Desk) -> None:
    assert not desk.orders.news
    desk.give(layout.SUBMIT_COMMIT, 1)
    assert desk.orders.news


# ---------------------------------------------------------------- room
def test_without_room_it_stays_in_its_lane(log_dir: str) -> None:
    """None means: not now; the second time there is room, and nothing was done twice."""
    desk = Desk(log_dir, strategy="mem_first", max_buffered_entries=2)
    append(desk.journal, b"1", b"2", term=1)
    answers = iter((False, True))
    orders = Orders(desk.journal, lambda: next(answers) and desk._make_room())
    table = ENTRY_RUN.pack(1, 1, 1, crc32c(b"x"), 0)
    fields = (25, layout.SUBMIT_ENTRIES, 0, 1, crc32c(table), 0, 1, 2, 1)
    assert orders.execute(fields, table + b"x", ME) is None
    assert desk.journal.next_index == 3
    assert orders.execute(fields, table + b"x", ME) == (1, layout.OK, 3, 1, 0, 0)
    assert desk.saw() == {1: (1, b"1"), 2: (1, b"2"), 3: (1, b"x")}


def test_all_runs_of_a_request_enter_one_segment(desk: Desk) -> None:
    """Its last record, which names it, must not be alone in the next one."""
    rolls = desk.journal.rolls
    for number in range(12):
        body = bytes([number]) * 5 * KIB
        last = LogId(desk.journal.last_term, desk.journal.next_index - 1)
        assert desk.entries(last, (10 + 2 * number, [body]), (11 + 2 * number, [body, body]))[0] == layout.OK
        desk.journal.flush()
    assert desk.journal.rolls > rolls + 1
    segments = [info for info in desk.journal.manifest.segments if info.sealed]
    assert all(info.last_term % 2 or info.last_term < 10 for info in segments), "each ends with a whole request"
    assert all(info.size_due() <= info.file_bytes for info in segments), "and not beyond the space reserved"
    assert len(desk.saw()) == 3 + 36


def test_a_purge_is_named_in_the_manifest_so_that_it_is_executed_once(desk: Desk, log_dir: str) -> None:
    """It leaves no record that could tell.  After a reset the same index is another entry."""
    desk.journal.manifest.purges = [[1000 + n, 1] for n in range(PURGES_KEPT)]
    assert desk.give(layout.SUBMIT_PURGE, 2)[0] == layout.OK
    assert desk.journal.producers.look_up(ME, desk.sequence)[0] == APPENDED
    desk.open = False
    kill(desk.journal)
    journal, plan = open_log(log_dir)
    assert plan.producers.look_up(ME, desk.sequence)[0] == APPENDED, "asked again, it is answered, not executed"
    assert len(journal.manifest.purges) == PURGES_KEPT and journal.manifest.purges[-1] == [ME, desk.sequence]
    stop(journal)


def test_a_purge_that_finds_no_space_is_not_remembered(desk: Desk) -> None:
    for _ in range(2):  # it tries again when it has made room
        desk.files.fail("create", errno.ENOSPC, path="manifest.tmp")
    assert desk.give(layout.SUBMIT_PURGE, 2)[0] == layout.DISK_FULL
    desk.files.heal()
    assert desk.journal.manifest.purges == [] and desk.journal.producers.look_up(ME, desk.sequence)[0] != APPENDED
