"""The door to the memory limits, on fixture trees of control groups v2, v1, hybrid and none."""

from __future__ import annotations

import os
from pathlib import Path

import psutil
import pytest
from support.memory_tree import MIB, MemoryTree

from raftlog_mp.memory import RESOLVE_EVERY, MemoryProbe


class Tree(MemoryTree):
    """With the reading that the library takes from it."""

    def read(self) -> tuple[int, int, str]:
        """Limit and usage in MiB, and whose they are, below the root."""
        found = MemoryProbe(str(self.root)).read()
        source = found.source.removeprefix(f"{self.root}/sys/fs/cgroup")
        return found.limit_bytes // MIB, found.used_bytes // MIB, source or "/"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    return Tree(tmp_path)


def test_without_control_groups_the_host_counts(tree: Tree) -> None:
    assert tree.read() == (1000, 400, "host")


def test_v2_own_group(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 200, limit=str(300 * MIB), active_file=30, inactive_file=50)
    assert tree.read() == (300, 120, "/app")


def test_v2_dirty_pages_cannot_be_taken_back_yet(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 200, limit=str(300 * MIB), active_file=30, inactive_file=50, file_dirty=20,
            file_writeback=10)  # fmt: skip
    assert tree.read() == (300, 150, "/app")


def test_v2_the_smallest_limit_on_the_way_up_applies(tree: Tree) -> None:
    tree.membership("0::/slice/app/worker")
    tree.v2("sys/fs/cgroup/slice/app/worker", 50)
    tree.v2("sys/fs/cgroup/slice/app", 90, limit=str(400 * MIB))
    tree.v2("sys/fs/cgroup/slice", 180, limit=str(250 * MIB))
    assert tree.read() == (250, 180, "/slice")


def test_v2_memory_high_is_a_limit_too(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 100, limit=str(300 * MIB), high=str(200 * MIB))
    assert tree.read() == (200, 100, "/app")


def test_v2_max_means_no_limit(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 100)
    assert tree.read() == (1000, 400, "host")


def test_a_limit_above_the_hosts_memory_is_none(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 100, limit=str(5000 * MIB))
    assert tree.read() == (1000, 400, "host")


def test_v2_in_a_container_the_mount_is_the_group(tree: Tree) -> None:
    """The path is the one outside; inside, the mount's top is the container's own group."""
    tree.membership("0::/docker/0123abcd")
    tree.v2("sys/fs/cgroup", 70, limit=str(100 * MIB))
    assert tree.read() == (100, 70, "/")


def test_v1(tree: Tree) -> None:
    tree.membership("5:cpu,cpuacct:/x", "4:memory:/app", "1:name=systemd:/y")
    tree.v1("sys/fs/cgroup/memory/app", 200, 256 * MIB, total_active_file=10, total_inactive_file=40, inactive_file=1)
    tree.v1("sys/fs/cgroup/memory", 900)
    assert tree.read() == (256, 150, "/memory/app")


def test_v1_without_a_limit(tree: Tree) -> None:
    tree.membership("4:memory:/app")
    tree.v1("sys/fs/cgroup/memory/app", 200)
    assert tree.read() == (1000, 400, "host")


def test_hybrid_memory_in_v1(tree: Tree) -> None:
    tree.membership("4:memory:/app", "0::/app.scope")
    tree.v1("sys/fs/cgroup/memory/app", 60, 128 * MIB)
    (tree.root / "sys/fs/cgroup/unified/app.scope").mkdir(parents=True)  # v2 is there, without the memory
    assert tree.read() == (128, 60, "/memory/app")


def test_hybrid_memory_in_v2(tree: Tree) -> None:
    tree.membership("1:name=systemd:/", "0::/app.scope")
    tree.v2("sys/fs/cgroup/unified/app.scope", 60, limit=str(128 * MIB))
    assert tree.read() == (128, 60, "/unified/app.scope")


@pytest.mark.parametrize("text", ["", "nonsense", "-5", "max\n", "12e3"])
def test_what_cannot_be_read_is_left_out(tree: Tree, text: str) -> None:
    tree.membership("0::/app", "garbage", "::", "4:memory", "x:memory:/../../..")
    tree.v2("sys/fs/cgroup/app", 100, limit=text)
    assert tree.read() == (1000, 400, "host")


def test_nothing_at_all(tmp_path: Path) -> None:
    found = MemoryProbe(str(tmp_path)).read()
    assert (found.limit_bytes, found.used_bytes, found.share, found.stalled) == (0, 0, 0.0, None)


def test_a_group_without_statistics_counts_in_full(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 100, limit=str(200 * MIB))
    (tree.root / "sys/fs/cgroup/app/memory.stat").unlink()
    assert tree.read() == (200, 100, "/app")


def test_readings_follow_the_files(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 100, limit=str(200 * MIB))
    probe = MemoryProbe(str(tree.root))
    assert probe.read().share == 0.5
    tree.v2("sys/fs/cgroup/app", 150, limit=str(200 * MIB))
    assert probe.read().share == 0.75


def test_a_process_that_is_moved_to_another_group_is_followed(tree: Tree) -> None:
    tree.membership("0::/app")
    tree.v2("sys/fs/cgroup/app", 100, limit=str(200 * MIB))
    tree.v2("sys/fs/cgroup/other", 90, limit=str(100 * MIB))
    probe = MemoryProbe(str(tree.root))
    shares = {probe.read().share}
    tree.membership("0::/other")
    shares |= {probe.read().share for _ in range(RESOLVE_EVERY)}
    assert shares == {0.5, 0.9}


def test_pressure_stall_information(tree: Tree) -> None:
    tree.write("proc/pressure/memory", "some avg10=12.50 avg60=1.00 avg300=0.00 total=99\nfull avg10=3.00 total=9\n")
    assert MemoryProbe(str(tree.root)).read().stalled == 0.125


@pytest.mark.parametrize("text", ["", "some total=1\n", "some avg10=x\n", "full avg10=1.0\n"])
def test_no_pressure_stall_information(tree: Tree, text: str) -> None:
    tree.write("proc/pressure/memory", text)
    assert MemoryProbe(str(tree.root)).read().stalled is None


def test_this_machine() -> None:
    found = MemoryProbe().read()
    assert 0 < found.used_bytes < found.limit_bytes <= psutil.virtual_memory().total
    own = psutil.Process(os.getpid()).memory_info().rss
    assert own / 2 < found.rss_bytes < own * 2
    assert getattr(psutil, "PROCFS_PATH", "/proc") == "/proc", "as it was before"
