"""A client that comes back only after another writer has served and was stopped in order gets the one true answer."""

from __future__ import annotations

import pytest
from support.processes import BentWriter, no_writer_after

import raftlog_mp as rl


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
@pytest.mark.parametrize("starts", [1, 2])
def test_a_resend_after_a_clean_stop_in_between_is_appended_once(log_dir: str, strategy: str, starts: int) -> None:
    """Writer 1 dies before it answers; others serve and stop in order; the client resends to the last."""
    config = rl.LogConfig(strategy=strategy, segment_bytes=1 << 16, ring_bytes=1 << 20)
    with no_writer_after(log_dir):
        with BentWriter(log_dir, config, die=["lane.LaneConsumer.complete", "before", 4]) as one:
            assert one.line() == "serving"
            client = rl.open_log(log_dir, autostart=False, timeout=60.0)
            for number in range(3):
                client.append(b"%d" % number)
            ticket = client.submit([b"A", b"B"])
            one.wait()
        for _ in range(starts):
            with rl.start_writer(log_dir):
                pass
        with rl.start_writer(log_dir), client:
            assert ticket.result(timeout=60.0) == range(4, 6)
            assert [entry.payload for entry in client.read(1)] == [b"0", b"1", b"2", b"A", b"B"]
