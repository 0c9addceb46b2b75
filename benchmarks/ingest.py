"""From the journal into the ledger, beside the bare insert of the rows that come out."""

from __future__ import annotations

import shutil
import sqlite3
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Result, Setting, Stopwatch, Table, Target, Timing, cpu, interleaved, ratio_of_each, wall
from benchmarks.traffic import Traffic, write_journals
from usagekit._store.ledger import Importer
from usagekit._store.schema import connect, prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from usagekit import UsageEvent

THROUGHPUT = 0.35  # of the bare insert's
BATCH = 1000

_SERIES: dict[str, Callable[[Traffic, int], Iterable[UsageEvent]]] = {
    "requests": Traffic.requests,
    "model calls": Traffic.calls,
}


def run(setting: Setting) -> Result:
    """Measure requests and model calls: into an empty ledger, and into one that knows the users."""
    result = Result()
    count = setting.scaled(100_000, 10_000)
    for name, events in _SERIES.items():
        bench = _Ingest(Path(setting.directory) / name.replace(" ", "-"), partial(events, Traffic()), count)
        variants: dict[str, Callable[[], Timing]] = {
            "executemany": bench.insert,
            "executemany2": bench.insert,
            "import, empty ledger": partial(bench.bring_in, known=False),
            "import, known users": partial(bench.bring_in, known=True),
        }
        timings = interleaved(variants, setting.scaled(10, 3))
        _report(result, name, {key: [each.per(count) for each in found] for key, found in timings.items()})
    return result


class _Ingest:
    """Journals of two days of the same app, and the rows that the second one becomes."""

    def __init__(self, home: Path, events: Callable[[int], Iterable[UsageEvent]], count: int) -> None:
        home.mkdir()
        self._home = home
        for day in ("first", "second"):
            write_journals(str(home / day), events(count))
        path, importer = self._fresh(known=True)
        _bring_in(importer)
        importer.close()
        connection = connect(path)
        self._rows: list[Any] = connection.execute("SELECT * FROM events WHERE seq > ?", (count,)).fetchall()
        connection.close()
        assert len(self._rows) == count
        self._insert = f"INSERT INTO events VALUES ({','.join('?' * len(self._rows[0]))})"

    def insert(self) -> Timing:
        path = self._empty()
        connection = connect(path)
        with Stopwatch() as watch:
            for start in range(0, len(self._rows), BATCH):
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany(self._insert, self._rows[start : start + BATCH])
                connection.execute("COMMIT")
        connection.close()
        return watch.timing

    def bring_in(self, *, known: bool) -> Timing:
        path, importer = self._fresh(known=known)
        with Stopwatch() as watch:
            _bring_in(importer)
        importer.close()
        with sqlite3.connect(path) as connection:
            imported = connection.execute("SELECT count(*) FROM events").fetchone()[0]
        assert imported == len(self._rows) * (2 if known else 1)
        return watch.timing

    def _fresh(self, *, known: bool) -> tuple[str, Importer]:
        path = self._empty()
        journals = self._home / "journals"
        if known:
            shutil.copytree(self._home / "first", journals)
            importer = Importer(path, str(journals))
            _bring_in(importer)
        else:
            importer = Importer(path, str(journals))
        shutil.copytree(self._home / "second", journals, dirs_exist_ok=True)
        return path, importer

    def _empty(self) -> str:
        shutil.rmtree(self._home / "journals", ignore_errors=True)
        for file in self._home.glob("usage.db*"):
            file.unlink()
        path = str(self._home / "usage.db")
        prepare(path)
        return path


def _bring_in(importer: Importer) -> None:
    while importer.step():
        pass


def _report(result: Result, series: str, timings: dict[str, list[Timing]]) -> None:
    base = timings["executemany"]
    rows = []
    for name, each in timings.items():
        throughput = ratio_of_each(wall(base), wall(each))
        processor = ratio_of_each(cpu(base), cpu(each))
        rows.append((name, f"{median(wall(each)):.2f}", str(throughput), f"{median(cpu(each)):.2f}", str(processor)))
        result.values[f"{series}: {name}"] = {
            "us_per_event": median(wall(each)),
            "throughput": throughput,
            "throughput_by_processor_time": processor,
        }
        if name.startswith("import"):
            # A busy disk flatters the import, which waits for it less often: processor time tells.
            result.targets += [
                Target(f"{series}: {name}, x executemany", throughput, THROUGHPUT, at_least=True),
                Target(f"{series}: {name}, by processor time", processor, THROUGHPUT, at_least=True),
            ]
    columns = ("", "us per event", "throughput (95 %)", "processor us", "by processor time (95 %)")
    result.tables.append(Table(f"{series}: throughput beside executemany of {BATCH} rows", columns, rows))
