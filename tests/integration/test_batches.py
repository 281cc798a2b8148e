"""read_batches: what stands in the log, undecoded, from one log into another."""

from __future__ import annotations

import pickle
import random
from collections.abc import Iterator

import pytest
from crc32c import crc32c
from support.processes import no_writer_after
from unit.journals import append, stop
from unit.journals import open_log as open_journal

import raftlog_mp as rl

SMALL = rl.LogConfig(ring_bytes=1 << 20, segment_bytes=64 << 10, lane_bytes=256 << 10)


@pytest.fixture
def log(log_dir: str) -> Iterator[rl.Log]:
    with no_writer_after(log_dir), rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        yield log


def expanded(batches: list[rl.EntryBatch]) -> list[rl.Entry]:
    return [entry for batch in batches for entry in batch.entries()]


def test_a_batch_is_what_was_appended_together(log: rl.Log) -> None:
    log.append(b"one", term=1)
    log.append_many([b"a", b"", b"c"], term=2)
    one, three = log.read_batches(1)
    assert one == rl.EntryBatch(1, 1, 1, b"one") and one.entries() == log.read(1, 2)
    assert (three.term, three.first_index, three.count, three.last_index) == (2, 2, 3, 4)
    assert three.last_log_id == rl.LogId(2, 4) and three.entries() == log.read(2)
    assert log.read_batches(5) == [] == log.read_batches(2, 2)


@pytest.mark.parametrize("seed", range(3))
def test_every_range_is_the_same_entries(log: rl.Log, seed: int) -> None:
    """From the ring and from segments, whole batches and parts of them, before and after a truncation."""
    chance, term = random.Random(seed), 1
    for number in range(300):
        term += chance.random() < 0.1
        log.append_many([b"%d-%d " % (number, at) * chance.randint(0, 60) for at in range(chance.randint(1, 12))], term)
    log.truncate_from(log.last_index - chance.randint(1, 40))
    log.purge_to(chance.randint(1, 100))
    everything = {entry.index: entry for entry in log.read(log.first_index)}
    for _ in range(60):
        start = chance.randint(log.first_index, log.last_index)
        stop = chance.randint(start, log.last_index + 3)
        found = expanded(log.read_batches(start, stop))
        assert found == [everything[index] for index in range(start, min(stop, log.last_index + 1))]
    with pytest.raises(rl.Compacted):
        log.read_batches(log.first_index - 1)


def test_max_bytes_counts_what_is_encoded_and_gives_one_at_least(log: rl.Log) -> None:
    for _ in range(10):
        log.append_many([bytes(100)] * 10)
    size = len(log.read_batches(1)[0].encoded)
    assert [len(log.read_batches(1, max_bytes=limit)) for limit in (1, size, 2 * size, 3 * size - 1, 99 * size)] == [
        1, 1, 2, 2, 10,
    ]  # fmt: skip


def test_a_follower_takes_a_leaders_batches_as_they_are(log: rl.Log, log_dir: str) -> None:
    chance = random.Random(5)
    for term in (2, 2, 3, 4, 4, 4, 7):
        log.append_many([bytes([term]) * chance.randint(0, 50) for _ in range(chance.randint(1, 9))], term)
    with (
        no_writer_after(log_dir + "-2"), rl.start_writer(log_dir + "-2", SMALL),
        rl.open_log(log_dir + "-2") as follower,
    ):  # fmt: skip
        follower.append_many([b"of a deposed leader"] * 30, term=1)
        prev = rl.LogId(0, 0)
        while prev.index < log.last_index:
            batches = log.read_batches(prev.index + 1, max_bytes=60)
            result = follower.append_entries(prev, batches, leader_term=7)
            assert result.success and result.matched == batches[-1].last_log_id
            prev = result.matched
        assert follower.read(1) == log.read(1)
        again = follower.append_entries(rl.LogId(0, 0), log.read_batches(1), leader_term=7)
        assert again.matched == log.last_log_id == follower.last_log_id


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"first_index": 3}, rl.IndexGap), ({"count": 0}, rl.IndexGap), ({"term": 0}, rl.ConfigError),
        ({"term": 9}, rl.StaleTerm), ({"encoded": "text"}, TypeError), ({"count": 2.0}, TypeError),
        ({"count": 2}, rl.RaftLogError), ({"count": 4}, rl.RaftLogError), ({"encoded": b"garbage"}, rl.RaftLogError),
    ],
)  # fmt: skip
def test_a_bad_batch_is_refused_and_nothing_is_changed(log: rl.Log, change: dict, error: type[Exception]) -> None:
    good = {"term": 2, "first_index": 2, "count": 3, "encoded": b"\x93\xc4\x01a\xc4\x01b\xc4\x01c"}
    log.append(b"one", term=1)
    with pytest.raises(error):
        log.append_entries(rl.LogId(1, 1), [rl.EntryBatch(**good | change)], leader_term=5)
    assert log.last_log_id == rl.LogId(1, 1)
    assert log.append_entries(rl.LogId(1, 1), [rl.EntryBatch(**good)], leader_term=5).matched == rl.LogId(2, 4)
    assert [entry.payload for entry in log.read(2)] == [b"a", b"b", b"c"]


def test_entries_and_batches_do_not_mix(log: rl.Log) -> None:
    batch, entry = rl.EntryBatch(1, 1, 1, b"x"), rl.Entry(1, 2, b"y")
    for mixed in ([batch, entry], [entry, batch]):
        with pytest.raises(TypeError, match=r"entries\[1\]"):
            log.append_entries(rl.LogId(0, 0), mixed, leader_term=1)
    assert log.last_index == 0


def test_a_batch_from_elsewhere_that_does_not_hold_its_count() -> None:
    with pytest.raises(ValueError, match="not an array of 2 byte strings") as caught:
        rl.EntryBatch(1, 1, 2, b"\x91\xc4\x01a").entries()
    assert isinstance(caught.value, rl.RaftLogError)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value) and again.first_index == 1


@pytest.mark.parametrize("body", [b"garbage", b"\x93\xc4\x01a\xc4\x01b\x07"])
def test_a_record_that_is_whole_and_yet_no_batch_is_damage_to_every_read(log_dir: str, body: bytes) -> None:
    """Its checksums were made over it: no writer of ours takes such a body, so the journal gets it directly."""
    journal, _ = open_journal(log_dir)
    append(journal, b"one")
    journal.append(body, crc32c(body), 3, 1, 0, 0)
    journal.flush()
    journal.publish()
    append(journal, b"five")
    stop(journal)
    with rl.open_reader(log_dir) as reader:
        one, bad, five = reader.read_batches(1)
        assert (one.entries(), five.entries()) == ([rl.Entry(1, 1, b"one")], [rl.Entry(1, 5, b"five")])
        ways = [lambda: reader.get(3), lambda: reader.read(2), lambda: reader.read_batches(3), bad.entries]
        for way in ways:
            with pytest.raises(rl.CorruptLog) as caught:
                way()
            assert (caught.value.first_index, caught.value.last_index) == (2, 4)
            assert "raftlog-mp check" in str(caught.value)
            assert caught.value.segment is not None or "read(2) there names segment" in str(caught.value)
