"""The rules of a Raft log as tests, for any object with this package's API: :class:`LogConformance`, :func:`run`.

Each rule is a method ``test_...`` whose docstring states it.  They use what docs/raft.md promises and nothing else, so
an adapter, a proxy or another implementation is judged by the same measure as this package itself.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from .appending import Appending
from .committing import Committing
from .following import Following
from .matching import Matching
from .removing import Removing

PREFIX = "test_"


class LogConformance(Appending, Matching, Removing, Committing, Following):
    """All rules.  Derive from it, override :meth:`open`; with pytest, call the class ``Test...``."""


class Finding(NamedTuple):
    """What became of one rule: ``problem`` is None if it holds."""

    rule: str
    problem: str | None


def rules() -> list[str]:
    """The names of all rules, without ``test_``."""
    return [name.removeprefix(PREFIX) for name in dir(LogConformance) if name.startswith(PREFIX)]


def run(open_log: Callable[[str], AbstractContextManager[Any]]) -> list[Finding]:
    """Check every rule against the logs that ``open_log(name)`` gives, as :meth:`LogConformance.open` describes.

    Needs no pytest.  Raises nothing of its own: a rule that does not hold is a finding with a problem.
    """

    class Bound(LogConformance):
        def open(self, name: str) -> AbstractContextManager[Any]:
            return open_log(name)

    return [Finding(rule, _problem(getattr(Bound(), PREFIX + rule))) for rule in rules()]


def _problem(check: Callable[[], None]) -> str | None:
    try:
        check()
    except AssertionError as broken:
        return str(broken) or "an assertion failed"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


__all__ = ["Finding", "LogConformance", "rules", "run"]
