"""The main job, end to end: several web workers, one durable log, and a writer that is killed in the middle.

Starts a writer process, a uvicorn server with 4 workers on the example application, client processes that POST
over HTTP, and two readers that follow.  At half time the writer gets SIGKILL; the workers start the next one by
themselves.  At the end every acknowledged request must be in the log exactly once, at the index that was
returned, and both readers must have seen the whole log in order.  Exit code: 0 PASS, 1 FAIL, 130 interrupted.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from demo_check import (
    ACKNOWLEDGED,
    Figures,
    Record,
    Request,
    digest_of,
    figures_of,
    problems,
    read_records,
    read_requests,
    shorten,
)  # fmt: skip
from demo_processes import TOOLS, Children, DemoFailed, end_writer, start_server
from demo_screen import Screen, milliseconds, table

import raftlog_mp as rl

WORKERS = 4
READERS = 2
PATIENCE_SECONDS = 30.0  # for each step that is not the load itself
LAST_BODY = "the end of the demo"
# Small files and a small ring, so that a short run rolls through several segments and wraps the ring.
SIZES = {"segment_bytes": 2 << 20, "ring_bytes": 4 << 20}


class Demo:
    """One run: what was started, and what is known so far."""

    def __init__(self, options: argparse.Namespace, folder: Path, screen: Screen) -> None:
        self.options, self.folder, self.screen = options, folder, screen
        self.log_dir = str(folder / "log")
        self.children = Children(folder)
        self.first: rl.LogStats | None = None  # of the writer that was killed, as it left them
        self.killed_s = self.back_s = 0.0
        self.rows: list[tuple[str, str]] = []
        self.figures: Figures | None = None

    def run(self) -> list[str]:
        """The whole demo; returns what is wrong."""
        options, screen = self.options, self.screen
        config = rl.LogConfig(strategy=options.strategy, flush_policy=options.flush_policy, **SIZES)
        writer = rl.start_writer(self.log_dir, config)
        screen.step(f"writer: pid {writer.pid}, {config.strategy}, {config.flush_policy}, log in {self.log_dir}")
        with contextlib.ExitStack() as stack:
            reader = stack.enter_context(rl.open_reader(self.log_dir))
            for number in range(1, READERS + 1):
                out = str(self.folder / f"reader-{number}.txt")
                follow = [str(TOOLS / "demo_follow.py"), self.log_dir, "--last", LAST_BODY, "--out", out]
                self.children.start(f"reader-{number}", follow)
            port = start_server(self.children, self.log_dir, WORKERS, PATIENCE_SECONDS)
            self.wait_for("the server's workers", lambda: reader.stats().clients >= WORKERS)
            screen.step(f"server: http://127.0.0.1:{port}, {WORKERS} workers; {READERS} readers follow")
            if importlib.util.find_spec("uvloop") is None:
                screen.step("note: without uvloop each answer waits some 40 ms for TCP; see the README")
            self.load(reader, port)
            screen.phase("checking")
            requests = self.end_load(reader)
        return self.verdict(requests)

    def wait_for(self, what: str, ready: Any) -> None:
        """Wait until it is so; :class:`DemoFailed` if it takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not ready():
            self.children.check_alive("server", "reader")
            if time.monotonic() >= deadline:
                raise DemoFailed(f"{what}: not there within {PATIENCE_SECONDS:.0f} s")
            time.sleep(0.02)

    def load(self, reader: rl.LogReader, port: int) -> None:
        """Clients POST; at half time the writer is killed."""
        options, screen = self.options, self.screen
        start = time.monotonic()
        until = start + options.seconds
        for number in range(1, options.clients + 1):
            self.children.start(f"client-{number}", [
                str(TOOLS / "demo_load.py"), str(port), "--name", f"c{number}", "--until", repr(until),
                "--connections", str(options.connections), "--seed", str(options.seed),
                "--out", str(self.folder / f"client-{number}.txt"),
            ])  # fmt: skip
        screen.step(f"load: {options.clients} clients with {options.connections} connections each")
        screen.phase("load", options.seconds)
        while (now := time.monotonic()) < until:
            self.children.check_alive("server", "reader")
            if self.first is None and now >= start + options.seconds / 2:
                self.kill_writer(reader)
            elif self.first is not None and not self.back_s:
                after = reader.stats()
                if after.generation != self.first.generation:
                    self.back_s = now
                    back_ms = (now - self.killed_s) * 1000
                    screen.step(f"writer: back after {back_ms:,.0f} ms, pid {after.writer_pid}")
            screen.load(now - start, reader.last_index)
            time.sleep(0.05 if self.back_s or self.first is None else 0.002)
        self.children.wait("client", PATIENCE_SECONDS)

    def kill_writer(self, reader: rl.LogReader) -> None:
        """SIGKILL, and the counters that the dead writer left in shared memory."""
        before = reader.stats()
        self.killed_s = time.monotonic()
        os.kill(before.writer_pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # dead, but not yet reaped
            os.waitid(os.P_PID, before.writer_pid, os.WEXITED | os.WNOWAIT)
        left = reader.stats()
        self.first = left if left.generation == before.generation else before
        self.screen.step(f"writer: pid {before.writer_pid} killed with SIGKILL at entry {self.first.last_index:,}")

    def end_load(self, reader: rl.LogReader) -> list[Request]:
        """End the server and the readers; everything that was sent."""
        self.children.end("server", PATIENCE_SECONDS)  # first: after this nobody appends but the line below
        sent = time.monotonic()
        with rl.open_log(self.log_dir) as log:
            index = log.append(LAST_BODY.encode())
            log.flush()
        done = time.monotonic()
        self.children.wait("reader", PATIENCE_SECONDS)
        self.describe(reader.stats())
        requests = []
        for number in range(1, self.options.clients + 1):
            requests += read_requests(self.folder / f"client-{number}.txt")
        if not any(request.outcome == ACKNOWLEDGED for request in requests):
            why = shorten(sorted({request.detail for request in requests}))
            raise DemoFailed(f"no request was acknowledged: {'; '.join(why) or 'none could be sent'} (see server.log)")
        if self.first is None or not self.back_s:
            raise DemoFailed("the writer was killed and did not come back")
        self.figures = figures_of(requests, self.killed_s)
        last = Request(ACKNOWLEDGED, digest_of(LAST_BODY.encode()), index, sent, done, 0, "")
        return [*requests, last]

    def describe(self, last: rl.LogStats) -> None:
        """The log's side of the table.  Counters begin anew with each writer."""
        both = [self.first, last] if self.first else [last]
        fsyncs, appends = sum(stats.fsyncs for stats in both), sum(stats.appends for stats in both)
        self.rows = [
            ("entries in the log", f"{last.last_index:,} in {last.segments} segments (one is the demo's own)"),
            ("fsyncs of both writers", " + ".join(f"{stats.fsyncs:,}" for stats in both)),
            ("  appends per fsync", f"{appends / fsyncs:.1f}" if fsyncs else "-"),
        ]

    def verdict(self, requests: list[Request]) -> list[str]:
        """Compare what everybody saw with the log, read from its files alone."""
        rl.stop_writer(self.log_dir, timeout=PATIENCE_SECONDS)
        with rl.open_reader(self.log_dir) as reader:
            log, start = [], reader.first_index
            while start <= reader.last_index:
                entries = reader.read(start, max_bytes=1 << 20)
                log += [Record(entry.index, entry.term, digest_of(entry.payload)) for entry in entries]
                start = entries[-1].index + 1
        readers = [read_records(self.folder / f"reader-{number}.txt") for number in range(1, READERS + 1)]
        found = problems(requests, log, readers)
        assert self.figures is not None
        if not self.figures.after_kill:
            found.append("nothing was acknowledged after the kill")
        self.rows += [
            ("gap after the kill", f"{milliseconds(self.figures.gap_ms)} without an acknowledgement"),
            ("worker processes", f"{self.figures.workers} of {WORKERS} appended"),
        ]
        for number, seen in enumerate(readers, 1):
            said = "every entry, in order, equal to the log" if seen == log else "NOT the same as the log"
            self.rows.append((f"reader {number}", f"{len(seen):,}: {said}"))
        for line in shorten(sorted({request.detail for request in requests if request.detail})):
            self.screen.step(f"  not acknowledged: {line}")
        return found

    def end(self) -> None:
        """End every process of this run."""
        self.children.end_all()
        if os.path.isdir(self.log_dir):
            end_writer(self.log_dir)


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="several web workers, one durable log, one kill -9")
    parser.add_argument("--seconds", type=float, default=18.0, help="length of the load (default: 18)")
    parser.add_argument("--clients", type=int, default=4, help="client processes (default: 4)")
    parser.add_argument("--connections", type=int, default=4, help="connections of each client (default: 4)")
    parser.add_argument("--strategy", choices=[str(kind) for kind in rl.PersistenceStrategy], default="disk_first")
    parser.add_argument("--flush-policy", default="immediate", help="immediate, batch:ENTRIES:MS, adaptive:MS")
    parser.add_argument("--seed", type=int, default=1, help="of the bodies' random bytes (default: 1)")
    parser.add_argument("--dir", help="put the log into a new folder there (default: the temporary folder)")
    options = parser.parse_args(arguments)
    if options.seconds < 2 or options.clients < 1 or options.connections < 1:
        parser.error("give at least --seconds 2, --clients 1 and --connections 1")
    return options


