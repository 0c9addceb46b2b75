"""Cells of many shapes as rows, to be asked in SQL like those of other tiers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from usagekit._reading.sources import NO_EXTRAS, raw_value
from usagekit._store.lanes import number_in, table_in
from usagekit._store.tiers import PACKED_SUMS, SHAPE_SHIFT

if TYPE_CHECKING:
    import sqlite3

    from usagekit._store.tiers import Tier


def unpack(connection: sqlite3.Connection, tier: Tier) -> None:
    """Make a temporary table `unpacked`: of each piece, as its row id, what a tier's cells of each shape add up to."""
    execute = connection.execute
    told = [name for name in tier.columns if name not in PACKED_SUMS]
    names = ("piece", *tier.key, *PACKED_SUMS, *told)
    execute("DROP TABLE IF EXISTS temp.unpacked")
    execute(f"CREATE TEMP TABLE unpacked ({', '.join(names)})")
    conditions = ", ".join(raw_value(name, NO_EXTRAS).condition for name in told)
    flags = {shape: of for shape, *of in execute(f"SELECT s.id, {conditions} FROM shapes s")}
    totals: dict[tuple[int, int], int] = {}
    for piece, part, blob in execute(
        f"SELECT w.rowid, t.part, t.sums FROM temp.pieces w"
        f" CROSS JOIN {tier.name} t ON t.{tier.clock} >= w.lo AND t.{tier.clock} < w.hi"
    ):
        totals[piece, part] = totals.get((piece, part), 0) + number_in(blob)
    rows = [
        (piece, shape, *sums, *(sums[0] * flag for flag in flags[shape]))
        for (piece, part), number in totals.items()
        for shape, sums in enumerate(table_in(number, len(PACKED_SUMS)), part << SHAPE_SHIFT)
        if sums[0]
    ]
    connection.executemany(f"INSERT INTO temp.unpacked VALUES ({', '.join('?' * len(names))})", rows)
