"""Thin glue for Flask: the WSGI middleware around the app, and `identify` while Flask's context is still there."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response, request, session

from usagekit._options import check_middleware, refuse
from usagekit.context import leave_out
from usagekit.recorder import set_default_recorder
from usagekit.request import WsgiRequest
from usagekit.selection import DEFAULT_EXCLUDED, DEFAULT_MAX_ROUTES
from usagekit.wsgi import UsageMiddleware, exchange_of

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable, Mapping

    from werkzeug.routing import Rule

    from usagekit.query import Reader
    from usagekit.recorder import Recorder

__all__ = ["FlaskRequest", "init_app", "usage_blueprint"]

_EXTENSION = "usagekit"
_METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE")


class FlaskRequest(WsgiRequest):
    """A view of a request under Flask, as `identify` gets it; see `usagekit.request.WsgiRequest`."""

    __slots__ = ()

    @property
    def session(self) -> Any:
        """Flask's session."""
        return session

    @property
    def user(self) -> Any:
        """Flask-Login's `current_user`, who may be anonymous; without Flask-Login `REMOTE_USER` or None."""
        flask_login = sys.modules.get("flask_login")
        user = None if flask_login is None else getattr(flask_login, "current_user", None)
        # Without a login manager in this app the proxy stands for nothing.
        return self.environ.get("REMOTE_USER") if user is None or not hasattr(user, "get_id") else user


def init_app(
    app: Flask,
    recorder: Recorder,
    *,
    identify: Callable[[Any], object] | None = None,
    exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool] = DEFAULT_EXCLUDED,
    sample: int | Callable[[str], int] = 1,
    event: str | Callable[[WsgiRequest], str | None] = "request",
    max_routes: int = DEFAULT_MAX_ROUTES,
) -> None:
    """Count the requests of a Flask app; options as of `usagekit.wsgi.UsageMiddleware`.

    `identify` gets a `FlaskRequest`, and is asked while Flask's request context is there, so `flask.session`, `flask.g`
    and Flask-Login's `current_user` work in it: at the latest when the response is made. What is only known later, in a
    streamed body, is for `bind`. Static files are left out.

    The recorder becomes the process's default and stands in `app.extensions["usagekit"]`. Called again, this replaces
    what it was told before.

    Raises:
        AssertionError: the app has served requests already; Flask's own.
    """
    if not isinstance(app, Flask):
        refuse("app", app, "is no Flask app", "one: init_app(Flask(__name__), recorder)")
    if recorder is None:
        refuse("recorder", recorder, "records nothing", "a usagekit.Recorder: init_app(app, recorder)")
    check_middleware(recorder, identify, event, max_routes)
    asks = identify or recorder.identify
    middleware = UsageMiddleware(
        app.wsgi_app.app if isinstance(app.wsgi_app, UsageMiddleware) else app.wsgi_app,
        recorder=recorder,
        identify=None if asks is None else lambda view: asks(FlaskRequest(view.environ)),
        exclude=exclude,
        sample=sample,
        event=event,
        max_routes=max_routes,
    )
    # No sooner, since whoever reads the session adds a header until it is saved, and no later: teardowns close things.
    middleware.asks_at_start = asks is not None
    if _EXTENSION not in app.extensions:
        app.teardown_request(_leaving)
    app.extensions[_EXTENSION] = recorder
    set_default_recorder(recorder)
    app.wsgi_app = middleware  # type: ignore[method-assign]


def usage_blueprint(
    source: Reader,
    *,
    auth: Callable[[Any], object],
    scope: Callable[[Any], object] | None = None,
    names: Callable[[list[str]], Mapping[str, str]]
    | Mapping[str, Callable[[list[str]], Mapping[str, str]]]
    | None = None,
    name: str = "usagekit",
) -> Blueprint:
    """Give the admin endpoint as a blueprint, to be registered with an `url_prefix`; needs nothing but Flask.

    Options as of `usagekit.admin.usage_wsgi_app`; `auth` and `scope` get a `FlaskRequest`. They are called in a thread
    of their own, with Flask's request context, so that `flask.session`, `flask.g` and `current_user` work in them.

    Args:
        source: a recorder, or a backend that can be asked.
        auth: says who may look; only `True` lets in.
        scope: what a visitor is confined to.
        names: gives names for ids.
        name: the blueprint's; another one for each endpoint of one app.

    Raises:
        ConfigurationError: an option that cannot work.
    """
    from usagekit.admin.site import Request, Site

    site = Site(source, auth, scope, names, can_await=False)
    blueprint = Blueprint(name, __name__)

    def answer(rest: str = "") -> Response:
        leave_out()
        path = f"/{rest}" if rest or request.path.endswith("/") else ""
        query = request.query_string.decode("latin-1")
        told = site.answer(Request(FlaskRequest(request.environ), path, query))
        response = Response([told.body], told.status, told.headers)
        response.automatically_set_content_length = False  # that of a HEAD is not 0
        return response

    for rule in ("/", "/<path:rest>"):
        blueprint.add_url_rule(
            rule, "usage", answer, methods=_METHODS, provide_automatic_options=False, strict_slashes=False
        )
    return blueprint


def _leaving(_error: BaseException | None = None) -> None:
    """Keep the route, and ask `identify` where no response came as far as the middleware."""
    exchange = exchange_of(request.environ)
    if exchange is None:
        return
    rule = request.url_rule
    if rule is not None:
        exchange.template = exchange.template or rule.rule
        exchange.settled = exchange.settled or _is_static(rule)
    if exchange.identify is not None and not exchange.settled:
        exchange.identity()
    exchange.identify = None  # it needs what is gone from here on


def _is_static(rule: Rule) -> bool:
    endpoint = rule.endpoint  # None where somebody put a rule of their own into the map
    is_named_so = isinstance(endpoint, str) and (endpoint == "static" or endpoint.endswith(".static"))
    return is_named_so and rule.rule.endswith("/<path:filename>")
