"""The figures of a run: by case, subject and round; their ratios; and whether the targets are reached."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from ... import config
from ...types import PersistenceStrategy
from .cases import BEST, CASES, GROUPS, RAW, Case, Target
from .limits import ENTRY_BYTES, LIMITS
from .stores import OURS, PEERS

MIB = 1 << 20
SMALL_DIVISOR = 100  # the small run's logs hold a hundredth of the entries
SMALL_CLIENTS = 4  # processes that it has at most


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float  # of one measurement
    small: bool
    full: bool = False
    groups: tuple[str, ...] = tuple(GROUPS)
    peers: tuple[str, ...] = ()  # those that are installed

    @property
    def cases(self) -> list[Case]:
        """What is measured, in order."""
        return [case for case in CASES if case.group in self.groups and (self.full or not case.full)]

    def peers_of(self, case: Case) -> list[str]:
        """The peers that stand beside a case."""
        if not case.peers:
            return []
        return [name for name in self.peers if case.peers == "all" or PEERS[name].shared]

    def entries(self, count: int) -> int:
        """How many entries a log of ``count`` really gets."""
        return max(count // SMALL_DIVISOR, 1) if self.small else count

    def clients(self, case: Case) -> int:
        """How many client processes take part."""
        return min(case.clients, SMALL_CLIENTS) if self.small else case.clients

    @property
    def steps(self) -> int:
        """Cases in all rounds, for the progress bar."""
        return self.rounds * len(self.cases)

    def config(self, strategy: str, **settings: Any) -> config.LogConfig:
        """Settings of the logs: the defaults, smaller files for the small run, MemFirst flushing in the background."""
        policy: config.FlushPolicy = config.Batch() if strategy == "mem_first" else config.Immediate()
        size = 16 * MIB if self.small else 64 * MIB
        values: dict[str, Any] = {"segment_bytes": size, "ring_bytes": size} | settings
        return config.LogConfig(strategy=PersistenceStrategy(strategy), flush_policy=policy, **values)


Rounds = dict[str, dict[str, list[float]]]  # case name -> subject -> a value a round


@dataclass(slots=True)
class Result:
    """Every round's figures.  Subjects are ``raw``, ``ours``, and the peers; ``lmdb bare`` where that is measured."""

    plan: Plan
    machine: dict[str, Any]
    figures: Rounds = field(default_factory=dict)
    fsyncs: Rounds = field(default_factory=dict)  # device flushes an append (or batch); "writer": ours' own count
    percentiles: dict[str, dict[str, list[list[float]]]] = field(default_factory=dict)  # us
    problems: list[str] = field(default_factory=list)
    verified_entries: int = 0  # counted
    verified_contents: int = 0  # compared byte by byte

    # ------------------------------------------------------------ what was measured
    def add(self, case: Case, subject: str, figure: float, percentiles: list[float] | None = None) -> None:
        """One round's figure."""
        self.figures.setdefault(case.name, {}).setdefault(subject, []).append(figure)
        if percentiles:
            self.percentiles.setdefault(case.name, {}).setdefault(subject, []).append(percentiles)

    def add_fsyncs(self, case: Case, subject: str, count: float) -> None:
        """One round's flushes an append."""
        self.fsyncs.setdefault(case.name, {}).setdefault(subject, []).append(count)

    def check(self, fine: bool, problem: str) -> None:
        """One comparison of contents."""
        self.verified_contents += 1
        if not fine:
            self.problems.append(problem)

    # ------------------------------------------------------------ what it means
    def rounds_of(self, case: Case, subject: str) -> list[float]:
        """A subject's figures in the case's unit; empty if it was not measured."""
        if subject == "smallest":
            first = next(c for c in self.plan.cases if c.name == case.name.rsplit("_", 1)[0] + "_10k")
            return self.rounds_of(first, OURS)
        figures = self.figures.get(case.name, {}).get(subject, [])
        if subject == RAW and case.limit == "smallest":
            return self.rounds_of(case, "smallest")
        return [limit_in(case, raw) for raw in figures] if subject == RAW else figures

    def median(self, case: Case, subject: str = OURS) -> float | None:
        """A subject's median over the rounds; None if it was not measured."""
        found = self.rounds_of(case, subject)
        return statistics.median(found) if found else None

    def ratios(self, case: Case, against: str = RAW) -> list[float]:
        """Ours over ``against``, round by round."""
        pairs = zip(self.rounds_of(case, OURS), self.rounds_of(case, against), strict=False)
        return [mine / other for mine, other in pairs if other]

    def best_peer(self, case: Case) -> str | None:
        """The fastest of the peers that do what ours does; None if there is none."""
        found = {
            name: value for name in self.plan.peers_of(case)
            if PEERS[name].equal and (value := self.median(case, name)) is not None
        }  # fmt: skip
        if not found:
            return None
        return max(found, key=found.__getitem__) if case.higher else min(found, key=found.__getitem__)

    def values(self, case: Case, target: Target) -> list[float]:
        """What a target is about, round by round; empty if the run cannot tell.

        Against anything but the case's own unit, more is better: latencies are turned over beside a peer.
        """
        if target.against == "fsyncs":
            return self.fsyncs.get(case.name, {}).get("writer", [])
        if not target.against:
            return self.rounds_of(case, OURS)
        if target.against == BEST:
            best = self.best_peer(case)
            return self.ratios(case, best) if best else []
        return self.ratios(case, target.against)

    def targets(self) -> list[tuple[Case, Target, list[float]]]:
        """Every target that this run can judge."""
        rows = [(case, target, self.values(case, target)) for case in self.plan.cases for target in case.targets]
        return [row for row in rows if row[2]]

    # ------------------------------------------------------------ as data
    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: medians on top, the rounds below them."""
        plan = self.plan
        return self.machine | {
            "entry_bytes": ENTRY_BYTES, "rounds": plan.rounds, "seconds": plan.seconds, "small": plan.small,
            "full": plan.full, "groups": list(plan.groups), "cases": [self._row(case) for case in plan.cases],
            "limits": {limit.name: limit.what for limit in LIMITS.values()},
            "peer_notes": {name: PEERS[name].note for name in PEERS},
            "peers_missing": [name for name in PEERS if name not in plan.peers],
            "problems": self.problems,
            "verified_entries": self.verified_entries, "verified_contents": self.verified_contents,
        }  # fmt: skip

    def _row(self, case: Case) -> dict[str, Any]:
        plan = self.plan
        ratios, best = self.ratios(case), self.best_peer(case)
        ratio = statistics.median(ratios) if ratios else None
        subjects = {
            subject: {
                "median": self.median(case, subject), "rounds": self.rounds_of(case, subject),
                "device_flushes_per_append": middle(self.fsyncs.get(case.name, {}).get(subject)),
                "percentiles_us": middles(self.percentiles.get(case.name, {}).get(subject)),
            }
            for subject in self.figures.get(case.name, {})
        }  # fmt: skip
        return {
            "name": case.name, "what": case.what, "group": case.group, "strategy": case.strategy,
            "clients": plan.clients(case), "batch": case.batch, "size": case.size, "entries": plan_entries(plan, case),
            "unit": {"rate": "per_second"}.get(case.unit, case.unit), "limit": case.limit,
            "ours": self.median(case), "raw": self.median(case, RAW),
            "ratio": ratio, "ratio_min": min(ratios, default=None), "ratio_max": max(ratios, default=None),
            "best_peer": best, "ratio_best_peer": middle(self.ratios(case, best)) if best else None,
            "writer_fsyncs_per_append": middle(self.fsyncs.get(case.name, {}).get("writer")),
            "prototype": list(case.prototype) if case.prototype else None,
            "reached": case.reached(ratio) if ratio is not None else None,
            "subjects": subjects,
            "targets": [
                {"against": target.against, "bound": target.bound, "at_most": target.at_most, "value": middle(values),
                 "reached": target.reached(statistics.median(values)) if values else None}
                for target in case.targets for values in [self.values(case, target)]
            ],
        }  # fmt: skip


def plan_entries(plan: Plan, case: Case) -> int | None:
    """How many entries the log of a case holds, where that matters."""
    return plan.entries(case.entries) if case.entries else None


def limit_in(case: Case, raw: float) -> float:
    """The limit in the unit of the case: a rate beside a latency becomes round trips a second."""
    return 1e6 / raw if LIMITS[case.limit].unit == "us" and case.unit == "rate" else raw


def middle(values: list[float] | None) -> float | None:
    """The median, or None."""
    return statistics.median(values) if values else None


def middles(rows: list[list[float]] | None) -> list[float] | None:
    """The median of every column, or None."""
    return [statistics.median(column) for column in zip(*rows, strict=True)] if rows else None
