"""A writer, a disk and clients on a virtual clock: what a flush policy does to latencies and to fsyncs."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from raftlog_mp.adaptive import Gathering
from raftlog_mp.config import Adaptive, FlushPolicy
from raftlog_mp.flush import seconds_until_flush

Speed = float | Callable[[float], float]  # a number, or one that depends on the time


def at(speed: Speed, now: float) -> float:
    return speed(now) if callable(speed) else speed


class Fixed:
    """Immediate and Batch, with the questions that are put to Gathering."""

    def __init__(self, policy: FlushPolicy) -> None:
        self._policy, self._count, self._oldest = policy, 0, 0.0

    def arrived(self, now: float, submissions: int) -> None:
        self._oldest = self._oldest if self._count else now
        self._count += submissions

    def seconds_until_flush(self, now: float) -> float:
        return seconds_until_flush(self._policy, self._count, now - self._oldest)

    def flushing(self, now: float) -> None:
        self._count = 0

    def flushed(self, now: float, missed: float) -> None:
        pass


class Source(Protocol):
    """Where submissions come from: each method returns when the next comes, or None."""

    def taken(self, due: float) -> float | None: ...
    def answered(self, now: float) -> float | None: ...


@dataclass
class OneAtATime:
    """A client that waits for its answer, and comes back after ``think_s`` and as long again on average."""

    random: random.Random
    think_s: Speed = 60e-6
    until_s: float = float("inf")

    def taken(self, due: float) -> float | None:
        return None

    def answered(self, now: float) -> float | None:
        think = at(self.think_s, now)
        return now + think + self.random.expovariate(1 / think) if now < self.until_s else None


@dataclass
class Stream:
    """Submissions that wait for nothing, at random moments."""

    random: random.Random
    rate: Speed  # a second

    def taken(self, due: float) -> float | None:
        return due + self.random.expovariate(at(self.rate, due))

    def answered(self, now: float) -> float | None:
        return None


@dataclass
class Bursts:
    """The same rate, but several at once: who sends them sleeps meanwhile, ``pause_s`` on average."""

    random: random.Random
    rate: float
    pause_s: float
    until_s: float = float("inf")

    def taken(self, due: float) -> float | None:
        if due >= self.until_s:
            return None
        more = self.random.random() * (1 + self.rate * self.pause_s) > 1
        return due if more else due + self.random.expovariate(1 / (self.pause_s + 1 / self.rate))

    def answered(self, now: float) -> float | None:
        return None


@dataclass
class Outcome:
    """Latencies by when the submission came, and when the fsyncs began."""

    latencies: list[tuple[float, float]] = field(default_factory=list)
    fsyncs: list[float] = field(default_factory=list)

    def of(self, begin: float = 0.0, end: float = float("inf")) -> Figures:
        """The figures of a part of the run."""
        taken = sorted(latency for due, latency in self.latencies if begin <= due < end)
        fsyncs = sum(begin <= began < end for began in self.fsyncs)
        count = len(taken)
        return Figures(count, taken[count // 2], taken[count * 99 // 100], sum(taken) / count, fsyncs / count)


@dataclass
class Figures:
    appends: int
    p50: float
    p99: float
    mean: float
    fsyncs_per_append: float


def run(
    policy: FlushPolicy, sources: list[Source], sync_s: Speed, until_s: float, *, seed: int = 1, jitter: float = 0.2
) -> Outcome:
    """DiskFirst: whoever comes during an fsync is taken after it, everybody in the group is answered with it."""
    decision = Gathering(policy.target_ms / 1000) if isinstance(policy, Adaptive) else Fixed(policy)
    disk, outcome, now = random.Random(seed), Outcome(), 0.0
    due: list[tuple[float, int, Source]] = []
    for number, source in enumerate(sources):
        heapq.heappush(due, (number * 1e-5, number, source))
    count, group = len(sources), list[tuple[float, Source]]()

    def come(when: float | None, source: Source) -> None:
        nonlocal count
        if when is not None:
            count += 1
            heapq.heappush(due, (when, count, source))

    while now < until_s and (group or due):
        before = len(group)
        while due and due[0][0] <= now:
            when, _, source = heapq.heappop(due)
            group.append((when, source))
            come(source.taken(when), source)
        if len(group) > before:
            decision.arrived(now, len(group) - before)
        if not group:
            now = due[0][0]
            continue
        wait = decision.seconds_until_flush(now)
        if wait > 0:
            now = min(now + wait + 1e-9, max(now, due[0][0]) if due else float("inf"))
            continue
        decision.flushing(now)
        outcome.fsyncs.append(now)
        now += at(sync_s, now) * disk.uniform(1 - jitter, 1 + jitter)
        decision.flushed(now, sum(when <= now for when, _, _ in due))
        for when, source in group:
            outcome.latencies.append((when, now - when))
            come(source.answered(now), source)
        group.clear()
    return outcome


def clients(count: int, seed: int = 1, think_s: Speed = 60e-6, until_s: float = float("inf")) -> list[Source]:
    """So many that append one at a time."""
    return [OneAtATime(random.Random(seed * 1000 + number), think_s, until_s) for number in range(count)]


def stream(rate: Speed, seed: int = 1) -> list[Source]:
    """One source of submissions that wait for nothing."""
    return [Stream(random.Random(seed), rate)]


def bursts(count: int, rate: float, pause_s: float) -> list[Source]:
    """So many sources that send bursts, with this rate together."""
    return [Bursts(random.Random(number), rate / count, pause_s) for number in range(count)]
