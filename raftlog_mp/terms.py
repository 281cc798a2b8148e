"""Term runs: at which index each term begins.  Kept by the writer, read by every process without asking it.

A log has few terms and many entries, so the table is small.  Terms never decrease along the log, so both columns of
the table are sorted, and one look-up is one bisection.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

from sortedcontainers import SortedDict

from . import format as fmt
from . import layout, shm
from .errors import VersionMismatch
from .files import Files, join
from .layout import TERM_EDITION_SHIFT, TERM_RUN, TERM_RUN_BYTES
from .types import LogId

T = TypeVar("T")
Run = tuple[int, int]  # first index, term
RUNS_AT_FIRST = 4096  # of a table's first edition; one that is half full is followed by one twice as large


class TermRuns:
    """Which term each index has.  Knows nothing of where the log ends: callers bound the index."""

    def __init__(self, runs: Iterable[Run] = ()) -> None:
        self._by_index: Any = SortedDict()
        self._by_term: Any = SortedDict()
        for first, term in runs:
            self.add(first, term)

    def add(self, first: int, term: int) -> None:
        """From ``first`` on entries have ``term``; nothing if they had it before."""
        if not self._by_index or self._by_index.peekitem(-1)[1] != term:
            self._by_index[first] = term
            self._by_term[term] = first

    def term_of(self, index: int) -> int | None:
        """The term of the run that covers ``index``; None before the first run."""
        at = self._by_index.bisect_right(index) - 1
        return None if at < 0 else self._by_index.peekitem(at)[1]

    def first_of(self, term: int) -> int | None:
        """Where the run of ``term`` begins; None if there is none."""
        first: int | None = self._by_term.get(term)
        return first

    def range_of(self, term: int) -> tuple[int, int]:
        """First and last index that the run of ``term`` may cover; the last one has no end, a missing one is empty."""
        first = self._by_term.get(term)
        if first is None:
            return 1, 0
        end = self.end_of(first)
        return first, layout.INDEX_MAX if end is None else end - 1

    def end_of(self, index: int) -> int | None:
        """The first index beyond the run that covers ``index``; None if it is the last run."""
        at = self._by_index.bisect_right(index)
        return self._by_index.peekitem(at)[0] if at < len(self._by_index) else None

    def purge_to(self, index: int) -> None:
        """Forget runs that end before ``index``; the one that covers it stays: the boundary's term is known."""
        while len(self._by_index) > 1 and self._by_index.peekitem(1)[0] <= index:
            _, term = self._by_index.popitem(0)
            del self._by_term[term]

    def runs(self) -> list[Run]:
        """All of them, in order."""
        return list(self._by_index.items())

    def between(self, first: int, last: int) -> list[Run]:
        """The runs of entries ``first..last``, the first of them beginning there."""
        at = self._by_index.bisect_right(first) - 1
        if at < 0 or first > last:
            at += 1
        start = self._by_index.peekitem(at)[0] if at < len(self._by_index) else last + 1
        keys = self._by_index.irange(start, last) if first <= last else ()
        return [(max(key, first), self._by_index[key]) for key in keys]

    def __len__(self) -> int:
        return len(self._by_index)


class Unknown(NamedTuple):
    """Entries in damage in which the term changes: each has one from ``before`` to ``after``, nobody knows which."""

    first: int
    last: int
    before: int  # term of the entry before them; 0 if none stands there
    after: int  # of the entry behind them
    segment_id: int  # where the damage begins
    offset: int  # in that segment's file

    def holds(self, index: int) -> bool:
        """Whether the entry at ``index`` is one of them."""
        return self.first <= index <= self.last


def unknown_terms(runs: TermRuns, damage: Iterable[Sequence[int]], purged: LogId, last: int) -> list[Unknown]:
    """Which terms nobody knows, in a log that ends with ``last``.  ``damage``: rows like those of ``Manifest.lost``.

    Terms never fall: damage between two entries of one term holds no other.  In damage ``runs`` is a guess; it is right
    everywhere else, and of the last entry, whose term is stated where the end of the log is.
    """
    stretches: list[list[int]] = []
    for first, end, segment_id, offset in sorted(map(tuple, damage)):
        low, high = max(first, purged.index + 1), min(end, last)
        if low > high:
            continue
        if stretches and low <= stretches[-1][1] + 1:  # a stretch of damage may be noted as several rows
            stretches[-1][1] = max(stretches[-1][1], high)
        else:
            stretches.append([low, high, segment_id, offset])
    found = []
    for low, high, segment_id, offset in stretches:
        before = purged.term if low - 1 == purged.index else runs.term_of(low - 1) or 0
        after, end = runs.term_of(min(high + 1, last)) or 0, min(high, last - 1)
        if before != after and low <= end:
            found.append(Unknown(low, end, before, after, segment_id, offset))
    return found


@dataclass(slots=True)
class Edition:
    """One file of the table."""

    number: int
    path: str
    mapping: shm.Mapping
    capacity: int
    runs: TermRuns
    used: int


