"""The error tree: kinds, texts, pickling, and the way over the writer's socket."""

from __future__ import annotations

import errno
import pickle
import re
import threading

import pytest

import raftlog_mp
from raftlog_mp import errors
from raftlog_mp.errors import RaftLogError, from_wire, to_wire

CLASSES = [
    cls for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, RaftLogError) and not cls.__name__.startswith("_")
]  # fmt: skip
KINDS = {
    "ConfigError": ValueError, "EntryTooLarge": ValueError, "StaleTerm": ValueError, "IndexGap": ValueError,
    "CommittedEntry": ValueError, "Compacted": LookupError, "Truncated": LookupError, "LogTimeout": TimeoutError,
    "AppendTimeout": errors.LogTimeout, "WriterUnavailable": ConnectionError, "LogClosed": ValueError,
    "AccessDenied": PermissionError, "NotALog": OSError, "SyncFailed": OSError, "DiskFull": OSError,
}  # fmt: skip
every_class = pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)


def made(cls: type[RaftLogError]) -> RaftLogError:
    return cls("what, where, what next", **{name: number for number, name in enumerate(cls._fields, 7)})


def test_the_tree_is_the_documented_one() -> None:
    """The picture in the module's docstring names every class, with its standard kind."""
    assert errors.__doc__ is not None
    drawn = dict(re.findall(r"^[| `|-]*- (\w+) +(\w+)? ", errors.__doc__, re.MULTILINE))
    assert set(drawn) == {cls.__name__ for cls in CLASSES} - {"RaftLogError"}
    for name, kind in drawn.items():
        if kind and kind in KINDS.values().__class__.__name__ + "ValueError LookupError TimeoutError OSError":
            assert issubclass(getattr(errors, name), KINDS[name])


@every_class
def test_kind_and_export(cls: type[RaftLogError]) -> None:
    assert issubclass(cls, RaftLogError) and issubclass(cls, KINDS.get(cls.__name__, Exception))
    assert getattr(raftlog_mp, cls.__name__) is cls
    assert cls.__doc__


@every_class
def test_pickles_with_all_fields(cls: type[RaftLogError]) -> None:
    error = made(cls)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        back = pickle.loads(pickle.dumps(error, protocol))
        assert type(back) is cls and str(back) == str(error) == "what, where, what next"
        for name in set(cls._fields) - {"ticket"}:
            assert getattr(back, name) == getattr(error, name) is not None


@every_class
def test_crosses_the_socket_as_itself(cls: type[RaftLogError]) -> None:
    error = made(cls)
    back = from_wire(to_wire(error))
    assert type(back) is cls and str(back) == str(error)
    for name in set(cls._fields) - {"ticket"}:
        assert getattr(back, name) == getattr(error, name)


@every_class
def test_fields_that_were_not_given_are_none(cls: type[RaftLogError]) -> None:
    assert all(getattr(cls("x"), name) is None for name in cls._fields)


def test_disk_errors_carry_errno_everywhere() -> None:
    assert errors.DiskFull("x").errno == errno.ENOSPC and errors.SyncFailed("x").errno == errno.EIO
    error = errors.SyncFailed("x", errno=errno.EROFS)
    assert error.errno == errno.EROFS
    assert pickle.loads(pickle.dumps(error)).errno == from_wire(to_wire(error)).errno == errno.EROFS


@pytest.mark.parametrize("value", [lambda: 7, threading.Lock(), (number for number in ()), type("Local", (), {})()])
def test_a_refused_value_that_does_not_pickle_crosses_as_its_text(value: object) -> None:
    """A caller gave it, so it may be anything; the error of a worker process must reach its parent all the same."""
    error = errors.ConfigError("what, where, what next", field="linger_s", value=value, allowed="a number")
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.field, back.value, back.allowed) == (str(error), "linger_s", repr(value), "a number")
    assert error.value is value


@pytest.mark.parametrize("value", [5, "text", None, [1, {"a": 2.5}], float("inf")])
def test_a_refused_value_that_pickles_stays_itself(value: object) -> None:
    assert pickle.loads(pickle.dumps(errors.ConfigError("x", value=value))).value == value


def test_a_ticket_stays_in_its_process() -> None:
    error = errors.AppendTimeout("x", ticket=object())
    assert pickle.loads(pickle.dumps(error)).ticket is None


def test_hostile_wire_data_becomes_a_plain_error() -> None:
    for data in ({}, {"error": "SystemExit"}, {"error": 3, "message": 4, "fields": {"args": 1, "x": 2}}):
        assert type(from_wire(data)) is RaftLogError
    back = from_wire({"error": "LogLocked", "message": "m", "fields": {"pid": 1, "__class__": 2}})
    assert back.pid == 1 and type(back) is errors.LogLocked
