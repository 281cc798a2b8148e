"""Logs without processes: a journal driven directly, killed, damaged, opened again, and read back from its files."""

from __future__ import annotations

import errno
import os
import shutil
from typing import Any

import pytest
from crc32c import crc32c
from support.faulty_files import FaultyFiles

from raftlog_mp import findings, manifest, place, segment, startup
from raftlog_mp import format as fmt
from raftlog_mp.bodies import pack_body, unpack_body
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.config import KIB, MIB, LogConfig
from raftlog_mp.errors import CorruptLog, SyncFailed
from raftlog_mp.files import Files
from raftlog_mp.findings import Plan
from raftlog_mp.format import RecordHeader
from raftlog_mp.journal import Journal
from raftlog_mp.manifest import Manifest
from raftlog_mp.sweeper import remove_segment

Entries = dict[int, tuple[int, bytes]]  # index -> (term, payload)

BOTH = pytest.mark.parametrize("strategy", ["disk_first", "mem_first"])
SMALL = {"ring_bytes": MIB, "segment_bytes": 64 * KIB, "lane_bytes": 64 * KIB}


def small_config(**settings: Any) -> LogConfig:
    """The smallest log there may be."""
    return LogConfig(**(SMALL | settings))


def open_log(directory: str, files: Files | None = None, **settings: Any) -> tuple[Journal, Plan]:
    """As the writer does it, without lock and sockets; ``settings`` only for a log that is not there yet."""
    files = files or FaultyFiles()
    place.prepare_directory(files, directory)
    new = not os.path.exists(os.path.join(directory, fmt.MANIFEST_NAME))
    with open(os.path.join(directory, fmt.LOCK_NAME), "ab"):
        pass
    journal, plan = startup.open_journal(files, directory, small_config(**settings) if new or settings else None)
    startup.supersede(journal)
    return journal, plan


def admits(journal: Journal, body_bytes: int, count: int) -> bool:
    """Whether the writer would let a record in without asking why not."""
    room, entries = journal.room()
    return fmt.RECORD_BYTES + body_bytes <= room and count <= entries


def put(journal: Journal, *payloads: bytes, term: int = 1, producer: int = 0, sequence: int = 0) -> int:
    """Append one batch as the writer does; not visible, not durable yet."""
    body = pack_body(list(payloads))
    if not journal.fits(len(body), len(payloads)):
        journal.flush()
    if journal.needs_roll(len(body), len(payloads)):
        journal.roll(len(body), len(payloads))
    return journal.append(body, crc32c(body), len(payloads), term, producer, sequence)


def commit(journal: Journal) -> None:
    """Visible, and in DiskFirst durable first."""
    if journal.config.strategy == "mem_first":
        journal.copy_to_ring()
    else:
        journal.flush()
    journal.publish()


def append(journal: Journal, *payloads: bytes, **how: Any) -> int:
    """One acknowledged batch."""
    first = put(journal, *payloads, **how)
    commit(journal)
    return first


def write_only(journal: Journal) -> None:
    """Bytes reach the file, and the process dies before it learns that: nothing is published, nothing vouched."""
    journal.copy_to_ring()
    job = journal.make_job()
    job.run()
    assert job.error is None


def kill(journal: Journal) -> None:
    """The process is gone: descriptors and mappings go, every file stays as it is."""
    if journal.segment is not None:
        journal.segment.close()
    if journal.index is not None:
        journal.index._mapping.close()
    if journal._roll is not None:
        journal._roll.segment.close()
        journal._roll.active_index._mapping.close()
    if journal._prepared is not None and journal._prepared.fd is not None:
        journal.files.close(journal._prepared.fd)
        if journal._prepared.index is not None:
            journal._prepared.index._mapping.close()
    journal.terms.close(remove=False)
    journal.ring.close()
    journal.control.close()


def stop(journal: Journal) -> None:
    """An orderly end."""
    for info in journal.take_dead():
        remove_segment(journal.files, journal.directory, info.segment_id)
    journal.close(clean=True)
    journal.control.close()


def killed_before_the_sync(directory: str, *payloads: bytes) -> int:
    """A killed DiskFirst log: entry 1 is ``b"durable"``, the payloads only reached the file.  Their offset in it."""
    journal, _ = open_log(directory)
    append(journal, b"durable")
    start = end_offset(journal)
    for payload in payloads:
        put(journal, payload)
    write_only(journal)
    kill(journal)
    return start


def failed_log(directory: str, strategy: str) -> Entries:
    """A killed log whose disk had failed: entry 1 durable, entry 2 only written.  What was acknowledged of it."""
    files = FaultyFiles()
    journal, _ = open_log(directory, files, strategy=strategy)
    append(journal, b"durable")
    journal.flush()
    put(journal, b"doubtful")
    if strategy == "mem_first":
        commit(journal)
    files.fail("sync", errno.EIO)
    with pytest.raises(SyncFailed):
        journal.flush()
    kill(journal)
    return {1: (1, b"durable")} | ({2: (1, b"doubtful")} if strategy == "mem_first" else {})


