"""Whom a request counts for: what `bind` said, else what `identify` says after the app's own authentication."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from threading import Thread
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import fastapi
import litestar
import pytest
import quart
from hypothesis import given, settings
from hypothesis import strategies as st
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult
from litestar.middleware.session.server_side import ServerSideSessionConfig
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, AuthenticationBackend, SimpleUser
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from tests.support.asgi import Connection, ask, uvicorn_serving
from tests.support.capture import Capture, capturing
from tests.support.matrix import matrix
from tests.support.stores import eventually
from usagekit import Identity, bind, bound, track
from usagekit.asgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from litestar.connection import ASGIConnection
    from starlette.requests import HTTPConnection, Request
    from starlette.types import Receive, Scope, Send

    from tests.support.asgi import App
    from usagekit.request import AsgiRequest

ANN = [("x-user-id", "ann")]


async def ok(request: Request) -> Response:
    """Answer."""
    return PlainTextResponse("ok")


def header(request: AsgiRequest) -> str | None:
    """Give the user that a header names."""
    return request.headers.get("x-user-id")


async def plain(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer, without a framework."""
    await PlainTextResponse("ok")(scope, receive, send)


class Copying:
    """A middleware that hands a copy of the scope on, as some do."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Copy."""
        await self.app(dict(scope), receive, send)


class Setting:
    """A middleware that knows who it is, and writes it to the request's state."""

    def __init__(self, app: App) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Write."""
        scope.setdefault("state", {})["customer"] = "cus_1"
        await self.app(scope, receive, send)


class Basic(AuthenticationBackend):
    """Everybody who names a user is that user."""

    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, SimpleUser] | None:
        """Look at the header."""
        name = conn.headers.get("x-user-id")
        return None if name is None else (AuthCredentials(), SimpleUser(name))


# After the app's own authentication


@matrix("Starlette", "identify: API key in a header")
@matrix("FastAPI", "identify: API key in a header")
def test_a_header_may_say_it(capture: Capture) -> None:
    """Header names are case-insensitive; user, org and own dimensions come from one Identity."""
    keys = {"k1": Identity("ann", "acme", plan="free")}
    app = UsageMiddleware(
        plain, recorder=capture.recorder, identify=lambda request: keys.get(request.headers.get("X-Api-Key"))
    )

    for given_headers in ([("x-api-key", "k1")], [("x-api-key", "other")], []):
        ask(app, headers=given_headers)

    assert [(event.user, event.org, dict(event.attributes)) for event in capture.events()] == [
        ("ann", "acme", {"plan": "free"}),
        ("", "", {}),
        ("", "", {}),
    ]


@matrix("Starlette", "identify: request.user of AuthenticationMiddleware")
@matrix("FastAPI", "identify: request.user of AuthenticationMiddleware")
def test_the_user_of_starlette_s_authentication_is_there(capture: Capture) -> None:
    """It runs inside of us, and before `identify` is asked."""
    app = Starlette(
        routes=[Route("/", ok)],
        middleware=[
            Middleware(
                UsageMiddleware,
                recorder=capture.recorder,
                identify=lambda request: request.user.display_name if request.user.is_authenticated else None,
            ),
            Middleware(AuthenticationMiddleware, backend=Basic()),
        ],
    )

    ask(app, headers=ANN)
    ask(app)

    assert capture.users() == ["ann", ""]


@matrix("Starlette", "identify: request.state")
@matrix("FastAPI", "identify: request.state")
def test_the_state_of_the_request_is_there(capture: Capture) -> None:
    """Set by a middleware, or by a FastAPI dependency."""
    app = fastapi.FastAPI(
        middleware=[
            Middleware(
                UsageMiddleware,
                recorder=capture.recorder,
                identify=lambda request: Identity(request.state["user"], request.state["customer"]),
            ),
            Middleware(Setting),
        ]
    )

    def user(request: fastapi.Request) -> None:
        request.state.user = "ann"

    @app.get("/", dependencies=[fastapi.Depends(user)])
    def endpoint() -> str:
        return "ok"

    ask(app)

    event = capture.event()
    assert (event.user, event.org) == ("ann", "cus_1")


@matrix("Starlette", "identify: session")
@matrix("FastAPI", "identify: session")
def test_the_session_is_there(capture: Capture) -> None:
    """Also what the request itself put into it."""

    async def login(request: Request) -> Response:
        request.session["user"] = "ann"
        return PlainTextResponse("ok")

    app = Starlette(
        routes=[Route("/login", login), Route("/", ok)],
        middleware=[
            Middleware(
                UsageMiddleware, recorder=capture.recorder, identify=lambda request: request.session.get("user")
            ),
            Middleware(SessionMiddleware, secret_key="secret"),
        ],
    )

    ask(app)
    answer = ask(app, "/login")
    cookie = dict(answer.sent[0]["headers"])[b"set-cookie"].decode().partition(";")[0]
    ask(app, headers=[("cookie", cookie)])

    assert capture.users() == ["", "ann", "ann"]


@matrix("Litestar", "identify: request.user of its authentication")
def test_the_user_of_litestar_s_authentication_is_there(capture: Capture) -> None:
    """Litestar's own authentication writes to the same scope."""

    class Auth(AbstractAuthenticationMiddleware):
        async def authenticate_request(self, connection: ASGIConnection[Any, Any, Any, Any]) -> AuthenticationResult:
            return AuthenticationResult(user=connection.headers.get("x-user-id"), auth=None)

    @litestar.get("/")
    async def endpoint(request: litestar.Request[Any, Any, Any]) -> str:
        request.state.customer = "cus_1"
        return "ok"

    app = UsageMiddleware(
        litestar.Litestar([endpoint], middleware=[Auth]),
        recorder=capture.recorder,
        identify=lambda request: Identity(request.user, request.state["customer"]),
    )

    ask(app, headers=ANN)

    event = capture.event()
    assert (event.user, event.org) == ("ann", "cus_1")


