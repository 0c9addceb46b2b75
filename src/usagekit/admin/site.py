"""One mounted endpoint: who may look, at what, and the one way from a request to its answer."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from usagekit import _clean
from usagekit._guard import Guard
from usagekit._options import refuse
from usagekit.admin.api import health, openapi, summary, usage_report
from usagekit.admin.auth import BearerAuth, Unanswered, ask, refuse_async
from usagekit.admin.page import environment, error_page, page
from usagekit.admin.response import HTML, METHODS, Response, problem, respond
from usagekit.errors import ConfigurationError, QueryError, QueryTimeout, StorageError
from usagekit.query import BUCKETS
from usagekit.query.algebra import values_of

if TYPE_CHECKING:
    from collections.abc import Awaitable

__all__ = ["Request", "Site", "render"]

Names = Callable[[list[str]], Mapping[str, str]]

_REPORTS: dict[str, Callable[[Any, Any, Mapping[str, object] | None], Response]] = {
    "/": page,
    "/api/usage": usage_report,
    "/api/summary": summary,
    "/api/health": health,
    "/openapi.json": openapi,
}


@dataclass(frozen=True, slots=True)
class Request:
    """What an answer depends on.

    Attributes:
        view: what `auth` and `scope` get to see.
        path: decoded, below the mount, as `"/api/usage"`; `""` where the last slash is missing.
        query: the query string.
    """

    view: Any
    path: str
    query: str


class Site:
    """What one endpoint was told when it was made; immutable, any thread may use it.

    Attributes:
        source: what is asked: a recorder, or any other reader.
        names: by dimension, what gives names for ids.
        is_scoped: whether each visitor sees their own part only.
        guard: counts and logs what the app's callables do wrong.
    """

    def __init__(
        self, source: Any, auth: Any, scope: Any, names: Any, *, can_await: bool, asks: Callable[..., object] = ask
    ) -> None:
        if not hasattr(source, "read"):
            raise ConfigurationError(f"cannot ask a {type(source).__name__}; give a Recorder or a backend with read()")
        if auth is None or not callable(auth):
            given = "a text" if isinstance(auth, str) else repr(auth)  # it may be the token
            raise ConfigurationError(
                f"auth={given} lets nobody be told from anybody; give BearerAuth(token), "
                "or a callable that is given the request and returns True for who may look"
            )
        if isinstance(auth, type):
            raise ConfigurationError(f"auth is the class {auth.__name__}; give an object: {auth.__name__}(...)")
        if scope is not None and not callable(scope):
            raise ConfigurationError("scope= is not callable; give a function of the request that returns a where")
        if names is not None and not callable(names) and not hasattr(names, "items"):
            refuse("names", names, "names nobody", "a function of a list of user ids that returns a mapping of names")
        self.names: Mapping[str, Names] = {"user": names} if callable(names) else dict(names or {})
        if not can_await:
            for name, function in {"auth": auth, "scope": scope, "names": None, **self.names}.items():
                refuse_async(function, name)
        self.source = source
        self.is_scoped = scope is not None
        self.guard: Guard = getattr(source, "guard", None) or Guard()
        self._auth = auth
        environment()  # a missing extra is to be said now
        self._scope = scope
        self._asks = asks

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions."""
        return tuple(getattr(self.source, "dimensions", ()))

    def answer(self, request: Request, awaiting: Callable[[Awaitable[Any]], object] | None = None) -> Response:
        """Give the whole answer to one request; never raises. Blocks: under ASGI call it in a thread.

        Args:
            request: what came in.
            awaiting: waits for what an async callable of the app returned; None = nothing here can.
        """
        response = self._answer(request, awaiting)
        return response._replace(body=b"") if request.view.method == "HEAD" else response

    def _answer(self, request: Request, awaiting: Callable[[Awaitable[Any]], object] | None) -> Response:
        try:
            refusal = self._refusal(request, awaiting)
            if refusal is not None:
                return refusal
            where = self._where(request, awaiting)
        except Unanswered as failed:
            self.guard.noted("admin", f"nobody was let in: {failed.why}")
            return denied(request, 503, "it could not be found out who may look; try again")
        except _NotAllowed as error:
            return denied(request, 403, str(error))
        try:
            return render(self, request, where)
        except Exception as error:  # noqa: BLE001  the host must not answer for us
            self.guard.caught("admin", error)
            return denied(request, 503, "this could not be answered; the app's log says why")

    def _refusal(self, request: Request, awaiting: Callable[[Awaitable[Any]], object] | None) -> Response | None:
        auth = self._auth
        # A subclass is the app's own code, which may do anything.
        verdict = auth(request.view) if type(auth) is BearerAuth else self._asks(auth, request.view, awaiting)
        if verdict is True:
            return None
        if verdict is None:
            challenges = getattr(auth, "challenges", ('Bearer realm="usagekit"',))
            more = [("WWW-Authenticate", ", ".join(challenges))]
            return denied(request, 401, "who asks is not known; log in, or send a token", more)
        return denied(request, 403, "you may not look at this")

    def _where(
        self, request: Request, awaiting: Callable[[Awaitable[Any]], object] | None
    ) -> Mapping[str, object] | None:
        """Give what the visitor is confined to; None = nothing."""
        if self._scope is None:
            return None
        where = self._asks(self._scope, request.view, awaiting)
        if not where:
            raise _NotAllowed("there is nothing here for you to look at")
        if not isinstance(where, Mapping):
            raise Unanswered(f"scope returned a {type(where).__name__}")
        confined: dict[str, object] = {}
        for name, given in where.items():
            if name in BUCKETS:
                raise Unanswered(f"scope returned a filter on {name!r}; only dimensions can confine")
            values = values_of(given)
            # What is unknown is nobody's own, and an id that is missing, or no id at all, must not show it.
            if not values or any(value is None or not _clean.dimension_text(name, value) for value in values):
                raise _NotAllowed("there is nothing here for you to look at")
            confined[name] = values
        return confined


