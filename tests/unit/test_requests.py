"""What a handle checks before it asks the writer, how it packs the question, and what it makes of the answer."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
from crc32c import crc32c

from raftlog_mp import errors, layout
from raftlog_mp import format as fmt
from raftlog_mp.arguments import check_entries
from raftlog_mp.bodies import pack_body
from raftlog_mp.layout import ENTRY_RUN, FLAG_TERM_GIVEN, INDEX_MAX, TERM_MAX
from raftlog_mp.protocol import BOUNDARY_INDEX_MAX, HARD_STATE_BYTES_MAX, unpack_hard_state
from raftlog_mp.requests import Requests
from raftlog_mp.types import AppendResult, Entry, HardState, LogId

NOTHING = LogId(0, 0)


class Writer:
    """Stands in for the client: keeps what was asked, and answers what it is told to."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.answer = (layout.OK, 0, 0, 0, 0)

    def limits(self, timeout: float | None) -> tuple[int, int]:
        return 100, 1000

    def ask(self, *question: Any) -> Any:
        *asked, meaning = question
        self.asked.append(tuple(asked))
        return meaning(self.answer)


@pytest.fixture
def writer() -> Writer:
    return Writer()


@pytest.fixture
def requests(writer: Writer) -> Requests:
    return Requests(writer)  # type: ignore[arg-type]


def entries(*terms: int, after: int = 0) -> list[Entry]:
    return [Entry(term, index, b"%d" % index) for index, term in enumerate(terms, after + 1)]


# ---------------------------------------------------------------- AppendEntries
def test_entries_travel_as_runs_of_one_term(requests: Requests, writer: Writer) -> None:
    writer.answer = (layout.OK, 9, 7, 0, 0)
    result = requests.append_entries(LogId(2, 4), entries(2, 2, 3, after=4), 5, 1.5)
    assert result == AppendResult(True, LogId(3, 7), LogId(7, 9), None), "matched is what was sent, not the log's end"
    (kind, head, body, a, b, timeout) = writer.asked[0]
    first, second = pack_body([b"5", b"6"]), b"7"
    table = ENTRY_RUN.pack(2, 2, len(first), crc32c(first), 0) + ENTRY_RUN.pack(3, 1, 1, crc32c(second), 0)
    assert body == table + first + second
    assert (kind, head, a, b, timeout) == (layout.SUBMIT_ENTRIES, (FLAG_TERM_GIVEN, 2, crc32c(table), 5), 4, 2, 1.5)


def test_a_heartbeat_asks_only_whether_prev_matches(requests: Requests, writer: Writer) -> None:
    writer.answer = (layout.OK, 9, 7, 0, 0)
    assert requests.append_entries(LogId(2, 4), [], None, None).matched == LogId(2, 4)
    assert requests.append_entries(NOTHING, iter(()), None, None).matched == NOTHING
    assert [question[1:5] for question in writer.asked] == [((0, 0, 0, 0), b"", 4, 2), ((0, 0, 0, 0), b"", 0, 0)]


def test_a_mismatch_is_a_result_and_no_error(requests: Requests, writer: Writer) -> None:
    writer.answer = (layout.MISMATCH, 9, 7, 3, 5)
    result = requests.append_entries(LogId(2, 4), entries(2, after=4), 5, None)
    assert result == AppendResult(False, None, LogId(7, 9), LogId(3, 5))


@pytest.mark.parametrize("sent", [
    entries(1, after=1), entries(1, 1, after=0)[::-1], [Entry(1, 1, b""), Entry(1, 3, b"")],
    [Entry(1, 1, b""), Entry(1, 1, b"")], entries(1, after=-1),
])  # fmt: skip
def test_entries_that_do_not_follow_prev_one_by_one_are_a_gap(
    requests: Requests, writer: Writer, sent: list[Entry]
) -> None:
    with pytest.raises(errors.IndexGap, match="nothing was changed") as caught:
        requests.append_entries(NOTHING, sent, None, None)
    assert caught.value.last_index == 0 and not writer.asked


@pytest.mark.parametrize(("prev", "terms", "leader", "said"), [
    (LogId(3, 4), (2,), None, (2, 3)), (LogId(1, 4), (1, 3, 2), None, (2, 3)), (LogId(1, 4), (5, 1), None, (1, 5)),
    (LogId(1, 4), (2, 6), 5, (5, 6)),
])  # fmt: skip
def test_terms_that_go_down_or_above_the_leaders_are_stale(
    requests: Requests, writer: Writer, prev: LogId, terms: tuple[int, ...], leader: int | None, said: tuple[int, int]
) -> None:
    with pytest.raises(errors.StaleTerm, match="nothing was changed") as caught:
        requests.append_entries(prev, entries(*terms, after=4), leader, None)
    assert (caught.value.term, caught.value.current_term) == said and not writer.asked


