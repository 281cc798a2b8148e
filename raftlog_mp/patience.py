"""How long to look at a shared word before sleeping.  Pure decisions: no clock, no memory.

Looking costs a core and saves a wake-up.  It pays only where everybody who is at work has a core, and where what is
waited for comes soon; the first is known from counting, the second only from trying.
"""

from __future__ import annotations

ANSWER_SECONDS_WORTH_IT = 1e-3  # a slower disk is waited for asleep: waking up costs little beside it
# An idle core takes this long to wake the writer.  Who gives up sooner looks in vain whenever the writer sleeps, and
# the writer, for whom the next submission then comes late, sleeps again: both stay asleep for good.  Without it,
# MemFirst appends one at a time took 115-229 us (p50) in most runs, with it 37-70 in all (docs/architecture.md).
WAKE_UP_SECONDS = 75e-6
SKIPPED_MAX = 64  # waits without looking, after looking was in vain many times in a row


def seconds_to_spin(spin_s: float, busy: int, cores: int, answer_s: float) -> float:
    """How long a client looks for its answer before it sleeps.

    ``busy`` clients and readers are at work beside the writer: unless each has one of the ``cores``, looking would
    take the core from somebody who works.  ``answer_s`` is how long the other side takes at least: to wake up, and for
    the fsync that an answer waits for; ``spin_s`` is the configured patience beyond it, 0 = always sleep at once.
    """
    if spin_s <= 0 or busy >= cores:
        return 0.0
    return spin_s + (2 * answer_s if answer_s <= ANSWER_SECONDS_WORTH_IT else 0.0)


class Patience:
    """Learns from its own luck: each time in vain doubles the number of waits that sleep at once.

    Where other programs keep the cores busy, the one waited for cannot run while we look.
    """

    __slots__ = ("_penalty", "_skip")

    def __init__(self) -> None:
        self._penalty = self._skip = 0

    def looks(self) -> bool:
        """Whether this wait should begin with looking."""
        if self._skip:
            self._skip -= 1
            return False
        return True

    def learn(self, *, lucky: bool) -> None:
        """What came of looking."""
        if lucky:
            self._penalty = 0
        else:
            self._penalty = min(2 * self._penalty + 1, SKIPPED_MAX)
            self._skip = self._penalty - 1
