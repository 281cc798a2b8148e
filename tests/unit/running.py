"""A writer that runs in a thread of the test, and members that talk to it as clients and readers do."""

from __future__ import annotations

import select
import threading
from typing import Any

from crc32c import crc32c
from support.faulty_files import FaultyFiles

from raftlog_mp import layout, place, protocol, shm, wakeup
from raftlog_mp.bodies import pack_body
from raftlog_mp.lane import Completion, LaneProducer, Seat
from raftlog_mp.writer import Writer

from .callers import HELLO, Caller
from .journals import kill, small_config

PATIENCE_S = 30.0


class Running:
    """A writer; :meth:`start` lets it serve in a thread."""

    def __init__(self, directory: str, *, linger: bool = False, **settings: Any) -> None:
        self.directory, self.files = directory, FaultyFiles()
        place.prepare_directory(self.files, directory)
        config = small_config(**({"idle_mark_ms": 60_000.0} | settings))  # marks come when a test asks for them
        self.writer = Writer(directory, config, linger=linger, files=self.files)
        self.control, self.journal = self.writer.control, self.writer.journal
        self._members: list[Member] = []
        self._error: BaseException | None = None
        self._joined = self._ended = False
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            self.writer.run()
        except BaseException as error:
            self._error = error

    def start(self) -> Running:
        """Serve, until :meth:`end` or until the writer ends by itself."""
        self._thread.start()
        return self

    def member(self, **hello: Any) -> Member:
        """One more client, or a reader."""
        member = Member(self, len(self._members) + 1, hello)
        self._members.append(member)
        return member

    def word(self, name: str) -> int:
        """A word of the control block."""
        return int(getattr(self.control, name).load(shm.SEQ_CST))

    def joined(self) -> None:
        """Wait until the writer has ended."""
        if self._thread.ident is None:
            self._thread.start()
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        self._joined = True
        if self._error is not None:
            raise self._error

    def end(self) -> None:
        """Stop, wait, and let go of everything as the end of the process does; idempotent."""
        if self._ended:
            return
        self._ended = True
        try:
            if not self._joined:
                self.writer.stop()
                self.joined()
        finally:
            for member in self._members:
                member.close()
            kill(self.journal)


class Member:
    """A greeted client or reader that keeps the rules of its lane and of the doorbells."""

    def __init__(self, running: Running, producer: int, hello: dict[str, Any]) -> None:
        self._running = running
        self.caller = Caller(running.directory)
        self.caller.say(**(HELLO | {"producer": producer} | hello))
        if running._thread.ident is None:  # nobody serves yet: the sessions by themselves
            for _ in range(2):
                running.writer.sessions.handle(running.writer.sessions.poller.wait(PATIENCE_S))
        self.caller.sock.settimeout(PATIENCE_S)
        data, (fd,) = wakeup.receive_with_fds(self.caller.sock)
        self.caller.sock.setblocking(False)
        (self.welcome,) = protocol.Parser().feed(data)
        mapping = shm.map_memfd(fd)
        self.seat: Seat = Seat(mapping)
        if hello.get("role", protocol.CLIENT) == protocol.CLIENT:
            self.seat = self.lane = LaneProducer(mapping)
        self._sequence = self._read = self._sleep = 0

    def submit(self, *payloads: bytes) -> None:
        """One submission; the bell is rung only if the writer sleeps."""
        body = pack_body(list(payloads))
        self._sequence += 1
        header = (len(body), layout.SUBMIT_APPEND, 0, len(payloads), crc32c(body), 0, self._sequence, 0, 0)
        self.lane.put(layout.SUBMISSION.pack(*header) + body)
        if self._running.word("writer_sleeping"):
            wakeup.ring_bell(self.caller.sock)

    def answers(self) -> list[Completion]:
        """What has been posted since the last look."""
        done = self.lane.done.load(shm.SEQ_CST)
        found = [self.lane.completion(number) for number in range(self._read, done)]
        self._read = done
        return found

    def wait_answers(self, upto: int) -> list[Completion]:
        """What is posted until everything up to this sequence is answered; sleeps on the doorbell meanwhile."""
        found = self.answers()
        while not found or found[-1][0] < upto:
            self.sleep(layout.WANTS_ANSWERS, lambda: self.lane.done.load(shm.SEQ_CST) > self._read)
            found += self.answers()
        return found

    def sleep(self, wants: int, ready: Any) -> None:
        """Until ``ready()``, or until the bell rings: as a client does it, flag first, then the look."""
        self._sleep += 1
        self.seat.wants.store(self._sleep << 2 | wants, shm.SEQ_CST)
        if not ready():
            rung, _, _ = select.select([self.caller.sock], [], [], PATIENCE_S)
            assert rung, "the bell was not rung"
        self.seat.wants.store(0, shm.SEQ_CST)
        wakeup.receive_now(self.caller.sock)

    def append(self, *payloads: bytes) -> Completion:
        """Submit, and wait for the answer."""
        self.submit(*payloads)
        return self.wait_answers(self._sequence)[-1]

    def leave(self) -> None:
        """Hang up."""
        self.caller.sock.close()

    def close(self) -> None:
        """Hang up and unmap."""
        self.leave()
        self.seat.close()
