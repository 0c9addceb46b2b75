"""What was brought in from elsewhere: sums by the hour, apart from the events, which `origin="backfill"` asks for.

Each row is what one hour (UTC) of one source holds of one combination of dimensions. The dictionaries are those of the
events, so that whoever is erased there is erased here.
"""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from usagekit._store.dictionaries import Dictionaries
from usagekit._store.record import shape_of, subject_of
from usagekit._store.schema import Transaction, connect
from usagekit._store.tombstones import ERASED_BELOW, Tombstones, erasures_of
from usagekit.event import UsageEvent, from_microseconds, to_microseconds
from usagekit.query.aggregate import Aggregate
from usagekit.query.algebra import dimension_value
from usagekit.query.periods import BUCKETS, bucket_value
from usagekit.query.report import UsageReport

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from usagekit.query import UsageQuery

__all__ = ["BackfilledDay", "days_brought_in", "key_of", "read_backfill", "replace_day"]

_HOUR_US = 3_600_000_000
_LARGEST = 2**63 - 1

_SUMS = (
    "events",
    "succeeded",
    "failed",
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "reasoning_tokens",
    "cost_nano",
    "unpriced",
    "response_bytes",
    "quantity_millionths",
    "latency_sum_us",
    "latency_count",
    "latency_max_us",
    "last_seen_us",
)
"""Columns, and fields of `Aggregate`, of the same names."""

_INSERT = (
    f"INSERT INTO backfill (source, hour, shape, subject, exact, {', '.join(_SUMS)})"
    f" VALUES (?,?,?,?,?,{','.join('?' * len(_SUMS))})"
)
_SHAPE = ("kind", "event", "status", "route", "provider", "model", "cost_source", "aborted")
_READ = f"""
SELECT f.hour, f.exact, {", ".join(f"s.{name}" for name in _SHAPE)}, iif(u.name < {ERASED_BELOW}, '', u.name), o.name,
    x.attributes,
    {", ".join(f"f.{name}" for name in _SUMS)}
FROM backfill f
JOIN shapes s ON s.id = f.shape
JOIN subjects p ON p.id = f.subject
JOIN users u ON u.id = p.user
JOIN orgs o ON o.id = p.org
JOIN extras x ON x.id = p.extra
WHERE f.hour >= ? AND f.hour <= ?
"""


class BackfilledDay(NamedTuple):
    """One day that was brought in.

    Attributes:
        source: the name of the backend it came from, `"analytics-engine:usagekit"`.
        day: of UTC.
        events: how many the source told of.
        rows: how many combinations of hour and dimensions they are.
        exact: whether the source counted every event.
        at: when it was brought in, the last time; aware, UTC.
    """

    source: str
    day: date
    events: int
    rows: int
    exact: bool
    at: datetime


def days_brought_in(connection: sqlite3.Connection) -> list[BackfilledDay]:
    """Give every day that was brought in, ascending, by source."""
    found = []
    for name, value, at in connection.execute("SELECT key, value, updated_at FROM meta WHERE key GLOB 'backfill:*'"):
        source, _, day = name.removeprefix("backfill:").rpartition(":")
        found.append(BackfilledDay(source, date.fromisoformat(day), at=datetime.fromisoformat(at), **json.loads(value)))
    return sorted(found)


def key_of(time: datetime, dimensions: Mapping[str, Any], attributes: Mapping[str, str]) -> UsageEvent:
    """Give the event that stands for the dimensions of an hour; those that are not given are unknown."""
    # An event without a cost cannot say that it was priced.
    cost = None if dimensions.get("cost_source", "") in {"", "unpriced"} else 0
    return UsageEvent(time=time, attributes=attributes, cost_usd=cost, **dimensions)  # type: ignore[arg-type]


