"""A development server that answers as Cloudflare's Analytics Engine SQL API does, from a ledger."""

from __future__ import annotations

import hmac
import re
import secrets
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from usagekit.backends.analytics_engine.sql import SqlError, run
from usagekit.backends.analytics_engine.sql.formats import CONTENT_TYPES
from usagekit.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from usagekit.backends.analytics_engine.layout import Layout

__all__ = ["SqlServer"]

QUERY_SECONDS = 10.0
MAX_BODY_BYTES = 1_000_000
_SOCKET_SECONDS = 30.0  # a client that says nothing for so long is let go

_PATH = re.compile(r"/client/v4/accounts/([0-9A-Za-z_-]+)/analytics_engine/sql")


class SqlServer(ThreadingHTTPServer):
    """Listens for `POST /client/v4/accounts/<id>/analytics_engine/sql` and `GET …?query=`.

    For development and tests, not for the internet. Made, it listens; `serve_forever` answers until `shutdown` is
    called from another thread, and `server_close` ends it.

        server = SqlServer("usage.db", {"usage": Layout.default()}, token="secret")

    Args:
        path: the ledger.
        datasets: the layout of each table by name.
        token: what `Authorization: Bearer` must bring; None = any, but there must be one, as at Cloudflare.
        account: the account id in the path; None = any.
        host: where to listen.
        port: 0 = a free one, see `url`.
        timeout_seconds: how long one statement may take before it is answered with 429.

    Raises:
        OSError: the port is taken, or the host is not this machine's.
    """

    daemon_threads = True

    def __init__(
        self,
        path: str,
        datasets: Mapping[str, Layout],
        *,
        token: str | None = None,
        account: str | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout_seconds: float = QUERY_SECONDS,
    ) -> None:
        self.ledger_path = path
        self.datasets = datasets
        self.token = token
        self.account = account
        self.timeout_seconds = timeout_seconds
        super().__init__((host, port), _Handler)

    @property
    def url(self) -> str:
        """What stands for `https://api.cloudflare.com`: `"http://127.0.0.1:8787"`."""
        host, port = self.server_address[:2]
        return f"http://{host if isinstance(host, str) else host.decode()}:{port}"


class _Refused(Exception):  # noqa: N818  an answer, not a fault
    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


class _Handler(BaseHTTPRequestHandler):
    """Answers one connection, in a thread of its own."""

    server: SqlServer
    protocol_version = "HTTP/1.1"
    server_version = "usagekit"
    sys_version = ""
    timeout = _SOCKET_SECONDS
    wbufsize = 65_536  # headers and body in one packet: between two, delayed acknowledgements cost 40 ms
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Answer `?query=`."""
        self._answer(lambda: self._query(urlsplit(self.path).query))

    def do_POST(self) -> None:
        """Answer the statement in the body."""
        self._answer(self._body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the base class's name
        """Stay silent: an error is told to the client."""

    def _answer(self, statement: Any) -> None:
        try:
            sql = self._checked(statement)
            answer = run(sql, self.server.ledger_path, self.server.datasets, timeout=self.server.timeout_seconds)
            self._send(200, CONTENT_TYPES[answer.format], answer.text())
        except _Refused as refused:
            self._send(refused.status, "text/plain;charset=UTF-8", str(refused))
        except SqlError as error:
            self._send(error.status, "text/plain;charset=UTF-8", str(error))
        except StorageError as error:
            text = f"Sorry, we were unable to evaluate your query. {error}"
            self._send(500, "text/plain;charset=UTF-8", text)

    def _checked(self, statement: Any) -> str:
        """Give the statement of a request that may ask one."""
        # Read it in any case: on a connection that stays, what is left would be taken for the next request.
        sql: str | _Refused
        try:
            sql = statement()
        except _Refused as refused:
            sql = refused
        match = _PATH.fullmatch(urlsplit(self.path).path)
        if match is None:
            raise _Refused(404, "Not found")
        scheme, _, token = self.headers.get("Authorization", "").partition(" ")
        expected = self.server.token
        allowed = bool(token) if expected is None else hmac.compare_digest(token.encode(), expected.encode())
        if scheme.lower() != "bearer" or not allowed or self.server.account not in {None, match[1]}:
            raise _Refused(403, "Authorization error")
        if isinstance(sql, _Refused):
            raise sql
        return sql

    def _query(self, text: str) -> str:
        values = parse_qs(text, keep_blank_values=True).get("query")
        if not values:
            raise _Refused(400, "Query string error: missing field `query`")
        return values[0]

    def _body(self) -> str:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True
            raise _Refused(413 if length.isdecimal() else 411, "Content length error")
        body = self.rfile.read(int(length))
        kind = self.headers.get_content_type()
        if kind not in {"text/plain", "application/x-www-form-urlencoded", "application/sql"}:
            raise _Refused(400, "Content type error")
        try:
            return body.decode()
        except UnicodeDecodeError:
            raise _Refused(400, "Content type error") from None

    def _send(self, status: int, content_type: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Query-Id", secrets.token_hex(16))
        self.end_headers()
        self.wfile.write(body)