def records_of(directory: str) -> list[tuple[RecordHeader, bytes]]:
    """Every record of every live segment of a log whose segments are all sealed, each checked."""
    state = manifest.load(Files(), directory)
    return [found for info in state.segments for found in records_in(directory, state, info)]


def records_in(directory: str, state: Manifest, info: SegmentInfo) -> list[tuple[RecordHeader, bytes]]:
    """Every record of one sealed segment, each checked; those of truncated entries, too."""
    found: list[tuple[RecordHeader, bytes]] = []
    assert info.end is not None and info.last_index is not None, "the segment is not sealed"
    data = Files().read_file(os.path.join(directory, fmt.segment_name(info.segment_id)))
    header = findings.expected_header(state, info)
    assert fmt.read_segment_header(data) == header
    scan = segment.scan_records(
        data, header, info.generation, limit=info.end, on_record=lambda *record: found.append(record)
    )
    assert scan.end == info.end
    assert scan.last_index >= info.last_index
    return found


def entries_of(directory: str) -> Entries:
    """The whole log, from its files alone: the entries that the manifest counts, contiguous behind the boundary."""
    entries: Entries = {}
    state = manifest.load(Files(), directory)
    following = None
    for info in state.segments:
        assert following in (None, info.base_index), "segments are contiguous"
        following = (info.last_index or 0) + 1
        index = info.base_index
        for record, body in records_in(directory, state, info):
            for payload in unpack_body(body, record.count) if record.kind == fmt.KIND_ENTRIES else ():
                if state.purged_index < index < following:
                    entries[index] = (record.term, payload)
                index += 1
    first = state.purged_index + 1
    assert list(entries) == list(range(first, first + len(entries))), "indexes are contiguous from the boundary on"
    return entries


def reopen(directory: str, files: Files | None = None) -> tuple[Entries, Plan]:
    """Recover the log, close it in order, and read it back."""
    journal, plan = open_log(directory, files)
    stop(journal)
    return entries_of(directory), plan


def segment_path(directory: str, number: int) -> str:
    """The file of the log's first (0), second (1) ... or last (-1) segment."""
    info = manifest.load(Files(), directory).segments[number]
    return os.path.join(directory, fmt.segment_name(info.segment_id))


def tail_path(directory: str) -> str:
    """The newest segment's file."""
    return segment_path(directory, -1)


def end_offset(journal: Journal) -> int:
    """Where in the newest segment's file the next record will stand."""
    return fmt.DATA_OFFSET + journal.end - journal.segment.header.start


def lose_memory(directory: str) -> None:
    """As a reboot does it: control block, ring and active index are gone, only the files are left."""
    shutil.rmtree(os.path.join(directory, "shm"))


def snapshot(directory: str) -> dict[str, bytes]:
    """Every file of the log, shared memory included."""
    found = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "rb") as file:
                found[os.path.relpath(path, directory)] = file.read()
    return found


def copy_log(source: str, target: str, *, power_cut: bool = False) -> str:
    """A second log with the same bytes; ``power_cut`` leaves the shared memory behind."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("shm") if power_cut else None)
    return target


def overwrite(path: str, offset: int, data: bytes) -> None:
    """Damage a file in place."""
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(data)


def read_at(path: str, offset: int, length: int) -> bytes:
    """Bytes of a file."""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read(length)


def flip(path: str, offset: int, bit: int = 0) -> None:
    """Damage one bit."""
    overwrite(path, offset, bytes([read_at(path, offset, 1)[0] ^ 1 << bit]))


def make_newer(path: str, fields_bytes: int | None = None) -> None:
    """Turn the first structure of a file into one of the next format version, with a checksum that holds."""
    raw = read_at(path, 0, 1 << 20 if fields_bytes is None else 16 + fields_bytes)
    head = raw[:8] + (fmt.FORMAT_VERSION + 1).to_bytes(4, "little")
    overwrite(path, 8, head[8:] + crc32c(head + raw[16:]).to_bytes(4, "little"))


def quarantined(directory: str) -> list[bytes]:
    """What was set aside."""
    folder = os.path.join(directory, fmt.QUARANTINE_NAME)
    if not os.path.isdir(folder):
        return []
    return [read_at(os.path.join(folder, name), 0, 1 << 30) for name in sorted(os.listdir(folder))]


# ---------------------------------------------------------------- what recovery said
def letters(plan: Plan) -> str:
    """The rows of the table that decided, in order."""
    return "".join(finding.letter for finding in plan.findings)


def refused(directory: str, row: str, **where: object) -> CorruptLog:
    """Opening raises ``CorruptLog`` by this row, and not one byte changes."""
    before = snapshot(directory)
    with pytest.raises(CorruptLog) as caught:
        open_log(directory)
    assert snapshot(directory) == before
    assert f"row {row}" in str(caught.value) and "raftlog-mp check" in str(caught.value)
    for name, value in where.items():
        assert getattr(caught.value, name) == value
    return caught.value