@matrix("Litestar", "identify: session")
def test_the_session_of_litestar_is_there(capture: Capture) -> None:
    """An emptied one is as good as none."""

    @litestar.get("/login")
    async def login(request: litestar.Request[Any, Any, Any]) -> str:
        request.set_session({"user": "ann"})
        return "ok"

    @litestar.get("/logout")
    async def logout(request: litestar.Request[Any, Any, Any]) -> str:
        request.clear_session()
        return "ok"

    app = UsageMiddleware(
        litestar.Litestar([login, logout], middleware=[ServerSideSessionConfig().middleware]),
        recorder=capture.recorder,
        identify=lambda request: request.session.get("user"),
    )

    for path in ("/login", "/logout"):
        ask(app, path)

    assert capture.users() == ["ann", ""]


@pytest.mark.parametrize("what", ["the view's session", "Quart's own context"])
@matrix("Quart", "identify: session")
@matrix("Quart", "identify: quart.session, quart.g and current_user")
def test_the_session_of_quart_is_there(what: str, capture: Capture) -> None:
    """A sync `identify` is asked while Quart's context is there, so its globals work in it."""
    app = quart.Quart("site")
    app.secret_key = "secret"

    @app.get("/")
    async def endpoint() -> str:
        quart.session["user"] = quart.g.user = "ann"
        return "ok"

    app.asgi_app = UsageMiddleware(  # type: ignore[method-assign]
        app.asgi_app,
        recorder=capture.recorder,
        identify=(lambda request: request.session.get("user"))
        if what == "the view's session"
        else (lambda _: Identity(quart.session["user"], quart.g.user)),
    )

    answer = ask(app)

    assert answer.body == b"ok"
    assert capture.users() == ["ann"]


def test_asking_leaves_quart_s_answer_alone(capture: Capture) -> None:
    """Looking at a session that the app did not touch adds no Vary header."""
    app = quart.Quart("site")
    app.secret_key = "secret"

    @app.get("/")
    async def endpoint() -> str:
        return "ok"

    without = ask(app)
    app.asgi_app = UsageMiddleware(  # type: ignore[method-assign]
        app.asgi_app, recorder=capture.recorder, identify=lambda request: request.session.get("user", "nobody")
    )
    with_us = ask(app)

    assert with_us.sent == without.sent
    assert capture.users() == ["nobody"]


# Scopes that are copied on the way


def copied_app(capture: Capture, inner: list[Middleware]) -> Starlette:
    """Make an app in which everything of interest happens to a copy of the scope."""
    stack = [
        Middleware(
            UsageMiddleware,
            recorder=capture.recorder,
            identify=lambda request: request.user.display_name if request.user is not None else None,
        ),
        Middleware(Copying),
        *inner,
        Middleware(AuthenticationMiddleware, backend=Basic()),
    ]
    return Starlette(routes=[Mount("/m/{a}", routes=[Route("/x/{id}", ok)])], middleware=stack)


