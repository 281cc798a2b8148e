"""Term runs: against a plain list, through shared memory, and beside a sealed segment."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import layout, shm, terms
from raftlog_mp.files import Files
from raftlog_mp.layout import INDEX_MAX
from raftlog_mp.terms import TermReader, TermRuns, TermTable, read_sealed_runs, write_sealed_runs

from .journals import flip

THREE = [(1, 1), (5, 2), (9, 4)]


# ---------------------------------------------------------------- the runs
class Plain:
    """What the runs mean: a term for each index, and where the log begins."""

    def __init__(self) -> None:
        self.terms: list[int] = []  # of entry 1, 2, ...; the last run has no end, the list's end stands for it
        self.purged = 0

    def check(self, runs: TermRuns, chance: random.Random) -> None:
        known = dict(enumerate(self.terms, 1))
        first = max(self.purged, 1)
        here = {index: term for index, term in known.items() if index >= first}
        assert {index: runs.term_of(index) for index in here} == here
        assert runs.term_of(len(known) + 99) == (self.terms[-1] if self.terms else None), "the last run has no end"
        assert len(runs) == len(runs.runs()) == len(set(here.values()))
        for term in range(1, max(self.terms, default=0) + 2):
            mine = [index for index, its in here.items() if its == term]
            low, high = runs.range_of(term)
            if not mine:
                assert runs.first_of(term) is None and low > high
                continue
            assert runs.first_of(term) == low and max(low, first) == mine[0]
            assert high == (INDEX_MAX if term == self.terms[-1] else mine[-1])
        for index in here:
            after = [later for later in here if later > index and here[later] != here[index]]
            assert runs.end_of(index) == min(after, default=None)
        if here:
            low = chance.randint(first, len(known))
            high = chance.randint(low - 1, len(known))
            wanted = [i for i in range(low, high + 1) if i == low or known[i] != known[i - 1]]
            assert runs.between(low, high) == [(i, known[i]) for i in wanted]


@pytest.mark.parametrize("seed", range(20))
def test_runs_are_a_term_for_each_index(seed: int) -> None:
    chance, plain, runs = random.Random(seed), Plain(), TermRuns()
    for _ in range(60):
        kind, last = chance.random(), len(plain.terms)
        if kind < 0.6:
            term = max(plain.terms[-1] if plain.terms else 1, chance.randint(0, last // 2 + 2))
            runs.add(last + 1, term)
            plain.terms += [term] * chance.randint(1, 3)
        elif kind < 0.8 and last > plain.purged:
            cut = chance.randint(plain.purged + 1, last + 1)
            runs = TermRuns([run for run in runs.runs() if run[0] < cut])
            del plain.terms[cut - 1 :]
        elif last:
            plain.purged = chance.randint(plain.purged, last)
            runs.purge_to(plain.purged)
        plain.check(runs, chance)
    assert plain.terms


def test_no_runs() -> None:
    runs = TermRuns()
    assert runs.term_of(1) is None and runs.first_of(1) is None and runs.end_of(1) is None and len(runs) == 0
    assert runs.range_of(1) == (1, 0) and runs.between(1, 9) == runs.runs() == []
    runs.purge_to(5)
    assert len(runs) == 0


def test_a_term_that_goes_on_is_one_run() -> None:
    runs = TermRuns([(1, 1), (3, 1), (5, 2), (6, 2)])
    assert runs.runs() == [(1, 1), (5, 2)]


def test_the_boundarys_run_stays_through_a_purge() -> None:
    runs = TermRuns(THREE)
    runs.purge_to(6)
    assert runs.term_of(6) == 2 and runs.term_of(4) is None and runs.first_of(1) is None
    runs.purge_to(100)
    assert runs.runs() == [(9, 4)] and runs.term_of(100) == 4


# ---------------------------------------------------------------- the table in shared memory
class Word:
    """The control block's word, as the writer stores it; ``before`` is called first."""

    def __init__(self) -> None:
        self.value = 0
        self.before: Callable[[], None] = lambda: None

    def store(self, value: int, order: object) -> None:
        assert order == shm.RELEASE
        self.before()
        self.value = value

    @property
    def edition(self) -> int:
        return self.value >> layout.TERM_EDITION_SHIFT


