"""Django, sync and async: templates, users, streams, files, settings."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import Client
from django.test.utils import override_settings
from django.urls import path

from tests.django.conftest import ask_asgi, ask_wsgi
from tests.django.project import urls
from tests.support.capture import capturing
from tests.support.matrix import matrix
from tests.support.wsgi import Conversation, ask
from usagekit import Identity, bind
from usagekit.asgi import UsageMiddleware as AsgiUsage
from usagekit.errors import ConfigurationError
from usagekit.recorder import default_recorder
from usagekit.wsgi import UsageMiddleware as WsgiUsage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.capture import Capture

ROUTES = [
    ("/", "GET", 200, "GET /"),
    ("/async/x/", "GET", 200, "GET /async/<slug:name>/"),
    ("/api/items/17/", "GET", 200, "GET /api/items/<int:pk>/"),
    ("/api/items/17/", "HEAD", 200, "HEAD /api/items/<int:pk>/"),
    ("/api/items/17/", "OPTIONS", 200, "OPTIONS /api/items/<int:pk>/"),
    ("/api/items/17/", "DELETE", 403, "DELETE /api/items/<int:pk>/"),
    ("/api/items/17/", "PATCH", 405, "PATCH /api/items/<int:pk>/"),
    ("/api/items/17/", "BREW", 405, "OTHER /api/items/<int:pk>/"),
    ("/api/items/17", "GET", 301, "GET (unmatched)"),
    ("/api/v2/items/", "GET", 200, "GET /api/v(?P<version>[0-9]+)/items/"),
    ("/old/v2/items/", "GET", 200, "GET /old/v(?P<version>[0-9]+)/items/"),
    ("/api/plain/abc/", "GET", 200, "GET /api/plain/([a-z^$]+)/"),
    ("/secret", "GET", 404, "GET (unmatched)"),
    ("/missing/x/", "GET", 404, "GET /missing/<name>/"),
    ("/broken/x/", "GET", 500, "GET /broken/<name>/"),
]

OTHER_KIND = pytest.mark.filterwarnings("ignore:StreamingHttpResponse must consume")  # Django's word on files in ASGI


def using(**options: object) -> Any:
    """Put more options into `settings.USAGEKIT`."""
    return override_settings(USAGEKIT=settings.USAGEKIT | options)


@matrix("Django", "route template")
def test_routes_are_templates(capture: Capture, get: Callable[..., Any]) -> None:
    """Of path() and re_path(), included and class-based; the client's view is that of the project without us."""
    with override_settings(MIDDLEWARE=settings.MIDDLEWARE[1:]):
        bare = [get(path, method) for path, method, _, _ in ROUTES]

    answers = [get(path, method) for path, method, _, _ in ROUTES]

    assert answers == bare
    assert [answer.status for answer in answers] == [status for _, _, status, _ in ROUTES]
    events = [(event.status, event.route) for event in capture.events()]
    assert events == [(status, route) for _, _, status, route in ROUTES]


@OTHER_KIND
@matrix("Django", "static files are left out")
def test_static_files_are_left_out(capture: Capture, get: Callable[..., Any]) -> None:
    """What Django's own static views serve, found or not, and health checks."""
    statuses = [get(path).status for path in ("/files/settings.py", "/files/none", "/health")]

    assert statuses == [200, 404, 200]
    assert capture.events() == []


@matrix("Django", "session, g and current_user", "request.user")
def test_identify_sees_the_user(capture: Capture, get: Callable[..., Any]) -> None:
    """After Django's own authentication, from a database that async Django must not ask in its event loop."""
    cookie = get("/enter/ann/").headers["set-cookie"].partition(";")[0]

    with using(IDENTIFY="tests.django.project.usage.identify"):
        answers = [get("/", cookie=cookie), get("/async/x/", cookie=cookie), get("/", cookie="")]

    assert [answer.body for answer in answers] == [b"hello"] * 3
    assert capture.users() == ["", "ann", "ann", ""]
    assert capture.errors() == {}


