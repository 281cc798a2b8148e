"""The manifest: replaced whole, refused when damaged, missing only where no log is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import Crash, FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import hard_state, manifest
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.errors import CorruptLog, NotALog, VersionMismatch
from raftlog_mp.files import Files
from raftlog_mp.manifest import Manifest

from .journals import flip, make_newer

FILES = Files()
FULL = Manifest(
    uuid="u", log_id=2**63 - 1, config={"a": 1}, strategy="mem_first", generation=7, next_segment_id=9,
    segments=[SegmentInfo(1, 1, 1, 0, 0, 0, 65536, 100, 500, 10, 1), SegmentInfo(8, 7, 11, 500, 500, 1, 65536, 100)],
    purged_index=3, purged_term=1, durable=500, clean=False, failed=True, loss_possible=True, shm_dir="/dev/shm",
    evidence=["x"], commit_index=5,
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    manifest.save(FILES, str(tmp_path), FULL)
    assert manifest.load(FILES, str(tmp_path)) == FULL
    assert Manifest.from_dict(FULL.as_dict()) == FULL


def test_save_is_old_or_new_at_every_crash(tmp_path: Path) -> None:
    manifest.save(FILES, str(tmp_path), FULL)
    newer = Manifest.from_dict(FULL.as_dict() | {"generation": 8})
    for at in range(6):
        try:
            manifest.save(FaultyFiles(crash_at=at), str(tmp_path), newer)
        except Crash:
            assert manifest.load(FILES, str(tmp_path)) in (FULL, newer)


def test_damage_at_every_byte_is_refused(tmp_path: Path) -> None:
    manifest.save(FILES, str(tmp_path), FULL)
    path = str(tmp_path / fmt.MANIFEST_NAME)
    for offset in [*range(8), *range(12, os.path.getsize(path))]:
        flip(path, offset, offset % 8)
        with pytest.raises(CorruptLog, match="manifest is damaged") as caught:
            manifest.load(FILES, str(tmp_path))
        assert caught.value.segment == "manifest"
        flip(path, offset, offset % 8)
    for length in (0, 5, 20, 30):
        os.truncate(path, length)
        with pytest.raises(CorruptLog):
            manifest.load(FILES, str(tmp_path))


@pytest.mark.parametrize("change", [{"uuid": None, "segments": 3}, {"segments": [[1]]}])
def test_a_valid_checksum_over_nonsense_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    raw = fmt.pack_document(fmt.MANIFEST_MAGIC, FULL.as_dict() | change)
    (tmp_path / fmt.MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(CorruptLog):
        manifest.load(FILES, str(tmp_path))


def test_an_unknown_key_is_of_another_release_and_no_damage(tmp_path: Path) -> None:
    raw = fmt.pack_document(fmt.MANIFEST_MAGIC, FULL.as_dict() | {"zeta": 1, "alpha": 2})
    (tmp_path / fmt.MANIFEST_NAME).write_bytes(raw)
    with pytest.raises(VersionMismatch, match=r"manifest states alpha, zeta, .* Upgrade raftlog_mp"):
        manifest.load(FILES, str(tmp_path))


def test_newer_version(tmp_path: Path) -> None:
    manifest.save(FILES, str(tmp_path), FULL)
    make_newer(str(tmp_path / fmt.MANIFEST_NAME))
    with pytest.raises(VersionMismatch, match=str(tmp_path)):
        manifest.load(FILES, str(tmp_path))


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(NotALog, match="holds no log"):
        manifest.load(FILES, str(tmp_path))
    with pytest.raises(NotALog, match="there is no log"):
        manifest.load(FILES, str(tmp_path / "nothing"))
    (tmp_path / "file").touch()
    with pytest.raises(NotALog, match="is a file"):
        manifest.load(FILES, str(tmp_path / "file"))
    (tmp_path / fmt.segment_name(1)).touch()
    with pytest.raises(CorruptLog, match="missing although"):
        manifest.load(FILES, str(tmp_path))


@pytest.mark.parametrize("code", [errno.EIO, errno.EISDIR])
def test_what_cannot_be_read_is_damage_that_names_the_reason(tmp_path: Path, code: int) -> None:
    path = str(tmp_path / fmt.MANIFEST_NAME)
    files = FaultyFiles()
    if code == errno.EISDIR:
        os.mkdir(path)
    else:
        manifest.save(FILES, str(tmp_path), FULL)
        files.fail("pread", code, path=fmt.MANIFEST_NAME)
    with pytest.raises(CorruptLog, match="cannot be read") as caught:
        manifest.load(files, str(tmp_path))
    assert path in str(caught.value) and f"repair {tmp_path}" in str(caught.value)
    assert (caught.value.segment, caught.value.offset) == (fmt.MANIFEST_NAME, 0)
    assert isinstance(caught.value.__cause__, OSError) and caught.value.__cause__.errno == code


def test_too_few_descriptors_are_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(errno.EMFILE, "too many", "f")

    monkeypatch.setattr(Files, "open", refuse)
    for load in (manifest.load, hard_state.load):
        with pytest.raises(OSError) as caught:
            load(FILES, str(tmp_path))
        assert caught.value.errno == errno.EMFILE and not isinstance(caught.value, CorruptLog)


def test_folder_of_shared_memory() -> None:
    assert manifest.shm_folder("/log", FULL) == "/dev/shm/raftlog-u"
    inside = Manifest.from_dict(FULL.as_dict() | {"shm_dir": None})
    assert manifest.shm_folder("/log", inside) == "/log/shm"
