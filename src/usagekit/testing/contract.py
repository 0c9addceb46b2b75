"""What tests of backends need: `ReaderContract`, the suite that every reader passes.

For messages that show both sides of a failed comparison, call
`pytest.register_assert_rewrite("usagekit.testing")` in `conftest.py` before this module is imported.
"""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit.errors import QueryError, QueryTimeout
from usagekit.event import UsageEvent
from usagekit.query import MEASURES, UsageQuery, usage

if TYPE_CHECKING:
    from collections.abc import Iterable

    from usagekit.query import Reader, UsageReport

__all__ = ["ReaderContract"]

_NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
_NOW = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
_DIMENSIONS = ("project", "country")
_TICK = timedelta(microseconds=1)

_NOTHING: dict[str, Any] = {
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

_ESTIMATES = ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "first_token_ms_p50")


def _story() -> list[UsageEvent]:
    """Give one event of every kind, each different in every dimension."""
    request = UsageEvent(
        time=_NOON,
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
        time=_NOON + timedelta(minutes=30),
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
    named = UsageEvent(time=_NOON + timedelta(hours=1), kind="named", event="export", quantity=2.5, weight=3)
    return [request, model_call, named]


def _ask(reader: Reader, **options: Any) -> UsageReport:
    return reader.read(UsageQuery.build(dimensions=_DIMENSIONS, now=_NOW, **options))


def _counts(reader: Reader, by: str, **options: Any) -> list[tuple[Any, int]]:
    """Give (value of `by`, events) of each row, in order."""
    report = _ask(reader, by=by, measures="events", **options)
    assert all(list(row) == [by, "events"] for row in report.rows)
    return [(row[by], row["events"]) for row in report.rows]


def _at(*times: str) -> list[UsageEvent]:
    return [UsageEvent(time=datetime.fromisoformat(time), event="tick") for time in times]


def _refusal(reader: Reader, options: dict[str, Any]) -> str:
    try:
        usage(reader, **options)
    except QueryError as error:
        return str(error)
    return ""


def _check_estimates(row: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare whole rows, the percentiles within 1 %."""
    assert list(row) == list(expected)
    for name, value in expected.items():
        if name in _ESTIMATES and value is not None:
            assert row[name] is not None, name
            assert abs(row[name] - value) <= value * 0.01, (name, row[name], value)
        else:
            assert row[name] == value, (name, row[name], value)


def _check_first_digits(row: dict[str, Any], expected: dict[str, Any]) -> None:
    assert list(row) == list(expected)
    for name, value in expected.items():
        if isinstance(value, str):
            assert row[name] == value
        else:
            assert type(row[name]) is type(value), name
            assert abs(row[name] / value - 1) < 1e-12, (name, row[name], value)


class ReaderContract:
    """The tests that every reader passes: subclass it in pytest, and say how events get into your reader.

        class TestMyBackend(ReaderContract):
            def make_reader(self, events):
                backend = MyBackend(...)
                backend.write(events, batch_id="1")
                return backend

    The reader must take the declared dimensions `project` and `country`, and be exact. With `exact = False` its
    reports must say so, and sums beyond 2**53 need be right in their first twelve digits only. What `make_reader`
    needs (a directory, a server) comes from a fixture of the subclass with `autouse=True` that sets an
    attribute.
    """

    exact = True
    """Whether the reader counts every event to the last unit."""

    def make_reader(self, events: list[UsageEvent]) -> Reader:
        """Give a reader that holds exactly `events`, which have distinct ids, as recorded by this app."""
        raise NotImplementedError("subclasses of ReaderContract say how events get into the reader")

    def _reader(self, events: Iterable[UsageEvent]) -> Reader:
        return self.make_reader([replace(event, id=f"contract-{n}") for n, event in enumerate(events)])

    # What can be grouped by.

    def test_groups_by_every_dimension(self) -> None:
        """Each dimension gives its own values and types, the unknown ones too."""
        reader = self._reader(_story())

        answers = {name: _counts(reader, name) for name in _BY_DIMENSION}

        assert answers == _BY_DIMENSION

    def test_groups_by_several_dimensions_in_the_order_asked(self) -> None:
        """Keys come first, in the order of `by`, then the measures, in the order of `measures`."""
        reader = self._reader(_story())

        report = _ask(reader, by=["day", "org", "status"], measures=["total_tokens", "events"])

        assert [list(row.items()) for row in report.rows] == [
            [("day", "2026-11-20"), ("org", ""), ("status", 0), ("total_tokens", 0), ("events", 3)],
            [("day", "2026-11-20"), ("org", "acme"), ("status", 200), ("total_tokens", 0), ("events", 1)],
            [("day", "2026-11-20"), ("org", "acme"), ("status", 429), ("total_tokens", 1500), ("events", 1)],
        ]

    def test_status_classes_span_all_statuses(self) -> None:
        """The class is the first of three digits; only 0 is none."""
        statuses = (0, 1, 99, 100, 199, 299, 304, 499, 599, 999)
        reader = self._reader(UsageEvent(time=_NOON, status=status) for status in statuses)

        counted = _counts(reader, "status_class", order="status_class")

        assert counted == [
            ("0xx", 2),
            ("1xx", 2),
            ("2xx", 1),
            ("3xx", 1),
            ("4xx", 1),
            ("5xx", 1),
            ("9xx", 1),
            ("none", 1),
        ]

    # What is measured.

    def test_gives_every_measure(self) -> None:
        """One row of everything equals the totals, measure by measure."""
        reader = self._reader(_story())

        report = _ask(reader)

        assert report.rows == [report.totals]
        _check_estimates(
            report.totals,
            {
                "events": 5,
                "succeeded": 1,
                "failed": 1,
                "success_rate": 0.5,
                "users": 2,
                "input_tokens": 1200,
                "output_tokens": 300,
                "cache_read_tokens": 1000,
                "cache_write_tokens": 100,
                "reasoning_tokens": 200,
                "total_tokens": 1500,
                "cost_usd": Decimal("0.000000001"),
                "unpriced": 0,
                "response_bytes": 2048,
                "quantity": 9.5,
                "latency_ms_avg": 426.25,
                "latency_ms_p50": 12.5,
                "latency_ms_p95": 840.0,
                "latency_ms_p99": 840.0,
                "latency_ms_max": 840.0,
                "first_token_ms_p50": 220.0,
                "last_seen": "2026-11-20T13:00:00.000000+00:00",
            },
        )

    def test_nothing_recorded_is_zero_and_unknown(self) -> None:
        """Without events counts are 0, rates, money and times None; groups have no row."""
        reader = self._reader([])

        everything, grouped = _ask(reader), _ask(reader, by="user")

        assert everything.rows == [_NOTHING]
        assert everything.totals == grouped.totals == _NOTHING
        assert list(everything.totals) == list(MEASURES)
        assert grouped.rows == []

    def test_nothing_matching_is_zero_and_unknown(self) -> None:
        """A filter that keeps nothing is as empty as an empty store; so is an empty list of values."""
        reader = self._reader(_story())

        filters: list[dict[str, object]] = [
            {"org": "nobody"},
            {"org": []},
            {"day": "2020-02-29"},
            {"day": []},
        ]
        for where in filters:
            report = _ask(reader, where=where)
            assert report.totals == _NOTHING, where
            assert _ask(reader, by="user", where=where).rows == [], where

    def test_every_event_counts_as_often_as_its_weight(self) -> None:
        """All sums, averages and percentiles are weighted; users, the largest and the last are not."""
        heavy = UsageEvent(
            time=_NOON,
            user="ann",
            status=500,
            latency_ms=100,
            first_token_ms=10,
            input_tokens=7,
            output_tokens=5,
            cache_read_tokens=3,
            cache_write_tokens=2,
            reasoning_tokens=1,
            cost_usd=Decimal("0.10"),
            response_bytes=11,
            quantity=0.1,
            weight=99,
        )
        light = UsageEvent(time=_NOON - timedelta(days=1), user="ann", status=200, latency_ms=5000, first_token_ms=900)
        unpriced = UsageEvent(time=_NOON - timedelta(days=1), cost_source="unpriced", weight=4, quantity=0)
        reader = self._reader([heavy, light, unpriced])

        report = _ask(reader)

        _check_estimates(
            report.totals,
            {
                "events": 104,
                "succeeded": 1,
                "failed": 99,
                "success_rate": 0.01,
                "users": 1,
                "input_tokens": 693,
                "output_tokens": 495,
                "cache_read_tokens": 297,
                "cache_write_tokens": 198,
                "reasoning_tokens": 99,
                "total_tokens": 1188,
                "cost_usd": Decimal("9.9"),
                "unpriced": 4,
                "response_bytes": 1089,
                "quantity": 10.9,
                "latency_ms_avg": 149.0,
                "latency_ms_p50": 100.0,
                "latency_ms_p95": 100.0,
                "latency_ms_p99": 100.0,
                "latency_ms_max": 5000.0,
                "first_token_ms_p50": 10.0,
                "last_seen": "2026-11-20T12:00:00.000000+00:00",
            },
        )

    def test_percentiles_are_the_nearest_rank_within_one_percent(self) -> None:
        """Of 1,000 durations over six orders of magnitude, and of the smallest ones exactly."""
        spread = [0.001 * 1.02**n for n in range(1000)]
        reader = self._reader(UsageEvent(time=_NOON, latency_ms=ms, first_token_ms=ms) for ms in spread)
        tiny = self._reader(UsageEvent(time=_NOON, latency_ms=us / 1000) for us in (0, 0, 1, 3))

        wide = _ask(reader, measures=_ESTIMATES).totals
        small = _ask(tiny, measures=["latency_ms_p50", "latency_ms_p99", "latency_ms_max"]).totals

        rounded = [round(ms * 1000) / 1000 for ms in spread]
        _check_estimates(
            wide,
            {
                "latency_ms_p50": rounded[499],
                "latency_ms_p95": rounded[949],
                "latency_ms_p99": rounded[989],
                "first_token_ms_p50": rounded[499],
            },
        )
        assert small == {"latency_ms_p50": 0.0, "latency_ms_p99": 0.003, "latency_ms_max": 0.003}

    def test_sums_beyond_64_bits_are_exact(self) -> None:
        """The largest events there can be add up, to the last unit where the reader is exact."""
        largest = 2**53 - 1
        event = UsageEvent(
            time=_NOON,
            user="ann",
            input_tokens=largest,
            output_tokens=largest,
            response_bytes=largest,
            cost_usd=Decimal(largest).scaleb(-9),
            weight=1_000_000_000,
        )
        reader = self._reader([event, event, replace(event, weight=1)])

        report = _ask(
            reader,
            by="user",
            measures=["events", "input_tokens", "total_tokens", "cost_usd", "response_bytes"],
        )

        times = 2_000_000_001
        assert largest * times > 2**63
        expected = {
            "user": "ann",
            "events": times,
            "input_tokens": largest * times,
            "total_tokens": 2 * largest * times,
            "cost_usd": Decimal(f"{largest * times}E-9"),
            "response_bytes": largest * times,
        }
        if self.exact:
            assert report.rows == [expected]
        else:
            assert len(report.rows) == 1
            _check_first_digits(report.rows[0], expected)

    def test_money_is_exact_to_the_nano_dollar(self) -> None:
        """Ten times a tenth and one nano-dollar; unpriced is not 0, and 0 is not unpriced."""
        reader = self._reader(
            [UsageEvent(time=_NOON, org="paid", cost_usd=Decimal("0.1")) for _ in range(10)]
            + [
                UsageEvent(time=_NOON, org="paid", cost_usd=Decimal("0.000000001")),
                UsageEvent(time=_NOON, org="free", cost_usd=Decimal(0), cost_source="priced"),
                UsageEvent(time=_NOON, org="unknown", cost_source="unpriced"),
                UsageEvent(time=_NOON, org="other"),
            ]
        )

        report = _ask(reader, by="org", measures=["cost_usd", "unpriced"], order="-cost_usd")

        assert report.rows == [
            {"org": "paid", "cost_usd": Decimal("1.000000001"), "unpriced": 0},
            {"org": "free", "cost_usd": Decimal(0), "unpriced": 0},
            {"org": "other", "cost_usd": None, "unpriced": 0},
            {"org": "unknown", "cost_usd": None, "unpriced": 1},
        ]
        assert isinstance(report.rows[0]["cost_usd"], Decimal)
        assert report.totals == {"cost_usd": Decimal("1.000000001"), "unpriced": 1}

    def test_users_are_distinct_and_known(self) -> None:
        """A user of two orgs counts in each and once in all; the unknown one is no user."""
        reader = self._reader(
            UsageEvent(time=_NOON, user=user, org=org)
            for user, org in (("ann", "a"), ("ann", "a"), ("ann", "b"), ("bob", "b"), ("", "b"), ("", "c"))
        )

        report = _ask(reader, by="org", measures="users", order="org")

        assert report.rows == [{"org": "a", "users": 1}, {"org": "b", "users": 2}, {"org": "c", "users": 0}]
        assert report.totals == {"users": 2}

    def test_last_seen_is_in_the_zone_and_to_the_microsecond(self) -> None:
        """The latest time, whatever the order of recording, with the offset that held then."""
        reader = self._reader(_at("2026-07-01T10:00:00.000001Z", "2026-06-01T10:00:00Z", "2026-01-01T10:00:00Z"))

        summer = _ask(reader, measures="last_seen", tz="Europe/Berlin")
        winter = _ask(reader, measures="last_seen", tz="Europe/Berlin", end="2026-02-01")

        assert summer.totals == {"last_seen": "2026-07-01T12:00:00.000001+02:00"}
        assert winter.totals == {"last_seen": "2026-01-01T11:00:00.000000+01:00"}

    # Time.

    def test_a_range_includes_its_start_and_excludes_its_end(self) -> None:
        """To the microsecond."""
        start, end = _NOON, _NOON + timedelta(hours=1)
        times = (start - _TICK, start, end - _TICK, end)
        reader = self._reader(UsageEvent(time=time, event=f"at {n}") for n, time in enumerate(times))

        both = _counts(reader, "event", start=start, end=end)
        open_end = _counts(reader, "event", start=start)
        open_start = _counts(reader, "event", end=end.isoformat())

        assert both == [("at 1", 1), ("at 2", 1)]
        assert open_end == [("at 1", 1), ("at 2", 1), ("at 3", 1)]
        assert open_start == [("at 0", 1), ("at 1", 1), ("at 2", 1)]

    def test_a_period_counts_back_from_now(self) -> None:
        """Hours and days of 24 hours; what is at or after now is left out."""
        ages = {"25 h": 25, "24 h": 24, "1 h": 1, "now": 0}
        reader = self._reader(
            UsageEvent(time=_NOW - timedelta(hours=hours), event=name) for name, hours in ages.items()
        )

        assert _counts(reader, "event", period="1h") == [("1 h", 1)]
        assert _counts(reader, "event", period="1d") == [("1 h", 1), ("24 h", 1)]
        assert _counts(reader, "event", period="48h") == [("1 h", 1), ("24 h", 1), ("25 h", 1)]

    def test_days_are_calendar_days_of_the_zone(self) -> None:
        """Today is the zone's today, to its last microsecond."""
        reader = self._reader(
            _at(
                "2026-11-19T14:59:59.999999Z",
                "2026-11-19T15:00:00Z",
                "2026-11-20T15:00:00Z",
                "2026-11-21T14:59:59.999999Z",
                "2026-11-21T15:00:00Z",
            )
        )

        assert _counts(reader, "day", days=1, tz="Asia/Tokyo") == [("2026-11-21", 2)]
        assert _counts(reader, "day", days=2, tz="Asia/Tokyo") == [("2026-11-20", 1), ("2026-11-21", 2)]

    def test_buckets_are_iso(self) -> None:
        """Also where the ISO week belongs to another year than its day."""
        reader = self._reader(_at("2026-11-20T12:59:59.999999Z", "2027-01-03T23:30:00Z", "1970-01-01T00:00:00Z"))

        answers = {bucket: _counts(reader, bucket, tz="Europe/Berlin") for bucket in ("hour", "day", "week", "month")}

        assert answers == {
            "hour": [
                ("1970-01-01T01:00:00+01:00", 1),
                ("2026-11-20T13:00:00+01:00", 1),
                ("2027-01-04T00:00:00+01:00", 1),
            ],
            "day": [("1970-01-01", 1), ("2026-11-20", 1), ("2027-01-04", 1)],
            "week": [("1970-W01", 1), ("2026-W47", 1), ("2027-W01", 1)],
            "month": [("1970-01", 1), ("2026-11", 1), ("2027-01", 1)],
        }

    def test_the_epoch_in_a_zone_west_of_greenwich_lies_in_1969(self) -> None:
        """Local times before 1970 fall into the bucket before, not towards zero."""
        reader = self._reader(_at("1970-01-01T00:00:00Z"))

        answers = {
            bucket: _counts(reader, bucket, tz="America/New_York") for bucket in ("hour", "day", "week", "month")
        }

        assert answers == {
            "hour": [("1969-12-31T19:00:00-05:00", 1)],
            "day": [("1969-12-31", 1)],
            "week": [("1970-W01", 1)],
            "month": [("1969-12", 1)],
        }

    def test_the_hour_that_comes_twice_is_two_hours(self) -> None:
        """In order of time, although their local times are equal."""
        reader = self._reader(_at("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"))

        assert _counts(reader, "hour", tz="Europe/Berlin") == [
            ("2026-10-25T02:00:00+02:00", 1),
            ("2026-10-25T02:00:00+01:00", 1),
            ("2026-10-25T03:00:00+01:00", 1),
        ]

    def test_days_of_23_and_25_hours_hold_all_their_hours(self) -> None:
        """Where the clocks change, a day is as long as it is."""
        hours = [
            datetime(2026, month, day, tzinfo=UTC) + timedelta(hours=n)
            for month, day in ((3, 28), (10, 24))
            for n in range(72)
        ]
        reader = self._reader(UsageEvent(time=time) for time in hours)

        spring = _counts(reader, "day", tz="Europe/Berlin", start="2026-03-28", end="2026-03-31")
        autumn = _counts(reader, "day", tz="Europe/Berlin", where={"day": ["2026-10-25", "2026-10-26"]})

        assert spring == [("2026-03-28", 23), ("2026-03-29", 23), ("2026-03-30", 24)]
        assert autumn == [("2026-10-25", 25), ("2026-10-26", 24)]

    def test_zones_off_by_parts_of_an_hour(self) -> None:
        """Half hours, quarters, and a clock that changes by half an hour."""
        reader = self._reader(
            _at("2026-04-04T14:15:00Z", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T15:45:00Z")
        )

        assert _counts(reader, "hour", tz="Asia/Kolkata") == [
            ("2026-04-04T19:00:00+05:30", 1),
            ("2026-04-04T20:00:00+05:30", 2),
            ("2026-04-04T21:00:00+05:30", 1),
        ]
        assert _counts(reader, "hour", tz="Asia/Kathmandu") == [
            ("2026-04-04T20:00:00+05:45", 2),
            ("2026-04-04T21:00:00+05:45", 2),
        ]
        assert _counts(reader, "hour", tz="Australia/Lord_Howe") == [
            ("2026-04-05T01:00:00+11:00", 2),
            ("2026-04-05T01:00:00+10:30", 1),
            ("2026-04-05T02:00:00+10:30", 1),
        ]

    def test_a_day_begins_at_its_first_instant(self) -> None:
        """Also where midnight does not exist, or comes twice."""
        cairo = self._reader(_at("2026-04-23T21:59:59.999999Z", "2026-04-23T22:00:00Z"))
        havana = self._reader(_at("2026-11-01T03:59:59.999999Z", "2026-11-01T04:00:00Z", "2026-11-01T05:30:00Z"))

        assert _counts(cairo, "day", tz="Africa/Cairo", start="2026-04-24") == [("2026-04-24", 1)]
        assert _counts(havana, "day", tz="America/Havana", start="2026-11-01") == [("2026-11-01", 2)]

    # Order and limit.

    def test_the_default_order_is_most_events_first_then_key(self) -> None:
        """Ties by the keys, in the order of `by`."""
        reader = self._reader(
            UsageEvent(time=_NOON, user=user, org=org, weight=weight)
            for user, org, weight in (("b", "2", 1), ("a", "2", 1), ("", "", 1), ("a", "1", 1), ("c", "1", 5))
        )

        report = _ask(reader, by=["org", "user"], measures=[])

        assert [tuple(row.values()) for row in report.rows] == [
            ("1", "c"),
            ("", ""),
            ("1", "a"),
            ("2", "a"),
            ("2", "b"),
        ]

    def test_time_buckets_come_first_in_the_default_order(self) -> None:
        """Wherever the bucket stands in `by`: time ascending, then most events, then key."""
        reader = self._reader(
            UsageEvent(time=_NOON + timedelta(days=day), user=user, weight=weight)
            for day, user, weight in ((1, "a", 9), (0, "b", 1), (0, "c", 2), (0, "a", 1))
        )

        report = _ask(reader, by=["user", "day"], measures="events")

        assert [tuple(row.values()) for row in report.rows] == [
            ("c", "2026-11-20", 2),
            ("a", "2026-11-20", 1),
            ("b", "2026-11-20", 1),
            ("a", "2026-11-21", 9),
        ]

    def test_none_is_last_in_both_directions(self) -> None:
        """What is unknown is neither the smallest nor the largest."""
        reader = self._reader(
            UsageEvent(time=_NOON, user=user, latency_ms=latency)
            for user, latency in (("z", None), ("slow", 9.0), ("y", None), ("fast", 1.0))
        )

        up = _ask(reader, by="user", measures="latency_ms_max", order="latency_ms_max").rows
        down = _ask(reader, by="user", measures="latency_ms_max", order="-latency_ms_max").rows

        assert [row["user"] for row in up] == ["fast", "slow", "y", "z"]
        assert [row["user"] for row in down] == ["slow", "fast", "y", "z"]

    def test_orders_by_a_measure_that_is_not_shown(self) -> None:
        """It is computed, and not in the rows."""
        reader = self._reader(_story())

        report = _ask(reader, by="event", measures="users", order="-total_tokens")

        assert report.rows == [
            {"event": "summarise", "users": 1},
            {"event": "export", "users": 0},
            {"event": "request", "users": 1},
        ]

    def test_orders_by_a_dimension_in_both_directions(self) -> None:
        """Numbers as numbers, time as time."""
        reader = self._reader(
            UsageEvent(time=_NOON + timedelta(hours=9 * n), status=status) for n, status in enumerate((99, 500, 0, 101))
        )

        assert [value for value, _ in _counts(reader, "status", order="status")] == [0, 99, 101, 500]
        assert [value for value, _ in _counts(reader, "status", order="-status")] == [500, 101, 99, 0]
        assert [value for value, _ in _counts(reader, "day", order="-day")] == ["2026-11-21", "2026-11-20"]

    def test_every_measure_can_be_the_order(self) -> None:
        """In both directions, with the same rows."""
        reader = self._reader(_story())

        for name in MEASURES:
            up = _ask(reader, by="event", measures=name, order=name).rows
            down = _ask(reader, by="event", measures=name, order=f"-{name}").rows
            known = [row[name] for row in up if row[name] is not None]
            assert known == sorted(known), name
            assert [row[name] for row in down if row[name] is not None] == known[::-1], name
            assert sorted(row["event"] for row in up) == sorted(row["event"] for row in down), name

    def test_totals_do_not_know_the_limit(self) -> None:
        """They are over everything that matched the range and the filters."""
        reader = self._reader(UsageEvent(time=_NOON, user=f"user {n}", weight=n) for n in range(1, 11))

        report = _ask(
            reader,
            by="user",
            measures=["events", "users"],
            limit=2,
            where={"user": [f"user {n}" for n in range(1, 6)]},
        )

        assert report.rows == [
            {"user": "user 5", "events": 5, "users": 1},
            {"user": "user 4", "events": 4, "users": 1},
        ]
        assert report.totals == {"events": 15, "users": 5}

    def test_says_how_many_rows_there_are_without_the_limit(self) -> None:
        """So that whoever shows the rows can say what was cut."""
        reader = self._reader(UsageEvent(time=_NOON, user=f"user {n}") for n in range(5))

        reports = [
            _ask(reader, by="user", limit=2),
            _ask(reader, by="user", limit=5),
            _ask(reader, by=["user", "day"], where={"user": ["user 1", "user 2", "nobody"]}),
            _ask(reader, by="user", where={"user": []}),
            _ask(reader),
        ]

        assert [(len(report.rows), report.groups) for report in reports] == [(2, 5), (5, 5), (2, 2), (0, 0), (1, 1)]

    # Time budgets.

    def test_an_answer_within_its_time_is_the_same(self) -> None:
        """The budget changes nothing but when to give up."""
        reader = self._reader(_story())

        report = _ask(reader, by="user", timeout=3600)

        assert report.rows == _ask(reader, by="user").rows
        assert report.query.timeout == 3600

    def test_an_answer_that_takes_too_long_is_none(self) -> None:
        """The error says what was asked, how long it was given, and what to do."""
        reader = self._reader(_story())

        try:
            _ask(reader, by=["user", "day"], start="2026-11-01", timeout=1e-9)
        except QueryTimeout as error:
            message = str(error)
        else:
            message = ""

        assert "user, day" in message
        assert "2026-11-01" in message
        assert "1e-09 s" in message
        assert "larger timeout" in message

    # Filters.

    def test_filters_by_every_dimension(self) -> None:
        """With one value, as the app or a URL has it."""
        reader = self._reader(_story())

        for name, value, events in _FILTERS:
            assert _counts(reader, "event", where={name: value}, order="event") == events, (name, value)

    def test_a_list_of_values_keeps_any_of_them(self) -> None:
        """And several filters keep what passes all."""
        reader = self._reader(_story())

        several = _counts(reader, "event", where={"user": ["ann", "bob", "cid"], "status": ["429", 500, 0]})
        unknown = _counts(reader, "event", where={"user": ("", "ann")}, order="event")

        assert several == [("summarise", 1)]
        assert unknown == [("export", 3), ("request", 1)]

    def test_filters_on_time_buckets_keep_those_buckets(self) -> None:
        """In the zone, together with a range, and with each other."""
        hours = [datetime(2026, 10, 24, tzinfo=UTC) + timedelta(hours=n) for n in range(72)]
        reader = self._reader(UsageEvent(time=time) for time in hours)
        zone = {"tz": "Europe/Berlin"}

        twice = ["2026-10-25T02:00:00+01:00", "2026-10-26T09:00:00+01:00"]
        assert _counts(reader, "hour", where={"hour": twice}, **zone) == [(hour, 1) for hour in twice]
        assert _counts(reader, "day", where={"week": "2026-W43"}, **zone) == [
            ("2026-10-24", 22),
            ("2026-10-25", 25),
        ]
        assert _counts(reader, "month", where={"month": "2026-10"}, **zone) == [("2026-10", 72)]
        assert _counts(reader, "day", where={"day": ["2026-10-24", "2026-10-26"], "week": "2026-W44"}, **zone) == [
            ("2026-10-26", 24)
        ]
        assert _counts(reader, "day", where={"day": "2026-10-25"}, end="2026-10-25T00:30:00Z", **zone) == [
            ("2026-10-25", 3)
        ]

    def test_what_was_recorded_is_found_again(self) -> None:
        """Filter values are cleaned as events are: a huge id, a lone surrogate, a control character."""
        odd = ("x" * 1_000_000, "\ud83d", "a\x00b", "Zoë 🦊", "' OR 1=1 --", "%", "A", "a", "a ")
        reader = self._reader(
            UsageEvent(time=_NOON, event="e", user=value, attributes={"project": value}) for value in odd
        )

        for value in odd:
            assert _counts(reader, "event", where={"user": value}) == [("e", 1)], value[:20]
            assert _counts(reader, "event", where={"project": [value]}) == [("e", 1)], value[:20]

    # Where it comes from, and what cannot be asked.

    def test_backfilled_events_are_never_mixed_in(self) -> None:
        """Events this app recorded are not in an answer about others."""
        reader = self._reader(_story())

        report = _ask(reader, by="event", origin="backfill")

        assert (report.rows, report.totals) == ([], _NOTHING)

    def test_a_report_says_what_it_is(self) -> None:
        """Exact or not, complete, with the name of its source and the question."""
        reader = self._reader(_story())
        query = UsageQuery.build(by="project", dimensions=_DIMENSIONS, limit=1)

        report = reader.read(query)

        assert (report.exact, report.complete_from, report.query) == (self.exact, None, query)
        assert report.source

    def test_answers_usage(self) -> None:
        """The one function everybody asks with."""
        reader = self._reader(_story())

        report = usage(reader, by="kind", measures="events", tz="Asia/Tokyo", start="2026-11-20", order="kind", limit=2)

        assert report.rows == [{"kind": "llm", "events": 1}, {"kind": "named", "events": 3}]
        assert report.totals == {"events": 5}

    def test_unknown_names_are_refused(self) -> None:
        """With what is allowed instead."""
        reader = self._reader([])

        for options in (
            {"by": "client"},
            {"measures": "clicks"},
            {"where": {"client": "x"}},
            {"order": "-user"},
        ):
            assert "use " in _refusal(reader, options), options


_BY_DIMENSION: dict[str, list[tuple[Any, int]]] = {
    "kind": [("named", 3), ("llm", 1), ("request", 1)],
    "user": [("", 3), ("ann", 1), ("bob", 1)],
    "org": [("", 3), ("acme", 2)],
    "event": [("export", 3), ("request", 1), ("summarise", 1)],
    "route": [("", 3), ("GET /items/{id}", 1), ("POST /summaries", 1)],
    "status": [(0, 3), (200, 1), (429, 1)],
    "status_class": [("none", 3), ("2xx", 1), ("4xx", 1)],
    "provider": [("", 4), ("openai", 1)],
    "model": [("", 4), ("gpt-5-mini", 1)],
    "cost_source": [("", 4), ("priced", 1)],
    "aborted": [(False, 4), (True, 1)],
    "project": [("", 3), ("alpha", 1), ("beta", 1)],
    "country": [("", 4), ("DE", 1)],
    "hour": [("2026-11-20T12:00:00+00:00", 2), ("2026-11-20T13:00:00+00:00", 3)],
    "day": [("2026-11-20", 5)],
    "week": [("2026-W47", 5)],
    "month": [("2026-11", 5)],
}

_REQUEST = [("request", 1)]
_CALL = [("summarise", 1)]
_EXPORT = [("export", 3)]

_FILTERS: tuple[tuple[str, object, list[tuple[str, int]]], ...] = (
    ("kind", "llm", _CALL),
    ("user", "ann", _REQUEST),
    ("user", "", _EXPORT),
    ("org", "acme", _REQUEST + _CALL),
    ("event", "export", _EXPORT),
    ("route", "GET /items/{id}", _REQUEST),
    ("status", 200, _REQUEST),
    ("status", "200", _REQUEST),
    ("status", 0, _EXPORT),
    ("status_class", "4XX", _CALL),
    ("status_class", "none", _EXPORT),
    ("provider", "openai", _CALL),
    ("model", "gpt-5-mini", _CALL),
    ("cost_source", "priced", _CALL),
    ("aborted", True, _CALL),
    ("aborted", "true", _CALL),
    ("aborted", "false", _EXPORT + _REQUEST),
    ("project", "beta", _CALL),
    ("country", "", _EXPORT + _CALL),
    ("hour", "2026-11-20T13:00:00+00:00", _EXPORT),
    ("day", "2026-11-20", _EXPORT + _REQUEST + _CALL),
    ("week", "2026-W46", []),
    ("month", "2026-11", _EXPORT + _REQUEST + _CALL),
)
