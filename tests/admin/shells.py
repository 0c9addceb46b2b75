"""The endpoint in each of its shells, mounted under /admin/usage, and one way to ask any of them."""

from __future__ import annotations

from dataclasses import dataclass
from email.message import Message
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from flask import Flask
from starlette.applications import Starlette
from starlette.routing import Mount
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from tests.support import asgi, wsgi
from usagekit.admin import usage_app, usage_wsgi_app
from usagekit.flask import usage_blueprint

if TYPE_CHECKING:
    from collections.abc import Callable

MOUNT = "/admin/usage"
TOKEN = "kV3-1rXhQm7yTz0LcB9sJdW2nPfA6uGe"


@dataclass
class Answer:
    """What a client received; names of headers in any case."""

    status: int
    headers: Message
    body: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()


def of_asgi(source: Any, **options: Any) -> Any:
    """Mount `usage_app` in Starlette."""
    return Starlette(routes=[Mount(MOUNT, usage_app(source, **options))])


def of_wsgi(source: Any, **options: Any) -> Any:
    """Mount `usage_wsgi_app` beside another WSGI app."""
    return DispatcherMiddleware(Flask("outer"), {MOUNT: usage_wsgi_app(source, **options)})


def of_flask(source: Any, **options: Any) -> Any:
    """Register `usage_blueprint`."""
    app = Flask("site")
    app.secret_key = "for tests"
    app.register_blueprint(usage_blueprint(source, **options), url_prefix=MOUNT)
    return app


SHELLS: dict[str, Callable[..., Any]] = {"asgi": of_asgi, "wsgi": of_wsgi, "flask": of_flask}


def get(
    app: Any, path: str = "/", method: str = "GET", *, token: str | None = TOKEN, headers: dict[str, str] | None = None
) -> Answer:
    """Send one request for what lies below the mount."""
    given = dict(headers or {})
    if token is not None:
        given["authorization"] = f"Bearer {token}"
    return raw(app, MOUNT + path, method, given)


def raw(app: Any, url: str, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """Send one request as it is."""
    message = Message()
    parts = urlsplit(url)
    if isinstance(app, (Flask, DispatcherMiddleware)):
        environ = {f"HTTP_{name.upper().replace('-', '_')}": value for name, value in (headers or {}).items()}
        told = wsgi.ask(app, url, method, **environ)
        for name, value in told.headers.items():
            message[name] = value
        return Answer(int(told.status[:3]), message, told.body)
    connection = asgi.ask(app, parts.path, method, query=parts.query, headers=list((headers or {}).items()))
    start = next(part for part in connection.sent if part["type"] == "http.response.start")
    for key, value in start["headers"]:
        message[key.decode()] = value.decode()
    return Answer(connection.status, message, connection.body)