@matrix("Starlette", "middleware that copies the scope", "a second UsageMiddleware inside of it")
@matrix("FastAPI", "middleware that copies the scope", "a second UsageMiddleware inside of it")
def test_a_second_middleware_sees_into_a_copied_scope(capture: Capture) -> None:
    """Inside of what copies, it tells the outermost what route and user are."""
    app = copied_app(capture, [Middleware(UsageMiddleware, recorder=capture.recorder)])

    ask(app, "/m/1/x/2", headers=ANN)

    event = capture.event()
    assert (event.route, event.user) == ("GET /m/{a}/x/{id}", "ann")


def test_without_it_a_copied_scope_says_nothing(capture: Capture) -> None:
    """ASGI gives no way to find a copy; what is not known is not made up."""
    ask(copied_app(capture, []), "/m/1/x/2", headers=ANN)

    event = capture.event()
    assert (event.route, event.user) == ("GET (unmatched)", "")


@matrix("any ASGI app", "middleware that copies the scope", "bind, or a second UsageMiddleware inside of it")
def test_bind_and_state_reach_through_a_copied_scope(capture: Capture) -> None:
    """What is bound needs no scope, and servers put a `state` into it that copies share."""

    async def endpoint(request: Request) -> Response:
        request.state.customer = "cus_1"
        bind(user="ann")
        return PlainTextResponse("ok")

    app = UsageMiddleware(
        Copying(Starlette(routes=[Route("/", endpoint)])),
        recorder=capture.recorder,
        identify=lambda request: Identity("nobody", request.state["customer"]),
    )

    ask(app)

    event = capture.event()
    assert (event.user, event.org) == ("ann", "cus_1")


@matrix("Litestar", "mounted app with copy_scope=True", "a second UsageMiddleware around the mounted app")
def test_a_second_middleware_sees_into_litestar_s_copies(capture: Capture) -> None:
    """Litestar hands mounted apps a copy when it is told to."""
    leaf = UsageMiddleware(Starlette(routes=[Route("/x/{id}/", ok)]), recorder=capture.recorder)

    @litestar.asgi("/mnt", is_mount=True, copy_scope=True)
    async def mounted(scope: litestar.types.Scope, receive: litestar.types.Receive, send: litestar.types.Send) -> None:
        await leaf(scope, receive, send)

    app = UsageMiddleware(litestar.Litestar([mounted]), recorder=capture.recorder)

    answer = ask(app, "/mnt/x/1")

    assert (answer.body, capture.routes()) == (b"ok", ["GET /mnt/x/{id}/"])


@matrix("Quart", "middleware that copies the scope")
def test_quart_is_heard_through_a_copied_scope(capture: Capture) -> None:
    """What Quart knows comes from Quart, not from the scope."""
    app = quart.Quart("site")
    app.secret_key = "secret"

    @app.get("/items/<id>")
    async def endpoint(id: str) -> str:  # noqa: A002
        quart.session["user"] = id
        return "ok"

    counted = UsageMiddleware(
        Copying(app), recorder=capture.recorder, identify=lambda request: request.session.get("user")
    )

    ask(counted, "/items/ann")

    event = capture.event()
    assert (event.route, event.user) == ("GET /items/<id>", "ann")


# bind


def bound_by_a_handler() -> App:
    """Make an app that binds in an async endpoint."""
    app = fastapi.FastAPI()

    @app.get("/")
    async def endpoint() -> str:
        bind(user="ann")
        return "ok"

    return app


def bound_by_a_thread_pool() -> App:
    """Make an app that binds in a sync endpoint, which runs in a thread."""
    app = fastapi.FastAPI()

    @app.get("/")
    def endpoint() -> str:
        bind(user="ann")
        return "ok"

    return app


def customer() -> Iterator[str]:
    """Bind, as a dependency."""
    bind(user="ann")
    yield "ann"


def bound_by_a_dependency() -> App:
    """Make an app that binds in a dependency, sync, with a yield."""
    app = fastapi.FastAPI()

    @app.get("/")
    async def endpoint(name: Annotated[str, fastapi.Depends(customer)]) -> str:
        return "ok"

    return app


def bound_by_to_thread() -> App:
    """Make an app that binds in `asyncio.to_thread`."""

    async def endpoint(request: Request) -> Response:
        await asyncio.to_thread(lambda: bind(user="ann"))
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", endpoint)])


def bound_by_a_task() -> App:
    """Make an app that binds in a task of its own."""

    async def work() -> None:
        bind(user="ann")

    async def endpoint(request: Request) -> Response:
        await asyncio.create_task(work())
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", endpoint)])


