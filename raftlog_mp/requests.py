"""What a Raft node asks of its log besides appending, from the asking side: checks, packing, and what answers mean."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import Any

from crc32c import crc32c

from . import errors, layout
from . import format as fmt
from .answers import check_payloads, check_term, too_large
from .client import Client
from .config import check_integer
from .layout import ENTRY_RUN, FLAG_TERM_GIVEN, INDEX_MAX
from .protocol import HARD_STATE_BYTES_MAX, pack_hard_state
from .types import AppendResult, Entry, HardState, LogId

Timeout = float | None
_TERM, _INDEX, _PAYLOAD = attrgetter("term"), attrgetter("index"), attrgetter("payload")


class Requests:
    """The requests of one handle, each executed by the writer in the order of the handle's lane."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def append_entries(
        self, prev: LogId, entries: Iterable[Entry], leader_term: int | None, timeout: Timeout
    ) -> AppendResult:
        """The follower's AppendEntries; see :meth:`Log.append_entries`."""
        prev, entries = check_log_id("prev", prev), list(entries)
        check_term(leader_term)
        runs = check_entries(prev, entries, leader_term)
        table, bodies = self._pack(runs, timeout)
        head = (*_flagged(leader_term, len(runs)), crc32c(table), leader_term or 0)
        status, first, count, term, detail = self._client.ask(
            layout.SUBMIT_ENTRIES, head, b"".join((table, *bodies)), prev.index, prev.term, timeout
        )
        last = LogId(count, first)
        if status == layout.MISMATCH:
            return AppendResult(False, None, last, LogId(term, detail))
        return AppendResult(True, entries[-1].log_id if entries else prev, last, None)

    def _pack(self, runs: list[tuple[int, list[bytes]]], timeout: Timeout) -> tuple[bytes, list[bytes]]:
        """Run headers and bodies, within the limits of the writer."""
        entry_limit, batch_limit = self._client.limits(timeout)
        heads, bodies = [], []
        for term, payloads in runs:
            longest = max(map(len, payloads))
            if longest > entry_limit:
                raise too_large("entry", longest, entry_limit)
            body = payloads[0] if len(payloads) == 1 else fmt.pack_body(payloads)
            heads.append(ENTRY_RUN.pack(term, len(payloads), len(body), crc32c(body), 0))
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
        self._client.ask(layout.SUBMIT_TRUNCATE, head, b"", index, 0, timeout)

    def purge_to(self, upto: int | LogId, timeout: Timeout) -> None:
        """See :meth:`Log.purge_to`."""
        if isinstance(upto, tuple):
            term, index = check_log_id("purge_to", upto)
        else:
            term, index = 0, upto
        check_index(index, lowest=0)
        self._client.ask(layout.SUBMIT_PURGE, (0, 0, 0, 0), b"", index, term, timeout)

    def reset(self, boundary: LogId | None, timeout: Timeout) -> None:
        """See :meth:`Log.reset`."""
        term, index = check_log_id("boundary", LogId(0, 0) if boundary is None else boundary)
        self._client.ask(layout.SUBMIT_RESET, (0, 0, 0, 0), b"", index, term, timeout)

    def save_hard_state(self, state: HardState, timeout: Timeout) -> None:
        """See :meth:`Log.save_hard_state`."""
        body = pack_hard_state(check_hard_state(state))
        if len(body) > HARD_STATE_BYTES_MAX:
            allowed = f"at most {HARD_STATE_BYTES_MAX - 16} bytes"
            raise errors.ConfigError(
                f"voted_for is too long for its slot on disk: give {allowed}", field="voted_for", value=state[1],
                allowed=allowed,
            )  # fmt: skip
        self._client.ask(layout.SUBMIT_HARD_STATE, (0, 0, crc32c(body), 0), body, 0, 0, timeout)

    def commit_to(self, index: int, timeout: Timeout) -> int:
        """See :meth:`Log.commit_to`."""
        check_index(index, lowest=0)
        return self._client.ask(layout.SUBMIT_COMMIT, (0, 0, 0, 0), b"", index, 0, timeout)[1]


