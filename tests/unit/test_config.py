"""Settings: every bad value names field, value and range; every good one survives the way into the log and back."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from raftlog_mp.config import (
    GIB,
    KIB,
    MIB,
    Adaptive,
    Batch,
    Immediate,
    LogConfig,
    PressureConfig,
    check_integer,
    check_timeout,
    parse_flush_policy,
)
from raftlog_mp.errors import ConfigError

NUMBERS: dict[str, tuple[float, float, bool]] = {  # field -> lowest, highest, whole numbers only
    "segment_bytes": (64 * KIB, 16 * GIB, True),
    "ring_bytes": (MIB, 16 * GIB, True),
    "lane_bytes": (64 * KIB, GIB, True),
    "linger_s": (0, 86_400, False),
    "idle_mark_ms": (1, 60_000, False),
    "scrub_bytes_per_s": (0, 16 * GIB, True),
}
BAD: list[tuple[type, dict[str, Any], str]] = [
    *[(LogConfig, {name: low - 1}, name) for name, (low, _, _) in NUMBERS.items()],
    *[(LogConfig, {name: high + 1}, name) for name, (_, high, _) in NUMBERS.items()],
    *[(LogConfig, {name: bad}, name) for name in NUMBERS for bad in ("8", None, True, float("nan"), [1])],
    *[(LogConfig, {name: 1e6 + 0.5}, name) for name, (_, _, whole) in NUMBERS.items() if whole],
    (LogConfig, {"strategy": "both"}, "strategy"),
    (LogConfig, {"strategy": 3}, "strategy"),
    (LogConfig, {"flush_policy": "sometimes"}, "flush_policy"),
    (LogConfig, {"flush_policy": 3}, "flush_policy"),
    (LogConfig, {"pressure": 0.8}, "pressure"),
    (LogConfig, {"verify_reads": 1}, "verify_reads"),
    (LogConfig, {"allow_any_filesystem": "yes"}, "allow_any_filesystem"),
    (LogConfig, {"shm_dir": 7}, "shm_dir"),
    (LogConfig, {"max_entry_bytes": 0}, "max_entry_bytes"),
    (LogConfig, {"max_entry_bytes": GIB}, "max_entry_bytes"),
    (LogConfig, {"max_buffered_bytes": 1}, "max_buffered_bytes"),
    (LogConfig, {"max_buffered_bytes": 128 * MIB}, "max_buffered_bytes"),
    (LogConfig, {"max_buffered_entries": 0}, "max_buffered_entries"),
    (Batch, {"threshold": 0}, "flush_policy.threshold"),
    (Batch, {"threshold": 1.5}, "flush_policy.threshold"),
    (Batch, {"interval_ms": -1}, "flush_policy.interval_ms"),
    (Batch, {"interval_ms": float("inf")}, "flush_policy.interval_ms"),
    (Adaptive, {"target_ms": 0}, "flush_policy.target_ms"),
    (PressureConfig, {"soft": 0}, "pressure.soft"),
    (PressureConfig, {"hard": 1.5}, "pressure.hard"),
    (PressureConfig, {"soft": 0.9, "hard": 0.9}, "pressure.hard"),
    (PressureConfig, {"sample_ms": 1}, "pressure.sample_ms"),
]


@pytest.mark.parametrize(("cls", "values", "field"), BAD, ids=lambda value: str(value)[:60])
def test_bad_value_names_field_value_and_range(cls: type, values: dict[str, Any], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**values)
    error, value = caught.value, values[field.split(".")[-1]]
    assert error.field == field and error.allowed
    assert error.value is value or error.value == value
    assert field in str(error) and repr(value) in str(error) and "give" in str(error)


@pytest.mark.parametrize("name", NUMBERS)
def test_both_ends_of_each_range_are_legal(name: str) -> None:
    for value in NUMBERS[name][:2]:
        assert getattr(LogConfig(**{name: value}), name) == value


def test_every_field_states_its_range_in_a_comment() -> None:
    """A reader of the class sees default, unit and range in one line."""
    source = Path(LogConfig.__init__.__globals__["__file__"]).read_text(encoding="utf-8")
    for field in dataclasses.fields(LogConfig):
        if field.name not in ("strategy", "flush_policy", "pressure"):
            line = next(line for line in source.splitlines() if line.startswith(f"    {field.name}: "))
            assert "#" in line, field.name


FULL = LogConfig(
    strategy="mem_first", flush_policy=Batch(7, 2.5), segment_bytes=MIB, ring_bytes=2 * MIB, lane_bytes=MIB,
    max_entry_bytes=1000, max_buffered_bytes=MIB, max_buffered_entries=9, pressure=PressureConfig(0.5, 0.6, 50),
    linger_s=1.5, idle_mark_ms=50, verify_reads=False, shm_dir="/dev/shm", allow_any_filesystem=True,
    scrub_bytes_per_s=0,
)  # fmt: skip


@pytest.mark.parametrize("config", [LogConfig(), FULL, LogConfig(flush_policy=Adaptive(0.5))])
def test_round_trip_through_plain_data(config: LogConfig) -> None:
    data = config.as_dict()
    assert LogConfig.from_dict(data) == config

    def plain(value: Any) -> bool:
        if isinstance(value, dict):
            return all(type(key) is str and plain(inner) for key, inner in value.items())
        return type(value) in (str, int, float, bool, type(None))

    assert plain(data)


def test_from_dict_refuses_what_it_does_not_know() -> None:
    with pytest.raises(ConfigError) as caught:
        LogConfig.from_dict({"segment_byte": 1})
    assert caught.value.field == "segment_byte" and "segment_bytes" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        LogConfig.from_dict({"pressure": {"softer": 0.1}})
    assert caught.value.field == "pressure" and "soft" in str(caught.value)


def test_from_toml(tmp_path: Path) -> None:
    path = tmp_path / "log.toml"
    text = 'strategy = "mem_first"\nflush_policy = "batch:10:2.5"\nring_bytes = 2097152\n[pressure]\nsoft = 0.5\n'
    path.write_text(text)
    expected = LogConfig(
        strategy="mem_first", flush_policy=Batch(10, 2.5), ring_bytes=2 * MIB, pressure=PressureConfig(0.5)
    )
    assert LogConfig.from_toml(path) == expected
    path.write_text("[raftlog_mp]\n" + text.replace("[pressure]", "[raftlog_mp.pressure]"))
    assert LogConfig.from_toml(str(path)) == expected
    for bad in ("strategy = ", "\xff"):
        path.write_bytes(bad.encode("latin-1"))
        with pytest.raises(ConfigError, match=str(path)):
            LogConfig.from_toml(path)


@pytest.mark.parametrize("text", ["raftlog_mp = 3", "[raftlog_mp]\npressure = 3", "flush_policy = 1"])
def test_from_toml_with_the_wrong_shape(tmp_path: Path, text: str) -> None:
    path = tmp_path / "log.toml"
    path.write_text(text)
    with pytest.raises(ConfigError):
        LogConfig.from_toml(path)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("immediate", Immediate()), (" Immediate ", Immediate()), ("batch", Batch()), ("batch:5", Batch(5)),
        ("batch:5:0.5", Batch(5, 0.5)), ("adaptive", Adaptive()), ("adaptive:2", Adaptive(2)),
    ],
)  # fmt: skip
def test_flush_policy_as_text(text: str, policy: Any) -> None:
    assert parse_flush_policy(text) == policy
    assert parse_flush_policy(str(policy)) == policy, "what it prints it reads"
    assert LogConfig(flush_policy=text).flush_policy == policy


@pytest.mark.parametrize(
    "text", ["", "batch:x", "batch:1:2:3", "immediate:1", "adaptive:", "batch:1.5", "batch:0", "batch:1:nan", ":"]
)
def test_bad_flush_policy_text(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_flush_policy(text)
    assert caught.value.field.startswith("flush_policy") and caught.value.allowed


def test_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        LogConfig().ring_bytes = 1  # type: ignore[misc]


def test_limits_in_force() -> None:
    config = LogConfig()
    assert config.entry_bytes_limit == MIB and config.buffered_bytes_limit == config.ring_bytes
    small = LogConfig(ring_bytes=MIB, lane_bytes=64 * KIB)
    assert small.entry_bytes_limit == small.batch_bytes_limit == 32 * KIB - 256
    assert FULL.entry_bytes_limit == 1000 and FULL.buffered_bytes_limit == MIB


# ---------------------------------------------------------------- arguments of calls
@pytest.mark.parametrize("timeout", [None, 0, 0.0, 1e-9, 30, 1_999_999.5])
def test_a_timeout_is_taken_as_it_is(timeout: float | None) -> None:
    assert check_timeout(timeout) is timeout


@pytest.mark.parametrize("timeout", [2_000_000, float("inf"), 1e300, 10**400], ids=lambda value: str(value)[:7])
def test_a_timeout_beyond_what_can_be_counted_waits_for_ever(timeout: float) -> None:
    assert check_timeout(timeout) is None


@pytest.mark.parametrize("timeout", [-1, -1e-9, float("nan"), float("-inf"), -(10**400)], ids=lambda at: str(at)[:7])
def test_a_timeout_is_never_negative(timeout: float) -> None:
    with pytest.raises(ConfigError, match="timeout=.* give seconds") as caught:
        check_timeout(timeout)
    assert caught.value.field == "timeout" and caught.value.value is timeout and caught.value.allowed


@pytest.mark.parametrize("timeout", ["1", b"1", True, False, [1], 1j, object()])
def test_a_timeout_is_a_number(timeout: Any) -> None:
    with pytest.raises(TypeError, match=f"timeout .* not {type(timeout).__name__}"):
        check_timeout(timeout)


def test_an_integer_is_no_bool_and_none_only_where_it_means_something() -> None:
    for value in (0, -1, 10**30):
        check_integer("start", value)
        check_integer("start", value, optional=True)
    check_integer("stop", None, optional=True)
    for value in (None, True, False, 1.0, "1"):
        with pytest.raises(TypeError, match=f"stop is an integer, not {type(value).__name__}"):
            check_integer("stop", value, optional=value is not None)
