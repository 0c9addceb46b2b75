"""Under real servers, however they end: as many events in the ledger as requests were answered."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.matrix import matrix
from tests.support.servers import ASGI_SERVERS, WSGI_SERVERS, serving
from tests.support.stores import eventually, journal_files, stored_events

if TYPE_CHECKING:
    from pathlib import Path

REQUESTS = 50
USERS = [f"user{n}" for n in range(2 * REQUESTS)]
ENDS = (signal.SIGTERM, signal.SIGKILL)


def claiming(server: str) -> Any:
    """Give a parameter that fills the server's cells."""
    subject = server.partition(" ")[0]
    return pytest.param(
        server,
        marks=[matrix(subject, "all counted after SIGTERM"), matrix(subject, "all counted after kill -9, and drain")],
    )


def accepted(ledger: Path) -> set[str]:
    """Give the users of all accepted events, imported or not."""
    waiting = {user.decode() for file in journal_files(ledger) for user in re.findall(rb"user\d+", contents(file))}
    return waiting | {event.user for event in stored_events(ledger)}


def contents(journal: Path) -> bytes:
    """Read a journal that may be imported and deleted meanwhile."""
    with suppress(FileNotFoundError):
        return journal.read_bytes()
    return b""


def serve_and_end(server: str, end: signal.Signals, directory: Path) -> None:
    """Send requests, end the server, have a fresh process drain its journals, and compare."""
    ledger = directory / "usage.db"
    target = "tests.servers.app:" + ("asgi" if server in ASGI_SERVERS else "wsgi")
    with serving(server, target, directory, USAGE_DB=str(ledger)) as running:
        assert running.get_all("/list", USERS[:REQUESTS]) == [(200, b"hello")] * REQUESTS
        assert running.get_all("/generator", USERS[REQUESTS:]) == [(200, b"one two")] * REQUESTS
        # An event is accepted when its last byte was sent, which the client may know before the server does.
        assert eventually(lambda: accepted(ledger) == set(USERS))
        running.end(end)

    drain = [sys.executable, "-m", "usagekit", "drain", "--db", str(ledger)]
    subprocess.run(drain, check=True, capture_output=True, timeout=60)

    events = stored_events(ledger)
    assert sorted(event.user for event in events) == sorted(USERS)
    assert {(event.kind, event.status, event.aborted) for event in events} == {("request", 200, False)}
    assert sorted(event.response_bytes for event in events) == [5] * REQUESTS + [7] * REQUESTS
    assert journal_files(ledger) == []


@pytest.mark.parametrize("server", [claiming(server) for server in (*ASGI_SERVERS, *WSGI_SERVERS)])
def test_every_request_is_counted_once_however_the_server_ends(server: str, tmp_path: Path) -> None:
    """With SIGTERM, and with SIGKILL for all of its processes at once; two servers at a time."""
    with ThreadPoolExecutor(2) as pool:
        for _ in pool.map(lambda end: serve_and_end(server, end, tmp_path / end.name), ENDS):
            pass