def replace_day(
    path: str, source: str, day: date, rows: Sequence[tuple[UsageEvent, Aggregate]], *, exact: bool
) -> bool:
    """Put `rows` in the place of what the ledger at `path` holds of a day (UTC) of `source`, in one transaction.

    A day that is brought in again counts once. Where `rows` is empty and something is there it stays, since what the
    source has forgotten by now is just what was brought in to be kept; returns False then.

    Args:
        path: the ledger.
        source: the name of where they come from.
        day: of UTC.
        rows: the dimensions, as an event whose time is in the hour, and the sums; each combination once.
        exact: whether the source counted every event.
    """
    first = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) // 3600
    span = (source, first, first + 23)
    where = "source=? AND hour BETWEEN ? AND ?"
    with closing(connect(path)) as connection, Transaction(connection):
        if not rows and connection.execute(f"SELECT 1 FROM backfill WHERE {where} LIMIT 1", span).fetchone():
            return False
        connection.execute(f"DELETE FROM backfill WHERE {where}", span)
        connection.executemany(
            _INSERT,
            [
                (source, *where_to, exact, *(_kept(getattr(sums, name)) for name in _SUMS))
                for where_to, sums in _placed(connection, rows).items()
            ],
        )
        told = {"rows": len(rows), "events": sum(sums.events for _, sums in rows), "exact": exact}
        connection.execute(
            "INSERT OR REPLACE INTO meta VALUES (?,?,?)",
            (f"backfill:{source}:{day}", json.dumps(told), datetime.now(UTC).isoformat()),
        )
    return True


def _placed(
    connection: sqlite3.Connection, rows: Iterable[tuple[UsageEvent, Aggregate]]
) -> dict[tuple[int, int, int], Aggregate]:
    """Give the sums by hour, shape and subject; what was of users who are erased by now is nobody's."""
    tombstones = Tombstones(connection)
    tombstones.refresh(erasures_of(connection))
    by_text: dict[tuple[int, str, str], Aggregate] = {}
    for key, sums in rows:
        time_us = to_microseconds(key.time)
        shape = shape_of(*(getattr(key, name) for name in _SHAPE))
        user = "" if tombstones.covers(key.user, time_us) else key.user
        place = time_us // _HOUR_US, shape, subject_of(user, key.org, key.attributes)
        by_text.setdefault(place, Aggregate()).merge(sums)
    ids = Dictionaries(connection)
    ids.shapes.learn(shape for _, shape, _ in by_text)
    ids.subjects.learn(subject for _, _, subject in by_text)
    return {(hour, ids.shapes[shape], ids.subjects[subject]): sums for (hour, shape, subject), sums in by_text.items()}


def _kept(value: int | None) -> int | None:
    return None if value is None else min(value, _LARGEST)


def read_backfill(connection: sqlite3.Connection, query: UsageQuery) -> UsageReport:
    """Answer a question about what was brought in.

    An hour belongs to where it begins, in time and in buckets. What cannot be known from sums, percentiles, is None; an
    average is over the events of the rows that have one.
    """
    windows = query.windows_us
    groups: dict[tuple[Any, ...], Aggregate] = {}
    totals = Aggregate()
    exact = not any((bound or 0) % _HOUR_US for window in windows for bound in window)
    for key, sums, is_exact in _rows(connection, query):
        if not _matches(key, query):
            continue
        exact = exact and is_exact
        sums.users = {key.user} if key.user else set()
        groups.setdefault(tuple(_value(key, name, query) for name in query.by), Aggregate()).merge(sums)
        totals.merge(sums)
    return UsageReport.build(query, groups.items(), totals, source="sqlite", exact=exact)


def _rows(connection: sqlite3.Connection, query: UsageQuery) -> Iterable[tuple[UsageEvent, Aggregate, bool]]:
    windows = query.windows_us
    if not windows:
        return
    first, after = windows[0][0], windows[-1][1]
    bounds = (
        -_LARGEST if first is None else -(-first // _HOUR_US),
        _LARGEST if after is None else (after - 1) // _HOUR_US,
    )
    for hour, exact, *values in connection.execute(_READ, bounds):
        shape, (user, org, attributes), sums = values[: len(_SHAPE)], values[len(_SHAPE) :][:3], values[-len(_SUMS) :]
        names = dict(zip(_SHAPE, shape, strict=True)) | {"user": user, "org": org}
        key = key_of(from_microseconds(hour * _HOUR_US), names, json.loads(attributes))
        yield key, Aggregate(**dict(zip(_SUMS, sums, strict=True))), bool(exact)


def _matches(key: UsageEvent, query: UsageQuery) -> bool:
    time_us = to_microseconds(key.time)
    return any(
        (start is None or start <= time_us) and (end is None or time_us < end) for start, end in query.windows_us
    ) and all(dimension_value(key, name) in allowed for name, allowed in query.where.items())


def _value(key: UsageEvent, name: str, query: UsageQuery) -> Any:
    return bucket_value(name, key.time, query.zone) if name in BUCKETS else dimension_value(key, name)
