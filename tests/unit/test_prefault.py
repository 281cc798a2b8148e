"""The ring's memory, found ahead: all of it, until somebody stops it, and never at the cost of those who append."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from raftlog_mp import preparation
from raftlog_mp.preparation import PREFAULT_BYTES, Prefault


class Mapping:
    """Notes what is asked of it, and in which thread."""

    length = 3 * PREFAULT_BYTES + 5

    def __init__(self, *, stop_after: int = 100) -> None:
        self.asked: list[tuple[int, int]] = []
        self.threads: set[threading.Thread] = set()
        self.stop_after, self.began, self.go_on = stop_after, threading.Event(), threading.Event()

    def prefault(self, offset: int, length: int) -> bool:
        self.asked.append((offset, length))
        self.threads.add(threading.current_thread())
        self.began.set()
        return len(self.asked) < self.stop_after


def prefault(mapping: Any) -> Prefault:
    return Prefault(mapping)


def ended(one: Prefault) -> None:
    assert one._thread is not None
    one._thread.join(30)
    assert not one._thread.is_alive()


def test_every_byte_in_a_thread_of_its_own() -> None:
    mapping = Mapping()
    ended(prefault(mapping))
    step = PREFAULT_BYTES
    assert mapping.asked == [(0, step), (step, step), (2 * step, step), (3 * step, 5)]
    assert threading.current_thread() not in mapping.threads


def test_a_kernel_that_cannot_is_asked_once() -> None:
    mapping = Mapping(stop_after=1)
    ended(prefault(mapping))
    assert len(mapping.asked) == 1


def test_it_stops_before_the_mapping_goes() -> None:
    mapping = Mapping()
    inner = mapping.prefault

    def held(offset: int, length: int) -> bool:
        inner(offset, length)
        return mapping.go_on.wait(30)

    mapping.prefault = held  # type: ignore[method-assign]  # a double of a double
    one = prefault(mapping)
    assert mapping.began.wait(30)
    threading.Timer(0.0, mapping.go_on.set).start()
    one.close()
    assert not one._thread.is_alive() and len(mapping.asked) <= 4  # type: ignore[union-attr]  # it was started above


def test_without_a_thread_nothing_is_done_and_nobody_is_made_to_yield(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the writer's own thread it would take longer than it saves, and the writer would stay nice for ever."""

    def no_thread(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    monkeypatch.setattr(preparation.processes, "yield_to_others", lambda: pytest.fail("the writer itself"))
    mapping = Mapping()
    prefault(mapping).close()
    assert mapping.asked == []
