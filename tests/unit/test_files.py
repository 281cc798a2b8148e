"""The disk door: whole writes, durable replacement, locks; and its double, which fails and dies on demand."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import files as files_module
from raftlog_mp.files import Files, join, real_path

FILES = Files()


def test_write_file_replaces_atomically_and_durably(tmp_path: Path) -> None:
    files, path = FaultyFiles(), str(tmp_path / "f")
    files.write_file(path, b"old")
    files.write_file(path, b"new")
    assert files.read_file(path) == b"new" and os.listdir(tmp_path) == ["f"]
    assert [step[0] for step in files.steps[-5:]] == ["create", "pwrite", "sync_all", "rename", "sync_dir"]
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_write_file_is_old_or_new_at_every_crash(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    FILES.write_file(path, b"old")
    for at in range(10):
        files = FaultyFiles(crash_at=at)
        try:
            files.write_file(path, b"new")
        except Crash:
            assert FILES.read_file(path) in (b"old", b"new")
            continue
        assert at == 5 or at == 6, "create, write, sync, rename, sync of the directory (and a leftover to unlink)"
        break
    assert FILES.read_file(path) == b"new" and os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("write", ["write_file", "write_cache"])
@pytest.mark.parametrize("operation", ["create", "pwrite", "sync_all", "rename"])
def test_a_file_that_could_not_be_made_whole_leaves_nothing(tmp_path: Path, write: str, operation: str) -> None:
    """On a full disk half a file would keep the space that is missing."""
    files, path = FaultyFiles(), str(tmp_path / "f")
    FILES.write_file(path, b"old")
    files.fail(operation, errno.ENOSPC)
    if (write, operation) == ("write_cache", "sync_all"):
        files.write_cache(path, b"old")
        assert "sync_all" not in files.operations(), "a cache costs no sync"
    else:
        with pytest.raises(OSError, match="injected"):
            getattr(files, write)(path, b"new")
    assert FILES.read_file(path) == b"old" and os.listdir(tmp_path) == ["f"]


def test_an_error_on_the_way_out_does_not_hide_the_first(tmp_path: Path) -> None:
    files, path = FaultyFiles(), str(tmp_path / "f")
    files.fail("pwrite", errno.ENOSPC)
    files.fail("unlink", errno.EIO)
    with pytest.raises(OSError) as caught:
        files.write_file(path, b"new")
    assert caught.value.errno == errno.ENOSPC


def test_short_writes_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: real(fd, bytes(data[:3]), offset))
    path = str(tmp_path / "f")
    FILES.write_file(path, b"0123456789")
    assert FILES.read_file(path) == b"0123456789"


def test_short_reads_are_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(tmp_path / "f")
    FILES.write_file(path, b"0123456789")
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda fd, length, offset: real(fd, min(length, 3), offset))
    with FILES.opened(path) as fd:
        assert FILES.pread(fd, 100, 2) == b"23456789" and FILES.pread(fd, 4, 0) == b"0123"


def test_preallocated_space_reads_as_zeros(tmp_path: Path) -> None:
    fd = FILES.open(str(tmp_path / "f"), write=True, create=True)
    FILES.preallocate(fd, 10_000)
    assert FILES.size(fd) == 10_000 and FILES.pread(fd, 10_000, 0) == bytes(10_000)
    assert os.get_inheritable(fd) is False
    FILES.close(fd)


def test_exclusive_create(tmp_path: Path) -> None:
    path = str(tmp_path / "f")
    FILES.write_file(path, b"")
    with pytest.raises(FileExistsError):
        FILES.open(path, write=True, create=True, exclusive=True)


def test_loaded_bytes_are_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In pieces, as long as was asked for, the same whatever becomes of the file, and gone when it is closed."""
    monkeypatch.setattr(files_module, "_LOAD_BYTES", 3)
    path = str(tmp_path / "f")
    FILES.write_file(path, b"abc\0\0\0\0fg")
    with FILES.opened(path) as fd:
        copy = FILES.load(fd, 9)
        longer = FILES.load(fd, 12)
    os.truncate(path, 0)
    assert copy[:] == b"abc\0\0\0\0fg" and copy.find(b"f") == 7 and longer[:] == copy[:] + bytes(3)
    assert path not in Path("/proc/self/maps").read_text(encoding="utf-8")
    copy.close()
    with pytest.raises(ValueError, match="closed"):
        copy[0]


def test_bytes_that_cannot_be_read_are_an_error_and_leave_no_memory_behind() -> None:
    double = FaultyFiles()
    with double.opened(__file__) as fd:
        double.fail("pread", errno.EIO)
        with pytest.raises(OSError, match="injected"):
            double.load(fd, 10)


def test_lock_is_exclusive_and_goes_with_its_descriptor(tmp_path: Path) -> None:
    path = str(tmp_path / "LOCK")
    one, two = (FILES.open(path, write=True, create=True) for _ in range(2))
    assert not FILES.lock_held(path)
    assert FILES.lock(one) and not FILES.lock(two) and FILES.lock_held(path)
    FILES.close(one)
    assert not FILES.lock_held(path) and FILES.lock(two)
    FILES.close(two)
    assert not FILES.lock_held(str(tmp_path / "nothing"))


def test_directories(tmp_path: Path) -> None:
    place = str(tmp_path / "a" / "b")
    FILES.make_dir(place)
    FILES.make_dir(place)
    assert stat.S_IMODE(os.stat(place).st_mode) == 0o700 and FILES.is_dir(place)
    assert FILES.list_dir(place) == FILES.list_dir(str(tmp_path / "nothing")) == []
    assert not FILES.is_dir(str(tmp_path / "nothing")) and FILES.owner(str(tmp_path / "nothing")) is None
    assert FILES.owner(place) == os.geteuid() and FILES.writable_dir(place)
    FILES.unlink(join(place, "nothing"))
    Path(place, "link").symlink_to("nowhere")
    assert FILES.exists(join(place, "link")) and not FILES.exists(join(place, "nothing"))


def test_names_of_users_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert real_path("x") == real_path(Path("x")) == str(tmp_path / "x")


# ---------------------------------------------------------------- the double
def test_the_double_fails_once_where_it_was_told_to(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail("pwrite", errno.ENOSPC, path="b", after=1)
    a, b = (files.open(str(tmp_path / name), write=True, create=True) for name in "ab")
    for _ in range(3):
        files.pwrite(a, b"x", 0)
    files.pwrite(b, b"x", 0)
    with pytest.raises(OSError) as caught:
        files.pwrite(b, b"y", 0)
    assert caught.value.errno == errno.ENOSPC and files.pread(b, 9, 0) == b"x"
    files.pwrite(b, b"z", 0)
    assert files.operations("b") == ["create", "pwrite", "pwrite"]
    files.close(a)
    files.close(b)


def test_the_double_does_nothing_after_its_death(tmp_path: Path) -> None:
    files, path = FaultyFiles(crash_at=1), str(tmp_path / "f")
    fd = files.open(path, write=True, create=True)
    with pytest.raises(Crash):
        files.pwrite(fd, b"x", 0)
    with pytest.raises(Crash):
        files.unlink(path)
    files.close(fd)
    assert Path(path).read_bytes() == b""
