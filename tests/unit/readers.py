"""Readers without processes: on a journal of the test's own, or on its files alone."""

from __future__ import annotations

from raftlog_mp.config import MIB
from raftlog_mp.errors import LogClosed
from raftlog_mp.files import Files
from raftlog_mp.journal import Journal
from raftlog_mp.reader import Reader
from raftlog_mp.source import Source
from raftlog_mp.types import Entry
from raftlog_mp.view import View

from .journals import append

FILES = Files()
BODY = 8000
OVER_THE_RING = 2 * MIB // BODY  # entries that lap the smallest ring


def view_of(journal: Journal) -> View:
    return View({
        "folder": journal.folder, "generation": journal.generation, "log_id": journal.log_id,
        "uuid": journal.manifest.uuid, "config": journal.config.as_dict(),
    })  # fmt: skip


class StubLink:
    """A connection to the writer of a journal; ``view`` None: there is none."""

    def __init__(self, view: View | None) -> None:
        self.view, self.connected, self.closed = view, view is not None, False

    def look(self) -> None:
        """The end of the writer was noticed already."""

    def try_connect(self) -> bool:
        if self.closed:
            raise LogClosed("this handle was closed")
        return False

    def renew(self, superseded: View) -> None:
        """No newer writer answers, either."""

    def forget_view(self, view: View) -> None:
        self.view = None


def reader_of(log_dir: str, journal: Journal | None, *, files_allowed: bool = True) -> tuple[Reader, StubLink]:
    link = StubLink(None if journal is None else view_of(journal))
    source = Source(link, FILES, log_dir, files_allowed=files_allowed)  # type: ignore[arg-type]
    return Reader(source, FILES, log_dir), link


def payload(index: int) -> bytes:
    return b"%d-" % index + bytes([index % 256]) * (BODY - 8)


def fill(journal: Journal, count: int) -> None:
    """Entries made from their own index, one a batch."""
    for _ in range(count):
        append(journal, payload(journal.next_index))


def payloads(entries: list[Entry]) -> list[bytes]:
    return [entry.payload for entry in entries]
