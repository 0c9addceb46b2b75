"""Cells that are blobs, such as histograms and sets of users: what they become with a batch of events.

It is worked out before anything is locked, so that only finished rows are written while others wait.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from usagekit._store.lanes import LARGEST, blob_of, counts_in, counts_of, marks_of, number_in, table_of
from usagekit._store.tiers import (
    HISTOGRAMS,
    HOUR_US,
    PACKED,
    PACKED_SUMS,
    PART_SHIFT,
    QUARTER_US,
    SHAPE_SHIFT,
    USER_SETS,
    Tier,
)
from usagekit.query.aggregate import bucket_of

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    Row = tuple[Any, ...]

_PART = 1 << PART_SHIFT


class _Hour:
    """What a batch has of one hour, column by column."""

    def __init__(self) -> None:
        self.weights: list[int] = []
        self.durations: tuple[list[int | None], ...] = ([], [])  # latencies, times to the first token
        self.users: set[int] = set()


def blob_cells(connection: sqlite3.Connection, *, exact: bool, unweighted: bool) -> dict[Tier, list[Row]]:
    """Give the rows that the batch in the temporary tables of a `Fold` leaves behind, whole.

    Args:
        connection: with the batch, grouped.
        exact: whether sums may go beyond 64 bits, from now on: nobody looks at sums in blobs again.
        unweighted: whether all weights are 1.
    """
    hours = _hours(connection)
    histograms, sets = _histograms(hours, unweighted=unweighted), _sets(hours)
    found: dict[Tier, list[Row]] = {}
    for tier in PACKED:
        found[tier] = [] if exact else list(_packed_cells(connection, tier))
    for tier in HISTOGRAMS:
        found[tier] = list(_histogram_cells(connection, tier, histograms, unweighted=unweighted))
    for tier in USER_SETS:
        found[tier] = list(_set_cells(connection, tier, sets))
    return found


def _hours(connection: sqlite3.Connection) -> dict[int, _Hour]:
    rows = connection.execute(
        "SELECT quarter / 4, weight, max(latency, 0), max(first_token, 0), user FROM temp.batch"
    ).fetchall()
    hours: dict[int, _Hour] = defaultdict(_Hour)
    for number, some in groupby(rows, itemgetter(0)):
        _, weights, *durations, users = zip(*some, strict=True)
        hour = hours[number]
        hour.weights += weights
        hour.users.update(users)
        for known, values in zip(hour.durations, durations, strict=True):
            known.extend(values)
    return hours


# Histograms: of latencies, and of times to the first token.


def _histograms(hours: Mapping[int, _Hour], *, unweighted: bool) -> dict[int, list[Any]]:
    """Give the histograms of each hour: integers of counts, or weights by bucket where those are not all 1."""
    counted = _counted if unweighted else _weighed
    return {number: [counted(hour.weights, values) for values in hour.durations] for number, hour in hours.items()}


def _counted(_weights: Sequence[int], values: Iterable[int | None]) -> int:
    return counts_of(Counter([bucket_of(value) for value in values if value is not None]))


def _weighed(weights: Sequence[int], values: Iterable[int | None]) -> Counter[int]:
    counted = Counter[int]()
    for weight, value in zip(weights, values, strict=True):
        if value is not None:
            counted[bucket_of(value)] += weight
    return counted


def _more(blob: bytes, added: Iterable[int]) -> bytes:
    return blob_of(sum(added, number_in(blob)))


def _changed(blob: bytes, added: Iterable[Mapping[int, int]]) -> bytes:
    """Add counts that may be negative; what would be below 0 or too large stops there, as it would change others."""
    counts = counts_in(number_in(blob))
    for each in added:
        for place, count in each.items():
            counts[place] = min(max(0, counts.get(place, 0) + count), LARGEST)
    return blob_of(counts_of(counts))


def _histogram_cells(
    connection: sqlite3.Connection, tier: Tier, histograms: Mapping[int, Sequence[Any]], *, unweighted: bool
) -> Iterator[Row]:
    hours, merged = tier.cell_us // HOUR_US, _more if unweighted else _changed
    cells: dict[int, list[Sequence[Any]]] = defaultdict(list)
    for hour, both in histograms.items():
        cells[hour // hours].append(both)
    largest = dict(
        connection.execute(f"SELECT quarter / {4 * hours}, max(latency_max) FROM temp.part_quarters GROUP BY 1")
    )
    sql = f"SELECT latency, first_token, latency_max FROM {tier.name} WHERE {tier.clock} = ?"
    for cell, added in cells.items():
        *blobs, known = connection.execute(sql, (cell,)).fetchone() or (b"", b"", None)
        values = [value for value in (largest[cell], known) if value is not None]
        yield cell, *map(merged, blobs, zip(*added, strict=True)), max(values, default=None)


# Sums of many shapes.


def _packed_cells(connection: sqlite3.Connection, tier: Tier) -> Iterator[Row]:
    keys = f"quarter / {tier.cell_us // QUARTER_US}, shape >> {SHAPE_SHIFT}, shape"
    sums = ", ".join(f"sum({name})" for name in PACKED_SUMS)
    rows = connection.execute(f"SELECT {keys}, {sums} FROM temp.part_shapes GROUP BY 1, 2, 3").fetchall()
    find = f"SELECT sums FROM {tier.name} WHERE {tier.clock} = ? AND part = ?"
    width = len(PACKED_SUMS)
    for key, some in groupby(rows, itemgetter(0, 1)):
        table = {shape & (1 << SHAPE_SHIFT) - 1: values for _, _, shape, *values in some}
        (blob,) = connection.execute(find, key).fetchone() or (b"",)
        try:
            yield *key, _more(blob, [table_of(table, width)])
        except OverflowError:  # some are negative
            counts = {place * width + n: value for place, values in table.items() for n, value in enumerate(values)}
            yield *key, _changed(blob, [counts])


# Sets of users.


def _sets(hours: Mapping[int, _Hour]) -> dict[tuple[int, int], int]:
    """Give the marks of each hour and part of all ids."""
    sets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for number, hour in hours.items():
        for user in hour.users:
            sets[number, user >> PART_SHIFT].append(user & _PART - 1)
    return {key: marks_of(users, _PART) for key, users in sets.items()}


def _set_cells(connection: sqlite3.Connection, tier: Tier, sets: Mapping[tuple[int, int], int]) -> Iterator[Row]:
    hours = tier.cell_us // HOUR_US
    cells: dict[tuple[int, int], int] = defaultdict(int)
    for (hour, part), marks in sets.items():
        cells[hour // hours, part] |= marks
    sql = f"SELECT users FROM {tier.name} WHERE {tier.clock} = ? AND part = ?"
    for key, marks in cells.items():
        (blob,) = connection.execute(sql, key).fetchone() or (b"",)
        yield *key, blob_of(number_in(blob) | marks)
