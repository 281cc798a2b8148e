"""What is measured, behind one face: this log, and what a user would pick instead of it.

Every peer keeps the same entries (index, term, payload) and is used as its own documentation recommends;
docs/performance.md says how, and why that is fair.  The packages are in the extra ``bench`` and loaded on first use.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import struct
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol, cast

from ... import log
from ...files import join
from ...types import Entry

OURS = "ours"
OPEN_SECONDS = 30.0
BUSY_SECONDS = 60.0  # sqlite3 waits so long for the other processes' transactions
MAP_BYTES = 1 << 36  # lmdb's address space: its file grows only as it is used
INDEX, TERM = struct.Struct(">Q"), struct.Struct("<Q")  # big-endian keys sort by index
TERM_BYTES = TERM.size
FIRST_TERM = 1


class Store(Protocol):
    """One opened store.  Appends are on disk when they return, if it was opened as durable."""

    def append(self, payload: bytes) -> int:
        """Append one entry; its index."""

    def append_many(self, payloads: list[bytes]) -> range:
        """Append entries in one transaction; their indexes."""

    def get(self, index: int) -> Entry | None:
        """One entry, as of the last append of this process."""

    def fresh_get(self, index: int) -> Entry | None:
        """One entry, as of now: what other processes have appended is seen."""

    def read(self, start: int, stop: int) -> list[Entry]:
        """Entries ``start..stop-1``."""

    def bounds(self) -> tuple[int, int]:
        """First and last index; ``(1, 0)`` if it is empty."""

    def close(self) -> None:
        """Leave it in order."""


class Ours:
    """A handle of this library.  Its methods are bound as they are: no call more than a user makes."""

    def __init__(self, directory: str, name: str = "bench") -> None:
        self.handle = handle = log.open_log(
            directory, create=False, autostart=False, timeout=OPEN_SECONDS, name=name
        )
        self.append, self.append_many, self.submit = handle.append, handle.append_many, handle.submit
        self.get = self.fresh_get = handle.get
        self.read, self.read_batches, self.close = handle.read, handle.read_batches, handle.close

    def bounds(self) -> tuple[int, int]:
        """First and last index."""
        return self.handle.first_index, self.handle.last_index


class Lmdb:
    """lmdb: a transaction an append, ``put(append=True)``; batches with ``putmulti``; reads in one transaction."""

    def __init__(self, directory: str, *, durable: bool, shared: bool) -> None:
        import lmdb

        self._env = lmdb.open(directory, map_size=MAP_BYTES, sync=durable, max_readers=512)
        self._shared, self._snapshot = shared, cast(Any, None)
        self._last = self.bounds()[1]

    def append(self, payload: bytes) -> int:
        """One transaction, one entry."""
        with self._env.begin(write=True) as transaction:
            index = (self._last_in(transaction) if self._shared else self._last) + 1
            transaction.put(INDEX.pack(index), TERM.pack(FIRST_TERM) + payload, append=True)
        self._last = index
        return index

    def append_many(self, payloads: list[bytes]) -> range:
        """One transaction, many entries."""
        pack, term = INDEX.pack, TERM.pack(FIRST_TERM)
        with self._env.begin(write=True) as transaction:
            first = (self._last_in(transaction) if self._shared else self._last) + 1
            items = [(pack(index), term + payload) for index, payload in enumerate(payloads, first)]
            transaction.cursor().putmulti(items, append=True)
        self._last = first + len(payloads) - 1
        return range(first, first + len(payloads))

    def get(self, index: int) -> Entry | None:
        """One entry, made into the same object as ours gives."""
        value = self._reading().get(INDEX.pack(index))
        return None if value is None else Entry(TERM.unpack_from(value)[0], index, value[TERM_BYTES:])

    def fresh_get(self, index: int) -> Entry | None:
        """In a read transaction of its own."""
        with self._env.begin() as transaction:
            value = transaction.get(INDEX.pack(index))
        return None if value is None else Entry(TERM.unpack_from(value)[0], index, value[TERM_BYTES:])

    def bare_get(self) -> Callable[[bytes], bytes | None]:
        """lmdb's own get, from packed key to bytes, inside one read transaction."""
        found: Callable[[bytes], bytes | None] = self._reading().get
        return found

    def read(self, start: int, stop: int) -> list[Entry]:
        """A cursor's values, made into entries."""
        cursor, term = self._reading().cursor(), TERM.unpack_from
        cursor.set_range(INDEX.pack(start))
        values = islice(cursor.iternext(keys=False), stop - start)
        return [Entry(term(value)[0], index, value[TERM_BYTES:]) for index, value in enumerate(values, start)]

    def bare_read(self, start: int, stop: int) -> list[tuple[bytes, bytes]]:
        """A cursor's pairs of key and value, as they are."""
        cursor = self._reading().cursor()
        cursor.set_range(INDEX.pack(start))
        return list(islice(cursor.iternext(), stop - start))

    def bounds(self) -> tuple[int, int]:
        """First and last key."""
        with self._env.begin() as transaction:
            cursor = transaction.cursor()
            return (INDEX.unpack(cursor.key())[0] if cursor.first() else 1), self._last_in(transaction)

    def close(self) -> None:
        """End the read transaction and the environment."""
        if self._snapshot is not None:
            self._snapshot.abort()
        self._env.close()

    def _reading(self) -> Any:
        if self._snapshot is None:
            self._snapshot = self._env.begin()
        return self._snapshot

    @staticmethod
    def _last_in(transaction: Any) -> int:
        cursor = transaction.cursor()
        return int(INDEX.unpack(cursor.key())[0]) if cursor.last() else 0


