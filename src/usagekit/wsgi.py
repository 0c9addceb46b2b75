"""Counting requests of any WSGI app: pure WSGI, no framework imported, nothing changed in what the client receives.

Bodies go to the server as the app made them: lists stay lists, streams stay streams, and what `wsgi.file_wrapper` made
stays a file that the server sends by itself.

Route templates come from Flask, Bottle and `usagekit.flask`; any other app may tell its own by
`environ["usagekit.route"] = "/items/{id}"`.
"""

from __future__ import annotations

from time import perf_counter_ns, time_ns

from usagekit._options import check_callable, check_middleware
from usagekit.context import Measurement, current
from usagekit.recorder import default_recorder
from usagekit.request import AsgiRequest, WsgiRequest
from usagekit.selection import DEFAULT_EXCLUDED, DEFAULT_MAX_ROUTES, Routes, Selection

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Any

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from usagekit.recorder import Recorder

    _ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

__all__ = ["UsageMiddleware"]

_MARK = "usagekit.recorder"  # in the environment of a request: the recorder that counts it already
_CLIENT_GONE = 499
_SERVER_ERROR = 500
_WITHOUT_BODY = frozenset([204, 304])


class _Codes(dict[str, int]):
    """Status codes by the lines that apps announce; emptied when it is full."""

    def __missing__(self, line: str) -> int:
        if len(self) >= 256:
            self.clear()
        code = line[:3]
        self[line] = found = int(code) if code.isdecimal() else 0
        return found


_CODES = _Codes()


