"""``flush()``: what it waits for, and what it says when the disk or the writer fails."""

from __future__ import annotations

import pytest

from raftlog_mp import errors, layout
from raftlog_mp.wakeup import FOREVER

from .test_client import WriterLink, submit
from .test_client import link as link


def test_flush_waits_for_its_own_submissions_and_all_that_was_visible(link: WriterLink) -> None:
    link.set(published=100, durable=90)
    submit(link)
    link.steps += [
        lambda: link.set(durable=100),  # but its own submission has no answer yet
        lambda: (link.set(published=150), link.answer(1)),
        lambda: link.set(published=500),  # what comes later need not be durable
        lambda: link.set(durable=150),
        lambda: pytest.fail("it waited for too much"),
    ]
    link.client.flush(FOREVER)
    assert len(link.steps) == 1 and link.sent == ["flush"]


def test_when_flush_returns_both_words_say_so(link: WriterLink) -> None:
    """The writer stores one after the other, and may lose its core between them."""
    link.set(published=100, last_index=7, durable=100, durable_index=3)
    link.steps += [
        lambda: link.set(durable_index=6),
        lambda: link.set(last_index=9),  # came later
        lambda: link.set(durable_index=7),
        lambda: pytest.fail("it waited for too much"),
    ]
    link.client.flush(FOREVER)
    assert len(link.steps) == 1


def test_flush_does_not_wait_for_entries_that_were_truncated(link: WriterLink) -> None:
    link.set(published=100, last_index=7, durable=90, durable_index=3)
    link.steps += [
        lambda: link.set(published=200, last_index=5, durable=200, durable_index=5),
        lambda: pytest.fail("it waited for what is gone"),
    ]
    link.client.flush(FOREVER)
    assert len(link.steps) == 1


def test_flush_that_fails(link: WriterLink) -> None:
    """It is asked for again of the next writer; a failed disk is named, unless everything had reached it before."""
    link.set(published=10)
    link.steps.append(link.lose)
    with pytest.raises(errors.LogTimeout):
        link.client.flush(0.0)
    assert link.sent == ["flush"] and not link.connected
    link.client.flush(FOREVER)
    assert link.connects == 2 and link.sent == ["flush"] * 2
    link.set(published=10, state=layout.STATE_FAILED)
    with pytest.raises(errors.SyncFailed):
        link.client.flush(FOREVER)
    link.set(durable=10)
    link.client.flush(FOREVER)
