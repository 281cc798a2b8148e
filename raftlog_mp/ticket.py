"""A submission on its way, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

from . import errors, layout
from .answers import Answer
from .config import check_timeout
from .wakeup import deadline_of

if TYPE_CHECKING:
    from .client import Client

T = TypeVar("T")


class Ticket(Generic[T]):
    """A submission on its way.  Stays valid across writer restarts, until its outcome is known."""

    __slots__ = (
        "_body", "_client", "_cursor", "_done", "_era", "_error", "_head", "_kind", "_meaning", "_value", "sequence",
    )  # fmt: skip
    _value: T  # once it is done, and was not refused

    def __init__(
        self, client: Client, era: int, kind: int = layout.SUBMIT_APPEND, meaning: Callable[[Answer], T] | None = None
    ) -> None:
        self._client, self._era = client, era
        self._kind, self._meaning = kind, meaning  # None: an append, whose indexes are counted from answer to answer
        self._head = self._body = b""  # kept until the answer was read, to be sent again if the writer dies
        self.sequence = self._cursor = 0
        self._done = False
        self._error: errors.RaftLogError | None = None

    def done(self) -> bool:
        """Whether the outcome is known; never waits."""
        return self._done or self._client.poll(self)

    def result(self, timeout: float | None = None) -> T:
        """What the call returns when it is answered in time.

        The indexes of the appended entries; of the other operations their own answer: an :class:`AppendResult` for
        ``append_entries``, the commit index for ``commit_to``, else None.  ``timeout`` in seconds, None for ever.
        Raises the reason if it was refused, :class:`AppendTimeout` if the time ran out (the ticket stays alive),
        :class:`LogClosed` if the handle was closed or belongs to a parent.
        """
        if timeout is not None:
            timeout = check_timeout(timeout)
        if not self._done:
            self._client.await_ticket(self, deadline_of(timeout))
        if self._error is not None:
            raise self._error
        return self._value

    def exception(self) -> errors.RaftLogError | None:
        """Why it was refused; None if it was not, or the outcome is not known yet."""
        self.done()
        return self._error

    def __repr__(self) -> str:
        state = "waiting" if not self._done else repr(self._error or self._value)
        return f"<Ticket {self.sequence}: {state}>"
