"""One HTTP request under ASGI, from the first message to the last body byte."""

from __future__ import annotations

from time import perf_counter_ns
from types import FunctionType

from usagekit._asgi.exchange import Exchange
from usagekit._template import is_static

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Awaitable

    from usagekit._asgi.exchange import Message

_FIRST_FINAL = 200  # what is below is informational: the status is still to come
_CLIENT_GONE = 499
_SERVER_ERROR = 500
_BUFFERED = 65_536  # bytes that every server takes at once: asyncio's own high-water mark


class Http(Exchange):
    """One HTTP request while it is in flight."""

    __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._ending:
            self._disconnected = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            if self.size or message.get("more_body") or self._identify_async is not None or not self.status:
                return self._send_body(message)
            self.size = size = len(message.get("body") or b"")
            if size > _BUFFERED:
                self.size = 0
                return self._send_body(message)
            # The whole answer at once, and so small that a server takes it without waiting for the client: there is
            # nothing to be measured afterwards, so a coroutine around the server's own is spared.
            self._ending = True
            self._last = now = perf_counter_ns()
            if size:
                self._first = now
            self.settle()
            return self._send(message)
        if kind == "http.response.start":
            status = message["status"]
            if status >= _FIRST_FINAL and not self._disconnected:
                self.status = status
                self._start = message
        elif kind in {"http.response.pathsend", "http.response.zerocopysend"}:
            return self._send_file(message)
        return self._send(message)

    async def _send_body(self, message: Message) -> None:
        is_last = not message.get("more_body")
        if is_last:
            self._ending = True
        await self._send(message)
        now = perf_counter_ns()
        body = message.get("body")
        if body:
            self.size += len(body)
            if not self._first:
                self._first = now
        if is_last:
            self._last = now
            if self._identify_async is None:
                self.settle()
            else:
                self.settle_soon()

    async def _send_file(self, message: Message) -> None:
        """Hand over what the server sends by itself: part of the body, or all of it."""
        self._ending = not message.get("more_body")
        await self._send(message)
        now = perf_counter_ns()
        self.size += self._size_of_file(message)
        self._first = self._first or now
        if self._ending:
            self._last = now
            self.settle_soon()

    def _size_of_file(self, message: Message) -> int:
        """Give the bytes of a file that the server sends by itself; 0 where nobody says."""
        try:
            if "count" in message:
                return int(message["count"] or 0)
            for name, value in () if self._start is None else self._start.get("headers", ()):
                if name.lower() == b"content-length":
                    return int(value) - self.size
        except Exception as error:  # noqa: BLE001  the server took it, and nothing of ours may reach the host
            self.recorder.guard.caught("asgi", error)
        return 0

    def fail(self, error: BaseException) -> None:
        """Note that the app raised."""
        if not isinstance(error, Exception) and not self._last:
            # Cancelled: the server gives a request up when the client is gone.
            self._disconnected = True
        if isinstance(error, GeneratorExit):
            self.settle()  # nothing may be awaited any more

    async def finish(self) -> None:
        """Record the request at the app's return, where the last body byte did not do it."""
        await (self._asking or self.ask_and_settle())

    def settle(self) -> None:
        if self.settled:
            return
        self.settled = True
        scope = self._scope
        try:
            endpoint = scope.get("endpoint")
            if endpoint is None:
                may_be_static = "route_handler" in scope or "fastapi" in scope
            else:
                may_be_static = type(endpoint) is not FunctionType
            if may_be_static and is_static(scope):
                return
            status = self.status
            event = self._middleware.event
            ended = self._last or perf_counter_ns()
            self.recorder.record_request(
                self,
                event if type(event) is str and self.bound is None else self.event_type(event),
                # Servers answer 500 for an app that raises, or returns without a word.
                status or (_CLIENT_GONE if self._disconnected else _SERVER_ERROR),
                self.route(),
                self._disconnected or (status != 0 and not self._last),
                self._began // 1000,
                (ended - self._started) // 1000,
                (ended - self._first) // 1000 if self._first else None,
                0 if scope["method"] == "HEAD" else self.size,
                self.weight,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.recorder.guard.caught("asgi", error)
