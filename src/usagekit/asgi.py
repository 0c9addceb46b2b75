"""Counting requests of any ASGI app: pure ASGI, no framework imported, nothing changed in what the client receives."""

from __future__ import annotations

from time import perf_counter_ns, time_ns
from types import FunctionType

from usagekit._quart import listen
from usagekit._template import is_static, template_of
from usagekit.context import Measurement, current, told_by
from usagekit.recorder import default_recorder
from usagekit.request import AsgiRequest
from usagekit.selection import DEFAULT_EXCLUDED, DEFAULT_MAX_ROUTES, Routes, compiled, sampler

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from asyncio import Task
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, MutableMapping
    from typing import Any

    from usagekit.recorder import Recorder

    Scope = MutableMapping[str, Any]
    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Any, Any, Any], Awaitable[None]]  # every framework has types of its own
    _Identify = Callable[[Any], object]

__all__ = ["UsageMiddleware"]

IDENTIFY_SECONDS = 5.0  # an async identify that takes longer is given up

_MARK = "usagekit"  # in the scope of a request: the recorder that counts it already
_WEBSOCKET = 101
_FIRST_FINAL = 200  # what is below is informational: the status is still to come
_FORBIDDEN = 403
_CLIENT_GONE = 499
_SERVER_ERROR = 500
_BUFFERED = 65_536  # bytes that every server takes at once: asyncio's own high-water mark


