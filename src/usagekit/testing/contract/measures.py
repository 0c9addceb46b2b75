"""What every reader does alike: what is measured."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

from usagekit.event import UsageEvent
from usagekit.query import MEASURES
from usagekit.testing.contract.story import (
    ESTIMATES,
    NOON,
    NOTHING,
    Contract,
    ask,
    at,
    check_estimates,
    check_first_digits,
    story,
)

__all__ = ["Measures"]


class Measures(Contract):
    """Tests of what is measured."""

    def test_gives_every_measure(self) -> None:
        """One row of everything equals the totals, measure by measure."""
        reader = self._reader(story())

        report = ask(reader)

        assert report.rows == [report.totals]
        check_estimates(
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

        everything, grouped = ask(reader), ask(reader, by="user")

        assert everything.rows == [NOTHING]
        assert everything.totals == grouped.totals == NOTHING
        assert list(everything.totals) == list(MEASURES)
        assert grouped.rows == []

    def test_nothing_matching_is_zero_and_unknown(self) -> None:
        """A filter that keeps nothing is as empty as an empty store; so is an empty list of values."""
        reader = self._reader(story())

        filters: list[dict[str, object]] = [
            {"org": "nobody"},
            {"org": []},
            {"day": "2020-02-29"},
            {"day": []},
        ]
        for where in filters:
            report = ask(reader, where=where)
            assert report.totals == NOTHING, where
            assert ask(reader, by="user", where=where).rows == [], where

    def test_every_event_counts_as_often_as_its_weight(self) -> None:
        """All sums, averages and percentiles are weighted; users, the largest and the last are not."""
        heavy = UsageEvent(
            time=NOON,
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
        light = UsageEvent(time=NOON - timedelta(days=1), user="ann", status=200, latency_ms=5000, first_token_ms=900)
        unpriced = UsageEvent(time=NOON - timedelta(days=1), cost_source="unpriced", weight=4, quantity=0)
        reader = self._reader([heavy, light, unpriced])

        report = ask(reader)

        check_estimates(
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
        reader = self._reader(UsageEvent(time=NOON, latency_ms=ms, first_token_ms=ms) for ms in spread)
        tiny = self._reader(UsageEvent(time=NOON, latency_ms=us / 1000) for us in (0, 0, 1, 3))

        wide = ask(reader, measures=ESTIMATES).totals
        small = ask(tiny, measures=["latency_ms_p50", "latency_ms_p99", "latency_ms_max"]).totals

        rounded = [round(ms * 1000) / 1000 for ms in spread]
        check_estimates(
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
            time=NOON,
            user="ann",
            input_tokens=largest,
            output_tokens=largest,
            response_bytes=largest,
            cost_usd=Decimal(largest).scaleb(-9),
            weight=1_000_000_000,
        )
        reader = self._reader([event, event, replace(event, weight=1)])

        report = ask(
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
            check_first_digits(report.rows[0], expected)

    def test_money_is_exact_to_the_nano_dollar(self) -> None:
        """Ten times a tenth and one nano-dollar; unpriced is not 0, and 0 is not unpriced."""
        reader = self._reader(
            [UsageEvent(time=NOON, org="paid", cost_usd=Decimal("0.1")) for _ in range(10)]
            + [
                UsageEvent(time=NOON, org="paid", cost_usd=Decimal("0.000000001")),
                UsageEvent(time=NOON, org="free", cost_usd=Decimal(0), cost_source="priced"),
                UsageEvent(time=NOON, org="unknown", cost_source="unpriced"),
                UsageEvent(time=NOON, org="other"),
            ]
        )

        report = ask(reader, by="org", measures=["cost_usd", "unpriced"], order="-cost_usd")

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
            UsageEvent(time=NOON, user=user, org=org)
            for user, org in (("ann", "a"), ("ann", "a"), ("ann", "b"), ("bob", "b"), ("", "b"), ("", "c"))
        )

        report = ask(reader, by="org", measures="users", order="org")

        assert report.rows == [{"org": "a", "users": 1}, {"org": "b", "users": 2}, {"org": "c", "users": 0}]
        assert report.totals == {"users": 2}

    def test_last_seen_is_in_the_zone_and_to_the_microsecond(self) -> None:
        """The latest time, whatever the order of recording, with the offset that held then."""
        reader = self._reader(at("2026-07-01T10:00:00.000001Z", "2026-06-01T10:00:00Z", "2026-01-01T10:00:00Z"))

        summer = ask(reader, measures="last_seen", tz="Europe/Berlin")
        winter = ask(reader, measures="last_seen", tz="Europe/Berlin", end="2026-02-01")

        assert summer.totals == {"last_seen": "2026-07-01T12:00:00.000001+02:00"}
        assert winter.totals == {"last_seen": "2026-01-01T11:00:00.000000+01:00"}
