"""Under MemFirst those who flood and the others take turns, so that an append is not a matter of others' megabytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from raftlog_mp.config import KIB, MIB
from raftlog_mp.intake import DRAIN_BYTES, DRAIN_BYTES_MIN

from .journals import commit
from .lanes import Bench, Client

FLOOD = 200  # entries of 1000 bytes: beyond the share of a lane
Make = Callable[..., Bench]


@pytest.fixture
def make(log_dir: str) -> Iterator[Make]:
    made: list[Bench] = []

    def make_one(**settings: Any) -> Bench:
        big = {"ring_bytes": 16 * MIB, "segment_bytes": 16 * MIB}
        made.append(Bench(log_dir, **({"strategy": "mem_first"} | big | settings)))
        return made[-1]

    yield make_one
    for bench in made:
        commit(bench.journal)
        bench.close()


def flood(bench: Bench, entries: int = FLOOD) -> Client:
    client = bench.client(lane_bytes=4 * MIB)
    for _ in range(entries):
        client.submit(b"f" * 1000)
    return client


def left(client: Client) -> int:
    """Bytes that its lane still holds."""
    lane = client.peer.lane
    assert lane is not None
    return int(lane.tail.load()) - lane.head


def test_the_others_have_every_second_round_for_themselves(make: Make) -> None:
    bench = make()
    flooded, polite = flood(bench, 900), bench.client()
    for number in range(4):
        polite.submit(b"p")
        before = left(flooded)
        assert bench.intake.drain() and left(polite) == 0 and left(flooded) == before, number
        polite.submit(b"p")
        assert bench.intake.drain() and left(flooded) < before, "and in the rounds between, all are served"
        assert left(polite) == 0
    assert [answer[0] for answer in polite.answers()] == list(range(1, 9))


def test_alone_or_among_their_like_they_wait_for_nobody(make: Make) -> None:
    bench = make()
    one, other = flood(bench), flood(bench)
    assert bench.intake.drain()
    assert left(one) == left(other) < FLOOD * 1000
    few = [bench.client() for _ in range(5)]
    while left(one):
        bench.intake.drain()
    for client in few:
        client.submit(b"x")
    assert bench.intake.drain() and not any(map(left, few))


def test_a_round_of_those_who_flood_ends_when_somebody_else_comes(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    one, other, polite = flood(bench), flood(bench), bench.client()
    lane = one.peer.lane
    assert lane is not None
    copy = lane.copy

    def come(start: int, end: int) -> bytes:
        if not left(polite):
            polite.submit(b"p")
        return copy(start, end)

    monkeypatch.setattr(lane, "copy", come)
    before = left(other)
    assert bench.intake.drain() and left(other) == before and left(polite) > 0
    assert bench.intake.drain() and left(polite) == 0, "it is served next"
    monkeypatch.undo()
    assert bench.intake.drain() and left(other) < before, "and then those who were left out"


@pytest.mark.parametrize("floods", [1, 2, 3, 4])
@pytest.mark.parametrize("others", [1, 2, 3])
def test_whoever_comes_all_the_time_starves_nobody(make: Make, floods: int, others: int) -> None:
    """Somebody submits during each look at a flooded lane, so that each such round ends after the first of them."""
    bench = make()
    flooded = [flood(bench) for _ in range(floods)]
    polite = [bench.client() for _ in range(others)]

    def around(copy: Callable[[int, int], bytes]) -> Callable[[int, int], bytes]:
        def come(start: int, end: int) -> bytes:
            for client in polite:
                client.submit(b"p")
            return copy(start, end)

        return come

    for client in flooded:
        client.peer.lane.copy = around(client.peer.lane.copy)  # type: ignore[method-assign, union-attr]
    share = max(DRAIN_BYTES // (floods + others), DRAIN_BYTES_MIN)
    needed = floods * (FLOOD * 1100 // share + 2)  # rounds of one lane each, if each ended so early
    for _ in range(2 * (needed + floods + others)):
        bench.intake.drain()
    assert [left(client) for client in flooded] == [0] * floods
    bench.intake.drain()
    assert not any(map(left, polite))


def test_whose_round_is_in_vain_holds_nobody_up(make: Make) -> None:
    """No room for what it holds: those who flood are served in the same round."""
    bench = make()
    flooded, polite = flood(bench), bench.client()
    polite.submit(b"p")
    took, real = [], bench.intake._take

    def no_room_for_it(peer: Any, *rest: Any) -> bool:
        took.append(peer)
        return peer is not polite.peer and real(peer, *rest)

    bench.intake._take = no_room_for_it  # type: ignore[method-assign]
    assert bench.intake.drain() and left(flooded) < FLOOD * 1000
    assert took[0] is polite.peer and flooded.peer in took


def test_a_lane_that_is_known_to_wait_for_room_has_no_round(make: Make) -> None:
    bench = make()
    flooded, polite = flood(bench), bench.client()
    polite.submit(b"p")
    polite.peer.blocked = (polite.peer.lane.head, bench.journal.durable)  # type: ignore[union-attr]
    before = left(flooded)
    assert bench.intake.drain() and left(flooded) < before


def test_under_disk_first_all_share_a_round_and_its_sync(make: Make) -> None:
    bench = make(strategy="disk_first")
    flooded, polite = flood(bench), bench.client()
    polite.submit(b"p")
    before = left(flooded)
    assert bench.intake.drain() and left(polite) == 0 and left(flooded) < before


def test_a_cursor_that_is_not_so_is_found_in_either_round(make: Make) -> None:
    bench = make()
    flood(bench)
    low, high = bench.client(), bench.client(lane_bytes=64 * KIB)
    low.submit(b"x")
    assert bench.intake.drain()
    low.store_tail(0)
    high.store_tail(10 * MIB)
    for _ in range(3):
        bench.intake.drain()
    assert {id(peer) for peer, _ in bench.bad} == {id(low.peer), id(high.peer)}
    assert all("out of range" in why for _, why in bench.bad)
