"""A writer that a handle started: settings from stdin, one report on stdout, then it is on its own."""

from __future__ import annotations

import logging

from . import errors, processes
from .config import LogConfig
from .writer import Writer, serve

EXIT_REFUSED = 3


def serve_spawned(directory: str) -> int:
    """Serve the log; the exit code is 0 after an orderly end and 3 if the log could not be served."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    instructions = processes.read_instructions()
    if instructions is None:  # served with a guess, a log would be made with settings nobody chose, or never be left
        logging.error("whoever started this writer was killed before it said how: %s is left alone", directory)
        return EXIT_REFUSED

    def on_ready(writer: Writer) -> None:
        for finding in writer.plan.findings:
            if finding.action not in ("trust", "keep", "done", "ignore"):
                logging.info(
                    "recovery: %s %s: %s (row %s)", finding.action, finding.file, finding.sentence, finding.letter
                )
        if writer.plan.loss_possible:
            logging.warning("loss_possible: a suffix that was acknowledged from memory may be lost")
        journal = writer.journal
        logging.info("serving %s, generation %d, last index %d", directory, journal.generation, journal.published_index)
        processes.report_and_detach({"pid": processes.own_pid(), "generation": journal.generation})

    try:
        config = instructions["config"]
        settings = LogConfig.from_dict(config) if config is not None else None
        serve(directory, settings, linger=bool(instructions["linger"]), interrupt=False, on_ready=on_ready)
    except errors.RaftLogError as error:
        logging.error("%s: %s", type(error).__name__, error)
        processes.report_and_detach(errors.to_wire(error))
        return EXIT_REFUSED
    logging.info("stopped")
    return 0
