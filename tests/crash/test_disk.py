"""The model of the disk: what a power cut may take, and what it may not."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from raftlog_mp.files import Files

from .disk import Disk, Op, RecordingFiles, State, digest, materialise
from .explorer import choices, keeper

SECTOR = 512


def write(inode: int, offset: int, data: bytes) -> Op:
    return Op("write", inode, offset, data)


def disk_of(*ops: Op, base: State | None = None) -> Disk:
    disk = Disk(base)
    for op in ops:
        disk.apply(op)
    return disk


def states_of(disk: Disk) -> list[State]:
    """Every state that whole changes can leave."""
    numbers = disk.undecided()
    return [disk.state(keeper(f"mask {mask}", numbers)) for mask in range(1 << len(numbers))]


def contents(disk: Disk, name: str = "a") -> set[bytes | None]:
    return {state.get(name) for state in states_of(disk)}


# ---------------------------------------------------------------- data and size
def test_unsynced_data_is_there_or_not() -> None:
    disk = disk_of(write(1, 0, b"new"), base={"a": b"old"})
    assert contents(disk) == {b"old", b"new"}


def test_synced_data_is_there() -> None:
    disk = disk_of(write(1, 0, b"new"), Op("sync", 1), base={"a": b"old"})
    assert contents(disk) == {b"new"} and disk.undecided() == []


def test_a_size_may_come_without_its_data() -> None:
    disk = disk_of(write(1, 3, b"new"), base={"a": b"old"})
    assert contents(disk) == {b"old", b"old\0\0\0", b"oldnew"}


def test_writes_may_be_reordered() -> None:
    disk = disk_of(write(1, 0, b"1" * SECTOR), write(1, SECTOR, b"2" * SECTOR), base={"a": bytes(2 * SECTOR)})
    assert bytes(SECTOR) + b"2" * SECTOR in contents(disk) and len(contents(disk)) == 4


def test_a_later_write_of_a_sector_has_the_earlier_one_in_it() -> None:
    disk = disk_of(write(1, 0, b"1"), write(1, 1, b"2"), base={"a": b"..."})
    assert contents(disk) == {b"...", b"1..", b"12."}  # never ".2.": the page had both


def test_a_write_is_torn_at_sectors_only() -> None:
    old, new = b"-" * 4 * SECTOR, b"+" * 4 * SECTOR
    disk = disk_of(write(1, 0, new), base={"a": old})
    found = {disk.state(keeper(f"shards {seed}", disk.undecided()))["a"] for seed in range(200)}
    assert len(found) == 16
    for data in found:
        assert data is not None
        assert all(set(data[at : at + SECTOR]) in ({ord("-")}, {ord("+")}) for at in range(0, len(data), SECTOR))


def test_a_cut_may_come_or_not() -> None:
    disk = disk_of(Op("size", 1, 2), base={"a": b"long"})
    assert contents(disk) == {b"long", b"lo"}


def test_a_failed_sync_stays_doubtful_whatever_succeeds_later() -> None:
    disk = disk_of(write(1, 0, b"new"), Op("bad sync", 1), Op("sync", 1), base={"a": b"old"})
    assert contents(disk) == {b"old", b"new"} and len(disk.doubtful()) == 1


def test_what_is_written_again_after_a_failed_sync_is_durable() -> None:
    disk = disk_of(write(1, 0, b"new"), Op("bad sync", 1), write(1, 0, b"new"), Op("sync", 1), base={"a": b"old"})
    assert contents(disk) == {b"new"}


@pytest.mark.parametrize(("kept", "expected"), [(1, b"new"), (0, b"old")])
def test_a_dropped_cache_shows_what_the_device_has(kept: int, expected: bytes) -> None:
    disk = disk_of(write(1, 0, b"new"), Op("bad sync", 1), Op("drop", 1, kept), base={"a": b"old"})
    assert contents(disk) == {expected} and disk.nodes[1].cache == expected


# ---------------------------------------------------------------- names
def test_a_file_may_have_no_name_yet_though_it_was_synced() -> None:
    disk = disk_of(Op("create", 7, name="a"), write(7, 0, b"new"), Op("sync", 7))
    assert contents(disk) == {None, b"new"}
    disk.apply(Op("sync dir"))
    assert contents(disk) == {b"new"}


def test_a_rename_may_come_before_the_data() -> None:
    ops = Op("create", 7, name="a.tmp"), write(7, 0, b"new"), Op("rename", name="a.tmp", other="a")
    assert contents(disk_of(*ops, base={"a": b"old"})) == {b"old", b"new", b"", b"\0\0\0"}


def test_a_rename_is_whole() -> None:
    disk = disk_of(Op("rename", name="a", other="b"), base={"a": b"data"})
    assert sorted(sorted(state) for state in states_of(disk)) == [["a"], ["b"]]


def test_an_unlink_is_durable_with_its_directory() -> None:
    disk = disk_of(Op("unlink", name="a"), base={"a": b"data"})
    assert contents(disk) == {None, b"data"}
    disk.apply(Op("sync dir", name="quarantine"))
    assert contents(disk) == {None, b"data"}
    disk.apply(Op("sync dir"))
    assert contents(disk) == {None}


def test_files_go_with_their_directory() -> None:
    disk = disk_of(Op("make dir", -1, name="q"), Op("create", 7, name="q/a"), Op("sync dir", name="q"))
    assert sorted(map(sorted, states_of(disk))) == [[], ["q", "q/a"]]


# ---------------------------------------------------------------- the double, and the choices
def test_the_model_shows_what_is_really_there(tmp_path: Path) -> None:
    """After random operations, "all" is the directory as it is, byte for byte."""
    place, coin = str(tmp_path / "log"), random.Random(5)
    os.mkdir(place)
    files = RecordingFiles(place)
    for step in range(300):
        path = os.path.join(place, coin.choice("abc"))
        if coin.random() < 0.2:
            files.write_file(path, coin.randbytes(coin.randint(0, 2000)))
        elif not files.exists(path):
            files.close(files.open(path, write=True, create=True))
        elif coin.random() < 0.1:
            coin.choice((files.unlink, lambda source: files.rename(source, os.path.join(place, "d"))))(path)
        else:
            with files.opened(path, write=True) as fd:
                act = coin.choice(("write", "truncate", "preallocate", "sync"))
                if act == "write":
                    files.pwrite(fd, coin.randbytes(coin.randint(1, 1500)), coin.randint(0, 3000))
                elif act == "sync":
                    files.sync(fd)
                else:
                    getattr(files, act)(fd, coin.randint(1, 4000))
        disk = disk_of(*files.trace) if step % 50 == 49 else files.disk
        state = disk.state(keeper("all", disk.undecided()))
        assert state == {name: Files().read_file(os.path.join(place, name)) for name in os.listdir(place)}, step


def test_a_state_becomes_a_directory(tmp_path: Path) -> None:
    state: State = {"a": b"data" + bytes(5000), "q": None, "q/b": b"", "z": bytes(SECTOR)}
    place = str(tmp_path / "made")
    materialise(state, place)
    for name, data in state.items():
        path = os.path.join(place, name)
        assert os.path.isdir(path) if data is None else Files().read_file(path) == data


def test_equal_states_have_equal_digests_and_others_have_not() -> None:
    states: list[State] = [
        {}, {"a": b""}, {"a": None}, {"b": b""}, {"a": b"\0"}, {"a": b"1"}, {"a": b"1\0"}, {"a": bytes(1024)},
        {"a": bytes(1024) + b"1"}, {"a": b"1", "b": b""}, {"a": b"", "b": b"1"},
    ]  # fmt: skip
    assert len({digest(state) for state in states}) == len(states)
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})


def test_the_choices_have_all_corners() -> None:
    few = disk_of(*(write(1, n * SECTOR, b"x") for n in range(3)), base={"a": bytes(8 * SECTOR)})
    assert list(choices(few, 4, 0)) == [f"mask {mask}" for mask in range(8)]
    many = disk_of(*(write(1, n * SECTOR, b"x") for n in range(8)), base={"a": bytes(8 * SECTOR)})
    names = list(choices(many, 4, 0))
    assert {"none", "all", "only 0", "but 7", "upto 3", "coin 2"} <= set(names) and "torn" not in " ".join(names)
    large = disk_of(write(1, 0, b"x" * 5 * SECTOR), base={"a": bytes(8 * SECTOR)})
    assert any(name.startswith("torn 0") for name in choices(large, 4, 0))
    assert list(choices(disk_of(base={"a": b""}), 4, 0)) == ["all"]


def test_a_choice_is_the_same_every_time() -> None:
    disk = disk_of(*(write(1, n * 3 * SECTOR, b"x" * 3 * SECTOR) for n in range(8)), base={"a": bytes(24 * SECTOR)})
    for name in choices(disk, 4, 99):
        first, second = (disk.state(keeper(name, disk.undecided())) for _ in range(2))
        assert first == second, name
