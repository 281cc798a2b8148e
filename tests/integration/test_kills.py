"""Real clients, followers and writers, killed with SIGKILL at seeded moments; the history must stay sound."""

from __future__ import annotations

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest
from support.history import Submission, check
from support.processes import Actor, BentWriter, kill9, no_writer_after, rows_of, wait_until

import raftlog_mp as rl

LAST = b"that was all"
POLICIES = {"immediate": rl.Immediate(), "batch": rl.Batch(threshold=64, interval_ms=5), "adaptive": rl.Adaptive(5)}


def small(strategy: str, policy: str) -> rl.LogConfig:
    return rl.LogConfig(
        strategy=strategy, flush_policy=POLICIES[policy], segment_bytes=1 << 17, ring_bytes=1 << 20, linger_s=0.2,
        idle_mark_ms=5,
    )  # fmt: skip


def crowd(
    log_dir: str, folder: Path, stack: contextlib.ExitStack, seed: int, clients: int, count: int
) -> tuple[list[Actor], list[Actor]]:  # fmt: skip
    sends = [Actor("client", log_dir, folder / f"client-{n}", f"c{n}", seed * 100 + n, count) for n in range(clients)]
    follows = [Actor("follower", log_dir, folder / f"follower-{n}", LAST.decode()) for n in range(2)]
    for actor in (*sends, *follows):
        stack.enter_context(actor)
    return sends, follows


def kill_writer_at(log: rl.Log, actors: list[Actor], goal: int) -> None:
    """Kill the writer once the actors have had ``goal`` answers altogether."""
    wait_until(f"{goal} answers", lambda: sum(a.progress("acked") for a in actors) >= goal or all_ended(actors))
    kill9(log.stats().writer_pid)


def all_ended(actors: list[Actor]) -> bool:
    return all(actor.process.poll() is not None for actor in actors)


def finish(
    log: rl.Log, log_dir: str, sends: list[Actor], follows: list[Actor], lost: list[Actor], own: list[Submission]
) -> list[str]:  # fmt: skip
    """Wait for everybody, then judge."""
    for actor in sends:
        assert actor.wait() == 0, actor.process.stderr.read()
    index = log.append(LAST)
    for actor in follows:
        assert actor.wait() == 0, actor.process.stderr.read()
    submissions = [submission for actor in (*sends, *lost) for submission in actor.submissions()]
    entries = rows_of(log.read(1))
    with rl.open_reader(log_dir) as reader:
        assert rows_of(reader.read(1)) == entries
    followed = [actor.seen() for actor in follows]
    assert all(rows == entries for rows in followed)
    return check(entries, [*submissions, *own, Submission("test", 999, (LAST,), index)], followed)


