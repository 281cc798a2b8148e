"""Disk bytes: round trips, golden files, every flipped bit, newer versions; and docs/format.md says the same."""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Callable
from typing import Any

import pytest
from crc32c import crc32c

from raftlog_mp import format as fmt
from raftlog_mp import hard_state, index, manifest, recovery_table, segment, term_history, terms
from raftlog_mp.bodies import pack_body, unpack_body
from raftlog_mp.catalog import SegmentInfo
from raftlog_mp.errors import CorruptLog, VersionMismatch
from raftlog_mp.files import Files
from raftlog_mp.manifest import Manifest
from raftlog_mp.types import HardState

from . import golden
from .tables import DOCS, block_below, fields_of, rows_of, tables_of

GOLDEN = {name: (golden.FOLDER / name).read_bytes() for name in golden.files()}
SEGMENT = GOLDEN["v1_segment"]
Read = Callable[[bytes], Any]


def read_document(magic: bytes) -> Read:
    return lambda raw: fmt.read_document(magic, raw, "file")


# name -> (bytes that checksums cover, how to read them, what they say)
STRUCTURES: dict[str, tuple[bytes, Read, Any]] = {
    "segment header": (SEGMENT[: 16 + 72], fmt.read_segment_header, golden.HEADER),
    "seal": (SEGMENT[fmt.SEAL_OFFSET : fmt.SEAL_OFFSET + 16 + 56], fmt.read_seal, golden.SEAL),
    "index": (GOLDEN["v1_index"][: 16 + 40], fmt.read_index_header, golden.INDEX),
    "manifest": (GOLDEN["v1_manifest"], read_document(fmt.MANIFEST_MAGIC), golden.MANIFEST),
    "hard state": (
        fmt.pack_document(fmt.HARD_STATE_MAGIC, golden.HARD_STATES[0]), read_document(fmt.HARD_STATE_MAGIC),
        golden.HARD_STATES[0],
    ),
    "term runs": (GOLDEN["v1_terms"], read_document(fmt.TERMS_MAGIC), golden.TERMS),
}  # fmt: skip
every_structure = pytest.mark.parametrize("name", STRUCTURES)


# ---------------------------------------------------------------- golden files
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_bytes_are_what_is_written_today(name: str) -> None:
    assert golden.files()[name] == GOLDEN[name]


@every_structure
def test_golden_structures_say_what_is_documented(name: str) -> None:
    raw, read, value = STRUCTURES[name]
    assert read(raw) == value
    assert read(raw + b"\0" * 100) == value, "what follows does not matter"


def test_golden_segment_holds_the_documented_entries() -> None:
    found: dict[int, tuple[int, bytes]] = {}
    seen: list[fmt.RecordHeader] = []

    def take(record: fmt.RecordHeader, body: bytes) -> None:
        seen.append(record)
        if record.kind == fmt.KIND_ENTRIES:
            payloads = unpack_body(body, record.count)
            found.update({n: (record.term, payload) for n, payload in enumerate(payloads, record.base_index)})

    scan = segment.scan_records(SEGMENT, golden.HEADER, golden.GENERATION, on_record=take)
    assert found == golden.ENTRIES
    assert (scan.end, scan.last_index, scan.last_term, scan.stop) == (golden.END, 8, 2, fmt.ZERO)
    assert scan.mark == golden.END - fmt.RECORD_BYTES, "the mark vouches for everything before it"
    assert [record.kind for record in seen] == [fmt.KIND_PRODUCERS, fmt.KIND_ENTRIES, fmt.KIND_ENTRIES, fmt.KIND_MARK]
    assert [record.sequence for record in seen] == [0, 1, 2, 0]
    assert {record.producer for record in seen} == {0, golden.PRODUCER}


def test_golden_files_open(tmp_path: Any) -> None:
    for name, file in (
        ("v1_manifest", "manifest"), ("v1_hard_state", "hard_state"), ("v1_index", "x.idx"), ("v1_terms", "x.trm"),
    ):  # fmt: skip
        (tmp_path / file).write_bytes(GOLDEN[name])
    state = manifest.load(Files(), str(tmp_path))
    assert state == Manifest.from_dict(golden.MANIFEST)
    assert fmt.pack_document(fmt.MANIFEST_MAGIC, state.as_dict()) == GOLDEN["v1_manifest"]
    assert state.segments == [SegmentInfo(2, 3, 5, 1000, 1000, 1, 65536, 65536, golden.END, 8, 2)]
    assert hard_state.load(Files(), str(tmp_path)) == HardState(2, "n1")
    opened = index.open_sealed(Files(), str(tmp_path / "x.idx"), golden.LOG_ID, 2, 5, 4)
    assert opened is not None and tuple(opened.slots) == golden.SLOTS
    opened.close()
    assert terms.read_sealed_runs(Files(), str(tmp_path / "x.trm"), golden.LOG_ID, 2) == golden.RUNS


