"""Bit rot: every byte of a small log flipped in turn.

Whatever flips, no wrong entry is served, nothing that a durable mark vouches for is lost without a word, no wrong hard
state is believed, and nothing but an error of the library is raised.  What may go silently is a torn tail: records
that nothing vouches for once the flipped one is left out; the judge finds that out from the undamaged image.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support.processes import Child

import raftlog_mp as rl
from raftlog_mp import findings, hard_state, manifest, reader, segment
from raftlog_mp import format as fmt
from raftlog_mp.errors import LogClosed, RaftLogError
from raftlog_mp.files import Files
from raftlog_mp.findings import make_plan
from raftlog_mp.log_reader import LogReader
from raftlog_mp.types import HardState

from .journals import (
    BOTH,
    Entries,
    commit,
    copy_log,
    flip,
    kill,
    lose_memory,
    open_log,
    put,
    stop,
    write_only,
)  # fmt: skip

HARD = HardState(3, "n1")
STATES = ("killed", "power cut", "stopped")


class NoLink:
    """Stands in for a reader's connection: there is no writer, and no time is lost looking for one."""

    view, closed, connected, on_fork = None, False, False, None

    def try_connect(self) -> bool:
        return False

    def check_open(self) -> None:
        if self.closed:
            raise LogClosed("closed")

    def close(self) -> None:
        self.closed = True


class Record(NamedTuple):
    """A record of the newest segment in the undamaged image."""

    offset: int
    end_offset: int
    end: int
    last_index: int
    durable: int


class Image:
    """A small log, what is true of it, and one flipped bit at a time."""

    def __init__(self, directory: str, strategy: str, state: str) -> None:
        self.directory = directory
        self.truth: Entries = {}
        self.vouched_by_others = 0  # position that the manifest, and the memory if it is there, vouches for
        self._build(strategy, state)
        found = manifest.load(Files(), directory)
        self.newest = fmt.segment_name(found.segments[-1].segment_id)
        self.all_vouched = state == "stopped"
        self.vouched_by_others = max(self.vouched_by_others, found.durable)
        self.records = self._records(found)
        self.whole = {name: Path(directory, name).read_bytes() for name in os.listdir(directory) if name != "shm"}
        self.whole.pop(fmt.LOCK_NAME, None)

    def _build(self, strategy: str, state: str) -> None:
        journal, _ = open_log(self.directory, strategy=strategy)

        def add(*payloads: bytes, term: int) -> None:
            first = put(journal, *payloads, term=term, producer=7, sequence=len(self.truth) + 1)
            self.truth.update({first + n: (term, payload) for n, payload in enumerate(payloads)})

        add(b"one", term=1)
        add(b"two", b"", b"four", term=2)
        commit(journal)
        journal.save_hard_state(HARD)
        journal.roll()
        for payload in (b"five", b"six"):
            add(payload, term=3)
            journal.flush()
            journal.publish()
        journal.mark()
        journal.flush()
        journal.publish()
        self.vouched_by_others = journal.durable if state == "killed" else 0
        add(b"seven", b"eight", term=4)  # written, but nobody ever vouches for it, unless the log is stopped in order
        if state == "stopped":
            stop(journal)
            return
        write_only(journal)
        kill(journal)
        if state == "power cut":
            lose_memory(self.directory)

    def _records(self, found: Any) -> list[Record]:
        seen: list[Record] = []
        info, raw = found.segments[-1], Path(self.directory, self.newest).read_bytes()

        def take(record: fmt.RecordHeader, body: bytes) -> None:
            at = fmt.DATA_OFFSET + record.position - info.start
            size = fmt.RECORD_BYTES + len(body)
            seen.append(Record(at, at + size, record.end, record.last_index, record.durable))

        segment.scan_records(
            raw, findings.expected_header(found, info), info.generation, limit=info.end, on_record=take
        )
        assert seen[-1].last_index == max(self.truth), "the image holds what it should"
        return seen

    def places(self) -> Iterator[tuple[str, int]]:
        """``(file, offset)`` of every byte that means something, and of some padding."""
        for name, raw in sorted(self.whole.items()):
            end = len(raw.rstrip(b"\0")) + 8
            stretches = [(0, end)]
            if name.endswith(".seg"):
                stretches = [(0, 92), (fmt.SEAL_OFFSET, fmt.SEAL_OFFSET + 76), (fmt.DATA_OFFSET, end)]
            elif name == fmt.HARD_STATE_NAME:
                half, end = fmt.HARD_STATE_SLOT_BYTES, len(raw[: fmt.HARD_STATE_SLOT_BYTES].rstrip(b"\0")) + 8
                stretches = [(0, end), (half, half + end)]
            for low, high in [*stretches, *((at, at + 1) for at in (2000, 7000, len(raw) - 1) if at >= end)]:
                yield from ((name, offset) for offset in range(low, min(high, len(raw))))

    def vouched(self, name: str, offset: int) -> int:
        """The last entry that something vouches for when this byte is not believed."""
        if self.all_vouched:
            return max(self.truth)
        hit = [record for record in self.records if name == self.newest and record.offset <= offset < record.end_offset]
        mark = max([self.vouched_by_others, *(record.durable for record in self.records if record not in hit)])
        return max([4, *(record.last_index for record in self.records if record.end <= mark)])

    @contextlib.contextmanager
    def flipped(self, name: str, offset: int, bit: int) -> Iterator[None]:
        """The log with one bit of one file flipped, in place."""
        fd = os.open(f"{self.directory}/{name}", os.O_RDWR)
        try:
            os.pwrite(fd, bytes([self.whole[name][offset] ^ 1 << bit]), offset)
            yield
            os.pwrite(fd, self.whole[name][offset : offset + 1], offset)
        finally:
            os.close(fd)

    # -------------------------------------------------------- judging
    def judge(self, name: str, offset: int) -> list[str]:
        """What is wrong with how the log is read, and with what a writer would decide."""
        cache = name.endswith((".idx", ".trm"))
        must, found = self.vouched(name, offset), list[str]()
        if name != fmt.HARD_STATE_NAME:  # no entry hangs on that
            found += self._judge_reader(self.directory, max(self.truth) if cache else must, cache=cache)
        with contextlib.suppress(RaftLogError):
            plan = make_plan(Files(), self.directory, manifest.load(Files(), self.directory), fresh_reads=True)
            plan.refuse()
            if not must <= plan.last_index <= max(self.truth):
                found.append(f"a writer would go on behind entry {plan.last_index}; {must} was durable")
        with contextlib.suppress(RaftLogError):
            if hard_state.load(Files(), self.directory) != HARD:
                found.append("a wrong hard state")
        return found

    def _judge_reader(self, directory: str, must: int, *, cache: bool = False) -> list[str]:
        link: Any = NoLink()
        found: list[str] = []
        try:
            with contextlib.closing(LogReader(link, Files(), directory, None, files_allowed=True)) as log:
                for index, true in self.truth.items():
                    try:
                        entry = log.get(index)
                    except RaftLogError:
                        found += [f"entry {index} is refused for the sake of a cache"] if cache else []
                        continue
                    if entry is None and index <= must:
                        found.append(f"entry {index} is gone without a word")
                    elif entry is not None and (entry.index, (entry.term, entry.payload)) != (index, true):
                        found.append(f"entry {index} is {entry}")
                if not cache and len(log.read(1)) < must:
                    found.append("read() ends early without a word")
                if log.get(max(self.truth) + 1) is not None:
                    found.append("an entry that was never written")
        except RaftLogError:
            pass  # it is told
        return found

    def judge_writer(self, name: str, offset: int, target: str) -> list[str]:
        """Really open a copy for writing; what it serves afterwards."""
        copy_log(self.directory, target)
        try:
            journal, _ = open_log(target)
        except RaftLogError:
            return []
        last = journal.next_index - 1
        kill(journal)
        must = max(self.truth) if name.endswith((".idx", ".trm")) else self.vouched(name, offset)
        found = [] if must <= last <= max(self.truth) else [f"the writer goes on behind {last}; {must} was durable"]
        if hard_state.load(Files(), target) != HARD:
            found.append("a wrong hard state")
        return found + self._judge_reader(target, must)


