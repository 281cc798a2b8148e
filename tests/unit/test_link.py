"""The link: hello and welcome, deadlines, who may start a writer when, losing it, finding the next, forks."""

from __future__ import annotations

import os
import queue
import socket
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import msgpack
import pytest

from raftlog_mp import errors, layout, link, processes, shm, wakeup
from raftlog_mp import format as fmt
from raftlog_mp.config import LogConfig
from raftlog_mp.files import Files
from raftlog_mp.lane import LaneProducer, Seat
from raftlog_mp.link import Link
from raftlog_mp.protocol import BELL, CLIENT, PROTOCOL_VERSION, READER, Parser, pack_message
from raftlog_mp.view import View
from raftlog_mp.wakeup import FOREVER

from .journals import kill, open_log, small_config

PATIENCE_S = 30.0
FILES = Files()
Reply = Callable[["Greeter", socket.socket], None]
Starts = dict[str, Any]


class Greeter:
    """The writer's end of the socket, by hand: every connection is greeted as the next reply says."""

    def __init__(self, log_dir: str) -> None:
        self.directory, self.journal = log_dir, open_log(log_dir)[0]
        self.hellos: queue.Queue[dict[str, Any]] = queue.Queue()
        self.served: queue.Queue[socket.socket] = queue.Queue()
        self._all: list[socket.socket] = []
        self._thread = threading.Thread()

    def serve(self, *replies: Reply) -> None:
        self._all.append(wakeup.listen(self.directory))
        self._all[0].settimeout(PATIENCE_S)
        self._thread = threading.Thread(target=self._run, args=(replies,), daemon=True)
        self._thread.start()

    def _run(self, replies: tuple[Reply, ...]) -> None:
        for reply in replies:
            try:
                sock, _ = self._all[0].accept()
            except OSError:
                return  # the test is over
            sock.settimeout(PATIENCE_S)
            self._all.append(sock)
            self.hellos.put(Parser().feed(sock.recv(1 << 16))[0])
            reply(self, sock)
            self.served.put(sock)

    def set(self, **words: int) -> None:
        """What the writer would store in its control block."""
        for name, value in words.items():
            getattr(self.journal.control, name).store(value, shm.SEQ_CST)

    def peer(self) -> socket.socket:
        return self.served.get(timeout=PATIENCE_S)

    def end(self) -> None:
        """Also in mid-test: then no writer is there any more."""
        if self._all:
            self._all[0].shutdown(socket.SHUT_RDWR)
            self._thread.join(PATIENCE_S)
            assert not self._thread.is_alive()
        while self._all:
            self._all.pop().close()


def welcome(greeter: Greeter, sock: socket.socket) -> None:
    journal = greeter.journal
    fd, mapping = shm.create_memfd("test-lane", layout.lane_file_bytes(1 << 16))
    mapping.cell(layout.LANE_WORDS["lane_bytes"]).store(1 << 16, shm.RELAXED)
    mapping.cell(layout.LANE_WORDS["magic"]).store(layout.LANE_MAGIC, shm.RELEASE)
    wakeup.send_with_fds(sock, pack_message(
        op="welcome", folder=journal.folder, generation=journal.generation, log_id=journal.log_id,
        uuid=journal.manifest.uuid, config=journal.config.as_dict(),
    ), [fd])  # fmt: skip
    shm.close_fd(fd)
    mapping.close()


def refuse(error: errors.RaftLogError) -> Reply:
    return lambda _, sock: sock.sendall(pack_message(op="refused", **errors.to_wire(error)))


def connected(greeter: Greeter, *replies: Reply, **options: Any) -> tuple[Link, socket.socket]:
    """A link, and the writer's end of its connection."""
    greeter.serve(*(replies or [welcome]))
    mine = Link(greeter.directory, READER, files=FILES, **options)
    mine.ensure(FOREVER)
    return mine, greeter.peer()


@pytest.fixture
def greeter(log_dir: str) -> Iterator[Greeter]:
    yield (made := Greeter(log_dir))
    made.end()
    kill(made.journal)


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Starts:
    """No writer process is started; who asked for one, and what it reported, stands here."""
    asked: dict[str, Any] = {"calls": [], "report": {}, "then": lambda: None}

    def start_writer(path: str, config: Any, *, linger: bool) -> tuple[Any, bytes]:
        asked["calls"].append((path, config, linger))
        asked["then"]()
        return types.SimpleNamespace(wait=id), msgpack.packb(asked["report"]) if asked["report"] else b""

    monkeypatch.setattr(processes, "start_writer", start_writer)
    return asked


