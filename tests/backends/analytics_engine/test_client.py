"""What the answers of the SQL API mean: data, no data, or one clear exception."""

from __future__ import annotations

import json
import os
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest

from usagekit.backends.analytics_engine.client import SqlClient
from usagekit.errors import ConfigurationError, QueryError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterator

Answers = list[tuple[int, str, dict[str, str]]]


@contextmanager
def answering(answers: Answers, seen: list[tuple[str, str | None, bytes]]) -> Iterator[str]:
    """Run a server that gives these answers in turn, and notes path, token and body."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            seen.append((self.path, self.headers["Authorization"], body))
            status, text, headers = answers[len(seen) - 1]
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(text.encode()))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_sends_the_statement_as_it_is_and_gives_the_rows() -> None:
    """To the account's address, with the token."""
    seen: list[tuple[str, str | None, bytes]] = []
    answer = json.dumps({"meta": [], "data": [{"n": "402"}, {"n": 7}], "rows": 2})

    with answering([(200, answer, {})], seen) as url, closing(SqlClient("acc0", "to-ken", url=url + "/")) as client:
        rows = client.ask("SELECT 'ë'")

    assert rows == [{"n": "402"}, {"n": 7}]
    assert seen == [("/client/v4/accounts/acc0/analytics_engine/sql", "Bearer to-ken", "SELECT 'ë'".encode())]


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (422, "Input was invalid: unknown table: usage"),
        (404, "unknown table"),
        (422, "Input was invalid: unable to find type of column: double3"),
        (422, "Input was invalid: Unable to find type of column: 'blob3'"),
    ],
)
def test_what_nobody_wrote_to_is_no_data(status: int, text: str) -> None:
    """Datasets and columns come into being with their first point."""
    with answering([(status, text, {})], []) as url, closing(SqlClient("a", "t", url=url)) as client:
        assert client.ask("SELECT 1") == []


@pytest.mark.parametrize(
    ("status", "text", "kind", "message"),
    [
        (422, "Input was invalid: unknown function call: GREATEST", QueryError, "refused the statement: Input was"),
        (400, "Query string error: missing field `query`", QueryError, "refused the request (400: Query string"),
        (400, "Content type error", QueryError, "refused the request (400: Content type error)"),
        (400, '{"success":false,"errors":[{"code":6003}]}', ConfigurationError, "refused the API token (400"),
        (401, '{"success":false,"errors":[{"code":10000}]}', ConfigurationError, "refused the API token (401"),
        (403, "Authorization error", ConfigurationError, "Account Analytics, Read"),
        (404, "not found", ConfigurationError, "check the account id"),
        (429, "Resource limit: too many queries", UnavailableError, "too much was asked"),
        (500, "Sorry, we were unable to evaluate your query", UnavailableError, "it failed (500: Sorry"),
        (502, "bad gateway", UnavailableError, "unreachable"),
        (503, "Query timed out waiting in queue", UnavailableError, "waited in its queue"),
        (504, "", UnavailableError, "took longer than 60 s"),
        (530, "x", UnavailableError, "it failed (530"),
        (302, "", QueryError, "refused the request (302"),
        (200, "no json", UnavailableError, "with what is no result: 'no json'"),
        (200, "{}", UnavailableError, "no result"),
        (200, '{"data": [1]}', UnavailableError, "no result"),
    ],
)
def test_every_other_answer_is_one_clear_exception(status: int, text: str, kind: type[Exception], message: str) -> None:
    """With what the service said."""
    with (
        answering([(status, text, {})], []) as url,
        closing(SqlClient("a", "t", url=url)) as client,
        pytest.raises(kind) as raised,
    ):
        client.ask("SELECT 1")

    assert message in str(raised.value)


@pytest.mark.parametrize(("given", "seconds"), [({"Retry-After": "7"}, 7.0), ({}, None), ({"Retry-After": "x"}, None)])
def test_it_says_when_to_ask_again(given: dict[str, str], seconds: float | None) -> None:
    """Where the service did."""
    with (
        answering([(429, "Resource limit: later", given)], []) as url,
        closing(SqlClient("a", "t", url=url)) as client,
        pytest.raises(UnavailableError) as raised,
    ):
        client.ask("SELECT 1")

    assert raised.value.retry_after == seconds


def test_a_forked_process_makes_its_own_connections() -> None:
    """Two processes on one connection would read each other's answers."""
    with answering([(200, '{"data": []}', {})] * 2, []) as url, closing(SqlClient("a", "t", url=url)) as client:
        client.ask("SELECT 1")
        mine = client._clients[os.getpid()]
        child = os.fork()
        if child == 0:
            code = 1
            try:
                client.ask("SELECT 1")
                code = int(client._clients[os.getpid()] is mine)
            finally:
                os._exit(code)
        _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0


def test_a_service_that_is_not_there_is_unavailable() -> None:
    """Without a retry of our own."""
    with HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler) as server:
        url = f"http://127.0.0.1:{server.server_port}"

    with closing(SqlClient("a", "t", url=url)) as client, pytest.raises(UnavailableError, match="cannot reach"):
        client.ask("SELECT 1")


@pytest.mark.parametrize(
    ("account", "token"), [("", "t"), ("a/b", "t"), ("a?", "t"), ("a", ""), ("a", "t t"), ("a", "t\n")]
)
def test_what_cannot_be_an_account_or_a_token_is_refused(account: str, token: str) -> None:
    """Before it reaches an address or a header."""
    with pytest.raises(ConfigurationError):
        SqlClient(account, token)
