"""The short way of intake: singles in a row become, byte for byte, what the careful way makes of them one by one."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import layout
from raftlog_mp.bodies import even_length, pack_body, unpack_body
from raftlog_mp.config import KIB, MIB
from raftlog_mp.intake import Intake

from .lanes import Bench

Outcome = tuple[list[Any], list[Any], list[str], dict[int, Any], bytes]


def lane_of(seed: int) -> list[tuple[list[bytes], dict[str, Any]]]:
    """Submissions of one client: singles above all, and everything that may stand between them."""
    rng, term = random.Random(seed), 1
    found: list[tuple[list[bytes], dict[str, Any]]] = []
    for _ in range(rng.randrange(20, 60)):
        term += rng.random() < 0.05
        payload = rng.randbytes(rng.choice([0, 1, 30, 256, 256, 256, 5000]))
        how: dict[str, Any] = {"term": term} if rng.random() < 0.4 else {}
        if not how and rng.random() < 0.3:
            how = {"raw_term": term}  # of which no flag speaks: it does not count
        kind = rng.random()
        if kind < 0.05:
            found.append(([payload, b"second"], how))
        elif kind < 0.10:
            found.append(([payload], how | {"crc": 12345}))
        elif kind < 0.13:
            found.append(([rng.randbytes(20_001)], how))  # above max_entry_bytes
        elif kind < 0.16:
            found.append(([payload], {"term": max(1, term - 1)}))
        else:
            found.append(([payload], how))
    if rng.random() < 0.2:
        found.append(([b"lost count"], {"sequence": 10_000}))
    return found


def one_by_one(slots: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Each submission's own answer: a slot may answer a run of them."""
    found: list[tuple[int, ...]] = []
    for last, status, first, count, term, detail in slots:
        for sequence in range(len(found) + 1, last + 1):
            found.append((sequence, status, first, count, term, detail))
            first += count
    return found


def outcome_of(directory: Path, seed: int, strategy: str, *, short: bool, monkeypatch: pytest.MonkeyPatch) -> Outcome:
    """What becomes of them: answers, entries, who was dropped, the exactly-once table, and the stream's bytes."""
    rng, settings = random.Random(~seed), {}
    if rng.random() < 0.3:
        settings["max_buffered_entries"] = rng.choice([1, 7])
    with monkeypatch.context() as patch:
        if not short:
            patch.setattr(Intake, "_take_singles", lambda self, peer, run, chunk, at, flags, term: at)
        bench = Bench(
            str(directory), strategy=strategy, max_entry_bytes=20_000, ring_bytes=MIB, segment_bytes=64 * KIB,
            lane_bytes=256 * KIB, **settings,
        )  # fmt: skip
        journal = bench.journal
        journal.generation, journal.log_id = 1, 77  # the same in both, so that the bytes may be compared
        clients = [bench.client(producer=number + 1) for number in range(2)]
        start = journal.end
        for client, lane in zip(clients, (lane_of(seed), lane_of(seed + 1000)), strict=True):
            for payloads, how in lane:
                client.submit(*payloads, **how)
        slots: list[list[tuple[int, ...]]] = [[], []]
        for _ in range(40):
            bench.intake.drain()
            for at, client in enumerate(clients):
                slots[at] += client.answers()
        bad = [why for _, why in bench.bad]
        low = max(start, journal.ring.floor, journal.end - MIB)
        data = b"".join(bytes(piece) for piece in journal.ring.slices(low, journal.end))
        table = {number: dict(journal.producers._windows.get(number, {})) for number in (1, 2)}
        bench.close()
    counts = [journal.next_index, journal.last_term, journal.appends, journal.bytes]
    return [one_by_one(mine) for mine in slots], counts, bad, table, data


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
@pytest.mark.parametrize("seed", range(8))
def test_the_short_way_makes_the_same_records_and_answers(
    tmp_path: Path, seed: int, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    careful = outcome_of(tmp_path / "careful", seed, strategy, short=False, monkeypatch=monkeypatch)
    short = outcome_of(tmp_path / "short", seed, strategy, short=True, monkeypatch=monkeypatch)
    assert careful[1][0] > 20, "entries were appended"
    assert short == careful


def test_packing_a_run_is_packing_its_records_one_by_one() -> None:
    rng = random.Random(5)
    bodies = [rng.randbytes(rng.randrange(300)) for _ in range(50)]
    crcs = [rng.randrange(1 << 32) for _ in bodies]
    parts, positions = fmt.pack_singles(bodies, crcs, 9, 3, 100, 4, 5000, 4000, 11, 70)
    expected, position = b"", 5000
    for at, (body, crc) in enumerate(zip(bodies, crcs, strict=True)):
        assert positions[at] == position
        expected += fmt.pack_record_header(
            crc, len(body), 1, fmt.KIND_ENTRIES, 9, 3, 100 + at, 4, position, 4000, 11, 70 + at
        ) + body
        position = 5000 + len(expected)
    assert b"".join(parts) == expected


@pytest.mark.parametrize("count", [2, 15, 16, 100, 65_535, 65_536])
@pytest.mark.parametrize("length", [0, 1, 255, 256, 65_535, 65_536])
def test_an_even_body_is_proved_without_decoding(count: int, length: int) -> None:
    if count * length > 2_000_000:
        count = 16
    payloads = [b"\xc4" * length] * count  # looks like headers everywhere
    body = pack_body(payloads)
    assert even_length(body, count) == length
    assert even_length(memoryview(body), count) == length
    assert even_length(body + b"x", count) is None and even_length(body[:-1], count) is None
    assert even_length(body, count + 1) is None


def test_a_body_that_is_called_even_decodes_to_strings_of_that_length() -> None:
    """Whatever stands in it: every byte of a small body changed in turn, in two ways, and cut anywhere."""
    rng = random.Random(9)
    for count, length in ((2, 0), (3, 1), (15, 3), (16, 2), (20, 300)):
        body = pack_body([rng.randbytes(length) for _ in range(count)])
        damaged = [body[:at] + bytes([new]) + body[at + 1 :] for at in range(len(body)) for new in (body[at] ^ 1, 0xC5)]
        called_even = 0
        for candidate in [body, *damaged, *(body[:at] for at in range(len(body)))]:
            for number in (count, count + 1):
                found = even_length(candidate, number)
                if found is not None:
                    called_even += 1
                    assert [len(payload) for payload in unpack_body(candidate, number)] == [found] * number
        assert called_even >= 1 + (length > 0), "payload bytes may change"


def test_a_run_ends_where_the_room_ends(log_dir: str) -> None:
    """Of more singles than may be buffered, the first are taken, and the rest wait in the lane."""
    bench = Bench(log_dir, strategy="mem_first", max_buffered_entries=5)
    try:
        bench.has_room = False
        client = bench.client()
        for number in range(9):
            client.submit(b"%d" % number)
        assert bench.intake.drain()
        assert bench.intake.blocked and bench.journal.next_index == 6
        assert client.answers() == [(5, layout.OK, 1, 1, 1, 0)]
    finally:
        bench.close()


@pytest.mark.parametrize("claim", [b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\x9f"])
def test_a_body_that_claims_more_than_it_can_hold_is_refused_before_room_is_made_for_it(claim: bytes) -> None:
    """A decoder that believed the first of these would reserve 32 GiB."""
    for body in (claim, claim + b"\xc4\x00" * 5):
        for count in (2, 5, 15, 65_535, 0xFFFF_FFFF):
            with pytest.raises(ValueError, match=f"array of {count} byte strings"):
                unpack_body(body, count)