class Sqlite:
    """sqlite3: WAL, ``synchronous=FULL`` (NORMAL if not durable), the row id is the index."""

    def __init__(self, directory: str, *, durable: bool, shared: bool) -> None:
        self._database = sqlite3.connect(join(directory, "log.sqlite"), timeout=BUSY_SECONDS, isolation_level=None)
        self._execute = self._database.execute
        self._execute("PRAGMA journal_mode=WAL")
        self._execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
        self._execute(
            "CREATE TABLE IF NOT EXISTS log (id INTEGER PRIMARY KEY, term INTEGER NOT NULL, payload BLOB NOT NULL)"
        )

    def append(self, payload: bytes) -> int:
        """One transaction, one row."""
        cursor = self._execute("INSERT INTO log (term, payload) VALUES (?, ?)", (FIRST_TERM, payload))
        return cursor.lastrowid or 0

    def append_many(self, payloads: list[bytes]) -> range:
        """One transaction, many rows."""
        self._execute("BEGIN IMMEDIATE")
        rows = [(FIRST_TERM, payload) for payload in payloads]
        self._database.executemany("INSERT INTO log (term, payload) VALUES (?, ?)", rows)
        last = int(self._execute("SELECT last_insert_rowid()").fetchone()[0])
        self._execute("COMMIT")
        return range(last - len(payloads) + 1, last + 1)

    def get(self, index: int) -> Entry | None:
        """By row id; outside a transaction every query sees the newest state."""
        row = self._execute("SELECT term, payload FROM log WHERE id = ?", (index,)).fetchone()
        return None if row is None else Entry(row[0], index, row[1])

    fresh_get = get

    def read(self, start: int, stop: int) -> list[Entry]:
        """A range of row ids."""
        rows = self._execute("SELECT term, id, payload FROM log WHERE id >= ? AND id < ? ORDER BY id", (start, stop))
        return [Entry(*row) for row in rows]

    def bounds(self) -> tuple[int, int]:
        """Lowest and highest row id."""
        first = self._execute("SELECT min(id) FROM log").fetchone()[0]
        last = self._execute("SELECT max(id) FROM log").fetchone()[0]
        return (1, 0) if first is None else (first, last)

    def close(self) -> None:
        """The last connection checkpoints."""
        self._database.close()


