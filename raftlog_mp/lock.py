"""The log's lock: who holds it owns the log.  Told by the kernel, so it ends with its holder, however that ends."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator

from . import errors, wakeup
from . import format as fmt
from .files import SHORTAGES, Files, bad_lock, join

LOCK_TRIES = 20


def take_lock(files: Files, directory: str) -> int:
    """The log's lock, held as long as the descriptor is open.  :class:`LogLocked` names the holder.

    :class:`CorruptLog` if the file is missing from an existing log, or cannot be used.
    """
    path = join(directory, fmt.LOCK_NAME)
    if files.exists(join(directory, fmt.MANIFEST_NAME)) and not files.exists(path):
        raise fmt.corrupt(f"{path} is missing from an existing log", segment=fmt.LOCK_NAME)
    with _told(path):
        fd = files.open(path, write=True, create=True)
        try:
            _hold(files, fd, directory)
        except BaseException:
            files.close(fd)
            raise
    return fd


@contextlib.contextmanager
def _told(path: str) -> Iterator[None]:
    """Errors in the library's words."""
    try:
        yield
    except OSError as error:
        if error.errno in SHORTAGES:
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.DiskFull(f"no space for {path}: {error.strerror}", errno=error.errno) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            why = f"{path} cannot be written by user {wakeup.user_id()}: {error.strerror}"
            raise errors.AccessDenied(why) from error
        raise bad_lock(path, error) from error


def _hold(files: Files, fd: int, directory: str) -> None:
    tries = 0
    while not files.lock(fd):  # lock_held() of another process takes it for an instant: so try for a moment
        tries += 1
        if tries < LOCK_TRIES:
            wakeup.pause(0.005)
            continue
        holder = ""
        with contextlib.suppress(OSError):  # somebody holds it all the same
            holder = files.pread(fd, 32, 0).split(b"\n")[0].decode("ascii", "replace")
        pid = int(holder) if holder.isdigit() else None
        raise errors.LogLocked(
            f"{directory} is owned by the writer process {pid}; connect with open_log(), or stop it with "
            f"`raftlog-mp stop {directory}`", pid=pid,
        )  # fmt: skip
    files.pwrite(fd, f"{wakeup.process_id()}\n".encode().ljust(32, b"\0"), 0)