def bound_by_a_stream() -> App:
    """Make an app that binds while it streams, from an async generator."""

    async def stream() -> AsyncIterator[bytes]:
        yield b"o"
        bind(user="ann")
        yield b"k"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream())

    return Starlette(routes=[Route("/", endpoint)])


def bound_by_a_sync_stream() -> App:
    """Make an app that binds while it streams, from a generator in the thread pool."""

    def stream() -> Any:
        yield b"o"
        bind(user="ann")
        yield b"k"

    async def endpoint(request: Request) -> Response:
        return StreamingResponse(stream())

    return Starlette(routes=[Route("/", endpoint)])


def bound_by_litestar() -> App:
    """Make a Litestar app that binds in a sync handler in a thread."""

    @litestar.get("/", sync_to_thread=True, media_type="text/plain")
    def endpoint() -> str:
        bind(user="ann")
        return "ok"

    return litestar.Litestar([endpoint])


def bound_by_quart() -> App:
    """Make a Quart app that binds in a sync view, which runs in a thread."""
    app = quart.Quart("site")

    @app.get("/")
    def endpoint() -> str:
        bind(user="ann")
        return "ok"

    return app


def bound_by_a_quart_stream() -> App:
    """Make a Quart app that binds while it streams."""
    app = quart.Quart("site")

    @app.get("/")
    async def endpoint() -> Any:
        async def stream() -> AsyncIterator[str]:
            yield "o"
            bind(user="ann")
            yield "k"

        return stream()

    return app


def bound_by_own_thread() -> App:
    """Make an app that binds in a thread of its own, which got a copy of the context."""

    async def endpoint(request: Request) -> Response:
        thread = Thread(target=contextvars.copy_context().run, args=(lambda: bind(user="ann"),))
        thread.start()
        thread.join()
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", endpoint)])


def bound_by_own_executor() -> App:
    """Make an app that binds in an executor of its own, which got a copy of the context."""

    async def endpoint(request: Request) -> Response:
        with ThreadPoolExecutor() as executor:
            executor.submit(contextvars.copy_context().run, lambda: bind(user="ann")).result()
        return PlainTextResponse("ok")

    return Starlette(routes=[Route("/", endpoint)])


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(bound_by_a_handler, marks=matrix("FastAPI", "bind: async endpoint")),
        pytest.param(bound_by_a_thread_pool, marks=matrix("FastAPI", "bind: sync endpoint in a thread")),
        pytest.param(bound_by_a_dependency, marks=matrix("FastAPI", "bind: dependency")),
        pytest.param(bound_by_to_thread, marks=matrix("Starlette", "bind: asyncio.to_thread")),
        pytest.param(bound_by_a_task, marks=matrix("Starlette", "bind: task of your own")),
        pytest.param(bound_by_a_stream, marks=matrix("Starlette", "bind: streamed body")),
        pytest.param(bound_by_a_sync_stream, marks=matrix("Starlette", "bind: streamed body, sync generator")),
        pytest.param(bound_by_litestar, marks=matrix("Litestar", "bind: sync endpoint in a thread")),
        pytest.param(bound_by_quart, marks=matrix("Quart", "bind: sync endpoint in a thread")),
        pytest.param(bound_by_a_quart_stream, marks=matrix("Quart", "bind: streamed body")),
        pytest.param(
            bound_by_own_thread, marks=matrix("any ASGI app", "bind: thread of your own", "contextvars.copy_context()")
        ),
        pytest.param(
            bound_by_own_executor,
            marks=matrix("any ASGI app", "bind: executor of your own", "contextvars.copy_context()"),
        ),
    ],
)
def test_bind_reaches_the_request_from_anywhere_in_it(make: Callable[[], App], capture: Capture) -> None:
    """What is bound wins over `identify`, and the client notices nothing."""
    app = UsageMiddleware(make(), recorder=capture.recorder, identify=lambda _: Identity("nobody", "acme"))

    answer = ask(app)

    event = capture.event()
    assert answer.body.strip(b'"') == b"ok"
    assert (event.user, event.org) == ("ann", "acme")


