"""Appends: durable and in memory, of all sizes, and beside readers."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from itertools import groupby
from typing import TYPE_CHECKING, Any

from ... import lifecycle, log, log_reader
from ...files import join
from .cases import Case
from .stores import OURS, Store, open_store
from .worker import payload_of

if TYPE_CHECKING:
    from .rounds import Bench

ANSWERS = dict[str, list[dict[str, Any]]]  # subject -> what its clients said


class Appends:
    """Each round makes a new log and new peers' stores for each strategy, and verifies them at its end."""

    def __init__(self, bench: Bench, cases: list[Case]) -> None:
        self._bench, self._cases = bench, cases

    def round(self, number: int) -> None:
        """Every case once."""
        def key(case: Case) -> tuple[str, bool]:
            return case.strategy, not case.spin

        for (strategy, asleep), cases in groupby(sorted(self._cases, key=key), key):
            folder = join(self._bench.folder, f"round-{number}")
            self._log(folder, strategy, not asleep, list(cases))
            shutil.rmtree(folder)

    def close(self) -> None:
        """Nothing stays between rounds."""

    def _log(self, folder: str, strategy: str, spin: bool, cases: list[Case]) -> None:
        settings = {} if spin else {"spin_us": 0}
        directory, answers, durable = join(folder, OURS), ANSWERS(), strategy == "disk_first"
        config = self._bench.plan.config(strategy, **settings)
        with (
            lifecycle.start_writer(directory, config),
            log.open_log(directory, autostart=False, timeout=None) as handle,
        ):
            for case in cases:
                self._bench.step(case)
                self._bench.raw(case)
                handle.flush()  # what the case before left unflushed is not this one's work
                before = handle.stats()
                found = self._measure(case, OURS, directory, durable)
                after = handle.stats()
                self._bench.result.add_fsyncs(
                    case, "writer", (after.fsyncs - before.fsyncs) / (after.appends - before.appends)
                )
                answers.setdefault(OURS, []).extend(found)
                for peer in self._bench.plan.peers_of(case):
                    answers.setdefault(peer, []).extend(self._measure(case, peer, join(folder, peer), durable))
        for subject, found in answers.items():
            with opened(subject, join(folder, subject)) as store:
                self._verify(subject, store, found)

    def _measure(self, case: Case, subject: str, directory: str, durable: bool) -> list[dict[str, Any]]:
        """Have the case's clients do it, and note what came of it."""
        bench, clients, result = self._bench, self._bench.clients, self._bench.result
        bench.files.make_dir(directory)
        shared, count = case.clients > 1, bench.plan.clients(case)
        first = 0 if subject == OURS else 1  # the first to open a peer's store makes it
        clients.all(first, do="open", subject=subject, directory=directory, durable=durable, shared=shared)
        clients.need(count)
        for number in range(first, count):
            clients.tell(number, do="open", subject=subject, directory=directory, durable=durable, shared=shared)
        for number in range(first, count):
            clients.answer(number)
        flushes = bench.flushes.count()
        answers = clients.all(count, do=case.kind, seconds=bench.plan.seconds, size=case.size, batch=case.batch)
        if flushes is not None:
            appends = sum(answer["entries"] for answer in answers) / case.batch
            result.add_fsyncs(case, subject, ((bench.flushes.count() or 0) - flushes) / appends)
        clients.all(count, do="close")
        curve = answers[0].get("percentiles", [])
        rate = sum(answer["entries"] / answer["seconds"] for answer in answers)
        result.add(case, subject, curve[49] if case.unit == "us" else rate, curve)
        return answers

    def _verify(self, subject: str, store: Store, answers: list[dict[str, Any]]) -> None:
        """Every entry that was acknowledged is counted, and a sample stands where its client was told."""
        verify_count(self._bench, subject, store, sum(answer["entries"] for answer in answers))
        for answer in answers:
            for index, number in answer["samples"]:
                entry = store.get(index)
                fine = entry is not None and entry.payload == payload_of(answer["client"], number, answer["size"])
                self._bench.result.check(
                    fine and entry is not None and entry.index == index,
                    f"{subject}: entry {index} is not what its client appended",
                )


