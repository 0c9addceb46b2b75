"""Asking Analytics Engine: every question of the algebra, in its own SQL, over its HTTP API.

Nothing that was asked becomes SQL as it is: names come from constant tables and the layout, values are numbers, texts
of harmless characters, or hexadecimal.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from usagekit import _clean
from usagekit.backends.analytics_engine.layout import LAYOUT_VERSION, Layout
from usagekit.backends.analytics_engine.periods import Buckets
from usagekit.errors import ConfigurationError, QueryError, UnavailableError
from usagekit.query.aggregate import Aggregate
from usagekit.query.algebra import DIMENSIONS
from usagekit.query.budget import Budget
from usagekit.query.periods import BUCKETS
from usagekit.query.report import UsageReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from usagekit.query import UsageQuery

__all__ = ["AnalyticsEngineReader"]

_DATASET = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,127}")
_PLAIN = re.compile(r"[A-Za-z0-9 _.,:;/@#+=~<>()\[\]{}|!?*&$^-]*")  # in quotes none of these means anything

_WEIGHT = "_sample_interval * {weight}"

# Measure's field of Aggregate: what is summed, over numbers of the layout; all are weighted.
_SUMS = {
    "events": "1",
    "succeeded": "if({status} >= 1 AND {status} < 400, 1, 0)",
    "failed": "if({status} >= 400, 1, 0)",
    "input_tokens": "{input_tokens}",
    "output_tokens": "{output_tokens}",
    "cache_read_tokens": "{cache_read_tokens}",
    "cache_write_tokens": "{cache_write_tokens}",
    "reasoning_tokens": "{reasoning_tokens}",
    "cost_usd": "{cost_usd}",
    "priced": "if({cost_source} = '' OR {cost_source} = 'unpriced', 0, 1)",
    "unpriced": "if({cost_source} = 'unpriced', 1, 0)",
    "response_bytes": "{response_bytes}",
    "quantity": "{quantity}",
    "latency_ms": "{latency_ms}",
    "latency_known": "{latency_known}",
    "first_token_known": "{first_token_known}",
}

# Other columns: what they are, over numbers and texts of the layout.
_OTHERS = {
    "users": "count(DISTINCT {user})",
    "unknown_users": "countIf({user} = '')",
    "latency_max": "max({latency_ms})",
    "last_seen": "max({time})",
    **{
        f"latency_p{percent}": (
            f"quantileExactWeighted(0.{percent})"
            "({latency_ms}, toUInt32(_sample_interval * {weight} * {latency_known}))"
        )
        for percent in (50, 95, 99)
    },
    "first_token_p50": (
        "quantileExactWeighted(0.50)({first_token_ms}, toUInt32(_sample_interval * {weight} * {first_token_known}))"
    ),
}

_COLUMNS_OF = {
    "success_rate": ("succeeded", "failed"),
    "users": ("users", "unknown_users"),
    "total_tokens": ("input_tokens", "output_tokens"),
    "cost_usd": ("cost_usd", "priced"),
    "latency_ms_avg": ("latency_ms", "latency_known"),
    "latency_ms_p50": ("latency_p50", "latency_known"),
    "latency_ms_p95": ("latency_p95", "latency_known"),
    "latency_ms_p99": ("latency_p99", "latency_known"),
    "latency_ms_max": ("latency_max", "latency_known"),
    "first_token_ms_p50": ("first_token_p50", "first_token_known"),
    "last_seen": ("last_seen",),
}
"""Which columns a measure needs, where it is not the one of the same name. `events` is always asked for."""

_TEXT_DIMENSIONS = frozenset({"kind", "user", "org", "event", "route", "provider", "model", "cost_source"})


@dataclass(frozen=True, slots=True)
class _Key:
    """One dimension of `by`: the SQL it is grouped by, in one or several columns, and how their values are shown."""

    columns: tuple[str, ...]
    shown: Callable[..., Any]


class AnalyticsEngineReader:
    """Answers questions from a dataset that a `Layout` was written to; a `Reader`.

    Answers say `exact=False`: Analytics Engine samples, and doubles hold 53 bits. Each event counts as often as its own
    weight and the sampling say. Times are those of the events, not those of writing. Any thread may call it.

    Args:
        ask: sends one statement and gives its rows as dictionaries; an empty list where there is no such table yet.
            Where the question has a time budget it also gets `timeout=`, the seconds that are left.
        dataset: the table's name, or what gives it for each question.
        layout: what was written; questions that need a field it has not are refused.
        dimensions: names of the app's own dimensions; None = those of the layout.
    """

    def __init__(
        self,
        ask: Callable[..., list[dict[str, Any]]],
        *,
        dataset: str | Callable[[], str],
        layout: Layout,
        dimensions: Iterable[str] | None = None,
    ) -> None:
        self._ask = ask
        self._dataset = dataset
        self._layout = layout
        self._dimensions = layout.dimensions if dimensions is None else tuple(dimensions)

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions that may be asked for."""
        return self._dimensions

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer `query`; blocks until the API answered, one to three times.

        Raises:
            QueryError: the layout lacks what was asked for, or the API refuses; see `client.SqlClient`.
            QueryTimeout: the time budget is spent.
            ConfigurationError: the dataset's name cannot be one.
        """
        groups: dict[tuple[Any, ...], Aggregate] = {}
        totals = Aggregate()
        if query.origin == "direct" and query.windows_us and all(query.where.values()):
            table = _quoted_table(self._dataset() if callable(self._dataset) else self._dataset)
            question = _Question(query, self._layout, table, self._ask)
            totals = question.totals()
            groups = question.groups() if query.by and totals.events else {}
        return UsageReport.build(query, groups.items(), totals, source="analytics-engine", exact=False)


class _Question:
    """One query, while it is being answered."""

    def __init__(self, query: UsageQuery, layout: Layout, table: str, ask: Callable[..., list[dict[str, Any]]]) -> None:
        self._query = query
        self._layout = layout
        self._from = f"FROM {table}"
        self._send = ask
        self._budget = Budget(query)
        self._fields = _Fields(layout)
        self._where = self._conditions()
        needed = (column for name in query.measures_needed for column in _COLUMNS_OF.get(name, (name,)))
        self._measured = tuple(dict.fromkeys(("events", *needed)))

    def _ask(self, statement: str) -> list[dict[str, Any]]:
        self._budget.check()
        left = self._budget.left
        try:
            return self._send(statement) if left is None else self._send(statement, timeout=left)
        except UnavailableError as error:
            if self._budget.spent:
                raise self._budget.error() from error
            raise

    def totals(self) -> Aggregate:
        """Give what was counted over everything that matches."""
        rows = self._ask(f"SELECT {self._columns()} {self._from} WHERE {self._where} FORMAT JSON")
        return _aggregate(rows[0]) if rows else Aggregate()

    def groups(self) -> dict[tuple[Any, ...], Aggregate]:
        """Give what was counted for each key."""
        keys = self._keys()
        names = [f"k{n}_{place}" for n, key in enumerate(keys) for place, _ in enumerate(key.columns)]
        expressions = [column for key in keys for column in key.columns]
        selected = [f"{expression} AS {name}" for expression, name in zip(expressions, names, strict=True)]
        rows = self._ask(
            f"SELECT {', '.join((*selected, self._columns()))} {self._from} "
            f"WHERE {self._where} GROUP BY {', '.join(names)} FORMAT JSON"
        )
        found = {}
        for row in rows:
            values = iter([row[name] for name in names])
            found[tuple(key.shown(*(next(values) for _ in key.columns)) for key in keys)] = _aggregate(row)
        return found

    def _columns(self) -> str:
        return ", ".join(f"{self._column(name)} AS m_{name}" for name in self._measured)

    def _column(self, name: str) -> str:
        if name in _OTHERS:
            return _OTHERS[name].format_map(self._fields)
        weight = _WEIGHT.format_map(self._fields)
        return f"sum({weight})" if name == "events" else f"sum({weight} * {_SUMS[name].format_map(self._fields)})"

    # Keys.

    def _keys(self) -> list[_Key]:
        buckets: Buckets | None = None
        keys = []
        for name in self._query.by:
            if name in BUCKETS:
                buckets = buckets or Buckets(self._query.tz, self._fields["time"], self._spans(self._query.by))
                columns, shown = buckets.key(name)
                keys.append(_Key(columns, shown))
            else:
                keys.append(self._key(name))
        return keys

    def _key(self, name: str) -> _Key:
        if name == "status":
            return _Key((self._fields["status"],), int)
        if name == "status_class":
            status = self._fields["status"]
            return _Key((f"if({status} = 0, -1.0, floor({status} / 100))",), _status_class)
        if name == "aborted":
            return _Key((self._fields["aborted"],), bool)
        return _Key((self._text(name),), str)

    def _text(self, name: str) -> str:
        if name in DIMENSIONS and name not in _TEXT_DIMENSIONS:
            raise QueryError(f"unknown dimension {name!r}")
        return self._fields[name]

    def _spans(self, by: Sequence[str]) -> list[tuple[float, float]]:
        """Give first and last time of the data month by month: zones and months need to be known only there."""
        if self._query.tz == "UTC" and "month" not in by:
            return []
        time = self._fields["time"]
        rows = self._ask(
            f"SELECT floor({time} / 2629746) AS m, min({time}) AS first, max({time}) AS last {self._from} "
            f"WHERE {self._where} GROUP BY m FORMAT JSON"
        )
        return sorted((float(row["first"]), float(row["last"])) for row in rows)

    # Conditions.

    def _conditions(self) -> str:
        conditions = [self._in_time(), *(self._filter(name, values) for name, values in self._query.where.items())]
        if self._layout.double("version") is not None:
            conditions.insert(0, f"{self._fields['version']} = {LAYOUT_VERSION}")
        return " AND ".join(conditions)

    def _in_time(self) -> str:
        time = self._fields["time"]
        windows = []
        for start, end in self._query.windows_us:
            bounds = [f"{time} >= {_seconds(start)}"] if start is not None else []
            bounds += [f"{time} < {_seconds(end)}"] if end is not None else []
            windows.append(f"({' AND '.join(bounds) or '1 = 1'})")
        return f"({' OR '.join(windows)})"

    def _filter(self, name: str, values: Iterable[Any]) -> str:
        if name == "status_class":
            status = self._fields["status"]
            return f"({' OR '.join(_of_class(status, value) for value in values)})"
        if name in {"status", "aborted"}:
            return f"{self._fields[name]} IN ({', '.join(str(int(value)) for value in values)})"
        text = self._text(name)
        plain = [f"'{value}'" for value in values if _PLAIN.fullmatch(value)]
        others = [f"'{value.encode().hex().upper()}'" for value in values if not _PLAIN.fullmatch(value)]
        parts = [f"{text} IN ({', '.join(plain)})"] if plain else []
        parts += [f"hex({text}) IN ({', '.join(others)})"] if others else []
        return f"({' OR '.join(parts)})"


class _Fields(dict[str, str]):
    """Gives the column of a field, and says what is missing where there is none."""

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self._layout = layout

    def __missing__(self, field: str) -> str:
        layout = self._layout
        text = field in _TEXT_DIMENSIONS or field in layout.dimensions
        column = layout.blob(field) if text else layout.double(field)
        if column is None and text and layout.index == field and layout.spill is None:
            column = "index1"
        if column is None:
            kind = "blob" if text else "double"
            raise QueryError(
                f"the layout of this dataset has no {kind} with {field!r}, which the question needs; ask for something "
                "else, or write a layout that has it"
            )
        self[field] = column
        return column


def _quoted_table(name: str) -> str:
    if not _DATASET.fullmatch(name):
        raise ConfigurationError(f"{name!r} cannot be a dataset; use letters, digits, _ and -")
    return f'"{name}"'


def _seconds(microseconds: int) -> str:
    """Give microseconds as the literal of the very double that `Layout.point` makes of them."""
    text = repr(max(0, microseconds) / 1_000_000)
    return format(Decimal(text), "f") if "e" in text else text


def _of_class(status: str, value: str) -> str:
    if value == "none":
        return f"{status} = 0"
    first = int(value[0]) * 100
    return f"({status} >= {max(1, first)} AND {status} < {first + 100})"


def _status_class(number: Any) -> str:
    return "none" if float(number) < 0 else f"{int(number)}xx"


def _whole(row: dict[str, Any], name: str, scale: int = 1) -> int:
    """Give a sum, which may come as a string, as a number or as None for NaN, as whole units."""
    value = row.get(f"m_{name}")
    return 0 if value is None else int((Decimal(str(value)) * scale).to_integral_value())


def _aggregate(row: dict[str, Any]) -> Aggregate:
    """Give one row of an answer as what every reader hands over."""
    group = Aggregate()
    for name in ("events", "succeeded", "failed", "unpriced", *_TOKENS, "response_bytes"):
        setattr(group, name, _whole(row, name))
    group.cost_nano = _whole(row, "cost_usd", _clean.NANO) if _whole(row, "priced") else None
    group.quantity_millionths = _whole(row, "quantity", _clean.MICRO)
    group.latency_sum_us = _whole(row, "latency_ms", 1000)
    group.latency_count = _whole(row, "latency_known")
    if group.latency_count:
        group.latency_max_us = _whole(row, "latency_max", 1000)
    if group.events:
        group.last_seen_us = _whole(row, "last_seen", _clean.MICRO)
    # Of nothing that was measured there is no quantile, whatever the function says of no weight at all.
    for measure, column, known in _QUANTILES:
        if f"m_{column}" in row:
            group.given[measure] = _whole(row, column, 1000) / 1000 if _whole(row, known) else None
    if "m_users" in row:
        group.given["users"] = _whole(row, "users") - (1 if _whole(row, "unknown_users") else 0)
    return group


_TOKENS = ("input_tokens", "output_tokens", "cache_read_tokens", "cache_write_tokens", "reasoning_tokens")
_QUANTILES = (
    ("latency_ms_p50", "latency_p50", "latency_known"),
    ("latency_ms_p95", "latency_p95", "latency_known"),
    ("latency_ms_p99", "latency_p99", "latency_known"),
    ("first_token_ms_p50", "first_token_p50", "first_token_known"),
)
