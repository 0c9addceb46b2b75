"""Keeping the rollups up to date: a cursor over import order, advanced in the transaction that adds to them.

Late and backfilled events need nothing special, since the cursor follows sequence numbers and not time; a crash or a
second process can count nothing twice, since cursor and sums commit together. What a step adds is worked out in
temporary tables before it takes the write lock, so that the lock is held for the upserts alone.

A rebuild is the same thing begun anew. It first clears all cells that begin at `rebuild_from_us` or later, the first
week's begin from which on every raw row is still there; then the cursor starts again at 0 and, up to where it was
(`rebuild_seq`), passes over events before that time. Until it is back there, readers take what is later from raw rows.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from time import monotonic
from typing import TYPE_CHECKING, NamedTuple

from usagekit._store import histograms
from usagekit._store.exact import SAFE_BOUND, add_functions
from usagekit._store.schema import BLOCK_SHIFT, Transaction
from usagekit._store.tiers import (
    ATTRIBUTE_DAYS,
    DAY_ORGS,
    EXTREMES,
    HOUR_US,
    MEMBER_DAYS,
    MEMBER_WEEKS,
    ORG_DAYS,
    ORG_HOURS,
    QUARTER_US,
    QUARTERS,
    SHAPE_DAYS,
    SPAN_SHIFT,
    TIERS,
    WEEK_ORIGIN_US,
    WEEK_US,
    WIDE,
    Tier,
)
from usagekit.query.aggregate import bucket_of

if TYPE_CHECKING:
    import sqlite3

STEP_EVENTS = (1024, 16_384)  # folded in one transaction: at least, at most
LOCK_SECONDS = 0.02  # how long a transaction should take; the number of events follows from it
CLEAR_CELLS = 2000  # removed in one transaction

STEADY, CLEARING, REFILLING = 0, 1, 2  # rebuild_state

_BATCH = """
CREATE TEMP TABLE IF NOT EXISTS type_of (shape INTEGER PRIMARY KEY, type INTEGER NOT NULL);
CREATE TEMP TABLE IF NOT EXISTS whose (
    subject INTEGER PRIMARY KEY, member INTEGER, org INTEGER, attributes INTEGER,
    weight INTEGER, quantity INTEGER, other_output INTEGER
);
CREATE TEMP TABLE IF NOT EXISTS batch (
    time_us, quarter, shape, type, member, org, attributes, weight,
    failed, input, output, cost, costed, other, cache_read, cache_write, reasoning, unpriced, bytes, quantity,
    latency, unmeasured, first_token
);
"""

_FILL_BATCH = """
INSERT INTO temp.batch
SELECT b.base_us + e.offset_us, (b.base_us + e.offset_us) / {quarter}, e.shape, t.type, w.member, w.org, w.attributes,
    w.weight * :sign, s.status >= 400, e.input, CASE s.kind WHEN 'llm' THEN e.output ELSE w.other_output END,
    coalesce(e.cost_nano, 0), e.cost_nano IS NOT NULL, s.status = 0, e.cache_read, e.cache_write, e.reasoning,
    s.cost_source = 'unpriced', CASE s.kind WHEN 'llm' THEN w.other_output ELSE e.output END, w.quantity - 1000000,
    e.latency_us, e.latency_us IS NULL, coalesce(e.latency_us, 0) - e.tail_us