class _NotAllowed(Exception):  # noqa: N818  a verdict
    pass


def render(site: Site, request: Request, where: Mapping[str, object] | None) -> Response:
    """Give the answer to a request of somebody who may look; depends on nothing but what it is given and the source.

    Args:
        site: the endpoint.
        request: what came in.
        where: what the visitor is confined to; None = nothing.
    """
    if request.path == "":
        # Links are relative, so that they work under whatever prefix a proxy adds.
        name = quote(request.view.path.rsplit("/", 1)[-1], safe="")
        return respond(307, HTML, "", [("Location", f"./{name}/{'?' * bool(request.query)}{_safe(request.query)}")])
    report = _REPORTS.get(request.path)
    if report is None:
        return denied(request, 404, f"there is no such page; there are {', '.join(_REPORTS)}")
    if request.view.method not in METHODS:
        return denied(request, 405, "only GET and HEAD work here", [("Allow", ", ".join(METHODS))])
    try:
        return report(site, request, where)
    except QueryTimeout as error:
        return denied(request, 422, str(error))
    except QueryError as error:
        return denied(request, 400, str(error))
    except (StorageError, sqlite3.Error) as error:
        site.guard.noted("admin", error)
        # A customer is not to see where files lie.
        return denied(request, 503, "the ledger cannot be read" if site.is_scoped else str(error))


def denied(request: Request, status: int, detail: str, more: list[tuple[str, str]] | None = None) -> Response:
    """Say what was wrong: to a browser as a page, to everybody else as problem JSON."""
    if "text/html" in (request.view.headers.get("accept") or ""):
        return respond(status, HTML, error_page(status, detail, is_home=request.path == "/"), more or ())
    return problem(status, detail, more or ())


def _safe(query: str) -> str:
    return quote(query, safe="=&%+;:,/?@-._~!$'()*")
