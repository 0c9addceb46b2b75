"""Writing to Analytics Engine: signed batches of data points, posted to the ingest Worker."""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from usagekit._guard import Guard
from usagekit.errors import ConfigurationError, Rejected, RetryAfter, UsagekitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import httpx2

    from usagekit.backends.analytics_engine.layout import Layout
    from usagekit.event import UsageEvent

__all__ = ["IngestError", "IngestSink"]

MAX_POINTS = 250  # what the runtime lets one invocation of a Worker write
MAX_BYTES = 1_000_000  # what the Worker reads
SHORTEST_KEY = 32

_PATH = "/v1/batches"
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 30.0
_NEVER = frozenset([413, 422])  # of the Worker itself: the batch as it is will never be taken
_LOOPBACK = frozenset(["localhost", "127.0.0.1", "::1"])


class IngestError(UsagekitError, ConnectionError):
    """The ingest Worker did not take a batch; the delivery tries again. The message has its status and words."""


class IngestSink:
    """Posts events as data points to the ingest Worker; a `Sink`.

    Every retry of a batch has the same body and id, so that the Worker can tell that it was written before. Whatever
    the trouble is, a wrong key included, the batch is kept and tried again; only what the Worker says it will never
    take is rejected.

    Args:
        url: of the Worker, without the path; https, or http on this very machine.
        key: the secret that the Worker has as `INGEST_KEY`, 32 characters or more.
        dataset: where to; one that the Worker has.
        layout: gives the layout that makes points of events; asked at each batch.

    Raises:
        ConfigurationError: the URL or the key cannot work.
    """

    max_batch = MAX_POINTS

    def __init__(self, url: str, key: str, dataset: str, layout: Callable[[], Layout]) -> None:
        self._url = _checked_url(url).rstrip("/") + _PATH
        self._key = _checked_key(key).encode()
        self._dataset = dataset
        self._layout = layout
        self._guard = Guard()
        self._clients: dict[int, httpx2.Client] = {}  # by process: connections are not to be shared with a fork

    def __repr__(self) -> str:
        return f"IngestSink({self._url!r}, dataset={self._dataset!r})"

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        """Send what the layout takes of a batch; nothing is sent where it takes none.

        Raises:
            Rejected: the batch is too large, or a point is invalid; the delivery halves it.
            RetryAfter: as the Worker asks, or when it has not yet written all of the batch.
            IngestError: any other answer.
            httpx2.HTTPError: no answer.
        """
        layout = self._layout()
        points = [layout.point(event) for event in events if layout.takes(event)]
        if not points:
            return
        body = json.dumps(
            {"dataset": self._dataset, "points": points}, ensure_ascii=False, allow_nan=False, separators=(",", ":")
        ).encode()
        if len(body) > MAX_BYTES:
            raise Rejected(f"{len(points)} points have {len(body):,} bytes; the ingest Worker reads {MAX_BYTES:,}")
        response = self._client().post(self._url, content=body, headers=self._headers(batch_id, body))
        self._check(response, len(points))

    def close(self) -> None:
        """Close this process's connection."""
        client = self._clients.pop(os.getpid(), None)
        if client is not None:
            client.close()

    def _client(self) -> httpx2.Client:
        client = self._clients.get(os.getpid())
        if client is None:
            import httpx2

            timeout = httpx2.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS)
            # No proxies of the environment, no redirects: the points go to the Worker that was named.
            client = httpx2.Client(timeout=timeout, trust_env=False, follow_redirects=False)
            self._clients[os.getpid()] = client
        return client

    def _headers(self, batch_id: str, body: bytes) -> dict[str, str]:
        now = str(int(time.time()))  # of this attempt: the events may be as old as they like
        signed = f"{now}.{batch_id}.{hashlib.sha256(body).hexdigest()}"
        return {
            "content-type": "application/json",
            "usagekit-time": now,
            "usagekit-batch": batch_id,
            "usagekit-signature": hmac.new(self._key, signed.encode(), "sha256").hexdigest(),
        }

    def _check(self, response: httpx2.Response, sent: int) -> None:
        answer = _answer(response)
        if response.status_code in _NEVER and "error" in answer:
            raise Rejected(str(answer["error"]))
        if response.status_code != 200:
            seconds = _retry_after(response.headers.get("retry-after"))
            if seconds is not None:
                raise RetryAfter(seconds)
            raise IngestError(_explained(response.status_code, str(answer.get("error", ""))))
        written, refused = answer.get("written"), answer.get("refused")
        if not isinstance(written, int) or not isinstance(refused, int):
            raise IngestError(f"{self._url} answered 200 and not as the ingest Worker does; set USAGEKIT_INGEST_URL")
        if written + refused < sent:
            raise RetryAfter(0)  # the Worker's invocation was cut short: it goes on where it stopped
        if refused:
            self._guard.noted(
                "analytics-engine", f"the Worker's runtime refused {refused} of {sent} points; see its log"
            )


def _answer(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _explained(status: int, said: str) -> str:
    what = f"the ingest Worker answered {status}{': ' * bool(said)}{said}"
    hint = {
        401: "check USAGEKIT_INGEST_KEY and this machine's clock",
        404: "check USAGEKIT_INGEST_URL and the dataset",
    }.get(status)
    return f"{what}; {hint}" if hint else what


def _retry_after(header: str | None) -> float | None:
    """Give the seconds that a Retry-After header asks for (RFC 9110, 10.2.3); None where it says nothing usable."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        until = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max(0.0, (until.replace(tzinfo=until.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _checked_url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ConfigurationError(f"the ingest URL {url!r} is not https; give https://<worker>.<account>.workers.dev")
    if not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ConfigurationError(f"the ingest URL {url!r} must be a plain one: https://<worker>.<account>.workers.dev")
    return url


def _checked_key(key: str) -> str:
    if len(key) < SHORTEST_KEY or key != key.strip():
        raise ConfigurationError(
            f"the ingest key has {len(key.strip())} characters, it needs {SHORTEST_KEY}; make one with "
            "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
        )
    return key
