"""Readers while the log is truncated, replaced, purged, rolled and reset: they see true states, in order."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.processes import HERE, PATIENCE_S, Actor, BentWriter, Child, rows_of, wait_until
from support.timeline import Observer, Timeline, Violation, make_timeline, perform

import raftlog_mp as rl

SMALL = {"segment_bytes": 1 << 16, "ring_bytes": 1 << 20, "idle_mark_ms": 5}
ROUND = 25  # operations between two looks at whether every observer keeps up
STRATEGIES = ("disk_first", "mem_first")


# ---------------------------------------------------------------- the hammer
def violations(observers: list[Actor]) -> list[str]:
    """What the observers complain of."""
    return [f"{actor.name}: {line[1]}" for actor in observers for line in actor.lines() if line[0] == "violation"]


def hammer(directory: str, folder: Path, strategy: str, seed: int, count: int) -> None:
    """Every operation of a timeline, while two observers in processes of their own look at the log."""
    config = rl.LogConfig(strategy=strategy, allow_any_filesystem=True, **SMALL)
    with contextlib.ExitStack() as stack:
        stack.enter_context(rl.start_writer(directory, config))
        log = stack.enter_context(rl.open_log(directory, timeout=60.0))
        observers = [stack.enter_context(Actor("observer", directory, folder / f"observer-{n}", seed, count, n))
                     for n in (1, 2)]  # fmt: skip
        for number, operation in enumerate(make_timeline(seed, count).operations):
            if number % ROUND == 0:
                keep_up(observers)
                assert violations(observers) == []
            perform(log, operation)
        for actor in observers:
            assert actor.wait() == 0, actor.process.stderr.read()
    assert violations(observers) == []
    for actor in observers:
        _, state, calls, steps = [line for line in actor.lines() if line[0] == "at"][-1]
        assert state == count
        assert steps >= count // ROUND and calls >= count  # it looked, and the log moved under its eyes


def keep_up(observers: list[Actor]) -> None:
    """Nobody falls so far behind that nothing happens under it."""
    goals = [(actor, actor.progress("at") + 1) for actor in observers]
    for actor, goal in goals:
        wait_until("an observer to look", lambda a=actor, g=goal: a.progress("at") >= g or a.process.poll() is not None)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_readers_see_one_state_after_the_other(dev_shm: str, tmp_path: Path, strategy: str) -> None:
    """In memory, where changes follow each other fastest."""
    hammer(dev_shm + "/log", tmp_path, strategy, 11 + (strategy == "mem_first"), 1000)


def test_readers_see_one_state_after_the_other_on_a_disk(log_dir: str, tmp_path: Path) -> None:
    """On a disk, where each change takes long."""
    hammer(log_dir, tmp_path, "disk_first", 13, 200)


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(100, 110))
def test_readers_see_one_state_after_the_other_for_long(
    dev_shm: str, tmp_path: Path, strategy: str, seed: int
) -> None:  # fmt: skip
    hammer(dev_shm + "/log", tmp_path, strategy, seed, 5000)


# ---------------------------------------------------------------- negative controls
class BentChanges(BentWriter):
    """A writer of ``bent_changes.py``."""

    def __init__(self, directory: str, config: rl.LogConfig, bend: str | None) -> None:
        spec = {"config": config.as_dict(), "bend": bend}
        Child.__init__(self, str(HERE / "bent_changes.py"), directory, json.dumps(spec))


def replaced() -> Timeline:
    """Ten entries; then the last seven of them are replaced by ten."""
    line = Timeline()
    line.add("append", [line.payload(index, 1) for index in range(1, 11)], 1)
    prev = rl.LogId(1, 3)
    line.add("append_entries", prev, [rl.Entry(2, index, line.payload(index, 2)) for index in range(4, 14)], 2)
    return line


def renewed() -> Timeline:
    """Ten entries; then the last seven are truncated, and as many appended in the same term."""
    line = Timeline()
    line.add("append", [line.payload(index, 1) for index in range(1, 11)], 1)
    line.add("truncate_from", 4, None)
    line.add("append", [line.payload(index, 1) for index in range(4, 11)], 1)
    return line


def complaint(directory: str, line: Timeline, bend: str | None, *, holds: bool) -> str | None:
    """What one observer says that looked before, and while the bent writer holds (else: after everything)."""
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(BentChanges(directory, rl.LogConfig(**SMALL), bend))
        assert writer.line() == "serving"
        log = stack.enter_context(rl.open_log(directory, autostart=False, timeout=60.0))
        reader = stack.enter_context(rl.open_reader(directory))
        watcher = Observer(reader, line, seed=1)
        perform(log, line.operations[0])
        watcher.follow(1)
        while watcher._pull_one():
            pass
        look_everywhere(watcher)
        with ThreadPoolExecutor(1) as pool:
            rest = pool.submit(lambda: [perform(log, operation) for operation in line.operations[1:]])
            try:
                if holds:
                    assert writer.line() == "held"
                else:
                    rest.result(PATIENCE_S)
                look_everywhere(watcher)
                watcher._pull_one()
            except Violation as violation:
                return str(violation)
            finally:
                if holds:
                    writer.say("go on")
                rest.result(PATIENCE_S)
    return None


def look_everywhere(watcher: Observer) -> None:
    """The end of the log, and each entry."""
    watcher.seen("last_index", lambda: watcher.reader.last_index, lambda state: state.last_index)
    for index in range(1, 15):
        watcher.get(index)


@pytest.mark.parametrize("line", [replaced, renewed])
def test_a_sound_build_is_not_complained_of(log_dir: str, line: Callable[[], Timeline]) -> None:
    assert complaint(log_dir, line(), None, holds=False) is None


@pytest.mark.parametrize(
    ("bend", "line", "holds", "sentence"),
    [
        ("frontiers_first", replaced, True, "get(4)"),  # the old entry, when the new end was seen already
        ("two_steps", replaced, True, "last_index = 3"),  # a state that nobody asked for
        ("never_odd", replaced, False, "before yielded"),  # instead of Truncated
        ("no_history", renewed, False, "found no entry 11"),  # instead of Truncated
    ],
)  # fmt: skip
def test_a_bent_build_is_noticed(
    log_dir: str, bend: str, line: Callable[[], Timeline], holds: bool, sentence: str
) -> None:
    told = complaint(log_dir, line(), bend, holds=holds)
    assert told is not None and sentence in told


# ---------------------------------------------------------------- a death in the middle
CHANGES: dict[str, Callable[[rl.Log], object]] = {
    "truncate": lambda log: log.truncate_from(4),
    "replace": lambda log: log.append_entries(rl.LogId(1, 3), [rl.Entry(2, 4, b"new")], leader_term=2),
    "purge": lambda log: log.purge_to(4),
    "reset": lambda log: log.reset(),
}
MOMENTS = [("journal.save", "before"), ("journal.save", "after"), ("journal.Journal._tell_purged", "before"),
           ("control.Control.close_change", "before")]  # fmt: skip


@contextlib.contextmanager
def died_in(log_dir: str, change: str, moment: tuple[str, str]) -> Iterator[tuple[rl.LogReader, list[rl.Entry]]]:
    """A reader that had read ten entries before the writer died in the middle of the change."""
    with BentWriter(log_dir, rl.LogConfig(**SMALL), die=[*moment, 1]) as writer:
        assert writer.line() == "serving"
        with rl.open_reader(log_dir, timeout=1.0) as reader:
            with rl.open_log(log_dir, autostart=False, timeout=60.0) as log:
                log.append_many([b"%d" % number for number in range(1, 11)], term=1)
                before = reader.read(1)
                with ThreadPoolExecutor(1) as pool:
                    asked = pool.submit(CHANGES[change], log)
                    writer.wait()
                    log.close()  # the request goes with its client: the next writer is not asked again
                    assert isinstance(asked.exception(PATIENCE_S), rl.RaftLogError)
            yield reader, before


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment))
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.timeout(60)
def test_no_reader_hangs_when_the_writer_dies_in_a_change(log_dir: str, change: str, moment: tuple[str, str]) -> None:
    with died_in(log_dir, change, moment) as (reader, before):
        happened = moment[0] != "journal.save" or moment[1] == "after"
        with rl.open_reader(log_dir) as cold:
            after = [] if change == "reset" and happened else cold.read(cold.first_index)
        assert (after == before) != happened
        looks: list[Callable[[], object]] = [
            lambda: reader.get(2), lambda: reader.read(reader.first_index), lambda: reader.term_of(2),
            lambda: reader.last_log_id, lambda: reader.stats(), lambda: list(reader.follow(timeout=0)),
        ]  # fmt: skip
        for look in looks:  # the words may be of the old state and what is asked then of the new one
            with contextlib.suppress(rl.WriterUnavailable, rl.Compacted):
                look()
        assert reader.get(2) in (before[1], None)
        with rl.start_writer(log_dir), rl.open_log(log_dir) as log:
            assert log.read(log.first_index) == after
            assert reader.read(reader.first_index) == after


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: "-".join(moment))
@pytest.mark.timeout(60)
def test_no_follower_hangs_when_the_writer_dies_in_a_change(log_dir: str, moment: tuple[str, str]) -> None:
    with BentWriter(log_dir, rl.LogConfig(**SMALL), die=[*moment, 1]) as writer:
        assert writer.line() == "serving"
        with rl.open_log(log_dir, autostart=False, timeout=60.0) as log, rl.open_reader(log_dir) as reader:
            log.append_many([b"%d" % number for number in range(1, 11)], term=1)
            ahead, drained = reader.follow(1, timeout=0), reader.follow(1, timeout=0)
            assert next(ahead).index == 1  # the others were fetched ahead
            assert len(rows_of(drained)) == 10
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(log.truncate_from, 4)
                writer.wait()
                log.close()
                assert isinstance(asked.exception(PATIENCE_S), rl.RaftLogError)
            happened = moment != ("journal.save", "before")
            for follower, due in ((ahead, [2, 3]), (drained, [])):
                seen: list[int] = []
                with contextlib.suppress(rl.Truncated):
                    seen += [entry.index for entry in follower]
                assert seen in (due, list(range(2, 11)))
            with rl.start_writer(log_dir):
                if happened:
                    with pytest.raises(rl.Truncated):
                        list(drained)
                else:
                    assert list(drained) == []  # what it yielded is all there
