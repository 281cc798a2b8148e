"""What a soak will do, and when: a pure function of its settings and its seed.

Seconds count from the start of the load.  The load goes through five phases::

    before   no pressure; what the log does here is what it must get back to
    rise     pressure grows
    high     pressure stands at its highest
    fall     pressure goes
    after    no pressure
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

# Phase -> the share of the whole run at which it ends.
ENDS = {"before": 0.25, "rise": 0.40, "high": 0.60, "fall": 0.70, "after": 1.0}
WARM_UP_SHARE = 0.06  # of the run: the beginning is no measure of anything
SETTLE_SHARE = 0.10  # of the run, after the pressure: what recovery may take
ACTIONS_FROM, ACTIONS_TO = 0.26, 0.74  # kills and stops stay out of the spans that are compared
LOW_SHARE, HIGH_SHARE = 0.40, 0.97  # of the memory limit, as injected
STOP_SECONDS = (0.2, 3.0)
STOP_SHARE = (0.03, 0.08)  # of the run


class Phase(NamedTuple):
    """A span of the run."""

    name: str
    start_s: float
    end_s: float


class Action(NamedTuple):
    """One kill or stop."""

    at_s: float
    kind: str  # "kill" (SIGKILL, then started again) or "stop" (SIGSTOP, later SIGCONT)
    target: str  # "writer", "producer-1", "reader-2" ...
    seconds: float  # how long a stop lasts; 0 for a kill


class ProducerSpec(NamedTuple):
    """How one producer loads the log."""

    name: str
    rate: float  # entries a second; 0: as many as the log takes
    start_s: float
    batch: int  # entries in a submission
    window: int  # submissions without an answer
    payload_bytes: int


@dataclass(frozen=True)
class Plan:
    """Everything that will happen."""

    seconds: float
    phases: tuple[Phase, ...]
    pressure: tuple[tuple[float, float], ...]  # (second, height): corners of a line; height 0 is none, 1 the highest
    slow: tuple[tuple[float, float], ...]  # the disk is slow in these spans
    fsync_ms: float  # what a slow sync takes longer
    actions: tuple[Action, ...]
    producers: tuple[ProducerSpec, ...]
    readers: int
    before: tuple[float, float]  # the spans whose throughput is compared
    after: tuple[float, float]

    def height_at(self, second: float) -> float:
        """How high the pressure stands, 0 .. 1."""
        corners = self.pressure
        if not corners or second <= corners[0][0]:
            return corners[0][1] if corners else 0.0
        for (t0, h0), (t1, h1) in zip(corners, corners[1:], strict=False):
            if second <= t1:
                return h0 + (h1 - h0) * (second - t0) / (t1 - t0) if t1 > t0 else h1
        return corners[-1][1]

    def fsync_ms_at(self, second: float) -> float:
        """What a sync takes longer."""
        return self.fsync_ms if any(start <= second < end for start, end in self.slow) else 0.0

    def phase_at(self, second: float) -> str:
        """Name of the phase."""
        return next((phase.name for phase in self.phases if second < phase.end_s), self.phases[-1].name)


def share_of(height: float) -> float:
    """The share of the memory limit that is injected as used."""
    return LOW_SHARE + (HIGH_SHARE - LOW_SHARE) * height


def phases_of(seconds: float) -> tuple[Phase, ...]:
    """The five phases."""
    found, start = [], 0.0
    for name, share in ENDS.items():
        found.append(Phase(name, start, seconds * share))
        start = seconds * share
    return tuple(found)


def actions_of(seconds: float, kills: int, stops: int, targets: list[str], seed: int) -> tuple[Action, ...]:
    """Kills and stops at seeded moments.  The first of each kind meets the writer: it is the one that matters most."""
    chance = random.Random(f"{seed}/actions")
    found = []
    for kind, count in (("kill", kills), ("stop", stops)):
        for number in range(count):
            at = seconds * chance.uniform(ACTIONS_FROM, ACTIONS_TO)
            target = chance.choice(targets) if number else "writer"
            length = min(max(seconds * chance.uniform(*STOP_SHARE), STOP_SECONDS[0]), STOP_SECONDS[1])
            found.append(Action(at, kind, target, length if kind == "stop" else 0.0))
    return tuple(sorted(found))


def make_plan(
    *, seconds: float, producers: int, readers: int, kills: int, stops: int, fsync_ms: float, rate: float,
    payload_bytes: int, seed: int,
) -> Plan:  # fmt: skip
    """The plan of an ordinary soak."""
    phases = phases_of(seconds)
    _, rise, high, fall, _ = phases
    names = [f"producer-{number}" for number in range(1, producers + 1)]
    targets = ["writer", *names, *(f"reader-{number}" for number in range(1, readers + 1))]
    batch, window = (4, 16) if rate else (16, 64)
    return Plan(
        seconds=seconds, phases=phases, slow=((rise.start_s, high.end_s),), fsync_ms=fsync_ms,
        pressure=((0.0, 0.0), (rise.start_s, 0.0), (rise.end_s, 1.0), (high.end_s, 1.0), (fall.end_s, 0.0)),
        actions=actions_of(seconds, kills, stops, targets, seed),
        producers=tuple(ProducerSpec(name, rate, 0.0, batch, window, payload_bytes) for name in names),
        readers=readers,
        before=(seconds * WARM_UP_SHARE, rise.start_s), after=(fall.end_s + seconds * SETTLE_SHARE, seconds),
    )  # fmt: skip