class UsageMiddleware:
    """Records one event for every request that passes through an ASGI app.

    One per app, it lives as long as the app; the state of a request is in an object of its own. Websockets are one
    event each, when they are accepted. Lifespan and everything else pass through untouched. An exception of the app
    passes through too, counted as status 500 where the client had no status yet.

    Installed twice, the outermost counts, with its options. What route, session and user are, is read from the scope
    of the innermost: where a middleware hands a copy of the scope on (`dict(scope)`), its router and authentication
    write into that copy, so put another `UsageMiddleware(app, recorder=...)` inside of it. `bind` needs no such help.

    A route is the template below `root_path` as it was when the request came in, so what a server or proxy puts before
    the app is not in it.

    Args:
        app: the ASGI app to wrap.
        recorder: where events go; None = the process's default at the time of each request.
        identify: called with an `AsgiRequest`, after the app's own authentication; returns a user id, an `Identity` or
            None. None = the recorder's. An async one, made with `async def`, fills the request's own event only, and
            is given up after 5 s; the client does not wait for it.
        exclude: paths that are not counted, below `root_path`: exact ones, patterns with `*`, compiled regular
            expressions; or a callable that is given the path. Replaces the default list.
        sample: N: one request in N is counted, at random, with weight N, so that totals stay right on average; or a
            callable that is given the path, below `root_path`, and returns N. Model calls and `track` in the other
            requests are recorded as ever.
        event: event type of requests, or a callable that is given the `AsgiRequest` and returns one; None from it
            means `"request"`.
        max_routes: at most this many different routes are given out in one process; a further one is `"GET (other)"`.
        websocket_close: also record a `websocket_close` event, with duration and bytes sent, when a websocket ends;
            status 500 where the app raised, else 101.

    Raises:
        ConfigurationError: an option that cannot work.
    """

    def __init__(
        self,
        app: App,
        *,
        recorder: Recorder | None = None,
        identify: Callable[[Any], object] | None = None,
        exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool] = DEFAULT_EXCLUDED,
        sample: int | Callable[[str], int] = 1,
        event: str | Callable[[AsgiRequest], str | None] = "request",
        max_routes: int = DEFAULT_MAX_ROUTES,
        websocket_close: bool = False,
    ) -> None:
        self.app = app
        self._recorder = recorder
        self._identify = identify
        self.identities: tuple[_Identify | None, _Identify | None] | None = None  # once it is known for good
        self._excluded_paths, self._excludes = compiled(exclude)
        self._sampler = sampler(sample)
        self._is_choosy = self._excludes is not None or self._sampler is not None
        self.event = event
        self.route_names = Routes(max_routes)
        self.literal_prefixes: set[str] = set()
        self.websocket_close = websocket_close
        listen()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Serve one connection."""
        kind = scope["type"]
        recorder = self._recorder or default_recorder()
        if kind not in {"http", "websocket"}:
            if kind == "lifespan" and recorder is not None:
                recorder.wake()
            await self.app(scope, receive, send)
            return
        exchange: _Http | _Websocket | _Idle
        if recorder is None or not recorder.active or _MARK in scope:
            unusual = self._unusual(recorder, scope, receive, send)
            if unusual is None:
                await self.app(scope, receive, send)
                return
            exchange = unusual
        else:
            exchange = (_Http if kind == "http" else _Websocket)(self, recorder, scope, receive, send)
            if self._is_choosy or exchange.entry_root or exchange.entry_path in self._excluded_paths:
                self._choose(exchange, scope)
            else:
                # Not the exchange, which refers to the scope: only the collector could free the two.
                scope[_MARK] = recorder
        token = current.set(exchange)
        try:
            await self.app(scope, exchange.receive, exchange.send)
        except BaseException as error:
            exchange.fail(error)
            raise
        finally:
            try:  # noqa: SIM105  the hot path
                current.reset(token)
            except ValueError:
                pass  # the collector closes what nobody awaited to its end, in any context
            if not exchange.settled:
                await exchange.finish()

    def identities_of(self, recorder: Recorder) -> tuple[_Identify | None, _Identify | None]:
        """Give the callable that says who asks: as the first when it is sync, as the second when it is async."""
        identify = self._identify or recorder.identify
        identities = (None, identify) if _is_async(identify) else (identify, None)
        if identify is None or self._identify is not None or self._recorder is not None:
            self.identities = identities
        return identities

    def _unusual(
        self, recorder: Recorder | None, scope: Scope, receive: Receive, send: Send
    ) -> _Http | _Websocket | _Idle | None:
        """Give what stands for a request that no recorder counts, or another one already; None = nothing new."""
        outer = current.get()
        if recorder is None or not recorder.active:
            return None if _MARK in scope else _Idle(recorder, receive, send)
        if scope[_MARK] is recorder:
            if outer is not None:
                outer.see(scope)
            return None
        exchange = (_Http if scope["type"] == "http" else _Websocket)(self, recorder, scope, receive, send)
        exchange.parent = outer
        self._choose(exchange, scope)
        return exchange

    def _choose(self, exchange: _Exchange, scope: Scope) -> None:
        """Leave a request out that is excluded or loses the draw: its own event only, whoever makes it."""
        path = exchange.entry_path.removeprefix(exchange.entry_root) or "/"
        guard = exchange.recorder.guard
        try:
            exchange.settled = path in self._excluded_paths or bool(self._excludes is not None and self._excludes(path))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            guard.caught("exclude", error)
        if exchange.settled:
            return
        scope[_MARK] = exchange.recorder
        try:
            if self._sampler is not None:
                exchange.weight = self._sampler(path)
                exchange.settled = exchange.weight == 0
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            guard.caught("sample", error)


class _Idle(Measurement):
    """A request while nothing is recorded: what the app binds is no mistake then."""

    __slots__ = ("receive", "send")

    def __init__(self, recorder: Recorder | None, receive: Receive, send: Send) -> None:
        super().__init__(recorder)
        self.settled = True
        self.receive = receive
        self.send = send

    def fail(self, error: BaseException) -> None:
        """Do nothing."""

    async def finish(self) -> None:
        """Do nothing."""


class _Exchange(Measurement):
    """What a request and a websocket have in common: who asks, for what, since when."""

    __slots__ = (
        "_asking",
        "_began",
        "_disconnected",
        "_ending",
        "_first",
        "_identify_async",
        "_last",
        "_middleware",
        "_receive",
        "_scope",
        "_send",
        "_start",
        "_started",
        "entry_path",
        "entry_root",
        "size",
        "status",
        "weight",
    )

    recorder: Recorder
    _asking: Task[None] | None
    _start: Message | None

    def __init__(
        self, middleware: UsageMiddleware, recorder: Recorder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self._began = time_ns()
        self._started = perf_counter_ns()
        # Measurement's own six, without the call.
        self.recorder = recorder
        self.identify, self._identify_async = middleware.identities or middleware.identities_of(recorder)
        self.parent = self.bound = self.found = self._asking = self._start = None
        # True as soon as nothing is left to be done at the app's return.
        self.settled = False
        self._middleware = middleware
        self._scope = scope
        self._receive = receive
        self._send = send
        self.entry_path = scope["path"]
        self.entry_root = scope.get("root_path") or ""
        self.status = self.size = 0
        self.weight = 1
        # Of HTTP alone, but here, since a second __init__ is a measurable part of a request.
        self._first = self._last = 0  # clock at the first and the last body byte; 0 = not yet
        self._disconnected = False  # the client went away before the end
        self._ending = False  # the end is with the server: what is heard of the client from here on is not "before"

    def request(self) -> AsgiRequest:
        return AsgiRequest(self._scope, self.entry_path)

    def route(self) -> str:
        scope = self._scope
        middleware = self._middleware
        try:
            template = template_of(scope, self.entry_root, self.entry_path, middleware.literal_prefixes)
        except Exception as error:  # noqa: BLE001  frameworks change what they leave in a scope
            self.recorder.guard.caught("route", error)
            template = ""
        return middleware.route_names[scope.get("method", "GET")][template]

    def see(self, scope: Scope, *, is_static: bool = False) -> None:
        self._scope = scope
        self.settled = self.settled or is_static
        super().see(scope, is_static=is_static)

    def bind(self, values: dict[str, object]) -> None:
        super().bind(values)
        if self.parent is not None:
            self.parent.bind(values)  # the same request, counted by another recorder too

    def settle(self) -> None:
        """Record what is due, once; waits for nothing."""
        raise NotImplementedError

    async def ask(self) -> None:
        """Ask an async `identify`, for a limited time."""
        if self._identify_async is None or self.found is not None:
            return
        try:
            answer: Any = self._identify_async(self.request())
            self.found = told_by(await _within(IDENTIFY_SECONDS, answer))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            self.recorder.guard.caught("identify", error)

    async def ask_and_settle(self) -> None:
        """Record what is due with what an async `identify` says, or without where even that is cancelled."""
        try:
            await self.ask()
        finally:
            self._asking = None  # a task keeps its context, which holds this exchange
            self.settle()

    def settle_soon(self) -> None:
        """Record what is due: at once where nobody is to be asked, else as soon as an async `identify` answered."""
        if self._identify_async is None or self.found is not None:
            self.settle()
        elif not self.settled:
            asking = _task(self.ask_and_settle)  # None: it is asked at the app's return
            self._asking = None if asking is None or asking.done() else asking


class _Http(_Exchange):
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


class _Websocket(_Exchange):
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


def _is_async(identify: object) -> bool:
    if identify is None:
        return False
    from inspect import iscoroutinefunction

    return iscoroutinefunction(identify) or iscoroutinefunction(getattr(identify, "__call__", None))  # noqa: B004


def _task(work: Callable[[], Coroutine[Any, Any, None]]) -> Task[None] | None:
    """Run `work` beside the request; None where the loop is not asyncio's."""
    import asyncio

    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return None
    return loop.create_task(work())


async def _within(seconds: float, answer: Awaitable[object]) -> object:
    import asyncio

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return await answer  # another loop than asyncio's: its own time-outs apply
    return await asyncio.wait_for(answer, seconds)
