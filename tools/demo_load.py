"""A client process of the demo: several keep-alive connections that POST as fast as the answers come.

    demo_load.py PORT --name NAME --connections N --until MONOTONIC_SECONDS --seed N --out FILE

Every body is unique: name, connection and sequence, then random bytes.  A request is sent once and never again,
whatever comes of it, so that the log's contents tell of its exactly-once alone, not of a client's retries.

http.client rather than httpx: 0.3 against 1.0 ms of CPU a request where this was written, and the load shares the
processors with the server that it measures.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from typing import TextIO

from demo_check import ACKNOWLEDGED, REFUSED, UNKNOWN, Request, digest_of, write_line

HTTP_SECONDS_MAX = 20.0  # longer than the server waits for the log
PADDING_BYTES = (64, 512)
REQUESTS_PER_CONNECTION = 200  # then connect anew: the kernel may have given one worker most connections


class Connection:
    """One keep-alive connection, and the worker behind it."""

    def __init__(self, port: int) -> None:
        self.http = http.client.HTTPConnection("127.0.0.1", port, timeout=HTTP_SECONDS_MAX)
        self.http.connect()
        self.http.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        status, answer = self.ask("GET", "/stats", None)
        if status != 200:
            raise ConnectionError(f"GET /stats: HTTP {status}: {answer.get('error')}")
        self.worker_pid = int(answer.get("worker_pid", 0))
        self.left = REQUESTS_PER_CONNECTION

    def ask(self, method: str, path: str, body: bytes | None) -> tuple[int, dict]:
        """Status and JSON of an answer."""
        self.http.request(method, path, body)
        response = self.http.getresponse()
        text = response.read()
        try:
            answer = json.loads(text)
        except ValueError:
            answer = {"error": text[:200].decode(errors="replace")}
        return response.status, answer if isinstance(answer, dict) else {"error": str(answer)}


def post(connection: Connection, body: bytes) -> Request:
    """Send one body; the outcome, whatever it is."""
    digest, sent = digest_of(body), time.monotonic()
    index, detail = 0, ""
    try:
        status, answer = connection.ask("POST", "/append", body)
    except (OSError, http.client.HTTPException) as error:
        connection.left = 0
        outcome, detail = UNKNOWN, f"{type(error).__name__}: {error}"
    else:
        if status == 200:
            outcome, index = ACKNOWLEDGED, answer["index"]
        else:
            outcome = REFUSED if answer.get("appended") is False else UNKNOWN
            detail = f"HTTP {status}: {answer.get('error')}"
    return Request(outcome, digest, index, sent, time.monotonic(), connection.worker_pid, detail)


def run_connection(port: int, name: str, until: float, seed: int, out: TextIO, lock: threading.Lock) -> None:
    """POST until the time is over."""
    chance = random.Random(f"{seed}/{name}")
    connection, sequence = None, 0
    while time.monotonic() < until:
        try:
            if connection is None or connection.left <= 0:
                if connection is not None:
                    connection.http.close()
                connection = None
                connection = Connection(port)
        except (OSError, http.client.HTTPException) as error:  # nothing was sent, so nothing is recorded
            print(f"{name}: {type(error).__name__}: {error}", file=sys.stderr)
            time.sleep(0.05)
            continue
        sequence += 1
        connection.left -= 1
        body = f"{name}-{sequence} ".encode() + chance.randbytes(chance.randint(*PADDING_BYTES))
        request = post(connection, body)
        with lock:
            out.write(write_line(request))
    if connection is not None:
        connection.http.close()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description="one client process of the demo")
    parser.add_argument("port", type=int)
    parser.add_argument("--name", required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--until", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the demo ends its processes itself
    lock = threading.Lock()
    with options.out.open("w", encoding="utf-8") as out:
        threads = [
            threading.Thread(
                target=run_connection,
                args=(options.port, f"{options.name}.{number}", options.until, options.seed, out, lock),
            )
            for number in range(options.connections)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    main()
