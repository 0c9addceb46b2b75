"""The usage page and its summary over a large ledger, as a WSGI server would ask for them."""

from __future__ import annotations

from base64 import b64encode
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode
from wsgiref.util import setup_testing_defaults

from benchmarks.dataset import END_US
from benchmarks.measure import Estimate, Result, Table, Target, Timing, timed, wall
from usagekit.admin import BearerAuth, usage_wsgi_app
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable

PAGE_MS, SUMMARY_MS = 300.0, 100.0

_TOKEN = "a-token-for-nobody-but-this-benchmark"
_END = datetime.fromtimestamp(END_US // 3_600_000_000 * 3600, UTC)
_ASKED = (
    ("page, 24h", "/", 1, PAGE_MS),
    ("page, 7d", "/", 7, PAGE_MS),
    ("page, 30d", "/", 30, PAGE_MS),
    ("api/summary, 24h", "/api/summary", 1, SUMMARY_MS),
    ("api/summary, 7d", "/api/summary", 7, SUMMARY_MS),
    ("api/summary, 30d", "/api/summary", 30, SUMMARY_MS),
)


def measure(result: Result, path: str, size: int, rounds: int) -> None:
    """Time the page and the summary over the ledger at `path`, whose rollups are up to date."""
    app = usage_wsgi_app(SQLiteBackend(path), auth=BearerAuth(_TOKEN))
    rows = []
    for name, where, days, limit in _ASKED:
        start = _END - timedelta(days=days)
        query = urlencode({"start": start.isoformat(), "end": _END.isoformat(), "tz": "UTC"})
        times = _timed(partial(_get, app, where, query), rounds)
        estimate = Estimate(median(times), min(times), max(times))
        rows.append((name, str(estimate)))
        result.targets.append(Target(f"{name}, ms", estimate, limit))
        result.values[name] = {"ms": estimate.value}
    result.tables.append(Table(f"server time, {size:,} events, ms", ("", "median, least to most"), rows))


def _timed(ask: Callable[[], object], rounds: int) -> list[float]:
    found: list[Timing] = timed(ask, rounds)
    return [us / 1000 for us in wall(found)]


def _get(app: Any, path: str, query: str) -> bytes:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    credentials = b64encode(f"usage:{_TOKEN}".encode()).decode()
    environ |= {"PATH_INFO": path, "QUERY_STRING": query, "HTTP_AUTHORIZATION": f"Basic {credentials}"}
    lines: list[str] = []
    body = b"".join(app(environ, lambda line, _headers: lines.append(line)))
    # What there was no time for would make the answer quick.
    if not lines[0].startswith("200") or b"There was no time left" in body:
        raise RuntimeError(f"GET {path}?{query} was answered with {lines[0]}, cut short: {body[:200]!r}")
    return body
