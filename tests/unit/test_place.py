"""Where a log may stand: what is there already, who may use it, and what each refusal tells the user."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp import errors, place
from raftlog_mp import format as fmt
from raftlog_mp.files import Files


class Refusing(Files):
    """A disk door whose named methods raise; root is refused nothing by a real one."""

    def __init__(self, **raised: OSError) -> None:
        for name, error in raised.items():
            setattr(self, name, self._raiser(error))

    @staticmethod
    def _raiser(error: OSError) -> Callable[..., Any]:
        def refuse(*_: Any, **__: Any) -> Any:
            raise error

        return refuse


DENIED = PermissionError(errno.EACCES, "Permission denied")


# ---------------------------------------------------------------- is there a log
def test_a_manifest_makes_a_log(tmp_path: Path) -> None:
    (tmp_path / fmt.MANIFEST_NAME).touch()
    (tmp_path / "anything else").touch()
    for create in (True, False):
        assert place.check_place(Files(), str(tmp_path), create=create) is True


def test_nothing_there_may_become_a_log(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing" / "below")
    assert place.check_place(Files(), missing, create=True) is False
    assert not (tmp_path / "missing").exists()  # looking creates nothing
    with pytest.raises(errors.NotALog, match="there is no log at") as caught:
        place.check_place(Files(), missing, create=False)
    assert missing in str(caught.value) and "open_log()" in str(caught.value)


def test_an_empty_directory_may_become_a_log(tmp_path: Path) -> None:
    assert place.check_place(Files(), str(tmp_path), create=True) is False
    with pytest.raises(errors.NotALog, match="holds no log"):
        place.check_place(Files(), str(tmp_path), create=False)


def test_a_creation_that_a_crash_interrupted_may_be_finished(tmp_path: Path) -> None:
    names = (
        fmt.LOCK_NAME, fmt.START_NAME, fmt.HARD_STATE_NAME, fmt.WRITER_LOG_NAME, fmt.SOCKET_NAME,
        fmt.MANIFEST_NAME + fmt.TEMPORARY_SUFFIX, fmt.HARD_STATE_NAME + fmt.TEMPORARY_SUFFIX,
    )  # fmt: skip
    for name in names:
        (tmp_path / name).touch()
    (tmp_path / fmt.SHM_NAME).mkdir()
    assert place.check_place(Files(), str(tmp_path), create=True) is False


@pytest.mark.parametrize("foreign", ["notes.txt", ".git", "manifest.old"])
def test_a_directory_of_somebody_else_is_left_alone(tmp_path: Path, foreign: str) -> None:
    (tmp_path / foreign).touch()
    with pytest.raises(errors.NotALog, match="or an empty one to create it"):
        place.check_place(Files(), str(tmp_path), create=True)


def test_segments_without_a_manifest_are_damage_not_a_new_log(tmp_path: Path) -> None:
    (tmp_path / fmt.segment_name(1)).touch()
    for create in (True, False):
        with pytest.raises(errors.CorruptLog, match="is missing although") as caught:
            place.check_place(Files(), str(tmp_path), create=create)
        assert caught.value.segment == fmt.MANIFEST_NAME


def test_a_file_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for create in (True, False):
        with pytest.raises(errors.NotALog, match="is a file, not the directory"):
            place.check_place(Files(), str(tmp_path / "file"), create=create)
        with pytest.raises(errors.NotALog, match="a part of"):
            place.check_place(Files(), str(tmp_path / "file" / "below"), create=create)


def test_a_directory_that_appears_while_we_look_is_no_file(tmp_path: Path) -> None:
    """Between the two looks somebody creates it."""

    class Late(Files):
        looks = 0

        def is_dir(self, path: str) -> bool:
            self.looks += 1
            return self.looks > 1

    assert place.check_place(Late(), str(tmp_path), create=True) is False


def test_a_directory_that_may_not_be_read_names_the_user(tmp_path: Path) -> None:
    for name in ("is_dir", "exists", "list_dir"):
        with pytest.raises(errors.AccessDenied, match=f"cannot be read by user {os.geteuid()}"):
            place.check_place(Refusing(**{name: DENIED}), str(tmp_path), create=True)


# ---------------------------------------------------------------- making it
def test_the_directory_is_private_and_its_parents_are_made(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "log"
    place.prepare_directory(Files(), str(target))
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    place.prepare_directory(Files(), str(target))  # there already: fine


@pytest.mark.parametrize(("error", "kind", "text"), [
    (DENIED, errors.AccessDenied, "cannot be created by user"),
    (NotADirectoryError(errno.ENOTDIR, "Not a directory"), errors.NotALog, "a part of"),
    (OSError(errno.ENOSPC, "No space left on device"), errors.DiskFull, "no space to create"),
    (OSError(errno.EDQUOT, "Disk quota exceeded"), errors.DiskFull, "no space to create"),
    (OSError(errno.ENAMETOOLONG, "File name too long"), errors.NotALog, "File name too long"),
], ids=lambda value: getattr(value, "strerror", None) or getattr(value, "__name__", None))  # fmt: skip
def test_why_it_cannot_be_made(tmp_path: Path, error: OSError, kind: type[errors.RaftLogError], text: str) -> None:
    target = str(tmp_path / "log")
    with pytest.raises(kind, match=text) as caught:
        place.prepare_directory(Refusing(make_dir=error), target)
    assert target in str(caught.value)
    if kind is errors.DiskFull:
        assert caught.value.errno == error.errno  # type: ignore[attr-defined]


def test_real_obstacles(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(errors.NotALog):
        place.prepare_directory(Files(), str(tmp_path / "file"))
    with pytest.raises(errors.NotALog):
        place.prepare_directory(Files(), str(tmp_path / "file" / "below"))
    with pytest.raises(errors.NotALog, match="too long"):
        place.prepare_directory(Files(), str(tmp_path / ("x" * 300)))


def test_a_directory_that_may_not_be_written(tmp_path: Path) -> None:
    class ReadOnly(Files):
        def writable_dir(self, path: str) -> bool:
            return False

    with pytest.raises(errors.AccessDenied, match="give a directory of your own"):
        place.prepare_directory(ReadOnly(), str(tmp_path))


# ---------------------------------------------------------------- whose it is
def test_ones_own_log_and_one_that_is_not_there_yet(tmp_path: Path) -> None:
    place.check_owner(Files(), str(tmp_path))
    place.check_owner(Files(), str(tmp_path / "missing"))


def test_no_writer_in_another_users_log(tmp_path: Path) -> None:
    """Not even for root."""

    class Theirs(Files):
        def owner(self, path: str) -> int | None:
            return os.geteuid() + 4711

    with pytest.raises(errors.AccessDenied) as caught:
        place.check_owner(Theirs(), str(tmp_path))
    for word in (str(os.geteuid() + 4711), f"user {os.geteuid()} ", f"raftlog-mp serve {tmp_path}"):
        assert word in str(caught.value)
