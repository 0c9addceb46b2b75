"""Keeping the rollups up to date: a cursor over import order, advanced in the transaction that adds to them.

Late and backfilled events need nothing special, since the cursor follows sequence numbers and not time; a crash or a
second process can count nothing twice, since cursor and sums commit together. What a step adds is worked out before it
takes the write lock (see `folding`). A small batch is added in one transaction, a larger one in a transaction for each
family of tiers, so that no writer waits for long. The first of these fixes its end, `batch_seq`; `batch_families` is
how many hold it so far. Whoever comes next, after a crash too, goes on with the same batch, and readers know of each
family how far it is.

A rebuild is the same thing begun anew. It first clears all cells that begin at `rebuild_from_us` or later, the first
week's begin from which on every raw row is still there; then the cursor starts again at 0 and, up to where it was
(`rebuild_seq`), passes over events before that time. Until it is back there, readers take what is later from raw rows.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from time import thread_time
from typing import TYPE_CHECKING

from usagekit._store.folding import Fold
from usagekit._store.migrations import SCHEMA_VERSION
from usagekit._store.portion import LISTED, RANGE
from usagekit._store.schema import BLOCK_SHIFT, Transaction
from usagekit._store.steps import columns_of
from usagekit._store.tiers import FAMILIES, SPAN_SHIFT, TIERS, Tier, whole_since
from usagekit.errors import StorageError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

STEP_EVENTS = (4096, 8192)  # folded in one step: at least, at most
AT_ONCE_EVENTS = 1024  # fewer are not worth several transactions, and keep no writer waiting
# Of processor time in a transaction; the number of events follows from it. A busy app or disk is not counted, as it
# makes a smaller batch wait as long, and batches more often.
WORK_SECONDS = 0.04
CLEAR_CELLS = 2000  # removed in one transaction

_ONE_BY_ONE = tuple((family,) for family in range(len(FAMILIES)))
_ALL_AT_ONCE = (tuple(range(len(FAMILIES))),)

_VERSION = "(SELECT user_version FROM pragma_user_version)"

_SET = f"""
UPDATE counters SET value = n.value FROM json_each(?) n WHERE name = n.key
AND NOT EXISTS (SELECT 1 FROM json_each(?) w JOIN counters c ON c.name = w.key WHERE c.value <> w.value)
AND {_VERSION} = ?
"""

STEADY, CLEARING, REFILLING = 0, 1, 2  # rebuild_state


class Rollups:
    """Brings the rollups of one ledger up to date, over one connection, in one thread.

    A `sqlite3.OperationalError` that says busy means that the same step can be tried again; what it has added already
    is not added twice.

    Args:
        connection: to the ledger, not read-only.
        at_once: batches of up to this many events are added in one transaction.
    """

    def __init__(self, connection: sqlite3.Connection, *, at_once: int = AT_ONCE_EVENTS) -> None:
        self._connection = connection
        self._at_once = at_once
        self._limit = STEP_EVENTS[1]
        self._fold = Fold(connection)

    def end(self) -> int:
        """Give the last sequence number there is."""
        return self._counter("next_seq") - 1

    def reach(self, seq: int) -> bool:
        """Tell whether the rollups hold everything up to a sequence number."""
        known = self._counters()
        return known["rolled_seq"] >= seq and known["rebuild_state"] == STEADY

    def is_due(self, at_least: int) -> bool:
        """Tell whether `at_least` so many events wait for the rollups, or a rebuild goes on."""
        known = self._counters()
        return known["next_seq"] - 1 - known["rolled_seq"] >= at_least or known["rebuild_state"] != STEADY

    def step(self, limit: int | None = None) -> int:
        """Fold the next events; returns how many sequence numbers that were, 0 when the rollups are up to date.

        They were not folded here where somebody else was faster, or has laid the ledger out anew: the next step tells.

        `limit`: how many events at most; None = as many as are `WORK_SECONDS` of work.
        """
        known = self._counters()
        if known["rebuild_state"] == CLEARING:
            return self._clear(known)
        after = known["rolled_seq"]
        last = known["batch_seq"] if known["batch_families"] else self._end_of_batch(known, limit or self._limit)
        if last == after:
            return 0
        bound = self._take_batch(after, last, known, own_transaction=True)
        longest = 0.0
        for families in _ALL_AT_ONCE if last - after <= self._at_once else _ONE_BY_ONE:
            with self._transaction():
                began = thread_time()
                for family in families:
                    self._add_family(family, after, last, known, bound)
                longest = max(longest, thread_time() - began)
        if limit is None and last - after >= self._limit // 2 and longest:
            fitting = int(self._limit * min(2.0, WORK_SECONDS / longest))
            self._limit = max(STEP_EVENTS[0], min(STEP_EVENTS[1], fitting))
        self._fold.forget()
        return last - after

    def _end_of_batch(self, known: dict[str, int], limit: int) -> int:
        end = known["next_seq"] - 1
        find = "SELECT seq FROM events WHERE seq > ? ORDER BY seq LIMIT 1 OFFSET ?"
        row = self._connection.execute(find, (known["rolled_seq"], limit - 1)).fetchone()
        return end if row is None else min(end, int(row[0]))

    def _take_batch(self, after: int, last: int, known: dict[str, int], *, own_transaction: bool) -> int:
        values = {"after": after, "last": last, "skip_seq": known["rebuild_seq"], "skip_us": known["rebuild_from_us"]}
        return self._fold.take(
            RANGE,
            values | {"sign": 1},
            known["rolled_bound"],
            is_bounded=known["batch_families"] > 0,
            own_transaction=own_transaction,
        )

    def _add_family(self, family: int, after: int, last: int, known: dict[str, int], bound: int) -> None:
        """Add the batch to one family, and say so, in the caller's transaction; not where it holds the batch already.

        Nor where somebody else changed cells since the counters were `known`, after which the batch was worked out.
        """
        same_batch = {"batch_seq": last} if family else {}
        if family + 1 < len(FAMILIES):
            changes = {"batch_families": family + 1} | ({} if family else {"batch_seq": last, "rolled_bound": bound})
        else:
            changes = {"batch_families": 0, "rolled_seq": last}
            if known["rebuild_state"] == REFILLING and last >= known["rebuild_seq"]:
                changes |= {"rebuild_state": STEADY, "rebuild_from_us": 0, "rebuild_seq": 0}
        unchanged = {name: known[name] for name in ("rolled_seq", "rollups_version", "rollups_from_us")}
        if not self._set(changes, where=unchanged | {"batch_families": family} | same_batch):
            return
        if family == 0:
            self._note_spans(after, last)
        self._fold.add_to(family)
        if family + 1 == len(FAMILIES):
            note(self._connection, "last_rollup")

    def _finish_batch(self) -> dict[str, int]:
        """Add a batch that some families hold to the others, in the caller's transaction; gives the counters."""
        known = self._counters()
        if known["batch_families"]:
            after, last = known["rolled_seq"], known["batch_seq"]
            bound = self._take_batch(after, last, known, own_transaction=False)
            for family in range(known["batch_families"], len(FAMILIES)):
                self._add_family(family, after, last, known, bound)
            self._fold.forget()
            known = self._counters()
        return known

    def fold_rows(self, seqs: list[int], sign: int) -> None:
        """Add (`sign` 1) or take away (-1) events by their sequence numbers, in the caller's transaction.

        For a change of cost or cost source: take the rows away, change them, add them again. Those that no cell holds
        yet are left alone. Largest latencies and times stay as they are, so what was taken away must
        come back with the same time, latency, kind, event type, status, route, model, user and org.
        """
        known = self._finish_batch()
        # A rebuild keeps the cells before its begin, which hold what the cursor has yet to come back to.
        (held,) = columns_of(
            self._connection,
            ("e.seq",),
            f"FROM {LISTED} WHERE e.seq <= :rolled OR e.seq <= :again AND b.base_us + e.offset_us < :since",
            {
                "seqs": json.dumps(seqs),
                "rolled": known["rolled_seq"],
                "again": known["rebuild_seq"],
                "since": known["rebuild_from_us"],
            },
        )
        values: dict[str, object] = {"seqs": json.dumps(held), "sign": sign}
        values |= {"skip_seq": 0, "skip_us": 0}
        bound = self._fold.take(LISTED, values, known["rolled_bound"], own_transaction=False)
        for family in range(len(FAMILIES)):
            self._fold.add_to(family)
        self._set({"rolled_bound": bound, "rollups_version": known["rollups_version"] + 1})
        self._fold.forget()

    def begin_rebuild(self) -> None:
        """Have the rollups made anew where the raw rows still are; the following steps do it."""
        with self._transaction():
            known = self._finish_batch()
            if known["rebuild_state"] == CLEARING:
                return
            since = max(whole_since(known["raw_from_us"]), known["rebuild_from_us"])
            self._set(
                {
                    "rebuild_from_us": since,
                    "hours_from_us": min(since, known["hours_from_us"]),
                    "rebuild_seq": max(known["rolled_seq"], known["rebuild_seq"]),
                    "rebuild_state": CLEARING,
                    "rollups_version": known["rollups_version"] + 1,
                }
            )

    def _clear(self, known: dict[str, int]) -> int:
        """Remove some of the cells that are to be made anew."""
        start = known["rebuild_from_us"]
        tier, keys = next(
            ((tier, keys) for tier in TIERS if (keys := old_cells(self._connection, tier, ">=", start, CLEAR_CELLS))),
            (None, []),
        )
        with self._transaction():
            if self._counter("rollups_version") != known["rollups_version"]:
                return 1
            if tier is not None:
                remove(self._connection, tier, keys)
                return 1
            self._set(
                {
                    "rolled_seq": 0,
                    "rebuild_state": REFILLING if known["rebuild_seq"] else STEADY,
                    "rollups_version": known["rollups_version"] + 1,
                }
            )
        return 1

    def _note_spans(self, after: int, last: int) -> None:
        self._connection.execute(
            "INSERT INTO spans SELECT block >> :shift, min(first_us), max(last_us) FROM blocks"
            " WHERE block BETWEEN :first AND :last GROUP BY 1"
            " ON CONFLICT DO UPDATE SET first_us = min(first_us, excluded.first_us),"
            " last_us = max(last_us, excluded.last_us)",
            {"shift": SPAN_SHIFT, "first": (after + 1) >> BLOCK_SHIFT, "last": last >> BLOCK_SHIFT},
        )

    # Transactions and counters.

    def _transaction(self) -> Transaction:
        return Transaction(self._connection)

    def _counters(self) -> dict[str, int]:
        names, values, (version, *_) = columns_of(self._connection, ("name", "value", _VERSION), "FROM counters", {})
        if version != SCHEMA_VERSION:
            msg = (
                f"the ledger is of schema {version} now, and this process knows {SCHEMA_VERSION}: it leaves the rollups"
                " to newer ones; restart it"
            )
            raise StorageError(msg)
        return dict(zip(names, values, strict=True))

    def _counter(self, name: str) -> int:
        return self._counters()[name]

    def _set(self, changes: Mapping[str, int], *, where: Mapping[str, int] | None = None) -> bool:
        """Set counters, in the caller's transaction, if those named in `where` are as it says; tells whether they were.

        They are not, either, where a newer process has laid the ledger out anew.
        """
        # One statement, not a look and a change: see `steps`.
        changed = self._connection.execute(_SET, (json.dumps(changes), json.dumps(where or {}), SCHEMA_VERSION))
        return changed.rowcount > 0


def note(connection: sqlite3.Connection, key: str, value: str = "") -> None:
    """Write into `meta`, in the caller's transaction, that the job `key` was done now."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?, ?)", (key, value or now, now))


def old_cells(
    connection: sqlite3.Connection, tier: Tier, comparison: str, time_us: int, limit: int
) -> list[tuple[int, ...]]:
    """Give the keys of at most `limit` cells that end before (`"<"`) or behind (`">="`) a time: a Monday, or 0."""
    first = (time_us - tier.origin_us) // tier.cell_us
    sql = f"SELECT {', '.join(tier.order)} FROM {tier.name} WHERE {tier.clock} {comparison} ? LIMIT ?"
    return connection.execute(sql, (first, limit)).fetchall()


def remove(connection: sqlite3.Connection, tier: Tier, keys: list[tuple[int, ...]]) -> None:
    """Remove cells by their keys, in the caller's transaction."""
    same = " AND ".join(f"{name} = ?" for name in tier.order)
    connection.executemany(f"DELETE FROM {tier.name} WHERE {same}", keys)
