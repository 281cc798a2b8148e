"""``check_log``: is anything in the log's directory out of order, and what does it mean?  Strictly read-only.

Every live segment is read and every checksum verified; the manifest, both slots of the hard state, the cache files, the
leftovers and the quarantine are looked at; and start-up's own plan says what the next start would do.  Beside a running
writer the newest segment is read up to what is durable, and whatever looks wrong is looked at again if the log has
changed meanwhile: a change is no damage.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from . import diagnoses, layout, manifest, place, provable, shm, wakeup
from . import format as fmt
from .catalog import SegmentInfo
from .control import open_control
from .diagnoses import DAMAGE, INFO, WARNING, Diagnosis
from .errors import CorruptLog, RaftLogError, VersionMismatch
from .files import Files, PathLike, join, real_path
from .findings import Plan, expected_header, make_plan
from .manifest import Manifest, shm_folder
from .processes import in_workers
from .records import entries_in_words, scan_segment
from .segment_check import Inspected, Task, inspect

TRIES = 5  # looks at a log that keeps changing while it is looked at
ALONE_SECONDS = 2.0  # of reading here; if as much remains, other processes pay: each needs 0.3 s of a core to begin

Progress = Callable[[int, int], object]


@dataclass(slots=True)
class Report:
    """What :func:`check_log` found."""

    path: str
    findings: list[Diagnosis] = field(default_factory=list)
    segments: list[Inspected] = field(default_factory=list)
    first_index: int = 0
    last_index: int = 0  # as readers have it, which also serve what proves behind damage; of a running log: durable
    live: bool = False  # a writer was running
    lost: int = 0  # entries among them that a repair has given up; reads of them raise CorruptLog
    bytes: int = 0  # read

    @property
    def sound(self) -> bool:
        """Whether there is neither damage nor a warning; information may be there."""
        return not self.problems

    @property
    def problems(self) -> list[Diagnosis]:
        """The findings that are more than information."""
        return [found for found in self.findings if found.severity != INFO]

    @property
    def entries(self) -> int:
        """Entries that the log consists of."""
        return max(self.last_index + 1 - self.first_index, 0) if self.first_index else 0

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        segments = [
            {"file": one.file, "first_index": one.info.base_index, "last_index": one.last_index, "records": one.records,
             "entries": one.entries, "bytes": one.bytes, "sealed": one.info.sealed, "sound": one.sound}
            for one in self.segments
        ]  # fmt: skip
        return {
            "path": self.path, "sound": self.sound, "live": self.live, "first_index": self.first_index,
            "last_index": self.last_index, "entries": self.entries, "lost": self.lost, "bytes": self.bytes,
            "findings": [asdict(found) for found in self.findings], "segments": segments,
        }  # fmt: skip


def check_log(
    directory: PathLike, *, processes: int | None = None, progress: Progress | None = None
) -> Report:
    """Look at everything in the log's directory; changes nothing, works beside a running writer.

    ``progress(done_bytes, total_bytes)`` is called as it goes on.  Segments are read in as many ``processes``, which
    end with the call (None: as many as cores, once it has taken two seconds and would take two more; 1: none).
    Raises :class:`NotALog` or :class:`AccessDenied` where there is nothing to look at; damage is told in the report.
    """
    files, path = Files(), real_path(directory)
    if not _holds_segments(files, path):  # with segments and no manifest it was a log: that is a finding
        place.check_place(files, path, create=False)
    examination = _Examination(files, path, processes, progress)
    for attempt in range(TRIES):
        report = examination.look()
        # Whatever seems wrong counts only if nothing changed while it was looked at.
        if report.sound or not examination.changed() or attempt == TRIES - 1:
            break
    return report


def _holds_segments(files: Files, path: str) -> bool:
    try:
        return any(map(fmt.parse_segment_name, files.list_dir(path)))
    except OSError:
        return False


class _Examination:
    """One log, looked at once or several times; what was sound once is not read again."""

    def __init__(self, files: Files, path: str, processes: int | None, progress: Progress | None) -> None:
        self.files, self.path = files, path
        self._processes, self._progress = processes, progress
        self._sound: dict[SegmentInfo, Inspected] = {}
        self._seen: tuple[bool, bytes] = (False, b"")
        self._total = self._done = 0
        self._refused_version = ""
        self.report = Report(path)

    def changed(self) -> bool:
        """Whether the log is not the one that was looked at any more."""
        return self._state() != self._seen

    def _state(self) -> tuple[bool, bytes]:
        try:
            content = self.files.read_file(manifest.manifest_path(self.path))
        except OSError:
            content = b""
        try:
            return self.files.lock_held(join(self.path, fmt.LOCK_NAME)), content
        except RaftLogError:
            return False, content  # diagnoses.lock_of() tells it

    def look(self) -> Report:
        """Everything, once."""
        self._seen, self._refused_version = self._state(), ""
        self.report = report = Report(self.path, live=self._seen[0])
        report.findings += diagnoses.lock_of(self.files, self.path)
        self._hard_state()
        found = self._manifest()
        if found is None:
            self._without_manifest()
        else:
            self._log(found)
        report.findings += diagnoses.leftovers(self.files, self.path, found, live=report.live)
        rank = {DAMAGE: 0, WARNING: 1, INFO: 2}
        report.findings.sort(key=lambda one: (rank[one.severity], one.file, one.offset or 0))
        return report

    def _say(self, severity: str, file: str, sentence: str, next_step: str = "", **where: Any) -> None:
        letter = where.pop("letter", "")
        self.report.findings.append(
            Diagnosis(letter, "", file, sentence, severity=severity, next_step=next_step, **where)
        )

    # ------------------------------------------------------------ single files
    def _manifest(self) -> Manifest | None:
        try:
            return manifest.load(self.files, self.path)
        except VersionMismatch as error:
            self._say(DAMAGE, fmt.MANIFEST_NAME, diagnoses.newer_in_words(error), diagnoses.UPGRADE)
        except CorruptLog as error:
            there = self.files.exists(manifest.manifest_path(self.path))
            what = "is damaged" if there else "is missing, although there are segments"
            next_step = diagnoses.REPAIR
            if isinstance(error.__cause__, OSError):
                what, next_step = f"cannot be read ({error.__cause__.strerror})", diagnoses.DISK
            self._say(
                DAMAGE, fmt.MANIFEST_NAME, f"the manifest {what}: nothing says which segments the log consists of, so "
                "it opens neither for writing nor for reading", next_step, letter="A", offset=0,
            )  # fmt: skip
        return None

    def _hard_state(self) -> None:
        """Both slots, several times if a writer may be saving."""
        for _ in range(TRIES):
            found = diagnoses.hard_state_of(self.files, self.path)
            if not found or not self.report.live:
                break
        self.report.findings += found

    def _without_manifest(self) -> None:
        """No manifest: each segment by itself, so that it is known what is there to be saved."""
        for name in filter(fmt.parse_segment_name, self.files.list_dir(self.path)):
            try:
                scan = scan_segment(join(self.path, name), files=self.files)
            except (VersionMismatch, OSError) as error:
                self._say(DAMAGE, name, f"the segment cannot be read: {error}")
                continue
            self.report.bytes += scan.bytes
            held = entries_in_words(scan.first_index, scan.last_good_index if scan.records else None)
            self._say(INFO, name, f"{held}, in records that prove by themselves ({scan.records})")
            for record in scan.damaged:
                self._say(DAMAGE, name, record.sentence(), diagnoses.REPAIR, offset=record.offset)

    # ------------------------------------------------------------ the log
    def _log(self, found: Manifest) -> None:
        report, live = self.report, self.report.live
        durable, last_index = self._frontiers(found) if live else (0, 0)
        plan = None if live else self._plan(found)
        report.first_index = found.purged_index + 1
        report.last_index = last_index if live else found.purged_index
        if plan is not None:
            report.last_index = self._last_served(found, plan)
        for before, after in zip(found.segments, found.segments[1:], strict=False):
            report.findings += diagnoses.between(before, after)
        report.segments = self._inspect([self._task(found, info, live, durable) for info in found.segments])
        report.bytes = sum(one.bytes for one in report.segments)
        mark = max([found.durable, durable, *(one.mark for one in report.segments)])
        rows = {one.file: one for one in plan.findings} if plan is not None else {}
        for one in report.segments:
            row = rows.get(one.file)
            report.findings += diagnoses.of_segment(one, found, row, mark, live=live)
        if self._refused_version and not any(one.newer for one in report.segments):
            name = self._refused_version.partition(" ")[0]
            sentence = (
                "a version number looks like a newer release's, but its checksum does not hold, and the manifest says "
                "that no newer release wrote here: it is damaged, and a writer refuses to start"
            )
            next_step = diagnoses.REPAIR
            if name == fmt.control_name(found.generation):
                sentence, next_step = self._refused_version + ": a writer refuses to start", diagnoses.OTHER_RELEASE
            report.findings = [
                replace(one, next_step=next_step) if (one.file, one.next_step) == (name, diagnoses.START) else one
                for one in report.findings
            ]
            self._say(DAMAGE, name, sentence, next_step, offset=0)
        if plan is not None:
            report.findings += diagnoses.of_plan(plan, found, report.segments, report.findings)
        report.findings += diagnoses.of_losses(found)
        report.lost = sum(last + 1 - first for first, last, _, _ in found.live_lost())

    def _plan(self, found: Manifest) -> Plan | None:
        try:
            return make_plan(self.files, self.path, found)
        except VersionMismatch as error:
            self._refused_version = diagnoses.newer_in_words(error)
            return None
        except (OSError, ValueError) as error:
            self._say(DAMAGE, fmt.MANIFEST_NAME, f"start-up cannot make a plan for this log: {error}", diagnoses.REPAIR)
            return None

    def _last_served(self, found: Manifest, plan: Plan) -> int:
        """As a reader without a writer has it: of a log that will not start, what proves behind the damage, too."""
        if plan.refusal is None:
            return plan.last_index
        try:
            return provable.look(self.files, self.path, found).plan.last_index
        except (OSError, ValueError, RaftLogError):  # told elsewhere: here it is a number in the summary
            return plan.last_index

    def _frontiers(self, found: Manifest) -> tuple[int, int]:
        """What the running writer says is durable: stream position and index."""
        try:
            control = open_control(join(shm_folder(self.path, found), fmt.control_name(found.generation)))
        except (OSError, ValueError, VersionMismatch):
            return 0, 0  # it is starting or stopping; what seems wrong is looked at again
        words = control.snapshot()
        control.close()
        mine = (words["log_id"], words["generation"]) == (found.log_id, found.generation)
        if not mine or (words["boot_id_high"], words["boot_id_low"]) != shm.boot_id():
            return 0, 0
        if words["state"] == layout.STATE_FAILED:
            self._say(
                WARNING, fmt.control_name(found.generation), "the disk failed under the running writer: the log is "
                "read-only, and what it acknowledged from memory last is not on disk",
                "see to the disk, then restart the writer", first_index=words["durable_index"] + 1,
            )  # fmt: skip
        running = words["state"] in (layout.STATE_RUNNING, layout.STATE_FAILED)
        return (words["durable"] if running else 0), words["durable_index"]

    def _task(self, found: Manifest, info: SegmentInfo, live: bool, durable: int) -> Task:
        limit = info.end
        if limit is None and live:
            limit = max(durable, info.start)
        live = live and not info.sealed
        return Task(self.path, info, expected_header(found, info), limit, live=live, purged=found.purged_index)

    def _inspect(self, tasks: list[Task]) -> list[Inspected]:
        known = {task.info.segment_id: self._sound[task.info] for task in tasks if task.info in self._sound}
        due = [task for task in tasks if task.info.segment_id not in known]
        self._done, self._total = 0, sum(task.info.size_due() for task in due)
        with closing(self._inspect_each(due)) as found:  # whatever ends it: no process is left behind
            for one in found:
                known[one.info.segment_id] = one
                if one.sound and one.info.sealed:
                    self._sound[one.info] = one
        return [known[task.info.segment_id] for task in tasks]

    def _inspect_each(self, tasks: list[Task]) -> Generator[Inspected, None, None]:
        due, began, count = tasks[::-1], wakeup.now(), self._processes or wakeup.cores()
        while due and (count == 1 or (self._processes is None and not self._long(wakeup.now() - began))):
            yield self._inspect_here(due.pop())
        with closing(in_workers(inspect, due[::-1], min(count, len(due)))) as found:
            for one in found:
                self._tell(one.info.size_due())
                yield one

    def _long(self, seconds: float) -> bool:
        """Whether what remains is worth other processes, after so many seconds."""
        return seconds >= ALONE_SECONDS and (self._total - self._done) * seconds >= ALONE_SECONDS * self._done

    def _inspect_here(self, task: Task) -> Inspected:
        return inspect(task, self._tell, self.files)

    def _tell(self, done: int) -> None:
        self._done += done
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)
