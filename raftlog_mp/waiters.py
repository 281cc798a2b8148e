"""Several threads of one handle wait on one socket: one of them, the leader, sleeps for all."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from . import layout, shm, wakeup
from .lane import Seat
from .patience import Patience
from .protocol import BELL

Ready = Callable[[], bool]
SLEEP_SECONDS_MAX = 1.0  # every wait re-checks, whatever the doorbells said


def _has_news(ready: Ready) -> bool:
    """Another thread's condition: true, or an error that only that thread may raise."""
    try:
        return ready()
    except Exception:
        return True


class Waiters:
    """Who waits in this process for bells of one connection.  The seat's ``wants`` word is written only here."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._led = False
        self._followers: list[tuple[Ready, threading.Event, int]] = []
        self._seat: Seat | None = None  # the one that is armed
        self._armed = 0
        self._sleeps = 0
        self._luck = Patience()

    def turn(
        self, ready: Ready, timeout: float, wants: int, seat: Seat, sleeper: wakeup.Sleeper, sock: Any,
        hear: Callable[[Any], None], spin: float,
    ) -> None:  # fmt: skip
        """Wait once, as the leader or behind one; the caller looks afterwards whether it is ``ready()``.

        ``hear(sock)`` takes what arrived, and may find that the writer hung up.  ``spin``: seconds the leader looks
        before it sleeps; worth it only where nobody else needs the core.
        """
        leads, follower = False, None
        try:
            with self._mutex:
                if not self._led:
                    leads = self._led = True
                else:
                    follower = (ready, threading.Event(), wants)
                    self._followers.append(follower)
                    if self._armed and self._seat is not None:
                        self._arm(self._seat, self._armed | wants)
            if follower is None:
                if not (spin and self._luck.looks() and self._spin(ready, spin)):
                    self._lead(ready, timeout, wants, seat, sleeper, sock, hear)
            elif not ready():  # again, after the bits were armed: what came before them rang no bell
                follower[1].wait(max(timeout, 0.0))
        finally:
            if leads:
                # A bare store, before any call that a signal could interrupt: a lead that nobody has is never handed
                # over.  Whoever saw it taken is among the followers when _hand_over has the mutex.
                self._led = False
                self._hand_over()
            elif follower is not None:
                with self._mutex:
                    if follower in self._followers:
                        self._followers.remove(follower)

    def alone(
        self, word: Callable[[int], int], seen: int, spin: float, deadline: float, sleeper: wakeup.Sleeper, seat: Seat,
        sock: Any, heard: Callable[[Any, bytes | None], None], bits: int = layout.WANTS_ANSWERS,
    ) -> None:  # fmt: skip
        """:meth:`turn` in one go: wait once while ``word(order)`` is ``seen``, if nobody else waits.

        ``heard(sock, data)`` takes what arrived and is no bell.  Afterwards the caller looks at the word in any case.
        """
        if spin and self._luck.looks():
            # Not as the leader: several threads may look at once, each at its own word.  Their luck is common; it is
            # a guess, and between its loads and stores is no call at which Python would change threads.
            until = min(wakeup.now() + spin, deadline)
            while word(shm.SEQ_CST) == seen:
                if wakeup.now() >= until:
                    self._luck.learn(lucky=False)
                    break
            else:
                self._luck.learn(lucky=True)
                return
        wants, leads = seat.wants.store, False
        try:
            with self._mutex:
                if self._led or self._followers:
                    return
                leads = self._led = True
                self._sleeps = sleeps = self._sleeps + 1
                self._seat, self._armed = seat, sleeps << 2 | bits
                wants(self._armed, shm.SEQ_CST)  # as in _arm
            # The re-check after arming, as in _lead.  Who comes to wait behind us now arms its bits, and looks itself.
            if word(shm.SEQ_CST) == seen and sleeper.sleep(min(deadline - wakeup.now(), SLEEP_SECONDS_MAX)):
                data = wakeup.receive_now(sock)  # while we lead: later it could be the next leader's bell
                if data != BELL:
                    heard(sock, data)
            with self._mutex:
                self._armed = 0
                wants(0, shm.SEQ_CST)
                if not self._followers:
                    leads = self._led = False
        except (OSError, ValueError):
            heard(sock, wakeup.receive_now(sock))  # as in _lead
        finally:
            if leads:
                self._led = False  # as in turn
                self._hand_over()

    def _spin(self, ready: Ready, seconds: float) -> bool:
        """Look for a while without sleeping; True if the condition came true."""
        until = wakeup.now() + seconds
        while not ready():
            if wakeup.now() >= until:
                self._luck.learn(lucky=False)
                return False
        self._luck.learn(lucky=True)
        return True

    def _lead(
        self, ready: Ready, timeout: float, wants: int, seat: Seat, sleeper: wakeup.Sleeper, sock: Any,
        hear: Callable[[Any], None],
    ) -> None:  # fmt: skip
        try:
            with self._mutex:
                self._sleeps += 1
                for _, _, bits in self._followers:
                    wants |= bits
                self._arm(seat, self._sleeps << 2 | wants)
            # The re-check after arming: a cursor stored before the writer could see our flag is seen here.
            if not ready() and not (self._followers and self._any_follower_ready()):
                sleeper.sleep(timeout)
            with self._mutex:
                self._arm(seat, 0)
            hear(sock)
        except (OSError, ValueError):
            hear(sock)  # the socket or the seat was closed under us, or ready() raised: the caller looks again

    def _arm(self, seat: Seat, value: int) -> None:
        """Store the sleep flag.  The mutex is held, so one thread of this process writes it at a time.

        SEQ_CST: the flag, then (in ``ready``) the cursors; the writer stores a cursor, then loads the flag.
        """
        if seat is not self._seat or value != self._armed:
            seat.wants.store(value, shm.SEQ_CST)
        self._seat, self._armed = seat, value

    def _any_follower_ready(self) -> bool:
        with self._mutex:
            followers = list(self._followers)
        return any(_has_news(ready) for ready, _, _ in followers)

    def _hand_over(self) -> None:
        """The leader has left: wake those whose condition came true, and one more to lead."""
        with self._mutex:
            if not self._followers:
                return
            followers = list(self._followers)
        for ready, event, _ in followers:
            if _has_news(ready):
                event.set()
        for _, event, _ in followers:
            if not event.is_set():
                event.set()
                return

    def pass_on(self) -> None:
        """Who was woken to lead but need not wait any more wakes the next."""
        if self._followers and not self._led:
            with self._mutex:
                if self._followers:
                    self._followers[0][1].set()

    def wake_all(self) -> None:
        """Let every follower look again."""
        with self._mutex:
            for _, event, _ in self._followers:
                event.set()