class Rocks:
    """rocksdict in raw mode: ``WriteOptions.sync``, a ``WriteBatch`` for many."""

    def __init__(self, directory: str, *, durable: bool, shared: bool) -> None:
        import rocksdict

        self._db = rocksdict.Rdict(join(directory, "rocks"), rocksdict.Options(raw_mode=True))
        self._write = rocksdict.WriteOptions()
        self._write.sync = durable
        self._batch = rocksdict.WriteBatch
        self._last = self.bounds()[1]

    def append(self, payload: bytes) -> int:
        """One put."""
        self._last = index = self._last + 1
        self._db.put(INDEX.pack(index), TERM.pack(FIRST_TERM) + payload, self._write)
        return index

    def append_many(self, payloads: list[bytes]) -> range:
        """One write batch."""
        batch, pack, term, first = self._batch(raw_mode=True), INDEX.pack, TERM.pack(FIRST_TERM), self._last + 1
        for index, payload in enumerate(payloads, first):
            batch.put(pack(index), term + payload)
        self._db.write(batch, self._write)
        self._last = first + len(payloads) - 1
        return range(first, first + len(payloads))

    def get(self, index: int) -> Entry | None:
        """By key."""
        value = self._db.get(INDEX.pack(index))
        return None if value is None else Entry(TERM.unpack_from(value)[0], index, value[TERM_BYTES:])

    fresh_get = get

    def read(self, start: int, stop: int) -> list[Entry]:
        """An iterator's values, made into entries."""
        term, values = TERM.unpack_from, islice(self._db.values(from_key=INDEX.pack(start)), stop - start)
        return [Entry(term(value)[0], index, value[TERM_BYTES:]) for index, value in enumerate(values, start)]

    def bounds(self) -> tuple[int, int]:
        """First and last key."""
        walk = self._db.iter()
        walk.seek_to_first()
        if not walk.valid():
            return 1, 0
        first = INDEX.unpack(walk.key())[0]
        walk.seek_to_last()
        return int(first), int(INDEX.unpack(walk.key())[0])

    def close(self) -> None:
        """Close the database."""
        self._db.close()


class SyncObj:
    """PySyncObj's file journal as PySyncObj calls it: ``add``, and nothing that syncs."""

    def __init__(self, directory: str, *, durable: bool, shared: bool) -> None:
        from pysyncobj.journal import createJournal

        self._journal = createJournal(join(directory, "journal"))

    def append(self, payload: bytes) -> int:
        """One ``add``."""
        index = len(self._journal) + 1
        self._journal.add(payload, index, FIRST_TERM)
        return index

    def append_many(self, payloads: list[bytes]) -> range:
        """It has no batches: one ``add`` after the other."""
        first, add = len(self._journal) + 1, self._journal.add
        for index, payload in enumerate(payloads, first):
            add(payload, index, FIRST_TERM)
        return range(first, first + len(payloads))

    def get(self, index: int) -> Entry | None:
        """From its list in memory."""
        payload, index, term = self._journal[index - 1]
        return Entry(term, index, payload)

    fresh_get = get

    def read(self, start: int, stop: int) -> list[Entry]:
        """A slice of its list in memory."""
        return [Entry(term, index, payload) for payload, index, term in self._journal[start - 1 : stop - 1]]

    def bounds(self) -> tuple[int, int]:
        """Its list always starts at index 1 here."""
        return 1, len(self._journal)

    def close(self) -> None:
        """Unmap and close."""
        self._journal._destroy()


@dataclass(frozen=True, slots=True)
class Peer:
    """What a user could pick instead.  ``equal`` tells whether it does what ours does, so that it may count as best."""

    name: str
    package: str  # on the package index
    module: str
    opens: Callable[..., Store]
    shared: bool  # several processes may append
    equal: bool
    note: str


PEERS = {
    peer.name: peer
    for peer in (
        Peer("lmdb", "lmdb", "lmdb", Lmdb, True, True,
             "sync=True (MemFirst: sync=False); a transaction an append or batch; reads in one read transaction"),
        Peer("sqlite3", "", "sqlite3", Sqlite, True, True,
             "WAL, synchronous=FULL (MemFirst: NORMAL); a transaction an append or batch"),
        Peer("rocksdict", "rocksdict", "rocksdict", Rocks, False, True,
             "WriteOptions.sync=True (MemFirst: False); one process only"),
        Peer("pysyncobj", "pysyncobj", "pysyncobj", SyncObj, False, False,
             "PySyncObj's journal: calls fsync zero times, no checksums, every entry in a Python list in memory; one "
             "process only; NEVER the best peer, because it does less"),
    )
}  # fmt: skip


def installed() -> list[str]:
    """Names of the peers that can be used here."""
    return [name for name, peer in PEERS.items() if importlib.util.find_spec(peer.module) is not None]


def open_store(subject: str, directory: str, *, durable: bool = True, shared: bool = False) -> Store:
    """Open ours (a writer runs) or a peer; a peer's is created if it is not there, in a folder that is.

    ``durable``: appends are on disk when they return.  ``shared``: other processes append, too.
    """
    return Ours(directory) if subject == OURS else PEERS[subject].opens(directory, durable=durable, shared=shared)