def _flagged(term: int | None, count: int) -> tuple[int, int]:
    return (0 if term is None else FLAG_TERM_GIVEN), count


def check_index(index: Any, *, lowest: int = 1) -> None:
    """``TypeError`` for what is no integer, :class:`IndexGap` for one that no entry can have."""
    check_integer("index", index)
    if not lowest <= index <= INDEX_MAX:
        raise errors.IndexGap(f"index {index} is not allowed: give an integer from {lowest} on", last_index=None)


def check_log_id(name: str, value: Any) -> LogId:
    """A (term, index) pair as a :class:`LogId`; ``TypeError`` for anything else."""
    try:
        term, index = value
    except (TypeError, ValueError):
        raise TypeError(f"{name} is a LogId(term, index), not {value!r}") from None
    check_integer(f"{name}.term", term)
    check_integer(f"{name}.index", index)
    allowed = "two integers from 0 on, both 0 for the place before the first entry"
    if not (0 <= term <= layout.TERM_MAX and 0 <= index <= INDEX_MAX) or (index == 0) != (term == 0):
        raise errors.ConfigError(
            f"{name}={value!r} is not allowed: give {allowed}", field=name, value=value, allowed=allowed
        )
    return LogId(term, index)


def check_entries(prev: LogId, entries: list[Entry], leader_term: int | None) -> list[tuple[int, list[bytes]]]:
    """Entries as (term, payloads) runs.

    :class:`IndexGap` unless they follow ``prev`` without a gap, :class:`StaleTerm` if a term goes down or is above the
    leader's.
    """
    if not entries:
        return []
    indexes = list(map(_INDEX, entries))
    if indexes != list(range(prev.index + 1, prev.index + 1 + len(entries))):
        raise errors.IndexGap(
            f"the entries' indexes {_short(indexes)} do not follow prev={prev} one by one; nothing was changed",
            last_index=prev.index,
        )
    terms = list(map(_TERM, entries))
    if terms.count(terms[0]) == len(terms):
        check_term(terms[0])
        runs = [(terms[0], check_payloads(map(_PAYLOAD, entries)))]
    else:
        runs = [(term, check_payloads(map(_PAYLOAD, group))) for term, group in groupby(entries, _TERM)]
        for term, _ in runs:
            check_term(term)
    lowest = prev.term
    for term, _ in runs:
        if term < lowest:
            raise errors.StaleTerm(
                f"the entries' terms go down, from {lowest} to {term}: no Raft log does; nothing was changed",
                term=term, current_term=lowest,
            )  # fmt: skip
        lowest = term
    if leader_term is not None and lowest > leader_term:
        raise errors.StaleTerm(
            f"an entry has term {lowest}, above its leader's {leader_term}: a leader of that term cannot have it; "
            "nothing was changed", term=leader_term, current_term=lowest,
        )  # fmt: skip
    return runs


def _short(numbers: list[int]) -> str:
    return str(numbers) if len(numbers) <= 8 else f"[{numbers[0]}, {numbers[1]}, ... {numbers[-1]}]"


def check_hard_state(state: Any) -> HardState:
    """A (term, voted_for) pair as a :class:`HardState`; ``TypeError`` for anything else."""
    try:
        term, voted_for = state
    except (TypeError, ValueError):
        raise TypeError(f"a hard state is a HardState(term, voted_for), not {state!r}") from None
    check_integer("term", term)
    if isinstance(voted_for, bool) or not isinstance(voted_for, (str, int, type(None))):
        raise TypeError(f"voted_for is a str, an int or None, not {type(voted_for).__name__}")
    if not 0 <= term <= layout.TERM_MAX or (isinstance(voted_for, int) and not -(1 << 63) <= voted_for < 1 << 63):
        allowed = "a term from 0 to 2**63-1; an int that fits 64 bits"
        raise errors.ConfigError(
            f"{state!r} is not allowed: give {allowed}", field="hard_state", value=state, allowed=allowed
        )
    return HardState(term, voted_for)
