"""One soak: starts the processes, applies the pressure, kills and stops, samples, and gathers what is known."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
from demo_processes import TOOLS, Children, DemoFailed
from soak_check import ACKNOWLEDGED, RECORD, Payloads, Record, check_log, read_records
from soak_plan import Plan, ProducerSpec
from soak_pressure import Disk, Real, Simulated, write_whole
from soak_verdict import Event, Limits, ReaderEnd, Run, Sample, Stop, series_of

import raftlog_mp as rl

PATIENCE_SECONDS = 60.0  # for each step that is not the load itself
TICK_SECONDS = 0.02
SAMPLE_SECONDS = 0.25
OWN_NUMBER = 0  # the soak's own producer number: it appends the last entry
INCARNATIONS = 1000  # number = slot * this + incarnation
clock = time.monotonic


class Slot:
    """A place that a process fills: killed, it is filled anew."""

    def __init__(self, name: str) -> None:
        self.name, self.incarnation = name, 0
        self.process: subprocess.Popen[bytes] | None = None
        self.probe: psutil.Process | None = None
        self.stopped_until: float | None = None
        self.stopped_at = 0.0

    @property
    def key(self) -> str:
        """Name of the process, and of its output file."""
        return f"{self.name}.{self.incarnation}"

    def rss_bytes(self) -> int:
        """Resident memory; 0 if it does not run."""
        try:
            return int(self.probe.memory_info().rss) if self.probe is not None else 0
        except psutil.Error:
            return 0


class Soak:
    """The run.  ``on_sample`` and ``on_event`` show it while it goes on."""

    def __init__(self, plan: Plan, limits: Limits, config: rl.LogConfig, folder: Path, *, seed: int,
                 pressure: Simulated | Real | None, disk: Disk, screen: Any) -> None:  # fmt: skip
        self.plan, self.config, self.folder, self.seed, self.screen = plan, config, folder, seed, screen
        self.pressure, self.disk = pressure, disk
        self.run = Run(plan, limits, records={spec.name: [] for spec in plan.producers})
        self.log_dir = str(folder / "log")
        self.children = Children(folder)
        readers = [f"reader-{number}" for number in range(1, plan.readers + 1)]
        self.slots = {name: Slot(name) for name in ["writer", *self.run.records, *readers]}
        self.by_number: dict[int, list[Record]] = {}
        self._files: dict[Path, tuple[str, int, int]] = {}  # a producer's records: slot, number, bytes that were read
        self._pending = list(plan.actions)
        self._level, self._phase, self._sampled_pid = "none", "", 0
        self._end = Payloads(seed).make(OWN_NUMBER, 1, 64)

    # ------------------------------------------------------------ the whole
    def execute(self) -> Run:
        """Do it all; what went wrong stands in the run's ``failures``."""
        try:
            self._start()
            self._load()
            self._finish()
        except (DemoFailed, rl.RaftLogError) as error:
            self.run.failures.append(f"{type(error).__name__}: {error}".removeprefix("DemoFailed: "))
        finally:
            self._continue_all()
            self.end()
        self._read_records()
        if self.run.integrity is None and not self.run.failures:
            self._compare()
        self.run.series = series_of(self.run)
        return self.run

    def _start(self) -> None:
        (self.folder / "config.json").write_text(json.dumps(self.config.as_dict()), encoding="utf-8")
        self._start_process("writer")
        self._wait_for("the writer", lambda: "serving" in self.children.output(self.slots["writer"].key))
        if isinstance(self.pressure, Real):
            self.slots["holder"] = Slot("holder")
            self._start_process("holder")
        for name in self.slots:
            if name.startswith(("producer", "reader")):
                self._start_process(name)
        with rl.open_reader(self.log_dir) as reader:
            wanted = len(self.plan.producers), self.plan.readers + 1
            self._wait_for("producers and readers", lambda: here(reader) >= wanted)

    def _load(self) -> None:
        origin = self.run.origin_s = clock() + 0.05
        write_whole(self.folder / "go", repr(origin))
        with rl.open_reader(self.log_dir, timeout=1.0) as reader:
            sample_at = origin
            while (now := clock()) < origin + self.plan.seconds:
                t = now - origin
                if self.pressure is not None:
                    self.pressure.apply(self.plan.height_at(t))
                self.disk.apply(self.plan.fsync_ms_at(t))
                self._act(t)
                self._check_children()
                if now >= sample_at:
                    sample_at = max(sample_at + SAMPLE_SECONDS, now)
                    if self._can_sample():
                        self._sample(reader, t)
                time.sleep(TICK_SECONDS)
            self._continue_all()
            self._wait_for("the producers' last answers", lambda: self._ended("producer"))
            self._check_children(ended=True)
            self.disk.apply(0.0)
            if self.pressure is not None:
                self.pressure.apply(0.0)
            self._settle(reader)

    def _settle(self, reader: rl.LogReader) -> None:
        """Some samples later than the last injected reading: the level must be back by then."""
        until = clock() + max(1.0, 5 * self.config.pressure.sample_ms / 1000)
        while (level := reader.stats().pressure_level) != "none" and clock() < until:
            time.sleep(TICK_SECONDS)
        self.run.final_level = level

    def _finish(self) -> None:
        with rl.open_log(self.log_dir, create=False, autostart=False, timeout=PATIENCE_SECONDS) as log:
            sent = clock()
            index = log.append(self._end)
            log.flush()
            self.by_number[OWN_NUMBER] = [Record(1, 1, ACKNOWLEDGED, index, sent, clock(), 0.0, 0.0)]
        self._wait_for("the readers", lambda: self._ended("reader"))
        self._check_children(ended=True)
        for number in range(1, self.plan.readers + 1):
            self.run.readers.append(ReaderEnd(f"reader-{number}", *self._progress(f"reader-{number}")))
        for name in ("holder", "writer"):
            slot = self.slots.get(name)
            if slot is not None and slot.process is not None:
                slot.process.terminate()
                try:
                    slot.process.wait(PATIENCE_SECONDS)
                except subprocess.TimeoutExpired:
                    raise DemoFailed(f"the {name} did not end within {PATIENCE_SECONDS:.0f} s") from None
        self.run.leaked = [f"pid {process.pid}: {what}" for process, what in self._remaining()]

    # ------------------------------------------------------------ processes
    def _start_process(self, name: str) -> None:
        slot = self.slots[name]
        slot.incarnation += 1
        out = self.folder / f"{slot.key}.out"
        if name == "writer":
            command = [str(TOOLS / "soak_slow_writer.py"), self.log_dir, "--config", str(self.folder / "config.json"),
                       "--delay", str(self.disk.path)]  # fmt: skip
        elif name == "holder":
            command = [str(TOOLS / "soak_pressure.py"), str(self.folder / "hold_mib")]
        else:
            role, spec = ("read", self._reader_spec(slot)) if name.startswith("reader") else (
                "produce", self._producer_spec(slot))  # fmt: skip
            file = self.folder / f"{slot.key}.json"
            file.write_text(json.dumps({**spec, "out": str(out), "seed": self.seed}), encoding="utf-8")
            command = [str(TOOLS / "soak_worker.py"), role, self.log_dir, str(file)]
            if role == "produce":
                out.touch()
                self._files[out] = (name, spec["number"], 0)
        slot.process = self.children.start(slot.key, command)
        slot.probe = psutil.Process(slot.process.pid)

    def _producer_spec(self, slot: Slot) -> dict[str, Any]:
        place, spec = next((n, s) for n, s in enumerate(self.plan.producers, 1) if s.name == slot.name)
        assert isinstance(spec, ProducerSpec)
        return {**spec._asdict(), "number": place * INCARNATIONS + slot.incarnation, "go": str(self.folder / "go"),
                "until_s": self.plan.seconds, "timeout_s": self.run.limits.timeout_s}  # fmt: skip

    def _reader_spec(self, slot: Slot) -> dict[str, Any]:
        index, chain = self._progress(slot.name)
        # While the pressure is hard nothing is appended, and in a long run that is long.
        pressed = sum(p.end_s - p.start_s for p in self.plan.phases if p.name in ("rise", "high", "fall"))
        return {"index": index, "chain": chain, "last": self._end.hex(), "silence_s": PATIENCE_SECONDS + pressed}

    def _progress(self, name: str) -> tuple[int, int]:
        """How far a reader, in all its incarnations, came: last index, CRC up to there."""
        for incarnation in range(self.slots[name].incarnation, 0, -1):
            path = self.folder / f"{name}.{incarnation}.out"
            lines = path.read_text(encoding="ascii").split("\n")[:-1] if path.exists() else []
            if lines:
                _, index, chain = lines[-1].split()
                return int(index), int(chain)
        return 0, 0

    def _ended(self, prefix: str) -> bool:
        return all(slot.process is not None and slot.process.poll() is not None
                   for slot in self.slots.values() if slot.name.startswith(prefix))  # fmt: skip

    def _check_children(self, *, ended: bool = False) -> None:
        """Whoever ended by itself failed, unless it was time to end."""
        for slot in self.slots.values():
            code = slot.process.poll() if slot.process is not None else None
            if code or (code == 0 and not ended):
                raise DemoFailed(f"{slot.name} ended with code {code}: {self.children.output(slot.key)[-600:].strip()}")

    def _wait_for(self, what: str, ready: Any) -> None:
        deadline = clock() + PATIENCE_SECONDS
        while not ready():
            if clock() >= deadline:
                raise DemoFailed(f"{what}: not there within {PATIENCE_SECONDS:.0f} s")
            self._check_children(ended=True)
            time.sleep(TICK_SECONDS)

    def _remaining(self) -> list[tuple[psutil.Process, str]]:
        """Processes that name this run's folder, or that descend from this one, and still run."""
        family = {child.pid for child in psutil.Process().children(recursive=True)}
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                mine = any(part.startswith(str(self.folder)) for part in line) or process.pid in family
                if mine and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    found.append((process, " ".join(line)))
        return found

    def end(self) -> None:
        """End whatever still runs, by its id."""
        self.children.end_all()
        for process, _ in self._remaining():
            with contextlib.suppress(psutil.Error):
                process.kill()
                process.wait(10.0)

    # ------------------------------------------------------------ kills and stops
    def _act(self, t: float) -> None:
        for slot in self.slots.values():
            if slot.stopped_until is not None and t >= slot.stopped_until:
                self._continue(slot)
        while self._pending and self._pending[0].at_s <= t:
            action = self._pending.pop(0)
            slot = self.slots[action.target]
            assert slot.process is not None
            if action.kind == "stop":
                if slot.stopped_until is None:
                    slot.stopped_at = clock()
                    slot.process.send_signal(signal.SIGSTOP)
                    self._event("stop", slot.name, f"pid {slot.process.pid} for {action.seconds:.1f} s")
                slot.stopped_until = max(slot.stopped_until or 0.0, t + action.seconds)
            else:
                self._forget_stop(slot)
                slot.process.kill()
                slot.process.wait()
                self._event("kill", slot.name, f"pid {slot.process.pid}")
                self._start_process(slot.name)

    def _continue(self, slot: Slot) -> None:
        self._forget_stop(slot)
        assert slot.process is not None
        slot.process.send_signal(signal.SIGCONT)
        self._event("continue", slot.name, f"pid {slot.process.pid}")

    def _forget_stop(self, slot: Slot) -> None:
        if slot.stopped_until is not None:
            self.run.stops.append(Stop(slot.name, slot.stopped_at, clock()))
            slot.stopped_until = None

    def _continue_all(self) -> None:
        for slot in self.slots.values():
            if slot.stopped_until is not None:
                self._continue(slot)

    def _event(self, kind: str, target: str, detail: str) -> None:
        event = Event(round(clock() - self.run.origin_s, 3), kind, target, detail)
        self.run.events.append(event)
        self.screen.event(event)

    # ------------------------------------------------------------ looking
    def _can_sample(self) -> bool:
        """A stopped writer can be sampled, but nobody can connect to it: the wait for it would keep it stopped."""
        slot = self.slots["writer"]
        assert slot.process is not None
        return slot.stopped_until is None or self._sampled_pid == slot.process.pid

    def _sample(self, reader: rl.LogReader, t: float) -> None:
        fresh = self._read_records()
        phase = self.plan.phase_at(t)
        if phase != self._phase:
            self._phase = phase
            self._event("phase", phase, "")
        with contextlib.suppress(rl.RaftLogError):  # between two writers there is nothing to sample
            stats = reader.stats()
            self._sampled_pid = stats.writer_pid
            limit = stats.memory_limit_bytes
            sample = Sample(
                t=round(t, 3), phase=phase, state=stats.state, level=stats.pressure_level,
                unflushed_bytes=stats.unflushed_bytes, unflushed_entries=stats.unflushed_entries,
                index_bytes=index_bytes(self.log_dir),
                rss={slot.name: slot.rss_bytes() for slot in self.slots.values()},
                used_share=round(stats.memory_used_bytes / limit, 4) if limit else None,
                fsync_ms=self.plan.fsync_ms_at(t), last_index=stats.last_index,
                fsyncs=stats.fsyncs, fsync_ms_total=round(stats.fsyncs * stats.fsync_ms_mean, 3),
            )  # fmt: skip
            if sample.level != self._level:
                self._event("level", sample.level, f"from {self._level}")
                self._level = sample.level
            self.run.samples.append(sample)
            self.screen.sample(self.run, sample, fresh)

    def _read_records(self) -> list[Record]:
        """What producers have written since the last look."""
        found = []
        for path, (name, number, position) in self._files.items():
            fresh = read_records(path, position)
            self._files[path] = (name, number, position + len(fresh) * RECORD.size)
            self.run.records[name] += fresh
            self.by_number.setdefault(number, []).extend(fresh)
            found += fresh
        return found

    def _compare(self) -> None:
        """Read the whole log from its files alone, and compare."""
        with rl.open_reader(self.log_dir) as reader:
            self.run.integrity = check_log(entries_of(reader), self.by_number, Payloads(self.seed))


def entries_of(reader: rl.LogReader) -> Any:
    """(index, payload) of the whole log."""
    start = reader.first_index
    while start <= reader.last_index:
        entries = reader.read(start, max_bytes=4 << 20)
        yield from ((entry.index, entry.payload) for entry in entries)
        start = entries[-1].index + 1


def here(reader: rl.LogReader) -> tuple[int, int]:
    """Producers and readers that are connected."""
    stats = reader.stats()
    return stats.clients, stats.readers


def index_bytes(log_dir: str) -> int:
    """Shared memory of the active index; for a moment there are two, when a segment is full."""
    total = 0
    for path in Path(log_dir, "shm").glob("index-*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
