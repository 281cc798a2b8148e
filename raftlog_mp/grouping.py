"""When the writer's next flush is due: the policy's decision, fed with what the intake and the journal know."""

from __future__ import annotations

from collections.abc import Iterable

from . import wakeup
from .adaptive import Gathering
from .config import Adaptive, Immediate
from .flush import NEVER, seconds_until_flush
from .intake import Intake
from .patience import Patience
from .sessions import Peer
from .types import PersistenceStrategy

LOOK_SECONDS = 1e-3  # longer waits are slept through: waking up costs little beside them
LOST_CORE_SECONDS = 2e-4  # who gives way and is back only after this long has lost the core to somebody who works


class Grouping:
    """Asked by the writer's loop, and told of every flush."""

    def __init__(self, intake: Intake) -> None:
        self._intake, self._journal, self._policy = intake, intake.journal, intake.config.flush_policy
        self._answers_wait = intake.config.strategy == PersistenceStrategy.DISK_FIRST
        self._gathering: Gathering | None = None
        if isinstance(self._policy, Adaptive):
            self._gathering = Gathering(self._policy.target_ms / 1000)
        self._immediate = isinstance(self._policy, Immediate)
        self._told = self._journal.appends
        self._looks = self._answers_wait and intake.config.spin_us > 0
        self._luck = Patience()

    def arrivals(self) -> None:
        """Submissions may have been taken."""
        if self._gathering is not None:
            appends = self._journal.appends
            self._gathering.arrived(wakeup.now(), appends - self._told)
            self._told = appends

    def seconds_until_flush(self) -> float:
        """0 = now, ``NEVER`` = nothing to flush."""
        unflushed = self._journal.unflushed_entries
        if self._immediate and unflushed > 0:
            return 0.0
        if self._gathering is None:
            return seconds_until_flush(self._policy, unflushed, wakeup.now() - self._intake.oldest)
        if unflushed > 0:
            return self._gathering.seconds_until_flush(wakeup.now())
        self._gathering.settled()
        return NEVER

    def goes_at_once(self, submissions: int) -> bool:
        """Whether so many, taken just now where nothing else waits for a flush, need not wait for others."""
        return self._gathering is None or self._gathering.due_with(wakeup.now(), submissions)

    def flushing(self) -> None:
        """A flush of everything taken so far begins."""
        self._intake.pacing.begin()
        if self._gathering is not None:
            self.arrivals()
            self._gathering.flushing(wakeup.now())

    def flushed(self, covered: Iterable[Peer]) -> None:
        """It succeeded; in DiskFirst none of those ``covered`` was answered yet."""
        self._intake.pacing.end()
        gathering = self._gathering
        if gathering is None:
            return
        now = wakeup.now()
        if self._answers_wait:
            missed = self._missed(self._intake.count_waiting(), covered)
        else:
            self.arrivals()
            missed = gathering.group
        gathering.flushed(now, missed)

    def went_at_once(self, began: float, seconds: float, waiting: int, covered: Iterable[Peer]) -> None:
        """DiskFirst: what :meth:`goes_at_once` was asked about was flushed then, while so many clients came.

        To be told when they are answered: the same as :meth:`arrivals`, :meth:`flushing` and :meth:`flushed`.
        """
        gathering, appends = self._gathering, self._journal.appends
        if gathering is not None:
            gathering.arrived(began, appends - self._told)
            self._told = appends
            gathering.flushing(began)
            gathering.flushed(began + seconds, self._missed(waiting, covered))

    def _missed(self, waiting: int, covered: Iterable[Peer]) -> float:
        """Submissions of clients that wait in a lane now, so they came during the fsync; nobody was answered yet.

        As many each as those in the group were.
        """
        assert self._gathering is not None
        return waiting * self._gathering.under_way / max(1, len(set(covered)))

    def look(self, seconds: float) -> float:
        """Look for others to join the group for at most ``seconds``; returns how many are left to sleep.

        Who appends with DiskFirst waits for this fsync, and the next submission is a wake-up's time away: looking
        beats sleeping.  It gives way after each look, so it takes no core from anybody: if the core was wanted, the
        next waits are slept through.
        """
        if self._gathering is None or not self._looks or not self._journal.unflushed_entries or seconds > LOOK_SECONDS:
            return seconds
        if self._intake.blocked or not self._luck.looks():
            return seconds
        now = wakeup.now()
        until = now + seconds
        while not self._intake.waiting():
            wakeup.give_way()
            before, now = now, wakeup.now()
            if now - before > LOST_CORE_SECONDS:
                self._luck.learn(lucky=False)
                return max(0.0, until - now)
            if now >= until:
                return 0.0
        self._luck.learn(lucky=True)
        return 0.0
