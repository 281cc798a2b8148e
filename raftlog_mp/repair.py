"""Repair: make a plan, look at it, carry it out.

>>> from raftlog_mp import recovery
>>> plan = recovery.plan("/var/lib/app/log")          # doctest: +SKIP
>>> print(*plan.sentences(), sep="\\n")                # doctest: +SKIP
>>> recovery.apply(plan)                              # doctest: +SKIP

A plan is a rehearsal: the repair itself, run on a disk that exists in memory only, up to the proof that start-up then
opens the log.  Every byte that goes is kept in a folder of its own below ``quarantine/``, and so is the plan.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass, field
from typing import Any

from . import errors, manifest, place
from . import format as fmt
from .config import check_integer
from .files import Files, OwnersFiles, PathLike, join, real_path
from .findings import Finding, make_plan
from .lock import take_lock
from .rehearsal import Rehearsal
from .repair_end import Mender
from .repair_steps import Blocked, Progress, Step

PLAN_NAME = "plan.json"


@dataclass(slots=True)
class RepairPlan:
    """What repair would do to a log (``steps``), and what it does not do unasked (``blocked``)."""

    directory: str
    truncate_from: int | None = None
    accept_loss: bool = False
    findings: list[Finding] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    blocked: list[Blocked] = field(default_factory=list)

    @property
    def needed(self) -> bool:
        """Whether there is anything to do or to decide."""
        return bool(self.steps or self.blocked)

    @property
    def kept_bytes(self) -> int:
        """Bytes that go to quarantine."""
        return sum(step.kept_bytes for step in self.steps)

    def sentences(self) -> list[str]:
        """The plan for people: a line for each step, and one for each decision that is due."""
        found = [f"{step.kind}: {step.file}: {step.sentence}" for step in self.steps]
        for one in self.blocked:
            found.append(f"blocked: {one.file}: {one.sentence}" + (f" ({one.needs})" if one.needs else ""))
        if not found and self.truncate_from is not None:
            return [f"nothing to repair: the log ends with entry {self.truncate_from - 1} already"]
        return found or ["nothing to repair"]

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as ``plan.json`` in the quarantine folder holds it."""
        return {
            "directory": self.directory, "truncate_from": self.truncate_from, "accept_loss": self.accept_loss,
            "needed": self.needed, "findings": [asdict(found) for found in self.findings],
            "steps": [step.as_dict() for step in self.steps], "blocked": [one.as_dict() for one in self.blocked],
        }  # fmt: skip


def plan(
    directory: PathLike, *, truncate_from: int | None = None, accept_loss: bool = False,
    progress: Progress | None = None,
) -> RepairPlan:  # fmt: skip
    """Find out what would have to be done to the log.  Changes nothing.

    ``truncate_from``: give up every entry from this index on, where nothing can be proved behind the damage; it must
    not lie above the first damaged entry.  ``accept_loss``: give up what the log still promises: acknowledged entries
    of a damaged ring, a vote, committed entries.  ``progress(done_bytes, total_bytes)`` is called as segments are read.

    Raises :class:`LogLocked` while a writer runs, :class:`NotALog`, :class:`VersionMismatch`, :class:`AccessDenied`,
    and :class:`CorruptLog` if nothing is left that could be repaired.
    """
    check_integer("truncate_from", truncate_from, optional=True)
    path, files = real_path(directory), Files()
    place.check_name(files, path)
    names = files.list_dir(path) if files.is_dir(path) else []
    if fmt.MANIFEST_NAME not in names and not any(map(fmt.parse_segment_name, names)):
        raise manifest.missing(files, path)
    _refuse_while_served(files, path)
    wanted = RepairPlan(path, truncate_from, accept_loss)
    return _rehearse(wanted, lock_missing=fmt.LOCK_NAME not in names, progress=progress)


def apply(plan: RepairPlan, *, progress: Progress | None = None, files: Files | None = None) -> list[Step]:
    """Carry the plan out; returns what was done.  The log can be opened afterwards.

    Takes the log's lock for it.  May be interrupted at any moment: make a plan again, and apply that.  Raises
    :class:`LogLocked` while a writer runs, :class:`CorruptLog` if the plan is blocked, or the log is no longer as it
    was when the plan was made; then nothing has changed.
    """
    if plan.blocked:
        raise errors.CorruptLog("repair needs a decision first: " + "; ".join(plan.sentences()[len(plan.steps) :]))
    if not plan.steps:
        return []
    directory = plan.directory
    files = files or OwnersFiles(directory)
    lock_path = join(directory, fmt.LOCK_NAME)
    lock_missing = not files.exists(lock_path)
    if lock_missing:
        files.write_file(lock_path, b"")
    lock = take_lock(files, directory)
    try:
        again = RepairPlan(directory, plan.truncate_from, plan.accept_loss)
        if _rehearse(again, lock_missing=lock_missing, progress=progress).as_dict() != plan.as_dict():
            raise errors.CorruptLog(f"{directory} has changed since the plan was made; nothing was done. Plan again")
        folder = _quarantine(files, directory)
        files.write_file(join(folder, PLAN_NAME), json.dumps(plan.as_dict(), indent=1).encode())
        cut, accept = plan.truncate_from, plan.accept_loss
        Mender(files, directory, folder, truncate_from=cut, accept_loss=accept, acts=True).run()
        return list(plan.steps)
    finally:
        files.close(lock)


def _rehearse(wanted: RepairPlan, *, lock_missing: bool, progress: Progress | None) -> RepairPlan:
    files, directory = Rehearsal(), wanted.directory
    folder = join(directory, fmt.QUARANTINE_NAME, "rehearsal")
    mender = Mender(
        files, directory, folder, truncate_from=wanted.truncate_from, accept_loss=wanted.accept_loss, acts=False,
        progress=progress,
    )  # fmt: skip
    mender.run()
    if lock_missing:
        wanted.steps.append(Step("make lock", fmt.LOCK_NAME, "the file was missing; it holds nothing to be lost"))
    wanted.steps += mender.steps
    wanted.findings, wanted.blocked = mender.findings, mender.blocked
    if wanted.steps and not wanted.blocked:
        after = make_plan(files, directory, manifest.load(files, directory))
        if after.refusal is not None:
            found = after.refusal
            sentence = f"repair cannot mend this: {found.sentence} (row {found.letter})"
            wanted.blocked.append(Blocked(found.file, sentence))
    return wanted


def _quarantine(files: Files, directory: str) -> str:
    """A new folder for this repair: ``quarantine/repair-0001`` and so on."""
    parent = join(directory, fmt.QUARANTINE_NAME)
    files.make_dir(parent)
    files.sync_dir(directory)  # who made it may have been killed before its name was synced
    taken = [int(n[7:]) for n in files.list_dir(parent) if n.startswith("repair-") and n[7:].isdigit()]
    folder = join(parent, f"repair-{max(taken, default=0) + 1:04d}")
    files.make_dir(folder)
    return folder


def _refuse_while_served(files: Files, directory: str) -> None:
    path = join(directory, fmt.LOCK_NAME)
    if not files.lock_held(path):
        return
    holder = ""
    with contextlib.suppress(OSError):  # somebody holds it all the same
        holder = files.read_file(path)[:32].split(b"\n")[0].decode("ascii", "replace")
    raise errors.LogLocked(
        f"{directory} is owned by the writer process {holder}; stop it first: `raftlog-mp stop {directory}`",
        pid=int(holder) if holder.isdigit() else None,
    )  # fmt: skip
