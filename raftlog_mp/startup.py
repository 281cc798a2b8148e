"""Opening a log for writing: create it if it is new, recover it if it is not, begin a new generation."""

from __future__ import annotations

import errno
import logging
import uuid

from . import errors, hard_state, layout, manifest, probe, shm, wakeup
from . import format as fmt
from .catalog import SegmentInfo
from .changes import Carried
from .config import LogConfig
from .control import create_control, open_control
from .files import Files, join
from .findings import Plan, make_plan
from .journal import Journal
from .manifest import Manifest, shm_folder
from .mending import apply_plan, set_aside
from .place import check_place
from .remains import last_term_of_the_dead
from .ring import RingWriter
from .term_history import merged, runs_in_records, runs_of_log
from .terms import TermTable

logger = logging.getLogger(__name__)

def open_journal(files: Files, directory: str, config: LogConfig | None) -> tuple[Journal, Plan]:
    """Recover the log and begin a new generation.  The caller holds the log's lock.

    An explicit ``config`` wins over the stored one and is stored.  Raises :class:`CorruptLog` with nothing changed.
    """
    try:
        there = check_place(files, directory, create=True)
        stored = manifest.load(files, directory) if there else None
        effective = config or (LogConfig.from_dict(stored.config) if stored is not None else LogConfig())
        _check_filesystem(directory, effective)
        _check_shm_dir(effective)
        if stored is None:  # nothing is created before the settings have proved usable
            _create_log(files, directory, effective)
        found = manifest.load(files, directory)
        hard, hard_version = hard_state.load_version(files, directory)
        plan = make_plan(files, directory, found, fresh_reads=True)
        plan.refuse()
        hard_state.heal(files, directory, keep=lambda at, size: _keep_slot(files, directory, at, size))
        journal = _begin_generation(files, directory, found, effective, plan)
    except OSError as error:
        if isinstance(error, errors.RaftLogError):
            raise
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise errors.DiskFull(f"no space to open {directory}: {error}", errno=error.errno) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise errors.AccessDenied(f"{directory} cannot be written: {error}") from error
        raise errors.SyncFailed(f"opening {directory} failed: {error}", errno=error.errno) from error
    journal.hard = hard
    journal.control.hard_term.store(hard.term, shm.RELAXED)
    journal.control.hard_version.store(hard_version, shm.RELAXED)
    return journal, plan


def _keep_slot(files: Files, directory: str, offset: int, length: int) -> None:
    set_aside(files, directory, fmt.HARD_STATE_NAME, offset, length=length)


def _create_log(files: Files, directory: str, config: LogConfig) -> None:
    """Lay out an empty log.  The manifest comes last: with it the log exists, without it nothing was promised."""
    hard_state.create(files, directory)
    fresh = Manifest(
        uuid=str(uuid.uuid4()), log_id=wakeup.random_u64(), config=config.as_dict(),
        strategy=config.strategy.value, shm_dir=config.shm_dir,
    )  # fmt: skip
    manifest.save(files, directory, fresh)


def _check_shm_dir(config: LogConfig) -> None:
    if config.shm_dir is None:
        return
    try:
        shm.make_folder(config.shm_dir)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        allowed = "a folder that this user can create and write"
        raise errors.ConfigError(
            f"shm_dir={config.shm_dir!r} cannot be used ({error.strerror}): give {allowed}",
            field="shm_dir", value=config.shm_dir, allowed=allowed,
        ) from error  # fmt: skip


def _check_filesystem(directory: str, config: LogConfig) -> None:
    kind = probe.filesystem(directory)
    if kind not in probe.LOCAL_FILESYSTEMS and not config.allow_any_filesystem:
        raise errors.ConfigError(
            f"{directory} is on a {kind or 'nameless'} file system, where fsync, locks and shared mappings cannot be "
            "relied on. Use a local one (ext4, xfs ...), or set allow_any_filesystem=True if you know better.",
            field="allow_any_filesystem", value=False, allowed="a local file system, or True",
        )  # fmt: skip


