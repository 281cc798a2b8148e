"""A handle's connection to the writer: find it, start it, wait for it, lose it, find the next one.

Shared by the client's and the reader's side of a handle.  Several threads may wait at once: one of them, the
*leader*, sleeps on the socket; after each wake-up it looks whose condition came true and wakes those.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from collections.abc import Callable
from typing import Any

from . import errors, layout, place, processes, shm, wakeup
from . import format as fmt
from .config import LogConfig
from .files import Files, join
from .lane import LaneProducer, Seat
from .protocol import PROTOCOL_VERSION, Parser, ProtocolError, pack_message
from .view import View
from .waiters import SLEEP_SECONDS_MAX, Waiters

logger = logging.getLogger(__name__)

RETRY_SECONDS = 0.005  # before the second attempt to reach a writer that is starting; grows by half each time
RETRY_SECONDS_MAX = 0.25  # more often, processes that look for the next writer take the cores from it: 0.05 was slower
NO_WRITER = "no writer runs"
GREETING_SECONDS = 2.0  # that a mere look for a writer waits for one that is there and does not answer
MUTE_SECONDS = 1.0  # before it is looked for again
SPIN_SECONDS_SHARED = 50e-6  # at most, where other threads want the interpreter, and for what may be long in coming

_links: weakref.WeakSet[Link] = weakref.WeakSet()


class Link:
    """One connection, renewed as often as needed.  ``view`` stays readable after the connection is lost."""

    def __init__(self, directory: str, role: str, *, files: Files, config: LogConfig | None = None,
                 autostart: bool = False, create: bool = False) -> None:  # fmt: skip
        self.directory, self.role, self.files = directory, role, files
        self._config, self._autostart, self._create = config, autostart, create
        self.view: View | None = None
        self.seat: Seat | None = None
        self.closed = False
        self.era = 0  # raised by every fork: what belongs to the parent is told by its older era
        # The client's part in a connection: fields for hello; the new lane; the end of the old one.
        self.hello_fields: Callable[[], dict[str, Any]] = dict
        self.on_connect: Callable[[LaneProducer], None] | None = None
        self.on_lost: Callable[[], None] | None = None
        self.on_fork: Callable[[], None] | None = None
        self._sock: Any = None
        self._mute_until = 0.0  # a writer that does not answer is not asked before
        self._sleeper: wakeup.Sleeper | None = None
        self._parser = Parser()
        self._renew_locks()
        _links.add(self)

    def _renew_locks(self) -> None:
        self._connecting = threading.RLock()  # taken before any lock of the client, never after
        self._waiters = Waiters()

    @property
    def connected(self) -> bool:
        """Whether there is a connection now."""
        return self._sock is not None

    def check_open(self) -> None:
        """Raise :class:`LogClosed` if the handle was closed."""
        if self.closed:
            raise errors.LogClosed(f"this handle of {self.directory} was closed; open a new one")

    # ------------------------------------------------------------ connecting
    def ensure(self, deadline: float) -> View:
        """A connected view, connecting or starting a writer if need be.

        Raises :class:`WriterUnavailable` at the deadline, or at once the writer's own reason why it cannot serve.
        """
        view = self.view
        if self._sock is not None and view is not None:
            return view
        remaining = deadline - wakeup.now()
        if not self._connecting.acquire(timeout=min(max(remaining, 0.0), threading.TIMEOUT_MAX)):
            raise self._unavailable("another thread is still connecting")
        try:
            why, pause = NO_WRITER, RETRY_SECONDS
            while True:
                self.check_open()
                if self._sock is not None and self.view is not None:
                    return self.view
                if self._connect(deadline):
                    continue
                if self._may_start():
                    why = self._start(deadline)
                    if self._connect(deadline):
                        continue
                if wakeup.now() >= deadline:
                    with contextlib.suppress(OSError):
                        if why == NO_WRITER and self.files.lock_held(join(self.directory, fmt.LOCK_NAME)):
                            why = "a writer owns it but does not answer yet"
                    raise self._unavailable(why)
                wakeup.pause(min(pause, max(0.0, deadline - wakeup.now())))
                pause = min(pause * 1.5, RETRY_SECONDS_MAX)
        finally:
            self._connecting.release()

    def try_connect(self) -> bool:
        """One attempt, without starting anything; False if no writer answers."""
        self.check_open()
        if self._sock is None and self._connecting.acquire(blocking=False):
            try:
                self.check_open()  # close() sets `closed` first and takes this lock after: no connection outlives it
                return self._look_for_writer()
            finally:
                self._connecting.release()
        return self._sock is not None

    def _look_for_writer(self) -> bool:
        """One attempt; a writer that stands still (SIGSTOP) holds up one of them, and not each."""
        began = wakeup.now()
        if began < self._mute_until:
            return False
        found = self._connect(began + GREETING_SECONDS)
        if not found and wakeup.now() >= began + GREETING_SECONDS:
            self._mute_until = wakeup.now() + MUTE_SECONDS
        return found

    def forget_view(self, view: View) -> None:
        """The view's writer ended before its catalog could be taken over: nothing holds on to it."""
        with self._connecting:
            if self.view is view and self._sock is None:
                self.view = None

    def renew(self, superseded: View) -> None:
        """A newer writer serves: leave the view that it superseded, if it can be reached."""
        with self._connecting:
            if self.view is superseded and not self.closed:
                self._look_for_writer()

    def _unavailable(self, why: str) -> errors.WriterUnavailable:
        stopped = ""
        if self.view is not None and self.view.control.state.load(shm.ACQUIRE) == layout.STATE_STOPPED:
            stopped = "; it was stopped on purpose, so this handle does not start another"
        return errors.WriterUnavailable(
            f"no writer serves {self.directory} ({why}{stopped}). Start one with `raftlog-mp serve {self.directory}` "
            "or open_log(); nothing was appended by this call"
        )

    def _may_start(self) -> bool:
        """Whether this handle may start a writer: never one that was stopped on purpose."""
        view = self.view
        return self._autostart and (view is None or view.control.state.load(shm.ACQUIRE) != layout.STATE_STOPPED)

    def _start(self, deadline: float) -> str:
        """Start a writer, unless somebody else is about to; returns what to say if that does not help."""
        there = place.check_place(self.files, self.directory, create=self._create)
        place.check_owner(self.files, self.directory)
        if not there:
            place.prepare_directory(self.files, self.directory)
        try:
            fd = self.files.open(join(self.directory, fmt.START_NAME), write=True, create=True)
        except PermissionError:
            raise errors.AccessDenied(f"{self.directory} cannot be written by user {wakeup.user_id()}") from None
        if not self.files.lock(fd):
            self.files.close(fd)
            return "another process is starting one"
        try:
            if self._connect(deadline):  # somebody was faster
                return ""
            if self.files.lock_held(join(self.directory, fmt.LOCK_NAME)):
                return "a writer owns it but does not answer yet"
            config = self._config.as_dict() if self._config is not None else None
            process, raw = processes.start_writer(self.directory, config, linger=True)
            report = processes.decode_report(raw)
            if "error" in report:
                processes.wait_child(process, 10.0)  # it has said why and is leaving
            if report.get("error") == "LogLocked":
                return str(report.get("message"))
            if "error" in report:
                raise errors.from_wire(report)
            return "" if report else f"the writer died while starting; see {fmt.WRITER_LOG_NAME} in the log's directory"
        finally:
            self.files.unlock(fd)
            self.files.close(fd)

    def _connect(self, deadline: float) -> bool:
        """One attempt to connect and say hello.  False: no writer, or it went away meanwhile."""
        self._drop_connection()
        timeout = min(max(deadline - wakeup.now(), 0.1), 30.0)
        try:
            sock = wakeup.connect(self.directory, timeout)
        except PermissionError:
            raise errors.AccessDenied(
                f"the writer's socket in {self.directory} may not be used by user {wakeup.user_id()}"
            ) from None
        except (OSError, ValueError):
            return False
        fds: list[int] = []
        try:
            hello = self.hello_fields()
            sock.sendall(pack_message(op="hello", version=PROTOCOL_VERSION, role=self.role, **hello))
            parser = Parser()
            messages: list[dict[str, Any]] = []
            while not messages:
                data, new_fds = wakeup.receive_with_fds(sock)
                fds += new_fds
                if not data:
                    raise ConnectionResetError("the writer hung up during the greeting")
                messages = parser.feed(data)
            self._adopt(sock, parser, messages[0], fds)
            processes.reap()  # the writer before: when it hung up it may not have been quite dead
        except BaseException as error:
            if self._sock is sock:
                self._drop_connection()
            sock.close()
            for fd in fds:
                shm.close_fd(fd)
            if isinstance(error, errors.RaftLogError) or not isinstance(error, (OSError, ValueError)):
                raise
            return False
        return True

    def _adopt(self, sock: Any, parser: Parser, message: dict[str, Any], fds: list[int]) -> None:
        if message["op"] == "refused":
            raise errors.from_wire(message)
        if message["op"] != "welcome" or len(fds) != 1:
            raise ProtocolError(f"{message['op']!r} with {len(fds)} descriptors where a welcome with one was due")
        mapping = shm.map_memfd(fds.pop())
        view = View(message)
        if self._config is not None:
            self._compare(view.config)
        sock.setblocking(False)
        self.view, self._parser, self._sleeper = view, parser, wakeup.Sleeper(sock)
        if self.on_connect is not None:
            lane = LaneProducer(mapping)
            self.seat = lane
            self._sock = sock
            self.on_connect(lane)
            self.ring_writer()
        else:
            self.seat = Seat(mapping)
            self._sock = sock

    def _compare(self, running: LogConfig) -> None:
        mine = self._config
        if mine is None or mine == running:
            return
        if mine.strategy != running.strategy:
            raise errors.ConfigError(
                f"strategy={mine.strategy.value!r} was asked for, but the running writer of {self.directory} uses "
                f"{running.strategy.value!r}. Stop it first, or open without a config",
                field="strategy", value=mine.strategy.value, allowed=running.strategy.value,
            )  # fmt: skip
        logger.warning("the running writer of %s has other settings; they stay in force", self.directory)
        self._config = None  # said once

    def _drop_connection(self) -> None:
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()
            processes.reap()
        if self.on_lost is not None:
            self.on_lost()
        self.seat = None

    # ------------------------------------------------------------ bells and messages
    def ring_writer(self) -> None:
        """Wake the writer if it sleeps; called after a SEQ_CST store of a lane's cursor."""
        view, sock = self.view, self._sock
        # SEQ_CST load: the writer stores the flag, then loads every cursor; we stored our cursor, then load the
        # flag.  In one total order at least one of the two sees the other's store.
        if view is not None and sock is not None and view.control.writer_sleeping.load(shm.SEQ_CST):
            wakeup.ring_bell(sock)

    def send(self, **message: Any) -> bool:
        """Send a control message; False if the connection is gone."""
        sock = self._sock
        try:
            if sock is None:
                return False
            wakeup.send(sock, pack_message(**message))
        except OSError:
            return False
        return True

    # ------------------------------------------------------------ waiting
    def wait(self, ready: Callable[[], bool], deadline: float, wants: int) -> bool:
        """Sleep until ``ready()``; False at the deadline.  Rides through restarts of the writer.

        ``ready`` loads shared cursors SEQ_CST (it is the sleeper's re-check) and may be called by any thread.
        """
        while not ready():
            self.check_open()
            if wakeup.now() >= deadline:
                return ready()
            seat, sleeper, sock = self.seat, self._sleeper, self._sock
            if sock is None or seat is None or sleeper is None:
                with contextlib.suppress(errors.WriterUnavailable):  # the loop looks at its own deadline
                    self.ensure(min(deadline, wakeup.now() + SLEEP_SECONDS_MAX))
                continue
            timeout = min(deadline - wakeup.now(), SLEEP_SECONDS_MAX)
            self._waiters.turn(ready, timeout, wants, seat, sleeper, sock, self._hear, self._spin_seconds(wants))
        self._waiters.pass_on()
        return True

    def rest(self, word: Callable[[int], int], seen: int, deadline: float) -> None:
        """Wait for progress at most once, in one go, while ``word(order)`` is ``seen``; the caller looks again."""
        seat, sleeper, sock = self.seat, self._sleeper, self._sock
        if sock is not None and seat is not None and sleeper is not None and not self.closed:
            bits = layout.WANTS_PROGRESS
            spin = self._spin_seconds(bits)
            self._waiters.alone(word, seen, spin, deadline, sleeper, seat, sock, self._heard, bits)

    def _hear(self, sock: Any) -> None:
        self._heard(sock, wakeup.receive_now(sock))

    def _heard(self, sock: Any, data: bytes | None) -> None:
        if data == b"":
            self._lose(sock)
        elif data:
            try:
                self._parser.feed(data)
            except ProtocolError:
                self._lose(sock)

    def _spin_seconds(self, wants: int) -> float:
        """How long to look before sleeping: as the writer says, which knows who else is at work."""
        view = self.view
        seconds: float = 0.0 if view is None else view.control.spin_ns.load(shm.RELAXED) / 1e9
        if wants & layout.WANTS_ANSWERS and threading.active_count() == 1:
            return seconds
        return min(seconds, SPIN_SECONDS_SHARED)

    def stopped(self) -> bool:
        """Whether the writer of the current view was stopped on purpose: it drains no lane any more."""
        view = self.view
        return view is not None and view.control.state.load(shm.RELAXED) == layout.STATE_STOPPED

    def look(self) -> None:
        """Notice without waiting whether the writer hung up."""
        sock = self._sock
        if sock is not None:
            self._hear(sock)

    def _lose(self, sock: Any) -> None:
        """The writer hung up: drop this connection (unless another thread has replaced it already)."""
        with self._connecting:
            if sock is None or self._sock is sock:
                self._drop_connection()

    # ------------------------------------------------------------ end and fork
    def close(self) -> None:
        """End the connection; waiting threads get :class:`LogClosed`.  Idempotent."""
        if self.closed:
            return
        self.closed = True
        sock = self._sock
        if sock is not None:
            self.send(op="bye")
            with contextlib.suppress(OSError):
                sock.shutdown(2)  # wakes a thread that sleeps on it
        self._waiters.wake_all()
        with self._connecting:
            self._drop_connection()
            self.view = None
            self._waiters = Waiters()
        processes.reap()

    def after_fork(self) -> None:
        """In the child: the socket, the lane and the locks are the parent's.  The first use connects anew."""
        self.era += 1
        self._renew_locks()
        sock, self._sock = self._sock, None
        if sock is not None:
            sock.close()  # this process's copy of the descriptor only; the parent's connection goes on
        self.seat = None
        self._parser = Parser()
        if self.on_fork is not None:
            self.on_fork()


def _after_fork() -> None:
    processes.forget_children()
    for link in list(_links):
        link.after_fork()


processes.after_fork_in_child(_after_fork)
