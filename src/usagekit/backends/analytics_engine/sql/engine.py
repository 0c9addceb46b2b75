"""Running a statement on a ledger."""

from __future__ import annotations

import json
import sqlite3
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zoneinfo import available_timezones

from usagekit._store.migrations import SCHEMA_VERSION
from usagekit._store.schema import check_version, connect
from usagekit._store.unreadable import not_opened_yet, unreadable
from usagekit.backends.analytics_engine.layout import index_of
from usagekit.backends.analytics_engine.sql.aggregates import STEPS
from usagekit.backends.analytics_engine.sql.errors import SqlError
from usagekit.backends.analytics_engine.sql.formats import rendered, values
from usagekit.backends.analytics_engine.sql.parse import parsed
from usagekit.backends.analytics_engine.sql.scalars import SCALARS
from usagekit.backends.analytics_engine.sql.translate import translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from usagekit.backends.analytics_engine.layout import Layout
    from usagekit.backends.analytics_engine.sql.translate import Plan

__all__ = ["Answer", "run"]

MAX_ROWS = 1_000_000  # of an answer
_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's machine: some milliseconds


@dataclass(frozen=True, slots=True)
class Answer:
    """What a statement gave; a plain value.

    Attributes:
        columns: names and ClickHouse types.
        rows: values as SQLite has them, see `sql.types.Typed`; `text` and `json` show them.
        format: the one that was asked for, `"JSON"` by default.
    """

    columns: list[tuple[str, str]]
    rows: list[tuple[Any, ...]]
    format: str

    def text(self) -> str:
        """Give it in the format that was asked for."""
        return rendered(self.format, self.columns, self.rows)

    def values(self) -> list[list[Any]]:
        """Give the rows as JSON holds them, in the order of the columns, whose names need not be distinct."""
        return values(self.columns, self.rows)

    def json(self) -> dict[str, Any]:
        """Give what the format JSON holds: `meta`, `data` and `rows`."""
        held: dict[str, Any] = json.loads(rendered("JSON", self.columns, self.rows))
        return held


def run(sql: str, path: str, datasets: Mapping[str, Layout], *, timeout: float | None = None) -> Answer:
    """Answer one statement from the ledger at `path`; blocks, writes nothing, any thread may call it.

    Args:
        sql: SELECT, SHOW TABLES, SHOW TIMEZONES or SHOW TIMEZONE.
        path: the ledger.
        datasets: the layout of each table by name.
        timeout: seconds it may take; None = as long as it takes.

    Raises:
        SqlError: what Analytics Engine refuses, with its status and text.
        StorageError: there is no usable ledger at the path.
    """
    statement = parsed(sql)
    if statement.select is None:
        columns, rows = _SHOWS[statement.show](datasets)
        return Answer(columns, rows, statement.format)
    plan = translated(statement.select, datasets)
    return Answer(plan.columns, _fetched(plan, path, timeout), statement.format)


def _tables(datasets: Mapping[str, Layout]) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
    return [("dataset", "String"), ("type", "String")], [(name, "AnalyticsEngine") for name in sorted(datasets)]


def _timezones(_: Mapping[str, Layout]) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
    return [("timezone", "String")], [(name,) for name in sorted(available_timezones())]


def _timezone(_: Mapping[str, Layout]) -> tuple[list[tuple[str, str]], list[tuple[Any, ...]]]:
    return [("timezone", "String")], [("Etc/UTC",)]


_SHOWS = {"TABLES": _tables, "TIMEZONES": _timezones, "TIMEZONE": _timezone}


def _fetched(plan: Plan, path: str, timeout: float | None) -> list[tuple[Any, ...]]:
    with closing(_connection(path)) as connection:
        refused: list[SqlError] = []
        _register(connection, refused)
        if timeout is not None:
            deadline = time.monotonic() + timeout
            connection.set_progress_handler(lambda: time.monotonic() > deadline, _STEPS_BETWEEN_LOOKS)
        try:
            rows = connection.execute(plan.sql, plan.values | {"now": int(time.time())}).fetchmany(MAX_ROWS + 1)
        except sqlite3.Error as error:
            raise _explained(error, refused) from error
    if len(rows) > MAX_ROWS:
        raise SqlError(f"result has more than {MAX_ROWS:,} rows", 429)
    return rows


def _explained(error: sqlite3.Error, refused: list[SqlError]) -> SqlError:
    if refused:
        return refused[0]
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
        return SqlError("query timed out", 429)
    return SqlError(str(error))


def _connection(path: str) -> sqlite3.Connection:
    try:
        connection = connect(path, read_only=True)
        version = check_version(connection, path)
    except sqlite3.Error as error:
        raise unreadable(path, error) from error
    if version < SCHEMA_VERSION:
        connection.close()
        raise not_opened_yet(path)
    return connection


def _register(connection: sqlite3.Connection, refused: list[SqlError]) -> None:
    """Make our functions known; what one of them refuses is kept, since SQLite would only say that it failed."""

    def kept(function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            try:
                return function(*arguments)
            except SqlError as error:
                refused.append(error)
                raise

        return called

    for name, (count, function) in SCALARS.items():
        connection.create_function(name, count, kept(function), deterministic=True)
    connection.create_function("index_of", 1, index_of, deterministic=True)
    for name, (count, steps) in STEPS.items():
        connection.create_aggregate(name, count, steps)
