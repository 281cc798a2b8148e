"""The example server: each answer it can give, and real workers whose writer is killed."""

import http.client
import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest
from demo_processes import Children, end_writer, start_server
from starlette.applications import Starlette

import raftlog_mp as rl


class StubLog:
    """A log whose append fails as told."""

    def __init__(self, error: rl.RaftLogError) -> None:
        self.error = error

    def append(self, payload: bytes, timeout: float) -> int:
        raise self.error


def post(app: Starlette, log: StubLog) -> tuple[int, dict[str, str], Any]:
    """Status, headers and JSON of one POST /append, straight through ASGI."""
    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "scheme": "http", "path": "/append",
        "raw_path": b"/append", "root_path": "", "query_string": b"", "headers": [], "state": {"log": log},
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"x", "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    anyio.run(app, scope, receive, send)
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, json.loads(b"".join(message.get("body", b"") for message in sent[1:]))


ANSWERS: dict[str, tuple[rl.RaftLogError, int, str | None]] = {
    "backpressure": (rl.Backpressure("full", level="hard", retry_after_ms=1200), 503, "2"),
    "no writer": (rl.WriterUnavailable("none"), 503, "1"),
    "too large": (rl.EntryTooLarge("big", size_bytes=2, limit_bytes=1), 413, None),
    "no answer in time": (rl.AppendTimeout("late", ticket=None), 504, None),
    "outcome unknown": (rl.OutcomeUnknown("who knows"), 504, None),
    "disk full": (rl.DiskFull("full"), 507, None),
    "disk failed": (rl.SyncFailed("broken"), 500, None),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_errors_become_answers(what: str, load_example: Callable[[str], ModuleType]) -> None:
    error, expected, retry_after = ANSWERS[what]
    status, headers, answer = post(load_example("server").create_app("unused"), StubLog(error))
    assert status == expected
    assert headers.get("retry-after") == retry_after
    assert answer["error"] == str(error)
    if status == 503:
        assert answer["appended"] is False  # safe to send again
    if status == 504:
        assert answer["appended"] is None  # not safe


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
    """Status and body of one request on a connection of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        data = answer.read()
    finally:
        connection.close()
    is_json = answer.headers.get("content-type") == "application/json"
    return answer.status, json.loads(data) if is_json else data


@pytest.fixture
def port(tmp_path: Path, log_dir: str) -> Iterator[int]:
    """A real uvicorn with two workers, which start the writer by themselves."""
    children = Children(tmp_path)
    try:
        yield start_server(children, log_dir, workers=2, seconds=60)
    finally:
        children.end_all()
        end_writer(log_dir)


def test_two_workers_share_one_log_through_the_death_of_its_writer(port: int, log_dir: str) -> None:
    bodies = [f"before {number}".encode() for number in range(20)]
    indexes = [ask(port, "POST", "/append", body)[1]["index"] for body in bodies]
    assert indexes == list(range(1, 21))
    _, stats = ask(port, "GET", "/stats")
    os.kill(stats["writer_pid"], signal.SIGKILL)
    later = [f"after {number}".encode() for number in range(20)]
    indexes += [ask(port, "POST", "/append", body)[1]["index"] for body in later]
    assert indexes == list(range(1, 41))
    assert ask(port, "GET", "/stats")[1]["generation"] == stats["generation"] + 1
    assert ask(port, "GET", "/entries/1") == (200, bodies[0])
    assert ask(port, "GET", "/entries/40") == (200, later[-1])
    with rl.open_reader(log_dir) as reader:
        assert [entry.payload for entry in reader.read(1)] == bodies + later


def test_what_is_not_there_and_what_is_too_large(port: int) -> None:
    assert ask(port, "POST", "/append", b"")[1] == {"index": 1}  # an empty payload is legal
    assert ask(port, "GET", "/entries/2")[0] == 404
    assert ask(port, "GET", "/entries/x")[0] == 404
    assert ask(port, "GET", "/append")[0] == 405
    status, answer = ask(port, "POST", "/append", bytes((1 << 20) + 1))
    assert status == 413 and answer["appended"] is False
    assert ask(port, "POST", "/append", b"next")[1] == {"index": 2}
