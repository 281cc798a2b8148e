"""``dump``: what stands in a log's files, record by record, also where they are damaged."""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any

import click
from crc32c import crc32c

from .. import format as fmt
from .. import manifest, place
from ..errors import CorruptLog, VersionMismatch
from ..files import Files, join, real_path
from ..records import FoundRecord, Verdict, iter_records
from . import options, outcome

KINDS = {fmt.KIND_ENTRIES: "entries", fmt.KIND_MARK: "mark", fmt.KIND_PRODUCERS: "producers"}
# column -> its width; the heading stands above the records of each file.  Wider values push the rest to the right.
COLUMNS = {
    "offset": 9, "verdict": 10, "kind": 9, "entries": 13, "term": 4, "gen": 3, "position": 10, "durable": 10,
    "producer/sequence": 21, "bytes": 7,
}  # fmt: skip
LEFT = {"verdict", "kind", "entries"}

Line = dict[str, Any]


@click.command()
@click.argument("path", metavar="PATH")
@click.option("--entries", is_flag=True, help="The payloads, too, one a line below their record.")
@options.as_json("One object a record; payloads as base64, and as text where they are UTF-8.")
def dump(path: str, entries: bool, as_json: bool) -> int:
    """Show what stands in PATH: a log's directory, or one of its files. Changes nothing.

    Segments (also damaged ones, and what recovery put into quarantine/) are shown record by record, with a verdict on
    each; hard_state, manifest, index (.idx) and term files (.trm) by their fields. Exit code 1 if there is damage.
    """
    files, place_of_it = Files(), real_path(path)
    is_log = files.is_dir(place_of_it)
    damaged = False
    for one in segments_of(files, place_of_it) if is_log else [place_of_it]:
        try:
            lines = lines_of(files, one)
            damaged |= print_json(lines) if as_json else print_text(lines, one if is_log else None, entries)
        except (OSError, VersionMismatch) as error:
            if not is_log or isinstance(error, BrokenPipeError):
                raise
            outcome.complain(f"{one}: {error.strerror if isinstance(error, OSError) else error}")
            damaged = True  # the other segments are worth showing all the same
    return outcome.FINDINGS if damaged else outcome.FINE


def segments_of(files: Files, directory: str) -> list[str]:
    """The live segments of a log in their order; every segment there is if the manifest cannot say which are live."""
    there = [name for name in files.list_dir(directory) if fmt.parse_segment_name(name) is not None]
    if not there:
        place.check_place(files, directory, create=False)
    try:
        there = [fmt.segment_name(info.segment_id) for info in manifest.load(files, directory).segments]
    except CorruptLog as error:
        outcome.complain(f"{error.segment} is missing or damaged: these are all segments there are, live or not")
    return [join(directory, name) for name in there]


# ---------------------------------------------------------------- lines
def lines_of(files: Files, path: str) -> Iterator[Line]:
    """Everything in a file; a line that is ``damaged`` says so."""
    with files.opened(path) as fd:
        magic = files.pread(fd, 8, 0)
    name = path.rpartition("/")[2]
    if magic == fmt.INDEX_MAGIC or name.endswith(".idx"):
        return index_lines(files.read_file(path), path)
    if magic == fmt.TERMS_MAGIC or name.endswith(".trm"):
        return document_lines(fmt.TERMS_MAGIC, [files.read_file(path)], path)
    if magic == fmt.MANIFEST_MAGIC or name == fmt.MANIFEST_NAME:
        return document_lines(fmt.MANIFEST_MAGIC, [files.read_file(path)], path)
    if magic == fmt.HARD_STATE_MAGIC or name == fmt.HARD_STATE_NAME:
        raw, size = files.read_file(path), fmt.HARD_STATE_SLOT_BYTES
        return document_lines(fmt.HARD_STATE_MAGIC, [raw[:size], raw[size : 2 * size]], path)
    return record_lines(path)


def record_lines(path: str) -> Iterator[Line]:
    """A line for each record or damaged stretch."""
    for record in iter_records(path):
        header, line = record.header, {"file": path.rpartition("/")[2], "offset": record.offset}
        line |= {
            "verdict": record.verdict.value, "kind": None, "first_index": record.first_index,
            "last_index": record.last_index, "term": record.term, "generation": None, "position": None,
            "durable": None, "producer": None, "sequence": None, "bytes": record.length,
        }  # fmt: skip
        if header is not None:
            line |= {
                "kind": KINDS.get(header.kind, str(header.kind)), "generation": header.generation,
                "position": header.position, "durable": header.durable, "producer": header.producer,
                "sequence": header.sequence,
            }  # fmt: skip
        line["entries"] = [as_payload(entry.index, entry.payload) for entry in record.entries()]
        line["damaged"] = is_damage(record)
        yield line


