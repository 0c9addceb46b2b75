"""Ranges, zones and buckets."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from time import perf_counter
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

import pytest

from usagekit.errors import QueryError
from usagekit.event import from_microseconds, to_microseconds
from usagekit.query import UsageQuery
from usagekit.query.periods import (
    bucket_label,
    bucket_number,
    bucket_spans,
    intersected,
    merged,
    offset_changes,
    time_zone,
)

NOW = datetime(2026, 3, 29, 10, tzinfo=UTC)
BERLIN = ZoneInfo("Europe/Berlin")


def bounds(**options: Any) -> tuple[str | None, str | None]:
    """Give the resolved range as text."""
    query = UsageQuery.build(now=NOW, **options)
    return (
        None if query.start is None else query.start.isoformat(),
        None if query.end is None else query.end.isoformat(),
    )


def utc(text: str) -> int:
    """Give an ISO time as microseconds since 1970."""
    return to_microseconds(datetime.fromisoformat(text))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (None, None)),
        ({"period": "24h"}, ("2026-03-28T10:00:00+00:00", "2026-03-29T10:00:00+00:00")),
        ({"period": "7d"}, ("2026-03-22T10:00:00+00:00", "2026-03-29T10:00:00+00:00")),
        ({"days": 1, "tz": "Europe/Berlin"}, ("2026-03-28T23:00:00+00:00", "2026-03-29T22:00:00+00:00")),
        ({"days": 2, "tz": "Asia/Tokyo"}, ("2026-03-27T15:00:00+00:00", "2026-03-29T15:00:00+00:00")),
        ({"start": "2026-03-29", "tz": "Europe/Berlin"}, ("2026-03-28T23:00:00+00:00", None)),
        ({"end": date(2026, 3, 30), "tz": "Europe/Berlin"}, (None, "2026-03-29T22:00:00+00:00")),
        ({"start": "2026-03-29T10:00:00+05:30"}, ("2026-03-29T04:30:00+00:00", None)),
        ({"end": "2026-03-29T10:00:00.000001Z"}, (None, "2026-03-29T10:00:00.000001+00:00")),
        (
            {
                "start": datetime(2026, 3, 29, 1, tzinfo=BERLIN),
                "end": datetime(2026, 3, 29, 3, tzinfo=BERLIN),
            },
            ("2026-03-29T00:00:00+00:00", "2026-03-29T01:00:00+00:00"),
        ),
    ],
)
def test_a_range_is_resolved_to_utc(options: dict[str, Any], expected: tuple[str | None, str | None]) -> None:
    """Periods exactly, dates in the zone, instants as they are."""
    assert bounds(**options) == expected


@pytest.mark.parametrize(
    ("tz", "day", "expected"),
    [
        ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00+00:00"),  # 00:00 does not exist
        ("America/Havana", "2026-11-01", "2026-11-01T04:00:00+00:00"),  # 00:00 comes twice
        ("America/Sao_Paulo", "2018-02-18", "2018-02-18T03:00:00+00:00"),  # 23:00 before it came twice
        ("America/St_Johns", "2010-11-07", "2010-11-07T02:30:00+00:00"),  # 00:00, back at 00:01, 00:00 again
        ("Pacific/Apia", "2011-12-30", "2011-12-30T10:00:00+00:00"),  # a day that never was
        ("Pacific/Apia", "2011-12-31", "2011-12-30T10:00:00+00:00"),
        ("UTC", "2024-02-29", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_a_date_begins_at_its_first_instant(tz: str, day: str, expected: str) -> None:
    """Whatever the zone did to its midnight."""
    assert bounds(start=day, tz=tz) == (expected, None)


def test_dates_at_the_ends_of_the_calendar_are_taken() -> None:
    """Nothing is that old or that far, but it is a usual way to say always."""
    query = UsageQuery.build(start=date.min, end=datetime.max.replace(tzinfo=UTC), tz="Pacific/Apia")

    assert query.start is not None
    assert query.end is not None
    assert query.start.year == 1
    assert query.end.year == 9999
    assert UsageQuery.build(where={"month": ["0001-01", "9999-12"]}).spans == ()
    assert UsageQuery.build(where={"day": ["0001-01-01", "9999-12-30"]}).spans == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"period": "7"}, "bad period '7'"),
        ({"period": "0d"}, "bad period '0d'"),
        ({"period": "-1d"}, "bad period"),
        ({"period": "1w"}, "bad period"),
        ({"period": "٣d"}, "bad period"),
        ({"period": 7}, "bad period 7"),
        ({"period": ""}, "bad period"),
        ({"period": "999999999d"}, "beyond the year 1"),
        ({"period": "9" * 5000 + "d"}, "bad period"),
        ({"days": 0}, "bad days 0"),
        ({"days": True}, "bad days True"),
        ({"days": "7"}, "bad days '7'"),
        ({"days": 10**9}, "beyond the year 1"),
        ({"days": 10**30}, "beyond the year 1"),
        ({"period": "7d", "days": 7}, "period and days exclude each other"),
        ({"period": "7d", "start": "2026-01-01"}, "period and start/end exclude each other"),
        ({"days": 7, "end": "2026-01-01"}, "days and start/end exclude each other"),
        ({"start": "2026-01-02", "end": "2026-01-02"}, "is not before end"),
        ({"start": "2026-01-03", "end": date(2026, 1, 2)}, "is not before end"),
        ({"start": datetime(2026, 1, 2)}, "has no UTC offset"),  # noqa: DTZ001
        ({"end": "2026-01-02T10:00"}, "has no UTC offset"),
        ({"start": "2026-02-30"}, "bad start '2026-02-30'"),
        ({"start": "yesterday"}, "bad start 'yesterday'"),
        ({"start": ""}, "bad start ''"),
        ({"start": "\ud800"}, "bad start"),
        ({"start": 1_700_000_000}, "bad start 1700000000"),
        ({"now": datetime(2026, 1, 1)}, "now must be an aware datetime"),  # noqa: DTZ001
    ],
)
def test_bad_ranges_are_refused(options: dict[str, Any], message: str) -> None:
    """With what was given and what is allowed."""
    with pytest.raises(QueryError, match=message):
        UsageQuery.build(**options)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Europe",
        "Mars/Olympus",
        "../UTC",
        "Europe/../UTC",
        "/etc/localtime",
        "/usr/share/zoneinfo/UTC",
        "UTC\x00",
        "zone.tab",
        "tzdata.zi",
        "right/Europe/Berlin",
        "\ud800",
        "x" * 10_000,
        "Europe//Berlin",
        ".",
        None,
        3,
        ["UTC"],
        UTC,
        b"UTC",
    ],
)
def test_unknown_zones_are_refused(name: Any) -> None:
    """Also directories, paths and things that are no names."""
    with pytest.raises(QueryError, match="unknown time zone"):
        UsageQuery.build(tz=name)


def test_every_zone_there_is_can_be_used() -> None:
    """By its name."""
    names = {name for name in available_timezones() if not name.startswith(("right/", "posix/"))}

    assert {name for name in names if time_zone(name) is None} == set()
    assert len(names) > 300


def test_offset_changes_are_those_of_the_zone() -> None:
    """The offset at the start, and each change up to the end, exclusive."""
    start, end = utc("2026-01-01T00:00:00Z"), utc("2027-03-28T01:00:00Z")

    changes = offset_changes("Europe/Berlin", start, end)

    assert changes == [
        (start, 3600),
        (utc("2026-03-29T01:00:00Z"), 7200),
        (utc("2026-10-25T01:00:00Z"), 3600),
    ]
    assert offset_changes("Europe/Berlin", start, end + 1)[3:] == [(end, 7200)]
    assert offset_changes("UTC", start, end) == [(start, 0)]


@pytest.mark.parametrize("tz", ["Africa/Casablanca", "Antarctica/Troll", "Africa/Monrovia", "Asia/Gaza"])
def test_no_change_is_missed_hour_by_hour(tz: str) -> None:
    """Zones with rare rules agree with their offset at every hour of two spans of years."""
    zone = ZoneInfo(tz)
    for first, last in (
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1974, 1, 1, tzinfo=UTC)),
        (NOW, NOW.replace(year=2029)),
    ):
        changes = dict(offset_changes(tz, to_microseconds(first), to_microseconds(last)))
        offset, time = changes.pop(to_microseconds(first)), first

        while time < last:
            offset = changes.pop(to_microseconds(time), offset)
            odd = [at for at in changes if at < to_microseconds(time)]
            offset = changes.pop(odd[-1]) if odd else offset
            assert time.astimezone(zone).utcoffset() == timedelta(seconds=offset), time
            time += timedelta(hours=1)
        assert changes == {}


def test_offset_changes_of_any_range_do_not_fail() -> None:
    """Before and after everything that a datetime can hold."""
    changes = offset_changes("Europe/Berlin", -(10**18), -(10**18) + 1)
    late = offset_changes("Europe/Berlin", 253_370_764_800_000_000, 10**18)

    assert changes == [(-(10**18), 3208)]
    assert late[0] == (253_370_764_800_000_000, 3600)


def test_ten_years_of_offsets_take_milliseconds() -> None:
    """At first; after that they are remembered."""
    start, end = utc("2016-01-01T00:00:00Z"), utc("2026-01-01T00:00:00Z")

    began = perf_counter()
    changes = offset_changes("America/Los_Angeles", start, end)
    took = perf_counter() - began

    assert len(changes) == 21
    assert took < 0.5  # 5 ms on a laptop; a crowded machine may be slow


@pytest.mark.parametrize(
    ("bucket", "time", "offset", "number", "label"),
    [
        ("hour", "2026-11-20T12:59:59.999999Z", 3600, 498_661, "2026-11-20T13:00:00+01:00"),
        ("hour", "1970-01-01T00:00:00Z", -2670, -1, "1969-12-31T23:00:00-00:44:30"),
        ("day", "1970-01-01T00:00:00Z", 0, 0, "1970-01-01"),
        ("day", "1970-01-01T00:00:00Z", -18_000, -1, "1969-12-31"),
        ("week", "1970-01-01T00:00:00Z", 0, 0, "1970-W01"),
        ("week", "1970-01-05T00:00:00Z", 0, 1, "1970-W02"),
        ("week", "1970-01-05T00:00:00Z", -1, 0, "1970-W01"),
        ("week", "2027-01-03T23:59:59Z", 0, 2974, "2026-W53"),
        ("month", "2026-12-31T23:00:00Z", 0, 24_324, "2026-12"),
        ("month", "2026-12-31T23:00:00Z", 3600, 24_325, "2027-01"),
    ],
)
def test_bucket_numbers_and_labels(bucket: str, time: str, offset: int, number: int, label: str) -> None:
    """What a store computes, and what is shown for it."""
    assert bucket_number(bucket, utc(time), offset) == number
    assert bucket_label(bucket, number, offset) == label


def test_an_hour_filter_tells_the_two_hours_apart() -> None:
    """By the offset; an aware datetime does as well."""
    first = bucket_spans("hour", "2026-10-25T02:00:00+02:00", "Europe/Berlin")
    second = bucket_spans("hour", datetime(2026, 10, 25, 2, tzinfo=timezone(timedelta(hours=1))), "Europe/Berlin")

    assert first == [(utc("2026-10-25T00:00:00Z"), utc("2026-10-25T01:00:00Z"))]
    assert second == [(utc("2026-10-25T01:00:00Z"), utc("2026-10-25T02:00:00Z"))]


def test_a_day_torn_in_two_has_two_spans() -> None:
    """In Newfoundland the clock once went back from 00:01 to 23:01."""
    spans = bucket_spans("day", "2010-11-07", "America/St_Johns")

    assert spans == [
        (utc("2010-11-07T02:30:00Z"), utc("2010-11-07T02:31:00Z")),
        (utc("2010-11-07T03:30:00Z"), utc("2010-11-08T03:30:00Z")),
    ]
    assert bucket_spans("day", "2011-12-30", "Pacific/Apia") == []


@pytest.mark.parametrize(
    ("bucket", "value", "message"),
    [
        ("hour", "2026-11-20T13:00:00", "bad hour"),
        ("hour", "2026-11-20T13:30:00+01:00", "bad hour"),
        ("hour", "2026-11-20", "bad hour"),
        ("hour", "noon", "bad hour"),
        ("hour", 13, "bad hour 13"),
        ("hour", "2026-11-20T13:00:00+02:00", "does not exist in Europe/Berlin"),
        ("day", "2026-11-31", "bad day"),
        ("day", "20261120", "bad day"),
        ("day", datetime(2026, 11, 20, tzinfo=UTC), "bad day"),
        ("day", 20, "bad day 20"),
        ("week", "2026-W54", "bad week"),
        ("week", "2026-47", "bad week"),
        ("week", 47, "bad week 47"),
        ("week", "9999-W52", None),
        ("month", "2026-13", "bad month"),
        ("month", "0000-01", "bad month"),
        ("month", "2026-11-01", "bad month"),
        ("month", 11, "bad month 11"),
        ("day", "9999-12-31", None),
        ("month", "9999-12", None),
    ],
)
def test_bad_bucket_values_are_refused(bucket: str, value: object, message: str | None) -> None:
    """With the form that is meant; what is only far away matches nothing."""
    if message is None:
        assert UsageQuery.build(where={bucket: value}).spans == ()
        return
    with pytest.raises(QueryError, match=message):
        UsageQuery.build(where={bucket: value}, tz="Europe/Berlin")


def test_spans_are_merged_and_intersected() -> None:
    """As sets of instants."""
    assert merged([(5, 7), (1, 3), (3, 4), (2, 3), (9, 9), (6, 8)]) == [(1, 4), (5, 8)]
    assert intersected([(1, 4), (5, 8)], [(0, 2), (3, 6), (8, 9)]) == [(1, 2), (3, 4), (5, 6)]
    assert intersected([], [(1, 2)]) == []


def test_filters_on_buckets_are_clipped_to_the_range() -> None:
    """So that a reader who looks at the spans alone is right."""
    query = UsageQuery.build(
        where={"day": ["2026-03-29", "2026-03-27", "2026-03-28"]},
        tz="Europe/Berlin",
        start="2026-03-27T12:00:00Z",
        end="2026-03-29T22:00:00Z",
    )

    assert query.where == {}
    assert query.windows_us == ((utc("2026-03-27T12:00:00Z"), utc("2026-03-29T22:00:00Z")),)
    assert query.spans == tuple((from_microseconds(a or 0), from_microseconds(b or 0)) for a, b in query.windows_us)