# ---------------------------------------------------------------- hello and welcome
def test_hello_says_who_it_is_and_what_the_client_adds(greeter: Greeter, log_dir: str) -> None:
    greeter.serve(welcome)
    mine = Link(log_dir, CLIENT, files=FILES)
    lanes: list[LaneProducer] = []
    mine.hello_fields = lambda: {"producer": 7, "first_unresolved": 3}
    mine.on_connect = lanes.append
    view = mine.ensure(FOREVER)
    hello = {"op": "hello", "version": PROTOCOL_VERSION, "role": CLIENT, "producer": 7, "first_unresolved": 3}
    assert greeter.hellos.get(timeout=PATIENCE_S) == hello
    assert mine.connected and mine.view is view and view.uuid == greeter.journal.manifest.uuid
    assert len(lanes) == 1 and mine.seat is lanes[0] and lanes[0].lane_bytes == 1 << 16
    assert mine.ensure(0.0) is view, "once connected, nothing is awaited"
    mine.close()


def test_the_writers_own_reason_is_raised_at_once(greeter: Greeter, log_dir: str) -> None:
    greeter.serve(refuse(errors.AccessDenied("not yours")), refuse(errors.VersionMismatch("too new")))
    mine = Link(log_dir, CLIENT, files=FILES)
    for kind, words in ((errors.AccessDenied, "not yours"), (errors.VersionMismatch, "too new")):
        with pytest.raises(kind, match=words):
            mine.ensure(FOREVER)
        assert not mine.connected and mine.view is None
    mine.close()


@pytest.mark.parametrize("reply", [lambda _, sock: sock.close(), lambda _, sock: sock.sendall(b"\xff")])
def test_a_greeting_that_fails_is_tried_again(greeter: Greeter, log_dir: str, reply: Reply) -> None:
    greeter.serve(reply, reply, welcome)
    mine = Link(log_dir, READER, files=FILES)
    assert not mine.try_connect() and mine.view is None
    assert mine.ensure(FOREVER).generation == greeter.journal.generation
    assert mine.try_connect() and greeter.hellos.qsize() == 3, "once connected, it makes no second connection"
    assert type(mine.seat) is Seat and greeter.hellos.get()["role"] == READER
    mine.close()


# ---------------------------------------------------------------- deadlines
def test_no_writer_and_none_may_be_started(log_dir: str, starts: Starts) -> None:
    mine = Link(log_dir, CLIENT, files=FILES)
    for deadline in (0.0, wakeup.now() + 0.02):
        with pytest.raises(errors.WriterUnavailable, match="no writer runs") as none:
            mine.ensure(deadline)
        assert log_dir in str(none.value) and "nothing was appended" in str(none.value)
    assert starts["calls"] == []


