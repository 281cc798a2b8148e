"""Records of a segment file with their verdicts: through damage, without a manifest, in agreement with start-up."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from raftlog_mp import format as fmt
from raftlog_mp import walk
from raftlog_mp.bodies import pack_body
from raftlog_mp.errors import VersionMismatch
from raftlog_mp.files import Files
from raftlog_mp.format import RecordHeader, Seal, SegmentHeader
from raftlog_mp.records import FoundRecord, Verdict, iter_records, scan_segment
from raftlog_mp.segment import scan_records
from raftlog_mp.types import Entry

from .journals import flip, make_newer, overwrite

LOG, GENERATION, START, BASE = 9, 3, 1000, 5
HEADER = SegmentHeader(LOG, 1, GENERATION, BASE, START, START, 1, 1 << 16, 100)
DATA = fmt.DATA_OFFSET


class Image:
    """A segment under construction."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.position, self.index, self.term = START, BASE, 1

    def add(self, *payloads: bytes, kind: int = fmt.KIND_ENTRIES, body: bytes | None = None, **other: int) -> Image:
        """One record that continues the log, unless ``other`` says otherwise."""
        body = pack_body(list(payloads)) if body is None and payloads else body or b""
        values = {"count": len(payloads), "log_id": LOG, "generation": GENERATION, "base": self.index,
                  "term": self.term, "position": self.position, "durable": 0} | other  # fmt: skip
        self.parts.append(fmt.pack_record_header(
            crc32c(body), len(body), values["count"], kind, values["log_id"], values["generation"], values["base"],
            values["term"], values["position"], values["durable"], 0, 0) + body)  # fmt: skip
        self.position += len(self.parts[-1])
        self.index, self.term = self.index + len(payloads), max(self.term, values["term"])
        return self

    def offset(self, number: int) -> int:
        """Byte in the file at which a record stands."""
        return DATA + sum(map(len, self.parts[:number]))

    def write(self, path: Path, *, sealed: bool = False, zeros: int = 4096) -> Path:
        """Put it on disk: sealed and cut to its end, or with zeros behind."""
        seal = fmt.pack_seal(Seal(LOG, 1, GENERATION, BASE, self.position, self.index - 1, self.term))
        blocks = fmt.pack_segment_header(HEADER) + (seal if sealed else b"").ljust(fmt.BLOCK_BYTES, b"\0")
        path.write_bytes(blocks.ljust(DATA, b"\0") + b"".join(self.parts) + (b"" if sealed else bytes(zeros)))
        return path


@pytest.fixture
def five() -> Image:
    """Entries 5, 6 and 7, 8, a mark, 9."""
    image = Image().add(b"five").add(b"six", b"seven", term=2).add(b"eight", durable=START)
    return image.add(kind=fmt.KIND_MARK, durable=START + 100).add(b"nine")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / fmt.segment_name(1)


def verdicts(path: Path) -> list[tuple[str, int | None, int | None]]:
    return [(found.verdict.value, found.first_index, found.last_index) for found in iter_records(path)]


# ---------------------------------------------------------------- sound files
def test_a_sound_segment(five: Image, path: Path) -> None:
    five.write(path)
    found = list(iter_records(path))
    assert [one.verdict for one in found] == [Verdict.GOOD] * 5 + [Verdict.ZERO]
    assert [one.offset for one in found] == [five.offset(number) for number in range(6)]
    assert [entry for one in found for entry in one.entries()] == [
        Entry(1, 5, b"five"), Entry(2, 6, b"six"), Entry(2, 7, b"seven"), Entry(2, 8, b"eight"), Entry(2, 9, b"nine"),
    ]  # fmt: skip
    scan = scan_segment(path)
    assert scan.sound and (scan.header, scan.seal, scan.segment_id) == (HEADER, None, 1)
    assert (scan.records, scan.entries, scan.first_index, scan.last_index) == (5, 5, 5, 9)
    assert (scan.good_end, scan.mark, scan.stop, scan.last_term) == (five.position, START + 100, fmt.ZERO, 2)
    assert (scan.used_bytes, scan.good_offset, scan.bytes) == (five.offset(5), five.offset(5), five.offset(5) + 4096)
    at = [offset - DATA + START for offset in map(five.offset, (0, 1, 1, 2, 4))]
    assert list(scan.slots) == at and scan.runs == [(5, 1), (6, 2)]


