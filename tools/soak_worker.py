"""A producer or a reader of the soak.

    soak_worker.py produce LOG_DIR SPEC.json
    soak_worker.py read LOG_DIR SPEC.json

A producer keeps up to ``window`` submissions under way and writes down each one's outcome, at once and unbuffered:
what it knew is known even if it is killed.  A reader follows the log from where its predecessor was and writes down
how far it came, with a CRC over all payloads.
"""

from __future__ import annotations

import json
import signal
import sys
import time
import zlib
from collections import deque
from pathlib import Path
from typing import Any

from soak_check import ACKNOWLEDGED, RECORD, REFUSED, UNKNOWN, Payloads

import raftlog_mp as rl

PROGRESS_SECONDS = 0.2
PAUSE_SECONDS_MAX = 0.2  # after a refusal: long enough to be polite, short enough to notice the end of the pressure
START_SECONDS_MAX = 60.0  # for a writer that was killed or stopped to be there again
LATE_SECONDS = 20.0  # at the end, for submissions that had timed out
clock = time.monotonic


class Flight:
    """A submission on its way."""

    def __init__(self, sequence: int, count: int) -> None:
        self.sequence, self.count, self.sent_s = sequence, count, clock()
        self.ticket: Any = None
        self.waited_s, self.overrun_s = 0.0, -1.0
        self.late = False

    def timed(self, began_s: float, allowed_s: float) -> None:
        """A call that was told to take ``allowed_s`` at most has returned."""
        took = clock() - began_s
        self.waited_s, self.overrun_s = max(self.waited_s, took), max(self.overrun_s, took - allowed_s)


class Producer:
    """Loads the log as its specification says."""

    def __init__(self, log: rl.Log, spec: dict[str, Any], out: Any) -> None:
        self.log, self.spec, self.out = log, spec, out
        self.payloads = Payloads(spec["seed"])
        self.flights: deque[Flight] = deque()
        self.late: list[Flight] = []
        self.sequence = 1
        self.timeout_s: float = spec["timeout_s"]

    def run(self, start_s: float, until_s: float) -> None:
        """Load from one moment to the other, then wait for the answers that are missing."""
        time.sleep(max(0.0, start_s - clock()))
        rate, batch = self.spec["rate"], self.spec["batch"]
        due = clock()
        while (now := clock()) < until_s:
            self.take_answers()
            if rate and now < due:
                self.wait(due - now)
            elif len(self.flights) >= self.spec["window"]:
                self.wait(self.timeout_s)
            else:
                self.send()
                # Who falls behind does not make up for it later: the load is the same before and after.
                due = max(due + batch / rate, now) if rate else now
        while self.flights:
            self.wait(self.timeout_s)
        self.wait_for_late(clock() + LATE_SECONDS)

    def send(self) -> None:
        """Submit the next batch."""
        spec, flight = self.spec, Flight(self.sequence, self.spec["batch"])
        self.sequence += flight.count
        names = range(flight.sequence, self.sequence)
        batch = [self.payloads.make(spec["number"], sequence, spec["payload_bytes"]) for sequence in names]
        flight.sent_s = clock()
        pause = PAUSE_SECONDS_MAX
        try:
            flight.ticket = self.log.submit(batch)
        except rl.Backpressure as refused:
            pause = min(pause, refused.retry_after_ms / 1000)
        except rl.WriterUnavailable:
            pass
        flight.timed(flight.sent_s, self.timeout_s)
        if flight.ticket is not None:
            self.flights.append(flight)
        else:
            self.note(flight, REFUSED, 0)
            time.sleep(pause)

    def wait(self, seconds: float) -> None:
        """Wait for the oldest answer, at most so long."""
        if not self.flights:
            time.sleep(seconds)
            return
        flight, began = self.flights[0], clock()
        left = max(0.0, flight.sent_s + self.timeout_s - began)
        allowed = min(seconds, left)
        try:
            flight.ticket.result(allowed)
        except rl.AppendTimeout:
            flight.timed(began, allowed)
            if allowed == left:
                self.flights.popleft()
                self.note(flight, UNKNOWN, 0)
                flight.late = True
                self.late.append(flight)
            return
        except rl.RaftLogError:
            pass  # resolve() asks again
        flight.timed(began, allowed)
        self.take_answers()

    def take_answers(self) -> None:
        """Note every submission at the head that has its answer."""
        while self.flights and self.flights[0].ticket.done():
            self.resolve(self.flights.popleft())

    def resolve(self, flight: Flight) -> None:
        """An answer is there."""
        error = flight.ticket.exception()
        if error is None:
            self.note(flight, ACKNOWLEDGED, flight.ticket.result(0).start)
        elif isinstance(error, rl.Backpressure):
            self.note(flight, REFUSED, 0)
        elif isinstance(error, rl.OutcomeUnknown):
            self.note(flight, UNKNOWN, 0)
        else:
            raise error

    def wait_for_late(self, until_s: float) -> None:
        """Submissions that had timed out resolve once the writer is back: nothing stays unknown that can be known."""
        for flight in self.late:
            try:
                flight.ticket.result(max(0.0, until_s - clock()))
            except rl.RaftLogError:
                pass
            if flight.ticket.done():
                self.resolve(flight)

    def note(self, flight: Flight, outcome: int, index: int) -> None:
        """Write it down."""
        self.out.write(RECORD.pack(
            flight.sequence, flight.count, outcome, index, flight.sent_s, clock(), flight.waited_s, flight.overrun_s,
        ))  # fmt: skip


