"""What a producer checks before it asks, and what the writer's refusals mean."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from . import errors, layout

Payload = bytes | bytearray | memoryview


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
    if not 1 <= term <= layout.TERM_MAX:
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


def refusal(
    status: int, term: int, detail: int, directory: str, where: int = 0, given: int | None = None
) -> errors.RaftLogError:
    """The exception for a completion's status and its numbers; ``where`` is its first, ``given`` the caller's term."""
    makers: dict[int, Callable[[], errors.RaftLogError]] = {
        layout.STALE_TERM: lambda: errors.StaleTerm(
            f"the term is older than the log's, which is {term}: another leader has been here; step down",
            term=given, current_term=term,
        ),
        layout.TERM_REQUIRED: lambda: errors.StaleTerm(
            "this log has a hard state, so every append must say its term: give term=", current_term=term
        ),
        layout.TOO_LARGE: lambda: errors.EntryTooLarge(
            f"an entry or batch is above the limit of {detail} bytes now in force; nothing was appended",
            limit_bytes=detail,
        ),
        layout.SYNC_FAILED: lambda: errors.SyncFailed(
            f"the disk of {directory} failed: not appended as far as anybody can rely on it; the log is read-only. "
            "Check the disk, then restart the writer.", errno=detail or None,
        ),
        layout.DISK_FULL: lambda: errors.DiskFull(
            f"no room for a new segment in {directory} (errno {detail}): nothing was changed. What was acknowledged "
            "stays readable; free space, or descriptors, and try again.", errno=detail or None,
        ),
        layout.UNKNOWN: lambda: errors.OutcomeUnknown(
            "the writer no longer remembers this submission: it may or may not be in the log. "
            "Read the log's end to find out."
        ),
        layout.GAP: lambda: errors.IndexGap(
            f"the index lies beyond the end: the last entry is {where}; nothing was changed", last_index=where
        ),
        layout.COMMITTED: lambda: errors.CommittedEntry(
            f"entries up to {where} are committed: they are never removed or replaced; nothing was changed. A leader "
            "that asks for this is not a leader of this log.", commit_index=where,
        ),
        layout.PURGED: lambda: errors.Compacted(
            f"the index was purged; the first entry is {where}; nothing was changed", first_index=where
        ),
        layout.OTHER_ENTRY: lambda: errors.Truncated(
            f"an entry of term {term} stands at the index: another one than was named; nothing was changed",
            last_index=where,
        ),
        layout.VOTED: lambda: errors.StaleTerm(
            f"another vote was given in term {term}: a node votes once a term; nothing was changed", term=term,
            current_term=term,
        ),
        layout.MALFORMED: lambda: errors.RaftLogError(
            "the writer refused the submission as malformed (its checksum or structure was wrong): not appended"
        ),
    }  # fmt: skip
    return makers.get(status, lambda: errors.RaftLogError(f"the writer answered with the unknown status {status}"))()
