"""Upkeep of the rollups: nothing is counted twice, whatever dies, and a rebuild gives the same."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.processes import said_by
from tests.support.rolled import cells, roll_up, write_events
from tests.support.stores import eventually, query
from usagekit import Recorder, UsageEvent
from usagekit._store import engine
from usagekit._store.retention import Retention, purge_until_done
from usagekit._store.rollups import Rollups
from usagekit._store.schema import Transaction, connect
from usagekit._store.tiers import FAMILIES
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.errors import StorageError
from usagekit.event import from_microseconds
from usagekit.query import UsageQuery

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable
    from pathlib import Path


ALL_KINDS = [
    UsageQuery.build(by=("event", "day"), tz="Europe/Berlin", measures=("events", "total_tokens", "latency_ms_max")),
    UsageQuery.build(by=("user", "day"), tz="Asia/Kolkata", measures=("events", "cost_usd")),
    UsageQuery.build(by="user", measures=("events", "total_tokens"), limit=2, order="-total_tokens"),
    UsageQuery.build(by="model", measures=("events", "users", "latency_ms_p95", "last_seen")),
    UsageQuery.build(by=("org", "week"), measures=("events", "failed")),
    UsageQuery.build(by="project", measures=("events", "response_bytes"), dimensions=["project"]),
    UsageQuery.build(by="day", measures=("latency_ms_p50", "first_token_ms_p50", "users")),
]
"""One for each kind of rollup, and some for several."""


class DiedError(Exception):
    """Ends a step."""


class Dying(Rollups):
    """Dies when it comes to add to a family of this number."""

    def __init__(self, connection: sqlite3.Connection, family: int) -> None:
        super().__init__(connection, at_once=0)
        self._last = family

    def _add_family(self, family: int, *args: Any) -> None:
        if family == self._last:
            raise DiedError
        super()._add_family(family, *args)


def roll_up_to(path: Path, events: int) -> None:
    """Bring the rollups up to date as far as this event."""
    with closing(connect(str(path))) as connection:
        assert Rollups(connection).step(events) == events


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


@pytest.mark.parametrize("families", range(1, len(FAMILIES)))
def test_a_batch_that_some_families_hold_is_counted_once(path: Path, families: int) -> None:
    """Every question has its answer at that moment, and whoever comes next brings the batch to its end."""
    happened = write_events(path, 300)
    reference = MemoryBackend(dimensions=["project"])
    reference.write(happened, batch_id="1")
    roll_up_to(path, 200)
    backend = SQLiteBackend(path)

    with closing(connect(str(path))) as connection, pytest.raises(DiedError):
        Dying(connection, families).step(70)

    for question in ALL_KINDS:
        answer, expected = backend._answer(question, raw_enough=0), reference.read(question)
        assert (answer.rows, answer.totals) == (expected.rows, expected.totals)
    assert query(path, "SELECT value FROM counters WHERE name = 'batch_families'") == [(families,)]
    roll_up(path, limit=1000)
    found = cells(path)
    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)
    assert cells(path) == found
    assert sum(row[2] for row in found["quarters"]) == sum(event.weight for event in happened)


class Overtaken(Rollups):
    """Has something happen between what it works out and what it adds."""

    def __init__(self, connection: sqlite3.Connection, happen: Callable[[], object]) -> None:
        super().__init__(connection, at_once=0)
        self._happen = happen

    def _take_batch(self, *args: Any, **kwargs: Any) -> int:
        bound = super()._take_batch(*args, **kwargs)
        self._happen()
        return bound


def _reprice(connection: sqlite3.Connection) -> None:
    with Transaction(connection):
        Rollups(connection).fold_rows([1], -1)
        Rollups(connection).fold_rows([1], 1)


def _begin_another_batch(connection: sqlite3.Connection) -> None:
    with pytest.raises(DiedError):
        Dying(connection, 1).step(30)


def _forget_old_rollups(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE counters SET value = value + 1 WHERE name = 'rollups_from_us'")


def _lay_out_anew(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA user_version=99")


@pytest.mark.parametrize(
    "happen",
    [
        _reprice,
        _begin_another_batch,
        _forget_old_rollups,
        _lay_out_anew,
        lambda connection: Rollups(connection).begin_rebuild(),
        lambda connection: Rollups(connection).step(100),
    ],
    ids=["reprice", "another batch", "rollups purged", "newer schema", "rebuild", "same batch"],
)
def test_a_batch_that_was_overtaken_changes_nothing(path: Path, happen: Callable[[sqlite3.Connection], object]) -> None:
    """What was worked out before is not added to what is there now."""
    write_events(path, 300)
    roll_up_to(path, 100)
    found: list[object] = []

    def happening() -> None:
        with closing(connect(str(path))) as other:
            happen(other)
        found.append(cells(path))

    with closing(connect(str(path))) as connection:
        Overtaken(connection, happening).step(100)

    assert [cells(path)] == found


def test_a_process_that_is_behind_leaves_the_rollups_alone(path: Path) -> None:
    """It would not fill the tables it does not know."""
    write_events(path, 60)
    roll_up_to(path, 20)
    before = cells(path)
    with closing(connect(str(path))) as connection:
        rollups = Rollups(connection)
        assert rollups.is_due(40)
        assert not rollups.is_due(41)

        query(path, "PRAGMA user_version=99")

        with pytest.raises(StorageError, match=r"is of schema 99 now, and this process knows \d+: it leaves"):
            rollups.step(20)
    assert cells(path) == before
    # One of schema 5 does not look, and needs this for whatever it changes.
    assert query(path, "SELECT * FROM counters WHERE name = 'rolled_version'") == []


def test_rows_change_and_a_rebuild_begins_amid_a_batch(path: Path) -> None:
    """What some families hold is brought to the others first."""
    write_events(path, 300)
    roll_up_to(path, 100)
    with closing(connect(str(path))) as connection:
        with pytest.raises(DiedError):
            Dying(connection, 2).step(100)
        rollups = Rollups(connection)
        calls = [row[0] for row in connection.execute("SELECT seq FROM events WHERE cost_nano IS NOT NULL")]

        with Transaction(connection):
            rollups.fold_rows(calls, -1)
            connection.execute("UPDATE events SET cost_nano = 7 WHERE cost_nano IS NOT NULL")
            rollups.fold_rows(calls, 1)

        with pytest.raises(DiedError):
            Dying(connection, 3).step(50)
        is_waiting = [rollups.is_due(events) for events in (100, 101)]
        rollups.begin_rebuild()
    roll_up(path)
    rebuilt = cells(path)
    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)
    assert is_waiting == [True, False]
    assert cells(path) == rebuilt
    assert query(path, "SELECT sum(costed) * 7 = sum(cost) FROM quarters") == [(1,)]


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


@pytest.mark.parametrize("refilled", [False, True])
def test_prices_change_while_cells_of_purged_weeks_are_kept(path: Path, *, refilled: bool) -> None:
    """A rebuild begins on the first Monday of which all is there; what is earlier, and not purged, changes with it."""
    write_events(path, 600, days=60)
    roll_up(path)
    assert purge_until_done(str(path), Retention(days=32)) == 255
    with closing(connect(str(path))) as connection:
        rollups = Rollups(connection)
        rollups.begin_rebuild()
        while refilled and query(path, "SELECT value FROM counters WHERE name = 'rebuild_state'") != [(2,)]:
            assert rollups.step(50)
        calls = [row[0] for row in connection.execute("SELECT seq FROM events WHERE cost_nano IS NOT NULL")]
        with Transaction(connection):
            rollups.fold_rows(calls, -1)
            connection.execute("UPDATE events SET cost_nano = cost_nano + 1 WHERE cost_nano IS NOT NULL")
            rollups.fold_rows(calls, 1)
    roll_up(path)

    backend = SQLiteBackend(path)
    (since,) = query(path, "SELECT value FROM counters WHERE name = 'raw_from_us'")[0]
    asked = UsageQuery.build(by="day", measures=("events", "cost_usd"), start=from_microseconds(since))
    rolled, raw = (backend._answer(asked, raw_enough=enough) for enough in (0, 2**62))
    assert query(path, "SELECT value FROM counters WHERE name = 'rolled_seq'") == [(600,)]
    assert rolled.rows == raw.rows
    assert (rolled.source, raw.source) == ("sqlite+quarters+type_days", "sqlite")


def test_sums_beyond_64_bits_stay_exact(path: Path) -> None:
    """Events may weigh a billion, and have as many tokens as a double can count."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for _ in range(5):
            recorder.record(UsageEvent(input_tokens=2**53 - 1, weight=10**9, user="ann"))
    roll_up(path, limit=2)

    report = SQLiteBackend(path)._answer(UsageQuery.build(by="user", measures="input_tokens"), raw_enough=0)

    assert report.totals == {"input_tokens": 5 * 10**9 * (2**53 - 1)}
    assert report.source == "sqlite+member_weeks"


