"""From sums to a report: which columns a measure needs, what they become, and whom they are shown for."""

from __future__ import annotations

import heapq
from decimal import Decimal
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from usagekit._reading.reading import RAW_ENOUGH, Reading
from usagekit.event import from_microseconds
from usagekit.query.aggregate import Aggregate
from usagekit.query.algebra import BUCKETS
from usagekit.query.periods import bucket_label
from usagekit.query.report import UsageReport

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterable, Sequence
    from datetime import tzinfo

    from usagekit._reading.reading import Key, Sums
    from usagekit.query import UsageQuery

_COLUMNS_OF = {
    "succeeded": ("failed", "other"),
    "failed": ("failed",),
    "success_rate": ("failed", "other"),
    "input_tokens": ("input",),
    "output_tokens": ("output",),
    "cache_read_tokens": ("cache_read",),
    "cache_write_tokens": ("cache_write",),
    "reasoning_tokens": ("reasoning",),
    "total_tokens": ("input", "output"),
    "cost_usd": ("cost", "costed"),
    "unpriced": ("unpriced",),
    "response_bytes": ("bytes",),
    "quantity": ("quantity",),
    "latency_ms_avg": ("latency", "unmeasured"),
}
"""The columns, besides `events`, that measures need."""

_ADDED_UP = {
    "events": ("events",),
    "failed": ("failed",),
    "input_tokens": ("input",),
    "output_tokens": ("output",),
    "cache_read_tokens": ("cache_read",),
    "cache_write_tokens": ("cache_write",),
    "reasoning_tokens": ("reasoning",),
    "total_tokens": ("input", "output"),
    "cost_usd": ("cost",),
    "unpriced": ("unpriced",),
    "response_bytes": ("bytes",),
}
"""Measures that are the sum of columns; `cost_usd` in nano-dollars."""

_LATENCIES = ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99")
_EXTREMES_OF = {
    **dict.fromkeys((*_LATENCIES, "latency_ms_max"), "latency_max"),  # of quantiles it is the upper bound
    "last_seen": "last",
}


def answer(connection: sqlite3.Connection, query: UsageQuery, *, raw_enough: int = RAW_ENOUGH) -> UsageReport:
    """Answer `query` from the ledger open on `connection`, in one transaction; `raw_enough` as for `Reading`."""
    return _Answer(Reading(connection, query, raw_enough=raw_enough), query).report()


class _Group:
    """What one group adds up to; the part of `Aggregate` that a report asks for."""

    __slots__ = ("_meanings", "_values", "users", "weights")

    def __init__(self, meanings: _Meanings, values: list[Any]) -> None:
        self._meanings = meanings
        self._values = values
        self.users = 0
        self.weights: dict[str, dict[int, int]] = {}

    @property
    def last_seen_us(self) -> int | None:
        """The time of the latest event, where it was asked for."""
        last: int | None = self._meanings.value("last", self._values)
        return last

    def measure(self, name: str, zone: tzinfo) -> Any:
        """Give the value of a measure."""
        quick = self._meanings.quick.get(name)
        if quick is not None:
            return quick(self._values)
        if name == "users":
            return self.users
        return self._aggregate().measure(name, zone)

    def _aggregate(self) -> Aggregate:
        value, values = self._meanings.value, self._values
        events, failed = values[0], value("failed", values) or 0
        return Aggregate(
            events=events,
            succeeded=events - failed - (value("other", values) or 0),
            failed=failed,
            cost_nano=value("cost", values) if value("costed", values) else None,
            quantity_millionths=(value("quantity", values) or 0) + events * 1_000_000,
            latency_sum_us=value("latency", values) or 0,
            latency_count=events - (value("unmeasured", values) or 0),
            latency_max_us=value("latency_max", values),
            latency_buckets=self.weights.get("latency", {}),
            first_token_buckets=self.weights.get("first_token", {}),
            last_seen_us=value("last", values),
        )


