"""Records as fast as it can until it is killed, and tells in a file what it was told is accepted.

Usage: produce.py LEDGER NUMBER ACKNOWLEDGED. Two threads: one calls `track`, the other the ASGI middleware. Each event
carries a number of its own, as its body's size or as its user; the number is written to the file after the event was
accepted.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import count
from threading import Thread
from typing import TYPE_CHECKING, Any

from usagekit import Recorder
from usagekit.asgi import UsageMiddleware
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import MutableMapping

SPAN = 1_000_000_000  # numbers of one process


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """Serve every request with two bytes."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"ok"})


async def nothing_more() -> MutableMapping[str, Any]:
    """Give what a server says when the client said all."""
    return {"type": "http.disconnect"}


async def to_nobody(message: MutableMapping[str, Any]) -> None:
    """Take what the app sends."""


def track(recorder: Recorder, first: int, acknowledged: int) -> None:
    """Record named events, for ever."""
    for number in count(first):
        if not recorder.track("tick", response_bytes=number):
            os._exit(3)  # which the test notices
        os.write(acknowledged, b"%d\n" % number)


async def serve(recorder: Recorder, first: int, acknowledged: int) -> None:
    """Serve requests, for ever."""
    journal = recorder._intake.journal
    assert journal is not None
    app = UsageMiddleware(answer, recorder=recorder, identify=lambda request: request.headers["x-number"])
    for number in count(first):
        headers = [(b"x-number", b"%d" % number)]
        scope = {"type": "http", "method": "GET", "path": "/", "headers": headers, "query_string": b""}
        await app(scope, nothing_more, to_nobody)
        if journal.counts()[1]:
            sys.exit(f"rejected: {journal.counts()[1]}")
        os.write(acknowledged, b"%d\n" % number)


def main(path: str, process: int, acknowledged: int) -> None:
    """Record in two threads until killed."""
    recorder = Recorder(SQLiteBackend(path))
    first = process * SPAN
    serving = asyncio.new_event_loop()
    Thread(target=track, args=(recorder, first, acknowledged), daemon=True).start()
    serving.run_until_complete(serve(recorder, first + SPAN // 2, acknowledged))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), os.open(sys.argv[3], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
