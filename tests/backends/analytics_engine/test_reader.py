"""The reader, over HTTP, from the local engine on a real ledger."""

from __future__ import annotations

import re
import socket
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from math import isclose
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Thread
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import DECLARED, queries
from tests.query.strategies import events as random_events
from usagekit import Recorder, UsageEvent
from usagekit.backends.analytics_engine import Layout
from usagekit.backends.analytics_engine.client import SqlClient
from usagekit.backends.analytics_engine.reader import AnalyticsEngineReader
from usagekit.backends.analytics_engine.server import SqlServer
from usagekit.backends.analytics_engine.sql import run
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import ConfigurationError, QueryError, QueryTimeout
from usagekit.query import usage
from usagekit.testing import ReaderContract

if TYPE_CHECKING:
    from collections.abc import Iterator

    from usagekit.query import Reader, UsageQuery

LAYOUT = Layout.default(["project", "country"])


@contextmanager
def serving(path: Path, datasets: dict[str, Layout]) -> Iterator[SqlServer]:
    """Run a local engine on the ledger at `path`."""
    with SqlServer(str(path), datasets, token="secret") as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


class TestAnalyticsEngineReader(ReaderContract):
    """It answers as every reader does, but for what doubles cannot hold."""

    exact = False

    @pytest.fixture(autouse=True)
    def _servers(self, tmp_path: Path) -> Iterator[None]:
        self._home = tmp_path
        self._running: list[tuple[SqlServer, Thread, SqlClient]] = []
        yield
        for server, thread, client in self._running:
            client.close()
            server.shutdown()
            thread.join()
            server.server_close()

    def make_reader(self, events: list[UsageEvent]) -> Reader:
        path = self._home / f"usage-{len(self._running)}.db"
        recorded(path, events)
        server = SqlServer(str(path), {"usage-events": LAYOUT}, token="secret")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        client = SqlClient("account", "secret", url=server.url)
        self._running.append((server, thread, client))
        return AnalyticsEngineReader(client.ask, dataset="usage-events", layout=LAYOUT)


NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)

HOSTILE = (
    "' OR 1=1 --",
    "\\' OR 1=1 --",
    "\\",
    "'",
    "''",
    '"',
    "`",
    "x') OR (1=1",
    "a\\'b",
    "%",
    "_",
    "Zoë 🦊",
    "/* x */",
    "-- x",
    "; DROP TABLE events",
    "{x:String}",
    "$1",
    "\u2019",
    "\uff07",
    "a\nb",
)


def recorded(path: Path, events: list[UsageEvent], dimensions: tuple[str, ...] = ("project", "country")) -> None:
    """Put events into the ledger at `path`."""
    with Recorder(SQLiteBackend(path), dimensions=dimensions) as recorder:
        for event in events:
            assert recorder.record(event)


def test_hostile_values_stay_values(tmp_path: Path) -> None:
    """Each finds itself and nothing else, and none reaches the statement as it is."""
    path = tmp_path / "usage.db"
    recorded(path, [UsageEvent(time=NOON, user=value, attributes={"project": value}) for value in HOSTILE])
    sent: list[str] = []
    with serving(path, {"usage": LAYOUT}) as server, closing(SqlClient("a", "secret", url=server.url)) as client:

        def ask(statement: str) -> list[dict[str, Any]]:
            sent.append(statement)
            return client.ask(statement)

        reader = AnalyticsEngineReader(ask, dataset="usage", layout=LAYOUT)
        for value in HOSTILE:
            for name in ("user", "project"):
                report = usage(reader, measures="events", where={name: value})
                assert report.totals == {"events": 1}, value
        every = usage(reader, by="user", measures="events", where={"user": HOSTILE})

    assert len(every.rows) == len(HOSTILE)
    values = [text for statement in sent for text in re.findall(r"'([^']*)'", statement)]
    assert all(re.fullmatch(r"[A-Za-z0-9 _.,:;/@#+=~<>()\[\]{}|!?*&$^%-]*", text) for text in values)
    assert all(statement.count("'") % 2 == 0 for statement in sent)


@pytest.mark.parametrize("name", ['a"b', "a b", "", "a`b", "a'b", "ä", "a;b", "x" * 129])
def test_a_dataset_whose_name_cannot_be_one_is_refused(name: str) -> None:
    """Before anything is asked."""

    def never(statement: str) -> list[dict[str, Any]]:
        raise AssertionError(statement)

    reader = AnalyticsEngineReader(never, dataset=lambda: name, layout=LAYOUT)

    with pytest.raises(ConfigurationError, match="cannot be a dataset"):
        usage(reader)


