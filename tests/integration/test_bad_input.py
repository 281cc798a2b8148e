"""Bad input: each gets a clear error that names the thing, and nothing is lost or left half done."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from crc32c import crc32c
from support.processes import BentWriter, script, writer_pids

import raftlog_mp as rl
from raftlog_mp import format as fmt

SMALL = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, lane_bytes=1 << 18, max_entry_bytes=1000, linger_s=0.2)
VERSIONED = struct.Struct("<8sI")  # how every file with a version begins
OPENERS = {"open_log": rl.open_log, "open_reader": rl.open_reader, "start_writer": rl.start_writer}


@pytest.fixture
def stopped(log_dir: str) -> Iterator[str]:
    """A log of three entries without a writer."""
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        log.append_many([b"one", b"two", b"three"])
    yield log_dir


def still_sound(directory: str) -> None:
    with rl.start_writer(directory), rl.open_log(directory) as log:
        assert [entry.payload for entry in log.read(1)] == [b"one", b"two", b"three"]
        assert log.append(b"four") == 4


# ---------------------------------------------------------------- the path
@pytest.mark.parametrize("opener", OPENERS)
def test_path_is_a_file(tmp_path: Path, opener: str) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    for where in (path, path / "below"):
        with pytest.raises(rl.NotALog, match="file"):
            OPENERS[opener](where)
    assert path.read_text() == "mine"


def test_no_log_there(tmp_path: Path) -> None:
    missing, empty = tmp_path / "missing", tmp_path / "empty"
    empty.mkdir()
    for path in (missing, empty):
        for call in (lambda p=path: rl.open_log(p, create=False), lambda p=path: rl.open_reader(p),
                     lambda p=path: rl.stop_writer(p)):  # fmt: skip
            with pytest.raises(rl.NotALog) as caught:
                call()
            assert str(path) in str(caught.value)
    assert not missing.exists() and list(empty.iterdir()) == []


@pytest.mark.parametrize("opener", OPENERS)
def test_directory_of_somebody_else(tmp_path: Path, opener: str) -> None:
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "holiday.jpg").write_bytes(b"...")
    with pytest.raises(rl.NotALog) as caught:
        OPENERS[opener](foreign)
    assert str(foreign) in str(caught.value)
    assert [path.name for path in foreign.iterdir()] == ["holiday.jpg"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become a user who may not write there")
def test_unwritable_directory(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir(mode=0o755)
    child = script("""
import os, sys
import raftlog_mp as rl
os.chdir(sys.argv[1])
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for path in (".", "new"):
    for call in (rl.open_log, rl.start_writer):
        try:
            call(path)
        except rl.AccessDenied as error:
            assert sys.argv[1] in str(error), error
        else:
            raise AssertionError("written where nobody may write")
