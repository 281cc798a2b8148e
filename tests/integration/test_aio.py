"""The log under asyncio: the same answers, nothing blocks the loop, cancelled waits leave no harm."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import no_writer_after

import raftlog_mp as rl

SMALL = rl.LogConfig(ring_bytes=1 << 20, lane_bytes=64 << 10, segment_bytes=64 << 10)


@pytest.fixture
def path(tmp_path: Path) -> AsyncIterator[str]:
    log_dir = str(tmp_path / "log")
    with no_writer_after(log_dir), rl.start_writer(log_dir, SMALL):
        yield log_dir


async def first_of(iterator: Any, count: int) -> list[rl.Entry]:
    """The first entries."""
    found = []
    async for entry in iterator:
        found.append(entry)
        if len(found) == count:
            break
    await iterator.aclose()
    return found


def test_every_name_of_the_log_is_there() -> None:
    """What may wait is a coroutine; the words are properties."""
    for mirror, plain in ((rl.aio.AsyncLog, rl.Log), (rl.aio.AsyncLogReader, rl.LogReader)):
        names = {name for name in vars(rl.LogReader) | vars(plain) if not name.startswith("_")} - {"name"}
        assert not {name for name in names if not hasattr(mirror, name)}
        for name in names:
            ours, theirs = inspect.getattr_static(mirror, name), inspect.getattr_static(plain, name)
            if isinstance(theirs, property):
                assert isinstance(ours, property), name
            elif name != "follow":
                assert inspect.iscoroutinefunction(ours), name
            if inspect.isfunction(theirs):
                expected = [(p.name, p.kind, p.default) for p in inspect.signature(theirs).parameters.values()]
                assert [(p.name, p.kind, p.default) for p in inspect.signature(ours).parameters.values()] == expected


def test_asyncio_is_loaded_only_with_aio() -> None:
    code = "import raftlog_mp, sys; assert 'asyncio' not in sys.modules; raftlog_mp.aio; sys.modules['asyncio']"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        rl.nothing  # noqa: B018  # the access is the test


def test_the_whole_log(path: str) -> None:
    async def main() -> None:
        async with rl.aio.open_log(path) as log:
            assert await log.append(b"one") == 1
            assert await log.append_many([b"two", b"three"]) == range(2, 4)
            ticket = await log.submit([b"four"])
            assert await ticket.result(60) == range(4, 5) and ticket.done()
            assert (await log.get(2)).payload == b"two" and await log.get(9) is None
            assert [e.payload for e in await log.read(1, 3)] == [b"one", b"two"]
            await log.flush()
            await log.wait_durable(4, timeout=60)
            await log.wait_for_room()
            await log.save_hard_state(rl.HardState(2, "n"))
            assert log.hard_state == rl.HardState(2, "n")
            result = await log.append_entries(rl.LogId(1, 4), [rl.Entry(2, 5, b"five")], leader_term=2)
            assert result.success and log.last_log_id == rl.LogId(2, 5)
            assert await log.commit_to(2) == 2 == log.commit_index
            await log.truncate_from(5, leader_term=2)
            await log.purge_to(1)
            assert (log.first_index, log.last_index, log.durable_index, len(log), bool(log)) == (2, 4, 4, 3, True)
            assert (await log.first_index_of_term(1), await log.last_index_of_term(1)) == (2, 4)
            assert await log.term_of(3) == 1
            assert log.purged_log_id == rl.LogId(1, 1) and (await log.stats()).last_index == 4
            async with rl.aio.open_reader(path) as reader:
                assert reader.uuid == log.uuid and reader.config == log.config
                assert [e.index async for e in reader.follow(timeout=0)] == [2, 3, 4]
            await log.reset(rl.LogId(2, 9))
            assert log.first_index == 10
        assert log.closed

    asyncio.run(main())


def test_awaiting_open_log_gives_the_handle(path: str) -> None:
    async def main() -> None:
        log = await rl.aio.open_log(path)
        assert await log.append(b"x") == 1
        await log.close()
        await log.close()
        with pytest.raises(rl.LogClosed):
            await log.append(b"y")
        reader = await rl.aio.open_reader(path)
        assert (await reader.get(1)).payload == b"x"
        await reader.close()

    asyncio.run(main())


def test_many_appends_wait_together(path: str) -> None:
    """More than there are threads; each gets its own index, and they share fsyncs."""
    count = 3 * rl.aio.THREADS

    async def main() -> None:
        async with rl.aio.open_log(path) as log:
            before = (await log.stats()).fsyncs
            indexes = await asyncio.gather(*[log.append(b"%d" % n) for n in range(count)])
            assert sorted(indexes) == list(range(1, count + 1))
            for n, index in enumerate(indexes):
                assert (await log.get(index)).payload == b"%d" % n
            assert (await log.stats()).fsyncs - before < count

    asyncio.run(main())


def test_the_loop_goes_on_while_an_append_waits(path: str) -> None:
    async def main() -> None:
        async with rl.aio.open_log(path) as log:
            await log.append(b"x")
            pid = (await log.stats()).writer_pid
            os.kill(pid, signal.SIGSTOP)
            try:
                waiting = asyncio.create_task(log.append(b"y", timeout=60))
                for _ in range(100):
                    await asyncio.sleep(0)
                assert (await log.get(1)).payload == b"x" and not waiting.done()
            finally:
                os.kill(pid, signal.SIGCONT)
            assert await waiting == 2

    asyncio.run(main())


def test_a_follower_wakes_up_and_can_be_cancelled(path: str) -> None:
    async def main() -> None:
        async with rl.aio.open_log(path) as log, rl.aio.open_reader(path) as reader:
            following = asyncio.create_task(first_of(reader.follow(1), 3))
            for n in range(3):
                await log.append(b"%d" % n)
            assert [e.payload for e in await asyncio.wait_for(following, 60)] == [b"0", b"1", b"2"]
            waiting = asyncio.create_task(first_of(reader.follow(4), 1))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            assert await log.append(b"3") == 4 and (await reader.get(4)).payload == b"3"

    asyncio.run(main())


def test_a_follower_is_told_what_a_plain_one_is_told(path: str) -> None:
    async def main() -> None:
        async with rl.aio.open_log(path) as log:
            await log.append_many([b"%d" % n for n in range(10)])
            follower = log.follow(1)
            assert (await anext(follower)).index == 1 and (await anext(follower)).index == 2
            await log.truncate_from(2)
            with pytest.raises(rl.Truncated):  # although more had been fetched ahead
                await anext(follower)
            await log.append_many([b"%d" % n for n in range(10)])
            await log.purge_to(5)
            with pytest.raises(rl.Compacted):
                await anext(log.follow(3))
            with pytest.raises(rl.IndexGap):
                await anext(log.follow(99))
            late = log.follow(6, timeout=0.6)
            assert [e.index async for e in late] == [6, 7, 8, 9, 10, 11]

    asyncio.run(main())


def test_closing_ends_those_who_wait(path: str) -> None:
    async def main() -> None:
        log = await rl.aio.open_log(path)
        waiting = asyncio.create_task(first_of(log.follow(1), 1))
        durable = asyncio.create_task(log.wait_durable(1, timeout=60))
        await asyncio.sleep(0)
        await log.close()
        results = await asyncio.gather(waiting, durable, return_exceptions=True)
        assert isinstance(results[0], rl.LogClosed) and isinstance(results[1], (rl.LogClosed, rl.IndexGap))

    asyncio.run(main())


def test_a_cancelled_append_is_in_the_log_once_or_not_at_all(path: str) -> None:
    async def main() -> None:
        async with rl.aio.open_log(path) as log:
            tasks = [asyncio.create_task(log.append(b"%d" % n)) for n in range(50)]
            await tasks[0]
            for task in tasks[1::2]:
                task.cancel()
            results = await asyncio.gather(*tasks, return_exceptions=True)
        with rl.open_log(path) as plain:
            held = [entry.payload for entry in plain.read(1)]
        assert len(held) == len(set(held))
        for n, result in enumerate(results):
            if not isinstance(result, BaseException):
                assert held[result - 1] == b"%d" % n

    asyncio.run(main())
