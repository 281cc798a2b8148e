"""The processes of a storm: producers, one leader at a time, followers, an observer.  Each is killed at any moment."""

from __future__ import annotations

import json
import os
import random
import time
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

from storm_board import PRODUCERS_END, READERS_END, REFUSED, STORM, UNKNOWN, Board, Diary, payload_of, rows_of, short

import raftlog_mp as rl

PATIENCE_S = 60.0  # only a storm that is about to fail waits this long
PIPELINE = 24  # submissions in flight
PADDINGS = (0, 0, 10, 60, 250, 900)
CHUNK = 40  # entries that a follower writes down at once
BACK = 60  # how far a leader reaches back from the log's end


class Life(NamedTuple):
    """What an actor is given."""

    directory: str
    folder: Path
    board: Board
    name: str  # of this process: unique in the storm
    role: str  # the part it plays: outlives its processes
    seed: int
    autostart: bool

    def diary(self) -> Diary:
        return Diary(self.folder / f"{self.name}.jsonl", self.board)

    def open_log(self) -> rl.Log:
        return rl.open_log(self.directory, create=False, autostart=self.autostart, timeout=PATIENCE_S, name=self.name)

    def batch(self, number: int, count: int, chance: random.Random) -> list[bytes]:
        return [payload_of(f"{self.name}.{number}.{part}.{count}:", chance.choice(PADDINGS)) for part in range(count)]


def keys_of(payloads: list[bytes]) -> list[str]:
    return [short(payload) for payload in payloads]


# ---------------------------------------------------------------- producers
def produce(life: Life) -> None:
    """Append in every way, with the term that is open, until the storm ends."""
    chance, board, diary = random.Random(life.seed), life.board, life.diary()
    flying: deque[tuple[int, int, rl.Ticket]] = deque()
    number = 0

    def settle(limit: int) -> None:
        while len(flying) > limit:
            asked, count, ticket = flying.popleft()
            finish(diary, asked, count, lambda ticket=ticket: ticket.result(timeout=PATIENCE_S).start)

    with life.open_log() as log:
        while board.phase == STORM:
            term = board.open_term
            if not term or term != board.term and chance.random() < 0.98:  # a leader is about to open its term
                settle(0)
                time.sleep(0.0005)
                continue
            way = chance.choice(("append", "append_many", "submit", "submit", "submit"))
            for _ in range(chance.randrange(1, 12)):
                number += 1
                payloads = life.batch(number, 1 if way == "append" else chance.choice((1, 2, 3, 8)), chance)
                if way != "submit":
                    settle(0)
                asked = diary.begin("append", term, keys_of(payloads))
                if way == "append":
                    finish(diary, asked, 1, lambda: log.append(payloads[0], term))  # noqa: B023  (called at once)
                elif way == "append_many":
                    finish(diary, asked, len(payloads), lambda: log.append_many(payloads, term).start)  # noqa: B023
                else:
                    try:
                        flying.append((asked, len(payloads), log.submit(payloads, term)))
                    except REFUSED as error:
                        diary.end(asked, "refused", type(error).__name__)
                    settle(PIPELINE)
            time.sleep(chance.random() * 0.004)  # a storm of kills is wanted, not one of entries
        settle(0)


def finish(diary: Diary, asked: int, count: int, result: Any) -> None:
    """Wait for an append's outcome and write it down."""
    try:
        first = result()
    except REFUSED as error:
        diary.end(asked, "refused", type(error).__name__)
    except UNKNOWN as error:
        diary.end(asked, "unknown", type(error).__name__)
    else:
        diary.end(asked, "acked", first)
        diary.board.add("entries", count)


