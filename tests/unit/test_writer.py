"""The writer's loop in one process: when it commits, when it answers, what it does when the disk fails, how it ends."""

from __future__ import annotations

import errno
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support.processes import wait_until

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest, protocol, shm, wakeup
from raftlog_mp.config import KIB, Batch, Immediate
from raftlog_mp.control import open_control
from raftlog_mp.files import Files
from raftlog_mp.view import View

from .journals import append, entries_of, kill, open_log, records_of, reopen
from .running import PATIENCE_S, Running

NEVER = Batch(threshold=10**9, interval_ms=3_600_000)
BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])


@pytest.fixture
def run(log_dir: str) -> Iterator[Callable[..., Running]]:
    """Make a writer that is ended in any case."""
    made: list[Running] = []
    interval = sys.getswitchinterval()

    def make(**settings: Any) -> Running:
        made.append(Running(log_dir, **settings))
        return made[-1]

    yield make
    sys.setswitchinterval(interval)
    for running in made:
        running.end()


Run = Callable[..., Running]


def ok(last: int, first_index: int, count: int = 1) -> tuple[int, ...]:
    return (last, layout.OK, first_index, count, 1, 0)


def payloads_of(directory: str) -> list[bytes]:
    return [payload for _, payload in entries_of(directory).values()]


def on_sync(running: Running, act: Callable[[], None]) -> None:
    """Have ``act`` run, in the thread that syncs, whenever the segment is about to be synced."""

    def listen(step: tuple[Any, ...]) -> None:
        if step[0] == "sync" and str(step[1]).endswith(".seg"):
            act()

    running.files.listener = listen


def held_syncs(running: Running) -> tuple[threading.Event, threading.Event]:
    """Syncs of the segment say that they have begun, and wait: ``(begun, go_on)``."""
    begun, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        begun.set()
        assert go_on.wait(PATIENCE_S)

    on_sync(running, hold)
    return begun, go_on


# ---------------------------------------------------------------- serving
@BOTH
@pytest.mark.parametrize("spin_us", [0.0, 50.0])
def test_an_append_is_answered_visible_and_stored(run: Run, log_dir: str, strategy: str, spin_us: float) -> None:
    running = run(strategy=strategy, spin_us=spin_us).start()
    one, two = running.member(), running.member()
    assert one.append(b"1") == ok(1, 1) and running.word("last_index") == 1
    assert two.append(b"2", b"3") == ok(1, 2, count=2) and running.word("last_index") == 3
    for number in range(20):
        assert one.append(b"x")[1:3] == (layout.OK, 4 + number)
    assert (running.word("appends"), running.word("entries"), running.word("clients")) == (22, 23, 2)
    running.end()
    assert payloads_of(log_dir) == [b"1", b"2", b"3", *[b"x"] * 20]


def test_the_welcome_leads_to_what_the_writer_shows(run: Run, log_dir: str) -> None:
    running = run().start()
    member = running.member(role=protocol.READER)
    view = View(member.welcome)
    assert view.config == running.writer.config and member.welcome["pid"] == os.getpid()
    assert view.control.snapshot()["state"] == layout.STATE_RUNNING
    assert (view.log_id, view.uuid) == (running.journal.log_id, manifest.load(Files(), log_dir).uuid)
    view.control.close()
    view.ring.close()


def test_a_new_writer_tells_the_handles_of_the_dead_one(run: Run, log_dir: str) -> None:
    """And serves what it left."""
    journal, _ = open_log(log_dir)
    append(journal, b"before")
    theirs = open_control(os.path.join(journal.folder, fmt.control_name(journal.generation)))
    kill(journal)
    running = run()
    assert theirs.superseded_by.load(shm.SEQ_CST) == running.journal.generation > journal.generation
    theirs.close()
    assert running.word("state") == layout.STATE_RUNNING and running.word("last_index") == 1
    running.start()
    assert running.member().append(b"after") == ok(1, 2)
    running.end()
    assert payloads_of(log_dir) == [b"before", b"after"]