@OTHER_KIND
@pytest.mark.parametrize("path", ["/used-async/", "/stream-numbers/"])
def test_what_is_tracked_in_an_event_loop_knows_the_user(capture: Capture, get: Callable[..., Any], path: str) -> None:
    """Although the database cannot be asked there: it is asked before."""
    cookie = get("/enter/ann/").headers["set-cookie"].partition(";")[0]

    with using(IDENTIFY="tests.django.project.usage.identify"):
        get(path, cookie=cookie)
        get(path)

    found = sorted((event.event, event.user) for event in capture.events()[1:])
    assert found == [("request", ""), ("request", "ann"), ("used", ""), ("used", "ann")]
    assert capture.errors() == {}


def test_asking_for_the_user_adds_no_header(capture: Capture, get: Callable[..., Any]) -> None:
    """Django adds `Vary: Cookie` to a response whose session was read."""
    with using(IDENTIFY=lambda request: request.user.username):
        answer = get("/")

    assert "vary" not in answer.headers


def test_identify_sees_the_request(capture: Capture, get: Callable[..., Any]) -> None:
    """The view has the names that it has everywhere."""
    seen: list[Any] = []

    def identify(request: Any) -> Identity:
        seen.extend([request.method, request.path, request.headers["Host"], request.cookies, request.query])
        seen.extend([request.state, request.session.get("x"), (request.scope is None) != (request.environ is None)])
        return Identity(request.cookies["a"], org="acme")

    with using(IDENTIFY=identify):
        get("/async/x/?q=1&q=2", "POST", cookie="a=b")

    assert seen == ["POST", "/async/x/", "127.0.0.1", {"a": "b"}, {"q": "2"}, {}, None, True]
    assert [(event.user, event.org) for event in capture.events()] == [("b", "acme")]


def test_without_users_and_sessions_there_is_nobody(capture: Capture, get: Callable[..., Any]) -> None:
    """A project without those middlewares has a user None and an empty session."""
    with (
        override_settings(MIDDLEWARE=settings.MIDDLEWARE[:1]),
        using(IDENTIFY=lambda request: request.user or request.session.get("user")),
    ):
        get("/")

    assert capture.users() == [""]


def test_an_async_identify_is_awaited_under_asgi(capture: Capture) -> None:
    """It may ask whatever it likes in the event loop."""

    async def identify(request: Any) -> str:
        user = await request.request.auser()
        return f"user {user.username}"

    with using(IDENTIFY=identify):
        ask_asgi("/")

    assert capture.users() == ["user "]


def failing(_request: object) -> object:
    """Fail."""
    raise LookupError


def test_a_broken_identify_costs_nothing_but_the_name(
    capture: Capture, get: Callable[..., Any], isolated: None
) -> None:
    """The client gets its answer; the failure is counted."""
    with using(IDENTIFY=failing):
        answer = get("/")

    assert (answer.status, answer.body) == (200, b"hello")
    assert (capture.users(), capture.errors()) == ([""], {"identify": 1})


@matrix("Django", "bind anywhere in the request")
@pytest.mark.parametrize("path", ["/bound/", "/bound-async/"])
def test_bind_reaches_the_requests_event(capture: Capture, get: Callable[..., Any], path: str) -> None:
    """From sync and async views, whichever Django serves them; and what is tracked knows user and route."""
    answer = get(path)

    assert answer.body == b"bound"
    assert [(event.event, event.user, event.route) for event in capture.events()] == [
        ("tracked", "bound", f"GET {path}"),
        ("mine", "bound", f"GET {path}"),
    ]


def test_requests_at_the_same_time_never_mix(capture: Capture) -> None:
    """Eight threads in one view."""
    barrier = Barrier(8, timeout=30)

    def who(request: Any, name: str) -> Any:
        barrier.wait()
        bind(user=name)
        barrier.wait()
        return HttpResponse(name)

    names = [f"user{n}" for n in range(8)]

    class Urls:
        urlpatterns = (path("who/<name>/", who),)

    with override_settings(ROOT_URLCONF=Urls), ThreadPoolExecutor(8) as pool:
        app = get_wsgi_application()
        answers = list(pool.map(lambda name: ask(app, f"/who/{name}/").body.decode(), names * 3))

    assert answers == names * 3
    assert sorted(capture.users()) == sorted(names * 3)


