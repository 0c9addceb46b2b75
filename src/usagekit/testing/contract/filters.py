"""What every reader does alike: filters."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from usagekit.event import UsageEvent
from usagekit.testing.contract.story import NOON, Contract, counts_of, story

__all__ = ["Filters"]

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


class Filters(Contract):
    """Tests of filters."""

    def test_filters_by_every_dimension(self) -> None:
        """With one value, as the app or a URL has it."""
        reader = self._reader(story())

        for name, value, events in _FILTERS:
            assert counts_of(reader, "event", where={name: value}, order="event") == events, (name, value)

    def test_a_list_of_values_keeps_any_of_them(self) -> None:
        """And several filters keep what passes all."""
        reader = self._reader(story())

        several = counts_of(reader, "event", where={"user": ["ann", "bob", "cid"], "status": ["429", 500, 0]})
        unknown = counts_of(reader, "event", where={"user": ("", "ann")}, order="event")

        assert several == [("summarise", 1)]
        assert unknown == [("export", 3), ("request", 1)]

    def test_filters_on_time_buckets_keep_those_buckets(self) -> None:
        """In the zone, together with a range, and with each other."""
        hours = [datetime(2026, 10, 24, tzinfo=UTC) + timedelta(hours=n) for n in range(72)]
        reader = self._reader(UsageEvent(time=time) for time in hours)
        zone = {"tz": "Europe/Berlin"}

        twice = ["2026-10-25T02:00:00+01:00", "2026-10-26T09:00:00+01:00"]
        assert counts_of(reader, "hour", where={"hour": twice}, **zone) == [(hour, 1) for hour in twice]
        assert counts_of(reader, "day", where={"week": "2026-W43"}, **zone) == [
            ("2026-10-24", 22),
            ("2026-10-25", 25),
        ]
        assert counts_of(reader, "month", where={"month": "2026-10"}, **zone) == [("2026-10", 72)]
        assert counts_of(reader, "day", where={"day": ["2026-10-24", "2026-10-26"], "week": "2026-W44"}, **zone) == [
            ("2026-10-26", 24)
        ]
        assert counts_of(reader, "day", where={"day": "2026-10-25"}, end="2026-10-25T00:30:00Z", **zone) == [
            ("2026-10-25", 3)
        ]

    def test_what_was_recorded_is_found_again(self) -> None:
        """Filter values are cleaned as events are: a huge id, a lone surrogate, a control character."""
        odd = ("x" * 1_000_000, "\ud83d", "a\x00b", "Zoë 🦊", "' OR 1=1 --", "%", "A", "a", "a ")
        reader = self._reader(
            UsageEvent(time=NOON, event="e", user=value, attributes={"project": value}) for value in odd
        )

        for value in odd:
            assert counts_of(reader, "event", where={"user": value}) == [("e", 1)], value[:20]
            assert counts_of(reader, "event", where={"project": [value]}) == [("e", 1)], value[:20]
