"""Counting requests of any ASGI app: pure ASGI, no framework imported, nothing changed in what the client receives."""

from __future__ import annotations

from time import perf_counter_ns, time_ns

from usagekit.context import Measurement, as_identity, current
from usagekit.exclusion import DEFAULT_EXCLUDED, compiled
from usagekit.recorder import default_recorder
from usagekit.request import AsgiRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Iterable, MutableMapping
    from typing import Any

    from usagekit.recorder import Recorder

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Scope, Receive, Send], Awaitable[None]]
    _Identify = Callable[[Any], object]

__all__ = ["UsageMiddleware"]

IDENTIFY_SECONDS = 5.0  # an async identify that takes longer is given up

_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"])
_MARK = "usagekit"  # in the scope of a request that is being counted
_WEBSOCKET = 101
_FORBIDDEN = 403
_CLIENT_GONE = 499
_SERVER_ERROR = 500


class UsageMiddleware:
    """Records one event for every request that passes through an ASGI app.

    One per app, it lives as long as the app; the state of a request is in an object of its own. Websockets are one
    event each, when they are accepted. Lifespan and everything else pass through untouched. An exception of the app
    passes through too, counted as status 500.

    Args:
        app: the ASGI app to wrap.
        recorder: where events go; None = the process's default at the time of each request.
        identify: called with an `AsgiRequest`, after the app's own authentication; returns a user id, an `Identity` or
            None. None = the recorder's. An async one fills the request's own event only.
        exclude: paths that are not counted: exact ones, patterns with `*`, compiled regular expressions; or a callable
            that is given the path. Replaces the default list.
        event: event type of requests, or a callable that is given the `AsgiRequest` and returns one; None from it
            means `"request"`.
        websocket_close: also record a `websocket_close` event, with duration and bytes sent, when a websocket ends.
    """

    def __init__(
        self,
        app: App,
        *,
        recorder: Recorder | None = None,
        identify: Callable[[Any], object] | None = None,
        exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool] = DEFAULT_EXCLUDED,
        event: str | Callable[[AsgiRequest], str | None] = "request",
        websocket_close: bool = False,
    ) -> None:
        self.app = app
        self._recorder = recorder
        self._identify = identify
        self._sorted_for: _Identify | None = None
        self._sorted: tuple[_Identify | None, _Identify | None] = (None, None)
        self._excluded_paths, self._excludes = compiled(exclude)
        self.event = event
        self.websocket_close = websocket_close

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        kind = scope["type"]
        recorder = self._recorder or default_recorder()
        if (
            kind not in {"http", "websocket"}
            or recorder is None
            or not recorder.active
            or _MARK in scope
            or scope["path"] in self._excluded_paths
            or (self._excludes is not None and self._is_excluded(scope["path"], recorder))
        ):
            await self.app(scope, receive, send)
            return
        exchange = (_Http if kind == "http" else _Websocket)(self, recorder, scope, receive, send)
        scope[_MARK] = True  # not the exchange, which refers to the scope: only the collector could free the two
        token = current.set(exchange)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        finally:
            current.reset(token)
            if not exchange.settled:
                await exchange.finish()

    def identify_for(self, recorder: Recorder) -> tuple[_Identify | None, _Identify | None]:
        """Give the callable that says who asks: as the first when it is sync, as the second when it is async."""
        identify = recorder.identify if self._identify is None else self._identify
        if identify is not self._sorted_for:
            self._sorted_for = identify
            self._sorted = (None, identify) if _is_async(identify) else (identify, None)
        return self._sorted

    def _is_excluded(self, path: str, recorder: Recorder) -> bool:
        try:
            return bool(self._excludes is not None and self._excludes(path))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            recorder.guard.caught("exclude", error)
            return False


