"""The writers of a storm: some kill themselves at a chosen step, some are bent, for the negative controls."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

from storm_board import Board
from support import bent_changes, bent_writer

from raftlog_mp import findings, hard_state, journal, provable, writer
from raftlog_mp.config import Adaptive, Batch, FlushPolicy, Immediate, LogConfig

POLICIES: dict[str, FlushPolicy] = {
    "batch": Batch(threshold=64, interval_ms=5), "immediate": Immediate(),
    "lazy": Batch(threshold=2000, interval_ms=40), "adaptive": Adaptive(target_ms=5),
}  # fmt: skip

# Where a writer may kill itself: a call of it after it began to serve, or while it recovers.
SERVING_STEPS = (
    "journal.Journal.append", "ring.RingWriter.write", "journal.Journal.publish", "segment.SegmentWriter.write",
    "segment.SegmentWriter.sync", "journal.Journal.finish_job", "completions.Completions._put",
    "lane.LaneConsumer.complete", "journal.Journal.mark", "journal.Journal.roll", "segment.seal_segment",
    "files.Files.rename", "orders.Orders.execute", "control.Control.open_change", "manifest.save", "hard_state.save",
    "sessions.Sessions.handle",
)  # fmt: skip
STARTING_STEPS = (
    "segment.seal_segment", "files.Files.rename", "control.create_control", "journal.Journal.roll",
    "journal.Journal._create_segment", "manifest.save", "startup.supersede", "shm.remove",
)  # fmt: skip


def small(strategy: str, policy: str) -> LogConfig:
    """Settings under which rolls, laps of the ring and purges of files happen all the time."""
    return LogConfig(
        strategy=strategy, flush_policy=POLICIES[policy], segment_bytes=1 << 16, ring_bytes=1 << 20,
        lane_bytes=1 << 16, linger_s=0.5, idle_mark_ms=5,
    )  # fmt: skip


def a_step(chance: random.Random) -> tuple[list[Any], bool]:
    """Where a writer kills itself, and whether that is counted from its start."""
    starting = chance.random() < 0.3
    name = chance.choice(STARTING_STEPS if starting else SERVING_STEPS)
    return [name, chance.choice(("before", "after")), chance.randrange(1, 3 if starting else 25)], starting


def serve(directory: str, config: LogConfig, board: Board, me: int, bend: str | None, step: Any, linger: bool) -> None:
    """Serve the log until told to stop; ``me`` goes on the board when clients may come."""
    if bend:
        BENDS[bend]()
    begin: Callable[[], None] = lambda: None  # noqa: E731
    if step is not None:
        begin = bent_writer.arm(*step[0])
        if step[1]:
            begin()

    def ready(_: writer.Writer) -> None:
        if step is None or not step[1]:
            begin()
        board.set("serving", me)

    writer.serve(directory, config, linger=linger, interrupt=False, on_ready=ready)


# ---------------------------------------------------------------- broken builds
def skip_ring() -> None:
    """Recovery does not look at the ring: what was only in memory is lost."""
    for module in (findings, provable):
        assert callable(module.decide_ring), "bent is what is there"
        module.decide_ring = lambda manifest, old, plan: None  # type: ignore[attr-defined]


def lazy_vote() -> None:
    """The hard state is acknowledged, and not written every second time."""
    save, calls = hard_state.save, iter(range(1, 10**9))

    def bent(files: Any, directory: str, state: Any, version: int) -> Any:
        if next(calls) % 2:
            return save(files, directory, state, version)
        return None

    hard_state.save = bent  # type: ignore[assignment]


def keep_removed() -> None:
    """A truncation is acknowledged and does nothing."""
    replace_from = journal.Journal.replace_from

    def bent(self: Any, index: int, batches: Any, producer: int, sequence: int) -> None:
        replace_from(self, index if batches else self.next_index, batches, producer, sequence)

    journal.Journal.replace_from = bent  # type: ignore[method-assign]


BENDS: dict[str, Callable[[], None]] = {
    **bent_writer.BENDS, "never_odd": bent_changes.never_odd, "skip_ring": skip_ring, "lazy_vote": lazy_vote,
    "keep_removed": keep_removed,
}  # fmt: skip