# Streams and files


@matrix("Django", "streams are timed to the last byte")
@pytest.mark.parametrize(
    ("send", "path"), [(ask_wsgi, "/stream/x/"), (ask_asgi, "/stream-async/x/")], ids=["sync", "async"]
)
def test_streams_are_timed_to_the_last_byte(capture: Capture, send: Callable[..., Any], path: str) -> None:
    """And what the stream binds and tracks belongs to the request."""
    answer = send(path)

    assert answer.body == b"onetwo"
    half, whole = capture.events()
    assert (half.event, half.user, half.route) == ("half", "streamed", whole.route)
    assert (whole.user, whole.status, whole.response_bytes, whole.aborted) == ("streamed", 200, 6, False)
    assert whole.latency_ms is not None
    assert whole.first_token_ms is not None
    assert whole.first_token_ms + 30 <= whole.latency_ms


@OTHER_KIND
@pytest.mark.parametrize(
    ("send", "path"), [(ask_asgi, "/stream/x/"), (ask_wsgi, "/stream-async/x/")], ids=["sync in async", "async in sync"]
)
def test_streams_of_the_other_kind_work_too(capture: Capture, send: Callable[..., Any], path: str) -> None:
    """Django reads them whole before it sends them."""
    answer = send(path)

    assert answer.body == b"onetwo"
    assert [(event.user, event.response_bytes, event.aborted) for event in capture.events()] == [
        ("streamed", 0, False),
        ("streamed", 6, False),
    ]


@pytest.mark.parametrize(
    ("send", "path"), [(ask_wsgi, "/stream/broken/"), (ask_asgi, "/stream-async/broken/")], ids=["sync", "async"]
)
def test_a_stream_that_fails_midway_is_cut_off(capture: Capture, send: Callable[..., Any], path: str) -> None:
    """The client has a 200 and half a body."""
    answer = send(path)

    assert (answer.status, answer.body) == (200, b"one")
    event = capture.events()[-1]
    assert (event.status, event.response_bytes, event.aborted) == (200, 3, True)


@matrix("Django", "client gone: aborted")
def test_a_client_that_goes_away_is_noted(capture: Capture) -> None:
    """In the middle of the stream, and before its first byte."""
    for take in (1, 0):
        conversation = Conversation(get_wsgi_application(), "/stream/x/")
        iterator = iter(conversation.body)
        for _ in range(take):
            next(iterator)
        conversation.close()

    assert [(event.status, event.response_bytes, event.aborted) for event in capture.events()] == [
        (200, 3, True),
        (200, 0, True),
    ]


def test_a_client_that_goes_away_from_an_async_view_is_noted(capture: Capture) -> None:
    """Django cancels the view: no status was sent."""

    async def leave() -> None:
        arrived = asyncio.Event()
        sent: list[Any] = []

        async def waiting(request: Any) -> Any:
            arrived.set()
            await asyncio.Event().wait()

        class Urls:
            urlpatterns = (path("waiting/", waiting),)

        messages = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await arrived.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "GET", "path": "/waiting/", "headers": [], "query_string": b""}
        with override_settings(ROOT_URLCONF=Urls):
            await asyncio.wait_for(get_asgi_application()(scope, receive, send), 30)
        assert sent == []

    asyncio.run(leave())

    event = capture.event()
    assert (event.status, event.route, event.aborted) == (499, "GET /waiting/", True)


@OTHER_KIND
def test_files_are_sent_by_the_server(capture: Capture, get: Callable[..., Any]) -> None:
    """A FileResponse stays one; its size is what it says."""
    answer = get("/file/")

    assert answer.body == (urls.HERE / "settings.py").read_bytes()
    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted) == (200, len(answer.body), False)


