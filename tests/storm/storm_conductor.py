"""Conducts a storm: starts the processes, kills, pauses and restarts them as a seed says, and judges at the end."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from storm_actors import PATIENCE_S, Life, follow, judge, lead, observe, produce
from storm_board import LEADER_ENDS, PRODUCERS_END, READERS_END, Board
from storm_children import Children, kill_writers_of
from storm_history import Storm, check_storm
from storm_reading import diaries_in, storm_of
from storm_writers import a_step, serve, small
from support.processes import writer_pids

ROLES: dict[str, Callable[[Life], None]] = {
    "p1": produce, "p2": produce, "p3": produce, "leader": lead, "observer": observe,
    "visible": lambda life: follow(life, "visible", False), "durable": lambda life: follow(life, "durable", False),
    "committed": lambda life: follow(life, "committed", False), "resumer": lambda life: follow(life, "visible", True),
}  # fmt: skip
READERS = ("visible", "durable", "committed", "resumer", "observer")
EVENTS = {"writer": 26, "starting": 8, "step": 10, "producer": 20, "leader": 12, "reader": 14, "pause": 9, "stop": 3,
          "all": 1}  # fmt: skip
GOALS = (0, 0, 1, 5, 20, 60)  # answers between two events


class StormFailed(Exception):
    """Something that must not happen did, and the round cannot go on."""


@dataclass
class Tally:
    """What a storm did so far."""

    kills: Counter[str] = field(default_factory=Counter)
    pauses: int = 0
    stops: int = 0
    starts: int = 0  # of writers
    answers: int = 0
    entries: int = 0
    removals: int = 0
    purges: int = 0
    refusals: int = 0
    sightings: int = 0
    rounds: int = 0

    @property
    def killed(self) -> int:
        return sum(self.kills.values())


class Round:
    """One log, its processes and their end."""

    def __init__(self, folder: Path, seed: int, strategy: str, policy: str, *, autostart: bool, bend: str | None,
                 tally: Tally, tick: Callable[[int], None]) -> None:  # fmt: skip
        folder.mkdir(parents=True)
        self.folder, self.directory = folder, str(folder / "log")
        self.chance, self.strategy, self.config = random.Random(seed), strategy, small(strategy, policy)
        self.autostart, self.bend, self.tally, self.tick = autostart, bend, tally, tick
        self.board, self.children = Board(), Children(folder)
        self.actors: dict[str, int] = {}  # role -> pid
        self.writer = 0  # pid of the one that we started
        self.count: Counter[str] = Counter()
        self.problems: list[str] = []
        self.over = False

    # ------------------------------------------------------------ processes
    def start_writer(self, step: object = None) -> None:
        """Start the next writer; returns at once."""
        self.count["writer"] += 1
        me, config = self.count["writer"], self.config
        self.tally.starts += 1
        self.writer = self.children.fork(f"writer-{me}", lambda: serve(
            self.directory, config, self.board, me, self.bend, step, self.autostart))  # fmt: skip

    def start_actor(self, role: str) -> None:
        """Start whoever plays a role now."""
        self.count[role] += 1
        name = f"{role.rstrip('0123456789')}{role[-1] if role[-1].isdigit() else 0}.{self.count[role]}"
        life = Life(self.directory, self.folder, self.board, name, role, self.chance.getrandbits(32), self.autostart)
        self.actors[role] = self.children.fork(name, lambda: ROLES[role](life))

    def until_serving(self) -> None:
        """Wait until the writer that was started serves."""
        me = self.count["writer"]
        self.wait_for("the writer serves", lambda: self.board.serving == me or not self.children.runs(self.writer))

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float = PATIENCE_S) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            self.tend()
            if time.monotonic() > deadline:
                raise StormFailed(f"waited {seconds:.0f} s in vain: {what}")
            time.sleep(0.0005)

    def tend(self) -> None:
        """Notice who has ended: a writer that killed itself is followed by the next; nobody else may end."""
        self.tick(self.board.entries)
        for pid in self.children.take_news():
            code, name = self.children.ended[pid], self.children.names[pid]
            if pid == self.writer and code == -signal.SIGKILL:
                self.tally.kills["writer at a step"] += 1
                self.start_writer()
            elif pid == self.writer and self.client_was_faster(pid):
                self.writer = 0
            elif pid == self.writer and self.autostart and code == 0:
                self.writer = 0  # all its clients were dead for longer than it lingers
            elif (pid == self.writer or pid in self.actors.values()) and not (code == 0 and self.board.phase):
                raise StormFailed(f"{name} ended with code {code}: {self.children.errors(pid)}")

    def client_was_faster(self, pid: int) -> bool:
        """Whether the writer that we started found the log taken: one that a client had started serves it."""
        return self.autostart and "LogLocked" in self.children.errors(pid)

    # ------------------------------------------------------------ events
    def kill_writer(self, kind: str = "writer") -> bool:
        """SIGKILL whichever writer serves now, or is about to."""
        self.tend()
        killed = self.children.kill(self.writer) if self.writer else False
        if self.writer and not killed and self.children.ended.get(self.writer) == -signal.SIGKILL:
            killed, kind = self.children.noticed(self.writer), "writer at a step"  # it was faster
        if not killed and self.autostart:
            killed = kill_writers_of(self.directory) > 0
        self.writer = 0
        self.tally.kills[kind] += killed
        return killed

    def kill_actor(self, role: str, kind: str) -> None:
        if self.children.kill(self.actors[role]):
            self.tally.kills[kind] += 1
        self.start_actor(role)

    def event(self) -> None:
        """One blow, chosen by the seed."""
        chance = self.chance
        kind = chance.choices(list(EVENTS), list(EVENTS.values()))[0]
        if kind == "writer":
            self.kill_writer()
            if not self.autostart or chance.random() < 0.3:
                self.start_writer()
        elif kind == "starting":
            self.kill_writer()
            self.start_writer()
            self.pass_time(chance.random() * 0.03)
            self.kill_writer("writer starting")
            self.start_writer()
        elif kind == "step":
            self.kill_writer()
            self.start_writer(a_step(chance))
        elif kind == "producer":
            self.kill_actor(chance.choice(("p1", "p2", "p3")), "producer")
        elif kind == "leader":
            self.kill_actor("leader", "leader")
        elif kind == "reader":
            self.kill_actor(chance.choice(READERS), "reader")
        elif kind == "pause":
            self.pause(chance.choice([*self.actors.values(), self.writer, self.writer]))
        elif kind == "stop":
            self.stop_writer()
            self.start_writer()
        else:
            self.kill_writer()
            for role in self.actors:
                self.kill_actor(role, {"p": "producer", "l": "leader"}.get(role[0], "reader"))
            self.start_writer()

    def pause(self, pid: int) -> None:
        """SIGSTOP, and after a while SIGCONT; now and then death comes in between."""
        if pid and self.children.signal(pid, signal.SIGSTOP):
            self.tally.pauses += 1
            self.pass_time(self.chance.choice((0.001, 0.01, 0.05)))
            if pid == self.writer and self.chance.random() < 0.3:
                self.kill_writer()
                self.start_writer()
            else:
                self.children.signal(pid, signal.SIGCONT)

    def pass_time(self, seconds: float) -> None:
        """Let the others go on for a while."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(0.0005)

    def stop_writer(self) -> None:
        """SIGTERM to our writer, and wait for its orderly end."""
        pid, self.writer = self.writer, 0
        if pid and self.children.signal(pid, signal.SIGTERM):
            code = self.children.wait(pid, PATIENCE_S)
            if code == 1 and self.client_was_faster(pid):
                return
            if code not in (0, -signal.SIGTERM, -signal.SIGKILL):  # TERM: before it had a handler; KILL: a step
                raise StormFailed(f"the writer stopped with {code}: {self.children.errors(pid)}")
            self.tally.kills["writer at a step"] += code == -signal.SIGKILL
            self.tally.stops += 1

    # ------------------------------------------------------------ the whole
    def run(self, kills: int, deadline: float) -> list[str]:
        """Kill about ``kills`` times, come to rest, judge; what is wrong."""
        try:
            self.start_writer()
            self.until_serving()
            for role in ROLES:
                self.start_actor(role)
            self.wait_for("somebody appends", lambda: self.board.answers > 20)
            goal = self.tally.killed + kills
            while self.tally.killed < goal and time.monotonic() < deadline:
                answers = self.board.answers + self.chance.choice(GOALS)
                self.rest(answers)
                self.event()
            self.come_to_rest()
        except StormFailed as failure:
            self.problems.append(str(failure))
        finally:
            self.end()
        return self.problems or self.judge()

    def rest(self, answers: int) -> None:
        """Until so many answers have come, or for a moment: nothing comes while nobody serves or leads."""
        until = time.monotonic() + 0.5
        while self.board.answers < answers and time.monotonic() < until:
            self.tend()
            time.sleep(0.0005)

    def come_to_rest(self) -> None:
        """Everybody ends in order; the log is read live, then from its files alone."""
        before = self.board.answers
        self.tend()
        if not self.autostart and not self.writer:
            self.start_writer()
        self.wait_for("appends go on after the last kill", lambda: self.board.answers > before + 5)
        for phase, roles in ((PRODUCERS_END, ("p1", "p2", "p3")), (LEADER_ENDS, ("leader",)),
                             (READERS_END, READERS)):  # fmt: skip
            self.board.set("phase", phase)
            if phase == READERS_END:
                self.read_log("live")
            for role in roles:
                pid = self.actors[role]
                self.wait_for(f"{role} ends", lambda pid=pid: not self.children.runs(pid))  # type: ignore[misc]
        self.stop_writer()
        if self.autostart:
            self.wait_for("the clients' writer leaves", lambda: not writer_pids(self.directory))
        self.read_log("files")

    def read_log(self, name: str) -> None:
        life = Life(self.directory, self.folder, self.board, f"judge-{name}", name, 0, False)
        pid = self.children.fork(life.name, lambda: judge(life))
        if self.children.wait(pid, PATIENCE_S) != 0:
            raise StormFailed(f"the log cannot be read at the end ({name}): {self.children.errors(pid)}")

    def end(self) -> None:
        """Nothing of this round runs any more."""
        if self.over:
            return
        self.over = True
        self.children.end()
        kill_writers_of(self.directory)
        self.children.reap()
        board, tally = self.board, self.tally
        tally.answers, tally.entries = tally.answers + board.answers, tally.entries + board.entries
        tally.removals, tally.purges = tally.removals + board.removals, tally.purges + board.purges
        tally.refusals += board.refusals
        tally.rounds += 1

    def judge(self) -> list[str]:
        """Check what everybody wrote down."""
        diaries = diaries_in(self.folder)
        live, files = diaries["judge-live"][-1], diaries["judge-files"][-1]
        if live[2:] != files[2:]:
            self.problems.append("the log read from its files is not the log that the writer served")
        storm: Storm = storm_of(self.strategy, diaries)
        self.tally.sightings += sum(len(run.seen) for run in storm.runs)
        return self.problems + check_storm(storm)

    def forget(self) -> None:
        """The round was sound: nothing is kept."""
        shutil.rmtree(self.folder)
