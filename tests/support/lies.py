"""Logs with one lie each: what the conformance suite must catch, and by which rule.

A :class:`Lying` passes everything on to a real log but for the one name that it lies about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import raftlog_mp as rl


class Lying:
    """A log, but for one name; ``told`` is what stands there: given the log, it makes the value."""

    def __init__(self, log: Any, name: str, told: Callable[[Any], Any]) -> None:
        self._log, self._name, self._told = log, name, told

    def __getattr__(self, name: str) -> Any:
        return self._told(self._log) if name == self._name else getattr(self._log, name)

    def __len__(self) -> int:
        return len(self._log)


@dataclass(frozen=True)
class Lie:
    """``name``: what is wrong; ``rule``: the rule that must catch it; ``about``, ``told``: see :class:`Lying`."""

    name: str
    rule: str
    about: str
    told: Callable[[Any], Any]

    def told_of(self, log: Any) -> Lying:
        """The log with this lie."""
        return Lying(log, self.about, self.told)


def idle(_: Any) -> Any:
    """Does nothing."""
    return lambda *arguments, **named: None


def forgiving(method: str, *errors: type[Exception]) -> Callable[[Any], Any]:
    """The method swallows what it should raise."""

    def told(log: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            with contextlib.suppress(*errors):
                return getattr(log, method)(*arguments, **named)

        return call

    return told


def after(method: str, change: Callable[[Any, Any], Any]) -> Callable[[Any], Any]:
    """The method's answer goes through ``change(log, answer)`` first."""
    return lambda log: lambda *arguments, **named: change(log, getattr(log, method)(*arguments, **named))


def eager_append_entries(log: Any) -> Any:
    """Truncates behind prev before it looks: a late duplicate shortens the log."""

    def call(prev: rl.LogId, entries: list[rl.Entry], **named: Any) -> rl.AppendResult:
        with contextlib.suppress(rl.RaftLogError):
            log.truncate_from(prev.index + 1)
        return log.append_entries(prev, entries, **named)

    return call


def wiping_append_entries(log: Any) -> Any:
    """Takes LogId(0, 0) for an order to begin anew."""

    def call(prev: rl.LogId, entries: list[rl.Entry], **named: Any) -> rl.AppendResult:
        if prev == (0, 0):
            log.reset()
        return log.append_entries(prev, entries, **named)

    return call


def longer_append_entries(log: Any) -> Any:
    """Keeps the old entries behind a shorter replacement."""

    def call(prev: rl.LogId, entries: list[rl.Entry], **named: Any) -> rl.AppendResult:
        old = log.read(prev.index + len(entries) + 1) if prev.index >= log.purged_log_id.index else []
        result = log.append_entries(prev, entries, **named)
        if old and log.last_index < old[0].index:
            log.append_many([entry.payload for entry in old], log.last_log_id.term)
        return result

    return call


def slow_hint(_: Any, result: rl.AppendResult) -> rl.AppendResult:
    return result if result.success else result._replace(conflict=rl.LogId(0, 7))


def eager_match(log: Any, result: rl.AppendResult) -> rl.AppendResult:
    return result._replace(matched=log.last_log_id) if result.success else result


def lost_vote(log: Any) -> rl.HardState:
    return rl.HardState(log.hard_state.term, None)


def rewriting_purge(log: Any) -> Any:
    return lambda upto, **named: log.purge_to(upto - 1 if type(upto) is int and upto else upto, **named)


def forgetful_reset(log: Any) -> Any:
    """Keeps no boundary."""
    return lambda boundary=None, **named: log.reset(**named)


def boundless_term_of(log: Any) -> Any:
    return lambda index: None if index == log.purged_log_id.index else log.term_of(index)


def stuck_last_index_of_term(log: Any) -> Any:
    return lambda term: log.first_index_of_term(term)


def patient_follow(log: Any) -> Any:
    """Reads everything first and yields it later, whatever happens in between."""
    return lambda *arguments, **named: iter([*islice(log.follow(*arguments, **named), 100)])


