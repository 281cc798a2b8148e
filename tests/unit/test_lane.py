"""Lanes: submissions that wrap, completion slots that are used again, cursors that stay private."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raftlog_mp import layout, shm
from raftlog_mp.lane import APART_BYTES, LaneConsumer, LaneProducer, Seat

LANE_BYTES = 1000


@pytest.fixture
def lane() -> Iterator[tuple[LaneProducer, LaneConsumer]]:
    fd, mapping = shm.create_memfd("raftlog-test", layout.lane_file_bytes(LANE_BYTES))
    consumer = LaneConsumer(mapping, LANE_BYTES)
    producer = LaneProducer(shm.map_memfd(fd))
    yield producer, consumer
    producer.close()
    consumer.close()


Lane = tuple[LaneProducer, LaneConsumer]


def test_submissions_arrive_whole_wherever_they_wrap(lane: Lane) -> None:
    producer, consumer = lane
    chooser = random.Random(5)
    for _ in range(2_000):
        data = chooser.randbytes(chooser.choice([1, 48, 333, 999, LANE_BYTES]))
        assert producer.room(len(data))
        end = producer.put(data)
        tail = consumer.tail.load(shm.ACQUIRE)
        assert tail == end == consumer.head + len(data)
        assert consumer.copy(consumer.head, tail) == data
        consumer.head = tail
        producer.reap(0, end)


@pytest.mark.parametrize("lane_bytes", [2 * APART_BYTES + 101, 1 << 16])
def test_head_and_body_arrive_as_one_wherever_they_wrap(lane_bytes: int) -> None:
    """In one piece, in two, and apart: amid the head, between the two, amid the body, and at the lane's very end."""
    fd, mapping = shm.create_memfd("raftlog-test", layout.lane_file_bytes(lane_bytes))
    consumer, chooser = LaneConsumer(mapping, lane_bytes), random.Random(7)
    producer = LaneProducer(shm.map_memfd(fd))
    ends = set[int]()
    for turn in range(2_000):
        head, left = chooser.randbytes(layout.SUBMISSION_BYTES), lane_bytes - producer.tail % lane_bytes
        exact = left - len(head) if turn % 2 and left >= len(head) else 0
        size = chooser.choice([0, 1, 100, APART_BYTES - len(head) - 1, APART_BYTES - len(head), APART_BYTES])
        body = chooser.randbytes(exact if 0 < exact <= APART_BYTES else size)
        end = producer.put(head, body)
        assert consumer.tail.load(shm.ACQUIRE) == end == consumer.head + len(head) + len(body)
        assert consumer.copy(consumer.head, end) == head + body
        consumer.head = end
        producer.reap(0, end)
        ends.add(end % lane_bytes)
    assert 0 in ends, "some ended with the lane"
    producer.close()
    consumer.close()


def test_room_counts_what_was_not_answered_yet(lane: Lane) -> None:
    producer, _ = lane
    producer.put(b"x" * 600)
    assert producer.room(400) and not producer.room(401)
    producer.reap(1, 600)
    assert producer.room(1000)


def test_completions_in_order_over_many_laps_of_the_slots(lane: Lane) -> None:
    producer, consumer = lane
    chooser, number = random.Random(6), 0
    for _ in range(200):
        batch = [(number + n, layout.OK, 7 * n, 1, 2, 3) for n in range(chooser.randint(1, layout.COMPLETION_SLOTS))]
        consumer.complete(batch)
        assert producer.done.load(shm.ACQUIRE) == consumer.done == number + len(batch)
        assert [producer.completion(number + n) for n in range(len(batch))] == batch
        number += len(batch)


def test_extreme_values_fit_a_completion(lane: Lane) -> None:
    producer, consumer = lane
    consumer.complete([(2**64 - 1,) * 6])
    assert producer.completion(0) == (2**64 - 1,) * 6


def test_what_the_client_does_to_the_lane_does_not_move_the_writer(lane: Lane) -> None:
    """Every word and byte overwritten: the writer's cursors are its own."""
    producer, consumer = lane
    producer.put(b"honest")
    copied = consumer.copy(0, 6)
    size = producer.mapping.length
    producer.mapping.data[:] = b"\xff" * size
    assert (consumer.head, consumer.done, consumer.lane_bytes, copied) == (0, 0, LANE_BYTES, b"honest")
    consumer.complete([(1, 0, 1, 1, 1, 0)])
    assert consumer.done == 1 and producer.completion(0) == (1, 0, 1, 1, 1, 0)


def test_a_lane_of_another_layout_is_refused(lane: Lane) -> None:
    producer, _ = lane
    producer.mapping.cell(layout.LANE_WORDS["magic"]).store(layout.LANE_MAGIC + 1, shm.RELAXED)
    with pytest.raises(ValueError, match="layout"):
        LaneProducer(producer.mapping)


def test_a_seat_is_the_first_page_of_a_lane() -> None:
    fd, mapping = shm.create_memfd("raftlog-test", layout.SEAT_BYTES)
    seat, theirs = Seat(mapping), Seat(shm.map_memfd(fd))
    theirs.wants.store(9, shm.SEQ_CST)
    assert seat.wants.load(shm.SEQ_CST) == 9
    seat.close()
    theirs.close()
