"""From the call of an append in one process to the entry in the hands of a follower in another."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from ... import lifecycle
from ...files import join
from .cases import Case
from .stores import OURS

if TYPE_CHECKING:
    from .rounds import Bench

IDLE_SECONDS = 0.001
APPENDER, FOLLOWER = 0, 1


class Following:
    """No peer stands beside it: none of them tells another process that something came."""

    def __init__(self, bench: Bench, cases: list[Case]) -> None:
        self._bench, self._cases = bench, cases

    def round(self, number: int) -> None:
        """Every case once, each in a log of its own."""
        for case in self._cases:
            self._bench.step(case)
            self._bench.raw(case)
            directory = join(self._bench.folder, f"follow-{number}")
            with lifecycle.start_writer(directory, self._bench.plan.config(case.strategy)):
                self._measure(case, directory)
            shutil.rmtree(directory)

    def close(self) -> None:
        """Nothing stays between rounds."""

    def _measure(self, case: Case, directory: str) -> None:
        clients, result = self._bench.clients, self._bench.result
        clients.need(2)
        clients.ask(APPENDER, do="open", subject=OURS, directory=directory)
        clients.ask(FOLLOWER, do="begin_follow", directory=directory)
        clients.tell(FOLLOWER, do="follow")
        pause = IDLE_SECONDS if case.kind == "idle" else 0
        appended = clients.ask(APPENDER, do="stamps", seconds=self._bench.plan.seconds, pause=pause, rest=FOLLOWER)
        followed = clients.answer(FOLLOWER)
        clients.ask(APPENDER, do="close")
        result.add(case, OURS, followed["percentiles"][49], followed["percentiles"])
        result.verified_entries += appended["entries"]
        result.verified_contents += followed["entries"]
        if appended["entries"] != followed["entries"] or followed["wrong"]:
            result.problems.append(
                f"{OURS}: {appended['entries']} entries were appended, a follower got {followed['entries']}, "
                f"{followed['wrong']} of them wrong or out of order"
            )
