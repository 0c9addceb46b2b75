"""The first few of many users, and how many there are, without looking at all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.rolled import roll_up
from usagekit import Recorder, UsageEvent
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery

if TYPE_CHECKING:
    from pathlib import Path

    from usagekit.query import UsageReport

MONDAY = datetime(2026, 3, 2, tzinfo=UTC)


Told = list[tuple[str, str, timedelta]]
"""Users, orgs, and how long after Monday."""


def _recorded(directory: Path, told: Told, late: Told | None = None) -> SQLiteBackend:
    """Record an event for each; the late ones when the rollups are done."""
    backend = SQLiteBackend(directory / "usage.db")
    for some in (told, late or []):
        with Recorder(backend) as recorder:
            for user, org, after in some:
                assert recorder.record(UsageEvent(user=user, org=org, time=MONDAY + after))
        if some is told:
            roll_up(directory / "usage.db")
    return backend


def _asked(backend: SQLiteBackend, start: timedelta, end: timedelta, limit: int) -> tuple[UsageReport, UsageReport]:
    """Give what rollups answer, and what raw rows do."""
    query = UsageQuery.build(
        by="user", measures=("events", "users"), start=MONDAY + start, end=MONDAY + end, limit=limit, order="-events"
    )
    return backend._answer(query, raw_enough=0), backend._answer(query, raw_enough=2**62)


@pytest.mark.parametrize("days", [3, 7, 10])
def test_a_user_of_many_orgs_may_be_first_though_in_none_of_them(tmp_path: Path, days: int) -> None:
    """What bounds the others bounds them in each of their orgs."""
    many = [(f"user-{n}", "org", timedelta(hours=m)) for n in range(40) for m in range(10)]
    spread = [("spread", f"org-{n}", timedelta(hours=m)) for n in range(12) for m in range(5)]
    alone = [("alone", "org", timedelta(minutes=n)) for n in range(40)]
    backend = _recorded(tmp_path, many + spread + alone)

    rolled, raw = _asked(backend, timedelta(0), timedelta(days=days), limit=1)

    assert rolled.rows == raw.rows == [{"user": "spread", "events": 60, "users": 1}]
    assert (rolled.groups, rolled.totals["users"]) == (raw.groups, raw.totals["users"]) == (42, 42)
    assert "member" in rolled.source


def test_only_those_count_who_were_there_within_the_range(tmp_path: Path) -> None:
    """Cells that the range only touches hold others, too."""
    hour = timedelta(hours=1)
    events = [(f"user-{n}", "org", 30 * hour) for n in range(20)]
    events += [("before", "org", 5 * hour), ("behind", "org", 60 * hour)]
    events += [("again behind", "org", 30 * hour), ("again behind", "org", 60 * hour)]
    events += [("around", "org", 5 * hour), ("around", "org", 60 * hour)]
    backend = _recorded(tmp_path, events)

    rolled, raw = _asked(backend, 10 * hour, 50 * hour, limit=2)

    assert rolled.groups == raw.groups == 21
    assert rolled.totals == raw.totals == {"events": 21, "users": 21}


def test_events_that_no_rollup_has_yet_count(tmp_path: Path) -> None:
    """They may make a user the first."""
    events = [(f"user-{n}", "org", timedelta(hours=m)) for n in range(20) for m in range(3)]
    late = [("late", "org", timedelta(hours=m)) for m in range(8)]
    backend = _recorded(tmp_path, events, late)

    rolled, raw = _asked(backend, timedelta(0), timedelta(days=8), limit=1)

    assert rolled.rows == raw.rows == [{"user": "late", "events": 8, "users": 1}]
    assert rolled.groups == raw.groups == 21