class TermTable:
    """The writer's side: the runs, and their copy in shared memory.

    Pairs are write-once.  The word ``terms`` names the edition and how many pairs count, so one store switches both.
    """

    def __init__(self, folder: str, generation: int, word: Any, runs: Iterable[Run]) -> None:
        self._folder, self._generation, self._word = folder, generation, word
        self._number = 0
        self._edition = self.stage(TermRuns(runs))
        self._tell()

    @property
    def runs(self) -> TermRuns:
        """The runs of the edition in force."""
        return self._edition.runs

    def add(self, first: int, term: int) -> None:
        """A new term begins at ``first``.  Readers look only below the published index, so it may be early."""
        before = len(self.runs)
        self.runs.add(first, term)
        if len(self.runs) == before:
            return
        edition = self._edition
        if edition.used == edition.capacity:
            self.grow()
            return
        at = edition.used * TERM_RUN_BYTES
        edition.mapping.data[at : at + TERM_RUN_BYTES] = TERM_RUN.pack(first, term)
        edition.used += 1
        self._tell()
        if edition.used * 2 >= edition.capacity:
            with contextlib.suppress(OSError):  # there is room for now; with the next term it is tried again
                self.grow()

    @property
    def short(self) -> bool:
        """Whether it could not grow in time.  The quarter that is left is for one request that holds many terms."""
        return self._edition.used * 4 >= self._edition.capacity * 3

    def grow(self) -> None:
        """Go on in a larger edition.  ``OSError`` with nothing changed if there is no memory for it."""
        self.adopt(self.stage(self._edition.runs))

    def stage(self, runs: TermRuns) -> Edition:
        """Another edition that holds ``runs``, not told to anybody yet.  ``OSError`` if there is no memory for it."""
        self._number += 1
        path = join(self._folder, fmt.terms_table_name(self._generation, self._number))
        capacity = max(RUNS_AT_FIRST, 4 * len(runs))
        mapping = shm.create_file(path, capacity * TERM_RUN_BYTES)
        data = b"".join(TERM_RUN.pack(*run) for run in runs.runs())
        mapping.data[: len(data)] = data
        return Edition(self._number, path, mapping, capacity, runs, len(runs))

    def adopt(self, edition: Edition) -> None:
        """From now on ``edition`` counts."""
        old, self._edition = self._edition, edition
        self._tell()
        self.discard(old)

    def discard(self, edition: Edition | None) -> None:
        """Remove an edition that does not count; readers that map it keep it."""
        if edition is not None:
            edition.mapping.close()
            shm.remove(edition.path)

    def _tell(self) -> None:
        # RELEASE: the pairs are written before the word that counts them.
        self._word.store(self._edition.number << TERM_EDITION_SHIFT | self._edition.used, shm.RELEASE)

    def close(self, *, remove: bool) -> None:
        """Unmap; ``remove`` the file, too, if nobody needs it any more."""
        if remove:
            self.discard(self._edition)
        else:
            self._edition.mapping.close()


class TermReader:
    """A reader's copy of the table, brought up to date when the word says that it grew or that there is another."""

    # A writer does not start over guesses: where its table holds one, the manifest's ``lost`` says so.
    damage: Sequence[Sequence[int]] = ()

    def __init__(self, folder: str, generation: int) -> None:
        self._folder, self._generation = folder, generation
        self._word = -1
        self._runs = TermRuns()
        self._mapping: Any = None
        self._lock = threading.Lock()

    def ask(self, word: int, question: Callable[[TermRuns], T]) -> T:
        """The answer of the runs that ``word`` names.  ``FileNotFoundError``: they are gone, look again."""
        with self._lock:
            return question(self._at(word))

    def _at(self, word: int) -> TermRuns:
        if word == self._word:
            return self._runs
        edition, count = word >> TERM_EDITION_SHIFT, word & (1 << TERM_EDITION_SHIFT) - 1
        mapping, runs, known = self._mapping, self._runs, self._word & (1 << TERM_EDITION_SHIFT) - 1
        if self._word < 0 or edition != self._word >> TERM_EDITION_SHIFT:
            mapping = shm.open_file(join(self._folder, fmt.terms_table_name(self._generation, edition)))
            runs, known = TermRuns(), 0
        # Pairs below the count are never written again: a copy of them is true whenever it is made.
        for first, term in TERM_RUN.iter_unpack(mapping.data[known * TERM_RUN_BYTES : count * TERM_RUN_BYTES]):
            runs.add(first, term)
        self._mapping, self._runs, self._word = mapping, runs, word
        return runs


# ---------------------------------------------------------------- beside a sealed segment
def write_sealed_runs(files: Files, path: str, log_id: int, segment_id: int, runs: list[Run]) -> None:
    """Put a segment's runs beside it.  Not synced: a crash may take the file; it can be rebuilt from the records."""
    document = {"log_id": log_id, "segment_id": segment_id, "runs": [number for run in runs for number in run]}
    files.write_cache(path, fmt.pack_document(fmt.TERMS_MAGIC, document))


def read_sealed_runs(files: Files, path: str, log_id: int, segment_id: int) -> list[Run] | None:
    """The runs beside a segment, or None if the file is missing or not exactly right (then rebuild it)."""
    try:
        document = fmt.read_document(fmt.TERMS_MAGIC, files.read_file(path), path)
    except (OSError, VersionMismatch):
        return None  # missing, or not to be read: a cache, made anew like one that is damaged
    if document is None or (document.get("log_id"), document.get("segment_id")) != (log_id, segment_id):
        return None
    numbers = document.get("runs")
    if not isinstance(numbers, list) or len(numbers) % 2:
        return None
    return list(zip(numbers[::2], numbers[1::2], strict=True))
