"""The state machine: each rule does the same to the real log, through real processes, and to the model."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support.history import Row
from support.model import ModelLog
from support.processes import kill9, rows_of, writer_pids

import raftlog_mp as rl

PAYLOADS = st.one_of(
    st.binary(max_size=20),
    st.builds(lambda size, byte: bytes([byte]) * size, st.integers(0, 40_000), st.integers(0, 255)),
)
BATCHES = st.lists(PAYLOADS, max_size=6)
STEPS = st.sampled_from([None, 0, 0, 0, 1, -1])  # a term, as its distance from the current one
BACK = st.integers(-2, 12)  # an index, as its distance from the end
POLICIES = st.sampled_from([rl.Immediate(), rl.Batch(5, 1), rl.Batch(10**9, 20), rl.Adaptive(5)])
FRESH = st.lists(st.tuples(PAYLOADS, st.sampled_from([0, 0, 0, 1])), max_size=4)
WHO = st.sampled_from(["log", "log", "other"])
READS = st.sampled_from(["log", "other", "reader"])
VOTES = st.sampled_from([None, "a", "b", 7])
Outcome = tuple[type[BaseException] | None, Any]


def outcome(call: Callable[[], Any]) -> Outcome:
    """What a call returns, or which error it raises, with the error's fields."""
    try:
        return None, call()
    except (rl.RaftLogError, TypeError) as error:
        fields = {name: getattr(error, name, None) for name in ("first_index", "last_index", "commit_index",
                                                                "current_term")}  # fmt: skip
        return type(error), fields


def same(real: Outcome, due: Outcome) -> None:
    """Fail unless the log did what the model says; of an error's fields only those that the model gives count."""
    assert real[0] is due[0], f"the log: {real}, the model: {due}"
    if due[0] is None:
        assert real[1] == due[1]
    else:
        assert {name: real[1][name] for name, value in due[1].items() if value is not None} == {
            name: value for name, value in due[1].items() if value is not None
        }


