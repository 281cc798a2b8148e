"""The term runs of a log from its files: beside each sealed segment, else from the headers of its records."""

from __future__ import annotations

from typing import Any, NamedTuple

from crc32c import crc32c

from . import format as fmt
from .catalog import SegmentInfo
from .errors import CorruptLog
from .files import Files, join
from .manifest import Manifest
from .survey import Part, Survey, survey
from .terms import Run, TermRuns, Unknown, read_sealed_runs, unknown_terms, write_sealed_runs
from .types import LogId
from .walk import Verdict


class History(NamedTuple):
    """The runs of the sealed segments, in order, the purge boundary's first, and where they are a guess."""

    runs: list[Run]
    damage: list[list[int]]  # [first_index, last_index, segment_id, offset]: no header there proves a term


def runs_of_log(
    files: Files, directory: str, manifest: Manifest, segments: list[SegmentInfo], *, keep: bool = False
) -> list[Run]:
    """The runs of the sealed ``segments``, in order, the purge boundary's first.

    ``keep``: for a writer.  What had to be rebuilt is put beside its segment (readers change nothing), but no guess;
    :class:`CorruptLog` if there is one that the manifest's ``lost`` does not cover.
    """
    history = history_of_log(files, directory, manifest, segments, keep=keep, unreadable_is_damage=not keep)
    guess = guess_in(history, manifest, segments) if keep else None
    if guess is not None:
        raise unknown_error(directory, guess)
    return history.runs


def history_of_log(
    files: Files, directory: str, manifest: Manifest, segments: list[SegmentInfo], *, keep: bool = False,
    unreadable_is_damage: bool = True,
) -> History:  # fmt: skip
    """As :func:`runs_of_log`, guesses included.

    ``unreadable_is_damage``: take a file that is missing or cannot be read for damage; else that is an ``OSError``.
    """
    runs = [(manifest.purged_index, manifest.purged_term)] if manifest.purged_index else []
    damage: list[list[int]] = []
    for info in segments:
        if info.last_index is None or info.last_index < info.base_index:
            continue
        path = join(directory, fmt.terms_name(info.segment_id))
        found = read_sealed_runs(files, path, manifest.log_id, info.segment_id)
        if found is None:
            found, guessed = _runs_of_segment(files, directory, info, manifest, unreadable_is_damage)
            damage += guessed
            if keep and not guessed:
                write_sealed_runs(files, path, manifest.log_id, info.segment_id, found)
        runs += [run for run in found if run[0] <= info.last_index]
    return History(merged(runs), damage)


def guess_in(history: History, manifest: Manifest, segments: list[SegmentInfo]) -> Unknown | None:
    """The first entries whose terms nobody knows, and that the manifest's ``lost`` does not cover."""
    if not history.damage:
        return None
    lost, purged = manifest.live_lost(), LogId(manifest.purged_term, manifest.purged_index)
    last = max((info.last_index for info in segments if info.last_index is not None), default=purged.index)
    for one in unknown_terms(TermRuns(history.runs), [*lost, *history.damage], purged, last):
        for first, end, segment_id, offset in sorted(history.damage):
            low, high = max(first, one.first), min(end, one.last)
            for row in sorted(lost):
                if row[0] <= low <= row[1]:
                    low = row[1] + 1
            if low <= high:
                return Unknown(low, high, one.before, one.after, segment_id, offset)
    return None


def term_changes(one: Unknown) -> str:
    """What is wrong with these entries, in words."""
    what = f"the term of entry {one.first} is" if one.first == one.last else (
        f"the terms of entries {one.first} to {one.last} are"
    )  # fmt: skip
    began = f"term {one.before} ends" if one.before else "the log begins"
    return f"{what} not known: {began} and term {one.after} begins somewhere in damage"


