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


def columns_of(
    connection: sqlite3.Connection, columns: Iterable[str], rows: str, values: Mapping[str, Any]
) -> list[list[Any]]:
    """Give expressions of numbers or text as a list each, over the rows that `rows` says: what follows SELECT."""
    lists = ", ".join(f"json_group_array({column})" for column in columns)
    found = connection.execute(f"SELECT {lists} {rows}", values).fetchone()
    return json.loads(f"[{','.join(found)}]")  # type: ignore[no-any-return]


def write(  # noqa: PLR0917  the parts of a statement, in their order
    connection: sqlite3.Connection, before: str, row: str, after: str, rows: Sequence[Sequence[Any]], most: int = 512
) -> None:
    """Write rows by statements of up to `most` of them each: `before`, as many times `row` as there are, `after`."""
    start = 0
    while start < len(rows):
        count = min(most, 1 << (len(rows) - start).bit_length() - 1)  # few lengths, so that statements are kept
        values = list(chain.from_iterable(rows[start : start + count]))
        connection.execute(_statement(before, row, after, count), values)
        start += count


@lru_cache(maxsize=128)
def _statement(before: str, row: str, after: str, count: int) -> str:
    return f"{before} {','.join([row] * count)} {after}"
