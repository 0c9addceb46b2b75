"""Cells that are blobs, histograms of latencies and sets of users: what they become with a batch of events.

It is worked out before anything is locked, so that only finished rows are written while others wait.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

from usagekit._store import lanes
from usagekit._store.tiers import HISTOGRAMS, HOUR_US, PART_SHIFT, USER_SETS, Tier
from usagekit.query.aggregate import bucket_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Sequence

    Row = tuple[Any, ...]

_BUCKET_BITS = 16  # more than any log-bucket has


def blob_cells(connection: sqlite3.Connection, *, unweighted: bool) -> dict[Tier, list[Row]]:
    """Give the rows that the batch in the temporary tables of a `Fold` leaves behind, whole.

    Args:
        connection: with the batch, grouped.
        unweighted: whether all weights are 1.
    """
    rows = connection.execute(
        "SELECT quarter / 4, weight, max(latency, 0), max(first_token, 0), user FROM temp.batch"
    ).fetchall()
    hours, weights, latencies, first_tokens, users = zip(*rows, strict=True) if rows else ((),) * 5
    ones = None if unweighted else weights
    counted = [_counted(hours, ones, durations) for durations in (latencies, first_tokens)]
    there = set(zip(hours, users, strict=True))
    found: dict[Tier, list[Row]] = {}
    for tier in HISTOGRAMS:
        found[tier] = list(_histograms(connection, tier, counted))
    for tier in USER_SETS:
        found[tier] = list(_user_sets(connection, tier, there))
    return found


def _counted(hours: Iterable[int], weights: Iterable[int] | None, durations: Sequence[int | None]) -> dict[int, int]:
    """Give weights by hour and log-bucket, both in one number."""
    if weights is None:
        known = [(hour, value) for hour, value in zip(hours, durations, strict=True) if value is not None]
        return Counter([(hour << _BUCKET_BITS) + bucket_of(value) for hour, value in known])
    counted: dict[int, int] = defaultdict(int)
    for hour, weight, value in zip(hours, weights, durations, strict=True):
        if value is not None:
            counted[(hour << _BUCKET_BITS) + bucket_of(value)] += weight
    return counted


def _histograms(connection: sqlite3.Connection, tier: Tier, counted: Sequence[dict[int, int]]) -> Iterator[Row]:
    hours = tier.cell_us // HOUR_US
    cells: dict[int, tuple[dict[int, int], ...]] = {}
    for place, weights in enumerate(counted):
        for number, weight in weights.items():
            cell, bucket = (number >> _BUCKET_BITS) // hours, number & (1 << _BUCKET_BITS) - 1
            added = cells.setdefault(cell, tuple({} for _ in counted))[place]
            added[bucket] = added.get(bucket, 0) + weight
    largest = dict(
        connection.execute(f"SELECT quarter / {4 * hours}, max(latency_max) FROM temp.part_quarters GROUP BY 1")
    )
    sql = f"SELECT latency, first_token, latency_max FROM {tier.name} WHERE {tier.clock} = ?"
    for cell, both in cells.items():
        *blobs, known = connection.execute(sql, (cell,)).fetchone() or (*(b"" for _ in both), None)
        values = [value for value in (largest[cell], known) if value is not None]
        yield cell, *map(lanes.with_counts, blobs, both), max(values, default=None)


def _user_sets(connection: sqlite3.Connection, tier: Tier, there: Iterable[tuple[int, int]]) -> Iterator[Row]:
    hours = tier.cell_us // HOUR_US
    cells: dict[tuple[int, int], set[int]] = defaultdict(set)
    for hour, user in there:
        cells[hour // hours, user >> PART_SHIFT].add(user & (1 << PART_SHIFT) - 1)
    sql = f"SELECT users FROM {tier.name} WHERE {tier.clock} = ? AND part = ?"
    for key, users in cells.items():
        (blob,) = connection.execute(sql, key).fetchone() or (b"",)
        yield *key, lanes.with_marks(blob, users)
