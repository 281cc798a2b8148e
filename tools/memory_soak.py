"""A memory-pressure soak: a writer, producers and readers under pressure, and a verdict on what they promise.

    python tools/memory_soak.py --seconds 60 --kills 4 --stops 4 --report soak-report

The pressure is *simulated* (injected readings of the machine's memory), *real* (a process that takes and holds memory)
or *none*; ``--fsync-ms`` makes the disk slow while the pressure lasts, ``--ring-mib`` makes the ring small.  At the end
every acknowledged payload must be in the log exactly once, at the index that was returned; memory must have stayed
under its bounds; no call may have taken longer than its timeout; the throughput must be back; no process may be left.
``docs/soak.md`` tells more.  Exit code: 0 PASS, 1 FAIL, 2 usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shlex
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import soak_plan
import soak_profile
import soak_report
from soak_check import PAYLOAD_BYTES_MIN
from soak_plan import Plan
from soak_pressure import MIB, Disk, Real, Simulated, limit_and_used_bytes
from soak_run import Soak
from soak_screen import Screen, summary
from soak_verdict import Limits, problems

import raftlog_mp as rl

PAYLOAD_KIB_MAX = 16
PROFILE_SECONDS, SOAK_SECONDS = 30.0, 60.0
SOAK_SECONDS_MIN = 4.0
SEGMENT_MIB, PROFILE_SEGMENT_MIB = 16, 64  # small files, so that a short run rolls through several; the default
SAMPLE_MS = 50.0
LANE_BYTES = 4 * MIB


def parse_options(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="a memory-pressure soak of the log, with a verdict")
    add = parser.add_argument
    add("--seconds", type=float, help=f"length of the load (default: {SOAK_SECONDS:g}; profile {PROFILE_SECONDS:g})")
    add("--producers", type=int, default=4, help="producer processes (default: 4)")
    add("--readers", type=int, help="reader processes that follow the log (default: 2; profile 0)")
    add("--rate", type=float, default=250.0, help="entries a second of each producer; 0: all it can (default: 250)")
    add("--payload-bytes", type=int, default=1024, help="size of an entry (default: 1024)")
    add("--timeout", type=float, default=5.0, help="seconds that a producer's calls may take (default: 5)")
    add("--grace", type=float, default=1.0, help="seconds by which they may exceed that on a busy machine (default: 1)")
    add("--strategy", choices=[str(kind) for kind in rl.PersistenceStrategy], default="mem_first")
    add("--flush-policy", default="batch:256:20", help="immediate, batch:N:MS or adaptive:MS (default: batch:256:20)")
    add("--ring-mib", type=int, default=4, help="size of the ring (default: 4)")
    add("--segment-mib", type=int, help=f"segment size (default: {SEGMENT_MIB}; profile {PROFILE_SEGMENT_MIB})")
    add("--pressure", choices=["simulated", "real", "none"], default="simulated")
    add("--hold-mib", type=int, default=64, help="real pressure: memory to hold at most (default: 64)")
    add("--fsync-ms", type=float, help="each fsync takes so much longer under pressure (default: 0; profile 50)")
    add("--kills", type=int, default=0, help="processes to kill (SIGKILL) and start again (default: 0)")
    add("--stops", type=int, default=0, help="processes to stop for a while (SIGSTOP) (default: 0)")
    add("--seed", type=int, default=1, help="of kills, stops and payloads (default: 1)")
    add("--recovered", type=float, default=0.7, help="share of the throughput that must come back (default: 0.7)")
    add("--profile", choices=["slow-disk"], help="no pressure, but floods against a slow disk, and a polite client")
    add("--report", type=Path, metavar="DIR", help="write soak.json, soak.html and soak.png there")
    add("--json", action="store_true", help="print the report as JSON; everything else goes to stderr")
    add("--dir", help="put the log into a new folder there (default: the temporary folder)")
    add("--keep", action="store_true", help="keep that folder")
    options = parser.parse_args(arguments)
    if options.seconds is None:
        options.seconds = PROFILE_SECONDS if options.profile else SOAK_SECONDS
    if options.readers is None:
        options.readers = 0 if options.profile else 2
    if options.segment_mib is None:
        options.segment_mib = PROFILE_SEGMENT_MIB if options.profile else SEGMENT_MIB
    if options.fsync_ms is None:
        options.fsync_ms = 50.0 if options.profile else 0.0
    if options.profile:
        options.pressure = "none"
    check(parser, options)
    return options


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Usage errors, each with what is allowed."""
    largest = PAYLOAD_KIB_MAX * 1024
    rules = [
        (options.seconds >= SOAK_SECONDS_MIN, f"--seconds: give at least {SOAK_SECONDS_MIN:g}"),
        (options.producers >= 1, "--producers: give at least 1"),
        (options.readers >= 0, "--readers: give 0 or more"),
        (options.rate >= 0, "--rate: give 0 or more"),
        (PAYLOAD_BYTES_MIN <= options.payload_bytes <= largest, f"--payload-bytes: {PAYLOAD_BYTES_MIN} to {largest}"),
        (options.timeout > 0, "--timeout: give more than 0"),
        (options.grace >= 0, "--grace: give 0 or more"),
        (1 <= options.ring_mib <= 16384, "--ring-mib: 1 to 16384"),
        (1 <= options.segment_mib <= 16384, "--segment-mib: 1 to 16384"),
        (options.hold_mib >= 0, "--hold-mib: give 0 or more"),
        (0 <= options.fsync_ms <= 10_000, "--fsync-ms: 0 to 10000"),
        (options.kills >= 0 and options.stops >= 0, "--kills, --stops: give 0 or more"),
        (0 < options.recovered <= 1, "--recovered: more than 0, at most 1"),
        (not (options.profile and (options.kills or options.stops)), "--profile kills and stops nobody"),
        (options.dir is None or Path(options.dir).is_dir(), f"--dir: {options.dir} is no folder"),
    ]
    for held, what in rules:
        if not held:
            parser.error(what)
    try:
        rl.LogConfig(flush_policy=options.flush_policy)
    except rl.ConfigError as error:
        parser.error(f"--flush-policy: {error}")


