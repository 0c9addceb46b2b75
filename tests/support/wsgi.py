"""One request to a WSGI app, served in memory by wsgiref's handler: what comes back is what a client would receive."""

from __future__ import annotations

import sys
from email import message_from_bytes
from io import BytesIO, StringIO
from typing import TYPE_CHECKING, Any, NamedTuple
from wsgiref.handlers import SimpleHandler

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType


class Answer(NamedTuple):
    """What the client received, and what the server's log says."""

    status: str
    headers: dict[str, str]
    body: bytes
    log: str


class _Handler(SimpleHandler):
    server_software = "test"
    os_environ: dict[str, str] = {}  # noqa: RUF012  as the class declares it

    def log_exception(self, exc_info: Any) -> None:
        kind: type[BaseException] | None
        error: BaseException | None
        trace: TracebackType | None
        kind, error, trace = exc_info
        self.get_stderr().write(f"{None if kind is None else kind.__name__}: {error}")
        del trace


def environment(path: str = "/", method: str = "GET", /, **more: Any) -> dict[str, Any]:
    """Give an environment as servers make it."""
    path, _, query = path.partition("?")
    return {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "80",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": "127.0.0.1",
    } | more


def ask(app: Any, path: str = "/", method: str = "GET", /, **more: Any) -> Answer:
    """Send one request; `more` are further variables of the environment, HTTP_COOKIE and the like."""
    output, errors = BytesIO(), StringIO()
    handler = _Handler(BytesIO(), output, errors, environment(path, method, **more), multithread=True)
    handler.run(app)
    head, _, body = output.getvalue().partition(b"\r\n\r\n")
    line, _, fields = head.partition(b"\r\n")
    headers = {name: value for name, value in message_from_bytes(fields).items() if name not in {"Date", "Server"}}
    return Answer(line.decode().partition(" ")[2], headers, body, errors.getvalue())


class Conversation:
    """One request, step by step, as a server goes about it."""

    def __init__(self, app: Any, path: str = "/", method: str = "GET", /, **more: Any) -> None:
        server = {"wsgi.errors": sys.stderr, "wsgi.input": BytesIO(), "wsgi.url_scheme": "http"}
        self.environ = environment(path, method, **server | more)
        self.statuses: list[str] = []
        self.written: list[bytes] = []
        self.body: Iterable[bytes] = app(self.environ, self._start_response)

    def _start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        self.statuses.append(status)
        return self.written.append

    def close(self) -> None:
        """Close the body, if it can be closed."""
        close = getattr(self.body, "close", None)
        if close is not None:
            close()
