"""Thin glue for Flask: the WSGI middleware around the app, and `identify` while Flask's context is still there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import request

from usagekit.context import current
from usagekit.exclusion import DEFAULT_EXCLUDED
from usagekit.recorder import set_default_recorder
from usagekit.wsgi import UsageMiddleware

if TYPE_CHECKING:
    import re
    from collections.abc import Callable, Iterable

    from flask import Flask, Response

    from usagekit.recorder import Recorder
    from usagekit.request import WsgiRequest

__all__ = ["init_app"]


def init_app(
    app: Flask,
    recorder: Recorder,
    *,
    identify: Callable[[Any], object] | None = None,
    exclude: Iterable[str | re.Pattern[str]] | Callable[[str], bool] = DEFAULT_EXCLUDED,
    event: str | Callable[[WsgiRequest], str | None] = "request",
) -> None:
    """Count the requests of a Flask app; options as of `usagekit.wsgi.UsageMiddleware`.

    `identify` is asked before Flask's request context ends, so `flask.session`, `flask.g` and Flask-Login's
    `current_user` are there. Static files are left out. The recorder becomes the process's default and stands in
    `app.extensions["usagekit"]`.
    """
    app.extensions["usagekit"] = recorder
    set_default_recorder(recorder)

    @app.after_request
    def _ask_identify(response: Response) -> Response:
        measurement = current.get()
        if measurement is not None:
            measurement.settled = measurement.settled or _is_static(request.endpoint)
            measurement.identity()
        return response

    app.wsgi_app = UsageMiddleware(  # type: ignore[method-assign]
        app.wsgi_app, recorder=recorder, identify=identify, exclude=exclude, event=event
    )


def _is_static(endpoint: str | None) -> bool:
    return endpoint is not None and (endpoint == "static" or endpoint.endswith(".static"))
