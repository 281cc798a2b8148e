"""MEMORY WORDS: where every shared word and byte lies, and nothing else.

Three kinds of shared memory, each mapped by several processes::

    control   one file a generation: words only         writer writes, all others map it read-only
    lane      one memfd a client: words, slots, bytes    see below: each word has ONE writing process
    seat      one memfd a reader: the lane's first page

``docs/shared_memory.md`` shows the same tables, and a test ties the two together.
Words are 8-byte aligned u64, touched only through ``atomicshm`` cells.  Words that are
written by different sides, or at different rates, stand on different 64-byte cache lines.
"""

from __future__ import annotations

import struct

LINE = 64
PAGE = 4096

# ---------------------------------------------------------------- control block
CONTROL_MAGIC = 0x4C52_4D50_0001_0001  # layout version in the low half; written last
CONTROL_BYTES = 2 * PAGE

# name -> byte offset.  Identity: written once, before the magic.
CONTROL_WORDS: dict[str, int] = {
    "magic": 0,
    "log_id": 8,
    "generation": 16,
    "boot_id_high": 24,
    "boot_id_low": 32,
    "writer_pid": 40,
    "ring_bytes": 48,
    # The commit word, alone on its line: everything before it is in ring and index.
    "published": 64,  # stream position
    "last_index": 72,  # visible; stored after published
    "last_term": 80,
    # Frontiers of the disk.
    "durable": 128,  # stream position covered by an fsync
    "durable_index": 136,
    "written": 144,  # stream position handed to the operating system
    # The ring's floor: bytes below it may be overwritten at any moment.
    "floor": 192,
    # Catalog: bumped after each change of the segment list, and by the successor.
    "catalog_version": 256,
    "superseded_by": 264,  # generation of the next writer, 0 while this one is current
    "first_index": 272,
    "purged_index": 280,
    "purged_term": 288,
    "active_segment": 296,  # segment id
    "active_base": 304,  # index of the active segment's first entry
    "active_start": 312,  # its first stream position
    "hard_term": 320,
    "commit_index": 328,
    "terms": 336,  # edition of the table of term runs << 40 | runs in it
    "hard_version": 344,  # version of the hard state that is durable
    "began_at": 352,  # stream position up to which recovery found the log when this generation began
    # Fence of truncation, replacement, purge and reset: odd while one is under way.
    "epoch": 384,
    # Doorbell: 1 while the writer sleeps.
    "writer_sleeping": 448,
    "state": 456,
    "pressure_level": 464,
    # Counters, for stats(); plain progress, no protocol hangs on them.
    "fsyncs": 512,
    "appends": 520,
    "entries": 528,
    "bytes": 536,
    "unflushed_entries": 544,
    "unflushed_bytes": 552,
    "clients": 560,
    "readers": 568,
    "rolls": 576,
    "resent": 584,
    "fsync_ns": 592,
    "marks": 600,
    "dropped_peers": 608,
    "spin_ns": 616,  # how long a client looks for its answer before it sleeps: the writer knows who is at work
    "segments": 624,
    "loss_possible": 632,
    "scrubbed_bytes": 640,
    "scrub_passes": 648,
    "scrub_damage": 656,
    "damaged_segment": 664,  # where the scrubber found damage last: segment id,
    "damaged_offset": 672,  # and byte in its file
    # Memory, as the writer last saw it.
    "retry_after_ms": 768,  # when an append that is refused under hard pressure is worth trying again
    "pressure_changes": 776,
    "memory_used": 784,
    "memory_limit": 792,
    "memory_stalled": 800,  # share of the last 10 s in which some task waited for memory: 1 + millionths, 0 not told
    "writer_rss": 808,
}

# The second page: what the last changes removed.  Change number n (the epoch after it is 2 * n) has slot n % 512: the
# lowest index that it took off the log's end, NOTHING_REMOVED for a purge.
HISTORY_OFFSET = PAGE
HISTORY_SLOTS = 512
NOTHING_REMOVED = (1 << 63) - 1
assert HISTORY_OFFSET + 8 * HISTORY_SLOTS == CONTROL_BYTES

# The table of term runs: (first index, term) pairs, write-once; a truncation or reset starts another edition.
TERM_RUN = struct.Struct("<QQ")
TERM_RUN_BYTES = TERM_RUN.size
TERM_EDITION_SHIFT = 40

