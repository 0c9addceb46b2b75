"""Cells that are blobs, such as histograms and sets of users: what they become with a batch of events.

It is worked out before anything is locked, so that only finished rows are written while others wait.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import compress, repeat
from typing import TYPE_CHECKING, Any

from usagekit._store.columns import grouped
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

    from usagekit._store.columns import Cells, Layout
    from usagekit._store.portion import Portion

    Row = tuple[Any, ...]
    Histogram = dict[int, int]

_PART = 1 << PART_SHIFT


def blob_cells(
    connection: sqlite3.Connection, events: Portion, layout: Layout, shapes: Cells, *, exact: bool
) -> dict[Tier, list[Row]]:
    """Give the rows that a batch leaves behind, whole.

    Args:
        connection: to read what there is.
        events: those of the batch.
        layout: of the sums in `shapes`.
        shapes: what they add up to by quarter-hour, shape and type.
        exact: whether sums may go beyond 64 bits, from now on: nobody looks at sums in blobs again.
    """
    histograms, sets = _histograms(events), _sets(events)
    unweighted = events.factors is None
    found: dict[Tier, list[Row]] = {}
    for tier in PACKED:
        found[tier] = [] if exact else list(_packed_cells(connection, tier, layout, shapes))
    for tier in HISTOGRAMS:
        found[tier] = list(_histogram_cells(connection, tier, histograms, shapes, unweighted=unweighted))
    for tier in USER_SETS:
        found[tier] = list(_set_cells(connection, tier, sets))
    return found


# Histograms: of latencies, and of times to the first token.


def _histograms(events: Portion) -> dict[int, tuple[Histogram, Histogram]]:
    """Give weights by bucket, for each hour."""
    hours: dict[int, tuple[Histogram, Histogram]] = defaultdict(lambda: ({}, {}))
    for place, durations in enumerate((events.latencies, events.first_tokens)):
        known = [duration is not None for duration in durations]
        buckets = [bucket_of(max(duration, 0)) for duration in durations if duration is not None]
        weights = list(compress(events.factors or repeat(1), known))
        cells = grouped((list(compress(events.hours, known)), buckets), weights, {})
        for hour, bucket, weight in zip(*cells.keys, cells.numbers, strict=True):
            hours[hour][place][bucket] = weight
    return hours


def _more(blob: bytes, added: Iterable[Mapping[int, int]]) -> bytes:
    return blob_of(sum(map(counts_of, added), number_in(blob)))


def _changed(blob: bytes, added: Iterable[Mapping[int, int]]) -> bytes:
    """Add counts that may be negative; what would be below 0 or too large stops there, as it would change others."""
    counts = counts_in(number_in(blob))
    for each in added:
        for place, count in each.items():
            counts[place] = min(max(0, counts.get(place, 0) + count), LARGEST)
    return blob_of(counts_of(counts))


def _histogram_cells(
    connection: sqlite3.Connection,
    tier: Tier,
    histograms: Mapping[int, tuple[Histogram, Histogram]],
    shapes: Cells,
    *,
    unweighted: bool,
) -> Iterator[Row]:
    merged = _more if unweighted else _changed
    cells: dict[int, list[tuple[Histogram, Histogram]]] = defaultdict(list)
    for hour, both in histograms.items():
        cells[hour * HOUR_US // tier.cell_us].append(both)
    largest: dict[int, int] = {}
    for quarter, latency in zip(shapes.keys[0], shapes.largest["latency_max"], strict=True):
        if latency is not None:
            cell = quarter * QUARTER_US // tier.cell_us
            largest[cell] = max(latency, largest.get(cell, latency))
    sql = f"SELECT latency, first_token, latency_max FROM {tier.name} WHERE {tier.clock} = ?"
    for cell, added in cells.items():
        *blobs, known = connection.execute(sql, (cell,)).fetchone() or (b"", b"", None)
        values = [value for value in (largest.get(cell), known) if value is not None]
        yield cell, *map(merged, blobs, zip(*added, strict=True)), max(values, default=None)


# Sums of many shapes.


def _packed_cells(connection: sqlite3.Connection, tier: Tier, layout: Layout, shapes: Cells) -> Iterator[Row]:
    quarters, each_shape, _ = shapes.keys
    cells = shapes.by([quarter * QUARTER_US // tier.cell_us for quarter in quarters], each_shape, largest=False)
    sums, zeros = layout.sums(cells.numbers), [0] * len(cells.numbers)
    rows = zip(*(sums.get(name, zeros) for name in PACKED_SUMS), strict=True)
    tables: dict[tuple[int, int], dict[int, Sequence[int]]] = defaultdict(dict)
    for cell, shape, values in zip(*cells.keys, rows, strict=True):
        tables[cell, shape >> SHAPE_SHIFT][shape & (1 << SHAPE_SHIFT) - 1] = values
    find = f"SELECT sums FROM {tier.name} WHERE {tier.clock} = ? AND part = ?"
    width = len(PACKED_SUMS)
    for key, table in tables.items():
        (blob,) = connection.execute(find, key).fetchone() or (b"",)
        try:
            yield *key, blob_of(number_in(blob) + table_of(table, width))
        except OverflowError:  # some are negative
            counts = {place * width + n: value for place, values in table.items() for n, value in enumerate(values)}
            yield *key, _changed(blob, [counts])


# Sets of users.


def _sets(events: Portion) -> dict[tuple[int, int], int]:
    """Give the marks of each hour and part of all ids."""
    sets: dict[tuple[int, int], list[int]] = defaultdict(list)
    for hour, user in set(zip(events.hours, events.users, strict=True)):
        sets[hour, user >> PART_SHIFT].append(user & _PART - 1)
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