class _Exchange(Measurement):
    """What a request and a websocket have in common: who asks, for what, since when."""

    __slots__ = (
        "_disconnected",
        "_entry_root",
        "_first",
        "_identify_async",
        "_last",
        "_middleware",
        "_receive",
        "_scope",
        "_send",
        "_sent_file",
        "_started",
        "size",
        "status",
    )

    recorder: Recorder

    def __init__(
        self, middleware: UsageMiddleware, recorder: Recorder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._started = perf_counter_ns()
        # Measurement's own five, without the call.
        self.recorder = recorder
        self.identify, self._identify_async = middleware.identify_for(recorder)
        self.parent = self.bound = self.found = None
        # True as soon as nothing is left to be done at the app's return.
        self.settled = False
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self._entry_root = scope.get("root_path", "")
        self._first = self._last = 0  # clock at the first and the last body byte; 0 = not yet
        self._sent_file = self._disconnected = False
        self.status = self.size = 0

    def request(self) -> AsgiRequest:
        return AsgiRequest(self._scope)

    def route(self) -> str:
        scope = self._scope
        method = scope.get("method", "GET")
        if method not in _METHODS:
            method = "OTHER"
        return f"{method} {_template(scope, self._entry_root) or '(unmatched)'}"

    def event_type(self) -> object:
        """Give the event type: bound, as the middleware's callable says, or the middleware's."""
        if self.bound is not None and "event" in self.bound:
            return self.bound["event"]
        event = self._middleware.event
        if callable(event):
            try:
                return event(self.request()) or "request"
            except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
                self.recorder.guard.caught("event", error)
                return "request"
        return event

    async def ask(self) -> None:
        """Ask an async `identify`, for a limited time."""
        if self._identify_async is None or self.found is not None:
            return
        try:
            answer: Any = self._identify_async(self.request())
            self.found = as_identity(await _within(IDENTIFY_SECONDS, answer))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            self.recorder.guard.caught("identify", error)


class _Http(_Exchange):
    """One HTTP request while it is in flight."""

    __slots__ = ()

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and not self._last:
            self._disconnected = True
        return message

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind == "http.response.body":
            return self._send_body(message)
        if kind == "http.response.start":
            self.status = message["status"]
        elif kind in {"http.response.pathsend", "http.response.zerocopysend"}:
            self._sent_file = True
            self._first = self._first or perf_counter_ns()
        return self._send(message)

    async def _send_body(self, message: Message) -> None:
        await self._send(message)
        now = perf_counter_ns()
        body = message.get("body")
        if body:
            self.size += len(body)
            if not self._first:
                self._first = now
        if not message.get("more_body"):
            self._last = now
            if self._identify_async is None:
                self._settle()

    def fail(self, error: BaseException) -> None:
        """Note that the app raised."""
        if not isinstance(error, Exception):
            # Cancelled: the server gives a request up when the client is gone.
            self._disconnected = True
        if not self.status:
            self.status = _CLIENT_GONE if self._disconnected else _SERVER_ERROR

    async def finish(self) -> None:
        """Record the request at the app's return, where the last body byte did not do it."""
        await self.ask()
        self._settle()

    def _settle(self) -> None:
        if self.settled:
            return
        self.settled = True
        try:
            endpoint = self._scope.get("endpoint")
            if endpoint is not None and _is_static(endpoint):
                return
            now = self._last or perf_counter_ns()
            elapsed = now - self._started
            complete = self._last or self._sent_file
            # Servers answer 500 for an app that returns without a word.
            status = self.status or (_CLIENT_GONE if self._disconnected else _SERVER_ERROR)
            self.recorder.record_request(
                self,
                self.event_type(),
                status,
                self.route(),
                not complete and (self._disconnected or self.status not in {0, _SERVER_ERROR}),
                (time_ns() - elapsed) // 1000,
                elapsed // 1000,
                (now - self._first) // 1000 if self._first else None,
                0 if self._scope["method"] == "HEAD" else self.size,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.recorder.guard.caught("asgi", error)


class _Websocket(_Exchange):
    """One websocket while it is open."""

    __slots__ = ("_accepted",)

    def __init__(
        self, middleware: UsageMiddleware, recorder: Recorder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        super().__init__(middleware, recorder, scope, receive, send)
        self._accepted = False

    @property
    def receive(self) -> Receive:
        return self._receive

    async def send(self, message: Message) -> None:
        await self._send(message)
        kind = message["type"]
        if kind == "websocket.accept" and not self.settled:
            self._accepted = True
            await self.ask()
            self._settle("", _WEBSOCKET)
            self.settled = not self._middleware.websocket_close
        elif kind == "websocket.send":
            text = message.get("text")
            self.size += len(message.get("bytes") or b"") if text is None else len(text.encode("utf-8", "replace"))
        elif kind == "websocket.http.response.start":
            self.status = message["status"]

    def fail(self, error: BaseException) -> None:
        """Note that the app raised."""
        if not self.status:
            self.status = _SERVER_ERROR if isinstance(error, Exception) else _CLIENT_GONE

    async def finish(self) -> None:
        """Record the end of a websocket, or one that was never accepted; servers answer 403 for that."""
        await self.ask()
        if self._accepted:
            self._settle("websocket_close", _WEBSOCKET)
        else:
            self._settle("", self.status or _FORBIDDEN)

    def _settle(self, event: str, status: int) -> None:
        try:
            elapsed = perf_counter_ns() - self._started
            self.recorder.record_request(
                self,
                event or self.event_type(),
                status,
                self.route(),
                False,  # noqa: FBT003
                (time_ns() - elapsed) // 1000,
                elapsed // 1000,
                None,
                self.size,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.recorder.guard.caught("asgi", error)


def _template(scope: Scope, entry_root: str) -> str:
    """Give the path template that the framework matched; `""` where none did. Never a raw path."""
    # Routers leave the prefix of what they mounted in root_path, behind what the server put there.
    prefix: str = scope.get("root_path", "")[len(entry_root) :]
    route = scope.get("route")
    if route is None:
        return prefix or scope.get("path_template", "")
    context = scope.get("fastapi")
    if context is not None:
        # FastAPI's included routers have their prefix here, and not in the route's own path.
        route = context.get("effective_route_context") or route
    elif type(route).__name__ == "Mount":
        return prefix  # mounted, and nothing in there matched
    return prefix + str(getattr(route, "path", ""))


def _is_static(endpoint: object) -> bool:
    return any(kind.__name__ == "StaticFiles" for kind in type(endpoint).__mro__)


def _is_async(identify: object) -> bool:
    if identify is None:
        return False
    from inspect import iscoroutinefunction

    return iscoroutinefunction(identify) or iscoroutinefunction(getattr(identify, "__call__", None))  # noqa: B004


async def _within(seconds: float, answer: Awaitable[object]) -> object:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return await answer  # another loop than asyncio's: its own time-outs apply
    return await asyncio.wait_for(answer, seconds)
