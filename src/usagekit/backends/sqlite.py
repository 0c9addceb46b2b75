"""The embedded backend: the ledger itself, made readable."""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from usagekit._store.events import last_seq, read_page
from usagekit._store.schema import BLOCK_SHIFT, SCHEMA_VERSION, check_version, connect
from usagekit._store.tombstones import ERASED_BELOW
from usagekit.errors import ConfigurationError, StorageError
from usagekit.event import to_microseconds
from usagekit.query.aggregate import Aggregate, bucket_of
from usagekit.query.algebra import BUCKETS
from usagekit.query.budget import Budget
from usagekit.query.periods import bucket_label, offset_changes
from usagekit.query.report import UsageReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from datetime import datetime

    from usagekit.event import UsageEvent
    from usagekit.query import UsageQuery

__all__ = ["SQLiteBackend"]

_DAY_US = 86_400_000_000
_PAGE_EVENTS = 2000
_STEPS_BETWEEN_LOOKS = 10_000  # of SQLite's virtual machine: well under a millisecond

# Every event with its time and the dictionaries' rows. Blocks come first, so that a range of time reads only the
# blocks it touches; the dictionaries are small, and looked up by their keys.
_FROM = f"""
FROM blocks b
CROSS JOIN events e ON e.seq >= b.block << {BLOCK_SHIFT} AND e.seq < (b.block + 1) << {BLOCK_SHIFT}
JOIN shapes s ON s.id = e.shape
JOIN subjects p ON p.id = e.subject
"""
_FROM_EXTRAS = _FROM + "JOIN extras x ON x.id = p.extra\n"

_TIME = "(b.base_us + e.offset_us)"

_KEYS = {
    "kind": "s.kind",
    "event": "s.event",
    "route": "s.route",
    "status": "s.status",
    "status_class": "CASE WHEN s.status = 0 THEN 'none' ELSE (s.status / 100) || 'xx' END",
    "provider": "s.provider",
    "model": "s.model",
    "cost_source": "s.cost_source",
    "aborted": "s.aborted",
    "user": "p.user",
    "org": "p.org",
}
"""Grouping expressions. Users and orgs are grouped by their ids and named afterwards."""

_NAME_TABLES = {"user": "users", "org": "orgs"}


class _Extra(NamedTuple):
    """What the extras say about a row, as SQL; constants where the ledger has no extras at all."""

    source: str
    weight: str
    quantity: str
    other_output: str


_NO_EXTRAS = _Extra(_FROM, "1", "1000000", "0")
_EXTRAS = _Extra(_FROM_EXTRAS, "x.weight", "x.quantity", "x.other_output")

_CALL = "s.kind = 'llm'"

# Field of Aggregate, what is summed (weighted). {other} is the output that the row's own column does not hold.
_SUMS = {
    "events": "1",
    "succeeded": "s.status BETWEEN 1 AND 399",
    "failed": "s.status >= 400",
    "input_tokens": "e.input",
    "output_tokens": f"CASE WHEN {_CALL} THEN e.output ELSE {{other}} END",
    "cache_read_tokens": "e.cache_read",
    "cache_write_tokens": "e.cache_write",
    "reasoning_tokens": "e.reasoning",
    "cost_nano": "e.cost_nano",
    "unpriced": "s.cost_source = 'unpriced'",
    "response_bytes": f"CASE WHEN {_CALL} THEN {{other}} ELSE e.output END",
    "quantity_millionths": "{quantity}",
    "latency_sum_us": "e.latency_us",
    "latency_count": "e.latency_us IS NOT NULL",
}
_EXTREMES = {"latency_max_us": "max(e.latency_us)", "last_seen_us": f"max({_TIME})"}