@pytest.mark.parametrize(("strategy", "policy"), [
    ("disk_first", "immediate"), ("disk_first", "adaptive"), ("mem_first", "batch"),
    pytest.param("disk_first", "batch", marks=pytest.mark.slow),
    pytest.param("mem_first", "immediate", marks=pytest.mark.slow),
    pytest.param("mem_first", "adaptive", marks=pytest.mark.slow),
])  # fmt: skip
def test_writer_killed_again_and_again(log_dir: str, tmp_path: Path, strategy: str, policy: str) -> None:
    seed = sorted(POLICIES).index(policy) * 2 + (strategy == "mem_first")
    chance, clients, count = random.Random(seed), 3, 120
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        log = stack.enter_context(rl.open_log(log_dir, small(strategy, policy), timeout=60.0))
        sends, follows = crowd(log_dir, tmp_path, stack, seed, clients, count)
        own = []
        for number, goal in enumerate(sorted(chance.sample(range(10, clients * count * 3 // 4), 5))):
            kill_writer_at(log, sends, goal)
            mine = b"after kill %d" % number  # this handle, too, finds or starts the next writer
            own.append(Submission("test", number, (mine,), log.append(mine)))
        assert finish(log, log_dir, sends, follows, [], own) == []
        assert log.stats().generation >= 6
        assert rl.stop_writer(log_dir)


@pytest.mark.parametrize("strategy", ["mem_first", pytest.param("disk_first", marks=pytest.mark.slow)])
def test_clients_and_readers_killed(log_dir: str, tmp_path: Path, strategy: str) -> None:
    chance = random.Random(7)
    with no_writer_after(log_dir), contextlib.ExitStack() as stack:
        log = stack.enter_context(rl.open_log(log_dir, small(strategy, "batch"), timeout=60.0))
        sends, follows = crowd(log_dir, tmp_path, stack, 7, 3, 100)
        doomed = [Actor("client", log_dir, tmp_path / f"doomed-{n}", f"d{n}", 70 + n, 10_000) for n in range(2)]
        victims = [Actor("follower", log_dir, tmp_path / f"victim-{n}", "never") for n in range(2)]
        for actor in (*doomed, *victims):
            stack.enter_context(actor)
        for actor in (*doomed, *victims):
            kind, goal = ("acked", chance.randrange(5, 60)) if actor in doomed else ("seen", chance.randrange(1, 5))
            wait_until("progress of the doomed", lambda a=actor, k=kind, g=goal: a.progress(k) >= g)
            actor.kill()
        kill9(log.stats().writer_pid)
        assert finish(log, log_dir, sends, follows, doomed, []) == []
        wait_until("the dead are gone", lambda: log.stats().clients == 1)
        assert rl.stop_writer(log_dir)


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_stopped_writer_times_out_and_the_ticket_resolves_once(log_dir: str, strategy: str) -> None:
    with rl.start_writer(log_dir, small(strategy, "immediate")) as writer, rl.open_log(log_dir, timeout=30.0) as log:
        assert log.append(b"before") == 1
        os.kill(writer.pid, signal.SIGSTOP)
        try:
            with pytest.raises(rl.AppendTimeout) as caught:
                log.append(b"while it stood still", timeout=0.05)
            ticket = caught.value.ticket
            assert not ticket.done()
            assert ticket.exception() is None
            with pytest.raises(rl.AppendTimeout):
                ticket.result(timeout=0.05)
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        assert ticket.result(timeout=30.0) == range(2, 3)
        assert log.append(b"after") == 3
        assert [entry.payload for entry in log.read(1)] == [b"before", b"while it stood still", b"after"]


def test_ticket_of_a_timeout_survives_the_writer(log_dir: str) -> None:
    """The writer is killed while it stands still: the next one takes the submission, once."""
    with no_writer_after(log_dir), rl.open_log(log_dir, small("disk_first", "immediate"), timeout=30.0) as log:
        log.append(b"before")
        pid = log.stats().writer_pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(rl.AppendTimeout) as caught:
            log.append(b"unknown", timeout=0.05)
        kill9(pid)
        assert caught.value.ticket.result(timeout=30.0) == range(2, 3)
        assert [entry.payload for entry in log.read(1)] == [b"before", b"unknown"]
        assert rl.stop_writer(log_dir)


def test_many_clients_resend_after_a_crash(log_dir: str) -> None:
    """More clients than the table keeps for the absent: each one's entry is in the log once, or it is told so."""
    config = rl.LogConfig(segment_bytes=1 << 20, ring_bytes=1 << 20, lane_bytes=1 << 16)
    with contextlib.ExitStack() as stack:
        bent = stack.enter_context(BentWriter(log_dir, config, die=["lane.LaneConsumer.complete", "before", 1]))
        assert bent.line() == "serving"
        logs = [stack.enter_context(rl.open_log(log_dir, autostart=False, timeout=60.0)) for _ in range(300)]
        os.kill(bent.pid, signal.SIGSTOP)
        tickets = [log.submit([b"of client %d" % number]) for number, log in enumerate(logs)]
        os.kill(bent.pid, signal.SIGCONT)  # one round takes them all; no answer is given
        bent.wait()
        with rl.start_writer(log_dir):
            submissions = []
            for number, ticket in enumerate(tickets):
                try:
                    first = ticket.result(timeout=60.0).start
                except rl.OutcomeUnknown:
                    first = None
                submissions.append(Submission(f"client {number}", 0, (b"of client %d" % number,), first))
            assert check(rows_of(logs[0].read(1)), submissions) == []
