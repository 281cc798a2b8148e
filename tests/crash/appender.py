"""A process that uses a log until the disk is taken away.  Says on standard output what it begins and what is done.

Run by ``real_disk.py``: ``python -m crash.appender DIRECTORY SEED FIRST_NUMBER TERM``.  Lines are JSON: first the
operation, then, when it returned, ``{"done": ..., "durable": the durable index}``.
"""

from __future__ import annotations

import json
import os
import random
import sys
from typing import Any

import raftlog_mp as rl


def payload_of(number: int) -> bytes:
    """The bytes of entry number ``number`` of a life; no two are equal."""
    return f"{number}.".encode() * (number * 37 % 300 + 1)


def next_operation(coin: random.Random, number: int, log: rl.Log) -> dict[str, Any]:
    """What to do now: mostly appends, now and then everything else that must survive a power cut."""
    first, last, dice = log.first_index, log.last_index, coin.random()
    if dice < 0.05 and last - first > 8:
        return {"kind": "truncate", "at": coin.randint(last - 3, last)}
    if dice < 0.08 and last - first > 40:
        return {"kind": "purge", "upto": coin.randint(first, last - 20)}
    if dice < 0.12:
        return {"kind": "vote", "for": f"n{number}"}
    return {"kind": "append", "numbers": list(range(number, number + coin.choice((1, 1, 1, 4, 20))))}


def main() -> None:
    """Until it is killed, or the log fails."""
    directory, seed, number, term = sys.argv[1], *map(int, sys.argv[2:5])
    coin = random.Random(seed)

    def say(**what: Any) -> None:
        os.write(1, json.dumps(what).encode() + b"\n")

    with rl.open_log(directory, autostart=False) as log:
        while True:
            operation = next_operation(coin, number, log)
            term += operation["kind"] in ("truncate", "vote")
            say(**operation, term=term, last=log.last_index)
            try:
                if operation["kind"] == "append":
                    number = operation["numbers"][-1] + 1
                    log.append_many([payload_of(one) for one in operation["numbers"]], term=term)
                elif operation["kind"] == "truncate":
                    log.truncate_from(operation["at"], leader_term=term)
                elif operation["kind"] == "purge":
                    log.purge_to(operation["upto"])
                else:
                    log.save_hard_state(rl.HardState(term, operation["for"]))
            except rl.RaftLogError as error:
                say(failed=type(error).__name__)
                return
            say(done=operation["kind"], durable=log.durable_index)


if __name__ == "__main__":
    main()
