"""What some events add up to, cell by cell: worked out in temporary tables, then added to the rollups' own.

The first half takes no lock on the ledger, but where a type, a member or a set of attributes is seen for the first
time. The second, `add_to`, runs in the caller's transaction, one family of tiers at a time.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from usagekit._store.blob_cells import blob_cells
from usagekit._store.exact import SAFE_BOUND, add_functions
from usagekit._store.schema import BLOCK_SHIFT, Transaction
from usagekit._store.tiers import (
    ATTRIBUTE_DAYS,
    BILLED,
    DAY_ORGS,
    EXTREMES,
    FAMILIES,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_DAYS,
    ORG_HOURS,
    QUARTER_US,
    QUARTERS,
    SHAPE_DAYS,
    TYPE_DAYS,
    WIDE,
    Tier,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from usagekit._store.blob_cells import Row

RANGE = (
    f"blocks b CROSS JOIN events e ON b.block BETWEEN :after >> {BLOCK_SHIFT} AND :last >> {BLOCK_SHIFT}"
    f" AND e.seq >= b.block << {BLOCK_SHIFT} AND e.seq < (b.block + 1) << {BLOCK_SHIFT}"
    # With a sign, as only one of two bounds would be used to find the rows: the one that spans all blocks.
    " AND +e.seq > :after AND +e.seq <= :last"
)
"""The events with `after < seq <= last`."""

LISTED = f"json_each(:seqs) l CROSS JOIN events e ON e.seq = l.value JOIN blocks b ON b.block = e.seq >> {BLOCK_SHIFT}"
"""The events whose numbers are in the JSON list `seqs`."""

_TABLES = """
CREATE TEMP TABLE IF NOT EXISTS type_of (shape INTEGER PRIMARY KEY, type INTEGER NOT NULL);
CREATE TEMP TABLE IF NOT EXISTS whose (
    subject INTEGER PRIMARY KEY, member INTEGER, org INTEGER, attributes INTEGER,
    weight INTEGER, quantity INTEGER, other_output INTEGER, user INTEGER
);
CREATE TEMP TABLE IF NOT EXISTS batch (
    is_call, time_us, quarter, shape, type, member, org, attributes, weight,
    failed, input, output, cost, costed, other, cache_read, cache_write, reasoning, unpriced, bytes, quantity,
    latency, unmeasured, first_token, user
)
"""

_FILL = """
INSERT INTO temp.batch
SELECT s.kind = 'llm', b.base_us + e.offset_us, (b.base_us + e.offset_us) / {quarter}, e.shape, t.type, w.member, w.org,
    w.attributes, w.weight * :sign, s.status >= 400, e.input,
    CASE s.kind WHEN 'llm' THEN e.output ELSE w.other_output END,
    coalesce(e.cost_nano, 0), e.cost_nano IS NOT NULL, s.status = 0, e.cache_read, e.cache_write, e.reasoning,
    s.cost_source = 'unpriced', CASE s.kind WHEN 'llm' THEN w.other_output ELSE e.output END, w.quantity - 1000000,
    e.latency_us, e.latency_us IS NULL, coalesce(e.latency_us, 0) - e.tail_us, w.user
FROM {rows}
JOIN temp.type_of t ON t.shape = e.shape
JOIN shapes s ON s.id = e.shape
JOIN temp.whose w ON w.subject = e.subject
WHERE NOT (e.seq <= :skip_seq AND b.base_us + e.offset_us < :skip_us)
"""

_TOGETHER = (
    ("input", "output", "cost", "costed", "cache_read", "reasoning"),
    ("other",),
    ("cache_write",),
    ("unpriced",),
    ("bytes",),
    ("quantity",),
    ("unmeasured",),
)
"""Columns that are often 0 in all model calls, or in all other events, of a batch: their sums are left out then."""

# What a batch adds up to in the finest grain that several tiers share. A type is of one kind, so model calls and others
# never meet in a cell.
_PARTS = {
    "part_shapes": ("quarter", "shape", "type"),
    "part_orgs": ("quarter / 4 AS hour", "org", "type"),
    "part_members": ("member", "quarter / 96 AS day", "type"),
}
_PART_ATTRIBUTES = ("quarter / 96 AS day", "attributes", "type")
_ALL_PARTS = (*_PARTS, "part_quarters", "part_attributes")


class _Source(NamedTuple):
    """Where a tier's cells come from, and its clock there; `finer`: several rows there make a cell."""

    part: str
    clock: str
    finer: bool


