"""The usage page and its summary over a large ledger, as a WSGI server would ask for them."""

from __future__ import annotations

from base64 import b64encode
from datetime import datetime
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, Any, Self
from unittest.mock import patch
from wsgiref.util import setup_testing_defaults

from benchmarks.dataset import END_US
from benchmarks.measure import Estimate, Result, Table, Target, Timing, timed, wall
from usagekit.admin import BearerAuth, questions, usage_wsgi_app
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import tzinfo

PAGE_MS, SUMMARY_MS = 300.0, 100.0

_TOKEN = "a-token-for-nobody-but-this-benchmark"
_ASKED = (("page", "/", PAGE_MS), ("api/summary", "/api/summary", SUMMARY_MS))
_PERIODS = ("24h", "7d", "30d")


class _AtTheEnd(datetime):
    """A clock that stands where the events end."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return cls.fromtimestamp(END_US / 1_000_000, tz)


def measure(result: Result, path: str, size: int, rounds: int) -> None:
    """Time the page and the summary over the ledger at `path`, whose rollups are up to date."""
    app = usage_wsgi_app(SQLiteBackend(path), auth=BearerAuth(_TOKEN))
    rows = []
    for title, where, limit in _ASKED:
        for period in _PERIODS:
            name = f"{title}, {period}"
            with patch.object(questions, "datetime", _AtTheEnd):
                times = _timed(partial(_get, app, where, f"period={period}"), rounds)
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
