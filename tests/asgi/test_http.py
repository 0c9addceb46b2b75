"""One HTTP request is one event, whatever happens in it, and the client receives what it would have received anyway."""

from __future__ import annotations

import asyncio
import gc
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import pytest
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from tests.support.asgi import Connection, ask, ask_failing
from tests.support.capture import capturing
from tests.support.matrix import matrix
from tests.support.stores import eventually
from usagekit import Recorder, bind, set_default_recorder, track
from usagekit.asgi import UsageMiddleware

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from starlette.requests import Request
    from starlette.types import Message, Receive, Scope, Send

    from tests.support.capture import Capture

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
END: dict[str, Any] = {"type": "http.response.body", "body": b"", "more_body": False}


def part(body: bytes, *, more: bool = True) -> dict[str, Any]:
    """Give a body message."""
    return {"type": "http.response.body", "body": body, "more_body": more}


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    """Greet."""
    await send(START)
    await send(part(b"hello", more=False))


def sending(*messages: dict[str, Any]) -> Callable[..., Any]:
    """Make an app that sends just these."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 1

    def __call__(self) -> int:
        return self.now_ns

    def passes(self, milliseconds: float) -> None:
        """Let time pass."""
        self.now_ns += int(milliseconds * 1_000_000)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Give the clock that durations are taken from."""
    found = Clock()
    for module in ("exchange", "http"):
        monkeypatch.setattr(f"usagekit._asgi.{module}.perf_counter_ns", found)
    return found


# Time


@pytest.mark.parametrize(("size", "latency_ms", "recorded"), [(65_536, 5.0, 1), (65_537, 12.0, 0)])
def test_only_a_large_answer_is_timed_until_the_server_took_it(
    size: int, latency_ms: float, recorded: int, capture: Capture, clock: Clock
) -> None:
    """A body that a server buffers at once is recorded as it is handed over; a larger one when it is taken."""
    seen: list[int] = []

    async def main() -> None:
        async def take(message: Message) -> None:
            if message["type"] == "http.response.body":
                seen.append(capture.recorder.status()["accepted"])
                clock.passes(7)

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            clock.passes(5)
            await send(START)
            await send(part(b"x" * size, more=False))

        connection = Connection()
        connection.on_send = take
        await connection.run(UsageMiddleware(app, recorder=capture.recorder))

    asyncio.run(main())

    event = capture.event()
    assert seen == [recorded]
    assert (event.latency_ms, event.response_bytes, event.aborted) == (latency_ms, size, False)


@matrix("any ASGI app", "streams are timed to the last byte")
def test_a_streamed_body_is_timed_to_its_first_and_its_last_byte(capture: Capture, clock: Clock) -> None:
    """Neither the headers nor empty parts are the first byte, and the return of the app is not the last."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.passes(5)
        await send(START)
        clock.passes(10)
        await send(part(b""))
        clock.passes(20)
        await send(part(b"abc"))
        clock.passes(40)
        await send(part(b"de", more=False))
        clock.passes(1000)

    answer = ask(UsageMiddleware(app, recorder=capture.recorder))

    event = capture.event()
    assert answer.body == b"abcde"
    assert (event.first_token_ms, event.latency_ms, event.response_bytes) == (35.0, 75.0, 5)
    assert (event.status, event.aborted) == (200, False)


def test_an_empty_body_has_no_first_byte(capture: Capture, clock: Clock) -> None:
    """Time to the first byte is unknown where there is none."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        clock.passes(5)
        await Response(status_code=204)(scope, receive, send)

    ask(UsageMiddleware(app, recorder=capture.recorder))

    event = capture.event()
    assert (event.status, event.first_token_ms, event.latency_ms, event.response_bytes) == (204, None, 5.0, 0)


