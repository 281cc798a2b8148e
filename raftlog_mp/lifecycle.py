"""The writer's life from outside: :func:`start_writer` and :func:`stop_writer`."""

from __future__ import annotations

import contextlib
from typing import Any, Self

from . import errors, place, processes, shm, wakeup
from . import format as fmt
from .config import LogConfig, check_config, check_timeout
from .files import Files, PathLike, join, real_path
from .link import Link
from .protocol import READER
from .wakeup import deadline_of

Timeout = float | None


class Writer:
    """A writer process that :func:`start_writer` started."""

    def __init__(self, directory: str, process: Any, pid: int) -> None:
        self.path, self.pid, self._process = directory, pid, process

    def stop(self, timeout: Timeout = 30.0) -> None:
        """Drain, flush, seal, exit.  Idempotent; connected clients do not restart it.

        :class:`LogTimeout` if it has not ended in ``timeout`` seconds (None: wait for ever); it goes on flushing.
        """
        seconds = check_timeout(timeout)
        if self._process.poll() is None:
            self._process.terminate()
            if not processes.wait_child(self._process, seconds):
                raise errors.LogTimeout(
                    f"the writer {self.pid} of {self.path} did not stop in {timeout} s; it goes on flushing"
                )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_writer(path: PathLike, config: LogConfig | None = None) -> Writer:
    """Start the dedicated writer process of the log at ``path``; returns when it serves.

    A log that is not there is created.  ``config=None`` adopts the stored settings.  Raises the writer's own reason
    if it cannot serve: :class:`LogLocked`, :class:`CorruptLog`, :class:`ConfigError`, :class:`DiskFull` ...
    It lives until stopped, whatever its clients do.
    """
    check_config(config)
    directory, files = real_path(path), Files()
    if not place.check_place(files, directory, create=True):
        place.prepare_directory(files, directory)
    place.check_owner(files, directory)
    process, raw = processes.start_writer(directory, config.as_dict() if config is not None else None, linger=False)
    report = processes.decode_report(raw)
    if "error" in report:
        processes.wait_child(process, 10.0)
        raise errors.from_wire(report)
    if not report:
        raise errors.WriterUnavailable(
            f"the writer of {directory} died while starting; see writer.log in that directory"
        )
    return Writer(directory, process, int(report["pid"]))


def stop_writer(path: PathLike, timeout: Timeout = 30.0) -> bool:
    """Stop the writer of the log at ``path``: drain, flush, seal.  False if none runs.  Returns when it has ended.

    :class:`LogTimeout` if that takes more than ``timeout`` seconds (None: wait for ever).
    """
    directory, files, deadline = real_path(path), Files(), deadline_of(check_timeout(timeout))
    place.check_place(files, directory, create=False)
    with contextlib.closing(Link(directory, READER, files=files)) as link:
        while not link.try_connect() or link.view is None:
            if not files.lock_held(join(directory, fmt.LOCK_NAME)):
                return False
            if wakeup.now() >= deadline:  # it is starting, or ending, and takes no one in
                raise errors.LogTimeout(f"the writer of {directory} did not answer in {timeout} s; try again")
            wakeup.pause(0.005)
        with contextlib.closing(processes.Watch(link.view.control.writer_pid.load(shm.ACQUIRE))) as watch:
            link.send(op="stop")
            if not watch.wait(deadline - wakeup.now()):
                raise errors.LogTimeout(f"the writer of {directory} did not stop in {timeout} s; it goes on flushing")
        return True
