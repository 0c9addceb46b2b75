"""What is counted and what is not, for how many a sampled request stands, and as which event type it is counted."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any

import fastapi
import litestar
import pytest
import quart
from litestar.static_files import create_static_files_router
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.testclient import TestClient

from tests.support.asgi import Connection, ask
from tests.support.matrix import matrix
from usagekit import bind, track, usage
from usagekit.asgi import UsageMiddleware
from usagekit.errors import ConfigurationError
from usagekit.selection import DEFAULT_EXCLUDED, Routes, compiled, sampler

if TYPE_CHECKING:
    from pathlib import Path

    from starlette.types import Receive, Scope, Send

    from tests.support.asgi import App
    from tests.support.capture import Capture


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the path, and tell it as template."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    scope["path_template"] = scope["path"]
    await PlainTextResponse(scope["path"])(scope, receive, send)


def counted(app: App, *paths: str) -> None:
    """Ask for the paths, and see that the client gets its answers whether they are counted or not."""
    for path in paths:
        assert ask(app, path).body == path.encode()


# Exclusion


@matrix("any ASGI app", "health checks are left out")
def test_health_checks_are_left_out(capture: Capture) -> None:
    """By default, and nothing that only looks like them."""
    app = UsageMiddleware(echo, recorder=capture.recorder)

    counted(app, *DEFAULT_EXCLUDED, "/health/", "/api/health", "/a")

    assert capture.routes() == ["GET /health/", "GET /api/health", "GET /a"]


def test_exclude_replaces_the_default(capture: Capture) -> None:
    """Exact paths, patterns and regular expressions, each for the whole path."""
    app = UsageMiddleware(
        echo, recorder=capture.recorder, exclude=["/exact", "/internal/*", re.compile(r"/v\d/ping", re.IGNORECASE)]
    )

    counted(app, "/exact", "/exactly", "/internal/a/b", "/internal", "/v1/ping", "/V2/PING", "/v1/pings", "/health")

    assert capture.routes() == ["GET /exactly", "GET /internal", "GET /v1/pings", "GET /health"]


def test_exclude_may_be_a_callable(capture: Capture) -> None:
    """It gets the path and says True to leave it out."""
    app = UsageMiddleware(echo, recorder=capture.recorder, exclude=lambda path: path.endswith(".txt"))

    counted(app, "/robots.txt", "/a")

    assert capture.routes() == ["GET /a"]


def test_nothing_is_left_out_where_nothing_is_to_be(capture: Capture) -> None:
    """An empty list excludes nothing."""
    counted(UsageMiddleware(echo, recorder=capture.recorder, exclude=[]), "/health")

    assert capture.routes() == ["GET /health"]


@pytest.mark.usefixtures("isolated")
def test_an_exclude_that_raises_leaves_nothing_out(capture: Capture) -> None:
    """The failure is counted, and so is the request."""

    def exclude(path: str) -> bool:
        raise LookupError(path)

    counted(UsageMiddleware(echo, recorder=capture.recorder, exclude=exclude), "/a", "/b")

    assert (capture.routes(), capture.errors()) == (["GET /a", "GET /b"], {"exclude": 2})


def test_paths_are_those_below_the_server_s_prefix(capture: Capture) -> None:
    """The same list holds behind any proxy, and in a mounted app."""
    app = UsageMiddleware(echo, recorder=capture.recorder, exclude=["/health", "/x/*"])
    mounted = Starlette(routes=[Mount("/sub", app=app)])

    for path in ("/api/health", "/api/x/1", "/api/a"):
        ask(app, path, root_path="/api")
    for path in ("/sub/health", "/sub/a"):
        ask(mounted, path)

    assert capture.routes() == ["GET /api/a", "GET /sub/a"]


def test_what_happens_in_an_excluded_request_counts_all_the_same(capture: Capture) -> None:
    """Named events and model calls have the identity; `bind` is no mistake."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bind(org="acme")
        track("export")
        await echo(scope, receive, send)

    counted(UsageMiddleware(app, recorder=capture.recorder, identify=lambda _: "ann"), "/health")

    event = capture.event()
    assert (event.kind, event.event, event.user, event.org) == ("named", "export", "ann", "acme")


def test_an_excluded_websocket_is_not_counted(capture: Capture) -> None:
    """Neither when it is accepted nor when it ends."""
    app = UsageMiddleware(echo, recorder=capture.recorder, exclude=["/ws"], websocket_close=True)

    ask(app, "/ws", kind="websocket")

    assert capture.events() == []


@pytest.mark.parametrize("exclude", ["/health", [7], [re.compile(b"/bytes")]])
def test_an_exclude_that_cannot_work_is_refused(exclude: Any) -> None:
    """At start, with what to write instead."""
    with pytest.raises(ConfigurationError, match="exclude"):
        UsageMiddleware(echo, exclude=exclude)