@pytest.mark.parametrize("how", ["sync identify", "async identify"])
@matrix("Starlette", "background tasks are not in the latency")
@matrix("FastAPI", "background tasks are not in the latency")
def test_the_event_does_not_wait_for_background_tasks(how: str, capture: Capture, clock: Clock) -> None:
    """The event is recorded while the task still runs, and the task's time is not in it."""

    async def identify(request: Any) -> str:
        return "ann"

    async def main() -> Connection:
        finish, running = asyncio.Event(), asyncio.Event()

        async def task() -> None:
            running.set()
            await finish.wait()
            clock.passes(1000)
            track("in background")

        async def endpoint(request: Request) -> Response:
            clock.passes(3)
            return PlainTextResponse("ok", background=BackgroundTask(task))

        app = UsageMiddleware(
            Starlette(routes=[Route("/", endpoint)]),
            recorder=capture.recorder,
            identify=identify if how == "async identify" else lambda _: "ann",
        )
        connection = Connection()
        served = asyncio.create_task(connection.run(app))
        await running.wait()
        await asyncio.to_thread(lambda: eventually(lambda: len(capture.events()) == 1))
        assert not served.done()
        finish.set()
        return await served

    answer = asyncio.run(main())

    request, named = capture.events()
    assert answer.body == b"ok"
    assert (request.latency_ms, request.user) == (3.0, "ann")
    assert (named.event, named.user, named.route) == ("in background", "ann", "GET /")


@matrix("Starlette", "server-sent events")
def test_server_sent_events_are_one_request(capture: Capture) -> None:
    """Parts reach the client as they are made, not when the stream ends."""

    async def main() -> Connection:
        more = asyncio.Event()

        async def stream() -> AsyncIterator[str]:
            yield "data: 1\n\n"
            await more.wait()
            yield "data: 2\n\n"

        async def endpoint(request: Request) -> Response:
            return StreamingResponse(stream(), media_type="text/event-stream")

        connection = Connection()
        app = UsageMiddleware(Starlette(routes=[Route("/", endpoint)]), recorder=capture.recorder)
        served = asyncio.create_task(connection.run(app))
        await connection.has_sent("http.response.body")
        assert connection.body == b"data: 1\n\n"
        assert capture.events() == []
        more.set()
        return await served

    answer = asyncio.run(main())

    event = capture.event()
    assert answer.body == b"data: 1\n\ndata: 2\n\n"
    assert (event.response_bytes, event.aborted) == (18, False)


# Once


@matrix("any ASGI app", "installed twice: counted once")
def test_installed_twice_it_counts_once(capture: Capture) -> None:
    """The outermost counts, with its options."""
    inner = UsageMiddleware(hello, recorder=capture.recorder, event="inner")
    app = UsageMiddleware(UsageMiddleware(inner, recorder=capture.recorder), recorder=capture.recorder, event="outer")

    answer = ask(app)

    assert answer.sent == [START, part(b"hello", more=False)]
    assert capture.event().event == "outer"


def test_two_recorders_count_one_request_each(capture: Capture, tmp_path: Path) -> None:
    """A mounted app may count for somebody else; what is bound in it is known to both."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bind(user="ann")
        await hello(scope, receive, send)

    with capturing(tmp_path / "other.db") as other:
        inner = UsageMiddleware(app, recorder=other.recorder, identify=lambda _: "nobody")
        ask(UsageMiddleware(inner, recorder=capture.recorder, identify=lambda _: "somebody"))

        assert (capture.users(), other.users()) == (["ann"], ["ann"])


def test_an_app_mounted_in_itself_counts_once(capture: Capture) -> None:
    """However often a request goes through the same middleware."""
    app = Starlette(
        routes=[Route("/leaf", lambda _: PlainTextResponse("leaf"))],
        middleware=[Middleware(UsageMiddleware, recorder=capture.recorder)],
    )
    app.mount("/self", app)

    answer = ask(app, "/self/self/leaf")

    assert answer.body == b"leaf"
    assert capture.routes() == ["GET /self/self/leaf"]


class Header(BaseHTTPMiddleware):
    """A middleware of the kind that runs the app in a task of its own."""

    async def dispatch(self, request: Request, call_next: Any) -> Response:
        """Add a header."""
        response: Response = await call_next(request)
        response.headers["x-seen"] = "yes"
        return response


@pytest.mark.parametrize("order", ["inside", "outside", "both"])
@matrix("Starlette", "BaseHTTPMiddleware inside and outside")
def test_base_http_middleware_changes_nothing(order: str, capture: Capture) -> None:
    """On either side of it, one event, the app's own `bind`, and the body in full."""

    async def stream() -> AsyncIterator[bytes]:
        bind(org="acme")
        yield b"a"
        yield b"b"

    async def endpoint(request: Request) -> Response:
        bind(user="ann")
        return StreamingResponse(stream())

    ours = Middleware(UsageMiddleware, recorder=capture.recorder)
    theirs = Middleware(Header)
    stack = {"inside": [ours, theirs], "outside": [theirs, ours], "both": [theirs, ours, theirs]}[order]

    answer = ask(Starlette(routes=[Route("/", endpoint)], middleware=stack))

    event = capture.event()
    assert answer.body == b"ab"
    assert (event.user, event.org, event.route, event.status) == ("ann", "acme", "GET /", 200)
    assert (event.response_bytes, event.aborted) == (2, False)


