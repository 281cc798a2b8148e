"""Intake without sockets: lanes filled by hand, a real journal behind it, and what each client is answered."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from raftlog_mp import layout, wakeup
from raftlog_mp.bodies import pack_body

from .journals import commit
from .lanes import Bench, Client

Answer = tuple[int, ...]


@pytest.fixture
def bench(log_dir: str) -> Iterator[Bench]:
    bench = Bench(log_dir)
    yield bench
    bench.close()


def ok(last: int, first_index: int, count: int = 1, term: int = 1) -> Answer:
    """The slot that answers a run of appended batches."""
    return (last, layout.OK, first_index, count, term, 0)


# ---------------------------------------------------------------- what is acceptable
def test_submissions_become_entries_in_order(bench: Bench) -> None:
    client = bench.client()
    assert not bench.intake.drain()
    for number in range(5):
        client.submit(b"%d" % number)
    client.submit(b"a", b"", b"c")
    client.submit(b"")
    assert bench.intake.drain()
    assert bench.finish() == [b"0", b"1", b"2", b"3", b"4", b"a", b"", b"c", b""]


def test_one_slot_answers_a_run_of_singles(bench: Bench) -> None:
    client = bench.client()
    for _ in range(300):
        client.submit(b"x")
    bench.intake.drain()
    assert client.answers() == [ok(300, 1)]
    for _ in range(2):
        client.submit(b"x")
    bench.intake.drain()
    assert client.answers() == [ok(302, 301)], "a run never reaches across a publish"


def test_what_is_not_alike_is_answered_apart(bench: Bench) -> None:
    """A batch between singles, another term, something refused: each ends the run."""
    client = bench.client()
    for payloads in ([b"1"], [b"2"], [b"3", b"4"], [b"5"], [b"6"]):
        client.submit(*payloads)
    client.submit(b"7", term=2)
    client.submit(b"8", term=2)
    client.submit(b"bad", crc=0)
    client.submit(b"9", term=2)
    bench.intake.drain()
    assert client.answers() == [
        ok(2, 1), ok(3, 3, count=2), ok(5, 5), ok(7, 7, term=2), (8, layout.MALFORMED, 0, 0, 0, 0), ok(9, 9, term=2),
    ]  # fmt: skip


def test_each_client_is_answered_for_its_own(bench: Bench) -> None:
    clients = [bench.client(producer=number) for number in (5, 6, 7)]
    for client in clients:
        client.submit(b"%d" % client.peer.producer)
        client.submit(b"%d" % client.peer.producer)
    bench.intake.drain()
    assert not any(client.posted for client in clients), "nothing is answered before a publish"
    answers = [client.answers() for client in clients]
    assert sorted(first for (answer,) in answers for first in (answer[2],)) == [1, 3, 5]
    assert all(answer == [ok(2, answer[0][2])] for answer in answers)
    for client, (answer,) in zip(clients, answers, strict=True):
        outcome = (answer[2], 1, 1)
        assert bench.journal.producers.look_up(client.peer.producer, 1) == ("appended", outcome)


def test_only_the_private_copy_counts(bench: Bench) -> None:
    """A client may scribble over its lane at any moment; what was checked is what is stored."""
    client, bodies = bench.client(), [b"s" * 50, b"L" * 20_000]
    for body in bodies:
        client.submit(body)
    client.submit(*bodies)
    bench.intake.drain()
    client.lane.mapping.data[layout.LANE_DATA_OFFSET :] = b"!" * client.lane.lane_bytes
    assert bench.finish() == bodies * 2


def test_waiting_sees_what_was_not_taken(bench: Bench) -> None:
    one, two = bench.client(), bench.client()
    assert not bench.intake.waiting()
    two.submit(b"x")
    assert bench.intake.waiting()
    bench.intake.drain()
    assert not bench.intake.waiting()
    one.submit(b"x")
    assert bench.intake.waiting()


def test_the_age_of_the_oldest_unflushed_entry(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a flush policy with an interval goes by."""
    clock, client = [100.0], bench.client()
    monkeypatch.setattr(wakeup, "now", lambda: clock[0])
    for clock[0] in (100.0, 101.0, 102.0):
        client.submit(b"x")
        bench.intake.drain()
        assert bench.intake.oldest == 100.0, "later ones do not make it younger"
    commit(bench.journal)
    clock[0] = 103.0
    client.submit(b"x")
    bench.intake.drain()
    assert bench.intake.oldest == 103.0


# ---------------------------------------------------------------- terms
def test_terms_never_fall(bench: Bench) -> None:
    client = bench.client()
    for term in (None, 3, None, 2, 3, layout.TERM_MAX, None):
        client.submit(b"x", term=term)
    bench.intake.drain()
    largest = layout.TERM_MAX
    assert client.answers() == [
        ok(1, 1), ok(3, 2, term=3), (4, layout.STALE_TERM, 0, 0, 3, 0), ok(5, 4, term=3), ok(7, 5, term=largest),
    ]  # fmt: skip
    assert bench.finish() == [b"x"] * 6