def complaints(
    image: Image, bits: tuple[int, ...] | None, *, open_every: int = 0, step: int = 1, file: str = ""
) -> list[str]:
    """Flip ``bits`` (None: one of each byte, as a coin decides) of every ``step``-th byte; what went wrong."""
    found, coin, tried = [], random.Random(5), 0
    places = [place for place in image.places() if file in place[0]]
    for name, offset in places[::step]:
        for bit in bits or (coin.randrange(8),):
            tried += 1
            with image.flipped(name, offset, bit):
                where = f"{name} offset {offset} bit {bit}: "
                try:
                    found += [where + what for what in image.judge(name, offset)]
                    if open_every and tried % open_every == 0:
                        target = f"{image.directory}.{tried}"
                        found += [where + what for what in image.judge_writer(name, offset, target)]
                except Exception as error:  # anything but a RaftLogError
                    found.append(f"{where}{error!r}")
    assert tried >= len(places) // step >= 100, "the image is too small to mean anything"
    return found


def test_control_the_image_is_sound(log_dir: str) -> None:
    """Undamaged, everything is there; and the judge knows what may go."""
    for state in STATES:
        image = Image(f"{log_dir}-{state}", "disk_first", state)
        assert image.judge("nothing", 0) == [] and sorted(image.truth) == list(range(1, 9))
        assert image.vouched("nothing", 0) == (8 if state == "stopped" else 6)
        assert image.vouched(image.newest, image.records[-1].offset) == (8 if state == "stopped" else 6)


@BOTH
@pytest.mark.parametrize("state", STATES)
def test_a_flipped_byte(dev_shm: str, strategy: str, state: str) -> None:
    """Every byte of a killed log; of the others every sixth: most of their bytes are the same."""
    image = Image(f"{dev_shm}/log", strategy, state)
    every = (strategy, state) == ("disk_first", "killed")
    assert complaints(image, None, open_every=40, step=1 if every else 6) == []


