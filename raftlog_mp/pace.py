"""How fast those who flood are let in while a flush is under way (MemFirst).  Pure decisions: no clock, no memory.

A flood that the disk cannot swallow fills the room within a moment of every flush and sleeps through the rest of it.
Nothing is gained by that haste, and for as long as it lasts everybody else waits for a core.  So where the room was
full since the last flush began, the next one opens it step by step: a flood gets in as fast as the disk lets go of it.
"""

from __future__ import annotations

STEPS = 16  # in which the room opens: of 1 MiB, 64 KiB at once, some 0.3 ms of work for everybody in it
LIKE_SECONDS = 0.8  # of the last flush: the room is open before this one ends, so the next never takes less along
FLUSH_SECONDS_MIN = 5e-3  # a quicker disk is not what a flood waits for
NEVER = float("inf")


class Pace:
    """Told of every flush and of everybody who finds no room; asked before anything of a flood is taken."""

    __slots__ = ("_base", "_full", "_room", "_seconds", "_start", "next_step")

    def __init__(self) -> None:
        self._full = False  # somebody found no room since the last flush began
        self._start = self._seconds = 0.0
        self._base = self._room = 0
        self.next_step = NEVER  # when more may get in than the last answer said

    def found_full(self) -> None:
        """A submission had to wait for room."""
        self._full = True

    def begin(self, now: float, end: int, room: int, flush_seconds: float) -> None:
        """A flush begins: the log ends at ``end``, ``room`` more bytes may enter, and the last one took so long."""
        slow = self._full and flush_seconds >= FLUSH_SECONDS_MIN
        self._start, self._seconds = now, flush_seconds * LIKE_SECONDS if slow else 0.0
        self._base, self._room = end, room
        self._full, self.next_step = False, NEVER

    def end(self) -> None:
        """Nothing is held back any longer: the flush is done, or everything has to go."""
        self._seconds, self.next_step = 0.0, NEVER

    def limit(self, now: float) -> int | None:
        """Position up to which those who flood may get in; None: as far as there is room."""
        if not self._seconds:
            return None
        step = int(STEPS * (now - self._start) / self._seconds) + 1
        if step >= STEPS:
            self.end()
            return None
        self.next_step = self._start + step * self._seconds / STEPS
        return self._base + self._room * step // STEPS
