"""Asking SQLite in few steps, as each of them hands the interpreter's lock over."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from tests.support.stores import stored_events
from usagekit import UsageEvent
from usagekit._store import record as records
from usagekit._store.engine import journals_of
from usagekit._store.journal import Journal
from usagekit._store.ledger import Importer
from usagekit._store.schema import prepare
from usagekit._store.steps import columns_of, most_rows, write

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def memory() -> Iterator[sqlite3.Connection]:
    """A database with one empty table."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        connection.execute("CREATE TABLE t (a INTEGER PRIMARY KEY, b ANY) STRICT")
        yield connection


@pytest.mark.parametrize("count", [0, 1, 2, 3, 127, 128, 129, 700])
def test_rows_arrive_as_they_were(count: int, memory: sqlite3.Connection) -> None:
    """However many they are: numbers to the last bit, text of any kind, and what is unknown."""
    values = (None, 2**63 - 1, -(2**63), "", "a'\"\\\n\U0001f600", 0)
    rows = [(number, values[number % len(values)]) for number in range(count)]
    asked: list[str] = []
    memory.set_trace_callback(asked.append)

    write(memory, "INSERT INTO t VALUES", "(?, ?)", "", rows, 128)

    assert len(asked) <= count // 128 + 7
    found = columns_of(memory, ("a", "b"), "FROM (SELECT * FROM t ORDER BY a) WHERE a < :end", {"end": 2000})
    assert list(zip(*found, strict=True)) == rows


def test_one_statement_changes_the_same_row_twice(memory: sqlite3.Connection) -> None:
    """Each row finds what those before it left."""
    write(memory, "INSERT INTO t VALUES", "(?, ?)", "ON CONFLICT DO UPDATE SET b = b + excluded.b", [(1, 2), (1, 3)])

    assert columns_of(memory, ("a", "b"), "FROM t", {}) == [[1], [5]]


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 15, 16, 17, 27])
def test_a_row_that_changes_nothing_fills_the_last_statement_up(count: int, memory: sqlite3.Connection) -> None:
    """So it is one, whatever number of rows is left."""
    add = ("INSERT INTO t VALUES", "(?, ?)", "ON CONFLICT DO UPDATE SET b = b + excluded.b")
    rows = [(number % 20, 1) for number in range(count)]
    asked: list[str] = []
    memory.set_trace_callback(asked.append)

    write(memory, *add, rows, 16, idle=(0, 0))

    assert len(asked) == -(-count // 16)
    assert columns_of(memory, ("a", "b"), "FROM t", {}) == [
        list(range(min(count, 20))),
        [2 if number + 20 < count else 1 for number in range(min(count, 20))],
    ]


def test_a_statement_holds_what_sqlite_takes_everywhere(memory: sqlite3.Connection) -> None:
    """Some raise its limit, which is this one otherwise."""
    memory.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 32_766)
    rows = [(number, 1) for number in range(20_000)]

    write(memory, "INSERT INTO t VALUES", "(?, ?)", "", rows)

    assert most_rows("(?, ?)") == 1 << 13
    assert columns_of(memory, ("b",), "FROM t", {}) == [[1] * 20_000]


@pytest.mark.parametrize("users", [1, 900])
def test_importing_and_adding_up_take_few_statements(users: int, path: Path) -> None:
    """As many for a crowd that was never seen before as for one user."""
    prepare(str(path))
    journal = Journal(journals_of(str(path)))
    for number in range(3000):
        event = UsageEvent(event=f"tick-{number % 9}", user=f"user-{number % users}", org=f"org-{number % 30}")
        journal.append(records.body_of(event))
    importer = Importer(str(path), journals_of(str(path)))
    asked: list[str] = []
    importer._connection.set_trace_callback(asked.append)

    assert importer.step() == 3000
    assert len(asked) < 40
    asked.clear()
    assert importer.roll_up() == 3000
    assert len(asked) < 70

    importer.close()
    assert {event.user for event in stored_events(path)} == {f"user-{number}" for number in range(users)}
