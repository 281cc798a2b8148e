"""flush() and the stats that show what waits, with a policy that flushes nothing by itself."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.processes import no_writer_after, wait_until

import raftlog_mp as rl

NEVER = rl.Batch(threshold=10**9, interval_ms=3_600_000)


@pytest.mark.parametrize("strategy", list(rl.PersistenceStrategy))
def test_flush_makes_durable_what_was_submitted(tmp_path: Path, strategy: rl.PersistenceStrategy) -> None:
    """DiskFirst with a batch policy holds appends back: flush() is what lets them go."""
    path = str(tmp_path / "log")
    config = rl.LogConfig(strategy=strategy, flush_policy=NEVER, ring_bytes=1 << 20)
    with no_writer_after(path), rl.start_writer(path, config), rl.open_log(path, timeout=60.0) as log:
        tickets = [log.submit([b"%d" % number]) for number in range(5)]
        wait_until("the writer has taken them", lambda: log.stats().unflushed_entries == 5)
        assert log.stats().unflushed_bytes > 0
        assert log.durable_index == 0
        before = log.stats().fsyncs
        log.flush()
        assert [ticket.done() for ticket in tickets] == [True] * 5
        assert log.durable_index == log.last_index == 5
        stats = log.stats()
        assert stats.fsyncs == before + 1 and stats.unflushed_entries == stats.unflushed_bytes == 0
        assert (stats.appends, stats.entries, stats.bytes) == (5, 5, 5)


def test_wait_durable_of_another_term_is_refused(tmp_path: Path) -> None:
    """A follower must not vouch for an entry that the log does not hold."""
    path = str(tmp_path / "log")
    with no_writer_after(path), rl.start_writer(path), rl.open_log(path, timeout=60.0) as log:
        log.append(b"one", term=3)
        log.wait_durable(rl.LogId(3, 1))
        with pytest.raises(rl.Truncated):
            log.wait_durable(rl.LogId(99, 1))


def test_an_unusable_shm_dir_creates_no_log(tmp_path: Path) -> None:
    """The settings are tried before anything is stored, so the next start may have better ones."""
    path = tmp_path / "log"
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(rl.ConfigError) as caught:
        rl.start_writer(path, rl.LogConfig(shm_dir=str(tmp_path / "file" / "below")))
    assert caught.value.field == "shm_dir"
    assert not (path / "manifest").exists()
    with pytest.raises(rl.ConfigError):
        rl.LogConfig(shm_dir="relative")
    config = rl.LogConfig(shm_dir=str(tmp_path / "elsewhere"))
    with no_writer_after(str(path)), rl.start_writer(path, config), rl.open_log(path, timeout=60.0) as log:
        assert log.append(b"x") == 1