@pytest.fixture
def word() -> Word:
    return Word()


@pytest.fixture
def table(tmp_path: Path, word: Word, monkeypatch: pytest.MonkeyPatch) -> Iterator[TermTable]:
    monkeypatch.setattr(terms, "RUNS_AT_FIRST", 4)
    table = TermTable(str(tmp_path), 7, word, THREE)
    yield table
    table.close(remove=True)
    assert os.listdir(tmp_path) == []


def told(reader: TermReader, word: Word) -> list[terms.Run]:
    return reader.ask(word.value, lambda runs: runs.runs())


def test_readers_see_what_the_word_counts(tmp_path: Path, table: TermTable, word: Word) -> None:
    reader = TermReader(str(tmp_path), 7)
    assert told(reader, word) == THREE
    before = word.value
    table.add(12, 4)
    assert word.value == before, "no new term, no new pair"
    table.add(20, 6)
    assert reader.ask(before, lambda runs: runs.runs()) == THREE, "pairs beyond the count are not there"
    assert told(reader, word) == [*THREE, (20, 6)]
    assert reader.ask(word.value, lambda runs: runs.term_of(21)) == 6


def test_pairs_are_in_place_before_the_word_counts_them(tmp_path: Path, table: TermTable, word: Word) -> None:
    path, seen = tmp_path / fmt.terms_table_name(7, 1), []
    word.before = lambda: seen.append(layout.TERM_RUN.unpack_from(path.read_bytes(), 3 * layout.TERM_RUN_BYTES))
    table.add(20, 6)
    assert seen == [(20, 6)]


def test_a_full_table_is_followed_by_a_larger_one(tmp_path: Path, table: TermTable, word: Word) -> None:
    reader, runs = TermReader(str(tmp_path), 7), list(THREE)
    for number in range(50):
        runs.append((20 + number, 10 + number))
        table.add(*runs[-1])
        assert told(reader, word) == runs
    assert word.edition > 3 and len(os.listdir(tmp_path)) == 1, "old editions are gone"
    assert told(TermReader(str(tmp_path), 7), word) == runs


