"""Opening a log: good places, bad places, new generations, and what the predecessor's handles are told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import format as fmt
from raftlog_mp import manifest, place, probe, shm, startup
from raftlog_mp.config import LogConfig
from raftlog_mp.control import open_control
from raftlog_mp.errors import (
    AccessDenied,
    ConfigError,
    CorruptLog,
    DiskFull,
    NotALog,
    RaftLogError,
    SyncFailed,
    VersionMismatch,
)
from raftlog_mp.files import Files

from .journals import (
    append,
    entries_of,
    kill,
    make_newer,
    open_log,
    overwrite,
    reopen,
    small_config,
    snapshot,
    stop,
    tail_path,
)

FILES = Files()


# ---------------------------------------------------------------- places
def test_a_new_log_may_stand_in_an_empty_or_missing_directory(tmp_path: Path) -> None:
    assert place.check_place(FILES, str(tmp_path), create=True) is False
    assert place.check_place(FILES, str(tmp_path / "new" / "deep"), create=True) is False
    with pytest.raises(NotALog):
        place.check_place(FILES, str(tmp_path), create=False)
    with pytest.raises(NotALog):
        place.check_place(FILES, str(tmp_path / "new"), create=False)
    assert not (tmp_path / "new").exists(), "looking makes nothing"


def test_a_file_is_no_place(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"mine")
    for path in (file, file / "below"):
        with pytest.raises(NotALog, match="file"):
            place.check_place(FILES, str(path), create=True)
        with pytest.raises(RaftLogError):
            place.prepare_directory(FILES, str(path))
    assert file.read_bytes() == b"mine"


def test_a_directory_with_something_else_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(NotALog):
        place.check_place(FILES, str(tmp_path), create=True)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_a_creation_that_was_interrupted_is_taken_up_again(tmp_path: Path) -> None:
    for name in (fmt.LOCK_NAME, fmt.WRITER_LOG_NAME, fmt.HARD_STATE_NAME, fmt.MANIFEST_NAME + ".tmp"):
        (tmp_path / name).write_bytes(b"")
    assert place.check_place(FILES, str(tmp_path), create=True) is False


def test_unwritable_and_unreadable_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the answers of the door: the superuser may write everywhere."""
    monkeypatch.setattr(Files, "writable_dir", lambda self, path: False)
    with pytest.raises(AccessDenied, match="cannot be written"):
        place.prepare_directory(FILES, str(tmp_path))

    def denied(self: Files, path: str) -> bool:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(Files, "is_dir", denied)
    with pytest.raises(AccessDenied, match="cannot be read"):
        place.check_place(FILES, str(tmp_path), create=True)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EACCES, AccessDenied), (errno.ENAMETOOLONG, NotALog), (errno.ENOTDIR, NotALog)],
)
def test_a_directory_that_cannot_be_made(tmp_path: Path, code: int, kind: type[RaftLogError]) -> None:
    files = FaultyFiles()
    files.fail("make_dir", code)
    with pytest.raises(kind):
        place.prepare_directory(files, str(tmp_path / "new"))


def test_another_users_log_is_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place.check_owner(FILES, str(tmp_path))
    place.check_owner(FILES, str(tmp_path / "nothing"))
    monkeypatch.setattr(Files, "owner", lambda self, path: os.geteuid() + 1)
    with pytest.raises(AccessDenied, match="belongs to user"):
        place.check_owner(FILES, str(tmp_path))


def test_a_network_file_system_is_refused_with_words(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "filesystem", lambda path: "nfs4")
    with pytest.raises(ConfigError, match="nfs4") as caught:
        open_log(log_dir)
    assert caught.value.field == "allow_any_filesystem"
    journal, _ = open_log(log_dir, allow_any_filesystem=True)
    stop(journal)


def test_the_file_system_of_a_path_is_known(tmp_path: Path) -> None:
    assert probe.filesystem(str(tmp_path)) and probe.filesystem("/proc/self") == "proc"


# ---------------------------------------------------------------- errors on the way
@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.ENOSPC, DiskFull), (errno.EROFS, AccessDenied), (errno.EACCES, AccessDenied), (errno.EIO, SyncFailed)],
)
@pytest.mark.parametrize("operation", ["create", "pwrite", "rename", "sync_all"])
def test_errors_while_opening_are_named(log_dir: str, operation: str, code: int, kind: type[RaftLogError]) -> None:
    files = FaultyFiles()
    place.prepare_directory(files, log_dir)
    files.fail(operation, code)
    with pytest.raises(kind):
        startup.open_journal(files, log_dir, small_config())
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    stop(journal)
    assert entries_of(log_dir) == {1: (1, b"x")}