class UsageMiddleware:
    """Records one event for every request that passes through a WSGI app.

    One per app, it lives as long as the app; the state of a request is in an object of its own. A request ends when
    its body is exhausted or closed, and a ready-made one, a list or tuple, when the app hands it over. An exception of
    the app passes through, counted as status 500 where the client had nothing yet. Inside another middleware of the
    same recorder, WSGI or ASGI, it does nothing.

    A route is the template that the app itself knows, without the `SCRIPT_NAME` it is mounted under. Around a
    `werkzeug.middleware.dispatcher.DispatcherMiddleware` the prefix of its mounts stands before it.

    Args:
        app: the WSGI app to wrap.
        recorder: where events go; None = the process's default at the time of each request.
        identify: called with a `WsgiRequest`, after the app's own authentication; returns a user id, an `Identity` or
            None. None = the recorder's.
        exclude: paths that are not counted, below `SCRIPT_NAME`: exact ones, patterns with `*`, compiled regular
            expressions; or a callable that is given the path. Replaces the default list.
        sample: N: one request in N is counted, at random, with weight N, so that totals stay right on average; or a
            callable that is given the path, below `SCRIPT_NAME`, and returns N. Model calls and `track` in the other
            requests are recorded as ever.
        event: event type of requests, or a callable that is given the `WsgiRequest` and returns one; None from it
            means `"request"`.
        max_routes: at most this many different routes are given out in one process; a further one is `"GET (other)"`.

    Raises:
        ConfigurationError: an option that cannot work.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        recorder: Recorder | None = None,
        identify: Callable[[Any], object] | None = None,
        exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool] = DEFAULT_EXCLUDED,
        sample: int | Callable[[str], int] = 1,
        event: str | Callable[[WsgiRequest], str | None] = "request",
        max_routes: int = DEFAULT_MAX_ROUTES,
    ) -> None:
        check_callable("app", app, "the WSGI app to wrap")
        check_middleware(recorder, identify, event, max_routes)
        self.app = app
        self._recorder = recorder
        self._identify = identify
        self._selection = Selection(exclude, sample)
        # As the server gives them: decoded byte by byte.
        self._excluded_raw = frozenset(path.encode().decode("latin-1") for path in self._selection.paths)
        self._is_choosy = self._selection.is_choosy
        self.event = event
        self.route_names = Routes(max_routes)
        self.asks_at_start = False  # whether `identify` is asked when the response begins
        self.mounts: dict[str, object] | None = getattr(app, "mounts", None)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        recorder = self._recorder or default_recorder()
        identify = None if recorder is None else self._identify or recorder.identify
        exchange = _Exchange(self, recorder, identify, environ, start_response)
        outer = current.get()
        if (
            outer is None
            and recorder is not None
            and recorder.active
            and not self._is_choosy
            and _MARK not in environ
            and environ.get("PATH_INFO") not in self._excluded_raw
        ):
            environ[_MARK] = recorder  # not the exchange, which refers to the environment
        elif not self._admit(exchange, outer, environ):
            return self.app(environ, start_response if outer is None else _telling(outer, environ, start_response))
        token = current.set(exchange)
        try:
            body = self.app(environ, exchange.start_response)
        except BaseException:
            exchange.fail()
            raise
        finally:
            current.reset(token)
        kind = type(body)
        if kind is list or kind is tuple:
            # Servers treat these in their own ways: one chunk gives a Content-Length, a list is sent at once.
            exchange.finish_ready(body)
            return body
        if _is_file(body, environ.get("wsgi.file_wrapper")):
            exchange.finish_at_close(body)
            return body
        return (_SizedBody if hasattr(kind, "__len__") else _Body)(exchange, body)

    def _admit(self, exchange: _Exchange, outer: Measurement | None, environ: WSGIEnvironment) -> bool:
        """Decide on a request that is not like every other; False = another middleware counts it already.

        One that nobody counts is admitted as settled, so that what the app binds and tracks in it finds its request.
        """
        recorder = exchange.recorder
        mark = environ.get(_MARK)
        # Adapters from ASGI make an environment without a mark.
        is_inside = mark is not None or (outer is not None and isinstance(outer.request(), AsgiRequest))
        if is_inside:
            if recorder is (mark or (outer and outer.recorder)) or recorder is None or not recorder.active:
                return False
            exchange.parent = outer
        if recorder is None or not recorder.active:
            exchange.settled = True
            return True
        path = environ.get("PATH_INFO", "").encode("latin-1", "replace").decode("utf-8", "replace") or "/"
        exchange.settled = self._selection.leaves_out(path, recorder.guard)
        if not exchange.settled:
            environ[_MARK] = recorder
            exchange.weight = self._selection.weight(path, recorder.guard)
            exchange.settled = exchange.weight == 0
        return True


class _Exchange(Measurement):
    """One request while it is in flight."""

    __slots__ = (
        "_began",
        "_entry_script",
        "_environ",
        "_first",
        "_headers",
        "_middleware",
        "_server_write",
        "_start_response",
        "_started",
        "_status",
        "size",
        "template",
        "weight",
    )

    _headers: list[tuple[str, str]]
    _server_write: Callable[[bytes], object]

    def __init__(
        self,
        middleware: UsageMiddleware,
        recorder: Recorder | None,
        identify: Callable[[Any], object] | None,
        environ: WSGIEnvironment,
        start: StartResponse,
    ) -> None:
        self._began = time_ns()
        self._started = perf_counter_ns()
        # Measurement's own six, without the call.
        self.recorder = recorder
        self.identify = identify
        self.parent = self.bound = self.found = None
        self.settled = False
        self._middleware = middleware
        self._environ = environ
        self._entry_script = environ.get("SCRIPT_NAME", "") if middleware.mounts else ""
        self._start_response = start
        self._status = self.size = 0
        self._first = 0  # clock at the first body byte; 0 = not yet
        self.template = ""  # as the framework said while its request was still there
        self.weight = 1

    def request(self) -> WsgiRequest:
        return WsgiRequest(self._environ)

    def route(self) -> str:
        environ = self._environ
        middleware = self._middleware
        try:
            template = self.template or _template(environ)
            if middleware.mounts:
                prefix = environ.get("SCRIPT_NAME", "")[len(self._entry_script) :]
                if prefix in middleware.mounts:
                    template = prefix + template
        except Exception as error:  # noqa: BLE001  frameworks change what they leave in an environment
            template = ""
            if self.recorder is not None:
                self.recorder.guard.caught("route", error)
        return middleware.route_names[environ.get("REQUEST_METHOD", "GET")][template]

    def bind(self, values: dict[str, object]) -> None:
        super().bind(values)
        if self.parent is not None:
            self.parent.bind(values)  # the same request, counted by another recorder too

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: _ExcInfo | None = None
    ) -> Callable[[bytes], object]:
        # The server first: it refuses a second status once the headers are out, and then the first one stays.
        if exc_info is None:
            self._server_write = self._start_response(status, headers)
        else:
            self._server_write = self._start_response(status, headers, exc_info)
        try:
            self._status = _CODES[status]
        except (TypeError, AttributeError):
            self._status = 0  # no text, which some server takes
        self._headers = headers
        # Flask takes its request away when it has answered, and what `identify` needs.
        if "werkzeug.request" in self._environ:
            self.template = _template(self._environ)
            if self._middleware.asks_at_start and not self.settled:
                self.identity()
                self.identify = None
        return self._write

    def _write(self, data: bytes) -> object:
        written = self._server_write(data)
        self.saw(data)
        return written

    def saw(self, chunk: bytes) -> None:
        """Note that a part of the body is on its way."""
        if chunk:
            if not self._first:
                self._first = perf_counter_ns()
            try:
                self.size += len(chunk)
            except TypeError:
                return  # the server says what it thinks of such a chunk

    def fail(self) -> None:
        """Record that the app raised; what the client was told before stays."""
        if self._first:
            self.finish()
        else:
            self._status = _SERVER_ERROR
            self.finish(complete=True)

    def finish_ready(self, body: Iterable[bytes]) -> None:
        """Record a request whose whole body is at hand."""
        size = 0
        try:
            for chunk in body:
                size += len(chunk)
        except TypeError:
            pass  # the server says what it thinks of such a chunk
        if size:
            self.size += size
            self._first = self._first or perf_counter_ns()
        self.finish(complete=True)

    def finish_at_close(self, file: Any) -> None:
        """Record a request when the server closes the file that it sends by itself."""
        if self.settled:
            return
        close = getattr(file, "close", None)
        for name, value in self._headers if self._status else ():
            if name.lower() == "content-length" and value.isdecimal():
                self.size += int(value)

        def closing() -> None:
            try:
                if close is not None:
                    close()
            finally:
                self.finish(complete=True)

        try:
            file.close = closing
        except AttributeError:
            self.finish(complete=True)

    def finish(self, *, complete: bool = False) -> None:
        """Record the request, once; `complete` where nothing of its body is missing."""
        recorder = self.recorder
        if self.settled or recorder is None:
            return
        self.settled = True
        try:
            ended = perf_counter_ns()
            status = self._status or (_SERVER_ERROR if complete else _CLIENT_GONE)
            is_head = self._environ.get("REQUEST_METHOD") == "HEAD"
            recorder.record_request(
                self,
                self.event_type(self._middleware.event),
                status,
                self.route(),
                not (complete or is_head or status in _WITHOUT_BODY),
                self._began // 1000,
                (ended - self._started) // 1000,
                (ended - self._first) // 1000 if self._first else None,
                0 if is_head else self.size,
                self.weight,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            recorder.guard.caught("wsgi", error)


class _Body:
    """The body that the server iterates and closes."""

    __slots__ = ("_body", "_exchange")

    def __init__(self, exchange: _Exchange, body: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._body = body

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        iterator: Iterator[bytes] | None = None
        while True:
            token = current.set(exchange)
            try:
                if iterator is None:
                    iterator = iter(self._body)
                chunk = next(iterator)
            except StopIteration:
                break
            except BaseException:
                exchange.fail()
                raise
            finally:
                current.reset(token)
            exchange.saw(chunk)
            yield chunk
        exchange.finish(complete=True)

    def close(self) -> None:
        """Close the app's body, and end the request."""
        exchange = self._exchange
        close = getattr(self._body, "close", None)
        token = current.set(exchange)
        try:
            if close is not None:
                close()
        finally:
            current.reset(token)
            exchange.finish()

    def __del__(self) -> None:
        # Adapters from ASGI to WSGI do not close bodies when the client is gone.
        self._exchange.finish()


