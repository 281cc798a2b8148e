"""The writer dies at every step that matters; what a client was told, and what it sends again, stays true.

Unlike kills at random moments these are exact: the process kills itself before or after one call.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import pytest
from support.history import Submission, check
from support.processes import BentWriter, rows_of

import raftlog_mp as rl

SMALL = {"segment_bytes": 1 << 16, "ring_bytes": 1 << 20, "idle_mark_ms": 1}
STRATEGIES = ("disk_first", "mem_first")
UNANSWERED = ("lane.LaneConsumer.complete", "before", 1)  # appended, and nobody has read an answer
PADDING = b"." * 700  # a few dozen batches fill a segment

# While serving: one step of an append, of a flush, of a roll, of an idle mark.
SERVING = [
    ("journal.Journal.append", "before", 30), ("journal.Journal.append", "after", 30),
    ("ring.RingWriter.write", "before", 3), ("ring.RingWriter.write", "after", 3),
    ("journal.Journal.publish", "before", 3), ("journal.Journal.publish", "after", 3),
    ("segment.SegmentWriter.write", "before", 3), ("segment.SegmentWriter.write", "after", 3),
    ("segment.SegmentWriter.sync", "before", 3), ("segment.SegmentWriter.sync", "after", 3),
    ("journal.Journal.finish_job", "before", 3), ("journal.Journal.finish_job", "after", 3),
    ("completions.Completions._put", "before", 1), ("lane.LaneConsumer.complete", "before", 1),
    ("lane.LaneConsumer.complete", "after", 1), ("journal.Journal.mark", "after", 1),
    ("journal.Journal.roll", "before", 1), ("journal.Journal._create_segment", "after", 1),
    ("journal.Journal._create_index", "after", 1), ("index.write_sealed", "after", 1),
    ("segment.seal_segment", "before", 1), ("segment.seal_segment", "after", 1),
    ("files.Files.truncate", "before", 1), ("files.Files.truncate", "after", 1),
    ("files.Files.rename", "before", 1), ("files.Files.rename", "after", 1),
    ("files.Files.rename", "before", 2), ("files.Files.rename", "after", 2),
    ("journal.Journal._adopt", "before", 1), ("journal.Journal._adopt", "after", 1),
    ("journal.Journal._head_of_segment", "before", 1), ("journal.Journal._head_of_segment", "after", 1),
    ("journal.Journal.roll", "after", 1), ("journal.Journal.roll", "after", 2),
]  # fmt: skip

# In MemFirst, while a helper thread makes the next segment, or does the syncs of a roll.
BEHIND = [
    ("rolling.RollJob._change_over", "after", 1), ("journal.Journal._roll_behind", "after", 1),
    ("journal.Journal._roll_behind", "before", 2), ("preparation.Preparation.run", "before", 1),
    ("preparation.Preparation.run", "after", 2), ("rolling.RollJob.run", "before", 1),
    ("rolling.RollJob.run", "after", 1), ("rolling.RollJob.run", "after", 2),
    ("segment.SegmentWriter.begin", "after", 1),
]  # fmt: skip

# In a straight round: clients that append one at a time, each with one entry in its lane.  None of the points above is
# reached in one: their client submits all at once.  Now and then the general way takes what comes between two looks.
STRAIGHT = [
    ("disk_first", "segment.SegmentWriter.sync", "after", 5), ("disk_first", "lane.LaneConsumer.complete", "after", 6),
    ("mem_first", "ring.RingWriter.write", "after", 5), ("mem_first", "journal.Journal.publish", "after", 5),
    # The rest runs among the slow tests.
    *(("disk_first", *point) for point in [
        ("lane.LaneConsumer.copy", "after", 8), ("ring.RingWriter.write", "after", 5),
        ("index.ActiveIndex.write", "after", 5), ("segment.SegmentWriter.write", "before", 5),
        ("segment.SegmentWriter.write", "after", 5), ("segment.SegmentWriter.sync", "before", 5),
        ("lane.LaneConsumer.complete", "before", 6),
        ("sessions.Sessions.ring_all", "before", 5), ("producers.Producers.record", "before", 6),
        ("journal.Journal.open_gate", "after", 6),
    ]),
    *(("mem_first", *point) for point in [
        ("lane.LaneConsumer.copy", "after", 8), ("index.ActiveIndex.write", "after", 5),
        ("journal.Journal.entered", "after", 5), ("journal.Journal.publish", "before", 5),
        ("lane.LaneConsumer.complete", "before", 6), ("lane.LaneConsumer.complete", "after", 6),
        ("producers.Producers.record", "before", 6),
    ]),
]  # fmt: skip
STRAIGHT_BY_DEFAULT = 4

# While starting after a crash: the next writer dies, too.
STARTING = [
    ("findings.make_plan", "after", 1), ("segment.seal_segment", "before", 1), ("segment.seal_segment", "after", 1),
    ("files.Files.rename", "before", 1), ("files.Files.rename", "after", 1), ("files.Files.rename", "after", 2),
    ("files.Files.truncate", "before", 1), ("segment.SegmentWriter.sync", "after", 1),
    ("control.create_control", "before", 1), ("control.create_control", "after", 1),
    ("journal.Journal.roll", "before", 1), ("journal.Journal._create_segment", "after", 1),
    ("journal.Journal._adopt", "before", 1), ("journal.Journal._adopt", "after", 1),
    ("journal.Journal._head_of_segment", "after", 1), ("journal.Journal.roll", "after", 1),
    ("journal.Journal.flush", "after", 1), ("journal.Journal.publish", "after", 1),
    ("sessions.Sessions.__init__", "after", 1), ("startup.supersede", "before", 1),
    ("startup.supersede", "after", 1), ("shm.remove", "after", 1),
]  # fmt: skip


def name_of(point: tuple[str, str, int]) -> str:
    return f"{point[0].split('.', 1)[1]}-{point[1]}-{point[2]}"


def in_turn(points: list[tuple[str, str, int]]) -> pytest.MarkDecorator:
    """Each point with one strategy, in turn; with the other it runs among the slow tests.

    The power-cut explorer kills at every step of both (tests/crash), and the storm at any moment (tests/storm).
    """
    return pytest.mark.parametrize(("point", "strategy"), [
        pytest.param(
            point, strategy, id=f"{name_of(point)}-{strategy}", marks=[pytest.mark.slow] if (at + of) % 2 else []
        )
        for at, point in enumerate(points) for of, strategy in enumerate(STRATEGIES)
    ])  # fmt: skip


def payloads_of(number: int) -> list[bytes]:
    return [b"%d-%d" % (number, part) + PADDING for part in range(1 + number % 3)]


def settle(log: rl.Log, tickets: list[rl.Ticket]) -> None:
    """Every ticket resolves, and the log holds what they say, once."""
    submissions = [
        Submission("me", number, tuple(payloads_of(number)), ticket.result(timeout=60.0).start)
        for number, ticket in enumerate(tickets)
    ]
    entries = log.read(1)
    assert check(rows_of(entries), submissions) == []
    assert log.append(b"after") == entries[-1].index + 1
    log.flush()
    assert rows_of(log.read(1))[:-1] == rows_of(entries)


@contextlib.contextmanager
def orphaned(
    log_dir: str, strategy: str, point: tuple[str, str, int] = UNANSWERED, batches: int = 60
) -> Iterator[tuple[rl.Log, list[rl.Ticket]]]:
    """A client that outlived its writer, which died at ``point``, and everything that the client has submitted."""
    config = rl.LogConfig(strategy=strategy, **SMALL)
    with BentWriter(log_dir, config, die=point) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
            tickets = [log.submit(payloads_of(number)) for number in range(batches)]
            writer.wait()
            yield log, tickets


def start_and_die(log_dir: str, point: tuple[str, str, int]) -> None:
    """The next writer dies while it starts."""
    with BentWriter(log_dir, die=point, die_at_start=True) as writer:
        writer.wait()


@in_turn(SERVING)
def test_writer_dies_while_serving(log_dir: str, strategy: str, point: tuple[str, str, int]) -> None:
    with orphaned(log_dir, strategy, point, 100) as (log, tickets), rl.start_writer(log_dir):
        settle(log, tickets)
    with rl.open_reader(log_dir) as reader:
        assert reader.last_index == reader.durable_index == len(reader)
        assert reader.stats().loss_possible is False


@pytest.mark.parametrize("point", [
    pytest.param(point, id=name_of(point), marks=[pytest.mark.slow] if at > 1 else [])
    for at, point in enumerate(BEHIND)
])  # fmt: skip
def test_writer_dies_while_a_roll_goes_on_behind(log_dir: str, point: tuple[str, str, int]) -> None:
    test_writer_dies_while_serving(log_dir, "mem_first", point)


class OneAtATime:
    """Two clients, each of which appends one entry and waits for its answer, again and again."""

    def __init__(self, log_dir: str, entries: int = 40) -> None:
        self.log_dir, self.entries = log_dir, entries
        self.submissions: list[Submission] = []
        self._threads = [threading.Thread(target=self._append, args=(name,)) for name in ("me", "you")]

    def _append(self, name: str) -> None:
        with rl.open_log(self.log_dir, autostart=False, timeout=60.0) as log:
            for number in range(self.entries):
                payload = b"%s %d" % (name.encode(), number) + PADDING
                self.submissions.append(Submission(name, number, (payload,), log.append(payload)))

    def __enter__(self) -> OneAtATime:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for thread in self._threads:
            thread.join()

    def settle(self) -> None:
        """All have their answers, and the log holds what they say, once."""
        self.__exit__()
        assert len(self.submissions) == 2 * self.entries
        with rl.open_reader(self.log_dir) as reader:
            assert check(rows_of(reader.read(1)), self.submissions) == []


@pytest.mark.parametrize(("strategy", "target", "moment", "number"), [
    pytest.param(*point, id=f"{name_of(point[1:])}-{point[0]}", marks=[pytest.mark.slow] if at >= STRAIGHT_BY_DEFAULT
                 else []) for at, point in enumerate(STRAIGHT)
])  # fmt: skip
def test_writer_dies_in_a_straight_round(log_dir: str, strategy: str, target: str, moment: str, number: int) -> None:
    config = rl.LogConfig(strategy=strategy, **(SMALL | {"idle_mark_ms": 60_000}))
    with BentWriter(log_dir, config, die=(target, moment, number)) as writer:
        assert writer.line() == "serving"
        with OneAtATime(log_dir) as clients:
            writer.wait()
            with rl.start_writer(log_dir):
                clients.settle()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_who_appends_one_at_a_time_is_served_in_straight_rounds(log_dir: str, strategy: str) -> None:
    """Else the points above would prove nothing.

    All but some of 80 entries: what comes between two looks is for the general way, in which this writer dies.
    """
    config = rl.LogConfig(strategy=strategy, **(SMALL | {"idle_mark_ms": 60_000}))
    with BentWriter(log_dir, config, die=("intake.Intake._take", "before", 50)) as writer:
        assert writer.line() == "serving"
        with OneAtATime(log_dir) as clients:
            clients.settle()
        assert writer.process.poll() is None


@in_turn(STARTING)
def test_writer_dies_while_starting_after_a_crash(log_dir: str, strategy: str, point: tuple[str, str, int]) -> None:
    """The first writer dies with answers that nobody has read; the second dies during recovery; the third serves."""
    with orphaned(log_dir, strategy) as (log, tickets):
        start_and_die(log_dir, point)
        with rl.start_writer(log_dir):
            settle(log, tickets)
            assert log.stats().loss_possible is False


@in_turn([
    ("findings.make_plan", "after", 1), ("journal.Journal.roll", "after", 1), ("startup.supersede", "before", 1),
    ("startup.supersede", "after", 1),
])  # fmt: skip
def test_a_reader_that_never_waits_sees_the_writer_after_the_next(
    log_dir: str, strategy: str, point: tuple[str, str, int]
) -> None:
    """The second writer dies while it takes over: whoever still looks at the first one must find the third."""
    config = rl.LogConfig(strategy=strategy, **SMALL)
    with BentWriter(log_dir, config) as first:
        assert first.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log, rl.open_reader(log_dir) as reader:
            log.append(b"one")
            assert reader.last_index == 1
            first.kill()
            start_and_die(log_dir, point)
            with rl.start_writer(log_dir):
                assert log.append(b"two") == 2
                assert reader.last_index == 2
                assert reader.get(2) == log.get(2)
                assert [entry.payload for entry in reader.read(1)] == [b"one", b"two"]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_killed_before_each_of_the_first_calls_of_a_start(log_dir: str, strategy: str) -> None:
    """Start-up after start-up is killed, one rename later each time; nothing is lost and nothing is doubled."""
    with orphaned(log_dir, strategy) as (log, tickets):
        for number in (1, 2):
            for moment in ("before", "after"):
                start_and_die(log_dir, ("files.Files.rename", moment, number))
        with rl.start_writer(log_dir):
            settle(log, tickets)
