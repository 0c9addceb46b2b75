"""Random events and questions, to compare readers with and to state what always holds."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from hypothesis import strategies as st

from usagekit.event import UsageEvent, from_microseconds
from usagekit.query import BUCKETS, DIMENSIONS, MEASURES, UsageQuery

DECLARED = ("project", "country")
NOW = datetime(2026, 11, 3, 12, 34, 56, 789, tzinfo=UTC)

ZONES = (
    "UTC",
    "Europe/Berlin",
    "Europe/Dublin",  # winter is the exception there
    "America/New_York",
    "America/Havana",  # midnight comes twice
    "America/St_Johns",  # until 2011 the clock changed at 00:01
    "America/Sao_Paulo",
    "Africa/Cairo",  # a midnight is missing
    "Africa/Casablanca",  # the exception is a month
    "Africa/Monrovia",  # until 1972 44 minutes and 30 seconds behind
    "Antarctica/Troll",  # changes by two hours
    "Asia/Kolkata",
    "Asia/Kathmandu",
    "Australia/Lord_Howe",  # changes by half an hour
    "Pacific/Apia",  # skipped 2011-12-30
    "Pacific/Chatham",
    "Pacific/Kiritimati",
)

# Around the changes of most of these zones, where mistakes are; and far from everything.
_ANCHORS = (
    datetime(1972, 1, 7, tzinfo=UTC),
    datetime(2010, 11, 7, 2, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),
    datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 4, 4, 15, tzinfo=UTC),
    datetime(2026, 4, 23, 22, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 5, tzinfo=UTC),
    datetime(2026, 11, 3, 12, tzinfo=UTC),
    datetime(2026, 12, 31, 23, tzinfo=UTC),
)
_WEEK_US = 7 * 86_400_000_000


def zones() -> st.SearchStrategy[str]:
    """Names of zones, odd ones among them."""
    return st.sampled_from(ZONES)


def times() -> st.SearchStrategy[datetime]:
    """Aware UTC datetimes: near changes of offset, on the hour, and anywhere from 1970 to 2100."""
    anchors = st.sampled_from(_ANCHORS)
    return st.one_of(
        st.builds(lambda at, us: at + timedelta(microseconds=us), anchors, st.integers(-_WEEK_US, _WEEK_US)),
        st.builds(lambda at, quarters: at + timedelta(minutes=15 * quarters), anchors, st.integers(-96, 96)),
        st.integers(0, 4_102_444_800_000_000).map(from_microseconds),
    )


def _milliseconds() -> st.SearchStrategy[float | None]:
    return st.none() | st.integers(0, 10**9).map(lambda us: us / 1000) | st.sampled_from((0.0, 1.0, 250.0))


_COUNTS = st.just(0) | st.integers(0, 5000) | st.just(2**53 - 1)

_FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "time": times(),
    "kind": st.sampled_from(("request", "llm", "named")),
    "event": st.sampled_from(("request", "llm", "export")),
    "user": st.sampled_from(("", "ann", "bob", "=cmd", "Zoë")),
    "org": st.sampled_from(("", "acme", "blue")),
    "status": st.sampled_from((0, 101, 200, 201, 304, 399, 400, 404, 499, 500, 599, 999)),
    "latency_ms": _milliseconds(),
    "route": st.sampled_from(("", "GET /items/{id}", "POST /items")),
    "provider": st.sampled_from(("", "openai", "anthropic")),
    "model": st.sampled_from(("", "gpt-5-mini", "claude-sonnet-4-6")),
    "input_tokens": _COUNTS,
    "output_tokens": _COUNTS,
    "cache_read_tokens": _COUNTS,
    "cache_write_tokens": _COUNTS,
    "reasoning_tokens": _COUNTS,
    "first_token_ms": _milliseconds(),
    "cost_usd": st.none() | st.integers(0, 2**53 - 1).map(lambda nano: Decimal(f"{nano}E-9")),
    "cost_source": st.sampled_from(("", "priced", "estimated", "unpriced")),
    "response_bytes": _COUNTS,
    "aborted": st.booleans(),
    "quantity": st.integers(0, 10**12).map(lambda millionths: millionths / 1_000_000),
    "weight": st.just(1) | st.integers(1, 1_000_000_000),
    "attributes": st.fixed_dictionaries(
        {},
        optional={name: st.sampled_from(("", "alpha", "beta")) for name in DECLARED},
    ),
}


def events() -> st.SearchStrategy[UsageEvent]:
    """Events with few different names, so that groups form, and with sums beyond 64 bits; without ids."""
    optional = {name: values for name, values in _FIELDS.items() if name != "time"}
    return st.fixed_dictionaries({"time": _FIELDS["time"]}, optional=optional).map(lambda values: UsageEvent(**values))


@cache
def _ranges() -> st.SearchStrategy[dict[str, Any]]:
    instants = st.one_of(times(), st.dates(date(2010, 1, 1), date(2027, 12, 31)).map(date.isoformat))
    return st.one_of(
        st.just({}),
        st.builds(lambda at: {"start": at}, instants),
        st.builds(lambda at: {"end": at}, instants),
        st.builds(
            lambda one, other: {"start": min(one, other), "end": max(one, other) + timedelta(microseconds=1)},
            times(),
            times(),
        ),
        st.builds(lambda number, unit: {"period": f"{number}{unit}"}, st.integers(1, 400), st.sampled_from("hd")),
        st.builds(lambda number: {"days": number}, st.integers(1, 400)),
    )


@cache
def _filters() -> st.SearchStrategy[dict[str, Any]]:
    names = ("kind", "event", "user", "org", "status", "route", "provider", "model", "cost_source", "aborted")
    plain = {name: _FIELDS[name] for name in names} | dict.fromkeys(DECLARED, st.sampled_from(("", "alpha", "beta")))
    plain |= {
        "status_class": st.sampled_from(("none", "1xx", "2xx", "4xx")),
        "day": st.dates(date(2026, 10, 20), date(2026, 11, 10)),
        "week": st.sampled_from(("2026-W13", "2026-W43", "2026-W44", "2010-W44")),
        "month": st.sampled_from(("1972-01", "2011-12", "2026-04", "2026-10", "2026-11")),
    }
    one_or_some = {name: values | st.lists(values, max_size=3) for name, values in plain.items()}
    chosen = st.lists(st.sampled_from(sorted(plain)), max_size=3, unique=True)
    return chosen.flatmap(lambda names: st.fixed_dictionaries({name: one_or_some[name] for name in names}))


@cache
def options() -> st.SearchStrategy[dict[str, Any]]:
    """What `UsageQuery.build` takes, `dimensions` and `now` included."""
    by = st.lists(st.sampled_from((*DIMENSIONS, *BUCKETS, *DECLARED)), max_size=3, unique=True)
    plain = st.fixed_dictionaries(
        {
            "measures": st.none() | st.lists(st.sampled_from(MEASURES), unique=True, max_size=5),
            "tz": zones(),
            "where": st.none() | st.just({}) | _filters(),
            "limit": st.none() | st.integers(1, 5),
            "dimensions": st.just(DECLARED),
            "now": st.just(NOW),
        }
    )
    return st.builds(lambda shown, others, span: shown | others | span, by.flatmap(_ordered), plain, _ranges())


def _ordered(by: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    order = st.tuples(st.sampled_from(("", "-")), st.sampled_from((*MEASURES, *by))).map("".join)
    return st.fixed_dictionaries({"by": st.just(by), "order": st.none() | order})


def queries() -> st.SearchStrategy[UsageQuery]:
    """Checked questions about what `events` gives, with `DECLARED` declared and `NOW` on the clock."""
    return options().map(lambda chosen: UsageQuery.build(**chosen))
