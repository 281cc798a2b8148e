"""The client: submissions into the lane, answers out of it, room, refusals, and sending again what has no answer."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from crc32c import crc32c

from raftlog_mp import errors, layout, shm
from raftlog_mp.arguments import as_bytes, check_payloads, check_term
from raftlog_mp.bodies import unpack_body
from raftlog_mp.client import Client
from raftlog_mp.control import Control
from raftlog_mp.files import Files
from raftlog_mp.lane import LaneConsumer, LaneProducer
from raftlog_mp.layout import COMPLETION_SLOTS, OK, SUBMISSION, SUBMISSION_BYTES, WANTS_ANSWERS
from raftlog_mp.link import Link
from raftlog_mp.protocol import CLIENT
from raftlog_mp.ticket import Ticket
from raftlog_mp.wakeup import FOREVER

from .journals import small_config

LANE_BYTES = 1 << 16
Submission = tuple[int, int, int, int, bytes]  # sequence, count, flags, term, body


class WriterLink(Link):
    """A link whose other end is the test: lanes without a socket, and waits that run what the writer does next."""

    def __init__(self) -> None:
        super().__init__("/log", CLIENT, files=Files())
        self.lane: Any = None  # the writer's side of the present one
        self.up = True  # whether a writer would answer
        self.steps: deque[Callable[[], object]] = deque()
        self.bells, self.connects = 0, 0
        self.sent, self.wanted, self.hello, self.mappings = list[str](), list[int](), dict[str, Any](), list[Any]()
        self.config = small_config(max_entry_bytes=1000)
        self.client = Client(self)

    @property
    def connected(self) -> bool:
        return self.lane is not None

    def ensure(self, deadline: float) -> Any:
        self.check_open()
        if self.lane is None:
            if not self.up:
                raise errors.WriterUnavailable("no writer serves /log")
            self.connect()
        return self.view

    def wait(self, ready: Callable[[], bool], deadline: float, wants: int) -> bool:
        self.wanted.append(wants)
        assert len(self.wanted) < 100, "it waits for ever"
        while not ready():
            self.check_open()
            if not self.steps:
                return False
            self.steps.popleft()()
        return True

    def ring_writer(self) -> None:
        self.bells += 1

    def send(self, **message: Any) -> bool:
        self.sent.append(message["op"])
        return True

    def look(self) -> None:
        if self.stopped():
            self.lose()

    def connect(self) -> None:
        """A writer takes the client in."""
        self.hello = self.hello_fields()
        fd, mapping = shm.create_memfd("test-lane", layout.lane_file_bytes(LANE_BYTES))
        self.lane = LaneConsumer(mapping, LANE_BYTES)
        theirs = LaneProducer(shm.map_memfd(fd))
        self.mappings += [mapping, theirs.mapping]
        self.mappings.append(shm.map_memfd(shm.create_memfd("test-control", layout.CONTROL_BYTES)[0]))
        self.control = Control(self.mappings[-1])
        self.view: Any = SimpleNamespace(control=self.control, config=self.config)
        self.connects += 1
        self.on_connect(theirs)  # type: ignore[misc]

    def set(self, **words: int) -> None:
        """What the writer stores in its control block."""
        for name, value in words.items():
            getattr(self.control, name).store(value, shm.SEQ_CST)

    def lose(self) -> None:
        """The connection ends."""
        self.lane = None
        self.on_lost()  # type: ignore[misc]

    def take(self) -> list[Submission]:
        """What came into the lane since the last look."""
        lane, found = self.lane, list[Submission]()
        tail = lane.tail.load(shm.SEQ_CST)
        while lane.head < tail:
            head = lane.copy(lane.head, lane.head + SUBMISSION_BYTES)
            length, kind, flags, count, crc, term, sequence, *_ = SUBMISSION.unpack(head)
            body = lane.copy(lane.head + SUBMISSION_BYTES, lane.head + SUBMISSION_BYTES + length)
            assert kind == layout.SUBMIT_APPEND and crc32c(body) == crc
            found.append((sequence, count, flags, term, body))
            lane.head += SUBMISSION_BYTES + length
        return found

    def answer(self, last: int, first_index: int = 1, count: int = 1, status: int = OK, **more: int) -> None:
        """One completion slot."""
        self.lane.complete([(last, status, first_index, count, more.get("term", 1), more.get("detail", 0))])


@pytest.fixture
def link() -> Iterator[WriterLink]:
    """A client that is connected."""
    made = WriterLink()
    made.connect()
    yield made
    for mapping in made.mappings:
        mapping.close()


def submit(link: WriterLink, count: int = 1, payload: bytes = b"x") -> Ticket:
    return link.client.submit([payload] * count, None, 0.0)


# ---------------------------------------------------------------- submitting
def test_what_the_writer_finds_in_the_lane(link: WriterLink) -> None:
    link.client.submit([b"payload"], None, 0.0)
    link.client.submit([bytearray(b"a"), memoryview(b""), b"c"], 7, 0.0)
    link.client.submit([b""], layout.TERM_MAX, 0.0)
    first, second, third = link.take()
    assert first == (1, 1, 0, 0, b"payload"), "one entry is its own body; no term was given"
    assert second[:4] == (2, 3, layout.FLAG_TERM_GIVEN, 7) and unpack_body(second[4], 3) == [b"a", b"", b"c"]
    assert third == (3, 1, layout.FLAG_TERM_GIVEN, layout.TERM_MAX, b"")
    assert link.bells == 3, "each is told to a writer that may sleep"


def test_nothing_to_append_is_done_at_once(link: WriterLink) -> None:
    ticket = link.client.submit([], None, 0.0)
    assert ticket.done() and ticket.result(0.0) == range(0) and ticket.exception() is None
    submit(link)
    assert [sequence for sequence, *_ in link.take()] == [1], "it took no sequence"


@pytest.mark.parametrize(
    ("payloads", "limit"), [([b"x" * 1001], 1000), ([b"x", b"y" * 1001], 1000), ([b"x" * 900] * 80, 0)]
)
def test_what_is_too_large_is_not_sent(link: WriterLink, payloads: list[bytes], limit: int) -> None:
    limit = limit or link.config.batch_bytes_limit
    with pytest.raises(errors.EntryTooLarge) as large:
        link.client.submit(payloads, None, 0.0)
    assert large.value.limit_bytes == limit < large.value.size_bytes
    link.client.submit([b"x" * 1000], None, 0.0)
    assert [sequence for sequence, *_ in link.take()] == [1]


def test_payloads_are_copied_whole_and_what_is_none_is_named() -> None:
    source = bytearray(b"abcd")
    taken = as_bytes(source)
    source[0] = 0
    assert taken == b"abcd" and as_bytes(memoryview(b"abcd")[1:3]) == b"bc"
    for nonsense in (b"bytes", "text", ["text"], [1], [memoryview(b"abcd")[::2]]):
        with pytest.raises(TypeError):
            check_payloads(nonsense)  # type: ignore[arg-type]
    for term, error in ((0, errors.ConfigError), (layout.TERM_MAX + 1, errors.ConfigError), (True, TypeError)):
        with pytest.raises(error):
            check_term(term)


# ---------------------------------------------------------------- answers
def test_one_answer_for_a_run_gives_each_ticket_its_own_range(link: WriterLink) -> None:
    tickets = [submit(link, 3) for _ in range(4)]
    link.answer(last=3, first_index=10, count=3)
    assert [ticket.done() for ticket in tickets] == [True, True, True, False]
    assert [ticket.result(0.0) for ticket in tickets[:3]] == [range(10, 13), range(13, 16), range(16, 19)]
    link.answer(last=4, first_index=40, count=3)
    assert tickets[3].result(0.0) == range(40, 43)


def test_several_slots_at_once_with_a_refusal_between(link: WriterLink) -> None:
    tickets = [submit(link) for _ in range(5)]
    link.answer(2, 7)
    link.answer(4, status=layout.DISK_FULL)
    link.answer(5, 9)
    assert tickets[4].result(0.0) == range(9, 10)
    assert [ticket.result(0.0).start for ticket in tickets[:2]] == [7, 8]
    for ticket in tickets[2:4]:
        assert isinstance(ticket.exception(), errors.DiskFull)
        for _ in range(2):
            with pytest.raises(errors.DiskFull):
                ticket.result(0.0)


@pytest.mark.parametrize(
    ("status", "kind", "fields"),
    [
        (layout.STALE_TERM, errors.StaleTerm, {"current_term": 9}),
        (layout.TERM_REQUIRED, errors.StaleTerm, {"current_term": 9}),
        (layout.TOO_LARGE, errors.EntryTooLarge, {"limit_bytes": 28}),
        (layout.SYNC_FAILED, errors.SyncFailed, {"errno": 28}),
        (layout.DISK_FULL, errors.DiskFull, {"errno": 28}),
        (layout.UNKNOWN, errors.OutcomeUnknown, {}),
        (layout.MALFORMED, errors.RaftLogError, {}),
        (99, errors.RaftLogError, {}),  # of a newer writer
    ],
)
def test_each_refusal_is_its_own_error(link: WriterLink, status: int, kind: type, fields: dict[str, int]) -> None:
    ticket = submit(link)
    assert ticket.exception() is None, "not known yet"
    link.answer(1, status=status, term=9, detail=28)
    with pytest.raises(errors.RaftLogError) as refused:
        ticket.result(0.0)
    assert type(refused.value) is kind and {name: getattr(refused.value, name) for name in fields} == fields


# ---------------------------------------------------------------- waiting
def test_no_answer_in_time_leaves_the_ticket_alive(link: WriterLink) -> None:
    ticket = submit(link)
    with pytest.raises(errors.AppendTimeout, match="Outcome unknown") as late:
        ticket.result(0.0)
    assert late.value.ticket is ticket and link.wanted == [WANTS_ANSWERS]
    link.steps.append(lambda: link.answer(1, 5))
    assert late.value.ticket.result(1.0) == range(5, 6)


@pytest.mark.parametrize("why", [errors.CorruptLog("it is damaged"), errors.ConfigError("another strategy")])
def test_why_no_writer_answers(link: WriterLink, monkeypatch: pytest.MonkeyPatch, why: errors.RaftLogError) -> None:
    """It is told with the ticket; only a wrong setting, which the caller can mend, is raised itself."""
    ticket = submit(link)
    monkeypatch.setattr(link, "wait", Mock(side_effect=why))
    with pytest.raises(errors.RaftLogError, match=str(why)) as told:
        ticket.result(1.0)
    if isinstance(why, errors.ConfigError):
        assert told.value is why
    else:
        assert isinstance(told.value, errors.AppendTimeout) and told.value.__cause__ is why


def test_a_handle_that_closes_under_a_ticket(link: WriterLink) -> None:
    answered, open_ticket = submit(link), submit(link)
    link.answer(1, 5)
    assert answered.done()
    link.closed = True
    with pytest.raises(errors.LogClosed, match="Outcome unknown"):
        open_ticket.result(1.0)
    assert answered.result(0.0) == range(5, 6), "what is known stays known"


# ---------------------------------------------------------------- room
def test_no_more_in_flight_than_there_are_slots(link: WriterLink) -> None:
    tickets = [submit(link) for _ in range(COMPLETION_SLOTS)]
    link.take()  # the writer has them all, but answered none
    with pytest.raises(errors.Backpressure, match="surely not appended") as full:
        submit(link)
    assert (full.value.level, full.value.retry_after_ms > 0) == ("none", True) and link.take() == []
    link.answer(1)
    submit(link)
    with pytest.raises(errors.Backpressure):
        submit(link)
    assert tickets[0].done() and [sequence for sequence, *_ in link.take()] == [COMPLETION_SLOTS + 1]


def test_bytes_are_free_again_only_when_their_answer_was_read(link: WriterLink) -> None:
    size = 1000 + SUBMISSION_BYTES
    for _ in range(LANE_BYTES // size):
        submit(link, payload=b"x" * 1000)
    assert len(link.take()) == LANE_BYTES // size
    link.set(pressure_level=1)
    with pytest.raises(errors.Backpressure, match="lane is full") as full:
        submit(link, payload=b"x" * 1000)
    assert full.value.level == "soft"
    link.steps += [lambda: None, lambda: link.answer(1)]
    ticket = submit(link, payload=b"y" * 1000)
    assert link.take()[0][-1] == b"y" * 1000 and ticket.sequence == LANE_BYTES // size + 1


def test_waiting_for_room_ends_when_the_writer_does(link: WriterLink) -> None:
    """The next writer gets what the old one had no room for, behind everything that was sent before."""
    for _ in range(COMPLETION_SLOTS):
        submit(link)
    link.steps += [link.lose, lambda: link.answer(10)]
    submit(link, payload=b"new")
    found = link.take()
    assert [sequence for sequence, *_ in found] == list(range(1, COMPLETION_SLOTS + 2))
    assert found[-1][-1] == b"new" and link.connects == 2


def test_nothing_goes_into_the_lane_of_a_writer_that_was_stopped(link: WriterLink) -> None:
    """It drains no lane any more; the one that may come next gets it."""
    link.set(state=layout.STATE_STOPPED)
    old, link.up = link.lane, False
    with pytest.raises(errors.WriterUnavailable):
        submit(link)
    assert old.tail.load(shm.SEQ_CST) == 0
    link.up = True
    submit(link)
    assert link.connects == 2 and len(link.take()) == 1


# ---------------------------------------------------------------- sending again
def test_after_a_reconnect_what_has_no_answer_is_sent_again_in_order(link: WriterLink) -> None:
    first_hello = link.hello
    assert [first_hello[name] for name in ("first_unresolved", "highest_sent", "lane_bytes")] == [1, 0, 0]
    tickets = [link.client.submit([b"%d" % n] * (1 + n % 2), n + 1, 0.0) for n in range(5)]
    sent = link.take()
    link.answer(1, 1)
    assert tickets[0].done()
    link.answer(2, 2, 2)  # posted, but nobody has looked yet
    link.lose()
    assert tickets[1].result(0.0) == range(2, 4), "an answer in the old lane counts"
    link.connect()
    assert link.hello["producer"] == first_hello["producer"] != 0
    assert (link.hello["first_unresolved"], link.hello["highest_sent"]) == (3, 5)
    assert link.hello["lane_bytes"] == sum(SUBMISSION_BYTES + len(body) for *_, body in sent[2:])
    assert link.take() == sent[2:], "the same, under the same sequences"
    link.answer(5, 4)
    assert [ticket.done() for ticket in tickets] == [True] * 5 and tickets[2].result(0.0) == range(4, 5)
    assert link.client.submit([b"next"], None, 0.0).sequence == 6
    link.config = small_config(max_entry_bytes=10)
    link.lose()
    link.connect()
    assert [sequence for sequence, *_ in link.take()] == [6]
    with pytest.raises(errors.EntryTooLarge):  # the limits are those of the writer in force
        submit(link, payload=b"x" * 11)


# ---------------------------------------------------------------- fork and threads
def test_a_forked_child_is_another_producer_and_the_parents_tickets_are_not_its_own(link: WriterLink) -> None:
    tickets = [submit(link), submit(link)]
    link.answer(1, 5)
    assert tickets[0].done()
    producer = link.hello["producer"]
    link.after_fork()  # as in the child
    link.lane = None
    for use in (tickets[1].done, tickets[1].exception, lambda: tickets[1].result(0.0)):
        with pytest.raises(errors.LogClosed, match="parent"):
            use()
    assert tickets[0].result(0.0) == range(5, 6)
    assert submit(link).sequence == 1
    assert link.hello["producer"] != producer and link.hello["highest_sent"] == 0
    assert [sequence for sequence, *_ in link.take()] == [1], "the parent's are the parent's to send"


def test_threads_share_one_sequence(link: WriterLink) -> None:
    made: list[tuple[int, bytes]] = []

    def work(name: int) -> None:
        for number in range(50):
            payload = b"%d.%d" % (name, number)
            made.append((link.client.submit([payload], None, FOREVER).sequence, payload))

    threads = [threading.Thread(target=work, args=(name,)) for name in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    found = [(sequence, body) for sequence, *_, body in link.take()]
    assert [sequence for sequence, _ in found] == list(range(1, 201)) and found == sorted(made)