def test_track_in_a_request_has_its_identity_and_route(capture: Capture) -> None:
    """`identify` is asked as soon as somebody must be known."""

    async def endpoint(request: Request) -> Response:
        track("export")
        bind(org="globex", event="sync", plan="free")
        track("export")
        return PlainTextResponse("ok")

    app = UsageMiddleware(
        Starlette(routes=[Route("/r/{id}", endpoint)]), recorder=capture.recorder, identify=lambda _: "ann"
    )

    ask(app, "/r/1")

    found = [(e.kind, e.event, e.user, e.org, e.route, dict(e.attributes)) for e in capture.events()]
    assert found == [
        ("named", "export", "ann", "", "GET /r/{id}", {}),
        ("named", "export", "ann", "globex", "GET /r/{id}", {"plan": "free"}),
        ("request", "sync", "ann", "globex", "GET /r/{id}", {"plan": "free"}),
    ]


def test_a_block_within_a_request_adds_to_it(capture: Capture) -> None:
    """`bound` counts for its own events, the request stays what it is."""

    async def endpoint(request: Request) -> Response:
        with bound(user="bob"):
            track("inside")
        return PlainTextResponse("ok")

    app = UsageMiddleware(
        Starlette(routes=[Route("/", endpoint)]), recorder=capture.recorder, identify=lambda _: Identity("ann", "acme")
    )

    ask(app)

    assert [(event.event, event.user, event.org) for event in capture.events()] == [
        ("inside", "bob", "acme"),
        ("request", "ann", "acme"),
    ]


# What identify may do


@pytest.mark.parametrize(
    ("answer", "user"),
    [
        ("ann", "ann"),
        (7, "7"),
        (UUID(int=1), str(UUID(int=1))),
        (Identity("ann"), "ann"),
        (Identity(), ""),
        ("", ""),
        (None, ""),
        (False, ""),
    ],
)
def test_identify_may_answer_in_many_ways(answer: object, user: str, capture: Capture) -> None:
    """A string, a number, a UUID, an Identity; None, an empty string and False are nobody, and no mistake."""
    ask(UsageMiddleware(plain, recorder=capture.recorder, identify=lambda _: answer))

    assert (capture.users(), capture.errors()) == ([user], {})


def test_async_identify_is_asked_after_the_response(capture: Capture) -> None:
    """The client has its answer before anybody is asked."""
    order: list[str] = []

    async def main() -> Connection:
        async def identify(request: AsgiRequest) -> Identity:
            order.append("asked")
            return Identity(request.headers["x-user-id"], plan="free")

        async def note(message: Any) -> None:
            order.append(message["type"])

        connection = Connection(headers=ANN)
        connection.on_send = note
        return await connection.run(UsageMiddleware(plain, recorder=capture.recorder, identify=identify))

    asyncio.run(main())

    event = capture.event()
    assert order == ["http.response.start", "http.response.body", "asked"]
    assert (event.user, dict(event.attributes)) == ("ann", {"plan": "free"})


def _raises(request: AsgiRequest) -> str:
    raise LookupError("no such user")


async def _raises_async(request: AsgiRequest) -> str:
    raise LookupError("no such user")


async def _junk_async(request: AsgiRequest) -> object:
    return object()


async def _times_out(request: AsgiRequest) -> str:
    await asyncio.Event().wait()
    return "never"


