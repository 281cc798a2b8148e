"""DOOR TO PROCESSES: start a writer, spread work, take part in fork, name what runs.

A writer is ``python -m raftlog_mp serve DIR --spawned``: a session of its own (Ctrl-C in the parent's
terminal does not reach it), cwd ``/``, no inherited descriptors, stderr in ``DIR/writer.log``.  It
gets its settings on stdin and reports on stdout, once, whether it serves; then it closes both.

A worker computes one function of many items: it belongs to its caller, and ends when the caller does.
"""

from __future__ import annotations

import contextlib
import math
import os
import pickle
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import msgpack

from . import errors
from . import format as fmt

Item = TypeVar("Item")
Result = TypeVar("Result")

MUCH_NICER = 15
_children: list[subprocess.Popen[bytes]] = []
_children_lock = threading.Lock()


def _interpreter() -> str:
    if not sys.executable:
        raise errors.WriterUnavailable(
            "this interpreter does not know its own path, so no writer can be started; "
            "run `raftlog-mp serve DIR` in another terminal"
        )
    return sys.executable


def _environment() -> dict[str, str]:
    """The caller's environment; a package that is imported from a source tree stays importable from cwd ``/``."""
    environment = dict(os.environ)
    home = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if os.path.basename(home) not in ("site-packages", "dist-packages"):
        parts = [home, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(parts))
    return environment


