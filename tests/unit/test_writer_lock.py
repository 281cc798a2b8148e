"""One writer at a time: the lock, who holds it, and how long; and the start of the role."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.faulty_files import FaultyFiles

from raftlog_mp import backup, check, errors, layout, lifecycle, link, lock, processes, repair, shm, wakeup, writer
from raftlog_mp import format as fmt
from raftlog_mp.config import MIB
from raftlog_mp.files import Files
from raftlog_mp.findings import Plan

from .callers import Caller, close
from .journals import append, entries_of, kill, open_log, small_config, stop

FILES = Files()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """Nobody waits between two attempts; the pauses are counted."""
    pauses: list[float] = []
    monkeypatch.setattr(wakeup, "pause", pauses.append)
    yield pauses


def lock_path(directory: Path | str) -> str:
    return os.path.join(directory, fmt.LOCK_NAME)


# ---------------------------------------------------------------- the lock
def test_the_holder_is_named(tmp_path: Path) -> None:
    fd = lock.take_lock(FILES, str(tmp_path))
    assert FILES.lock_held(lock_path(tmp_path))
    with pytest.raises(errors.LogLocked) as caught:
        lock.take_lock(FILES, str(tmp_path))
    assert caught.value.pid == os.getpid()
    assert str(os.getpid()) in str(caught.value) and str(tmp_path) in str(caught.value)
    os.close(fd)
    assert not FILES.lock_held(lock_path(tmp_path))


def test_the_lock_goes_with_the_descriptor_and_the_file_stays(tmp_path: Path) -> None:
    for _ in range(3):
        os.close(lock.take_lock(FILES, str(tmp_path)))
    assert Path(lock_path(tmp_path)).read_bytes() == f"{os.getpid()}\n".encode().ljust(32, b"\0")
    assert os.stat(lock_path(tmp_path)).st_mode & 0o777 == 0o600


def test_a_refused_start_leaves_no_descriptor_and_the_holders_name(tmp_path: Path) -> None:
    fd = lock.take_lock(FILES, str(tmp_path))
    before, content = os.listdir("/proc/self/fd"), Path(lock_path(tmp_path)).read_bytes()
    with pytest.raises(errors.LogLocked):
        lock.take_lock(FILES, str(tmp_path))
    assert os.listdir("/proc/self/fd") == before and Path(lock_path(tmp_path)).read_bytes() == content
    os.close(fd)


@pytest.mark.parametrize(
    ("content", "pid"),
    [(b"", None), (b"4711", 4711), (b"4711\n" + bytes(27), 4711), (b"rubbish\n", None), (b"\xff\xfe", None),
     (b"-5\n", None)],
)  # fmt: skip
def test_whatever_stands_in_the_lock_file(tmp_path: Path, content: bytes, pid: int | None) -> None:
    """A holder may have died, or not have written its name yet."""
    Path(lock_path(tmp_path)).write_bytes(content)
    with open(lock_path(tmp_path), "rb") as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with pytest.raises(errors.LogLocked) as caught:
            lock.take_lock(FILES, str(tmp_path))
    assert caught.value.pid == pid
    os.close(lock.take_lock(FILES, str(tmp_path)))


def test_a_longer_name_of_a_dead_holder_is_overwritten(tmp_path: Path) -> None:
    Path(lock_path(tmp_path)).write_bytes(b"9" * 32)
    os.close(lock.take_lock(FILES, str(tmp_path)))
    assert Path(lock_path(tmp_path)).read_bytes().rstrip(b"\0") == b"%d\n" % os.getpid()


def test_somebody_who_only_looks_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking whether the lock is held takes it for an instant; that must not turn a writer away."""
    Path(lock_path(tmp_path)).touch()
    looking = FILES.open(lock_path(tmp_path))
    fcntl.flock(looking, fcntl.LOCK_SH)
    monkeypatch.setattr(wakeup, "pause", lambda seconds: os.close(looking))
    os.close(lock.take_lock(FILES, str(tmp_path)))


def test_a_real_holder_is_not_waited_for_long(tmp_path: Path, impatient: list[float]) -> None:
    fd = lock.take_lock(FILES, str(tmp_path))
    assert impatient == []
    with pytest.raises(errors.LogLocked):
        lock.take_lock(FILES, str(tmp_path))
    assert 0 < sum(impatient) < 1.0
    os.close(fd)


