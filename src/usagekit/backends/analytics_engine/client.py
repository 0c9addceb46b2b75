"""The HTTP client of Analytics Engine's SQL API, and what its answers mean."""

from __future__ import annotations

import json
import os
import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from usagekit.errors import ConfigurationError, MissingDependencyError, QueryError, UnavailableError

if TYPE_CHECKING:
    import httpx2

__all__ = ["API_URL", "SqlClient"]

API_URL = "https://api.cloudflare.com"

READ_SECONDS = 65.0  # the service itself gives up after 60

_ACCOUNT = re.compile(r"[0-9A-Za-z_-]{1,64}")
_NO_DATA = ("unknown table", "unable to find type of column")
_UNAVAILABLE = {
    429: "too much was asked of it at once, or the question is too large",
    500: "it failed",
    502: "it is unreachable",
    503: "the question waited in its queue for too long",
    504: "the question took longer than 60 s",
}
_SHOWN = 500  # characters of an answer in a message


class SqlClient:
    """Sends statements to the SQL API; one connection pool per process, for any thread until it is closed.

    Args:
        account: the account's id.
        token: an API token with the permission Account, Account Analytics, Read.
        url: where the API is; a local engine's, `SqlServer.url`, answers the same.

    Raises:
        ConfigurationError: account or token cannot be one.
        MissingDependencyError: httpx2 is not installed.
    """

    def __init__(self, account: str, token: str, *, url: str = API_URL) -> None:
        if not _ACCOUNT.fullmatch(account):
            raise ConfigurationError(f"{account!r} is no account id; it is in the dashboard, 32 characters long")
        if not token or not token.isascii() or not token.isprintable() or " " in token:
            raise ConfigurationError("the API token is empty or has characters that no token has; copy it again")
        self._url = f"{url.rstrip('/')}/client/v4/accounts/{account}/analytics_engine/sql"
        self._token = token
        self._clients: dict[int, httpx2.Client] = {}  # by process: a fork must not share connections
        if find_spec("httpx2") is None:
            raise MissingDependencyError(
                "Analytics Engine needs httpx2, which is not installed; pip install 'usagekit[analytics-engine]'"
            )

    def ask(self, statement: str, *, timeout: float = READ_SECONDS) -> list[dict[str, Any]]:
        """Send one statement that ends in `FORMAT JSON` and give its rows; blocks until they are there.

        `timeout` is how many seconds may pass without a sign of the service.

        A dataset that nothing was written to, and a column that no point has filled, are no rows.

        Raises:
            ConfigurationError: the token or the account is refused.
            QueryError: the statement is refused.
            UnavailableError: the service cannot answer now; `retry_after` says when it may, where it said so.
        """
        import httpx2

        try:
            response = self._client().post(
                self._url, content=statement, headers={"Content-Type": "text/plain"}, timeout=timeout
            )
        except httpx2.HTTPError as error:
            raise UnavailableError(f"cannot reach Analytics Engine: {str(error) or type(error).__name__}") from error
        if response.status_code == 200:
            return _rows(response.text)
        return _refused(response)

    def close(self) -> None:
        """Close the connections of this process."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _client(self) -> httpx2.Client:
        client = self._clients.get(os.getpid())
        if client is None:
            import httpx2

            headers = {"Authorization": f"Bearer {self._token}"}
            client = httpx2.Client(headers=headers, follow_redirects=False)
            client = self._clients.setdefault(os.getpid(), client)
        return client


def _rows(text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)["data"]
    except (ValueError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise UnavailableError(f"Analytics Engine answered with what is no result: {text[:_SHOWN]!r}")
    return rows


def _refused(response: httpx2.Response) -> list[dict[str, Any]]:
    status, text = response.status_code, " ".join(response.text[: 4 * _SHOWN].split())[:_SHOWN]
    if any(words in text.lower() for words in _NO_DATA):
        return []
    if status == 422:
        raise QueryError(f"Analytics Engine refused the statement: {text}")
    if status in {401, 403} or (status == 400 and text.startswith("{")):
        raise ConfigurationError(
            f"Analytics Engine refused the API token ({status}: {text}); it needs the permission Account, Account "
            "Analytics, Read, for this account, and Analytics Engine must be switched on in the dashboard"
        )
    if status == 404:
        raise ConfigurationError(f"there is no Analytics Engine at {response.url} (404); check the account id")
    if status in _UNAVAILABLE or status >= 500:
        why = _UNAVAILABLE.get(status, "it failed")
        raise UnavailableError(f"Analytics Engine cannot answer now: {why} ({status}: {text})", _retry_after(response))
    raise QueryError(f"Analytics Engine refused the request ({status}: {text})")


def _retry_after(response: httpx2.Response) -> float | None:
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdecimal() else None
