"""Shared memory in a folder of the user's choice: found again after a crash, moved, wiped."""

from __future__ import annotations

import dataclasses
import shutil
import stat
from pathlib import Path

import pytest
from support.processes import PATIENCE_S, BentWriter

import raftlog_mp as rl

NEVER = rl.Batch(threshold=10**9, interval_ms=3_600_000)
COUNT, DURABLE = 300, 100  # entries acknowledged, and of them durable, when the writer dies


def config(folder: Path | None, strategy: str = "mem_first") -> rl.LogConfig:
    return rl.LogConfig(
        strategy=strategy, flush_policy=NEVER if strategy == "mem_first" else rl.Immediate(), segment_bytes=1 << 20,
        ring_bytes=1 << 20, idle_mark_ms=60_000, shm_dir=str(folder) if folder else None,
    )  # fmt: skip


def payload(index: int) -> bytes:
    return b"entry %d of this test" % index


def fill(log: rl.Log, start: int, stop: int) -> None:
    assert log.append_many([payload(index) for index in range(start, stop)]) == range(start, stop)


def assert_holds(log: rl.Log | rl.LogReader, last: int) -> None:
    assert (log.first_index, log.last_index) == (1, last)
    assert [entry.payload for entry in log.read(1)] == [payload(index) for index in range(1, last + 1)]


def crash(log_dir: str, folder: Path, strategy: str = "mem_first") -> Path:
    """A writer that is killed when ``COUNT`` entries are acknowledged; returns its folder below ``folder``."""
    with BentWriter(log_dir, config(folder, strategy)) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
            fill(log, 1, DURABLE + 1)
            log.flush()
            log.wait_durable(DURABLE)
            fill(log, DURABLE + 1, COUNT + 1)
            assert log.durable_index == (DURABLE if strategy == "mem_first" else COUNT)
            place = folder / f"raftlog-{log.uuid}"
        writer.kill()
    assert not (Path(log_dir) / "shm").exists()
    on_disk = b"".join(path.read_bytes() for path in Path(log_dir).glob("*.seg"))
    assert payload(DURABLE) in on_disk and (payload(COUNT) in on_disk) == (strategy != "mem_first")
    return place


def names(place: Path) -> set[str]:
    """Kinds of the files in a folder of shared memory: control, ring, index."""
    return {path.name.split("-")[0] for path in place.iterdir()} if place.exists() else set()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "elsewhere" / "deep"


# ---------------------------------------------------------------- found again
def test_a_reader_without_a_writer_serves_what_only_the_ring_holds(log_dir: str, folder: Path) -> None:
    place = crash(log_dir, folder)
    assert names(place) == {"control", "ring", "index", "terms"}
    before = {path: path.stat().st_mtime_ns for path in (*Path(log_dir).iterdir(), *place.iterdir())}
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, COUNT)
        assert reader.durable_index == DURABLE
        assert not reader.stats().loss_possible
    after = {path: path.stat().st_mtime_ns for path in (*Path(log_dir).iterdir(), *place.iterdir())}
    assert after == before


@pytest.mark.parametrize("target", ["the same", "another folder", "the default"])
def test_a_new_writer_takes_what_only_the_ring_holds(log_dir: str, folder: Path, tmp_path: Path, target: str) -> None:
    old = crash(log_dir, folder)
    new_folder = {"the same": folder, "another folder": tmp_path / "new", "the default": None}[target]
    with (
        rl.start_writer(log_dir, None if target == "the same" else config(new_folder)),
        rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log,
    ):
        assert_holds(log, COUNT)
        assert log.durable_index == COUNT and not log.stats().loss_possible
        fill(log, COUNT + 1, COUNT + 11)
        new = new_folder / f"raftlog-{log.uuid}" if new_folder else Path(log_dir) / "shm"
        assert names(new) == {"control", "ring", "index", "terms"} and len(list(new.iterdir())) == 4
        assert new == old or names(old) == set()  # nothing of the dead writer takes memory
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, COUNT + 10)
        assert reader.durable_index == COUNT + 10


@pytest.mark.parametrize("point", [
    ("findings.make_plan", "after", 1), ("segment.seal_segment", "after", 1), ("files.Files.rename", "before", 1),
    ("files.Files.rename", "after", 2), ("control.create_control", "before", 1),
    ("control.create_control", "after", 1), ("journal.Journal.roll", "before", 1),
    ("journal.Journal.roll", "after", 1), ("startup.supersede", "before", 1), ("startup.supersede", "after", 1),
], ids=lambda point: f"{point[0].split('.', 1)[1]}-{point[1]}-{point[2]}")  # fmt: skip
def test_killed_again_while_moving_to_another_folder(
    log_dir: str, folder: Path, tmp_path: Path, point: tuple[str, str, int]
) -> None:
    crash(log_dir, folder)
    with BentWriter(log_dir, config(tmp_path / "new"), die=point, die_at_start=True) as second:
        second.wait()
        assert second.process.returncode == -9
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, COUNT)
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        assert_holds(log, COUNT)
        assert log.durable_index == COUNT and not log.stats().loss_possible


