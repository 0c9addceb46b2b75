"""What a request asks for: its parameters, and the reports that answer it, within range, rows, time and scope."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from time import monotonic
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from usagekit.errors import QueryError, QueryTimeout
from usagekit.query import BUCKETS, DIMENSIONS, UsageQuery

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from usagekit.query import Reader, UsageReport

__all__ = ["RANGE", "RANGE_DAYS", "ROWS", "SECONDS", "Questions", "filter_parameter", "filters_of", "parameters"]

RANGE_DAYS = 400
ROWS = 1000
SECONDS = 1.0  # for all that one request reads

RANGE = ("period", "days", "start", "end")
API = (*RANGE, "by", "measures", "tz", "order", "limit", "origin", "format")
PAGE = (*RANGE, "by", "tz", "order", "page", "show", "refresh", "from", "to", "filter", "value")

_MOST_PARAMETERS = 200
_PREFIX = "where."


def parameters(query: str) -> list[tuple[str, str]]:
    """Give the parameters of a query string, in order; raises `QueryError`."""
    try:
        return parse_qsl(query, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS)
    except ValueError:
        raise QueryError(f"more than {_MOST_PARAMETERS} parameters; use fewer") from None


def filter_parameter(name: str) -> str:
    """Give the parameter that filters by dimension `name`: the name itself, unless it means something else."""
    return _PREFIX + name if name in API or name in PAGE else name


def filters_of(
    given: Iterable[tuple[str, str]], reserved: tuple[str, ...], dimensions: Iterable[str]
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Tell options, of several the last, from filters, of which several values add up; raises `QueryError`."""
    names = {filter_parameter(name): name for name in (*DIMENSIONS, *BUCKETS, *dimensions)}
    options: dict[str, str] = {}
    filters: dict[str, tuple[str, ...]] = {}
    for name, value in given:
        if name in reserved:
            options[name] = value
        elif name in names:
            known = filters.get(names[name], ())
            filters[names[name]] = known if value in known else (*known, value)
        else:
            allowed = ", ".join((*reserved, *names))
            raise QueryError(f"unknown parameter {name[:80]!r}; use {allowed}")
    return options, filters


@dataclass(kw_only=True)
class Questions:
    """What one request may ask: of one source, about one range, under one scope, as long as its time lasts.

    Attributes:
        start: aware UTC, inclusive.
        end: aware UTC, exclusive; None = open.
        left_out: what the answers do not cover, in words.
    """

    source: Reader
    dimensions: tuple[str, ...]
    scope: Mapping[str, object] | None
    where: Mapping[str, tuple[str, ...]]
    options: Mapping[str, Any]
    tz: str = "UTC"
    origin: str = "direct"
    now: datetime = field(default_factory=lambda: datetime.now(UTC))
    start: datetime = field(init=False)
    end: datetime | None = field(init=False)
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._deadline = monotonic() + SECONDS
        asked = UsageQuery.build(**self.options, tz=self.tz, where=self.where, dimensions=self.dimensions, now=self.now)
        self.end = asked.end
        last = asked.end or max(self.now, asked.start or self.now)
        earliest = _before(last, timedelta(days=RANGE_DAYS))
        if asked.start is None:
            self.start = earliest
            self.left_out.append(f"what is earlier than {earliest.isoformat(timespec='seconds')}")
        # Days of a zone may be an hour longer.
        elif asked.start < _before(earliest, timedelta(hours=2)):
            raise QueryError(f"the range has more than {RANGE_DAYS} days; ask for at most {RANGE_DAYS} at a time")
        else:
            self.start = asked.start
        self.allowed = (
            {} if self.scope is None else UsageQuery.build(where=self.scope, dimensions=self.dimensions).where
        )

    def ask(
        self,
        by: Iterable[str] = (),
        measures: Iterable[str] | None = None,
        *,
        order: str | None = None,
        limit: int | None = None,
        where: Mapping[str, object] | None = None,
        before: bool = False,
    ) -> UsageReport:
        """Answer one question.

        Args:
            by: as of `usage`.
            measures: as of `usage`.
            order: as of `usage`.
            limit: as of `usage`.
            where: further filters, in place of those on the same dimensions.
            before: ask about the time just before the range, as long as it.

        Raises:
            QueryError: it cannot be asked.
            QueryTimeout: the time of this request is over.
        """
        left = self._deadline - monotonic()
        if left <= 0:
            raise QueryTimeout(f"the answer took longer than {SECONDS:g} s; ask for a shorter range")
        start, end = self.start, self.end
        if before:
            start, end = _before(start, (end or self.now) - start), start
        query = UsageQuery.build(
            by=by,
            measures=measures,
            start=start,
            end=end,
            tz=self.tz,
            where={**self.where, **(where or {})},
            order=order,
            limit=limit,
            origin=self.origin,
            timeout=left,
            dimensions=self.dimensions,
        )
        return self.source.read(self._scoped(query))

    def _scoped(self, query: UsageQuery) -> UsageQuery:
        """Keep what the scope allows, whatever was asked."""
        if not self.allowed:
            return query
        filters = dict(query.where)
        for name, values in self.allowed.items():
            filters[name] = tuple(value for value in filters.get(name, values) if value in values)
        return replace(query, where=MappingProxyType(filters))


def _before(time: datetime, length: timedelta) -> datetime:
    try:
        return time - length
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)
