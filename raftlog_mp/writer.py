"""The writer process: one loop that drains lanes, commits, answers, and sleeps.

It alone assigns indexes, writes the shared words and owns the files.  No client and no reader can make it
wait: it copies submissions out of their lanes, believes only the copies, and rings bells without blocking.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from crc32c import crc32c

from . import errors, layout, place, processes, shm, startup, wakeup
from . import format as fmt
from .config import LogConfig
from .files import Files, join
from .flush import seconds_until_flush
from .layout import FLAG_TERM_GIVEN, SUBMISSION, SUBMISSION_BYTES
from .producers import APPENDED, FORGOTTEN
from .recovery import Plan
from .sessions import Peer, Sessions
from .syncer import Syncer
from .types import PersistenceStrategy

logger = logging.getLogger(__name__)

DRAIN_BYTES = 256 * 1024  # of one lane in one round: a flooding client cannot starve the others
LOCK_TRIES = 20
SLEEP_SECONDS_MAX = 1.0  # every wait re-checks, whatever the doorbells said
SWITCH_INTERVAL_SECONDS = 1e-4  # default 5 ms made a sync in a thread take 7.4 ms (p90); 0.3 ms with this


class Writer:
    """The role.  Construct under the log's lock; :meth:`run` serves until told to stop."""

    def __init__(self, directory: str, config: LogConfig | None, *, linger: bool, files: Files | None = None) -> None:
        self.directory = directory
        self.journal, self.plan = startup.open_journal(files or Files(), directory, config)
        self.config = self.journal.config
        self.control = self.journal.control
        self._mem_first = self.config.strategy == PersistenceStrategy.MEM_FIRST
        manifest = self.journal.manifest
        welcome = {
            "generation": self.journal.generation, "log_id": manifest.log_id, "uuid": manifest.uuid,
            "pid": wakeup.process_id(), "folder": self.journal.folder, "config": self.config.as_dict(),
        }  # fmt: skip
        self.sessions = Sessions(directory, self.control, self.config, self.journal.producers, welcome, self._on_message)
        self._syncer: Syncer | None = None
        if self._mem_first:
            processes.set_switch_interval(SWITCH_INTERVAL_SECONDS)
            self._syncer = Syncer()
            self.sessions.poller.add(self._syncer.event.fd, self._syncer)
        self._wake = wakeup.Event()
        self.sessions.poller.add(self._wake.fd, self._wake)
        self._linger = linger
        self._stopping = False
        self._blocked = False  # a submission waits for room
        self._flush_asked = False
        self._oldest = 0.0  # when the oldest unflushed entry arrived
        self._last_activity = wakeup.now()
        self._owing: list[Peer] = []  # peers with answers that wait for a publish
        self.control.state.store(layout.STATE_RUNNING, shm.SEQ_CST)
        startup.supersede(self.journal)

    # ------------------------------------------------------------ loop
    def run(self) -> None:
        """Serve until :meth:`stop`, or until the linger time has passed without a client."""
        while not self._stopping:
            moved = self._drain()
            self._commit(moved)
            self._sleep(0.0 if moved and not self._blocked else self._patience())
            self._check_linger()
        self._shut_down()

    def stop(self, *_: Any) -> None:
        """Ask for an orderly end; safe in a signal handler."""
        self._stopping = True
        self._wake.set()  # a signal alone does not end the wait: Python resumes it

    def _patience(self) -> float:
        """Seconds the loop may sleep: until the next flush, mark or linger check."""
        journal, wait = self.journal, SLEEP_SECONDS_MAX
        if journal.job is None and journal.failure is None:
            wait = min(wait, self._seconds_until_flush())
            if journal.unflushed_entries == 0 and (journal.wants_mark or journal.end > journal.durable):
                wait = min(wait, self._last_activity + self.config.idle_mark_ms / 1000 - wakeup.now())
        return max(wait, 0.0)

    def _sleep(self, seconds: float) -> None:
        poller = self.sessions.poller
        if seconds > 0:
            # Doorbell, sleeper's side: flag SEQ_CST, then every cursor SEQ_CST.  A client stores its cursor, then
            # loads the flag.  Either it sees the flag and rings, or we see its cursor here.
            self.control.writer_sleeping.store(1, shm.SEQ_CST)
            if not self._blocked and any(p.lane and p.lane.tail.load(shm.SEQ_CST) != p.lane.head for p in self.sessions.clients):
                seconds = 0.0
        ready = poller.wait(seconds)
        if seconds > 0:
            self.control.writer_sleeping.store(0, shm.SEQ_CST)
        if ready:
            if self._syncer is not None and self._syncer in ready:
                self._syncer.event.clear()
                self._finish_background_flush()
            self.sessions.handle(ready)

    def _check_linger(self) -> None:
        if self._linger and not self.sessions.peers:
            idle = wakeup.now() - self.sessions.last_change
            if idle >= self.config.linger_s:
                logger.info("no client for %.1f s: stopping", idle)
                self._stopping = True

    # ------------------------------------------------------------ submissions
    def _drain(self) -> bool:
        """Take what the lanes hold, round robin with a byte budget; True if anything was taken."""
        moved, self._blocked = False, False
        for peer in list(self.sessions.clients):
            lane = peer.lane
            if lane is None:
                continue
            tail = lane.tail.load(shm.ACQUIRE)  # pairs with the client's store: the bytes below it are there
            if tail != lane.head:
                if not 0 < tail - lane.head <= lane.lane_bytes:
                    self.sessions.drop_bad(peer, f"lane cursor {tail} out of range")
                    continue
                moved |= self._take(peer, lane, tail)
        clients = self.sessions.clients
        if len(clients) > 1:
            clients.append(clients.pop(0))  # the next round starts with the next lane
        return moved

    def _take(self, peer: Peer, lane: Any, tail: int) -> bool:
        """Execute submissions of one lane from a private copy of its bytes."""
        start = lane.head
        chunk = lane.copy(start, min(tail, start + DRAIN_BYTES))
        at, size = 0, len(chunk)
        while at + SUBMISSION_BYTES <= size:
            fields = SUBMISSION.unpack_from(chunk, at)
            end = at + SUBMISSION_BYTES + fields[0]
            if end > size:
                if start + end > tail:
                    self.sessions.drop_bad(peer, f"submission of {fields[0]} bytes ends beyond the lane's cursor")
                    return at > 0
                if at > 0:
                    break  # the rest comes in the next round
                chunk = lane.copy(start, start + end)
                size = len(chunk)
            if fields[6] != peer.next_sequence:
                self.sessions.drop_bad(peer, f"sequence {fields[6]} where {peer.next_sequence} was due")
                return at > 0
            answer = self._execute(peer, fields, chunk[at + SUBMISSION_BYTES : end])
            if answer is None:
                self._blocked = True  # no room now: it stays in the lane, nothing is lost or dropped
                break
            if not peer.answers:
                self._owing.append(peer)
            peer.answers.append(answer)
            peer.next_sequence += 1
            at = end
        lane.head = start + at
        return at > 0

    def _execute(self, peer: Peer, fields: tuple[int, ...], body: bytes) -> tuple[int, int, int, int, int, int] | None:
        """Decide one submission; None if there is no room for it now."""
        length, kind, flags, count, body_crc, term, sequence, _, _ = fields
        journal = self.journal
        if sequence <= peer.resumed_until:
            verdict, outcome = journal.producers.look_up(peer.producer, sequence)
            if verdict == APPENDED and outcome is not None and (
                journal.failure is None or outcome.first_index <= journal.published_index
            ):
                return sequence, layout.OK, outcome.first_index, outcome.count, outcome.term, 0
            if verdict == FORGOTTEN:
                return sequence, layout.UNKNOWN, 0, 0, 0, 0
        if journal.failure is not None:
            return sequence, layout.SYNC_FAILED, 0, 0, 0, journal.failure.errno or 0
        refusal = self._refusal(kind, count, body, body_crc)
        if refusal is not None:
            return sequence, refusal[0], 0, 0, 0, refusal[1]
        last_term = journal.last_term
        if flags & FLAG_TERM_GIVEN:
            current = max(last_term, self.control.hard_term.load(shm.RELAXED))
            if term < current:
                return sequence, layout.STALE_TERM, 0, 0, current, 0
        elif self.control.hard_term.load(shm.RELAXED):
            return sequence, layout.TERM_REQUIRED, 0, 0, last_term, 0
        else:
            term = last_term or 1
        return self._append(body, body_crc, count, term, peer.producer, sequence)

    def _append(
        self, body: bytes, body_crc: int, count: int, term: int, producer: int, sequence: int
    ) -> tuple[int, int, int, int, int, int] | None:
        journal = self.journal
        try:
            if not journal.fits(len(body), count):
                if self._mem_first:
                    self._start_background_flush()  # a full ring flushes whatever the policy says
                    return None
                self._flush_and_publish()
            if journal.needs_roll(len(body), count):
                journal.roll(len(body), count)
        except errors.SyncFailed as failed:
            return sequence, layout.SYNC_FAILED, 0, 0, 0, failed.errno or 0
        except errors.DiskFull as full:
            return sequence, layout.DISK_FULL, 0, 0, 0, full.errno or 0
        if journal.unflushed_entries == 0:
            self._oldest = wakeup.now()
        first = journal.append(body, body_crc, count, term, producer, sequence)
        return sequence, layout.OK, first, count, term, 0

    def _refusal(self, kind: int, count: int, body: bytes, body_crc: int) -> tuple[int, int] | None:
        """Why the copy of a submission is not acceptable, as (status, detail); None if it is."""
        if kind != layout.SUBMIT_APPEND or count < 1 or crc32c(body) != body_crc:
            return layout.MALFORMED, 0
        limit = self.config.entry_bytes_limit
        if count == 1:
            return (layout.TOO_LARGE, limit) if len(body) > limit else None
        if len(body) > self.config.batch_bytes_limit:
            return layout.TOO_LARGE, self.config.batch_bytes_limit
        try:
            payloads = fmt.unpack_body(body, count)
        except ValueError:
            return layout.MALFORMED, 0
        return (layout.TOO_LARGE, limit) if max(map(len, payloads)) > limit else None

    # ------------------------------------------------------------ commit
    def _commit(self, moved: bool) -> None:
        """Make what was taken visible, and durable when the policy says so; then answer."""
        journal = self.journal
        if moved:
            self._last_activity = wakeup.now()
        if journal.failure is not None:
            self._fail_unpublished()
            return
        try:
            if self._mem_first:
                if journal.end > journal.published:
                    journal.copy_to_ring()
                    journal.publish()
                    self._answer()
                    self.sessions.ring_all()
                if journal.job is None and self._flush_due():
                    self._start_background_flush()
            elif self._flush_due():
                self._flush_and_publish()
            self._idle_mark()
        except errors.SyncFailed:
            self._fail_unpublished()
        if journal.end == journal.published:
            self._answer()

    def _seconds_until_flush(self) -> float:
        if self._flush_asked:
            return 0.0
        age = wakeup.now() - self._oldest
        return seconds_until_flush(self.config.flush_policy, self.journal.unflushed_entries, age)

    def _flush_due(self) -> bool:
        journal = self.journal
        if journal.failure is not None or journal.end == journal.durable:
            self._flush_asked = False
            return False
        return self._seconds_until_flush() <= 0

    def _flush_and_publish(self) -> None:
        self._flush_asked = False
        self.journal.flush()
        self.journal.publish()
        self._answer()
        self.sessions.ring_all()

    def _start_background_flush(self) -> None:
        journal = self.journal
        journal.copy_to_ring()
        if journal.job is None and journal.copied > journal.written and self._syncer is not None:
            self._flush_asked = False
            journal.publish()
            self._oldest = wakeup.now()
            journal.job = journal.make_job()
            self._syncer.submit(journal.job)

    def _finish_background_flush(self) -> None:
        job = self.journal.job
        if job is not None and job.finished is not None and job.finished.is_set():
            try:
                self.journal.finish_job()
            except errors.SyncFailed:
                pass  # latched; the next submission and every waiter is told
            self.sessions.ring_all()

    def _idle_mark(self) -> None:
        """After a while without work: vouch on disk for everything that is durable."""
        journal = self.journal
        if journal.job is not None or journal.failure is not None or journal.unflushed_entries:
            return
        if (wakeup.now() - self._last_activity) * 1000 < self.config.idle_mark_ms:
            return
        if journal.wants_mark:
            journal.mark()
            self.control.marks.store(journal.marks, shm.RELAXED)
        if journal.end > journal.durable:
            journal.flush()
            journal.publish()

    def _answer(self) -> None:
        """Post completions: everything up to here is published (and durable, if the strategy says so)."""
        for peer in self._owing:
            answers, peer.answers = peer.answers, []
            if peer.lane is not None and answers:
                peer.lane.complete(answers)
                peer.ring(layout.WANTS_ANSWERS)
        self._owing.clear()

    def _fail_unpublished(self) -> None:
        """The sync failed: what was not published before was not appended, as far as anybody may rely on it."""
        code = self.journal.failure.errno if self.journal.failure is not None else 0
        published = self.journal.published_index
        for peer in self._owing:
            peer.answers = [
                (a[0], layout.SYNC_FAILED, 0, 0, 0, code or 0) if a[1] == layout.OK and a[2] > published else a
                for a in peer.answers
            ]
        self._answer()
        self.sessions.ring_all()

    # ------------------------------------------------------------ messages and end
    def _on_message(self, peer: Peer, message: dict[str, Any]) -> None:
        if message["op"] == "flush":
            self._flush_asked = True
        elif message["op"] == "stop":
            logger.info("asked to stop by pid %s", peer.pid)
            self._stopping = True
        else:
            self.sessions.drop_bad(peer, f"unknown message {message['op']!r}")

    def _shut_down(self) -> None:
        """Drain once more, flush, answer, seal, and say that this was on purpose."""
        journal = self.journal
        try:
            while self._drain():
                self._commit(True)
                if self._blocked:
                    journal.flush()
            journal.flush()
            journal.publish()
        except errors.SyncFailed:
            self._fail_unpublished()
        self._answer()
        if self._syncer is not None:
            self.sessions.poller.remove(self._syncer.event.fd)
            self._syncer.close()
        clean = journal.failure is None
        journal.close(clean=clean)
        if clean:
            self.control.state.store(layout.STATE_STOPPED, shm.SEQ_CST)
        self.sessions.ring_all()
        self.sessions.close()
        self._wake.close()


