"""Peers that break the rules: garbage on the socket, lanes full of lies, another user.  Everybody else goes on."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from support.processes import HERE, script, wait_until

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp import layout, protocol, shm, wakeup
from raftlog_mp.bodies import pack_body
from raftlog_mp.lane import LaneProducer

SMALL = rl.LogConfig(segment_bytes=1 << 17, ring_bytes=1 << 20, lane_bytes=1 << 16)
HELLO = {
    "op": "hello", "version": protocol.PROTOCOL_VERSION, "role": "client", "producer": 4711, "first_unresolved": 1,
    "highest_sent": 0,
}  # fmt: skip


@pytest.fixture
def served(log_dir: str, request: pytest.FixtureRequest) -> Iterator[rl.Log]:
    """A log with a writer and one honest client; both must be well at the end."""
    with rl.start_writer(log_dir, SMALL) as writer, rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
        assert log.append(b"before") == 1
        yield log
        last = log.append(b"after")
        entries = log.read(1)
        assert [entry.index for entry in entries] == list(range(1, last + 1))
        assert entries[0].payload == b"before" and entries[-1].payload == b"after"
        assert log.stats().writer_pid == writer.pid
        assert psutil.Process(writer.pid).status() != psutil.STATUS_ZOMBIE
    request.node.funcargs.clear()  # pytest would keep the closed handle, and its mappings, a moment longer


@contextlib.contextmanager
def connected(log: rl.Log) -> Iterator[socket.socket]:
    with contextlib.closing(wakeup.connect(log.path, 30.0)) as sock:
        yield sock


def message(**fields: object) -> bytes:
    return protocol.pack_message(**fields)


def hung_up(sock: socket.socket) -> bool:
    """Whether the writer closes the connection; what it says before is read away."""
    sock.settimeout(60.0)
    try:
        while sock.recv(1 << 16):
            pass
    except ConnectionResetError:
        pass
    return True


class HostileLane:
    """A greeted client that fills its lane by hand."""

    def __init__(self, sock: socket.socket, log: rl.Log) -> None:
        self.sock = sock
        sock.sendall(message(**HELLO, lane_bytes=0))
        _, fds = wakeup.receive_with_fds(sock)
        self.lane = LaneProducer(shm.map_memfd(fds[0]))
        self.tail = self.lane.mapping.cell(layout.LANE_WORDS["tail"])

    def put(self, body: bytes, **changes: int) -> None:
        """One submission, with some header fields replaced by lies."""
        fields = {
            "length": len(body), "kind": layout.SUBMIT_APPEND, "flags": 0, "count": 1, "crc": fmt.crc32c(body),
            "term": 0, "sequence": 1, "a": 0, "b": 0,
        }  # fmt: skip
        fields.update(changes)
        self.lane.put(layout.SUBMISSION.pack(*fields.values()) + body)
        self.sock.sendall(protocol.BELL)

    def answer(self) -> tuple[int, ...]:
        """The first completion."""
        wait_until("an answer", lambda: self.lane.done.load(shm.SEQ_CST) > 0)
        return self.lane.completion(0)

    def close(self) -> None:
        self.lane.close()


# ---------------------------------------------------------------- the socket
GARBAGE: dict[str, bytes] = {
    "random": random.Random(1).randbytes(5000).replace(b"\x01", b"\x03"),
    "huge length": b"\x02\xff\xff\xff\xff",
    "no msgpack": b"\x02" + struct.pack("<I", 4) + b"\xc1\xc1\xc1\xc1",
    "no map": b"\x02" + struct.pack("<I", 1) + b"\x07",
    "map without op": message(role="client"),
    "before hello": message(op="flush"),
    "no role": message(op="hello", version=protocol.PROTOCOL_VERSION),
    "odd role": message(op="hello", version=protocol.PROTOCOL_VERSION, role=["client"]),
    "no producer": message(op="hello", version=protocol.PROTOCOL_VERSION, role="client"),
    "producer of text": message(**{**HELLO, "producer": "x"}),
    "producer too large": message(**{**HELLO, "producer": 1 << 63}),
    "negative sequence": message(**{**HELLO, "first_unresolved": -1}),
    "sequence of text": message(**{**HELLO, "highest_sent": "x"}),
    "lane of text": message(**{**HELLO, "lane_bytes": "many"}),
    "infinite lane": message(**{**HELLO, "lane_bytes": float("inf")}),
    "hello twice": message(**HELLO) + message(**HELLO),
    "unknown message": message(**HELLO) + message(op="dance"),
    "another protocol": message(**{**HELLO, "version": 99}),
    "deep": b"\x02" + struct.pack("<I", 60_000) + b"\x91" * 60_000,
}


@pytest.mark.parametrize("name", GARBAGE)
def test_garbage_on_the_socket(served: rl.Log, name: str) -> None:
    with connected(served) as sock:
        sock.sendall(GARBAGE[name])
        assert hung_up(sock)
    assert served.append(b"meanwhile") == 2


def test_refused_hello_with_a_good_one_behind_it(served: rl.Log) -> None:
    """Two messages in one packet: the first ends the connection, so the second must not be heard any more."""
    for _ in range(20):
        with connected(served) as sock:
            sock.sendall(message(**{**HELLO, "version": 99}) + message(**HELLO))
            assert hung_up(sock)
    wait_until("only the honest client is counted", lambda: served.stats().clients == 1, patience_s=10.0)


def test_half_a_message_then_gone(served: rl.Log) -> None:
    for cut in (1, 3, 5, 20):
        with connected(served) as sock:
            sock.sendall(message(**HELLO)[:cut])
    assert served.append(b"meanwhile") == 2


def test_lane_bytes_above_every_bound(served: rl.Log) -> None:
    """A client may ask for a large lane; it gets a bounded one, and memory is used only as it writes."""
    with connected(served) as sock:
        sock.sendall(message(**HELLO, lane_bytes=1 << 60))
        _, fds = wakeup.receive_with_fds(sock)
        assert os.fstat(fds[0]).st_size <= (1 << 30) + layout.LANE_DATA_OFFSET
        with pytest.raises(PermissionError):
            os.ftruncate(fds[0], 0)  # sealed: a client cannot make the writer fault
        os.close(fds[0])


def test_flood_of_bells(served: rl.Log) -> None:
    """A peer that never stops ringing does not keep the writer from its work."""
    source = """