@BOTH
def test_progress_wakes_those_who_wait_for_it(run: Run, strategy: str) -> None:
    running = run(strategy=strategy).start()
    client, reader = running.member(), running.member(role=protocol.READER)
    for word in ("last_index", "durable_index"):
        before = running.word(word)
        client.submit(b"x")
        while running.word(word) == before:
            reader.sleep(layout.WANTS_PROGRESS, lambda: running.word(word) != before)  # noqa: B023


# ---------------------------------------------------------------- what the policy decides
def test_disk_first_shows_and_answers_only_what_is_synced(run: Run) -> None:
    running = run().start()
    client, seen = running.member(), []
    on_sync(running, lambda: seen.append((
        running.word("last_index"), running.word("durable_index"), client.lane.done.load(shm.SEQ_CST),
    )))  # fmt: skip
    for number in range(3):
        assert client.append(b"x") == ok(number + 1, number + 1)
        assert running.word("durable_index") == running.word("last_index") == number + 1
    assert seen == [(0, 0, 0), (1, 1, 1), (2, 2, 2)], "at the moment of each sync"


def test_mem_first_answers_while_the_sync_hangs(run: Run) -> None:
    running = run(strategy="mem_first").start()
    client = running.member()
    begun, go_on = held_syncs(running)
    assert client.append(b"1") == ok(1, 1)
    assert begun.wait(PATIENCE_S)
    for number in range(2, 6):
        assert client.append(b"x") == ok(number, number)
    assert running.word("last_index") == 5 and running.word("durable_index") == 0
    assert running.word("unflushed_entries") == 5
    go_on.set()
    wait_until("everything is durable", lambda: running.word("durable_index") == 5)
    assert running.word("fsyncs") == 2, "what arrived during the first sync shares the second"


def test_what_arrives_during_a_sync_shares_the_next(run: Run) -> None:
    running = run(flush_policy=Immediate()).start()
    clients = [running.member() for _ in range(3)]
    begun, go_on = held_syncs(running)
    clients[0].submit(b"first")
    assert begun.wait(PATIENCE_S)
    for client in clients[1:]:
        for _ in range(5):
            client.submit(b"x")
    go_on.set()
    assert clients[0].wait_answers(1) == [ok(1, 1)]
    for client in clients[1:]:
        assert client.wait_answers(5)[-1][:2] == (5, layout.OK)
    assert running.word("fsyncs") == 2


@BOTH
def test_a_batch_policy_waits_for_its_threshold(run: Run, strategy: str) -> None:
    running = run(strategy=strategy, flush_policy=Batch(threshold=3, interval_ms=3_600_000)).start()
    client = running.member()
    client.submit(b"1")
    client.submit(b"2")
    wait_until("both are taken", lambda: running.word("unflushed_entries") == 2)
    assert running.word("fsyncs") == 0
    client.submit(b"3")
    client.wait_answers(3)
    wait_until("the three are durable", lambda: running.word("durable_index") == 3)
    assert running.word("fsyncs") == 1


@BOTH
def test_a_batch_policy_does_not_wait_longer_than_its_interval(run: Run, strategy: str) -> None:
    running = run(strategy=strategy, flush_policy=Batch(threshold=10**9, interval_ms=5)).start()
    assert running.member().append(b"1") == ok(1, 1)
    wait_until("it is durable", lambda: running.word("durable_index") == 1)


@BOTH
def test_flush_is_done_at_once_for_all_that_was_submitted(run: Run, strategy: str) -> None:
    running = run(strategy=strategy, flush_policy=NEVER).start()
    client, reader = running.member(), running.member(role=protocol.READER)
    for _ in range(4):
        client.submit(b"x")
    wait_until("they are taken", lambda: running.word("unflushed_entries") == 4)
    assert running.word("durable_index") == running.word("fsyncs") == 0
    reader.caller.say(op="flush")
    assert sum(answer[1] != layout.OK for answer in client.wait_answers(4)) == 0
    wait_until("they are durable", lambda: running.word("durable_index") == 4)
    assert running.word("fsyncs") == 1


