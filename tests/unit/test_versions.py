"""Format versions: every file that is written says which it has, and a newer one is refused in words, by everybody."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from crc32c import crc32c
from support.processes import wait_until

import raftlog_mp as rl
from raftlog_mp import check, hard_state, manifest, repair
from raftlog_mp import format as fmt
from raftlog_mp.backup import backup
from raftlog_mp.errors import CorruptLog, VersionMismatch
from raftlog_mp.files import Files
from raftlog_mp.layout import CONTROL_MAGIC
from raftlog_mp.types import HardState

from .journals import append, kill, lose_memory, open_log, overwrite, read_at, snapshot, stop
from .tables import DOCS

NEWER = fmt.FORMAT_VERSION + 1
# Files without a format: a lock or a message of this machine, nothing that another release has to understand.
FORMLESS = {fmt.LOCK_NAME, fmt.START_NAME, fmt.WRITER_LOG_NAME, fmt.SOCKET_NAME}
MAGIC_OF = {
    ".seg": fmt.SEGMENT_MAGIC, ".idx": fmt.INDEX_MAGIC, ".trm": fmt.TERMS_MAGIC,
    fmt.MANIFEST_NAME: fmt.MANIFEST_MAGIC, fmt.HARD_STATE_NAME: fmt.HARD_STATE_MAGIC,
}  # fmt: skip
# What is made newer -> file, offset of its envelope, bytes that its checksum covers behind that (None: a document)
PLACES: dict[str, tuple[str, int, int | None]] = {
    "manifest": (fmt.MANIFEST_NAME, 0, None),
    "hard state": (fmt.HARD_STATE_NAME, 0, None),
    "second slot": (fmt.HARD_STATE_NAME, fmt.HARD_STATE_SLOT_BYTES, None),
    "segment header": (fmt.segment_name(1), 0, 72),
    "seal": (fmt.segment_name(1), fmt.SEAL_OFFSET, 56),
    "newest segment header": (fmt.segment_name(2), 0, 72),
    "index": (fmt.index_name(1), 0, 40),
    "term runs": (fmt.terms_name(1), 0, None),
}
CACHES = {"index", "term runs"}
ESSENTIAL = [name for name in PLACES if name not in CACHES]


def build(directory: str, *, clean: bool = False) -> str:
    """A sealed segment and a newest one, two terms, a hard state."""
    journal, _ = open_log(directory)
    append(journal, b"one", term=1)
    append(journal, b"two", term=2)
    journal.save_hard_state(HardState(2, "n1"))
    journal.roll()
    append(journal, b"three", term=2)
    stop(journal) if clean else kill(journal)
    Path(directory, fmt.LOCK_NAME).touch()
    return directory


def make_newer(directory: str, what: str, version: int = NEWER, *, proves: bool = True) -> str:
    """Turn one structure into one of another version, with a checksum that holds, or made in some other way."""
    name, offset, fields_bytes = PLACES[what]
    path = os.path.join(directory, name)
    if fields_bytes is None:
        fields_bytes = 8 + struct.unpack("<Q", read_at(path, offset + 16, 8))[0]
    head = read_at(path, offset, 8) + struct.pack("<I", version)
    crc = crc32c(head + read_at(path, offset + 16, fields_bytes))
    overwrite(path, offset, head + struct.pack("<I", crc if proves else crc ^ 0xFFFF))
    return name


def start_up(directory: str) -> None:
    kill(open_log(directory)[0])


def read(directory: str) -> None:
    with rl.open_reader(directory) as reader:
        assert reader.hard_state == HardState(2, "n1")
        assert [entry.payload for entry in reader.read(1)] == [b"one", b"two", b"three"]
        assert reader.term_of(1) == 1


def back_up(directory: str) -> None:
    backup(directory, directory + ".copy")


REFUSING: dict[str, Callable[[str], None]] = {"start-up": start_up, "reader": read, "backup": back_up}


# ---------------------------------------------------------------- what is written
@pytest.mark.parametrize(("strategy", "clean"), [("disk_first", True), ("mem_first", False)])
def test_every_file_of_a_log_says_its_version(log_dir: str, strategy: str, clean: bool) -> None:
    """A file of a kind that nobody has listed here fails: it has to say its version, or be formless for a reason."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(rl.start_writer(log_dir, rl.LogConfig(strategy=strategy, ring_bytes=1 << 20)))
        with rl.open_log(log_dir) as log:
            log.append_many([b"x", b"y"], term=3)
            log.reset(rl.LogId(3, 2))
            log.append(b"z", term=4)
        if clean:
            writer.stop()
        wait_until("what the reset took is removed", lambda: sum(n.endswith(".seg") for n in os.listdir(log_dir)) == 1)
        names = [name for name in os.listdir(log_dir) if os.path.isfile(f"{log_dir}/{name}")]
        found = set()
        for name in set(names) - FORMLESS:
            kind = name if name in MAGIC_OF else os.path.splitext(name)[1]
            found.add(kind)
            offsets = {".seg": [0, fmt.SEAL_OFFSET], fmt.HARD_STATE_NAME: [0, fmt.HARD_STATE_SLOT_BYTES]}.get(kind, [0])
            for offset in offsets:
                magic, version = struct.unpack("<8sI", read_at(f"{log_dir}/{name}", offset, 12))
                if kind == ".seg" and offset and magic == bytes(8):
                    continue  # not sealed yet
                assert magic == (fmt.SEAL_MAGIC if kind == ".seg" and offset else MAGIC_OF[kind]), name
                assert version == fmt.FORMAT_VERSION, name
        assert found >= {".seg", fmt.MANIFEST_NAME, fmt.HARD_STATE_NAME} | ({".idx", ".trm"} if clean else set())
        if not clean:
            control = next(name for name in os.listdir(f"{log_dir}/shm") if name.startswith("control-"))
            assert struct.unpack("<Q", read_at(f"{log_dir}/shm/{control}", 0, 8)) == (CONTROL_MAGIC,)


