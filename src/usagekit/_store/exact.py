"""SQL functions for sums beyond SQLite's 64 bits: what does not fit is text."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import sqlite3

_LIMIT = 2**63
SAFE_BOUND = 2**62
"""As long as no sum can reach this, SQLite's own arithmetic is exact."""


def fitting(number: int) -> int | str:
    """Give a sum as the ledger keeps it."""
    return number if -_LIMIT <= number < _LIMIT else str(number)


class _ExactSum:
    """`exact_sum(value, factor)`: the sum of their products, NULL where every value is."""

    def __init__(self) -> None:
        self._sum: int | None = None

    def step(self, value: int | str | None, factor: int) -> None:
        if value is not None:
            self._sum = (self._sum or 0) + int(value) * factor

    def finalize(self) -> int | str | None:
        return None if self._sum is None else fitting(self._sum)


def _exact_add(one: int | str, other: int | str) -> int | str:
    return fitting(int(one) + int(other))


def add_functions(connection: sqlite3.Connection) -> None:
    """Make `exact_sum(value, factor)` and `exact_add(one, other)` known on a connection."""
    connection.create_aggregate("exact_sum", 2, _ExactSum)  # type: ignore[arg-type] # step takes two values
    connection.create_function("exact_add", 2, _exact_add, deterministic=True)