class _Meanings:
    """Where the columns stand in a group's values, and the measures that are no more than their sum."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._places = {name: n for n, name in enumerate(columns)}
        self.quick: dict[str, Callable[[list[Any]], Any]] = {}
        for name, summed in _ADDED_UP.items():
            if name != "cost_usd" and set(summed) <= self._places.keys():
                self.quick[name] = _sum_of([self._places[column] for column in summed])
        if {"cost", "costed"} <= self._places.keys():
            self.quick["cost_usd"] = self._cost

    def value(self, column: str, values: list[Any]) -> Any:
        """Give the value of a column; None where it was not read."""
        place = self._places.get(column)
        return None if place is None else values[place]

    def _cost(self, values: list[Any]) -> Decimal | None:
        # From a string, so that neither the host's decimal context nor any precision rounds it.
        return Decimal(f"{values[self._places['cost']]}E-9") if values[self._places["costed"]] else None


def _sum_of(places: list[int]) -> Callable[[list[Any]], Any]:
    if len(places) == 1:
        return itemgetter(places[0])
    one, other = places
    return lambda values: values[one] + values[other]


class _Answer:
    def __init__(self, reading: Reading, query: UsageQuery) -> None:
        self._reading = reading
        self._query = query
        needed = query.measures_needed
        self._columns = ("events", *dict.fromkeys(name for asked in needed for name in _COLUMNS_OF.get(asked, ())))
        self._extremes = tuple(dict.fromkeys(_EXTREMES_OF[name] for name in needed if name in _EXTREMES_OF))
        self._meanings = _Meanings((*self._columns, *self._extremes))
        self._wanted = set(needed)

    def report(self) -> UsageReport:
        query, reading = self._query, self._reading
        found = reading.sums(query.by, self._columns, self._extremes)
        total = self._total(found.values())
        kept = self._first(found) if query.limit is not None and query.by else found
        groups = {key: _Group(self._meanings, values) for key, values in self._named(kept, self._merged).items()}
        totals = _Group(self._meanings, total)
        if self._wanted & set(_LATENCIES):
            self._count(groups, totals, "latency")
        if "first_token_ms_p50" in self._wanted:
            self._count(groups, totals, "first_token")
        if "users" in self._wanted:
            self._count_users(groups, totals, found)
        since = reading.complete_from_us
        return UsageReport.build(
            query,
            groups.items(),
            totals,
            source="+".join(("sqlite", *reading.used)),
            exact=True,
            complete_from=None if since is None else from_microseconds(since),
        )

    def _total(self, groups: Iterable[list[Any]]) -> list[Any]:
        columns = list(zip(*groups, strict=True))
        if not columns:
            return [0] * len(self._columns) + [None] * len(self._extremes)
        sums = len(self._columns)
        return [
            sum(column) if n < sums else max((value for value in column if value is not None), default=None)
            for n, column in enumerate(columns)
        ]

    def _merged(self, one: list[Any], other: list[Any]) -> list[Any]:
        return self._total((one, other))

    def _first(self, groups: Sums) -> Sums:
        """Leave out groups that the limit leaves out for sure, so that only those shown need names."""
        query = self._query
        name, descending = query.order_by or ("events", True)
        places = [self._columns.index(column) for column in _ADDED_UP.get(name, ()) if column in self._columns]
        merging = "user" in query.by and len(self._reading.nobody) > 1
        if not places or not descending or merging or any(by in BUCKETS for by in query.by) or not query.limit:
            return groups
        if len(groups) <= query.limit:
            return groups
        ranks = [sum([values[n] for n in places]) for values in groups.values()]
        least = heapq.nlargest(query.limit, ranks)[-1]
        return {key: values for (key, values), rank in zip(groups.items(), ranks, strict=True) if rank >= least}

    def _count(self, groups: dict[Key, _Group], totals: _Group, which: str) -> None:
        total: dict[int, int] = {}
        for key, found in self._named(self._reading.weights(self._query.by, which), _added).items():
            if key in groups:
                groups[key].weights[which] = found
            _added(total, found)
        totals.weights[which] = total

    def _count_users(self, groups: dict[Key, _Group], totals: _Group, known: Sums) -> None:
        by = self._query.by
        nobody = self._reading.nobody
        people: set[int] = set()
        place = by.index("user") if "user" in by else len(by)
        if "user" not in by:
            known = self._reading.sums((*by, "user"), ("events",))
        found: dict[Key, set[int]] = {}
        for key in known:
            if key[place] not in nobody:
                people.add(key[place])
                found.setdefault(key[: len(by)], set()).add(key[place])
        for key, users in self._named(found, set.union).items():
            if key in groups:
                groups[key].users = len(users)
        totals.users = len(people)

    # Keys.

    def _named(self, groups: dict[Key, Any], merge: Callable[[Any, Any], Any]) -> dict[Key, Any]:
        """Give the groups under the keys that are shown; those with the same name become one."""
        by = self._query.by
        if not by:
            return groups
        labels = [self._labels(name, {key[n] for key in groups}) for n, name in enumerate(by)]
        named: dict[Key, Any] = {}
        for key, found in groups.items():
            shown = tuple([label[value] for label, value in zip(labels, key, strict=True)])
            named[shown] = merge(named[shown], found) if shown in named else found
        return named

    def _labels(self, name: str, values: Iterable[Any]) -> dict[Any, Any]:
        if name in {"user", "org"}:
            return dict.fromkeys(values, "") | self._reading.label_of(name)(values)
        if name == "hour":
            return {n: bucket_label("hour", n // 200_000, n % 200_000 - 100_000) for n in values}
        if name in BUCKETS:
            return {number: bucket_label(name, number) for number in values}
        return {value: bool(value) if name == "aborted" else value for value in values}


def _added(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    for bucket, weight in other.items():
        one[bucket] = one.get(bucket, 0) + weight
    return one
