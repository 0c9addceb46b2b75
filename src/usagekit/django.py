"""Thin glue for Django: a middleware for sync and async Django, which the settings tell what it needs.

```python
# mysite/usage.py
recorder = Recorder(SQLiteBackend("usage.db"))


def identify(request):
    return request.user.pk  # None for anonymous visitors
```
```python
# mysite/settings.py
MIDDLEWARE = ["usagekit.django.UsageMiddleware", ...]  # first; after WhiteNoise, where its files are not to be counted
USAGEKIT = {"RECORDER": "mysite.usage.recorder", "IDENTIFY": "mysite.usage.identify"}
```

```python
# mysite/urls.py
urlpatterns = [path("admin/usage/", include(usage_urls(recorder, auth=lambda request: request.user.is_superuser))), ...]
```

`USAGEKIT` takes `RECORDER`, `IDENTIFY`, `EXCLUDE`, `SAMPLE`, `EVENT` and `MAX_ROUTES`, which mean what the options of
`usagekit.wsgi.UsageMiddleware` do; the first four may be dotted paths. The recorder becomes the process's default;
without one, the process's default is used.
"""

from __future__ import annotations

import re
from time import perf_counter_ns, time_ns
from typing import TYPE_CHECKING, Any

from asgiref.sync import iscoroutinefunction, markcoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import SynchronousOnlyOperation
from django.http import HttpResponse
from django.urls import URLPattern, re_path
from django.utils.module_loading import import_string
from django.views.decorators.csrf import csrf_exempt

from usagekit._options import check_middleware
from usagekit.context import Measurement, current, leave_out, told_by
from usagekit.errors import ConfigurationError
from usagekit.recorder import Recorder, default_recorder, set_default_recorder
from usagekit.selection import DEFAULT_EXCLUDED, DEFAULT_MAX_ROUTES, Routes, Selection
from usagekit.wsgi import exchange_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator, Mapping

    from django.http import HttpRequest
    from django.http.response import HttpResponseBase

    from usagekit.query import Reader

__all__ = ["DjangoRequest", "UsageMiddleware", "usage_urls"]

_OPTIONS = ("RECORDER", "IDENTIFY", "EXCLUDE", "SAMPLE", "EVENT", "MAX_ROUTES")
_CLIENT_GONE = 499
_SERVER_ERROR = 500
_ANCHOR = re.compile(r"(^|/)\^")


class DjangoRequest:
    """A view of a request under Django, as `identify` gets it; see `usagekit.request.AsgiRequest`.

    Attributes:
        request: Django's own; do not change it.
    """

    __slots__ = ("request",)

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    @property
    def scope(self) -> Any:
        """The ASGI scope; None under WSGI."""
        return getattr(self.request, "scope", None)

    @property
    def environ(self) -> Any:
        """The WSGI environment; None under ASGI."""
        return getattr(self.request, "environ", None)

    @property
    def method(self) -> str:
        """The HTTP method, `"GET"`."""
        return str(self.request.method)

    @property
    def path(self) -> str:
        """The decoded path, the mount's prefix included."""
        return str(self.request.path)

    @property
    def headers(self) -> Any:
        """The request headers, by case-insensitive name."""
        return self.request.headers

    @property
    def cookies(self) -> Any:
        """The request's cookies by name."""
        return self.request.COOKIES

    @property
    def query(self) -> dict[str, str]:
        """The query parameters; of several with one name the last."""
        return dict(self.request.GET.items())

    @property
    def state(self) -> dict[str, Any]:
        """Empty: Django has no such place."""
        return {}

    @property
    def session(self) -> Any:
        """The session; empty without Django's session middleware."""
        return getattr(self.request, "session", {})

    @property
    def user(self) -> Any:
        """The user, who may be anonymous; None without Django's authentication middleware."""
        return getattr(self.request, "user", None)


