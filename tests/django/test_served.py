"""A Django project under real servers, sync and async."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import pytest

from tests.support.matrix import matrix
from tests.support.servers import serving
from tests.support.stores import eventually, stored_events
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("server", "app", "stream"),
    [
        pytest.param("gunicorn gthread", "wsgi", "/stream/x/", marks=matrix("Django", "under gunicorn"), id="gunicorn"),
        pytest.param("uvicorn h11", "asgi", "/stream-async/x/", marks=matrix("Django", "under uvicorn"), id="uvicorn"),
    ],
)
def test_a_served_project_is_counted(server: str, app: str, stream: str, site_db: Path, tmp_path: Path) -> None:
    """Users, templates, streams to the last byte and files, through a real client and after the server's end."""
    ledger = tmp_path / "usage.db"
    environment = {"USAGEKIT_BACKEND": f"sqlite:///{ledger}", "SITE_DB": str(site_db)}
    with serving(server, f"tests.django.project.server:{app}", tmp_path, **environment) as running:
        answers = [running.get(path) for path in ("/", "/enter/ann/", "/async/x/", "/secret", stream)]
        status, content = running.get("/file/")
        with Recorder(SQLiteBackend(ledger)) as fresh:
            assert eventually(lambda: fresh.flush() and len(stored_events(ledger)) == 7)
        running.end(signal.SIGTERM)

    assert [status for status, _ in answers] == [200, 200, 200, 404, 200]
    assert answers[-1] == (200, b"onetwo")
    assert (status, content[:3]) == (200, b'"""')
    events = {event.route: event for event in stored_events(ledger) if event.event == "request"}
    route = f"GET {stream.replace('x', '<name>')}"
    assert list(events) == [
        "GET /",
        "GET /enter/<name>/",
        "GET /async/<slug:name>/",
        "GET (unmatched)",
        route,
        "GET /file/",
    ]
    assert [event.user for event in events.values()] == ["", "ann", "", "", "streamed", ""]
    assert [event.response_bytes for event in events.values()][-2:] == [6, len(content)]
    latency_ms = events[route].latency_ms
    assert latency_ms is not None
    assert latency_ms >= 30
    assert {event.aborted for event in events.values()} == {False}
