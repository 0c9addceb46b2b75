"""The SQLite backend as a reader: the ledger, made readable."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import DECLARED, events, queries
from usagekit import Recorder, UsageEvent, UsageQuery
from usagekit.backends import sqlite
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, QueryTimeout, StorageError
from usagekit.query import usage
from usagekit.testing import ReaderContract

if TYPE_CHECKING:
    from usagekit.query import Reader, UsageReport

ESTIMATES = ("latency_ms_p50", "latency_ms_p95", "latency_ms_p99", "first_token_ms_p50")


def recorded(path: Path, happened: list[UsageEvent]) -> SQLiteBackend:
    """Give a reader of a ledger into which these events came the way all events come."""
    backend = SQLiteBackend(path)
    with Recorder(backend, dimensions=DECLARED) as recorder:
        assert [recorder.record(event) for event in happened] == [True] * len(happened)
        assert recorder.flush()
    return backend


class TestSQLiteReader(ReaderContract):
    """The SQLite backend answers as every reader does."""

    _directory: Path
    _made: int

    @pytest.fixture(autouse=True)
    def _in_a_directory(self, tmp_path: Path) -> None:
        self._directory = tmp_path
        self._made = 0

    def make_reader(self, events: list[UsageEvent]) -> Reader:
        self._made += 1
        return recorded(self._directory / f"{self._made}.db", events)


def _comparable(report: UsageReport) -> tuple[object, ...]:
    return (
        [{name: value for name, value in row.items() if name not in ESTIMATES} for row in report.rows],
        {name: value for name, value in report.totals.items() if name not in ESTIMATES},
        report.exact,
        report.complete_from,
    )


def _estimates(report: UsageReport) -> list[float | None]:
    return [row.get(name) for row in (*report.rows, report.totals) for name in ESTIMATES]


@given(happened=st.lists(events(), max_size=12), asked=st.lists(queries(), min_size=1, max_size=8))
@settings(max_examples=30, deadline=None)
def test_answers_any_question_as_the_reference_does(happened: list[UsageEvent], asked: list[UsageQuery]) -> None:
    """Whatever happened and whatever is asked, both readers agree; percentiles are of the same buckets."""
    reference = MemoryBackend(dimensions=DECLARED)
    reference.write(happened, batch_id="1")
    with TemporaryDirectory() as directory:
        ledger = recorded(Path(directory, "usage.db"), happened)

        for question in asked:
            answer, expected = ledger.read(question), reference.read(question)

            assert _comparable(answer) == _comparable(expected)
            assert _estimates(answer) == _estimates(expected)


@given(happened=st.lists(events(), max_size=12), asked=st.lists(queries(), min_size=1, max_size=8))
@settings(max_examples=15, deadline=None)
def test_gives_the_events_that_an_answer_counts(happened: list[UsageEvent], asked: list[UsageQuery]) -> None:
    """Those of the range and the filters, in import order, as they were recorded, and no more than the limit."""
    with TemporaryDirectory() as directory:
        ledger = recorded(Path(directory, "usage.db"), happened)

        for question in asked:
            chosen = list(ledger.events(question))

            everything = MemoryBackend(dimensions=DECLARED)
            everything.write(chosen, batch_id="1")
            if question.limit is None:
                assert _comparable(everything.read(question)) == _comparable(ledger.read(question))
            assert len(chosen) <= (question.limit or len(happened))
            recorded_ones = iter([replace(event, id="") for event in happened])
            assert all(replace(event, id="") in recorded_ones for event in chosen)  # each search goes on from the last


def test_events_are_given_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each once, whatever is imported meanwhile; the limit is over all pages, the range starts anywhere."""
    monkeypatch.setattr(sqlite, "_PAGE_EVENTS", 7)
    noon = datetime(2026, 11, 20, 12, tzinfo=UTC)
    happened = [UsageEvent(event=f"tick {n}", time=noon + timedelta(seconds=n)) for n in range(600)]
    backend = recorded(tmp_path / "usage.db", happened)

    given = []
    for event in backend.events(UsageQuery.build()):
        given.append(event.event)
        if len(given) == 3:
            recorded(tmp_path / "usage.db", [UsageEvent(event="later")])

    assert given == [event.event for event in happened]
    limited = backend.events(UsageQuery.build(start=noon + timedelta(seconds=250), limit=20))
    assert [event.event for event in limited] == [f"tick {n}" for n in range(250, 270)]
    assert list(backend.events(UsageQuery.build(origin="backfill"))) == []


def test_a_read_that_takes_too_long_is_interrupted(tmp_path: Path) -> None:
    """In the middle of SQLite's work; here it would never end. Nobody else is disturbed."""
    backend = recorded(tmp_path / "usage.db", [UsageEvent(event="tick")])
    with closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        connection.execute("ALTER TABLE blocks RENAME TO finite")
        connection.execute(
            "CREATE VIEW blocks AS WITH RECURSIVE endless (block, base_us, first_us, last_us) AS"
            " (SELECT 0, 0, 0, 0 UNION ALL SELECT block, base_us, first_us, last_us FROM endless)"
            " SELECT * FROM endless"
        )

    with pytest.raises(QueryTimeout, match=r"longer than its time budget of 0\.05 s"):
        usage(backend, by="day", timeout=0.05)

    with closing(sqlite3.connect(tmp_path / "usage.db")) as connection:
        connection.execute("DROP VIEW blocks")
        connection.execute("ALTER TABLE finite RENAME TO blocks")
    assert usage(backend, measures="events", timeout=60).totals == {"events": 1}


def test_reading_cannot_write(tmp_path: Path) -> None:
    """Each read has a connection of its own, and SQLite itself keeps that from changing anything."""
    backend = recorded(tmp_path / "usage.db", [])

    with (
        closing(backend._connection()) as connection,
        pytest.raises(sqlite3.OperationalError, match="readonly"),
    ):
        connection.execute("DELETE FROM events")


def test_without_a_ledger_it_says_where_it_looked(tmp_path: Path) -> None:
    """Reading makes no file."""
    backend = SQLiteBackend(tmp_path / "none.db")

    with pytest.raises(StorageError, match=r"none\.db'.*does not exist; give the path that the app's recorder has"):
        usage(backend)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///usage.db", Path("usage.db")),
        ("sqlite:////var/lib/usage.db", Path("/var/lib/usage.db")),
        ("sqlite:///a%20b/%C3%BC.db", Path("a b/ü.db")),
    ],
)
def test_is_made_from_a_url(url: str, path: Path) -> None:
    """Three slashes are relative, four absolute."""
    assert SQLiteBackend.from_url(url).ledger_path == str(path.absolute())


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///", "sqlite://host/usage.db", "sqlite:///usage.db?mode=ro"])
def test_other_urls_are_refused(url: str) -> None:
    """A host or an option would be ignored silently."""
    with pytest.raises(ConfigurationError, match="names no file"):
        SQLiteBackend.from_url(url)


@pytest.mark.parametrize("path", ["", ":memory:"])
def test_a_path_that_is_no_file_is_refused(path: str) -> None:
    """Journals and other processes need a place."""
    with pytest.raises(ConfigurationError, match="is no file"):
        SQLiteBackend(path)


def test_its_dimensions_are_those_that_any_recorder_declared(tmp_path: Path) -> None:
    """Workers of one ledger may declare different ones; who comes later only adds."""
    backend = SQLiteBackend(tmp_path / "usage.db")

    Recorder(backend, dimensions=["project"]).close()
    Recorder(backend, dimensions=["country", "project"]).close()

    assert backend.dimensions == ("project", "country")
