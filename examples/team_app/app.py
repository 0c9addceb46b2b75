"""A team's workspace that shows its admins who uses what: FastAPI, two websockets, and the usage page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, FastAPI, HTTPException, WebSocket, WebSocketException, status
from pydantic import BaseModel
from starlette.requests import HTTPConnection  # noqa: TC002  FastAPI reads the annotation

from usagekit import Identity, Recorder, track, usage
from usagekit.admin import usage_app
from usagekit.asgi import UsageMiddleware
from usagekit.backends.analytics_engine.backend import AnalyticsEngineBackend
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from usagekit.request import AsgiRequest

EVENTS = {"/api/sync/auth": "sync_auth", "/api/auth/me": "auth", "/api/ingest": "ingest"}
COLUMNS = {"sync": "Sync", "sync_auth": "Sync auth", "auth": "Auth", "chat": "Chat", "ingest": "Ingest"}


@dataclass(frozen=True)
class Member:
    """Who has a session."""

    id: str
    name: str
    org: str
    is_admin: bool = False


MEMBERS = {
    member.id: member
    for member in (
        Member("usr_ada", "Ada Lovelace", "org_engine", is_admin=True),
        Member("usr_charles", "Charles Babbage", "org_engine"),
        Member("usr_mary", "Mary Somerville", "org_stars"),
    )
}
SESSIONS = {f"session-of-{member_id}": member for member_id, member in MEMBERS.items()}
"""By token; a real app has them in its database."""


def dataset() -> str:
    """Name the Analytics Engine dataset: staging must not count into production's."""
    return "team_usage_staging" if "staging" in os.environ.get("APP_URL", "") else "team_usage"


def member_of(connection: HTTPConnection | AsgiRequest) -> Member | None:
    """Say whose session a request or websocket belongs to; None = nobody's."""
    scheme, _, token = (connection.headers.get("authorization") or "").partition(" ")
    return SESSIONS.get(token) if scheme.lower() == "bearer" else None


def identify(request: AsgiRequest) -> Identity | None:
    """Tell usagekit whom a request counts for."""
    member = member_of(request)
    return None if member is None else Identity(member.id, member.org)


def is_admin(request: AsgiRequest) -> bool | None:
    """Decide who may see the usage page; None = nobody is signed in."""
    member = member_of(request)
    return None if member is None else member.is_admin


def signed_in(connection: HTTPConnection) -> Member:
    """Refuse whoever has no session."""
    member = member_of(connection)
    if member is None and connection.scope["type"] == "websocket":
        raise WebSocketException(status.WS_1008_POLICY_VIOLATION, "sign in first")
    if member is None:
        raise HTTPException(401, "sign in first", {"WWW-Authenticate": "Bearer"})
    return member


NEEDS_SESSION = [Depends(signed_in)]
SignedIn = Annotated[Member, Depends(signed_in)]
router = APIRouter(prefix="/api")


class Note(BaseModel):
    """What `POST /api/ingest` takes."""

    text: str


@router.get("/auth/me")
def read_me(member: SignedIn) -> dict[str, str]:
    """Say who is signed in; counted as `auth`."""
    return {"id": member.id, "name": member.name, "org": member.org}


@router.get("/sync/auth", dependencies=NEEDS_SESSION)
def check_sync() -> dict[str, bool]:
    """Answer the pre-flight of a sync connection; counted as `sync_auth`."""
    return {"ok": True}


@router.post("/ingest", status_code=202, dependencies=NEEDS_SESSION)
def ingest(note: Note) -> dict[str, int]:
    """Take a note from outside; counted as `ingest`."""
    return {"characters": len(note.text)}


@router.websocket("/sync", dependencies=NEEDS_SESSION)
async def sync(websocket: WebSocket) -> None:
    """Echo changes; counted as `sync` when it is opened, without a status, since a connection has none."""
    await websocket.accept()
    track("sync")
    async for change in websocket.iter_text():
        await websocket.send_text(change)


@router.websocket("/chat")
async def chat(websocket: WebSocket, member: SignedIn) -> None:
    """Greet; counted as `chat`."""
    await websocket.accept()
    track("chat")
    await websocket.send_text(f"Hello, {member.name}.")
    await websocket.close()


def make_recorder() -> Recorder:
    """Make what counts, as the environment says; with neither variable set nothing is counted, and the app runs."""
    backends: list[Any] = []
    if path := os.environ.get("TEAM_USAGE_DB"):
        backends.append(SQLiteBackend(path))
    if "USAGEKIT_INGEST_URL" in os.environ:
        backends.append(AnalyticsEngineBackend(dataset=dataset))
    return Recorder(*backends)


def create_app(recorder: Recorder) -> FastAPI:
    """Make the app around a recorder of its own."""
    app = FastAPI(title="Team app")
    app.include_router(router)
    app.add_middleware(
        UsageMiddleware,
        recorder=recorder,
        identify=identify,
        event=lambda request: EVENTS.get(request.path),
        exclude=lambda path: path not in EVENTS,  # the websockets count themselves
    )

    @app.get("/api/admin/usage")
    def read_usage(
        member: SignedIn,
        period: Literal["24h", "7d", "30d"] = "7d",
    ) -> dict[str, Any]:
        """Give admins each user's events, most first."""
        if not member.is_admin:
            raise HTTPException(403, "only admins see this")
        return counted(recorder, period)

    app.mount(
        "/admin/usage",
        usage_app(
            recorder,
            auth=is_admin,
            names=lambda ids: {user: MEMBERS[user].name for user in ids if user in MEMBERS},
        ),
    )
    return app


def counted(recorder: Recorder, period: str) -> dict[str, Any]:
    """Give the summary and the table User | Total | Sync | Sync auth | Auth | Chat | Ingest."""
    where = {"event": list(COLUMNS)}
    by_user = usage(recorder, by=["user", "event"], measures="events", period=period, where=where)
    counts: dict[str, dict[str, int]] = {}
    for row in by_user.rows:
        counts.setdefault(row["user"], dict.fromkeys(COLUMNS, 0))[row["event"]] = row["events"]
    rows = [
        {"user": user, "name": MEMBERS[user].name if user in MEMBERS else user, "total": sum(events.values()), **events}
        for user, events in counts.items()
    ]
    totals = usage(recorder, measures=["events", "users"], period=period, where=where).totals
    return {
        "period": period,
        "total_events": totals["events"],
        "active_users": totals["users"],
        "users": sorted(rows, key=lambda row: -row["total"]),
    }
