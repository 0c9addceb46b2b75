"""Falcon and Bottle: templates and streams; and WSGI apps inside ASGI apps."""

from __future__ import annotations

import asyncio
import warnings
from typing import TYPE_CHECKING, Any

import bottle
import falcon
import httpx2
import pytest
from asgiref.wsgi import WsgiToAsgi
from fastapi import FastAPI

from tests.support.capture import capturing
from tests.support.matrix import matrix
from tests.support.wsgi import ask
from usagekit import bind, track
from usagekit.asgi import UsageMiddleware as AsgiUsage
from usagekit.wsgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from tests.support.capture import Capture


class TellRoute:
    """The few lines that Falcon needs."""

    def process_resource(self, req: falcon.Request, _resp: falcon.Response, _resource: object, _params: object) -> None:
        """Leave the template where usagekit finds it."""
        req.env["usagekit.route"] = req.uri_template


class Item:
    def on_get(self, req: falcon.Request, resp: falcon.Response, item_id: int) -> None:
        bind(user="ann")
        resp.text = f"item {item_id}"

    def on_delete(self, req: falcon.Request, resp: falcon.Response, item_id: int) -> None:
        raise falcon.HTTPForbidden

    def on_put(self, req: falcon.Request, resp: falcon.Response, item_id: int) -> None:
        resp.stream = iter([b"a", b"b"])


@matrix("Falcon", "route template", "five lines: docs/deploying.md")
def test_falcon_tells_its_templates(capture: Capture) -> None:
    """With a middleware of its own; what matches no route is unmatched, what has no such method is not."""
    falcon_app = falcon.App(middleware=[TellRoute()])
    falcon_app.add_route("/items/{item_id:int}", Item())
    app = UsageMiddleware(falcon_app, recorder=capture.recorder)

    requests = [("GET", "1"), ("HEAD", "1"), ("PUT", "1"), ("DELETE", "1"), ("PATCH", "1"), ("GET", "x")]
    answers = [ask(app, f"/items/{item}", method) for method, item in requests]

    assert [answer.body[:7] for answer in answers[:3]] == [b"item 1", b"", b"ab"]
    assert [(event.status, event.route, event.user) for event in capture.events()] == [
        (200, "GET /items/{item_id:int}", "ann"),
        (405, "HEAD /items/{item_id:int}", ""),
        (200, "PUT /items/{item_id:int}", ""),
        (403, "DELETE /items/{item_id:int}", ""),
        (405, "PATCH /items/{item_id:int}", ""),
        (404, "GET (unmatched)", ""),
    ]


def bottle_app() -> bottle.Bottle:
    """Make an app with routes of every kind, a merged app and a mounted one."""
    app, merged, mounted = bottle.Bottle(), bottle.Bottle(), bottle.Bottle()

    @app.get("/items/<item_id:int>")  # type: ignore[untyped-decorator]
    def item(item_id: int) -> str:
        bind(user="ann")
        return f"item {item_id}"

    @app.get("/stream/<name>")  # type: ignore[untyped-decorator]
    def stream(name: str) -> Iterator[str]:
        yield name
        track("half")
        yield name

    @app.get("/broken/<name>")  # type: ignore[untyped-decorator]
    def broken(name: str) -> str:
        raise LookupError(name)

    merged.get("/a/<name>", callback=lambda name: name)
    mounted.get("/b/<name>", callback=lambda name: name)

    def plain(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [b"plain"]

    app.mount("/merged/", merged)
    app.mount("/mounted/", mounted, skip=None)
    app.mount("/plain/", plain)
    return app


@matrix("Bottle", "route template")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_bottle_leaves_its_templates(capture: Capture) -> None:
    """Nothing needs to be told; whether it raises, streams or mounts."""
    bare = bottle_app()
    app = UsageMiddleware(bottle_app(), recorder=capture.recorder)
    requests = ["GET /items/1", "HEAD /items/1", "POST /items/1", "GET /items/x", "GET /stream/x", "GET /broken/x"]
    requests += ["GET /merged/a/x", "GET /mounted/b/x", "GET /plain/x/y"]

    answers = [ask(app, *reversed(request.split()))[:3] for request in requests]

    assert answers == [ask(bare, *reversed(request.split()))[:3] for request in requests]
    assert [(event.status, event.route, event.user) for event in capture.events() if event.kind == "request"] == [
        (200, "GET /items/<item_id:int>", "ann"),
        (200, "HEAD /items/<item_id:int>", "ann"),
        (405, "POST (unmatched)", ""),
        (404, "GET (unmatched)", ""),
        (200, "GET /stream/<name>", ""),
        (500, "GET /broken/<name>", ""),
        (200, "GET /merged/a/<name>", ""),
        (200, "GET /b/<name>", ""),
        (200, "GET /plain/<:re:.*>", ""),
    ]


def starlette_adapter(app: Any) -> Any:
    """Adapt a WSGI app with Starlette's own middleware, which is deprecated, and still used."""
    with warnings.catch_warnings(action="ignore"):
        from starlette.middleware.wsgi import WSGIMiddleware
    return WSGIMiddleware(app)


def asgiref_adapter(app: Any) -> Any:
    """Adapt a WSGI app as Django's makers do."""
    return WsgiToAsgi(app)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("adapter", [starlette_adapter, asgiref_adapter])
@matrix("any WSGI app", "inside an ASGI app: counted once")
def test_a_wsgi_app_inside_an_asgi_app_is_counted_once(capture: Capture, adapter: Callable[[Any], Any]) -> None:
    """By the outer middleware, with the inner template; what the inner app binds and tracks is the request's."""

    def old(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.route"] = "/items/{id}"
        bind(user="ann")
        track("tracked")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"old"]

    app = FastAPI()
    app.mount("/old", adapter(UsageMiddleware(old, recorder=capture.recorder)))
    app.add_middleware(AsgiUsage, recorder=capture.recorder)

    async def get() -> bytes:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.get("/old/items/1")).content

    assert asyncio.run(get()) == b"old"
    tracked, request = capture.events()
    assert (tracked.event, tracked.user) == ("tracked", "ann")
    assert (request.status, request.route, request.user, request.response_bytes) == (
        200,
        "GET /old/items/{id}",
        "ann",
        3,
    )


def test_a_wsgi_app_inside_an_asgi_server_is_counted(capture: Capture) -> None:
    """Where no ASGI middleware is, the WSGI one counts."""

    def old(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["usagekit.route"] = "/items/{id}"
        start_response("200 OK", [("Content-Type", "text/plain")])
        return iter([b"o", b"ld"])

    app = asgiref_adapter(UsageMiddleware(old, recorder=capture.recorder))

    async def get() -> bytes:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
            return (await client.get("/items/1")).content

    assert asyncio.run(get()) == b"old"
    event = capture.event()
    assert (event.status, event.route, event.response_bytes, event.aborted) == (200, "GET /items/{id}", 3, False)


def test_a_wsgi_app_with_its_own_recorder_counts_inside_an_asgi_app(capture: Capture, tmp_path: Path) -> None:
    """Each recorder has one event, and both know what the inner app binds."""

    def old(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        bind(user="ann")
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"old"]

    with capturing(tmp_path / "inner.db") as inner:
        app = FastAPI()
        app.mount("/old", asgiref_adapter(UsageMiddleware(old, recorder=inner.recorder)))
        app.add_middleware(AsgiUsage, recorder=capture.recorder)

        async def get() -> bytes:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://localhost") as client:
                return (await client.get("/old/items/1")).content

        assert asyncio.run(get()) == b"old"
        assert (inner.users(), capture.users()) == (["ann"], ["ann"])