def test_the_golden_segment_has_the_golden_runs() -> None:
    assert term_history.runs_in_records(SEGMENT[fmt.DATA_OFFSET :]) == golden.RUNS


# ---------------------------------------------------------------- damage
@every_structure
def test_every_flipped_bit_is_noticed(name: str) -> None:
    raw, read, _ = STRUCTURES[name]
    missed = []
    for bit in range(len(raw) * 8):
        bent = bytearray(raw)
        bent[bit // 8] ^= 1 << bit % 8
        try:
            found = read(bytes(bent))
        except VersionMismatch:
            assert 8 <= bit // 8 < 12, "only the version says newer"
            continue
        if found is not None:
            missed.append(bit)
    assert not missed, f"bits of the {name} that may flip unnoticed: {missed}"


def test_every_flipped_bit_of_a_record_is_noticed() -> None:
    for raw in golden.records():
        for bit in range(len(raw) * 8):
            bent = bytearray(raw)
            bent[bit // 8] ^= 1 << bit % 8
            header = fmt.read_record_header(bytes(bent), 0)
            if bit < fmt.RECORD_BYTES * 8:
                assert header is None
            else:
                assert header is not None and crc32c(bent[fmt.RECORD_BYTES :]) != header.body_crc


@every_structure
def test_every_cut_is_noticed(name: str) -> None:
    raw, read, _ = STRUCTURES[name]
    for length in range(len(raw)):
        assert read(raw[:length]) is None


@every_structure
def test_a_newer_version_says_newer_whatever_follows(name: str) -> None:
    """The version stands before the checksum: a later format may check itself in another way."""
    raw, read, _ = STRUCTURES[name]
    for version in (fmt.FORMAT_VERSION + 1, fmt.FORMAT_VERSION + 100):
        newer = raw[:8] + struct.pack("<I", version) + bytes(reversed(raw[12:]))
        with pytest.raises(VersionMismatch, match=f"version {version}.*Upgrade raftlog_mp.*nothing was changed"):
            read(newer)


@every_structure
def test_another_structure_is_not_mistaken(name: str) -> None:
    _, read, _ = STRUCTURES[name]
    for other, (raw, _, _) in STRUCTURES.items():
        assert other == name or read(raw) is None


# ---------------------------------------------------------------- bodies
@pytest.mark.parametrize(
    "payloads", [[b""], [b"x"], [b"\x93\xff"], [b"", b""], [b"a" * 70_000, b"", b"b"], [b"x"] * 3000]
)
def test_bodies_round_trip(payloads: list[bytes]) -> None:
    body = pack_body(payloads)
    assert unpack_body(body, len(payloads)) == payloads
    assert len(payloads) > 1 or body == payloads[0], "one payload is stored raw"


@pytest.mark.parametrize(
    "body", [b"", b"\x92\xc4\x01a", b"\x91\xc4\x01a", b"\x92\x01\x02", b"\x92\xa1a\xa1b", b"\x92\xc4\x01a\xc4\x01bx",
             b"\xdd\xff\xff\xff\xff", b"\x81\xc4\x01a\xc4\x01b", b"\xc6\xff\xff\xff\xff", b"\x92\xc4\x01a\x90",
             b"\xff" * 30],
)  # fmt: skip
def test_hostile_bodies_raise_value_error(body: bytes) -> None:
    with pytest.raises(ValueError):
        unpack_body(body, 2)


def test_file_names_sort_by_id() -> None:
    assert fmt.segment_name(1) == "0000000000000001.seg" < fmt.segment_name(16) and fmt.index_name(1).endswith(".idx")
    assert fmt.terms_name(1) == "0000000000000001.trm" and fmt.parse_segment_name(fmt.terms_name(1)) is None


def test_corrupt_says_what_to_do_next() -> None:
    error = fmt.corrupt("x is damaged", segment="x", offset=3)
    assert isinstance(error, CorruptLog) and error.offset == 3 and "raftlog-mp check" in str(error)


# ---------------------------------------------------------------- docs/format.md
TABLES = tables_of("format.md")
ENVELOPE = ("magic", "version", "crc")


@pytest.mark.parametrize(
    ("heading", "fields"),
    [
        ("Record header", fields_of((fmt.RECORD_HEADER, fmt.RecordHeader._fields))),
        ("Envelope", fields_of((fmt._ENVELOPE, ENVELOPE))),
        ("Segment header", fields_of((fmt._SEGMENT_FIELDS, fmt.SegmentHeader._fields), start=16)),
        ("Seal", fields_of((fmt._SEAL_FIELDS, fmt.Seal._fields), start=16)),
        ("Index file", fields_of((fmt._INDEX_FIELDS, fmt.IndexHeader._fields), start=16)),
    ],
)
def test_documented_offsets(heading: str, fields: list[tuple[int, int, str]]) -> None:
    assert rows_of(TABLES[heading]) == fields


def test_documented_blocks_of_a_segment() -> None:
    rows = {row["what"]: (int(row["offset"]), row["size"]) for row in TABLES["Segment file"]}
    assert rows["segment header"] == (fmt.SEGMENT_HEADER_OFFSET, str(fmt.BLOCK_BYTES))
    assert rows["seal"] == (fmt.SEAL_OFFSET, str(fmt.BLOCK_BYTES))
    assert rows["records"][0] == fmt.DATA_OFFSET


def test_documented_names_magics_and_kinds() -> None:
    names = {row["name"] for row in TABLES["Files"]}
    assert names == {
        fmt.LOCK_NAME, fmt.START_NAME, fmt.HARD_STATE_NAME, fmt.MANIFEST_NAME, fmt.WRITER_LOG_NAME, fmt.SOCKET_NAME,
        fmt.SHM_NAME + "/", fmt.QUARANTINE_NAME + "/", "ID.seg", "ID.idx", "ID.trm", "*.tmp",
    }  # fmt: skip
    magics = {row["structure"]: row["magic"] for row in TABLES["Magics"]}
    assert magics == {
        "record": fmt.RECORD_MAGIC.hex(" "), "segment header": fmt.SEGMENT_MAGIC.decode(),
        "seal": fmt.SEAL_MAGIC.decode(), "index": fmt.INDEX_MAGIC.decode(), "manifest": fmt.MANIFEST_MAGIC.decode(),
        "hard state": fmt.HARD_STATE_MAGIC.decode(), "term runs": fmt.TERMS_MAGIC.decode(),
    }  # fmt: skip
    kinds = {row["kind"]: row["name"] for row in TABLES["Kinds of records"]}
    assert kinds == {
        str(value): name.removeprefix("KIND_") for name, value in vars(fmt).items() if name.startswith("KIND_")
    }


def test_documented_manifest() -> None:
    keys = [row["key"] for row in TABLES["Manifest"]]
    assert keys == [field.name for field in dataclasses.fields(Manifest)]
    assert [row["field"] for row in TABLES["Segment rows"]] == [field.name for field in dataclasses.fields(SegmentInfo)]


def test_documented_term_runs() -> None:
    assert [row["key"] for row in TABLES["Term runs"]] == list(golden.TERMS)


def test_documented_hard_state() -> None:
    document = fmt.read_document(fmt.HARD_STATE_MAGIC, hard_state._pack(HardState(1, None), 0), "x")
    assert document is not None
    assert [row["key"] for row in TABLES["Hard state"]] == list(document)


@pytest.mark.parametrize(
    ("heading", "rows"),
    [("Segments", recovery_table.SEGMENT_ROWS), ("The ring of a MemFirst log", recovery_table.RING_ROWS)],
)
def test_documented_recovery_table(heading: str, rows: tuple[recovery_table.Row, ...]) -> None:
    """Same rows, in the same order (the first match wins), with the same action and the same sentence."""
    documented = [(row["row"], row["action"], row["sentence"]) for row in TABLES[heading]]
    assert documented == [(row.letter, row.action, row.sentence) for row in rows]


@pytest.mark.parametrize("name", ["Header", "Seal block", "First entry", "Batch of three", "Index of the segment"])
def test_worked_example_is_the_golden_log(name: str) -> None:
    whole = GOLDEN["v1_index"] if name == "Index of the segment" else SEGMENT
    lines = re.findall(r"^([0-9a-f]{8})  ((?:[0-9a-f]{2} {0,2})+)", block_below("format.md", name), re.MULTILINE)
    assert lines
    for offset, data in lines:
        raw = bytes.fromhex(data)
        assert whole[int(offset, 16) : int(offset, 16) + len(raw)] == raw, f"{name} at {offset}"


def test_documented_version() -> None:
    assert f"Format version **{fmt.FORMAT_VERSION}**" in (DOCS / "format.md").read_text(encoding="utf-8")
