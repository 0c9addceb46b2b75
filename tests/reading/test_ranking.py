"""The first few of many users, and how many there are, without looking at all of them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.rolled import roll_up, write_events
from tests.support.stores import query
from usagekit import Recorder, UsageEvent
from usagekit._store.retention import Retention, purge_until_done
from usagekit._store.tiers import DAY_US, HOUR_US
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
    asked = UsageQuery.build(
        by="user", measures=("events", "users"), start=MONDAY + start, end=MONDAY + end, limit=limit, order="-events"
    )
    return backend._answer(asked, raw_enough=0), backend._answer(asked, raw_enough=2**62)


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


def test_users_who_are_all_behind_the_rollups_are_told_apart(tmp_path: Path) -> None:
    """Where the rollups know nobody by name, what bounds the others is in the tail alone."""
    late = [(f"user-{n:02}", "org", timedelta(hours=1)) for n in reversed(range(30))]
    backend = _recorded(tmp_path, [("", "org", timedelta(0))] * 3, late)

    rolled, raw = _asked(backend, timedelta(0), timedelta(days=8), limit=5)

    assert rolled.rows == raw.rows
    assert rolled.groups == raw.groups == 31


def test_a_late_event_does_not_stand_for_all_of_its_day(tmp_path: Path) -> None:
    """Of times before there were sets of users, a late event makes one that lacks all others."""
    path = tmp_path / "usage.db"
    day = timedelta(days=1)
    events = [(f"user-{n}", "org", 3 * day) for n in range(20)] + [("always", "org", n * day) for n in range(21)]
    backend = _recorded(tmp_path, events)
    query(path, "UPDATE counters SET value = ? WHERE name = 'hours_from_us'", _us(MONDAY + 7 * day))
    query(path, "DELETE FROM user_days WHERE day < ?", _us(MONDAY + 7 * day) // DAY_US)
    query(path, "DELETE FROM user_hours WHERE hour < ?", _us(MONDAY + 7 * day) // HOUR_US)

    _recorded(tmp_path, [("user-1", "org", 3 * day)])

    rolled, raw = _asked(backend, 2 * day, 12 * day, limit=2)
    assert rolled.groups == raw.groups == 21
    assert rolled.totals == raw.totals


def test_users_of_a_half_hour_are_told_by_raw_rows_alone(tmp_path: Path) -> None:
    """Sets are of whole hours; ids beyond one part of them, and nobody, are counted right."""
    minute = timedelta(minutes=1)
    events = [(f"user-{n}", "org", n * minute) for n in range(0, 600, 7)] + [("", "org", 95 * minute)]
    backend = _recorded(tmp_path, events)
    with Recorder(backend) as recorder:
        query(tmp_path / "usage.db", "UPDATE sqlite_sequence SET seq = 70000 WHERE name = 'users'")
        for n in range(30):
            assert recorder.record(UsageEvent(user=f"high-{n}", time=MONDAY + n * 11 * minute))
    roll_up(tmp_path / "usage.db")
    asked = UsageQuery.build(
        measures="users", start=MONDAY + 31 * minute, end=MONDAY + 400 * minute, tz="Asia/Kathmandu"
    )

    rolled, raw = (backend._answer(asked, raw_enough=enough) for enough in (0, 2**62))

    there = [n for n in range(0, 600, 7) if 31 <= n < 400] + [n for n in range(30) if 31 <= 11 * n < 400]
    assert rolled.totals == raw.totals == {"users": len(there)}
    assert "user_hours" in rolled.source


def test_a_purge_does_not_part_groups_from_rows(tmp_path: Path) -> None:
    """What only raw rows know is asked of them alone, with a limit or without."""
    path = tmp_path / "usage.db"
    write_events(path, 1000, days=60)
    roll_up(path)
    assert purge_until_done(str(path), Retention(days=20))
    asked = UsageQuery.build(by="user", measures=("events", "latency_ms_avg", "users"), limit=3, order="-events")
    whole = UsageQuery.build(by="user", measures=("events", "latency_ms_avg", "users"), order="-events")
    backend = SQLiteBackend(path)

    some, everything = (backend._answer(question, raw_enough=0) for question in (asked, whole))

    assert some.rows == everything.rows[:3]
    assert (some.groups, some.totals) == (everything.groups, everything.totals)


def _us(time: datetime) -> int:
    return int(time.timestamp()) * 1_000_000
