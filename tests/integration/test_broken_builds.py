"""Negative controls: writers that break one rule on purpose.  Each harness must notice, or it proves nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.history import Submission, check
from support.processes import BentWriter, kill9, rows_of, wait_until

import raftlog_mp as rl

SMALL = {"segment_bytes": 1 << 16, "ring_bytes": 1 << 20, "idle_mark_ms": 60_000}


def payload(number: int) -> bytes:
    return b"entry %d" % number


def judge(log: rl.Log, tickets: list[rl.Ticket]) -> list[str]:
    outcomes = [ticket.result(timeout=60.0).start for ticket in tickets]
    log.append(b"last")
    submissions = [Submission("me", n, (payload(n),), first) for n, first in enumerate(outcomes)]
    return check(rows_of(log.read(1)[:-1]), submissions)


def moment(moment_of_publish: str, strategy: str, *, general: bool) -> list[object]:
    """Where a sound writer dies, so that it is the moment at which the bent one does."""
    if strategy == "disk_first" and not general:
        return ["segment.SegmentWriter.sync", "after", 5]
    return ["pipeline.Pipeline.publish", moment_of_publish, 5]


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("bend", [None, "publish_early"])
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_answering_before_the_bytes_are_there_is_noticed(
    log_dir: str, strategy: str, bend: str | None, general: bool
) -> None:
    config = rl.LogConfig(strategy=strategy, **SMALL)
    die = None if bend else moment("before", strategy, general=general)
    with BentWriter(log_dir, config, bend=bend, die=die, general=general) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
            tickets = []
            for number in range(1000):
                tickets.append(log.submit([payload(number)]))
                if number < 10 and writer.process.poll() is None:
                    wait_until("an answer", lambda: tickets[-1].done() or writer.process.poll() is not None)
            writer.wait()
            with rl.start_writer(log_dir):
                problems = judge(log, tickets)
    assert bool(problems) == (bend is not None)


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("bend", [None, "publish_first"])
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_publishing_before_the_payload_is_noticed(
    log_dir: str, strategy: str, bend: str | None, general: bool
) -> None:
    """Whoever still maps the dead writer's memory must find every entry up to its last_index there."""
    config = rl.LogConfig(strategy=strategy, **SMALL)
    die = None if bend else moment("after", strategy, general=general)
    with BentWriter(log_dir, config, bend=bend, die=die, general=general) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log, rl.open_reader(log_dir) as reader:
            assert reader.last_index == 0
            for number in range(50):
                ticket = log.submit([payload(number)])
                wait_until("an answer", lambda t=ticket: t.done() or writer.process.poll() is not None)  # type: ignore[misc]
                if writer.process.poll() is not None:
                    break
            last = reader._reader.view().control.last_index.load()
            found: list[bytes | None] = []
            for index in range(1, last + 1):
                try:
                    entry = reader.get(index)
                    found.append(entry.payload if entry is not None else None)
                except rl.RaftLogError:
                    found.append(None)
    assert last > 0 and (found == [payload(number) for number in range(last)]) == (bend is None)


@pytest.mark.parametrize("bend", [None, "forget_sent"])
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_forgetting_what_was_sent_is_noticed(log_dir: str, strategy: str, bend: str | None) -> None:
    config = rl.LogConfig(strategy=strategy, **SMALL)
    with BentWriter(log_dir, config, die=["lane.LaneConsumer.complete", "before", 1]) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
            tickets = [log.submit([payload(number)]) for number in range(100)]
            writer.wait()
            with BentWriter(log_dir, bend=bend) as second:
                assert second.line() == "serving"
                problems = judge(log, tickets)
    assert any("2 times" in problem for problem in problems) == (bend is not None)


@pytest.mark.parametrize("bend", [None, "skip_sync"])
def test_answering_without_a_sync_is_noticed(log_dir: str, tmp_path: Path, bend: str | None) -> None:
    """The power goes: what no sync has covered is not on the disk any more."""
    config = rl.LogConfig(segment_bytes=1 << 20, ring_bytes=1 << 20, idle_mark_ms=60_000)
    with BentWriter(log_dir, config, bend=bend, power_cut=True) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
            acknowledged = [log.append(payload(number)) for number in range(50)]
            writer.send_signal(signal.SIGUSR1)
            writer.wait()
        for name in (Path(log_dir) / "shm").iterdir():
            name.unlink()  # memory goes with the power
        lost: list[str] = []
        try:
            with rl.start_writer(log_dir), rl.open_log(log_dir, timeout=60.0) as log:
                submissions = [Submission("me", n, (payload(n),), first) for n, first in enumerate(acknowledged)]
                lost = check(rows_of(log.read(1)), submissions)
        except rl.CorruptLog as error:
            lost = [str(error)]
    assert bool(lost) == (bend is not None)


def test_the_power_cut_itself_spares_what_was_synced(log_dir: str) -> None:
    """MemFirst without a flush loses the suffix in a power cut, and says that it may have."""
    config = rl.LogConfig(strategy="mem_first", flush_policy=rl.Batch(10**9, 3_600_000), segment_bytes=1 << 20,
                          ring_bytes=1 << 20)  # fmt: skip
    with BentWriter(log_dir, config, power_cut=True) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
            log.append_many([payload(number) for number in range(10)])
            log.flush()
            log.append_many([payload(number) for number in range(10, 20)])
            assert (log.durable_index, log.last_index) == (10, 20)
            kill9(writer.pid)
        for name in (Path(log_dir) / "shm").iterdir():
            name.unlink()
        with rl.start_writer(log_dir), rl.open_log(log_dir, timeout=60.0) as log:
            assert [entry.payload for entry in log.read(1)] == [payload(number) for number in range(10)]
            assert log.stats().loss_possible