class LogMachine(RuleBasedStateMachine):
    """Two clients and a reader of one log.  Only ``log`` has submissions in flight while others wait."""

    model_class: type[ModelLog] = ModelLog

    @initialize(strategy=st.sampled_from(["disk_first", "mem_first"]), policy=POLICIES)
    def create(self, strategy: str, policy: rl.Immediate | rl.Batch) -> None:
        self.folder = tempfile.mkdtemp(prefix="raftlog-machine-")
        self.path = self.folder + "/log"
        self.config = rl.LogConfig(
            strategy=strategy, flush_policy=policy, segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 18,
            linger_s=5.0, idle_mark_ms=5,
        )  # fmt: skip
        self.model = self.model_class()
        self.flying: list[tuple[rl.Ticket, Outcome]] = []  # with what they must come to
        self.crashed = False  # since the commit index was learned anew
        self.log = rl.open_log(self.path, self.config, timeout=60.0)
        self.other = rl.open_log(self.path, timeout=60.0)
        self.reader = rl.open_reader(self.path)
        self.start_following(None, None)

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            for handle in (self.log, self.other, self.reader):
                handle.close()
            with contextlib.suppress(rl.NotALog):
                rl.stop_writer(self.path)
            for pid in writer_pids(self.path):
                kill9(pid)
            shutil.rmtree(self.folder)

    def settle(self) -> None:
        """Take the answers of everything that was submitted."""
        for ticket, due in self.flying:
            same(outcome(lambda ticket=ticket: ticket.result(timeout=60.0)), due)
            assert ticket.done()
        self.flying.clear()

    def client(self, who: str) -> rl.Log:
        """The client that acts; the second one only when nothing of the first is in flight: then the order is known."""
        if who == "other":
            self.settle()
        return getattr(self, who)

    def handle(self, who: str) -> rl.LogReader:
        """A handle to read with, when everything has its answer.  The second client reads beside a living writer."""
        self.settle()
        if who == "other":
            self.learn_commit()
        return getattr(self, who)

    def learn_commit(self) -> None:
        """After a crash the commit index may be lower; no other than that, and never higher."""
        if self.crashed:
            found = self.log.commit_to(0)
            assert 0 <= found <= self.model.commit
            self.model.commit, self.crashed = found, False

    def term(self, step: int | None) -> int | None:
        return None if step is None else max(1, self.model.current_term + step)

    # ------------------------------------------------------------ appending
    @rule(payload=PAYLOADS, step=STEPS, who=WHO)
    def append(self, payload: bytes, step: int | None, who: str) -> None:
        term, client = self.term(step), self.client(who)
        due = outcome(lambda: self.model.append([payload], term).start)
        same(outcome(lambda: client.append(payload, term=term)), due)

    @rule(payloads=BATCHES, step=STEPS, who=WHO)
    def append_many(self, payloads: list[bytes], step: int | None, who: str) -> None:
        term, client = self.term(step), self.client(who)
        due = outcome(lambda: self.model.append(payloads, term))
        same(outcome(lambda: client.append_many(payloads, term=term)), due)

    @rule(batches=st.lists(st.tuples(BATCHES, STEPS), max_size=8))
    def submit(self, batches: list[tuple[list[bytes], int | None]]) -> None:
        for payloads, step in batches:
            term = self.term(step)
            due = outcome(lambda p=payloads, t=term: self.model.append(p, t))
            self.flying.append((self.log.submit(payloads, term=term), due))

    @rule()
    def results(self) -> None:
        self.settle()

    @rule(back=BACK, wrong=st.sampled_from([0, 0, 0, 0, 1]), keep=st.integers(0, 6),
          bump=st.sampled_from([0, 0, 1, 2, -1]), fresh=FRESH, leader=st.sampled_from([0, 0, 0, 1, -1, None]),
          gap=st.sampled_from([0] * 9 + [1]), twice=st.booleans(), who=WHO)  # fmt: skip
    def append_entries(self, back: int, wrong: int, keep: int, bump: int, fresh: list[tuple[bytes, int]],
                       leader: int | None, gap: int, twice: bool, who: str) -> None:  # fmt: skip
        """``keep`` entries as the log has them behind ``prev``, then fresh ones with terms from ``bump`` on."""
        self.learn_commit()
        prev, entries = self.leaders(back, wrong, keep, bump, fresh, gap)
        highest = max([prev.term, *(entry.term for entry in entries), self.model.current_term])
        term = None if leader is None else max(1, highest + leader)
        client = self.client(who)
        for _ in range(1 + twice):  # the network may deliver it again
            due = outcome(lambda: self.model.append_entries(prev, entries, term))
            same(outcome(lambda: client.append_entries(prev, entries, leader_term=term)), due)

    def leaders(
        self, back: int, wrong: int, keep: int, bump: int, fresh: list[tuple[bytes, int]], gap: int
    ) -> tuple[rl.LogId, list[rl.Entry]]:
        model = self.model
        at = max(0, model.last_index - back)
        # Of an entry that is not here any more, or not yet, the leader may think what it likes.
        term = model.term_of(at) or (model.purged.term if at < model.purged.index else model.current_term)
        prev = rl.LogId(max(1, term + wrong), at) if at else rl.LogId(0, 0)
        known = [model.get(index) or Row(model.purged.term, index, b"purged")
                 for index in range(at + 1, min(at + keep, model.last_index) + 1)]  # fmt: skip
        entries = [rl.Entry(max(1, row.term), row.index, row.payload) for row in known]
        term, index = (entries[-1].term if entries else prev.term) + bump, at + len(entries) + 1 + gap
        for payload, step in fresh:
            term += step
            entries.append(rl.Entry(max(1, term), index, payload))
            index += 1
        return prev, entries

    # ------------------------------------------------------------ taking away
    @rule(back=BACK, step=STEPS, who=WHO)
    def truncate_from(self, back: int, step: int | None, who: str) -> None:
        self.learn_commit()
        index, term, client = max(1, self.model.last_index + 1 - back), self.term(step), self.client(who)
        due = outcome(lambda: self.model.truncate_from(index, term))
        same(outcome(lambda: client.truncate_from(index, leader_term=term)), due)

    @rule(back=BACK, named=st.sampled_from([None, 0, 0, 1]), who=WHO)
    def purge_to(self, back: int, named: int | None, who: str) -> None:
        index, client = max(0, self.model.last_index - back), self.client(who)
        upto: int | rl.LogId = index
        if named is not None and index:
            upto = rl.LogId((self.model.term_of(index) or 1) + named, index)
        due = outcome(lambda: self.model.purge_to(upto))
        same(outcome(lambda: client.purge_to(upto)), due)

    @rule(back=st.one_of(st.none(), st.integers(-20, 4)), step=st.sampled_from([0, 0, 1, -1, -3]), who=WHO)
    def reset(self, back: int | None, step: int, who: str) -> None:
        self.learn_commit()
        index = 0 if back is None else max(0, self.model.last_index - back)
        boundary = rl.LogId(max(1, self.model.current_term + step), index) if index else None
        client = self.client(who)
        due = outcome(lambda: self.model.reset(boundary))
        same(outcome(lambda: client.reset(boundary)), due)

    # ------------------------------------------------------------ hard state and commit index
    @rule(steps=st.lists(st.tuples(st.sampled_from([0, 0, 1, -1]), VOTES), min_size=1, max_size=4), who=WHO)
    def save_hard_state(self, steps: list[tuple[int, str | int | None]], who: str) -> None:
        client = self.client(who)
        for step, vote in steps:
            state = rl.HardState(max(1, self.model.current_term + step), vote)
            due = outcome(lambda s=state: self.model.save_hard_state(s))
            same(outcome(lambda s=state: client.save_hard_state(s)), due)
            assert client.hard_state == self.model.hard

    @rule(back=BACK, who=WHO)
    def commit_to(self, back: int, who: str) -> None:
        self.settle()  # what is not visible yet is not committed
        self.learn_commit()
        index, client = max(0, self.model.last_index - back), self.client(who)
        assert client.commit_to(index) == self.model.commit_to(index)

    # ------------------------------------------------------------ reading
    @rule(back=BACK, who=READS)
    def get(self, back: int, who: str) -> None:
        index = self.model.last_index - back
        entry = self.handle(who).get(index)
        assert (rows_of([entry]) if entry else [None]) == [self.model.get(index)]

    @rule(back=BACK, count=st.one_of(st.none(), st.integers(0, 15)), who=READS,
          max_bytes=st.one_of(st.none(), st.integers(0, 50_000)))  # fmt: skip
    def read(self, back: int, count: int | None, who: str, max_bytes: int | None) -> None:
        start, handle = self.model.last_index - back, self.handle(who)
        stop = None if count is None else start + count
        due = outcome(lambda: self.model.read(start, stop, max_bytes))
        same(outcome(lambda: rows_of(handle.read(start, stop, max_bytes))), due)

    @rule(back=BACK, past=st.sampled_from([None, 0, 0, 1]), who=READS, upto=st.sampled_from(["visible", "committed"]))
    def follow(self, back: int, past: int | None, who: str, upto: str) -> None:
        """A new follower from an index, or behind a checkpoint that may have another term."""
        handle, model = self.handle(who), self.model
        if upto == "committed":
            self.learn_commit()
        index = max(0, model.last_index - back)
        start, after = index, None
        if past is not None:
            start, after = None, rl.LogId((model.term_of(index) or 0) + past, index)
        limit = model.commit if upto == "committed" else None
        due = outcome(lambda: model.drain(model.follow(start, after), limit))
        same(outcome(lambda: rows_of(handle.follow(start, after=after, upto=upto, timeout=0))), due)

    @rule(start=st.booleans(), who=READS)
    def follow_anew(self, start: bool, who: str) -> None:
        self.settle()
        self.start_following(self.model.last_index + 1 if start else None, None if start else self.model.purged, who)

    def start_following(self, start: int | None, after: rl.LogId | None, who: str = "reader") -> None:
        self.followed = getattr(self, who).follow(start, after=after, timeout=0)
        self.model.followers = [self.model.follow(start, after)]
        self.followed_by = who

    @rule()
    def drain(self) -> None:
        """The follower that lives on: through changes, crashes and restarts."""
        self.settle()
        follower = self.model.followers[0]
        by_term_alone = follower.gone and follower.restarts > 1
        due = outcome(lambda: self.model.drain(follower))
        real = outcome(lambda: rows_of(self.followed))
        if not by_term_alone:
            same(real, due)
        if due[0] is not None:
            if not by_term_alone:
                same(outcome(lambda: rows_of(self.followed)), real)  # what ended it is raised for ever
            self.start_following(None, None)

    # ------------------------------------------------------------ durability and life
    @rule(who=WHO)
    def flush(self, who: str) -> None:
        self.settle()
        self.client(who).flush()
        self.model.durable = self.model.last_index

    @rule(by_id=st.booleans(), who=READS)
    def wait_durable(self, by_id: bool, who: str) -> None:
        handle, last = self.handle(who), self.model.last_log_id
        if last.index:
            self.log.flush()
            handle.wait_durable(last if by_id else last.index, timeout=60.0)
            self.model.durable = last.index

    @rule(who=st.sampled_from(["log", "other", "reader"]))
    def reopen(self, who: str) -> None:
        self.settle()
        getattr(self, who).close()
        setattr(self, who, rl.open_reader(self.path) if who == "reader" else rl.open_log(self.path, timeout=60.0))
        if who == self.followed_by:
            self.start_following(None, None)

    @rule()
    def stop(self) -> None:
        """A clean stop; the handles do not start another, a new one does."""
        self.settle()
        self.learn_commit()
        serves = bool(self.log.stats().writer_pid)
        assert rl.stop_writer(self.path) == serves
        self.model.durable = self.model.last_index
        with rl.open_reader(self.path) as cold:
            self.compare(cold)
        self.log.close()
        self.log = rl.open_log(self.path, timeout=60.0)
        self.model.restarted()
        self.other.close()
        self.other = rl.open_log(self.path, timeout=60.0)
        if self.followed_by != "reader":
            self.start_following(None, None)
        assert self.log.commit_index == self.model.commit

    @rule()
    def kill(self) -> None:
        """A crash, also with submissions on their way; the next use starts the next writer."""
        pids = writer_pids(self.path)
        for pid in pids:
            kill9(pid)
        self.crashed = True
        if pids:
            self.model.restarted()
        if not self.flying:
            with rl.open_reader(self.path) as cold:
                self.compare(cold)

    # ------------------------------------------------------------ after each step
    def compare(self, handle: rl.LogReader) -> None:
        """Everything that a handle shows is what the model holds."""
        model = self.model
        if not self.crashed:
            assert handle.commit_index == model.commit
        assert handle.commit_index <= model.commit
        assert (handle.first_index, handle.last_index, len(handle)) == (
            model.first_index, model.last_index, len(model.rows))  # fmt: skip
        assert (handle.purged_log_id, handle.last_log_id) == (model.purged, model.last_log_id)
        assert handle.hard_state == model.hard
        assert rows_of(handle.read(model.first_index)) == model.rows
        for index in range(max(0, model.first_index - 2), model.last_index + 2):
            assert handle.term_of(index) == model.term_of(index)
        for term in range(1, model.current_term + 2):
            assert (handle.first_index_of_term(term), handle.last_index_of_term(term)) == model.range_of_term(term)
        assert model.durable <= handle.durable_index <= model.last_index

    @invariant()
    def as_the_model(self) -> None:
        if not hasattr(self, "log"):
            return
        stats = self.log.stats()
        assert stats.durable_index <= stats.last_index <= self.model.last_index
        assert not stats.loss_possible and stats.dropped_peers == 0
        if all(ticket.done() for ticket, _ in self.flying):
            self.compare(self.log)
            self.compare(self.reader)
            self.model.durable = self.log.durable_index
            if self.config.strategy == "disk_first":
                assert self.log.durable_index == self.model.last_index