def test_a_missing_lock_file_of_an_existing_log_is_corruption(log_dir: str) -> None:
    """Somebody removed it, and a writer may still hold the removed one: two would write."""
    journal, _ = open_log(log_dir)
    stop(journal)
    os.unlink(lock_path(log_dir))
    with pytest.raises(errors.CorruptLog) as caught:
        lock.take_lock(FILES, log_dir)
    assert lock_path(log_dir) in str(caught.value) and caught.value.segment == fmt.LOCK_NAME
    assert not os.path.exists(lock_path(log_dir)), "and it is not made anew"


def test_a_lock_file_that_may_not_be_written(tmp_path: Path) -> None:
    files = FaultyFiles()
    files.fail("create", errno.EACCES)
    with pytest.raises(errors.AccessDenied) as caught:
        lock.take_lock(files, str(tmp_path))
    assert lock_path(tmp_path) in str(caught.value) and str(os.geteuid()) in str(caught.value)


# ---------------------------------------------------------------- serve
class Process:
    """What :func:`serve` leaves to the end of its process: the locks, and the control blocks."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._locks: list[int] = []
        self._writers: list[writer.Writer] = []
        take = lock.take_lock

        def remember(files: Files, directory: str) -> int:
            self._locks.append(take(files, directory))
            return self._locks[-1]

        monkeypatch.setattr(writer, "take_lock", remember)

    def serve(self, directory: str, on_ready: Any, config: Any = None, *, interrupt: bool = False) -> Plan:
        def ready(served: writer.Writer) -> None:
            self._writers.append(served)
            on_ready(served)

        return writer.serve(directory, config, linger=False, interrupt=interrupt, on_ready=ready)

    def end(self) -> None:
        for served in self._writers:
            served.control.close()
        for fd in self._locks:
            os.close(fd)
        self._writers, self._locks = [], []


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> Process:
    return Process(monkeypatch)


@pytest.fixture
def signals(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, bool]]:
    """Signal handlers that would have been set."""
    asked: list[tuple[Any, bool]] = []
    monkeypatch.setattr(processes, "on_signals", lambda stop, *, interrupt: asked.append((stop, interrupt)))
    return asked


def test_serve_is_ready_when_it_can_be_reached(
    log_dir: str, process: Process, signals: list[tuple[Any, bool]]
) -> None:
    """It makes the directory, holds the lock, listens, and says so; then it serves until it is stopped."""
    seen = []

    def on_ready(served: writer.Writer) -> None:
        caller = Caller(log_dir)
        seen.append((served.control.state.load(shm.SEQ_CST), FILES.lock_held(lock_path(log_dir))))
        close(caller)
        assert [stop for stop, _ in signals] == [served.stop], "a signal stops it"
        served.stop()

    plan = process.serve(log_dir, on_ready, small_config(ring_bytes=2 * MIB), interrupt=True)
    assert seen == [(layout.STATE_RUNNING, True)] and signals[0][1] is True
    assert plan.last_index == 0 and os.stat(log_dir).st_mode & 0o777 == 0o700
    assert FILES.lock_held(lock_path(log_dir)), "until the process is gone: nobody takes over from a living one"
    process.end()
    assert not FILES.lock_held(lock_path(log_dir))
    journal, _ = open_log(log_dir)
    assert journal.config.ring_bytes == 2 * MIB
    stop(journal)


def test_serve_tells_what_recovery_found(log_dir: str, process: Process, signals: list[Any]) -> None:
    process.serve(log_dir, lambda served: served.stop(), small_config())
    process.end()
    journal, _ = open_log(log_dir)
    append(journal, b"1", b"2")
    stop(journal)
    assert process.serve(log_dir, lambda served: served.stop()).last_index == 2
    process.end()
    assert entries_of(log_dir) == {1: (1, b"1"), 2: (1, b"2")}


@pytest.mark.usefixtures("signals")
def test_serve_gives_the_lock_back_when_it_cannot_serve(log_dir: str, process: Process) -> None:
    process.serve(log_dir, lambda served: served.stop(), small_config())
    process.end()
    os.unlink(os.path.join(log_dir, fmt.HARD_STATE_NAME))
    with pytest.raises(errors.CorruptLog):
        process.serve(log_dir, lambda served: pytest.fail("it must not serve"))
    assert not FILES.lock_held(lock_path(log_dir))


@pytest.mark.usefixtures("signals")
def test_serve_refuses_a_place_that_is_no_log_and_makes_nothing(tmp_path: Path, process: Process) -> None:
    (tmp_path / "thesis.txt").write_bytes(b"mine")
    with pytest.raises(errors.NotALog):
        process.serve(str(tmp_path), lambda served: pytest.fail("it must not serve"))
    assert os.listdir(tmp_path) == ["thesis.txt"]


@pytest.mark.usefixtures("signals")
def test_a_second_writer_is_refused_before_it_touches_anything(log_dir: str, process: Process) -> None:
    def on_ready(served: writer.Writer) -> None:
        before = sorted(os.listdir(served.journal.folder))
        with pytest.raises(errors.LogLocked) as caught:
            process.serve(log_dir, lambda other: pytest.fail("two writers"))
        assert caught.value.pid == os.getpid()
        assert sorted(os.listdir(served.journal.folder)) == before
        close(Caller(log_dir))  # the socket is still the first one's
        served.stop()

    process.serve(log_dir, on_ready, small_config())
    process.end()


# ---------------------------------------------------------------- a lock file that is none
class Unreadable(Files):
    """The device cannot read the lock file."""

    def open(self, path: str, *, write: bool = False, create: bool = False, exclusive: bool = False) -> int:
        if path.endswith("/" + fmt.LOCK_NAME):
            raise OSError(errno.EIO, os.strerror(errno.EIO), path)
        return super().open(path, write=write, create=create, exclusive=exclusive)


def odd_locks(directory: str) -> Iterator[tuple[str, Files, Callable[[], None]]]:
    """Word of the reason, door, and what puts it there."""
    yield "not a regular file", FILES, lambda: os.mkdir(lock_path(directory))
    yield "not a regular file", FILES, lambda: os.mkfifo(lock_path(directory))
    yield "Input/output error", Unreadable(), lambda: Path(lock_path(directory)).touch()


def test_a_lock_that_cannot_be_used_is_told_at_every_door(log_dir: str, monkeypatch: pytest.MonkeyPatch) -> None:
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"1")
    kill(journal)
    os.unlink(lock_path(log_dir))
    for word, files, put in odd_locks(log_dir):
        put()
        for module in (lifecycle, backup, repair, check):
            monkeypatch.setattr(module, "Files", lambda files=files: files)
        opened: list[Callable[[], object]] = [
            lambda: lifecycle.stop_writer(log_dir),
            lambda: backup.backup(log_dir, log_dir + ".copy"),
            lambda: repair.plan(log_dir),
            lambda: link.Link(log_dir, "client", files=files, autostart=True).ensure(wakeup.now() + 5),  # noqa: B023
        ]
        for door in opened:
            with pytest.raises(errors.CorruptLog, match=f"LOCK cannot be used.*{word}.*move it away") as caught:
                door()
            assert str(caught.value).startswith(lock_path(log_dir))
            assert caught.value.segment == fmt.LOCK_NAME
        found = [one for one in check.check_log(log_dir).problems if one.file == fmt.LOCK_NAME]
        assert [one.severity for one in found] == ["damage"] and word in found[0].sentence, found
        with pytest.raises(errors.CorruptLog, match="LOCK cannot be used"):
            lock.take_lock(files, log_dir)
        (os.rmdir if os.path.isdir(lock_path(log_dir)) else os.unlink)(lock_path(log_dir))
        monkeypatch.undo()
    assert [step.kind for step in repair.apply(repair.plan(log_dir))][-1] == "make lock"
    os.close(lock.take_lock(FILES, log_dir))


def test_a_lock_of_somebody_who_cannot_be_named(tmp_path: Path) -> None:
    """The device cannot read who holds it; it is held all the same."""
    fd, files = lock.take_lock(FILES, str(tmp_path)), FaultyFiles()
    files.fail("pread", errno.EIO, path=fmt.LOCK_NAME)
    with pytest.raises(errors.LogLocked) as caught:
        lock.take_lock(files, str(tmp_path))
    assert caught.value.pid is None
    os.close(fd)


@pytest.mark.parametrize(
    ("code", "kind"),
    [(errno.EIO, errors.CorruptLog), (errno.EROFS, errors.AccessDenied), (errno.ENOSPC, errors.DiskFull),
     (errno.EMFILE, OSError)],
)  # fmt: skip
def test_a_lock_that_cannot_be_written(tmp_path: Path, code: int, kind: type[Exception]) -> None:
    files, before = FaultyFiles(), os.listdir("/proc/self/fd")
    files.fail("pwrite", code, path=fmt.LOCK_NAME)
    with pytest.raises(kind) as caught:
        lock.take_lock(files, str(tmp_path))
    assert isinstance(caught.value, errors.RaftLogError) == (kind is not OSError)
    assert os.listdir("/proc/self/fd") == before
