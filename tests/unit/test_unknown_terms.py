"""Terms in damage: told if the entries around it have one term, else nobody guesses, neither reader nor writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import raftlog_mp
from raftlog_mp import errors, layout, log_reader
from raftlog_mp import format as fmt
from raftlog_mp.log_reader import LogReader
from raftlog_mp.terms import TermRuns, unknown_terms
from raftlog_mp.types import LogId

from .damaged import Damaged, build, carry_out, payload_of, planned, term_of
from .journals import open_log, overwrite, refused, snapshot, stop
from .test_orders import Desk

# Terms of the log: 1 to entry 6, 2 to 13, 3 to 20, 4 to 27, 5 to 30.  Segments begin with 1, 11 and 21.
SEALED = 2
NEITHER, REPAIRED, SERVED = "before repair", "after repair", "under a writer"


@pytest.fixture
def log(tmp_path: Path) -> Damaged:
    """A killed DiskFirst log of three segments."""
    return build(str(tmp_path / "log"))


@pytest.fixture(params=[NEITHER, REPAIRED, pytest.param(SERVED, marks=pytest.mark.slow)])
def read(log: Damaged, request: pytest.FixtureRequest) -> Iterator[Callable[[], LogReader]]:
    """Opens a reader of the damaged log as it is, repaired, or repaired and served."""
    opened: list[LogReader] = []
    writers: list[raftlog_mp.Writer] = []

    def start() -> LogReader:
        if request.param != NEITHER:
            carry_out(planned(log.path))
        if request.param == SERVED:
            writers.append(raftlog_mp.start_writer(log.path))
        opened.append(log_reader.open_reader(log.path))
        return opened[0]

    yield start
    for reader in opened:
        reader.close()
    for writer in writers:
        writer.stop()


def forget_terms(log: Damaged, number: int = SEALED) -> None:
    """As a crash does it: the file is not synced."""
    os.unlink(os.path.join(log.path, fmt.terms_name(number)))


def wipe(log: Damaged, first: int, following: int) -> None:
    """Zeros from the middle of one record into the header of another."""
    name, start = log.places[first].name, log.places[first].offset + fmt.RECORD_BYTES + 20
    overwrite(os.path.join(log.path, name), start, bytes(log.places[following].offset + 40 - start))


def not_told(ask: Callable[[], object]) -> tuple[int | None, int | None]:
    """The range that the error names; it says where, and what to do next."""
    with pytest.raises(errors.CorruptLog) as caught:
        ask()
    error = caught.value
    assert error.segment is not None and error.segment in str(error) and f"offset {error.offset}" in str(error)
    assert "raftlog-mp repair" in str(error) and f"truncate_from({error.first_index})" in str(error)
    return error.first_index, error.last_index


# ---------------------------------------------------------------- readers
def test_damage_across_records_within_a_term(log: Damaged, read: Callable[[], LogReader]) -> None:
    """Noted as two rows, side by side."""
    wipe(log, 8, 9)
    reader = read()
    assert [reader.term_of(index) for index in range(1, 31)] == [term_of(index) for index in range(1, 31)]


def test_damage_across_records_over_a_change_of_term(log: Damaged, read: Callable[[], LogReader]) -> None:
    wipe(log, 27, 28)
    reader = read()
    for index in (27, 28):
        assert not_told(lambda index=index: reader.term_of(index)) == (27, 28)  # type: ignore[misc]
    assert (reader.term_of(26), reader.term_of(29), reader.last_log_id) == (4, 5, LogId(5, 30))


def test_where_a_term_begins_is_not_guessed(log: Damaged, read: Callable[[], LogReader]) -> None:
    log.hit(28, header=True)
    reader = read()
    for ask in (lambda: reader.term_of(28), lambda: reader.first_index_of_term(5),
                lambda: reader.last_index_of_term(4), lambda: next(reader.follow(after=LogId(4, 28), timeout=0)),
                lambda: reader.wait_durable(LogId(4, 28), timeout=0)):  # fmt: skip
        assert not_told(ask) == (28, 28)
    assert (reader.first_index_of_term(4), reader.last_index_of_term(5)) == (21, 30)
    assert (reader.last_index_of_term(3), reader.first_index_of_term(6)) == (20, None)


def test_whether_a_term_is_there_is_not_guessed(log: Damaged, read: Callable[[], LogReader]) -> None:
    """All of term 4 lies in the damage."""
    wipe(log, 21, 28)
    reader = read()
    for ask in (reader.first_index_of_term, reader.last_index_of_term):
        assert not_told(lambda ask=ask: ask(4)) == (21, 28)  # type: ignore[misc]
    assert (reader.first_index_of_term(3), reader.last_index_of_term(5)) == (14, 30)


def test_a_sealed_segment_without_its_terms(log: Damaged, read: Callable[[], LogReader]) -> None:
    forget_terms(log)
    log.hit(14, header=True)
    reader = read()
    for ask in (lambda: reader.term_of(14), lambda: reader.first_index_of_term(3),
                lambda: reader.last_index_of_term(2)):  # fmt: skip
        assert not_told(ask) == (14, 14)
    assert [reader.term_of(index) for index in (12, 13, 15, 20, 21)] == [2, 2, 3, 3, 4]
    assert (reader.first_index_of_term(2), reader.last_index_of_term(3)) == (7, 20)


@pytest.mark.parametrize("read", [SERVED], indirect=True)
def test_all_of_it_under_a_writer(log: Damaged, read: Callable[[], LogReader]) -> None:
    wipe(log, 8, 9)
    forget_terms(log)
    log.hit(14, header=True)
    log.hit(28, header=True)
    reader = read()
    known = {index: term_of(index) for index in range(1, 31) if index not in (14, 28)}
    assert {index: reader.term_of(index) for index in known} == known
    for hole, ended, begun in ((14, 2, 3), (28, 4, 5)):
        for ask, of in (
            (reader.term_of, hole), (reader.last_index_of_term, ended), (reader.first_index_of_term, begun),
        ):  # fmt: skip
            assert not_told(lambda ask=ask, of=of: ask(of)) == (hole, hole)  # type: ignore[misc]


def test_a_sealed_segment_that_is_gone_with_its_terms(log: Damaged) -> None:
    forget_terms(log)
    os.unlink(os.path.join(log.path, fmt.segment_name(SEALED)))
    with log_reader.open_reader(log.path) as reader:
        assert not_told(lambda: reader.term_of(15)) == not_told(lambda: reader.first_index_of_term(3)) == (11, 19)
        # The manifest states what a sealed segment ends with.
        assert [reader.term_of(index) for index in (10, 20, 21)] == [2, 3, 4]


# ---------------------------------------------------------------- a writer
def test_a_start_does_not_guess(log: Damaged) -> None:
    forget_terms(log)
    log.hit(14, header=True)
    error = refused(log.path, "F", segment=fmt.segment_name(SEALED), first_index=14, last_index=14, term=2)
    assert error.offset == log.places[14].offset and "raftlog-mp repair" in str(error)


def test_a_start_knows_what_lies_within_a_term(log: Damaged) -> None:
    forget_terms(log)
    log.hit(12, header=True)
    journal, _ = open_log(log.path)
    assert journal.terms.runs.runs() == [(1, 1), (7, 2), (14, 3), (21, 4), (28, 5)]
    stop(journal)


def test_no_guess_is_kept(log: Damaged) -> None:
    log.hit(14, header=True)
    carry_out(planned(log.path))
    forget_terms(log)
    journal, _ = open_log(log.path)
    stop(journal)
    assert fmt.terms_name(SEALED) not in snapshot(log.path)


def test_append_entries_never_matches_a_guess(log: Damaged) -> None:
    forget_terms(log)
    log.hit(14, header=True)
    carry_out(planned(log.path))
    desk = Desk(log.path)
    for term in (2, 3):
        assert desk.entries(LogId(term, 14), (9, [b"x"]))[0] == layout.MISMATCH
    assert desk.entries(LogId(2, 13), (3, [payload_of(14)]))[0] == layout.OK
    assert desk.journal.next_index == 15, "filled, and what stood behind it replaced"
    desk.close()


def test_append_entries_does_not_match_an_end_that_is_lost(log: Damaged) -> None:
    """Its term is known, and yet no leader may count it."""
    journal, _ = open_log(log.path)
    stop(journal)
    log.hit(30)
    carry_out(planned(log.path))
    desk = Desk(log.path)
    assert desk.entries(LogId(5, 30), (5, [b"x"]))[:3] == (layout.MISMATCH, 30, 5)
    assert desk.entries(LogId(5, 29), (5, [payload_of(30)]))[0] == layout.OK
    assert desk.entries(LogId(5, 30), (5, [b"x"]))[0] == layout.OK
    desk.close()


def test_no_guess_becomes_the_end_or_the_beginning(log: Damaged) -> None:
    log.hit(14, header=True)
    carry_out(planned(log.path))
    desk = Desk(log.path)
    unknown = (layout.TERM_UNKNOWN, 14, 0, 2, 0)
    before = desk.journal.terms.runs.runs()
    assert desk.give(layout.SUBMIT_TRUNCATE, 15) == desk.give(layout.SUBMIT_PURGE, 14) == unknown
    assert desk.give(layout.SUBMIT_PURGE, 14, 2) == desk.give(layout.SUBMIT_PURGE, 14, 3) == unknown
    assert desk.journal.terms.runs.runs() == before and desk.journal.next_index == 31
    assert desk.give(layout.SUBMIT_COMMIT, 14)[0] == layout.OK
    assert desk.give(layout.SUBMIT_RESET, 14, 4)[0] == layout.COMMITTED, "more than it can have had"
    assert desk.give(layout.SUBMIT_RESET, 14, 1)[0] == layout.COMMITTED, "less"
    assert desk.give(layout.SUBMIT_PURGE, 13)[0] == layout.OK
    desk.close()
    with log_reader.open_reader(log.path) as reader:
        assert not_told(lambda: reader.first_index_of_term(2)) == (14, 14), "14 may have the boundary's term"


def test_a_snapshot_may_end_in_a_hole(log: Damaged) -> None:
    forget_terms(log)  # the table then has a lower term there
    log.hit(14, header=True)
    carry_out(planned(log.path))
    desk = Desk(log.path)
    assert desk.give(layout.SUBMIT_COMMIT, 14)[0] == desk.give(layout.SUBMIT_RESET, 14, 3)[0] == layout.OK
    assert desk.journal.purged == LogId(3, 14)
    desk.close()


# ---------------------------------------------------------------- the rule
def test_unknown_terms() -> None:
    runs, none = TermRuns([(1, 1), (10, 2), (20, 3)]), LogId(0, 0)

    def spans(*damage: tuple[int, int], purged: LogId = none, last: int = 30) -> list[tuple[int, ...]]:
        return [one[:4] for one in unknown_terms(runs, [[*row, 7, 99] for row in damage], purged, last)]

    assert spans((2, 8), (11, 18), (5, 4)) == [], "within a term, or no entry"
    assert spans((9, 10), (15, 19)) == [(9, 10, 1, 2), (15, 19, 2, 3)]
    assert spans((15, 17), (18, 21), (4, 9)) == [(4, 9, 1, 2), (15, 21, 2, 3)], "side by side is one"
    assert spans((1, 1)) == [(1, 1, 0, 1)], "before it stands nothing"
    assert spans((5, 12), purged=LogId(1, 8)) == [(9, 12, 1, 2)]
    assert spans((5, 12), purged=LogId(2, 11)) == spans((5, 12), purged=LogId(2, 12)) == []
    assert spans((15, 30)) == [(15, 29, 2, 3)] and spans((15, 40), last=18) == [], "the end is known"
    assert spans((15, 20), last=20) == [(15, 19, 2, 3)] and spans((20, 20), last=20) == []
