"""Bytes per event in the ledger, rollups and everything else included."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Estimate, Result, Setting, Table, Target
from benchmarks.traffic import Traffic, write_journals
from usagekit._store.ledger import Importer
from usagekit._store.schema import connect, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usagekit import UsageEvent

_SERIES: dict[str, tuple[Callable[[Traffic, int], Iterable[UsageEvent]], int]] = {
    "requests": (Traffic.requests, 40),
    "full model calls": (Traffic.calls, 48),
}


def run(setting: Setting) -> Result:
    """Import a million events of each kind, at the rate of 10 million in 90 days."""
    result = Result()
    count = setting.scaled(1_000_000, 50_000)
    for name, (events, limit) in _SERIES.items():
        home = Path(setting.directory) / name.replace(" ", "-")
        home.mkdir()
        written = write_journals(str(home / "journals"), events(Traffic(), count)) / count
        path = home / "usage.db"
        prepare(str(path))
        with closing(Importer(str(path), str(home / "journals"))) as importer:
            while importer.step():
                pass
            while importer.roll_up():
                pass
        imported, tables = _checkpointed(path)
        assert imported == count
        size = path.stat().st_size / count
        with closing(connect(str(path))) as connection:
            connection.execute("VACUUM")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        vacuumed = path.stat().st_size / count
        result.targets.append(Target(f"{name}: bytes per event", Estimate(size, size, size), limit))
        rows = [("journal", f"{written:.1f}"), ("ledger", f"{size:.1f}"), ("ledger after VACUUM", f"{vacuumed:.1f}")]
        rows += [(f"  {table}", f"{used / count:.2f}") for table, used in tables.items() if used / count >= 0.01]
        result.tables.append(Table(f"{name}: bytes per event, {count:,} events", ("", "bytes"), rows))
        result.values[name] = {
            "events": count,
            "journal_bytes": written,
            "ledger_bytes": size,
            "ledger_bytes_vacuumed": vacuumed,
            "tables": {table: used / count for table, used in tables.items()},
        }
    return result


def _checkpointed(path: Path) -> tuple[int, dict[str, int]]:
    """Move the log into the file; give the number of events and each table's bytes, where SQLite can tell."""
    with closing(connect(str(path))) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        count: int = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        options = {row[0] for row in connection.execute("PRAGMA compile_options")}
        if "ENABLE_DBSTAT_VTAB" not in options:
            return count, {}
        pages = "SELECT name, sum(pgsize) FROM dbstat GROUP BY name ORDER BY 2 DESC"
        return count, dict(connection.execute(pages))
