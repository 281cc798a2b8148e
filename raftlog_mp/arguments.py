"""What callers give, checked before it travels: wrong kinds are ``TypeError``, wrong values name what is allowed."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter
from typing import Any

from . import errors
from .batches import EntryBatch
from .config import check_integer
from .layout import INDEX_MAX, TERM_MAX
from .types import Entry, HardState, LogId

Payload = bytes | bytearray | memoryview
_TERM, _INDEX, _PAYLOAD = attrgetter("term"), attrgetter("index"), attrgetter("payload")


def check_payloads(payloads: Iterable[Payload]) -> list[bytes]:
    """Payloads as bytes objects.  ``TypeError`` for what is no list of contiguous bytes-like objects."""
    if isinstance(payloads, (bytes, bytearray, memoryview, str)):
        kind = type(payloads).__name__
        raise TypeError(f"a list of payloads was due, not one {kind}; use append() for one, or give [payload]")
    return [payload if type(payload) is bytes else as_bytes(payload) for payload in payloads]


def as_bytes(payload: Any) -> bytes:
    """A contiguous bytes-like object as bytes."""
    if isinstance(payload, str):
        raise TypeError("a payload is bytes, not str: encode it first, e.g. text.encode()")
    try:
        view = memoryview(payload)
    except TypeError:
        raise TypeError(f"a payload is bytes-like, not {type(payload).__name__}") from None
    if not view.contiguous:
        raise TypeError("a payload is a contiguous buffer; copy it with bytes() first")
    return view.tobytes()


def check_term(term: Any) -> None:
    """Terms are None or integers from 1."""
    if term is None:
        return
    if isinstance(term, bool) or not isinstance(term, int):
        raise TypeError(f"a term is an integer, not {type(term).__name__}")
    if not 1 <= term <= TERM_MAX:
        allowed = "an integer from 1 to 2**63-1"
        raise errors.ConfigError(
            f"term={term} is not allowed: give {allowed}", field="term", value=term, allowed=allowed
        )


def too_large(what: str, size_bytes: int, limit_bytes: int) -> errors.EntryTooLarge:
    """The error for an entry or batch above its limit."""
    advice = "raise max_entry_bytes" if what == "entry" else "split it, or raise lane_bytes and ring_bytes"
    return errors.EntryTooLarge(
        f"{what} of {size_bytes} bytes is above the limit of {limit_bytes}; nothing was appended. Else: {advice}.",
        size_bytes=size_bytes, limit_bytes=limit_bytes,
    )  # fmt: skip


def check_index(index: Any, *, lowest: int = 1) -> None:
    """``TypeError`` for what is no integer, :class:`IndexGap` for one that no entry can have."""
    check_integer("index", index)
    if not lowest <= index <= INDEX_MAX:
        raise errors.IndexGap(
            f"index {index} is not allowed: give an integer from {lowest} to 2**62-1", last_index=None
        )


def as_log_id(name: str, value: Any) -> LogId:
    """A (term, index) tuple as a :class:`LogId`; ``TypeError`` for anything else: a set or dict has no order."""
    if not isinstance(value, tuple) or len(value) != 2:
        raise TypeError(f"{name} is a LogId(term, index), not {value!r}")
    term, index = value
    check_integer(f"{name}.term", term)
    check_integer(f"{name}.index", index)
    return LogId(term, index)


def check_log_id(name: str, value: Any, *, highest: int = INDEX_MAX) -> LogId:
    """As :func:`as_log_id`, and :class:`ConfigError` for an id that no entry can have, or one above ``highest``."""
    log_id = as_log_id(name, value)
    term, index = log_id
    if not (0 <= term <= TERM_MAX and 0 <= index <= highest) or (index == 0) != (term == 0):
        allowed = (
            f"two integers from 1 on, the term up to 2**63-1 and the index up to 2**{highest.bit_length()}-1, "
            "or both 0 for the place before the first entry"
        )
        raise errors.ConfigError(
            f"{name}={value!r} is not allowed: give {allowed}", field=name, value=value, allowed=allowed
        )
    return log_id


def check_entries(prev: LogId, entries: list[Any], leader_term: int | None) -> list[tuple[int, list[bytes]]]:
    """Entries as (term, payloads) runs.

    ``TypeError`` for what is no :class:`Entry` of integers and bytes, :class:`IndexGap` unless they follow ``prev``
    without a gap, :class:`StaleTerm` if a term goes down or is above the leader's.
    """
    if not entries:
        return []
    if set(map(type, entries)) != {Entry}:
        _each_is("an Entry", "entries[{}]", Entry, entries)
    indexes, terms = list(map(_INDEX, entries)), list(map(_TERM, entries))
    for name, numbers in (("index", indexes), ("term", terms)):
        if set(map(type, numbers)) != {int}:
            _each_is("an integer", f"entries[{{}}].{name}", int, numbers)
    if indexes != list(range(prev.index + 1, prev.index + 1 + len(entries))):
        raise errors.IndexGap(
            f"the entries' indexes {_short(indexes)} do not follow prev={prev} one by one; nothing was changed",
            last_index=prev.index,
        )
    if indexes[-1] > INDEX_MAX:
        check_index(indexes[-1])
    if terms.count(terms[0]) == len(terms):
        check_term(terms[0])
        runs = [(terms[0], check_payloads(map(_PAYLOAD, entries)))]
    else:
        runs = [(term, check_payloads(map(_PAYLOAD, group))) for term, group in groupby(entries, _TERM)]
        for term, _ in runs:
            check_term(term)
    _check_terms(prev, [term for term, _ in runs], leader_term)
    return runs


def check_batches(prev: LogId, batches: list[Any], leader_term: int | None) -> list[EntryBatch]:
    """As :func:`check_entries`, for undecoded batches; what is in them is checked by the writer."""
    _each_is("an EntryBatch, as all before it", "entries[{}]", EntryBatch, batches)
    expected = prev.index + 1
    for at, batch in enumerate(batches):
        for name in ("term", "first_index", "count"):
            _each_is("an integer", f"entries[{at}].{name}", int, [getattr(batch, name)])
        _each_is("bytes", f"entries[{at}].encoded", bytes, [batch.encoded])
        check_term(batch.term)
        if batch.first_index != expected or batch.count < 1:
            raise errors.IndexGap(
                f"the batches' indexes do not follow prev={prev} one by one: {batch.count} entries at "
                f"{batch.first_index} where {expected} was due; nothing was changed", last_index=prev.index,
            )  # fmt: skip
        expected += batch.count
    check_index(expected - 1)
    _check_terms(prev, [batch.term for batch in batches], leader_term)
    return batches


def _check_terms(prev: LogId, terms: list[int], leader_term: int | None) -> None:
    """:class:`StaleTerm` if a term goes down or is above the leader's."""
    lowest = prev.term
    for term in terms:
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


def _each_is(what: str, name: str, kind: type, values: list[Any]) -> None:
    """``TypeError`` for the first that is none, with its position."""
    for at, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, kind):
            raise TypeError(f"{name.format(at)} is {what}, not {type(value).__name__}; nothing was changed")


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
    if not 0 <= term <= TERM_MAX or (isinstance(voted_for, int) and not -(1 << 63) <= voted_for < 1 << 63):
        allowed = "a term from 0 to 2**63-1; an int that fits 64 bits"
        raise errors.ConfigError(
            f"{state!r} is not allowed: give {allowed}", field="hard_state", value=state, allowed=allowed
        )
    if isinstance(voted_for, str) and not _encodes(voted_for):
        allowed = "text that UTF-8 can hold: no lone surrogates"
        raise errors.ConfigError(
            f"voted_for={voted_for!r} is not allowed: give {allowed}", field="voted_for", value=voted_for,
            allowed=allowed,
        )  # fmt: skip
    return HardState(term, voted_for)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
