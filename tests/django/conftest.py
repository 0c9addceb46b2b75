"""A Django project with a database, and a recorder for each test."""

from __future__ import annotations

import asyncio
import gc
import os
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import django
import httpx2
import pytest
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.db import connections
from django.test.utils import override_settings

from tests.support.capture import Capture, capturing
from tests.support.wsgi import ask
from usagekit import _guard, set_default_recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.django.project.settings"
django.setup()


class Answer(NamedTuple):
    """What the client received."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="session", autouse=True)
def site_db(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make the project's database, with its tables."""
    path = tmp_path_factory.mktemp("django") / "site.db"
    settings.DATABASES["default"]["NAME"] = path
    call_command("migrate", verbosity=0)
    yield path
    connections.close_all()


@pytest.fixture(autouse=True)
def _reraise(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show a mistake of ours at once, and leave no default recorder behind."""
    monkeypatch.setattr(_guard, "reraise", True)
    yield
    set_default_recorder(None)


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the guard catch, as it does in a project: failures are the subject."""
    monkeypatch.setattr(_guard, "reraise", False)


@pytest.fixture
def capture(tmp_path: Path) -> Iterator[Capture]:
    """Give a recorder that the project uses; more options may be put into `settings.USAGEKIT`."""
    with capturing(tmp_path / "usage.db") as found, override_settings(USAGEKIT={"RECORDER": found.recorder}):
        yield found


def ask_wsgi(path: str, method: str = "GET", *, cookie: str = "") -> Answer:
    """Send one request to Django under WSGI."""
    answer = ask(get_wsgi_application(), path, method, HTTP_COOKIE=cookie)
    return Answer(int(answer.status[:3]), {k.lower(): v for k, v in answer.headers.items()}, answer.body)


def ask_asgi(path: str, method: str = "GET", *, cookie: str = "") -> Answer:
    """Send one request to Django under ASGI."""

    async def send() -> Answer:
        transport = httpx2.ASGITransport(app=get_asgi_application(), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            response = await client.request(method, path, headers={"cookie": cookie} if cookie else {})
            return Answer(response.status_code, dict(response.headers), response.content)

    answer = asyncio.run(send())
    if "/broken/" in path:
        # Django leaves the request's temporary file open when its response raises.
        with warnings.catch_warnings(action="ignore", category=ResourceWarning):
            gc.collect()
    return answer


@pytest.fixture(params=["WSGI", "ASGI"])
def get(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Send a request, once under WSGI and once under ASGI."""
    return ask_wsgi if request.param == "WSGI" else ask_asgi