@pytest.mark.parametrize("term", [0, -1, TERM_MAX + 1])
def test_terms_out_of_range_are_refused_wherever_they_stand(requests: Requests, writer: Writer, term: int) -> None:
    for sent in (entries(term), entries(1, term), entries(term, 1)):
        with pytest.raises(errors.ConfigError):
            requests.append_entries(NOTHING, sent, None, None)
    with pytest.raises(errors.ConfigError):
        requests.append_entries(NOTHING, [], term, None)
    with pytest.raises(errors.ConfigError):
        requests.truncate_from(1, term, None)
    assert not writer.asked


@pytest.mark.parametrize("prev", [
    None, 5, (1,), (1, 2, 3), ("1", 2), (1, 2.0), (True, 1), "ab", [1, 2], {1, 2}, {1: 0, 2: 0},
])  # fmt: skip
def test_what_is_no_log_id_is_a_type_error(requests: Requests, writer: Writer, prev: Any) -> None:
    with pytest.raises(TypeError, match="prev"):
        requests.append_entries(prev, [], None, None)
    assert not writer.asked


@pytest.mark.parametrize("prev", [(0, 1), (1, 0), (-1, 1), (1, -1), (TERM_MAX + 1, 1), (1, INDEX_MAX + 1)])
def test_log_ids_that_no_entry_can_have_are_refused(requests: Requests, writer: Writer, prev: Any) -> None:
    for ask in (
        lambda: requests.append_entries(prev, [], None, None), lambda: requests.reset(prev, None),
        lambda: requests.purge_to(LogId(*prev), None),
    ):  # fmt: skip
        with pytest.raises(errors.ConfigError, match=r"the term up to 2\*\*63-1 and the index up to 2\*\*6[12]-1"):
            ask()
    assert not writer.asked


def test_sizes_are_checked_before_anything_travels(requests: Requests, writer: Writer) -> None:
    requests.append_entries(NOTHING, [Entry(1, 1, bytes(100))], None, None)
    with pytest.raises(errors.EntryTooLarge, match="entry of 101 bytes"):
        requests.append_entries(NOTHING, [Entry(1, 1, bytes(101))], None, None)
    with pytest.raises(errors.EntryTooLarge, match="batch of"):
        requests.append_entries(NOTHING, [Entry(1, index, bytes(90)) for index in range(1, 13)], None, None)
    headers = [Entry(index, index, bytes(20)) for index in range(1, 12)]
    with pytest.raises(errors.EntryTooLarge, match=f"batch of {11 * 20 + 10 * fmt.RECORD_BYTES} bytes"):
        requests.append_entries(NOTHING, headers, None, None)  # each run becomes a record of its own
    assert len(writer.asked) == 1


def test_payloads_of_every_kind_become_bytes(requests: Requests, writer: Writer) -> None:
    sent = [Entry(1, 1, bytearray(b"a")), Entry(1, 2, memoryview(b"b"))]  # type: ignore[arg-type]
    assert check_entries(NOTHING, sent, None) == [(1, [b"a", b"b"])]
    with pytest.raises(TypeError):
        requests.append_entries(NOTHING, [Entry(1, 1, "text")], None, None)  # type: ignore[arg-type]
    assert not writer.asked


class Pair(NamedTuple):
    """An entry by its names only."""

    term: int
    index: int  # type: ignore[assignment]
    payload: bytes


@pytest.mark.parametrize(("sent", "said"), [
    ([Pair(1, 1, b"x")], r"entries\[0\] is an Entry, not Pair"),
    ([(1, 1, b"x")], r"entries\[0\] is an Entry, not tuple"),
    ([Entry(1, 1, b""), None], r"entries\[1\] is an Entry, not None"), (b"xyz", r"entries\[0\] is an Entry, not int"),
    ([Entry(1, 1, b""), Entry(1, 2.0, b"")], r"entries\[1\].index is an integer, not float"),  # type: ignore[arg-type]
    ([Entry(True, 1, b"")], r"entries\[0\].term is an integer, not bool"),
    ([Entry(1, 1, b""), Entry(1.0, 2, b"")], r"entries\[1\].term is an integer, not float"),  # type: ignore[arg-type]
])  # fmt: skip
def test_what_is_no_entry_is_named_by_its_place(requests: Requests, writer: Writer, sent: Any, said: str) -> None:
    with pytest.raises(TypeError, match=said):
        requests.append_entries(NOTHING, sent, None, None)
    assert not writer.asked


def test_an_entry_and_its_numbers_may_be_of_a_subclass(requests: Requests, writer: Writer) -> None:
    class Number(int):
        pass

    class Mine(Entry):
        pass

    sent = [Entry(1, 1, b""), Mine(Number(1), Number(2), b"")]
    assert requests.append_entries(NOTHING, sent, None, None).matched == LogId(1, 2)


def test_behind_the_highest_boundary_there_is_room(requests: Requests, writer: Writer) -> None:
    requests.reset(LogId(1, BOUNDARY_INDEX_MAX), None)
    assert writer.asked[0][3] == BOUNDARY_INDEX_MAX
    with pytest.raises(errors.ConfigError, match=r"index up to 2\*\*61-1"):
        requests.reset(LogId(1, BOUNDARY_INDEX_MAX + 1), None)
    with pytest.raises(errors.IndexGap, match=r"from 1 to 2\*\*62-1"):
        requests.append_entries(LogId(1, INDEX_MAX), [Entry(1, INDEX_MAX + 1, b"")], None, None)
    assert len(writer.asked) == 1


