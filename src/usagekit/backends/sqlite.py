"""The embedded backend: the ledger itself, made readable."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from usagekit._options import check_whole, refuse
from usagekit._reading.answer import answer
from usagekit._reading.reading import Reading
from usagekit._store.backfill import days_brought_in, read_backfill
from usagekit._store.events import last_seq, read_page
from usagekit._store.exact import add_functions
from usagekit._store.migrations import SCHEMA_VERSION
from usagekit._store.retention import Retention, days_from_environment
from usagekit._store.schema import check_version, connect
from usagekit._store.unreadable import not_opened_yet, unreadable
from usagekit.errors import ConfigurationError
from usagekit.event import to_microseconds
from usagekit.query.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from usagekit._store.backfill import BackfilledDay
    from usagekit.event import UsageEvent
    from usagekit.query import UsageQuery
    from usagekit.query.report import UsageReport

__all__ = ["SQLiteBackend"]

_PAGE_EVENTS = 2000
_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's virtual machine: well under a millisecond


class SQLiteBackend:
    """Keeps events in one SQLite file, for good, and answers every question about them.

    The file is the recorder's ledger; beside it, in `<path>-journals`, lie events that are on their way into it. Made
    once and given to a `Recorder`; without one it only reads. Each read opens a connection of its own, so any thread
    of any process may ask; writers are never blocked.

    Args:
        path: the file; relative ones are meant from the present directory. Made by the recorder when missing.

        retention_days: remove raw events when they are older than so many days; rollups still count them. None =
            what `USAGEKIT_RETENTION_DAYS` says, else keep them.
        rollup_retention_days: likewise for rollups; not less than `retention_days`. None = keep them.

    Attributes:
        ledger_path: the file, absolute.
        retention: how long its recorder keeps events; None = for good.

    Raises:
        ConfigurationError: the path is empty or `":memory:"`, or a number of days cannot be.
    """

    ledger_path: str

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        retention_days: int | None = None,
        rollup_retention_days: int | None = None,
    ) -> None:
        if not isinstance(path, (str, os.PathLike)):
            refuse("path", path, "is no path", "that of the ledger's file: SQLiteBackend('usage.db')")
        if not os.fspath(path) or os.fspath(path) == ":memory:":
            msg = f"SQLiteBackend({os.fspath(path)!r}) is no file; give a path, or use MemoryBackend() for tests"
            raise ConfigurationError(msg)
        self.ledger_path = os.path.realpath(path)  # as SQLite does: one ledger, one set of journals
        self.retention = _retention(retention_days, rollup_retention_days)

    @classmethod
    def from_url(cls, url: str) -> SQLiteBackend:
        """Make it of `sqlite:///usage.db` (relative) or `sqlite:////var/lib/app/usage.db` (absolute)."""
        host, _, path = url.partition("://")[2].partition("/")
        if host or not path or "?" in path:
            msg = f"{url!r} names no file; use sqlite:///usage.db, or sqlite:////var/lib/usage.db with four slashes"
            raise ConfigurationError(msg)
        return cls(unquote(path))

    def __repr__(self) -> str:
        return f"SQLiteBackend({self.ledger_path!r})"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions that recorders of this ledger declared, in the order of their first declaration."""
        with closing(self._connection()) as connection:
            return tuple(row[0] for row in connection.execute("SELECT name FROM dimensions ORDER BY position"))

    def awaits(self, before: datetime) -> bool:
        """Tell whether events from before an aware time still wait in journals, so that no answer has them yet.

        Looks at everything that waits; blocks. Raises `StorageError` as `read` does.
        """
        from usagekit._store.waiting import waits_before

        self._connection().close()
        return waits_before(self.ledger_path, to_microseconds(before))

    def backfilled(self) -> list[BackfilledDay]:
        """Tell which days `usagekit backfill` has brought in, from where and when; by source and day, ascending.

        Raises `StorageError` where there is no usable ledger at the path.
        """
        with closing(self._connection()) as connection:
            return days_brought_in(connection)

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer `query` from the smallest rollups that can do so exactly, and from raw events.

        Raises:
            StorageError: there is no usable ledger at the path.
            QueryTimeout: it took longer than `query.timeout`; SQLite stops in the middle of it.
        """
        return self._answer(query)

    def _answer(self, query: UsageQuery, **how: int) -> UsageReport:
        budget = Budget(query)
        if query.origin != "direct":
            with closing(self._connection()) as connection, _within(budget, connection):
                return read_backfill(connection, query)
        with closing(self._connection()) as connection, _within(budget, connection):
            # One transaction, so that rows and totals see the same events.
            connection.execute("BEGIN")
            return answer(connection, query, **how)

    def events(self, query: UsageQuery, /) -> Iterator[UsageEvent]:
        """Give the events that match a query's range and filters, at most `query.limit`, in import order.

        One by one: however many there are, few are in memory. What is imported while it runs is not among them. No
        connection is open between events, so it may be left at any time, and take as long as it likes: `query.timeout`
        is for each look into the ledger.

        Raises:
            StorageError: there is no usable ledger at the path.
            QueryTimeout: one look took longer than `query.timeout`.
        """
        from usagekit.event import of_clean

        for _, fields in self.event_fields(query):
            yield of_clean(fields)

    def event_fields(self, query: UsageQuery, /, end: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give what `events` gives as fields by name, which is faster, with the sequence numbers of import.

        `end` is the last number to give; None = `last_number()`.
        """
        if query.origin != "direct":
            return
        end = self.last_number() if end is None else end
        after, left = 0, query.limit
        while left is None or left > 0:
            limit = _PAGE_EVENTS if left is None else min(left, _PAGE_EVENTS)
            with closing(self._connection()) as connection, _within(Budget(query), connection):
                connection.execute("BEGIN")
                where, values = Reading(connection, query).rows.condition
                page = read_page(connection, where, values, after=after, end=end, limit=limit)
            yield from page
            if len(page) < limit:
                return
            after = page[-1][0]
            left = None if left is None else left - len(page)

    def last_number(self) -> int:
        """Give the sequence number of the event that was imported last; 0 when there was none."""
        with closing(self._connection()) as connection:
            return last_seq(connection)

    def _connection(self) -> sqlite3.Connection:
        try:
            connection = connect(self.ledger_path, read_only=True)
            version = check_version(connection, self.ledger_path)
        except sqlite3.Error as error:
            raise unreadable(self.ledger_path, error) from error
        if version < SCHEMA_VERSION:
            connection.close()
            raise not_opened_yet(self.ledger_path)
        connection.execute("PRAGMA temp_store=MEMORY")
        add_functions(connection)
        return connection


@contextmanager
def _within(budget: Budget, connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt what `connection` does in the block once the budget is spent."""
    connection.set_progress_handler(lambda: budget.spent, _STEPS_BETWEEN_LOOKS)
    try:
        budget.check()
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise budget.error() from None
        raise
    budget.check()


def _retention(days: int | None, rollup_days: int | None) -> Retention | None:
    if days is None:
        days = days_from_environment()
    for name, value in (("retention_days", days), ("rollup_retention_days", rollup_days)):
        if value is not None:
            check_whole(name, value, f"a number of days, or None to keep all: {name}=90")
    if rollup_days is not None and (days is None or rollup_days < days):
        raise ConfigurationError(
            f"rollup_retention_days={rollup_days} is less than events are kept ({days or 'for good'}); "
            "rollups outlive events: give a smaller retention_days"
        )
    return None if days is None else Retention(days, rollup_days)
