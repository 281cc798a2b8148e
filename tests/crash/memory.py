"""Shared memory as a killed writer leaves it: kept beside each step of a trace, block by block."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from raftlog_mp import format as fmt

BLOCK_BYTES = 4096
ZEROS = bytes(BLOCK_BYTES)


class Memory(NamedTuple):
    """Every file below ``shm/``: its length, and the blocks that are not zero."""

    files: tuple[tuple[str, int, tuple[tuple[int, bytes], ...]], ...]

    def digest(self) -> bytes:
        found = hashlib.blake2b(digest_size=16)
        for name, length, blocks in self.files:
            found.update(f"\0{name}\0{length}\0".encode())
            for at, block in blocks:
                found.update(at.to_bytes(8, "little"))
                found.update(block)
        return found.digest()

    def restore(self, directory: str) -> None:
        """Put it below a log's directory."""
        folder = os.path.join(directory, fmt.SHM_NAME)
        os.mkdir(folder, 0o700)
        for name, length, blocks in self.files:
            fd = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(fd, length)
                for at, block in blocks:
                    os.pwrite(fd, block, at)
            finally:
                os.close(fd)


def snapshot_of(directory: str, known: dict[bytes, bytes]) -> Memory:
    """What is there now; equal blocks are one object in ``known``."""
    folder, files = os.path.join(directory, fmt.SHM_NAME), []
    for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else ():
        length, blocks = 0, []
        with open(os.path.join(folder, name), "rb", buffering=0) as file:
            length = os.fstat(file.fileno()).st_size
            for at, data in _written(file.fileno(), length):
                for start in range(0, len(data), BLOCK_BYTES):
                    block = data[start : start + BLOCK_BYTES]
                    if block != ZEROS:
                        blocks.append((at + start, known.setdefault(block, block)))
        files.append((name, length, tuple(blocks)))
    return Memory(tuple(files))


def _written(fd: int, length: int) -> Iterator[tuple[int, bytes]]:
    """The parts of a file that are no holes."""
    at = 0
    while at < length:
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            return  # only a hole is left
        end = os.lseek(fd, at, os.SEEK_HOLE)
        yield at, os.pread(fd, end - at, at)
        at = end