def test_a_long_list_of_wrong_indexes_is_told_in_short() -> None:
    with pytest.raises(errors.IndexGap, match=r"\[2, 3, \.\.\. 101\]"):
        check_entries(NOTHING, entries(*[1] * 100, after=1), None)


# ---------------------------------------------------------------- truncate, purge, reset, commit
def test_every_other_question_is_two_numbers(requests: Requests, writer: Writer) -> None:
    requests.truncate_from(5, 3, 1.0)
    requests.truncate_from(5, None, 1.0)
    requests.purge_to(7, 1.0)
    requests.purge_to(LogId(2, 7), 1.0)
    requests.purge_to(0, 1.0)
    requests.reset(LogId(2, 7), 1.0)
    requests.reset(None, 1.0)
    writer.answer = (layout.OK, 6, 0, 0, 0)
    assert requests.commit_to(9, 1.0) == 6
    requests.commit_to(INDEX_MAX, 1.0)
    none = (0, 0, 0, 0)
    assert writer.asked == [
        (layout.SUBMIT_TRUNCATE, (FLAG_TERM_GIVEN, 0, 0, 3), b"", 5, 0, 1.0),
        (layout.SUBMIT_TRUNCATE, none, b"", 5, 0, 1.0),
        (layout.SUBMIT_PURGE, none, b"", 7, 0, 1.0), (layout.SUBMIT_PURGE, none, b"", 7, 2, 1.0),
        (layout.SUBMIT_PURGE, none, b"", 0, 0, 1.0), (layout.SUBMIT_RESET, (0, 0, 0, 2), b"", 7, 2, 1.0),
        (layout.SUBMIT_RESET, none, b"", 0, 0, 1.0), (layout.SUBMIT_COMMIT, none, b"", 9, 0, 1.0),
        (layout.SUBMIT_COMMIT, none, b"", INDEX_MAX, 0, 1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("index", [0, -1, INDEX_MAX + 1])
def test_indexes_that_no_entry_can_have_are_a_gap(requests: Requests, writer: Writer, index: int) -> None:
    with pytest.raises(errors.IndexGap, match=r"from 1 to 2\*\*62-1"):
        requests.truncate_from(index, None, None)
    if index:
        with pytest.raises(errors.IndexGap, match=r"from 0 to 2\*\*62-1"):
            requests.purge_to(index, None)
    if index < 0:
        with pytest.raises(errors.IndexGap):
            requests.commit_to(index, None)
    assert not writer.asked


@pytest.mark.parametrize("index", [True, 1.0, "1", None, b"1"])
def test_an_index_is_an_integer(requests: Requests, writer: Writer, index: Any) -> None:
    for ask in (lambda: requests.truncate_from(index, None, None), lambda: requests.purge_to(index, None),
                lambda: requests.commit_to(index, None)):  # fmt: skip
        with pytest.raises(TypeError, match="index"):
            ask()
    assert not writer.asked


# ---------------------------------------------------------------- hard state
@pytest.mark.parametrize("vote", ["n1", "", "ü", 0, -(1 << 63), (1 << 63) - 1, None])
def test_a_hard_state_travels_with_its_checksum(requests: Requests, writer: Writer, vote: Any) -> None:
    requests.save_hard_state(HardState(3, vote), 1.0)
    requests.save_hard_state((3, vote), 1.0)  # type: ignore[arg-type]
    assert writer.asked[0] == writer.asked[1]
    kind, head, body, a, b, _ = writer.asked[0]
    assert (kind, head, a, b) == (layout.SUBMIT_HARD_STATE, (0, 0, crc32c(body), 0), 0, 0)
    assert unpack_hard_state(body) == HardState(3, vote)


@pytest.mark.parametrize("state", [None, 5, (1,), (1, 2, 3), ("1", None), (True, None), (1, 2.0), (1, b"n"), (1, True)])
def test_what_is_no_hard_state_is_a_type_error(requests: Requests, writer: Writer, state: Any) -> None:
    with pytest.raises(TypeError):
        requests.save_hard_state(state, None)
    assert not writer.asked


@pytest.mark.parametrize("state", [
    (-1, None), (TERM_MAX + 1, None), (1, 1 << 63), (1, -(1 << 63) - 1), (1, "x" * HARD_STATE_BYTES_MAX),
    (1, "\ud800"),
])  # fmt: skip
def test_a_hard_state_out_of_range_is_refused(requests: Requests, writer: Writer, state: Any) -> None:
    with pytest.raises(errors.ConfigError, match="give"):
        requests.save_hard_state(state, None)
    assert not writer.asked


def test_the_longest_vote_that_is_advised_is_accepted(requests: Requests, writer: Writer) -> None:
    requests.save_hard_state(HardState(TERM_MAX, "x" * (HARD_STATE_BYTES_MAX - 16)), None)
    assert unpack_hard_state(writer.asked[0][2]).voted_for == "x" * (HARD_STATE_BYTES_MAX - 16)