def follow_everything(log: Any) -> Any:
    return lambda *arguments, upto="visible", **named: log.follow(*arguments, **named)


def follow_anything(log: Any) -> Any:
    """Believes every checkpoint."""

    def call(start: int | None = None, *, after: rl.LogId | None = None, **named: Any) -> Any:
        if after is not None:
            start = min(max(after.index + 1, log.first_index), log.last_index + 1)
        return log.follow(start, **named)

    return call


def follow_past_the_gap(log: Any) -> Any:
    return lambda start=None, **named: log.follow(max(start, log.first_index) if start else start, **named)


def believing_append_entries(log: Any) -> Any:
    """Takes everything below the boundary for what was there."""

    def call(prev: rl.LogId, entries: list[rl.Entry], **named: Any) -> rl.AppendResult:
        result = log.append_entries(prev, entries, **named)
        if prev.index >= log.purged_log_id.index:
            return result
        return rl.AppendResult(True, entries[-1].log_id if entries else prev, log.last_log_id, None)

    return call


def strict_reset(log: Any) -> Any:
    """Holds what is not committed for true, and passes over a boundary with a lower term."""

    def call(boundary: rl.LogId | None = None, **named: Any) -> None:
        if boundary is None or boundary.term >= log.last_log_id.term:
            log.reset(boundary, **named)

    return call


def undeterred_follow(log: Any) -> Any:
    """Tells of what is gone once, then goes on at the same index."""

    def call(start: int | None = None, **named: Any) -> Any:
        class Undeterred:
            inner, next = log.follow(start, **named), start or log.first_index

            def __next__(self) -> rl.Entry:
                try:
                    entry = next(self.inner)
                except (rl.Truncated, rl.Compacted):
                    self.inner = log.follow(max(log.first_index, min(self.next, log.last_index + 1)), **named)
                    raise
                self.next = entry.index + 1
                return entry

            def __iter__(self) -> Any:
                return self

        return Undeterred()

    return call