class Mixed:
    """Half of the processes append one at a time while the others read at random."""

    def __init__(self, bench: Bench, cases: list[Case]) -> None:
        self._bench, self._cases = bench, cases

    def round(self, number: int) -> None:
        """Ours, then every peer that several processes can append to."""
        appends, gets = self._cases
        plan, folder = self._bench.plan, join(self._bench.folder, f"round-{number}")
        for case in self._cases:
            self._bench.step(case)
            self._bench.raw(case)
        directory = join(folder, OURS)
        with lifecycle.start_writer(directory, plan.config("disk_first")):
            told = self._measure(OURS, directory)
        self._note(OURS, directory, told, appends, gets)
        for peer in plan.peers_of(appends):
            directory = join(folder, peer)
            self._bench.files.make_dir(directory)
            self._note(peer, directory, self._measure(peer, directory), appends, gets)
        shutil.rmtree(folder)

    def close(self) -> None:
        """Nothing stays between rounds."""

    @property
    def _filled(self) -> int:
        return self._bench.plan.entries(10_000)

    def _measure(self, subject: str, directory: str) -> list[dict[str, Any]]:
        clients, size, seconds = self._bench.clients, self._cases[0].size, self._bench.plan.seconds
        count = self._bench.plan.clients(self._cases[0])
        clients.ask(0, do="open", subject=subject, directory=directory, shared=True)
        # Ours as its writers go on, one by one; the peers' transactions leave no trace in what they store.
        clients.ask(0, do="fill", count=self._filled, batch=1 if subject == OURS else 1000, size=size)
        clients.all(count, do="open", subject=subject, directory=directory, shared=True)
        for number in range(count):
            if number < count // 2:
                clients.tell(number, do="one", seconds=seconds, size=size)
            else:
                clients.tell(number, do="gets", seconds=seconds, count=self._filled, size=size)
        answers = [clients.answer(number) for number in range(count)]
        clients.all(count, do="close")
        return answers

    def _note(self, subject: str, directory: str, told: list[dict[str, Any]], appends: Case, gets: Case) -> None:
        result, half = self._bench.result, len(told) // 2
        writers, readers = told[:half], told[half:]
        result.add(appends, subject, sum(answer["entries"] / answer["seconds"] for answer in writers))
        result.add(gets, subject, sum(answer["gets"] / answer["seconds"] for answer in readers))
        for answer in readers:
            result.verified_contents += answer["compared"]
            if answer["wrong"]:
                result.problems.append(f"{subject}: {len(answer['wrong'])} random gets beside writers were wrong")
        with opened(subject, directory) as store:
            verify_count(
                self._bench, subject, store, self._filled + sum(answer["entries"] for answer in writers)
            )


@contextlib.contextmanager
def opened(subject: str, directory: str) -> Iterator[Store]:
    """A store for reading what is in it, without a writer."""
    if subject == OURS:
        with log_reader.open_reader(directory) as reader:
            yield reader  # type: ignore[misc]  # it has what verifying takes
    else:
        with contextlib.closing(open_store(subject, directory)) as store:
            yield store


def verify_count(bench: Bench, subject: str, store: Store, acknowledged: int) -> None:
    """As many entries as were acknowledged, all of them durable if it is ours."""
    if subject == OURS:
        reader: Any = store
        first, last = reader.first_index, reader.last_index
        if reader.durable_index != last:
            bench.result.problems.append(
                f"{subject}: after the stop the log is durable only up to {reader.durable_index} of {last}"
            )
    else:
        first, last = store.bounds()
    bench.result.verified_entries += acknowledged
    if (first, last) != (1, acknowledged):
        bench.result.problems.append(
            f"{subject}: {acknowledged} entries were acknowledged, it holds {first}..{last}"
        )


