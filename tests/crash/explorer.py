"""The explorer: from each prefix of a trace every kind of disk state that a crash could leave, each one examined.

``Choice`` says which undecided changes the device got; it can be written down, so one state can be made again::

    none | all | only N | but N | upto N | torn N (N reached the device in part) | mask M | coin S | shards S | kill ...
"""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from raftlog_mp.files import Files

from .disk import Disk, Keep, Op, State, digest, materialise
from .examine import examine
from .look import INVARIANTS, Found, Violation, judge
from .memory import Memory
from .scenarios import Life, Profile
from .story import Story

MASKS_BELOW = 5  # so few undecided changes are tried in every combination
NESTED_EVERY = 40  # one in so many states is also crashed in the middle of its recovery
EVERYTHING, NOTHING = "all", "none"


@dataclass
class Run:
    """A recorded life: from which state it began, its steps, and what they promise."""

    where: str  # profile, seed, and for a crash inside a recovery the crash before it
    strategy: str
    base: State
    trace: list[Op]
    story: Story
    memory: dict[int, Memory] = field(default_factory=dict)


@dataclass
class Report:
    """What was explored of one profile."""

    profile: str
    lives: int = 0
    prefixes: int = 0
    states: int = 0  # pairs of a prefix and a state
    distinct: int = 0  # states that differ from every other in at least one byte: each was recovered twice
    kills: int = 0
    nested: int = 0  # of the states, crashes inside a recovery
    checks: int = 0
    violations: list[tuple[str, Violation]] = field(default_factory=list)

    def add(self, other: Report) -> None:
        """Take the figures of another one in."""
        for name in ("lives", "prefixes", "states", "distinct", "kills", "nested", "checks", "violations"):
            setattr(self, name, getattr(self, name) + getattr(other, name))


