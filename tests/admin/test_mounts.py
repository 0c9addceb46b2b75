"""Wherever it is mounted, every link of the page leads somewhere, and no middleware counts its requests."""

from __future__ import annotations

import re
from html import unescape
from typing import TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import flask
import pytest
from fastapi import FastAPI
from litestar import Litestar, asgi
from starlette.applications import Starlette
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.admin.conftest import events
from tests.admin.shells import MOUNT, SHELLS, TOKEN, get, of_asgi, raw
from tests.support.asgi import uvicorn_serving
from tests.support.capture import capturing
from tests.support.servers import Server
from usagekit import Identity
from usagekit.admin import BearerAuth, usage_app, usage_wsgi_app
from usagekit.asgi import UsageMiddleware
from usagekit.flask import init_app, usage_blueprint
from usagekit.wsgi import UsageMiddleware as WsgiUsageMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from usagekit import Recorder

AUTH = BearerAuth(TOKEN)
HEADERS = {"authorization": f"Bearer {TOKEN}"}


def in_fastapi(recorder: Recorder) -> tuple[Any, str]:
    """Mount it in an app that is mounted in an app."""
    outer, inner = FastAPI(), FastAPI()
    inner.mount("/usage", usage_app(recorder, auth=AUTH))
    outer.mount("/team/{team}/admin", inner)
    return outer, "/team/7/admin/usage/"


def at_the_root(recorder: Recorder) -> tuple[Any, str]:
    """Serve it alone."""
    return usage_app(recorder, auth=AUTH), "/"


def behind_a_proxy(recorder: Recorder) -> tuple[Any, str]:
    """Take a prefix off, as proxies do, and tell the app of it as `root_path`, as servers do."""
    app = FastAPI()
    app.mount("/usage", usage_app(recorder, auth=AUTH))

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        path = scope["path"].removeprefix("/proxied")
        await app(scope | {"path": path, "root_path": "/proxied"}, receive, send)

    return proxy, "/proxied/usage/"


def behind_a_silent_proxy(recorder: Recorder) -> tuple[Any, str]:
    """Take a prefix off, and tell nobody."""
    app = of_asgi(recorder, auth=AUTH)

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        await app(scope | {"path": scope["path"].removeprefix("/secret/door")}, receive, send)

    return proxy, f"/secret/door{MOUNT}/"


def in_litestar(recorder: Recorder) -> tuple[Any, str]:
    """Mount it as Litestar does."""
    return Litestar([asgi("/usage", is_mount=True, copy_scope=False)(usage_app(recorder, auth=AUTH))]), "/usage/"


def in_flask(recorder: Recorder) -> tuple[Any, str]:
    """Register it in an app that is mounted beside another."""
    site = flask.Flask("site")
    site.register_blueprint(usage_blueprint(recorder, auth=AUTH), url_prefix="/admin/usage")
    return DispatcherMiddleware(flask.Flask("outer"), {"/inner": site}), "/inner/admin/usage/"


def in_wsgi(recorder: Recorder) -> tuple[Any, str]:
    """Mount it twice as deep."""
    inner = DispatcherMiddleware(flask.Flask("inner"), {"/usage": usage_wsgi_app(recorder, auth=AUTH)})
    return DispatcherMiddleware(flask.Flask("outer"), {"/a b": inner}), "/a b/usage/"


def links(page: str) -> set[str]:
    """Give what a page leads to: links, and forms with what they would send."""
    return {unescape(link) for link in re.findall(r'<a [^>]*href="([^"]*)"', page)}


@pytest.mark.parametrize(
    "mounted",
    [in_fastapi, at_the_root, behind_a_proxy, behind_a_silent_proxy, in_litestar, in_flask, in_wsgi],
    ids=lambda mounted: mounted.__name__,
)
def test_every_link_leads_somewhere(mounted: Callable[..., tuple[Any, str]], recorded: Recorder) -> None:
    """Also without the last slash, which leads to the page by a redirect that any proxy may prefix."""
    app, address = mounted(recorded)

    page = raw(app, f"{address}?period=24h", headers=HEADERS)

    assert page.status == 200
    found = links(page.text)
    assert len(found) > 40
    assert not [link for link in found if link.startswith(("/", "http"))]
    for link in sorted(found):
        target = urlsplit(urljoin(f"http://host{address}", link))
        answer = raw(app, f"{target.path}?{target.query}", headers=HEADERS)
        assert answer.status == 200, link
    document = raw(app, f"{address}openapi.json", headers=HEADERS)
    assert document.status == 200