# ---------------------------------------------------------------- the leader
class Leader:
    """One reign after the other: a new term fences everybody, the suffix is mended, then producers may append."""

    def __init__(self, life: Life, log: rl.Log) -> None:
        self.life, self.log, self.board, self.diary = life, log, life.board, life.diary()
        self.chance = random.Random(life.seed)
        self.number = 0

    def reign(self) -> None:
        term = self.board.add("term") + 1
        vote = f"{self.life.name}"
        if self.diary.ask("save", [term, vote], lambda: self.save(term, vote)) is None:
            return
        if self.chance.random() < 0.6:
            self.truncate(term)
        for _ in range(self.chance.choice((0, 1, 1, 2))):
            self.replicate(term)
        self.board.set("open_term", term)
        for _ in range(self.chance.randrange(2, 25)):
            time.sleep(self.chance.random() * 0.01)
            if self.board.phase >= PRODUCERS_END:
                return
            self.chance.choice((self.commit, self.commit, self.commit, self.purge, self.flush, self.append))(term)

    def save(self, term: int, vote: str) -> bool:
        self.log.save_hard_state(rl.HardState(term, vote))
        return True

    def reach_back(self) -> int:
        """An index in the tail of the log from which on it may be removed."""
        last = self.log.last_index
        low = max(self.board.floor, self.log.purged_log_id.index, last - BACK) + 1
        return self.chance.randint(min(low, last + 1), last + 1)

    def truncate(self, term: int) -> None:
        index = self.reach_back()
        self.board.add("removals")
        self.diary.ask("remove", [index, term], lambda: self.log.truncate_from(index, leader_term=term) or True)

    def replicate(self, term: int) -> None:
        """AppendEntries: what follows ``prev`` is replaced; then a part of it is sent again, with more."""
        prev_index = self.log.last_index
        if self.log.last_log_id.term < term:  # what another term left may go
            prev_index = self.reach_back() - 1
        prev = rl.LogId(self.log.term_of(prev_index) or 0, prev_index)
        entries = self.entries(term, prev.index, self.chance.randrange(1, 9))
        self.send(term, prev, entries, entries)
        if self.chance.random() < 0.5:
            known = self.chance.randrange(len(entries) + 1)
            more = self.entries(term, entries[-1].index, self.chance.randrange(1, 4))
            before = entries[known - 1].log_id if known else prev
            self.send(term, before, [*entries[known:], *more], more)

    def entries(self, term: int, after: int, count: int) -> list[rl.Entry]:
        self.number += 1
        payloads = self.life.batch(self.number, count, self.chance)
        return [rl.Entry(term, index, payload) for index, payload in enumerate(payloads, after + 1)]

    def send(self, term: int, prev: rl.LogId, entries: list[rl.Entry], new: list[rl.Entry]) -> None:
        cut = new[0].index if new[0] is entries[0] else 0  # entries that are sent again remove nothing
        self.board.add("removals", int(bool(cut)))
        keys = keys_of([entry.payload for entry in new])
        asked = self.diary.begin("entries", term, keys, cut)

        def call() -> int:
            result = self.log.append_entries(prev, entries, leader_term=term)
            if not result.success or result.matched != entries[-1].log_id:
                raise AssertionError(f"append_entries behind {prev} of {len(entries)} entries gave {result}")
            return new[0].index

        finish(self.diary, asked, len(new), call)

    def append(self, term: int) -> None:
        self.number += 1
        payloads = self.life.batch(self.number, 1, self.chance)
        asked = self.diary.begin("append", term, keys_of(payloads))
        finish(self.diary, asked, 1, lambda: self.log.append(payloads[0], term))

    def commit(self, term: int, index: int | None = None) -> None:
        if index is None:
            index = self.log.last_index - self.chance.randrange(30)
        if index > 0:
            self.board.raise_to("floor", index)
            self.diary.ask("commit", [index], lambda: self.log.commit_to(index))

    def purge(self, term: int) -> None:
        index = self.board.floor - self.chance.randrange(100, 600)
        if index > self.log.purged_log_id.index and index <= self.log.last_index:
            self.board.add("purges")
            self.diary.ask("purge", [index], lambda: self.log.purge_to(index) or True)

    def flush(self, term: int) -> None:
        self.log.flush()


def lead(life: Life) -> None:
    """Reign until the storm ends; then flush and commit everything."""
    with life.open_log() as log:
        leader = Leader(life, log)
        while life.board.phase == STORM:
            leader.reign()
        while life.board.phase == PRODUCERS_END:
            time.sleep(0.001)
        log.flush()
        leader.commit(0, log.last_index)
        life.board.set("final", log.last_index)


