"""How many submissions share an fsync: the decision of the ``Adaptive`` policy.  No clock, no file: the caller tells.

A group waits before its fsync as long as others are likely to join it.  Three things are measured, none is a timer:

* The arrival rate and the time of an fsync.  Where fewer than one submission is expected while two fsyncs would run,
  nothing waits: the load is low, and each group is flushed at once, as ``Immediate`` does.
* The crowd: how many come before nobody is left who could.  Clients that wait for their answers submit nothing: once
  all of them are there, waiting is in vain.  Whoever comes during an fsync was missing in its group, so the crowd is
  larger than was thought; if nobody comes for a while, those who are there are the crowd.  The while is two fsyncs'
  time; it doubles each time that somebody comes right after it, during the fsync, and halves when nobody does.
* The age of the oldest: its wait and the fsync after it are to stay within the target.  Under a steady stream, whose
  crowd has no end, this is what ends a group.
"""

from __future__ import annotations

from math import exp

PATIENCE_SYNCS = 2.0  # at least for so many fsyncs' time a group waits for the next to join it
MEMORY_SYNCS = 32.0  # the arrival rate is an average over about so many fsyncs' time
SYNC_LEARNING_RATE = 1 / 8
OUTLIER = 4.0  # one slow fsync counts as at most so many usual ones
CROWD_MAX = 1e9


class Gathering:
    """What the policy knows.  All times in seconds, of one clock that never goes back."""

    __slots__ = ("_arrived_at", "_began", "_crowd", "_growth", "_in_vain", "_oldest", "_patience_syncs", "_recent",
                 "_target_s", "_unseen", "group", "sync_s", "under_way")  # fmt: skip

    def __init__(self, target_s: float) -> None:
        self._target_s = target_s
        self.sync_s = 0.0  # time of an fsync, smoothed; 0 = nothing is known yet
        self.group = 0  # submissions that wait for the next flush
        self.under_way = 0  # of the flush that runs, or ran last
        self._recent = 0.0  # submissions that came lately: each counts less the longer ago it was
        self._crowd = 1.0
        self._growth = 1.0  # of the crowd; doubles as long as each group turns out to be too small
        self._patience_syncs = PATIENCE_SYNCS  # in force now
        self._in_vain = False  # the newest flush was due because nobody had come for so long
        self._unseen = False  # some that came during the newest fsync are still to be told
        self._began = 0.0  # when the newest fsync did
        self._oldest = self._arrived_at = 0.0  # when the first and the last of the group came

    @property
    def _patience_s(self) -> float:
        # Less than half of what the target leaves: who waits in vain is to find it out before the target ends the wait.
        return max(0.0, min(self._patience_syncs * self.sync_s, self._target_s / 2 - self.sync_s))

    def arrived(self, now: float, submissions: int) -> None:
        """So many more wait for a flush."""
        if submissions <= 0:
            return
        if self.group == 0:
            self._oldest = self._began if self._unseen else now
            self._unseen = False
        self._recent = self._faded(now) + submissions
        self._arrived_at = now
        self.group += submissions

    def _faded(self, now: float) -> float:
        memory = MEMORY_SYNCS * self.sync_s
        return self._recent * exp((self._arrived_at - now) / memory) if memory else 0.0

    def seconds_until_flush(self, now: float) -> float:
        """How long the group may still wait: 0 = flush now.  To be asked again after every arrival."""
        if self._is_whole(self.group, self._recent):
            return 0.0
        return max(0.0, self._until(self._arrived_at, self._oldest) - now)

    def due_with(self, now: float, submissions: int) -> bool:
        """Whether nothing would wait if so many more came now: what :meth:`seconds_until_flush` would say then."""
        group = self.group + submissions
        if group >= self._crowd or self._is_whole(group, self._faded(now) + submissions):
            return True
        oldest = self._oldest if self.group else self._began if self._unseen else now
        return self._until(now, oldest) <= now

    def _is_whole(self, group: int, recent: float) -> bool:
        return group >= self._crowd or recent * PATIENCE_SYNCS / MEMORY_SYNCS < 1  # expected while two fsyncs would run

    def _until(self, arrived_at: float, oldest: float) -> float:
        return min(arrived_at + self._patience_s, oldest + self._target_s - self.sync_s)

    def settled(self) -> None:
        """Nothing waits any more: something else needed an fsync, and it covered the group."""
        self.group = 0

    def flushing(self, now: float) -> None:
        """An fsync of the whole group begins."""
        self._in_vain = self.group > 0 and self._patience_s > 0 and now >= self._arrived_at + self._patience_s
        if self._in_vain:
            self._crowd = float(self.group)
        self.under_way, self.group = self.group, 0
        self._began = now

    def flushed(self, now: float, missed: float) -> None:
        """It is over.  About so many submissions ``missed`` it: they came meanwhile, before anybody was answered.

        Those of them that were not told by :meth:`arrived` yet are told next.
        """
        taken = now - self._began
        if self.sync_s:
            self.sync_s += (min(taken, OUTLIER * self.sync_s) - self.sync_s) * SYNC_LEARNING_RATE
        else:
            self.sync_s = taken
        if self._in_vain:  # unless they came just then: that was impatient
            self._patience_syncs *= 2 if missed > 0 and self._patience_syncs * self.sync_s < self._target_s else 0.5
            self._patience_syncs = max(self._patience_syncs, PATIENCE_SYNCS)
        if self.under_way + missed > self._crowd:
            self._crowd = min(self.under_way + missed * self._growth, CROWD_MAX)
            self._growth *= 2
        else:
            self._growth = 1.0
        self._unseen = missed > self.group
