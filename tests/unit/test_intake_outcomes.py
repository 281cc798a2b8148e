"""Intake when there is no room, when the disk fails, and when a client that lost its writer sends again."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import layout, shm
from raftlog_mp.producers import WINDOW

from .journals import commit
from .lanes import Bench


@pytest.fixture
def files() -> FaultyFiles:
    return FaultyFiles()


@pytest.fixture
def bench(log_dir: str, files: FaultyFiles) -> Iterator[Bench]:
    bench = Bench(log_dir, files=files, max_buffered_entries=3)
    yield bench
    bench.close()


def state_of(bench: Bench) -> tuple[object, ...]:
    """What an append would change."""
    journal = bench.journal
    return journal.end, journal.next_index, journal.appends, journal.bytes, journal.last_term


# ---------------------------------------------------------------- no room
def test_without_room_a_submission_stays_in_its_lane(bench: Bench) -> None:
    """Nothing is answered, nothing is lost, and nothing behind it overtakes."""
    one, two = bench.client(), bench.client()
    for number in range(5):
        one.submit(b"%d" % number)
    bench.has_room = False
    assert bench.intake.drain() and bench.intake.blocked
    assert one.answers() == [(3, layout.OK, 1, 1, 1, 0)]
    two.submit(b"other")
    before = state_of(bench)
    for _ in range(3):
        assert not bench.intake.drain() and bench.intake.blocked and not bench.intake.waiting()
    assert one.answers() == two.answers() == [] and state_of(bench) == before
    assert bench.bad == []
    commit(bench.journal)
    assert bench.intake.drain() and not bench.intake.blocked and not bench.intake.waiting()
    stored = bench.finish()
    assert [payload for payload in stored if payload != b"other"] == [b"0", b"1", b"2", b"3", b"4"]
    assert stored.count(b"other") == 1


def test_room_is_made_before_the_submission_is_appended(bench: Bench) -> None:
    client = bench.client()
    for _ in range(7):
        client.submit(b"x")
    bench.intake.drain()
    assert not bench.intake.blocked and bench.rooms_made == 2
    assert bench.journal.durable_index == 6 and bench.journal.next_index == 8
    assert [answer[0] for answer in client.answers()][-1] == 7


def test_who_is_answered_after_room_was_made_is_still_owed(bench: Bench) -> None:
    """Making room posts answers and empties the list of who is owed; the submission that asked for it comes after."""
    one, two = bench.client(), bench.client()
    for client in (one, two):
        for _ in range(2):
            client.submit(b"x")
    bench.intake.drain()
    assert bench.rooms_made == 1
    commit(bench.journal)
    assert one.answers() == [(2, layout.OK, 1, 1, 1, 0)]
    assert two.answers() == [(1, layout.OK, 3, 1, 1, 0), (2, layout.OK, 4, 1, 1, 0)]


def test_a_batch_larger_than_what_may_be_buffered_goes_alone(bench: Bench) -> None:
    client = bench.client()
    client.submit(b"x")
    client.submit(*[b"y"] * 10)
    bench.intake.drain()
    assert bench.rooms_made == 1 and not bench.intake.blocked
    assert client.answers() == [(1, layout.OK, 1, 1, 1, 0), (2, layout.OK, 2, 10, 1, 0)]


# ---------------------------------------------------------------- the disk
def test_a_full_disk_refuses_and_changes_nothing(bench: Bench, files: FaultyFiles) -> None:
    """At the roll; and once there is space again, the log goes on."""
    client, body = bench.client(), bytes(25_000)
    client.submit(body)
    client.submit(body)
    bench.intake.drain()
    client.answers()
    files.fail("preallocate", errno.ENOSPC)
    before = bench.journal.next_index
    for _ in range(2):
        client.submit(body)
    bench.intake.drain()
    assert client.answers() == [(3, layout.DISK_FULL, 0, 0, 0, errno.ENOSPC), (4, layout.OK, before, 1, 1, 0)]
    assert bench.finish() == [body] * 3


@pytest.mark.parametrize("count", [1, 2])
def test_a_failed_sync_is_answered_to_it_and_to_all_that_follow(
    bench: Bench, files: FaultyFiles, count: int
) -> None:
    client = bench.client()
    for _ in range(3):
        client.submit(b"x")
    bench.intake.drain()
    files.fail("sync", errno.EIO)
    before = state_of(bench)
    client.submit(*[b"y"] * count)
    bench.intake.drain()
    steps = len(files.steps)
    client.submit(*[b"z"] * count)
    bench.intake.drain()
    failed = (layout.SYNC_FAILED, 0, 0, 0, errno.EIO)
    assert client.answers()[-2:] == [(4, *failed), (5, *failed)]
    assert state_of(bench) == before and len(files.steps) == steps, "the disk is not asked again"
    assert bench.bad == []


def test_after_a_failure_only_what_was_published_is_confirmed(bench: Bench, files: FaultyFiles) -> None:
    """A client sends again: the first was answered before, the second never became visible."""
    client = bench.client(producer=9)
    client.submit(b"published")
    bench.intake.drain()
    commit(bench.journal)
    client.submit(b"not published")
    bench.intake.drain()
    files.fail("sync", errno.EIO)
    bench.journal.copy_to_ring()
    with pytest.raises(OSError):
        bench.journal.flush()
    again = bench.client(producer=9, highest_sent=2)
    again.submit(b"published")
    again.submit(b"not published")
    bench.intake.drain()
    assert again.answers() == [(1, layout.OK, 1, 1, 1, 0), (2, layout.SYNC_FAILED, 0, 0, 0, errno.EIO)]


# ---------------------------------------------------------------- sent again
def test_what_was_appended_is_answered_from_the_table(bench: Bench) -> None:
    client = bench.client(producer=9)
    client.submit(b"1")
    client.submit(b"2", b"3", term=4)
    bench.intake.drain()
    commit(bench.journal)
    first = client.answers()
    before = state_of(bench)
    again = bench.client(producer=9, highest_sent=2)
    again.submit(b"1")
    again.submit(b"2", b"3", term=4)
    bench.intake.drain()
    assert again.answers() == first == [(1, layout.OK, 1, 1, 1, 0), (2, layout.OK, 2, 2, 4, 0)]
    assert state_of(bench) == before
    assert bench.journal.control.resent.load(shm.RELAXED) == bench.intake.resent == 2
    again.submit(b"4")
    bench.intake.drain()
    assert again.answers() == [(3, layout.OK, 4, 1, 4, 0)], "and new ones go on behind"
    assert bench.finish() == [b"1", b"2", b"3", b"4"]


def test_a_repetition_is_answered_even_if_it_would_be_refused_now(bench: Bench) -> None:
    """Its term is stale by now, and there is no room: it was appended all the same."""
    client = bench.client(producer=9)
    client.submit(b"old", term=1)
    client.submit(b"new", term=7)
    client.submit(b"new", term=7)
    bench.intake.drain()
    first, bench.has_room = client.answers(), False
    again = bench.client(producer=9, highest_sent=3)
    again.submit(b"old", term=1)
    bench.intake.drain()
    assert again.answers() == first[:1] == [(1, layout.OK, 1, 1, 1, 0)] and bench.rooms_made == 0


def test_what_never_arrived_is_appended_now(bench: Bench) -> None:
    """It was sent, but the writer died before it looked."""
    client = bench.client(producer=9)
    client.submit(b"1")
    bench.intake.drain()
    again = bench.client(producer=9, highest_sent=3)
    for payload in (b"1", b"2", b"3"):
        again.submit(payload)
    bench.intake.drain()
    assert bench.intake.resent == 1
    assert bench.finish() == [b"1", b"2", b"3"]


def test_what_was_refused_is_refused_or_decided_anew(bench: Bench) -> None:
    """Inside the window a sequence that is not there was never appended: no guess is needed."""
    client = bench.client(producer=9)
    client.submit(b"bad", crc=0)
    client.submit(b"good")
    bench.intake.drain()
    client.answers()
    again = bench.client(producer=9, highest_sent=2)
    again.submit(b"bad", crc=0)
    again.submit(b"good")
    bench.intake.drain()
    assert again.answers() == [(1, layout.MALFORMED, 0, 0, 0, 0), (2, layout.OK, 1, 1, 1, 0)]
    assert bench.finish() == [b"good"]


def test_what_the_table_forgot_is_said_to_be_unknown(bench: Bench) -> None:
    """Older than the window: it may be in the log or not, and nothing is appended."""
    table = bench.journal.producers
    for sequence in range(1, 3 * WINDOW):
        table.record(9, sequence, (sequence, 1, 1))
    known = 3 * WINDOW - 1
    before = state_of(bench)
    client = bench.client(producer=9, first_unresolved=1, highest_sent=known)
    client.submit(b"one")
    client.submit(b"two")
    bench.intake.drain()
    assert client.answers() == [(1, layout.UNKNOWN, 0, 0, 0, 0), (2, layout.UNKNOWN, 0, 0, 0, 0)]
    assert state_of(bench) == before and bench.bad == []
