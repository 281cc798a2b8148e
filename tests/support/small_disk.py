"""Real small file systems for tests that run as root: a tmpfs, or an ext4 image on a loop device."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

MIB = 1 << 20


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"`{' '.join(map(str, command))}` does not work here: {done.stderr.strip()}")


class Disk:
    """A mounted file system of ``size_mib``, unmounted when the ``with`` block ends."""

    def __init__(self, path: Path, kind: str, size_mib: int, *, image: Path | None = None) -> None:
        if os.geteuid() != 0:
            pytest.skip("mounting a small file system takes root")
        for tool in ("mount", *(("mkfs.ext4", "losetup") if kind == "ext4" else ())):
            if shutil.which(tool) is None:
                pytest.skip(f"there is no {tool} here")
        self.path, self._kind, self._size_mib = path, kind, size_mib
        self._image = image or path.with_suffix(".img")

    def __enter__(self) -> Self:
        self.path.mkdir()
        if self._kind == "tmpfs":
            _run("mount", "-t", "tmpfs", "-o", f"size={self._size_mib}m", "tmpfs", self.path)
        else:
            with open(self._image, "wb") as file:
                file.truncate(self._size_mib * MIB)
            _run("mkfs.ext4", "-q", "-m", "0", self._image)
            _run("mount", "-o", "loop", self._image, self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "-l" if kind else "-v", self.path], capture_output=True)
        if os.path.ismount(self.path):
            subprocess.run(["umount", "-l", self.path], capture_output=True)

    def remount(self, *, check: bool) -> None:
        """As after a reboot: nothing is cached.  ``check`` repairs an image that lost writes first."""
        subprocess.run(["umount", self.path], check=True, capture_output=True)
        if check:
            subprocess.run(["fsck.ext4", "-fy", self._image], capture_output=True)
        subprocess.run(["mount", "-o", "loop", self._image, self.path], check=True, capture_output=True)

    @property
    def free_bytes(self) -> int:
        """What a write may still take."""
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """Take all space but ``leave_bytes``."""
        fd = os.open(self.path / "ballast", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (MIB, 65536, 4096):
                with contextlib.suppress(OSError):
                    while self.free_bytes - leave_bytes >= size:
                        os.write(fd, b"x" * size)
            with contextlib.suppress(OSError):
                os.fsync(fd)
        finally:
            os.close(fd)

    def free(self) -> None:
        """Give it back."""
        os.unlink(self.path / "ballast")


@contextlib.contextmanager
def small_disk(path: Path, kind: str, size_mib: int) -> Iterator[Disk]:
    """A :class:`Disk` for the length of a ``with`` block."""
    with Disk(path, kind, size_mib) as disk:
        yield disk
