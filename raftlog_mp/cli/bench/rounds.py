"""Runs limits and cases side by side, in rounds, and verifies what was written."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from ... import __version__, config, lifecycle, log, log_reader, probe
from ...errors import RaftLogError
from ...files import join
from ...types import PersistenceStrategy
from .cases import CASES, ENTRY_BYTES, LIMITS, Case
from .raw import Limits
from .worker import payload_of

CLIENTS_MAX = max(case.clients for case in CASES)
GETS = 2000  # indexes of one pass of the random reads
MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure."""

    rounds: int
    seconds: float  # of one measurement
    small: bool

    @property
    def steps(self) -> int:
        """Measurements in all, for the progress bar."""
        return self.rounds * len(CASES)

    def config(self, strategy: str) -> config.LogConfig:
        """Settings of the logs: the defaults, smaller files for the small run, MemFirst flushing in the background."""
        policy: config.FlushPolicy = config.Batch() if strategy == "mem_first" else config.Immediate()
        size = 16 * MIB if self.small else 64 * MIB
        return config.LogConfig(
            strategy=PersistenceStrategy(strategy), flush_policy=policy, segment_bytes=size, ring_bytes=size
        )


@dataclass(slots=True)
class Result:
    """Every round's figures."""

    plan: Plan
    filesystem: str
    limits: dict[str, list[float]] = field(default_factory=dict)  # case name -> its limit, a value a round
    ours: dict[str, list[float]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    verified_entries: int = 0  # counted
    verified_contents: int = 0  # compared byte by byte

    def ratios(self, case: Case) -> list[float]:
        """Ours over the limit, round by round."""
        return [
            mine / limit_in(case, raw)
            for mine, raw in zip(self.ours[case.name], self.limits[case.name], strict=True)
        ]

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: medians on top, the rounds below them."""
        rows = []
        for case in CASES:
            ratios = self.ratios(case)
            ratio = statistics.median(ratios)
            raw = statistics.median(limit_in(case, raw) for raw in self.limits[case.name])
            rows.append({
                "name": case.name, "what": case.what, "strategy": case.strategy, "clients": case.clients,
                "batch": case.batch, "unit": "us" if case.unit == "us" else "per_second", "limit": case.limit,
                "ours": statistics.median(self.ours[case.name]), "raw": raw,
                "ratio": ratio, "ratio_min": min(ratios), "ratio_max": max(ratios),
                "prototype": list(case.prototype) if case.prototype else None, "reached": case.reached(ratio),
                "ours_rounds": self.ours[case.name], "raw_rounds": self.limits[case.name],
            })  # fmt: skip
        return {
            "version": __version__, "filesystem": self.filesystem, "entry_bytes": ENTRY_BYTES,
            "rounds": self.plan.rounds, "seconds": self.plan.seconds, "small": self.plan.small,
            "cases": rows, "problems": self.problems,
            "verified_entries": self.verified_entries, "verified_contents": self.verified_contents,
        }  # fmt: skip


def limit_in(case: Case, raw: float) -> float:
    """The limit in the unit of the case: a rate beside a latency becomes round trips a second."""
    return 1e6 / raw if LIMITS[case.limit].unit == "us" and case.unit == "rate" else raw


class Clients:
    """The client processes: started once, idle between measurements."""

    def __init__(self, count: int) -> None:
        command = [sys.executable, "-m", f"{__package__}.worker"]
        self._processes = [
            subprocess.Popen(
                [*command, str(number)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for number in range(count)
        ]

    def _tell(self, number: int, **command: Any) -> None:
        stdin = self._processes[number].stdin
        assert stdin is not None
        stdin.write(json.dumps(command) + "\n")
        stdin.flush()

    def _answer(self, number: int) -> dict[str, Any]:
        stdout = self._processes[number].stdout
        assert stdout is not None
        line = stdout.readline()
        answer: dict[str, Any] = json.loads(line) if line else {"error": "it ended without an answer"}
        if "error" in answer:
            raise RaftLogError(f"bench client {number}: {answer['error']}")
        return answer

    def all(self, count: int, **command: Any) -> list[dict[str, Any]]:
        """Give the first ``count`` clients a command at the same time and collect their answers."""
        for number in range(count):
            self._tell(number, **command)
        return [self._answer(number) for number in range(count)]

    def begin_echo(self, folder: str) -> Callable[[], Any]:
        """Turn the last client into the other end of the socket; call the result once that socket is closed."""
        last = len(self._processes) - 1
        self._tell(last, do="echo", directory=folder)
        return lambda: self._answer(last)

    def close(self) -> None:
        """End them: they leave when their stdin ends; one that is stuck is killed."""
        for process in self._processes:
            with contextlib.suppress(OSError):
                process.stdin.close()  # type: ignore[union-attr]  # made with PIPE above
        for process in self._processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()  # type: ignore[union-attr]  # made with PIPE above


def run(folder: str, plan: Plan, step: Callable[[str], None]) -> Result:
    """Measure everything below ``folder`` and verify it."""
    result = Result(plan, probe.filesystem(folder))
    with contextlib.ExitStack() as stack:
        clients = Clients(CLIENTS_MAX + 1)  # one more is the socket's other end
        stack.callback(clients.close)
        limits = Limits(folder, clients, plan.seconds, small=plan.small)
        stack.callback(limits.close)
        for number in range(plan.rounds):
            for strategy in ("disk_first", "mem_first"):
                directory = join(folder, f"{strategy}-{number}")
                Round(result, clients, limits, directory, strategy, step).run()
                shutil.rmtree(directory)
    return result


class Round:
    """One log, from its first entry to its verification."""

    def __init__(
        self,
        result: Result,
        clients: Clients,
        limits: Limits,
        directory: str,
        strategy: str,
        step: Callable[[str], None],
    ) -> None:
        self._result, self._clients, self._limits, self._step = result, clients, limits, step
        self._directory, self._strategy, self._seconds = directory, strategy, result.plan.seconds
        self._answers: list[dict[str, Any]] = []
        self._singles = range(
            0
        )  # indexes of the pipelined singles: records of one entry, in order of submission

    def run(self) -> None:
        """Measure with a writer, then what is measured without one, then verify."""
        cases = [case for case in CASES if case.strategy == self._strategy]
        with (
            lifecycle.start_writer(self._directory, self._result.plan.config(self._strategy)),
            log.open_log(self._directory, autostart=False, timeout=None) as handle,
        ):
            for case in cases:
                if case.name != "get_files":
                    handle.flush()  # what the case before left unflushed is not this one's work
                    self._measure(case, partial(self._live, case, handle))
        with log_reader.open_reader(self._directory) as reader:
            for case in cases:
                if case.name == "get_files":
                    self._measure(case, partial(self._get, reader))
            self._verify(reader)

    def _measure(self, case: Case, ours: Callable[[], float]) -> None:
        self._step(case.name.replace("_", " "))
        self._result.limits.setdefault(case.name, []).append(self._limits.measure(case.limit))
        self._result.ours.setdefault(case.name, []).append(ours())

    def _live(self, case: Case, handle: log.Log) -> float:
        if case.kind == "get":
            return self._get(handle)
        self._clients.all(case.clients, do="open", directory=self._directory)  # only those that take part
        extra = {"batch": case.batch} if case.kind == "pipelined" else {}
        answers = self._clients.all(case.clients, do=case.kind, seconds=self._seconds, **extra)
        self._clients.all(case.clients, do="close")
        self._answers += answers
        if case.kind == "pipelined" and case.batch == 1:
            self._singles = range(answers[0]["first"], answers[0]["last"] + 1)
        if case.unit == "us":
            return float(statistics.median(answer["p50_us"] for answer in answers))
        return float(sum(answer["entries"] / answer["seconds"] for answer in answers))

    def _get(self, reader: log_reader.LogReader) -> float:
        """Mean microseconds of a ``get`` at random indexes among the singles; every one is checked afterwards."""
        get, chosen = reader.get, random.Random(len(self._singles)).choices(self._singles, k=GETS)
        found, count, start = [], 0, time.perf_counter()
        while time.perf_counter() - start < self._seconds:
            found = [get(index) for index in chosen]
            count += GETS
        seconds = time.perf_counter() - start
        for index, entry in zip(chosen, found, strict=True):
            self._check(index, entry, payload_of(0, index - self._singles.start))
        return seconds / count * 1e6

    # ------------------------------------------------------------ verification
    def _verify(self, reader: log_reader.LogReader) -> None:
        """Every entry that was acknowledged is counted, and a sample stands where its client was told."""
        acknowledged = sum(answer["entries"] for answer in self._answers)
        if (reader.first_index, reader.last_index) != (1, acknowledged):
            self._problem(
                f"{acknowledged} entries were acknowledged, the log holds {reader.first_index}..{reader.last_index}"
            )
        if reader.durable_index != reader.last_index:
            self._problem(
                f"after the stop the log is durable only up to {reader.durable_index} of {reader.last_index}"
            )
        self._result.verified_entries += acknowledged
        for answer in self._answers:
            for index, number in answer["samples"]:
                self._check(index, reader.get(index), payload_of(answer["client"], number))

    def _check(self, index: int, entry: Any, payload: bytes) -> None:
        self._result.verified_contents += 1
        if entry is None or entry.index != index or entry.payload != payload:
            self._problem(f"entry {index} is not what its client appended")

    def _problem(self, text: str) -> None:
        self._result.problems.append(f"{self._strategy}: {text}")
