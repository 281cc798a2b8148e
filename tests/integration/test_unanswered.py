"""Operations whose answer comes too late: the ticket gives what the call would have returned."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from support.processes import PATIENCE_S

import raftlog_mp as rl

SMALL = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 18, linger_s=0.2)


def test_a_ticket_gives_what_its_call_would_have_returned(log_dir: str) -> None:
    """In one lane, so that they are executed in this order; the log begins with five entries of term 2."""
    script: list[tuple[Callable[[rl.Log], object], str, object]] = [
        (lambda log: log.append_entries(rl.LogId(9, 4), [], leader_term=9, timeout=0), "entries may be in the log",
         rl.AppendResult(False, None, rl.LogId(2, 5), rl.LogId(2, 1))),
        (lambda log: log.append_entries(rl.LogId(2, 4), [rl.Entry(3, 5, b"")], leader_term=9, timeout=0), "skipped",
         rl.AppendResult(True, rl.LogId(3, 5), rl.LogId(3, 5), None)),
        (lambda log: log.commit_to(3, timeout=0), "commit index may be raised", 3),
        (lambda log: log.commit_to(1, timeout=0), "never falls", 3),
        (lambda log: log.save_hard_state(rl.HardState(4, "x"), timeout=0), "term and vote may be saved", None),
        (lambda log: log.truncate_from(5, timeout=0), "do not truncate again", None),
        (lambda log: log.truncate_from(3, timeout=0), "do not truncate again", rl.CommittedEntry),
        (lambda log: log.append_many([b"x", b"y"], term=9, timeout=0), "do not append again", range(5, 7)),
        (lambda log: log.purge_to(4, timeout=0), "may be purged", None),
        (lambda log: log.reset(rl.LogId(9, 99), timeout=0), "do not reset it again", None),
        (lambda log: log.reset(rl.LogId(8, 100), timeout=0), "do not reset it again", rl.StaleTerm),
    ]  # fmt: skip
    tickets = []
    with rl.start_writer(log_dir, SMALL) as writer, rl.open_log(log_dir, autostart=False) as log:
        log.append_many([b"a"] * 5, term=2)
        os.kill(writer.pid, signal.SIGSTOP)
        try:
            for call, said, _ in script:
                with pytest.raises(rl.AppendTimeout, match=said) as late:
                    call(log)
                tickets.append(late.value.ticket)
        finally:
            os.kill(writer.pid, signal.SIGCONT)
        for ticket, (_, said, due) in zip(tickets, script, strict=True):
            if isinstance(due, type):
                with pytest.raises(due):
                    ticket.result(PATIENCE_S)
                assert isinstance(ticket.exception(), due), said
            else:
                assert ticket.result(PATIENCE_S) == due and ticket.exception() is None, said
        assert (log.purged_log_id, log.last_log_id, log.hard_state) == (rl.LogId(9, 99), rl.LogId(9, 99), (4, "x"))
