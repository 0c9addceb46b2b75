"""What every reader does alike: what can be grouped by."""
# ruff: noqa: S101  these are pytest's tests, whose names say what holds

from __future__ import annotations

from typing import Any

from usagekit.event import UsageEvent
from usagekit.testing.contract.story import NOON, Contract, ask, counts_of, story

__all__ = ["Grouping"]

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


class Grouping(Contract):
    """Tests of what can be grouped by."""

    def test_groups_by_every_dimension(self) -> None:
        """Each dimension gives its own values and types, the unknown ones too."""
        reader = self._reader(story())

        answers = {name: counts_of(reader, name) for name in _BY_DIMENSION}

        assert answers == _BY_DIMENSION

    def test_groups_by_several_dimensions_in_the_order_asked(self) -> None:
        """Keys come first, in the order of `by`, then the measures, in the order of `measures`."""
        reader = self._reader(story())

        report = ask(reader, by=["day", "org", "status"], measures=["total_tokens", "events"])

        assert [list(row.items()) for row in report.rows] == [
            [("day", "2026-11-20"), ("org", ""), ("status", 0), ("total_tokens", 0), ("events", 3)],
            [("day", "2026-11-20"), ("org", "acme"), ("status", 200), ("total_tokens", 0), ("events", 1)],
            [("day", "2026-11-20"), ("org", "acme"), ("status", 429), ("total_tokens", 1500), ("events", 1)],
        ]

    def test_status_classes_span_all_statuses(self) -> None:
        """The class is the first of three digits; only 0 is none."""
        statuses = (0, 1, 99, 100, 199, 299, 304, 499, 599, 999)
        reader = self._reader(UsageEvent(time=NOON, status=status) for status in statuses)

        counted = counts_of(reader, "status_class", order="status_class")

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
