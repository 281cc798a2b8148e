"""Look into the segments of a log, export what is good, compare two copies, fetch from a peer what one has lost.

Made to be copied: everything here uses public functions only (``raftlog_mp`` and ``raftlog_mp.recovery``).

    python tools/segment_repair.py walk DIR              each segment, stretch by stretch (--records: record by record)
    python tools/segment_repair.py export DIR NEWDIR     every good record of DIR, however damaged, into new logs
    python tools/segment_repair.py compare DIR_A DIR_B   two Raft peers: where they agree, what one has lost, conflicts
    python tools/segment_repair.py fetch DIR_A DIR_B     fill the holes of A with the entries of B (--yes: really)

Exit codes: 0 nothing is wrong, or it was done; 1 something is missing, differs, or waits for --yes; 2 usage; 3 error.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track

import raftlog_mp as rl
from raftlog_mp import recovery

CHUNK_BYTES, FINE, DIFFERENT, FAILED = 1 << 20, 0, 1, 3


def watch(items: list[Path], what: str) -> Iterable[Path]:
    """The items under a progress bar on stderr, if that is a terminal."""
    return track(items, what, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def ranged(first: int, last: int) -> str:
    """``entry 5`` or ``entries 5..9 (5)``."""
    return f"entry {first}" if first == last else f"entries {first}..{last} ({last + 1 - first})"


# ---------------------------------------------------------------- walk: one segment after the other
def segments_of(directory: Path) -> list[Path]:
    """The segment files, oldest first: their names are numbers that only rise."""
    found = sorted(directory.glob("*.seg"))
    if not found:
        raise SystemExit(f"{directory} holds no segments; give the directory of a log")
    return found


def walk(directory: Path, every_record: bool) -> int:
    """Tell what stands in each segment.  Damage is what proves by no checksum; the records around say what it held."""
    damaged = False
    for path in watch(segments_of(directory), "walking"):
        scan = recovery.scan_segment(path)
        damaged |= not scan.sound
        sealed = "sealed" if scan.seal is not None else "unsealed"
        print(f"{path.name}  {sealed}, {scan.bytes} bytes, {scan.records} good records, {scan.entries} entries")
        for part, bad in (("segment header", scan.header is None), ("seal", scan.seal_damaged)):
            if bad:
                print(f"  the {part} is damaged")
        for record in recovery.iter_records(path) if every_record else scan.damaged:
            print(f"  {record.verdict:10}  {record.sentence()}")
    return DIFFERENT if damaged else FINE


# ---------------------------------------------------------------- export: from the segments, whatever else is lost
def good_entries(directory: Path) -> Iterator[rl.Entry]:
    """Every entry that proves, in order.  Needs no manifest: segments say themselves where they stand.

    A newer segment supersedes older ones from its first index on: that is how a log truncates.
    """
    paths = segments_of(directory)
    bases = [header.base_index if (header := recovery.scan_segment(path).header) else None for path in paths]
    # Records of purged entries may still be there; the manifest, if it can be read, knows the boundary.
    purged, _ = settings_of(directory)
    for at, path in enumerate(watch(paths, "exporting")):
        limit = min((base for base in bases[at + 1 :] if base is not None), default=1 << 62)
        for record in recovery.iter_records(path):
            for entry in record.entries():  # none, unless its verdict is GOOD
                if purged.index < entry.index < limit:
                    yield entry


def export(directory: Path, target: Path) -> int:
    """Write the good entries to new logs, one for each unbroken stretch, at their own indexes and terms."""
    if target.exists():
        raise SystemExit(f"{target} exists; give a directory that does not")
    (previous, _), gaps, writer = settings_of(directory), list[str](), None
    for entry in good_entries(directory):
        if writer is None or entry.index != previous.index + 1:
            if writer is not None:
                writer.close()
            if entry.index != previous.index + 1:
                gaps.append(ranged(previous.index + 1, entry.index - 1))
            # The new log begins where the stretch does.  The term before it is the last one that is known.
            writer = Appender(target / f"from-{entry.index}", rl.LogId(previous.term, entry.index - 1), directory)
        writer.add(entry)
        previous = entry.log_id
    if writer is None:
        raise SystemExit(f"not one entry of {directory} proves")
    writer.close()
    for path in target.iterdir():
        with rl.open_reader(path) as reader:
            print(f"{path}: {ranged(reader.first_index, reader.last_index)}")
    print(*(f"missing: {gap}\n" for gap in gaps), sep="", end="")
    return DIFFERENT if gaps else FINE


class Appender:
    """A new log that takes entries with their own indexes and terms, some at a time."""

    def __init__(self, path: Path, boundary: rl.LogId, source: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = rl.start_writer(path, settings_of(source)[1])
        self._log = rl.open_log(path)
        self._previous, self._waiting, self._bytes = boundary, list[rl.Entry](), 0
        self._limit = self._log.config.batch_bytes_limit // 2
        if boundary.index:
            self._log.reset(boundary)

    def add(self, entry: rl.Entry) -> None:
        """One more; they are sent in groups that surely fit."""
        if self._waiting and (self._bytes + len(entry.payload) > self._limit or len(self._waiting) == 256):
            self.flush()
        self._waiting.append(entry)
        self._bytes += len(entry.payload)

    def flush(self) -> None:
        """Send what waits.  ``append_entries`` checks that it continues the log exactly."""
        if self._waiting:
            result = self._log.append_entries(self._previous, self._waiting)
            assert result.success, result
            self._previous, self._waiting, self._bytes = self._waiting[-1].log_id, [], 0

    def close(self) -> None:
        """Everything is durable; the writer ends."""
        self.flush()
        self._log.close()
        self._writer.stop()


def settings_of(directory: Path) -> tuple[rl.LogId, rl.LogConfig | None]:
    """The purge boundary and the settings that the manifest states; nothing and None if it cannot be read."""
    try:
        with rl.open_reader(directory) as reader:
            return reader.purged_log_id, reader.config
    except rl.RaftLogError:
        return rl.LogId(0, 0), None


# ---------------------------------------------------------------- compare: two logs, entry by entry
class Difference(NamedTuple):
    """A run of entries about which two logs do not agree."""

    kind: str
    first: int
    last: int


def holes_of(log: rl.LogReader) -> list[tuple[int, int]]:
    """What the log cannot serve, though it lies between its first and last index."""
    found, index = list[tuple[int, int]](), log.first_index
    while index <= log.last_index:
        try:
            # With max_bytes a read ends before damage; the read that begins at it raises, and names the range.
            index = log.read(index, max_bytes=CHUNK_BYTES)[-1].index + 1
        except rl.CorruptLog as lost:
            last = lost.last_index or log.last_index
            found.append((index, last))
            index = last + 1
    return found


def verdict(index: int, a: rl.LogReader, b: rl.LogReader, lost: Callable[[rl.LogReader, int], bool]) -> str:
    """What two logs say about one index; empty if they agree or neither knows."""
    has = [log.first_index <= index <= log.last_index and not lost(log, index) for log in (a, b)]
    if has == [True, True]:
        mine, theirs = a.get(index), b.get(index)
        if mine is None or theirs is None or mine.log_id != theirs.log_id:
            return "conflict: another term"
        return "" if mine == theirs else "CONTRADICTION: same term, other content"  # Raft says this never happens
    if has == [False, False]:
        return "lost in both" if lost(a, index) or lost(b, index) else ""
    there, here = (b, a) if has == [False, True] else (a, b)
    if index < here.first_index:
        return ""  # purged here: a snapshot holds what it led to
    name = "A" if there is a else "B"
    return f"only in {name}: lost by the other" if lost(here, index) else f"only in {name}: the other ends before"


def differences(a: rl.LogReader, b: rl.LogReader) -> list[Difference]:
    """Everything on which the logs do not agree, as runs."""
    holes = {id(log): holes_of(log) for log in (a, b)}

    def lost(log: rl.LogReader, index: int) -> bool:
        return any(first <= index <= last for first, last in holes[id(log)])

    found = list[Difference]()
    for index in range(min(a.first_index, b.first_index), max(a.last_index, b.last_index) + 1):
        kind = verdict(index, a, b, lost)
        if kind and found and (found[-1].kind, found[-1].last) == (kind, index - 1):
            found[-1] = found[-1]._replace(last=index)
        elif kind:
            found.append(Difference(kind, index, index))
    return found


def compare(path_a: Path, path_b: Path) -> int:
    """Tell where two copies of a log, or two Raft peers, differ."""
    with rl.open_reader(path_a) as a, rl.open_reader(path_b) as b:
        for name, log in (("A", a), ("B", b)):
            print(f"{name}: {log.path}: {ranged(log.first_index, log.last_index)}, last {tuple(log.last_log_id)}")
        found = differences(a, b)
        for one in found:
            print(f"{ranged(one.first, one.last)}: {one.kind}")
    if not found:
        print("they agree")
    return DIFFERENT if found else FINE


# ---------------------------------------------------------------- fetch: fill holes from a peer
def fetch(path_a: Path, path_b: Path, yes: bool) -> int:
    """Fill the holes of A with what B has.  Only if B holds everything that A has from the first hole on."""
    if recovery.plan(path_a).needed:
        raise SystemExit(f"{path_a} is damaged; `raftlog-mp repair {path_a}` first, then fetch what it had to give up")
    with rl.open_reader(path_a) as a, rl.open_reader(path_b) as b:
        start = missing_from(a, b)
        if start is None:
            print("A lacks nothing that B has")
            return FINE
        trouble = why_not(a, b, start)
        if trouble:
            raise SystemExit(f"nothing was changed: {trouble}")
        print(f"A gets {ranged(start, b.last_index)} from B; what stands before is the same in both")
        if not yes:
            print("nothing was changed; give --yes to do it")
            return DIFFERENT
        # A shorter A is no damage: whatever happens now, B has the rest, and this command goes on where it stopped.
        with rl.start_writer(path_a), rl.open_log(path_a) as log:
            term = max(log.hard_state.term, b.last_log_id.term, log.last_log_id.term)
            log.truncate_from(start, leader_term=term)
            previous = log.last_log_id
            while previous.index < b.last_index:
                entries = b.read(previous.index + 1, max_bytes=log.config.batch_bytes_limit // 4)[:256]
                result = log.append_entries(previous, entries, leader_term=term)
                assert result.success, result
                previous = entries[-1].log_id
            log.wait_durable(previous)
    print(f"done: A ends with {tuple(previous)}, as B does")
    return FINE


def missing_from(a: rl.LogReader, b: rl.LogReader) -> int | None:
    """The first index that A lacks and B might have; None if there is none."""
    holes = holes_of(a)
    if holes:
        return holes[0][0]
    return a.last_index + 1 if b.last_index > a.last_index else None


def why_not(a: rl.LogReader, b: rl.LogReader, start: int) -> str:
    """Why A must not be cut at ``start`` and continued from B; empty if it may."""
    if start < b.first_index or b.last_index < a.last_index:
        return f"B holds {ranged(b.first_index, b.last_index)}, A needs {ranged(start, max(a.last_index, start))}"
    if start <= a.commit_index:
        return f"entries up to {a.commit_index} are committed in A, and a log does not remove those"
    # Raft's log matching: if one entry is the same in both logs, so is everything before it.
    if start > 1 and a.term_of(start - 1) != b.term_of(start - 1):
        return f"entry {start - 1} has term {a.term_of(start - 1)} in A, {b.term_of(start - 1)} in B"
    for one in differences(a, b):
        if one.last >= start and not one.kind.startswith("only in B"):
            return f"{ranged(one.first, one.last)}: {one.kind}"
    return ""


# ---------------------------------------------------------------- command line
def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors of the library become one line."""
    parser = argparse.ArgumentParser(prog="segment_repair.py", description="walk, export, compare and fetch segments")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for line in ("walk DIR", "export DIR NEWDIR", "compare DIR_A DIR_B", "fetch DIR_A DIR_B"):
        verb, *places = line.split()
        command = verbs.add_parser(verb)
        for place in places:
            command.add_argument(place, type=Path)
        if verb in ("walk", "fetch"):
            name = "--records" if verb == "walk" else "--yes"
            command.add_argument(name, action="store_true", dest="flag")
    given = vars(parser.parse_args(arguments))
    act: Callable[..., int] = globals()[given.pop("verb")]
    flags = [given.pop("flag")] if "flag" in given else []
    try:
        return act(*given.values(), *flags)
    except (rl.RaftLogError, OSError) as error:
        print(f"segment_repair.py: {error}", file=sys.stderr)
        return FAILED


if __name__ == "__main__":
    sys.exit(main())