def take_lock(files: Files, directory: str) -> int:
    """The log's lock, held as long as the descriptor is open.  :class:`LogLocked` names the holder."""
    path = join(directory, fmt.LOCK_NAME)
    if files.exists(join(directory, fmt.MANIFEST_NAME)) and not files.exists(path):
        raise fmt.corrupt(f"{path} is missing from an existing log", segment=fmt.LOCK_NAME)
    try:
        fd = files.open(path, write=True, create=True)
    except PermissionError:
        raise errors.AccessDenied(f"{path} cannot be written by user {wakeup.user_id()}") from None
    tries = 0
    while not files.lock(fd):  # lock_held() of another process takes it for an instant: so try for a moment
        tries += 1
        if tries < LOCK_TRIES:
            wakeup.pause(0.005)
            continue
        holder = files.pread(fd, 32, 0).split(b"\n")[0].decode("ascii", "replace")
        files.close(fd)
        pid = int(holder) if holder.isdigit() else None
        raise errors.LogLocked(
            f"{directory} is owned by the writer process {pid}; connect with open_log(), or stop it with "
            f"`raftlog-mp stop {directory}`", pid=pid,
        )  # fmt: skip
    files.pwrite(fd, f"{wakeup.process_id()}\n".encode().ljust(32, b"\0"), 0)
    return fd


def serve(
    directory: str, config: LogConfig | None, *, linger: bool, interrupt: bool, on_ready: Callable[[Writer], None]
) -> Plan:
    """Own the log at ``directory`` and serve it until stopped.  Raises the reason if it cannot."""
    files = Files()
    place.check_place(files, directory, create=True)
    place.prepare_directory(files, directory)
    lock = take_lock(files, directory)
    try:
        writer = Writer(directory, config, linger=linger, files=files)
        processes.on_signals(writer.stop, interrupt=interrupt)
        on_ready(writer)
        writer.run()
        return writer.plan
    finally:
        files.close(lock)