# Failing


def test_an_exception_before_the_response_passes_untouched(capture: Capture) -> None:
    """The server gets the very exception; the client nothing from us; the event is a 500."""
    error = RuntimeError("boom")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise error

    with pytest.raises(RuntimeError) as caught:
        ask(UsageMiddleware(app, recorder=capture.recorder))

    event = capture.event()
    assert caught.value is error
    assert (event.status, event.aborted, event.response_bytes) == (500, False, 0)


def test_an_exception_within_the_response_keeps_its_status(capture: Capture) -> None:
    """The client has a 200 that ends too soon: that is what is counted."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(START)
        await send(part(b"half"))
        raise RuntimeError

    answer = ask_failing(UsageMiddleware(app, recorder=capture.recorder))

    event = capture.event()
    assert answer.sent == [START, part(b"half")]
    assert (event.status, event.aborted, event.response_bytes) == (200, True, 4)


def test_an_exception_after_the_response_changes_nothing(capture: Capture) -> None:
    """A background task that fails is not the request."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await hello(scope, receive, send)
        raise RuntimeError

    answer = ask_failing(UsageMiddleware(app, recorder=capture.recorder))

    event = capture.event()
    assert answer.body == b"hello"
    assert (event.status, event.aborted) == (200, False)


@matrix("Starlette", "app raises: 500")
@matrix("FastAPI", "app raises: 500")
def test_starlette_s_own_error_page_is_counted_as_sent(capture: Capture) -> None:
    """Starlette answers 500 and raises all the same: one event, complete."""

    async def endpoint(request: Request) -> Response:
        raise RuntimeError

    answer = ask_failing(UsageMiddleware(Starlette(routes=[Route("/", endpoint)]), recorder=capture.recorder))

    event = capture.event()
    assert (answer.status, answer.body) == (500, b"Internal Server Error")
    assert (event.status, event.aborted, event.response_bytes) == (500, False, 21)


def test_an_app_that_says_nothing_is_a_500(capture: Capture) -> None:
    """Servers answer 500 for it."""
    ask(UsageMiddleware(sending(), recorder=capture.recorder))

    event = capture.event()
    assert (event.status, event.aborted) == (500, False)


def test_an_app_that_stops_in_the_middle_is_aborted(capture: Capture) -> None:
    """The client gets less than was promised."""
    ask(UsageMiddleware(sending(START, part(b"a")), recorder=capture.recorder))

    event = capture.event()
    assert (event.status, event.aborted) == (200, True)


# The client goes away


def test_a_client_gone_before_an_answer_is_a_499(capture: Capture) -> None:
    """Also where the framework, none the wiser, still writes an error page."""

    async def endpoint(request: Request) -> Response:
        await request.body()  # raises ClientDisconnect
        raise AssertionError

    async def main() -> Connection:
        connection = Connection("/", "POST")
        connection._incoming = [{"type": "http.disconnect"}]
        app = UsageMiddleware(Starlette(routes=[Route("/", endpoint, methods=["POST"])]), recorder=capture.recorder)
        with pytest.raises(Exception):  # noqa: B017, PT011  Starlette's ClientDisconnect
            await connection.run(app)
        return connection

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted, event.route) == (499, True, "POST /")


@pytest.mark.parametrize("how", ["plain", "behind BaseHTTPMiddleware"])
@matrix("Starlette", "client gone: aborted")
@matrix("FastAPI", "client gone: aborted")
def test_a_client_gone_in_the_middle_is_aborted(how: str, capture: Capture) -> None:
    """Starlette returns as if nothing had happened, BaseHTTPMiddleware even ends the body; we know better."""

    async def main() -> Connection:
        async def stream() -> AsyncIterator[bytes]:
            yield b"first"
            await asyncio.Event().wait()  # for ever, or until Starlette gives up

        async def endpoint(request: Request) -> Response:
            return StreamingResponse(stream())

        app = UsageMiddleware(
            Starlette(routes=[Route("/", endpoint)], middleware=[] if how == "plain" else [Middleware(Header)]),
            recorder=capture.recorder,
        )
        connection = Connection()
        served = asyncio.create_task(connection.run(app))
        await connection.has_sent("http.response.body")
        connection.gone.set()
        return await served

    answer = asyncio.run(main())

    event = capture.event()
    assert answer.body == b"first"
    assert (event.status, event.aborted, event.response_bytes) == (200, True, 5)