@pytest.mark.parametrize("by", [("org", "event"), ("org", "event", "day"), ("model", "day")])
def test_sums_beyond_64_bits_stay_exact_at_the_edges_of_days(path: Path, by: tuple[str, ...]) -> None:
    """Where a cell is taken away from a day that has it too much."""
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(300):
            event = UsageEvent(
                time=begin + timedelta(minutes=20 * n), org="acme", input_tokens=2**53 - 1 - n, weight=10**9
            )
            assert recorder.record(event)
    roll_up(path)
    asked = UsageQuery.build(
        by=by, measures="input_tokens", tz="Europe/Berlin", start=date(2026, 1, 2), end=date(2026, 1, 3)
    )

    rolled, raw = (SQLiteBackend(path)._answer(asked, raw_enough=enough) for enough in (0, 2**62))

    assert (rolled.rows, rolled.totals) == (raw.rows, raw.totals)


def test_a_batch_that_is_taken_over_does_not_count_twice_towards_64_bits(path: Path) -> None:
    """Otherwise its sums would be kept as what they are not going to be read as."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for _ in range(300):
            assert recorder.record(UsageEvent(model="m", org="acme", input_tokens=2**53 - 1))
    with closing(connect(str(path))) as connection, pytest.raises(DiedError):
        Dying(connection, 1).step(1000)

    roll_up(path)

    for by in ("model", "org", "user"):
        asked = UsageQuery.build(by=by, measures=("events", "input_tokens"))
        answer = SQLiteBackend(path)._answer(asked, raw_enough=0)
        assert answer.totals == {"events": 300, "input_tokens": 300 * (2**53 - 1)}, answer.source


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
