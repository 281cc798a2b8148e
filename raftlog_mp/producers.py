"""The exactly-once table: what each producer's newest submissions became.

A client that lost its writer sends again, under the same producer id and sequences, whatever has no
completion.  The table answers: *appended, here it is* / *never seen, append it* / *too old to tell*.  It
is rebuilt from the headers of records; each segment starts with a snapshot, so the last segment is enough.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import repeat

import msgpack

from .layout import COMPLETION_SLOTS

# A producer has at most COMPLETION_SLOTS submissions in flight, so a window of that many always knows the answer.
WINDOW = COMPLETION_SLOTS
KEPT_BYTES_MAX = 1 << 20  # of the table in the manifest of a stopped log
IDLE_PRODUCERS_KEPT = 256  # of those without a connection; the longest silent ones are forgotten first

PRODUCER_BYTES = 40_000  # of one producer in a snapshot, at most: WINDOW x OUTCOME_BYTES and a little
OUTCOME_BYTES, ROW_BYTES = 37, 64

Outcome = tuple[int, int, int]  # first index, count, term: where a submission went

NO_PRODUCERS: bytes = msgpack.packb([])
ALL_FORGOTTEN: bytes = msgpack.packb([[0, 0, 0, []]])  # a table that knows only that it has forgotten
APPENDED, NEW, FORGOTTEN = "appended", "new", "forgotten"


class Producers:
    """Windows of outcomes by producer id."""

    def __init__(self) -> None:
        self._windows: OrderedDict[int, dict[int, Outcome]] = OrderedDict()  # the longest unused first
        self._highest: dict[int, int] = {}
        self._low: dict[int, int] = {}  # below this sequence the table forgot, above it it knows everything
        self._connected: set[int] = set()
        self._forgot_some = False  # a producer was dropped: one that is not here may have been

    def __len__(self) -> int:
        return len(self._windows)

    def connect(self, producer: int, first_unresolved: int, highest_sent: int = 0) -> int:
        """A client is here; answers before ``first_unresolved`` it has read, up to ``highest_sent`` it may ask again.

        Returns the highest sequence that may have been appended already: up to there :meth:`look_up` decides.
        """
        self._connected.add(producer)
        if producer not in self._windows:
            self._windows[producer] = {}
            self._highest[producer] = first_unresolved - 1
            if self._forgot_some and highest_sent >= first_unresolved:
                self._highest[producer], self._low[producer] = highest_sent, highest_sent + 1
        self._windows.move_to_end(producer)
        self.resolved(producer, first_unresolved - 1)
        return self._highest[producer]

    def resolved(self, producer: int, sequence: int) -> None:
        """The client has read every answer up to ``sequence``: it will not ask for them again."""
        window = self._windows.get(producer, {})
        for old in [known for known in window if known <= sequence]:
            del window[old]

    def disconnect(self, producer: int, *, for_good: bool) -> None:
        """The client is gone: ``for_good`` if it closed in order, else it may come back and ask."""
        self._connected.discard(producer)
        if for_good:
            self._forget(producer)
        elif producer in self._windows:
            self._windows.move_to_end(producer)
        self._trim()

    def record(self, producer: int, sequence: int, outcome: Outcome) -> None:
        """Remember what a submission became."""
        window = self._windows.get(producer)
        if window is None:
            window = self._windows[producer] = {}
            self._begin(producer, sequence)
        window[sequence] = outcome
        if sequence > self._highest.get(producer, 0):
            self._highest[producer] = sequence
        if len(window) >= 2 * WINDOW:
            self._trim_window(window)

    def _begin(self, producer: int, sequence: int) -> None:
        """Nothing was known of this producer: what it did before may be among what was forgotten."""
        if self._forgot_some:
            self._low[producer] = max(self._low.get(producer, 0), sequence)

    @staticmethod
    def _trim_window(window: dict[int, Outcome]) -> None:
        if len(window) >= 2 * WINDOW:  # amortised; the newest WINDOW sequences stay
            for old in sorted(window)[: len(window) - WINDOW]:
                del window[old]

    def record_purge(self, producer: int, sequence: int, outcome: Outcome) -> None:
        """Remember a purge that the manifest names, as far as its producer is known.

        Of one that may have been forgotten nothing else is known, and :meth:`connect` has to know that.
        """
        if producer in self._windows or not self._forgot_some:
            self.record(producer, sequence, outcome)

    def record_singles(self, producer: int, sequence: int, first_index: int, count: int, term: int) -> None:
        """Remember ``count`` submissions of one entry each, from ``sequence`` and ``first_index`` on."""
        window = self._windows.get(producer)
        if window is None:
            window = self._windows[producer] = {}
            self._begin(producer, sequence)
        indexes = range(first_index, first_index + count)
        outcomes = zip(indexes, repeat(1, count), repeat(term, count), strict=True)
        window.update(zip(range(sequence, sequence + count), outcomes, strict=True))
        last = sequence + count - 1
        if last > self._highest.get(producer, 0):
            self._highest[producer] = last
        self._trim_window(window)

    def unrecord(self, producer: int, sequence: int) -> None:
        """The step that was recorded ahead of its manifest did not come about."""
        self._windows.get(producer, {}).pop(sequence, None)

    def lose(self, first_index: int, last_index: int) -> None:
        """The entries ``first_index..last_index`` are lost: what became of their submissions is *forgotten*.

        Appending them again would show them twice to whoever has seen them.
        """
        for producer, window in self._windows.items():
            for sequence, (first, count, _) in list(window.items()):
                if max(first, first_index) < min(first + count, last_index + 1):  # never one without entries
                    del window[sequence]
                    self._low[producer] = max(self._low.get(producer, 0), sequence + 1)

    def look_up(self, producer: int, sequence: int) -> tuple[str, Outcome | None]:
        """What is known about a submission that may have been sent before.  Never guesses."""
        outcome = self._windows.get(producer, {}).get(sequence)
        if outcome is not None:
            return APPENDED, outcome
        # Inside the window every appended sequence is present; one that is not was never appended.
        known_from = max(self._highest.get(producer, 0) - WINDOW + 1, self._low.get(producer, 0))
        return (NEW, None) if sequence >= known_from else (FORGOTTEN, None)

    def _trim(self) -> None:
        idle = len(self._windows) - len(self._connected & self._windows.keys())
        for producer in list(self._windows) if idle > IDLE_PRODUCERS_KEPT else ():
            if producer not in self._connected:
                self._forget(producer)
                self._forgot_some = True
                idle -= 1
                if idle <= IDLE_PRODUCERS_KEPT:
                    break

    def _forget(self, producer: int) -> None:
        self._windows.pop(producer, None)
        self._highest.pop(producer, None)
        self._low.pop(producer, None)

    def snapshot_bytes_max(self) -> int:
        """What :meth:`snapshot` takes at most, however much those who are connected submit until then."""
        idle = self._windows.keys() - self._connected
        known = sum(min(len(self._windows[producer]), WINDOW) for producer in idle)
        return PRODUCER_BYTES * (1 + len(self._connected)) + ROW_BYTES * len(idle) + OUTCOME_BYTES * known

    def snapshot(self, budget_bytes: int) -> bytes:
        """The table as the body of a PRODUCERS record; what is oldest is left out until it fits the budget."""
        if not (self._windows or self._forgot_some):
            return NO_PRODUCERS
        keep, skip = WINDOW, 0
        while True:
            forgot = self._forgot_some or skip > 0
            rows: list[list[object]] = [[0, 0, 0, []]] if forgot else []  # producer 0: some were dropped
            for producer, window in list(self._windows.items())[skip:]:
                newest = sorted(window.items())[-keep:] if keep else []
                low = self._low.get(producer, 0)
                if len(newest) < len(window):
                    low = max(low, newest[0][0] if newest else self._highest.get(producer, 0) + 1)
                rows.append([producer, self._highest.get(producer, 0), low, [[s, *outcome] for s, outcome in newest]])
            body: bytes = msgpack.packb(rows)
            if len(body) <= budget_bytes or not self._windows or skip >= len(self._windows):
                return body
            if keep:
                keep //= 2
            else:
                skip = max(1, skip * 2)

    def to_keep(self, budget_bytes: int) -> bytes:
        """The snapshot for a log that stops in order; nothing if nobody is in the table."""
        body = self.snapshot(budget_bytes)
        return b"" if body == NO_PRODUCERS else body

    def restore(self, body: bytes) -> None:
        """Replace the table by a snapshot (its CRC was checked before)."""
        for producer in list(self._windows):
            self._forget(producer)
        self._forgot_some = False
        for producer, highest, low, window in msgpack.unpackb(body):
            if producer == 0:
                self._forgot_some = True
                continue
            self._windows[producer] = {row[0]: (row[1], row[2], row[3]) for row in window}
            self._highest[producer], self._low[producer] = highest, low
