"""Over real servers: the client receives byte for byte what it would have received without us."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from socket import create_connection
from typing import TYPE_CHECKING, Any

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotations
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.support.asgi import uvicorn_serving
from tests.support.capture import Capture, capturing
from tests.support.matrix import matrix
from tests.support.stores import eventually
from usagekit.asgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.asgi import App


async def parts() -> AsyncIterator[bytes]:
    """Give three parts."""
    for part in (b"one", b"two", b"three"):
        await asyncio.sleep(0)
        yield part


async def broken() -> AsyncIterator[bytes]:
    """Give one part, and fail."""
    yield b"one"
    raise RuntimeError


async def events() -> AsyncIterator[str]:
    """Give server-sent events."""
    yield "event: a\ndata: 1\n\n"
    yield "data: 2\n\n"


async def nothing() -> None:
    """Do nothing, in the background."""


async def fail(request: Request) -> Response:
    """Fail before the response."""
    raise RuntimeError


async def echo(request: Request) -> Response:
    """Give the request's body back."""
    return Response(await request.body(), headers=request.path_params)


async def cookies(request: Request) -> Response:
    """Set two cookies."""
    response = PlainTextResponse("ok", background=BackgroundTask(nothing))
    response.set_cookie("a", "1")
    response.set_cookie("b", "2", httponly=True)
    return response


async def silent(scope: Any, receive: Any, send: Any) -> None:
    """Say nothing at all."""


async def raw(scope: Any, receive: Any, send: Any) -> None:
    """Answer with a body in many ways at once."""
    await send({"type": "http.response.start", "status": 207, "headers": [(b"X-Raw", b"\xe4"), (b"x-raw", b"2")]})
    await send({"type": "http.response.body", "more_body": True})
    await send({"type": "http.response.body", "body": bytearray(b"ab"), "more_body": True})
    await send({"type": "http.response.body", "body": b"c"})


def site(folder: Path) -> Starlette:
    """Make an app that answers in every way we could think of."""
    api = fastapi.FastAPI()
    api.get("/items/{id}")(lambda id: {"id": id})  # noqa: A006
    return Starlette(
        routes=[
            Route("/plain", lambda _: PlainTextResponse("hello")),
            Route("/json", lambda _: JSONResponse({"a": [1, 2, "ü"]})),
            Route("/empty", lambda _: Response(status_code=204)),
            Route("/unmodified", lambda _: Response(status_code=304, headers={"etag": '"1"'})),
            Route("/stream", lambda _: StreamingResponse(parts())),
            Route("/sized", lambda _: StreamingResponse(parts(), headers={"content-length": "11"})),
            Route("/events", lambda _: StreamingResponse(events(), media_type="text/event-stream")),
            Route("/broken", lambda _: StreamingResponse(broken())),
            Route("/fail", fail),
            Route("/redirect", lambda _: RedirectResponse("/plain")),
            Route("/file", lambda _: FileResponse(folder / "a.txt")),
            Route("/echo", echo, methods=["POST", "PUT"]),
            Route("/cookies", cookies),
            Route("/slash/", lambda _: PlainTextResponse("slash")),
            Route("/large", lambda _: PlainTextResponse("x" * 300_000)),
            Mount("/static", StaticFiles(directory=folder)),
            Mount("/silent", silent),
            Mount("/raw", raw),
            Mount("/api", api),
        ]
    )