def test_a_writer_that_appears_while_it_waits(greeter: Greeter, log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 20:
            greeter.serve(welcome)

    monkeypatch.setattr(wakeup, "pause", pause)
    mine = Link(log_dir, READER, files=FILES)
    assert mine.ensure(FOREVER) is mine.view
    assert pauses == sorted(pauses) and pauses[0] == link.RETRY_SECONDS and pauses[-1] == link.RETRY_SECONDS_MAX
    mine.close()


def test_a_writer_that_never_greets_does_not_hold_it_for_ever(greeter: Greeter, log_dir: str) -> None:
    greeter.serve(lambda *_: None)
    mine = Link(log_dir, READER, files=FILES)
    with pytest.raises(errors.WriterUnavailable):
        mine.ensure(wakeup.now() + 0.1)
    assert not mine.connected


def test_a_second_thread_waits_for_the_first_no_longer_than_its_own_deadline(greeter: Greeter, log_dir: str) -> None:
    release, greeting = threading.Event(), threading.Event()

    def later(greeter: Greeter, sock: socket.socket) -> None:
        greeting.set()
        release.wait(PATIENCE_S)
        welcome(greeter, sock)

    greeter.serve(later)
    mine, views = Link(log_dir, READER, files=FILES), list[View]()
    first = threading.Thread(target=lambda: views.append(mine.ensure(FOREVER)))
    first.start()
    assert greeting.wait(PATIENCE_S)
    with pytest.raises(errors.WriterUnavailable, match="another thread"):
        mine.ensure(0.0)
    assert not mine.try_connect(), "it does not wait at all"
    release.set()
    assert mine.ensure(FOREVER) is mine.view
    first.join(PATIENCE_S)
    assert views == [mine.view]
    mine.close()


# ---------------------------------------------------------------- starting a writer
@pytest.mark.parametrize("state", layout.STATE_NAMES)
def test_what_the_state_of_the_last_writer_leads_to(greeter: Greeter, log_dir: str, starts: Starts, state: int) -> None:
    """Whatever crashed, or left for want of clients, is started again; what was stopped on purpose is not."""
    mine, sock = connected(greeter, autostart=True)
    greeter.set(state=state)
    assert mine.stopped() is not (restarts := state != layout.STATE_STOPPED)
    sock.close()
    mine.look()
    greeter.end()
    with pytest.raises(errors.WriterUnavailable) as none:
        mine.ensure(0.0)
    assert [call[0] for call in starts["calls"]] == [log_dir] * restarts
    assert ("on purpose" in str(none.value)) is not restarts
    mine.close()


def test_an_autostarted_writer_gets_the_settings_and_lingers(greeter: Greeter, log_dir: str, starts: Starts) -> None:
    config = small_config()
    starts["then"], starts["report"] = lambda: greeter.serve(welcome), {"pid": 1}
    mine = Link(log_dir, READER, files=FILES, config=config, autostart=True)
    assert mine.ensure(0.0) is mine.view, "a start may be long: its end is awaited, then one attempt is made"
    assert starts["calls"] == [(log_dir, config.as_dict(), True)]
    mine.close()


def test_the_reason_why_a_started_writer_cannot_serve(log_dir: str, starts: Starts) -> None:
    mine = Link(log_dir, CLIENT, files=FILES, autostart=True, create=True)
    starts["report"] = errors.to_wire(errors.DiskFull("no space for it"))
    with pytest.raises(errors.DiskFull, match="no space for it"):
        mine.ensure(FOREVER)
    starts["report"] = errors.to_wire(errors.LogLocked("somebody was faster", pid=5))
    with pytest.raises(errors.WriterUnavailable, match="somebody was faster"):
        mine.ensure(0.0)  # not final: that one will serve soon
    starts["report"] = {}
    with pytest.raises(errors.WriterUnavailable, match=fmt.WRITER_LOG_NAME):
        mine.ensure(0.0)
    assert len(starts["calls"]) == 3


@pytest.mark.parametrize(
    ("name", "words"), [(fmt.START_NAME, "another process is starting"), (fmt.LOCK_NAME, "owns it but does not answer")]
)
def test_it_starts_none_beside_another(log_dir: str, starts: Starts, name: str, words: str) -> None:
    kill(open_log(log_dir)[0])
    held = FILES.open(os.path.join(log_dir, name), write=True, create=True)
    assert FILES.lock(held)
    mine = Link(log_dir, READER, files=FILES, autostart=True)
    with pytest.raises(errors.WriterUnavailable, match=words):
        mine.ensure(0.0)
    assert starts["calls"] == []
    FILES.close(held)


# ---------------------------------------------------------------- settings against a running writer
def test_another_strategy_than_the_running_writers(greeter: Greeter, log_dir: str) -> None:
    greeter.serve(welcome)
    mine = Link(log_dir, READER, files=FILES, config=small_config(strategy="mem_first"))
    with pytest.raises(errors.ConfigError, match="disk_first") as wrong:
        mine.ensure(FOREVER)
    assert (wrong.value.field, wrong.value.value) == ("strategy", "mem_first") and not mine.connected


def test_other_settings_are_said_once(greeter: Greeter, log_dir: str, caplog: pytest.LogCaptureFixture) -> None:
    greeter.serve(welcome, welcome)
    mine = Link(log_dir, READER, files=FILES, config=LogConfig(ring_bytes=2 << 20))
    view = mine.ensure(FOREVER)
    assert view.config == small_config(), "the writer's stay in force"
    mine.renew(view)
    assert mine.view is not view and len(caplog.records) == 1 and log_dir in caplog.text
    mine.close()


# ---------------------------------------------------------------- bells, messages, and the end of a connection
def test_the_writer_is_rung_only_while_it_sleeps(greeter: Greeter) -> None:
    mine, sock = connected(greeter)
    mine.ring_writer()
    greeter.set(writer_sleeping=1)
    mine.ring_writer()
    assert mine.send(op="flush")
    assert sock.recv(100) == BELL + pack_message(op="flush"), "one bell, from the second"
    mine.close()


@pytest.mark.parametrize("end", [lambda sock: sock.close(), lambda sock: sock.send(b"\xff")])
def test_a_lost_connection_leaves_the_view(greeter: Greeter, end: Callable[[socket.socket], Any]) -> None:
    mine, sock = connected(greeter)
    lost: list[bool] = []
    mine.on_lost = lambda: lost.append(mine.connected)
    mine.look()
    assert mine.connected and lost == []
    view = mine.view
    end(sock)
    mine.look()
    assert not mine.connected and lost == [False] and mine.seat is None
    assert mine.view is view is not None and view.control.last_index.load(shm.ACQUIRE) == 0
    assert not mine.send(op="flush")
    mine.ring_writer()


def test_wait_looks_first_and_gives_up_at_its_deadline(greeter: Greeter) -> None:
    mine, _ = connected(greeter)
    assert mine.wait(lambda: True, 0.0, layout.WANTS_PROGRESS)
    assert not mine.wait(lambda: False, wakeup.now() + 0.05, layout.WANTS_PROGRESS)
    answers = iter([False, True])
    assert mine.wait(lambda: next(answers), 0.0, layout.WANTS_PROGRESS), "a last look after the deadline"
    mine.close()


def test_wait_rides_over_the_end_of_the_writer(greeter: Greeter) -> None:
    mine, sock = connected(greeter, welcome, welcome)
    first = mine.view
    sock.close()
    assert mine.wait(lambda: mine.view is not first, FOREVER, layout.WANTS_PROGRESS)
    assert mine.connected and greeter.peer() is not sock
    mine.close()


def test_close_says_bye_and_ends_every_wait(greeter: Greeter) -> None:
    mine, sock = connected(greeter)
    asleep, told = threading.Event(), list[BaseException]()

    def ready() -> bool:
        asleep.set()
        return False

    def wait() -> None:
        with pytest.raises(errors.LogClosed) as closed:
            mine.wait(ready, FOREVER, layout.WANTS_PROGRESS)
        told.append(closed.value)

    waiting = threading.Thread(target=wait)
    waiting.start()
    assert asleep.wait(PATIENCE_S)
    mine.close()
    mine.close()
    waiting.join(PATIENCE_S)
    assert not waiting.is_alive() and len(told) == 1
    data = b""
    while chunk := sock.recv(100):
        data += chunk
    assert Parser().feed(data) == [{"op": "bye"}]
    assert mine.closed and not mine.connected and mine.view is None
    for use in (mine.try_connect, lambda: mine.ensure(FOREVER), lambda: mine.wait(bool, 0.0, 1), mine.check_open):
        with pytest.raises(errors.LogClosed, match="closed"):
            use()


def test_renew_and_forget_mind_whose_view_it_is(greeter: Greeter) -> None:
    mine, sock = connected(greeter, welcome, welcome)
    first, other = mine.view, object()
    assert first is not None
    mine.renew(other)  # type: ignore[arg-type]
    mine.forget_view(first)
    assert mine.view is first and mine.connected, "not superseded; still connected"
    mine.renew(first)
    second = mine.view
    assert second is not None and second is not first and mine.connected
    greeter.peer().close()
    mine.look()
    mine.forget_view(first)
    assert mine.view is second
    mine.forget_view(second)
    assert mine.view is None
    assert sock.recv(1) == b"", "the first connection was given up"


# ---------------------------------------------------------------- fork
def test_a_forked_child_connects_anew_and_the_parents_connection_goes_on(greeter: Greeter) -> None:
    mine, sock = connected(greeter, welcome, welcome)
    forked: list[int] = []
    mine.on_fork = lambda: forked.append(mine.era)
    child = os.fork()
    if child == 0:  # no assertion here: nothing of the test runner may run twice
        good = mine.era == 1 and forked == [1] and not mine.connected and mine.view is not None and mine.seat is None
        os._exit(0 if good and mine.ensure(wakeup.now() + PATIENCE_S) is mine.view else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert greeter.peer().recv(1) == b"", "the child's own connection ended with it"
    assert mine.era == 0 and forked == [] and mine.connected and mine.send(op="flush")
    assert sock.recv(100) == pack_message(op="flush")
    mine.close()
