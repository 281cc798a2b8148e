"""The door to the device: the same bytes, past the page cache where that is possible."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import device
from raftlog_mp.files import Files

from .journals import BOTH, append, open_log, stop


@BOTH
def test_direct_reads_give_what_the_file_holds(log_dir: str, strategy: str) -> None:
    journal, _ = open_log(log_dir, strategy=strategy)
    append(journal, b"x" * 5000)
    stop(journal)
    for name in [name for name in os.listdir(log_dir) if name.endswith((".seg", ".idx", ".trm"))]:
        data = Files().read_file(os.path.join(log_dir, name))
        file = device.DeviceFile(os.path.join(log_dir, name), 8192)
        read = b"".join(file.read(offset) for offset in range(0, len(data) + 8192, 8192))
        file.close()
        assert read == data


@pytest.mark.parametrize("refused", ["open", "read"])
def test_a_file_system_without_direct_reads_is_read_through_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    real_open, real_read = os.open, os.preadv
    direct: set[int] = set()

    def fake_open(path: str, flags: int) -> int:
        if flags & os.O_DIRECT and refused == "open":
            raise OSError(errno.EINVAL, "no direct reads here")
        fd = real_open(path, flags & ~os.O_DIRECT)
        (direct.add if flags & os.O_DIRECT else direct.discard)(fd)
        return fd

    def fake_read(fd: int, buffers: list[Any], offset: int) -> int:
        if fd in direct:
            raise OSError(errno.EINVAL, "no direct reads here")
        return real_read(fd, buffers, offset)

    path = str(tmp_path / "file")
    Path(path).write_bytes(bytes(range(256)) * 40)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", fake_open)
        patch.setattr(os, "preadv", fake_read)
        file = device.DeviceFile(path, 65536)
        data = file.read(0)
        file.close()
    assert data == Files().read_file(path) and not file.direct


def test_other_errors_of_the_door_are_raised(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        device.DeviceFile(str(tmp_path / "nothing"), 4096)