@pytest.mark.parametrize(("sent_before", "status"), [((), 499), ((START, part(b"a")), 200)])
def test_a_cancelled_request_is_aborted(sent_before: tuple[dict[str, Any], ...], status: int, capture: Capture) -> None:
    """Servers cancel what nobody waits for; the cancellation passes through."""

    async def main() -> None:
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            for message in sent_before:
                await send(message)
            begun.set()
            await asyncio.Event().wait()

        served = asyncio.create_task(Connection().run(UsageMiddleware(app, recorder=capture.recorder)))
        await begun.wait()
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted) == (status, True)


def test_a_request_cancelled_while_async_identify_is_asked_is_recorded(capture: Capture) -> None:
    """Even then there is one event, without a user."""

    async def main() -> None:
        asked = asyncio.Event()

        async def identify(request: Any) -> str:
            asked.set()
            await asyncio.Event().wait()
            raise AssertionError

        app = UsageMiddleware(hello, recorder=capture.recorder, identify=identify)
        served = asyncio.create_task(Connection().run(app))
        await asked.wait()
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted, event.user) == (200, False, "")


@pytest.mark.parametrize("how", ["sync identify", "async identify"])
def test_a_request_closed_by_its_server_is_aborted(how: str, capture: Capture) -> None:
    """`close()` on the coroutine, GeneratorExit: nothing may be awaited then, and still there is one event."""

    async def identify(request: Any) -> str:
        raise AssertionError

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        connection = Connection()
        counted = UsageMiddleware(
            app, recorder=capture.recorder, identify=identify if how == "async identify" else lambda _: "ann"
        )
        running: Any = counted(connection.scope, connection.receive, connection.send)
        copy_context().run(running.send, None)
        running.close()  # in another context, as the collector does

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted) == (499, True)
    assert event.user == ("" if how == "async identify" else "ann")


def test_a_request_that_never_began_is_none(capture: Capture) -> None:
    """A coroutine that nobody awaited served nothing."""

    async def main() -> None:
        connection = Connection()
        counted = UsageMiddleware(hello, recorder=capture.recorder)
        counted(connection.scope, connection.receive, connection.send).close()

    asyncio.run(main())

    assert capture.events() == []


def test_a_server_that_refuses_to_send_is_heard_by_the_app(capture: Capture) -> None:
    """`send` raises OSError when the client is gone (ASGI 2.4): the app gets it, the event is aborted."""
    refusal = OSError("gone")
    heard: list[OSError] = []

    async def main() -> None:
        async def refuse(message: Message) -> None:
            if message.get("body") == b"second":
                raise refusal

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(START)
            await send(part(b"first"))
            try:
                await send(part(b"second", more=False))
            except OSError as error:
                heard.append(error)

        connection = Connection()
        connection.on_send = refuse
        await connection.run(UsageMiddleware(app, recorder=capture.recorder))

    asyncio.run(main())

    event = capture.event()
    assert heard == [refusal]
    assert (event.status, event.aborted, event.response_bytes) == (200, True, 5)


def test_a_client_that_hangs_up_after_the_end_is_not_aborted(capture: Capture) -> None:
    """Frameworks that listen all the time hear of it while the server still writes the last part."""

    async def main() -> None:
        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await receive()
            listening = asyncio.ensure_future(receive())
            await send(START)
            await send(part(b"all", more=False))
            await listening

        async def slow(message: Message) -> None:
            if message["type"] == "http.response.body":
                connection.gone.set()
                await asyncio.sleep(0)
                await asyncio.sleep(0)

        connection = Connection()
        connection.on_send = slow
        await connection.run(UsageMiddleware(app, recorder=capture.recorder))

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted) == (200, False)


# What HTTP and ASGI can do


