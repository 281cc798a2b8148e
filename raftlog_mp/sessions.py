"""The writer's side of its clients' and readers' connections: accept, greet, hear, ring, drop.

A peer that sends anything but this protocol is dropped, and nobody else notices.  Nothing here waits: every
send is nonblocking.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import Any

from . import errors, layout, shm, wakeup
from .config import LogConfig
from .control import Control
from .lane import Completion, LaneConsumer, Seat
from .producers import Producers
from .protocol import CLIENT, PROTOCOL_VERSION, READER, Parser, ProtocolError, pack_message

logger = logging.getLogger(__name__)

GREETING_SECONDS = 10.0  # a connection that has not said hello by then is dropped
TEND_SECONDS = 1.0  # between two looks at newcomers, or at whether there is room again
OWN_DESCRIPTORS = 32  # never given to peers: without a descriptor for the next segment the log could not go on
PEER_DESCRIPTORS = 2  # a peer's socket and its lane
TEND = object()  # what the poller reports when it is time for that


class Peer:
    """One connection.  ``lane`` for clients, ``seat`` for both; neither before it was greeted."""

    def __init__(self, sock: Any, pid: int, uid: int) -> None:
        self.sock, self.pid, self.uid = sock, pid, uid
        self.parser = Parser()
        self.role = ""
        self.since = wakeup.now()
        self.seat: Seat | None = None
        self.lane: LaneConsumer | None = None
        self.producer = 0
        self.next_sequence = 1
        self.resumed_until = 0  # sequences up to here may have been sent to an earlier writer or connection
        self.rung = 0  # the sleep that was rung last
        self.counted_sequence = 0  # next_sequence at the last count of clients at work
        self.answers: list[Completion] = []
        self.blocked = (-1, -1)  # where in its lane a submission waits for room, and the durable frontier then
        self.said_bye = False

    def ring(self, wanted: int) -> None:
        """Wake the peer if it sleeps and waits for this; at most once a sleep."""
        # SEQ_CST load after the SEQ_CST store of the cursor (completions, last_index, durable_index, state): the
        # sleeper stores `wants`, then loads the cursor.  In one total order one of the two sees the other.
        seat = self.seat
        if seat is None:
            return
        wants = seat.wants.load(shm.SEQ_CST)
        if wants & wanted and wants != self.rung:
            self.rung = wants
            wakeup.ring_bell(self.sock)


class Sessions:
    """All connections of a writer."""

    def __init__(self, directory: str, control: Control, config: LogConfig, producers: Producers,
                 welcome: dict[str, Any], on_message: Callable[[Peer, dict[str, Any]], None]) -> None:  # fmt: skip
        self._directory, self._control, self._config = directory, control, config
        self._producers, self._welcome, self._on_message = producers, welcome, on_message
        self.poller = wakeup.Poller()
        self._listener = wakeup.listen(directory)
        self._listening, self._shortage_told = False, False
        self._listen()
        self.on_hang_up: Callable[[Peer], None] = lambda peer: None  # before a peer's lane goes
        self.peers: list[Peer] = []
        self.clients: list[Peer] = []  # those with a lane
        self.newcomers = 0
        self.dropped = 0
        self.last_change = wakeup.now()

    # ------------------------------------------------------------ events
    def handle(self, ready: list[object]) -> None:
        """React to what the poller reported."""
        for what in ready:
            if what is self:
                self._accept()
            elif isinstance(what, Peer):
                self.hear(what)
            elif what is TEND:
                self._tend()

    def _listen(self) -> None:
        self._listening = True
        self.poller.add(self._listener.fileno(), self)

    def _pause_listening(self, why: str) -> None:
        """Newcomers wait in the listener's queue until a peer leaves or a second has passed.

        A listener that cannot be accepted from stays readable: without the pause the writer would never sleep.
        """
        if not self._shortage_told:
            self._shortage_told = True
            logger.warning("no more connections for now (%s); %d are open and go on", why, len(self.peers))
        if self._listening:
            self._listening = False
            self.poller.remove(self._listener.fileno())
        self.poller.remind(TEND_SECONDS, TEND)

    def _accept(self) -> None:
        while True:
            limit = wakeup.descriptor_limit()
            room = max(1, (limit - OWN_DESCRIPTORS) // PEER_DESCRIPTORS)
            if len(self.peers) >= room:
                self._pause_listening(f"this process may open {limit} descriptors; raise `ulimit -n` before it starts")
                return
            try:
                sock, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError):
                self._shortage_told = False  # nobody waits any more
                return
            except OSError as error:
                self._pause_listening(str(error))
                return
            self._admit(sock)

    def _admit(self, sock: Any) -> None:
        sock.setblocking(False)
        pid, uid = wakeup.peer_credentials(sock)
        peer = Peer(sock, pid, uid)
        self.peers.append(peer)
        self.newcomers += 1
        self.last_change = wakeup.now()
        self.poller.add(sock.fileno(), peer)
        self.poller.remind(TEND_SECONDS, TEND)
        if uid != wakeup.user_id():
            me = wakeup.user_id()
            refusal = errors.AccessDenied(
                f"{self._directory} is served by a writer of user {me}; user {uid} may not use it. "
                "Run the client as the same user."
            )
            self._refuse(peer, refusal)

    def _tend(self) -> None:
        """Drop newcomers that say nothing, and listen again; only while there is one of these."""
        limit = wakeup.now() - GREETING_SECONDS
        for peer in [p for p in self.peers if not p.role and p.since < limit]:
            self.drop_bad(peer, f"no hello within {GREETING_SECONDS:.0f} s")
        if not self._listening:
            self._listen()
        if self.newcomers:
            self.poller.remind(TEND_SECONDS, TEND)

    def hear(self, peer: Peer) -> None:
        """Read what a peer sent; drop it at end of stream or when it talks nonsense."""
        while peer in self.peers:
            data = wakeup.receive_now(peer.sock)
            if data is None:
                return
            if not data:
                self.on_hang_up(peer)
                self.drop(peer)
                return
            try:
                for message in peer.parser.feed(data):
                    self._dispatch(peer, message)
                    if peer not in self.peers:
                        return  # refused or dropped: what stood behind it is not heard
            except (ProtocolError, KeyError, TypeError, ValueError, OverflowError, OSError) as error:
                self.drop_bad(peer, f"{type(error).__name__}: {error}")
                return
            if len(data) < wakeup.RECV_BYTES:
                return

    def _dispatch(self, peer: Peer, message: dict[str, Any]) -> None:
        if message["op"] == "hello":
            self._greet(peer, message)
        elif not peer.role:
            raise ProtocolError(f"{message['op']!r} before hello")
        elif message["op"] == "bye":
            peer.said_bye = True
        else:
            self._on_message(peer, message)

    # ------------------------------------------------------------ greeting
    def _greet(self, peer: Peer, hello: dict[str, Any]) -> None:
        if peer.role or hello.get("role") not in (CLIENT, READER):
            raise ProtocolError("a second hello, or one without a role")
        if hello.get("version") != PROTOCOL_VERSION:
            version = hello.get("version")
            self._refuse(peer, errors.VersionMismatch(
                f"the writer speaks protocol {PROTOCOL_VERSION}, this client {version}: use one version of raftlog_mp"
            ))  # fmt: skip
            return
        peer.role = hello["role"]
        self.newcomers -= 1
        size = layout.SEAT_BYTES
        if peer.role == CLIENT:
            first = int(hello["first_unresolved"])
            highest_sent = int(hello["highest_sent"])
            peer.producer = int(hello["producer"])
            if not (0 < peer.producer < 1 << 63 and 0 < first < 1 << 62 and highest_sent < 1 << 62):
                raise ProtocolError("hello with a producer or sequence out of range")
            lane_bytes = max(self._config.lane_bytes, min(int(hello.get("lane_bytes", 0)), 1 << 30))
            size = layout.lane_file_bytes(lane_bytes)
        try:
            fd, mapping = shm.create_memfd("raftlog-lane", size)
        except OSError as error:  # not the peer's fault: it will come again
            self.drop(peer)
            self._pause_listening(f"no lane for pid {peer.pid}: {error}")
            return
        try:
            if peer.role == CLIENT:
                self._give_lane(peer, mapping, lane_bytes, first, highest_sent)
            else:
                peer.seat = Seat(mapping)
            self._count()  # before the peer can ask
            wakeup.send_with_fds(peer.sock, pack_message(op="welcome", **self._welcome), [fd])
        except OSError:
            self.drop(peer)
        finally:
            shm.close_fd(fd)

    def _give_lane(self, peer: Peer, mapping: shm.Mapping, lane_bytes: int, first: int, highest_sent: int) -> None:
        peer.lane = LaneConsumer(mapping, lane_bytes)
        peer.seat = peer.lane
        peer.next_sequence = peer.counted_sequence = first  # not at work before it submits
        peer.resumed_until = self._producers.connect(peer.producer, first, highest_sent)
        self.clients.append(peer)

    def _refuse(self, peer: Peer, error: errors.RaftLogError) -> None:
        with contextlib.suppress(OSError):
            wakeup.send_with_fds(peer.sock, pack_message(op="refused", **errors.to_wire(error)), [])
        self.drop(peer)

    # ------------------------------------------------------------ ends
    def drop_bad(self, peer: Peer, why: str) -> None:
        """Drop a peer that broke the rules; it is logged and counted, everybody else goes on."""
        self.dropped += 1
        self._control.dropped_peers.store(self.dropped, shm.RELAXED)
        logger.warning("dropped peer pid %s uid %s: %s", peer.pid, peer.uid, why)
        self.drop(peer)

    def drop(self, peer: Peer) -> None:
        """The connection ended: free the lane.  What it submitted and was drained stays in the log."""
        if peer not in self.peers:
            return
        self.peers.remove(peer)
        if not peer.role:
            self.newcomers -= 1
        self.poller.remove(peer.sock.fileno())
        peer.sock.close()
        if peer.lane is not None:
            self.clients.remove(peer)
            self._producers.disconnect(peer.producer, for_good=peer.said_bye)
        if peer.seat is not None:
            peer.seat.close()
            peer.seat = peer.lane = None
        if not self._listening:
            self.poller.remind(0.0, TEND)  # there is room again
        self.last_change = wakeup.now()
        self._count()

    def _count(self) -> None:
        self._control.clients.store(len(self.clients), shm.RELAXED)
        self._control.readers.store(sum(p.role == READER for p in self.peers), shm.RELAXED)

    def ring_all(self) -> None:
        """A frontier or the state changed: wake whoever waits for that."""
        for peer in self.peers:
            seat = peer.seat
            if seat is not None and seat.wants.load(shm.SEQ_CST) & layout.WANTS_PROGRESS:  # as in Peer.ring
                peer.ring(layout.WANTS_PROGRESS)

    def close(self) -> None:
        """Hang up on everybody and stop listening."""
        wakeup.unlink_socket(self._directory)
        self.poller.remove(self._listener.fileno())
        self._listener.close()
        for peer in list(self.peers):
            self.drop(peer)
        self.poller.close()