_SOURCES: dict[Tier, _Source] = {
    QUARTERS: _Source("part_quarters", "quarter", finer=False),
    TYPE_DAYS: _Source("part_quarters", "quarter / 96", finer=True),
    SHAPE_DAYS: _Source("part_shapes", "quarter / 96", finer=True),
    ORG_DAYS: _Source("part_orgs", "hour / 24", finer=True),
    DAY_ORGS: _Source("part_orgs", "hour / 24", finer=True),
    ORG_HOURS: _Source("part_orgs", "hour", finer=False),
    MEMBER_DAYS: _Source("part_members", "day", finer=False),
    MEMBER_WEEKS: _Source("part_members", "(day + 3) / 7", finer=True),
    ATTRIBUTE_DAYS: _Source("part_attributes", "day", finer=False),
}


class _Kind(NamedTuple):
    """What the model calls of a batch, or its other events, are like."""

    condition: str
    empty: frozenset[str]  # columns without anything in them


class _Measured(NamedTuple):
    """What a batch is like."""

    bound: int  # no sum in the rollups will be larger
    exact: bool  # sums may go beyond 64 bits
    unweighted: bool
    kinds: tuple[_Kind, ...]


class Fold:
    """Sums of one batch of events after another, over one connection, in one thread; keeps temporary tables there."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._exact = False
        self._blobs: dict[Tier, list[Row]] = {}
        connection.execute("PRAGMA temp_store=MEMORY")
        add_functions(connection)
        for statement in _TABLES.split(";"):
            connection.execute(statement)

    def take(
        self,
        rows: str,
        values: Mapping[str, object],
        before: int,
        *,
        is_bounded: bool = False,
        own_transaction: bool = True,
    ) -> int:
        """Work out what a batch adds up to; gives a bound: no sum in the rollups can be larger then.

        Args:
            rows: which events, `RANGE` or `LISTED`.
            values: those bound in it, and `sign`, `skip_seq` and `skip_us`: events up to that number are passed over
                where they are of before that time.
            before: the bound so far.
            is_bounded: whether it bounds the sums with this batch already, since some families hold it.
            own_transaction: whether to begin one where something has to be written; no if the caller has.
        """
        self._fill(rows, values, own_transaction=own_transaction)
        found = self._measured(before, is_bounded=is_bounded)
        self._exact = found.exact
        self._group(found)
        self._blobs = blob_cells(self._connection, exact=found.exact, unweighted=found.unweighted)
        return found.bound

    def add_to(self, family: int) -> None:
        """Add the batch to the tiers of one of `FAMILIES`, in the caller's transaction."""
        for tier in FAMILIES[family]:
            if tier in _SOURCES:
                self._connection.execute(_upsert(tier, exact=self._exact))
                continue
            for row in self._blobs[tier]:
                marks = ", ".join("?" * len(row))
                self._connection.execute(f"INSERT OR REPLACE INTO {tier.name} VALUES ({marks})", row)

    def forget(self) -> None:
        """Empty the temporary tables."""
        for part in _ALL_PARTS:
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{part}")
        self._connection.execute("DELETE FROM temp.whose")
        self._connection.execute("DELETE FROM temp.batch")
        self._blobs = {}

    # The batch.

    def _fill(self, rows: str, values: Mapping[str, object], *, own_transaction: bool) -> None:
        execute = self._connection.execute
        self.forget()
        self._learn_types(own_transaction=own_transaction)
        execute(f"INSERT INTO temp.whose (subject) SELECT DISTINCT e.subject FROM {rows}", _used(values, rows))
        self._learn_members(own_transaction=own_transaction)
        execute(
            "UPDATE temp.whose SET (member, org, attributes, weight, quantity, other_output, user) = (SELECT m.id,"
            " p.org, a.id, x.weight, x.quantity, x.other_output, p.user FROM main.subjects p"
            " JOIN main.extras x ON x.id = p.extra JOIN main.members m ON m.user = p.user AND m.org = p.org"
            " JOIN main.attribute_sets a ON a.attributes = x.attributes WHERE p.id = whose.subject)"
        )
        execute(_FILL.format(quarter=QUARTER_US, rows=rows), values)

    def _learn_types(self, *, own_transaction: bool) -> None:
        execute = self._connection.execute
        new = "(SELECT coalesce(max(shape), 0) FROM temp.type_of)"
        self._insert_missing(
            f"SELECT count(*) FROM shapes s WHERE s.id > {new} AND NOT EXISTS"
            " (SELECT 1 FROM types t WHERE t.event = s.event AND t.kind = s.kind)",
            f"INSERT INTO types (kind, event) SELECT DISTINCT kind, event FROM shapes WHERE id > {new}"
            " ON CONFLICT DO NOTHING",
            own_transaction=own_transaction,
        )
        execute(
            "INSERT INTO temp.type_of SELECT s.id, t.id FROM main.shapes s"
            f" JOIN main.types t ON t.event = s.event AND t.kind = s.kind WHERE s.id > {new}"
        )

    def _learn_members(self, *, own_transaction: bool) -> None:
        whose = "FROM temp.whose w JOIN main.subjects p ON p.id = w.subject"
        extras = f"{whose} JOIN main.extras x ON x.id = p.extra"
        self._insert_missing(
            f"SELECT EXISTS (SELECT 1 {whose} WHERE NOT EXISTS"
            " (SELECT 1 FROM members m WHERE m.user = p.user AND m.org = p.org))",
            f"INSERT INTO members (user, org) SELECT p.user, p.org {whose} WHERE true ON CONFLICT DO NOTHING",
            own_transaction=own_transaction,
        )
        self._insert_missing(
            f"SELECT EXISTS (SELECT 1 {extras} WHERE NOT EXISTS"
            " (SELECT 1 FROM attribute_sets a WHERE a.attributes = x.attributes))",
            f"INSERT INTO attribute_sets (attributes) SELECT x.attributes {extras} WHERE true ON CONFLICT DO NOTHING",
            own_transaction=own_transaction,
        )

    def _insert_missing(self, look: str, insert: str, *, own_transaction: bool) -> None:
        if not self._connection.execute(look).fetchone()[0]:
            return
        if own_transaction:
            with Transaction(self._connection):
                self._connection.execute(insert)
        else:
            self._connection.execute(insert)

    # Its sums.

    def _measured(self, before: int, *, is_bounded: bool) -> _Measured:
        """Look at the batch: how large sums may become, and which columns hold anything at all."""
        # Each of the inner numbers is at most 2**53; a float is near enough to judge their sum.
        numbers = "1 + input + output + cost + cache_read + cache_write + reasoning + bytes + abs(quantity)"
        largest = ", ".join(f"max({' | '.join(f'abs({name})' for name in names)})" for names in _TOGETHER)
        added, weights, kinds = 0, set(), []
        for condition in ("is_call", "NOT is_call"):
            total, lightest, heaviest, *found = self._connection.execute(
                f"SELECT total(1.0 * abs(weight) * ({numbers} + coalesce(latency, 0))), min(weight), max(weight),"
                f" {largest} FROM temp.batch WHERE {condition}"
            ).fetchone()
            if lightest is None:
                continue
            added += int(total * 1.01) + 1
            weights |= {lightest, heaviest}
            empty = (names for names, value in zip(_TOGETHER, found, strict=True) if not value)
            kinds.append(_Kind(condition, frozenset(name for names in empty for name in names)))
        bound = before if is_bounded else min(2**63 - 1, before + added)
        return _Measured(bound, bound >= SAFE_BOUND, weights <= {1}, tuple(kinds))

    def _group(self, found: _Measured) -> None:
        for part, keys in _PARTS.items():
            self._group_batch(part, keys, found)
        again = ", ".join(_again(name, exact=found.exact) for name in WIDE)
        largest = ", ".join(f"max({name}) AS {name}" for name in EXTREMES)
        self._connection.execute(
            f"CREATE TEMP TABLE part_quarters AS SELECT quarter, type, {again}, {largest} FROM temp.part_shapes"
            " GROUP BY quarter, type"
        )
        if self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM temp.whose w JOIN main.attribute_sets a ON a.id = w.attributes"
            " WHERE a.attributes <> '{}')"
        ).fetchone()[0]:
            self._group_batch("part_attributes", _PART_ATTRIBUTES, found)
            return
        self._connection.execute(
            "CREATE TEMP TABLE part_attributes AS SELECT quarter / 96 AS day, type,"
            " (SELECT id FROM main.attribute_sets WHERE attributes = '{}') AS attributes,"
            f" {again}, {largest} FROM temp.part_quarters GROUP BY 1, 2"
        )

    def _group_batch(self, part: str, keys: tuple[str, ...], found: _Measured) -> None:
        """Make a part: of the model calls and of the others, each with what they have."""
        columns = BILLED if part == "part_members" else WIDE
        extremes = [] if part == "part_members" else ["max(latency) AS latency_max"]
        group = ", ".join(str(n + 1) for n in range(len(keys)))
        into = f"CREATE TEMP TABLE {part} AS"
        for kind in found.kinds:
            sums = ", ".join(f"{_summed(name, kind, found)} AS {name}" for name in columns)
            self._connection.execute(
                f"{into} SELECT {', '.join([*keys, sums, *extremes])}, max(time_us) AS last FROM temp.batch"
                f" WHERE {kind.condition}"
                f" GROUP BY {group}"
            )
            into = f"INSERT INTO temp.{part}"
        if not found.kinds:
            names = [*(key.rpartition(" ")[2] for key in keys), *columns, *("latency_max" for _ in extremes), "last"]
            self._connection.execute(f"CREATE TEMP TABLE {part} ({', '.join(names)})")


