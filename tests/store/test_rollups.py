"""Upkeep of the rollups: nothing is counted twice, whatever dies, and a rebuild gives the same."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from tests.support.processes import said_by
from tests.support.rolled import cells, roll_up, write_events
from tests.support.stores import eventually, query
from usagekit import Recorder, UsageEvent
from usagekit._store import engine
from usagekit._store.rollups import Rollups
from usagekit._store.schema import Transaction, connect
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_processes_killed_while_they_roll_up_count_each_event_once(path: Path) -> None:
    """Several at once, killed at random moments, leave the same tables as one that is left alone."""
    write_events(path, 1500)

    killed = int(said_by("rollers.py", path, 3).split()[0])
    roll_up(path, limit=40)
    found = cells(path)

    assert killed > 0
    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)
    assert cells(path) == found
    assert sum(row[2] for row in found["quarters"]) == query(path, "SELECT sum(events) FROM member_weeks")[0][0]


def test_many_small_steps_give_what_one_large_step_gives(path: Path, tmp_path: Path) -> None:
    """However the events are cut into transactions."""
    other = tmp_path / "other.db"
    write_events(path, 300)
    write_events(other, 300)

    roll_up(path, limit=7)
    roll_up(other, limit=1000)

    assert {name: sorted(map(len, rows)) for name, rows in cells(path).items()} == {
        name: sorted(map(len, rows)) for name, rows in cells(other).items()
    }
    assert cells(path)["quarters"] == cells(other)["quarters"]
    assert cells(path)["latency_hours"] == cells(other)["latency_hours"]


def test_a_rebuild_can_be_asked_for_twice_and_is_right_at_every_step(path: Path) -> None:
    """While it goes on, every question has the same answer as before."""
    happened = write_events(path, 400)
    reference = MemoryBackend(dimensions=["project"])
    reference.write(happened, batch_id="1")
    roll_up(path)
    before = cells(path)
    backend = SQLiteBackend(path)
    questions = [
        UsageQuery.build(by=("user", "day"), tz="Asia/Kolkata", measures=("events", "cost_usd")),
        UsageQuery.build(by="model", measures=("events", "users", "latency_ms_p95", "last_seen")),
    ]
    steps = 0
    with closing(connect(str(path))) as connection:
        rollups = Rollups(connection)
        rollups.begin_rebuild()
        rollups.begin_rebuild()

        while rollups.step(60):
            steps += 1
            for question in questions:
                answer, expected = backend._answer(question, raw_enough=0), reference.read(question)
                assert (answer.rows, answer.totals) == (expected.rows, expected.totals)

    assert steps > 6
    assert cells(path) == before


def test_rows_are_taken_away_and_come_back_changed(path: Path) -> None:
    """As a change of prices does it; sums and dictionaries follow."""
    write_events(path, 200)
    roll_up(path)
    with closing(connect(str(path))) as connection:
        rollups = Rollups(connection)
        calls = [row[0] for row in connection.execute("SELECT seq FROM events WHERE cost_nano IS NOT NULL")]

        with Transaction(connection):
            rollups.fold_rows(calls, -1)
            connection.execute("UPDATE events SET cost_nano = NULL WHERE cost_nano < 500000")
            connection.execute("UPDATE events SET cost_nano = 7 WHERE cost_nano IS NOT NULL")
            rollups.fold_rows(calls, 1)

    changed = cells(path)
    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)
    assert changed == cells(path)
    assert 0 < query(path, "SELECT sum(cost) FROM quarters")[0][0] < 7 * 11 * len(calls)


def test_sums_beyond_64_bits_stay_exact(path: Path) -> None:
    """Events may weigh a billion, and have as many tokens as a double can count."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for _ in range(5):
            recorder.record(UsageEvent(input_tokens=2**53 - 1, weight=10**9, user="ann"))
    roll_up(path, limit=2)

    report = SQLiteBackend(path)._answer(UsageQuery.build(by="user", measures="input_tokens"), raw_enough=0)

    assert report.totals == {"input_tokens": 5 * 10**9 * (2**53 - 1)}
    assert report.source == "sqlite+member_weeks"


def test_a_recorder_rolls_up_by_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the importing thread, without a question or a flush."""
    monkeypatch.setattr(engine, "ROLL_UP_SECONDS", 0.05)
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.track("tick")

        assert eventually(lambda: query(path, "SELECT events FROM quarters") == [(1,)])


def test_flush_brings_the_rollups_up_to_date(path: Path) -> None:
    """And status says how far they are."""
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.track("tick")

        assert recorder.flush()

        assert recorder.status()["rollups"] == {"lag": 0, "rebuilding": False}
        assert list(recorder.status()["jobs"]) == ["last_rollup"]
