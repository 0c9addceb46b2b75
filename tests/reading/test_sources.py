"""Reading as SQL what Python says of an event, and from other tables what raw rows say."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from tests.support.rolled import NOW, roll_up, shown, write_events
from tests.support.stores import query
from usagekit import Recorder, UsageEvent
from usagekit._clean import TIME_LIMIT_US
from usagekit._reading.sources import bucket
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery
from usagekit.query.aggregate import bucket_of

if TYPE_CHECKING:
    from pathlib import Path

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)


def test_sql_and_python_have_the_same_buckets() -> None:
    """On both sides of every boundary between two widths."""
    edges = {(1 << bits) + beside for bits in range(58) for beside in (-1, 0, 1)}
    durations = sorted(us for us in {*range(1000), *edges, TIME_LIMIT_US} if 0 <= us <= TIME_LIMIT_US)

    with closing(sqlite3.connect(":memory:")) as connection:
        found = [
            connection.execute(f"SELECT {bucket('v.us')} FROM (SELECT ? AS us) v", (us,)).fetchone()[0]
            for us in durations
        ]

    assert found == list(map(bucket_of, durations))


def test_hours_of_shapes_tell_what_raw_rows_do(tmp_path: Path) -> None:
    """Whole days and the hours around them, added and taken away; shapes in several parts, and weights."""
    path = tmp_path / "usage.db"
    write_events(path, 300, days=4)
    query(path, "UPDATE sqlite_sequence SET seq = 1000 WHERE name = 'shapes'")
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(400):
            event = UsageEvent(route=f"GET /{n}", status=200 + n % 4 * 100, weight=n % 3 + 1, time=NOW - n * MINUTE)
            assert recorder.record(event)
    roll_up(path)
    backend = SQLiteBackend(path)
    for start, end in ((70 * HOUR, 2 * HOUR), (29 * HOUR, 0 * HOUR), (5 * HOUR, 3 * HOUR)):
        for by in (("route", "status"), ("model",), ("day", "event", "provider")):
            asked = UsageQuery.build(
                by=by,
                measures=("events", "failed", "total_tokens", "cost_usd", "response_bytes", "unpriced"),
                start=NOW - start - 7 * MINUTE,
                end=NOW - end - 3 * MINUTE,
                tz="Asia/Kolkata",
            )

            rolled, raw = (backend._answer(asked, raw_enough=enough) for enough in (0, 2**62))

            assert shown(rolled) == shown(raw)
            assert "shape_hours" in rolled.source


def test_what_several_ranges_share_is_read_once_for_one_name(tmp_path: Path) -> None:
    """A week but for one of its days has that day's edges twice: at the end of one range, and begin of the next."""
    path = tmp_path / "usage.db"
    monday = datetime(2026, 10, 19, tzinfo=UTC)
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(7 * 96):
            event = UsageEvent(time=monday + n * 15 * MINUTE, user=f"user-{n % 50}", org=f"org-{n % 3}")
            assert recorder.record(event)
    roll_up(path)
    for by in ("user", "org", "event", "model"):
        for left_out in range(19, 26):
            days = [date(2026, 10, day) for day in range(18, 28) if day != left_out]
            asked = UsageQuery.build(by=by, measures="events", tz="Asia/Kolkata", where={"day": days})

            rolled, raw = (SQLiteBackend(path)._answer(asked, raw_enough=enough) for enough in (0, 2**62))

            assert shown(rolled) == shown(raw)