@matrix("Starlette", "HEAD has no bytes")
def test_head_sends_no_bytes(capture: Capture) -> None:
    """Frameworks hand the body over and servers drop it."""
    app = Starlette(routes=[Route("/", lambda _: PlainTextResponse("hello"))])

    answer = ask(UsageMiddleware(app, recorder=capture.recorder), "/", "HEAD")

    event = capture.event()
    assert answer.status == 200
    assert (event.route, event.response_bytes, event.aborted) == ("HEAD /", 0, False)


@matrix("Starlette", "CORS preflight")
def test_a_preflight_is_counted(capture: Capture) -> None:
    """It is answered before routing, and told apart by its method."""
    app = Starlette(
        routes=[Route("/", lambda _: PlainTextResponse("hello"))],
        middleware=[
            Middleware(UsageMiddleware, recorder=capture.recorder),
            Middleware(CORSMiddleware, allow_origins=["https://a.example"]),
        ],
    )

    answer = ask(
        app, "/", "OPTIONS", headers=[("origin", "https://a.example"), ("access-control-request-method", "GET")]
    )

    event = capture.event()
    assert answer.status == 200
    assert (event.route, event.status) == ("OPTIONS (unmatched)", 200)


def test_not_modified_is_complete(capture: Capture) -> None:
    """304 has no body, and nothing is missing."""
    answer = ask(UsageMiddleware(sending({**START, "status": 304}, END), recorder=capture.recorder))

    event = capture.event()
    assert answer.status == 304
    assert (event.status, event.aborted, event.response_bytes) == (304, False, 0)


def test_an_informational_response_is_not_the_status(capture: Capture) -> None:
    """103 Early Hints come first and the status after them; both reach the server as they are."""
    hints = {"type": "http.response.start", "status": 103, "headers": [(b"link", b"</a.css>; rel=preload")]}
    final = {**START, "status": 201}

    answer = ask(UsageMiddleware(sending(hints, final, END), recorder=capture.recorder))

    assert answer.sent == [hints, final, END]
    assert capture.event().status == 201


def test_an_app_that_only_gave_hints_answered_nothing(capture: Capture) -> None:
    """A status is still to come after an informational one."""
    hints = {**START, "status": 103}

    ask(UsageMiddleware(sending(hints), recorder=capture.recorder))

    event = capture.event()
    assert (event.status, event.aborted) == (500, False)


def test_trailers_follow_the_end(capture: Capture) -> None:
    """The last body byte ends the request; trailers pass."""
    start = {**START, "trailers": True}
    trailers = {"type": "http.response.trailers", "headers": [(b"x-sum", b"1")], "more_trailers": False}

    answer = ask(UsageMiddleware(sending(start, part(b"a", more=False), trailers), recorder=capture.recorder))

    assert answer.sent == [start, part(b"a", more=False), trailers]
    assert (capture.event().response_bytes, capture.event().aborted) == (1, False)


def test_unknown_messages_are_forwarded_as_they_are(capture: Capture) -> None:
    """The server gets the app's own objects, of any type, in order."""
    messages: list[dict[str, Any]] = [
        {"type": "http.response.early_hint", "links": [b"</a.css>; rel=preload"]},
        {"type": "http.response.debug", "info": {"template": object()}},
        START,
        {"type": "http.response.push", "path": "/a.css", "headers": []},
        END,
        {"type": "made.up", "anything": 1},
    ]

    answer = ask(UsageMiddleware(sending(*messages), recorder=capture.recorder))

    assert [id(message) for message in answer.sent] == [id(message) for message in messages]
    assert (capture.event().status, capture.event().aborted) == (200, False)


def test_a_file_that_the_server_sends_is_complete(capture: Capture, tmp_path: Path, clock: Clock) -> None:
    """`pathsend` is the whole body: timed when it was handed over, with the bytes of Content-Length."""
    file = tmp_path / "file.txt"
    file.write_bytes(b"12345678")

    async def task() -> None:
        clock.passes(1000)

    async def endpoint(request: Request) -> Response:
        clock.passes(7)
        return FileResponse(file, background=BackgroundTask(task))

    app = UsageMiddleware(Starlette(routes=[Route("/", endpoint)]), recorder=capture.recorder)

    answer = ask(app, extensions={"http.response.pathsend": {}})

    event = capture.event()
    assert answer.sent[-1] == {"type": "http.response.pathsend", "path": str(file)}
    assert (event.status, event.aborted, event.response_bytes) == (200, False, 8)
    assert (event.first_token_ms, event.latency_ms) == (7.0, 7.0)