def test_disk_first_makes_room_whatever_the_policy_says(run: Run, log_dir: str) -> None:
    """And whoever asked for the room is answered, too."""
    running = run(flush_policy=NEVER, max_buffered_entries=2)
    client = running.member()
    for _ in range(5):
        client.submit(b"x")
    running.start()
    wait_until("four are visible", lambda: running.word("last_index") == 4)
    client.caller.say(op="flush")
    assert client.wait_answers(5)[-1] == ok(5, 5)
    running.end()
    assert payloads_of(log_dir) == [b"x"] * 5


def test_mem_first_keeps_the_lane_waiting_until_there_is_room(run: Run, log_dir: str) -> None:
    """What is not durable is never overwritten: a full buffer is backpressure."""
    running = run(strategy="mem_first", flush_policy=NEVER, max_buffered_entries=2)
    client = running.member()
    begun, go_on = held_syncs(running)
    for _ in range(3):
        client.submit(b"x")
    running.start()
    assert begun.wait(PATIENCE_S)
    assert client.wait_answers(2) == [ok(2, 1)]
    wait_until("the writer sleeps", lambda: running.word("writer_sleeping"))
    assert client.answers() == [] and running.word("last_index") == 2
    go_on.set()
    assert client.wait_answers(3) == [ok(3, 3)]
    running.end()
    assert payloads_of(log_dir) == [b"x"] * 3


@BOTH
def test_an_idle_writer_vouches_once_for_what_is_durable(run: Run, log_dir: str, strategy: str) -> None:
    running = run(strategy=strategy, idle_mark_ms=1.0).start()
    client = running.member()
    for number in (1, 2):
        assert client.append(b"x") == ok(number, number)
        wait_until("a mark", lambda: running.word("marks") == number)  # noqa: B023
    running.end()
    records = [record for record, _ in records_of(log_dir) if record.kind in (fmt.KIND_ENTRIES, fmt.KIND_MARK)]
    assert [record.kind for record in records] == [fmt.KIND_ENTRIES, fmt.KIND_MARK] * 2
    for mark in records[1::2]:
        assert mark.durable == mark.position, "everything before it was durable"


# ---------------------------------------------------------------- the disk fails
FAILED = (layout.SYNC_FAILED, 0, 0, 0, errno.EIO)


def test_a_failed_sync_is_answered_latched_and_never_tried_again(run: Run, log_dir: str) -> None:
    running = run()
    client = running.member()
    running.start()
    assert client.append(b"kept") == ok(1, 1)
    running.files.fail("sync", errno.EIO, path=".seg")
    client.submit(b"lost")
    client.submit(b"lost")
    assert {answer[1:] for answer in client.wait_answers(3)} == {FAILED}
    assert running.word("state") == layout.STATE_FAILED
    assert running.word("last_index") == running.word("durable_index") == 1
    steps = len(running.files.operations(".seg"))
    assert client.append(b"later") == (4, *FAILED)
    client.caller.say(op="flush")
    assert client.append(b"later") == (5, *FAILED)
    running.writer.stop()
    running.joined()
    assert len(running.files.operations(".seg")) == steps
    assert running.word("state") == layout.STATE_STOPPED, "on purpose: its clients do not start another on that disk"
    running.end()
    state = manifest.load(Files(), log_dir)
    assert state.failed and not state.clean
    assert reopen(log_dir)[0] == {1: (1, b"kept")}


def test_a_failed_background_sync_takes_back_nothing(run: Run, log_dir: str) -> None:
    """MemFirst: what was acknowledged stays readable, and what follows is told."""
    running = run(strategy="mem_first").start()
    client = running.member()
    running.files.fail("sync", errno.EIO, path=".seg")
    assert client.append(b"acknowledged") == ok(1, 1)
    while running.word("state") != layout.STATE_FAILED:
        client.sleep(layout.WANTS_PROGRESS, lambda: running.word("state") == layout.STATE_FAILED)
    assert client.append(b"refused") == (2, *FAILED)
    assert running.word("last_index") == 1 and running.word("durable_index") == 0
    running.end()
    assert manifest.load(Files(), log_dir).failed