def is_damage(record: FoundRecord) -> bool:
    """Whether something is wrong here; zeros behind the last record are not."""
    if record.verdict is Verdict.ZERO:
        return record.first_index is not None and record.last_index != record.first_index - 1
    return record.verdict is not Verdict.GOOD


def as_payload(index: int, payload: bytes) -> Line:
    """An entry for JSON: base64, and text if it is UTF-8."""
    found: Line = {"index": index, "payload": base64.b64encode(payload).decode("ascii")}
    try:
        found["text"] = payload.decode("utf-8")
    except UnicodeDecodeError:
        pass
    return found


def document_lines(magic: bytes, parts: list[bytes], path: str) -> Iterator[Line]:
    """A line for each document of a file: one, or two slots."""
    for number, raw in enumerate(parts):
        line: Line = {"file": path.rpartition("/")[2], "offset": number * fmt.HARD_STATE_SLOT_BYTES}
        try:
            document = fmt.read_document(magic, raw, path)
        except VersionMismatch:
            if fmt.document_holds(raw):
                raise
            document = None
        except ValueError:
            document = None
        yield line | {"verdict": "good" if document is not None else "damaged", "damaged": document is None} | (
            {str(name): value for name, value in document.items()} if document is not None else {}
        )


def index_lines(raw: bytes, path: str) -> Iterator[Line]:
    """The header of an index file, and a line for each run of entries that stand in one record."""
    try:
        header = fmt.read_index_header(raw[: fmt.INDEX_HEADER_BYTES], path)
    except VersionMismatch:
        header = None  # or rot in the version: a cache of this release it is not
    slots = raw[fmt.INDEX_HEADER_BYTES :]
    good = header is not None and len(slots) == header.slots * fmt.SLOT_BYTES and crc32c(slots) == header.slots_crc
    line: Line = {"file": path.rpartition("/")[2], "offset": 0, "verdict": "good" if good else "damaged"}
    yield line | {"damaged": not good} | (header._asdict() if header is not None else {})
    if header is None:
        return
    positions = memoryview(slots[: len(slots) // fmt.SLOT_BYTES * fmt.SLOT_BYTES]).cast("Q")
    first = 0
    for at in range(1, len(positions) + 1):
        if at == len(positions) or positions[at] != positions[first]:
            base = header.base_index
            yield {
                "first_index": base + first, "last_index": base + at - 1, "position": positions[first],
                "damaged": False,
            }  # fmt: skip
            first = at


# ---------------------------------------------------------------- printing
def print_json(lines: Iterable[Line]) -> bool:
    """One object a line; whether there was damage."""
    damaged = False
    for line in lines:
        damaged |= line["damaged"]
        sys.stdout.write(json.dumps(line, default=_as_text) + "\n")
    return damaged


def _as_text(value: object) -> str:
    return base64.b64encode(value).decode("ascii") if isinstance(value, bytes) else repr(value)


def print_text(lines: Iterable[Line], title: str | None, entries: bool) -> bool:
    """Columns for records, ``name: value`` for everything else; whether there was damage."""
    damaged, headed = False, False
    if title is not None:
        sys.stdout.write(f"{title}\n")
    for line in lines:
        damaged |= line["damaged"]
        if "bytes" not in line:
            shown = [f"{name}: {value}" for name, value in line.items() if name not in ("file", "damaged")]
            sys.stdout.write(("\n" if "verdict" in line else "  ").join(shown) + "\n")
            continue
        if not headed:
            headed = True
            sys.stdout.write(columns({name: name for name in COLUMNS}) + "\n")
        sys.stdout.write(columns(cells(line)) + "\n")
        for entry in line["entries"] if entries else ():
            payload = repr(entry["text"]) if "text" in entry else repr(base64.b64decode(entry["payload"]))
            sys.stdout.write(f"{'':>9}  {entry['index']}: {payload}\n")
    return damaged


def cells(line: Line) -> dict[str, str]:
    """The columns of a record as text."""
    first, last = line["first_index"], line["last_index"]
    held = "-"
    if first is not None or last is not None:
        empty = first is not None and last is not None and last < first
        held = "-" if empty else f"{'?' if first is None else first}..{'?' if last is None else last}"
        held = str(first) if first == last else held
    who = f"{line['producer']:x}/{line['sequence']}" if line["producer"] else "-"
    return {
        "offset": str(line["offset"]), "verdict": line["verdict"], "kind": _or(line["kind"]), "entries": held,
        "term": _or(line["term"]), "gen": _or(line["generation"]), "position": _or(line["position"]),
        "durable": _or(line["durable"]), "producer/sequence": who, "bytes": str(line["bytes"]),
    }  # fmt: skip


def _or(value: object) -> str:
    return "-" if value is None else str(value)


def columns(values: dict[str, str]) -> str:
    """One line of text."""
    return "  ".join(
        values[name].ljust(width) if name in LEFT else values[name].rjust(width) for name, width in COLUMNS.items()
    ).rstrip()