def test_a_file_sent_in_parts_is_complete_with_the_last(capture: Capture) -> None:
    """`zerocopysend` may be one part of several, and says how many bytes."""
    head = part(b"ab")
    parts: list[dict[str, Any]] = [
        {"type": "http.response.zerocopysend", "file": 3, "count": 10, "more_body": True},
        {"type": "http.response.zerocopysend", "file": 3, "offset": 10, "count": 5},
    ]

    answer = ask(UsageMiddleware(sending(START, head, *parts), recorder=capture.recorder))

    event = capture.event()
    assert answer.sent == [START, head, *parts]
    assert (event.response_bytes, event.aborted) == (17, False)


def test_lifespan_passes_untouched(capture: Capture) -> None:
    """The app gets the server's own scope, receive and send."""
    seen: list[tuple[Any, ...]] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((scope, receive, send))

    async def main() -> tuple[Any, ...]:
        server = ({"type": "lifespan", "state": {}}, asyncio.Event().wait, print)
        await UsageMiddleware(app, recorder=capture.recorder)(*server)
        return server

    server = asyncio.run(main())

    assert [list(map(id, got)) for got in seen] == [list(map(id, server))]
    assert seen[0][0] == {"type": "lifespan", "state": {}}


def test_what_the_app_receives_is_what_the_server_gave(capture: Capture) -> None:
    """Request messages come as they are, unknown ones too."""
    incoming = [
        {"type": "http.request", "body": b"abc", "more_body": True},
        {"type": "http.made.up"},
        {"type": "http.request", "body": b"", "more_body": False},
    ]
    received: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.extend([await receive() for _ in range(4)])
        await hello(scope, receive, send)

    ask(UsageMiddleware(app, recorder=capture.recorder), incoming=incoming)

    assert list(map(id, received[1:])) == list(map(id, incoming))


# Nobody records


@pytest.mark.parametrize("recorder", ["none at all", "one that does nothing", "a closed one"])
def test_without_a_recorder_the_app_runs_as_ever(
    recorder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """`bind` and `track` in the app do no harm, and `bind` is no mistake then."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        bind(user="ann", plan="free")
        await hello(scope, receive, send)

    if recorder == "none at all":
        answer = ask(UsageMiddleware(app))
    elif recorder == "one that does nothing":
        answer = ask(UsageMiddleware(app, recorder=Recorder()))
    else:
        with capturing(tmp_path / "usage.db") as closed:
            pass
        answer = ask(UsageMiddleware(app, recorder=closed.recorder))

    assert answer.sent == [START, part(b"hello", more=False)]
    assert caplog.records == []


def test_the_default_recorder_is_the_one_of_the_moment(capture: Capture) -> None:
    """Set after the middleware was made, it counts."""
    app = UsageMiddleware(hello)
    ask(app)
    set_default_recorder(capture.recorder)

    ask(app)

    assert len(capture.events()) == 1


def test_requests_leave_no_cycles_behind(capture: Capture) -> None:
    """Everything that a request needed is freed without the collector, whatever its end."""

    async def endpoint(request: Request) -> Response:
        bind(user="ann")
        if request.query_params:
            raise RuntimeError
        return PlainTextResponse("ok")

    async def identify(request: Any) -> str:
        return "ann"

    for options in ({}, {"identify": identify}, {"identify": lambda _: "bob"}):
        app = UsageMiddleware(Starlette(routes=[Route("/", endpoint)]), recorder=capture.recorder, **options)
        ask(app)
        gc.collect()
        gc.disable()
        try:
            for _ in range(3):
                ask(app)
            kinds = {type(found).__name__ for found in gc.get_objects()}
        finally:
            gc.enable()
        assert not kinds & {"_Http", "AsgiRequest"}
    assert len(capture.events()) == 12


def test_mounted_apps_without_starlette_are_counted(capture: Capture) -> None:
    """An app mounted below ours sends what it wants."""
    app = UsageMiddleware(Starlette(routes=[Mount("/raw", app=hello)]), recorder=capture.recorder)

    answer = ask(app, "/raw/any")

    assert answer.body == b"hello"
    assert capture.routes() == ["GET /raw"]
