"""How the writer shares a round among its clients: a flood starves nobody, and nothing is lost at a border."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from raftlog_mp.config import KIB
from raftlog_mp.intake import DRAIN_BYTES_MIN

from .journals import commit
from .lanes import Bench

ROUND_BYTES = 256 * KIB  # of all lanes in one round


@pytest.fixture
def bench(log_dir: str) -> Iterator[Bench]:
    bench = Bench(log_dir)
    yield bench
    bench.close()


def test_a_flooding_client_does_not_starve_the_others(bench: Bench) -> None:
    """At most so many bytes in a round, in equal shares; nothing is lost at the border between two."""
    clients, sizes = [bench.client(lane_bytes=1024 * KIB) for _ in range(2)], random.Random(7)
    bench.client()  # who has nothing waiting gets no share
    wanted: dict[int, list[bytes]] = {}
    for client in clients:
        wanted[client.peer.producer] = []
        while client.lane.tail < 700 * KIB:
            payload = bytes([client.peer.producer]) * sizes.randrange(1, 3000)
            client.submit(payload)
            wanted[client.peer.producer].append(payload)
    for number in range(6):
        before = [client.peer.lane.head for client in clients]
        assert bench.intake.drain()
        taken = [client.peer.lane.head - old for client, old in zip(clients, before, strict=True)]
        assert all(0 < size <= ROUND_BYTES // 2 for size in taken)
        assert number == 5 or all(size > ROUND_BYTES // 2 - 4000 for size in taken), "it takes what it may"
        commit(bench.journal)
    assert not bench.intake.waiting() and not bench.intake.drain() and bench.bad == []
    stored = bench.finish()
    for producer, payloads in wanted.items():
        assert [payload for payload in stored if payload[0] == producer] == payloads


def test_with_many_clients_each_still_gets_a_share_worth_taking(bench: Bench) -> None:
    clients = [bench.client() for _ in range(24)]
    for client in clients:
        while client.lane.tail < 3 * DRAIN_BYTES_MIN:
            client.submit(b"x" * 100)
    assert bench.intake.drain()
    assert all(DRAIN_BYTES_MIN - 300 < client.peer.lane.head <= DRAIN_BYTES_MIN for client in clients)


def test_one_client_alone_gets_it_all(bench: Bench) -> None:
    client = bench.client(lane_bytes=1024 * KIB)
    while client.lane.tail < 700 * KIB:
        client.submit(b"x" * 1000)
    assert bench.intake.drain() and ROUND_BYTES - 2000 < client.peer.lane.head <= ROUND_BYTES


def test_a_submission_larger_than_a_rounds_share_is_taken_whole(log_dir: str) -> None:
    bench = Bench(log_dir, lane_bytes=1024 * KIB)
    client, payload = bench.client(lane_bytes=1024 * KIB), random.Random(1).randbytes(ROUND_BYTES + 5000)
    client.submit(b"before")
    client.submit(payload)
    client.submit(b"after")
    rounds = 0
    while bench.intake.drain():
        rounds += 1
    assert rounds > 1 and bench.finish() == [b"before", payload, b"after"]
    bench.close()


def test_lanes_take_turns_at_being_first(bench: Bench) -> None:
    clients = [bench.client() for _ in range(3)]
    firsts = []
    for _ in range(6):
        for client in clients:
            client.submit(b"x")
        bench.intake.drain()
        order = sorted(clients, key=lambda client: client.answers()[-1][2])
        firsts.append(order[0].peer.producer)
    assert firsts[:3] == firsts[3:] and len(set(firsts)) == 3
