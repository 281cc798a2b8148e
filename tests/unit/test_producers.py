"""The exactly-once table: it knows, or it says that it forgot; it never guesses."""

from __future__ import annotations

import random

import pytest

from raftlog_mp.layout import COMPLETION_SLOTS
from raftlog_mp.producers import ALL_FORGOTTEN, APPENDED, FORGOTTEN, IDLE_PRODUCERS_KEPT, NEW, WINDOW, Producers


def filled(count: int, producer: int = 1) -> Producers:
    table = Producers()
    table.connect(producer, 1)
    for sequence in range(1, count + 1):
        table.record(producer, sequence, (sequence * 10, 1, 1))
    return table


def test_known_and_new() -> None:
    table = filled(3)
    assert table.look_up(1, 2) == (APPENDED, (20, 1, 1))
    assert table.look_up(1, 4) == (NEW, None)
    assert table.connect(1, 2) == 3, "up to here the table decides"


def test_the_window_covers_all_that_can_be_in_flight() -> None:
    assert WINDOW >= COMPLETION_SLOTS
    table = filled(5 * WINDOW)
    newest = 5 * WINDOW
    for sequence in range(newest - WINDOW + 1, newest + 1):
        assert table.look_up(1, sequence) == (APPENDED, (sequence * 10, 1, 1))


def test_older_than_the_window_is_forgotten_never_new() -> None:
    for count in (WINDOW + 1, 2 * WINDOW - 1, 2 * WINDOW, 2 * WINDOW + 1, 7 * WINDOW):
        table = filled(count)
        for sequence in range(1, count + 1):
            verdict, outcome = table.look_up(1, sequence)
            assert verdict != NEW
            assert outcome == ((sequence * 10, 1, 1) if verdict == APPENDED else None)


def test_a_gap_in_the_window_was_never_appended() -> None:
    """Refused submissions (a stale term) leave gaps; sent again, they are decided again."""
    table = filled(3)
    table.record(1, 6, (60, 1, 1))
    assert table.look_up(1, 5) == (NEW, None)


def test_answers_that_were_read_are_let_go() -> None:
    table = filled(10)
    table.resolved(1, 8)
    assert table.look_up(1, 9)[0] == APPENDED
    assert table.connect(1, 9) == 10


def test_snapshot_round_trip() -> None:
    table = filled(50)
    table.record(2, 7, (1000, 5, 3))
    back = Producers()
    back.record(99, 1, (1, 1, 1))
    back.restore(table.snapshot(1 << 20))
    assert len(back) == 2, "what was there before is gone"
    assert back.look_up(1, 50) == (APPENDED, (500, 1, 1)) and back.look_up(2, 7) == (APPENDED, (1000, 5, 3))
    assert back.look_up(1, 51) == (NEW, None)
    assert back.snapshot(1 << 20) == table.snapshot(1 << 20)


@pytest.mark.parametrize("budget", [100, 1_000, 5_000, 20_000, 1 << 20])
def test_a_snapshot_keeps_its_budget_and_forgets_aloud(budget: int) -> None:
    table = filled(WINDOW)
    body = table.snapshot(budget)
    assert len(body) <= budget
    back = Producers()
    back.restore(body)
    for sequence in range(1, WINDOW + 1):
        verdict, outcome = back.look_up(1, sequence)
        assert verdict in (APPENDED, FORGOTTEN)
        assert verdict == FORGOTTEN or outcome == (sequence * 10, 1, 1)
    assert back.look_up(1, WINDOW + 1) == (NEW, None)


def test_snapshots_of_snapshots_never_turn_forgotten_into_new() -> None:
    chooser = random.Random(11)
    table, appended = Producers(), 0
    for _ in range(300):
        for _ in range(chooser.randint(0, 40)):
            appended += 1
            table.record(1, appended, (appended, 1, 1))
        body, table = table.snapshot(chooser.choice([60, 300, 2_000, 1 << 20])), Producers()
        table.restore(body)
        for sequence in range(max(1, appended - 2 * WINDOW), appended + 1):
            assert table.look_up(1, sequence)[0] != NEW, (sequence, appended)


def test_what_became_of_lost_entries_is_forgotten_and_nothing_else() -> None:
    table = filled(6)  # sequence n went to index 10 n
    table.record(1, 7, (70, 5, 1))
    table.record(1, 8, (75, 0, 1))  # of no entries
    table.lose(30, 30)
    table.lose(72, 80)
    back = Producers()
    back.restore(table.snapshot(1 << 20))
    for one in (table, back):
        verdicts = {sequence: one.look_up(1, sequence)[0] for sequence in range(1, 10)}
        assert [s for s, verdict in verdicts.items() if verdict == FORGOTTEN] == [3, 7]
        assert verdicts.pop(9) == NEW and APPENDED in verdicts.values() and NEW not in verdicts.values()


@pytest.mark.parametrize("singles", [False, True])
def test_a_producer_that_may_have_been_forgotten_is_not_known_by_what_it_did_later(singles: bool) -> None:
    """Rebuilt from records behind a snapshot that left some out: what came before the first of them nobody knows."""
    table = Producers()
    table.restore(ALL_FORGOTTEN)
    table.record_purge(9, 4, (1, 0, 0))
    assert table.connect(9, 1, 4) == 4 and table.look_up(9, 3)[0] == table.look_up(9, 4)[0] == FORGOTTEN
    if singles:
        table.record_singles(1, 12, 100, 3, 1)
    else:
        for sequence in (12, 13, 14):
            table.record(1, sequence, (88 + sequence, 1, 1))
    back = Producers()
    back.restore(table.snapshot(1 << 20))
    for one in (table, back):
        assert one.connect(1, 3, 15) == 14
        assert {one.look_up(1, sequence)[0] for sequence in range(3, 12)} == {FORGOTTEN}
        assert [one.look_up(1, sequence) for sequence in (12, 14)] == [(APPENDED, (n, 1, 1)) for n in (100, 102)]
        assert one.look_up(1, 15)[0] == NEW


def test_a_client_that_closed_in_order_is_forgotten_at_once() -> None:
    table = filled(3)
    table.disconnect(1, for_good=True)
    assert len(table) == 0


def test_a_client_that_vanished_may_come_back() -> None:
    table = filled(3)
    table.disconnect(1, for_good=False)
    assert table.connect(1, 3) == 3 and table.look_up(1, 3) == (APPENDED, (30, 1, 1))


def test_idle_producers_are_bounded_connected_ones_stay() -> None:
    table = filled(1, producer=1)
    for producer in range(2, IDLE_PRODUCERS_KEPT * 3):
        table.record(producer, 1, (producer, 1, 1))
    table.disconnect(2, for_good=False)
    assert len(table) <= IDLE_PRODUCERS_KEPT + 2
    assert table.look_up(1, 1)[0] == APPENDED


def test_a_forgotten_producer_is_not_taken_for_a_new_one() -> None:
    """More clients than idle ones are kept vanish in a writer's crash; each comes back with what it had in flight."""
    table = Producers()
    clients = range(1, IDLE_PRODUCERS_KEPT + 50)
    for client in clients:
        table.record(client, 1, (client, 1, 1))
    table.disconnect(1, for_good=False)  # now the idle ones are trimmed
    guessed = []
    for client in clients:
        resumed_until = table.connect(client, 1, 1)
        if resumed_until < 1 or table.look_up(client, 1)[0] == NEW:
            guessed.append(client)  # the writer would append it a second time
    assert not guessed
