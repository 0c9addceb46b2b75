"""What the page shows: everything that stands in its address, and the links that change one thing of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlencode

from usagekit.admin.api import range_of
from usagekit.admin.questions import PAGE, RANGE, filter_parameter, filters_of
from usagekit.errors import QueryError
from usagekit.query import BUCKETS, DIMENSIONS
from usagekit.query.periods import shown

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["MEASURES_SHOWN", "PERIODS", "State"]

PERIODS = {"24h": "24 hours", "7d": "7 days", "30d": "30 days"}
PERIOD = "7d"
MEASURES_SHOWN = ("events", "total_tokens", "cost_usd")
"""What the chart can show: what adds up over event types."""

_MOST_PAGES = 50
_REFRESH = ("30", "60", "300")


@dataclass(frozen=True, kw_only=True)
class State:
    """One view of the page; immutable.

    Attributes:
        range: one of period, days, and start and end, as texts.
        tz: the zone's name.
        where: values by dimension.
        by: what the large table has a row for.
        order: what it is sorted by: a column's name, `event:` before that of an event type, `-` for descending.
        page: of it, from 1.
        show: what the chart shows, of `MEASURES_SHOWN`.
        refresh: seconds after which the browser loads the page again; `""` = never.
    """

    range: Mapping[str, str]
    tz: str = "UTC"
    where: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    by: str = "user"
    order: str = "-events"
    page: int = 1
    show: str = "events"
    refresh: str = ""

    @classmethod
    def parsed(cls, given: Iterable[tuple[str, str]], dimensions: tuple[str, ...]) -> Self:
        """Read it from the parameters; raises `QueryError`."""
        options, where = filters_of(given, PAGE, dimensions)
        if options.get("filter") and options.get("value"):
            _check("filter", options["filter"], (*DIMENSIONS, *BUCKETS, *dimensions))
            where[options["filter"]] = (options["value"],)
        chosen = {name: options[name] for name in RANGE if options.get(name)}
        if options.get("from") or options.get("to"):
            chosen = _days_from_to(options.get("from", ""), options.get("to", ""))
        # The best default is what the filters have not fixed already.
        free = [name for name in ("user", "route", "event") if len(where.get(name, ())) != 1]
        by, order = options.get("by") or (free or ["day"])[0], options.get("order") or "-events"
        if order.removeprefix("-") != by and order.removeprefix("-") in (*DIMENSIONS, *BUCKETS, *dimensions):
            order = "-events"  # what another table was sorted by
        state = cls(
            range=chosen or {"period": PERIOD},
            tz=options.get("tz") or "UTC",
            where=where,
            by=by,
            order=order,
            page=_page(options.get("page") or "1"),
            show=options.get("show") or "events",
            refresh=options.get("refresh") or "",
        )
        _check("by", state.by, (*DIMENSIONS, *BUCKETS, *dimensions))
        _check("show", state.show, MEASURES_SHOWN)
        _check("refresh", state.refresh, ("", *_REFRESH))
        return state

    @property
    def options(self) -> dict[str, Any]:
        """The range, as `UsageQuery.build` takes it."""
        return range_of(self.range)

    def link(self, **changes: Any) -> str:
        """Give a relative link to the page with some things changed; to its first part, unless `page` is given."""
        return "?" + urlencode(replace(self, **{"page": 1} | changes).pairs())

    def narrowed(self, dimension: str, value: object) -> str:
        """Give a link to the page of one value of a dimension alone."""
        state = replace(self, where={**self.where, dimension: (str(value),)}, page=1)
        if dimension == self.by:
            # A table of one row says nothing.
            pairs = [pair for pair in state.pairs() if pair[0] not in {"by", "order"}]
            return "?" + urlencode(pairs)
        return "?" + urlencode(state.pairs())

    def widened(self, dimension: str) -> str:
        """Give a link to the page without the filter on a dimension."""
        return self.link(where={name: values for name, values in self.where.items() if name != dimension})

    def hidden(self, *without: str) -> list[tuple[str, str]]:
        """Give what a form has to hand on, but for parameters that it sets itself."""
        return [pair for pair in self.pairs() if pair[0] not in {*without, "page"}]

    def api(self, by: Iterable[str], measures: Iterable[str], order: str = "") -> str:
        """Give a relative link to the same as CSV."""
        asked = {"by": ",".join(by), "measures": ",".join(measures), "order": order, "format": "csv"}
        named = [(name, value) for name, value in asked.items() if value]
        return "api/usage?" + urlencode([*named, *self.scope_pairs()])

    def scope_pairs(self) -> list[tuple[str, str]]:
        """Give the parameters that say which events are meant, for page and API alike."""
        zone = [("tz", self.tz)] if self.tz != "UTC" else []
        filters = [(filter_parameter(name), value) for name, values in self.where.items() for value in values]
        return [*self.range.items(), *zone, *filters]

    def pairs(self) -> list[tuple[str, str]]:
        """Give all parameters, what is the default left out."""
        plain = {
            "by": (self.by, "user"),
            "order": (self.order, "-events"),
            "page": (str(self.page), "1"),
            "show": (self.show, "events"),
            "refresh": (self.refresh, ""),
        }
        return [*self.scope_pairs(), *((name, value) for name, (value, default) in plain.items() if value != default)]

    @property
    def days_from_to(self) -> tuple[str, str]:
        """The range as two dates, the last included, where it is one of dates; else empty texts."""
        try:
            last = date.fromisoformat(self.range["end"]) - timedelta(days=1) if "end" in self.range else ""
            return self.range.get("start", "")[:10], str(last)
        except (ValueError, OverflowError):
            return "", ""


def _days_from_to(first: str, last: str) -> dict[str, str]:
    try:
        chosen = {"start": str(date.fromisoformat(first))} if first else {}
        if last:
            chosen["end"] = str(date.fromisoformat(last) + timedelta(days=1))
    except (ValueError, OverflowError):
        raise QueryError(f"bad dates {shown(first)} and {shown(last)}; use YYYY-MM-DD") from None
    return chosen


def _page(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= _MOST_PAGES):
        raise QueryError(f"bad page {shown(text)}; use 1 to {_MOST_PAGES}")
    return int(text)


def _check(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise QueryError(f"bad {name} {shown(value)}; use {', '.join(part for part in allowed if part)}")
