"""Under real WSGI servers: every byte that the client receives is the same with and without us."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.servers.app import BODIES
from tests.support.matrix import matrix
from tests.support.servers import WSGI_SERVERS, serving
from tests.support.stores import eventually, stored_events
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.servers import Server
    from usagekit.event import UsageEvent

METHODS = ("GET", "HEAD", "OPTIONS", "POST", "BREW")
PATHS = (*BODIES, "/late", "/unknown")
ENDED_BY_SERVER = re.compile(rb"^(Date|Server): .*\r\n", re.MULTILINE | re.IGNORECASE)


def claiming(server: str) -> Any:
    """Give a parameter that fills the server's cells."""
    subject = server.partition(" ")[0]
    return pytest.param(server, marks=[matrix(subject, "bytes unchanged"), matrix(subject, "client gone: aborted")])


@pytest.fixture(params=[claiming(server) for server in WSGI_SERVERS])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Server, Server, Path]]:
    """Run a server twice: bare, and counted."""
    ledger = tmp_path / "usage.db"
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        bare = pool.submit(
            stack.enter_context, serving(request.param, "tests.servers.app:bare_wsgi", tmp_path / "bare")
        )
        counted = pool.submit(
            stack.enter_context,
            serving(request.param, "tests.servers.app:wsgi", tmp_path / "counted", USAGE_DB=str(ledger)),
        )
        yield bare.result(), counted.result(), ledger


def received(server: Server, method: str, path: str) -> bytes:
    """Send a request, and give every byte of the answer but what no two answers have in common."""
    lines = (
        f"{method} {path} HTTP/1.1",
        "Host: localhost",
        "Connection: close",
        "Content-Length: 0",
        f"x-user: {path}",
    )
    return ENDED_BY_SERVER.sub(b"", server.raw("\r\n".join((*lines, "", "")).encode()))


def events_of(ledger: Path, enough: Any) -> list[UsageEvent]:
    """Wait for the events that the server's own process imports, or that a fresh one does."""
    with Recorder(SQLiteBackend(ledger)) as fresh:
        assert eventually(lambda: fresh.flush() and enough(stored_events(ledger)))
    return stored_events(ledger)


def test_the_client_receives_the_same_bytes(pair: tuple[Server, Server, Path]) -> None:
    """Status line, headers, framing and body, of every kind of body and method; and each request is one event.

    Then the client of an endless stream goes away, which is noted.
    """
    bare, counted, ledger = pair
    requests = [(method, path) for method in METHODS for path in PATHS]

    with ThreadPoolExecutor(2) as pool:
        expected = pool.submit(lambda: [received(bare, *request) for request in requests])
        answers = [received(counted, *request) for request in requests]

    assert dict(zip(requests, answers, strict=True)) == dict(zip(requests, expected.result(), strict=True))
    events = events_of(ledger, lambda events: len(events) >= len(requests))
    assert sorted((event.user, event.route, event.status, event.aborted) for event in events if event.user) == sorted(
        (
            path,
            f"{method} {path if path in BODIES else '(unmatched)'}".replace("BREW", "OTHER"),
            int(answer.split(maxsplit=2)[1]) if answer else 500,  # uWSGI says nothing then
            path == "/late" and method != "HEAD",
        )
        for (method, path), answer in zip(requests, answers, strict=True)
    )

    counted.raw(b"GET /endless HTTP/1.1\r\nHost: localhost\r\nx-user: gone\r\n\r\n", limit=100_000)
    (gone,) = [
        event
        for event in events_of(ledger, lambda events: any(event.user == "gone" for event in events))
        if event.user == "gone"
    ]
    assert (gone.status, gone.aborted) == (200, True)
    assert gone.response_bytes >= 65536
