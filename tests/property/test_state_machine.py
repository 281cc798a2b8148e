"""The real client, reader and writer against a plain list, in every order that Hypothesis can think of."""

from __future__ import annotations

import contextlib
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from support.model import ModelLog
from support.processes import kill9, rows_of, writer_pids

import raftlog_mp as rl

PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, 40_000), st.integers(0, 255)),
)
BATCHES = st.lists(PAYLOADS, max_size=6)
TERMS = st.one_of(st.none(), st.none(), st.integers(1, 5))
INDEXES = st.integers(1, 60)
POLICIES = st.sampled_from([rl.Immediate(), rl.Batch(5, 1), rl.Batch(10**9, 20)])


class LogMachine(RuleBasedStateMachine):
    """Each step does the same to the log and to the list."""

    @initialize(strategy=st.sampled_from(["disk_first", "mem_first"]), policy=POLICIES)
    def create(self, strategy: str, policy: rl.Immediate | rl.Batch) -> None:
        self.folder = tempfile.mkdtemp(prefix="raftlog-machine-")
        self.path = self.folder + "/log"
        self.config = rl.LogConfig(
            strategy=strategy, flush_policy=policy, segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 18,
            linger_s=5.0, idle_mark_ms=5,
        )  # fmt: skip
        self.model = ModelLog()
        self.flying: list[tuple[rl.Ticket, range | None]] = []  # with what they must come to
        self.log = rl.open_log(self.path, self.config, timeout=60.0)
        self.reader = rl.open_reader(self.path)
        self.follow = self.reader.follow(1, timeout=0)
        self.seen: list[object] = []
        self.durable = 0

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.log.close()
            self.reader.close()
            with contextlib.suppress(rl.NotALog):
                rl.stop_writer(self.path)
            for pid in writer_pids(self.path):
                kill9(pid)
            shutil.rmtree(self.folder)

    def settle(self) -> None:
        """Take the answers of everything that was submitted."""
        for ticket, expected in self.flying:
            if expected is None:
                with pytest.raises(rl.StaleTerm):
                    ticket.result(timeout=60.0)
            else:
                assert ticket.result(timeout=60.0) == expected
            assert ticket.done()
        self.flying.clear()

    # ------------------------------------------------------------ appending
    @rule(payload=PAYLOADS, term=TERMS)
    def append(self, payload: bytes, term: int | None) -> None:
        if self.model.accepts(term):
            assert self.log.append(payload, term=term) == self.model.append([payload], term).start
        else:
            with pytest.raises(rl.StaleTerm):
                self.log.append(payload, term=term)

    @rule(payloads=BATCHES, term=TERMS)
    def append_many(self, payloads: list[bytes], term: int | None) -> None:
        if not payloads or self.model.accepts(term):
            expected = self.model.append(payloads, term) if payloads else range(0)
            assert self.log.append_many(payloads, term=term) == expected
        else:
            with pytest.raises(rl.StaleTerm):
                self.log.append_many(payloads, term=term)

    @rule(batches=st.lists(st.tuples(BATCHES, TERMS), max_size=8))
    def submit(self, batches: list[tuple[list[bytes], int | None]]) -> None:
        for payloads, term in batches:
            accepted = not payloads or self.model.accepts(term)
            expected = self.model.append(payloads, term if payloads else None) if accepted else None
            self.flying.append((self.log.submit(payloads, term=term), expected))

    @rule()
    def results(self) -> None:
        self.settle()

    # ------------------------------------------------------------ reading
    @rule(index=INDEXES, through_reader=st.booleans())
    def get(self, index: int, through_reader: bool) -> None:
        self.settle()
        entry = (self.reader if through_reader else self.log).get(index)
        assert (rows_of([entry]) if entry else [None]) == [self.model.get(index)]

    @rule(start=INDEXES, stop=st.one_of(st.none(), INDEXES), max_bytes=st.one_of(st.none(), st.integers(0, 50_000)),
          through_reader=st.booleans())  # fmt: skip
    def read(self, start: int, stop: int | None, max_bytes: int | None, through_reader: bool) -> None:
        self.settle()
        entries = (self.reader if through_reader else self.log).read(start, stop, max_bytes)
        assert rows_of(entries) == self.model.read(start, stop, max_bytes)

    @rule()
    def drain(self) -> None:
        self.settle()
        self.seen += rows_of(self.follow)
        assert self.seen == self.model.rows

    @precondition(lambda self: self.model.last_index > 0)
    @rule(back=st.integers(0, 10))
    def follow_after(self, back: int) -> None:
        self.settle()
        at = max(0, self.model.last_index - back)
        row = self.model.get(at)
        checkpoint = rl.LogId(row.term, at) if row else rl.LogId(0, 0)
        assert rows_of(self.reader.follow(after=checkpoint, timeout=0)) == self.model.rows[at:]

    # ------------------------------------------------------------ durability and life
    @rule()
    def flush(self) -> None:
        self.settle()
        self.log.flush()
        assert self.log.durable_index == self.model.last_index

    @precondition(lambda self: self.model.last_index > 0)
    @rule()
    def wait_durable(self) -> None:
        self.settle()
        self.log.wait_durable(self.model.last_index, timeout=60.0)
        assert self.log.durable_index == self.model.last_index

    @rule()
    def reopen(self) -> None:
        self.settle()
        self.log.close()
        self.log = rl.open_log(self.path, timeout=60.0)

    @rule()
    def reopen_reader(self) -> None:
        self.reader.close()
        self.reader = rl.open_reader(self.path)
        self.follow = self.reader.follow(len(self.seen) + 1, timeout=0)

    @rule()
    def stop(self) -> None:
        """A clean stop; the handle does not start another, a new one does."""
        self.settle()
        serves = bool(self.log.stats().writer_pid)
        assert rl.stop_writer(self.path) == serves
        with rl.open_reader(self.path) as cold:
            assert rows_of(cold.read(1)) == self.model.rows
            assert cold.durable_index == self.model.last_index
        self.log.close()
        self.log = rl.open_log(self.path, timeout=60.0)

    @rule()
    def kill(self) -> None:
        """A crash, also with submissions on their way; the next use starts the next writer."""
        for pid in writer_pids(self.path):
            kill9(pid)

    @invariant()
    def frontiers(self) -> None:
        if not hasattr(self, "log"):
            return
        stats = self.log.stats()
        assert stats.first_index == 1
        assert stats.durable_index <= stats.last_index <= self.model.last_index
        assert self.log.durable_index >= self.durable
        self.durable = self.log.durable_index
        if not any(not ticket.done() for ticket, _ in self.flying):
            assert self.log.last_index == self.model.last_index
        if self.config.strategy == "disk_first" and not self.flying:
            assert self.log.durable_index == self.log.last_index
        assert not stats.loss_possible and stats.dropped_peers == 0


CALM = {"deadline": None, "suppress_health_check": list(HealthCheck), "derandomize": True, "database": None}
PHASES = (Phase.generate, Phase.shrink)


@pytest.mark.timeout(300)
def test_log_against_a_list() -> None:
    run_state_machine_as_test(
        LogMachine, settings=settings(max_examples=12, stateful_step_count=25, phases=(Phase.generate,), **CALM)
    )


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_log_against_a_list_for_long() -> None:
    run_state_machine_as_test(
        LogMachine, settings=settings(max_examples=200, stateful_step_count=60, phases=PHASES, **CALM)
    )
