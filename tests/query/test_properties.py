"""What holds for any events and any question."""

from __future__ import annotations

import pickle
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import DECLARED, events, options, queries, times, zones
from usagekit.backends.memory import MemoryBackend
from usagekit.event import to_microseconds
from usagekit.query import BUCKETS, UsageQuery
from usagekit.query.aggregate import Aggregate, bucket_of, microseconds_of, quantile_us
from usagekit.query.periods import bucket_label, bucket_number, bucket_value, offset_changes, time_zone

if TYPE_CHECKING:
    import random
    from datetime import datetime
    from decimal import Decimal

    from usagekit.event import UsageEvent

ADDITIVE = (
    "events",
    "succeeded",
    "failed",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "total_tokens",
    "unpriced",
    "response_bytes",
)


def reader_of(happened: list[UsageEvent]) -> MemoryBackend:
    """Give a reader of these events."""
    backend = MemoryBackend(dimensions=DECLARED)
    backend.write(happened, batch_id="1")
    return backend


def offset_at(tz: str, time_us: int, start_us: int, end_us: int) -> int:
    """Give the offset at an instant, from the changes over a range around it."""
    return [offset for start, offset in offset_changes(tz, start_us, end_us) if start <= time_us][-1]


@given(st.lists(events(), max_size=12), queries())
@settings(max_examples=150, deadline=None)
def test_rows_without_a_limit_add_up_to_the_totals(happened: list[UsageEvent], query: UsageQuery) -> None:
    """Every event that matched is in exactly one row, whatever the zone, range and filters."""
    options_all = UsageQuery(
        by=query.by, start=query.start, end=query.end, tz=query.tz, where=query.where, spans=query.spans
    )

    report = reader_of(happened).read(options_all)

    assert {name: sum(row[name] for row in report.rows) for name in ADDITIVE} == {
        name: report.totals[name] for name in ADDITIVE
    }
    costs = [row["cost_usd"] for row in report.rows if row["cost_usd"] is not None]
    known = report.totals["cost_usd"]
    assert (sum(map(nano, costs)) if costs else None) == (None if known is None else nano(known))


def nano(dollars: Decimal) -> int:
    """Give dollars as nano-dollars, free of the decimal context."""
    sign, digits, exponent = dollars.as_tuple()
    assert (sign, exponent) == (0, -9)
    return int("".join(map(str, digits)))


@given(st.lists(events(), max_size=12), st.sampled_from(BUCKETS), zones())
@settings(max_examples=150, deadline=None)
def test_filtering_by_a_bucket_gives_its_row(happened: list[UsageEvent], bucket: str, tz: str) -> None:
    """What a row says about its bucket is what the filter on that bucket finds."""
    reader = reader_of(happened)

    report = reader.read(UsageQuery.build(by=bucket, tz=tz))

    for row in report.rows:
        alone = reader.read(UsageQuery.build(by=bucket, tz=tz, where={bucket: row[bucket]}))
        assert alone.rows == [row]


@given(st.lists(events(), max_size=12), options(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_the_order_of_recording_does_not_matter(
    happened: list[UsageEvent], chosen: dict[str, Any], chance: random.Random
) -> None:
    """Sums are of integers, and ties are broken by key; a limit keeps the first of the same rows."""
    shuffled = list(happened)
    chance.shuffle(shuffled)
    query = UsageQuery.build(**chosen)

    one, other = reader_of(happened).read(query), reader_of(shuffled).read(query)
    unlimited = reader_of(happened).read(UsageQuery.build(**chosen | {"limit": None}))

    assert one == other
    assert one.rows == unlimited.rows[: query.limit]
    assert one.totals == unlimited.totals
    assert one.to_csv() == other.to_csv()
    assert one.to_json() == other.to_json()


@given(st.lists(events(), max_size=8), st.lists(events(), max_size=8))
@settings(deadline=None)
def test_merging_is_adding_all(some: list[UsageEvent], others: list[UsageEvent]) -> None:
    """Parts that were added up apart merge to the whole."""
    whole, part, rest = Aggregate(), Aggregate(), Aggregate()
    for event in some + others:
        whole.add(event)
    for event in some:
        part.add(event)
    for event in others:
        rest.add(event)

    part.merge(rest)

    assert part == whole


@given(times(), zones(), st.sampled_from(BUCKETS), st.integers(0, 10**14), st.integers(1, 10**14))
@settings(max_examples=400, deadline=None)
def test_bucket_integers_give_the_calendar_s_labels(
    time: datetime, tz: str, bucket: str, before: int, after: int
) -> None:
    """The way a store buckets, by offset changes and floor division, is the way of the calendar."""
    time_us = to_microseconds(time)

    offset = offset_at(tz, time_us, time_us - before, time_us + after)
    label = bucket_label(bucket, bucket_number(bucket, time_us, offset), offset)

    assert label == bucket_value(bucket, time, time_zone(tz))


@given(times(), zones())
@settings(max_examples=300, deadline=None)
def test_a_bucket_s_filter_holds_exactly_its_instants(time: datetime, tz: str) -> None:
    """An instant is in the spans of its own bucket, and the span's edges are those of the bucket."""
    zone = time_zone(tz)
    for bucket in BUCKETS:
        value = bucket_value(bucket, time, zone)

        spans = UsageQuery.build(where={bucket: value}, tz=tz).spans

        assert spans is not None
        assert sum(start <= time < end for start, end in spans) == 1
        tick = timedelta(microseconds=1)
        for start, end in spans:
            assert bucket_value(bucket, start, zone) == value == bucket_value(bucket, end - tick, zone)
            assert bucket_value(bucket, start - tick, zone) != value != bucket_value(bucket, end, zone)


@given(st.integers(0, 2**53 - 1) | st.integers(0, 10**6))
def test_a_log_bucket_is_within_one_percent(microseconds: int) -> None:
    """For every duration; below 128 µs exactly."""
    shown = microseconds_of(bucket_of(microseconds))

    assert abs(shown - microseconds) <= microseconds / 128
    if microseconds < 128:
        assert shown == microseconds


@given(st.lists(st.tuples(st.integers(0, 10**10), st.integers(1, 50)), min_size=1), st.sampled_from((50, 95, 99)))
def test_a_quantile_is_the_nearest_rank_within_one_percent(weighted: list[tuple[int, int]], percent: int) -> None:
    """As if each duration stood there as often as its weight."""
    buckets: dict[int, int] = {}
    for value, weight in weighted:
        buckets[bucket_of(value)] = buckets.get(bucket_of(value), 0) + weight

    quantile = quantile_us(buckets, percent)

    spread = sorted(value for value, weight in weighted for _ in range(weight))
    exact = spread[-(-len(spread) * percent // 100) - 1]
    assert quantile == pytest.approx(exact, rel=0.01)


@given(queries())
@settings(max_examples=50, deadline=None)
def test_a_query_survives_pickling(query: UsageQuery) -> None:
    """It can go to another process, and be a key."""
    copy = pickle.loads(pickle.dumps(query))  # noqa: S301  our own bytes

    assert copy == query
    assert hash(copy) == hash(query)