FROM {rows}
JOIN temp.type_of t ON t.shape = e.shape
JOIN shapes s ON s.id = e.shape
JOIN temp.whose w ON w.subject = e.subject
WHERE NOT (e.seq <= :skip_seq AND b.base_us + e.offset_us < :skip_us)
"""
_RANGE = (
    f"blocks b CROSS JOIN events e ON b.block BETWEEN :after >> {BLOCK_SHIFT} AND :last >> {BLOCK_SHIFT}"
    f" AND e.seq >= b.block << {BLOCK_SHIFT} AND e.seq < (b.block + 1) << {BLOCK_SHIFT}"
    # With a sign, as only one of two bounds would be used to find the rows: the one that spans all blocks.
    " AND +e.seq > :after AND +e.seq <= :last"
)
_LISTED = f"json_each(:seqs) l CROSS JOIN events e ON e.seq = l.value JOIN blocks b ON b.block = e.seq >> {BLOCK_SHIFT}"

# What a batch adds up to in the finest grain that several tiers share.
_PARTS = {
    "part_shapes": ("quarter", "shape", "type"),
    "part_orgs": ("quarter / 4 AS hour", "org", "type"),
    "part_members": ("quarter / 96 AS day", "member", "type"),
    "part_attributes": ("quarter / 96 AS day", "attributes", "type"),
}

# Where each tier comes from, and its clock there.
_SOURCES: dict[Tier, tuple[str, str]] = {
    QUARTERS: ("part_shapes", "quarter"),
    SHAPE_DAYS: ("part_shapes", "quarter / 96"),
    ORG_DAYS: ("part_orgs", "hour / 24"),
    DAY_ORGS: ("part_orgs", "hour / 24"),
    ORG_HOURS: ("part_orgs", "hour"),
    MEMBER_DAYS: ("part_members", "day"),
    MEMBER_WEEKS: ("part_members", "(day + 3) / 7"),
    ATTRIBUTE_DAYS: ("part_attributes", "day"),
}


# Columns that are 0 in most batches: their sums are left out then.
_SELDOM = ("other", "cache_write", "unpriced", "quantity", "unmeasured")


_DURATIONS = ("latency", "first_token")


class _Measured(NamedTuple):
    """What a batch is like."""

    bound: int  # no sum in the rollups will be larger
    exact: bool  # sums may go beyond 64 bits
    unweighted: bool
    empty: frozenset[str]  # columns without anything in them


class Rollups:
    """Brings the rollups of one ledger up to date, over one connection, in one thread.

    Temporary tables of the connection are used. A `sqlite3.OperationalError` that says busy means that nothing has
    happened, and that the same step can be tried again.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._limit = 4096
        connection.execute("PRAGMA temp_store=MEMORY")
        add_functions(connection)
        for statement in _BATCH.split(";"):
            connection.execute(statement)

    def lag(self) -> int:
        """Give how many events are not in the rollups yet."""
        return self._counter("next_seq") - 1 - self._counter("rolled_seq")

    def end(self) -> int:
        """Give the last sequence number there is."""
        return self._counter("next_seq") - 1

    def reach(self, seq: int) -> bool:
        """Tell whether the rollups hold everything up to a sequence number."""
        return self._counter("rolled_seq") >= seq and not self.is_rebuilding()

    def is_rebuilding(self) -> bool:
        """Tell whether a rebuild has begun, and not ended."""
        return self._counter("rebuild_state") != STEADY

    def step(self, limit: int | None = None) -> int:
        """Fold the next events; returns how many sequence numbers that were, 0 when the rollups are up to date.

        `limit`: how many events at most; None = as many as keep the write lock for about `LOCK_SECONDS`.
        """
        known = self._counters()
        if known["rebuild_state"] == CLEARING:
            return self._clear(known)
        after, end = known["rolled_seq"], known["next_seq"] - 1
        if after >= end:
            return 0
        find = "SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT 1 OFFSET ?"
        row = self._connection.execute(find, (after, (limit or self._limit) - 1)).fetchone()
        last = end if row is None else min(end, row[0])
        values = {"after": after, "last": last, "skip_seq": known["rebuild_seq"], "skip_us": known["rebuild_from_us"]}
        self._fill(_RANGE, values | {"sign": 1})
        found = self._measured(known["rolled_bound"])
        self._group(found)
        counted = [self._counted(name) for name in _DURATIONS]
        with self._transaction():
            began = monotonic()
            now = self._counters()
            if any(now[name] != known[name] for name in ("rolled_seq", "rolled_version")):
                return last - after  # somebody else was faster: look again
            self._add(counted, exact=found.exact)
            self._note_spans(after, last)
            self._set("rolled_seq", last)
            self._set("rolled_bound", found.bound)
            if known["rebuild_state"] == REFILLING and last >= known["rebuild_seq"]:
                for name in ("rebuild_state", "rebuild_from_us", "rebuild_seq"):
                    self._set(name, 0)
            note(self._connection, "last_rollup")
            took = monotonic() - began
        if limit is None and last - after >= self._limit // 2:
            fitting = int(self._limit * min(2.0, LOCK_SECONDS / max(took, 1e-6)))
            self._limit = max(STEP_EVENTS[0], min(STEP_EVENTS[1], fitting))
        self._forget()
        return last - after

    def fold_rows(self, seqs: list[int], sign: int) -> None:
        """Add (`sign` 1) or take away (-1) events by their sequence numbers, in the caller's transaction.

        For a change of cost or cost source: take the rows away, change them, add them again. Those that the cursor has
        not reached are left alone. Largest latencies and times stay as they are, so what was taken away must
        come back with the same time, latency, kind, event type, status, route, model, user and org.
        """
        known = self._counters()
        listed = json.dumps([seq for seq in seqs if seq <= known["rolled_seq"]])
        values = {"seqs": listed, "skip_seq": known["rebuild_seq"], "skip_us": known["rebuild_from_us"]}
        if known["rebuild_state"] == STEADY:
            values |= {"skip_seq": 0, "skip_us": 0}
        self._fill(_LISTED, values | {"sign": sign}, own_transaction=False)
        found = self._measured(known["rolled_bound"])
        self._group(found)
        self._add([self._counted(name) for name in _DURATIONS], exact=found.exact)
        self._set("rolled_bound", found.bound)
        self._set("rolled_version", known["rolled_version"] + 1)
        self._forget()

    def begin_rebuild(self) -> None:
        """Have the rollups made anew where the raw rows still are; the following steps do it."""
        with self._transaction():
            known = self._counters()
            if known["rebuild_state"] == CLEARING:
                return
            raw_from = known["raw_from_us"]
            weeks = -(-(raw_from - WEEK_ORIGIN_US) // WEEK_US) if raw_from else 0
            start = max(0, weeks * WEEK_US + WEEK_ORIGIN_US)
            self._set("rebuild_from_us", max(start, known["rebuild_from_us"]))
            self._set("rebuild_seq", max(known["rolled_seq"], known["rebuild_seq"]))
            self._set("rebuild_state", CLEARING)
            self._set("rolled_version", known["rolled_version"] + 1)

    def _clear(self, known: dict[str, int]) -> int:
        """Remove some of the cells that are to be made anew."""
        start = known["rebuild_from_us"]
        tier, keys = next(
            ((tier, keys) for tier in TIERS if (keys := old_cells(self._connection, tier, ">=", start, CLEAR_CELLS))),
            (None, []),
        )
        with self._transaction():
            if self._counter("rolled_version") != known["rolled_version"]:
                return 1
            if tier is not None:
                remove(self._connection, tier, keys)
                return 1
            self._connection.execute("DELETE FROM latency_hours WHERE hour >= ?", (start // HOUR_US,))
            self._set("rolled_seq", 0)
            self._set("rebuild_state", REFILLING if known["rebuild_seq"] else STEADY)
            self._set("rolled_version", known["rolled_version"] + 1)
        return 1

    # The batch.

    def _fill(self, rows: str, values: dict[str, object], *, own_transaction: bool = True) -> None:
        execute = self._connection.execute
        self._forget()
        self._learn_types(own_transaction=own_transaction)
        execute(f"INSERT INTO temp.whose (subject) SELECT DISTINCT e.subject FROM {rows}", _used(values, rows))
        self._learn_members(own_transaction=own_transaction)
        execute(
            "UPDATE temp.whose SET (member, org, attributes, weight, quantity, other_output) = (SELECT m.id, p.org,"
            " a.id, x.weight, x.quantity, x.other_output FROM main.subjects p"
            " JOIN main.extras x ON x.id = p.extra JOIN main.members m ON m.user = p.user AND m.org = p.org"
            " JOIN main.attribute_sets a ON a.attributes = x.attributes WHERE p.id = whose.subject)"
        )
        execute(_FILL_BATCH.format(quarter=QUARTER_US, rows=rows), values)

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
            with self._transaction():
                self._connection.execute(insert)
        else:
            self._connection.execute(insert)

    def _measured(self, before: int) -> _Measured:
        """Look at the batch: how large sums may become, and which columns hold anything at all."""
        # Each of the inner numbers is at most 2**53; a float is near enough to judge their sum.
        numbers = "1 + input + output + cost + cache_read + cache_write + reasoning + bytes + abs(quantity)"
        seldom = ", ".join(f"max(abs({name}))" for name in _SELDOM)
        total, lightest, heaviest, *largest = self._connection.execute(
            f"SELECT total(1.0 * abs(weight) * ({numbers} + coalesce(latency, 0))), min(weight), max(weight), {seldom}"
            " FROM temp.batch"
        ).fetchone()
        bound = min(2**63 - 1, before + int(total * 1.01) + 1)
        empty = frozenset(name for name, value in zip(_SELDOM, largest, strict=True) if not value)
        return _Measured(bound, bound >= SAFE_BOUND, lightest == heaviest == 1, empty)

    def _group(self, found: _Measured) -> None:
        sums = ", ".join(f"{_summed(name, found)} AS {name}" for name in WIDE)
        plain = not self._connection.execute(
            "SELECT EXISTS (SELECT 1 FROM temp.whose w JOIN main.attribute_sets a ON a.id = w.attributes"
            " WHERE a.attributes <> '{}')"
        ).fetchone()[0]
        for part, keys in _PARTS.items():
            if plain and part == "part_attributes":
                continue
            self._connection.execute(
                f"CREATE TEMP TABLE {part} AS SELECT {', '.join(keys)}, {sums}, max(latency) AS latency_max,"
                f" max(time_us) AS last FROM temp.batch GROUP BY {', '.join(str(n + 1) for n in range(len(keys)))}"
            )
        if plain:
            self._connection.execute(
                "CREATE TEMP TABLE part_attributes AS SELECT p.*, quarter / 96 AS day,"
                " (SELECT id FROM main.attribute_sets WHERE attributes = '{}') AS attributes FROM temp.part_shapes p"
            )

    def _add(self, counted: list[dict[tuple[int, int], int]], *, exact: bool) -> None:
        for tier, (part, clock) in _SOURCES.items():
            self._connection.execute(_upsert(tier, part, clock, exact=exact))
        self._add_latencies(counted)

    def _add_latencies(self, counted: list[dict[tuple[int, int], int]]) -> None:
        hours: dict[int, tuple[dict[int, int], dict[int, int]]] = {}
        execute = self._connection.execute
        for place, weights in enumerate(counted):
            for (hour, bucket), weight in weights.items():
                hours.setdefault(hour, ({}, {}))[place][bucket] = weight
        largest = dict(execute("SELECT quarter / 4, max(latency_max) FROM temp.part_shapes GROUP BY 1"))
        for hour, both in hours.items():
            row = execute("SELECT latency, first_token, latency_max FROM latency_hours WHERE hour = ?", (hour,))
            found = row.fetchone() or (b"", b"", None)
            for added, blob in zip(both, found, strict=False):
                histograms.add_packed(added, [blob])
            known = [value for value in (largest[hour], found[2]) if value is not None]
            values = (hour, histograms.packed(both[0]), histograms.packed(both[1]), max(known, default=None))
            execute("INSERT OR REPLACE INTO latency_hours VALUES (?,?,?,?)", values)

    def _counted(self, name: str) -> dict[tuple[int, int], int]:
        """Give the batch's weights by hour and log-bucket."""
        sql = f"SELECT quarter / 4, max({name}, 0), weight FROM temp.batch WHERE {name} IS NOT NULL"
        rows = self._connection.execute(sql).fetchall()
        if all(weight == 1 for _, _, weight in rows):
            return Counter([(hour, bucket_of(value)) for hour, value, _ in rows])
        counted: dict[tuple[int, int], int] = {}
        for hour, value, weight in rows:
            key = hour, bucket_of(value)
            counted[key] = counted.get(key, 0) + weight
        return counted

    def _note_spans(self, after: int, last: int) -> None:
        self._connection.execute(
            "INSERT INTO spans SELECT block >> :shift, min(first_us), max(last_us) FROM blocks"
            " WHERE block BETWEEN :first AND :last GROUP BY 1"
            " ON CONFLICT DO UPDATE SET first_us = min(first_us, excluded.first_us),"
            " last_us = max(last_us, excluded.last_us)",
            {"shift": SPAN_SHIFT, "first": (after + 1) >> BLOCK_SHIFT, "last": last >> BLOCK_SHIFT},
        )

    def _forget(self) -> None:
        for part in _PARTS:
            self._connection.execute(f"DROP TABLE IF EXISTS temp.{part}")
        self._connection.execute("DELETE FROM temp.whose")
        self._connection.execute("DELETE FROM temp.batch")

    # Transactions and counters.

    def _transaction(self) -> Transaction:
        return Transaction(self._connection)

    def _counters(self) -> dict[str, int]:
        return dict(self._connection.execute("SELECT name, value FROM counters"))

    def _counter(self, name: str) -> int:
        return self._counters()[name]

    def _set(self, name: str, value: int) -> None:
        self._connection.execute("UPDATE counters SET value = ? WHERE name = ?", (value, name))


def note(connection: sqlite3.Connection, key: str, value: str = "") -> None:
    """Write into `meta`, in the caller's transaction, that the job `key` was done now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value or now, now))


def old_cells(
    connection: sqlite3.Connection, tier: Tier, comparison: str, time_us: int, limit: int
) -> list[tuple[int, ...]]:
    """Give the keys of at most `limit` cells that begin before (`"<"`) or not before (`">="`) a time."""
    first = -(-(time_us - tier.origin_us) // tier.cell_us)
    sql = f"SELECT {', '.join(tier.order)} FROM {tier.name} WHERE {tier.clock} {comparison} ? LIMIT ?"
    return connection.execute(sql, (first, limit)).fetchall()


def remove(connection: sqlite3.Connection, tier: Tier, keys: list[tuple[int, ...]]) -> None:
    """Remove cells by their keys, in the caller's transaction."""
    same = " AND ".join(f"{name} = ?" for name in tier.order)
    connection.executemany(f"DELETE FROM {tier.name} WHERE {same}", keys)


def _summed(column: str, found: _Measured) -> str:
    if column in found.empty:
        return "0"
    if found.exact:
        return f"exact_sum({'1' if column == 'events' else f'coalesce({column}, 0)'}, weight)"
    if column == "events":
        return "count(*)" if found.unweighted else "sum(weight)"
    value = column if found.unweighted else f"{column} * weight"
    return f"coalesce(sum({value}), 0)"


def _used(values: dict[str, object], sql: str) -> dict[str, object]:
    return {name: value for name, value in values.items() if f":{name}" in sql}


def _upsert(tier: Tier, part: str, clock: str, *, exact: bool) -> str:
    keys = [clock if name == tier.clock else name for name in tier.order]
    sums = [f"exact_sum({name}, 1)" if exact else f"sum({name})" for name in tier.columns]
    changes = [
        f"{name} = exact_add({name}, excluded.{name})" if exact else f"{name} = {name} + excluded.{name}"
        for name in tier.columns
    ]
    columns = [*tier.order, *tier.columns]
    if tier.extremes:
        columns += EXTREMES
        sums += ["max(latency_max)", f"max(last) - {clock} * {tier.cell_us}"]
        changes += [
            "latency_max = max(ifnull(latency_max, excluded.latency_max), ifnull(excluded.latency_max, latency_max))",
            "last = max(last, excluded.last)",
        ]
    group = ", ".join(str(n + 1) for n in range(len(keys)))
    return (
        f"INSERT INTO main.{tier.name} ({', '.join(columns)}) SELECT {', '.join([*keys, *sums])} FROM temp.{part}"
        f" WHERE true GROUP BY {group} ON CONFLICT DO UPDATE SET {', '.join(changes)}"
    )
