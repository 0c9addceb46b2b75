"""Asking SQLite in few steps.

Each step of a statement, a row as a rule, hands the interpreter's lock over, and an app that never waits gives it back
after five milliseconds at the earliest. What goes row by row takes seconds beside such an app, perhaps with the ledger
locked; what comes as one row of JSON, or goes as one statement of many rows, takes one step.
"""

from __future__ import annotations

import json
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

_VALUES = 16_384  # in one statement: half of SQLite's own limit; longer ones are kept at greater cost than they save


def columns_of(
    connection: sqlite3.Connection, columns: Iterable[str], rows: str, values: Mapping[str, Any]
) -> list[list[Any]]:
    """Give expressions of numbers or text as a list each, over the rows that `rows` says: what follows SELECT."""
    lists = ", ".join(f"json_group_array({column})" for column in columns)
    found = connection.execute(f"SELECT {lists} {rows}", values).fetchone()
    return json.loads(f"[{','.join(found)}]")  # type: ignore[no-any-return]


def write(  # noqa: PLR0917  the parts of a statement, in their order
    connection: sqlite3.Connection,
    before: str,
    row: str,
    after: str,
    rows: Sequence[Sequence[Any]],
    most: int | None = None,
    *,
    idle: Sequence[Any] | None = None,
) -> None:
    """Write rows by statements of many rows each: `before`, as many times `row` as there are, `after`.

    Args:
        connection: where to.
        before: what stands before the rows.
        row: a row of question marks, in brackets.
        after: what stands behind the rows.
        rows: their values.
        most: rows in a statement, a power of two; None = `most_rows(row)`.
        idle: the values of a row that changes nothing once all the others are written, to fill the last statement up;
            None = there is none, so the last few rows take several statements.
    """
    limit = most or most_rows(row)
    start = 0
    while start < len(rows):
        left = len(rows) - start
        # Few lengths, so that statements are kept.
        lower = 1 << left.bit_length() - 1
        count = min(limit, lower)
        if idle is not None and lower < left < limit:
            count = lower * 3 // 2 if left <= lower * 3 // 2 else lower * 2
        values = list(chain.from_iterable(rows[start : start + count]))
        if idle is not None and left < count:
            values += list(idle) * (count - left)
        connection.execute(_statement(before, row, after, count), values)
        start += count


def most_rows(row: str) -> int:
    """Give how many rows are worth one statement, a power of two."""
    return 1 << (_VALUES // row.count("?")).bit_length() - 1


@lru_cache(maxsize=128)
def _statement(before: str, row: str, after: str, count: int) -> str:
    return f"{before} {','.join([row] * count)} {after}"
