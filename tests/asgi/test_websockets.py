"""A websocket is one event when it is accepted or refused; with `websocket_close=True` a second when it ends."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import fastapi
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect
from websockets.sync.client import connect

from tests.support.asgi import Connection, ask, ask_failing, uvicorn_serving
from tests.support.matrix import matrix
from tests.support.stores import eventually
from usagekit import Identity, bind
from usagekit.asgi import UsageMiddleware

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send
    from starlette.websockets import WebSocket

    from tests.support.capture import Capture

ACCEPT: dict[str, Any] = {"type": "websocket.accept"}
BYE: dict[str, Any] = {"type": "websocket.disconnect", "code": 1000}


async def echo(websocket: WebSocket) -> None:
    """Say everything back until the client leaves."""
    await websocket.accept()
    async for text in websocket.iter_text():
        await websocket.send_text(text)


def sending(*messages: dict[str, Any]) -> Any:
    """Make an app that sends just these, after the client's first message."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)

    return app


@matrix("Starlette", "websocket accepted: one event")
@matrix("FastAPI", "websocket accepted: one event")
def test_an_accepted_websocket_is_one_event_at_once(capture: Capture) -> None:
    """It is recorded while the websocket is open; status 101, nothing sent yet."""
    app = UsageMiddleware(
        Starlette(routes=[WebSocketRoute("/ws/{room}", echo)]),
        recorder=capture.recorder,
        identify=lambda request: request.headers.get("x-user-id"),
    )

    with TestClient(app).websocket_connect("/ws/lobby", headers={"x-user-id": "ann"}) as websocket:
        websocket.send_text("hi")
        assert websocket.receive_text() == "hi"
        event = capture.event()

    assert (event.kind, event.event, event.route, event.status) == ("request", "request", "GET /ws/{room}", 101)
    assert (event.user, event.response_bytes, event.first_token_ms, event.aborted) == ("ann", 0, None, False)
    assert event.latency_ms is not None
    assert len(capture.events()) == 1


@matrix("Starlette", "websocket_close: duration and bytes")
def test_the_end_of_a_websocket_is_a_second_event(capture: Capture) -> None:
    """It brings the duration and the bytes sent, text as UTF-8, for the same user and route."""

    async def talk(websocket: WebSocket) -> None:
        await websocket.accept()
        bind(user="ann")
        await websocket.send_text("grüß")
        await websocket.send_bytes(b"123")
        await websocket.receive_text()

    app = UsageMiddleware(
        Starlette(routes=[WebSocketRoute("/ws", talk)]), recorder=capture.recorder, websocket_close=True
    )

    with TestClient(app).websocket_connect("/ws") as websocket:
        assert (websocket.receive_text(), websocket.receive_bytes()) == ("grüß", b"123")
        websocket.send_text("bye")

    opened, closed = capture.events()
    assert [(event.event, event.status, event.response_bytes) for event in (opened, closed)] == [
        ("request", 101, 0),
        ("websocket_close", 101, 9),
    ]
    assert (closed.route, closed.user, closed.time) == ("GET /ws", "ann", opened.time)
    assert opened.latency_ms is not None
    assert closed.latency_ms is not None
    assert closed.latency_ms >= opened.latency_ms


def test_a_refused_websocket_is_a_403(capture: Capture) -> None:
    """`close` before `accept`: servers answer 403."""
    answer = ask(
        UsageMiddleware(sending({"type": "websocket.close"}), recorder=capture.recorder, websocket_close=True),
        kind="websocket",
    )

    event = capture.event()
    assert answer.sent == [{"type": "websocket.close"}]
    assert (event.event, event.status) == ("request", 403)


@matrix("FastAPI", "websocket refused: 403 or the app's status")
@matrix("Starlette", "websocket refused: 403 or the app's status")
def test_a_refusal_with_a_response_has_its_status(capture: Capture) -> None:
    """The websocket denial extension: the client gets the app's own answer, and so does the event."""

    async def deny(websocket: WebSocket) -> None:
        await websocket.send_denial_response(PlainTextResponse("no money", status_code=402))

    app = UsageMiddleware(Starlette(routes=[WebSocketRoute("/ws", deny)]), recorder=capture.recorder)

    with pytest.raises(WebSocketDenialResponse) as denied, TestClient(app).websocket_connect("/ws"):
        raise AssertionError

    event = capture.event()
    assert (denied.value.status_code, denied.value.content) == (402, b"no money")
    assert (event.status, event.response_bytes, event.route) == (402, 8, "GET /ws")


def test_a_path_without_a_websocket_is_unmatched(capture: Capture) -> None:
    """The router refuses it."""
    app = UsageMiddleware(Starlette(), recorder=capture.recorder)

    with pytest.raises(WebSocketDisconnect), TestClient(app).websocket_connect("/nothing"):
        raise AssertionError

    event = capture.event()
    assert (event.status, event.route) == (403, "GET (unmatched)")


