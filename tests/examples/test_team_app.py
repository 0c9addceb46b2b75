from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from examples.running import asgi_served
from examples.team_app.__main__ import headers_of, serving, talk, visit
from examples.team_app.app import create_app, dataset, make_recorder
from usagekit import Recorder, usage
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ADA, CHARLES, MARY = (headers_of(f"session-of-usr_{name}") for name in ("ada", "charles", "mary"))


class Team:
    """The app while it is served, and its recorder."""

    def __init__(self, url: str, recorder: Recorder) -> None:
        self.url = url
        self.recorder = recorder
        self.client = httpx2.Client(base_url=url)

    def get(self, path: str, headers: dict[str, str] | None = None, **parameters: str) -> httpx2.Response:
        """Ask for `path`."""
        return self.client.get(path, headers=headers, params=parameters)


@pytest.fixture
def team(tmp_path: Path) -> Iterator[Team]:
    """Serve the app."""
    with Recorder(SQLiteBackend(tmp_path / "usage.db")) as recorder, asgi_served(create_app(recorder)) as url:
        made = Team(url, recorder)
        with made.client:
            yield made


def test_admins_see_what_everyone_used(team: Team) -> None:
    """Each field of the answer, and the status that each event has."""
    talk(team.url, "session-of-usr_charles")
    team.get("/api/sync/auth", CHARLES)
    team.get("/api/auth/me", MARY)
    team.client.post("/api/ingest", headers=CHARLES, json={"text": "a note"})
    team.client.post("/api/ingest", headers=CHARLES, json={})

    figures = team.get("/api/admin/usage", ADA, period="24h").json()

    none = {"sync": 0, "sync_auth": 0, "auth": 0, "chat": 0, "ingest": 0}
    charles = {"user": "usr_charles", "name": "Charles Babbage", "total": 5}
    mary = {"user": "usr_mary", "name": "Mary Somerville", "total": 1}
    assert figures == {
        "period": "24h",
        "total_events": 6,
        "active_users": 2,
        "users": [charles | none | {"sync": 1, "sync_auth": 1, "chat": 1, "ingest": 2}, mary | none | {"auth": 1}],
    }
    report = usage(team.recorder, by=["event", "status", "org"], measures="events", order="event")
    assert [(row["event"], row["status"], row["org"], row["events"]) for row in report.rows] == [
        ("auth", 200, "org_stars", 1),
        ("chat", 0, "org_engine", 1),
        ("ingest", 202, "org_engine", 1),
        ("ingest", 422, "org_engine", 1),
        ("sync", 0, "org_engine", 1),
        ("sync_auth", 200, "org_engine", 1),
    ]


@pytest.mark.parametrize(("headers", "status"), [(None, 401), (headers_of("stolen"), 401), (MARY, 403), (ADA, 200)])
def test_only_admins_see_it(headers: dict[str, str] | None, status: int, team: Team) -> None:
    """The answer as JSON and the page alike."""
    assert team.get("/api/admin/usage", headers).status_code == status
    assert team.get("/admin/usage/", headers).status_code == status


def test_a_period_that_is_none_says_which_there_are(team: Team) -> None:
    """422, with the three in the message."""
    answer = team.get("/api/admin/usage", ADA, period="1y")

    assert answer.status_code == 422
    assert all(period in answer.text for period in ("24h", "7d", "30d"))


def test_the_page_has_names_and_a_column_for_each_event(team: Team) -> None:
    """What the table of the page says is what the team is called, and what it does."""
    visit(team.url)

    page = team.get("/admin/usage/", ADA).text

    for shown in ("Ada Lovelace", "Charles Babbage", "Mary Somerville", "sync_auth", "chat", "ingest"):
        assert shown in page


def test_strangers_open_no_connection(team: Team) -> None:
    """A websocket without a session is refused, and not counted."""
    with pytest.raises(InvalidStatus, match="403"), connect(team.url.replace("http", "ws", 1) + "/api/sync"):
        pass

    assert usage(team.recorder).totals["events"] == 0


def test_with_nothing_set_it_runs_and_counts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorder does nothing, the admin's answer is empty."""
    for name in ("TEAM_USAGE_DB", "USAGEKIT_INGEST_URL", "USAGEKIT_BACKEND"):
        monkeypatch.delenv(name, raising=False)

    with make_recorder() as recorder, asgi_served(create_app(recorder)) as url:
        figures = figures_after_a_visit(url)

    assert figures == {"period": "7d", "total_events": 0, "active_users": 0, "users": []}


@pytest.mark.parametrize(
    ("url", "name"), [("https://app.example", "team_usage"), ("https://staging.app.example", "team_usage_staging")]
)
def test_staging_counts_into_a_dataset_of_its_own(url: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address of the app says which."""
    monkeypatch.setenv("APP_URL", url)

    assert dataset() == name


def test_it_runs_as_a_program(tmp_path: Path) -> None:
    """The line of figures is what was sent."""
    with serving(tmp_path) as url:
        line = visit(url)

    assert line == "30 events of 3 users: Ada Lovelace 15, Charles Babbage 10, Mary Somerville 5"


def figures_after_a_visit(url: str) -> Any:
    """Do something, and read the usage."""
    assert httpx2.get(f"{url}/api/auth/me", headers=MARY).status_code == 200
    return httpx2.get(f"{url}/api/admin/usage", headers=ADA).raise_for_status().json()