def test_a_file_response_reaches_the_servers_own_wrapper(capture: Capture) -> None:
    """Wrapping its content would have it sent in pieces of 4096 bytes."""
    wrapped: list[Any] = []

    def file_wrapper(file: Any, size: int) -> Any:
        wrapped.append(file)
        return file

    conversation = Conversation(get_wsgi_application(), "/file/", **{"wsgi.file_wrapper": file_wrapper})
    conversation.close()

    assert wrapped == [conversation.body]
    assert wrapped[0].closed
    assert capture.event().aborted is False


# What, and where to


def test_a_length_that_is_no_number_is_the_apps_business(capture: Capture) -> None:
    """It is passed on, and counted as none."""
    answer = ask_wsgi("/file-of-odd-length/")

    assert (answer.status, answer.headers["content-length"]) == (200, "about 1,000")
    assert (capture.event().status, capture.event().response_bytes) == (200, 0)


def rendering(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Render what the middlewares within left unrendered."""

    def serve(request: Any) -> Any:
        return get_response(request).render()

    return serve


def replacing(get_response: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Answer with something that is yet to be rendered."""

    def serve(request: Any) -> Any:
        get_response(request)
        return urls.template(request)

    return serve


def test_a_response_may_be_rendered_outside(capture: Capture, get: Callable[..., Any]) -> None:
    """By a middleware around ours, of what one within it left."""
    around, within = (f"{__name__}.{name}" for name in ("rendering", "replacing"))

    with override_settings(MIDDLEWARE=[around, settings.MIDDLEWARE[0], within]):
        answer = get("/")

    assert (answer.status, answer.body) == (200, b"rendered")
    event = capture.event()
    assert (event.status, event.response_bytes, event.aborted) == (200, 8, False)


def test_djangos_test_client_works(capture: Capture) -> None:
    """Also where it raises what the view raised."""
    client = Client()

    assert client.get("/").content == b"hello"
    assert b"".join(client.get("/stream/x/").streaming_content) == b"onetwo"
    with pytest.raises(LookupError):
        client.get("/broken/x/")

    statuses = [(event.status, event.route) for event in capture.events() if event.kind == "request"]
    assert statuses == [(200, "GET /"), (200, "GET /stream/<name>/"), (500, "GET /broken/<name>/")]


def test_an_exception_that_is_propagated_is_500(capture: Capture, get: Callable[..., Any]) -> None:
    """With DEBUG_PROPAGATE_EXCEPTIONS there is no response."""
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True):
        get("/broken/x/")

    event = capture.event()
    assert (event.status, event.route, event.aborted) == (500, "GET /broken/<name>/", False)


def test_the_settings_say_what_to_count(capture: Capture, get: Callable[..., Any]) -> None:
    """EXCLUDE and EVENT as elsewhere."""
    with using(EXCLUDE=["/api/*"], EVENT=lambda request: "page" if request.path == "/" else None):
        for name in ("/", "/api/items/1/", "/health"):
            get(name)

    assert [event.event for event in capture.events()] == ["page", "request"]


def test_broken_callables_cost_nothing(capture: Capture, get: Callable[..., Any], isolated: None) -> None:
    """The request is counted under the default event type."""
    with using(EXCLUDE=failing, SAMPLE=failing, EVENT=failing):
        answer = get("/")

    assert answer.body == b"hello"
    assert [event.event for event in capture.events()] == ["request"]
    assert capture.errors() == {"exclude": 1, "sample": 1, "event": 1}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("mysite.recorder", "give a dictionary of RECORDER, IDENTIFY, EXCLUDE, SAMPLE"),
        ({"recorder": None}, "give a dictionary of RECORDER, IDENTIFY, EXCLUDE, SAMPLE"),
        ({"RECORDER": "tests.django.nowhere.recorder"}, "cannot be imported: No module named"),
        ({"RECORDER": "tests.django.project.usage.identify"}, "give a Recorder, or the dotted path to one"),
        ({"EXCLUDE": 17}, "exclude=17 is no list"),
    ],
    ids=["no dictionary", "unknown name", "no module", "no recorder", "no paths"],
)
def test_settings_that_cannot_work_are_refused_at_once(given: object, message: str) -> None:
    """When Django starts, in words that help."""
    with override_settings(USAGEKIT=given), pytest.raises(ConfigurationError, match=message):
        get_wsgi_application()


