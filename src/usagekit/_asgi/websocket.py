"""One websocket under ASGI: an event when it is accepted, and one when it ends where that is asked for."""

from __future__ import annotations

from time import perf_counter_ns

from usagekit._asgi.exchange import Exchange

TYPE_CHECKING = False
if TYPE_CHECKING:
    from usagekit._asgi.exchange import Message, Receive, Scope, Send
    from usagekit.asgi import UsageMiddleware
    from usagekit.recorder import Recorder

_WEBSOCKET = 101
_FORBIDDEN = 403
_CLIENT_GONE = 499
_SERVER_ERROR = 500


class Websocket(Exchange):
    """One websocket while it is open."""

    __slots__ = ("_accepted", "_is_due")

    def __init__(
        self, middleware: UsageMiddleware, recorder: Recorder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        super().__init__(middleware, recorder, scope, receive, send)
        self._accepted = 0  # clock when it was; 0 = not yet
        self._is_due = False  # accepted, and not recorded yet

    @property
    def receive(self) -> Receive:
        return self._receive

    async def send(self, message: Message) -> None:
        await self._send(message)
        kind = message["type"]
        if kind == "websocket.send":
            text = message.get("text")
            self.size += len(message.get("bytes") or b"") if text is None else len(text.encode("utf-8", "replace"))
        elif kind == "websocket.accept" and not self._accepted:
            self._accepted = perf_counter_ns()
            self._is_due = not self.settled
            self.settle_soon()
        elif kind == "websocket.http.response.start":
            self.status = message["status"]
        elif kind == "websocket.http.response.body":
            self.size += len(message.get("body") or b"")

    def fail(self, error: BaseException) -> None:
        """Note that the app raised."""
        if not isinstance(error, Exception):
            self.status = self.status or (_WEBSOCKET if self._accepted else _CLIENT_GONE)
        elif type(error).__name__ != "WebSocketDisconnect":  # how frameworks say that the client is gone
            self.status = self.status or _SERVER_ERROR
        if isinstance(error, GeneratorExit):
            self.settle()  # nothing may be awaited any more
            self._settle_end()

    async def finish(self) -> None:
        """Record what is still due: the end of a websocket, or one that was never accepted."""
        try:
            await (self._asking or self.ask())
        finally:
            self.settle()
            self._settle_end()

    def settle(self) -> None:
        """Record that the websocket was accepted."""
        if self._is_due:
            self._is_due = False
            self.settled = not self._middleware.websocket_close
            size, self.size = self.size, 0
            self._settle(self._middleware.event, _WEBSOCKET, self._accepted)
            self.size += size

    def _settle_end(self) -> None:
        if self.settled:
            return
        self.settled = True
        if self._accepted:
            self._settle("websocket_close", self.status or _WEBSOCKET, perf_counter_ns())
        else:
            # Servers answer 403 for a websocket that is closed before it was accepted.
            self._settle(self._middleware.event, self.status or _FORBIDDEN, perf_counter_ns())

    def _settle(self, event: object, status: int, ended: int) -> None:
        try:
            self.recorder.record_request(
                self,
                event if event == "websocket_close" else self.event_type(event),
                status,
                self.route(),
                status == _CLIENT_GONE,
                self._began // 1000,
                (ended - self._started) // 1000,
                None,
                self.size,
                self.weight,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.recorder.guard.caught("asgi", error)
