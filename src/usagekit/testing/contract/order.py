"""What every reader does alike: order and limit."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from datetime import timedelta

from usagekit.errors import QueryTimeout
from usagekit.event import UsageEvent
from usagekit.query import MEASURES
from usagekit.testing.contract.story import NOON, Contract, ask, counts_of, story

__all__ = ["Order"]


class Order(Contract):
    """Tests of order and limit."""

    def test_the_default_order_is_most_events_first_then_key(self) -> None:
        """Ties by the keys, in the order of `by`."""
        reader = self._reader(
            UsageEvent(time=NOON, user=user, org=org, weight=weight)
            for user, org, weight in (("b", "2", 1), ("a", "2", 1), ("", "", 1), ("a", "1", 1), ("c", "1", 5))
        )

        report = ask(reader, by=["org", "user"], measures=[])

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
            UsageEvent(time=NOON + timedelta(days=day), user=user, weight=weight)
            for day, user, weight in ((1, "a", 9), (0, "b", 1), (0, "c", 2), (0, "a", 1))
        )

        report = ask(reader, by=["user", "day"], measures="events")

        assert [tuple(row.values()) for row in report.rows] == [
            ("c", "2026-11-20", 2),
            ("a", "2026-11-20", 1),
            ("b", "2026-11-20", 1),
            ("a", "2026-11-21", 9),
        ]

    def test_none_is_last_in_both_directions(self) -> None:
        """What is unknown is neither the smallest nor the largest."""
        reader = self._reader(
            UsageEvent(time=NOON, user=user, latency_ms=latency)
            for user, latency in (("z", None), ("slow", 9.0), ("y", None), ("fast", 1.0))
        )

        up = ask(reader, by="user", measures="latency_ms_max", order="latency_ms_max").rows
        down = ask(reader, by="user", measures="latency_ms_max", order="-latency_ms_max").rows

        assert [row["user"] for row in up] == ["fast", "slow", "y", "z"]
        assert [row["user"] for row in down] == ["slow", "fast", "y", "z"]

    def test_orders_by_a_measure_that_is_not_shown(self) -> None:
        """It is computed, and not in the rows."""
        reader = self._reader(story())

        report = ask(reader, by="event", measures="users", order="-total_tokens")

        assert report.rows == [
            {"event": "summarise", "users": 1},
            {"event": "export", "users": 0},
            {"event": "request", "users": 1},
        ]

    def test_orders_by_a_dimension_in_both_directions(self) -> None:
        """Numbers as numbers, time as time."""
        reader = self._reader(
            UsageEvent(time=NOON + timedelta(hours=9 * n), status=status) for n, status in enumerate((99, 500, 0, 101))
        )

        assert [value for value, _ in counts_of(reader, "status", order="status")] == [0, 99, 101, 500]
        assert [value for value, _ in counts_of(reader, "status", order="-status")] == [500, 101, 99, 0]
        assert [value for value, _ in counts_of(reader, "day", order="-day")] == ["2026-11-21", "2026-11-20"]

    def test_every_measure_can_be_the_order(self) -> None:
        """In both directions, with the same rows."""
        reader = self._reader(story())

        for name in MEASURES:
            up = ask(reader, by="event", measures=name, order=name).rows
            down = ask(reader, by="event", measures=name, order=f"-{name}").rows
            known = [row[name] for row in up if row[name] is not None]
            assert known == sorted(known), name
            assert [row[name] for row in down if row[name] is not None] == known[::-1], name
            assert sorted(row["event"] for row in up) == sorted(row["event"] for row in down), name

    def test_totals_do_not_know_the_limit(self) -> None:
        """They are over everything that matched the range and the filters."""
        reader = self._reader(UsageEvent(time=NOON, user=f"user {n}", weight=n) for n in range(1, 11))

        report = ask(
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
        reader = self._reader(UsageEvent(time=NOON, user=f"user {n}") for n in range(5))

        reports = [
            ask(reader, by="user", limit=2),
            ask(reader, by="user", limit=5),
            ask(reader, by=["user", "day"], where={"user": ["user 1", "user 2", "nobody"]}),
            ask(reader, by="user", where={"user": []}),
            ask(reader),
        ]

        assert [(len(report.rows), report.groups) for report in reports] == [(2, 5), (5, 5), (2, 2), (0, 0), (1, 1)]

    def test_an_answer_within_its_time_is_the_same(self) -> None:
        """The budget changes nothing but when to give up."""
        reader = self._reader(story())

        report = ask(reader, by="user", timeout=3600)

        assert report.rows == ask(reader, by="user").rows
        assert report.query.timeout == 3600

    def test_an_answer_that_takes_too_long_is_none(self) -> None:
        """The error says what was asked, how long it was given, and what to do."""
        reader = self._reader(story())

        try:
            ask(reader, by=["user", "day"], start="2026-11-01", timeout=1e-9)
        except QueryTimeout as error:
            message = str(error)
        else:
            message = ""

        assert "user, day" in message
        assert "2026-11-01" in message
        assert "1e-09 s" in message
        assert "larger timeout" in message
