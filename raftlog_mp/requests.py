"""What a Raft node asks of its log besides appending, from the asking side: checks, packing, and what answers mean."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from crc32c import crc32c

from . import errors, layout
from . import format as fmt
from .answers import Answer
from .arguments import check_batches, check_entries, check_hard_state, check_index, check_log_id, check_term, too_large
from .batches import EntryBatch, runs_of
from .bodies import pack_body
from .client import Client
from .layout import ENTRY_RUN, FLAG_TERM_GIVEN
from .protocol import BOUNDARY_INDEX_MAX, HARD_STATE_BYTES_MAX, pack_hard_state
from .types import AppendResult, Entry, HardState, LogId

Timeout = float | None


class Requests:
    """The requests of one handle, each executed by the writer in the order of the handle's lane."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def append_entries(
        self, prev: LogId, entries: Iterable[Entry | EntryBatch], leader_term: int | None, timeout: Timeout
    ) -> AppendResult:
        """The follower's AppendEntries; see :meth:`Log.append_entries`."""
        prev, given = check_log_id("prev", prev), list(entries)
        check_term(leader_term)
        if given and isinstance(given[0], EntryBatch):
            runs = runs_of(check_batches(prev, given, leader_term))
        else:
            runs = self._encoded(check_entries(prev, given, leader_term), timeout)
        table, bodies = self._pack(runs, timeout)
        head = (*_flagged(leader_term, len(runs)), crc32c(table), leader_term or 0)
        matched = LogId(runs[-1][0], prev.index + sum(run[1] for run in runs)) if runs else prev
        return self._client.ask(
            layout.SUBMIT_ENTRIES, head, b"".join((table, *bodies)), prev.index, prev.term, timeout,
            partial(_result, matched),
        )  # fmt: skip

    def _encoded(self, runs: list[tuple[int, list[bytes]]], timeout: Timeout) -> list[tuple[int, int, bytes]]:
        entry_limit, _ = self._client.limits(timeout)
        found = []
        for term, payloads in runs:
            longest = max(map(len, payloads))
            if longest > entry_limit:
                raise too_large("entry", longest, entry_limit)
            found.append((term, len(payloads), pack_body(payloads)))
        return found

    def _pack(self, runs: list[tuple[int, int, bytes]], timeout: Timeout) -> tuple[bytes, list[bytes]]:
        """Run headers and bodies, within the limits of the writer."""
        _, batch_limit = self._client.limits(timeout)
        heads, bodies = [], []
        for term, count, body in runs:
            heads.append(ENTRY_RUN.pack(term, count, len(body), crc32c(body), 0))
            bodies.append(body)
        size = sum(map(len, bodies)) + max(0, len(bodies) - 1) * fmt.RECORD_BYTES
        if size > batch_limit:
            raise too_large("batch", size, batch_limit)
        return b"".join(heads), bodies

    def truncate_from(self, index: int, leader_term: int | None, timeout: Timeout) -> None:
        """See :meth:`Log.truncate_from`."""
        check_index(index)
        check_term(leader_term)
        head = (*_flagged(leader_term, 0), 0, leader_term or 0)
        self._client.ask(layout.SUBMIT_TRUNCATE, head, b"", index, 0, timeout, _nothing)

    def purge_to(self, upto: int | LogId, timeout: Timeout) -> None:
        """See :meth:`Log.purge_to`."""
        if isinstance(upto, tuple):
            term, index = check_log_id("purge_to", upto)
        else:
            term, index = 0, upto
        check_index(index, lowest=0)
        self._client.ask(layout.SUBMIT_PURGE, (0, 0, 0, 0), b"", index, term, timeout, _nothing)

    def reset(self, boundary: LogId | None, timeout: Timeout) -> None:
        """See :meth:`Log.reset`."""
        given = LogId(0, 0) if boundary is None else boundary
        term, index = check_log_id("boundary", given, highest=BOUNDARY_INDEX_MAX)
        self._client.ask(layout.SUBMIT_RESET, (0, 0, 0, term), b"", index, term, timeout, _nothing)

    def save_hard_state(self, state: HardState, timeout: Timeout) -> None:
        """See :meth:`Log.save_hard_state`."""
        body = pack_hard_state(check_hard_state(state))
        if len(body) > HARD_STATE_BYTES_MAX:
            allowed = f"at most {HARD_STATE_BYTES_MAX - 16} bytes"
            raise errors.ConfigError(
                f"voted_for is too long for its slot on disk: give {allowed}", field="voted_for", value=state[1],
                allowed=allowed,
            )  # fmt: skip
        self._client.ask(layout.SUBMIT_HARD_STATE, (0, 0, crc32c(body), 0), body, 0, 0, timeout, _nothing)

    def commit_to(self, index: int, timeout: Timeout) -> int:
        """See :meth:`Log.commit_to`."""
        check_index(index, lowest=0)
        return self._client.ask(layout.SUBMIT_COMMIT, (0, 0, 0, 0), b"", index, 0, timeout, _commit_index)


def _flagged(term: int | None, count: int) -> tuple[int, int]:
    return (0 if term is None else FLAG_TERM_GIVEN), count


def _result(matched: LogId, answer: Answer) -> AppendResult:
    status, first, count, term, detail = answer
    last = LogId(count, first)
    if status == layout.MISMATCH:
        return AppendResult(False, None, last, LogId(term, detail))
    return AppendResult(True, matched, last, None)


def _commit_index(answer: Answer) -> int:
    return answer[1]


def _nothing(_: Answer) -> None:
    return None
