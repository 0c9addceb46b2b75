"""The usage page in a Django project, under WSGI and ASGI."""

from __future__ import annotations

import json
import re
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore

from usagekit import ConfigurationError
from usagekit.admin import auth
from usagekit.django import usage_urls

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.capture import Capture
    from usagekit import Recorder


@pytest.fixture(scope="module")
def cookies(site_db: Any) -> dict[str, str]:
    """Give the session cookies of an administrator and of a user."""
    found = {}
    for name, is_staff in (("boss", True), ("visitor", False)):
        user = User.objects.create_user(name, is_staff=is_staff)
        session = SessionStore()
        session.update(
            {
                "_auth_user_id": str(user.pk),
                "_auth_user_backend": "django.contrib.auth.backends.ModelBackend",
                "_auth_user_hash": user.get_session_auth_hash(),
            }
        )
        session.save()
        found[name] = f"sessionid={session.session_key}"
    return found


def test_djangos_users_get_in(get: Callable[..., Any], capture: Capture, cookies: dict[str, str]) -> None:
    """Staff see everything, users 403, strangers 401, on every path; none of it is counted."""
    paths = ("", "api/summary", "api/health", "openapi.json")
    statuses = {
        name: [get(f"/admin/usage/{path}", cookie=cookie).status for path in paths]
        for name, cookie in (cookies | {"nobody": ""}).items()
    }
    missing = [get("/admin/usage/nothing", cookie=cookie).status for cookie in (*cookies.values(), "")]
    refused = get("/admin/usage/api/summary", "POST", cookie=cookies["boss"])

    assert statuses == {"boss": [200] * 4, "visitor": [403] * 4, "nobody": [401] * 4}
    assert missing == [404, 403, 401]
    assert (refused.status, refused.headers["allow"]) == (405, "GET, HEAD")
    assert capture.events() == []


def test_every_link_leads_somewhere(get: Callable[..., Any], capture: Capture, cookies: dict[str, str]) -> None:
    """From the page, with its Content-Security-Policy, and from the URL without its last slash."""
    page = get("/admin/usage/", cookie=cookies["boss"])
    document = json.loads(get("/admin/usage/openapi.json", cookie=cookies["boss"]).body)

    links = {unescape(link) for link in re.findall(r'<a [^>]*href="([^"#]+)', page.body.decode())}
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert len(links) > 5
    for link in links:
        assert get(urljoin("/admin/usage/", link), cookie=cookies["boss"]).status == 200, link
    assert document["servers"][0] == {"url": "/admin/usage"}


def test_async_callables_are_refused(recorder: Recorder) -> None:
    """Views are sync, in async Django too."""

    async def letting_in(_request: Any) -> bool:
        return True

    with pytest.raises(ConfigurationError, match="async"):
        usage_urls(recorder, auth=letting_in)


@pytest.fixture
def recorder(capture: Capture) -> Recorder:
    """Give the recorder alone."""
    return capture.recorder


def test_what_takes_too_long_lets_nobody_in(recorder: Recorder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be given up, since it may use the thread's connections; but it is not believed."""
    monkeypatch.setattr(auth, "CALLABLE_SECONDS", -1)

    with pytest.raises(auth.Unanswered, match="no answer within"):
        auth.ask_here(lambda _request: True, None, None)
