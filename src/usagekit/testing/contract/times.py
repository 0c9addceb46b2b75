"""What every reader does alike: ranges, periods, zones and time buckets."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from usagekit.event import UsageEvent
from usagekit.testing.contract.story import NOON, NOW, TICK, Contract, at, counts_of

__all__ = ["Times"]


class Times(Contract):
    """Tests of ranges, periods, zones and time buckets."""

    def test_a_range_includes_its_start_and_excludes_its_end(self) -> None:
        """To the microsecond."""
        start, end = NOON, NOON + timedelta(hours=1)
        times = (start - TICK, start, end - TICK, end)
        reader = self._reader(UsageEvent(time=time, event=f"at {n}") for n, time in enumerate(times))

        both = counts_of(reader, "event", start=start, end=end)
        open_end = counts_of(reader, "event", start=start)
        open_start = counts_of(reader, "event", end=end.isoformat())

        assert both == [("at 1", 1), ("at 2", 1)]
        assert open_end == [("at 1", 1), ("at 2", 1), ("at 3", 1)]
        assert open_start == [("at 0", 1), ("at 1", 1), ("at 2", 1)]

    def test_a_period_counts_back_from_now(self) -> None:
        """Hours and days of 24 hours; what is at or after now is left out."""
        ages = {"25 h": 25, "24 h": 24, "1 h": 1, "now": 0}
        reader = self._reader(UsageEvent(time=NOW - timedelta(hours=hours), event=name) for name, hours in ages.items())

        assert counts_of(reader, "event", period="1h") == [("1 h", 1)]
        assert counts_of(reader, "event", period="1d") == [("1 h", 1), ("24 h", 1)]
        assert counts_of(reader, "event", period="48h") == [("1 h", 1), ("24 h", 1), ("25 h", 1)]

    def test_days_are_calendar_days_of_the_zone(self) -> None:
        """Today is the zone's today, to its last microsecond."""
        reader = self._reader(
            at(
                "2026-11-19T14:59:59.999999Z",
                "2026-11-19T15:00:00Z",
                "2026-11-20T15:00:00Z",
                "2026-11-21T14:59:59.999999Z",
                "2026-11-21T15:00:00Z",
            )
        )

        assert counts_of(reader, "day", days=1, tz="Asia/Tokyo") == [("2026-11-21", 2)]
        assert counts_of(reader, "day", days=2, tz="Asia/Tokyo") == [("2026-11-20", 1), ("2026-11-21", 2)]

    def test_buckets_are_iso(self) -> None:
        """Also where the ISO week belongs to another year than its day."""
        reader = self._reader(at("2026-11-20T12:59:59.999999Z", "2027-01-03T23:30:00Z", "1970-01-01T00:00:00Z"))

        answers = {bucket: counts_of(reader, bucket, tz="Europe/Berlin") for bucket in ("hour", "day", "week", "month")}

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
        reader = self._reader(at("1970-01-01T00:00:00Z"))

        answers = {
            bucket: counts_of(reader, bucket, tz="America/New_York") for bucket in ("hour", "day", "week", "month")
        }

        assert answers == {
            "hour": [("1969-12-31T19:00:00-05:00", 1)],
            "day": [("1969-12-31", 1)],
            "week": [("1970-W01", 1)],
            "month": [("1969-12", 1)],
        }

    def test_the_hour_that_comes_twice_is_two_hours(self) -> None:
        """In order of time, although their local times are equal."""
        reader = self._reader(at("2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"))

        assert counts_of(reader, "hour", tz="Europe/Berlin") == [
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

        spring = counts_of(reader, "day", tz="Europe/Berlin", start="2026-03-28", end="2026-03-31")
        autumn = counts_of(reader, "day", tz="Europe/Berlin", where={"day": ["2026-10-25", "2026-10-26"]})

        assert spring == [("2026-03-28", 23), ("2026-03-29", 23), ("2026-03-30", 24)]
        assert autumn == [("2026-10-25", 25), ("2026-10-26", 24)]

    def test_zones_off_by_parts_of_an_hour(self) -> None:
        """Half hours, quarters, and a clock that changes by half an hour."""
        reader = self._reader(
            at("2026-04-04T14:15:00Z", "2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T15:45:00Z")
        )

        assert counts_of(reader, "hour", tz="Asia/Kolkata") == [
            ("2026-04-04T19:00:00+05:30", 1),
            ("2026-04-04T20:00:00+05:30", 2),
            ("2026-04-04T21:00:00+05:30", 1),
        ]
        assert counts_of(reader, "hour", tz="Asia/Kathmandu") == [
            ("2026-04-04T20:00:00+05:45", 2),
            ("2026-04-04T21:00:00+05:45", 2),
        ]
        assert counts_of(reader, "hour", tz="Australia/Lord_Howe") == [
            ("2026-04-05T01:00:00+11:00", 2),
            ("2026-04-05T01:00:00+10:30", 1),
            ("2026-04-05T02:00:00+10:30", 1),
        ]

    def test_a_day_begins_at_its_first_instant(self) -> None:
        """Also where midnight does not exist, or comes twice."""
        cairo = self._reader(at("2026-04-23T21:59:59.999999Z", "2026-04-23T22:00:00Z"))
        havana = self._reader(at("2026-11-01T03:59:59.999999Z", "2026-11-01T04:00:00Z", "2026-11-01T05:30:00Z"))

        assert counts_of(cairo, "day", tz="Africa/Cairo", start="2026-04-24") == [("2026-04-24", 1)]
        assert counts_of(havana, "day", tz="America/Havana", start="2026-11-01") == [("2026-11-01", 2)]