# ---------------------------------------------------------------- a newer one
# One slot of the hard state that does not prove is healed from the other, whatever it says.
NEWER_ONES = [(what, True) for what in ESSENTIAL]
NEWER_ONES += [(what, False) for what in ESSENTIAL if PLACES[what][0] != fmt.HARD_STATE_NAME]


@pytest.mark.parametrize(("what", "proves"), NEWER_ONES)
def test_a_newer_version_is_refused_by_everybody(log_dir: str, what: str, proves: bool) -> None:
    """It says which file, which version, and what to do; nothing is changed, nothing is left behind.

    ``proves``: its checksum is made as ours, or in some other way.
    """
    for clean in (True, False):
        directory = build(f"{log_dir}-{clean}", clean=clean)
        name, before = make_newer(directory, what, proves=proves), snapshot(directory)
        for act in REFUSING.values():
            with pytest.raises(VersionMismatch) as caught:
                act(directory)
            told = str(caught.value)
            assert name in told and f"version {NEWER}" in told and f"up to {fmt.FORMAT_VERSION}" in told
            assert "Upgrade raftlog_mp" in told and "nothing was changed" in told
            assert snapshot(directory) == before
        copy = directory + ".copy"
        assert not os.path.isdir(copy) or os.listdir(copy) == []


@pytest.mark.parametrize("clean", [True, False])
@pytest.mark.parametrize("what", sorted(CACHES))
def test_a_newer_cache_is_made_anew(log_dir: str, what: str, clean: bool) -> None:
    """Manifest and segment say that no newer release was at work: it is rot, or a leftover; the records know."""
    build(log_dir, clean=clean)
    make_newer(log_dir, what)
    read(log_dir)
    start_up(log_dir)
    back_up(log_dir)
    read(log_dir + ".copy")


@pytest.mark.parametrize("what", PLACES)
def test_check_tells_a_newer_version(log_dir: str, what: str) -> None:
    """A cache is told to be useless, and no more; all else is named with its version."""
    build(log_dir, clean=True)
    name, before = make_newer(log_dir, what), snapshot(log_dir)
    told = []
    try:
        report = check.check_log(log_dir)
        told = [f"{found.file} {found.sentence}" for found in report.problems]
        assert not report.sound
    except VersionMismatch as error:
        told = [str(error)]
    assert any(name in one and (f"version {NEWER}" in one or what in CACHES) for one in told), told
    assert snapshot(log_dir) == before


