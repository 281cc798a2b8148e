"""The memory door: atomic words on shared mappings; a reader cannot damage what it maps."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from raftlog_mp import shm


def test_words_are_shared_between_mappings(tmp_path: Path) -> None:
    path = str(tmp_path / "words")
    writer, reader = shm.create_file(path, 4096), shm.open_file(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert writer.data[:] == bytes(4096), "zero-filled"
    for order in (shm.RELAXED, shm.RELEASE, shm.SEQ_CST):
        writer.cell(64).store(2**64 - order - 1, order)
        assert reader.cell(64).load(shm.ACQUIRE) == reader.cell(64).load(shm.SEQ_CST) == 2**64 - order - 1
    writer.close()
    writer.close()
    assert reader.cell(64).load(shm.RELAXED) > 0, "its own mapping"
    reader.close()


def test_reader_cannot_write_bytes(tmp_path: Path) -> None:
    shm.create_file(str(tmp_path / "f"), 4096).close()
    reader = shm.open_file(str(tmp_path / "f"))
    with pytest.raises(TypeError):
        reader.data[0] = 1
    reader.close()


def test_a_stray_store_of_a_reader_faults(tmp_path: Path) -> None:
    """In a process of its own: the kernel ends it, and the word is unharmed."""
    path = str(tmp_path / "f")
    writer = shm.create_file(path, 4096)
    code = (
        "import sys, resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0));"
        "from raftlog_mp import shm; mapping = shm.open_file(sys.argv[1]); cell = mapping.cell(0);"
        "assert cell.load(shm.ACQUIRE) == 0; cell.store(7, shm.RELAXED)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, check=False)
    assert done.returncode == -signal.SIGSEGV, done.stderr
    assert writer.cell(0).load(shm.ACQUIRE) == 0
    writer.close()


def test_cells_of_a_closed_mapping_raise(tmp_path: Path) -> None:
    mapping = shm.create_file(str(tmp_path / "f"), 4096)
    cell = mapping.cell(0)
    mapping.close()
    with pytest.raises(ValueError):
        cell.load(shm.ACQUIRE)


def test_create_replaces_a_leftover_that_others_still_map(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    old = shm.create_file(path, 4096)
    old.cell(0).store(1, shm.RELAXED)
    new = shm.create_file(path, 4096)
    assert new.cell(0).load(shm.RELAXED) == 0 and old.cell(0).load(shm.RELAXED) == 1
    old.close()
    new.close()


def test_no_space_is_an_error_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError):
        shm.create_file(str(tmp_path / "f"), 4096)
    with pytest.raises(OSError):
        shm.create_memfd("x", 4096)
    assert not list(tmp_path.iterdir())


def test_open_what_is_not_there_or_empty(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        shm.open_file(str(tmp_path / "f"))
    (tmp_path / "f").touch()
    with pytest.raises(ValueError):
        shm.open_file(str(tmp_path / "f"))


def test_memfd_is_sealed_and_shared() -> None:
    fd, mine = shm.create_memfd("raftlog-test", 3 * mmap.PAGESIZE)
    for size in (0, 1, 10 * mmap.PAGESIZE):
        with pytest.raises(PermissionError):
            os.ftruncate(fd, size)
    with pytest.raises(PermissionError):
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0x0008)  # F_SEAL_WRITE: the seals themselves are sealed
    theirs = shm.map_memfd(os.dup(fd))
    shm.close_fd(fd)
    mine.cell(64).store(5, shm.RELEASE)
    assert theirs.cell(64).load(shm.ACQUIRE) == 5 and theirs.length == 3 * mmap.PAGESIZE
    theirs.close()
    mine.close()


def test_boot_id_is_stable_and_not_zero() -> None:
    assert shm.boot_id() == shm.boot_id() != (0, 0)
    assert all(0 <= word < 1 << 64 for word in shm.boot_id())


def test_folder_of_shared_files(tmp_path: Path) -> None:
    folder = str(tmp_path / "a" / "shm")
    assert shm.names(folder) == []
    shm.make_folder(folder)
    shm.create_file(os.path.join(folder, "x"), 4096).close()
    assert shm.names(folder) == ["x"] and stat.S_IMODE(os.stat(folder).st_mode) == 0o700
    shm.remove(os.path.join(folder, "x"))
    shm.remove(os.path.join(folder, "x"))
    assert shm.names(folder) == []


def resident(path: str) -> int:
    """Bytes of this file's mapping that this process has in memory."""
    return sum(row.rss for row in psutil.Process().memory_maps(grouped=False) if row.path == path)


def test_prefault_brings_memory_and_writes_nothing(tmp_path: Path) -> None:
    path, length = str(tmp_path / "ring"), 1 << 20
    mapping = shm.create_file(path, length)
    assert resident(path) == 0
    if not mapping.prefault(0, length // 2):
        mapping.close()
        pytest.skip("this kernel cannot (Linux 5.14)")
    assert length // 2 <= resident(path) < length
    assert mapping.prefault(length // 2, length // 2) and resident(path) == length
    assert mapping.data[:] == bytes(length)
    mapping.data[5] = 7
    mapping.close()
    assert resident(path) == 0 and not mapping.prefault(0, length)
    assert Path(path).read_bytes()[5] == 7