def test_a_question_that_the_layout_cannot_answer_is_refused(tmp_path: Path) -> None:
    """It says which field is missing; other questions are answered."""
    path = tmp_path / "usage.db"
    recorded(path, [UsageEvent(time=NOON, user="ann", input_tokens=7, weight=2)])
    layout = Layout(index="user", blobs=["user"], doubles=["time", "weight", "input_tokens"])
    with serving(path, {"usage": layout}) as server, closing(SqlClient("a", "secret", url=server.url)) as client:
        reader = AnalyticsEngineReader(client.ask, dataset="usage", layout=layout)

        report = usage(reader, by=["user", "day"], measures=["events", "input_tokens", "last_seen"])
        with pytest.raises(QueryError, match="has no double with 'output_tokens'"):
            usage(reader, measures="total_tokens")
        with pytest.raises(QueryError, match="has no blob with 'org'"):
            usage(reader, measures="events", by="org")

    assert report.rows == [
        {
            "user": "ann",
            "day": "2026-11-20",
            "events": 2,
            "input_tokens": 14,
            "last_seen": "2026-11-20T12:00:00.000000+00:00",
        }
    ]
    assert not report.exact


def test_sampling_is_corrected(tmp_path: Path) -> None:
    """A row that stands for ten, as Analytics Engine's own sampling says it, counts ten times its own weight."""
    path = tmp_path / "usage.db"
    recorded(path, [UsageEvent(time=NOON, user="ann", latency_ms=5.0, input_tokens=3, weight=2)])
    with serving(path, {"usage": LAYOUT}) as server, closing(SqlClient("a", "secret", url=server.url)) as client:

        def sampled(statement: str) -> list[dict[str, Any]]:
            return client.ask(statement.replace("_sample_interval", "(_sample_interval * 10)"))

        reader = AnalyticsEngineReader(sampled, dataset="usage", layout=LAYOUT)
        report = usage(reader, measures=["events", "input_tokens", "latency_ms_avg", "latency_ms_p50", "users"])

    assert report.totals == {
        "events": 20,
        "input_tokens": 60,
        "latency_ms_avg": 5.0,
        "latency_ms_p50": 5.0,
        "users": 1,
    }


def test_a_service_that_is_too_slow_is_a_timeout(tmp_path: Path) -> None:
    """The question's own budget counts, not only that of the connection."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with closing(SqlClient("a", "secret", url=url)) as client:
            reader = AnalyticsEngineReader(client.ask, dataset="usage", layout=LAYOUT)

            with pytest.raises(QueryTimeout, match="larger timeout"):
                usage(reader, timeout=0.05)


def test_points_of_another_layout_version_are_left_out(tmp_path: Path) -> None:
    """Their slots may mean something else."""
    path = tmp_path / "usage.db"
    recorded(path, [UsageEvent(time=NOON)])
    other = Layout.default()
    other = Layout(index="user", blobs=other.blobs, doubles=[*other.doubles[:19], "total_tokens"])
    with serving(path, {"usage": other}) as server, closing(SqlClient("a", "secret", url=server.url)) as client:
        report = usage(AnalyticsEngineReader(client.ask, dataset="usage", layout=LAYOUT), measures="events")

    assert report.totals == {"events": 0}


def test_a_dataset_that_nobody_wrote_to_is_no_data(tmp_path: Path) -> None:
    """Zero, and no error."""
    path = tmp_path / "usage.db"
    recorded(path, [])
    with serving(path, {}) as server, closing(SqlClient("a", "secret", url=server.url)) as client:
        report = usage(AnalyticsEngineReader(client.ask, dataset="usage", layout=LAYOUT), by="user", measures="events")

    assert (report.rows, report.totals) == ([], {"events": 0})


def _close(one: object, other: object, name: str) -> bool:
    if isinstance(one, (int, float, Decimal)) and isinstance(other, (int, float, Decimal)):
        return isclose(one, other, rel_tol=0.016 if "_ms_p" in name else 1e-12)  # both are within 0.8 % there
    return one == other


@given(happened=st.lists(random_events(), max_size=12), asked=st.lists(queries(), min_size=1, max_size=4))
@settings(max_examples=8, deadline=None)
def test_answers_any_question_as_the_reference_does(happened: list[UsageEvent], asked: list[UsageQuery]) -> None:
    """The same keys, and the same numbers but for the last digits of doubles."""
    layout = Layout.default(DECLARED)
    reference = MemoryBackend(dimensions=DECLARED)
    reference.write(happened, batch_id="1")
    with TemporaryDirectory() as directory:
        path = Path(directory, "usage.db")
        recorded(path, happened, DECLARED)

        def ask(statement: str) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = run(statement, str(path), {"usage": layout}).json()["data"]
            return rows

        reader = AnalyticsEngineReader(ask, dataset="usage", layout=layout)
        for question in asked:
            plain = replace(question, order=None, limit=None)
            answer, expected = reader.read(plain), reference.read(plain)

            rows = {tuple(row[name] for name in plain.by): row for row in answer.rows}
            assert len(rows) == len(answer.rows) == len(expected.rows)
            for row in (*expected.rows, expected.totals):
                mine = answer.totals if row is expected.totals else rows[tuple(row[name] for name in plain.by)]
                wrong = {
                    name: (mine[name], value) for name, value in row.items() if not _close(mine[name], value, name)
                }
                assert wrong == {}
