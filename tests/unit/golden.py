"""The golden log of format version 1, byte for byte.  Its files stand in ``tests/golden`` and never change.

A newer format version gets golden files of its own beside these; these must stay readable for ever.
"""

from __future__ import annotations

from pathlib import Path

from crc32c import crc32c

from raftlog_mp import format as fmt
from raftlog_mp.bodies import pack_body
from raftlog_mp.format import IndexHeader, Seal, SegmentHeader

FOLDER = Path(__file__).parents[1] / "golden"
LOG_ID, GENERATION, PRODUCER = 0x0123456789ABCDEF, 3, 0x0BADCAFE
HEADER = SegmentHeader(
    log_id=LOG_ID, segment_id=2, generation=GENERATION, base_index=5, start=1000, previous_end=1000,
    previous_term=1, file_bytes=65536, index_slots=65536,
)  # fmt: skip
ENTRIES = {5: (1, b"hello"), 6: (2, b"a"), 7: (2, b""), 8: (2, b"\xff\x00raw")}
SLOTS = (1089, 1182, 1182, 1182)  # positions of the records that hold entries 5 to 8
END = 1371
SEAL = Seal(LOG_ID, 2, GENERATION, base_index=5, end=END, last_index=8, last_term=2)
INDEX_SLOTS = b"".join(slot.to_bytes(8, "little") for slot in SLOTS)
INDEX = IndexHeader(LOG_ID, 2, 5, 4, crc32c(INDEX_SLOTS))
MANIFEST = {
    "uuid": "01234567-89ab-4def-8123-456789abcdef", "log_id": LOG_ID, "config": {"strategy": "disk_first"},
    "strategy": "disk_first", "generation": GENERATION, "next_segment_id": 3,
    "segments": [[2, GENERATION, 5, 1000, 1000, 1, 65536, 65536, END, 8, 2]],
    "purged_index": 4, "purged_term": 1, "durable": END, "clean": True, "settled": True, "failed": False,
    "loss_possible": False, "shm_dir": None, "evidence": [], "commit_index": 6,
}  # fmt: skip
RUNS = [(5, 1), (6, 2)]
TERMS = {"log_id": LOG_ID, "segment_id": 2, "runs": [5, 1, 6, 2]}
HARD_STATES = ({"term": 2, "voted_for": "n1", "version": 7}, {"term": 2, "voted_for": "n1", "version": 7})


def record(
    kind: int, body: bytes, count: int, base_index: int, term: int, position: int, durable: int, sequence: int = 0
) -> bytes:
    """One record of the golden segment."""
    header = fmt.pack_record_header(
        crc32c(body), len(body), count, kind, LOG_ID, GENERATION, base_index, term, position, durable,
        PRODUCER if sequence else 0, sequence,
    )  # fmt: skip
    return header + body


def records() -> list[bytes]:
    """A producers' snapshot, a single entry, a batch of three, a mark."""
    batch = pack_body([payload for _, payload in list(ENTRIES.values())[1:]])
    return [
        record(fmt.KIND_PRODUCERS, b"\x90", 0, 5, 1, 1000, 1000),
        record(fmt.KIND_ENTRIES, b"hello", 1, 5, 1, 1089, 1089, sequence=1),
        record(fmt.KIND_ENTRIES, batch, 3, 6, 2, 1182, 1182, sequence=2),
        record(fmt.KIND_MARK, b"", 0, 9, 2, 1182 + fmt.RECORD_BYTES + len(batch), 1182 + fmt.RECORD_BYTES + len(batch)),
    ]


def files() -> dict[str, bytes]:
    """Name below ``tests/golden`` -> content."""
    segment = fmt.pack_segment_header(HEADER) + fmt.pack_seal(SEAL).ljust(fmt.BLOCK_BYTES, b"\0") + b"".join(records())
    hard = b"".join(
        fmt.pack_document(fmt.HARD_STATE_MAGIC, state).ljust(fmt.HARD_STATE_SLOT_BYTES, b"\0") for state in HARD_STATES
    )
    return {
        "v1_segment": segment,
        "v1_index": fmt.pack_index(INDEX, INDEX_SLOTS),
        "v1_manifest": fmt.pack_document(fmt.MANIFEST_MAGIC, MANIFEST),
        "v1_hard_state": hard,
        "v1_terms": fmt.pack_document(fmt.TERMS_MAGIC, TERMS),
    }
