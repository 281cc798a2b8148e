"""A client's link whose writer is the test: real lanes and sockets, a clock by hand, no thread and no process."""

from __future__ import annotations

import socket
import sys
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from crc32c import crc32c

from raftlog_mp import layout, shm, wakeup
from raftlog_mp.bodies import unpack_body
from raftlog_mp.client import Client
from raftlog_mp.control import Control
from raftlog_mp.files import Files
from raftlog_mp.lane import LaneConsumer, LaneProducer
from raftlog_mp.layout import OK, SUBMISSION, SUBMISSION_BYTES
from raftlog_mp.link import Link
from raftlog_mp.protocol import BELL, CLIENT

from .journals import small_config

LANE_BYTES = 1 << 16


class Bench(Link):
    """A link whose writer is the test: real lanes and sockets, a clock by hand, and sleeps that run the next step.

    A step is what the writer does while the handle sleeps.  Where none is left, it serves, as long as ``serving``.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__("/log", CLIENT, files=Files())
        monkeypatch.setattr(wakeup, "now", self._now)
        monkeypatch.setattr(wakeup, "pause", self._pass)
        self.clock, self.tick, self.up, self.serving = 0.0, 0.0, True, True  # tick: seconds from look to look
        self.steps: deque[Callable[[], object]] = deque()
        self.naps, self.connects, self.rings = list[float](), 0, 0
        self.log, self.outcomes = list[bytes](), dict[int, int]()  # of the writer: what is in it, and where
        self.config = small_config(max_entry_bytes=1000)
        self._mappings, self._socks = list[Any](), list[socket.socket]()
        self.client = Client(self)
        self._connect(0.0)

    def _connect(self, deadline: float) -> bool:
        self._drop_connection()
        if not self.up:
            return False
        self.next = int(self.hello_fields()["first_unresolved"])
        fd, mapping = shm.create_memfd("test-lane", layout.lane_file_bytes(LANE_BYTES))
        self.lane, self.rung, self.alive = LaneConsumer(mapping, LANE_BYTES), 0, True
        lane = LaneProducer(shm.map_memfd(fd))
        block = shm.map_memfd(shm.create_memfd("test-control", layout.CONTROL_BYTES)[0])
        self._mappings += [mapping, lane.mapping, block]
        mine, self.writers = socket.socketpair()
        self._socks += [mine, self.writers]
        mine.setblocking(False)
        self.writers.setblocking(False)
        self.control = Control(block)
        self.set(state=layout.STATE_RUNNING)
        self.view: Any = SimpleNamespace(control=self.control, config=self.config)
        self._sleeper, self.seat, self._sock = self, lane, mine  # type: ignore[assignment]
        self.connects += 1
        self.on_connect(lane)  # type: ignore[misc]
        return True

    # ------------------------------------------------------------ in place of a Sleeper
    def sleep(self, timeout: float) -> bool:
        """The writer's next step; where it does nothing, time passes."""
        self.naps.append(timeout)
        assert len(self.naps) < 300, "it waits for ever"
        watch = sys.getprofile()
        sys.setprofile(None)  # the writer is not interrupted
        awake = self._writers_turn()
        if not awake:
            self._pass(timeout)
        sys.setprofile(watch)
        return awake

    def _writers_turn(self) -> bool:
        """Whether there is anything to hear after it."""
        if self.steps:
            self.steps.popleft()()
        elif self.serving:
            self.serve()
        sock = self._socks[-2]
        try:
            return sock.fileno() < 0 or sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) is not None
        except BlockingIOError:
            return False

    def _now(self) -> float:
        self.clock += self.tick
        return self.clock

    def _pass(self, seconds: float) -> None:
        self.clock += seconds

    # ------------------------------------------------------------ the writer
    def set(self, **words: int) -> None:
        for name, value in words.items():
            getattr(self.control, name).store(value, shm.SEQ_CST)

    def take(self) -> list[tuple[int, int, int, int, bytes]]:
        """What came into the lane: sequence, count, flags, term, body."""
        lane, found = self.lane, list[tuple[int, int, int, int, bytes]]()
        while lane.head < lane.tail.load(shm.SEQ_CST):
            head = lane.copy(lane.head, lane.head + SUBMISSION_BYTES)
            length, _, flags, count, crc, term, sequence, *_ = SUBMISSION.unpack(head)
            lane.head += SUBMISSION_BYTES + length
            body = lane.copy(lane.head - length, lane.head)
            assert crc32c(body) == crc, f"submission {sequence} is not whole"
            found.append((sequence, count, flags, term, body))
        return found

    def serve(self) -> None:
        """As the writer's intake: in order or not at all, each sequence once, one slot for a run of alike."""
        slots: list[tuple[int, int, int, int]] = []  # last sequence, first index, count of each, index after it
        for sequence, count, _, _, body in self.take() if self.alive else ():
            if sequence != self.next:
                self.hang_up()
                return
            self.next += 1
            if sequence not in self.outcomes:
                self.outcomes[sequence] = len(self.log) + 1
                self.log += unpack_body(body, count)
            first = self.outcomes[sequence]
            if slots and slots[-1][2:] == (count, first):
                slots[-1] = (sequence, slots[-1][1], count, first + count)
            else:
                slots.append((sequence, first, count, first + count))
        self.lane.complete([(last, OK, first, count, 1, 0) for last, first, count, _ in slots])
        self.ring()

    def hang_up(self) -> None:
        self.alive = False
        self.writers.close()

    def answer(self, last: int, first: int = 1, count: int = 1, status: int = OK, **more: int) -> None:
        self.lane.complete([(last, status, first, count, more.get("term", 1), more.get("detail", 0))])
        self.ring()

    def ring(self, wanted: int = layout.WANTS_ANSWERS) -> None:
        """As sessions.Peer: once a sleep."""
        wants = self.lane.wants.load(shm.SEQ_CST)
        if self.alive and wants & wanted and wants != self.rung:
            self.rung, self.rings = wants, self.rings + 1
            self.writers.send(BELL)

    # ------------------------------------------------------------ what must hold
    def at_rest(self) -> bool:
        """Nobody waits, leads or holds a lock, and nothing is under way."""
        waiters = self._waiters
        free = not (waiters._led or waiters._followers or waiters._mutex.locked() or self.client._lock._is_owned())  # type: ignore[attr-defined]
        return free and not self.client._pending and self.client._resume_at == 0

    def end(self) -> None:
        self.client._lane = self.client._straight = None
        for sock in self._socks:
            sock.close()
        for mapping in self._mappings:
            mapping.close()