@pytest.mark.usefixtures("isolated")
@pytest.mark.parametrize(
    "identify",
    [
        _raises,
        _raises_async,
        _junk_async,
        _times_out,
        lambda _: object(),
        lambda _: True,
        lambda _: ["ann"],
        lambda request: _raises_async(request),  # noqa: PLW0108  not seen to be async
        lambda request: request.user.name,
    ],
    ids=["raises", "raises async", "junk async", "hangs", "junk", "True", "a list", "a coroutine", "attribute of None"],
)
def test_an_identify_that_fails_costs_the_request_nothing(
    identify: Any, capture: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The client gets its answer; the request is counted as unattributed, the failure by itself."""
    monkeypatch.setattr("usagekit._asgi.exchange.IDENTIFY_SECONDS", 0.01)

    answer = ask(UsageMiddleware(plain, recorder=capture.recorder, identify=identify))

    assert answer.body == b"ok"
    assert (capture.users(), capture.errors()) == ([""], {"identify": 1})


def test_a_hanging_identify_holds_up_no_client(capture: Capture) -> None:
    """Over a real server: the next request on the same connection is answered while the first is still asked for."""
    import httpx2

    release: list[Callable[[], object]] = []

    async def identify(request: AsgiRequest) -> str:
        if request.path == "/slow":
            event, loop = asyncio.Event(), asyncio.get_running_loop()
            release.append(lambda: loop.call_soon_threadsafe(event.set))
            await event.wait()
        return request.path

    with uvicorn_serving(UsageMiddleware(plain, recorder=capture.recorder, identify=identify)) as port:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}") as client:
            answers = [client.get("/slow").text, client.get("/fast").text]
        assert eventually(lambda: capture.users() == ["/fast"])
        release[0]()

    assert answers == ["ok", "ok"]
    assert capture.users() == ["/fast", "/slow"]


def test_a_prefix_that_a_framework_takes_off_is_in_the_path_that_identify_sees(capture: Capture) -> None:
    """Litestar changes the scope's path for mounted apps; the view has the whole one."""

    @litestar.asgi("/mnt", is_mount=True, copy_scope=False)
    async def mounted(scope: litestar.types.Scope, receive: litestar.types.Receive, send: litestar.types.Send) -> None:
        await plain(scope, receive, send)  # type: ignore[arg-type]

    app = UsageMiddleware(
        litestar.Litestar([mounted]), recorder=capture.recorder, identify=lambda request: request.path
    )

    ask(app, "/mnt/a/b")

    assert capture.users() == ["/mnt/a/b"]


# Many at once


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_requests_at_once_never_mix(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """However the steps of many requests interleave, each counts for its own user, org and event."""
    count = data.draw(st.integers(2, 40), "requests")
    steps = 4
    order = data.draw(st.permutations([number for number in range(count) for _ in range(steps)]), "order")
    path: Path = tmp_path_factory.mktemp("mixed") / "usage.db"

    async def main(capture: Capture) -> list[Connection]:
        loop = asyncio.get_running_loop()
        gates = {number: [loop.create_future() for _ in range(steps)] for number in range(count)}
        arrived = {number: [asyncio.Event() for _ in range(steps)] for number in range(count)}

        async def step(number: int, at: int) -> None:
            arrived[number][at].set()
            await gates[number][at]

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            number = int(scope["path"][1:])
            await step(number, 0)
            bind(user=f"user{number}")
            await step(number, 1)
            await send({"type": "http.response.start", "status": 200 + number, "headers": []})
            if number % 3:
                await asyncio.to_thread(bind, org=f"org{number}")
            await step(number, 2)
            track(f"step{number}")
            await step(number, 3)
            await send({"type": "http.response.body", "body": b"x" * number})

        async def identify(request: AsgiRequest) -> Identity:
            await asyncio.sleep(0)
            return Identity(f"not{request.path[1:]}", f"org{request.path[1:]}")

        counted = UsageMiddleware(app, recorder=capture.recorder, identify=identify)
        running = [asyncio.create_task(Connection(f"/{number}").run(counted)) for number in range(count)]
        at = dict.fromkeys(range(count), 0)
        for number in order:
            await arrived[number][at[number]].wait()
            gates[number][at[number]].set_result(None)
            at[number] += 1
        return await asyncio.gather(*running)

    with capturing(path) as capture:
        answers = asyncio.run(main(capture))
        events = capture.events()

    assert [len(answer.body) for answer in answers] == list(range(count))
    requests = {e.status - 200: (e.user, e.org, e.response_bytes) for e in events if e.kind == "request"}
    named = {e.event: (e.user, e.org) for e in events if e.kind == "named"}
    assert requests == {number: (f"user{number}", f"org{number}", number) for number in range(count)}
    assert named == {f"step{n}": (f"user{n}", f"org{n}" if n % 3 else "") for n in range(count)}


def test_hundreds_of_requests_over_a_real_server_never_mix(capture: Capture) -> None:
    """Sync endpoints in threads, async ones in tasks, all at once."""
    import httpx2

    app = fastapi.FastAPI()

    @app.get("/sync/{name}")
    def sync_endpoint(name: str) -> str:
        bind(user=name)
        return name

    @app.get("/async/{name}")
    async def async_endpoint(name: str) -> str:
        await asyncio.sleep(0)
        bind(user=name)
        return name

    app.add_middleware(UsageMiddleware, recorder=capture.recorder, identify=header)

    async def main(port: int) -> list[Any]:
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:
            paths = [f"/{'sync' if n % 2 else 'async'}/user{n}" for n in range(300)]
            return await asyncio.gather(*(client.get(path, headers={"x-user-id": "wrong"}) for path in paths))

    with uvicorn_serving(app) as port:
        answers = asyncio.run(main(port))

    names = [f"user{n}" for n in range(300)]
    assert [answer.json() for answer in answers] == names
    assert sorted(capture.users()) == sorted(names)
    assert {event.route for event in capture.events()} == {"GET /sync/{name}", "GET /async/{name}"}
