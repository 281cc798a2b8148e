"""A writer that takes nothing: a full lane pushes back, and says so; a stopped one is named as stopped."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from support.processes import no_writer_after

import raftlog_mp as rl


def test_a_full_lane_is_backpressure_and_surely_not_appended(tmp_path: Path) -> None:
    """What was accepted is appended exactly once when the writer goes on; what was refused is not."""
    path = str(tmp_path / "log")
    config = rl.LogConfig(ring_bytes=1 << 20, lane_bytes=64 << 10, segment_bytes=1 << 20)
    with no_writer_after(path), rl.start_writer(path, config) as writer, rl.open_log(path, timeout=0.2) as log:
        os.kill(writer.pid, signal.SIGSTOP)
        accepted: list[rl.Ticket] = []
        try:
            with pytest.raises(rl.Backpressure) as caught:
                while True:
                    accepted.append(log.submit([b"%06d" % len(accepted) + bytes(1000)]))
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        assert caught.value.level == "none" and caught.value.retry_after_ms > 0
        assert [ticket.result(60.0).start for ticket in accepted] == list(range(1, len(accepted) + 1))
        assert log.last_index == len(accepted) > 10


def test_an_append_after_a_stop_on_purpose_says_so(tmp_path: Path) -> None:
    """Nothing is put into a lane that nobody drains any more: the outcome is known."""
    path = str(tmp_path / "log")
    with no_writer_after(path), rl.start_writer(path) as writer, rl.open_log(path, timeout=0.2) as log:
        log.append(b"one")
        writer.stop()
        with pytest.raises(rl.WriterUnavailable, match="stopped on purpose"):
            log.append(b"two")
        assert log.last_index == 1