@pytest.mark.parametrize(
    ("before", "events"),
    [((), [("request", 500)]), ((ACCEPT,), [("request", 101), ("websocket_close", 500)])],
)
def test_an_app_that_raises_is_a_500(
    before: tuple[dict[str, Any], ...], events: list[tuple[str, int]], capture: Capture
) -> None:
    """Before it accepted, or at its end; the exception passes."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await sending(*before)(scope, receive, send)
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        ask(UsageMiddleware(app, recorder=capture.recorder, websocket_close=True), kind="websocket")

    assert [(event.event, event.status) for event in capture.events()] == events


def test_a_client_that_leaves_is_no_failure(capture: Capture) -> None:
    """Frameworks raise WebSocketDisconnect in a handler that still waits for the client."""
    app = fastapi.FastAPI()

    @app.websocket("/ws")
    async def wait(websocket: fastapi.WebSocket) -> None:
        await websocket.accept()
        await websocket.receive_text()

    counted = UsageMiddleware(app, recorder=capture.recorder, websocket_close=True)

    ask_failing(counted, "/ws", kind="websocket", incoming=[BYE])

    assert [(event.event, event.status) for event in capture.events()] == [("request", 101), ("websocket_close", 101)]


def test_a_websocket_cancelled_before_it_was_accepted_is_a_499(capture: Capture) -> None:
    """The client went away while the app thought about it."""

    async def main() -> None:
        begun = asyncio.Event()

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            begun.set()
            await asyncio.Event().wait()

        connection = Connection(kind="websocket")
        served = asyncio.create_task(connection.run(UsageMiddleware(app, recorder=capture.recorder)))
        await begun.wait()
        served.cancel()
        with pytest.raises(asyncio.CancelledError):
            await served

    asyncio.run(main())

    event = capture.event()
    assert (event.status, event.aborted) == (499, True)


def test_accepting_twice_is_one_event(capture: Capture) -> None:
    """The server says what it thinks of that; it is still one websocket."""
    app = UsageMiddleware(sending(ACCEPT, ACCEPT), recorder=capture.recorder, websocket_close=True)

    ask(app, kind="websocket")

    assert [event.event for event in capture.events()] == ["request", "websocket_close"]


def test_a_server_that_cannot_accept_any_more_leaves_no_101(capture: Capture) -> None:
    """`accept` did not reach the client."""

    async def main() -> None:
        async def refuse(message: Message) -> None:
            raise OSError

        connection = Connection(kind="websocket")
        connection.on_send = refuse
        with pytest.raises(OSError):  # noqa: PT011
            await connection.run(UsageMiddleware(sending(ACCEPT), recorder=capture.recorder))

    asyncio.run(main())

    assert [event.status for event in capture.events()] == [500]


@matrix("any ASGI app", "async identify")
def test_async_identify_does_not_hold_up_the_acceptance(capture: Capture) -> None:
    """The websocket talks while somebody is still asked who it is; then the event is recorded with the answer."""

    async def main() -> Connection:
        answer, asked = asyncio.Event(), asyncio.Event()

        async def identify(request: Any) -> Identity:
            asked.set()
            await answer.wait()
            return Identity("ann", "acme")

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            await send(ACCEPT)
            await send({"type": "websocket.send", "text": "welcome"})
            await asked.wait()
            assert capture.events() == []
            answer.set()
            await receive()
            assert await asyncio.to_thread(eventually, lambda: capture.users() == ["ann"])

        return await Connection(kind="websocket").run(
            UsageMiddleware(app, recorder=capture.recorder, identify=identify)
        )

    connection = asyncio.run(main())

    event = capture.event()
    assert connection.sent == [ACCEPT, {"type": "websocket.send", "text": "welcome"}]
    assert (event.user, event.org, event.status, event.response_bytes) == ("ann", "acme", 101, 0)


def test_a_websocket_that_ends_while_identify_is_asked_is_recorded(capture: Capture) -> None:
    """Its end waits for the answer, which the client does not see."""

    async def identify(request: Any) -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "ann"

    app = UsageMiddleware(sending(ACCEPT), recorder=capture.recorder, identify=identify, websocket_close=True)

    ask(app, kind="websocket")

    assert [(event.event, event.user) for event in capture.events()] == [("request", "ann"), ("websocket_close", "ann")]


def test_messages_pass_as_they_are(capture: Capture) -> None:
    """Both ways, the very objects."""
    incoming = [{"type": "websocket.receive", "text": "a"}, {"type": "made.up"}, BYE]
    outgoing = [
        ACCEPT,
        {"type": "websocket.send", "bytes": b"b", "text": None},
        {"type": "websocket.close", "code": 4000},
    ]
    received: list[Any] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        received.extend([await receive() for _ in range(4)])
        for message in outgoing:
            await send(message)

    answer = ask(UsageMiddleware(app, recorder=capture.recorder), kind="websocket", incoming=incoming)

    assert list(map(id, received[1:])) == list(map(id, incoming))
    assert list(map(id, answer.sent)) == list(map(id, outgoing))


@matrix("uvicorn", "websockets")
def test_a_closing_server_ends_its_websockets(capture: Capture) -> None:
    """A uvicorn stops while a client is connected: the websocket's end is recorded."""
    app = UsageMiddleware(
        Starlette(routes=[WebSocketRoute("/ws", echo)]), recorder=capture.recorder, websocket_close=True
    )

    with ExitStack() as still_connected, uvicorn_serving(app, ws="websockets-sansio") as port:
        client = still_connected.enter_context(connect(f"ws://127.0.0.1:{port}/ws"))
        client.send("hi")
        assert client.recv() == "hi"

    assert [(event.event, event.status, event.response_bytes) for event in capture.events()] == [
        ("request", 101, 0),
        ("websocket_close", 101, 2),
    ]
