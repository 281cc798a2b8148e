"""A writer whose disk can be made slow while it runs.

    soak_slow_writer.py LOG_DIR --config CONFIG.json [--fsync-ms MS] [--delay FILE]

Before each sync, that of a folder included, it sleeps ``--fsync-ms`` milliseconds, or what FILE says at that moment;
everything else is the product's own writer.  FILE may be rewritten (by a rename) at any time; a missing one means no
delay.
It prints one line once it serves, and stops in order on SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raftlog_mp import writer
from raftlog_mp.config import LogConfig
from raftlog_mp.files import Files

SYNCS = ("sync", "sync_all", "sync_dir")


def slow_down(delay_ms: Callable[[], float]) -> None:
    """Make the syncs of the door to the disk sleep first."""

    def slow(real: Callable[[Files, Any], None]) -> Callable[[Files, Any], None]:
        def sync(self: Files, what: Any) -> None:
            time.sleep(delay_ms() / 1000)
            real(self, what)

        return sync

    for name in SYNCS:
        setattr(Files, name, slow(getattr(Files, name)))


def read_delay_ms(path: Path) -> float:
    """The delay that the file says; 0 without a file."""
    try:
        return float(path.read_text(encoding="ascii"))
    except FileNotFoundError:
        return 0.0


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="a writer whose disk can be made slow")
    parser.add_argument("log_dir")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--fsync-ms", type=float, default=0.0)
    parser.add_argument("--delay", type=Path)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    slow_down(lambda: options.fsync_ms if options.delay is None else read_delay_ms(options.delay))
    config = LogConfig.from_dict(json.loads(options.config.read_text(encoding="utf-8")))
    writer.serve(
        options.log_dir, config, linger=False, interrupt=False, on_ready=lambda _: print("serving", flush=True)
    )  # fmt: skip


if __name__ == "__main__":
    main()