def _begin_generation(files: Files, directory: str, found: Manifest, config: LogConfig, plan: Plan) -> Journal:
    old_folder = shm_folder(directory, found)
    apply_plan(files, directory, found, plan)
    found.commit_index = min(max(found.commit_index, plan.commit_index), plan.last_index)
    dropped = [info for info in found.segments if (info.last_index or 0) < max(info.base_index, found.purged_index + 1)]
    # The newest segment stays listed until the roll below has put the exactly-once table into a newer one.
    found.segments = [info for info in found.segments if info not in dropped or info is found.segments[-1]]
    if plan.loss_possible or found.copied:
        # What is appended without a term gets a new one, so that no entry ever has the id of one that was lost: a
        # consumer whose checkpoint is among the lost is told, instead of skipping what took its place.
        lost = last_term_of_the_dead(directory, found) if plan.loss_possible else 0
        found.term_floor = max(found.term_floor, plan.last_term, lost, 1) + 1
    if found.copied:
        found.uuid, found.copied = str(uuid.uuid4()), False
    found.generation += 1  # durable before any record, control block or lane carries it
    found.clean, found.settled, found.producers = False, True, b""
    found.config, found.strategy, found.shm_dir = config.as_dict(), config.strategy.value, config.shm_dir
    # Carried bytes exist only in the old ring until they are durable in a new segment: a crash before that must
    # find the old generation in the manifest, and with it that ring.  The roll below saves the new one.
    if not (plan.ring_to_new_segment and plan.ring_bytes):
        manifest.save(files, directory, found)
    try:
        journal = _make_journal(files, directory, found, config, plan, dropped)
    except OSError as error:
        # For want of space or the like nothing was begun, and nobody has seen these files.  Behind a failed sync they
        # stay: the manifest may list the new segment, and then the control block says what is durable of it.
        if not isinstance(error, errors.SyncFailed):
            _remove_shared(shm_folder(directory, found), found.generation)
        raise
    journal.dead += dropped + plan.dead
    journal.old_folder = old_folder
    return journal


def _make_journal(
    files: Files, directory: str, found: Manifest, config: LogConfig, plan: Plan, dropped: list[SegmentInfo]
) -> Journal:
    folder = shm_folder(directory, found)
    shm.make_folder(folder)
    carried = None
    end, last_index, last_term = plan.end, plan.last_index, plan.last_term
    if plan.ring_to_new_segment and plan.ring_bytes:
        ring_runs = runs_in_records(plan.ring_bytes)
        carried = Carried(plan.ring_bytes, plan.ring_slots, ring_runs, plan.last_index, plan.last_term)
        end, last_index, last_term = plan.file_end, plan.file_last_index, plan.file_last_term
    high, low = shm.boot_id()
    control = create_control(join(folder, fmt.control_name(found.generation)), {
        "log_id": found.log_id, "generation": found.generation, "boot_id_high": high, "boot_id_low": low,
        "writer_pid": wakeup.process_id(), "ring_bytes": config.ring_bytes,
        "published": end, "last_index": last_index, "last_term": last_term, "durable": end,
        "durable_index": last_index, "written": end, "floor": end, "first_index": found.purged_index + 1,
        "purged_index": found.purged_index, "purged_term": found.purged_term,
        "began_at": plan.end,
        "catalog_version": found.generation << 32,  # no two generations ever show the same version
        "loss_possible": int(plan.loss_possible), "commit_index": found.commit_index, "state": layout.STATE_STARTING,
    })  # fmt: skip
    runs = runs_of_log(files, directory, found, found.segments, keep=True)
    if carried is not None:
        runs = merged(runs + carried.runs)
    terms = TermTable(folder, found.generation, control.terms, runs)
    mapping = shm.create_file(join(folder, fmt.ring_name(found.generation)), config.ring_bytes)
    journal = Journal(
        files, directory, config, found, control, RingWriter(mapping, control.floor, end), plan.producers, folder,
        end, last_index, last_term, terms,
    )  # fmt: skip
    found.segments = [info for info in found.segments if info not in dropped]
    journal.roll(carried=carried)
    return journal


def _of_generation(name: str, generation: int) -> bool:
    """Whether a shared file has this generation's number."""
    kind, _, rest = name.partition("-")
    return kind in ("control", "ring", "index", "terms") and rest.startswith(f"{generation:016x}")


def _remove_shared(folder: str, generation: int) -> None:
    for name in shm.names(folder):
        if _of_generation(name, generation):
            shm.remove(join(folder, name))


def preload(journal: Journal) -> None:
    """Have the kernel read every sealed segment into memory: what MemFirst serves, it serves from there."""
    for info in journal.manifest.segments:
        if info.sealed:
            with journal.files.opened(join(journal.directory, fmt.segment_name(info.segment_id))) as fd:
                journal.files.will_need(fd, 0, info.size_due())


def supersede(journal: Journal) -> None:
    """Tell handles of the dead writer that this one serves now, then remove the dead one's shared files."""
    old_folder, folder, generation = journal.old_folder, journal.folder, journal.generation
    for place in {old_folder, folder}:
        for name in shm.names(place):
            if not _of_generation(name, generation):
                _mark_superseded(join(place, name), generation)
                shm.remove(join(place, name))


def _mark_superseded(path: str, generation: int) -> None:
    """If the file is a control block, tell those who still map it.  Every one is told, not only the last: a writer
    may have died before it could tell its predecessor's readers."""
    try:
        old = open_control(path, writable=True)
    except (OSError, ValueError, errors.VersionMismatch):
        return
    # The dead writer's words are ours now: its lock is in our hands.  catalog_version is what every read looks at.
    old.superseded_by.store(generation, shm.SEQ_CST)
    old.catalog_version.store(old.catalog_version.load(shm.RELAXED) + (1 << 31), shm.SEQ_CST)
    old.close()
