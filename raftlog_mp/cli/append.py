"""``append``: arguments, or lines of stdin, as entries."""

from __future__ import annotations

import contextlib
import itertools
import json
import signal
import sys
from collections import deque
from collections.abc import Iterable, Iterator

import click

from .. import errors, log
from ..ticket import Ticket
from . import options, outcome

IN_FLIGHT = 512  # submissions without an answer; enough to keep the writer busy, few enough to stop soon
LONG_BYTES = 1 << 20  # from here on a file is worth a progress bar


@click.command()
@options.directory
@click.argument("payloads", nargs=-1, metavar="[PAYLOAD]...")
@click.option(
    "--term", type=click.IntRange(1), metavar="N", help="Raft term of the entries; default: the last entry's."
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    metavar="N",
    help="Entries appended together, all or nothing. 100 is several times faster than 1.",
)
@click.option("--create/--no-create", default=True, show_default=True, help="Create a log that is not there.")
@options.as_json("Print one object: first_index, last_index, entries, contiguous.")
def append(
    directory: str, payloads: tuple[str, ...], term: int | None, batch: int, create: bool, as_json: bool
) -> int:
    """Append each PAYLOAD, or each line of stdin if none is given, and print the first and last index.

    Returns when every entry is acknowledged as the log's strategy promises. An empty line is an empty entry.
    Starts a writer if none runs.
    """
    if not payloads and sys.stdin is None:  # as after `<&-`
        raise click.UsageError("stdin is closed: give PAYLOADs, or lines on stdin")
    done = Appended()
    code = outcome.FINE
    with (
        log.open_log(directory, create=create, name="raftlog-mp append") as handle,
        source(payloads) as entries,
    ):
        try:
            feed(handle, entries, term, batch, done)
        except (errors.RaftLogError, KeyboardInterrupt) as error:
            interrupted = isinstance(error, KeyboardInterrupt)
            code = outcome.INTERRUPTED if interrupted else outcome.code_of(error)
            unknown = f"; without an answer: {done.unanswered}, appended or not" if done.unanswered else ""
            outcome.complain(f"{'interrupted' if interrupted else error} [acknowledged: {done}{unknown}]")
    if code == outcome.FINE or as_json:
        click.echo(json.dumps(done.as_dict()) if as_json else str(done))
    return code


class Appended:
    """What was acknowledged so far."""

    def __init__(self) -> None:
        self.first: int | None = None
        self.last: int | None = None
        self.entries = 0
        self.unanswered = 0  # entries that were submitted, and nobody waited for their answer

    def add(self, indexes: range) -> None:
        """Count the indexes of one submission."""
        if indexes:
            self.first = indexes.start if self.first is None else self.first
            self.last = indexes[-1]
            self.entries += len(indexes)

    def as_dict(self) -> dict[str, int | bool | None]:
        """Plain data for JSON; ``contiguous`` is false if other clients appended in between."""
        span = 0 if self.first is None or self.last is None else self.last + 1 - self.first
        contiguous = span == self.entries
        return {
            "first_index": self.first, "last_index": self.last, "entries": self.entries, "contiguous": contiguous,
        }  # fmt: skip

    def __str__(self) -> str:
        if self.first is None:
            return "no entries"
        between = "" if self.as_dict()["contiguous"] else ", other clients' entries between them"
        return f"{self.first}..{self.last} ({self.entries} {'entries' if self.entries != 1 else 'entry'}{between})"


class Interrupt:
    """Ctrl-C interrupts the reading of entries, never a submission halfway; the second one interrupts everything."""

    def __init__(self) -> None:
        self._asked = self._reading = False

    def _on_signal(self, *_: object) -> None:
        asked, self._asked = self._asked, True
        if self._reading or asked:
            self._reading = False
            raise KeyboardInterrupt

    def take(self, payloads: Iterator[bytes], count: int) -> list[bytes]:
        """The next entries; raises ``KeyboardInterrupt`` if Ctrl-C comes meanwhile, or came before."""
        self._reading = True
        try:
            if self._asked:
                raise KeyboardInterrupt
            return list(itertools.islice(payloads, count))
        finally:
            self._reading = False

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Ctrl-C comes here; unless the process ignores it, as one that a shell started in the background does."""
        before = signal.getsignal(signal.SIGINT)
        if before is not signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._on_signal)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


def feed(handle: log.Log, entries: Iterable[bytes], term: int | None, batch: int, done: Appended) -> None:
    """Submit everything without waiting for each answer; whatever happens, collect the answers still due."""
    tickets: deque[tuple[Ticket[range], int]] = deque()
    payloads, interrupt = iter(entries), Interrupt()

    def collect() -> None:
        try:
            indexes = tickets[0][0].result(None)
        except errors.RaftLogError:
            tickets.popleft()
            raise
        tickets.popleft()  # only now: a second Ctrl-C leaves it among those without an answer
        done.add(indexes)

    with interrupt.heard():
        try:
            while group := interrupt.take(payloads, batch):
                tickets.append((handle.submit(group, term), len(group)))
                while tickets and (len(tickets) >= IN_FLIGHT or tickets[0][0].done()):
                    collect()
        finally:
            try:
                while tickets:
                    collect()
            finally:
                done.unanswered = sum(count for _, count in tickets)


@contextlib.contextmanager
def source(payloads: tuple[str, ...]) -> Iterator[Iterable[bytes]]:
    """The entries to append: the arguments, or the lines of stdin, under a progress bar if that is worth one."""
    if payloads:
        yield [payload.encode("utf-8", "surrogateescape") for payload in payloads]
        return
    stdin = sys.stdin.buffer
    size = 0
    if sys.stderr.isatty() and stdin.seekable():
        here = stdin.tell()
        size = stdin.seek(0, 2) - here
        stdin.seek(here)
    lines = (line.removesuffix(b"\n") for line in stdin)
    if size < LONG_BYTES:
        yield lines
        return
    from .screen import byte_progress

    with byte_progress("appending", size) as track:
        yield track(lines)
