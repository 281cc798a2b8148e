"""Damage at random places of the newest segment, and blocks that no device can read: nothing wrong is served."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import log_reader
from raftlog_mp.files import Files

from .damaged import Damaged, build, carry_out, written
from .journals import BOTH, append, flip, kill, lose_memory, open_log, overwrite, tail_path
from .serving import decided, one, served


# ---------------------------------------------------------------- a device that cannot read
def failing(monkeypatch: pytest.MonkeyPatch, name: str, block: int) -> None:
    """The device cannot read the block of this file that holds byte ``block``."""
    pread, low = Files.pread, block // fmt.BLOCK_BYTES * fmt.BLOCK_BYTES

    def bad(self: Files, fd: int, length: int, offset: int) -> bytes:
        mine = os.readlink(f"/proc/self/fd/{fd}").endswith(name)
        if mine and offset < low + fmt.BLOCK_BYTES and low < offset + length:
            raise OSError(errno.EIO, "Input/output error")
        return pread(self, fd, length, offset)

    monkeypatch.setattr(Files, "pread", bad)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_block_that_the_device_cannot_read_is_a_hole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    """Row A: what stands in other blocks is served, in front of the bad one and behind it."""
    journal, _ = open_log(str(tmp_path / "log"))
    offsets = {}
    for index in range(1, 31):
        offsets[index] = fmt.DATA_OFFSET + journal.end - journal.segment.header.start
        append(journal, b"%d" % index * 300)
    name = os.path.basename(journal.segment.path)
    if sealed:
        journal.roll()
    kill(journal)
    for cache in os.listdir(tmp_path / "log") if sealed else ():
        if cache.endswith((".idx", ".trm")):
            os.unlink(tmp_path / "log" / cache)
    failing(monkeypatch, name, offsets[15])
    low = offsets[15] // fmt.BLOCK_BYTES * fmt.BLOCK_BYTES
    ends = {index: offsets[index] + fmt.RECORD_BYTES + len(b"%d" % index * 300) for index in offsets}
    bad = {index for index in offsets if offsets[index] < low + fmt.BLOCK_BYTES and low < ends[index]}
    assert 15 in bad and 1 not in bad and 30 not in bad
    with log_reader.open_reader(str(tmp_path / "log")) as reader:
        found = {index: one(reader, index) for index in range(1, reader.last_index + 1)}
    assert found == {index: None if index in bad else (1, b"%d" % index * 300) for index in offsets}


# ---------------------------------------------------------------- at random
def wound(log: Damaged, rng: random.Random) -> None:
    """Something happens to the newest segment."""
    path = tail_path(log.path)
    used = len(Path(path).read_bytes().rstrip(b"\0"))
    place = rng.randrange(fmt.DATA_OFFSET, max(used, fmt.DATA_OFFSET + 1))
    how = rng.choice(("flip", "flip", "flip", "zero", "junk", "sector", "block", "seal", "cut"))
    if how == "flip":
        flip(path, place, rng.randrange(8))
    elif how == "cut":
        os.truncate(path, place + 1)
        os.truncate(path, 65536 if rng.random() < 0.5 else place + 1)
    else:
        at, size = {"sector": (place // 512 * 512, 512), "block": (rng.randrange(88), 4),
                    "seal": (fmt.SEAL_OFFSET, 72)}.get(how, (place, 200))  # fmt: skip
        overwrite(path, at, rng.randbytes(size) if how != "zero" else bytes(size))


@BOTH
@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(n, marks=pytest.mark.slow) for n in range(2, 60))])
def test_random_damage(tmp_path: Path, seed: int, strategy: str) -> None:
    rng = random.Random(f"{strategy} {seed}")
    log = build(str(tmp_path / "log"), strategy=strategy)
    if rng.random() < 0.4:
        lose_memory(log.path)
    for _ in range(rng.choice((1, 1, 2, 3))):
        wound(log, rng)
    found, _, _ = served(log.path)
    assert all(entry in (None, written()[index]) for index, entry in found.items())
    plan = decided(log.path)
    if plan.needed:
        carry_out(plan)
    assert served(log.path)[0] == found