LIES = (
    Lie("append is off by one", "append_gives_the_next_index", "append", after("append", lambda _, index: index + 1)),
    Lie("an empty batch is an empty entry", "append_many_is_one_contiguous_batch", "append_many",
        lambda log: lambda payloads, term=None: log.append_many(payloads or [b""], term)),
    Lie("stale appends are swallowed", "append_with_a_term_below_the_last_entrys_is_stale", "append",
        forgiving("append", rl.StaleTerm)),
    Lie("a deposed leader may append", "hard_state_fences_a_deposed_leader", "append",
        lambda log: lambda payload, term=None: log.append(payload, max(term or 1, log.hard_state.term))),
    Lie("a vote is forgotten", "hard_state_survives_reopening", "hard_state", lost_vote),
    Lie("a lower hard state is swallowed", "hard_state_never_falls", "save_hard_state",
        forgiving("save_hard_state", rl.StaleTerm)),
    Lie("a second vote is swallowed", "one_vote_in_a_term", "save_hard_state",
        forgiving("save_hard_state", rl.StaleTerm)),
    Lie("term_of forgets the boundary", "terms_are_found_after_every_kind_of_change", "term_of", boundless_term_of),
    Lie("the last index of a term is the first", "terms_are_found_after_every_kind_of_change", "last_index_of_term",
        stuck_last_index_of_term),
    Lie("a duplicate shortens the log", "a_duplicate_changes_nothing", "append_entries", eager_append_entries),
    Lie("known entries are written again", "known_entries_are_skipped_and_the_rest_is_appended", "append_entries",
        eager_append_entries),
    Lie("the empty prefix wipes the log", "prev_before_the_first_entry_matches_and_wipes_nothing", "append_entries",
        wiping_append_entries),
    Lie("old entries stay behind a replacement", "a_shorter_replacement_ends_the_log", "append_entries",
        longer_append_entries),
    Lie("matched is the end of the log", "matched_is_prev_and_the_entries_and_nothing_behind", "append_entries",
        after("append_entries", eager_match)),
    Lie("the hint names no term", "another_term_at_prev_names_the_first_index_of_that_term", "append_entries",
        after("append_entries", slow_hint)),
    Lie("a mismatch is a success", "the_boundary_matches_with_its_own_term_only", "append_entries",
        after("append_entries", lambda _, result: result._replace(success=True))),
    Lie("below the boundary everything matches", "what_cannot_have_stood_below_the_boundary_does_not_match",
        "append_entries", believing_append_entries),
    Lie("nonsense is swallowed", "what_is_no_entry_is_refused", "append_entries",
        forgiving("append_entries", TypeError)),
    Lie("gaps are swallowed", "entries_that_do_not_follow_prev_are_refused", "append_entries",
        forgiving("append_entries", rl.IndexGap)),
    Lie("a stale leader is swallowed", "a_stale_leader_is_refused", "append_entries",
        forgiving("append_entries", rl.StaleTerm)),
    Lie("a committed entry's replacement is swallowed", "committed_entries_are_never_replaced", "append_entries",
        forgiving("append_entries", rl.CommittedEntry)),
    Lie("truncation does nothing", "truncate_removes_the_suffix", "truncate_from", idle),
    Lie("truncation beyond the end is swallowed", "truncate_behind_the_last_entry_removes_nothing", "truncate_from",
        forgiving("truncate_from", rl.IndexGap)),
    Lie("purge is exclusive", "purge_is_inclusive_and_remembers_the_term", "purge_to", rewriting_purge),
    Lie("purge asks for no term", "purge_with_another_term_is_refused", "purge_to",
        lambda log: lambda upto, **named: log.purge_to(upto if type(upto) is int else upto[1])),
    Lie("reset forgets its boundary", "reset_to_a_boundary_goes_on_behind_it", "reset", forgetful_reset),
    Lie("reset does nothing", "reset_empties_the_log_and_keeps_the_hard_state", "reset", idle),
    Lie("reset rewrites what is committed", "reset_never_contradicts_what_is_committed", "reset",
        forgiving("reset", rl.CommittedEntry)),
    Lie("reset rewrites the boundary", "reset_to_the_boundarys_index_has_its_term", "reset",
        forgiving("reset", rl.Truncated)),
    Lie("reset lets terms fall", "reset_never_lets_terms_fall", "reset", forgiving("reset", rl.StaleTerm)),
    Lie("reset asks entries that nobody committed", "reset_replaces_whatever_is_not_committed", "reset",
        strict_reset),
    Lie("everything counts as durable", "durable_is_never_above_the_last_entry", "durable_index", lambda _: 99),
    Lie("nothing is durable", "flush_makes_everything_durable", "durable_index", lambda _: 0),
    Lie("wait_durable does not look", "wait_durable_for_what_is_not_there_is_refused", "wait_durable", idle),
    Lie("below the boundary everything is durable", "wait_durable_for_what_was_purged", "wait_durable",
        lambda log: lambda index, **named: index in (0, 1, 4) or log.wait_durable(index[1] if index != -1 else -1)),
    Lie("commit_to answers what was asked", "commit_index_rises_and_never_falls", "commit_to",
        lambda log: lambda index, **named: (log.commit_to(index, **named), index)[1]),
    Lie("the commit index is forgotten", "commit_index_survives_a_clean_close", "commit_index", lambda _: 0),
    Lie("follow is a copy", "a_follower_never_yields_what_was_truncated", "follow", patient_follow),
    Lie("a follower is told nothing", "a_follower_whose_last_entry_is_gone_is_told", "follow", patient_follow),
    Lie("a follower is told only once", "a_follower_that_was_told_never_goes_on", "follow", undeterred_follow),
    Lie("upto is ignored", "follow_upto_committed_yields_committed_entries_only", "follow", follow_everything),
    Lie("every checkpoint is good", "a_checkpoint_that_is_gone_is_truncated", "follow", follow_anything),
    Lie("purged entries are passed over", "follow_of_purged_entries_is_compacted", "follow", follow_past_the_gap),
)  # fmt: skip
