"""The writer under memory pressure: it looks, tells everybody the level, and gives back what it can.

What the level means to others: clients read it in the control block, and at *hard* wait there with new appends.
Reads never wait.
"""

from __future__ import annotations

import logging

from . import format as fmt
from . import layout, pressure, shm, wakeup
from .files import join
from .journal import Journal
from .memory import MemoryProbe, Reading

logger = logging.getLogger(__name__)

RELIEF_SECONDS = 2.0  # between two rounds of giving back page cache, while the pressure lasts
RELIEF_SEGMENTS = 64  # a round: each costs an open and an fadvise, 20-30 us and what the kernel frees


class Relief:
    """Level, delay of acknowledgements, and hint for those who have to come again."""

    def __init__(self, journal: Journal, probe: MemoryProbe | None = None) -> None:
        self._journal, self._control = journal, journal.control
        self._config = journal.config.pressure
        self._probe = probe or MemoryProbe(self._config.root)
        self.level = pressure.NONE
        self._changes = 0
        self._look_at = self._relief_at = self._answers_at = self._delay = self._rate = 0.0
        self._durable, self._sync_ns = journal.durable, journal.fsync_ns
        self._next_segment = 0

    # ------------------------------------------------------------ looking
    def seconds_until_look(self) -> float:
        """How long the writer may sleep before the next reading is due."""
        return max(self._look_at - wakeup.now(), 0.0)

    def look(self) -> bool:
        """Take a reading if one is due; True if the level changed."""
        now = wakeup.now()
        if now < self._look_at:
            return False
        self._look_at = now + self._config.sample_ms / 1000
        reading = self._probe.read()
        before, self.level = self.level, pressure.next_level(self.level, reading.share, self._config)
        self._delay = pressure.delay_seconds(self.level, reading.share, self._config)
        self._tell(reading, before)
        if self.level != pressure.NONE and now >= self._relief_at:
            self._relief_at = now + RELIEF_SECONDS
            self._give_back()
        return self.level != before

    def _tell(self, reading: Reading, before: int) -> None:
        """Into the control block: the level last, so that who sees it finds its hint beside it."""
        control, journal = self._control, self._journal
        seconds = (journal.fsync_ns - self._sync_ns) / 1e9
        self._rate = pressure.drain_rate(self._rate, journal.durable - self._durable, seconds)
        self._durable, self._sync_ns = journal.durable, journal.fsync_ns
        hint = pressure.retry_after_ms(journal.end - journal.durable, self._rate)
        control.retry_after_ms.store(max(hint, round(self._config.sample_ms)), shm.RELAXED)
        control.memory_used.store(reading.used_bytes, shm.RELAXED)
        control.memory_limit.store(reading.limit_bytes, shm.RELAXED)
        control.writer_rss.store(reading.rss_bytes, shm.RELAXED)
        control.memory_stalled.store(0 if reading.stalled is None else round(reading.stalled * 1e6) + 1, shm.RELAXED)
        if self.level == before:
            return
        self._changes += 1
        control.pressure_changes.store(self._changes, shm.RELAXED)
        control.pressure_level.store(self.level, shm.SEQ_CST)  # before the bells of those who wait for it
        say = logger.warning if self.level > before else logger.info
        say(
            "memory pressure %s (was %s): %.1f %% of %d MiB used, limit of %s",
            layout.LEVEL_NAMES[self.level], layout.LEVEL_NAMES[before], 100 * reading.share,
            reading.limit_bytes >> 20, reading.source,
        )  # fmt: skip

    def _give_back(self) -> None:
        """Tell the kernel that pages of sealed segments are not needed; a later read fetches them again."""
        journal = self._journal
        sealed = [info for info in journal.manifest.segments if info.sealed]
        for _ in range(min(len(sealed), RELIEF_SEGMENTS)):
            info = sealed[self._next_segment % len(sealed)]
            self._next_segment += 1
            try:
                with journal.files.opened(join(journal.directory, fmt.segment_name(info.segment_id))) as fd:
                    journal.files.drop_cache(fd)
            except OSError:
                continue  # advice only

    def end(self) -> None:
        """The writer stops: whoever waits for the pressure to go is to find out why."""
        self.level, self._delay = pressure.NONE, 0.0
        self._control.pressure_level.store(pressure.NONE, shm.SEQ_CST)

    # ------------------------------------------------------------ acknowledgements
    def holds_answers(self) -> bool:
        """Whether acknowledgements that could go now must wait a little, so that senders slow down."""
        if self._delay <= 0:
            self._answers_at = 0.0  # the pressure went while they were held
            return False
        now = wakeup.now()
        if self._answers_at == 0.0:
            self._answers_at = now + self._delay
        if now < self._answers_at:
            return True
        self._answers_at = 0.0
        return False

    def seconds_until_answers(self) -> float:
        """How long the writer may sleep before held acknowledgements are due; infinity if none are."""
        return max(self._answers_at - wakeup.now(), 0.0) if self._answers_at else float("inf")
