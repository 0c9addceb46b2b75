"""What a dashboard asks, of ledgers of growing size; beside a plain SQLite table and DuckDB with the same events."""

from __future__ import annotations

import csv
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any, NamedTuple

from benchmarks import page
from benchmarks.dataset import END_US, write_ledger
from benchmarks.measure import Estimate, Result, Setting, Table, Target, Timing, cpu, percentile, timed, wall
from usagekit._store.rollups import Rollups
from usagekit._store.schema import Transaction, connect
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery
from usagekit.query.statements import statement

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime.fromtimestamp(END_US / 1_000_000, UTC)
MONTH = "2026-10"
HALF_HOUR_ZONE = "Asia/Kolkata"
WHOLE_HOUR_ZONE = "Europe/Berlin"
SECONDS_PER_MILLION, LOCK_MS = 8.0, 50.0

_COUNTS = ("events", "failed", "total_tokens", "cost_usd")
_SOLD = ("events", "total_tokens", "cost_usd")

# Name, what `usage` is asked, and the same as SQL on one wide table: {since} and {until} are microseconds.
_TOTALS = "SELECT count(*), sum(status >= 400), sum(input + output), sum(cost) FROM e WHERE {range}"
_TOP = "SELECT user, count(*), sum(input + output), sum(cost) FROM e WHERE {range} AND user <> '' GROUP BY 1"
_DAY = "time_us / 86400000000"


class Question(NamedTuple):
    """One question: of `usage`, and as SQL.

    Attributes:
        name: as it is shown.
        options: those of `usage`; empty = the statement.
        days: how far its range reaches back.
        sql: the same on the wide table.
        limit_ms: the target in UTC and in a zone of whole hours.
        elsewhere_ms: the target in any other zone; None = the same.
    """

    name: str
    options: dict[str, Any]
    days: float
    sql: str
    limit_ms: float = 50.0
    elsewhere_ms: float | None = None