def test_through_the_public_door(log_dir: str) -> None:
    """What a user sees who starts a writer, or opens a handle that would start one."""
    build(log_dir)
    name = make_newer(log_dir, "segment header")
    with pytest.raises(VersionMismatch, match=rf"{name} has format version {NEWER}.*Upgrade raftlog_mp"):
        rl.start_writer(log_dir)
    with pytest.raises(VersionMismatch, match=name), contextlib.closing(rl.open_log(log_dir)):
        pass


# ---------------------------------------------------------------- damage, and older ones
@pytest.mark.parametrize("version", [0xFFFFFFFF, fmt.FORMAT_VERSION + 1024, 0])
def test_a_version_out_of_reach_is_damage(log_dir: str, version: int) -> None:
    build(log_dir, clean=True)
    make_newer(log_dir, "manifest", version, proves=False)
    with pytest.raises(CorruptLog, match="manifest"):
        start_up(log_dir)


@pytest.mark.parametrize("what", ["index", "term runs", "seal"])
@pytest.mark.parametrize("bit", [1, 9])
def test_a_rotten_version_field_is_damage_and_no_newer_release(log_dir: str, what: str, bit: int) -> None:
    """Everything else of the structure is right for this version: then it is the version that has rotted."""
    build(log_dir)
    name, offset, _ = PLACES[what]
    raw = read_at(f"{log_dir}/{name}", offset + 8, 4)
    overwrite(f"{log_dir}/{name}", offset + 8, (int.from_bytes(raw, "little") ^ 1 << bit).to_bytes(4, "little"))
    read(log_dir)
    start_up(log_dir)


@pytest.mark.parametrize("what", ["seal", "segment header"])
def test_a_version_that_nothing_proves_is_damage_to_check_and_repair(log_dir: str, what: str) -> None:
    """Start-up refuses it as newer, to be safe; but the manifest, which every release writes first, is of this one."""
    build(log_dir, clean=True)
    name = make_newer(log_dir, what, proves=False)
    problems = check.check_log(log_dir).problems
    assert {found.file for found in problems} == {name}
    assert any("no newer release wrote here" in found.sentence for found in problems)
    assert not any("a start of a writer" in found.next_step for found in problems), "a writer refuses to start"
    with pytest.raises(VersionMismatch):
        start_up(log_dir)
    repair.apply(repair.plan(log_dir))
    assert check.check_log(log_dir).sound
    read(log_dir)


@pytest.mark.parametrize("other", ["as well", "damaged", "gone"])
def test_a_newer_hard_state_that_nothing_proves_is_newer_to_everybody(log_dir: str, other: str) -> None:
    """No slot is good, and one states a newer version: a later release may have made its checksum in another way."""
    build(log_dir)
    name, path = make_newer(log_dir, "hard state", proves=False), f"{log_dir}/{fmt.HARD_STATE_NAME}"
    if other == "as well":
        make_newer(log_dir, "second slot", proves=False)
    elif other == "damaged":
        overwrite(path, fmt.HARD_STATE_SLOT_BYTES + 30, b"xxxx")
    else:
        os.truncate(path, fmt.HARD_STATE_SLOT_BYTES)
    before = snapshot(log_dir)
    for act in (*REFUSING.values(), repair.plan):
        with pytest.raises(VersionMismatch, match=rf"{name} has format version {NEWER}") as caught:
            act(log_dir)
    (told,) = [found for found in check.check_log(log_dir).problems if found.file == name]
    assert told.severity == "damage" and "newer" in told.next_step and told.sentence in str(caught.value)
    assert snapshot(log_dir) == before


