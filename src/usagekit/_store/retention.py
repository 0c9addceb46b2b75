"""Giving old events up: whole blocks of raw rows, then whole weeks of rollups, a little at a time.

A block of 256 events goes when the latest of them is old enough: nothing goes early, and a late event may keep its
neighbours for a while. What rollups or a sink have not passed stays. Every transaction is short, and says before which
time something may be missing: a purge may be killed anywhere, and two may run at once.
"""

from __future__ import annotations

import os
from contextlib import closing
from datetime import UTC, datetime
from time import monotonic, sleep
from typing import TYPE_CHECKING, NamedTuple

from usagekit._store.rollups import STEADY, note, old_cells, remove
from usagekit._store.schema import BLOCK_SHIFT, Transaction, connect
from usagekit._store.tiers import DAY_US, SPAN_SHIFT, TIERS, WEEK_ORIGIN_US, WEEK_US
from usagekit.errors import ConfigurationError
from usagekit.event import to_microseconds

if TYPE_CHECKING:
    import sqlite3

BATCH_SECONDS = 0.01  # a transaction begins no further block after so long
CELLS = 1000  # removed in one transaction
PAGES = 64  # given back in one transaction

_OLD_BLOCKS = f"""
SELECT b.block FROM spans i
CROSS JOIN blocks b ON b.block BETWEEN i.span << {SPAN_SHIFT} AND ((i.span + 1) << {SPAN_SHIFT}) - 1
WHERE i.first_us < :before AND b.last_us < :before AND b.block < (:passed + 1) >> {BLOCK_SHIFT}
LIMIT :limit
"""


class Retention(NamedTuple):
    """How long things are kept.

    Attributes:
        days: raw events; 1 or more.
        rollup_days: rollups; None = for good.
    """

    days: int
    rollup_days: int | None = None

    def limits_us(self) -> tuple[int, int | None]:
        """Give the times before which raw events and rollups go now, in microseconds since 1970."""
        now = to_microseconds(datetime.now(UTC))
        return now - self.days * DAY_US, None if self.rollup_days is None else now - self.rollup_days * DAY_US


class Purge:
    """One purge of one ledger, step by step, in one thread.

    Args:
        connection: to the ledger.
        before_us: raw events before this time go.
        rollups_before_us: and rollups before this one, never later than raw events; None = they stay.

    Attributes:
        events: how many were removed so far.
    """

    def __init__(self, connection: sqlite3.Connection, before_us: int, rollups_before_us: int | None = None) -> None:
        self._connection = connection
        self._before_us = before_us
        self._rollups_before_us = rollups_before_us
        self.events = 0

    def step(self) -> bool:
        """Remove a little; False when nothing is left to do. Raises `sqlite3.OperationalError` where it is locked."""
        return self._remove_blocks() or self._remove_cells() or self._shrink()

    def finish(self) -> None:
        """Note in the ledger that a purge was done."""
        with Transaction(self._connection):
            note(self._connection, "last_purge")

    def _remove_blocks(self) -> bool:
        execute = self._connection.execute
        if not self._old_blocks(1):
            return False
        began = monotonic()
        removed = 0
        with Transaction(self._connection):
            blocks = self._old_blocks(64)
            if blocks:
                self._advance("raw_from_us", self._before_us)
            for block in blocks:
                removed += execute(
                    "DELETE FROM events WHERE seq >= ? AND seq < ?", (block << BLOCK_SHIFT, (block + 1) << BLOCK_SHIFT)
                ).rowcount
                execute("DELETE FROM blocks WHERE block = ?", (block,))
                if monotonic() - began > BATCH_SECONDS:
                    break
            execute(
                "DELETE FROM runs WHERE first_seq < (SELECT max(first_seq) FROM runs"
                " WHERE first_seq <= (SELECT min(seq) FROM events))"
            )
            execute("UPDATE counters SET value = value + ? WHERE name = 'purged'", (removed,))
        self.events += removed
        return True

    def _old_blocks(self, limit: int) -> list[int]:
        counters = self._counters()
        if counters["rebuild_state"] != STEADY:
            return []
        sinks = self._connection.execute("SELECT min(delivered_seq) FROM sinks").fetchone()[0]
        passed = counters["rolled_seq"] if sinks is None else min(counters["rolled_seq"], sinks)
        values = {"before": self._before_us, "passed": passed, "limit": limit}
        return [row[0] for row in self._connection.execute(_OLD_BLOCKS, values)]

    def _remove_cells(self) -> bool:
        if self._rollups_before_us is None or self._counters()["rebuild_state"] != STEADY:
            return False
        # All tiers end at the same instant: a Monday, where weeks begin.
        before = min(self._rollups_before_us, self._counters()["raw_from_us"])
        before = (before - WEEK_ORIGIN_US) // WEEK_US * WEEK_US + WEEK_ORIGIN_US
        for tier in TIERS:
            keys = old_cells(self._connection, tier, "<", before, CELLS)
            if keys:
                with Transaction(self._connection):
                    self._advance("rollups_from_us", before)
                    remove(self._connection, tier, keys)
                return True
        return False

    def _shrink(self) -> bool:
        """Give free pages back to the file system."""
        free: int = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        if not free:
            return False
        self._connection.execute(f"PRAGMA incremental_vacuum({PAGES})").fetchall()
        left: int = self._connection.execute("PRAGMA freelist_count").fetchone()[0]
        return bool(left) and left < free

    def _advance(self, name: str, value: int) -> None:
        self._connection.execute("UPDATE counters SET value = max(value, ?) WHERE name = ?", (value, name))

    def _counters(self) -> dict[str, int]:
        return dict(self._connection.execute("SELECT name, value FROM counters"))


def purge_until_done(path: str, retention: Retention) -> int:
    """Purge the ledger at `path`; returns how many events went.

    It pauses as long as it worked, so that writers get their turn. Raises `sqlite3.OperationalError` where another
    process keeps the ledger locked.
    """
    with closing(connect(path)) as connection:
        job = Purge(connection, *retention.limits_us())
        while True:
            began = monotonic()
            if not job.step():
                break
            sleep(monotonic() - began)
        job.finish()
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        return job.events


def days_from_environment() -> int | None:
    """Give `USAGEKIT_RETENTION_DAYS`; None where it is not set. Raises `ConfigurationError`."""
    value = os.environ.get("USAGEKIT_RETENTION_DAYS", "").strip()
    if not value:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 7 and int(value)):
        msg = f"USAGEKIT_RETENTION_DAYS={value!r} is no number of days; use a whole number above 0"
        raise ConfigurationError(msg)
    return int(value)
