"""A web server whose workers all append to one durable log.

    pip install 'raftlog_mp[server]'
    RAFTLOG_DIR=/var/lib/app/log uvicorn examples.server:app --workers 4

    curl -X POST --data-binary 'hello' http://127.0.0.1:8000/append      -> {"index": 1}
    curl http://127.0.0.1:8000/entries/1                                 -> hello

No worker is special.  The first one starts the log's writer process, unless one runs already
(``raftlog-mp serve DIR``, or ``rl.start_writer``), and if the writer crashes, one of them starts the next.

The extra brings uvloop: with several workers, uvicorn on asyncio's own loop leaves Nagle's algorithm on, and
answers wait some 40 ms for a delayed TCP acknowledgement.  Nothing else here depends on it.
"""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import raftlog_mp as rl

APPEND_SECONDS = 10.0  # how long a request waits for its acknowledgement


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
    """Open the log once per worker process; every request of the worker shares the handle (it is thread-safe)."""
    # Opening may start a writer and run a recovery, so it goes to a thread like everything that may wait.
    log = await anyio.to_thread.run_sync(rl.open_log, app.state.log_dir or os.environ["RAFTLOG_DIR"])
    try:
        yield {"log": log}
    finally:
        log.close()


async def append(request: Request) -> Response:
    """POST /append: the body is the payload.  Answers once the entry is as safe as the log's strategy promises."""
    log, payload = request.state.log, await request.body()
    # A thread waits for the acknowledgement; meanwhile the event loop serves others.  Threads that wait at the
    # same time share one fsync.
    index = await anyio.to_thread.run_sync(lambda: log.append(payload, timeout=APPEND_SECONDS))
    return JSONResponse({"index": index})


async def entry(request: Request) -> Response:
    """GET /entries/{index}: the payload."""
    # Newest entries come from shared memory in microseconds; older ones may need the disk, so: a thread.
    found = await anyio.to_thread.run_sync(request.state.log.get, request.path_params["index"])
    if found is None:
        return JSONResponse({"error": "no such entry"}, 404)
    headers = {"raft-term": str(found.term)}
    return Response(found.payload, media_type="application/octet-stream", headers=headers)


async def stats(request: Request) -> Response:
    """GET /stats: the log's counters, and the worker that answered."""
    return JSONResponse({"worker_pid": os.getpid(), **request.state.log.stats().as_dict()})


# What went wrong decides whether the client may simply send the request again:
# - surely not appended: 503 with Retry-After, sending again is safe;
# - outcome unknown (the entry may still be appended, once): 504 without Retry-After, for sending again may
#   append it twice.  A service whose payloads carry a request id can let its clients retry and drop doubles.


def not_appended(request: Request, error: Exception) -> Response:
    """Nothing was appended: try again."""
    milliseconds = getattr(error, "retry_after_ms", None) or 1000
    headers = {"retry-after": str(-(-milliseconds // 1000))}  # whole seconds, rounded up
    return JSONResponse({"error": str(error), "appended": False}, 503, headers=headers)


def outcome_unknown(request: Request, error: Exception) -> Response:
    """No answer in time."""
    return JSONResponse({"error": str(error), "appended": None}, 504)


def too_large(request: Request, error: Exception) -> Response:
    """The body is above ``max_entry_bytes``."""
    return JSONResponse({"error": str(error), "appended": False}, 413)


def disk_trouble(request: Request, error: Exception) -> Response:
    """The disk is full or failed: a person has to look."""
    return JSONResponse({"error": str(error)}, 507 if isinstance(error, rl.DiskFull) else 500)


def create_app(log_dir: str | None = None) -> Starlette:
    """An application on the log at ``log_dir``; None: the one that RAFTLOG_DIR names when the server starts."""
    app = Starlette(
        routes=[
            Route("/append", append, methods=["POST"]),
            Route("/entries/{index:int}", entry),
            Route("/stats", stats),
        ],
        exception_handlers={
            rl.EntryTooLarge: too_large,
            rl.Backpressure: not_appended,
            rl.WriterUnavailable: not_appended,
            rl.AppendTimeout: outcome_unknown,
            rl.OutcomeUnknown: outcome_unknown,
            rl.DiskFull: disk_trouble,
            rl.SyncFailed: disk_trouble,
        },
        lifespan=lifespan,
    )
    app.state.log_dir = log_dir
    return app


app = create_app()