""", str(place))
    modes = [(path, path.stat().st_mode & 0o7777) for path in tmp_path.parents if not path.stat().st_mode & 0o005]
    for path, mode in modes:
        path.chmod(mode | 0o005)
    tmp_path.chmod(0o755)
    try:
        with child:
            child.finish()
    finally:
        for path, mode in modes:
            path.chmod(mode)
    assert list(place.iterdir()) == []


def test_long_and_odd_paths(tmp_path: Path) -> None:
    for name in ("x" * 120 + "/" + "y" * 120, "with space and ünïcödé", "it's \"quoted\"; $HOME"):
        path = tmp_path / name
        with rl.start_writer(path, SMALL), rl.open_log(path) as log:
            assert log.append(b"x") == 1
        with rl.open_reader(path) as reader:
            assert reader.get(1).payload == b"x"  # type: ignore[union-attr]


def test_relative_path_and_a_change_of_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with rl.start_writer("log", SMALL), rl.open_log("log") as log:
        monkeypatch.chdir("/")
        assert log.append(b"x") == 1
        assert log.path == str(tmp_path / "log")


# ---------------------------------------------------------------- files of another version, or damaged
def bump_version(path: Path) -> None:
    """Write a newer format version wherever there is one, and leave the checksums wrong: the version comes first."""
    raw = bytearray(path.read_bytes())
    for at in (0, fmt.HARD_STATE_SLOT_BYTES) if path.name == fmt.HARD_STATE_NAME else (0,):
        magic, version = VERSIONED.unpack_from(raw, at)
        VERSIONED.pack_into(raw, at, magic, version + 1)
    path.write_bytes(raw)


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize("name", [fmt.MANIFEST_NAME, fmt.HARD_STATE_NAME])
def test_newer_format_of_a_document(stopped: str, opener: str, name: str) -> None:
    path = Path(stopped) / name
    before = path.read_bytes()
    bump_version(path)
    if opener == "open_reader" and name == fmt.HARD_STATE_NAME:
        with rl.open_reader(stopped) as reader, pytest.raises(rl.VersionMismatch, match=name):
            _ = reader.hard_state
    else:
        with pytest.raises(rl.VersionMismatch, match=name):
            OPENERS[opener](stopped)
    path.write_bytes(before)
    still_sound(stopped)


def test_newer_format_of_a_segment(log_dir: str) -> None:
    with BentWriter(log_dir, SMALL) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False) as log:
            log.append_many([b"one", b"two", b"three"])
        writer.kill()
    path = sorted(Path(log_dir).glob("*.seg"))[-1]
    before = path.read_bytes()
    bump_version(path)
    with pytest.raises(rl.VersionMismatch, match=path.name):
        rl.start_writer(log_dir)
    path.write_bytes(before)
    still_sound(log_dir)


@pytest.mark.parametrize("name", [fmt.MANIFEST_NAME, fmt.HARD_STATE_NAME, fmt.LOCK_NAME])
def test_missing_file_is_damage_not_a_new_log(stopped: str, name: str) -> None:
    path = Path(stopped) / name
    before = path.read_bytes()
    path.unlink()
    with pytest.raises(rl.CorruptLog) as caught:
        rl.start_writer(stopped)
    assert name in str(caught.value)
    path.write_bytes(before)
    path.chmod(0o600)
    still_sound(stopped)


def test_damage_is_named_and_never_served(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        for number in range(300):
            log.submit([b"%d" % number + b"." * 500])
        log.append(b"last")
    path = sorted(Path(log_dir).glob("*.seg"))[0]
    raw = bytearray(path.read_bytes())
    raw[fmt.DATA_OFFSET + 5000] ^= 1
    path.write_bytes(raw)
    with rl.open_reader(log_dir) as reader:
        with pytest.raises(rl.CorruptLog) as caught:
            reader.read(1)
        assert caught.value.segment == path.name and caught.value.first_index
        damaged = caught.value.first_index
        assert [entry.index for entry in reader.read(1, damaged)] == list(range(1, damaged))
        assert reader.get(damaged + 5).index == damaged + 5  # type: ignore[union-attr]
        with pytest.raises(rl.CorruptLog):
            reader.get(damaged)
        with pytest.raises(rl.CorruptLog):
            list(reader.follow(1, timeout=0))


# ---------------------------------------------------------------- payloads, terms, settings
def test_too_large_changes_nothing(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        assert log.append(b"x" * 1000) == 1
        limit = log.config.batch_bytes_limit
        too_many = [b"x" * 1000] * (limit // 1000 + 1)
        for call in (lambda: log.append(b"x" * 1001), lambda: log.append_many([b"y", b"x" * 1001]),
                     lambda: log.submit([b"x" * 1001]), lambda: log.append_many(too_many)):  # fmt: skip
            with pytest.raises(rl.EntryTooLarge) as caught:
                call()
            assert caught.value.limit_bytes in (1000, limit)
        assert log.last_index == 1
        assert len(log.append_many([b"x" * 1000] * (limit // 1000 - 1))) == limit // 1000 - 1


def test_kinds_of_payloads(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        assert log.append(bytearray(b"array")) == 1
        assert log.append(memoryview(b"a view")[2:]) == 2
        assert log.append(b"") == 3
        assert log.append_many(iter([b"a", b"", bytearray(b"c")])) == range(4, 7)
        assert log.append_many(payload for payload in (b"d",)) == range(7, 8)
        assert log.append_many([]) == range(0) and log.submit([]).result() == range(0)
        assert log.append_many([b""] * 10_000) == range(8, 10_008)
        assert [entry.payload for entry in log.read(1, 8)] == [b"array", b"view", b"", b"a", b"", b"c", b"d"]
        for call in (lambda: log.append("text"), lambda: log.append_many(["text"]), lambda: log.append_many(b"bytes"),
                     lambda: log.append_many("text"), lambda: log.append(None), lambda: log.append(7),
                     lambda: log.append_many([b"fine", 7]), lambda: log.append_many(7), lambda: log.submit(b"bytes"),
                     lambda: log.append(memoryview(b"abcdef")[::2]), lambda: log.append([b"a list"])):  # fmt: skip
            with pytest.raises(TypeError):
                call()  # type: ignore[no-untyped-call]
        assert log.last_index == 10_007


def test_terms(log_dir: str) -> None:
    with rl.start_writer(log_dir, SMALL), rl.open_log(log_dir) as log:
        assert log.append(b"x") == 1 and log.get(1).term == 1  # type: ignore[union-attr]
        assert log.append(b"x", term=5) == 2
        assert log.append(b"x") == 3 and log.last_log_id == rl.LogId(5, 3)
        with pytest.raises(rl.StaleTerm) as caught:
            log.append(b"x", term=4)
        assert caught.value.current_term == 5
        for term in (0, -1, 1 << 63):
            with pytest.raises(rl.ConfigError):
                log.append(b"x", term=term)
        for term in ("5", 5.0, True):
            with pytest.raises(TypeError):
                log.append(b"x", term=term)  # type: ignore[arg-type]
        assert log.last_index == 3


def test_bad_settings_start_nothing(tmp_path: Path) -> None:
    for settings in ({"strategy": "both"}, {"ring_bytes": 5}, {"segment_bytes": -1}, {"flush_policy": "often"},
                     {"linger_s": "long"}, {"max_entry_bytes": 0}):  # fmt: skip
        with pytest.raises(rl.ConfigError) as caught:
            rl.open_log(tmp_path / "log", rl.LogConfig(**settings))  # type: ignore[arg-type]
        assert caught.value.field in settings and str(next(iter(settings.values()))) in str(caught.value)
    assert not (tmp_path / "log").exists()
    assert writer_pids(str(tmp_path / "log")) == []


def test_no_writer_and_none_wanted(stopped: str) -> None:
    with pytest.raises(rl.WriterUnavailable, match="serve"):
        rl.open_log(stopped, autostart=False, timeout=0.1)
    assert rl.stop_writer(stopped) is False
    still_sound(stopped)


def test_closed_handle_gives_everything_back(log_dir: str) -> None:
    """A closed handle that is still referenced holds no descriptor and no mapping of the log."""
    with rl.start_writer(log_dir, SMALL):
        before = set(os.listdir("/proc/self/fd"))
        handles = [rl.open_log(log_dir), rl.open_reader(log_dir)]
        handles[0].append(b"x")  # type: ignore[attr-defined]
        for handle in handles:
            assert handle.get(1) is not None
            handle.close()
        assert set(os.listdir("/proc/self/fd")) <= before


def test_a_path_that_no_file_system_takes(tmp_path: Path) -> None:
    for path in (tmp_path / ("z" * 300), f"{tmp_path}/a\0b", ""):
        for use in (rl.open_log, rl.open_reader, rl.start_writer, rl.stop_writer):
            with pytest.raises(rl.NotALog, match="path"):
                use(path)
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_of_somebody_else_says_so(log_dir: str) -> None:
    """As root's files in a user's log would: the directory can be listed, the file cannot be read."""
    with rl.open_log(log_dir) as log:
        log.append(b"x")
    rl.stop_writer(log_dir)
    with pytest.MonkeyPatch.context() as patch:
        def refused(_: object, path: str) -> bytes:
            raise PermissionError(13, "Permission denied", path)

        patch.setattr("raftlog_mp.files.Files.read_file", refused)
        with pytest.raises(rl.AccessDenied, match="manifest"):
            rl.open_reader(log_dir)


def test_a_hard_state_of_a_newer_release_in_one_slot(log_dir: str) -> None:
    """A newer release that crashed between its two slots: the older slot may revert its vote, so nothing is opened."""
    with rl.open_log(log_dir) as log:
        log.append(b"x")
    rl.stop_writer(log_dir)
    path = Path(log_dir, "hard_state")
    good = path.read_bytes()
    for slot in (0, fmt.HARD_STATE_SLOT_BYTES):
        raw = bytearray(good)
        end = slot + 24 + int.from_bytes(raw[slot + 16 : slot + 24], "little")
        raw[slot + 8 : slot + 12] = (2).to_bytes(4, "little")
        crc = crc32c(bytes(raw[slot : slot + 12]) + bytes(raw[slot + 16 : end]))
        raw[slot + 12 : slot + 16] = crc.to_bytes(4, "little")
        path.write_bytes(raw)
        with pytest.raises(rl.VersionMismatch):
            rl.start_writer(log_dir)
        raw[slot + 12] ^= 1  # the same version, but rot: the other slot decides
        path.write_bytes(raw)
        with rl.start_writer(log_dir):
            pass
        path.write_bytes(good)
