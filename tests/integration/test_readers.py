"""Readers: without a writer, through restarts, lapped by the ring, under rolling segments; and MemFirst's promises."""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.processes import PATIENCE_S, BentWriter, kill9, no_writer_after, script, wait_until, writer_pids

import raftlog_mp as rl

NEVER = rl.Batch(10**9, 3_600_000)
STRATEGIES = ("disk_first", "mem_first")


def small(strategy: str = "disk_first", **changes: object) -> rl.LogConfig:
    settings = {"strategy": strategy, "segment_bytes": 1 << 16, "ring_bytes": 1 << 20, "linger_s": 0.2, **changes}
    return rl.LogConfig(**settings)  # type: ignore[arg-type]


def payload(number: int) -> bytes:
    return b"%d-" % number + b"." * (number % 700)


def fill(log: rl.Log, start: int, stop: int) -> None:
    """Append entries ``start..stop-1``, each made from its own index."""
    tickets = [log.submit([payload(number)]) for number in range(start, stop)]
    assert tickets[-1].result(timeout=60.0).start == stop - 1


def assert_holds(reader: rl.LogReader, last: int) -> None:
    """Every way to read gives entries ``1..last``."""
    assert (reader.first_index, reader.last_index, len(reader)) == (1, last, last)
    assert [entry.payload for entry in reader.read(1)] == [payload(number) for number in range(1, last + 1)]
    for index in {1, 2, last // 2, last - 1, last} - {0}:
        assert reader.get(index) == rl.Entry(1, index, payload(index))
    assert reader.get(0) is None and reader.get(last + 1) is None
    assert [entry.index for entry in reader.follow(1, timeout=0)] == list(range(1, last + 1))
    assert reader.last_log_id == rl.LogId(1, last)


# ---------------------------------------------------------------- without a writer
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reader_after_a_clean_stop(log_dir: str, strategy: str) -> None:
    with rl.start_writer(log_dir, small(strategy)), rl.open_log(log_dir) as log:
        fill(log, 1, 1501)
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, 1500)
        assert reader.durable_index == 1500
        reader.wait_durable(1500, timeout=0)
    assert writer_pids(log_dir) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_handles_opened_before_the_end_still_read_everything(log_dir: str, strategy: str) -> None:
    """The writer rolls and stops while nobody reads: what was seen before and what was not, both are there."""
    with (
        rl.start_writer(log_dir, small(strategy)) as writer,
        rl.open_log(log_dir, autostart=False) as log,
        rl.open_reader(log_dir) as reader,
    ):
        fill(log, 1, 3)
        assert reader.get(1) == log.get(1) == rl.Entry(1, 1, payload(1))
        fill(log, 3, 1501)
        writer.stop()
        assert_holds(reader, 1500)
        assert_holds(log, 1500)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_handles_opened_before_a_kill_still_read_everything(log_dir: str, strategy: str) -> None:
    with BentWriter(log_dir, small(strategy)) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False) as log, rl.open_reader(log_dir) as reader:
            fill(log, 1, 3)
            assert reader.get(1) == rl.Entry(1, 1, payload(1))
            fill(log, 3, 1501)
            writer.kill()
            assert_holds(reader, 1500)
            assert_holds(log, 1500)


def test_reader_of_a_dead_writer_serves_its_ring(log_dir: str) -> None:
    """MemFirst, killed before any flush: what was acknowledged is in the dead writer's ring only."""
    with BentWriter(log_dir, small("mem_first", flush_policy=NEVER, segment_bytes=1 << 22)) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False) as log:
            fill(log, 1, 1001)
            assert log.durable_index < 1000
            writer.kill()

    def stamps() -> dict[str, int]:
        return {path.name: path.stat().st_mtime_ns for path in Path(log_dir).iterdir()}

    before = stamps()
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, 1000)
        assert reader.durable_index < 1000
        with pytest.raises(rl.LogTimeout):
            reader.wait_durable(1000, timeout=0.05)
    assert stamps() == before  # a reader changes nothing on disk
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        assert_holds(log, 1000)
        assert log.durable_index == 1000
        assert not log.stats().loss_possible


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_reader_goes_live_when_a_writer_appears(log_dir: str, strategy: str) -> None:
    with rl.start_writer(log_dir, small(strategy)), rl.open_log(log_dir) as log:
        fill(log, 1, 101)
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, 100)
        follow = reader.follow(1)
        assert [next(follow).index for _ in range(100)] == list(range(1, 101))
        seen: list[rl.Entry] = []
        thread = threading.Thread(target=lambda: seen.append(next(follow)))
        thread.start()
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            fill(log, 101, 102)
            thread.join(PATIENCE_S)
            assert seen == [rl.Entry(1, 101, payload(101))]
            assert_holds(reader, 101)
            assert reader.stats().writer_pid == log.stats().writer_pid


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_follow_rides_through_restarts(log_dir: str, strategy: str) -> None:
    """Crash, clean stop, crash: a follower in another process misses nothing and sees nothing twice."""
    source = """
import sys, raftlog_mp as rl
with rl.open_reader(sys.argv[1]) as reader:
    print("following", flush=True)
    for count, entry in enumerate(reader.follow(1), 1):
        assert entry.index == count, (entry, count)
        if entry.payload == b"end":
            print(count, flush=True)
            break
"""
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        with rl.open_log(log_dir, small(strategy), timeout=60.0) as log:
            child = stack.enter_context(script(source, log_dir))
            assert child.line() == "following"
            for turn in range(3):
                fill(log, turn * 200 + 1, turn * 200 + 201)
                kill9(log.stats().writer_pid)
            fill(log, 601, 602)
            assert rl.stop_writer(log_dir)
        with rl.open_log(log_dir, timeout=60.0) as log:
            fill(log, 602, 603)
            assert log.append(b"end") == 603
            assert child.line() == "603"
        wait_until("the writer lingers out", lambda: not writer_pids(log_dir))