import socket, sys, raftlog_mp.wakeup as wakeup
sock = wakeup.connect(sys.argv[1], 30.0)
print("ringing", flush=True)
bells = b"\\x01" * (1 << 18)
while True:
    sock.sendall(bells)
"""
    with script(source, served.path) as one, script(source, served.path) as two:
        assert one.line() == two.line() == "ringing"
        assert [served.append(b"%d" % number) for number in range(20)] == list(range(2, 22))


def test_peer_that_never_reads(served: rl.Log) -> None:
    """Its socket buffer fills with bells and answers; the writer does not wait for it."""
    with contextlib.ExitStack() as stack:
        for _ in range(5):
            sock = stack.enter_context(connected(served))
            hostile = HostileLane(sock, served)
            stack.callback(hostile.close)
            hostile.lane.wants.store(7, shm.SEQ_CST)
            for sequence in range(1, 200):
                hostile.put(b"", sequence=sequence)
        assert served.append(b"meanwhile") >= 2


# ---------------------------------------------------------------- the lane
def bad_length(hostile: HostileLane) -> None:
    hostile.put(b"x" * 100, length=1 << 31)


def length_beyond_the_cursor(hostile: HostileLane) -> None:
    hostile.put(b"x" * 100, length=101)


def wrong_sequence(hostile: HostileLane) -> None:
    hostile.put(b"x", sequence=2)


def repeated_sequence(hostile: HostileLane) -> None:
    hostile.put(b"x")
    hostile.put(b"x")


def cursor_too_far(hostile: HostileLane) -> None:
    hostile.tail.store(1 << 40, shm.SEQ_CST)
    hostile.sock.sendall(protocol.BELL)


def cursor_backwards(hostile: HostileLane) -> None:
    hostile.put(b"x")
    wait_until("taken", lambda: hostile.lane.done.load(shm.SEQ_CST) > 0)
    hostile.tail.store(0, shm.SEQ_CST)
    hostile.sock.sendall(protocol.BELL)


def cursor_inside_a_header(hostile: HostileLane) -> None:
    hostile.tail.store(layout.SUBMISSION_BYTES // 2, shm.SEQ_CST)
    hostile.sock.sendall(protocol.BELL)


def noise(hostile: HostileLane) -> None:
    hostile.lane.mapping.data[layout.LANE_DATA_OFFSET :] = random.Random(3).randbytes(hostile.lane.lane_bytes)
    hostile.tail.store(hostile.lane.lane_bytes, shm.SEQ_CST)
    hostile.sock.sendall(protocol.BELL)


LIES: list[Callable[[HostileLane], None]] = [
    bad_length, length_beyond_the_cursor, wrong_sequence, repeated_sequence, cursor_too_far, cursor_backwards,
    cursor_inside_a_header, noise,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=lambda lie: lie.__name__)
def test_lane_that_cannot_be_followed(served: rl.Log, lie: Callable[[HostileLane], None]) -> None:
    with connected(served) as sock:
        hostile = HostileLane(sock, served)
        lie(hostile)
        assert hung_up(sock)
        hostile.close()
    assert served.append(b"meanwhile") >= 2
    assert served.stats().dropped_peers == 1


MALFORMED: dict[str, tuple[bytes, dict[str, int]]] = {
    "wrong checksum": (b"hello", {"crc": 1}),
    "no entries": (b"", {"count": 0}),
    "count without a batch": (b"hello", {"count": 2}),
    "count beyond the batch": (pack_body([b"a", b"b"]), {"count": 3}),
    "count of billions": (pack_body([b"a", b"b"]), {"count": 0xFFFFFFFF}),
    "unknown kind": (b"hello", {"kind": 9}),
    "term above every bound": (b"hello", {"flags": layout.FLAG_TERM_GIVEN, "term": (1 << 64) - 1}),
    "term of zero": (b"hello", {"flags": layout.FLAG_TERM_GIVEN, "term": 0}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_submission_that_says_what_is_not_so(served: rl.Log, name: str) -> None:
    body, changes = MALFORMED[name]
    with connected(served) as sock:
        hostile = HostileLane(sock, served)
        hostile.put(body, **changes)
        status = hostile.answer()[1]
        hostile.close()
    assert status != layout.OK
    assert served.append(b"meanwhile") == 2


def test_oversized_entry_past_the_client_checks(served: rl.Log) -> None:
    with connected(served) as sock:
        hostile = HostileLane(sock, served)
        hostile.put(b"x" * (served.config.entry_bytes_limit + 1))
        assert hostile.answer()[1] == layout.TOO_LARGE
        hostile.close()
    assert served.last_index == 1


def test_body_changed_after_it_was_submitted(served: rl.Log) -> None:
    """Whatever the lane says at any moment: an entry in the log has the checksum that was submitted with it."""
    chance = random.Random(5)
    with connected(served) as sock:
        hostile = HostileLane(sock, served)
        sent = [bytes([number]) * 200 for number in range(200)]
        with contextlib.suppress(BrokenPipeError):  # damage to a header: dropped, as it should be
            for sequence, body in enumerate(sent, 1):
                hostile.put(body, sequence=sequence)
                at = layout.LANE_DATA_OFFSET + chance.randrange(hostile.lane.lane_bytes // 2)
                hostile.lane.mapping.data[at : at + 8] = b"damage!!"
        served.append(b"meanwhile")
        for entry in served.read(2):
            assert entry.payload == b"meanwhile" or entry.payload in sent
        hostile.close()


# ---------------------------------------------------------------- many, and strangers
def test_connecting_and_leaving_leaks_nothing(served: rl.Log) -> None:
    writer = psutil.Process(served.stats().writer_pid)

    def come_and_go(times: int) -> None:
        for number in range(times):
            if number % 2:
                with rl.open_log(served.path, autostart=False) as log:
                    log.append(b"x")
            else:
                with rl.open_reader(served.path) as reader:
                    assert reader.get(1) is not None
        wait_until("all have left", lambda: served.stats().clients == 1 and served.stats().readers == 0)

    come_and_go(100)
    descriptors, mappings = writer.num_fds(), len(writer.memory_maps(grouped=False))
    resident = writer.memory_info().rss
    come_and_go(900)  # a thousand with those before
    assert writer.num_fds() <= descriptors
    assert len(writer.memory_maps(grouped=False)) <= mappings + 8  # arenas of the allocator come and go
    assert writer.memory_info().rss - resident < 4 << 20


def test_more_peers_than_descriptors(log_dir: str) -> None:
    """The writer runs out of descriptors: newcomers are turned away; it lives, rolls segments and serves the others."""
    source = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64)); "
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    with script(source, str(HERE / "bent_writer.py"), log_dir, '{"config": null}') as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=30.0) as log, contextlib.ExitStack() as stack:
            log.append(b"before")
            for _ in range(100):
                sock = stack.enter_context(connected(log))
                with contextlib.suppress(OSError):
                    sock.sendall(message(**HELLO))
            for number in range(20):
                log.append(b"x" * 100_000 + b"%d" % number)
            assert log.last_index == 21
            assert log.stats().state == "running"
            stack.close()
            with rl.open_log(log_dir, autostart=False, timeout=30.0) as other:
                assert other.append(b"after") == 22
        rl.stop_writer(log_dir)
        writer.wait()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_refused(served: rl.Log, tmp_path: Path) -> None:
    source = """
