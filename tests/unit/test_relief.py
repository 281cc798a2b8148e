"""The writer under memory pressure: levels told, answers held, page cache given back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import pressure, relief, wakeup
from raftlog_mp.config import PressureConfig
from raftlog_mp.memory import Reading
from raftlog_mp.relief import RELIEF_SECONDS, RELIEF_SEGMENTS, Relief

from .journals import append, open_log, stop

CONFIG = PressureConfig(soft=0.5, hard=0.8, sample_ms=100, hysteresis=0.1)
LIMIT = 1000 << 20


class Probe:
    """Readings that a test decides."""

    def __init__(self) -> None:
        self.share, self.stalled, self.readings = 0.0, None, 0

    def read(self) -> Reading:
        self.readings += 1
        return Reading(LIMIT, int(self.share * LIMIT), "test", 123 << 20, self.stalled)


@dataclass
class Rig:
    """A log, its relief, and a clock."""

    relief: Relief
    probe: Probe
    journal: object
    now: float = 1000.0

    def look(self, share: float, *, later: float = 0.1) -> bool:
        self.probe.share = share
        self.now += later
        return self.relief.look()

    def word(self, name: str) -> int:
        return int(getattr(self.journal.control, name).load())


class CountingFiles(FaultyFiles):
    """Counts what is given back to the kernel."""

    dropped = 0

    def drop_cache(self, fd: int) -> None:
        self.dropped += 1
        super().drop_cache(fd)


@pytest.fixture
def files() -> CountingFiles:
    return CountingFiles()


@pytest.fixture
def rig(log_dir: str, files: CountingFiles, monkeypatch: pytest.MonkeyPatch):
    journal, _ = open_log(log_dir, files, pressure=CONFIG)
    probe = Probe()
    made = Rig(Relief(journal, probe), probe, journal)
    monkeypatch.setattr(relief.wakeup, "now", lambda: made.now)
    yield made
    monkeypatch.undo()
    stop(journal)


def test_readings_are_taken_at_their_interval(rig: Rig) -> None:
    rig.look(0.0)
    for _ in range(100):
        rig.look(0.0, later=0.01)
    assert 10 <= rig.probe.readings <= 12
    assert 0 < rig.relief.seconds_until_look() <= 0.1


def test_the_level_is_told_counted_and_logged(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    told = []
    for share in (0.1, 0.55, 0.6, 0.85, 0.75, 0.65, 0.3):
        told.append((rig.look(share), rig.word("pressure_level"), rig.word("pressure_changes")))
    assert told == [
        (False, 0, 0), (True, 1, 1), (False, 1, 1), (True, 2, 2), (False, 2, 2), (True, 1, 3), (True, 0, 4),
    ]  # fmt: skip
    levels = [record.levelname for record in caplog.records if "memory pressure" in record.message]
    assert levels == ["WARNING", "WARNING", "INFO", "INFO"]
    assert "memory pressure hard (was soft): 85.0 % of 1000 MiB used, limit of test" in caplog.text


def test_what_was_read_is_told(rig: Rig) -> None:
    rig.probe.stalled = 0.25
    rig.look(0.55)
    assert (rig.word("memory_limit"), rig.word("memory_used")) == (LIMIT, int(0.55 * LIMIT))
    assert (rig.word("writer_rss"), rig.word("memory_stalled")) == (123 << 20, 250_001)
    rig.probe.stalled = None
    rig.look(0.55)
    assert rig.word("memory_stalled") == 0


def test_the_hint_comes_from_what_the_disk_took_of_late(rig: Rig) -> None:
    rig.look(0.85)
    assert rig.word("retry_after_ms") == 100, "nothing waits: the next reading may be better"
    journal = rig.journal
    append(journal, bytes(10_000))
    journal.fsync_ns += 10**9 - (journal.fsync_ns - rig.relief._sync_ns)  # one second in fsync since the last look
    taken = journal.durable - rig.relief._durable
    rig.look(0.85)
    journal.end += 3 * taken  # three times as much waits
    rig.look(0.85)
    journal.end -= 3 * taken
    assert rig.word("retry_after_ms") == pytest.approx(3000, rel=0.01)


def test_answers_are_held_longer_the_higher_the_pressure(rig: Rig) -> None:
    def held() -> float:
        began = rig.now
        while rig.relief.holds_answers():
            assert rig.relief.seconds_until_answers() <= pressure.DELAY_SECONDS_MAX
            rig.now += 1e-4
        return rig.now - began

    rig.look(0.1)
    assert held() == 0.0 and rig.relief.seconds_until_answers() == float("inf")
    times = []
    for share in (0.55, 0.65, 0.75, 0.9):
        rig.look(share, later=1.0)
        times.append(held())
    assert times == sorted(times) and times[0] > 0 and times[-1] == pytest.approx(pressure.DELAY_SECONDS_MAX, abs=1e-3)
    rig.look(0.1, later=1.0)
    assert held() == 0.0


def test_answers_that_were_held_when_the_pressure_went_keep_nobody_awake(rig: Rig) -> None:
    """The writer sleeps until they are due: they are due no more."""
    rig.look(0.75)
    assert rig.relief.holds_answers()
    rig.look(0.1, later=1.0)
    assert not rig.relief.holds_answers() and rig.relief.seconds_until_answers() == float("inf")


def test_page_cache_of_sealed_segments_is_given_back(rig: Rig, files: CountingFiles) -> None:
    for _ in range(8):
        append(rig.journal, bytes(50_000))
    sealed = sum(info.sealed for info in rig.journal.manifest.segments)
    assert 3 <= sealed <= RELIEF_SEGMENTS
    files.dropped = 0
    rig.look(0.2)
    assert files.dropped == 0
    rig.look(0.6)
    assert files.dropped == sealed
    rig.look(0.6)
    assert files.dropped == sealed, "not with each reading"
    rig.look(0.6, later=RELIEF_SECONDS)
    assert files.dropped == 2 * sealed


def test_a_segment_that_is_gone_meanwhile_does_no_harm(rig: Rig, files: CountingFiles) -> None:
    for _ in range(8):
        append(rig.journal, bytes(50_000))
    opened: Callable[..., object] = files.open

    def missing(path: str, **how: bool) -> int:
        if path.endswith(".seg"):
            raise FileNotFoundError(path)
        return opened(path, **how)  # type: ignore[return-value]  # a descriptor

    files.open = missing  # type: ignore[method-assign]  # this one object only
    try:
        assert rig.look(0.6)
    finally:
        del files.open


def test_a_writer_that_stops_takes_the_level_back(rig: Rig) -> None:
    rig.look(0.9)
    rig.relief.end()
    assert rig.word("pressure_level") == 0 and not rig.relief.holds_answers()


def test_the_real_probe_is_the_default(log_dir: str, files: CountingFiles) -> None:
    journal, _ = open_log(log_dir, files)
    try:
        real = Relief(journal)
        real.look()
        assert journal.control.memory_limit.load() > journal.control.memory_used.load() > 0
        assert 0 <= real.seconds_until_look() <= journal.config.pressure.sample_ms / 1000 + wakeup.now()
    finally:
        stop(journal)