# ---------------------------------------------------------------- follow
def test_follow_starts_ends_and_refuses(log_dir: str) -> None:
    with rl.start_writer(log_dir, small()), rl.open_log(log_dir) as log:
        assert list(log.follow(timeout=0)) == [] == list(log.follow(1, timeout=0.01))
        assert list(log.follow(after=rl.LogId(0, 0), timeout=0)) == []
        fill(log, 1, 11)
        assert [entry.index for entry in log.follow(timeout=0)] == list(range(1, 11))
        assert [entry.index for entry in log.follow(8, timeout=0.01)] == [8, 9, 10]
        assert [entry.index for entry in log.follow(11, timeout=0)] == []
        assert [entry.index for entry in log.follow(after=rl.LogId(1, 7), timeout=0)] == [8, 9, 10]
        assert [entry.index for entry in log.follow(after=(1, 10), timeout=0)] == []  # type: ignore[arg-type]
        with pytest.raises(rl.IndexGap) as gap:
            log.follow(12)
        assert gap.value.last_index == 10
        for checkpoint in (rl.LogId(1, 11), rl.LogId(2, 10), rl.LogId(9, 3)):
            with pytest.raises(rl.Truncated):
                log.follow(after=checkpoint)
        with pytest.raises(rl.Compacted) as compacted:
            log.follow(0)
        assert compacted.value.first_index == 1
        with pytest.raises(TypeError):
            log.follow(1, after=rl.LogId(1, 1))
        with pytest.raises(rl.ConfigError):
            log.follow(1, upto="soon")  # type: ignore[arg-type]


def test_read_clips_the_end_only(log_dir: str) -> None:
    with rl.start_writer(log_dir, small()), rl.open_log(log_dir) as log:
        log.append_many([b"%d" % number for number in range(10)])
        log.append(b"")
        assert [entry.payload for entry in log.read(3, 6)] == [b"2", b"3", b"4"]
        assert log.read(5, 5) == log.read(6, 3) == log.read(12) == log.read(99) == []
        assert [entry.index for entry in log.read(9, 99)] == [9, 10, 11]
        assert [entry.index for entry in log.read(1, None, 0)] == [1]
        assert [entry.index for entry in log.read(1, None, 3)] == [1, 2, 3]
        with pytest.raises(rl.Compacted):
            log.read(0)


# ---------------------------------------------------------------- the ring
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("segment_bytes", [1 << 16, 1 << 23])
def test_slow_reader_is_lapped_and_reads_everything(log_dir: str, strategy: str, segment_bytes: int) -> None:
    """Several rings' worth of entries; segments smaller and larger than the ring."""
    with (
        rl.start_writer(log_dir, small(strategy, segment_bytes=segment_bytes)),
        rl.open_log(log_dir, timeout=60.0) as log,
        rl.open_reader(log_dir) as reader,
    ):
        slow, seen = reader.follow(1), list[rl.Entry]()
        for start in range(1, 8001, 1000):
            fill(log, start, start + 1000)
            seen += [next(slow) for _ in range(10)]
        seen += [next(slow) for _ in range(8000 - len(seen))]
        assert [entry.payload for entry in seen] == [payload(number) for number in range(1, 8001)]
        assert_holds(reader, 8000)
        assert reader.get(1) == rl.Entry(1, 1, payload(1))
        assert reader.stats().lapped_reads > 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_readers_under_rolling_segments(log_dir: str, strategy: str) -> None:
    """A process reads at random, all the time, while segments are sealed under its hands."""
    source = """
import random, sys, raftlog_mp as rl
chance = random.Random(int(sys.argv[2]))
payload = lambda number: b"%d-" % number + b"." * (number % 700)
with rl.open_reader(sys.argv[1]) as reader:
    print("reading", flush=True)
    last = 0
    while last < 6000:
        last = reader.last_index
        for _ in range(20):
            if last:
                index = chance.randrange(1, last + 1)
                entry = reader.get(index)
                assert entry == rl.Entry(1, index, payload(index)), (index, entry)
                some = reader.read(index, index + 30)
                assert [e.payload for e in some] == [payload(e.index) for e in some] and some[0].index == index
print("fine", flush=True)
"""
    with contextlib.ExitStack() as stack:
        stack.enter_context(rl.start_writer(log_dir, small(strategy)))
        log = stack.enter_context(rl.open_log(log_dir, timeout=60.0))
        children = [stack.enter_context(script(source, log_dir, str(number))) for number in range(2)]
        for child in children:
            assert child.line() == "reading"
        for start in range(1, 6001, 100):
            fill(log, start, start + 100)
        for child in children:
            assert child.line() == "fine"