def test_a_hard_state_fences_lower_terms_and_asks_for_one(log_dir: str) -> None:
    bench = Bench(log_dir, hard_term=5)
    client = bench.client()
    for payloads in ([b"x"], [b"x", b"y"]):
        for term in (None, 4, 5):
            client.submit(*payloads, term=term)
    bench.intake.drain()
    assert client.answers() == [
        (1, layout.TERM_REQUIRED, 0, 0, 0, 0), (2, layout.STALE_TERM, 0, 0, 5, 0), ok(3, 1, term=5),
        (4, layout.TERM_REQUIRED, 0, 0, 5, 0), (5, layout.STALE_TERM, 0, 0, 5, 0), ok(6, 2, count=2, term=5),
    ]  # fmt: skip
    bench.close()


def test_a_term_without_its_flag_says_nothing(bench: Bench) -> None:
    client = bench.client()
    client.submit(b"x", raw_term=99)
    client.submit(b"x", b"y", raw_term=(1 << 64) - 1)
    bench.intake.drain()
    assert client.answers() == [ok(1, 1), ok(2, 2, count=2)]


# ---------------------------------------------------------------- refused, but legal
PAIR = pack_body([b"a", b"b"])
MALFORMED: dict[str, tuple[bytes, dict[str, int]]] = {
    "checksum": (b"hello", {"crc": 1}),
    "checksum of a batch": (PAIR, {"count": 2, "crc": 1}),
    "no entries": (b"", {"count": 0}),
    "no entries, but bytes": (b"hello", {"count": 0}),
    "kind of nothing": (b"hello", {"kind": 0}),
    "unknown kind": (b"hello", {"kind": 77}),
    "unknown kind of batch": (PAIR, {"kind": 0xFFFF, "count": 2}),
    "unknown flag": (b"hello", {"flags": 2}),
    "unknown flag beside the term's": (b"hello", {"flags": 3, "term": 1}),
    "every flag": (PAIR, {"flags": 0xFFFF, "count": 2}),
    "term of zero": (b"hello", {"flags": 1, "term": 0}),
    "term of zero of a batch": (PAIR, {"flags": 1, "term": 0, "count": 2}),
    "term above every bound": (b"hello", {"flags": 1, "term": layout.TERM_MAX + 1}),
    "largest word as term": (b"hello", {"flags": 1, "term": (1 << 64) - 1}),
    "count without a batch": (b"hello", {"count": 2}),
    "count above the batch": (PAIR, {"count": 3}),
    "count below the batch": (pack_body([b"a", b"b", b"c"]), {"count": 2}),
    "count of billions": (PAIR, {"count": 0xFFFF_FFFF}),
    "empty batch": (b"\x90", {"count": 2}),
    "bytes behind the batch": (PAIR + b"\x00", {"count": 2}),
    "batch cut short": (PAIR[:-1], {"count": 2}),
    "text among the entries": (b"\x92\xc4\x01a\xa1b", {"count": 2}),
    "number among the entries": (b"\x92\xc4\x01a\x07", {"count": 2}),
    "nothing among the entries": (b"\x92\xc4\x01a\xc0", {"count": 2}),
    "list among the entries": (b"\x92\xc4\x01a\x91\xc4\x01b", {"count": 2}),
    "map instead of a list": (b"\x82\xc4\x01a\xc4\x01b\xc4\x01c\xc4\x01d", {"count": 2}),
    "extension among the entries": (b"\x92\xc4\x01a\xd4\x05b", {"count": 2}),
    "deeply nested": (b"\x91" * 5000, {"count": 2}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_submission_that_is_not_so_is_answered_and_changes_nothing(bench: Bench, name: str) -> None:
    """Its lengths can be followed, so its client stays; what stands around it is appended."""
    client, (body, lies) = bench.client(), MALFORMED[name]
    client.submit(b"before")
    client.put(body, **lies)
    client.submit(b"after")
    bench.intake.drain()
    assert client.answers() == [ok(1, 1), (2, layout.MALFORMED, 0, 0, 0, 0), ok(3, 2)]
    assert bench.bad == [] and bench.clients == [client.peer]
    assert bench.finish() == [b"before", b"after"]


def test_what_is_too_large_is_answered_with_the_limit(bench: Bench) -> None:
    config, client = bench.journal.config, bench.client()
    entry, batch = config.entry_bytes_limit, config.batch_bytes_limit
    for payloads in ([bytes(entry)], [bytes(entry + 1)], [b"", bytes(entry + 1)], [bytes(entry - 100), bytes(200)]):
        client.submit(*payloads)
    bench.intake.drain()
    assert client.answers() == [
        ok(1, 1), *((sequence, layout.TOO_LARGE, 0, 0, 0, batch) for sequence in (2, 3, 4))
    ]  # fmt: skip
    assert entry == batch, "here nothing smaller was configured"


def test_a_limit_of_entries_holds_inside_a_batch(log_dir: str) -> None:
    bench = Bench(log_dir, max_entry_bytes=100)
    client = bench.client()
    for payloads in ([bytes(100)], [bytes(100)] * 20, [bytes(101)], [bytes(100), bytes(101), b""]):
        client.submit(*payloads)
    bench.intake.drain()
    too_large = (layout.TOO_LARGE, 0, 0, 0, 100)
    assert client.answers() == [ok(1, 1), ok(2, 2, count=20), (3, *too_large), (4, *too_large)]
    bench.close()


# ---------------------------------------------------------------- lanes that cannot be followed
def length_far_beyond_the_cursor(client: Client) -> None:
    client.put(b"x" * 100, length=1 << 31)


def length_one_beyond_the_cursor(client: Client) -> None:
    client.put(b"x" * 100, length=101)


def length_one_short(client: Client) -> None:
    client.put(b"x" * 100, length=99)


def sequence_skipped(client: Client) -> None:
    client.put(b"x", sequence=client.sequence + 1)


def sequence_repeated(client: Client) -> None:
    client.put(b"x", sequence=client.sequence - 1)


def sequence_of_zero(client: Client) -> None:
    client.put(b"x", sequence=0)


def cursor_beyond_the_lane(client: Client) -> None:
    client.store_tail(client.lane.lane_bytes + 1)


def submission_larger_than_the_lane(client: Client) -> None:
    size = client.lane.lane_bytes
    client.lane.put(layout.SUBMISSION.pack(size, layout.SUBMIT_APPEND, 0, 1, 0, 0, client.sequence, 0, 0))
    client.store_tail(client.lane.tail + size)


def cursor_at_the_largest_word(client: Client) -> None:
    client.store_tail((1 << 64) - 1)


def cursor_inside_a_header(client: Client) -> None:
    client.put(b"")
    client.store_tail(client.lane.tail - 1)


def cursor_just_into_a_header(client: Client) -> None:
    client.store_tail(client.lane.tail + 1)


def noise(client: Client) -> None:
    data = random.Random(3).randbytes(1000)
    client.lane.put(data)


LIES: list[Callable[[Client], None]] = [
    length_far_beyond_the_cursor, length_one_beyond_the_cursor, length_one_short, sequence_skipped, sequence_repeated,
    sequence_of_zero, cursor_beyond_the_lane, submission_larger_than_the_lane, cursor_at_the_largest_word,
    cursor_inside_a_header, cursor_just_into_a_header, noise,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
@pytest.mark.parametrize("behind", [0, 2], ids=["at once", "behind honest ones"])
def test_a_lane_that_cannot_be_followed_costs_its_own_client(
    bench: Bench, lie: Callable[[Client], None], behind: int
) -> None:
    """The honest client in front of it and the one after it notice nothing."""
    first, liar, last = bench.client(), bench.client(), bench.client()
    first.submit(b"first")
    for _ in range(behind):
        liar.submit(b"honest")
    lie(liar)
    last.submit(b"last")
    bench.intake.drain()
    bench.intake.drain()
    assert [peer for peer, _ in bench.bad] == [liar.peer]
    assert bench.bad[0][1], "it says why"
    assert bench.clients in ([first.peer, last.peer], [last.peer, first.peer])
    assert [len(client.answers()) for client in (first, last)] == [1, 1]
    payloads = bench.finish()
    assert payloads[0] == b"first" and payloads[-1] == b"last"
    assert payloads[1:-1] in ([], [b"honest"] * behind)


def test_a_cursor_that_goes_back_is_no_end(bench: Bench) -> None:
    liar, honest = bench.client(), bench.client()
    liar.submit(b"x")
    bench.intake.drain()
    liar.store_tail(0)
    honest.submit(b"y")
    bench.intake.drain()
    assert [peer for peer, _ in bench.bad] == [liar.peer]
    assert bench.finish() == [b"x", b"y"]


def test_bytes_of_noise_never_become_entries(bench: Bench) -> None:
    """Seeded damage to honest submissions: each payload in the log is one that was submitted, in its order."""
    chance = random.Random(11)
    sent: list[bytes] = []
    for _ in range(60):
        client = bench.client()
        for number in range(6):
            sent.append(b"%d:%d:" % (len(sent), number) + chance.randbytes(chance.randrange(200)))
            client.submit(sent[-1])
        at = layout.LANE_DATA_OFFSET + chance.randrange(client.lane.tail)
        client.lane.mapping.data[at : at + 4] = chance.randbytes(4)
        bench.intake.drain()
        assert not bench.intake.blocked
    stored = bench.finish()
    assert len(stored) >= 60 and set(stored) <= set(sent)
    places = [sent.index(payload) for payload in stored]
    assert places == sorted(set(places))
