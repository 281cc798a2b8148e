"""Power cuts on a real file system: an image on a loop device, a real writer, and the file system's own shutdown.

``python -m crash.real_disk ext4 FOLDER --rounds 3 --strategy mem_first``, as root, in namespaces of its own (``run``
makes them): whatever becomes of this process, its writers, mount and loop device go with it.  Prints one JSON object.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import random
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

import raftlog_mp as rl
from raftlog_mp import format as fmt

from .appender import payload_of
from .look import Found, Violation, version_of
from .story import Story

SHUTDOWN = 0x8004587D  # FS_IOC_SHUTDOWN of ext4, the same number as XFS_IOC_GOINGDOWN
NO_LOG_FLUSH = 2  # what is in memory is lost, the file system's own journal included
IMAGE_BYTES = {"ext4": 64 << 20, "xfs": 320 << 20}
MAKE = {"ext4": ["mkfs.ext4", "-q", "-F"], "xfs": ["mkfs.xfs", "-q", "-f"]}
# It dies with whoever started it, and with it every process and mount in there: nothing is ever left behind.
NAMESPACES = [
    "setpriv", "--pdeathsig", "KILL",
    "unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child", "--mount-proc",
]  # fmt: skip
TESTS = str(Path(__file__).resolve().parents[1])
SETTINGS: dict[str, Any] = {"segment_bytes": 64 << 10, "ring_bytes": 1 << 20, "lane_bytes": 64 << 10}


def missing(kind: str) -> str | None:
    """Why no such round can be run on this machine; None if it can."""
    if os.geteuid() != 0:
        return "only root can mount a file system"
    for tool in (MAKE[kind][0], "setpriv", "unshare", "mount", "umount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    if not os.path.exists("/dev/loop-control"):
        return "there are no loop devices"
    with open("/proc/filesystems", encoding="ascii") as file:
        if kind not in file.read().split():
            return f"the kernel has no {kind}"
    probe = subprocess.run([*NAMESPACES, "true"], capture_output=True, check=False)
    return None if probe.returncode == 0 else "no namespaces of mounts and processes can be made"


def run(
    kind: str, folder: str, *, rounds: int, seed: int, strategy: str, timeout: float, site: str | None = None
) -> dict[str, Any]:
    """The rounds, in a new ``folder``, which is removed.  ``AssertionError`` if they fail, ``TimeoutExpired`` if late.

    ``site``: a folder that every Python process imports from first (the tests' own control breaks the build that way).
    """
    os.makedirs(folder)
    environment = os.environ | ({"PYTHONPATH": site} if site else {})
    command = [*NAMESPACES, sys.executable, "-m", "crash.real_disk", kind, folder]
    command += ["--rounds", str(rounds), "--seed", str(seed), "--strategy", strategy]
    try:
        done = subprocess.run(
            command, cwd=TESTS, env=environment, capture_output=True, text=True, timeout=timeout, check=False
        )
    finally:
        _outlive(folder)
        shutil.rmtree(folder)
    if done.returncode:
        raise AssertionError(f"{' '.join(command)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def _outlive(folder: str) -> None:
    """Wait until the kernel has ended what it was told to end: every process that names the folder."""
    ending = []
    for process in psutil.process_iter(["cmdline"]):
        if process.pid != os.getpid() and any(part.startswith(folder) for part in process.info["cmdline"] or ()):
            ending.append(process)
    _, alive = psutil.wait_procs(ending, timeout=30)
    assert not alive, f"still there: {alive}"


class RealDisk:
    """A file system on an image; it can be mounted, and taken away."""

    def __init__(self, kind: str, folder: str) -> None:
        self.kind, self.image, self.place = kind, os.path.join(folder, f"{kind}.img"), os.path.join(folder, "mnt")
        os.mkdir(self.place)
        with open(self.image, "wb") as file:
            file.truncate(IMAGE_BYTES[kind])
        subprocess.run([*MAKE[kind], self.image], check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    @contextmanager
    def mounted(self) -> Iterator[str]:
        """Mounted; unmounted afterwards, which also gives the loop device back."""
        subprocess.run(["mount", "-t", self.kind, "-o", "loop", self.image, self.place], check=True)
        try:
            yield os.path.join(self.place, "log")
        finally:
            subprocess.run(["umount", self.place], check=True)

    def cut(self) -> None:
        """Nothing reaches the device from here on, and nothing that had not, was there."""
        fd = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, SHUTDOWN, struct.pack("I", NO_LOG_FLUSH))
        finally:
            os.close(fd)


class Witness:
    """Hears what the appender begins and finishes, and remembers it as a story."""

    def __init__(self) -> None:
        self.story, self.at, self.number, self.term = Story(), 0, 1, 1
        self.operations = 0

    def hear(self, line: dict[str, Any]) -> bool:
        """One line; False if it was the last."""
        self.at += 1
        story = self.story
        if "failed" in line:
            return False
        if "done" in line:
            self._hear_done(line)
            return True
        newest, self.term, kind = story.versions[-1], line["term"], line["kind"]
        if kind == "append":
            first = newest.last.index + 1
            new = {first + n: (self.term, payload_of(number)) for n, number in enumerate(line["numbers"])}
            self.number = line["numbers"][-1] + 1
            story.begin(self.at, newest.entries | new, rl.LogId(self.term, first + len(new) - 1))
        elif kind == "truncate":
            entries = {index: entry for index, entry in newest.entries.items() if index < line["at"]}
            last = max(entries)
            story.begin(self.at, entries, rl.LogId(entries[last][0], last), change=True)
        elif kind == "purge":
            story.begin_purge(self.at, rl.LogId(newest.entries[line["upto"]][0], line["upto"]))
        else:
            story.hard.append((self.at, rl.HardState(self.term, line["for"])))
        return True

    def _hear_done(self, line: dict[str, Any]) -> None:
        story, kind = self.story, line["done"]
        self.operations += 1
        if kind == "purge":
            story.purge_done(self.at, story.purges[-1].boundary)
        elif kind == "vote":
            story.promised(self.at, hard=len(story.hard) - 1)
        elif kind == "truncate":
            story.done(self.at)
        number = story._version_at(line["durable"])
        story.promised(self.at, durable=max(number, story.promise.durable))

    def judge(self, found: Found) -> int:
        """After a power cut: how many versions behind the newest one begun the log is.  Goes on from there."""
        story = self.story
        self.at += 1
        limits = story.limits(self.at, killed=False)
        number = version_of(story, limits, found)
        if found.hard not in limits.hard:
            raise Violation("hard state", f"{found.hard} is none of {limits.hard}")
        lost = limits.high - number
        story.go_on_from(self.at, number)
        story.purge_done(self.at, found.purged)
        states = [state for _, state in story.hard]
        story.promised(self.at, hard=max(n for n, state in enumerate(states) if state == found.hard))
        self.term = max(found.last.term, found.hard.term, self.term) + 1
        return lost


def cut_while_appending(disk: RealDisk, log: str, witness: Witness, seed: int, config: rl.LogConfig) -> None:
    """One life of a writer; it ends when the device is gone."""
    coin = random.Random(seed)
    writer = rl.start_writer(log, config)
    command = [sys.executable, "-m", "crash.appender", log, str(seed), str(witness.number), str(witness.term)]
    appender = subprocess.Popen(command, cwd=TESTS, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    try:
        assert appender.stdout is not None
        lines = coin.randint(40, 400)
        for n, line in enumerate(appender.stdout):
            going_on = witness.hear(json.loads(line))
            if n == lines:
                disk.cut()  # in the middle of whatever the writer does now
            if not going_on or n > lines + 2_000:  # from memory, it may go on for a while without noticing
                break
    finally:
        for pid in (appender.pid, writer.pid):
            subprocess.run(["kill", "-KILL", str(pid)], check=False, stderr=subprocess.DEVNULL)
        appender.wait()
        if appender.stdout is not None:
            for line in appender.stdout:  # what it had said before it died
                if line.endswith(b"\n"):
                    witness.hear(json.loads(line))
            appender.stdout.close()
        writer.stop()


def look(log: str) -> Found:
    """The log as its users see it after the next boot: first a reader without a writer, then a writer."""
    shutil.rmtree(os.path.join(log, fmt.SHM_NAME), ignore_errors=True)  # memory of another boot proves nothing
    with rl.open_reader(log) as reader:
        seen = (reader.last_log_id, reader.purged_log_id, reader.hard_state, reader.read(reader.first_index))
    with rl.start_writer(log), rl.open_log(log, autostart=False) as handle:
        found = Found(purged=handle.purged_log_id, last=handle.last_log_id, hard=handle.hard_state)
        entries = handle.read(handle.first_index)
        if seen != (found.last, found.purged, found.hard, entries):
            raise Violation("reader", f"without a writer {seen[:3]}, with one {found.last} {found.purged} {found.hard}")
    found.entries = {entry.index: (entry.term, bytes(entry.payload)) for entry in entries}
    if list(found.entries) != list(range(found.purged.index + 1, found.last.index + 1)):
        raise Violation("one version", "indexes have a hole")
    return found


def rounds_on(disk: RealDisk, rounds: int, seed: int, strategy: str) -> dict[str, Any]:
    """Cut after cut on one log; what was acknowledged must be there each time."""
    witness, lost = Witness(), list[int]()
    policy = rl.Immediate() if strategy == "disk_first" else rl.Batch(threshold=300, interval_ms=200)
    config = rl.LogConfig(strategy=strategy, flush_policy=policy, **SETTINGS)
    with disk.mounted() as log:
        with rl.start_writer(log, config):
            pass
        subprocess.run(["sync", "-f", disk.place], check=True)
    for number in range(rounds):
        with disk.mounted() as log:
            cut_while_appending(disk, log, witness, seed * 1000 + number, config)
        with disk.mounted() as log:
            lost.append(witness.judge(look(log)))
    return {"operations": witness.operations, "lost": lost, "last": witness.story.versions[-1].last.index}


def main() -> None:
    """Entry point of the process in the namespace."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("kind", choices=sorted(MAKE))
    parser.add_argument("folder")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--strategy", default="disk_first")
    options = parser.parse_args()
    disk = RealDisk(options.kind, options.folder)
    print(json.dumps(rounds_on(disk, options.rounds, options.seed, options.strategy)))


if __name__ == "__main__":
    main()
