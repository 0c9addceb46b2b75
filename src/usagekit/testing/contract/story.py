"""What the tests of readers are about: a few events, and how they are asked for."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit.errors import QueryError
from usagekit.event import UsageEvent
from usagekit.query import UsageQuery, usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usagekit.query import Reader, UsageReport

__all__ = [
    "DECLARED",
    "ESTIMATES",
    "NOON",
    "NOTHING",
    "NOW",
    "TICK",
    "Contract",
    "ask",
    "at",
    "check_estimates",
    "check_first_digits",
    "counts_of",
    "refusal",
    "story",
]

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
DECLARED = ("project", "country")
TICK = timedelta(microseconds=1)

NOTHING: dict[str, Any] = {
    "events": 0,
    "succeeded": 0,
    "failed": 0,
    "success_rate": None,
    "users": 0,
    "input_tokens": 0,
    "output_tokens": 0,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "total_tokens": 0,
    "cost_usd": None,
    "unpriced": 0,
    "response_bytes": 0,
    "quantity": 0.0,
    "latency_ms_avg": None,
    "latency_ms_p50": None,
    "latency_ms_p95": None,
    "latency_ms_p99": None,
    "latency_ms_max": None,
    "first_token_ms_p50": None,
    "last_seen": None,
}

ESTIMATES = ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "first_token_ms_p50")


def story() -> list[UsageEvent]:
    """Give one event of every kind, each different in every dimension."""
    request = UsageEvent(
        time=NOON,
        kind="request",
        event="request",
        user="ann",
        org="acme",
        status=200,
        latency_ms=12.5,
        route="GET /items/{id}",
        response_bytes=2048,
        attributes={"project": "alpha", "country": "DE"},
    )
    model_call = UsageEvent(
        time=NOON + timedelta(minutes=30),
        kind="llm",
        event="summarise",
        user="bob",
        org="acme",
        status=429,
        latency_ms=840,
        route="POST /summaries",
        provider="openai",
        model="gpt-5-mini",
        input_tokens=1200,
        output_tokens=300,
        cache_read_tokens=1000,
        cache_write_tokens=100,
        reasoning_tokens=200,
        first_token_ms=220,
        cost_usd=Decimal("0.000000001"),
        cost_source="priced",
        aborted=True,
        attributes={"project": "beta"},
    )
    named = UsageEvent(time=NOON + timedelta(hours=1), kind="named", event="export", quantity=2.5, weight=3)
    return [request, model_call, named]


def ask(reader: Reader, **options: Any) -> UsageReport:
    """Ask a reader; the options are those of `usage`."""
    return reader.read(UsageQuery.build(dimensions=DECLARED, now=NOW, **options))


def counts_of(reader: Reader, by: str, **options: Any) -> list[tuple[Any, int]]:
    """Give (value of `by`, events) of each row, in order."""
    report = ask(reader, by=by, measures="events", **options)
    assert all(list(row) == [by, "events"] for row in report.rows)
    return [(row[by], row["events"]) for row in report.rows]


def at(*times: str) -> list[UsageEvent]:
    """Give an event at each of these times."""
    return [UsageEvent(time=datetime.fromisoformat(time), event="tick") for time in times]


def refusal(reader: Reader, options: dict[str, Any]) -> str:
    """Give what a reader says to what cannot be asked."""
    try:
        usage(reader, **options)
    except QueryError as error:
        return str(error)
    return ""


def check_estimates(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare whole rows, the percentiles within 1 %."""
    assert list(row) == list(expected)
    for name, value in expected.items():
        if name in ESTIMATES and value is not None:
            assert row[name] is not None, name
            assert abs(row[name] - value) <= value * 0.01, (name, row[name], value)
        else:
            assert row[name] == value, (name, row[name], value)


def check_first_digits(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare whole rows, numbers in their first twelve digits."""
    assert list(row) == list(expected)
    for name, value in expected.items():
        if isinstance(value, str):
            assert row[name] == value
        else:
            assert type(row[name]) is type(value), name
            assert abs(row[name] / value - 1) < 1e-12, (name, row[name], value)


class Contract:
    """What the tests of each kind need of `ReaderContract`."""

    exact = True
    """Whether the reader counts every event to the last unit."""

    def make_reader(self, events: list[UsageEvent]) -> Reader:
        """Give a reader that holds exactly `events`, which have distinct ids, as recorded by this app."""
        raise NotImplementedError("subclasses of ReaderContract say how events get into the reader")

    def _reader(self, events: Iterable[UsageEvent]) -> Reader:
        return self.make_reader([replace(event, id=f"contract-{n}") for n, event in enumerate(events)])