STATE_STARTING, STATE_RUNNING, STATE_FAILED, STATE_STOPPED, STATE_CRASHED, STATE_LEFT = 0, 1, 2, 3, 4, 5
# "left" is an autostarted writer without clients: unlike a stopped one, any handle may start the next.
# "crashed" is never stored: a reader of files without a writer finds that the last one did not stop in order
STATE_NAMES = {0: "starting", 1: "running", 2: "failed", 3: "stopped", 4: "crashed", 5: "left"}
LEVEL_NAMES = {0: "none", 1: "soft", 2: "hard"}
LEVEL_HARD = 2

# ---------------------------------------------------------------- lane
#
#     0     words (one line each)       tail, wants, reaped: written by the client
#                                       done: written by the writer
#     4096  completion slots            1024 x 48 bytes, slot = number % 1024; written by the writer.  One slot
#                                       answers a run of sequences whose batches are alike and lie back to back
#     53248 submission bytes            byte at cursor c lies at c % lane_bytes; written by the client
#
LANE_MAGIC = 0x4C52_4D50_4C41_0001
LANE_WORDS: dict[str, int] = {
    "magic": 0,
    "lane_bytes": 8,
    "tail": 64,  # client: cursor after the last submission
    "wants": 128,  # client: 0 awake, else number of this sleep << 2 | what it waits for; rung once a sleep
    "reaped": 192,  # client: every sequence up to here had its completion read
    "done": 256,  # writer: number of completion slots posted
}
SEAT_BYTES = PAGE
COMPLETION_SLOTS = 1024
# last sequence answered | status | first index of the run | entries in each batch | term | detail.  Every batch of a
# run has the same count: the one with sequence s, in a run that begins at r, starts at first index + (s - r) * count.
COMPLETION = struct.Struct("<QQQQQQ")
COMPLETION_BYTES = COMPLETION.size
COMPLETIONS_OFFSET = PAGE
LANE_DATA_OFFSET = COMPLETIONS_OFFSET + COMPLETION_SLOTS * COMPLETION_BYTES
assert COMPLETION_BYTES == 48 and LANE_DATA_OFFSET % PAGE == 0

# A submission: header, then body.
#   length u32 | kind u16 | flags u16 | count u32 | body crc u32 | term u64 | sequence u64 | a u64 | b u64
SUBMISSION = struct.Struct("<IHHIIQQQQ")
SUBMISSION_BYTES = SUBMISSION.size
assert SUBMISSION_BYTES == 48
SUBMIT_APPEND = 1  # body: a batch of `count` entries
SUBMIT_ENTRIES = 2  # AppendEntries.  a, b: index, term of prev; body: `count` runs, then their bodies; crc: of the runs
SUBMIT_TRUNCATE = 3  # a: first index to remove
SUBMIT_PURGE = 4  # a: last index to remove, b: its term, 0 if not said
SUBMIT_RESET = 5  # a, b: index and term of the new boundary
SUBMIT_HARD_STATE = 6  # body: msgpack [term, voted_for]
SUBMIT_COMMIT = 7  # a: commit index
BRINGS_ENTRIES = frozenset({SUBMIT_APPEND, SUBMIT_ENTRIES})  # these wait under hard memory pressure
TERM_MAX = (1 << 63) - 1
INDEX_MAX = (1 << 62) - 1
FLAG_TERM_GIVEN = 1  # `term` holds the caller's term; otherwise the writer takes the last entry's
# A run of entries of one term inside SUBMIT_ENTRIES: term u64 | entries u32 | body bytes u32 | body crc u32 | 0 u32
ENTRY_RUN = struct.Struct("<QIIII")
ENTRY_RUN_BYTES = ENTRY_RUN.size
assert ENTRY_RUN_BYTES == 24


def lane_file_bytes(lane_bytes: int) -> int:
    """Size of a lane's memfd."""
    return LANE_DATA_OFFSET + lane_bytes


# What a sleeper waits for.
WANTS_ANSWERS = 1  # completions in its lane
WANTS_PROGRESS = 2  # any change of a frontier or of the state

# Completion statuses.
OK = 0
STALE_TERM = 1
TOO_LARGE = 2
SYNC_FAILED = 3
DISK_FULL = 4
UNKNOWN = 5
MALFORMED = 6
TERM_REQUIRED = 7
MISMATCH = 8  # prev does not match; first, count: last index and its term; term, detail: the conflict
GAP = 9  # the index lies beyond the end; first: last index
COMMITTED = 10  # it is at or below the commit index; first: that
PURGED = 11  # it was purged; first: first index
OTHER_ENTRY = 12  # another term stands at the index; first: last index, term: that term
VOTED = 13  # another vote was given in this term; term: that term
TERM_UNKNOWN = 14  # the term changes in damage there; first: first index of the damage, term: the one before it
