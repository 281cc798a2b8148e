"""Rules of appending and of the hard state: order, terms, votes, fencing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..errors import StaleTerm
from ..types import Entry, HardState, LogId
from .checks import NOTHING, Log, Rules, entries, entry, fill, raised, refused, same, same_log, same_terms


def _has_terms(terms: tuple[int, ...], purged: LogId, log: Log) -> None:
    same_terms(log, *terms, purged=purged)


class Appending(Rules):
    """append, append_many, submit, save_hard_state."""

    # ------------------------------------------------------------ append
    def test_a_new_log_is_empty(self) -> None:
        """A new log begins at 1, has no last entry, no term, no vote, no commit index; its uuid stays."""
        uuids = []
        with self.log() as log:
            same_log(log)
            same("durable_index and commit_index", (log.durable_index, log.commit_index), (0, 0))
            same("hard_state", HardState(*log.hard_state), HardState(0, None))
            same("term_of(0), term_of(1)", (log.term_of(0), log.term_of(1)), (None, None))
            same("first_index_of_term(1)", log.first_index_of_term(1), None)
            same("follow(timeout=0)", list(log.follow(timeout=0)), [])
        self.kept(lambda log: log.append(b"", 1), lambda log: uuids.append(log.uuid))
        same("the uuid after reopening", uuids[1], uuids[0])

    def test_append_gives_the_next_index(self) -> None:
        """append gives indexes 1, 2, 3 ...; each entry can be read at once."""
        with self.log() as log:
            for one in entries(1, 1, 1, 2, 5):
                same("append()", log.append(one.payload, one.term), one.index)
                same(f"get({one.index})", log.get(one.index), one)
            same_log(log, 1, 1, 2, 5)

    def test_append_many_is_one_contiguous_batch(self) -> None:
        """append_many gives the range of its entries; an empty batch gives range(0) and changes nothing."""
        with self.log(1) as log:
            same("append_many()", log.append_many([one.payload for one in entries(2, 2, 2, 2)], 2), range(2, 5))
            same("append_many([])", log.append_many([], 2), range(0))
            same_log(log, 1, 2, 2, 2)

    def test_submit_keeps_the_order_of_asking(self) -> None:
        """Batches that are submitted without waiting get contiguous ranges in the order of asking."""
        with self.log() as log:
            tickets = [log.submit([entry(3, 3 * n + part).payload for part in (1, 2, 3)], 3) for n in range(20)]
            ranges = [ticket.result(timeout=60.0) for ticket in tickets]
            same("the ranges", ranges, [range(3 * n + 1, 3 * n + 4) for n in range(20)])
            same_log(log, *[3] * 60)

    def test_append_without_a_term_takes_the_last_entrys(self) -> None:
        """term=None is the last entry's term, at least 1; the boundary's when everything was purged."""
        with self.log() as log:
            log.append(entry(1, 1).payload)
            log.append(entry(4, 2).payload, 4)
            log.append_many([entry(4, 3).payload])
            same_log(log, 1, 4, 4)
            log.purge_to(3)
            log.submit([entry(4, 4).payload]).result(timeout=60.0)
            same_log(log, 4, purged=LogId(4, 3))

    def test_append_with_a_term_below_the_last_entrys_is_stale(self) -> None:
        """append, append_many and submit raise StaleTerm for a term below the last entry's; nothing is appended."""
        with self.log(1, 5) as log:
            same("current_term", refused(log, StaleTerm, "append", b"x", 4).current_term, 5)
            refused(log, StaleTerm, "append_many", [b"x", b"y"], 1)
            ticket = log.submit([b"x"], 4)
            raised(StaleTerm, "the ticket of submit()", lambda: ticket.result(timeout=60.0))
            fill(log, 5, 6)
            same_log(log, 1, 5, 5, 6)

    def test_payloads_are_bytes(self) -> None:
        """Payloads are contiguous bytes-like objects, empty ones too; str is a TypeError."""
        with self.log() as log:
            log.append_many([b"", bytearray(b"a"), memoryview(b"b"), bytes(range(256))], 1)
            same("payloads", [one.payload for one in log.read(1)], [b"", b"a", b"b", bytes(range(256))])
            refused(log, TypeError, "append", "text", 1)
            refused(log, TypeError, "append_many", b"bytes", 1)

    def test_read_is_half_open_and_clips_the_end(self) -> None:
        """read(start, stop) excludes stop and ends at the last entry; max_bytes never keeps the first one back."""
        with self.log(1, 1, 1, 1) as log:
            same("read(2, 4)", log.read(2, 4), entries(2, 1, 1))
            same("read(3)", log.read(3), entries(3, 1, 1))
            same("read(3, 99)", log.read(3, 99), entries(3, 1, 1))
            same("read(3, 3)", log.read(3, 3), [])
            same("read(5), read(99)", (log.read(5), log.read(99)), ([], []))
            same("read(1, max_bytes=1)", log.read(1, max_bytes=1), entries(1, 1))
            same("read(1, max_bytes=7)", log.read(1, max_bytes=7), entries(1, 1, 1))

    # ------------------------------------------------------------ hard state
    def test_hard_state_survives_reopening(self) -> None:
        """Term and vote are what was saved last, also after reopening; a vote is a str, an int or None."""
        states = HardState(1, None), HardState(3, "node-1"), HardState(4, 7), HardState(1 << 40, "é" * 9)

        def change(log: Log) -> None:
            for state in states:
                log.save_hard_state(state)
                same("hard_state", HardState(*log.hard_state), state)

        self.kept(change, lambda log: same("hard_state", HardState(*log.hard_state), states[-1]))

    def test_hard_state_never_falls(self) -> None:
        """A term below the saved one is StaleTerm, with or without a vote."""
        with self.log() as log:
            log.save_hard_state(HardState(5, "a"))
            refused(log, StaleTerm, "save_hard_state", HardState(4, "b"))
            refused(log, StaleTerm, "save_hard_state", HardState(4, None))
            log.save_hard_state(HardState(6, None))
            refused(log, StaleTerm, "save_hard_state", HardState(5, "a"))

    def test_one_vote_in_a_term(self) -> None:
        """Another vote in the same term is StaleTerm, the same one again is fine, None never forgets it."""

        def vote(log: Log) -> None:
            log.save_hard_state(HardState(5, None))
            log.save_hard_state(HardState(5, "a"))
            refused(log, StaleTerm, "save_hard_state", HardState(5, "b"))
            refused(log, StaleTerm, "save_hard_state", HardState(5, 5))
            log.save_hard_state(HardState(5, "a"))
            log.save_hard_state(HardState(5, None))

        def check(log: Log) -> None:
            same("hard_state", HardState(*log.hard_state), HardState(5, "a"))
            refused(log, StaleTerm, "save_hard_state", HardState(5, "b"))

        self.kept(vote, check)

    def test_a_vote_is_free_again_in_the_next_term(self) -> None:
        """A higher term forgets the vote of the lower one, and takes another."""
        with self.log() as log:
            log.save_hard_state(HardState(5, "a"))
            log.save_hard_state(HardState(6, None))
            same("hard_state", HardState(*log.hard_state), HardState(6, None))
            log.save_hard_state(HardState(6, "b"))
            log.save_hard_state(HardState(8, "c"))
            same("hard_state", HardState(*log.hard_state), HardState(8, "c"))

    def test_hard_state_fences_a_deposed_leader(self) -> None:
        """Once a term is saved, whatever comes with a lower one is StaleTerm, also after reopening."""

        def check(log: Log) -> None:
            refused(log, StaleTerm, "append", b"x", 8)
            refused(log, StaleTerm, "append_many", [b"x"], 2)
            refused(log, StaleTerm, "append_entries", LogId(2, 2), entries(3, 2), leader_term=8)
            refused(log, StaleTerm, "append_entries", LogId(2, 2), [], leader_term=8)
            refused(log, StaleTerm, "truncate_from", 2, leader_term=8)

        def change(log: Log) -> None:
            fill(log, 1, 2)
            log.save_hard_state(HardState(9, None))

        self.kept(change, check)

    def test_a_node_with_a_hard_state_says_its_term(self) -> None:
        """term=None and leader_term=None are StaleTerm once a hard state was saved, for whatever adds entries."""
        with self.log(1, 1) as log:
            log.save_hard_state(HardState(3, "a"))
            refused(log, StaleTerm, "append", b"x")
            refused(log, StaleTerm, "append_many", [b"x"])
            refused(log, StaleTerm, "append_entries", LogId(1, 2), entries(3, 1))
            log.append(entry(3, 3).payload, 3)
            same_log(log, 1, 1, 3)

    def test_a_leader_may_send_entries_older_than_the_hard_state(self) -> None:
        """The hard state is compared with the leader's term, not with those of the entries that it sends."""
        with self.log() as log:
            log.save_hard_state(HardState(7, "a"))
            result = log.append_entries(NOTHING, entries(1, 1, 1, 4), leader_term=7)
            same("success and matched", (result.success, result.matched), (True, LogId(4, 3)))
            same_log(log, 1, 1, 4)

    # ------------------------------------------------------------ terms
    def test_terms_are_found_after_every_kind_of_change(self) -> None:
        """term_of, first_index_of_term and last_index_of_term are right after each change, and after reopening."""
        five = LogId(5, 5)
        script: list[tuple[Callable[[Log], object], list[int], LogId]] = [
            (lambda log: fill(log, 1, 1, 2, 2, 5, 5, 5), [1, 1, 2, 2, 5, 5, 5], NOTHING),
            (lambda log: log.append_entries(LogId(5, 7), entries(8, 6, 6, 8), leader_term=8),
             [1, 1, 2, 2, 5, 5, 5, 6, 6, 8], NOTHING),
            (lambda log: log.append_entries(LogId(6, 8), entries(9, 9, 10), leader_term=10),
             [1, 1, 2, 2, 5, 5, 5, 6, 9, 10], NOTHING),
            (lambda log: log.truncate_from(9), [1, 1, 2, 2, 5, 5, 5, 6], NOTHING),  # where a term begins
            (lambda log: log.append_entries(LogId(5, 7), entries(8, 7, 8), leader_term=8),
             [1, 1, 2, 2, 5, 5, 5, 7, 8], NOTHING),
            (lambda log: log.truncate_from(7), [1, 1, 2, 2, 5, 5], NOTHING),  # inside a term
            (lambda log: fill(log, 5, 7), [1, 1, 2, 2, 5, 5, 5, 7], NOTHING),
            (lambda log: log.purge_to(1), [1, 2, 2, 5, 5, 5, 7], LogId(1, 1)),
            (lambda log: log.purge_to(5), [5, 5, 7], five),
            (lambda log: log.truncate_from(6), [], five),
            (lambda log: fill(log, 5, 6), [5, 6], five),
            (lambda log: log.reset(), [], NOTHING),
            (lambda log: fill(log, 2, 3, 3), [2, 3, 3], NOTHING),
            (lambda log: log.reset(LogId(6, 20)), [], LogId(6, 20)),
            (lambda log: fill(log, 6, 8), [6, 8], LogId(6, 20)),
        ]  # fmt: skip
        with self.log() as log:
            for change, terms, purged in script:
                change(log)
                same_log(log, *terms, purged=purged)
                same_terms(log, *terms, purged=purged)
        for stop in (4, 6, 11, 15):

            def replay(log: Log, stop: int = stop) -> None:
                for change, _, _ in script[:stop]:
                    change(log)

            _, terms, purged = script[stop - 1]
            self.kept(replay, partial(_has_terms, tuple(terms), purged))

    def test_terms_are_found_among_thousands(self) -> None:
        """The look-ups of terms are right for any number of terms, also after truncation, purge and reopening."""
        count, gone = 6000, 5000

        def change(log: Log) -> None:
            for first in range(1, count, 500):
                prev = LogId(2 * first - 2, first - 1)
                many = [entry(2 * index, index) for index in range(first, first + 500)]
                log.append_entries(prev, many, leader_term=2 * count)
            check_some(log, 1, count)
            log.truncate_from(gone + 1)
            check_some(log, 1, gone)
            log.purge_to(777)

        def check_some(log: Log, first: int, last: int) -> None:
            for index in {first, last, *range(first, last, 97)}:
                found = log.term_of(index), log.first_index_of_term(2 * index), log.last_index_of_term(2 * index)
                same(f"term and indexes of entry {index}", found, (2 * index, index, index))
                same(f"first_index_of_term({2 * index + 1})", log.first_index_of_term(2 * index + 1), None)
            same("term_of(the end)", log.term_of(last + 1), None)

        def check(log: Log) -> None:
            check_some(log, 778, gone)
            same("term_of(boundary)", log.term_of(777), 2 * 777)
            same("term_of(below)", log.term_of(776), None)

        self.kept(change, check)

    def test_entries_are_values(self) -> None:
        """An entry equals another with the same term, index and payload, and knows its log id."""
        with self.log(1, 2) as log:
            same("get(2)", log.get(2), Entry(2, 2, b"2/2"))
            same("get(2).log_id", log.get(2).log_id, LogId(2, 2))