def unknown_error(directory: str, one: Unknown) -> CorruptLog:
    """The error for a question about terms that nobody can answer."""
    name = fmt.segment_name(one.segment_id)
    return fmt.corrupt(
        f"{term_changes(one)}, in {join(directory, name)} at offset {one.offset}. A Raft node fetches what is damaged "
        f"from a peer, once repair has noted it: truncate_from({one.first}), then append_entries()",
        directory, segment=name, offset=one.offset, first_index=one.first, last_index=one.last, term=one.before or None,
    )  # fmt: skip


def _runs_of_segment(
    files: Files, directory: str, info: SegmentInfo, manifest: Manifest, unreadable_is_damage: bool
) -> tuple[list[Run], list[list[int]]]:
    """The runs of a sealed segment, and where they are a guess.  Nobody has looked at its records yet."""
    if all(row[2] != info.segment_id for row in manifest.lost):
        try:
            data = _bytes_of(files, directory, info, info.end or 0)
        except OSError:
            if not unreadable_is_damage:
                raise
            data = b""  # a reader tells what can be told
        found = _proved_runs(data, info, manifest.log_id)
        if found is not None:
            return found, []
    try:
        seen = survey(files, directory, info, manifest.log_id, unreadable_is_damage=unreadable_is_damage)
    except OSError:
        if not unreadable_is_damage:
            raise
        following = (info.last_index or 0) + 1
        seen = Survey([
            Part(info.start, info.end or info.start, Verdict.MISSING, info.base_index, following, info.previous_term)
        ])  # fmt: skip
    guessed = []
    for part in seen.damage:
        last = min(part.next, info.last_index or 0) - 1  # the last entry's term is no guess: the manifest states it
        if part.first <= last:
            guessed.append([part.first, last, info.segment_id, fmt.DATA_OFFSET + part.start - info.start])
    return seen.runs(info), guessed


def _proved_runs(data: bytes, info: SegmentInfo, log_id: int) -> list[Run] | None:
    """The runs if record follows record to the segment's end, by headers that prove; bodies do not matter here."""
    runs: list[Run] = []
    at, size, unpack, head = 0, (info.end or 0) - info.start, fmt.RECORD_HEADER.unpack_from, fmt.RECORD_BYTES
    magic = fmt.RECORD_MAGIC
    with memoryview(data) as view:
        while at + head <= len(data):
            fields = unpack(data, at)
            due = magic, crc32c(view[at + 8 : at + head]), log_id, info.start + at
            if (fields[0], fields[1], fields[7], fields[11]) != due:
                return None
            if fields[4] and (not runs or runs[-1][1] != fields[10]):
                runs.append((fields[9], fields[10]))
            at += head + fields[3]
    return runs if at == size else None


def runs_in_file(files: Files, directory: str, info: SegmentInfo, end: int) -> list[Run]:
    """The runs of a segment's records up to stream position ``end``, which have proved before."""
    return runs_in_records(_bytes_of(files, directory, info, end))


def _bytes_of(files: Files, directory: str, info: SegmentInfo, end: int) -> bytes:
    with files.opened(join(directory, fmt.segment_name(info.segment_id))) as fd:
        return files.pread(fd, end - info.start, fmt.DATA_OFFSET)


def runs_in_records(data: Any) -> list[Run]:
    """The runs of proved records that lie back to back."""
    runs: list[Run] = []
    at, size, unpack = 0, len(data), fmt.RECORD_HEADER.unpack_from
    while at + fmt.RECORD_BYTES <= size:
        fields = unpack(data, at)
        if fields[0] != fmt.RECORD_MAGIC:
            break
        if fields[4] and (not runs or runs[-1][1] != fields[10]):
            runs.append((fields[9], fields[10]))
        at += fmt.RECORD_BYTES + fields[3]
    return runs


def merged(runs: list[Run]) -> list[Run]:
    """Neighbours of one term as one run."""
    return [run for at, run in enumerate(runs) if at == 0 or runs[at - 1][1] != run[1]]
