"""From the diaries of a storm's processes to one history."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storm_history import NEVER, Append, Frontiers, HardSeen, Request, Run, Seen, Storm
from support.history import Row

Lines = Iterable[list[Any]]


def lines_of(path: Path) -> list[list[Any]]:
    """Every line that was finished."""
    text = path.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def diaries_in(folder: Path) -> dict[str, list[list[Any]]]:
    """The lines of every process by its name."""
    return {path.stem: lines_of(path) for path in sorted(folder.glob("*.jsonl"))}


def row_of(term: int, index: int, key: str) -> Row:
    return Row(term, index, key.encode())


def storm_of(strategy: str, diaries: dict[str, list[list[Any]]]) -> Storm:
    """The history that the diaries tell.  The last "log" line is the log at the end."""
    appends: list[Append] = []
    requests: list[Request] = []
    runs: list[Run] = []
    frontiers: list[Frontiers] = []
    hard: list[HardSeen] = []
    logs: list[tuple[int, int, list[Row]]] = []
    for name, lines in diaries.items():
        _read_requests(name, lines, appends, requests)
        runs += _runs_of(name, lines)
        for kind, *rest in lines:
            if kind == "frontiers":
                frontiers.append(Frontiers(name, *rest))
            elif kind == "hard":
                hard.append(HardSeen(name, *rest))
            elif kind == "log":
                logs.append((rest[0], rest[1], [row_of(*row) for row in rest[2]]))
    _, boundary, log = max(logs)
    return Storm(strategy, appends, requests, runs, frontiers, hard, boundary, log)


def _read_requests(name: str, lines: Lines, appends: list[Append], requests: list[Request]) -> None:
    called: dict[int, list[Any]] = {}
    done: dict[int, list[Any]] = {}
    for kind, *rest in lines:
        if kind == "call":
            called[rest[1]] = rest
        elif kind == "done":
            done[rest[1]] = rest
    for number, (stamp, _, kind, *what) in called.items():
        end, _, outcome, value = done.get(number, [NEVER, number, "unknown", None])
        end = end if outcome == "acked" else NEVER
        if kind in ("append", "entries"):
            payloads = tuple(key.encode() for key in what[1])
            appends.append(Append(name, number, stamp, end, outcome, what[0], payloads, value))
        if kind == "entries" and what[2]:
            requests.append(Request("remove", what[2], stamp, end, outcome, what[0]))
        elif kind == "remove":
            requests.append(Request(kind, what[0], stamp, end, outcome, what[1]))
        elif kind in ("purge", "commit"):
            requests.append(Request(kind, what[0], stamp, end, outcome))
        elif kind == "save":
            requests.append(Request(kind, what[0], stamp, end, outcome, what[0], what[1]))


def _runs_of(name: str, lines: Lines) -> list[Run]:
    runs: list[Run] = []
    upto, seen = "", list[Seen]()
    for kind, *rest in lines:
        if kind == "run":
            runs.append(Run(name, upto, tuple(seen)))
            upto, seen = rest[1], []
        elif kind == "saw":
            # One that was asked for by itself was there at the latest when the next one was asked for.
            until = [before for before, *_ in rest[1][1:]] + [rest[0]]
            for (before, *row), after in zip(rest[1], until, strict=True):
                seen.append(Seen(before, after if after > before else rest[0], row_of(*row)))
    return [run for run in (*runs, Run(name, upto, tuple(seen))) if run.seen]
