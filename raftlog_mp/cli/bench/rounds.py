"""Runs everything side by side, in rounds: each figure of ours right after its limit, and the peers' after it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from ...files import Files
from . import machine
from .appends import Appends, Mixed
from .cases import GROUPS, RAW, Case
from .clients import Clients
from .following import Following
from .growth import Growth
from .limits import LIMITS
from .raw import Limits
from .reads import Reads
from .result import Plan, Result


@dataclass(slots=True)
class Bench:
    """What every group needs."""

    plan: Plan
    result: Result
    folder: str
    limits: Limits
    clients: Clients
    flushes: machine.Flushes
    tell: Callable[[str], None]
    files: Files = field(default_factory=Files)

    def step(self, case: Case) -> None:
        """Tell the progress bar what comes now."""
        self.tell(case.name.replace("_", " "))

    def raw(self, case: Case) -> None:
        """Measure the limit of a case."""
        figure = self.limits.measure(LIMITS[case.limit])
        self.result.add(case, RAW, figure, self.limits.percentiles)


class Group(Protocol):
    """Cases that share their logs."""

    def round(self, number: int) -> None:
        """Measure every case once."""

    def close(self) -> None:
        """Give everything back."""


RUNNERS: dict[str, Callable[[Bench, list[Case]], Group]] = {
    "durable": Appends, "sizes": Appends, "memory": Appends, "reads": Reads, "follow": Following, "mixed": Mixed,
    "open": Growth, "growth": Growth,
}  # fmt: skip


def run(folder: str, plan: Plan, step: Callable[[str], None]) -> Result:
    """Measure everything below ``folder`` and verify it."""
    result = Result(plan, machine.facts(folder, plan.peers))
    with contextlib.ExitStack() as stack:
        clients = Clients()
        stack.callback(clients.close)
        limits = Limits(folder, plan.seconds, small=plan.small)
        stack.callback(limits.close)
        bench = Bench(plan, result, folder, limits, clients, machine.Flushes(folder), step)
        for groups in (["durable"], ["sizes"], ["memory"], ["reads"], ["follow"], ["mixed"], ["open", "growth"]):
            cases = [case for case in plan.cases if case.group in groups]
            if cases:
                with contextlib.closing(RUNNERS[groups[0]](bench, cases)) as group:
                    for number in range(plan.rounds):
                        group.round(number)
    assert set(RUNNERS) == set(GROUPS)
    return result
