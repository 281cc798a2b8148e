"""A reader process of the demo: follows the log from its first entry and writes down what it sees.

    demo_follow.py LOG_DIR --last BODY --out FILE

One ``for`` loop over one ``follow``, from before the first append, through the writer's death, to the entry whose
payload is BODY.  Exit code 1 if nothing comes for a long time.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path

from demo_check import Record, digest_of, write_line

import raftlog_mp as rl

SILENCE_SECONDS_MAX = 60.0


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(description="one reader process of the demo")
    parser.add_argument("log_dir")
    parser.add_argument("--last", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo ends its processes itself
    last = options.last.encode()
    with rl.open_reader(options.log_dir) as reader, options.out.open("w", encoding="ascii") as out:
        for entry in reader.follow(1, timeout=SILENCE_SECONDS_MAX):
            out.write(write_line(Record(entry.index, entry.term, digest_of(entry.payload))))
            if entry.payload == last:
                return 0
    print(f"nothing came for {SILENCE_SECONDS_MAX} s", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