class UsageMiddleware:
    """Records one event for every request; a line in `MIDDLEWARE`. One per process, it lives as long as Django does.

    `identify` is asked when the response comes back, so that all other middlewares have run. A request ends when its
    response passes here, a streamed one with its last part or when the server closes it. Django's own views of static
    files are left out.

    Raises:
        ConfigurationError: `settings.USAGEKIT` is not what it should be.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[Any], Any]) -> None:
        self.get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)
        options = _options(getattr(settings, "USAGEKIT", {}))
        self._recorder: Recorder | None = options.get("RECORDER")
        self.identify: Callable[[Any], object] | None = options.get("IDENTIFY")
        self.event: str | Callable[[Any], str | None] = options.get("EVENT", "request")
        max_routes = options.get("MAX_ROUTES", DEFAULT_MAX_ROUTES)
        check_middleware(self._recorder, self.identify, self.event, max_routes)
        if self._recorder is not None:
            set_default_recorder(self._recorder)
        self._selection = Selection(options.get("EXCLUDE", DEFAULT_EXCLUDED), options.get("SAMPLE", 1))
        self.route_names = Routes(max_routes)
        self.process_view = _ask_async if self._is_async else _ask

    def __call__(self, request: HttpRequest) -> Any:
        """Serve one request: gives the response, or in async Django an awaitable of it."""
        recorder = self._recorder or default_recorder()
        outer = _outer(request)
        if outer is not None and (outer.recorder is recorder or recorder is None or not recorder.active):
            return self._tell_async(request) if self._is_async else _tell(request, self.get_response(request))
        exchange = _Exchange(self, recorder, request)
        exchange.parent = outer
        if recorder is None or not recorder.active or self._selection.leaves_out(request.path_info, recorder.guard):
            exchange.settled = True
        else:
            exchange.weight = self._selection.weight(request.path_info, recorder.guard)
            exchange.settled = exchange.weight == 0
        return self._serve_async(exchange, request) if self._is_async else self._serve(exchange, request)

    def _serve(self, exchange: _Exchange, request: HttpRequest) -> HttpResponseBase:
        token = current.set(exchange)
        try:
            response: HttpResponseBase = self.get_response(request)
        except BaseException:
            exchange.fail()
            raise
        finally:
            current.reset(token)
        if response.streaming and getattr(response, "is_async", False):
            exchange.identity()  # its parts are made in an event loop
        exchange.leave_with(response)
        return response

    async def _serve_async(self, exchange: _Exchange, request: HttpRequest) -> HttpResponseBase:
        token = current.set(exchange)
        try:
            response: HttpResponseBase = await self.get_response(request)
        except BaseException as error:
            exchange.fail(_SERVER_ERROR if isinstance(error, Exception) else _CLIENT_GONE)
            raise
        finally:
            current.reset(token)
        await exchange.ask()
        exchange.leave_with(response)
        return response

    async def _tell_async(self, request: HttpRequest) -> HttpResponseBase:
        return _tell(request, await self.get_response(request))


def usage_urls(
    source: Reader,
    *,
    auth: Callable[[Any], object],
    scope: Callable[[Any], object] | None = None,
    names: Callable[[list[str]], Mapping[str, str]]
    | Mapping[str, Callable[[list[str]], Mapping[str, str]]]
    | None = None,
) -> list[URLPattern]:
    """Give the admin endpoint for a URLconf: `path("admin/usage/", include(usage_urls(recorder, auth=...)))`.

    Options as of `usagekit.admin.usage_wsgi_app`; `auth` and `scope` get a `DjangoRequest`, and are plain functions,
    also in async Django. They run in the thread of the request, whose database connections they share, so one that
    hangs cannot be given up; what takes longer than 5 s lets nobody in. Needs Jinja: `usagekit[admin]`.

    Raises:
        ConfigurationError: an option that cannot work.
        MissingDependencyError: Jinja is not installed.
    """
    from usagekit.admin.auth import ask_here
    from usagekit.admin.site import Request, Site

    site = Site(source, auth, scope, names, can_await=False, asks=ask_here)

    def answer(request: HttpRequest, rest: str) -> HttpResponse:
        leave_out()
        below = rest if rest.startswith("/") else f"/{rest}"
        path = below if rest or request.path.endswith("/") else ""
        told = site.answer(Request(DjangoRequest(request), path, request.META.get("QUERY_STRING", "")))
        return HttpResponse(told.body, status=told.status, headers=dict(told.headers))

    # Nothing here changes anything, and a POST is told so.
    return [re_path(r"^(?P<rest>.*)$", csrf_exempt(answer), name="usagekit")]


class _Exchange(Measurement):
    """One request while it is in flight."""

    __slots__ = ("_asks", "_began", "_first", "_middleware", "_request", "_started", "_status", "size", "weight")

    def __init__(self, middleware: UsageMiddleware, recorder: Recorder | None, request: HttpRequest) -> None:
        self._began = time_ns()
        self._started = perf_counter_ns()
        self._asks = None if recorder is None else middleware.identify or recorder.identify
        super().__init__(recorder, None if self._asks is None else self._identify)
        self._middleware = middleware
        self._request = request
        self._status = 0
        self._first = 0  # clock at the first body byte; 0 = not yet
        self.size = 0
        self.weight = 1

    def request(self) -> DjangoRequest:
        return DjangoRequest(self._request)

    def route(self) -> str:
        return self._middleware.route_names[self._request.method][_template(self._request)]

    def bind(self, values: dict[str, object]) -> None:
        super().bind(values)
        if self.parent is not None:
            self.parent.bind(values)  # the same request, counted by another recorder too

    def _identify(self, view: DjangoRequest) -> object:
        try:
            return None if self._asks is None else self._asks(view)
        except SynchronousOnlyOperation:
            return None  # the user is still in the database, and must not be fetched in an event loop: `ask` does it

    async def ask(self, *, again: bool = False) -> None:
        """Ask `identify` in async Django, where it may be async, or ask the database.

        `again`: whether it will be asked once more, if this gives nothing.
        """
        asks, recorder = self._asks, self.recorder
        if asks is None or recorder is None or self.settled or self.found is not None:
            return
        try:
            try:
                answer: Any = asks(self.request())
            except SynchronousOnlyOperation:
                answer = await sync_to_async(asks)(self.request())
            self.found = told_by(await answer if hasattr(answer, "__await__") else answer)
        except Exception as error:  # noqa: BLE001  the app's own callable may raise anything
            if not again:
                recorder.guard.caught("identify", error)
        if not again:
            self.identify = None

    def leave_with(self, response: HttpResponseBase) -> None:
        """Record the request, or see to it that it is recorded at the end of a streamed response."""
        self._status = response.status_code
        self.settled = self.settled or _is_static(self._request)
        if not response.streaming and getattr(response, "is_rendered", True):
            self.saw(response.content)
            self.finish(complete=True)
        else:
            self._finish_later(response)

    def _finish_later(self, response: Any) -> None:
        is_whole = not response.streaming  # a middleware around this one renders it
        is_file = getattr(response, "file_to_stream", None) is not None
        if is_file:
            # A server sends it by itself, and only as long as nobody wrapped it.
            length = str(response.get("Content-Length", ""))
            self.size = int(length) if length.isdecimal() and length.isascii() else 0
        elif not is_whole:
            parts = response.streaming_content
            response.streaming_content = self._async_parts(parts) if response.is_async else self._parts(parts)
        close = response.close

        def closing() -> None:
            try:
                close()
            finally:
                if is_whole and response.is_rendered:
                    self.saw(response.content)
                self.finish(complete=is_file or is_whole)

        response.close = closing

    def _parts(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        iterator = iter(parts)
        while True:
            token = current.set(self)
            try:
                part = next(iterator)
            except StopIteration:
                break
            except BaseException:
                self.fail()
                raise
            finally:
                current.reset(token)
            self.saw(part)
            yield part
        self.finish(complete=True)

    async def _async_parts(self, parts: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        iterator = aiter(parts)
        while True:
            token = current.set(self)
            try:
                part = await anext(iterator)
            except StopAsyncIteration:
                break
            except BaseException:
                self.fail()
                raise
            finally:
                current.reset(token)
            self.saw(part)
            yield part
        self.finish(complete=True)

    def saw(self, part: bytes) -> None:
        """Note that a part of the body is on its way."""
        if part:
            self.size += len(part)
            self._first = self._first or perf_counter_ns()

    def fail(self, status: int = _SERVER_ERROR) -> None:
        """Record that something raised; what the client was told before stays."""
        self._status = self._status or status
        self.finish(complete=self._status == _SERVER_ERROR)

    def finish(self, *, complete: bool = False) -> None:
        """Record the request, once; `complete` where nothing of its body is missing."""
        recorder = self.recorder
        if self.settled or recorder is None:
            return
        self.settled = True
        try:
            ended = perf_counter_ns()
            is_head = self._request.method == "HEAD"
            recorder.record_request(
                self,
                self.event_type(self._middleware.event),
                self._status,
                self.route(),
                not (complete or is_head),
                self._began // 1000,
                (ended - self._started) // 1000,
                (ended - self._first) // 1000 if self._first else None,
                0 if is_head else self.size,
                self.weight,
            )
        except Exception as error:  # noqa: BLE001  nothing may reach the host
            recorder.guard.caught("django", error)


def _ask(_request: HttpRequest, view: Any, _args: object, _kwargs: object) -> None:
    """Ask whom an async view counts for while that is allowed: what it tracks comes from an event loop."""
    exchange = current.get()
    if isinstance(exchange, _Exchange) and not exchange.settled and iscoroutinefunction(view):
        exchange.identity()


async def _ask_async(_request: HttpRequest, view: Any, _args: object, _kwargs: object) -> None:
    exchange = current.get()
    if isinstance(exchange, _Exchange) and iscoroutinefunction(view):
        await exchange.ask(again=True)


def _options(given: object) -> dict[str, Any]:
    if not isinstance(given, dict) or not given.keys() <= set(_OPTIONS):
        raise ConfigurationError(f"settings.USAGEKIT is {given!r}; give a dictionary of {', '.join(_OPTIONS)}")
    options = {name: value if name == "EVENT" else _imported(value) for name, value in given.items()}
    recorder = options.get("RECORDER")
    if recorder is not None and not isinstance(recorder, Recorder):
        raise ConfigurationError(f"USAGEKIT['RECORDER'] is {recorder!r}; give a Recorder, or the dotted path to one")
    return options


def _imported(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return import_string(value)
    except ImportError as error:
        raise ConfigurationError(f"settings.USAGEKIT holds {value!r}, which cannot be imported: {error}") from error


def _outer(request: HttpRequest) -> Measurement | None:
    """Give what measures this request already, in a middleware around Django."""
    scope = getattr(request, "scope", None)
    if scope is None:
        return exchange_of(request.META)
    outer = current.get()
    return outer if outer is not None and outer.recorder is scope.get("usagekit", outer) else None


def _tell(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    """Tell the middleware around Django the route."""
    scope, exchange = getattr(request, "scope", None), exchange_of(request.META)
    if scope is not None:
        scope["path_template"] = _template(request)
    elif exchange is not None:
        exchange.template = _template(request)
    return response


def _template(request: HttpRequest) -> str:
    """Give the route as the URLconf has it, regular expressions without their anchors; `""` where none matched."""
    match = request.resolver_match
    return "" if match is None else "/" + _ANCHOR.sub(r"\1", match.route or "").removesuffix("$")


def _is_static(request: HttpRequest) -> bool:
    match = request.resolver_match
    return match is not None and getattr(match.func, "__module__", "") in {
        "django.views.static",
        "django.contrib.staticfiles.views",
    }
