"""The server's side of ASGI, in the test's own process: it hands messages over and keeps what the app sends."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from socket import socket
from threading import Thread
from typing import TYPE_CHECKING, Any

import uvicorn

from tests.support.stores import eventually

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping

    Message = MutableMapping[str, Any]
    App = Callable[[Any, Any, Any], Awaitable[None]]


class Connection:
    """One HTTP request or websocket, as a server holds it; must be made in a running loop.

    Attributes:
        scope: what the app is called with.
        sent: the messages that the app sent, in order.
        gone: set by the test when the client goes away; a request's client stays for the whole answer.
        on_send: called with each message before it is taken; what it raises, the app gets.
    """

    def __init__(
        self,
        path: str = "/",
        method: str = "GET",
        *,
        kind: str = "http",
        headers: Iterable[tuple[str, str]] = (),
        root_path: str = "",
        query: str = "",
        incoming: Iterable[Message] = (),
        extensions: dict[str, Any] | None = None,
    ) -> None:
        given = [(name.lower().encode(), value.encode()) for name, value in headers]
        pairs = given if b"host" in dict(given) else [(b"host", b"testserver"), *given]
        self.scope: dict[str, Any] = {
            "type": kind,
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "scheme": "http" if kind == "http" else "ws",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": root_path,
            "headers": pairs,
            "client": ("127.0.0.1", 50000),
            "server": ("testserver", 80),
            "state": {},
        }
        if kind == "http":
            self.scope["method"] = method
            self._incoming = [{"type": "http.request", "body": b"", "more_body": False}, *incoming]
        else:
            self.scope["subprotocols"] = []
            self._incoming = [{"type": "websocket.connect"}, *incoming]
        if extensions is not None:
            self.scope["extensions"] = extensions
        self.sent: list[Message] = []
        self.gone = asyncio.Event()
        self.on_send: Callable[[Message], Awaitable[None]] | None = None
        self.handed_over = asyncio.Condition()

    async def receive(self) -> Message:
        """Give the next message; when there is no more, wait until the client is gone."""
        if self._incoming:
            return self._incoming.pop(0)
        await self.gone.wait()
        return {"type": "http.disconnect"} if self.scope["type"] == "http" else {"type": "websocket.disconnect"}

    async def send(self, message: Message) -> None:
        """Take a message."""
        if self.on_send is not None:
            await self.on_send(message)
        self.sent.append(message)
        if self.scope["type"] == "http" and message["type"] == "http.response.body" and not message.get("more_body"):
            self.gone.set()
        async with self.handed_over:
            self.handed_over.notify_all()

    async def has_sent(self, kind: str, count: int = 1) -> None:
        """Wait until the app sent `count` messages of a kind."""
        async with self.handed_over:
            await self.handed_over.wait_for(lambda: sum(message["type"] == kind for message in self.sent) >= count)

    async def run(self, app: App) -> Connection:
        """Have the app serve this connection to its end; what it raises, the test gets."""
        await app(self.scope, self.receive, self.send)
        return self

    @property
    def status(self) -> int:
        """The final status that the client got; 0 = none."""
        statuses = [message["status"] for message in self.sent if "status" in message and message["status"] >= 200]
        return statuses[0] if statuses else 0

    @property
    def body(self) -> bytes:
        """The body that the client got."""
        return b"".join(
            message.get("body") or b"" for message in self.sent if message["type"].endswith("response.body")
        )


def ask(app: App, path: str = "/", method: str = "GET", **options: Any) -> Connection:
    """Have the app serve one connection, in a loop of its own; options as of `Connection`."""

    async def served() -> Connection:
        return await Connection(path, method, **options).run(app)

    return asyncio.run(served())


def ask_failing(app: App, path: str = "/", method: str = "GET", **options: Any) -> Connection:
    """Do the same with an app that raises, as servers do: they answer for it."""

    async def served() -> Connection:
        connection = Connection(path, method, **options)
        with suppress(Exception):
            await connection.run(app)
        return connection

    return asyncio.run(served())


@contextmanager
def uvicorn_serving(app: App, **options: Any) -> Iterator[int]:
    """Run uvicorn in a thread during a block, on a free port of this machine, which is given."""
    with socket() as listening:
        listening.bind(("127.0.0.1", 0))
        defaults: dict[str, Any] = {
            "log_level": "critical",
            "date_header": False,
            "server_header": False,
            "lifespan": "auto",
        }
        server = uvicorn.Server(uvicorn.Config(app, **(defaults | options)))
        thread = Thread(target=server.run, args=([listening],))
        thread.start()
        try:
            assert eventually(lambda: server.started)
            yield listening.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()
