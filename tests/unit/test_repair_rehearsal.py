"""A rehearsal behaves as the disk does, and leaves the disk alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlog_mp.files import Files
from raftlog_mp.rehearsal import Rehearsal

from .journals import snapshot


def act(files: Files, folder: str) -> list[object]:
    """The same changes on either, and everything that can be seen of them."""
    one, two, new = (os.path.join(folder, name) for name in ("one", "two", "new"))
    seen: list[object] = []
    with files.opened(one, write=True) as fd:
        files.pwrite(fd, b"XY", 2)
        files.pwrite(fd, b"far", 12)
        seen += [files.size(fd), files.pread(fd, 4, 1), files.pread(fd, 100, 10)]
        files.truncate(fd, 5)
        files.preallocate(fd, 7)
        files.sync_all(fd)
    seen.append(files.read_file(one))
    fd = files.open(new, write=True, create=True, exclusive=True)
    files.pwrite(fd, memoryview(b"new"), 0)
    files.close(fd)
    with pytest.raises(FileExistsError):
        files.open(new, write=True, create=True, exclusive=True)
    files.rename(new, two)
    files.write_file(os.path.join(folder, "whole"), b"whole")
    files.unlink(one)
    files.unlink(one)
    with pytest.raises(FileNotFoundError):
        files.read_file(one)
    files.make_dir(os.path.join(folder, "below"))
    files.write_file(os.path.join(folder, "below", "file"), b"deep")
    with files.opened(two) as fd:
        loaded = files.load(fd, 3)
        seen += [bytes(loaded[:]), loaded.find(b"w")]
        loaded.close()
    seen += [files.list_dir(folder), files.list_dir(os.path.join(folder, "below"))]
    seen += [files.exists(one), files.exists(two)]
    return [*seen, files.is_dir(os.path.join(folder, "below")), files.read_file(os.path.join(folder, "below", "file"))]


def test_it_shows_what_the_disk_would(tmp_path: Path) -> None:
    found = []
    for files in (Files(), Rehearsal()):
        folder = tmp_path / type(files).__name__
        folder.mkdir()
        (folder / "one").write_bytes(b"0123456789")
        (folder / "two").write_bytes(b"two")
        before = snapshot(str(folder))
        found.append(act(files, str(folder)))
        assert (snapshot(str(folder)) == before) == isinstance(files, Rehearsal)
    assert found[0] == found[1]
    assert found[0][:2] == [15, b"1XY4"]