@pytest.mark.parametrize("build", [SHELLS["wsgi"], SHELLS["flask"]])
def test_the_last_slash_is_added(build: Any, recorded: Recorder) -> None:
    """Relatively, with the query, and only for who may look."""
    app = build(recorded, auth=AUTH)
    answer = raw(app, f"{MOUNT}?period=24h", headers=HEADERS)

    assert (answer.status, answer.headers["location"]) == (307, "./usage/?period=24h")
    assert raw(app, MOUNT).status == 401


def test_the_last_slash_is_added_under_litestar(recorded: Recorder) -> None:
    """Which hides that it is missing."""
    app, address = in_litestar(recorded)
    answer = raw(app, address[:-1], headers=HEADERS)

    assert (answer.status, answer.headers["location"]) == (307, "./usage/")


def test_pages_and_api_are_not_counted_under_asgi(tmp_path: Path) -> None:
    """Neither by the middleware of the app, nor around a mounted app, nor behind Starlette's own kind of middleware."""

    async def passing(request: Any, call_next: Any) -> Any:
        return await call_next(request)

    with capturing(tmp_path / "usage.db") as capture:
        app = Starlette(routes=[Mount(MOUNT, usage_app(capture.recorder, auth=AUTH))])
        app.add_middleware(BaseHTTPMiddleware, dispatch=passing)
        app.add_middleware(UsageMiddleware, recorder=capture.recorder)
        outer = UsageMiddleware(Starlette(routes=[Mount("/outer", app)]), recorder=capture.recorder)

        statuses = [get(app, path).status for path in ("/", "/api/summary", "/nothing")]
        statuses += [get(app, token=None).status, raw(outer, f"/outer{MOUNT}/", headers=HEADERS).status]
        raw(app, "/elsewhere")

        assert statuses == [200, 200, 404, 401, 200]
        assert [event.status for event in capture.events()] == [404]
        assert capture.routes() == ["GET (unmatched)"]


def test_pages_and_api_are_not_counted_under_wsgi(tmp_path: Path) -> None:
    """In Flask and in any WSGI app; `identify` is not asked for them either."""
    asked = []

    def identify(request: Any) -> Identity:
        asked.append(request.path)
        return Identity("ann")

    with capturing(tmp_path / "usage.db") as capture:
        site = flask.Flask("site")
        site.register_blueprint(usage_blueprint(capture.recorder, auth=AUTH), url_prefix=MOUNT)
        init_app(site, capture.recorder, identify=identify)
        plain = WsgiUsageMiddleware(usage_wsgi_app(capture.recorder, auth=AUTH), recorder=capture.recorder)
        mounted = DispatcherMiddleware(flask.Flask("outer"), {MOUNT: plain})

        statuses = [get(app, path).status for app in (site, mounted) for path in ("/", "/api/summary", "/nothing")]
        raw(site, "/elsewhere")

        assert statuses == [200, 200, 404] * 2
        assert [event.user for event in capture.events()] == ["ann"]
        assert asked == ["/elsewhere"]


def test_blueprint_auth_has_flasks_context(recorded: Recorder) -> None:
    """Session, g and current request, although it runs in a thread that can be given up."""
    site = flask.Flask("site")
    site.secret_key = "for tests"

    @site.before_request
    def load() -> None:
        flask.g.role = flask.request.headers.get("x-role")

    def is_admin(request: Any) -> bool:
        return bool(flask.g.role == "admin" and request.session.get("user") is None and flask.request.method == "GET")

    site.register_blueprint(usage_blueprint(recorded, auth=is_admin), url_prefix=MOUNT)
    site.register_blueprint(usage_blueprint(recorded, auth=is_admin, name="second"), url_prefix="/second")

    assert [raw(site, f"{MOUNT}/", headers={"x-role": role}).status for role in ("admin", "visitor")] == [200, 403]
    assert raw(site, "/second/", headers={"x-role": "admin"}).status == 200


def test_a_real_server_serves_it(tmp_path: Path) -> None:
    """uvicorn, its own prefix, and a loop that goes on while the page is read."""
    with capturing(tmp_path / "usage.db", dimensions=["plan"]) as capture:
        for event in events():
            capture.recorder.record(event)
        app = FastAPI()
        app.mount("/usage", usage_app(capture.recorder, auth=AUTH))
        with uvicorn_serving(app, root_path="/prefix") as port:
            server = Server(None, port, tmp_path)  # type: ignore[arg-type] # only its client is used
            status, body = server.get("/usage/", **HEADERS)
            assert status == 200
            assert b"By user" in body
            assert server.get("/usage/api/summary", **HEADERS)[0] == 200
            assert server.get("/usage/", authorization="Bearer " + "x" * 40)[0] == 401