def test_the_recorder_becomes_the_default_one(capture: Capture, tmp_path: Path) -> None:
    """Without RECORDER, the default one is used."""
    get_wsgi_application()
    assert default_recorder() is capture.recorder

    with override_settings(USAGEKIT={}):
        assert ask_wsgi("/").body == b"hello"

    assert capture.routes() == ["GET /"]


def test_a_sample_stands_for_all(capture: Capture, get: Callable[..., Any]) -> None:
    """SAMPLE as elsewhere."""
    with using(SAMPLE=lambda path: 5 if path == "/" else 1):
        for name in ("/async/x/", *["/"] * 40):
            get(name)

    events = [(event.route, event.weight) for event in capture.events()]
    assert events[0] == ("GET /async/<slug:name>/", 1)
    assert set(events[1:]) == {("GET /", 5)}
    assert len(events) < 30


def test_too_many_routes_become_others(capture: Capture) -> None:
    """MAX_ROUTES as elsewhere."""
    with using(MAX_ROUTES=1):
        app = get_wsgi_application()

    answers = [ask(app, path).status for path in ("/", "/async/x/", "/")]

    assert answers == ["200 OK"] * 3
    assert capture.routes() == ["GET /", "GET (other)", "GET /"]


def test_what_is_tracked_in_an_excluded_request_knows_its_request(capture: Capture, get: Callable[..., Any]) -> None:
    """Only the request's own event is left out."""
    with using(EXCLUDE=["/bound/"]):
        answer = get("/bound/")

    assert answer.body == b"bound"
    event = capture.event()
    assert (event.event, event.user, event.route) == ("tracked", "bound", "GET /bound/")


def test_without_a_recorder_nothing_happens(get: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    """The project may bind as ever."""
    with override_settings(USAGEKIT={"IDENTIFY": failing}):
        answers = [get("/bound/").body, get("/").body]

    assert answers == [b"bound", b"hello"]
    assert "bind" not in caplog.text


@matrix("Django", "counted once inside the WSGI or ASGI middleware")
def test_inside_another_middleware_it_only_tells_the_route(capture: Capture) -> None:
    """One event, with Django's template."""
    wsgi = WsgiUsage(get_wsgi_application(), recorder=capture.recorder)
    asgi = AsgiUsage(get_asgi_application(), recorder=capture.recorder)

    assert ask(wsgi, "/async/x/").body == b"hello"

    async def send() -> bytes:
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(asgi), base_url="http://127.0.0.1") as client:
            return (await client.get("/async/x/")).content

    assert asyncio.run(send()) == b"hello"
    assert capture.routes() == ["GET /async/<slug:name>/"] * 2


def test_another_recorder_counts_too(capture: Capture, tmp_path: Path) -> None:
    """What stands around Django has its own events, and knows what Django binds."""
    with capturing(tmp_path / "outer.db") as outer:
        wsgi = WsgiUsage(get_wsgi_application(), recorder=outer.recorder)
        asgi = AsgiUsage(get_asgi_application(), recorder=outer.recorder)

        async def send() -> bytes:
            async with httpx2.AsyncClient(transport=httpx2.ASGITransport(asgi), base_url="http://127.0.0.1") as client:
                return (await client.get("/bound-async/")).content

        assert [ask(wsgi, "/bound/").body, asyncio.run(send())] == [b"bound", b"bound"]
        assert [event.user for event in outer.events()] == ["bound"] * 2
        assert [event.event for event in capture.events()] == ["tracked", "mine"] * 2
