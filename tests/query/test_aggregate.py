"""Adding up."""

from __future__ import annotations

from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest

from usagekit.event import UsageEvent
from usagekit.query import MEASURES
from usagekit.query.aggregate import Aggregate, bucket_of, microseconds_of, quantile_us

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def test_every_measure_has_a_value() -> None:
    """Of an aggregate of nothing, too."""
    values = {name: Aggregate().measure(name, UTC) for name in MEASURES}

    assert {name for name, value in values.items() if value is None} == {
        "success_rate",
        "cost_usd",
        "latency_ms_avg",
        "latency_ms_p50",
        "latency_ms_p95",
        "latency_ms_p99",
        "latency_ms_max",
        "first_token_ms_p50",
        "last_seen",
    }
    with pytest.raises(KeyError):
        Aggregate().measure("clicks", UTC)


def test_buckets_follow_each_other_without_gap() -> None:
    """Each is where the last one ended, across powers of two, and widens by at most 1/64."""
    edges = [bucket_of(us) for us in range(100_000)]

    assert [b - a for a, b in pairwise(edges) if b != a] == [1] * (edges[-1] - edges[0])
    assert (bucket_of(0), bucket_of(127), bucket_of(128), bucket_of(129), bucket_of(130)) == (
        0,
        127,
        128,
        128,
        129,
    )
    assert microseconds_of(128) == 128.5
    assert bucket_of(2**53 - 1) < 3200


def test_the_largest_quantile_is_not_above_the_slowest_event() -> None:
    """Although the middle of its bucket is."""
    group = Aggregate()
    group.add(UsageEvent(time=NOON, latency_ms=1.28))

    assert microseconds_of(bucket_of(1280)) > 1280
    assert group.measure("latency_ms_p99", UTC) == 1.28


def test_quantiles_of_nothing_are_unknown() -> None:
    """Also where a store gives buckets of weight 0."""
    assert quantile_us({}, 50) is None
    assert quantile_us({5: 0}, 50) is None
    assert quantile_us({5: 1, 9: 1}, 50) == 5.0
    assert quantile_us({5: 1, 9: 1}, 51) == 9.0
    with pytest.raises(ValueError, match="never negative"):
        quantile_us({0: -1}, 50)


def test_what_a_store_computed_itself_wins() -> None:
    """A distinct count or a quantile, as its value; such parts cannot be merged."""
    group = Aggregate(events=3, given={"users": 2, "latency_ms_p95": 12.5})

    assert [group.measure(name, UTC) for name in ("events", "users", "latency_ms_p95")] == [3, 2, 12.5]
    with pytest.raises(ValueError, match="'users'"):
        Aggregate().merge(group)
    with pytest.raises(ValueError, match="'users'"):
        group.merge(Aggregate())


def test_merging_knows_every_field() -> None:
    """A field of one part is a field of the whole."""
    full = Aggregate(
        cost_nano=1,
        latency_max_us=1,
        latency_buckets={1: 1},
        first_token_buckets={1: 1},
        users={"ann"},
        last_seen_us=1,
    )
    for field in fields(Aggregate):
        if field.type == "int":
            setattr(full, field.name, 1)
    whole = Aggregate()

    whole.merge(full)
    whole.merge(Aggregate())

    assert whole == full


def test_money_does_not_know_the_host_s_decimal_context() -> None:
    """An app may have set any precision; sums stay exact."""
    group = Aggregate(cost_nano=123_456_789_012_345_678_901_234_567_890_123)

    with localcontext() as context:
        context.prec = 3
        cost = group.measure("cost_usd", UTC)

    assert str(cost) == "123456789012345678901234.567890123"
    assert isinstance(cost, Decimal)
