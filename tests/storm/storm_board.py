"""What the processes of a storm share, and how each writes down what happened to it.

The board is a page of atomic words that exists before the first fork.  A diary is a file of JSON lines, each written
with one O_APPEND write: a SIGKILL loses at most the line that was not yet written.
"""

from __future__ import annotations

import json
import mmap
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from atomicshm import SEQ_CST, AtomicView

import raftlog_mp as rl

STORM, PRODUCERS_END, LEADER_ENDS, READERS_END = range(4)  # phases

WORDS = (
    "stamp",  # the next stamp: one total order over all processes
    "phase",
    "term",  # the newest that a leader has taken
    "open_term",  # the one that producers may append with
    "floor",  # the highest index that anybody asked to commit: no leader removes anything up to it
    "answers",  # acknowledged batches and requests
    "entries",  # acknowledged entries
    "removals",  # truncations and replacements
    "purges",
    "refusals",
    "serving",  # pid of the writer that last began to serve
    "final",  # the log's last index, once nobody appends any more
)


class Board:
    """The shared words as attributes; all loads and stores are SEQ_CST."""

    def __init__(self) -> None:
        self._view = AtomicView(mmap.mmap(-1, mmap.PAGESIZE))
        self._cells = {name: self._view.cell_u64(8 * number) for number, name in enumerate(WORDS)}

    def __getattr__(self, name: str) -> int:
        return int(self._cells[name].load(SEQ_CST))

    def set(self, name: str, value: int) -> None:
        self._cells[name].store(value, SEQ_CST)

    def add(self, name: str, count: int = 1) -> int:
        """The value before."""
        return int(self._cells[name].fetch_add(count, SEQ_CST))

    def raise_to(self, name: str, value: int) -> None:
        """Only one process at a time calls this for a word."""
        self.set(name, max(getattr(self, name), value))

    def stamp(self) -> int:
        return self.add("stamp")


class Diary:
    """One process's file."""

    def __init__(self, path: Path, board: Board) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.board = board
        self._number = 0

    def write(self, *row: object) -> None:
        os.write(self._fd, json.dumps(row, separators=(",", ":")).encode() + b"\n")

    def begin(self, kind: str, *what: object) -> int:
        """Before something is asked for: its number."""
        self._number += 1
        self.write("call", self.board.stamp(), self._number, kind, *what)
        return self._number

    def end(self, number: int, outcome: str, value: object = None) -> None:
        """What became of it."""
        self.write("done", self.board.stamp(), number, outcome, value)
        self.board.add("refusals" if outcome == "refused" else "answers")

    def ask(self, kind: str, what: list[object], call: Callable[[], Any]) -> Any:
        """Ask for something and write down both ends; a refusal gives None."""
        number = self.begin(kind, *what)
        try:
            value = call()
        except REFUSED as error:
            return self.end(number, "refused", type(error).__name__)
        except UNKNOWN as error:
            return self.end(number, "unknown", type(error).__name__)
        self.end(number, "acked", value)
        return value


# Surely not done; and nobody can tell.
REFUSED = (rl.StaleTerm, rl.Backpressure, rl.WriterUnavailable, rl.CommittedEntry)
UNKNOWN = (rl.AppendTimeout, rl.OutcomeUnknown)


# ---------------------------------------------------------------- payloads
_KEY = re.compile(rb"[a-z]+\d+(\.\d+){4}:\Z")


def payload_of(key: str, padding: int) -> bytes:
    """An entry's bytes: a key that occurs once in a storm, and padding."""
    return key.encode() + b"x" * padding


def short(payload: bytes) -> str:
    """An entry in few characters: its key and the length of its padding, or for foreign bytes all of them."""
    key = payload.rstrip(b"x")
    if _KEY.match(key):
        return f"{key.decode()}{len(payload) - len(key)}"
    return f"?{payload.hex()}"


def rows_of(entries: list[rl.Entry]) -> list[list[object]]:
    return [[entry.term, entry.index, short(entry.payload)] for entry in entries]
