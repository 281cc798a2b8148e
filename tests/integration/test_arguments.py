"""What calls take: every wrong kind is a TypeError that names the argument, every wrong value a ConfigError."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import PATIENCE_S, alive

import raftlog_mp as rl
from raftlog_mp import format as fmt

SMALL = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 18, linger_s=0.2)
NO_TIMEOUTS: list[tuple[Any, type[Exception]]] = [
    ("5", TypeError), (b"5", TypeError), ([5], TypeError), (True, TypeError), (5j, TypeError),
    (float("nan"), rl.ConfigError), (-1, rl.ConfigError), (-0.001, rl.ConfigError), (float("-inf"), rl.ConfigError),
]  # fmt: skip
NO_INTEGERS: list[Any] = [True, False, "1", 1.0, None, b"1", [1]]


@pytest.fixture
def log(log_dir: str) -> Iterator[rl.Log]:
    """An open log of five entries."""
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir, autostart=False) as log:
        log.append_many([b"1", b"2", b"3", b"4", b"5"])
        yield log


# ---------------------------------------------------------------- timeouts
def calls_that_wait(log: rl.Log, writer: rl.Writer) -> dict[str, Callable[[Any], object]]:
    """Everything on the public surface that takes ``timeout``."""
    return {
        "append": lambda timeout: log.append(b"x", timeout=timeout),
        "append_many": lambda timeout: log.append_many([b"x"], timeout=timeout),
        "flush": lambda timeout: log.flush(timeout),
        "wait_durable": lambda timeout: log.wait_durable(1, timeout),
        "follow": lambda timeout: list(log.follow(1, timeout=timeout)),
        "Ticket.result": lambda timeout: log.submit([b"x"]).result(timeout),
        "open_log": lambda timeout: rl.open_log(log.path, timeout=timeout),
        "open_reader": lambda timeout: rl.open_reader(log.path, timeout=timeout),
        "stop_writer": lambda timeout: rl.stop_writer(log.path, timeout),
        "Writer.stop": lambda timeout: writer.stop(timeout),
    }


def test_a_wrong_timeout_is_named_and_nothing_happens(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL) as writer, rl.open_log(log_dir, autostart=False) as log:
        for name, call in calls_that_wait(log, writer).items():
            for timeout, kind in NO_TIMEOUTS:
                with pytest.raises(kind, match="timeout") as caught:
                    call(timeout)
                if kind is rl.ConfigError:
                    assert caught.value.field == "timeout" and caught.value.value is timeout, name
                    assert repr(timeout) in str(caught.value) and "None" in str(caught.value), name
                else:
                    assert type(timeout).__name__ in str(caught.value), name
        log.flush()
        assert log.last_index == len(NO_TIMEOUTS) and alive(writer.pid)  # only what the line of Ticket.result submits


def test_a_wrong_timeout_creates_no_log(tmp_path: Path) -> None:
    with pytest.raises(rl.ConfigError):
        rl.open_log(tmp_path / "log", timeout=-1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("timeout", [None, float("inf"), 10**400, 1e300, 30, 30.0], ids=lambda value: str(value)[:5])
def test_timeouts_that_are_long_or_endless(log_dir: str, timeout: Any) -> None:
    """Numbers that no clock and no poll(2) can count to wait for ever, too."""
    writer = rl.start_writer(log_dir, SMALL)
    with rl.open_log(log_dir, autostart=False, timeout=timeout) as log:
        assert log.append(b"x", timeout=timeout) == 1
        assert log.append_many([b"y"], timeout=timeout) == range(2, 3)
        log.flush(timeout)
        log.wait_durable(2, timeout)
        assert [next(entries).index for entries in (log.follow(2, timeout=timeout),)] == [2]
    with rl.open_reader(log_dir, timeout=timeout) as reader:
        assert reader.last_index == 2
    assert rl.stop_writer(log_dir, timeout) is True
    assert rl.stop_writer(log_dir, timeout) is False
    writer.stop(timeout)
    with rl.start_writer(log_dir) as writer:
        writer.stop(timeout)
        assert not alive(writer.pid)


def test_zero_does_not_wait(log_dir: str) -> None:
    """A writer that is held up answers nobody: each call says so at once, and what it began goes on."""
    with rl.start_writer(log_dir, SMALL) as writer, rl.open_log(log_dir, autostart=False) as log:
        log.append(b"one")
        os.kill(writer.pid, signal.SIGSTOP)
        try:
            with pytest.raises(rl.AppendTimeout) as caught:
                log.append(b"two", timeout=0)
            with pytest.raises(rl.LogTimeout):
                log.flush(0)
            assert list(log.follow(2, timeout=0)) == []
            with pytest.raises(rl.LogTimeout, match="did not stop in 0 s"):
                writer.stop(0)
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        assert caught.value.ticket.result(timeout=PATIENCE_S) == range(2, 3)
        writer.stop(None)
        assert not alive(writer.pid)


def test_stopping_from_a_process_with_many_open_files(log_dir: str) -> None:
    """Servers hold more than 1024 descriptors, and so the one that watches the writer's end has a high number."""
    with rl.start_writer(log_dir, SMALL) as writer:
        null = os.open(os.devnull, os.O_RDONLY)
        many = [null]
        try:
            while many[-1] < 1030:
                many.append(os.dup(null))
            assert rl.stop_writer(log_dir, PATIENCE_S)
            assert not alive(writer.pid)
        finally:
            for fd in many:
                os.close(fd)


