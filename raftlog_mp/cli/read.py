"""``cat`` and ``tail``: entries to stdout."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import stat
import sys
from collections.abc import Callable

import click

from .. import log_reader
from ..types import Entry
from . import options, outcome, screen

CHUNK_BYTES = 4 << 20  # of payload read at once
JSON_HELP = 'One object an entry: index, term, payload, encoding ("utf-8", or "base64" for what is no text).'


def as_line(entry: Entry) -> bytes:
    """The payload as it is, and a newline."""
    return entry.payload + b"\n"


def as_object(entry: Entry) -> bytes:
    """The entry as a line of JSON; bytes that are no UTF-8 text as base64."""
    try:
        text, encoding = entry.payload.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(entry.payload).decode("ascii"), "base64"
    fields = {"index": entry.index, "term": entry.term, "payload": text, "encoding": encoding}
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def print_range(reader: log_reader.LogReader, start: int, stop: int | None, form: Callable[[Entry], bytes]) -> None:
    """Print ``start..stop-1``; damage beyond the last good entry raises :class:`CorruptLog` after the good ones."""
    first, last = start, reader.last_index if stop is None else min(stop - 1, reader.last_index)
    with screen.long_progress("printing", entries=True) if to_file() else contextlib.nullcontext() as progress:
        while stop is None or start < stop:
            entries = reader.read(start, stop, CHUNK_BYTES)
            if not entries:
                return
            sys.stdout.buffer.write(b"".join(map(form, entries)))
            start = entries[-1].index + 1
            if progress is not None:
                progress(start - first, max(start, last + 1) - first)


def to_file() -> bool:
    """Whether stdout is a file: who reads a pipe (a pager, say) may draw on the terminal that a bar is on."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except (OSError, ValueError):
        return False


@click.command()
@options.directory
@click.option(
    "--from", "start", type=click.IntRange(1), metavar="I", help="First index; default: the log's first."
)
@click.option(
    "--to",
    "last",
    type=click.IntRange(1),
    metavar="J",
    help="Last index, itself included; default: the log's last.",
)
@options.as_json(JSON_HELP)
def cat(directory: str, start: int | None, last: int | None, as_json: bool) -> int:
    """Print entries, one payload a line. Works without a writer; changes nothing."""
    with log_reader.open_reader(directory) as reader:
        stop = last + 1 if last is not None else None
        print_range(
            reader, reader.first_index if start is None else start, stop, as_object if as_json else as_line
        )
        sys.stdout.buffer.flush()
    return outcome.FINE


@click.command()
@options.directory
@click.option(
    "-f", "--follow", is_flag=True, help="Wait for more entries and print them as they come; Ctrl-C ends it."
)
@click.option(
    "-n",
    "count",
    type=click.IntRange(0),
    default=10,
    show_default=True,
    metavar="N",
    help="Entries to begin with.",
)
@options.as_json(JSON_HELP)
def tail(directory: str, follow: bool, count: int, as_json: bool) -> int:
    """Print the last entries, one payload a line. Works without a writer; follows through restarts of one."""
    form, out = as_object if as_json else as_line, sys.stdout.buffer
    with log_reader.open_reader(directory) as reader:
        start = max(reader.first_index, reader.last_index + 1 - count)
        if not follow:
            print_range(reader, start, None, form)
            out.flush()
            return outcome.FINE
        try:
            for entry in reader.follow(start):
                out.write(form(entry))
                out.flush()
        except KeyboardInterrupt:
            pass  # the usual way to end it
    return outcome.FINE
