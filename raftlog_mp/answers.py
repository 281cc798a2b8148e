"""What the writer's answers mean."""

from __future__ import annotations

from collections.abc import Callable

from . import errors, layout

Answer = tuple[int, int, int, int, int]  # status, first, count, term, detail

# Of a submission without an answer: what may have become of it, and why asking anew is safe, or what it would do.
_OPEN = {
    layout.SUBMIT_APPEND: ("the entry may be appended, exactly once", None, "append"),
    layout.SUBMIT_ENTRIES: ("the entries may be in the log", "what is there is skipped", ""),
    layout.SUBMIT_TRUNCATE: ("the entries may be removed", None, "truncate"),
    layout.SUBMIT_PURGE: ("the entries may be purged", "what is purged stays so", ""),
    layout.SUBMIT_RESET: ("the log may be reset", None, "reset it"),
    layout.SUBMIT_HARD_STATE: (
        "term and vote may be saved, so give no vote before it is known", "the same vote is no second one", ""
    ),
    layout.SUBMIT_COMMIT: ("the commit index may be raised", "it never falls", ""),
}  # fmt: skip


def no_answer(kind: int, directory: str, why: Exception | None) -> str:
    """What :class:`AppendTimeout` says of a submission of this kind."""
    may, safe, verb = _OPEN[kind]
    text = f"no answer from the writer of {directory} in time{f': {why}' if why is not None else ''}. "
    text += f"Outcome unknown: {may}. Wait on .ticket of this error"
    if safe is not None:
        return f"{text}, or ask again: {safe}."
    return f"{text}; do not {verb} again before it has resolved."


def closed_early(kind: int) -> str:
    """What :class:`LogClosed` says of one that still waits for its answer."""
    may, safe, verb = _OPEN[kind]
    advice = f"read the log's end before you {verb} again" if safe is None else f"open the log and ask again: {safe}"
    return f"the handle was closed before the answer came. Outcome unknown: {may}; {advice}"


def refusal(
    answer: Answer, directory: str, kind: int = layout.SUBMIT_APPEND, given: int | None = None
) -> errors.RaftLogError:
    """The exception for an answer to a submission of this kind; ``given``: the term that the caller named."""
    status, where, _, term, detail = answer
    stale = "the term is older than the log's, which is {}: another leader has been here; step down"
    if kind == layout.SUBMIT_RESET:
        stale = (
            "the boundary's term is below {}, that of what is committed or purged before it: terms never fall; nothing "
            "was changed. This is no snapshot of this log."
        )
    makers: dict[int, Callable[[], errors.RaftLogError]] = {
        layout.STALE_TERM: lambda: errors.StaleTerm(
            stale.format(term), term=given, current_term=term
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
        layout.TERM_UNKNOWN: lambda: errors.CorruptLog(
            f"the log can neither end nor begin there: from entry {where} on, behind one of term {term}, entries are "
            "damaged, and nobody knows where in the damage the term changes; nothing was changed. Fetch them from a "
            f"peer: truncate_from({where}), then append_entries(). `raftlog-mp check {directory}` says more.",
            first_index=where, term=term or None,
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