@BOTH
def test_a_sync_that_fails_at_the_end_is_answered(run: Run, log_dir: str, strategy: str) -> None:
    running = run(strategy=strategy, flush_policy=NEVER)
    client = running.member()
    client.submit(b"x")
    running.files.fail("sync", errno.EIO, path=".seg")
    running.writer.stop()
    running.joined()
    (answer,) = client.answers()
    assert answer == (ok(1, 1) if strategy == "mem_first" else (1, *FAILED))
    assert running.word("state") == layout.STATE_STOPPED and running.journal.failure is not None
    assert manifest.load(Files(), log_dir).failed, "the next start knows"


# ---------------------------------------------------------------- the end
@BOTH
def test_an_orderly_end_drains_answers_and_seals(run: Run, log_dir: str, strategy: str) -> None:
    """Also more than one round takes out of a lane."""
    running = run(strategy=strategy, flush_policy=NEVER)
    clients, sent = [running.member(lane_bytes=1024 * KIB) for _ in range(2)], 0
    for client in clients:
        while client.lane.tail < 600 * KIB:
            client.submit(b"%06d" % sent + bytes(5000))
            sent += 1
    running.writer.stop()
    running.joined()
    for client in clients:
        answers = client.answers()
        assert {answer[1] for answer in answers} == {layout.OK} and answers[-1][0] == client._sequence
        assert client.caller.hung_up()
    assert running.word("state") == layout.STATE_STOPPED
    assert running.word("durable_index") == running.word("last_index") == sent
    assert not os.path.lexists(os.path.join(log_dir, fmt.SOCKET_NAME))
    state = manifest.load(Files(), log_dir)
    assert state.clean and not state.failed and all(info.sealed for info in state.segments)
    assert sorted(payload[:6] for payload in payloads_of(log_dir)) == [b"%06d" % number for number in range(sent)]


def test_a_member_may_ask_for_the_end(run: Run, log_dir: str) -> None:
    running = run().start()
    client, reader = running.member(), running.member(role=protocol.READER)
    client.append(b"x")
    reader.caller.say(op="stop")
    running.joined()
    assert running.word("state") == layout.STATE_STOPPED and client.caller.hung_up()
    assert payloads_of(log_dir) == [b"x"]


def test_a_signal_handler_may_ask_for_the_end(run: Run) -> None:
    """It is called with a number and a frame, while the loop sleeps or when it has ended."""
    running = run().start()
    wait_until("it sleeps", lambda: running.word("writer_sleeping"))
    running.writer.stop(15, None)
    running.joined()
    assert running.word("state") == layout.STATE_STOPPED
    running.writer.stop(15, None)  # and again, while the process is on its way out


def test_a_message_that_nobody_knows_costs_its_sender(run: Run) -> None:
    running = run().start()
    odd, client = running.member(), running.member()
    odd.caller.say(op="dance")
    wait_until("it is dropped", lambda: running.word("dropped_peers") == 1)
    assert odd.caller.hung_up() and running.word("clients") == 1
    assert client.append(b"x") == ok(1, 1)


def test_a_lingering_writer_leaves_when_it_is_alone(run: Run, log_dir: str) -> None:
    """And says so: unlike after a stop, any handle may start the next one."""
    running = run(linger=True, linger_s=0.0)
    client = running.member()
    running.start()
    for number in range(1, 20):
        assert client.append(b"x") == ok(number, number), "not while somebody is here"
    client.leave()
    running.joined()
    assert running.word("state") == layout.STATE_LEFT
    assert manifest.load(Files(), log_dir).clean


def test_the_linger_time_counts_from_the_last_change(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    running = run(linger=True, linger_s=1000.0).start()
    client = running.member()
    client.append(b"x")
    client.leave()
    wait_until("it has noticed", lambda: running.word("clients") == 0)
    assert running.word("state") == layout.STATE_RUNNING
    real = wakeup.now
    monkeypatch.setattr(wakeup, "now", lambda: real() + 2000.0)
    running.joined()
    assert running.word("state") == layout.STATE_LEFT


def test_a_served_log_stays_without_clients(run: Run) -> None:
    running = run(linger=False, linger_s=0.0).start()
    for number in (1, 2, 3):
        client = running.member()
        assert client.append(b"x") == ok(1, number)
        client.leave()
        wait_until("it has noticed", lambda: running.word("clients") == 0)