def test_a_table_grows_before_it_is_full(tmp_path: Path, table: TermTable, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without memory for a larger one it goes on in what it has, and says when that is short."""
    monkeypatch.setattr(shm, "create_file", no_space)
    for number in range(3, 12):  # its first edition has room for 12
        assert table.short == (number >= 9)
        table.add(20 + number, 10 + number)
    with pytest.raises(OSError, match="full"):
        table.grow()
    assert os.listdir(tmp_path) == [fmt.terms_table_name(7, 1)] and table.short
    monkeypatch.undo()
    table.grow()
    assert not table.short and len(table.runs) == 12 and len(os.listdir(tmp_path)) == 1


def no_space(path: str, length: int) -> shm.Mapping:
    raise OSError(errno.ENOSPC, "full")


def test_a_staged_edition_counts_only_once_it_is_adopted(tmp_path: Path, table: TermTable, word: Word) -> None:
    before, reader = word.value, TermReader(str(tmp_path), 7)
    staged = table.stage(TermRuns([(1, 1), (5, 9)]))
    assert word.value == before and table.runs.runs() == told(reader, word) == THREE
    table.adopt(staged)
    assert table.runs.runs() == told(reader, word) == [(1, 1), (5, 9)]
    assert word.edition == (before >> layout.TERM_EDITION_SHIFT) + 1
    table.add(6, 11)
    assert told(reader, word) == [(1, 1), (5, 9), (6, 11)]


def test_a_staged_edition_may_be_discarded(tmp_path: Path, table: TermTable, word: Word) -> None:
    before = word.value
    table.discard(table.stage(TermRuns([(1, 9)])))
    table.discard(None)
    assert word.value == before and table.runs.runs() == THREE and len(os.listdir(tmp_path)) == 1
    table.add(20, 6)
    assert told(TermReader(str(tmp_path), 7), word) == [*THREE, (20, 6)]


def test_a_reader_that_comes_too_late_for_an_edition_looks_again(tmp_path: Path, table: TermTable, word: Word) -> None:
    early, late, before = TermReader(str(tmp_path), 7), TermReader(str(tmp_path), 7), word.value
    assert told(early, word) == THREE
    table.adopt(table.stage(TermRuns([(1, 9)])))
    assert early.ask(before, lambda runs: runs.runs()) == THREE, "who has it keeps it"
    with pytest.raises(FileNotFoundError):
        late.ask(before, lambda runs: runs.runs())
    assert told(late, word) == told(early, word) == [(1, 9)]


def test_a_closed_table_leaves_its_file_to_readers_unless_told(tmp_path: Path, word: Word) -> None:
    table = TermTable(str(tmp_path), 7, word, THREE)
    table.close(remove=False)
    assert told(TermReader(str(tmp_path), 7), word) == THREE
    os.unlink(tmp_path / fmt.terms_table_name(7, 1))


# ---------------------------------------------------------------- beside a sealed segment
def test_sealed_runs_round_trip_without_a_sync(tmp_path: Path) -> None:
    """A cache: a crash may take it, so nobody waits for the disk."""
    files, path = FaultyFiles(), str(tmp_path / "x.trm")
    for runs in ([], THREE, [(INDEX_MAX, layout.TERM_MAX)]):
        write_sealed_runs(files, path, 77, 3, runs)
        assert read_sealed_runs(Files(), path, 77, 3) == runs
    assert {"sync", "sync_all", "sync_dir"}.isdisjoint(step[0] for step in files.steps)
    assert os.listdir(tmp_path) == ["x.trm"]


def test_sealed_runs_of_another_segment_or_log_do_not_count(tmp_path: Path) -> None:
    path = str(tmp_path / "x.trm")
    assert read_sealed_runs(Files(), path, 77, 3) is None, "missing"
    write_sealed_runs(Files(), path, 77, 3, THREE)
    assert read_sealed_runs(Files(), path, 78, 3) is read_sealed_runs(Files(), path, 77, 4) is None


def test_sealed_runs_with_any_damage_do_not_count(tmp_path: Path) -> None:
    path = str(tmp_path / "x.trm")
    write_sealed_runs(Files(), path, 77, 3, THREE)
    size = os.path.getsize(path)
    for offset in [*range(8), *range(12, size)]:  # the version stands between: it says newer
        flip(path, offset)
        assert read_sealed_runs(Files(), path, 77, 3) is None, offset
        flip(path, offset)
    for length in range(size):
        Path(path).write_bytes(Path(path).read_bytes()[: size - 1 - length])
        assert read_sealed_runs(Files(), path, 77, 3) is None, length


def test_sealed_runs_that_cannot_be_read_do_not_count(tmp_path: Path) -> None:
    files, path = FaultyFiles(), str(tmp_path / "x.trm")
    write_sealed_runs(files, path, 77, 3, THREE)
    files.fail("pread", errno.EIO, path=".trm")
    assert read_sealed_runs(files, path, 77, 3) is None
    os.mkdir(tmp_path / "y.trm")
    assert read_sealed_runs(Files(), str(tmp_path / "y.trm"), 77, 3) is None


@pytest.mark.parametrize("document", [
    {}, {"log_id": 77, "segment_id": 3}, {"log_id": 77, "segment_id": 3, "runs": [1, 2, 3]},
    {"log_id": 77, "segment_id": 3, "runs": None},
])  # fmt: skip
def test_a_document_of_another_shape_does_not_count(tmp_path: Path, document: dict[str, object]) -> None:
    path = tmp_path / "x.trm"
    path.write_bytes(fmt.pack_document(fmt.TERMS_MAGIC, document))
    assert read_sealed_runs(Files(), str(path), 77, 3) is None