import os, sys
import raftlog_mp as rl
from raftlog_mp import wakeup
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for call in (lambda: rl.open_log(sys.argv[1]), lambda: rl.open_reader(sys.argv[1]),
             lambda: rl.start_writer(sys.argv[1]), lambda: rl.stop_writer(sys.argv[1])):
    try:
        call()
    except rl.AccessDenied as error:
        assert "65534" in str(error) or sys.argv[1] in str(error), error
    else:
        raise AssertionError("another user got in")
"""
    with opened_up(tmp_path, served.path), script(source, served.path) as child:
        child.finish()
    assert served.append(b"meanwhile") == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_another_user_is_refused_by_the_writer_itself(served: rl.Log, tmp_path: Path) -> None:
    """Directory and socket opened to all: the kernel's word about the peer still decides."""
    source = """
import os, sys
import raftlog_mp as rl
os.setgroups([]); os.setgid(65534); os.setuid(65534)
try:
    rl.open_log(sys.argv[1], autostart=False, timeout=20.0)
except rl.AccessDenied as error:
    assert "65534" in str(error), error
else:
    raise AssertionError("another user got in")
"""
    with opened_up(tmp_path, served.path, everything=True), script(source, served.path) as child:
        child.finish()


@contextlib.contextmanager
def opened_up(tmp_path: Path, directory: str, *, everything: bool = False) -> Iterator[None]:
    """Let other users reach the directory (pytest's folders are private), and optionally what is in it."""
    changed = []
    places = [tmp_path, *tmp_path.parents][:-1]
    if everything:
        places += [Path(directory), *Path(directory).iterdir()]
    for place in places:
        mode = place.stat().st_mode & 0o7777
        if mode & 0o005 != 0o005:
            changed.append((place, mode))
            place.chmod(mode | (0o007 if everything and str(place).startswith(directory) else 0o005))
    try:
        yield
    finally:
        for place, mode in reversed(changed):
            with contextlib.suppress(FileNotFoundError):
                place.chmod(mode)