def test_newer_format_is_refused_and_nothing_changes(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    kill(journal)
    make_newer(tail_path(log_dir), 72)
    before = snapshot(log_dir)
    with pytest.raises(VersionMismatch, match=os.path.basename(tail_path(log_dir))):
        open_log(log_dir)
    assert snapshot(log_dir) == before


def test_hard_state_must_be_readable(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    stop(journal)
    overwrite(os.path.join(log_dir, fmt.HARD_STATE_NAME), 0, bytes(fmt.HARD_STATE_FILE_BYTES))
    with pytest.raises(CorruptLog, match="hard_state"):
        open_log(log_dir)


# ---------------------------------------------------------------- generations
def test_config_is_stored_and_an_explicit_one_wins(log_dir: str) -> None:
    journal, _ = open_log(log_dir, max_buffered_entries=7)
    stop(journal)
    journal, _ = open_log(log_dir)
    assert journal.config == small_config(max_buffered_entries=7), "None adopts what is stored"
    stop(journal)
    journal, _ = open_log(log_dir, strategy="mem_first")
    assert journal.config == small_config(strategy="mem_first")
    stop(journal)
    state = manifest.load(FILES, log_dir)
    assert state.strategy == "mem_first" and LogConfig.from_dict(state.config) == journal.config


def test_strategy_of_a_killed_log_decides_its_recovery(log_dir: str) -> None:
    """The ring of a MemFirst log counts even if it is opened as DiskFirst."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"only in the ring")
    kill(journal)
    journal, _ = open_log(log_dir, strategy="disk_first")
    stop(journal)
    assert entries_of(log_dir) == {1: (1, b"only in the ring")}


def test_a_new_generation_has_new_shared_files_and_removes_the_old(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x")
    old = open_control(os.path.join(log_dir, "shm", fmt.control_name(1)))
    version = old.catalog_version.load(shm.ACQUIRE)
    kill(journal)
    journal, _ = open_log(log_dir)
    assert old.superseded_by.load(shm.ACQUIRE) == 2 and old.catalog_version.load(shm.ACQUIRE) != version
    active = fmt.active_index_name(2, journal.segment.header.segment_id)
    terms = fmt.terms_table_name(2, 1)
    assert set(shm.names(os.path.join(log_dir, "shm"))) == {fmt.control_name(2), fmt.ring_name(2), active, terms}
    assert journal.control.generation.load(shm.ACQUIRE) == 2
    assert journal.control.catalog_version.load(shm.ACQUIRE) > version
    old.close()
    stop(journal)


@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_a_start_without_space_leaves_no_shared_memory_behind(log_dir: str, strategy: str) -> None:
    """However often it is tried: ring, control block and terms would fill the disk that is full already."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, strategy=strategy)
    append(journal, b"x")
    kill(journal)
    before = set(shm.names(os.path.join(log_dir, "shm")))
    for operation in ("preallocate", "pwrite", "preallocate"):
        files.fail(operation, errno.ENOSPC, path=".seg")
        with pytest.raises(DiskFull):
            open_log(log_dir, files)
        files.heal()
        assert set(shm.names(os.path.join(log_dir, "shm"))) == before, "what the dead writer left is still needed"
    journal, plan = open_log(log_dir)
    assert not plan.loss_possible and plan.last_index == 1
    stop(journal)
    assert entries_of(log_dir) == {1: (1, b"x")}


def test_a_start_whose_sync_fails_keeps_its_control_block(log_dir: str) -> None:
    """The manifest may list its segment already, and the control block says that the disk failed."""
    files = FaultyFiles()
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"x")
    kill(journal)
    files.fail("sync", errno.EIO, path=".seg")
    with pytest.raises(SyncFailed):
        open_log(log_dir, files)
    assert {fmt.control_name(2), fmt.ring_name(2)} <= set(shm.names(os.path.join(log_dir, "shm")))


def test_frontiers_of_a_new_generation(log_dir: str) -> None:
    journal, _ = open_log(log_dir)
    append(journal, b"x", term=4)
    kill(journal)
    journal, _ = open_log(log_dir)
    words = journal.control.snapshot()
    assert (words["last_index"], words["durable_index"], words["last_term"], words["first_index"]) == (1, 1, 4, 1)
    assert words["published"] == words["durable"] == journal.end and words["floor"] <= words["durable"]
    assert (words["boot_id_high"], words["boot_id_low"]) == shm.boot_id()
    stop(journal)


def test_shared_memory_in_a_folder_of_its_own(log_dir: str, dev_shm: str) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first", shm_dir=dev_shm)
    append(journal, b"x")
    assert not os.path.exists(os.path.join(log_dir, "shm"))
    assert os.listdir(dev_shm) == [f"raftlog-{journal.manifest.uuid}"]
    kill(journal)
    journal, plan = open_log(log_dir)
    assert [finding.letter for finding in plan.findings] == ["M", "Q"]
    stop(journal)
    assert entries_of(log_dir) == {1: (1, b"x")}


def test_empty_segments_do_not_pile_up(log_dir: str) -> None:
    for _ in range(5):
        journal, _ = open_log(log_dir)
        stop(journal)
    state = manifest.load(FILES, log_dir)
    assert len(state.segments) == 1 and state.generation == 5
    assert sorted(name for name in os.listdir(log_dir) if name.endswith(".seg")) == [
        fmt.segment_name(state.segments[0].segment_id)
    ]


@pytest.mark.parametrize("rolls", [1, 2, 3])
@pytest.mark.parametrize("end", [stop, kill])
def test_segments_without_entries_between_others_are_dropped_for_good(log_dir: str, rolls: int, end) -> None:
    """As after a first entry that needs a larger segment: the log opens again, and again."""
    expected = {}
    for number in range(1, 5):
        journal, _ = open_log(log_dir)
        for _ in range(rolls):
            journal.roll()
        append(journal, b"%d" % number)
        expected[number] = (1, b"%d" % number)
        end(journal)
    assert reopen(log_dir)[0] == expected
    assert len(manifest.load(FILES, log_dir).segments) <= 2 + 4


def test_a_clean_stop_keeps_the_exactly_once_table(log_dir: str) -> None:
    """Its clients may come back to a later writer; the sealed segments are not read for it."""
    journal, _ = open_log(log_dir)
    append(journal, b"a", b"b", producer=7, sequence=3)
    stop(journal)
    assert manifest.load(FILES, log_dir).producers
    for _ in range(3):
        journal, plan = open_log(log_dir)
        assert plan.producers.look_up(7, 3) == ("appended", (1, 2, 1))
        stop(journal)
    journal, _ = open_log(log_dir)
    assert manifest.load(FILES, log_dir).producers == b"", "from here on the records of the newest segment count"
    journal.producers.disconnect(7, for_good=True)
    stop(journal)
    assert manifest.load(FILES, log_dir).producers == b"", "nobody will ask"