def make_plan(options: argparse.Namespace) -> Plan:
    """What will happen."""
    if options.profile:
        return soak_profile.make_plan(
            seconds=options.seconds, producers=options.producers, readers=options.readers, fsync_ms=options.fsync_ms,
            payload_bytes=options.payload_bytes,
        )  # fmt: skip
    return soak_plan.make_plan(
        seconds=options.seconds, producers=options.producers, readers=options.readers, kills=options.kills,
        stops=options.stops, fsync_ms=options.fsync_ms, rate=options.rate, payload_bytes=options.payload_bytes,
        seed=options.seed,
    )  # fmt: skip


def make_pressure(options: argparse.Namespace, folder: Path) -> tuple[Simulated | Real | None, rl.PressureConfig]:
    """What presses, and the thresholds that the writer watches."""
    if options.pressure == "none":
        return None, rl.PressureConfig(sample_ms=SAMPLE_MS)
    if options.pressure == "simulated":
        simulated = Simulated(folder)
        return simulated, rl.PressureConfig(sample_ms=SAMPLE_MS, root=str(simulated.root))
    real = Real(folder, options.hold_mib)
    limit, used = limit_and_used_bytes()
    return real, real_thresholds(used / limit, real.hold_mib * MIB / limit)


def real_thresholds(used: float, held: float) -> rl.PressureConfig:
    """Thresholds just above what is in use now, so that little memory has to be held to cross them."""
    soft = min(max(used + 0.4 * held, 0.05), 0.97)
    hard = min(max(used + 0.8 * held, soft + 0.005), 0.99)
    return rl.PressureConfig(soft=soft, hard=hard, hysteresis=min(0.1 * held, 0.05), sample_ms=SAMPLE_MS)


def make_soak(options: argparse.Namespace, folder: Path, screen: Screen) -> Soak:
    """Everything put together."""
    pressure, thresholds = make_pressure(options, folder)
    config = rl.LogConfig(
        strategy=options.strategy, flush_policy=options.flush_policy, ring_bytes=options.ring_mib * MIB,
        segment_bytes=options.segment_mib * MIB, lane_bytes=LANE_BYTES, pressure=thresholds,
    )  # fmt: skip
    limits = Limits(
        ring_bytes=config.ring_bytes, max_buffered_bytes=config.buffered_bytes_limit, timeout_s=options.timeout,
        grace_s=options.grace, recovered_share=options.recovered,
        must_reach="hard" if isinstance(pressure, Simulated) else "none",
    )  # fmt: skip
    return Soak(make_plan(options), limits, config, folder, seed=options.seed, pressure=pressure, disk=Disk(folder),
                screen=screen)  # fmt: skip


def finish(options: argparse.Namespace, soak: Soak, found: list[str], started: str, screen: Screen) -> None:
    """Report, in all the ways that were asked for."""
    command = shlex.join(["python", "tools/memory_soak.py", *(options.arguments or [])])
    shown = {name: value for name, value in soak_report.options_of(options).items() if name != "arguments"}
    report: dict[str, Any] = soak_report.as_dict(soak.run, found, command=command, options=shown, started=started)
    if options.profile:
        report["profile"] = soak_profile.as_dicts(soak_profile.rows_of(soak.run, options.strategy))
    screen.console.print(summary(report["figures"]))
    for row in report.get("profile", []):
        held = {True: "held", False: "NOT HELD", None: "-"}[row["held"]]
        screen.step(f"{held}: {row['what']}: {row['found']}; wanted: {row['wanted']}")
    if options.report is not None:
        pressure = soak.config.pressure if soak.pressure is not None else None
        thresholds = (pressure.soft, pressure.hard) if pressure is not None else None
        for path in soak_report.write(options.report, report, thresholds):
            screen.step(f"report: {path}")
        if not (options.report / "soak.png").exists():
            screen.step(soak_report.soak_plots.ADVICE)
    if options.json:
        print(json.dumps(report, allow_nan=False))


def interrupt(*_: object) -> None:
    """SIGTERM ends the soak as Ctrl-C does: with all its processes."""
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    options = parse_options(arguments)
    options.arguments = sys.argv[1:] if arguments is None else arguments
    signal.signal(signal.SIGTERM, interrupt)
    folder = Path(tempfile.mkdtemp(prefix="raftlog-soak-", dir=options.dir))
    started = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    code = 1
    try:
        with Screen(stderr=options.json) as screen:
            soak = make_soak(options, folder, screen)
            what = f"{options.seconds:g} s, {options.strategy}, {options.flush_policy}, ring {options.ring_mib} MiB"
            screen.step(f"soak: {what}, pressure {options.pressure}, seed {options.seed}, in {folder}")
            found = problems(soak.execute())
        finish(options, soak, found, started, screen)
        code = 1 if found else 0
        for line in found:
            screen.step(f"FAIL: {line}")
        if not found:
            screen.step("PASS: bounds held, nothing acknowledged was lost, throughput recovered, no process was left")
        elif not options.keep:
            options.keep = True
            screen.step(f"kept for inspection: {folder}")
    except KeyboardInterrupt:
        code = 130
        print("interrupted: every process was ended", file=sys.stderr)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
