"""The door to the machine's state: which file system holds a path, and what a process maps."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

import raftlog_mp as rl
from raftlog_mp import probe


def mounts(monkeypatch: pytest.MonkeyPatch, *table: tuple[str, str]) -> None:
    """Let the machine have these mounts, ``(point, type)``, in the order of the mount table."""
    rows = [SimpleNamespace(mountpoint=point, fstype=kind) for point, kind in table]

    def partitions(all: bool = False) -> list[SimpleNamespace]:
        assert all, "tmpfs, overlay and network file systems count, too"
        return rows

    monkeypatch.setattr(psutil, "disk_partitions", partitions)


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"), ("/var/log", "ext4"), ("/srv", "xfs"), ("/srv/log", "xfs"), ("/srv/net", "nfs4"),
        ("/srv/net/deep/log", "nfs4"), ("/srv/network", "xfs"), ("/srvice", "ext4"),
    ],
)  # fmt: skip
def test_the_innermost_mount_counts(monkeypatch: pytest.MonkeyPatch, path: str, kind: str) -> None:
    """By whole components: /srv/net does not hold /srv/network; and in whatever order the table lists them."""
    table = [("/", "ext4"), ("/srv", "xfs"), ("/srv/net", "nfs4")]
    for rows in (table, table[::-1]):
        mounts(monkeypatch, *rows)
        assert probe.filesystem(path) == kind


def test_of_mounts_stacked_on_one_point_the_last_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(monkeypatch, ("/", "ext4"), ("/srv", "autofs"), ("/srv", "nfs4"))
    assert probe.filesystem("/srv/log") == "nfs4"


def test_a_link_leads_to_where_the_bytes_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path(os.path.realpath(tmp_path)) / "far"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    mounts(monkeypatch, ("/", "ext4"), (str(real), "cifs"))
    assert probe.filesystem(str(tmp_path / "link" / "log")) == "cifs"
    assert probe.filesystem(str(tmp_path / "log")) == "ext4"


def test_a_relative_path_is_one_of_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    mounts(monkeypatch, ("/", "ext4"), (os.path.realpath(tmp_path), "btrfs"))
    assert probe.filesystem("log") == "btrfs"


def test_a_file_system_that_cannot_be_told_has_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    mounts(monkeypatch)
    assert probe.filesystem("/srv") == ""
    assert "" not in probe.LOCAL_FILESYSTEMS


def test_this_machine_can_be_asked() -> None:
    assert probe.filesystem("/proc/self") == "proc"


def test_the_allow_list_holds_local_file_systems_only() -> None:
    assert {"ext4", "xfs", "btrfs", "tmpfs", "overlay"} <= probe.LOCAL_FILESYSTEMS
    remote = {"nfs", "nfs4", "cifs", "smb3", "9p", "ceph", "glusterfs", "fuse.sshfs", "afs", "lustre", "gpfs"}
    no_files = {"proc", "sysfs", "devtmpfs", "squashfs", "iso9660"}
    assert not probe.LOCAL_FILESYSTEMS & (remote | no_files)


def test_what_a_writer_maps(log_dir: str) -> None:
    """Ring and index by their size, lanes of its clients, and how much of it is resident."""
    config = rl.LogConfig(ring_bytes=1 << 20, lane_bytes=1 << 16)
    with rl.start_writer(log_dir, config) as writer, rl.open_log(log_dir) as log:
        log.append(bytes(30_000))
        found = probe.mapped_bytes(writer.pid)
        assert set(found) == {"ring", "index", "terms", "control", "lanes"}
        assert found["ring"][0] == 1 << 20 and found["lanes"][0] >= 1 << 16 and found["control"][0] == 8192
        assert all(0 <= resident <= size for size, resident in found.values()) and found["ring"][1] >= 30_000
    assert probe.mapped_bytes(writer.pid) == {}, "gone: no error"