REQUESTS = {
    "plain": "GET /plain HTTP/1.1",
    "HEAD": "HEAD /plain HTTP/1.1",
    "HEAD of a stream": "HEAD /stream HTTP/1.1",
    "OPTIONS": "OPTIONS /plain HTTP/1.1",
    "json": "GET /json HTTP/1.1",
    "204": "GET /empty HTTP/1.1",
    "304": "GET /unmodified HTTP/1.1",
    "chunked": "GET /stream HTTP/1.1",
    "chunked for HTTP/1.0": "GET /stream HTTP/1.0",
    "with a length": "GET /sized HTTP/1.1",
    "server-sent events": "GET /events HTTP/1.1",
    "broken off": "GET /broken HTTP/1.1",
    "500": "GET /fail HTTP/1.1",
    "redirect": "GET /redirect HTTP/1.1",
    "file": "GET /file HTTP/1.1",
    "part of a file": "GET /file HTTP/1.1\r\nRange: bytes=2-4",
    "body": "POST /echo HTTP/1.1\r\nContent-Length: 5\r\n\r\nabcde",
    "chunked body": "PUT /echo HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n",
    "expected body": "POST /echo HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\nabcde",
    "cookies": "GET /cookies HTTP/1.1",
    "redirected slash": "GET /slash HTTP/1.1",
    "large": "GET /large HTTP/1.1",
    "static": "GET /static/a.txt HTTP/1.1",
    "static 404": "GET /static/missing HTTP/1.1",
    "silent": "GET /silent HTTP/1.1",
    "raw": "GET /raw HTTP/1.1",
    "fastapi": "GET /api/items/7 HTTP/1.1",
    "404": "GET /missing HTTP/1.1",
    "405": "DELETE /plain HTTP/1.1",
    "unknown method": "BREW /plain HTTP/1.1",
    "odd path": "GET /%ff/../%00 HTTP/1.1",
}


def exchanged(port: int, request: str) -> bytes:
    """Give everything the server writes for a request on a connection of its own."""
    head, _, body = request.partition("\r\n\r\n")
    with create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(f"{head}\r\nHost: a.example\r\nConnection: close\r\n\r\n{body}".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.fixture(scope="module", params=["h11", "httptools", "h11 with gzip"])
def ports(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[int, int, Capture]]:
    """Serve the same app with us and without, by uvicorn; give both ports, and what was recorded."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "a.txt").write_text("0123456789")
    http, _, gzip = request.param.partition(" with ")

    async def identify(view: Any) -> str:
        return "ann"

    with ExitStack() as stack:
        capture = stack.enter_context(capturing(tmp_path_factory.mktemp("ledger") / "usage.db"))
        app: App = site(folder)
        counted: App = UsageMiddleware(app, recorder=capture.recorder, identify=identify, websocket_close=True)
        if gzip:
            middleware = Middleware(GZipMiddleware, minimum_size=1)
            app, counted = (Starlette(routes=[Mount("/", one)], middleware=[middleware]) for one in (app, counted))
        without, with_us = (stack.enter_context(uvicorn_serving(one, http=http)) for one in (app, counted))
        yield without, with_us, capture


@pytest.mark.parametrize("name", REQUESTS)
@matrix("uvicorn", "bytes unchanged")
def test_the_client_receives_the_same_bytes(name: str, ports: tuple[int, int, Capture]) -> None:
    """Headers and their order, chunks, and where the connection ends, are the app's and the server's."""
    without, with_us, capture = ports
    before = len(capture.events())

    expected, found = exchanged(without, REQUESTS[name]), exchanged(with_us, REQUESTS[name])

    assert found == expected
    assert expected.startswith(b"HTTP/1.1 ")
    # Static files are left out, and httptools itself refuses a method that it does not know.
    count = 0 if "static" in name or expected.startswith(b"HTTP/1.1 400 ") else 1
    assert eventually(lambda: len(capture.events()) == before + count)


@matrix("uvicorn", "client gone: aborted")
def test_a_client_that_hangs_up_is_aborted(capture: Capture) -> None:
    """The framework ends as if all were well; the event says how much was sent, and that it was not all."""
    closed = asyncio.Event()

    async def stream() -> AsyncIterator[bytes]:
        try:
            yield b"first"
            await asyncio.Event().wait()
        finally:
            closed.set()

    app = Starlette(routes=[Route("/", lambda _: StreamingResponse(stream()))])

    with uvicorn_serving(UsageMiddleware(app, recorder=capture.recorder)) as port:
        with create_connection(("127.0.0.1", port), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n")
            received = b""
            while b"first" not in received:
                received += connection.recv(4096)
        assert eventually(lambda: len(capture.events()) == 1)

    event = capture.event()
    assert closed.is_set()
    assert (event.status, event.aborted, event.response_bytes) == (200, True, 5)
