"""How fast a segment is scanned: scan_segment beside a plain loop that reads and checksums the same bytes.

    python benchmarks/scan.py [--small] [--json]

Warm files; both sides in turn in every round.  Ratios are of times: 1 is as fast as the plain loop, 2 takes twice as
long.  iter_records, which makes an object of each record, stands beside them, and so does a whole check of a log.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from crc32c import crc32c

import raftlog_mp as rl
from raftlog_mp import format as fmt
from raftlog_mp.check import check_log
from raftlog_mp.records import iter_records, scan_segment

BODIES = {"256 B": 256, "64 KiB": 64 << 10}
HEAD = fmt.RECORD_BYTES


def write_segment(path: Path, total_bytes: int, body_bytes: int) -> int:
    """A segment of single-entry records, unsealed; how many."""
    count, body = total_bytes // (HEAD + body_bytes), os.urandom(body_bytes)
    header = fmt.SegmentHeader(9, 1, 1, 1, 0, 0, 0, total_bytes, count)
    position, crc = 0, crc32c(body)
    with path.open("wb") as file:
        file.write(fmt.pack_segment_header(header).ljust(fmt.DATA_OFFSET, b"\0"))
        for index in range(1, count + 1):
            file.write(fmt.pack_record_header(
                crc, body_bytes, 1, fmt.KIND_ENTRIES, 9, 1, index, 1, position, position, 7, index) + body)  # fmt: skip
            position += HEAD + body_bytes
    return count


def plain_loop(path: Path) -> int:
    """What any Python loop has to do: read, unpack, check both sums."""
    data = path.read_bytes()
    view, unpack, at, records = memoryview(data), fmt.RECORD_HEADER.unpack_from, fmt.DATA_OFFSET, 0
    while at + HEAD <= len(data):
        fields = unpack(data, at)
        body = at + HEAD
        end = body + fields[3]
        if crc32c(view[at + 8 : body]) != fields[1] or crc32c(view[body:end]) != fields[2]:
            break
        at, records = end, records + 1
    return records


def seconds_of(step: Callable[[], object]) -> float:
    """How long ``step()`` takes."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def figures(values: list[float]) -> dict[str, float]:
    """Median, least and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def scans(path: Path, rounds: int, count: int) -> dict[str, Any]:
    """Rates and ratios of one file."""
    assert plain_loop(path) == count == scan_segment(path).records
    size, times = path.stat().st_size, dict[str, list[float]](plain=[], scan=[], iterate=[])
    for _ in range(rounds):
        times["plain"].append(seconds_of(lambda: plain_loop(path)))
        times["scan"].append(seconds_of(lambda: scan_segment(path)))
        times["iterate"].append(seconds_of(lambda: sum(1 for _ in iter_records(path))))
    beside = list(zip(times["scan"], times["plain"], strict=True))
    return {
        "MB/s": {name: figures([size / spent / 1e6 for spent in spent_in]) for name, spent_in in times.items()},
        "scan / plain": figures([scan / plain for scan, plain in beside]),
    }


def whole_log(folder: Path, total_bytes: int, rounds: int) -> dict[str, float]:
    """MB/s of check_log in one process, everything included, over a log of 256-byte entries in batches of 100."""
    with rl.start_writer(folder, rl.LogConfig(segment_bytes=4 << 20)), rl.open_log(folder) as log:
        for _ in range(total_bytes // (256 * 100)):
            log.submit([bytes(256)] * 100)
        log.flush()
    report = check_log(folder)
    assert report.sound, report.findings
    return figures([report.bytes / seconds_of(lambda: check_log(folder)) / 1e6 for _ in range(rounds)])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--small", action="store_true", help="few bytes: shows that it runs, no figures to quote")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", default=None, help="where the files go (a folder that is removed afterwards)")
    options = parser.parse_args()
    total, rounds = (1 << 20, 3) if options.small else (64 << 20, 9)
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        for what, body_bytes in BODIES.items():
            path = folder / f"{body_bytes}.seg"
            result[what] = scans(path, rounds, write_segment(path, total, body_bytes))
            path.unlink()
        result["check_log"] = {"MB/s": {"whole": whole_log(folder / "log", total, rounds)}}
    if options.json:
        print(json.dumps(result))
        return
    for what, found in result.items():
        ratio = {name: values for name, values in found.items() if name != "MB/s"}
        for name, values in (found["MB/s"] | ratio).items():
            unit = "x   " if name in ratio else "MB/s"
            shown = "  ".join(f"{key} {value:9,.2f}" for key, value in values.items())
            print(f"{what:10} {name:13} {unit}  {shown}")


if __name__ == "__main__":
    main()
