"""The door to sleep: sockets below any path, descriptors over them, bells that never wait."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import wakeup

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    one, two = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    yield one, two
    one.close()
    two.close()


def test_a_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    assert len(str(folder)) > 108
    listener = wakeup.listen(str(folder))
    client = wakeup.connect(str(folder), 5.0)
    served, _ = listener.accept()
    assert wakeup.peer_credentials(served) == (os.getpid(), os.geteuid())
    assert stat.S_IMODE(os.stat(folder / fmt.SOCKET_NAME).st_mode) == 0o600
    for sock in (client, served, listener):
        sock.close()
    wakeup.unlink_socket(str(folder))
    wakeup.unlink_socket(str(folder))
    assert not list(folder.iterdir())


def test_listen_replaces_the_socket_of_a_dead_writer(tmp_path: Path) -> None:
    wakeup.listen(str(tmp_path)).close()
    with pytest.raises(ConnectionRefusedError):
        wakeup.connect(str(tmp_path), 1.0)
    listener = wakeup.listen(str(tmp_path))
    wakeup.connect(str(tmp_path), 5.0).close()
    listener.close()


def test_connect_without_a_writer(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        wakeup.connect(str(tmp_path), 1.0)
    with pytest.raises(OSError):
        wakeup.connect(str(tmp_path / "nothing"), 1.0)


def test_descriptors_travel_close_on_exec(pair: Pair) -> None:
    fd = os.memfd_create("raftlog-test")
    os.write(fd, b"shared")
    wakeup.send_with_fds(pair[0], b"hello", [fd])
    os.close(fd)
    data, received = wakeup.receive_with_fds(pair[1])
    assert data == b"hello" and os.pread(received[0], 10, 0) == b"shared"
    assert not os.get_inheritable(received[0])
    os.close(received[0])


def test_ring_never_waits(pair: Pair) -> None:
    pair[0].setblocking(True)
    for _ in range(300_000):
        wakeup.ring_bell(pair[0])  # nobody reads: the buffer is full long before
    assert set(wakeup.receive_now(pair[1]) or b"") == {1}
    pair[1].close()
    wakeup.ring_bell(pair[0])
    pair[0].close()
    wakeup.ring_bell(pair[0])


def test_receive_now(pair: Pair) -> None:
    assert wakeup.receive_now(pair[1]) is None
    wakeup.ring_bell(pair[0])
    assert wakeup.receive_now(pair[1]) == b"\x01"
    pair[0].close()
    assert wakeup.receive_now(pair[1]) == b""
    pair[1].close()
    assert wakeup.receive_now(pair[1]) == b""


def test_send_to_a_peer_that_does_not_read(pair: Pair) -> None:
    pair[0].setblocking(False)
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            wakeup.send(pair[0], b"x" * 5_000)


def test_poller_returns_objects_and_forgets_them(pair: Pair) -> None:
    poller, event = wakeup.Poller(), wakeup.Event()
    poller.add(pair[0].fileno(), "socket")
    poller.add(event.fd, "event")
    assert poller.wait(0) == []
    event.set()
    event.set()
    assert poller.wait(5.0) == ["event"]
    event.clear()
    event.clear()
    wakeup.ring_bell(pair[1])
    assert poller.wait(5.0) == ["socket"]
    poller.remove(pair[0].fileno())
    poller.remove(pair[0].fileno())
    assert poller.wait(0) == []
    event.close()
    poller.close()


def test_random_numbers_are_never_zero_and_fit_a_signed_word() -> None:
    numbers = {wakeup.random_u64() for _ in range(1000)}
    assert len(numbers) == 1000 and all(0 < number < 1 << 63 for number in numbers)