def test_a_sealed_segment(five: Image, path: Path) -> None:
    five.write(path, sealed=True)
    scan = scan_segment(path)
    assert scan.sound and scan.seal is not None and scan.seal.last_index == 9
    assert [found[0] for found in verdicts(path)] == ["good"] * 5


def test_progress_tells_every_byte_of_records(five: Image, path: Path) -> None:
    seen: list[int] = []
    scan_segment(five.write(path, sealed=True), progress=seen.append)
    assert sum(seen) == five.position - START


def test_an_empty_segment(path: Path) -> None:
    scan = scan_segment(Image().write(path))
    assert scan.sound and (scan.records, scan.first_index, scan.last_index, scan.stop) == (0, 5, 4, fmt.ZERO)


@pytest.mark.parametrize("window", [97, 300, 1 << 20])
def test_records_larger_than_the_window(window: int, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(walk, "WINDOW_BYTES", window)
    image = Image()
    for size in (10, 1000, 0, 5000, 80):
        image.add(b"x" * size)
    scan = scan_segment(image.write(path))
    assert scan.sound and scan.records == 5


# ---------------------------------------------------------------- each verdict
def test_bad_body(five: Image, path: Path) -> None:
    flip(str(five.write(path)), five.offset(1) + 90)
    assert verdicts(path)[:3] == [("good", 5, 5), ("bad body", 6, 7), ("good", 8, 8)]
    (bad,) = scan_segment(path).damaged
    assert (bad.term, bad.header is not None, bad.entries()) == (2, True, [])
    assert "entries 6..7 of term 2" in bad.sentence() and "body is damaged" in bad.sentence()


def test_bad_header(five: Image, path: Path) -> None:
    flip(str(five.write(path)), five.offset(1) + 50)
    assert verdicts(path)[:3] == [("good", 5, 5), ("bad header", 6, 7), ("good", 8, 8)]
    (bad,) = scan_segment(path).damaged
    assert (bad.offset, bad.length) == (five.offset(1), len(five.parts[1]))
    assert bad.raw() == path.read_bytes()[five.offset(1) : five.offset(2)]


def test_several_damaged_records_are_one_stretch(five: Image, path: Path) -> None:
    five.write(path)
    for number in (1, 2):
        flip(str(path), five.offset(number) + 50)
    assert verdicts(path)[:3] == [("good", 5, 5), ("bad header", 6, 8), ("good", 9, 8)]


def test_a_damaged_mark_costs_no_entry(five: Image, path: Path) -> None:
    flip(str(five.write(path)), five.offset(3) + 50)
    (bad,) = scan_segment(path).damaged
    assert (bad.first_index, bad.last_index, bad.term) == (9, 8, 2) and "no entries" in bad.sentence()


def test_damage_at_the_end_of_a_sealed_segment_is_bounded_by_the_seal(five: Image, path: Path) -> None:
    flip(str(five.write(path, sealed=True)), five.offset(4) + 50)
    assert verdicts(path)[-1] == ("bad header", 9, 9)


def test_damage_at_the_end_of_an_unsealed_segment_has_no_known_end(five: Image, path: Path) -> None:
    flip(str(five.write(path)), five.offset(4) + 50)
    assert verdicts(path)[-2:] == [("bad header", 9, None), ("zero", 9, 8)]
    assert scan_segment(path).damaged[0].length == len(five.parts[4])


def test_structure_that_is_no_batch(path: Path) -> None:
    image = Image().add(b"five").add(b"a", b"b", body=b"\x93\x01\x02\x03").add(b"eight")
    assert verdicts(image.write(path))[:3] == [("good", 5, 5), ("bad body", 6, 7), ("good", 8, 8)]
    assert scan_segment(path).last_index == 8, "start-up's walk does not look into bodies"


@pytest.mark.parametrize(
    "wrong",
    [{"base": 8}, {"base": 5}, {"term": 0}, {"log_id": LOG + 1}, {"generation": GENERATION + 1}, {"position": 7}],
)
def test_wrong(wrong: dict[str, int], path: Path) -> None:
    image = Image().add(b"five").add(b"six", **wrong).add(b"seven")
    found = list(iter_records(image.write(path)))
    assert [one.verdict for one in found[:3]] == [Verdict.GOOD, Verdict.WRONG, Verdict.GOOD]
    assert scan_segment(path).damaged == [found[1]]


def test_residue(path: Path) -> None:
    image = Image().add(b"five").add(b"old", generation=GENERATION - 1)
    assert [found[0] for found in verdicts(image.write(path))] == ["good", "residue", "zero"]
    assert scan_segment(path).stop == fmt.RESIDUE


def test_records_of_an_older_generation_at_the_beginning_are_no_residue(path: Path) -> None:
    image = Image().add(b"five", generation=GENERATION - 1, durable=START + 7).add(b"six")
    scan = scan_segment(image.write(path))
    assert scan.sound and (scan.records, scan.last_index, scan.mark) == (2, 6, START + 7)
    assert list(scan.slots) == [START, START + len(image.parts[0])] and scan.runs == [(5, 1)]


def test_zeros_in_the_middle_are_damage_and_at_the_end_they_are_not(five: Image, path: Path) -> None:
    overwrite(str(five.write(path)), five.offset(1), bytes(len(five.parts[1])))
    assert verdicts(path)[1] == ("bad header", 6, 7)
    assert verdicts(path)[-1] == ("zero", 10, 9) and len(scan_segment(path).damaged) == 1


def test_zeros_where_the_seal_says_records_are(five: Image, path: Path) -> None:
    five.write(path, sealed=True)
    overwrite(str(path), five.offset(2), bytes(path.stat().st_size - five.offset(2)))
    assert verdicts(path)[-1] == ("zero", 8, 9) and len(scan_segment(path).damaged) == 1


def test_missing(five: Image, path: Path) -> None:
    five.write(path, sealed=True)
    path.write_bytes(path.read_bytes()[: five.offset(2)])
    assert verdicts(path)[-1] == ("missing", 8, 9)


# ---------------------------------------------------------------- resynchronising
def test_bytes_of_a_log_inside_a_payload_are_not_taken_for_records(path: Path) -> None:
    """Only a header that stands at its own position counts."""
    inner = Image().add(b"inner", base=BASE + 1).parts[0]
    image = Image().add(b"five").add(inner * 3).add(b"seven")
    flip(str(image.write(path)), image.offset(1) + 50)
    assert verdicts(path)[:3] == [("good", 5, 5), ("bad header", 6, 6), ("good", 7, 7)]


def test_the_segment_header_is_damaged(five: Image, path: Path) -> None:
    flip(str(five.write(path)), 30)
    assert [found[0] for found in verdicts(path)] == ["good"] * 5 + ["zero"]
    scan = scan_segment(path)
    assert scan.header is None and not scan.sound and (scan.records, scan.first_index, scan.last_index) == (5, 5, 9)


def test_header_block_and_first_record_are_damaged(five: Image, path: Path) -> None:
    five.write(path)
    flip(str(path), 30)
    flip(str(path), DATA + 50)
    assert verdicts(path)[:2] == [("bad header", 6, 5), ("good", 6, 7)], "nothing says where the segment began"
    assert scan_segment(path, header=HEADER).damaged[0].first_index == 5, "the manifest would know"


def test_bytes_without_a_segment_header_are_read_from_the_first_on(five: Image, tmp_path: Path) -> None:
    """As recovery keeps a torn tail in ``quarantine/``."""
    path = tmp_path / "0000000000000001.seg.8285.0badcafe"
    path.write_bytes(b"".join(five.parts[1:]))
    assert verdicts(path) == [("good", 6, 7), ("good", 8, 8), ("good", 9, 8), ("good", 9, 9)]


def test_a_damaged_seal_is_told(five: Image, path: Path) -> None:
    flip(str(five.write(path, sealed=True)), fmt.SEAL_OFFSET + 20)
    scan = scan_segment(path)
    assert scan.seal is None and scan.seal_damaged and not scan.sound and scan.damaged == []


def test_blocks_that_the_device_cannot_read_are_told_and_passed_over(path: Path) -> None:
    image = Image()
    for number in range(40):
        image.add(bytes([number]) * 400)
    image.write(path)

    class Failing(Files):
        def pread(self, fd: int, length: int, offset: int) -> bytes:
            if offset <= DATA + 8192 < offset + length:
                raise OSError(errno.EIO, "Input/output error")
            return super().pread(fd, length, offset)

    scan = scan_segment(path, files=Failing())
    assert scan.unreadable == [(DATA + 8192, 4096)] and not scan.sound
    (bad,) = [record for record in scan.damaged if record.verdict is Verdict.BAD_HEADER]
    lost = {index for record in scan.damaged for index in range(record.first_index or 0, (record.last_index or 0) + 1)}
    assert scan.records + len(lost) == 40 and bad.offset < DATA + 8192 + 4096
    assert "the device cannot read them" in scan.sentences()[1]


def test_a_newer_version_is_refused_with_words(five: Image, path: Path) -> None:
    make_newer(str(five.write(path)), 72)
    for read in (scan_segment, lambda place: list(iter_records(place))):
        with pytest.raises(VersionMismatch, match="format version 2"):
            read(path)  # type: ignore[operator]


def test_a_newer_seal_is_refused_with_words(five: Image, path: Path) -> None:
    """If its checksum holds.  If not, it is as good as none, and the records speak for themselves."""
    five.write(path, sealed=True)
    raw = bytearray(path.read_bytes())
    head = fmt.SEAL_MAGIC + (fmt.FORMAT_VERSION + 1).to_bytes(4, "little")
    for wrong in (0, 1):
        crc = crc32c(head + raw[fmt.SEAL_OFFSET + 16 : fmt.SEAL_OFFSET + 72]) ^ wrong
        raw[fmt.SEAL_OFFSET : fmt.SEAL_OFFSET + 16] = head + crc.to_bytes(4, "little")
        path.write_bytes(raw)
        if wrong:
            assert scan_segment(path).seal_damaged and scan_segment(path).records == 5
            continue
        for read in (scan_segment, lambda place: list(iter_records(place))):
            with pytest.raises(VersionMismatch, match="format version 2"):
                read(path)  # type: ignore[operator]


def test_a_version_that_rotted_is_no_newer_one(five: Image, path: Path) -> None:
    flip(str(five.write(path, sealed=True)), 8, bit=1)
    scan = scan_segment(path)
    assert scan.header is None and scan.records == 5


def test_without_verifying_only_headers_are_checked(five: Image, path: Path) -> None:
    flip(str(five.write(path)), five.offset(0) + 90)
    flip(str(path), five.offset(2) + 50)
    found = [one.verdict for one in iter_records(path, verify=False)]
    assert found[:3] == [Verdict.GOOD, Verdict.GOOD, Verdict.BAD_HEADER]


# ---------------------------------------------------------------- garbage, and agreement with start-up
CALM = settings(
    max_examples=50, deadline=None, derandomize=True, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@CALM
@given(st.binary(max_size=600), st.sampled_from([0, 1, 4096, 8192, 8280]), st.booleans())
def test_garbage_gives_verdicts_and_no_traceback(tmp_path: Path, data: bytes, zeros: int, magic: bool) -> None:
    path = tmp_path / fmt.segment_name(7)
    path.write_bytes(bytes(zeros) + (fmt.RECORD_MAGIC if magic else b"") + data)
    found = list(iter_records(path))
    assert not any(one.verdict is Verdict.GOOD for one in found)
    assert sum(one.length for one in found) <= path.stat().st_size
    assert scan_segment(path).records == 0


def random_image(r: random.Random, path: Path) -> bool:
    """A segment with all kinds of records and wounds; whether it is sealed."""
    image = Image()
    for _ in range(r.randint(0, 30)):
        kind, other = r.choices([1, 2, 3], [8, 1, 1])[0], {}
        payloads = [r.randbytes(r.randint(0, 60)) for _ in range(r.choice([1, 1, 1, 2, 5]))] if kind == 1 else []
        if r.random() < 0.03:
            other = {"generation": r.choice([0, 2, 4])}
        image.term += r.random() < 0.1
        body = b"\x90" if kind == 3 else None
        image.add(*payloads, kind=kind, body=body, durable=r.choice([0, image.position]), **other)
        image.index += r.random() < 0.03
    sealed = r.random() < 0.4
    data = bytearray(image.write(path, sealed=sealed, zeros=r.choice([0, 1, 50, 100, 4096])).read_bytes())
    for wound in r.choices(WOUNDS, k=r.choice([0, 0, 1, 1, 2, 4])):
        if len(data) > DATA:
            wound(r, data, r.randrange(DATA, len(data)))
    path.write_bytes(data)
    return sealed


def _flip(r: random.Random, data: bytearray, at: int) -> None:
    data[at] ^= 1 << r.randrange(8)


def _zeros(r: random.Random, data: bytearray, at: int) -> None:
    end = min(len(data), at + r.randint(1, 300))
    data[at:end] = bytes(end - at)


def _cut(r: random.Random, data: bytearray, at: int) -> None:
    del data[at:]


def _misplaced(r: random.Random, data: bytearray, at: int) -> None:
    source = r.randrange(DATA, len(data))
    length = min(200, len(data) - at, len(data) - source)
    data[at : at + length] = data[source : source + length]


WOUNDS: list[Callable[[random.Random, bytearray, int], None]] = [_flip, _flip, _zeros, _cut, _misplaced]


def agree(seed: int, path: Path) -> list[FoundRecord]:
    """Both walks, and the iterator, tell the same of one image."""
    sealed = random_image(random.Random(seed), path)
    data, scan = path.read_bytes(), scan_segment(path)
    seen: list[tuple[RecordHeader, bytes]] = []
    limit = scan.seal.end if scan.seal is not None else None
    assert (limit is not None) == sealed
    start_up = scan_records(data, HEADER, GENERATION, limit=limit, on_record=lambda *record: seen.append(record))
    assert (scan.good_end, scan.last_index, scan.last_term, scan.mark, scan.stop) == start_up[:5], f"seed {seed}"
    found = list(iter_records(path))
    good = [(one.header, one.body) for one in found if one.verdict is Verdict.GOOD]
    assert good[: len(seen)] == seen and len(good) == scan.records, f"seed {seed}"
    assert scan.slots.tobytes() == b"".join(one.position.to_bytes(8, "little") * one.count for one, _ in seen)
    bad = [one for one in found if one.verdict is not Verdict.GOOD and (sealed or one.verdict is not Verdict.ZERO)]
    assert bad == scan.damaged, f"seed {seed}"
    assert all(one.offset + one.length == other.offset for one, other in pairwise(found)), f"seed {seed}"
    return bad


def test_on_damaged_images_all_walks_agree(path: Path) -> None:
    bad = {record.verdict for seed in range(100) for record in agree(seed, path)}
    assert bad >= {Verdict.BAD_HEADER, Verdict.BAD_BODY, Verdict.WRONG, Verdict.RESIDUE, Verdict.MISSING}


@pytest.mark.slow
def test_on_many_damaged_images_all_walks_agree(path: Path) -> None:
    assert any(agree(seed, path) for seed in range(100, 20_000))