def _summed(column: str, kind: _Kind, found: _Measured) -> str:
    if column in kind.empty:
        return "0"
    if found.exact:
        return f"exact_sum({'1' if column == 'events' else f'coalesce({column}, 0)'}, weight)"
    if column == "events":
        return "count(*)" if found.unweighted else "sum(weight)"
    value = column if found.unweighted else f"{column} * weight"
    return f"coalesce(sum({value}), 0)"


def _again(column: str, *, exact: bool) -> str:
    return f"{f'exact_sum({column}, 1)' if exact else f'sum({column})'} AS {column}"


def _used(values: Mapping[str, object], sql: str) -> dict[str, object]:
    return {name: value for name, value in values.items() if f":{name}" in sql}


def _upsert(tier: Tier, *, exact: bool) -> str:
    part, clock, finer = _SOURCES[tier]
    keys = [clock if name == tier.clock else name for name in tier.order]
    columns = [*tier.order, *tier.columns]
    sums = [_again(name, exact=exact) for name in tier.columns] if finer else [*tier.columns]
    changes = [
        f"{name} = exact_add({name}, excluded.{name})" if exact else f"{name} = {name} + excluded.{name}"
        for name in tier.columns
    ]
    columns += tier.extremes
    if "latency_max" in tier.extremes:
        sums.append("max(latency_max)" if finer else "latency_max")
        changes.append(
            "latency_max = max(ifnull(latency_max, excluded.latency_max), ifnull(excluded.latency_max, latency_max))"
        )
    if "last" in tier.extremes:
        sums.append(f"{'max(last)' if finer else 'last'} - ({clock} * {tier.cell_us} + {tier.origin_us})")
        changes.append("last = max(ifnull(last, excluded.last), excluded.last)")
    group = f" GROUP BY {', '.join(str(n + 1) for n in range(len(keys)))}" if finer else ""
    return (
        f"INSERT INTO main.{tier.name} ({', '.join(columns)}) SELECT {', '.join([*keys, *sums])} FROM temp.{part}"
        f" WHERE true{group} ON CONFLICT DO UPDATE SET {', '.join(changes)}"
    )
