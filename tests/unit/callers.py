"""Both ends of a writer's connections in one process: sessions without a log, and peers driven by hand."""

from __future__ import annotations

import os
from typing import Any

from raftlog_mp import protocol, wakeup
from raftlog_mp.control import create_control
from raftlog_mp.producers import Producers
from raftlog_mp.sessions import Peer, Sessions

from .journals import small_config

HELLO = {
    "op": "hello", "version": protocol.PROTOCOL_VERSION, "role": protocol.CLIENT, "producer": 4711,
    "first_unresolved": 1, "highest_sent": 0, "lane_bytes": 0,
}  # fmt: skip

WELCOME = {"generation": 3, "log_id": 7, "uuid": "u", "pid": 1, "folder": "/f", "config": {"ring_bytes": 5}}


class Caller:
    """A connection to the writer, driven by hand."""

    def __init__(self, directory: str) -> None:
        self.sock = wakeup.connect(directory, 30.0)
        self.sock.setblocking(False)

    def say(self, **fields: Any) -> None:
        self.sock.sendall(protocol.pack_message(**fields))

    def hear(self) -> tuple[list[dict[str, Any]], list[int], bool]:
        """Messages and descriptors that have arrived, and whether the writer hung up."""
        parser, messages, fds = protocol.Parser(), [], []
        while True:
            try:
                data, more = wakeup.receive_with_fds(self.sock)
            except BlockingIOError:
                return messages, fds, False
            except ConnectionResetError:
                data, more = b"", []
            if not data:
                return messages, fds, True
            messages += parser.feed(data)
            fds += more

    def hung_up(self) -> bool:
        messages, fds, ended = self.hear()
        assert not messages and not fds
        return ended

    def bells(self) -> int:
        """Bells that have arrived since the last look."""
        data = wakeup.receive_now(self.sock) or b""
        assert data == protocol.BELL * len(data)
        return len(data)


class Served:
    """Sessions of a log that does nothing else."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.control = create_control(os.path.join(directory, "control"), {})
        self.producers = Producers()
        self.heard: list[tuple[Peer, dict[str, Any]]] = []
        self.sessions = Sessions(
            directory, self.control, small_config(), self.producers, WELCOME,
            lambda peer, message: self.heard.append((peer, message)),
        )  # fmt: skip

    def pump(self) -> None:
        """React to everything that has arrived."""
        while ready := self.sessions.poller.wait(0):
            self.sessions.handle(ready)

    def call(self, **hello: Any) -> tuple[Caller, Peer, int]:
        """A greeted caller, the writer's record of it, and the descriptor that it was given."""
        caller = Caller(self.directory)
        caller.say(**(HELLO | hello))
        self.pump()
        (welcome,), (fd,), ended = caller.hear()
        assert welcome["op"] == "welcome" and not ended
        return caller, self.sessions.peers[-1], fd

    def counts(self) -> tuple[int, int, int]:
        """Clients, readers and dropped peers, as stats shows them."""
        words = self.control.snapshot()
        return words["clients"], words["readers"], words["dropped_peers"]


def close(*callers: Caller) -> None:
    for caller in callers:
        caller.sock.close()
