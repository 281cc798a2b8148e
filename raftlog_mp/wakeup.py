"""DOOR TO SLEEP: unix sockets, descriptor passing, clocks, and the only places where a process waits.

Long paths work: binding and connecting go through ``/proc/self/fd/N/name``, which is always short.
"""

from __future__ import annotations

import array
import contextlib
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Iterator

from . import format as fmt
from .protocol import BELL

CREDENTIALS = struct.Struct("iII")
RECV_BYTES = 1 << 16
PRECISE_SECONDS = 0.02  # shorter waits are to end on time
SELECT_DESCRIPTORS = 1024  # select(2) takes those below it
_RING_FLAGS = int(socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
_RECV_FLAGS = int(socket.MSG_DONTWAIT)


FOREVER = float("inf")
now = time.monotonic  # seconds, of this process: never compared across processes


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def pause(seconds: float) -> None:
    """Wait between two attempts to reach a writer that is starting."""
    time.sleep(seconds)


def give_way() -> None:
    """Let another process have the core, if one is waiting for it; returns at once if none is."""
    os.sched_yield()


def user_id() -> int:
    """This process's effective user id."""
    return os.geteuid()


def process_id() -> int:
    """This process's id."""
    return os.getpid()


def descriptor_limit() -> int:
    """How many descriptors this process may have open (its soft limit, which others may change)."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return soft if soft != resource.RLIM_INFINITY else 1 << 30


def deadline_of(timeout: float | None) -> float:
    """The moment ``timeout`` seconds from now; None: never."""
    return FOREVER if timeout is None else now() + timeout


def random_u64() -> int:
    """A random non-zero 63-bit number (fits every signed and unsigned word)."""
    return int.from_bytes(os.urandom(8), "little") >> 1 | 1


@contextlib.contextmanager
def _short_name(directory: str, name: str) -> Iterator[str]:
    fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def listen(directory: str) -> socket.socket:
    """The writer's listening socket, 0600, nonblocking.  Call only while holding the log's lock."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        with _short_name(directory, fmt.SOCKET_NAME) as name:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)  # a leftover: its owner is dead, we hold the lock
            before = os.umask(0o177)
            try:
                listener.bind(name)
            finally:
                os.umask(before)
        listener.listen(512)
    except BaseException:
        listener.close()
        raise
    return listener


def unlink_socket(directory: str) -> None:
    """Remove the socket's name."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(os.path.join(directory, fmt.SOCKET_NAME))


def connect(directory: str, timeout: float) -> socket.socket:
    """A blocking connection to the writer.  ``OSError`` if there is none."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.settimeout(max(timeout, 0.001))
        with _short_name(directory, fmt.SOCKET_NAME) as name:
            sock.connect(name)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_credentials(sock: socket.socket) -> tuple[int, int]:
    """``(pid, uid)`` of the peer, told by the kernel."""
    pid, uid, _ = CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size))
    return pid, uid


def send_with_fds(sock: socket.socket, data: bytes, fds: list[int]) -> None:
    """Send a message and descriptors with it."""
    sent = socket.send_fds(sock, [data], fds) if fds else sock.send(data)
    if sent != len(data):
        raise BlockingIOError("peer does not read")


def receive_with_fds(sock: socket.socket) -> tuple[bytes, list[int]]:
    """The next bytes and the descriptors that came with them; ``b''`` at end of stream."""
    # Not socket.recv_fds: it ignores its flags, and the descriptors would be inherited by subprocesses.
    fds = array.array("i")
    data, ancillary, _, _ = sock.recvmsg(RECV_BYTES, socket.CMSG_LEN(4 * fds.itemsize), socket.MSG_CMSG_CLOEXEC)
    for level, kind, raw in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(raw[: len(raw) - len(raw) % fds.itemsize])
    return data, list(fds)


def send(sock: socket.socket, data: bytes) -> None:
    """Send a small message whole, without a signal if the peer is gone."""
    sent = sock.send(data, socket.MSG_NOSIGNAL)
    if sent != len(data):
        raise BlockingIOError("peer does not read")


def ring_bell(sock: socket.socket) -> None:
    """Wake the peer.  Never waits: a full buffer means it is being woken, a closed one means it is gone."""
    try:
        sock.send(BELL, _RING_FLAGS)
    except OSError:  # not suppress(): that is two more calls each time, on the way of every append
        pass


def receive_now(sock: socket.socket) -> bytes | None:
    """What has arrived: bytes, ``b''`` at end of stream, None if nothing."""
    try:
        return sock.recv(RECV_BYTES, _RECV_FLAGS)
    except (BlockingIOError, InterruptedError):
        return None
    except OSError:
        return b""


class Sleeper:
    """Sleeps on one socket."""

    def __init__(self, sock: socket.socket) -> None:
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)

    def sleep(self, timeout: float) -> bool:
        """Until the socket has bytes or ended (True), or ``timeout`` seconds passed."""
        return bool(self._poll.poll(max(0, int(timeout * 1000 + 0.999))))


class Poller:
    """epoll with objects instead of descriptors: where the writer sleeps."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._objects: dict[int, object] = {}
        self._reminder: tuple[float, object] | None = None  # when it is due, and what wait() returns then

    def add(self, fd: int, what: object) -> None:
        """Watch ``fd`` for input; :meth:`wait` returns ``what``."""
        self._objects[fd] = what
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        """Stop watching."""
        if self._objects.pop(fd, None) is not None:
            with contextlib.suppress(OSError):
                self._epoll.unregister(fd)

    def remind(self, seconds: float, what: object) -> None:
        """Have :meth:`wait` return ``what`` once, ``seconds`` from now; of several reminders the earliest stays."""
        due = now() + seconds
        if self._reminder is None or due < self._reminder[0]:
            self._reminder = due, what

    def wait(self, timeout: float | None) -> list[object]:
        """Objects whose descriptors are ready, then what is due.  In seconds; None for ever, 0 a mere look."""
        reminder = self._reminder
        if reminder is not None:
            left = max(reminder[0] - now(), 0.0)
            timeout = left if timeout is None else min(timeout, left)
        if timeout is not None and 0 < timeout < PRECISE_SECONDS and self._epoll.fileno() < SELECT_DESCRIPTORS:
            # epoll counts milliseconds and rounds up; select, with the epoll descriptor, counts microseconds.
            select.select([self._epoll.fileno()], [], [], timeout)
            timeout = 0.0
        events = self._epoll.poll(-1 if timeout is None else timeout)
        ready = [self._objects[fd] for fd, _ in events if fd in self._objects]
        if reminder is not None and now() >= reminder[0]:
            self._reminder = None
            ready.append(reminder[1])
        return ready

    def close(self) -> None:
        """Give the descriptor back."""
        self._epoll.close()


class Event:
    """An eventfd: a helper thread wakes the poller with it."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def set(self) -> None:
        """Wake; coalesces.  Nothing after :meth:`close`: a late signal must not write to a stranger's descriptor."""
        if self.fd >= 0:
            os.eventfd_write(self.fd, 1)

    def clear(self) -> None:
        """Forget what was set."""
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)

    def close(self) -> None:
        """Give the descriptor back."""
        fd, self.fd = self.fd, -1
        os.close(fd)