def interrupt(*_: object) -> None:
    """SIGTERM ends the demo as Ctrl-C does: with all its processes."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parse_options(arguments)
    signal.signal(signal.SIGTERM, interrupt)
    folder = Path(tempfile.mkdtemp(prefix="raftlog-demo-", dir=options.dir))
    found: list[str] = []
    code = 1
    with Screen() as screen:
        demo = Demo(options, folder, screen)
        try:
            try:
                found = demo.run()
                code = 1 if found else 0
            except (DemoFailed, rl.RaftLogError) as error:
                found = [f"{type(error).__name__}: {error}" if isinstance(error, rl.RaftLogError) else str(error)]
            except KeyboardInterrupt:
                code = 130
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not leave processes behind
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        finally:
            demo.end()
            if code != 1:
                shutil.rmtree(folder, ignore_errors=True)
    if demo.figures is not None:
        screen.console.print(table(demo.figures, demo.rows))
    if code == 0:
        screen.step("PASS: every acknowledged request is in the log exactly once, at the index that was returned")
    elif code == 130:
        screen.step("interrupted: every process was ended, everything was removed")
    else:
        for line in found:
            screen.step(f"FAIL: {line}")
        screen.step(f"kept for inspection: {folder}")
    return code


if __name__ == "__main__":
    sys.exit(main())