def test_exact_paths_need_no_test() -> None:
    """Only patterns do: exact paths are a set."""
    exact, test = compiled(["/a", "/b"])

    assert (exact, test) == (frozenset({"/a", "/b"}), None)


# Static files


class OwnStaticFiles(StaticFiles):
    """Somebody's own kind."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with one static file."""
    found = tmp_path / "static"
    found.mkdir()
    (found / "a.css").write_text("css")
    return found


@matrix("Starlette", "static files are left out")
@matrix("FastAPI", "static files are left out")
def test_mounted_static_files_are_left_out(folder: Path, capture: Capture) -> None:
    """In mounted apps and of one's own kind too, whatever the answer; a file sent by an endpoint is counted."""
    inner = Starlette(routes=[Mount("/deep", OwnStaticFiles(directory=folder))])
    app = UsageMiddleware(
        Starlette(
            routes=[
                Mount("/static", StaticFiles(directory=folder)),
                Mount("/inner", inner),
                Route("/a", lambda _: PlainTextResponse("a")),
            ]
        ),
        recorder=capture.recorder,
    )

    answers = [ask(app, path) for path in ("/static/a.css", "/inner/deep/a.css", "/static/missing", "/a")]

    assert [answer.status for answer in answers] == [200, 200, 404, 200]
    assert answers[0].body == b"css"
    assert capture.routes() == ["GET /a"]


def test_fastapi_frontends_are_left_out(folder: Path, capture: Capture) -> None:
    """FastAPI serves built frontends beside the API, with no mount."""
    app = fastapi.FastAPI()
    app.frontend("/", directory=str(folder))
    app.get("/api")(lambda: "ok")
    counted_app = UsageMiddleware(app, recorder=capture.recorder)

    answers = [ask(counted_app, path) for path in ("/a.css", "/api")]

    assert [answer.status for answer in answers] == [200, 200]
    assert capture.routes() == ["GET /api"]


@matrix("Litestar", "static files are left out")
def test_litestar_static_files_are_left_out(folder: Path, capture: Capture) -> None:
    """Litestar serves them with ordinary handlers of its own."""

    @litestar.get("/api", media_type="text/plain")
    async def api() -> str:
        return "ok"

    app = litestar.Litestar([api, create_static_files_router("/static", [folder])])
    counted_app = UsageMiddleware(app, recorder=capture.recorder)

    answers = [ask(counted_app, path) for path in ("/static/a.css", "/api")]

    assert [answer.status for answer in answers] == [200, 200]
    assert capture.routes() == ["GET /api"]


@matrix("Quart", "static files are left out")
def test_quart_static_files_are_left_out(folder: Path, capture: Capture) -> None:
    """Those of the app and of its blueprints; an endpoint that is merely called static is counted."""
    app = quart.Quart("site", static_folder=str(folder), static_url_path="/static")
    part = quart.Blueprint("part", "part", static_folder=str(folder), static_url_path="/files", url_prefix="/part")
    app.register_blueprint(part)
    app.add_url_rule("/static-page", "page.static", lambda: "page")
    app.asgi_app = UsageMiddleware(app.asgi_app, recorder=capture.recorder)  # type: ignore[method-assign]

    answers = [ask(app, path) for path in ("/static/a.css", "/part/files/a.css", "/static-page")]

    assert [answer.body for answer in answers] == [b"css", b"css", b"page"]
    assert capture.routes() == ["GET /static-page"]


# Sampling


@matrix("any ASGI app", "sampling with weights", "sample=N")
def test_one_in_n_is_counted_with_weight_n(capture: Capture) -> None:
    """Totals stay right on average; every client is answered."""
    app = UsageMiddleware(echo, recorder=capture.recorder, sample=3)

    async def main() -> int:
        return len([await Connection("/a").run(app) for _ in range(3000)])

    asked = asyncio.run(main())

    events = capture.events()
    assert asked == 3000
    assert {event.weight for event in events} == {3}
    assert 700 < len(events) < 1300  # 1000 ± 26 is one standard deviation
    assert usage(capture.recorder, measures=["events"]).totals["events"] == 3 * len(events)


def test_the_number_may_depend_on_the_path(capture: Capture) -> None:
    """A callable gets the path below the server's prefix."""
    app = UsageMiddleware(
        echo, recorder=capture.recorder, sample=lambda path: {"/never": 1_000_000_000, "/always": 1}[path]
    )

    for path in ("/always", "/never"):
        ask(app, path)
        ask(app, "/api" + path, root_path="/api")

    assert [(event.route, event.weight) for event in capture.events()] == [("GET /always", 1), ("GET /api/always", 1)]


