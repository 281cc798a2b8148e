"""What a dead writer left in shared memory: believed only as far as it proves to be this log's, of this boot."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raftlog_mp import format as fmt
from raftlog_mp import layout, manifest, shm
from raftlog_mp.control import open_control
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.manifest import Manifest
from raftlog_mp.remains import Remains

from .journals import append, kill, open_log, overwrite, put, read_at, snapshot, stop


def killed(log_dir: str, **settings: object) -> tuple[Journal, Manifest]:
    """A MemFirst writer that died with two entries in its ring only, and a third that was never published."""
    journal, _ = open_log(log_dir, strategy="mem_first", **settings)
    append(journal, b"one")
    append(journal, b"two")
    put(journal, b"unpublished")
    journal.copy_to_ring()
    kill(journal)
    return journal, manifest.load(Files(), log_dir)


def name_of(journal: Journal, kind: str) -> str:
    names = {"control": fmt.control_name, "ring": fmt.ring_name}
    return os.path.join(journal.folder, names[kind](journal.generation))


def set_words(journal: Journal, **words: int) -> None:
    control = open_control(name_of(journal, "control"), writable=True)
    for name, value in words.items():
        getattr(control, name).store(value, shm.SEQ_CST)
    control.close()


def assert_nothing_believed(remains: Remains) -> None:
    assert not remains.trusted and not remains.failed and remains.ring is None
    assert (remains.published, remains.durable) == (0, 0)
    remains.close()


def test_what_a_killed_writer_published_and_where_the_disk_stood(log_dir: str) -> None:
    journal, found = killed(log_dir)
    before = snapshot(log_dir)
    remains = Remains(log_dir, found)
    assert remains.trusted and remains.same_boot and not remains.failed
    assert remains.published == journal.published < journal.copied, "not what was merely copied"
    assert remains.durable == journal.durable < remains.published
    assert remains.ring is not None
    fields, body = remains.ring.record(remains.durable)  # type: ignore[misc]
    assert (fields[9], body) == (1, b"one")
    assert remains.ring.copy(remains.durable, remains.published).count(fmt.RECORD_MAGIC) == 2  # type: ignore[union-attr]
    remains.close()
    assert snapshot(log_dir) == before, "looking changes nothing"


def test_after_an_orderly_end_nothing_is_missing_from_the_files(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"one")
    stop(journal)
    remains = Remains(log_dir, manifest.load(Files(), log_dir))
    assert remains.published == remains.durable == journal.end, "whether or not the ring is still there"
    assert remains.same_boot and not remains.failed
    remains.close()


def test_close_unmaps_and_may_come_twice(log_dir: str) -> None:
    remains = Remains(log_dir, killed(log_dir)[1])
    control = remains.control
    remains.close()
    remains.close()
    assert control is not None
    with pytest.raises(ValueError):
        control.published.load(shm.ACQUIRE)


def test_a_folder_of_its_own_for_shared_files(log_dir: str, tmp_path: Path) -> None:
    journal, found = killed(log_dir, shm_dir=str(tmp_path / "elsewhere"))
    assert journal.folder.startswith(str(tmp_path / "elsewhere")) and not os.path.exists(f"{log_dir}/{fmt.SHM_NAME}")
    remains = Remains(log_dir, found)
    assert remains.trusted and remains.published == journal.published
    remains.close()


def test_nothing_was_left(log_dir: str) -> None:
    journal, found = killed(log_dir)
    for name in shm.names(journal.folder):
        os.unlink(os.path.join(journal.folder, name))
    os.rmdir(journal.folder)
    remains = Remains(log_dir, found)
    assert remains.control is None and remains.same_boot, "no control block, so no word of another boot either"
    assert_nothing_believed(remains)


@pytest.mark.parametrize("word", ["boot_id_high", "boot_id_low"])
def test_shared_memory_of_another_boot_proves_nothing(log_dir: str, word: str) -> None:
    journal, found = killed(log_dir)
    set_words(journal, **{word: 7})
    remains = Remains(log_dir, found)
    assert remains.control is not None and not remains.same_boot
    assert_nothing_believed(remains)


def test_a_boot_without_a_name_is_never_the_same(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, found = killed(log_dir)
    set_words(journal, boot_id_high=0, boot_id_low=0)
    monkeypatch.setattr(shm, "boot_id", lambda: (0, 0))
    remains = Remains(log_dir, found)
    assert not remains.same_boot
    assert_nothing_believed(remains)


@pytest.mark.parametrize("word", ["log_id", "generation"])
def test_another_log_or_generation_proves_nothing(log_dir: str, word: str) -> None:
    """Even a latched failure is not taken over: it is not about this log's disk."""
    journal, found = killed(log_dir)
    set_words(journal, **{word: 99, "state": layout.STATE_FAILED})
    remains = Remains(log_dir, found)
    assert remains.same_boot and remains.control is not None
    assert_nothing_believed(remains)


def test_only_the_generation_in_the_manifest_is_looked_for(log_dir: str) -> None:
    _, found = killed(log_dir)
    found.generation += 1
    remains = Remains(log_dir, found)
    assert remains.control is None
    assert_nothing_believed(remains)


@pytest.mark.parametrize("damage", ["magic", "short", "empty"])
def test_half_a_control_block_is_none(log_dir: str, damage: str) -> None:
    """A writer may die while it creates the file: the magic goes in last."""
    journal, found = killed(log_dir)
    path = name_of(journal, "control")
    if damage == "magic":
        overwrite(path, 0, bytes(8))
    else:
        os.truncate(path, layout.CONTROL_BYTES // 2 if damage == "short" else 0)
    remains = Remains(log_dir, found)
    assert remains.control is None
    assert_nothing_believed(remains)


@pytest.mark.parametrize("damage", ["missing", "empty", "short", "long"])
def test_without_its_ring_the_control_block_still_vouches_for_the_disk(log_dir: str, damage: str) -> None:
    journal, found = killed(log_dir)
    path = name_of(journal, "ring")
    size = os.path.getsize(path)
    if damage == "missing":
        os.unlink(path)
    else:
        os.truncate(path, {"empty": 0, "short": size // 2, "long": size * 2}[damage])
    remains = Remains(log_dir, found)
    assert not remains.trusted and remains.ring is None
    assert (remains.durable, remains.published) == (journal.durable, journal.published)
    remains.close()


def test_a_latched_failure_is_seen(log_dir: str) -> None:
    journal, found = killed(log_dir)
    set_words(journal, state=layout.STATE_FAILED)
    remains = Remains(log_dir, found)
    assert remains.failed and remains.trusted, "the ring may hold the only true copy of what the disk lost"
    remains.close()


def test_bytes_that_the_ring_overwrote_are_not_served(log_dir: str) -> None:
    """The floor that was stored last is believed, although the overwriting itself may not have happened."""
    journal, found = killed(log_dir)
    set_words(journal, floor=journal.durable + 1)
    remains = Remains(log_dir, found)
    assert remains.ring is not None and remains.ring.copy(journal.durable, journal.published) is None
    assert read_at(name_of(journal, "ring"), journal.durable, 4) != bytes(4), "they still lie there"
    remains.close()
