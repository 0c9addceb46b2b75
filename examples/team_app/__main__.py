"""Run the team app for a moment, and ask as its admin who used it. See README.md."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx2
from websockets.sync.client import connect

from examples.running import asgi_served, run
from examples.team_app.app import SESSIONS, create_app
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

VISITS = {"session-of-usr_ada": 3, "session-of-usr_charles": 2, "session-of-usr_mary": 1}


@contextmanager
def serving(directory: Path, port: int = 0) -> Iterator[str]:
    """Serve the app, its ledger in `directory`."""
    with Recorder(SQLiteBackend(directory / "usage.db")) as recorder, asgi_served(create_app(recorder), port) as url:
        yield url


def headers_of(session: str) -> dict[str, str]:
    """Give the headers of a member's requests."""
    return {"authorization": f"Bearer {session}"}


def visit(url: str) -> str:
    """Use everything as each member, some more than others, and read the usage as an admin."""
    with httpx2.Client(base_url=url) as client:
        for session, times in VISITS.items():
            headers = headers_of(session)
            for _ in range(times):
                client.get("/api/auth/me", headers=headers).raise_for_status()
                client.get("/api/sync/auth", headers=headers).raise_for_status()
                client.post("/api/ingest", headers=headers, json={"text": "a note"}).raise_for_status()
                talk(url, session)
        admin = next(session for session, member in SESSIONS.items() if member.is_admin)
        answer = client.get("/api/admin/usage", params={"period": "24h"}, headers=headers_of(admin))
        figures = answer.raise_for_status().json()
    users = ", ".join(f"{user['name']} {user['total']}" for user in figures["users"])
    return f"{figures['total_events']} events of {figures['active_users']} users: {users}"


def talk(url: str, session: str) -> None:
    """Open both websockets."""
    address = url.replace("http", "ws", 1)
    with connect(f"{address}/api/sync", additional_headers=headers_of(session)) as websocket:
        websocket.send("a change")
        websocket.recv()
    with connect(f"{address}/api/chat", additional_headers=headers_of(session)) as websocket:
        websocket.recv()


if __name__ == "__main__":
    run("team_app", serving, visit)
