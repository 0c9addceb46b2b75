"""Giving a cost to events that have none: the only change that is ever made to an imported row.

One transaction changes at most `STEP_ROWS` rows. A row is changed only while it has no cost, and its cost and its
shape change together, and what the rollups hold of it in the same transaction, so that any number of
processes may do this at once, and each may die at any moment.
"""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from usagekit._store.events import last_seq
from usagekit._store.rollups import Rollups
from usagekit._store.schema import BLOCK_ROWS, BLOCK_SHIFT, Transaction, connect

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator

STEP_ROWS = 2048  # a multiple of BLOCK_ROWS

# The order of the joins is fixed, and `+` keeps an index from being chosen: a step reads its own blocks, and no more.
_UNPRICED = """
SELECT e.seq, b.base_us + e.offset_us, e.shape, x.weight, x.quantity,
    e.input, CASE s.kind WHEN 'llm' THEN e.output ELSE x.other_output END, e.cache_read, e.cache_write, e.reasoning
FROM blocks b
CROSS JOIN events e ON e.seq >= b.block << :shift AND e.seq < (b.block + 1) << :shift
CROSS JOIN shapes s ON s.id = e.shape
CROSS JOIN subjects p ON p.id = e.subject
CROSS JOIN extras x ON x.id = p.extra
WHERE b.block BETWEEN :first AND :last AND b.last_us >= :since AND b.first_us < :until AND +e.seq <= :end
    AND b.base_us + e.offset_us >= :since AND b.base_us + e.offset_us < :until
    AND e.cost_nano IS NULL AND +e.shape IN (SELECT value FROM json_each(:shapes))
"""

# Changes are [seq, old shape, new shape, cost]. What a sink's frozen batch holds, in all parts it was cut into, must
# stay as it was sent.
_STILL_UNPRICED = """
SELECT e.seq, EXISTS (
    SELECT 1 FROM sinks WHERE batch_id IS NOT NULL AND e.seq > delivered_seq
        AND e.seq <= coalesce(json_extract(batch_parts, '$[#-1][1]'), batch_end)
)
FROM json_each(:changes) c JOIN events e ON e.seq = c.value ->> 0
WHERE e.shape = c.value ->> 1 AND e.cost_nano IS NULL
"""
_SET_COSTS = """
UPDATE events SET cost_nano = c.value ->> 3, shape = c.value ->> 2
FROM json_each(:changes) c WHERE events.seq = c.value ->> 0
"""
_MAKE_SHAPE = """
INSERT INTO shapes (kind, event, status, route, provider, model, cost_source, aborted)
SELECT kind, event, status, route, provider, model, :source, aborted FROM shapes WHERE id = :id
ON CONFLICT DO NOTHING
"""
_FIND_SHAPE = """
SELECT made.id FROM shapes was JOIN shapes made USING (event, route, model, status, kind, provider, aborted)
WHERE was.id = :id AND made.cost_source = :source
"""


class Shape(NamedTuple):
    """What unpriced events have in common."""

    id: int
    provider: str
    model: str
    aborted: bool


class Row(NamedTuple):
    """One unpriced event: time in microseconds since 1970, quantity in millionths, and its tokens."""

    seq: int
    time_us: int
    shape: int
    weight: int
    quantity: int
    input: int
    output: int
    cache_read: int
    cache_write: int
    reasoning: int


class Priced(NamedTuple):
    """A row and its cost in nano-dollars; None = no price is known. `is_held`: a sink's batch has it at the moment."""

    row: Row
    shape: Shape
    cost_nano: int | None
    is_held: bool = False


def reprice_rows(
    path: str,
    *,
    since_us: int,
    until_us: int,
    is_wanted: Callable[[Shape], bool],
    price: Callable[[Shape, Row], int | None],
    dry_run: bool,
    progress: Callable[[int, int], None],
) -> Iterator[list[Priced]]:
    """Price what is unpriced in the ledger at `path`, and yield each step's rows once they are changed.

    Rows that another process priced in the meantime are in no step. Raises `sqlite3.Error`: the step it happened in
    has changed nothing, and those before it have.

    Args:
        path: the ledger.
        since_us: from when on, microseconds since 1970.
        until_us: until when, exclusive.
        is_wanted: called with each unpriced shape.
        price: gives the nano-dollars of an event; None = no price is known.
        dry_run: change nothing.
        progress: called with how many blocks were looked at, and how many there are.
    """
    with closing(connect(path)) as connection:
        end = last_seq(connection)
        rollups = Rollups(connection)
        shapes = {shape.id: shape for shape in _unpriced_shapes(connection) if is_wanted(shape)}
        in_time = "SELECT block FROM blocks WHERE last_us >= ? AND first_us < ? AND block << ? <= ? ORDER BY block"
        blocks = [row[0] for row in connection.execute(in_time, (since_us, until_us, BLOCK_SHIFT, end))]
        size = STEP_ROWS // BLOCK_ROWS
        for start in range(0, len(blocks) if shapes else 0, size):
            some = blocks[start : start + size]
            values = {
                "shift": BLOCK_SHIFT,
                "first": some[0],
                "last": some[-1],
                "since": since_us,
                "until": until_us,
                "end": end,
                "shapes": json.dumps(list(shapes)),
            }
            rows = [Row(*row) for row in connection.execute(_UNPRICED, values)]
            priced = [Priced(row, shapes[row.shape], price(shapes[row.shape], row)) for row in rows]
            yield priced if dry_run else _changed(connection, rollups, priced)
            progress(start + len(some), len(blocks))


def _unpriced_shapes(connection: sqlite3.Connection) -> Iterator[Shape]:
    for number, provider, model, aborted in connection.execute(
        "SELECT id, provider, model, aborted FROM shapes WHERE cost_source='unpriced'"
    ):
        yield Shape(number, provider, model, bool(aborted))


def _changed(connection: sqlite3.Connection, rollups: Rollups, priced: list[Priced]) -> list[Priced]:
    """Write the costs, in one transaction; gives the rows without those that somebody else has priced or deleted."""
    known = {one.row.seq: one for one in priced if one.cost_nano is not None}
    if not known:
        return priced
    with Transaction(connection):
        becomes = {shape: _priced_shape(connection, shape) for shape in {one.shape for one in known.values()}}
        changes = {seq: (seq, one.shape.id, becomes[one.shape], one.cost_nano) for seq, one in known.items()}
        is_held = dict(connection.execute(_STILL_UNPRICED, {"changes": json.dumps(list(changes.values()))}))
        seqs = [seq for seq in sorted(is_held) if not is_held[seq]]
        rollups.fold_rows(seqs, -1)
        connection.execute(_SET_COSTS, {"changes": json.dumps([changes[seq] for seq in seqs])})
        rollups.fold_rows(seqs, 1)
    unknown = [one for one in priced if one.cost_nano is None]
    return unknown + [known[seq]._replace(is_held=bool(held)) for seq, held in is_held.items()]


def _priced_shape(connection: sqlite3.Connection, shape: Shape) -> int:
    # What an aborted call used is nearly always an estimate; the ledger does not say so of an unpriced one.
    values = {"id": shape.id, "source": "estimated" if shape.aborted else "priced"}
    connection.execute(_MAKE_SHAPE, values)
    return connection.execute(_FIND_SHAPE, values).fetchone()[0]  # type: ignore[no-any-return]
