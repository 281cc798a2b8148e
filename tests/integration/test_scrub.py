"""Rot under a running log: the scrubber finds it, and one checksum guards an entry from the client to the reader.

The second half flips a bit at each place that an entry passes through.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.processes import kill9, no_writer_after, wait_until

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp import manifest
from raftlog_mp.cli import main
from raftlog_mp.files import Files
from raftlog_mp.lane import LaneProducer

SMALL = {"ring_bytes": 1 << 20, "segment_bytes": 256 << 10, "lane_bytes": 1 << 17}
NEVER = rl.Batch(threshold=10**9, interval_ms=3_600_000)
LAPPED = 180  # entries of 9000 bytes: the first of them have left the ring


def config(**settings: Any) -> rl.LogConfig:
    return rl.LogConfig(**(SMALL | {"scrub_bytes_per_s": 64 << 20} | settings))


def payload(index: int) -> bytes:
    return b"%09d" % index * 1000


def fill(log: rl.Log) -> None:
    tickets = [log.submit([payload(index)], term=1) for index in range(1, LAPPED + 1)]
    assert [ticket.result(60.0).start for ticket in tickets] == list(range(1, LAPPED + 1))


def offset_of(path: str, index: int) -> int:
    """Where in its segment the record of an entry begins."""
    data, at = Path(path).read_bytes(), fmt.DATA_OFFSET
    while (record := fmt.read_record_header(data, at)) is not None:
        if record.count and record.base_index <= index <= record.last_index:
            return at
        at += fmt.RECORD_BYTES + record.body_bytes
    raise AssertionError(f"no entry {index} in {path}")


def flip(path: str, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))


# ---------------------------------------------------------------- the scrubber
@pytest.mark.parametrize("verify_reads", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_flipped_bit_under_a_live_writer_is_found_and_told(
    log_dir: str, capsys: pytest.CaptureFixture[str], verify_reads: bool
) -> None:
    """In `stat`, in the writer's log, in the counters; and the log goes on.  A reader that verifies serves nothing
    wrong; one that was told not to verify serves what stands there."""
    name = fmt.segment_name(1)
    path = os.path.join(log_dir, name)
    with no_writer_after(log_dir), rl.start_writer(log_dir, config(verify_reads=verify_reads)) as writer:
        with rl.open_log(log_dir, timeout=60.0) as log:
            fill(log)
            wait_until("a first pass", lambda: log.stats().scrub_passes >= 1)
            assert log.stats().scrub_damage == 0 and log.stats().scrubbed_bytes > 1 << 20
            offset = offset_of(path, 7)
            flip(path, offset + fmt.RECORD_BYTES + 100)
            wait_until("the damage is found", lambda: log.stats().scrub_damage)
            stats = log.stats()
            assert (stats.scrub_damage, stats.damaged_file, stats.damaged_offset) == (1, name, offset)
            told = Path(log_dir, "writer.log").read_text()
            for part in (path, f"offset {offset}", "entry 7 may", f"raftlog-mp check {log_dir}"):
                assert part in told
            assert main(["stat", log_dir]) == 0
            text = " ".join(capsys.readouterr().out.split())
            assert f"DAMAGE: the scrubber found 1 damaged place, the last in {name} at offset {offset}." in text
            assert log.append(b"goes on", term=1) == LAPPED + 1 and stats.state == "running"
            assert log.get(6).payload == payload(6) and log.get(8).payload == payload(8)
            if verify_reads:
                for read in (lambda: log.get(7), lambda: log.read(5, 9)):
                    with pytest.raises(rl.CorruptLog) as caught:
                        read()
                    assert (caught.value.segment, caught.value.offset) == (name, offset)
                    assert (caught.value.first_index, caught.value.last_index) == (7, 7)
            else:
                assert log.get(7).payload != payload(7)
        writer.stop()
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            assert log.stats().generation == 2 and log.config.verify_reads == verify_reads
            wait_until("the next writer finds it, too", lambda: log.stats().scrub_damage == 1)


@pytest.mark.parametrize("strategy", ["mem_first", pytest.param("disk_first", marks=pytest.mark.slow)])
def test_a_log_that_changes_all_the_time_is_never_called_damaged(log_dir: str, strategy: str) -> None:
    """Rolls, truncations, purges, replaced suffixes and resets, while the scrubber reads as fast as it can."""
    chance = random.Random(4711)
    fast = config(strategy=strategy, scrub_bytes_per_s=1 << 30, segment_bytes=1 << 16)
    with no_writer_after(log_dir), rl.start_writer(log_dir, fast), rl.open_log(log_dir, timeout=60.0) as log:
        def change(term: int) -> None:
            for _ in range(chance.randrange(1, 30)):
                log.append_many([b"x" * chance.randrange(3000)] * chance.randrange(1, 4), term=term)
            what = chance.randrange(8)
            if what < 3:
                log.truncate_from(chance.randint(log.first_index, log.last_index))
            elif what < 5:
                log.purge_to(chance.randint(log.first_index, log.last_index))
            elif what == 7 and term > 20:
                log.reset(rl.LogId(term, log.last_index + 5))

        term = 1
        while log.stats().scrub_passes < 2 or term < 30:
            change(term)
            term += 1
        stats = log.stats()
        assert stats.scrub_damage == 0 and stats.scrubbed_bytes > 0, Path(log_dir, "writer.log").read_text()


def test_the_rate_is_a_setting_that_the_log_keeps_and_0_means_no_thread(log_dir: str) -> None:
    def threads(pid: int) -> int:
        return len(os.listdir(f"/proc/{pid}/task"))

    assert rl.LogConfig().scrub_bytes_per_s == 1 << 20
    with no_writer_after(log_dir):
        with rl.start_writer(log_dir, config(scrub_bytes_per_s=0)) as writer, rl.open_log(log_dir) as log:
            fill(log)
            assert log.config.scrub_bytes_per_s == 0 and log.stats().scrubbed_bytes == 0
            wait_until("the thread that prepares the next segment is done", lambda: threads(writer.pid) == 1)
        with rl.start_writer(log_dir) as writer, rl.open_log(log_dir) as log:
            assert log.config.scrub_bytes_per_s == 0
            wait_until("there is no other thread", lambda: threads(writer.pid) == 1)


# ---------------------------------------------------------------- one checksum from end to end
Append = Callable[[rl.Log], Any]
APPENDS: dict[str, Append] = {
    "append": lambda log: log.append(b"p" * 500, term=1),
    "append_many": lambda log: log.append_many([b"p" * 300, b"q" * 300], term=1),
    "append_entries": lambda log: log.append_entries(log.last_log_id, [rl.Entry(1, log.last_index + 1, b"p" * 500)]),
}


def test_a_bit_flipped_in_the_lane_is_refused(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the client's checksum, before the writer's copy: nothing of it enters the log."""
    put = LaneProducer.put

    def damaged(self: LaneProducer, head: bytes, body: bytes = b"") -> int:
        submission = head + body
        return put(self, submission[:-5] + bytes([submission[-5] ^ 1]) + submission[-4:])

    with no_writer_after(log_dir), rl.start_writer(log_dir, config()), rl.open_log(log_dir, timeout=60.0) as log:
        log.append(b"before", term=1)
        for name, call in APPENDS.items():
            with monkeypatch.context() as patch:
                patch.setattr(LaneProducer, "put", damaged)
                with pytest.raises(rl.RaftLogError, match="checksum or structure was wrong"):
                    call(log)
            assert log.last_index == 1, name
        assert log.append(b"after", term=1) == 2 and [entry.payload for entry in log.read(1)] == [b"before", b"after"]


