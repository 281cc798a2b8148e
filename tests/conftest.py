"""For every test: a fresh place for a log, and proof that nothing was left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

DEV_SHM = Path("/dev/shm")
# Kinds of descriptors that the library makes.  Others (a file of the test runner, a pipe of xdist) are not ours.
OUR_KINDS = ("socket:", "anon_inode:[eventpoll]", "anon_inode:[eventfd]", "/memfd:", "/dev/shm/")
# Helpers of the standard library, and the parent of the tests' children, that live as long as the test process.
NOT_LEFT_BEHIND = ("multiprocessing.resource_tracker", "multiprocessing.forkserver", "support.nursery")
PATIENCE_S = 10.0  # for a child that is ending; only a test that leaves something behind waits at all


@pytest.fixture
def log_dir(tmp_path: Path) -> str:
    """Where a test's log goes.  The directory does not exist yet."""
    return str(tmp_path / "log")


@pytest.fixture
def dev_shm(request: pytest.FixtureRequest) -> Iterator[str]:
    """A folder on /dev/shm for ``LogConfig(shm_dir=...)``, removed afterwards."""
    folder = DEV_SHM / f"raftlog-test-{os.getpid()}-{abs(hash(request.node.nodeid)) % 10**9}"
    folder.mkdir(mode=0o700)
    yield str(folder)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


@pytest.fixture(autouse=True)
def nothing_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a process, a socket or other descriptor, or shared memory behind."""
    uses_disk = {"tmp_path", "log_dir"} & set(request.fixturenames)
    place = str(request.getfixturevalue("tmp_path")) if uses_disk else None
    descriptors, children = open_descriptors(place), {child.pid for child in own_children()}
    yield
    found = [f"a writer of this test still runs: pid {pid}" for pid in end_writers_of(place)]
    found += [f"child process left behind: {what}" for what in end_children(children)]
    grown = {fd: target for fd, target in open_descriptors(place).items() if descriptors.get(fd) != target}
    if grown:
        gc.collect()  # mappings of superseded files go with their last reference
        grown = {fd: target for fd, target in open_descriptors(place).items() if descriptors.get(fd) != target}
    found += [f"descriptor {fd} left open: {target}" for fd, target in grown.items()]
    found += [f"shared memory left behind: {path}" for path in shared_memory_of(place)]
    if found:
        pytest.fail("\n".join(found), pytrace=False)


def open_descriptors(place: str | None) -> dict[int, str]:
    """Open descriptors of this process that the library may have made: number -> what it is."""
    kinds = OUR_KINDS + ((place + "/",) if place else ())
    found = {}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of this very listing is gone by now
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(kinds):
                found[int(name)] = target
    return found


def own_children() -> list[psutil.Process]:
    """Child processes, recursively, without the standard library's own."""
    found = []
    if not has_children():  # most tests; psutil's look at every process takes 10 ms, and this runs twice a test
        return []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if not any(name in " ".join(child.cmdline()) for name in NOT_LEFT_BEHIND):
                found.append(child)
    return found


def has_children() -> bool:
    """Whether any process names this one as its parent."""
    me = str(os.getpid())
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if file.read().rpartition(b")")[2].split()[1].decode() == me:
                    return True
    return False


def end_children(before: set[int]) -> list[str]:
    """Wait for children that are ending; kill, by pid, and name those that are not."""
    processes = sys.modules.get("raftlog_mp.processes")
    if processes is not None:
        processes.reap()
    new = [child for child in own_children() if child.pid not in before]
    if not new:
        return []
    _, alive = psutil.wait_procs(new, timeout=PATIENCE_S)
    if processes is not None:
        processes.reap()
    found = []
    for child in alive:
        with contextlib.suppress(psutil.Error):
            if child.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{child.pid} {' '.join(child.cmdline())}")
                child.kill()
    return found


def end_writers_of(place: str | None) -> list[int]:
    """Kill, by pid, writers whose command line names this test's folder; each is a session of its own."""
    found = []
    for pid in [int(name) for name in os.listdir("/proc") if name.isdigit()] if place else ():
        with contextlib.suppress(OSError, psutil.Error):
            line = Path(f"/proc/{pid}/cmdline").read_text(errors="replace").split("\0")
            mine = any(part == place or part.startswith(f"{place}/") for part in line)
            if mine and "raftlog_mp" in " ".join(line) and pid != os.getpid():
                process = psutil.Process(pid)
                process.kill()
                process.wait(PATIENCE_S)
                found.append(pid)
    return found


def shared_memory_of(place: str | None) -> list[str]:
    """Folders on /dev/shm that belong to this process or to a log of this test.

    Other workers of a parallel run have folders there, too: only names that can be told to be ours count.
    """
    names = {path.name for path in DEV_SHM.glob("raftlog-*")} if DEV_SHM.is_dir() else set()
    ours = {name for name in names if name.startswith(f"raftlog-test-{os.getpid()}-")}
    if place and names - ours:
        from raftlog_mp import manifest
        from raftlog_mp.files import Files

        for path in Path(place).rglob("manifest"):
            with contextlib.suppress(Exception):
                ours |= {f"raftlog-{manifest.load(Files(), str(path.parent)).uuid}"} & names
    return sorted(str(DEV_SHM / name) for name in ours)
