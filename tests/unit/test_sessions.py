"""The writer's side of its connections, in one process: greetings, refusals, bells, ends; nobody notices a bad peer."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import errors, layout, protocol, sessions, shm, wakeup
from raftlog_mp import format as fmt
from raftlog_mp.config import GIB, KIB
from raftlog_mp.lane import LaneProducer, Seat
from raftlog_mp.producers import APPENDED
from raftlog_mp.sessions import Peer

from .callers import HELLO, WELCOME, Caller, Served, close
from .journals import small_config


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(str(tmp_path))
    yield served
    served.sessions.close()
    served.control.close()


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Let time pass."""
    start = wakeup.now()
    monkeypatch.setattr(wakeup, "now", lambda: start + seconds)


# ---------------------------------------------------------------- greeting
def test_a_client_is_welcomed_with_a_lane(served: Served) -> None:
    caller = Caller(served.directory)
    caller.say(**HELLO | {"first_unresolved": 41})
    served.pump()
    (welcome,), (fd,), _ = caller.hear()
    assert welcome == WELCOME | {"op": "welcome"}
    assert fcntl.fcntl(fd, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    with pytest.raises(PermissionError):
        os.ftruncate(fd, 0)  # sealed: the client cannot make the writer fault
    lane = LaneProducer(shm.map_memfd(fd))
    assert lane.lane_bytes == small_config().lane_bytes
    (peer,) = served.sessions.clients
    assert (peer.pid, peer.uid, peer.producer, peer.next_sequence) == (os.getpid(), os.geteuid(), 4711, 41)
    assert peer.lane is not None and peer.lane.copy(0, lane.put(b"submission")) == b"submission"
    assert served.counts() == (1, 0, 0)
    lane.close()
    close(caller)


@pytest.mark.parametrize(
    ("asked", "given"),
    [(0, 64 * KIB), (-5, 64 * KIB), (64 * KIB, 64 * KIB), (200 * KIB, 200 * KIB), (GIB, GIB), (1 << 60, GIB)],
)
def test_a_lane_is_as_large_as_asked_for_within_bounds(served: Served, asked: int, given: int) -> None:
    caller, peer, fd = served.call(lane_bytes=asked)
    assert os.fstat(fd).st_size == layout.lane_file_bytes(given)
    assert peer.lane is not None and peer.lane.lane_bytes == given
    os.close(fd)
    close(caller)


def test_a_reader_is_welcomed_with_a_seat_only(served: Served) -> None:
    caller, peer, fd = served.call(role=protocol.READER)
    assert os.fstat(fd).st_size == layout.SEAT_BYTES
    assert peer.seat is not None and peer.lane is None
    assert served.sessions.clients == [] and served.sessions.peers == [peer]
    assert served.counts() == (0, 1, 0)
    os.close(fd)
    close(caller)


def test_a_hello_may_arrive_in_pieces_and_among_bells(served: Served) -> None:
    caller = Caller(served.directory)
    for byte in protocol.BELL + protocol.pack_message(**HELLO) + protocol.BELL:
        caller.sock.send(bytes([byte]))
        served.pump()
    (welcome,), (fd,), _ = caller.hear()
    assert welcome["op"] == "welcome" and len(served.sessions.clients) == 1
    os.close(fd)
    close(caller)


def test_a_producer_that_comes_back_is_told_what_it_may_have_sent(served: Served) -> None:
    """Up to ``resumed_until`` the table decides; answers that it has read are forgotten."""
    for sequence in range(1, 6):
        served.producers.record(4711, sequence, (10 + sequence, 1, 1))
    caller, peer, fd = served.call(first_unresolved=3, highest_sent=5)
    assert (peer.next_sequence, peer.resumed_until) == (3, 5)
    assert served.producers.look_up(4711, 4) == (APPENDED, (14, 1, 1))
    assert served.producers.look_up(4711, 2)[0] != APPENDED
    os.close(fd)
    close(caller)


BAD: dict[str, bytes] = {
    "garbage": b"\x03garbage",
    "a huge message": b"\x02\xff\xff\xff\xff",
    "no msgpack": b"\x02\x02\x00\x00\x00\xc1\xc1",
    "before hello": protocol.pack_message(op="flush"),
    "bye before hello": protocol.pack_message(op="bye"),
    "two hellos": protocol.pack_message(**HELLO) + protocol.pack_message(**HELLO),
} | {
    f"{name} of {value!r}": protocol.pack_message(**HELLO | {name: value})
    for name, value in [
        ("role", None), ("role", "writer"), ("role", ["client"]), ("producer", 0), ("producer", -1),
        ("producer", 1 << 63), ("producer", "x"), ("producer", None), ("first_unresolved", 0),
        ("first_unresolved", 1 << 62), ("first_unresolved", []), ("highest_sent", 1 << 62), ("highest_sent", "x"),
        ("lane_bytes", "many"), ("lane_bytes", float("inf")), ("lane_bytes", float("nan")),
    ]
} | {
    f"no {name}": protocol.pack_message(**{key: value for key, value in HELLO.items() if key != name})
    for name in ("op", "role", "producer", "first_unresolved", "highest_sent")
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_peer_that_talks_nonsense_is_dropped_alone(
    served: Served, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    good, honest, fd = served.call(producer=5)
    bad = Caller(served.directory)
    bad.sock.sendall(BAD[name])
    served.pump()
    _, fds, ended = bad.hear()
    assert ended
    assert served.sessions.peers == served.sessions.clients == [honest]
    assert served.counts() == (1, 0, 1)
    assert f"pid {os.getpid()}" in caplog.text, "the log says who it was"
    good.say(op="flush")
    served.pump()
    assert served.heard == [(honest, {"op": "flush"})]
    for number in (fd, *fds):
        os.close(number)
    close(good, bad)


def test_another_protocol_is_refused_with_words(served: Served) -> None:
    """And what stands behind the refused hello is not heard."""
    caller = Caller(served.directory)
    caller.sock.sendall(protocol.pack_message(**HELLO | {"version": 99}) + protocol.pack_message(**HELLO))
    served.pump()
    (refused,), fds, ended = caller.hear()
    assert refused["op"] == "refused" and not fds and ended
    error = errors.from_wire(refused)
    assert isinstance(error, errors.VersionMismatch)
    assert "99" in str(error) and str(protocol.PROTOCOL_VERSION) in str(error)
    assert served.sessions.peers == [] and served.counts() == (0, 0, 0), "refused, not misbehaved"
    close(caller)


def test_another_user_is_refused_by_the_kernels_word(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = os.geteuid() + 1
    monkeypatch.setattr(wakeup, "peer_credentials", lambda sock: (77, stranger))
    caller = Caller(served.directory)
    caller.say(**HELLO)
    served.pump()
    (refused,), fds, ended = caller.hear()
    error = errors.from_wire(refused)
    assert isinstance(error, errors.AccessDenied) and ended and not fds
    assert str(stranger) in str(error) and str(os.geteuid()) in str(error)
    assert served.sessions.peers == [] and len(served.producers) == 0, "its hello was not heard"
    close(caller)


def test_who_says_nothing_is_dropped_after_a_while(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    silent, (greeted, peer, fd) = Caller(served.directory), served.call()
    served.pump()
    assert not silent.hung_up(), "it is given time"
    later(monkeypatch, sessions.GREETING_SECONDS + 1)
    served.pump()
    assert silent.hung_up() and not greeted.hung_up()
    assert served.sessions.peers == [peer] and served.counts() == (1, 0, 1)
    os.close(fd)
    close(silent, greeted)


def test_no_memory_for_a_lane_costs_only_the_newcomer(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    good, peer, fd = served.call(producer=5)

    def fails(name: str, length: int) -> None:
        raise OSError(errno.ENOMEM, "injected")

    monkeypatch.setattr(shm, "create_memfd", fails)
    late = Caller(served.directory)
    late.say(**HELLO)
    served.pump()
    assert late.hear()[2] and served.sessions.peers == [peer] and served.counts()[:2] == (1, 0)
    monkeypatch.undo()
    later(monkeypatch, 60.0)  # newcomers may have been left waiting for better times
    again, _, other = served.call()
    os.close(fd)
    os.close(other)
    close(good, late, again)


# ---------------------------------------------------------------- messages
def test_messages_go_to_the_writer_in_order(served: Served) -> None:
    caller, peer, fd = served.call(role=protocol.READER)
    caller.sock.sendall(b"".join(protocol.pack_message(op="flush", n=n) + protocol.BELL for n in range(3)))
    served.pump()
    assert served.heard == [(peer, {"op": "flush", "n": n}) for n in range(3)]
    os.close(fd)
    close(caller)


def test_what_stands_behind_the_end_is_not_heard(served: Served) -> None:
    caller, peer, fd = served.call()

    def hang_up(peer: Peer, message: dict[str, Any]) -> None:
        served.heard.append((peer, message))
        served.sessions.drop(peer)

    served.sessions._on_message = hang_up
    caller.sock.sendall(protocol.pack_message(op="one") + protocol.pack_message(op="two"))
    served.pump()
    assert served.heard == [(peer, {"op": "one"})]
    os.close(fd)
    close(caller)


# ---------------------------------------------------------------- bells
@pytest.fixture
def pair() -> Iterator[tuple[Peer, Seat, socket.socket]]:
    """A peer as it is after the greeting, its seat as it sees it, and its end of the socket."""
    ours, theirs = socket.socketpair()
    fd, mapping = shm.create_memfd("raftlog-test", layout.SEAT_BYTES)
    peer, seat = Peer(ours, 1, 2), Seat(shm.map_memfd(fd))
    peer.seat = Seat(mapping)
    theirs.setblocking(False)
    yield peer, seat, theirs
    for what in (peer.seat, seat, ours, theirs):
        what.close()


Pair = tuple[Peer, Seat, socket.socket]


def rung(sock: socket.socket) -> int:
    return len(wakeup.receive_now(sock) or b"")


def test_a_bell_is_rung_once_a_sleep_and_only_for_what_is_waited_for(pair: Pair) -> None:
    peer, seat, sock = pair
    peer.ring(layout.WANTS_ANSWERS | layout.WANTS_PROGRESS)
    assert rung(sock) == 0, "it is awake"
    for sleep in (1, 2):
        seat.wants.store(sleep << 2 | layout.WANTS_ANSWERS, shm.SEQ_CST)
        peer.ring(layout.WANTS_PROGRESS)
        assert rung(sock) == 0
        for _ in range(3):
            peer.ring(layout.WANTS_ANSWERS)
        assert rung(sock) == 1


def test_who_adds_a_wish_while_asleep_is_rung_again(pair: Pair) -> None:
    """The flag changed: somebody waits for more than what the last bell told."""
    peer, seat, sock = pair
    seat.wants.store(1 << 2 | layout.WANTS_ANSWERS, shm.SEQ_CST)
    peer.ring(layout.WANTS_ANSWERS)
    seat.wants.store(1 << 2 | layout.WANTS_ANSWERS | layout.WANTS_PROGRESS, shm.SEQ_CST)
    peer.ring(layout.WANTS_PROGRESS)
    assert rung(sock) == 2


def test_a_bell_never_waits_and_never_fails(pair: Pair) -> None:
    """A peer that does not read, then one that is gone."""
    peer, seat, sock = pair
    peer.sock.setblocking(False)
    try:
        while True:
            peer.sock.send(bytes(1 << 16))
    except BlockingIOError:
        pass
    for sleep in range(1, 100):
        seat.wants.store(sleep << 2 | layout.WANTS_ANSWERS, shm.SEQ_CST)
        peer.ring(layout.WANTS_ANSWERS)
    sock.close()
    seat.wants.store(100 << 2 | layout.WANTS_ANSWERS, shm.SEQ_CST)
    peer.ring(layout.WANTS_ANSWERS)
    assert peer.rung == seat.wants.load(shm.SEQ_CST), "it was tried"


def test_progress_is_rung_to_all_who_wait_for_it(served: Served) -> None:
    stranger, wishes, seats = Caller(served.directory), [1, 2, 3, 0], []
    callers = []
    for number, wish in enumerate(wishes):
        caller, _, fd = served.call(producer=number + 1, role=(protocol.CLIENT, protocol.READER)[number % 2])
        seats.append(Seat(shm.map_memfd(fd)))
        seats[-1].wants.store(4 | wish if wish else 0, shm.SEQ_CST)
        callers.append(caller)
    served.sessions.ring_all()
    assert [caller.bells() for caller in callers] == [int(bool(wish & layout.WANTS_PROGRESS)) for wish in wishes]
    assert stranger.bells() == 0
    for seat in seats:
        seat.close()
    close(stranger, *callers)


# ---------------------------------------------------------------- ends
@pytest.mark.parametrize("bye", [True, False])
def test_a_dead_client_may_come_back_and_one_that_said_bye_will_not(served: Served, bye: bool) -> None:
    caller, peer, fd = served.call()
    served.producers.record(4711, 1, (1, 1, 1))
    if bye:
        caller.say(op="bye")
        served.pump()
        assert served.sessions.peers == [peer], "bye alone ends nothing"
    os.close(fd)
    close(caller)
    served.pump()
    assert (served.producers.look_up(4711, 1)[0] == APPENDED) is not bye
    assert len(served.producers) == (0 if bye else 1)


def test_the_end_of_a_connection_frees_everything_once(served: Served) -> None:
    caller, peer, fd = served.call()
    lane = peer.lane
    assert lane is not None
    os.close(fd)
    close(caller)
    served.pump()
    assert served.sessions.peers == served.sessions.clients == []
    assert (peer.lane, peer.seat) == (None, None) and served.counts() == (0, 0, 0)
    with pytest.raises(ValueError):
        lane.tail.load(shm.SEQ_CST)  # unmapped
    newcomer, other, fd = served.call()
    served.sessions.drop(peer)  # a second time: nothing happens to anybody
    peer.ring(layout.WANTS_ANSWERS | layout.WANTS_PROGRESS)
    assert served.sessions.clients == [other] and served.counts() == (1, 0, 0)
    os.close(fd)
    close(newcomer)


def test_the_time_of_the_last_change_is_known(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """For the writer that leaves when it has been alone for a while."""
    clock = [wakeup.now()]
    monkeypatch.setattr(wakeup, "now", lambda: clock[0])
    caller, _, fd = served.call()
    assert served.sessions.last_change == clock[0]
    os.close(fd)
    clock[0] += 5.0
    close(caller)
    served.pump()
    assert served.sessions.last_change == clock[0]


def come_and_go(served: Served) -> None:
    """One connection of every kind, from its beginning to its end."""
    callers = []
    for role in (protocol.CLIENT, protocol.READER):
        caller, _, fd = served.call(role=role)
        os.close(fd)
        callers.append(caller)
    for data in (b"", b"\x03", protocol.pack_message(**HELLO)[:9], protocol.pack_message(**HELLO | {"version": 9}),
                 protocol.pack_message(**HELLO) + protocol.pack_message(op="bye")):  # fmt: skip
        caller = Caller(served.directory)
        caller.sock.sendall(data)
        served.pump()
        for fd in caller.hear()[1]:
            os.close(fd)
        callers.append(caller)
    close(*callers)
    served.pump()
    assert served.sessions.peers == [] and served.sessions.clients == []


def test_no_descriptor_is_left_however_a_connection_ends(served: Served) -> None:
    come_and_go(served)
    gc.collect()
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(20):
        come_and_go(served)
    gc.collect()
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_close_hangs_up_on_everybody(served: Served) -> None:
    caller, _, fd = served.call()
    silent = Caller(served.directory)
    served.pump()
    unheard = Caller(served.directory)  # still in the queue of the listener
    served.sessions.close()
    assert caller.hung_up() and silent.hung_up() and unheard.hung_up()
    assert not os.path.lexists(os.path.join(served.directory, fmt.SOCKET_NAME))
    with pytest.raises(FileNotFoundError):
        wakeup.connect(served.directory, 1.0)
    os.close(fd)
    close(caller, silent, unheard)
