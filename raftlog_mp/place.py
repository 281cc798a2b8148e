"""Where a log may stand: is there one, may there be one, may this user."""

from __future__ import annotations

import errno

from . import errors, manifest, wakeup
from . import format as fmt
from .files import Files

# What may stand in a directory before the manifest does: a creation that a crash interrupted.
_OWN_NAMES = {
    fmt.LOCK_NAME, fmt.START_NAME, fmt.HARD_STATE_NAME, fmt.WRITER_LOG_NAME, fmt.SOCKET_NAME, fmt.SHM_NAME,
    fmt.MANIFEST_NAME + fmt.TEMPORARY_SUFFIX, fmt.HARD_STATE_NAME + fmt.TEMPORARY_SUFFIX,
}  # fmt: skip


def check_place(files: Files, directory: str, *, create: bool) -> bool:
    """Whether there is a log at ``directory`` (False: a new one may be created).  Raises what speaks against it."""
    try:
        check_name(files, directory)
        if not files.is_dir(directory):
            if files.exists(directory) and not files.is_dir(directory):  # somebody may just have created it
                raise errors.NotALog(f"{directory} is a file, not the directory of a log; give a directory")
            if not create:
                raise manifest.missing(files, directory)
            return False
        if files.exists(manifest.manifest_path(directory)):
            return True
        foreign = [name for name in files.list_dir(directory) if name not in _OWN_NAMES]
        if not create or foreign:
            raise manifest.missing(files, directory)
    except NotADirectoryError:
        raise errors.NotALog(f"a part of {directory} is a file; give the directory of a log") from None
    except PermissionError:
        raise errors.AccessDenied(f"{directory} cannot be read by user {wakeup.user_id()}") from None
    return False


def check_name(files: Files, directory: str) -> None:
    """:class:`NotALog` for a path that no file system takes."""
    try:
        files.is_dir(directory)
    except (OSError, ValueError) as error:
        if isinstance(error, (PermissionError, NotADirectoryError)):
            raise
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise errors.NotALog(f"{directory[:80]!r} is no path for a log: {why}") from None


def prepare_directory(files: Files, directory: str) -> None:
    """Make the directory if it is missing; refuse one that this user may not write."""
    try:
        files.make_dir(directory)
    except PermissionError:
        raise errors.AccessDenied(f"{directory} cannot be created by user {wakeup.user_id()}") from None
    except NotADirectoryError:
        raise errors.NotALog(f"a part of {directory} is a file; give the directory of a log") from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.DiskFull(f"no space to create {directory}", errno=error.errno) from None
        raise errors.NotALog(f"{directory} cannot be created: {error.strerror}") from None
    if not files.writable_dir(directory):
        raise errors.AccessDenied(
            f"{directory} cannot be written by user {wakeup.user_id()}; give a directory of your own"
        )


def check_owner(files: Files, directory: str) -> None:
    """A writer is only started on one's own log: root's files in a user's log would lock the user out."""
    owner = files.owner(directory)
    if owner is not None and owner != wakeup.user_id():
        raise errors.AccessDenied(
            f"{directory} belongs to user {owner}; this process is user {wakeup.user_id()} and will not start a writer "
            f"there. Run as user {owner}, or let that user run `raftlog-mp serve {directory}`."
        )