def ring_of(log_dir: str, generation: int) -> str:
    return os.path.join(log_dir, fmt.SHM_NAME, fmt.ring_name(generation))


def flip_in_ring(log_dir: str, text: bytes) -> None:
    """One bit of an entry that stands in the ring."""
    path = ring_of(log_dir, 1)
    at = Path(path).read_bytes().index(text)
    flip(path, at + 3)


def test_a_bit_flipped_in_a_dead_writers_ring_is_not_replayed(log_dir: str) -> None:
    """MemFirst, killed: what was acknowledged is only in the ring, and the ring fails the client's checksum."""
    settings = config(strategy="mem_first", flush_policy=NEVER)
    with no_writer_after(log_dir):
        writer = rl.start_writer(log_dir, settings)
        with rl.open_log(log_dir, autostart=False) as log:
            log.append(b"flushed")
            log.flush()
            log.append(b"only in memory")
        kill9(writer.pid)
        flip_in_ring(log_dir, b"only in memory")
        with pytest.raises(rl.CorruptLog, match="row R"):
            rl.start_writer(log_dir)
        with rl.open_reader(log_dir) as reader:
            assert reader.get(1).payload == b"flushed"
        flip_in_ring(log_dir, b"only"[:3])  # the same bit again: it was that bit
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            assert [entry.payload for entry in log.read(1)] == [b"flushed", b"only in memory"]


def test_a_bit_flipped_in_the_ring_and_flushed_is_found_in_the_file(log_dir: str) -> None:
    """The file gets the damaged bytes, and with them the checksum that the client made: nobody takes them for true."""
    settings = config(strategy="mem_first", flush_policy=NEVER)
    with no_writer_after(log_dir), rl.start_writer(log_dir, settings) as writer:
        with rl.open_log(log_dir) as log:
            log.append(b"sound")
            log.append(b"damaged in memory")
            flip_in_ring(log_dir, b"damaged in memory")
            log.flush()
        writer.stop()
        with rl.open_reader(log_dir) as reader:
            assert reader.get(1).payload == b"sound"
            with pytest.raises(rl.CorruptLog) as caught:
                reader.get(2)
            assert caught.value.first_index == caught.value.last_index == 2
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            wait_until("the scrubber finds it", lambda: log.stats().scrub_damage == 1)


def test_a_bit_flipped_in_the_tail_stops_recovery(log_dir: str) -> None:
    """The record was durable, as a later one vouches: not a torn write, and not cut off silently."""
    with no_writer_after(log_dir):
        writer = rl.start_writer(log_dir, config())
        with rl.open_log(log_dir, autostart=False) as log:
            for number in range(1, 6):
                log.append(payload(number))
        kill9(writer.pid)
        (info,) = manifest.load(Files(), log_dir).segments
        path = os.path.join(log_dir, fmt.segment_name(info.segment_id))
        offset = offset_of(path, 3)
        flip(path, offset + fmt.RECORD_BYTES + 1)
        with pytest.raises(rl.CorruptLog) as caught:
            rl.start_writer(log_dir)
        assert (caught.value.segment, caught.value.offset) == (os.path.basename(path), offset)
        with rl.open_reader(log_dir) as reader:
            assert [reader.get(index).payload for index in (1, 2)] == [payload(1), payload(2)]
            with pytest.raises(rl.CorruptLog):
                reader.get(3)
