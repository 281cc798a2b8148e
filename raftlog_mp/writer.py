"""The writer process: one loop that drains lanes, commits, answers, and sleeps.

It alone assigns indexes, writes the shared words and owns the files.  No client and no reader can make it
wait: it copies submissions out of their lanes, believes only the copies, and rings bells without blocking.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

from . import errors, layout, place, processes, shm, startup, wakeup
from .completions import Completions
from .config import Batch, LogConfig
from .files import Files
from .findings import Plan
from .grouping import Grouping
from .intake import GATHER_ROUNDS, Intake
from .lock import take_lock
from .patience import WAKE_UP_SECONDS, Patience, seconds_to_spin
from .preparation import Prefault
from .relief import Relief
from .scrubber import Scrubber
from .sessions import Peer, Sessions
from .straight_round import straight_round
from .sweeper import Sweeper
from .syncer import Syncer
from .types import PersistenceStrategy

logger = logging.getLogger(__name__)

BUSY_ROUNDS = 8  # rounds of work between two looks at the sockets
SLEEP_SECONDS_MAX = 1.0  # every wait re-checks, whatever the doorbells said
COUNT_SECONDS = 0.02  # between two counts of the clients at work, on which spinning depends
SWITCH_INTERVAL_SECONDS = 1e-4  # default 5 ms made a sync in a thread take 7.4 ms (p90); 0.3 ms with this


class Writer:
    """The role.  Construct under the log's lock; :meth:`run` serves until told to stop."""

    def __init__(self, directory: str, config: LogConfig | None, *, linger: bool, files: Files | None = None) -> None:
        self.directory = directory
        self.journal, self.plan = startup.open_journal(files or Files(), directory, config)
        self.config = self.journal.config
        self.control = self.journal.control
        self._mem_first = self.config.strategy == PersistenceStrategy.MEM_FIRST
        manifest, producers = self.journal.manifest, self.journal.producers
        welcome = {
            "generation": self.journal.generation, "log_id": manifest.log_id, "uuid": manifest.uuid,
            "pid": wakeup.process_id(), "folder": self.journal.folder, "config": self.config.as_dict(),
        }  # fmt: skip
        self.sessions = Sessions(directory, self.control, self.config, producers, welcome, self._on_message)
        self._syncer: Syncer | None = None
        if self._mem_first:
            startup.preload(self.journal)
            self._syncer = Syncer()
            self.sessions.poller.add(self._syncer.event.fd, self._syncer)
        self.journal.bell = self._syncer.event.set if self._syncer is not None else lambda: None
        rate = self.config.scrub_bytes_per_s
        self._scrubber = Scrubber(directory, manifest.log_id, rate) if rate else None
        if self._mem_first or rate:
            processes.set_switch_interval(SWITCH_INTERVAL_SECONDS)
        self._prefault = Prefault(self.journal.ring.mapping)
        self._sweeper = Sweeper(self.journal.files, directory)
        self._sweeper.remove(self.journal.take_dead())
        self._wake = wakeup.Event()
        self.sessions.poller.add(self._wake.fd, self._wake)
        self._intake = Intake(self.journal, self.sessions, self._make_room)
        self._grouping = Grouping(self._intake)
        self.sessions.on_hang_up = self._intake.drain_last
        self._spin_seconds, self._cores = 0.0, wakeup.cores()
        self._count_at, self._luck = 0.0, Patience()
        self._relief = Relief(self.journal)
        self._relief.look()  # before anybody is served: the level outlives a writer
        self._completions = Completions(self._intake, self.sessions, self._relief)
        self._straight = straight_round(self._intake, self._completions, self._relief, self._grouping)
        self._linger, self._stopping, self._last_state = linger, False, layout.STATE_STOPPED
        self._flush_asked, self._last_activity = False, wakeup.now()
        self.control.state.store(layout.STATE_RUNNING, shm.SEQ_CST)
        startup.supersede(self.journal)

    # ------------------------------------------------------------ loop
    def run(self) -> None:
        """Serve until :meth:`stop`, or until the linger time has passed without a client."""
        rounds = 0  # since the sockets were looked at
        if self._scrubber is not None:
            self._scrubber.tend(self.journal.manifest, self.control)
            self._scrubber.start()
        while not self._stopping:
            moved = self._go_straight()
            if not moved:
                moved = moved is not None and self._drain()
                self._commit(moved)
            if self._relief.look():
                self.sessions.ring_all()
            rounds += 1
            busy = moved and not self._intake.blocked
            if rounds < BUSY_ROUNDS and (busy or self._spin()):
                continue  # more may have arrived meanwhile; sockets are looked at every few rounds
            rounds = 0
            self._sleep(0.0 if busy else self._patience())
            if self._linger:
                self._check_linger()
        self._shut_down()

    def _go_straight(self) -> bool | None:
        """Most rounds, in one go; None if there is nothing to do, False, and nothing done, if this is none of those."""
        try:
            done = self._straight()
            if not done:
                return done
        except errors.SyncFailed:
            self._fail_unpublished()
        if self._mem_first:
            self._commit(True)  # its flush is left
        else:
            self._last_activity = wakeup.now()
        return True

    def _drain(self) -> bool:
        """Take what the lanes hold; in DiskFirst what arrived meanwhile shares its fsync."""
        moved = self._intake.drain()
        for _ in range(GATHER_ROUNDS if moved and not self._mem_first else 0):
            if self._intake.blocked or not self._intake.waiting():
                break
            self._intake.drain()
        return moved

    def stop(self, *_: Any) -> None:
        """Ask for an orderly end; safe in a signal handler."""
        self._stopping = True
        self._wake.set()  # a signal alone does not end the wait: Python resumes it

    def _patience(self) -> float:
        """Seconds the loop may sleep: until the next flush, step of a flood's pace, mark or linger check."""
        journal, wait = self.journal, min(SLEEP_SECONDS_MAX, self._relief.seconds_until_answers())
        if self._intake.blocked:
            wait = min(wait, self._intake.pacing.seconds_until_more())
        if self.sessions.peers:  # memory pressure is nobody's business while nobody is there
            wait = min(wait, self._relief.seconds_until_look())
        if journal.job is None and journal.failure is None:
            wait = min(wait, self._seconds_until_flush())
            if journal.unflushed_entries == 0 and (journal.wants_mark or journal.end > journal.durable):
                wait = min(wait, self._last_activity + self.config.idle_mark_ms / 1000 - wakeup.now())
        return max(wait, 0.0)

    def _sleep(self, seconds: float) -> None:
        poller = self.sessions.poller
        self._completions.ring_late()
        self._count_busy()
        if seconds > 0:
            seconds = self._grouping.look(seconds)
        if seconds > 0:
            # Doorbell, sleeper's side: flag SEQ_CST, then every cursor SEQ_CST.  A client stores its cursor, then
            # loads the flag.  Either it sees the flag and rings, or we see its cursor here.
            self.control.writer_sleeping.store(1, shm.SEQ_CST)
            if self._intake.waiting():
                seconds = 0.0
        ready = poller.wait(seconds)
        if seconds > 0:
            self.control.writer_sleeping.store(0, shm.SEQ_CST)
            self._go_straight()  # who rang waits for this, and not for its bell to be read
        if ready:
            if self._syncer is not None and self._syncer in ready:
                self._syncer.event.clear()
                self._finish_background_flush()
            self.sessions.handle(ready)

    def _spin(self) -> bool:
        """Look at the lanes for a while before sleeping, if everybody who is at work has a core."""
        if self._spin_seconds <= 0 or self._intake.blocked or (self.journal.unflushed_entries and not self._mem_first):
            return False  # the last: a group gathers before its fsync, and its policy says how to wait
        if not self._luck.looks():
            return False
        lucky, until = False, wakeup.now() + self._spin_seconds
        while not lucky and wakeup.now() < until:
            lucky = self._intake.waiting()
        self._luck.learn(lucky=lucky)
        return lucky

    def _count_busy(self) -> None:
        """Tell clients, now and then, how long looking is better than sleeping."""
        now = wakeup.now()
        if now < self._count_at:
            return
        self._count_at = now + COUNT_SECONDS
        if self._scrubber is not None:
            self._scrubber.tend(self.journal.manifest, self.control)
        self.journal.prepare_in_time()
        busy = self._intake.count_active() + len(self.sessions.peers) - len(self.sessions.clients)
        patience, cores = self.config.spin_us / 1e6, self._cores
        waits_for_sync = not self._mem_first and not isinstance(self.config.flush_policy, Batch)
        self._spin_seconds = seconds_to_spin(patience, busy, cores, 0.0) if self.sessions.clients else 0.0
        answer = WAKE_UP_SECONDS + (self.journal.sync_seconds if waits_for_sync else 0.0)
        seconds = seconds_to_spin(patience, busy, cores, answer)
        self.control.spin_ns.store(int(seconds * 1e9), shm.RELAXED)

    def _check_linger(self) -> None:
        if not self.sessions.peers and self.journal.failure is None:  # a failed one stays until it is told to go
            idle = wakeup.now() - self.sessions.last_change
            if idle >= self.config.linger_s:
                logger.info("no client for %.1f s: leaving", idle)
                self._last_state, self._stopping = layout.STATE_LEFT, True

    # ------------------------------------------------------------ commit
    def _commit(self, moved: bool) -> None:
        """Make what was taken visible, and durable when the policy says so; then answer."""
        journal = self.journal
        if moved:
            self._last_activity = wakeup.now()
            self._grouping.arrivals()
        if journal.failure is not None:
            self._fail_unpublished()
            return
        try:
            if self._mem_first:
                if journal.end > journal.published:
                    journal.copy_to_ring()
                    journal.publish()
                    self._completions.post()
                    self.sessions.ring_all()
                if journal.job is None and self._flush_due():
                    self._start_background_flush()
            else:
                due = self._flush_due()
                if due and not self._gathers():
                    self._flush_and_publish()
                else:
                    if not due:
                        self._completions.ring_late()
                    journal.copy_to_ring()  # a batch policy gathers in the ring, not in this process's memory
                    journal.tell_unflushed()
            if not moved:
                self._idle_mark()
        except errors.SyncFailed:
            self._fail_unpublished()
        if self._intake.owing and journal.end == journal.published:
            self._completions.post()
        if self._intake.orders.news:
            self._intake.orders.news = False
            self._flush_asked = journal.end > journal.published  # its answer must not wait for a batch to fill
            self.sessions.ring_all()
            self._sweeper.remove(journal.take_dead())

    def _seconds_until_flush(self) -> float:
        if self._flush_asked or self._relief.level:  # under pressure nothing waits for its group to fill
            return 0.0
        return self._grouping.seconds_until_flush()

    def _flush_due(self) -> bool:
        journal = self.journal
        if journal.failure is not None or journal.end == journal.durable:
            self._flush_asked = False
            return False
        return self._seconds_until_flush() <= 0

    def _gathers(self) -> bool:
        """DiskFirst: more waits in the lanes, and taking it has not cost as much time yet as the sync that it saves."""
        if self._flush_asked or wakeup.now() - self._intake.oldest >= self.journal.sync_seconds:
            return False
        return not self._intake.blocked and self._intake.waiting()

    def _make_room(self) -> bool:
        """A full ring flushes whatever the policy says.  DiskFirst waits for it here, MemFirst in the lane."""
        if self._mem_first:
            self._start_background_flush()
            return False
        self._flush_and_publish()
        return True

    def _flush_and_publish(self) -> None:
        self._flush_asked = False
        self._grouping.flushing()
        self.journal.flush(self._completions.ring_late)
        self._grouping.flushed(self._intake.owing)
        self.journal.publish()
        self._intake.oldest = wakeup.now()  # of what follows in this round, if a full ring made us flush in the middle
        self._completions.post_and_tell()

    def _start_background_flush(self) -> None:
        journal = self.journal
        journal.copy_to_ring()
        if journal.job is None and journal.owes_work and self._syncer is not None:
            self._flush_asked = False
            journal.publish()
            self._intake.oldest = wakeup.now()
            self._grouping.flushing()
            journal.job = journal.make_job()
            self._syncer.submit(journal.job)

    def _finish_background_flush(self) -> None:
        job = self.journal.job
        if job is not None and job.finished is not None and job.finished.is_set():
            try:
                self.journal.finish_job()
                self._grouping.flushed(self._intake.owing)
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

    def _fail_unpublished(self) -> None:
        """The sync failed: what was not published before was not appended, as far as anybody may rely on it."""
        failure, published = self.journal.failure, self.journal.published_index
        code = failure.errno if failure is not None else 0
        for peer in self._intake.owing:
            peer.answers = [
                (a[0], layout.SYNC_FAILED, 0, 0, 0, code or 0) if a[1] == layout.OK and a[2] > published else a
                for a in peer.answers
            ]
        self._completions.post()
        self.sessions.ring_all()

    # ------------------------------------------------------------ messages and end
    def _on_message(self, peer: Peer, message: dict[str, Any]) -> None:
        if message["op"] == "flush":
            # What stands in the lanes came before the request: it is part of what has to be flushed.
            self._intake.drain()
            self._flush_asked = True
        elif message["op"] == "stop":
            logger.info("asked to stop by pid %s", peer.pid)
            self._stopping = True
        else:
            self.sessions.drop_bad(peer, f"unknown message {message['op']!r}")

    def _shut_down(self) -> None:
        """Drain once more, flush, answer, seal, and say that this was on purpose."""
        journal = self.journal
        self._relief.end()
        self._intake.pacing.stop()
        self._prefault.close()
        journal.stop_preparing()
        try:
            while self._intake.drain():
                self._commit(True)
                if self._intake.blocked:
                    journal.flush()
            journal.flush()
            journal.publish()
        except errors.SyncFailed:
            self._fail_unpublished()
        except errors.DiskFull as full:  # from memory it was acknowledged; there it stays for the next start
            logger.warning("%s; what is not durable yet stays in %s", full, journal.folder)
        self._completions.post()
        if self._syncer is not None:
            self.sessions.poller.remove(self._syncer.event.fd)
            self._syncer.close()
        self._sweeper.remove(journal.take_dead())
        self._sweeper.close()
        if self._scrubber is not None:
            self._scrubber.close()
        try:
            journal.close(clean=journal.failure is None)
        except errors.SyncFailed as failed:
            logger.error("%s", failed)
            journal.close(clean=False)
        if not journal.manifest.clean and journal.failure is None:
            logger.warning("no space to finish %s in order; nothing is lost", self.directory)
        if journal.failure is None or journal.failure_saved:  # else these words alone tell the next start of it
            self.control.state.store(self._last_state, shm.SEQ_CST)
        self.sessions.ring_all()
        self.sessions.close()
        self._wake.close()


def serve(
    directory: str, config: LogConfig | None, *, linger: bool, interrupt: bool, on_ready: Callable[[Writer], None],
    files: Files | None = None,
) -> Plan:  # fmt: skip
    """Own the log at ``directory`` and serve it until stopped.  Raises the reason if it cannot."""
    files = files or Files()
    place.check_place(files, directory, create=True)
    place.check_owner(files, directory)
    place.prepare_directory(files, directory)
    lock = take_lock(files, directory)
    try:
        writer = Writer(directory, config, linger=linger, files=files)
        processes.on_signals(writer.stop, interrupt=interrupt)
        on_ready(writer)
        gc.freeze()  # modules and types stay for ever: a full collection that walks them stops everybody for 25 ms
        writer.run()
        return writer.plan  # the lock goes with the process: nobody takes the log over while this one still lives
    except BaseException:
        files.close(lock)
        raise