@pytest.mark.slow
@pytest.mark.timeout(3600)
@BOTH
@pytest.mark.parametrize("state", STATES)
def test_every_flipped_bit(dev_shm: str, strategy: str, state: str) -> None:
    image = Image(f"{dev_shm}/log", strategy, state)
    assert complaints(image, tuple(range(8)), open_every=7) == []


# ---------------------------------------------------------------- negative controls
class EqualsAll(int):
    """A checksum that always fits."""

    __hash__ = int.__hash__

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


def test_control_a_build_without_checksums_of_bodies_is_caught(
    dev_shm: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    image = Image(f"{dev_shm}/log", "disk_first", "killed")
    # Not every byte: believed without its checksum, a count of millions takes a reader half a minute to refuse.
    monkeypatch.setattr(segment, "crc32c", lambda data: EqualsAll())
    monkeypatch.setattr(reader, "proves", lambda fields, body: True)
    assert any("entry 2 is Entry(" in text for text in complaints(image, None, step=5, file=".seg"))


def test_control_a_build_that_ignores_marks_is_caught(dev_shm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As nearly every Raft log does it: cut at the first bad record, whatever it was."""
    image, decide = Image(f"{dev_shm}/log", "disk_first", "power cut"), findings.table.decide_segment
    monkeypatch.setattr(
        findings.table, "decide_segment", lambda facts: decide(dataclasses.replace(facts, damaged=False))
    )
    found = complaints(image, None, step=4, file=image.newest)
    assert any("gone without a word" in text for text in found) and any("would go on behind" in text for text in found)


def test_control_a_build_that_believes_a_rotten_hard_state_is_caught(
    dev_shm: str, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    image, read = Image(f"{dev_shm}/log", "disk_first", "killed"), fmt.read_document

    def careless(magic: bytes, raw: bytes, what: str) -> dict[str, Any] | None:
        if magic != fmt.HARD_STATE_MAGIC:
            return read(magic, raw, what)
        return {"term": raw[30], "voted_for": None, "version": 9}

    monkeypatch.setattr(fmt, "read_document", careless)
    assert any("a wrong hard state" in text for text in complaints(image, None, file="hard_state"))


# ---------------------------------------------------------------- under a reader's eyes
LOOKER = """
import sys
import raftlog_mp as rl
if "blind" in sys.argv:
    rl.reader.proves = lambda fields, body: True
with rl.open_reader(sys.argv[1]) as reader:
    while True:
        found = []
        for index in range(1, int(sys.argv[2]) + 1):
            try:
                entry = reader.get(index)
                found.append("right" if entry and entry.payload == b"%06d" % index + b"." * 4000 else "WRONG")
            except rl.CorruptLog:
                found.append("refused")
        print(" ".join(sorted(set(found))), found.count("refused"), reader.stats().lapped_reads > 0, flush=True)
        sys.stdin.readline()
"""


def test_flipped_under_a_reader_that_has_it_open(log_dir: str) -> None:
    """Sealed segments are read each time: what flips there shows at once, and is never served."""
    config = rl.LogConfig(segment_bytes=1 << 16, ring_bytes=1 << 20, allow_any_filesystem=True)
    with rl.start_writer(log_dir, config), rl.open_log(log_dir) as log:
        for ticket in [log.submit([b"%06d" % index + b"." * 4000]) for index in range(1, 401)]:
            ticket.result()
        segments = sorted(Path(log_dir).glob("*.seg"))
        assert len(segments) > 20
        raw = segments[1].read_bytes()
        first = raw.index(fmt.RECORD_MAGIC, fmt.DATA_OFFSET + fmt.RECORD_BYTES)
        body = first + fmt.RECORD_BYTES + 2000
        with Child("-c", LOOKER, log_dir, "60") as child, Child("-c", LOOKER, log_dir, "60", "blind") as blind:
            for looker in (child, blind):
                assert looker.line() == "right 0 True", "they come from the files: the ring has moved on"
            for path, offset, refused in (
                (segments[1], 50, 0),  # its header: not looked at again
                (segments[1], first + 60, 1),  # a record's header
                (segments[1], body, 1),
                (segments[1], first + 3, 1),  # a magic
                (segments[1].with_suffix(".idx"), 64, 0),  # a slot: held in memory, or rebuilt from the records
                (segments[2], len(segments[2].read_bytes()) - 1, 1),
            ):
                with flipped(path, offset):
                    child.say("again")
                    assert child.line().replace("refused right", "right") == f"right {refused} True", (path, offset)
            with flipped(segments[1], body):
                blind.say("again")
                assert blind.line() == "WRONG right 0 True", "control: without checksums it would be served"
            child.say("again")
            assert child.line() == "right 0 True"


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """One bit, for the length of the block."""
    flip(str(path), offset, 2)
    yield
    flip(str(path), offset, 2)
