"""Counting requests of any WSGI app: pure WSGI, streamed bodies stay streamed, files stay files."""

from __future__ import annotations

from time import perf_counter_ns, time_ns

from usagekit.context import Measurement, current
from usagekit.exclusion import DEFAULT_EXCLUDED, compiled
from usagekit.recorder import default_recorder
from usagekit.request import WsgiRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType
    from typing import Any

    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

    from usagekit.recorder import Recorder

__all__ = ["UsageMiddleware"]

_METHODS = frozenset(["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "QUERY"])
_MARK = "usagekit.counted"  # in the environment of a request that is being counted
_SERVER_ERROR = 500


class UsageMiddleware:
    """Records one event for every request that passes through a WSGI app.

    One per app, it lives as long as the app; the state of a request is in an object of its own. A request ends when
    its body is exhausted or closed. An exception of the app passes through, counted as status 500.

    Args:
        app: the WSGI app to wrap.
        recorder: where events go; None = the process's default at the time of each request.
        identify: called with a `WsgiRequest`, after the app's own authentication; returns a user id, an `Identity` or
            None. None = the recorder's.
        exclude: paths that are not counted: exact ones, patterns with `*`, compiled regular expressions; or a callable
            that is given the path. Replaces the default list.
        event: event type of requests, or a callable that is given the `WsgiRequest` and returns one; None from it
            means `"request"`.
    """

    def __init__(
        self,
        app: WSGIApplication,
        *,
        recorder: Recorder | None = None,
        identify: Callable[[Any], object] | None = None,
        exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool] = DEFAULT_EXCLUDED,
        event: str | Callable[[WsgiRequest], str | None] = "request",
    ) -> None:
        self.app = app
        self._recorder = recorder
        self.identify = identify
        self._excluded_paths, self._excludes = compiled(exclude)
        self.event = event

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        recorder = self._recorder or default_recorder()
        if recorder is None or not recorder.active or _MARK in environ or self._is_excluded(environ, recorder):
            return self.app(environ, start_response)
        exchange = _Exchange(self, recorder, environ, start_response)
        environ[_MARK] = True  # not the exchange, which refers to the environment
        token = current.set(exchange)
        try:
            body = self.app(environ, exchange.start_response)
        except BaseException:
            exchange.fail()
            exchange.finish()
            raise
        finally:
            current.reset(token)
        wrapper = environ.get("wsgi.file_wrapper")
        if wrapper is not None and isinstance(wrapper, type) and isinstance(body, wrapper):
            # Servers send such files by themselves when they recognise the type: it must not be wrapped.
            exchange.finish(complete=True)
            return body
        exchange.body = body
        return exchange

    def _is_excluded(self, environ: WSGIEnvironment, recorder: Recorder) -> bool:
        path = environ.get("SCRIPT_NAME", "") + environ.get("PATH_INFO", "")
        if path in self._excluded_paths:
            return True
        if self._excludes is None:
            return False
        try:
            return bool(self._excludes(path.encode("latin-1", "replace").decode("utf-8", "replace")))
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            recorder.guard.caught("exclude", error)
            return False


class _Exchange(Measurement):
    """One request while it is in flight, and the iterable that the server gets."""

    __slots__ = (
        "_environ",
        "_first",
        "_middleware",
        "_server_write",
        "_start_response",
        "_started",
        "_status",
        "body",
        "size",
    )

    recorder: Recorder
    body: Iterable[bytes]
    _server_write: Callable[[bytes], object]

    def __init__(
        self, middleware: UsageMiddleware, recorder: Recorder, environ: WSGIEnvironment, start: StartResponse
    ) -> None:
        self._started = perf_counter_ns()
        identify = middleware.identify
        super().__init__(recorder, recorder.identify if identify is None else identify)
        self._middleware = middleware
        self._environ = environ
        self._start_response = start
        self._status = 0
        self._first = 0
        self.size = 0

    def request(self) -> WsgiRequest:
        return WsgiRequest(self._environ)

    def route(self) -> str:
        method = self._environ.get("REQUEST_METHOD", "GET")
        if method not in _METHODS:
            method = "OTHER"
        return f"{method} {_template(self._environ) or '(unmatched)'}"

    def start_response(
        self,
        status: str,
        headers: list[tuple[str, str]],
        exc_info: tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None = None,
    ) -> Callable[[bytes], object]:
        # The last call wins: an error page replaces what was announced before it.
        try:
            self._status = int(status[:3])
        except ValueError:
            self._status = 0
        if exc_info is None:
            self._server_write = self._start_response(status, headers)
        else:
            self._server_write = self._start_response(status, headers, exc_info)
        return self._write

    def _write(self, data: bytes) -> object:
        self._saw(data)
        return self._server_write(data)

    def __iter__(self) -> Iterator[bytes]:
        body = self.body
        # Ready-made bodies run none of the app's code, so they need no context.
        return self._ready_chunks(body) if type(body) is list or type(body) is tuple else self._chunks(body)

    def _ready_chunks(self, body: Iterable[bytes]) -> Iterator[bytes]:
        for chunk in body:
            self._saw(chunk)
            yield chunk
        self.finish(complete=True)

    def _chunks(self, body: Iterable[bytes]) -> Iterator[bytes]:
        iterator: Iterator[bytes] | None = None
        while True:
            token = current.set(self)
            try:
                if iterator is None:
                    iterator = iter(body)
                chunk = next(iterator)
            except StopIteration:
                break
            except BaseException:
                self.fail()
                raise
            finally:
                current.reset(token)
            self._saw(chunk)
            yield chunk
        self.finish(complete=True)

    # Servers take a Content-Length from a body of length one.

    def __len__(self) -> int:
        return len(self.body)  # type: ignore[arg-type] # raises TypeError, as the body itself does

    def __bool__(self) -> bool:
        return True

    def close(self) -> None:
        """End the request; called by the server once, whatever happened."""
        close = getattr(self.body, "close", None)
        if close is None:
            self.finish()
            return
        token = current.set(self)
        try:
            close()
        finally:
            current.reset(token)
            self.finish()

    def _saw(self, chunk: bytes) -> None:
        if chunk:
            self.size += len(chunk)
            if not self._first:
                self._first = perf_counter_ns()

    def fail(self) -> None:
        """Note that the app raised; what the client was told before stays."""
        if not self._first:
            self._status = _SERVER_ERROR

    def finish(self, *, complete: bool = False) -> None:
        """Record the request, once."""
        if self.settled:
            return
        self.settled = True
        try:
            now = perf_counter_ns()
            elapsed = now - self._started
            self.recorder.record_request(
                self,
                self._event_type(),
                self._status or _SERVER_ERROR,
                self.route(),
                not complete and self._status != _SERVER_ERROR,
                (time_ns() - elapsed) // 1000,
                elapsed // 1000,
                (now - self._first) // 1000 if self._first else None,
                0 if self._environ.get("REQUEST_METHOD") == "HEAD" else self.size,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            self.recorder.guard.caught("wsgi", error)

    def _event_type(self) -> object:
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


def _template(environ: WSGIEnvironment) -> str:
    """Give the path template that the framework matched; `""` where none did. Never a raw path."""
    told = environ.get("usagekit.route")
    if told is not None:
        return str(told)
    request = environ.get("werkzeug.request")
    rule = getattr(request, "url_rule", None)
    return "" if rule is None else str(rule)