_FIELDS_OF = {
    "success_rate": ("succeeded", "failed"),
    "total_tokens": ("input_tokens", "output_tokens"),
    "cost_usd": ("cost_nano",),
    "quantity": ("quantity_millionths",),
    "latency_ms_avg": ("latency_sum_us", "latency_count"),
    "latency_ms_max": ("latency_max_us",),
    **dict.fromkeys(("latency_ms_p50", "latency_ms_p95", "latency_ms_p99"), ("latency_max_us",)),  # their upper bound
    "last_seen": ("last_seen_us",),
}
"""Which fields a measure needs, where it is not the field of the same name."""

_HISTOGRAMS = {
    "latency_buckets": ("e.latency_us", ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99")),
    "first_token_buckets": ("coalesce(e.latency_us, 0) - e.tail_us", ("first_token_ms_p50",)),
}


class SQLiteBackend:
    """Keeps events in one SQLite file, for good, and answers every question about them.

    The file is the recorder's ledger; beside it, in `<path>-journals`, lie events that are on their way into it. Made
    once and given to a `Recorder`; without one it only reads. Each read opens a connection of its own, so any thread
    of any process may ask; writers are never blocked.

    Args:
        path: the file; relative ones are meant from the present directory. Made by the recorder when missing.

    Raises:
        ConfigurationError: the path is empty or `":memory:"`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        if not os.fspath(path) or os.fspath(path) == ":memory:":
            msg = f"SQLiteBackend({os.fspath(path)!r}) is no file; give a path, or use MemoryBackend() for tests"
            raise ConfigurationError(msg)
        self.ledger_path = os.path.realpath(path)  # as SQLite does: one ledger, one set of journals

    @classmethod
    def from_url(cls, url: str) -> SQLiteBackend:
        """Make it of `sqlite:///usage.db` (relative) or `sqlite:////var/lib/app/usage.db` (absolute)."""
        host, _, path = url.partition("://")[2].partition("/")
        if host or not path or "?" in path:
            msg = f"{url!r} names no file; use sqlite:///usage.db, or sqlite:////var/lib/usage.db with four slashes"
            raise ConfigurationError(msg)
        return cls(unquote(path))

    def __repr__(self) -> str:
        return f"SQLiteBackend({self.ledger_path!r})"

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions that recorders of this ledger declared."""
        with closing(self._connection()) as connection:
            return tuple(row[0] for row in connection.execute("SELECT name FROM dimensions ORDER BY name"))

    def awaits(self, before: datetime) -> bool:
        """Tell whether events from before an aware time still wait in journals, so that no answer has them yet.

        Looks at everything that waits; blocks. Raises `StorageError` as `read` does.
        """
        from usagekit._store.waiting import waits_before

        self._connection().close()
        return waits_before(self.ledger_path, to_microseconds(before))

    def _unreadable(self, why: str) -> StorageError:
        return StorageError(
            f"cannot read the ledger {self.ledger_path!r}: {why}; give the path that the app's recorder has"
        )

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer `query` from the raw events.

        Raises:
            StorageError: there is no usable ledger at the path.
            QueryTimeout: it took longer than `query.timeout`; SQLite stops in the middle of it.
        """
        budget = Budget(query)
        if query.origin != "direct":
            return UsageReport.build(query, (), Aggregate(), source="sqlite", exact=True)
        with closing(self._connection()) as connection, _within(budget, connection):
            # One transaction, so that rows and totals see the same events.
            connection.execute("BEGIN")
            groups, totals = _Reading(connection, query).answer()
        return UsageReport.build(query, groups.items(), totals, source="sqlite", exact=True)

    def events(self, query: UsageQuery, /) -> Iterator[UsageEvent]:
        """Give the events that match a query's range and filters, at most `query.limit`, in import order.

        One by one: however many there are, few are in memory. What is imported while it runs is not among them. No
        connection is open between events, so it may be left at any time, and take as long as it likes: `query.timeout`
        is for each look into the ledger.

        Raises:
            StorageError: there is no usable ledger at the path.
            QueryTimeout: one look took longer than `query.timeout`.
        """
        from usagekit.event import UsageEvent

        for _, fields in self.event_fields(query):
            yield UsageEvent(**fields)

    def event_fields(self, query: UsageQuery, /, end: int | None = None) -> Iterator[tuple[int, dict[str, Any]]]:
        """Give what `events` gives as fields by name, which is faster, with the sequence numbers of import.

        `end` is the last number to give; None = `last_number()`.
        """
        if query.origin != "direct":
            return
        end = self.last_number() if end is None else end
        after, left = 0, query.limit
        while left is None or left > 0:
            limit = _PAGE_EVENTS if left is None else min(left, _PAGE_EVENTS)
            with closing(self._connection()) as connection, _within(Budget(query), connection):
                connection.execute("BEGIN")
                where, values = _Reading(connection, query).condition
                page = read_page(connection, where, values, after=after, end=end, limit=limit)
            yield from page
            if len(page) < limit:
                return
            after = page[-1][0]
            left = None if left is None else left - len(page)

    def last_number(self) -> int:
        """Give the sequence number of the event that was imported last; 0 when there was none."""
        with closing(self._connection()) as connection:
            return last_seq(connection)

    def _connection(self) -> sqlite3.Connection:
        try:
            connection = connect(self.ledger_path, read_only=True)
            version = check_version(connection, self.ledger_path)
        except sqlite3.Error as error:
            raise self._unreadable(str(error) if os.path.exists(self.ledger_path) else "it does not exist") from error
        if version < SCHEMA_VERSION:
            connection.close()
            raise self._unreadable("no recorder of this version of usagekit has opened it yet")
        connection.create_function("bucket_of", 1, bucket_of, deterministic=True)
        connection.create_aggregate("exact_sum", 2, _ExactSum)  # type: ignore[arg-type] # step takes two values
        return connection


@contextmanager
def _within(budget: Budget, connection: sqlite3.Connection) -> Iterator[None]:
    """Interrupt what `connection` does in the block once the budget is spent."""
    connection.set_progress_handler(lambda: budget.spent, _STEPS_BETWEEN_LOOKS)
    try:
        budget.check()
        yield
    except sqlite3.OperationalError as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            raise budget.error() from None
        raise
    budget.check()


class _ExactSum:
    """`sum(value * weight)` without a limit; the result is text, as SQLite's integers end at 2**63."""

    def __init__(self) -> None:
        self._sum: int | None = None

    def step(self, value: int | None, weight: int) -> None:
        if value is not None:
            self._sum = (self._sum or 0) + value * weight

    def finalize(self) -> str | None:
        return None if self._sum is None else str(self._sum)


class _Reading:
    """One query being answered over one connection."""

    def __init__(self, connection: sqlite3.Connection, query: UsageQuery) -> None:
        self._connection = connection
        self._query = query
        self._values: dict[str, Any] = {}
        has_extras = connection.execute("SELECT max(id) > 0 FROM extras").fetchone()[0]
        self._extra = _EXTRAS if has_extras else _NO_EXTRAS
        erased = "SELECT id FROM users WHERE name > '' AND name < " + ERASED_BELOW
        has_erased = connection.execute(f"SELECT EXISTS ({erased})").fetchone()[0]
        self._user = f"iif(p.user IN ({erased}), 0, p.user)" if has_erased else _KEYS["user"]
        # Expressions below bind values as they are built; the order is that of their text.
        self._keys = [self._key(name) for name in query.by]
        self._labels = [self._label(name) for name in query.by]
        self._where = self._conditions()

    @property
    def condition(self) -> tuple[str, dict[str, Any]]:
        """What an event must fulfil, as SQL, and the values bound in it."""
        return self._where, self._values

    def answer(self) -> tuple[dict[tuple[Any, ...], Aggregate], Aggregate]:
        """Give what was counted for each key, and over all of them."""
        groups: dict[tuple[Any, ...], Aggregate] = {}
        self._sum(groups)
        for field, (value, measures) in _HISTOGRAMS.items():
            if set(measures) & set(self._query.measures_needed):
                self._count_buckets(groups, field, value)
        totals = Aggregate()
        for group in groups.values():
            totals.merge(group)
        if "users" in self._query.measures_needed:
            self._count_users(groups, totals)
        return {self._shown(key): group for key, group in groups.items()}, totals

    def _sum(self, groups: dict[tuple[Any, ...], Aggregate]) -> None:
        needed = {field for name in self._query.measures_needed for field in _FIELDS_OF.get(name, (name,))}
        fields = ["events", *(name for name in (*_SUMS, *_EXTREMES) if name in needed and name != "events")]
        for row in self._summed_rows(fields):
            values = row[len(self._keys) :]
            # Without a single event there is no group, whatever SQL says.
            if values[0] is not None:
                counted = {name: int(value) for name, value in zip(fields, values, strict=True) if value is not None}
                groups[row[: len(self._keys)]] = Aggregate(**counted)  # type: ignore[arg-type]

    def _summed_rows(self, fields: list[str]) -> list[tuple[Any, ...]]:
        try:
            rows = self._rows([self._summed(name, exact=False) for name in fields])
            if not any(type(value) is float for row in rows for value in row[len(self._keys) :]):
                return rows
        except sqlite3.OperationalError as error:
            if "integer overflow" not in str(error):
                raise
        # A product or a sum went beyond 64 bits. Slower, and without that limit.
        return self._rows([self._summed(name, exact=True) for name in fields])

    def _summed(self, field: str, *, exact: bool) -> str:
        if field in _EXTREMES:
            return _EXTREMES[field]
        value = _SUMS[field].format(other=self._extra.other_output, quantity=self._extra.quantity)
        if exact:
            return f"exact_sum({value}, {self._extra.weight})"
        return f"sum(({value}) * {self._extra.weight})"

    def _count_buckets(self, groups: dict[tuple[Any, ...], Aggregate], field: str, value: str) -> None:
        bucket = f"bucket_of(max({value}, 0))"
        weight = f"exact_sum(1, {self._extra.weight})" if self._extra is _EXTRAS else "count(*)"
        for *key, number, count in self._rows([bucket, weight], group_by_first=True, also=f"{value} IS NOT NULL"):
            getattr(groups[tuple(key)], field)[number] = int(count)

    def _count_users(self, groups: dict[tuple[Any, ...], Aggregate], totals: Aggregate) -> None:
        distinct = f"count(DISTINCT nullif({self._user}, 0))"
        for *key, count in self._rows([distinct]):
            if tuple(key) in groups:
                groups[tuple(key)].given["users"] = count
        sql = f"SELECT {distinct} {self._extra.source} WHERE {self._where}"
        totals.given["users"] = self._connection.execute(sql, self._values).fetchone()[0]

    def _rows(self, columns: list[str], *, group_by_first: bool = False, also: str = "1") -> list[tuple[Any, ...]]:
        expressions = [*self._keys, *columns]
        grouped = len(self._keys) + group_by_first
        group_by = f"GROUP BY {', '.join(str(n + 1) for n in range(grouped))}" if grouped else ""
        sql = f"SELECT {', '.join(expressions)} {self._extra.source} WHERE {self._where} AND {also} {group_by}"
        return self._connection.execute(sql, self._values).fetchall()

    def _bind(self, value: object) -> str:
        name = f"v{len(self._values)}"
        self._values[name] = value
        return f":{name}"

    # Keys: what to group by, and how a group's key is shown.

    def _key(self, name: str) -> str:
        if name in BUCKETS:
            return self._bucket(name)
        return self._field(name)

    def _field(self, name: str) -> str:
        if name == "user":
            return self._user
        return _KEYS.get(name) or self._attribute(name)

    def _attribute(self, name: str) -> str:
        if self._extra is _NO_EXTRAS:
            return "''"
        path = self._bind(f'$."{name}"')
        return f"coalesce(json_extract(x.attributes, {path}), '')"

    def _bucket(self, name: str) -> str:
        local = f"({_TIME} + {self._offset()} * 1000000)"
        # Times are never before 1970; one day more keeps divisions of local times from rounding towards zero.
        day = f"(({local} + {_DAY_US}) / {_DAY_US} - 1)"
        if name == "hour":
            # Two hours of one number are told apart by their offset, as in the night when clocks go back.
            return f"(({local} + {_DAY_US}) / 3600000000 - 24) * 200000 + ({self._offset()} + 100000)"
        if name == "day":
            return day
        if name == "week":
            return f"({day} + 3) / 7"
        return f"strftime('%Y', {day} * 86400, 'unixepoch') * 12 + strftime('%m', {day} * 86400, 'unixepoch')"

    def _offset(self) -> str:
        bounds = self._connection.execute("SELECT min(first_us), max(last_us) FROM blocks").fetchone()
        if bounds[0] is None:
            return "0"
        windows = self._query.windows_us or ((0, 0),)
        # Only where both data and question are: a wrong clock may have left events in a far future.
        start = max(bounds[0], windows[0][0] or 0)
        end = bounds[1] + 1 if windows[-1][1] is None else min(bounds[1] + 1, windows[-1][1])
        changes = offset_changes(self._query.tz, start, max(start, end))
        if len(changes) == 1:
            return str(changes[0][1])
        cases = " ".join(f"WHEN {_TIME} < {after} THEN {offset}" for (_, offset), (after, _) in pairwise(changes))
        return f"CASE {cases} ELSE {changes[-1][1]} END"

    def _label(self, name: str) -> Callable[[Any], Any]:
        if name == "hour":
            return lambda number: bucket_label("hour", number // 200_000, number % 200_000 - 100_000)
        if name in BUCKETS:
            return lambda number: bucket_label(name, number)
        if name in _NAME_TABLES:
            return self._name_of(_NAME_TABLES[name])
        return bool if name == "aborted" else _unchanged

    def _name_of(self, table: str) -> Callable[[int], str]:
        sql = f"SELECT name FROM {table} WHERE id=?"

        def name_of(number: int) -> str:
            row = self._connection.execute(sql, (number,)).fetchone()
            return "" if row is None else row[0]

        return name_of

    def _shown(self, key: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(label(value) for label, value in zip(self._labels, key, strict=True))

    # Conditions: time and filters.

    def _conditions(self) -> str:
        conditions = [self._in_time(), *(self._filter(name, values) for name, values in self._query.where.items())]
        return " AND ".join(conditions)

    def _in_time(self) -> str:
        windows = self._query.windows_us
        if not windows:
            return "0"
        start, end = windows[0][0], windows[-1][1]
        conditions = ["1"]
        if start is not None:
            bound = self._bind(start)
            conditions.append(f"b.last_us >= {bound} AND {_TIME} >= {bound}")
        if end is not None:
            bound = self._bind(end)
            conditions.append(f"b.first_us < {bound} AND {_TIME} < {bound}")
        if len(windows) > 1:
            listed = self._bind(json.dumps(windows))
            conditions.append(
                f"EXISTS (SELECT 1 FROM json_each({listed}) w WHERE {_TIME} >= json_extract(w.value, '$[0]')"
                f" AND {_TIME} < json_extract(w.value, '$[1]'))"
            )
        return " AND ".join(conditions)

    def _filter(self, name: str, values: Iterable[Any]) -> str:
        # One parameter however many values: SQLite looks named ones up one by one.
        listed = f"SELECT value FROM json_each({self._bind(json.dumps(list(values)))})"
        if name in _NAME_TABLES:
            # The plus keeps SQLite from starting at the subjects, which would need an index of all events for itself.
            return f"+{self._field(name)} IN (SELECT id FROM {_NAME_TABLES[name]} WHERE name IN ({listed}))"
        return f"{self._field(name)} IN ({listed})"


def _unchanged(value: Any) -> Any:
    return value
