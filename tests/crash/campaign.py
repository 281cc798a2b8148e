"""Many runs of the explorer, each life from another seed; and one state of one of them again."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection

from .disk import Disk, State, materialise
from .examine import examine, quick_memory
from .explorer import Explorer, Report, Run, fast_folder, keeper, killed_keeper, record, record_recovery
from .look import Found, Violation, judge
from .memory import Memory
from .scenarios import PROFILES, Profile

NAMES = {profile.name: profile for profile in PROFILES}


def explore_profile(
    profile: Profile, states: int, seed: int, *, coins: int = 4, every: int = 1, violations_max: int = 20,
    without: Collection[str] = (), progress: Callable[[int], None] = lambda distinct: None,
) -> Report:  # fmt: skip
    """At least ``states`` distinct states of a profile, from seeds ``seed``, ``seed + 1`` ...; ``every``: prefixes."""
    report, folder = Report(profile.name), fast_folder()
    try:
        with quick_memory():
            while report.distinct < states and not report.violations:
                where = f"profile={profile.name!r} seed={seed}"
                try:
                    run = record(folder, profile, seed)
                except Violation as violation:  # not even a life without power cuts is right
                    report.violations.append((where, violation))
                    break
                explorer = Explorer(
                    folder, report, coins=coins, limit=states, violations_max=violations_max,
                    without=without, progress=progress,
                )  # fmt: skip
                explorer.explore(run, every=every, offset=seed)
                report.lives += 1
                seed += 1
    finally:
        shutil.rmtree(folder)
    return report


# ---------------------------------------------------------------- one state again
PLACE = re.compile(r"profile='(?P<profile>[^']+)' seed=(?P<seed>\d+)")
CUT = re.compile(r"prefix=(?P<prefix>\d+) choice='(?P<choice>[^']+)'")


def replay(where: str, keep_at: str | None = None) -> tuple[list[str], Found | None, list[Violation]]:
    """Make the state that a violation names again: the last steps before the crash, what was found, what is wrong.

    ``keep_at``: leave the state there, as it was before any recovery.  Raises ``ValueError`` if ``where`` names none.
    """
    place, cuts = PLACE.search(where), CUT.findall(where)
    if place is None or place["profile"] not in NAMES:
        raise ValueError(f"{where!r} does not name a state: profile='...' seed=N prefix=N choice='...' is due")
    folder = fast_folder()
    try:
        with quick_memory():
            run = record(folder, NAMES[place["profile"]], int(place["seed"]))
            for depth, (prefix, choice) in enumerate(cuts, 1):
                state, memory = state_at(run, int(prefix), choice)
                if depth < len(cuts):
                    inner = record_recovery(os.path.join(folder, "inner"), run, state, int(prefix), where)
                    if inner is None:
                        raise ValueError(f"{where!r}: the recovery did not come about")
                    run = inner
            if not cuts:
                return [], None, []
            limits = run.story.limits(int(prefix), killed=memory is not None)
            if keep_at is not None:
                shutil.copytree(_made(state, memory, os.path.join(folder, "kept")), keep_at)
            found = examine(state, memory, os.path.join(folder, "state"), strategy=run.strategy)
            steps = [str(op) for op in run.trace[max(0, int(prefix) - 12) : int(prefix)]]
            return steps, found, judge(run.story, limits, found, killed=memory is not None)
    finally:
        shutil.rmtree(folder)


def state_at(run: Run, length: int, choice: str) -> tuple[State, Memory | None]:
    """The state that ``choice`` names after ``length`` steps."""
    if length > len(run.trace):
        raise ValueError(f"prefix={length} does not name a state: there are {len(run.trace)} steps")
    disk = Disk(run.base)
    for op in run.trace[:length]:
        disk.apply(op)
    if choice.startswith("kill "):
        return disk.state(killed_keeper(choice.removeprefix("kill "), disk.doubtful())), run.memory[length]
    return disk.state(keeper(choice, disk.undecided())), None


def _made(state: State, memory: Memory | None, directory: str) -> str:
    materialise(state, directory)
    if memory is not None:
        memory.restore(directory)
    return directory