def produce(log_dir: str, spec: dict[str, Any]) -> int:
    """The life of a producer."""
    with open_patiently(log_dir, spec) as log, Path(spec["out"]).open("ab", buffering=0) as out:
        origin = wait_for_start(Path(spec["go"]))
        Producer(log, spec, out).run(origin + spec["start_s"], origin + spec["until_s"])
    return 0


def open_patiently(log_dir: str, spec: dict[str, Any]) -> rl.Log:
    """A handle.  The writer may have been killed or stopped: then try again."""
    deadline = clock() + START_SECONDS_MAX
    while True:
        try:
            return rl.open_log(log_dir, create=False, autostart=False, timeout=spec["timeout_s"], name=spec["name"])
        except rl.WriterUnavailable:
            if clock() >= deadline:
                raise


def wait_for_start(path: Path) -> float:
    """The moment at which the load begins; everybody who was there in time waits for it."""
    while not path.exists():
        time.sleep(0.01)
    origin = float(path.read_text(encoding="ascii"))
    time.sleep(max(0.0, origin - clock()))
    return origin


def read(log_dir: str, spec: dict[str, Any]) -> int:
    """The life of a reader; code 1 if it saw a gap, or if nothing came for a long time."""
    index, chain, told_s = spec["index"], spec["chain"], 0.0
    last_payload = bytes.fromhex(spec["last"])
    with rl.open_reader(log_dir) as reader, Path(spec["out"]).open("a", encoding="ascii", buffering=1) as out:
        for entry in reader.follow(index + 1, timeout=spec["silence_s"]):
            if entry.index != index + 1:
                print(f"index {entry.index} came after {index}", file=sys.stderr)
                return 1
            index, chain = entry.index, zlib.crc32(entry.payload, chain)
            last = entry.payload == last_payload
            if last or clock() - told_s >= PROGRESS_SECONDS:
                told_s = clock()
                out.write(f"{told_s!r} {index} {chain}\n")
            if last:
                return 0
    print(f"nothing came after index {index} for {spec['silence_s']:.0f} s", file=sys.stderr)
    return 1


def main() -> int:
    """Entry point; returns the exit code."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the soak ends its processes itself
    role, log_dir, spec = sys.argv[1:]
    act = {"produce": produce, "read": read}[role]
    return act(log_dir, json.loads(Path(spec).read_text(encoding="utf-8")))


if __name__ == "__main__":
    sys.exit(main())