def test_large_active_segment_sealed_under_a_lapped_reader(log_dir: str) -> None:
    """What lies behind the end of a segment is given back when it is sealed: nobody may be looking there."""
    source = """
import sys, raftlog_mp as rl
with rl.open_reader(sys.argv[1]) as reader:
    print("reading", flush=True)
    while reader.last_index < 20000:
        reader.get(1)
        reader.read(1, 50)
print("fine", flush=True)
"""
    config = small(segment_bytes=1 << 22, ring_bytes=1 << 20)
    with rl.start_writer(log_dir, config), rl.open_log(log_dir, timeout=60.0) as log, contextlib.ExitStack() as stack:
        children = [stack.enter_context(script(source, log_dir)) for _ in range(2)]
        for child in children:
            assert child.line() == "reading"
        for _ in range(40):
            log.append_many([b"x" * 1000] * 500)
        for child in children:
            assert child.line() == "fine"


@pytest.mark.parametrize("limit", [{}, {"max_buffered_entries": 100}])
def test_full_ring_blocks_and_drops_nothing(log_dir: str, limit: dict[str, int]) -> None:
    """MemFirst with a policy that never flushes by itself: a full ring flushes, whatever the policy says."""
    config = small("mem_first", flush_policy=NEVER, **limit)
    with rl.start_writer(log_dir, config), rl.open_log(log_dir, timeout=60.0) as log:
        fill(log, 1, 8001)
        assert_holds(log, 8000)
        assert log.stats().fsyncs > 0
        assert log.stats().unflushed_bytes <= 1 << 20


# ---------------------------------------------------------------- durability
def test_wait_durable_and_flush_in_memory_first(log_dir: str) -> None:
    with (
        rl.start_writer(log_dir, small("mem_first", flush_policy=NEVER, segment_bytes=1 << 20)),
        rl.open_log(log_dir, timeout=60.0) as log,
        rl.open_reader(log_dir) as reader,
    ):
        fill(log, 1, 11)
        assert log.durable_index < 10
        with pytest.raises(rl.LogTimeout):
            log.wait_durable(10, timeout=0.05)
        with pytest.raises(rl.IndexGap):
            log.wait_durable(11, timeout=0.05)
        waited = threading.Thread(target=lambda: reader.wait_durable(rl.LogId(1, 10), timeout=60.0))
        durable: list[int] = []
        follow = reader.follow(1, upto="durable")
        followed = threading.Thread(target=lambda: durable.extend(next(follow).index for _ in range(10)))
        waited.start()
        followed.start()
        log.flush()
        assert log.durable_index == 10
        log.wait_durable(10, timeout=0)
        waited.join(PATIENCE_S)
        followed.join(PATIENCE_S)
        assert durable == list(range(1, 11))
        log.flush()


def test_disk_first_shows_nothing_before_it_is_durable(log_dir: str) -> None:
    with rl.start_writer(log_dir, small(flush_policy=NEVER)), rl.open_log(log_dir) as log:
        ticket = log.submit([b"x"])
        assert not ticket.done() and log.last_index == 0
        with pytest.raises(rl.AppendTimeout):
            ticket.result(timeout=0.05)
        assert (log.last_index, log.get(1), list(log.follow(1, timeout=0))) == (0, None, [])
        assert os.path.exists(log_dir)
    with rl.open_reader(log_dir) as reader:
        assert reader.durable_index == reader.last_index


def test_durable_is_never_seen_above_the_last_entry(log_dir: str) -> None:
    """From another process, while a DiskFirst log publishes after each fsync."""
    with (
        no_writer_after(log_dir), rl.start_writer(log_dir), rl.open_reader(log_dir) as reader,
        rl.open_log(log_dir) as log, ThreadPoolExecutor(1) as pool,
    ):  # fmt: skip
        stop = threading.Event()

        def look() -> list[tuple[int, int]]:
            found = []
            while not stop.is_set():
                durable, last, stats = reader.durable_index, reader.last_index, reader.stats()
                if durable > last or stats.durable_index > stats.last_index:
                    found.append((durable, last))
            return found

        looking = pool.submit(look)
        for _ in range(300):
            log.append(b"x")
        stop.set()
        assert looking.result() == []