# ---------------------------------------------------------------- choices
def choices(disk: Disk, coins: int, seed: int) -> Iterator[str]:
    """How the undecided changes of a disk may turn out: the corners, and ``coins`` of everything between."""
    numbers = disk.undecided()
    count = len(numbers)
    if not count:
        yield EVERYTHING
        return
    if count < MASKS_BELOW:
        yield from (f"mask {mask}" for mask in range(1 << count))
    else:
        yield from (NOTHING, EVERYTHING)
        for at in range(count):
            yield from (f"only {at}", f"but {at}", f"upto {at}")
        yield from (f"coin {seed + n}" for n in range(coins))
    large = [at for at, number in enumerate(numbers) if disk.sectors(number) > 1]
    if large:
        yield from (f"torn {at} {seed + n}" for at in large[-2:] for n in range(coins // 2 + 1))
        yield from (f"shards {seed + n}" for n in range(coins))


def keeper(choice: str, numbers: list[int]) -> Keep:
    """The choice as a function of a change's number and a sector in it."""
    kind, *values = choice.split()
    value = int(values[0]) if values else 0
    place = {number: at for at, number in enumerate(numbers)}

    def coin(*what: int) -> bool:
        return random.Random(hash((value, *what))).random() < 0.5  # the hash of numbers is the same in every process

    def torn(number: int, sector: int) -> bool:
        at = place[number]
        return at < value or (at == value and random.Random(hash((int(values[1]), sector))).random() < 0.5)

    rules: dict[str, Keep] = {
        NOTHING: lambda number, sector: False,
        EVERYTHING: lambda number, sector: True,
        "only": lambda number, sector: place[number] == value,
        "but": lambda number, sector: place[number] != value,
        "upto": lambda number, sector: place[number] <= value,
        "mask": lambda number, sector: bool(value >> place[number] & 1),
        "coin": lambda number, sector: coin(number),
        "shards": coin,
        "torn": torn,
    }
    if kind not in rules:
        raise ValueError(f"{choice!r} does not name a choice; there are {', '.join(rules)}")
    return rules[kind]


def killed_keeper(choice: str, doubtful: list[int]) -> Keep:
    """A kill leaves everything that was written, but for pages whose sync had failed."""
    kept = keeper(choice, doubtful)
    return lambda number, sector: number not in doubtful or kept(number, sector)


# ---------------------------------------------------------------- exploring
class Explorer:
    """Explores runs below one folder; ``report`` adds up what it sees."""

    def __init__(self, folder: str, report: Report, *, coins: int = 4, limit: int | None = None,
                 violations_max: int = 20, without: Collection[str] = (),
                 progress: Callable[[int], None] = lambda distinct: None) -> None:  # fmt: skip
        self.folder, self.report, self.coins, self.limit = folder, report, coins, limit
        self._without, self._progress, self._violations_max = without, progress, violations_max
        self._seen: dict[bytes, Found] = {}
        self._count = 0

    @property
    def full(self) -> bool:
        """Enough states, or more than enough violations."""
        return self.broken or (self.limit is not None and self.report.distinct >= self.limit)

    @property
    def broken(self) -> bool:
        return len(self.report.violations) >= self._violations_max

    def _place(self) -> str:
        self._count += 1
        return os.path.join(self.folder, f"state{self._count}")

    def explore(self, run: Run, *, nested: bool = True, every: int = 1, offset: int = 0) -> None:
        """Each prefix (or one in ``every``) of a run."""
        disk = Disk(run.base)
        for length in range(len(run.trace) + 1):
            if length:
                disk.apply(run.trace[length - 1])
            if self.full:
                return
            if length % every == offset % every:
                self.report.prefixes += 1
                self._explore_prefix(run, disk, length, nested=nested)

    def _explore_prefix(self, run: Run, disk: Disk, length: int, *, nested: bool) -> None:
        numbers, doubtful = disk.undecided(), disk.doubtful()
        for choice in choices(disk, self.coins, length * 31):
            state = disk.state(keeper(choice, numbers))
            if self._look(run, state, None, length, choice) and nested and self.report.distinct % NESTED_EVERY == 0:
                self._crash_inside_recovery(run, state, length, choice)
            if self.full:
                return
        if length in run.memory:
            for choice in (EVERYTHING, NOTHING) if doubtful else (EVERYTHING,):
                state = disk.state(killed_keeper(choice, doubtful))
                self._look(run, state, run.memory[length], length, f"kill {choice}")

    def _look(self, run: Run, state: State, memory: Memory | None, length: int, choice: str) -> bool:
        """Examine a state, unless an equal one was; judge it.  Whether it was new."""
        key = digest(state) + (memory.digest() if memory is not None else b"")
        new = key not in self._seen
        if new:
            self._seen[key] = examine(state, memory, self._place(), strategy=run.strategy)
        found, report, killed = self._seen[key], self.report, memory is not None
        report.states += 1
        report.distinct += new
        report.kills += killed
        report.checks += len(INVARIANTS) - len(self._without)
        limits = run.story.limits(length, killed=killed)
        for violation in judge(run.story, limits, found, killed=killed, without=self._without):
            report.violations.append((f"{run.where} prefix={length} choice={choice!r}", violation))
        if new:
            self._progress(report.distinct)
        return new

    def _crash_inside_recovery(self, run: Run, state: State, length: int, choice: str) -> None:
        where = f"{run.where} prefix={length} choice={choice!r}, then in its recovery"
        inner = record_recovery(self._place(), run, state, length, where)
        if inner is not None:
            before = self.report.states
            self.explore(inner, nested=False, every=3, offset=length)
            self.report.nested += self.report.states - before


# ---------------------------------------------------------------- recording
def record(folder: str, profile: Profile, seed: int) -> Run:
    """Live a life."""
    directory = os.path.join(folder, "life")
    life = Life(directory, profile.strategy, seed)
    try:
        life.live(profile)
    finally:
        life.files.bury()
        shutil.rmtree(directory, ignore_errors=True)
    return Run(f"profile={profile.name!r} seed={seed}", profile.strategy, {}, life.files.trace, life.story, life.memory)


def record_recovery(directory: str, run: Run, state: State, length: int, where: str) -> Run | None:
    """The recovery of a state after a power cut, as a run of its own; None if it does not come about."""
    story = run.story.following(run.story.limits(length, killed=False))
    materialise(state, directory)
    life = Life(directory, run.strategy, length, story, state, keep_memory=False)
    try:
        life.start()
        life.append()
        life.end(clean=False)
    except (Violation, OSError):
        return None  # found and told already, when the state itself was examined
    finally:
        life.files.bury()
        shutil.rmtree(directory, ignore_errors=True)
    return Run(where, run.strategy, state, life.files.trace, story)


def fast_folder() -> str:
    """A new folder, in memory if there is such a place."""
    shared = "/dev/shm"
    return tempfile.mkdtemp(prefix="raftlog-crash-", dir=shared if Files().writable_dir(shared) else None)