def test_stop_without_a_timeout_waits_until_it_has_ended(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL) as writer:
        os.kill(writer.pid, signal.SIGSTOP)
        waiting, answers = threading.Event(), list[object]()

        def stop() -> None:
            waiting.set()
            answers.append(rl.stop_writer(log_dir, None))

        thread = threading.Thread(target=stop)
        try:
            thread.start()
            waiting.wait()
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        thread.join(PATIENCE_S)
        assert answers == [True] and not alive(writer.pid)


# ---------------------------------------------------------------- indexes
@pytest.mark.parametrize("index", NO_INTEGERS, ids=repr)
def test_an_index_is_an_integer(log: rl.Log, index: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: log.get(index), lambda: log.read(index), lambda: log.wait_durable(index),
        lambda: log.follow(after=rl.LogId(1, index)), lambda: log.wait_durable(rl.LogId(1, index)),
        lambda: log.follow(after=rl.LogId(index, 1)), lambda: log.wait_durable(rl.LogId(index, 1)),
    ]  # fmt: skip
    if index is not None:  # which means "from the first" and "to the end" here
        calls += [lambda: log.follow(index), lambda: log.read(1, index), lambda: log.read(1, 2, index)]
    kind = type(index).__name__
    for call in calls:
        with pytest.raises(TypeError, match=f"(index|term|start|stop|max_bytes) is an integer, not {kind}"):
            call()


def test_integers_of_any_class_are_indexes(log: rl.Log) -> None:
    class Number(int):
        pass

    entry = log.get(Number(2))
    assert entry is not None and entry.payload == b"2"
    assert log.read(Number(2), Number(3)) == [entry] == log.read(2, 3)
    assert log.get(0) is None and log.get(-1) is None and log.get(6) is None and log.get(10**30) is None
    assert log.read(10**30) == [] and [entry.index for entry in log.read(5, 10**30)] == [5]


@pytest.mark.parametrize("start", [0, -1, -(10**30)])
def test_indexes_start_at_one(log: rl.Log, start: int) -> None:
    """Nothing was purged here, so nobody may be told that it was."""
    with rl.open_reader(log.path) as reader:
        for handle in (log, reader):
            for call in (handle.read, handle.follow):
                with pytest.raises(rl.Compacted, match="indexes start at 1") as caught:
                    call(start)
                assert caught.value.first_index == 1
                assert "purged" not in str(caught.value) and f"no entry {start}:" in str(caught.value)


@pytest.mark.parametrize("after", [5, "12", (1,), (1, 2, 3), [1, 2], {1, 2}, rl.Entry(1, 1, b"x")])
def test_a_checkpoint_is_a_log_id(log: rl.Log, after: Any) -> None:
    with pytest.raises(TypeError, match="LogId"):
        log.follow(after=after)


# ---------------------------------------------------------------- settings
@pytest.mark.parametrize("opener", [rl.open_log, rl.start_writer])
@pytest.mark.parametrize("config", [{"strategy": "mem_first"}, "mem_first", rl.LogConfig, 7])
def test_settings_are_a_log_config(tmp_path: Path, opener: Callable[..., Any], config: Any) -> None:
    with pytest.raises(TypeError, match="config is a LogConfig") as caught:
        opener(tmp_path / "log", config)
    assert type(config).__name__ in str(caught.value)
    assert ("LogConfig(**settings)" in str(caught.value)) == isinstance(config, dict)
    assert list(tmp_path.iterdir()) == [], "and no log is created"


# ---------------------------------------------------------------- what an error of a read names
def test_damage_names_the_entries_of_the_record(log_dir: str) -> None:
    """A record is proved as a whole: one bad byte costs its batch, from the first to the last entry."""
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        assert log.append_many([b"before"] * 3) == range(1, 4)
        assert log.append_many([b"a", b"damaged", b"c", b"d"]) == range(4, 8)
        assert log.append_many([b"after"] * 2) == range(8, 10)
    path = next(path for path in sorted(Path(log_dir).glob("*.seg")) if b"damaged" in path.read_bytes())
    raw = bytearray(path.read_bytes())
    at = raw.index(b"damaged")
    raw[at] ^= 1
    path.write_bytes(raw)
    with rl.open_reader(log_dir) as reader:
        for call in (lambda: reader.get(5), lambda: reader.get(4), lambda: reader.read(1), lambda: reader.read(6),
                     lambda: list(reader.follow(1, timeout=0))):  # fmt: skip
            with pytest.raises(rl.CorruptLog, match="entries 4 to 7") as caught:
                call()
            error = caught.value
            assert (error.segment, error.first_index, error.last_index) == (path.name, 4, 7)
            assert error.offset is not None and error.offset < at < error.offset + 2 * fmt.RECORD_BYTES
        assert [entry.index for entry in reader.read(1, 4)] == [1, 2, 3]
        assert [entry.index for entry in reader.read(8)] == [8, 9]


def test_a_segment_that_went_away_names_all_its_entries(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        for _ in range(200):
            log.submit([b"x" * 1000])
        last = log.append(b"last")
    segments = sorted(Path(log_dir).glob("*.seg"))
    with rl.open_reader(log_dir) as reader:
        assert reader.last_index == last
        segments[1].unlink()
        with pytest.raises(rl.CorruptLog) as caught:
            reader.read(1)
        error = caught.value
        assert error.segment == segments[1].name and error.offset == fmt.DATA_OFFSET
        assert error.first_index is not None and error.last_index is not None
        assert 1 < error.first_index < error.last_index < last
        assert len(reader.read(1, error.first_index)) == error.first_index - 1
        assert reader.read(error.last_index + 1)[-1].index == last