# ---------------------------------------------------------------- readers
def follow(life: Life, upto: str, checkpoints: bool) -> None:
    """Follow until the end.  With ``checkpoints``, a process that takes over goes on behind the last one's."""
    chance, board, diary = random.Random(life.seed), life.board, life.diary()
    place = life.folder / f"{life.role}.checkpoint"
    checkpoint = json.loads(place.read_bytes()) if checkpoints and place.exists() else None
    position = 0  # of the last entry that was yielded
    with rl.open_reader(life.directory, timeout=PATIENCE_S) as reader:
        while not (board.phase >= READERS_END and position >= board.final):
            try:
                begin, rows = board.stamp(), []
                if checkpoint is not None:
                    follower = reader.follow(after=rl.LogId(*checkpoint[:2]), upto=upto, timeout=0.02)
                    rows.append([begin, *checkpoint])
                elif position:
                    start = max(reader.first_index, min(position, reader.last_index) - chance.randrange(BACK) + 1)
                    follower = reader.follow(start, upto=upto, timeout=0.02)
                else:
                    follower = reader.follow(upto=upto, timeout=0.02)
            except (rl.Truncated, rl.Compacted, rl.IndexGap) as error:
                diary.write("told", board.stamp(), type(error).__name__)
                checkpoint = None
                continue
            checkpoint = None
            diary.write("run", begin, upto)
            while not (board.phase >= READERS_END and position >= board.final):
                told, rows = take(board, follower, rows)
                if rows:
                    diary.write("saw", board.stamp(), rows)
                    position = rows[-1][2]
                    if checkpoints:
                        keep(place, rows[-1][1:])
                rows = []
                if told:
                    diary.write("told", board.stamp(), told)
                    break


def take(board: Board, follower: Any, rows: list[list[Any]]) -> tuple[str, list[list[Any]]]:
    """Entries until a chunk is full or nothing more comes; why the follower ended, if it did."""
    try:
        while len(rows) < CHUNK:
            before = board.stamp()
            entry = next(follower)
            rows.append([before, entry.term, entry.index, short(entry.payload)])
    except StopIteration:
        pass
    except (rl.Truncated, rl.Compacted) as error:
        return type(error).__name__, rows
    return "", rows


def keep(place: Path, row: list[Any]) -> None:
    """A checkpoint, whole or not at all."""
    draft = place.with_suffix(".draft")
    draft.write_text(json.dumps(row))
    os.replace(draft, place)


def observe(life: Life) -> None:
    """Look at the frontiers, the hard state and pieces of the log, again and again."""
    chance, board, diary = random.Random(life.seed), life.board, life.diary()
    with rl.open_reader(life.directory, timeout=PATIENCE_S) as reader:
        while board.phase < READERS_END:
            before = board.stamp()
            s = reader.stats()
            words = [s.generation, s.last_index, s.durable_index, s.commit_index, s.writer_pid > 0]
            diary.write("frontiers", before, board.stamp(), *words)
            before = board.stamp()
            hard = reader.hard_state
            diary.write("hard", before, board.stamp(), hard.term, hard.voted_for)
            start = max(s.first_index, s.last_index - chance.randrange(200))
            before = board.stamp()
            try:
                entries = reader.read(start, start + chance.randrange(1, 30))
            except rl.Compacted:
                continue
            if entries:
                diary.write("run", before, "read")
                diary.write("saw", board.stamp(), [[before, *row] for row in rows_of(entries)])
            time.sleep(chance.random() * 0.008)


def judge(life: Life) -> None:
    """Write down the whole log as it is now."""
    board, diary = life.board, life.diary()
    with rl.open_reader(life.directory, timeout=PATIENCE_S) as reader:
        before = board.stamp()
        hard = reader.hard_state
        diary.write("hard", before, board.stamp(), hard.term, hard.voted_for)
        diary.write("log", board.stamp(), reader.purged_log_id.index, rows_of(reader.read(reader.first_index)),
                    [reader.durable_index, reader.commit_index])  # fmt: skip