def test_memory_of_another_layout_is_no_reason_to_lose_entries(log_dir: str) -> None:
    """A writer of another release died here, and only its ring holds what it acknowledged: that one has to look."""
    journal, _ = open_log(log_dir, strategy="mem_first")
    append(journal, b"acknowledged")
    kill(journal)
    control = next(Path(log_dir, fmt.SHM_NAME).glob("control-*"))
    overwrite(str(control), 0, (CONTROL_MAGIC + 1).to_bytes(8, "little"))
    before = snapshot(log_dir)
    with pytest.raises(VersionMismatch, match=rf"{control.name} has layout version .* start that release once"):
        open_log(log_dir)
    (told,) = check.check_log(log_dir).problems
    assert told.file == control.name and "layout version" in told.sentence and "start the release" in told.next_step
    assert snapshot(log_dir) == before
    overwrite(str(control), 0, CONTROL_MAGIC.to_bytes(8, "little"))
    journal, plan = open_log(log_dir)
    kill(journal)
    assert plan.last_index == 1 and not plan.loss_possible


@pytest.mark.parametrize(("strategy", "clean"), [("disk_first", False), ("mem_first", True)])
def test_memory_of_another_layout_that_nobody_needs_is_let_go(log_dir: str, strategy: str, clean: bool) -> None:
    """Everything acknowledged is in the files: an upgrade needs no more than that."""
    journal, _ = open_log(log_dir, strategy=strategy)
    append(journal, b"acknowledged")
    stop(journal) if clean else kill(journal)
    control = next(Path(log_dir, fmt.SHM_NAME).glob("control-*"))
    overwrite(str(control), 0, (CONTROL_MAGIC + 1).to_bytes(8, "little"))
    journal, plan = open_log(log_dir)
    kill(journal)
    assert plan.last_index == 1 and not plan.loss_possible and not control.exists()


# ---------------------------------------------------------------- no downgrade by accident, rules that are written down
def test_opening_does_not_rewrite_what_is_sealed(log_dir: str) -> None:
    """An upgrade leaves old segments as they are: their version is told file by file."""
    build(log_dir)
    lose_memory(log_dir)
    before = snapshot(log_dir)
    journal, _ = open_log(log_dir)
    append(journal, b"four", term=3)
    stop(journal)
    after = snapshot(log_dir)
    sealed = [name for name in before if name.startswith(f"{1:016x}.")]
    assert len(sealed) == 3 and all(after[name] == before[name] for name in sealed)


def test_a_manifest_key_of_another_release_is_not_ignored(log_dir: str) -> None:
    """Whatever it means: not to know it is no licence to go on."""
    build(log_dir, clean=True)
    document = {**manifest.load(Files(), log_dir).as_dict(), "compressed": True}
    Path(log_dir, fmt.MANIFEST_NAME).write_bytes(fmt.pack_document(fmt.MANIFEST_MAGIC, document))
    before = snapshot(log_dir)
    for act in REFUSING.values():
        with pytest.raises(VersionMismatch, match="manifest states compressed"):
            act(log_dir)
    assert snapshot(log_dir) == before


def test_one_newer_slot_is_enough_to_refuse(log_dir: str) -> None:
    """A newer release has voted: the other slot may be older than that."""
    build(log_dir)
    make_newer(log_dir, "second slot")
    with pytest.raises(VersionMismatch):
        hard_state.load(Files(), log_dir)


def test_golden_files_of_every_version_are_kept() -> None:
    folder = Path(__file__).parents[1] / "golden"
    versions = {int(path.name[1 : path.name.index("_")]) for path in folder.glob("v*_*")}
    assert versions == set(range(1, fmt.FORMAT_VERSION + 1))
    for version in versions:
        kinds = {path.name.partition("_")[2] for path in folder.glob(f"v{version}_*")}
        assert kinds == {"segment", "index", "manifest", "hard_state", "terms"}


def test_the_document_names_what_carries_a_version() -> None:
    text = (DOCS / "format.md").read_text(encoding="utf-8").partition("## How versions change")[2]
    named = "Segment header, seal, index, manifest, each slot of the hard state, and term runs"
    for words in (named, "VersionMismatch", "No downgrade", "Golden files", "1023"):
        assert words in " ".join(text.split()), words
