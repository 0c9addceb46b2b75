"""Counting requests of any ASGI app: pure ASGI, no framework imported, nothing changed in what the client receives."""

from __future__ import annotations

from usagekit._asgi.exchange import Idle
from usagekit._asgi.http import Http
from usagekit._asgi.websocket import Websocket
from usagekit._options import check_callable, check_middleware, check_switch
from usagekit._quart import listen
from usagekit.context import current
from usagekit.recorder import default_recorder
from usagekit.selection import DEFAULT_EXCLUDED, DEFAULT_MAX_ROUTES, Routes, Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Awaitable, Callable, Iterable
    from typing import Any

    from usagekit._asgi.exchange import Exchange, Receive, Scope, Send
    from usagekit.recorder import Recorder
    from usagekit.request import AsgiRequest

    App = Callable[[Any, Any, Any], Awaitable[None]]  # every framework has types of its own
    _Identify = Callable[[Any], object]

__all__ = ["UsageMiddleware"]

_MARK = "usagekit"  # in the scope of a request: the recorder that counts it already


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
        check_callable("app", app, "the ASGI app to wrap")
        check_middleware(recorder, identify, event, max_routes)
        check_switch("websocket_close", websocket_close)
        self.app = app
        self._recorder = recorder
        self._identify = identify
        self.identities: tuple[_Identify | None, _Identify | None] | None = None  # once it is known for good
        self._selection = selection = Selection(exclude, sample)
        self._excluded_paths = selection.paths
        self._is_choosy = selection.is_choosy
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
        exchange: Http | Websocket | Idle
        if recorder is None or not recorder.active or _MARK in scope:
            unusual = self._unusual(recorder, scope, receive, send)
            if unusual is None:
                await self.app(scope, receive, send)
                return
            exchange = unusual
        else:
            exchange = (Http if kind == "http" else Websocket)(self, recorder, scope, receive, send)
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
    ) -> Http | Websocket | Idle | None:
        """Give what stands for a request that no recorder counts, or another one already; None = nothing new."""
        outer = current.get()
        if recorder is None or not recorder.active:
            return None if _MARK in scope else Idle(recorder, receive, send)
        if scope[_MARK] is recorder:
            if outer is not None:
                outer.see(scope)
            return None
        exchange = (Http if scope["type"] == "http" else Websocket)(self, recorder, scope, receive, send)
        exchange.parent = outer
        self._choose(exchange, scope)
        return exchange

    def _choose(self, exchange: Exchange, scope: Scope) -> None:
        """Leave a request out that is excluded or loses the draw: its own event only, whoever makes it."""
        path = exchange.entry_path.removeprefix(exchange.entry_root) or "/"
        guard = exchange.recorder.guard
        exchange.settled = self._selection.leaves_out(path, guard)
        if not exchange.settled:
            scope[_MARK] = exchange.recorder
            exchange.weight = self._selection.weight(path, guard)
            exchange.settled = exchange.weight == 0


def _is_async(identify: object) -> bool:
    if identify is None:
        return False
    from inspect import iscoroutinefunction

    return iscoroutinefunction(identify) or iscoroutinefunction(getattr(identify, "__call__", None))  # noqa: B004
