"""Opening logs of several sizes after a clean stop and after a kill, and what size costs while they are open."""

from __future__ import annotations

import contextlib
import random
import shutil
import statistics
import time
from typing import TYPE_CHECKING, Any

import psutil

from ... import lifecycle, log, log_reader, probe
from ...files import join
from .cases import RAW, Case
from .clients import Clients
from .limits import ENTRY_BYTES
from .stores import OURS, open_store
from .worker import payload_of, percentiles

if TYPE_CHECKING:
    from .rounds import Bench

BATCH = 10  # small ones: what a get costs is to be seen, not what unpacking a large batch costs
PEERS_BATCH = 1000  # a transaction; it leaves no trace in what they store
GETS, TIMED = 20_000, 20  # random gets of one measurement, and how many are timed together
UNSAVED = 100  # entries appended, acknowledged, and then the process that holds the store is killed
# PySyncObj's journal holds every entry in memory and reads all of them when it is opened.
ENTRIES_MAX = {"pysyncobj": 100_000}


class Growth:
    """One log, and one store of each peer, for each size: filled once, then opened and measured in every round."""

    def __init__(self, bench: Bench, cases: list[Case]) -> None:
        self._bench, self._folder = bench, join(bench.folder, "growth")
        self._sizes: dict[int, list[Case]] = {}
        for case in cases:
            self._sizes.setdefault(case.entries, []).append(case)
        self._bytes: dict[int, int] = {}  # that the writer held when its log was filled
        self._held: dict[str, int] = {}  # entries in a folder
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for size in self._sizes:
                for subject in self._subjects(size):
                    self._fill(subject, size)
            undo.pop_all()

    def _subjects(self, size: int) -> list[str]:
        peers = {name: None for case in self._sizes[size] for name in self._bench.plan.peers_of(case)}
        return [OURS, *(name for name in peers if size <= ENTRIES_MAX.get(name, size))]

    def _place(self, subject: str, size: int) -> str:
        return join(self._folder, f"{subject}-{size}")

    def _fill(self, subject: str, size: int) -> None:
        directory, clients, count = self._place(subject, size), self._bench.clients, self._bench.plan.entries(size)
        with contextlib.ExitStack() as stack:
            if subject == OURS:
                stack.enter_context(lifecycle.start_writer(directory, self._bench.plan.config("disk_first")))
            else:
                self._bench.files.make_dir(directory)
            clients.ask(0, do="open", subject=subject, directory=directory)
            batch = BATCH if subject == OURS else PEERS_BATCH
            clients.ask(0, do="fill", count=count, batch=batch, size=ENTRY_BYTES)
            clients.ask(0, do="close")
            if subject == OURS:
                self._bytes[size] = held_bytes(directory)
        self._held[directory] = count

    def round(self, number: int) -> None:
        """Every size once."""
        self._kill_peers()
        for size, cases in self._sizes.items():
            wanted = {case.kind: case for case in cases}
            for case in cases:
                self._bench.step(case)
            opening = [case for case in cases if case.limit != "smallest"]
            if opening:
                self._bench.raw(opening[0])
                for case in opening[1:]:
                    self._bench.result.add(case, RAW, self._bench.result.figures[opening[0].name][RAW][-1])
            self._ours(wanted, self._place(OURS, size), number)
            for subject in self._subjects(size)[1:]:
                self._peer(wanted, subject, self._place(subject, size))

    def close(self) -> None:
        """Remove everything."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------ ours
    def _ours(self, wanted: dict[str, Case], directory: str, number: int) -> None:
        config, held = self._bench.plan.config("disk_first"), self._held
        with self._timed(wanted.get("open_clean"), directory, config) as handle:
            payloads = [payload_of(0, number) for number in range(UNSAVED)]
            held[directory] = handle.append_many(payloads)[-1]
            writer = psutil.Process(handle.stats().writer_pid)
            writer.kill()
            writer.wait(60)
        with self._timed(wanted.get("open_killed"), directory, config) as handle:
            self._gets(wanted.get("growth_get_ring"), handle, self._bench.plan.entries(10_000), number)
            self._append(wanted.get("growth_append"), handle, directory)
        with log_reader.open_reader(directory) as reader:  # without a writer: the segment files serve
            self._gets(wanted.get("growth_get_segments"), reader, held[directory], number)
        if "growth_memory_append" in wanted:
            memory = self._bench.plan.config("mem_first")
            with self._timed(None, directory, memory) as handle:
                self._append(wanted["growth_memory_append"], handle, directory)
        if "growth_bytes" in wanted and number == 0:
            self._memory(wanted["growth_bytes"])

    @contextlib.contextmanager
    def _timed(self, case: Case | None, directory: str, config: Any) -> Any:
        """An open handle; the time from starting the writer's process to the last entry read counts for ``case``."""
        last, start = self._held[directory], time.perf_counter()
        with lifecycle.start_writer(directory, config), log.open_log(directory, autostart=False) as handle:
            entry = handle.get(last)
            spent = time.perf_counter() - start
            self._opened(case, OURS, spent, entry, (handle.first_index, handle.last_index), last)
            yield handle

    def _gets(self, case: Case | None, reader: log_reader.LogReader, newest: int, number: int) -> None:
        """The median of gets among the newest entries, timed some at a time."""
        if case is None:
            return
        get, clock, last = reader.get, time.perf_counter, reader.last_index
        indexes = random.Random(number).choices(range(last - min(newest, last) + 1, last + 1), k=GETS)
        groups = [indexes[at : at + TIMED] for at in range(0, GETS, TIMED)]
        times: list[float] = []
        for index in indexes:
            get(index)  # mapped and cached before the clock starts
        start = clock()
        while clock() - start < self._bench.plan.seconds:
            for group in groups:
                before = clock()
                found = [get(index) for index in group]
                times.append(clock() - before)
        for index, entry in zip(group, found, strict=True):
            self._bench.result.check(entry is not None and entry.index == index, f"{OURS}: get({index}) is wrong")
        self._bench.result.add(case, OURS, statistics.median(times) / TIMED * 1e6)

    def _append(self, case: Case | None, handle: log.Log, directory: str) -> None:
        """The median of appends one at a time."""
        if case is None:
            return
        times: list[float] = []
        clock, append, payload = time.perf_counter, handle.append, payload_of(0, 0)
        start = before = clock()
        while before - start < self._bench.plan.seconds:
            append(payload)
            after = clock()
            times.append(after - before)
            before = after
        self._held[directory] += len(times)
        self._bench.result.add(case, OURS, statistics.median(times) * 1e6, percentiles(times))

    def _memory(self, case: Case) -> None:
        """Bytes that the writer held more for each entry, when it had taken all of them, than for the smallest log."""
        smallest, entries = min(self._sizes), self._bench.plan.entries
        more = entries(case.entries) - entries(smallest)
        grown = self._bytes[case.entries] - self._bytes[smallest]
        self._bench.result.add(case, OURS, max(grown, 0) / more if more else 0.0)

    # ------------------------------------------------------------ peers
    def _kill_peers(self) -> None:
        """Have a process append to every peer's store, and kill it while it holds them."""
        with contextlib.closing(Clients()) as one:
            for size in self._sizes:
                for subject in self._subjects(size)[1:]:
                    directory = self._place(subject, size)
                    one.ask(0, do="open", subject=subject, directory=directory)
                    one.ask(0, do="fill", count=UNSAVED, batch=UNSAVED, size=ENTRY_BYTES)
                    one.ask(0, do="keep")
                    self._held[directory] += UNSAVED
            one.kill()

    def _peer(self, wanted: dict[str, Case], subject: str, directory: str) -> None:
        held = self._held[directory]
        for kind in ("open_killed", "open_clean"):
            start = time.perf_counter()
            with contextlib.closing(open_store(subject, directory)) as store:
                entry = store.get(held)
                spent = time.perf_counter() - start
                self._opened(wanted.get(kind), subject, spent, entry, store.bounds(), held)

    def _opened(
        self, case: Case | None, subject: str, spent: float, entry: Any, bounds: tuple[int, int], held: int
    ) -> None:
        """One opening: its time, and whether everything that was acknowledged is there."""
        result = self._bench.result
        if case is not None:
            result.add(case, subject, spent * 1e6)
        result.verified_entries += held
        result.check(
            entry is not None and bounds == (1, held),
            f"{subject}: {held} entries were acknowledged, after opening it holds {bounds[0]}..{bounds[1]}",
        )




def held_bytes(directory: str) -> int:
    """What the writer of a log holds: its own memory, and the shared tables that grow with the log.

    Not the ring and the lanes, which settings bound, and not mapped segments, which are page cache.
    """
    with log_reader.open_reader(directory) as reader:
        pid = reader.stats().writer_pid
    shared = sum(used for kind, (_, used) in probe.mapped_bytes(pid).items() if kind not in ("ring", "lanes"))
    return sum(int(row.anonymous) for row in psutil.Process(pid).memory_maps(grouped=True)) + shared
