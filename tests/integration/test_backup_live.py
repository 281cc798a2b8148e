"""Backups of a log that moves under them: real writers, real clients; the copy is the log at one moment."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.history import check
from support.processes import Actor, Child, kill9, no_writer_after, rows_of, wait_until
from support.timeline import Operation, State, Timeline, make_timeline, perform

import raftlog_mp as rl
from raftlog_mp.backup import backup, make_copy
from raftlog_mp.files import Files

SMALL = {"segment_bytes": 1 << 16, "ring_bytes": 1 << 20, "idle_mark_ms": 5}
STRATEGIES = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])


def settings(strategy: str, **more: object) -> rl.LogConfig:
    return rl.LogConfig(strategy=strategy, allow_any_filesystem=True, **(SMALL | more))


def state_of(directory: str) -> State:
    """The log, as a reader sees it."""
    with rl.open_reader(directory) as reader:
        return State(reader.purged_log_id, tuple(rows_of(reader.read(reader.first_index))))


def moments(line: Timeline, copied: State) -> list[int]:
    """The numbers of the states that the copy may be."""
    return [number for number, state in enumerate(line.states) if state == copied]


def goes_on(directory: str, copied: State) -> None:
    """A writer serves the copy, and it is the same log."""
    with rl.start_writer(directory), rl.open_log(directory) as log:
        assert log.last_log_id == copied.last_log_id
        assert log.append(b"after the restore", term=copied.last_log_id.term + 1) == copied.last_index + 1
        assert list(rows_of(log.read(log.first_index)))[:-1] == list(copied.rows)


# ---------------------------------------------------------------- the log moves at every step of the copy
class Meddling(Files):
    """Whenever the copy opens or reads a file of the log, the log moves on by one operation."""

    def __init__(self, log: rl.Log, directory: str, operations: Iterator[Operation]) -> None:
        self._log, self._directory, self._operations = log, directory, operations
        self.steps = 0

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if path.startswith(self._directory + "/"):
            for operation in self._operations:
                perform(self._log, operation)
                self.steps += 1
                break
        return super().open(path, write=write, create=create, exclusive=exclusive)


@STRATEGIES
def test_the_copy_is_one_of_the_states_that_it_saw(dev_shm: str, tmp_path: Path, strategy: str) -> None:
    """An operation before each file is opened: appends, rolls, truncations, replacements, purges and resets."""
    directory, line = dev_shm + "/log", make_timeline(31, 200)
    operations, done, moved = iter(line.operations), 0, 0
    with rl.start_writer(directory, settings(strategy)), rl.open_log(directory) as log:
        for number in range(6):
            for _, operation in zip(range(12), operations, strict=False):
                perform(log, operation)
                done += 1
            files = Meddling(log, directory, operations)
            target = f"{tmp_path}/copy-{number}"
            made = make_copy(files, directory, target, progress=None, verify=True)
            copied = state_of(target)
            found = moments(line, copied)
            assert any(done <= moment <= done + files.steps for moment in found), (done, files.steps, found)
            assert (made.first_index, made.last_index) == (copied.first_index, copied.last_index)
            done, moved = done + files.steps, moved + files.steps
        assert moved >= 50 and done <= len(line.operations)
    for name in os.listdir(directory):
        if os.path.isfile(f"{directory}/{name}"):
            os.unlink(f"{directory}/{name}")
    goes_on(target, copied)


def beside_a_writer_in_full_run(directory: str, folder: Path, strategy: str, seed: int, copies: int) -> None:
    """The command in a process of its own, while a client goes through its operations as fast as it can."""
    line, done = make_timeline(seed, 100 + 1500 * copies), 0
    operations = iter(line.operations)
    with rl.start_writer(directory, settings(strategy)), rl.open_log(directory) as log:
        for _, operation in zip(range(100), operations, strict=False):
            perform(log, operation)
            done += 1
        for number in range(copies):
            target, before = f"{folder}/copy-{number}", done
            with Child("-m", "raftlog_mp", "backup", directory, target, "--json") as child:
                for operation in operations:
                    perform(log, operation)
                    done += 1
                    if child.process.poll() is not None:
                        break
                made = json.loads(child.finish())
            copied = state_of(target)
            assert any(before <= moment <= done for moment in moments(line, copied)), (before, done)
            assert made["last_index"] == copied.last_index and made["verified"]
            assert done > before


@STRATEGIES
def test_beside_a_writer_in_full_run(dev_shm: str, tmp_path: Path, strategy: str) -> None:
    beside_a_writer_in_full_run(dev_shm + "/log", tmp_path, strategy, 47, 1)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@STRATEGIES
@pytest.mark.parametrize("seed", range(200, 205))
def test_beside_a_writer_in_full_run_again_and_again(log_dir: str, tmp_path: Path, strategy: str, seed: int) -> None:
    beside_a_writer_in_full_run(log_dir, tmp_path, strategy, seed, 10)


# ---------------------------------------------------------------- what was acknowledged is there
def test_what_only_the_ring_holds_is_in_the_copy(log_dir: str) -> None:
    """MemFirst, a flush policy that never flushes: visible, not durable, and copied all the same."""
    lazy = settings("mem_first", flush_policy=rl.Batch(10**6, 10**6), idle_mark_ms=60_000.0)
    with rl.start_writer(log_dir, lazy), rl.open_log(log_dir) as log:
        log.append_many([b"entry %d" % number for number in range(1, 101)])
        assert log.durable_index == 0
        assert backup(log_dir, log_dir + ".copy").last_index == 100
        assert log.durable_index == 0, "the writer was not asked for anything"
        assert state_of(log_dir + ".copy") == state_of(log_dir)


@STRATEGIES
def test_what_the_ring_has_passed_is_taken_from_the_file(log_dir: str, strategy: str) -> None:
    """The newest segment is larger than the ring; the manifest knows only where it began."""
    with rl.start_writer(log_dir, settings(strategy, segment_bytes=8 << 20)), rl.open_log(log_dir) as log:
        for number in range(40):
            log.append(b"%02d" % number + b"." * 60_000)
        made = backup(log_dir, log_dir + ".copy")
        assert made.last_index == 40 and made.segments == 1
        assert state_of(log_dir + ".copy") == state_of(log_dir)


@STRATEGIES
def test_after_the_writer_was_killed(log_dir: str, tmp_path: Path, strategy: str) -> None:
    """All that the clients were told is in the copy; the original recovers to the same."""
    with no_writer_after(log_dir):
        writer = rl.start_writer(log_dir, settings(strategy))
        with Actor("client", log_dir, tmp_path / "diary", "a", 5, 100_000) as actor:
            wait_until("some appends", lambda: actor.progress("acked") >= 150)
            os.kill(actor.pid, signal.SIGSTOP)  # or it would start the next writer
            kill9(writer.pid)
            writer._process.wait()
            submissions = actor.submissions()
            backup(log_dir, log_dir + ".copy")
            actor.kill()
    copied = state_of(log_dir + ".copy")
    assert sum(one.first_index is not None for one in submissions) >= 150
    assert check(copied.rows, submissions) == []
    assert copied == state_of(log_dir)
    goes_on(log_dir + ".copy", copied)


def test_a_consumer_resumes_in_a_restored_log(log_dir: str) -> None:
    """Another history, so another uuid: behind its checkpoint if the copy holds that, and else it is told, for ever."""
    with rl.start_writer(log_dir, settings("disk_first")), rl.open_log(log_dir) as log:
        log.append_many([b"1", b"2", b"3"], term=1)
        backup(log_dir, log_dir + ".copy")
        kept, lost, uuid = rl.LogId(1, 2), rl.LogId(1, log.append(b"4", term=1)), log.uuid
    os.rename(log_dir, log_dir + ".away")
    os.rename(log_dir + ".copy", log_dir)
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        assert log.uuid != uuid
        assert [entry.payload for entry in log.follow(after=kept, timeout=0)] == [b"3"]
        with pytest.raises(rl.Truncated):
            next(log.follow(after=lost, timeout=0))
        log.append_many([b"other"] * 5)
        with pytest.raises(rl.Truncated):
            next(log.follow(after=lost, timeout=0))
        restored = log.uuid
    with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
        assert log.uuid == restored, "once"


def test_restored_in_place_beside_the_memory_of_the_old_log(log_dir: str) -> None:
    """Only the files are put back, and ``shm/`` of the dead writer still stands there: it is not believed."""
    with no_writer_after(log_dir):
        writer = rl.start_writer(log_dir, settings("mem_first"))
        with rl.open_log(log_dir, autostart=False) as log:
            log.append_many([b"1", b"2"])
            backup(log_dir, log_dir + ".copy")
            log.append(b"3")
            kill9(writer.pid)
            writer._process.wait()
        for name in os.listdir(log_dir):
            if os.path.isfile(f"{log_dir}/{name}"):
                os.unlink(f"{log_dir}/{name}")
        for name in os.listdir(log_dir + ".copy"):
            os.rename(f"{log_dir}.copy/{name}", f"{log_dir}/{name}")
        assert [row.payload for row in state_of(log_dir).rows] == [b"1", b"2"]
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            assert [entry.payload for entry in log.read(1)] == [b"1", b"2"] and not log.stats().loss_possible


# ---------------------------------------------------------------- the process that makes it dies
def test_a_backup_that_is_killed_leaves_no_log(log_dir: str) -> None:
    with rl.start_writer(log_dir, settings("disk_first")), rl.open_log(log_dir) as log:
        log.append_many([b"x" * 500] * 1000)
        code = (
            "import sys\nfrom raftlog_mp.backup import backup\n"
            "def stop(done, total):\n    if done > total // 2:\n        print(done, flush=True), sys.stdin.read()\n"
            "backup(sys.argv[1], sys.argv[2], progress=stop)"
        )
        with Child("-c", code, log_dir, log_dir + ".copy", executable=sys.executable) as child:
            assert int(child.line()) > 0
            kill9(child.pid)
        assert any(name.endswith(".seg.tmp") for name in os.listdir(log_dir + ".copy"))
        with pytest.raises(rl.NotALog), contextlib.closing(rl.open_reader(log_dir + ".copy")):
            pass
        with pytest.raises(rl.ConfigError, match="not finished"):
            backup(log_dir, log_dir + ".copy")
        assert log.append(b"goes on") == 1001
