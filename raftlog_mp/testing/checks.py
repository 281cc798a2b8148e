"""What the rules are made of: a place for logs, entries to put in, and comparisons that say what differs.

Plain exceptions instead of ``assert``: the suite must work under ``python -O`` and name what is wrong without pytest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import groupby
from typing import Any

from ..types import Entry, LogId

Log = Any  # any object with the API of raftlog_mp.Log
NOTHING = LogId(0, 0)

_numbers = itertools.count(1)


class Rules:
    """Base of the rules: where they get their logs from."""

    def open(self, name: str) -> AbstractContextManager[Any]:
        """Override this: a context manager that gives the log called ``name``.

        A name that was never opened is a new, empty log without a hard state; the same name again is the same log,
        reopened after a clean close.  Leaving the context closes it.  Names are short and unique in this process, and
        fit a file name: put each below a folder that is fresh for every run.  One log is open at a time.
        """
        raise NotImplementedError("override open(self, name): a context manager that gives the log called name")

    @contextmanager
    def log(self, *terms: int) -> Iterator[Log]:
        """A new log with entries of these terms."""
        with self.open(_new_name()) as log:
            check_empty(log)
            fill(log, *terms)
            yield log

    def kept(self, change: Callable[[Log], object], check: Callable[[Log], None]) -> None:
        """``check`` holds after ``change`` was made to a new log, and after it was closed and opened again."""
        name = _new_name()
        with self.open(name) as log:
            check_empty(log)
            change(log)
            check(log)
        with self.open(name) as log:
            check(log)


def _new_name() -> str:
    return f"log-{next(_numbers)}"


def check_empty(log: Log) -> None:
    """A rule can only begin with a log that nobody has used."""
    if log.last_index or log.commit_index or tuple(log.hard_state) != (0, None):
        raise AssertionError("open() gave a log that is not new for a name that is: put it below a fresh folder")


# ---------------------------------------------------------------- entries
def entry(term: int, index: int) -> Entry:
    """The entry that the rules put at ``index`` with ``term``: the payload names both."""
    return Entry(term, index, b"%d/%d" % (term, index))


def entries(first: int, *terms: int) -> list[Entry]:
    """Entries from ``first`` on with these terms."""
    return [entry(term, index) for index, term in enumerate(terms, first)]


def fill(log: Log, *terms: int) -> Any:
    """Append entries with these terms; gives the id of the last entry."""
    for term, run in groupby(entries(log.last_index + 1, *terms), lambda one: one.term):
        log.append_many([one.payload for one in run], term)
    return log.last_log_id


# ---------------------------------------------------------------- comparisons
def same(what: str, got: object, wanted: object) -> None:
    """Fail unless both are equal."""
    if got != wanted:
        raise AssertionError(f"{what} is {_short(got)}, but should be {_short(wanted)}")


def holds(what: str, true: object) -> None:
    """Fail unless ``true`` is."""
    if not true:
        raise AssertionError(what)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 400 else f"{text[:300]} ... {text[-80:]}"


def same_log(log: Log, *terms: int, purged: LogId = NOTHING) -> None:
    """Fail unless the log holds exactly entries with these terms behind the boundary ``purged``."""
    first, wanted = purged.index + 1, entries(purged.index + 1, *terms)
    last = purged.index + len(terms)
    same("first_index", log.first_index, first)
    same("last_index", log.last_index, last)
    same(f"read({first})", log.read(first), wanted)
    same("purged_log_id", log.purged_log_id, purged)
    same("last_log_id", log.last_log_id, wanted[-1].log_id if wanted else purged)
    same("len(log)", len(log), len(wanted))
    for index in (purged.index - 1, purged.index, last + 1):
        same(f"get({index})", log.get(index), None)
    for one in wanted[:3] + wanted[-3:]:
        same(f"get({one.index})", log.get(one.index), one)
    holds(f"durable_index {log.durable_index} is above last_index {last}", log.durable_index <= log.last_index)


def same_terms(log: Log, *terms: int, purged: LogId = NOTHING) -> None:
    """Fail unless the look-ups of terms say that entries with these terms stand behind ``purged``."""
    first, last = purged.index + 1, purged.index + len(terms)
    for index in range(max(0, first - 3), last + 3):
        known = purged.term or None if index == purged.index else None
        same(f"term_of({index})", log.term_of(index), terms[index - first] if first <= index <= last else known)
    for term in range(1, max(*terms, purged.term, 10) + 2):  # also those that are gone
        there: list[int | None] = [index for index, other in enumerate(terms, first) if other == term]
        there = there or [None]
        same(f"first_index_of_term({term})", log.first_index_of_term(term), there[0])
        same(f"last_index_of_term({term})", log.last_index_of_term(term), there[-1])


def refused(log: Log, error: type[Exception], method: str, *arguments: Any, **named: Any) -> Any:
    """Fail unless the call raises ``error`` and changes nothing; gives the exception."""
    given = [*map(_short, arguments), *(f"{name}={_short(value)}" for name, value in named.items())]
    call = f"{method}({', '.join(given)})"
    before = _state(log)
    caught = raised(error, call, lambda: getattr(log, method)(*arguments, **named))
    same(f"the log after {call} was refused", _state(log), before)
    return caught


def raised(error: type[Exception], call: str, act: Callable[[], object]) -> Any:
    """Fail unless ``act`` raises ``error``; gives the exception."""
    try:
        result = act()
    except error as caught:
        return caught
    except Exception as other:
        raise AssertionError(f"{call} raised {other!r}, but should raise {error.__name__}") from other
    raise AssertionError(f"{call} gave {_short(result)}, but should raise {error.__name__}")


def _state(log: Log) -> dict[str, object]:
    return {
        "entries": log.read(log.first_index), "purged_log_id": log.purged_log_id, "last_log_id": log.last_log_id,
        "hard_state": tuple(log.hard_state), "commit_index": log.commit_index,
    }  # fmt: skip