QUESTIONS = (
    Question("totals 24h", {"period": "24h", "measures": _COUNTS}, 1, _TOTALS),
    Question("totals 7d", {"period": "7d", "measures": _COUNTS}, 7, _TOTALS),
    Question("totals 30d", {"period": "30d", "measures": _COUNTS}, 30, _TOTALS),
    Question(
        "events per day 30d",
        {"by": "day", "days": 30, "measures": "events"},
        30,
        f"SELECT {_DAY}, count(*) FROM e WHERE {{range}} GROUP BY 1",
    ),
    Question(
        "top 50 users by tokens 30d",
        {"by": "user", "period": "30d", "measures": _SOLD, "order": "-total_tokens", "limit": 50},
        30,
        f"{_TOP} ORDER BY 3 DESC LIMIT 50",
    ),
    Question(
        "top 50 users by cost 30d",
        {"by": "user", "period": "30d", "measures": _SOLD, "order": "-cost_usd", "limit": 50},
        30,
        f"{_TOP} ORDER BY 4 DESC LIMIT 50",
    ),
    Question(
        "per model 30d",
        {"by": "model", "period": "30d", "measures": _COUNTS},
        30,
        "SELECT model, count(*), sum(status >= 400), sum(input + output), sum(cost) FROM e WHERE {range} GROUP BY 1",
    ),
    Question(
        "per org and day 30d",
        {"by": ("org", "day"), "days": 30, "measures": _SOLD},
        30,
        f"SELECT org, {_DAY}, count(*), sum(input + output), sum(cost) FROM e WHERE {{range}} GROUP BY 1, 2",
        elsewhere_ms=200.0,
    ),
    Question(
        "p50, p95, p99 latency 7d",
        {"period": "7d", "measures": ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99")},
        7,
        "SELECT latency_us FROM e WHERE {range} AND latency_us IS NOT NULL ORDER BY 1",
    ),
    Question(
        "active users 30d",
        {"period": "30d", "measures": "users"},
        30,
        "SELECT count(DISTINCT user) FROM e WHERE {range} AND user <> ''",
    ),
    Question(
        "one org's statement",
        {},
        31,
        f"SELECT {_DAY}, event, count(*), sum(input), sum(output), sum(cost) FROM e WHERE org = :org AND {{range}}"
        " GROUP BY 1, 2",
        elsewhere_ms=200.0,
    ),
)
"""The SQL counts in UTC; of latencies it fetches the values, of which the caller takes three."""


def run(setting: Setting) -> Result:
    """Make ledgers of growing size, bring their rollups up to date, and ask."""
    result = Result()
    largest = setting.events or setting.scaled(10_000_000, 20_000)
    sizes = [*(size for size in (100_000, 1_000_000) if size < largest), largest]
    asked: dict[int, dict[str, list[Timing]]] = {}
    for size in sizes:
        path = str(Path(setting.directory) / f"{size}.db")
        write_ledger(path, size)
        _report_upkeep(result, size, _roll_up(path, size), targets=size == largest)
        asked[size] = {name: timed(ask, setting.scaled(7, 2)) for name, ask in _ours(path).items()}
    ledger = Path(setting.directory) / f"{largest}.db"
    page.measure(result, str(ledger), largest, setting.scaled(7, 2))
    others = {"SQLite, 3 indexes": _sqlite(ledger), "DuckDB": _duckdb(ledger)}
    beside = {
        name: {} if ask is None else {q.name: timed(partial(ask, q), setting.scaled(3, 1)) for q in QUESTIONS}
        for name, ask in others.items()
    }
    _report(result, asked, beside)
    return result


class _Upkeep(NamedTuple):
    seconds: float  # per million events
    processor_seconds: float
    locks_ms: list[float]
    bytes_per_event: float
    rollup_bytes: float


class _Watched(Rollups):
    """Notes how long each step holds the write lock."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self.locks_ms: list[float] = []

    def _transaction(self) -> Transaction:
        return _Lock(self._connection, self.locks_ms)


class _Lock(Transaction):
    __slots__ = ("_began", "_found")

    def __init__(self, connection: sqlite3.Connection, found: list[float]) -> None:
        super().__init__(connection)
        self._found = found

    def __enter__(self) -> None:
        super().__enter__()
        self._began = perf_counter()

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        super().__exit__(kind, *error)
        self._found.append((perf_counter() - self._began) * 1000)


def _roll_up(path: str, size: int) -> _Upkeep:
    before = Path(path).stat().st_size
    with closing(connect(path)) as connection:
        rollups = _Watched(connection)
        began, processor = perf_counter(), process_time()
        while rollups.step():
            pass
        seconds, processor = perf_counter() - began, process_time() - processor
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    after = Path(path).stat().st_size
    millions = size / 1_000_000
    return _Upkeep(seconds / millions, processor / millions, rollups.locks_ms, after / size, (after - before) / size)


def _ours(path: str) -> dict[str, Callable[[], object]]:
    """Give what asks each question, by its name and zone."""
    backend = SQLiteBackend(path)
    org = _largest_org(path)
    found: dict[str, Callable[[], object]] = {}
    for question in QUESTIONS:
        for zone in ("UTC", WHOLE_HOUR_ZONE, HALF_HOUR_ZONE):
            name = f"{question.name}, {zone}"
            if question.options:
                query = UsageQuery.build(**question.options, tz=zone, now=NOW)
                found[name] = partial(backend.read, query)
            else:
                found[name] = partial(statement, backend, org=org, month=MONTH, tz=zone, by="event", now=NOW)
    return found


def _largest_org(path: str) -> str:
    with closing(connect(path, read_only=True)) as connection:
        largest = "SELECT org FROM org_days GROUP BY org ORDER BY sum(events) DESC LIMIT 1"
        name: str = connection.execute(f"SELECT name FROM orgs WHERE id = ({largest})").fetchone()[0]
    return name


# The others: one wide table.

_WIDE = """
SELECT b.base_us + e.offset_us, u.name, o.name, s.kind, s.event, s.route, s.status, s.provider, s.model,
    e.latency_us, e.input, iif(s.kind = 'llm', e.output, 0), e.cost_nano, iif(s.kind = 'llm', 0, e.output)
FROM blocks b CROSS JOIN events e ON e.seq >= b.block << 8 AND e.seq < (b.block + 1) << 8
JOIN shapes s ON s.id = e.shape JOIN subjects p ON p.id = e.subject
JOIN users u ON u.id = p.user JOIN orgs o ON o.id = p.org
"""
_COLUMNS = "time_us BIGINT, user {text}, org {text}, kind {text}, event {text}, route {text}, status INTEGER,"
_COLUMNS += " provider {text}, model {text}, latency_us BIGINT, input BIGINT, output BIGINT, cost BIGINT, bytes BIGINT"


def _range(question: Question) -> str:
    until = END_US
    if not question.options:
        month = datetime.strptime(MONTH, "%Y-%m").replace(tzinfo=UTC)
        since, until = (int(time.timestamp()) * 1_000_000 for time in (month, month + timedelta(days=31)))
    else:
        since = END_US - int(question.days * 86_400_000_000)
    return f"time_us >= {since} AND time_us < {until}"


def _sqlite(ledger: Path) -> Callable[[Question], object]:
    """Make the table with text columns and three indexes."""
    path = ledger.with_name("wide.db")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("ATTACH ? AS ledger", (str(ledger),))
        connection.execute(f"CREATE TABLE e (id INTEGER PRIMARY KEY, {_COLUMNS.format(text='TEXT')})")
        names = ", ".join(column.split()[0] for column in _COLUMNS.split(", "))
        connection.execute(f"INSERT INTO e ({names}) {_WIDE}")
        for columns in ("time_us", "user, time_us", "org, time_us"):
            connection.execute(f"CREATE INDEX i_{columns[:3]} ON e ({columns})")
        connection.commit()
        connection.execute("DETACH ledger")
    org = _largest_org(str(ledger))

    def ask(question: Question) -> object:
        with closing(sqlite3.connect(path)) as connection:
            sql = question.sql.format(range=_range(question))
            return connection.execute(sql, {"org": org} if ":org" in sql else {}).fetchall()

    return ask


def _duckdb(ledger: Path) -> Callable[[Question], object] | None:
    """Make the same table in DuckDB, where that is installed."""
    try:
        import duckdb
    except ImportError:
        return None
    text = ledger.with_name("wide.csv")
    with closing(connect(str(ledger), read_only=True)) as source, text.open("w", newline="") as file:
        csv.writer(file).writerows(source.execute(_WIDE))
    connection = duckdb.connect(str(ledger.with_name("wide.duckdb")))
    connection.execute(f"CREATE TABLE e ({_COLUMNS.format(text='VARCHAR')})")
    connection.execute(f"COPY e FROM '{text}' (HEADER false, NULL '')")
    text.unlink()
    org = _largest_org(str(ledger))

    def ask(question: Question) -> object:
        sql = question.sql.format(range=_range(question)).replace(_DAY, "time_us // 86400000000").replace(":org", "?")
        sql = sql.replace("sum(status >= 400)", "count(*) FILTER (status >= 400)")
        return connection.execute(sql, [org] if "?" in sql else []).fetchall()

    return ask


def _report_upkeep(result: Result, size: int, found: _Upkeep, *, targets: bool) -> None:
    worst, usual = max(found.locks_ms), percentile(found.locks_ms, 99)
    rows = [
        ("seconds per million events, of a processor", f"{found.seconds:.1f}, {found.processor_seconds:.1f}"),
        ("write lock held, median / 99 % / longest, ms", f"{median(found.locks_ms):.1f} / {usual:.1f} / {worst:.1f}"),
        ("bytes per event, of that rollups", f"{found.bytes_per_event:.1f}, {found.rollup_bytes:.1f}"),
    ]
    result.tables.append(Table(f"upkeep, {size:,} events", ("", ""), rows))
    result.values[f"upkeep {size}"] = found._asdict() | {"locks_ms": [median(found.locks_ms), usual, worst]}
    if targets:
        result.targets += [
            Target("upkeep, s per million", _point(found.seconds), SECONDS_PER_MILLION),
            Target("write lock held, ms, 99 %", _point(usual), LOCK_MS),
        ]


def _report(
    result: Result, asked: dict[int, dict[str, list[Timing]]], others: dict[str, dict[str, list[Timing]]]
) -> None:
    largest = max(asked)
    rows = []
    for question in QUESTIONS:
        for zone in ("UTC", WHOLE_HOUR_ZONE, HALF_HOUR_ZONE):
            name = f"{question.name}, {zone}"
            cells = [_shown(found[name]) for found in asked.values()]
            beside = [_shown(found[question.name]) if found else "not installed" for found in others.values()]
            rows.append((name, *cells, *(beside if zone == "UTC" else [""] * len(beside))))
            result.values[name] = {str(size): _medians(found[name]) for size, found in asked.items()}
            limit = question.elsewhere_ms if zone == HALF_HOUR_ZONE else question.limit_ms
            if limit is not None:
                times = [us / 1000 for us in wall(asked[largest][name])]
                result.targets.append(Target(name, Estimate(median(times), min(times), max(times)), limit))
    for name, found in others.items():
        result.values[name] = {question: _medians(times) for question, times in found.items()}
    columns = ("ms by the clock / of a processor", *(f"{size:,} events" for size in asked), *others)
    result.tables.append(Table("questions, medians", columns, rows))


def _medians(times: list[Timing]) -> dict[str, float]:
    return {"ms": median(wall(times)) / 1000, "processor_ms": median(cpu(times)) / 1000}


def _shown(times: list[Timing]) -> str:
    return " / ".join(f"{value:.1f}" for value in _medians(times).values())


def _point(value: float) -> Estimate:
    return Estimate(value, value, value)
