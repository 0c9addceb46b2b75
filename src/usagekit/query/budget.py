"""The time that one answer may take: what was asked for as `timeout`, counted down while a reader works."""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING

from usagekit.errors import QueryTimeout

if TYPE_CHECKING:
    from usagekit.query.algebra import UsageQuery

__all__ = ["Budget"]


class Budget:
    """Counts down the `timeout` of one query; a reader makes one when it begins to answer.

    Any thread may ask it. Without a timeout it is never spent.
    """

    __slots__ = ("_deadline", "_query")

    def __init__(self, query: UsageQuery) -> None:
        self._query = query
        self._deadline = None if query.timeout is None else monotonic() + query.timeout

    @property
    def spent(self) -> bool:
        """Whether the time is over."""
        return self._deadline is not None and monotonic() >= self._deadline

    @property
    def left(self) -> float | None:
        """The seconds that are left, 0 when it is over; None = there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - monotonic())

    def check(self) -> None:
        """Raise `QueryTimeout` once the time is over; to be called again and again while the work goes on."""
        if self.spent:
            raise self.error()

    def error(self) -> QueryTimeout:
        """Give the error that says what was asked, how long it was given, and what to do."""
        query = self._query
        by = f"by {', '.join(query.by)}" if query.by else "one row of everything"
        start = "the beginning" if query.start is None else query.start.isoformat()
        end = "now" if query.end is None else query.end.isoformat()
        return QueryTimeout(
            f"the answer {by}, from {start} to {end}, took longer than its time budget of {query.timeout:g} s; "
            "ask for a shorter range or fewer dimensions, or give a larger timeout"
        )
