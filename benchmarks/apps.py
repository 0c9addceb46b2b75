"""The apps that are measured, the least that wraps them, and what drives them without a server."""

from __future__ import annotations

import sys
from collections import deque
from io import BytesIO
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Stopwatch, Timing
from usagekit import Identity

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Awaitable, Callable, Generator, Iterable

    Message = dict[str, Any]
    Scope = dict[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
    Environ = dict[str, Any]
    WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

WARM_UP = 50  # requests before those that are timed

_BODY = b'{"id": 42, "name": "an item", "price": 9.5}'
_HEADERS = (("content-type", "application/json"), ("content-length", str(len(_BODY))))


def user_of(request: Any) -> str | None:
    """Say who asks, as the README does."""
    return request.headers.get("x-user-id")  # type: ignore[no-any-return]


def user_and_org_of(request: Any) -> Identity:
    """Say who asks, and for whom."""
    headers = request.headers
    return Identity(headers.get("x-user-id"), headers.get("x-org-id"))


# ASGI


class _Route:
    path = path_format = "/items/{item_id}"


_ROUTE = _Route()
_ASGI_HEADERS = [(name.encode(), value.encode()) for name, value in _HEADERS]


async def asgi_app(scope: Scope, _receive: Receive, send: Send) -> None:
    """Answer, and leave the route where routers do."""
    scope["route"] = _ROUTE
    # A list of its own: middlewares add headers to it.
    await send({"type": "http.response.start", "status": 200, "headers": [*_ASGI_HEADERS]})
    await send({"type": "http.response.body", "body": _BODY})


class AsgiNoop:
    """The baseline: a middleware that does nothing."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)


class AsgiIdeal:
    """The least that knows what a request event knows: no journal, no limits, no errors, no websockets."""

    def __init__(self, app: AsgiApp) -> None:
        self.app = app
        self.events: deque[tuple[object, ...]] = deque()
        self._put = self.events.append

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began = time_ns()
        started = perf_counter_ns()
        status = 500
        size = 0

        async def counting_send(message: Message) -> None:
            nonlocal status, size
            if message["type"] == "http.response.start":
                status = message["status"]
            elif message["type"] == "http.response.body":
                size += len(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, counting_send)
        finally:
            user = org = ""
            for name, value in scope["headers"]:
                if name == b"x-user-id":
                    user = value.decode("latin-1")
                elif name == b"x-org-id":
                    org = value.decode("latin-1")
            route = scope.get("route")
            path = route.path if route is not None else ""
            latency = perf_counter_ns() - started
            self._put((began, user, org, scope["method"], path, status, size, latency))


def scopes_of(people: Iterable[tuple[str, str]]) -> list[Scope]:
    """Give a request of each of these users."""
    return [
        {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": "/items/42",
            "raw_path": b"/items/42",
            "query_string": b"",
            "root_path": "",
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "headers": [
                (b"host", b"127.0.0.1:8000"),
                (b"accept", b"application/json"),
                (b"user-agent", b"bench/1.0"),
                (b"x-user-id", user.encode()),
                (b"x-org-id", org.encode()),
            ],
        }
        for user, org in people
    ]


async def receive() -> Message:
    """Give an empty request body."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(_message: Message) -> None:
    """Take what the app sends."""


def asgi_slice(loop: asyncio.AbstractEventLoop, app: AsgiApp, scopes: list[Scope], times: int = 1) -> Timing:
    """Time requests of every scope, one after the other, `times` times; gives the time of one request."""

    async def serve() -> Timing:
        for scope in scopes[:WARM_UP]:
            await app(scope.copy(), receive, send)
        with Stopwatch() as watch:
            for _ in range(times):
                for scope in scopes:
                    await app(scope.copy(), receive, send)
        return watch.timing

    return loop.run_until_complete(serve()).per(len(scopes) * times)


# WSGI


def wsgi_app(environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer, and leave the route where usagekit looks for it."""
    environ["usagekit.route"] = "/items/{item_id}"
    start_response("200 OK", [*_HEADERS])
    return [_BODY]


class WsgiNoop:
    """The baseline: a middleware that does nothing."""

    def __init__(self, app: WsgiApp) -> None:
        self.app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self.app(environ, start_response)


class WsgiIdeal:
    """The least that knows what a request event knows, bodies streamed as they come."""

    def __init__(self, app: WsgiApp) -> None:
        self.app = app
        self.events: deque[tuple[object, ...]] = deque()

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        began = time_ns()
        started = perf_counter_ns()
        status = 500

        def noting_start(line: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal status
            status = int(line[:3])
            return start_response(line, headers) if exc_info is None else start_response(line, headers, exc_info)

        body = self.app(environ, noting_start)

        def counted() -> Generator[bytes, None, None]:
            size = 0
            try:
                for chunk in body:
                    size += len(chunk)
                    yield chunk
            finally:
                if hasattr(body, "close"):
                    body.close()
                user = environ.get("HTTP_X_USER_ID", "")
                org = environ.get("HTTP_X_ORG_ID", "")
                route = environ.get("usagekit.route", "")
                latency = perf_counter_ns() - started
                self.events.append((began, user, org, environ["REQUEST_METHOD"], route, status, size, latency))

        return counted()


def environs_of(people: Iterable[tuple[str, str]]) -> list[Environ]:
    """Give a request of each of these users."""
    return [
        {
            "REQUEST_METHOD": "GET",
            "SCRIPT_NAME": "",
            "PATH_INFO": "/items/42",
            "QUERY_STRING": "",
            "SERVER_NAME": "127.0.0.1",
            "SERVER_PORT": "8000",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REMOTE_ADDR": "127.0.0.1",
            "HTTP_HOST": "127.0.0.1:8000",
            "HTTP_ACCEPT": "application/json",
            "HTTP_USER_AGENT": "bench/1.0",
            "HTTP_X_USER_ID": user,
            "HTTP_X_ORG_ID": org,
            "wsgi.version": (1, 0),
            "wsgi.url_scheme": "http",
            "wsgi.input": BytesIO(),
            "wsgi.errors": sys.stderr,
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.run_once": False,
        }
        for user, org in people
    ]


def _start_response(_status: str, _headers: Any, _exc_info: Any = None) -> Callable[[bytes], None]:
    return _write


def _write(_data: bytes) -> None:
    pass


def wsgi_slice(app: WsgiApp, environs: list[Environ], times: int = 1) -> Timing:
    """Time requests of every environment, as a server does it: iterate, then close; gives the time of one request."""

    def serve(environs: list[Environ]) -> None:
        for environ in environs:
            body = app(environ.copy(), _start_response)
            for _ in body:
                pass
            close = getattr(body, "close", None)
            if close is not None:
                close()

    serve(environs[:WARM_UP])
    with Stopwatch() as watch:
        for _ in range(times):
            serve(environs)
    return watch.timing.per(len(environs) * times)
