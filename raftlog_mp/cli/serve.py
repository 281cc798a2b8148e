"""``serve`` and ``stop``: the life of a writer process."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

import click

from .. import lifecycle, manifest, place, processes, writer
from ..config import LogConfig
from ..files import Files, real_path
from . import options, outcome, screen

ROUTINE = ("trust", "keep", "done", "ignore")  # what recovery says of files that are as they should be


@click.command()
@options.directory
@click.option(
    "--config",
    "config_file",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="TOML file of settings; what it does not name gets its default.",
)
@click.option(
    "--strategy",
    type=click.Choice(["disk_first", "mem_first"]),
    help="Acknowledge after the fsync, or from shared memory.",
)
@click.option(
    "--flush-policy",
    type=options.POLICY,
    metavar="POLICY",
    help="immediate, batch:THRESHOLD:INTERVAL_MS or adaptive:TARGET_MS.",
)
@click.option("--segment-bytes", type=options.SIZE, help="Size of a segment file.")
@click.option("--ring-bytes", type=options.SIZE, help="Newest bytes of the log in shared memory.")
@click.option("--lane-bytes", type=options.SIZE, help="Submission queue of each client.")
@click.option("--max-entry-bytes", type=options.SIZE, help="Largest entry.")
@click.option("--max-buffered-bytes", type=options.SIZE, help="Unflushed bytes before appends wait.")
@click.option("--max-buffered-entries", type=int, metavar="N", help="Unflushed entries before appends wait.")
@click.option(
    "--linger-s",
    type=float,
    metavar="SECONDS",
    help="Stored for writers that handles start: how long they outlive the last client.",
)
@click.option(
    "--idle-mark-ms", type=float, metavar="MS", help="An idle writer leaves a durable mark after this time."
)
@click.option(
    "--verify-reads/--no-verify-reads", default=None, help="Check checksums of what is read from segments."
)
@click.option("--shm-dir", metavar="FOLDER", help="Where shared memory files stand; DIR/shm if not given.")
@click.option(
    "--allow-any-filesystem",
    is_flag=True,
    default=None,
    help="Also on file systems that are not known to be local.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log what the writer does to stderr.")
def serve(directory: str, config_file: str | None, verbose: bool, **given: Any) -> int:  # fmt: skip
    """Run the writer of the log at DIR in the foreground.

    A log that is not there is created. Settings that are not given keep their stored value; what is given is stored.
    Sizes are bytes, or numbers with K, M or G. Ctrl-C and SIGTERM end it in order: drain, flush, seal.
    """
    level = logging.INFO if verbose else logging.WARNING
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(message)s")
    path = real_path(directory)
    served: list[writer.Writer] = []
    with contextlib.ExitStack() as opening:

        def on_ready(ready: writer.Writer) -> None:
            opening.close()
            served.append(ready)
            announce(path, ready)

        files = Files()
        if not verbose:  # else its own lines tell that it is alive
            files = WatchedFiles(opening.enter_context(screen.late_progress(f"opening {path}:")))
        chosen = settings(path, config_file, given)
        writer.serve(path, chosen, linger=False, interrupt=True, on_ready=on_ready, files=files)
    journal = served[0].journal
    if journal.failure is not None:
        raise journal.failure
    click.echo(f"stopped {path}: last index {journal.published_index}, all of it durable")
    return outcome.FINE


class WatchedFiles(Files):
    """``Files`` that tell how many bytes they have read."""

    def __init__(self, tell: Callable[[int], None]) -> None:
        self._tell, self._read_bytes = tell, 0

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """As :meth:`Files.pread`."""
        data = super().pread(fd, length, offset)
        self._read_bytes += len(data)
        self._tell(self._read_bytes)
        return data


def settings(path: str, config_file: str | None, given: dict[str, Any]) -> LogConfig | None:
    """The settings to serve with: the file's or the stored ones, with what was given on top; None adopts the stored."""
    changes = {name: value for name, value in given.items() if value is not None}
    if config_file is not None:
        base = LogConfig.from_toml(config_file)
    elif not changes:
        return None
    else:
        files = Files()
        there = place.check_place(files, path, create=True)
        base = LogConfig.from_dict(manifest.load(files, path).config) if there else LogConfig()
    return dataclasses.replace(base, **changes)


def announce(path: str, ready: writer.Writer) -> None:
    """One line that it serves; one more for each thing that recovery found out of order."""
    journal, config = ready.journal, ready.config
    findings = [finding for finding in ready.plan.findings if finding.action not in ROUTINE]
    recovery = (
        f"{len(findings)} finding{'s' if len(findings) != 1 else ''}" if findings else "nothing to repair"
    )
    click.echo(
        f"serving {path}: pid {processes.own_pid()}, last index {journal.published_index}, {config.strategy.value}, "
        f"flush {config.flush_policy}, generation {journal.generation}, recovery: {recovery}"
    )
    for finding in findings:
        click.echo(f"  recovery: {finding.action} {finding.file}: {finding.sentence} (row {finding.letter})")
    if ready.plan.loss_possible:
        outcome.complain("loss_possible: a suffix that was acknowledged from memory may be lost")


@click.command()
@options.directory
@click.option(
    "--timeout",
    type=float,
    default=30.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for its end.",
)
def stop(directory: str, timeout: float) -> int:
    """Stop the writer of the log at DIR: drain, flush, seal. Connected clients do not restart it."""
    path = real_path(directory)
    click.echo(
        f"stopped the writer of {path}"
        if lifecycle.stop_writer(path, timeout)
        else f"no writer was running for {path}"
    )
    return outcome.FINE
