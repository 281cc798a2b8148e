"""Reads: single entries and ranges, out of the ring and out of segments, beside every peer."""

from __future__ import annotations

import contextlib
import random
import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ... import lifecycle, log, log_reader
from ...files import join
from ...types import Entry
from .cases import Case
from .limits import ENTRY_BYTES
from .raw import LOOKUPS, rate_of
from .stores import INDEX, OURS, Lmdb, Store, open_store
from .worker import payload_of

if TYPE_CHECKING:
    from .rounds import Bench

ENTRIES = 100_000
CHUNK = 1000  # entries of one range read
RANGES = 20  # range reads between two looks at the clock
BARE = "lmdb bare"


class Reads:
    """Every store is filled once with the same entries; then each round reads from all of them in turn.

    Ours stands here four times: appended one by one and in batches of 100, each with a writer that serves (the ring
    holds all of it) and without one (the segment files hold it).  Nothing is evicted from the page cache, for anybody.
    """

    def __init__(self, bench: Bench, cases: list[Case]) -> None:
        self._bench, self._cases = bench, cases
        # Enough for a range, and for batches of every size to come out even.
        self._count = max(bench.plan.entries(ENTRIES), 3 * CHUNK)
        self._stack = contextlib.ExitStack()
        self._folder = join(bench.folder, "reads")
        self._handles: dict[tuple[int, bool], Any] = {}
        self._peers: dict[str, Store] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            for case in cases:
                if place(case) not in self._handles:
                    self._handles[place(case)] = self._filled(*place(case))
            for peer in {name: None for case in cases for name in bench.plan.peers_of(case)}:
                directory = join(self._folder, peer)
                bench.files.make_dir(directory)
                for command in ({"do": "open", "subject": peer, "directory": directory},
                                {"do": "fill", "count": self._count, "batch": CHUNK, "size": ENTRY_BYTES},
                                {"do": "close"}):  # fmt: skip
                    bench.clients.ask(0, **command)
                self._peers[peer] = self._stack.enter_context(contextlib.closing(open_store(peer, directory)))
            undo.pop_all()

    def _filled(self, batch: int, hot: bool) -> Any:
        """A handle on a log of ours; cold ones have no writer any more."""
        directory, clients = join(self._folder, f"{OURS}-{batch}-{hot}"), self._bench.clients
        writer = lifecycle.start_writer(directory, self._bench.plan.config("disk_first"))
        with contextlib.ExitStack() as undo:
            undo.callback(writer.stop)
            clients.ask(0, do="open", subject=OURS, directory=directory)
            clients.ask(0, do="fill", count=self._count, batch=batch, size=ENTRY_BYTES)
            clients.ask(0, do="close")
            if hot:
                self._stack.push(undo.pop_all())
                return self._stack.enter_context(log.open_log(directory, autostart=False))
        return self._stack.enter_context(log_reader.open_reader(directory))

    def round(self, number: int) -> None:
        """Every case once."""
        for case in self._cases:
            self._bench.step(case)
            self._bench.raw(case)
            kind = case.kind.removesuffix("_cold")
            handle = self._handles[place(case)]
            chosen = random.Random(number)
            if kind in ("get", "get_us", "get_batched"):
                self._gets(case, handle, chosen.choices(range(1, self._count + 1), k=LOOKUPS))
            else:
                starts = [chosen.randrange(0, self._count - CHUNK, 100) + 1 for _ in range(RANGES)]
                self._ranges(case, handle, starts, "read_batches" if kind == "read_batches" else "read")

    def close(self) -> None:
        """Stop the writers and remove everything."""
        self._stack.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    # ------------------------------------------------------------ gets
    def _gets(self, case: Case, handle: Any, indexes: list[int]) -> None:
        self._get(case, OURS, handle.get, indexes, as_entry)
        for name in self._bench.plan.peers_of(case):
            peer = self._peers[name]
            self._get(case, name, peer.get, indexes, as_entry)
            if isinstance(peer, Lmdb):
                keys = [INDEX.pack(index) for index in indexes]
                self._get(case, BARE, peer.bare_get(), keys, as_value)

    def _get(self, case: Case, subject: str, get: Callable[[Any], Any], keys: list[Any], check: Any) -> None:
        found: list[Any] = []

        def gets() -> None:
            found[:] = [get(key) for key in keys]

        gets()  # what is mapped or cached on first use is there before the clock starts, for everybody
        rate = rate_of(gets, len(keys), self._bench.plan.seconds)
        self._bench.result.add(case, subject, 1e6 / rate if case.unit == "us" else rate)
        for key, value in zip(keys, found, strict=True):
            self._bench.result.check(check(key, value), f"{subject}: what get({key!r}) gives is wrong")

    # ------------------------------------------------------------ ranges
    def _ranges(self, case: Case, handle: Any, starts: list[int], method: str) -> None:
        fine = batches_fine if method == "read_batches" else entries_fine
        self._range(case, OURS, getattr(handle, method), starts, fine)
        for name in self._bench.plan.peers_of(case):
            peer = self._peers[name]
            if method == "read":
                self._range(case, name, peer.read, starts, entries_fine)
            if isinstance(peer, Lmdb):
                self._range(case, BARE, peer.bare_read, starts, pairs_fine)

    def _range(self, case: Case, subject: str, read: Callable[[int, int], Any], starts: list[int], check: Any) -> None:
        found: list[Any] = []

        def reads() -> None:
            for start in starts:
                found[:] = [start, read(start, start + CHUNK)]

        reads()
        self._bench.result.add(case, subject, rate_of(reads, len(starts) * CHUNK, self._bench.plan.seconds))
        self._bench.result.check(check(*found), f"{subject}: a range from {found[0]} is wrong")


def place(case: Case) -> tuple[int, bool]:
    """Out of which log of ours a case reads: entries of a batch, and whether a writer serves."""
    return case.batch, not case.kind.endswith("_cold")


def payload_at(index: int) -> bytes:
    """What stands at an index in each of the stores."""
    return payload_of(0, index - 1)


def as_entry(index: int, entry: Entry | None) -> bool:
    """Whether it is the whole entry."""
    return entry is not None and (entry.index, entry.term >= 1, entry.payload) == (index, True, payload_at(index))


def as_value(key: bytes, value: bytes | None) -> bool:
    """Whether lmdb's value is term and payload."""
    return value is not None and value[8:] == payload_at(INDEX.unpack(key)[0])


def entries_fine(start: int, entries: list[Entry]) -> bool:
    """Whether these are the entries of a range."""
    return len(entries) == CHUNK and all(map(as_entry, range(start, start + CHUNK), entries))


def pairs_fine(start: int, pairs: list[tuple[bytes, bytes]]) -> bool:
    """Whether these are lmdb's keys and values of a range."""
    keys = [INDEX.pack(index) for index in range(start, start + CHUNK)]
    return [key for key, _ in pairs] == keys and all(as_value(key, value) for key, value in pairs)


def batches_fine(start: int, batches: list[Any]) -> bool:
    """Whether these batches hold the entries of a range."""
    return entries_fine(start, [entry for batch in batches for entry in batch.entries()])
