"""The moments of an append: what lies between the call and its return, on the clocks of both processes.

    python benchmarks/moments.py [--small] [--json] [--seconds 2] [--dir DIR]

Writer, client and follower run as in real use, but write down when they enter or leave a few functions (about 0.5 us
each).  ``CLOCK_MONOTONIC`` is the same in all of them.  Six tables, medians in microseconds (10 % .. 90 % of the
appends lie between the figures in parentheses):

* DiskFirst, one client, which looks for its answer; beside the raw ``pwrite`` + ``fdatasync`` of the same minute.
* DiskFirst, four clients, which sleep: what the writer does between one sync and the next.
* MemFirst, one client, both asleep (``spin_us=0``), and both looking.
* MemFirst, from one process's ``append`` to the entry in the hands of another's ``follow``, everybody asleep; and one
  append right after the other.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path
from typing import Any

import raftlog_mp as rl
from raftlog_mp import wakeup, writer
from raftlog_mp.lane import LaneConsumer, LaneProducer
from raftlog_mp.pipeline import Pipeline
from raftlog_mp.ring import RingWriter
from raftlog_mp.segment import SegmentWriter

Event = tuple[int, str]  # CLOCK_MONOTONIC in ns, what
Marks = list[Event]
Row = tuple[str, list[float]]
PAUSE_SECONDS = 1e-3  # between two appends of which everybody is to be asleep
WARM = 50  # appends at the beginning that are not counted


def note(marks: Marks, owner: Any, name: str, before: str = "", after: str = "") -> None:
    """From now on write down when ``owner.name`` is entered and left."""
    original, now = getattr(owner, name), time.monotonic_ns

    def noted(*args: Any, **kwargs: Any) -> Any:
        if before:
            marks.append((now(), before))
        result = original(*args, **kwargs)
        if after:
            marks.append((now(), after))
        return result

    setattr(owner, name, noted)


# ---------------------------------------------------------------- the processes
def serve(folder: str, strategy: str, spin_us: float) -> Marks:
    """The writer; until it is told to stop."""
    marks: Marks = []
    note(marks, LaneConsumer, "copy", "take")
    note(marks, RingWriter, "write", "ring")
    note(marks, SegmentWriter, "sync", "sync", "synced")
    note(marks, Pipeline, "publish", after="published")
    note(marks, LaneConsumer, "complete", after="answered")
    note(marks, wakeup, "ring_bell", "bell", "rung")
    note(marks, wakeup.Poller, "wait", after="awake")
    policy = rl.Immediate() if strategy == "disk_first" else rl.Batch(threshold=10**6, interval_ms=1000.0)
    config = rl.LogConfig(strategy=strategy, flush_policy=policy, spin_us=spin_us)  # type: ignore[arg-type]  # its value
    writer.serve(folder, config, linger=True, interrupt=False, on_ready=lambda _: print("ready", flush=True))
    return marks


def append(folder: str, seconds: float, pause: float) -> Marks:
    """A client that appends one at a time."""
    marks: Marks = []
    note(marks, LaneProducer, "put", after="in lane")
    note(marks, wakeup, "ring_bell", after="rung")
    note(marks, wakeup.Sleeper, "sleep", after="awake")
    with rl.open_log(folder, create=False, autostart=False) as log:
        print("ready", flush=True)
        sys.stdin.readline()
        payload, now = os.urandom(256), time.monotonic_ns
        end = now() + int(seconds * 1e9)
        while now() < end:
            marks.append((now(), "call"))
            index = log.append(payload)
            marks.append((now(), f"return {index}"))
            if pause:
                time.sleep(pause)
    return marks


def follow(folder: str, seconds: float) -> Marks:
    """A follower; until nothing has come for a while."""
    marks: Marks = []
    note(marks, wakeup.Sleeper, "sleep", after="awake")
    with rl.open_reader(folder) as reader:
        print("ready", flush=True)
        for entry in reader.follow(timeout=seconds + 5.0):
            marks.append((time.monotonic_ns(), f"got {entry.index}"))
            if entry.payload == b"last":
                return marks
    return marks


class Role:
    """One of these in a process of its own."""

    def __init__(self, *arguments: object) -> None:
        command = [sys.executable, __file__, "--role", json.dumps(arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None and self._process.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Begin to append."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def marks(self, *, stop: bool = False) -> Marks:
        """Wait for its end, after asking for it if ``stop``."""
        if stop:
            self._process.terminate()
        output, _ = self._process.communicate()
        return [(moment, what) for moment, what in json.loads(output)]


def run(strategy: str, clients: int, seconds: float, *, spin_us: float = 50.0, pause: float = 0.0,
        follows: bool = False, where: str | None = None) -> dict[str, Any]:  # fmt: skip
    """A log, its writer, clients and perhaps a follower; what they wrote down."""
    with tempfile.TemporaryDirectory(prefix="raftlog-moments-", dir=where) as folder:
        path = str(Path(folder) / "log")
        served = Role("serve", path, strategy, spin_us)
        follower = Role("follow", path, seconds) if follows else None
        appending = [Role("append", path, seconds, pause) for _ in range(clients)]
        for client in appending:
            client.go()
        found: dict[str, Any] = {"clients": [client.marks() for client in appending]}
        if follower is not None:
            with rl.open_log(path, create=False, autostart=False) as log:
                log.append(b"last")
            found["follower"] = follower.marks()
        found["writer"] = served.marks(stop=True)
        return found


def raw_sync_us(seconds: float, where: str | None) -> float:
    """Median of a ``pwrite`` of one record and ``fdatasync``, into reserved and zeroed space."""
    record, taken, end = os.urandom(344), list[float](), time.monotonic() + seconds
    with tempfile.TemporaryFile(dir=where) as file:
        os.pwrite(file.fileno(), bytes(8 << 20), 0)
        os.fsync(file.fileno())
        while (began := time.monotonic()) < end:
            os.pwrite(file.fileno(), record, len(taken) * len(record) % (8 << 20))
            os.fdatasync(file.fileno())
            taken.append((time.monotonic() - began) * 1e6)
    return statistics.median(taken)


# ---------------------------------------------------------------- what it says
def chained(marks: Marks, chain: list[str], begins: Callable[[str], bool]) -> list[list[float]]:
    """The steps between the moments of ``chain``, in microseconds, each time one that ``begins()`` is followed by all.

    Of the same moment several times in a row the first counts; after the last of the chain the next may begin.
    """
    found: list[list[float]] = []
    at, times = 0, list[int]()
    for moment, what in marks:
        if begins(what):
            at, times = 1, [moment]
        elif at and at < len(chain) and what.startswith(chain[at]):
            times.append(moment)
            at += 1
            if at == len(chain):
                found.append([(b - a) / 1000 for a, b in zip(times, times[1:], strict=False)])
                at = 0
    return found[WARM:] or found


def table(chain: list[tuple[str, str]], marks: Marks) -> list[Row]:
    """Rows of one append after the other; ``chain``: what is written down, and how a step that ends there is called."""
    steps = chained(sorted(marks), [what for what, _ in chain], lambda what: what == chain[0][0])
    if not steps:
        raise SystemExit("no append was seen whole: the run is too short")
    rows = [(name, [each[n] for each in steps]) for n, (_, name) in enumerate(chain[1:])]
    return [*rows, ("all of it", [sum(each) for each in steps])]


def named(marks: Marks, who: str) -> Marks:
    return [(moment, f"{who} {what}") for moment, what in marks]


def merged(found: dict[str, Any]) -> Marks:
    """The moments of all, each with who saw it in front."""
    marks = named(found["writer"], "writer") + named(found.get("follower", []), "follower")
    for client in found["clients"]:
        marks += named(client, "client")
    return sorted(marks)


def one_durable(found: dict[str, Any]) -> list[Row]:
    return table([
        ("client call", ""), ("client in lane", "client: append() to lane"), ("writer take", "writer, looking, takes"),
        ("writer ring", "checked, has its index"), ("writer sync", "in ring and page cache"),
        ("writer synced", "fdatasync"), ("writer answered", "published, answered"),
        ("client return", "client, looking, returns"),
    ], merged(found))  # fmt: skip


def between_syncs(found: dict[str, Any]) -> list[Row]:
    """Four clients: what the writer does from one sync to the next."""
    rows: dict[str, list[float]] = {name: [] for name in (
        "fdatasync", "published, first answer", "other answers, bells", "the next are taken", "in ring and page cache",
        "from sync to sync", "appends a sync",
    )}  # fmt: skip
    cycle: Marks = []
    for mark in found["writer"]:
        if mark[1] == "sync" and cycle:
            at = {what: moment for moment, what in reversed(cycle)}  # the first of each
            answered = [moment for moment, what in cycle if what in ("answered", "rung")]
            if {"synced", "answered", "take", "ring"} <= at.keys() and at["take"] > answered[-1] and "awake" not in at:
                ends = [cycle[0][0], at["synced"], at["answered"], answered[-1], at["ring"], mark[0]]
                for name, begin, end in zip(rows, ends, ends[1:], strict=False):
                    rows[name].append((end - begin) / 1000)
                rows["from sync to sync"].append((mark[0] - cycle[0][0]) / 1000)
                rows["appends a sync"].append(sum(what == "take" for _, what in cycle))
            cycle = []
        if mark[1] == "sync" or cycle:
            cycle.append(mark)
    return list(rows.items())


def one_asleep(found: dict[str, Any]) -> list[Row]:
    return table([
        ("client call", ""), ("client in lane", "client: append() to lane"),
        ("writer awake", "its bell, and the writer is awake"), ("writer take", "to the lane"),
        ("writer published", "checked, in ring, published"), ("writer answered", "answered"),
        ("client awake", "its bell, and the client is awake"), ("client return", "client takes the answer, returns"),
    ], merged(found))  # fmt: skip


def one_looking(found: dict[str, Any]) -> list[Row]:
    return table([
        ("client call", ""), ("client in lane", "client: append() to lane"), ("writer take", "writer, looking, takes"),
        ("writer published", "checked, in ring, published"), ("writer answered", "answered"),
        ("client return", "client, looking, returns"),
    ], merged(found))  # fmt: skip


def to_follower(found: dict[str, Any]) -> list[Row]:
    return table([
        ("client call", ""), ("client in lane", "client: append() to lane"),
        ("writer awake", "its bell, and the writer is awake"), ("writer take", "to the lane"),
        ("writer published", "checked, in ring, published"), ("follower awake", "its bell, and the follower is awake"),
        ("follower got", "follower reads it"),
    ], merged(found))  # fmt: skip


def to_busy_follower(found: dict[str, Any]) -> list[Row]:
    """One append right after the other: the next may be called before the follower has this one, so by index."""
    rows: dict[str, list[float]] = {name: [] for name in (
        "client: append() to lane", "the writer takes", "checked, in ring, published", "bell",
        "follower reads it", "all of it", "beside it: append() returns",
    )}  # fmt: skip
    took, published, woken = (
        [moment for moment, what in found[who] if what == name]
        for who, name in (("writer", "take"), ("writer", "published"), ("follower", "awake"))
    )
    got = {int(what[4:]): moment for moment, what in found["follower"] if what.startswith("got")}
    times = {"call": 0, "in lane": 0}
    for moment, what in found["clients"][0]:
        if what in times:
            times[what] = moment
        if not what.startswith("return") or (index := int(what[7:])) <= WARM or index not in got:
            continue
        call, lane = times["call"], times["in lane"]
        try:
            take = took[bisect_left(took, call)]
            out = published[bisect_left(published, take)]
        except IndexError:
            continue
        awake = bisect_left(woken, out)
        slept = awake < len(woken) and woken[awake] < got[index]
        seen = woken[awake] if slept else out
        steps = [lane - call, take - lane, out - take, seen - out if slept else None, got[index] - seen,
                 got[index] - call, moment - call]  # fmt: skip
        for values, step in zip(rows.values(), steps, strict=False):
            if step is not None:
                values.append(step / 1000)
    share = len(rows["bell"]) / max(1, len(rows["all of it"]))
    bell = f"its bell, and it is awake: where it slept, {share:.0%}"
    return [(bell if name == "bell" else name, values) for name, values in rows.items() if values]


def cases(seconds: float, where: str | None) -> dict[str, list[Row]]:
    """Every table."""
    raw = raw_sync_us(seconds / 4, where)
    memory = {"strategy": "mem_first", "clients": 1, "seconds": seconds, "where": where}
    return {
        f"DiskFirst, one client, one at a time; raw pwrite + fdatasync: {raw:.0f} us":
            one_durable(run("disk_first", 1, seconds, where=where)),
        "DiskFirst, four clients, one at a time": between_syncs(run("disk_first", 4, seconds, where=where)),
        "MemFirst, one client, all asleep": one_asleep(run(**memory, spin_us=0.0, pause=PAUSE_SECONDS)),
        "MemFirst, one client, all looking": one_looking(run(**memory)),
        "MemFirst, append to follower, all asleep":
            to_follower(run(**memory, spin_us=0.0, pause=PAUSE_SECONDS, follows=True)),
        "MemFirst, append to follower, back to back": to_busy_follower(run(**memory, follows=True)),
    }  # fmt: skip


def show(results: dict[str, list[Row]]) -> None:
    """Tables for people."""
    for title, rows in results.items():
        print(f"\n{title} ({len(rows[0][1])} times)\n")
        for name, values in rows:
            low, middle, high = (sorted(values)[len(values) * n // 10] for n in (1, 5, 9))
            print(f"  {name:46}{middle:8.1f}   ({low:.1f} .. {high:.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="a moment of each: that it runs, not what it says")
    parser.add_argument("--json", action="store_true", help="every figure, by case and step, in microseconds")
    parser.add_argument("--seconds", type=float, default=2.0, help="of appending in each case")
    parser.add_argument("--dir", help="a folder on the disk that is meant")
    parser.add_argument("--role", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.role:
        role, *arguments = json.loads(options.role)
        print(json.dumps({"serve": serve, "append": append, "follow": follow}[role](*arguments)))
        return
    results = cases(0.3 if options.small else options.seconds, options.dir)
    if options.json:
        print(json.dumps(results))
    else:
        show(results)


if __name__ == "__main__":
    main()