# ---------------------------------------------------------------- clean stops
@pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
def test_a_clean_stop_needs_the_folder_no_more(log_dir: str, folder: Path, strategy: str) -> None:
    with rl.start_writer(log_dir, config(folder, strategy)), rl.open_log(log_dir, autostart=False) as log:
        fill(log, 1, COUNT + 1)
        place = folder / f"raftlog-{log.uuid}"
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        assert {stat.S_IMODE(path.stat().st_mode) for path in place.iterdir()} == {0o600}
    assert names(place) == {"control"}  # it says "stopped on purpose" to handles that are still open
    shutil.rmtree(folder)
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, COUNT)
        assert reader.durable_index == COUNT and not reader.stats().loss_possible
    assert not folder.exists()
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False) as log:
        assert_holds(log, COUNT)
        assert not log.stats().loss_possible
        assert log.config.shm_dir == str(folder) and names(place) == {"control", "ring", "index", "terms"}


def test_two_logs_share_a_folder(tmp_path: Path, folder: Path) -> None:
    paths = [str(tmp_path / "log" / name) for name in ("one", "two")]
    for path in paths:
        (tmp_path / "log").mkdir(exist_ok=True)
        crash(path, folder)
    for path in paths:
        with rl.start_writer(path), rl.open_log(path, autostart=False, timeout=PATIENCE_S) as log:
            assert_holds(log, COUNT)
    assert len(list(folder.iterdir())) == 2


# ---------------------------------------------------------------- wiped
def wipe(place: Path, what: str) -> None:
    if what == "folder":
        shutil.rmtree(place.parent)
    elif what == "short ring":
        with next(place.glob("ring-*")).open("r+b") as ring:
            ring.truncate(1 << 19)
    else:
        next(place.glob(f"{what}-*")).unlink()


@pytest.mark.parametrize("what", ["folder", "ring", "control", "short ring"])
def test_a_crash_and_the_folder_wiped_may_lose_a_suffix_and_says_so(log_dir: str, folder: Path, what: str) -> None:
    wipe(crash(log_dir, folder), what)
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, DURABLE)
        assert reader.stats().loss_possible
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        assert_holds(log, DURABLE)  # what was durable is there: a suffix is lost, never a hole
        assert log.stats().loss_possible and log.durable_index == DURABLE
        fill(log, DURABLE + 1, COUNT + 1)
    said = (Path(log_dir) / "writer.log").read_text()
    assert "row S" in said and "loss_possible" in said
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        assert_holds(log, COUNT)
        assert not log.stats().loss_possible  # that was the last recovery; this one was clean


def test_a_lost_index_is_no_loss(log_dir: str, folder: Path) -> None:
    """Positions are rebuilt from the records."""
    wipe(crash(log_dir, folder), "index")
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, COUNT)
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        assert_holds(log, COUNT)
        assert not log.stats().loss_possible


def test_disk_first_loses_nothing_with_the_folder(log_dir: str, folder: Path) -> None:
    wipe(crash(log_dir, folder, "disk_first"), "folder")
    with rl.open_reader(log_dir) as reader:
        assert_holds(reader, COUNT)
        assert not reader.stats().loss_possible
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False, timeout=PATIENCE_S) as log:
        assert_holds(log, COUNT)
        assert log.durable_index == COUNT and not log.stats().loss_possible


def test_the_folder_wiped_under_a_living_writer(log_dir: str, folder: Path) -> None:
    """Whoever has it mapped goes on, and a stop saves everything: the files need no shared memory."""
    with rl.start_writer(log_dir, config(folder)) as writer, rl.open_log(log_dir, autostart=False) as log:
        fill(log, 1, 11)
        assert_holds(log, 10)
        shutil.rmtree(folder)
        fill(log, 11, 21)
        assert_holds(log, 20)
        with pytest.raises(rl.WriterUnavailable):
            rl.open_log(log_dir, autostart=False, timeout=0.2)
        writer.stop()
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False) as log:
        assert_holds(log, 20)
        assert log.durable_index == 20 and not log.stats().loss_possible


def test_a_moved_setting_without_a_writer_names_the_old_ring(log_dir: str, folder: Path, tmp_path: Path) -> None:
    """The manifest, not the caller's settings, says where the last writer's ring is: a reader needs no settings."""
    crash(log_dir, folder)
    settings = dataclasses.replace(config(folder), shm_dir=str(tmp_path / "not there"))
    with rl.start_writer(log_dir, settings), rl.open_log(log_dir, settings, autostart=False) as log:
        assert_holds(log, COUNT)
        assert log.config.shm_dir == settings.shm_dir
    with rl.start_writer(log_dir), rl.open_log(log_dir, autostart=False) as log:
        assert log.config.shm_dir == settings.shm_dir  # it was stored