def start_writer(path: str, config: dict[str, Any] | None, *, linger: bool) -> tuple[subprocess.Popen[bytes], bytes]:
    """Start a writer process and wait for its report: ``(process, report bytes)``.

    The report is empty if the process died before it could say why.  There is no timeout of its own: a
    recovery may be long, and the kernel ends the wait when the process dies.
    """
    reap()
    log = os.open(os.path.join(path, fmt.WRITER_LOG_NAME), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(
            [_interpreter(), "-m", "raftlog_mp", "serve", path, "--spawned"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
            cwd="/", env=_environment(), start_new_session=True, close_fds=True,
        )  # fmt: skip
    finally:
        os.close(log)
    assert process.stdin is not None and process.stdout is not None
    with contextlib.suppress(OSError):
        process.stdin.write(msgpack.packb({"config": config, "linger": linger}))
        process.stdin.close()
    report = _read_report(process.stdout.fileno())
    process.stdout.close()
    with _children_lock:
        _children.append(process)
    return process, report


def _read_report(fd: int) -> bytes:
    """One msgpack map, or what there was at the end of the stream.

    Not "until the end": a fork in another thread may have duplicated the pipe and keep it open.
    """
    unpacker, data = msgpack.Unpacker(), b""
    while chunk := os.read(fd, 1 << 16):
        data += chunk
        unpacker.feed(chunk)
        try:
            unpacker.unpack()
            break
        except msgpack.OutOfData:
            continue
    return data


def reap() -> None:
    """Collect writers that this process started and that have ended, so that none stays a zombie."""
    with _children_lock:
        _children[:] = [child for child in _children if child.poll() is None]


def wait_child(process: subprocess.Popen[bytes], timeout: float | None) -> bool:
    """Whether a started writer ended within ``timeout`` seconds (None: for ever)."""
    try:
        process.wait(timeout)
    except subprocess.TimeoutExpired:
        return False
    return True


class Watch:
    """Another process, watched by a descriptor: no other process can be mistaken for it."""

    def __init__(self, pid: int) -> None:
        try:
            self._fd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._fd = -1

    def wait(self, timeout: float) -> bool:
        """Whether it ended within ``timeout`` seconds (infinity: for ever)."""
        if self._fd < 0:
            return True
        poll = select.poll()  # select() would refuse a descriptor above 1023
        poll.register(self._fd, select.POLLIN)
        return bool(poll.poll(None if timeout == math.inf else math.ceil(max(timeout, 0.0) * 1000)))

    def close(self) -> None:
        """Give the descriptor back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


# ---------------------------------------------------------------- work in other processes
class _Worker:
    """A fresh interpreter that computes one item at a time."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.process = subprocess.Popen(
            [_interpreter(), "-c", "from raftlog_mp.processes import work; work()"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd="/", env=_environment(), close_fds=True,
            process_group=0,  # Ctrl-C is for the caller, who ends its workers
        )  # fmt: skip
        assert self.process.stdin is not None and self.process.stdout is not None
        self._to, self.answers = self.process.stdin, self.process.stdout
        self.item: Any = None
        self._send(function)

    def _send(self, value: Any) -> None:
        with contextlib.suppress(OSError):  # it was killed: there will be no answer, and that is noticed
            pickle.dump(value, self._to)
            self._to.flush()

    def give(self, item: Any) -> None:
        """The next item."""
        self.item = item
        self._send(item)

    def take(self) -> tuple[bool, Any] | None:
        """Whether the function returned, and what it returned or raised; None if the process was killed."""
        try:
            answer: tuple[bool, Any] = pickle.load(self.answers)
        except (EOFError, OSError, pickle.UnpicklingError):
            return None
        return answer

    def end(self) -> None:
        """Kill it, and collect it."""
        self.process.kill()
        for pipe in (self._to, self.answers):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


def in_workers(function: Callable[[Item], Result], items: Iterable[Item], count: int) -> Generator[Result, None, None]:
    """``function(item)`` of each, computed in ``count`` processes, in the order in which they are done.

    ``function`` belongs to a module that can be imported; items and results are pickled.  What it raises is raised
    here.  The processes are fresh interpreters: a fork would copy locks that other threads hold, and what
    ``multiprocessing`` has instead runs the caller's script again.  They end with the iterator, also on Ctrl-C, and by
    themselves if this process is killed.  What one of them had in hand when it was killed is computed here.
    """
    due = list(items)[::-1]
    busy: dict[int, _Worker] = {}
    workers: list[_Worker] = []
    answered = select.poll()
    try:
        with contextlib.suppress(OSError, errors.WriterUnavailable):  # as many as there can be
            while due and len(workers) < count:
                workers.append(_Worker(function))
                workers[-1].give(due.pop())
                busy[workers[-1].answers.fileno()] = workers[-1]
                answered.register(workers[-1].answers, select.POLLIN)
        while busy:
            for fd, _ in answered.poll():
                worker = busy[fd]
                item, answer = worker.item, worker.take()
                if answer is not None and due:
                    worker.give(due.pop())
                else:
                    del busy[fd]
                    answered.unregister(fd)
                if answer is None:
                    yield function(item)
                elif not answer[0]:
                    raise answer[1]
                else:
                    yield answer[1]
        yield from map(function, reversed(due))  # no process could be had, or every one was killed
    finally:
        for worker in workers:
            worker.end()


def work() -> None:
    """A worker's life: a function, then items until the caller closes its end."""
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    function = pickle.load(source)
    while True:
        try:
            item = pickle.load(source)
        except EOFError:
            return
        try:
            answer = (True, function(item))
        except Exception as error:
            answer = (False, error)
        pickle.dump(answer, sink)
        sink.flush()


# ---------------------------------------------------------------- a started writer's side
def read_instructions() -> dict[str, Any] | None:
    """What :func:`start_writer` wrote to this process's stdin; None if it was killed before it had written all."""
    try:
        value = msgpack.unpackb(sys.stdin.buffer.read())
    except ValueError:  # nothing, or a part
        return None
    return value if isinstance(value, dict) and value.keys() >= {"config", "linger"} else None


def report_and_detach(report: dict[str, Any]) -> None:
    """Tell the starter how it went, then let go of stdin and stdout."""
    with contextlib.suppress(OSError):
        os.write(1, msgpack.packb(report))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(2, 1)
    if null > 2:
        os.close(null)


def decode_report(report: bytes) -> dict[str, Any]:
    """The report of a started writer as a map; empty if it died silently."""
    try:
        value = msgpack.unpackb(report)
    except Exception:  # nothing, or half a report of a process that was killed
        return {}
    return value if isinstance(value, dict) else {}


def after_fork_in_child(callback: Callable[[], None]) -> None:
    """Run ``callback`` in every forked child, before anything else does."""
    os.register_at_fork(after_in_child=callback)


def on_signals(callback: Callable[[int, Any], None], *, interrupt: bool) -> None:
    """Ask for an orderly stop on SIGTERM, and on SIGINT too for a writer in the foreground."""
    signal.signal(signal.SIGTERM, callback)
    signal.signal(signal.SIGINT, callback if interrupt else signal.SIG_IGN)
    signal.signal(signal.SIGHUP, callback if interrupt else signal.SIG_IGN)


def set_switch_interval(seconds: float) -> None:
    """How long a thread may keep the GIL while another waits for it."""
    sys.setswitchinterval(seconds)


def yield_to_others() -> None:
    """From now on this thread, and on Linux it alone, runs only when nobody else wants its core much."""
    os.nice(MUCH_NICER)  # relative: to set a value below that of a process that is very nice already is not allowed


def forget_children() -> None:
    """In a forked child: the writers are the parent's children, and its lock may have been held."""
    global _children_lock
    _children_lock = threading.Lock()
    _children.clear()


def own_pid() -> int:
    """This process's id."""
    return os.getpid()
