"""The bench's peers behind one face: each keeps what it was given, finds it again, and is used as it promises."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest

from raftlog_mp.cli.bench import stores
from raftlog_mp.types import Entry

PEERS = pytest.mark.parametrize("name", list(stores.PEERS))
SHARED = [name for name, peer in stores.PEERS.items() if peer.shared]


def need(name: str) -> None:
    if name not in stores.installed():
        pytest.skip(f"{name} is not installed: pip install '.[bench]'")


def opened(name: str, directory: Path, **options: bool) -> contextlib.closing[stores.Store]:
    need(name)
    return contextlib.closing(stores.open_store(name, str(directory), **options))


@PEERS
@pytest.mark.parametrize("shared", [False, True])
def test_what_is_appended_is_found_again(name, shared, tmp_path):
    payloads = [b"payload %d" % number for number in range(1, 12)]
    with opened(name, tmp_path, shared=shared) as store:
        assert store.bounds() == (1, 0)
        assert store.append(payloads[0]) == 1
        assert store.append_many(payloads[1:10]) == range(2, 11)
        assert store.append(payloads[10]) == 11
    with opened(name, tmp_path) as store:
        assert store.bounds() == (1, 11)
        assert store.get(11) == store.fresh_get(11) == Entry(1, 11, payloads[10])
        assert store.read(3, 6) == [Entry(1, index, payloads[index - 1]) for index in (3, 4, 5)]
        assert store.append(b"next") == 12


@pytest.mark.parametrize("name", SHARED)
def test_two_writers_at_once_give_every_entry_an_index_of_its_own(name, tmp_path):
    need(name)
    opened(name, tmp_path).thing.close()
    code = (
        "import sys; from raftlog_mp.cli.bench import stores\n"
        "store = stores.open_store(sys.argv[1], sys.argv[2], shared=True)\n"
        "print(*(store.append(sys.argv[3].encode()) for _ in range(25))); store.close()"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, name, str(tmp_path), word], stdout=subprocess.PIPE, text=True)
        for word in ("a", "b")
    ]
    told = {word: writer.communicate(timeout=60)[0].split() for word, writer in zip("ab", writers, strict=True)}
    assert sorted(map(int, told["a"] + told["b"])) == list(range(1, 51))
    with opened(name, tmp_path) as store:
        assert store.bounds() == (1, 50)
        for word, indexes in told.items():
            assert all(store.get(int(index)) == Entry(1, int(index), word.encode()) for index in indexes)


@pytest.mark.parametrize("name", SHARED)
def test_a_fresh_get_sees_what_another_handle_has_appended(name, tmp_path):
    code = (
        "import sys; from raftlog_mp.cli.bench import stores\n"
        "store = stores.open_store(sys.argv[1], sys.argv[2], shared=True)\n"
        "store.append(b'second'); store.close()"
    )
    with opened(name, tmp_path, shared=True) as store:
        store.append(b"first")
        assert store.fresh_get(2) is None
        subprocess.run([sys.executable, "-c", code, name, str(tmp_path)], check=True, timeout=60)
        assert store.fresh_get(2) == Entry(1, 2, b"second")


def test_lmdb_bare_gives_keys_and_values(tmp_path):
    need("lmdb")
    with opened("lmdb", tmp_path) as store:
        assert isinstance(store, stores.Lmdb)
        store.append_many([b"a", b"b", b"c"])
        key, value = stores.INDEX.pack(2), stores.TERM.pack(1) + b"b"
        assert store.bare_get()(key) == value
        assert store.bare_read(2, 3) == [(key, value)]


def test_sqlite_is_as_durable_as_it_says(tmp_path):
    for durable, level in ((True, 2), (False, 1)):  # FULL, NORMAL
        with opened("sqlite3", tmp_path, durable=durable) as store:
            assert isinstance(store, stores.Sqlite)
            assert store._execute("PRAGMA synchronous").fetchone() == (level,)
            assert store._execute("PRAGMA journal_mode").fetchone() == ("wal",)