def test_what_happens_in_a_request_that_is_not_sampled_counts(capture: Capture) -> None:
    """Sampling is for requests: no model call and no named event is lost, and each knows its user."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bind(user="ann")
        track("export")
        await echo(scope, receive, send)

    twice = UsageMiddleware(UsageMiddleware(app, recorder=capture.recorder), recorder=capture.recorder, sample=10**9)

    counted(twice, "/a")

    event = capture.event()
    assert (event.event, event.user, event.weight) == ("export", "ann", 1)


def test_websockets_are_sampled_too(capture: Capture) -> None:
    """Their two events have the weight, or there are none."""
    app = UsageMiddleware(echo, recorder=capture.recorder, sample=2, websocket_close=True)

    for _ in range(100):
        ask(app, "/ws", kind="websocket")

    events = capture.events()
    assert {event.weight for event in events} == {2}
    assert [event.event for event in events] == ["request", "websocket_close"] * (len(events) // 2)


@pytest.mark.parametrize("sample", [0, -1, 1.5, True, "10", 2_000_000_000])
def test_a_sample_that_cannot_be_drawn_is_refused(sample: Any) -> None:
    """At start, with what to write instead."""
    with pytest.raises(ConfigurationError, match="sample=10 counts one request in ten"):
        UsageMiddleware(echo, sample=sample)


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("answer", [0, 0.5, None, KeyError])
def test_a_sample_callable_that_fails_samples_nothing(answer: Any, capture: Capture) -> None:
    """The failure is counted; the request is too, for itself."""

    def sample(path: str) -> int:
        if answer is KeyError:
            raise KeyError(path)
        return answer  # type: ignore[no-any-return]

    counted(UsageMiddleware(echo, recorder=capture.recorder, sample=sample), "/a")

    assert ([event.weight for event in capture.events()], capture.errors()) == ([1], {"sample": 1})


def test_nothing_is_drawn_where_everything_is_counted() -> None:
    """One in one needs no lots."""
    assert sampler(1) is None


# Event types


@matrix("any ASGI app", "event types by path", "event=")
def test_a_callable_maps_requests_to_event_types(capture: Capture) -> None:
    """`/api/sync` counts as `sync`; None and an empty string mean the default."""
    types = {"/api/sync": "sync", "/api/auth": "auth", "/empty": ""}
    app = UsageMiddleware(echo, recorder=capture.recorder, event=lambda request: types.get(request.path))

    counted(app, "/api/sync", "/api/auth", "/empty", "/other")

    assert [event.event for event in capture.events()] == ["sync", "auth", "request", "request"]


def test_a_string_names_them_all(capture: Capture) -> None:
    """Websockets too, but not their end."""
    app = UsageMiddleware(echo, recorder=capture.recorder, event="site", websocket_close=True)

    counted(app, "/a")
    with TestClient(app).websocket_connect("/ws"):
        pass

    assert [event.event for event in capture.events()] == ["site", "site", "websocket_close"]


def test_bind_names_this_one(capture: Capture) -> None:
    """It wins over the middleware's callable, which is not asked then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bind(event="sync")
        await echo(scope, receive, send)

    counted(UsageMiddleware(app, recorder=capture.recorder, event=lambda _: 1 / 0), "/a")  # type: ignore[arg-type, return-value]

    assert capture.event().event == "sync"


async def _late(request: Any) -> str:
    return "late"


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize("event", [lambda _: 1 / 0, _late])
def test_an_event_callable_that_fails_leaves_the_default(event: Any, capture: Capture) -> None:
    """One that raises, or has to be awaited: the failure is counted, and so is the request."""
    counted(UsageMiddleware(echo, recorder=capture.recorder, event=event), "/a")

    assert (capture.event().event, capture.errors()) == ("request", {"event": 1})


# Names of routes


def test_routes_are_named_once() -> None:
    """The same string each time, so that what comes after can recognise it quickly."""
    routes = Routes(10)

    assert routes["GET"]["/a/{b}"] is routes["GET"]["/a/{b}"]
    assert routes["BREW"]["/a/{b}"] == "OTHER /a/{b}"
    assert routes["POST"][""] == "POST (unmatched)"


def test_routes_end_at_their_limit() -> None:
    """Methods share it; unmatched ones are not in it; what is too long for a route is one of the others."""
    routes = Routes(2)

    names = [routes["GET"]["/a"], routes["POST"]["/a"], routes["GET"]["/b"], routes["GET"]["/a"], routes["GET"][""]]

    assert names == ["GET /a", "POST /a", "GET (other)", "GET /a", "GET (unmatched)"]
    assert Routes(2)["GET"]["/" * 513] == "GET (other)"
    assert len(routes["GET"]) == 2