class _SizedBody(_Body):
    """A body that has a length. Only then may it have one: servers ask without expecting an error."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self._body)  # type: ignore[arg-type] # only bodies with a length come here


def exchange_of(environ: Mapping[str, Any]) -> _Exchange | None:
    """Give what measures this request; None where nothing in WSGI does. For frameworks' glue, within the request."""
    exchange = current.get()
    return exchange if type(exchange) is _Exchange and environ.get(_MARK) is exchange.recorder else None


def _telling(outer: Measurement, environ: WSGIEnvironment, start_response: StartResponse) -> StartResponse:
    """Let the ASGI middleware that counts this request know the route in here, as `template_of` expects it."""
    scope = getattr(outer.request(), "scope", None)
    if scope is None:
        return start_response

    def telling(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Callable[[bytes], object]:
        scope["path_template"] = _template(environ)
        return start_response(status, headers, *exc_info)

    return telling


def _is_file(body: object, wrapper: Any) -> bool:
    """Say whether the server sends `body` by itself, which it only does when it recognises what its wrapper made."""
    if wrapper is None:
        return False
    # uWSGI's wrapper is a function that gives back the file itself.
    return isinstance(body, wrapper) if isinstance(wrapper, type) else hasattr(body, "read")


def _template(environ: WSGIEnvironment) -> str:
    """Give the path template that app or framework left in the environment; `""` where none did. Never a raw path."""
    told = environ.get("usagekit.route")
    if told is not None:
        return str(told)
    if "werkzeug.request" in environ:
        rule = getattr(environ["werkzeug.request"], "url_rule", None)
        return "" if rule is None else str(rule)
    return str(environ["bottle.route"].rule) if "bottle.route" in environ else ""
