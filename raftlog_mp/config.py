"""Settings: frozen, validated once, stored in the log; and the checks of what calls take beside them.

Every field says its unit in its name, and its default and range beside it.
"""

from __future__ import annotations

import dataclasses
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import ConfigError
from .types import PersistenceStrategy

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FOREVER_SECONDS = 2_000_000  # a timeout from here on (23 days) waits for ever; poll(2) cannot count further


def _check(field_name: str, value: Any, low: float, high: float, whole: bool = True) -> None:
    kinds = (int,) if whole else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or not low <= value <= high:
        allowed = f"{'an integer' if whole else 'a number'} from {low} to {high}"
        raise ConfigError(
            f"{field_name}={value!r} is not allowed: give {allowed}",
            field=field_name, value=value, allowed=allowed,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Immediate:
    """Flush at once; what arrives during an fsync shares the next one (natural group commit)."""

    def __str__(self) -> str:
        return "immediate"


@dataclass(frozen=True, slots=True)
class Batch:
    """Flush when ``threshold`` entries are unflushed **or** the oldest has waited ``interval_ms``."""

    threshold: int = 1024  # entries, 1 .. 10**9
    interval_ms: float = 100  # milliseconds, 0 .. 3_600_000

    def __post_init__(self) -> None:
        _check("flush_policy.threshold", self.threshold, 1, 10**9)
        _check("flush_policy.interval_ms", self.interval_ms, 0, 3_600_000, whole=False)

    def __str__(self) -> str:
        return f"batch:{self.threshold}:{self.interval_ms!r}"


@dataclass(frozen=True, slots=True)
class Adaptive:
    """Group size follows measured fsync time and arrival rate; there is no timer to tune.

    At low load each group is flushed at once, as with :class:`Immediate`.  At high load a group waits while others
    are likely to join it: clients that append one at a time all share each fsync, and a steady stream is gathered
    until the oldest entry's wait and the fsync after it add up to ``target_ms``.  The target is the latency (of an
    append with DiskFirst, until durable with MemFirst) that is accepted for fewer fsyncs, as far as the disk keeps
    up: where one fsync takes longer than the target, nothing waits.  See docs/adaptive.md.
    """

    target_ms: float = 5  # milliseconds, 0.1 .. 60_000

    def __post_init__(self) -> None:
        _check("flush_policy.target_ms", self.target_ms, 0.1, 60_000, whole=False)

    def __str__(self) -> str:
        return f"adaptive:{self.target_ms!r}"


FlushPolicy = Immediate | Batch | Adaptive


def parse_flush_policy(text: str) -> FlushPolicy:
    """``immediate``, ``batch:THRESHOLD:INTERVAL_MS`` or ``adaptive:TARGET_MS`` (numbers may be left out)."""
    name, *numbers = text.strip().lower().split(":")
    kinds: dict[str, Any] = {
        "immediate": (Immediate, ()),
        "batch": (Batch, (int, float)),
        "adaptive": (Adaptive, (float,)),
    }
    allowed = "immediate, batch:THRESHOLD:INTERVAL_MS or adaptive:TARGET_MS"
    try:
        cls, casts = kinds[name]
        if len(numbers) > len(casts):
            raise ValueError(text)
        arguments = [cast(number) for cast, number in zip(casts, numbers, strict=False)]
    except (KeyError, ValueError):
        message = f"flush_policy={text!r} is not allowed: give {allowed}"
        raise ConfigError(message, field="flush_policy", value=text, allowed=allowed) from None
    policy: FlushPolicy = cls(*arguments)
    return policy


@dataclass(frozen=True, slots=True)
class PressureConfig:
    """Memory thresholds, as fractions of the memory limit that applies."""

    soft: float = 0.80  # 0.05 .. 0.99
    hard: float = 0.90  # above soft, up to 1.0
    sample_ms: float = 200  # 10 .. 60_000
    hysteresis: float = 0.03  # a level is left so far below its threshold, 0 .. 0.5
    root: str = "/"  # where proc/ and sys/ are looked up: another folder, to rehearse with readings of one's own

    def __post_init__(self) -> None:
        _check("pressure.soft", self.soft, 0.05, 0.99, whole=False)
        _check("pressure.hard", self.hard, 0.05, 1.0, whole=False)
        _check("pressure.hysteresis", self.hysteresis, 0, 0.5, whole=False)
        _check("pressure.sample_ms", self.sample_ms, 10, 60_000, whole=False)
        if self.hard <= self.soft:
            message = f"pressure.hard={self.hard!r} is not allowed: give a number above pressure.soft={self.soft!r}"
            raise ConfigError(message, field="pressure.hard", value=self.hard, allowed=f"above {self.soft}")
        if not isinstance(self.root, str) or not self.root.startswith("/"):
            allowed = "the absolute path of a folder"
            message = f"pressure.root={self.root!r} is not allowed: give {allowed}"
            raise ConfigError(message, field="pressure.root", value=self.root, allowed=allowed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogConfig:
    """All settings of a log.  A bad value raises :class:`ConfigError` naming field, value and range."""

    strategy: PersistenceStrategy = PersistenceStrategy.DISK_FIRST
    flush_policy: FlushPolicy = field(default_factory=Immediate)
    segment_bytes: int = 64 * MIB  # size of a segment file, 64 KiB .. 16 GiB
    ring_bytes: int = 64 * MIB  # newest bytes of the stream in shared memory, 1 MiB .. 16 GiB
    lane_bytes: int = 4 * MIB  # each client's submission queue, 64 KiB .. 1 GiB
    max_entry_bytes: int | None = None  # None: the largest that fits ring, lane and segment, at most 1 MiB
    max_buffered_bytes: int | None = None  # unflushed bytes before appends wait; None: ring_bytes
    max_buffered_entries: int | None = None  # unflushed entries before appends wait; None: no limit of its own
    pressure: PressureConfig = field(default_factory=PressureConfig)
    linger_s: float = 10.0  # an autostarted writer exits this long after its last client left, 0 .. 86400
    idle_mark_ms: float = 200.0  # an idle writer leaves a durable mark after this time, 1 .. 60_000
    spin_us: float = 50.0  # looking before sleeping, where all who are at work have a core; 0 .. 10_000
    verify_reads: bool = True  # check CRCs of what is read from segment files
    scrub_bytes_per_s: int = MIB  # the writer re-reads sealed segments at this rate; 0: not at all; up to 16 GiB
    shm_dir: str | None = None  # folder for control, ring and active index; None: DIR/shm
    allow_any_filesystem: bool = False  # open on file systems outside the allow-list

    def __post_init__(self) -> None:
        set_field = object.__setattr__
        try:
            set_field(self, "strategy", PersistenceStrategy(self.strategy))
        except ValueError:
            allowed = "disk_first or mem_first"
            message = f"strategy={self.strategy!r} is not allowed: give {allowed}"
            raise ConfigError(message, field="strategy", value=self.strategy, allowed=allowed) from None
        if isinstance(self.flush_policy, str):
            set_field(self, "flush_policy", parse_flush_policy(self.flush_policy))
        self._check_kind("flush_policy", (Immediate, Batch, Adaptive))
        self._check_kind("pressure", (PressureConfig,))
        for name in ("verify_reads", "allow_any_filesystem"):
            self._check_kind(name, (bool,))
        if self.shm_dir is not None and not (isinstance(self.shm_dir, str) and self.shm_dir.startswith("/")):
            # Writer, clients and readers have different working directories.
            allowed = "an absolute path, or None"
            message = f"shm_dir={self.shm_dir!r} is not allowed: give {allowed}"
            raise ConfigError(message, field="shm_dir", value=self.shm_dir, allowed=allowed)
        _check("segment_bytes", self.segment_bytes, 64 * KIB, 16 * GIB)
        _check("ring_bytes", self.ring_bytes, 1 * MIB, 16 * GIB)
        _check("lane_bytes", self.lane_bytes, 64 * KIB, 1 * GIB)
        _check("linger_s", self.linger_s, 0, 86_400, whole=False)
        _check("idle_mark_ms", self.idle_mark_ms, 1, 60_000, whole=False)
        _check("spin_us", self.spin_us, 0, 10_000, whole=False)
        _check("scrub_bytes_per_s", self.scrub_bytes_per_s, 0, 16 * GIB)
        if self.max_entry_bytes is not None:
            _check("max_entry_bytes", self.max_entry_bytes, 1, self._batch_room)
        if self.max_buffered_bytes is not None:
            _check("max_buffered_bytes", self.max_buffered_bytes, self._batch_room, self.ring_bytes)
        if self.max_buffered_entries is not None:
            _check("max_buffered_entries", self.max_buffered_entries, 1, 10**12)

    def _check_kind(self, name: str, kinds: tuple[type, ...]) -> None:
        value = getattr(self, name)
        if not isinstance(value, kinds):
            allowed = " or ".join(kind.__name__ for kind in kinds)
            message = f"{name}={value!r} is not allowed: give {allowed}"
            raise ConfigError(message, field=name, value=value, allowed=allowed)

    @property
    def _batch_room(self) -> int:
        """Payload bytes that surely fit one batch: half a ring, half a lane, less the record header."""
        return min(self.ring_bytes // 2, self.lane_bytes // 2) - 256

    @property
    def batch_bytes_limit(self) -> int:
        """Bytes of the largest batch body (design: batch <= min(ring/2, lane/2))."""
        return self._batch_room

    @property
    def entry_bytes_limit(self) -> int:
        """Bytes of the largest entry in force."""
        return self.max_entry_bytes if self.max_entry_bytes is not None else min(MIB, self._batch_room)

    @property
    def buffered_bytes_limit(self) -> int:
        """Unflushed bytes the writer holds before appends wait."""
        return min(self.max_buffered_bytes or self.ring_bytes, self.ring_bytes)

    def as_dict(self) -> dict[str, Any]:
        """Plain data: strings and numbers only, accepted by :meth:`from_dict`."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["strategy"] = str(self.strategy.value)
        data["flush_policy"] = str(self.flush_policy)
        data["pressure"] = dataclasses.asdict(self.pressure)
        return data

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LogConfig:
        """The inverse of :meth:`as_dict`; unknown names raise :class:`ConfigError`."""
        values = dict(data)
        known = {f.name for f in dataclasses.fields(cls)}
        for name in values:
            if name not in known:
                allowed = ", ".join(sorted(known))
                message = f"{name!r} is no setting of a log: give one of {allowed}"
                raise ConfigError(message, field=name, value=values[name], allowed=allowed)
        pressure = values.get("pressure")
        if isinstance(pressure, dict):
            try:
                values["pressure"] = PressureConfig(**pressure)
            except TypeError:
                allowed = ", ".join(f.name for f in dataclasses.fields(PressureConfig))
                message = f"pressure={pressure!r} is not allowed: give a table with {allowed}"
                raise ConfigError(message, field="pressure", value=pressure, allowed=allowed) from None
        return cls(**values)

    @classmethod
    def from_toml(cls, path: str | Path) -> LogConfig:
        """Read settings from a TOML file: top-level keys, or a ``[raftlog_mp]`` table."""
        try:
            data = tomllib.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            message = f"{path} cannot be read: {error.strerror}"
            raise ConfigError(message, field="path", value=str(path), allowed="a TOML file") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            message = f"{path} is not valid TOML: {error}"
            raise ConfigError(message, field="path", value=str(path), allowed="a TOML file") from None
        table = data.get("raftlog_mp", data)
        if not isinstance(table, dict):
            allowed = "a table"
            raise ConfigError(f"raftlog_mp={table!r} in {path} is not allowed: give {allowed}",
                              field="raftlog_mp", value=table, allowed=allowed)  # fmt: skip
        return cls.from_dict(table)


# ---------------------------------------------------------------- arguments of calls
def check_timeout(timeout: Any) -> float | None:
    """The one rule for every ``timeout``: seconds from 0 (do not wait) on, or None (for ever).

    ``TypeError`` for what is no number, :class:`ConfigError` for NaN and for less than 0.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise TypeError(f"timeout is a number of seconds, or None to wait for ever, not {type(timeout).__name__}")
    if not timeout >= 0:  # NaN is not, either
        allowed = "seconds from 0 (do not wait) on, or None to wait for ever"
        message = f"timeout={timeout!r} is not allowed: give {allowed}"
        raise ConfigError(message, field="timeout", value=timeout, allowed=allowed)
    return timeout if timeout < FOREVER_SECONDS else None


def check_integer(name: str, value: Any, *, optional: bool = False) -> None:
    """``TypeError`` for what is no integer; True and False are none.  ``optional`` allows None."""
    if (isinstance(value, bool) or not isinstance(value, int)) and not (optional and value is None):
        raise TypeError(f"{name} is an integer, not {type(value).__name__}")


def check_config(config: Any) -> None:
    """``TypeError`` for settings that are neither None nor a :class:`LogConfig`."""
    if config is not None and not isinstance(config, LogConfig):
        advice = "; give LogConfig(**settings)" if isinstance(config, dict) else "; LogConfig.from_toml() reads a file"
        raise TypeError(f"config is a LogConfig or None, not {type(config).__name__}{advice}")
