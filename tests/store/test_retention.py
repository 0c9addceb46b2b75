"""Giving old events up: in whole blocks, never too early, and rollups still count them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.rolled import NOW, cells, roll_up, write_events
from tests.support.stores import eventually, query
from usagekit import Recorder, UsageEvent
from usagekit._store import retention
from usagekit._store.engine import journals_of
from usagekit._store.ledger import Importer
from usagekit._store.retention import Purge, Retention, purge_until_done
from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect, prepare
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.cli import main
from usagekit.errors import ConfigurationError
from usagekit.event import to_microseconds
from usagekit.query import UsageQuery, statement, usage

if TYPE_CHECKING:
    from pathlib import Path

    from usagekit.query import UsageReport


def ask(path: Path, **options: object) -> UsageReport:
    """Ask with rollups, however few the events are."""
    return SQLiteBackend(path)._answer(UsageQuery.build(**options), raw_enough=0)  # type: ignore[arg-type]


def test_rollups_still_answer_what_was_purged(path: Path) -> None:
    """The same numbers as before, and nothing is missing; only raw questions say from when on they are complete."""
    write_events(path, 6000)
    roll_up(path)
    by_day = {"by": ("org", "day"), "measures": ("events", "cost_usd", "users")}
    before, routes = ask(path, **by_day), ask(path, by="route", measures="events", days=30)
    size = path.stat().st_size

    removed = purge_until_done(str(path), Retention(days=90))

    assert 2500 < removed <= 6000 * 110 / 200
    assert query(path, "SELECT count(*) FROM events") == [(6000 - removed,)]
    after = ask(path, **by_day)
    assert (after.rows, after.totals, after.complete_from) == (before.rows, before.totals, None)
    raw = ask(path, by=("user", "model"), measures="events")
    assert raw.complete_from is not None
    assert timedelta(days=89.9) < datetime.now(UTC) - raw.complete_from < timedelta(days=90.1)
    assert ask(path, by="route", measures="events", days=30).rows == routes.rows
    assert ask(path, by=("user", "model"), measures="events", days=30).complete_from is None
    assert path.stat().st_size < size


def test_nothing_goes_before_rollups_and_sinks_had_it(path: Path) -> None:
    """A sink that never came holds everything back."""
    write_events(path, 600)
    assert purge_until_done(str(path), Retention(days=1)) == 0

    roll_up(path)
    query(path, "INSERT INTO sinks (name, delivered_seq, delivered) VALUES ('warehouse', 300, 300)")

    assert purge_until_done(str(path), Retention(days=1)) == 255  # of the first block, which has no sequence number 0
    query(path, "UPDATE sinks SET delivered_seq = 600")
    assert purge_until_done(str(path), Retention(days=1)) == 256


def test_a_late_event_goes_with_its_block(path: Path) -> None:
    """It came among new ones; a new one among old ones keeps them."""
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(767):
            old = NOW - timedelta(days=100)
            recorder.record(UsageEvent(event="tick", time=NOW if n == 300 else old))
    roll_up(path)

    assert purge_until_done(str(path), Retention(days=50)) == 511

    assert query(path, "SELECT min(seq), max(seq) FROM events") == [(256, 511)]


def test_two_purges_at_once_remove_each_event_once(path: Path) -> None:
    """Beside a recorder that goes on."""
    write_events(path, 6000)
    roll_up(path)
    expected = cells(path)

    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(purge_until_done, str(path), Retention(days=100, rollup_days=9999)) for _ in range(3)]
        removed = sum(job.result() for job in jobs)

    assert query(path, "SELECT value FROM counters WHERE name = 'purged'") == [(removed,)]
    assert query(path, "SELECT count(*) FROM events") == [(6000 - removed,)]
    assert cells(path) == expected


def test_old_rollups_go_when_asked_for(path: Path) -> None:
    """In whole weeks; what they had counted is said to be missing."""
    write_events(path, 3000)
    roll_up(path)

    purge_until_done(str(path), Retention(days=30, rollup_days=100))

    report = ask(path, by="org", measures="events")
    assert report.complete_from is not None
    assert timedelta(days=100) <= datetime.now(UTC) - report.complete_from < timedelta(days=107.1)
    assert report.complete_from.weekday() == 0
    assert ask(path, by="org", measures="events", days=90).complete_from is None


def test_a_rebuild_keeps_what_was_purged(path: Path) -> None:
    """Cells whose raw rows are gone stay as they are."""
    write_events(path, 3000)
    roll_up(path)
    expected = cells(path)
    purge_until_done(str(path), Retention(days=60))

    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path, limit=500)

    assert cells(path) == expected


def test_a_purge_that_was_killed_goes_on(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is missing is said from the first removal on."""
    monkeypatch.setattr(retention, "BATCH_SECONDS", 0.0)  # a transaction for every block
    write_events(path, 3000)
    roll_up(path)
    with closing(connect(str(path))) as connection:
        assert Purge(connection, *Retention(days=20).limits_us()).step()

    assert ask(path, by=("user", "model"), measures="events").complete_from is not None
    left = query(path, "SELECT count(*) FROM events")[0][0]
    assert purge_until_done(str(path), Retention(days=20)) > 0
    assert query(path, "SELECT count(*) FROM events")[0][0] < left


def test_a_recorder_purges_by_itself(path: Path) -> None:
    """With `retention_days`, on the importing thread."""
    write_events(path, 1000)
    roll_up(path)

    with Recorder(SQLiteBackend(path, retention_days=50)) as recorder:
        recorder.track("now")

        assert eventually(lambda: query(path, "SELECT count(*) FROM events")[0][0] < 600)
        assert usage(recorder, by="org", measures="events").totals["events"] > 1000
        assert eventually(lambda: "last_purge" in recorder.status()["jobs"])


def test_a_new_ledger_can_be_purged(path: Path) -> None:
    """Before any journal was written, when there is no folder for them yet."""
    prepare(str(path))

    with closing(Importer(str(path), journals_of(str(path)))) as importer:
        assert importer.purge(Retention(days=1)) == 0


def test_the_environment_says_how_long(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the backend does; nonsense is refused."""
    monkeypatch.setenv("USAGEKIT_RETENTION_DAYS", "90")

    assert SQLiteBackend(path).retention == (90, None)
    assert SQLiteBackend(path, retention_days=30, rollup_retention_days=400).retention == (30, 400)
    monkeypatch.setenv("USAGEKIT_RETENTION_DAYS", "a while")
    with pytest.raises(ConfigurationError, match="'a while' is no number of days; use a whole number above 0"):
        SQLiteBackend(path)


@pytest.mark.parametrize("days", [{"retention_days": 0}, {"rollup_retention_days": 5}])
def test_days_that_cannot_be_are_refused(path: Path, days: dict[str, int]) -> None:
    """Rollups outlive events."""
    with pytest.raises(ConfigurationError, match=r"give a number of days|give a smaller retention_days"):
        SQLiteBackend(path, **days)


def test_a_purged_month_is_not_billed_as_whole(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines by route need the events themselves; lines by event type are still all there."""
    month = (NOW - timedelta(days=100)).strftime("%Y-%m")
    with Recorder(SQLiteBackend(path)) as recorder:
        for n in range(600):
            recorder.track("tick", org="acme", route="GET /", time=NOW - timedelta(days=100), quantity=n)
    roll_up(path)
    assert statement(SQLiteBackend(path), org="acme", month=month).closed

    assert purge_until_done(str(path), Retention(days=1)) > 0

    by_route = statement(SQLiteBackend(path), org="acme", month=month)
    by_event = statement(SQLiteBackend(path), org="acme", month=month, by="event")
    assert (by_route.closed, by_route.totals["events"] < 600) == (False, True)
    assert (by_event.closed, by_event.totals["events"]) == (True, 600)
    code = main(["statement", "--db", str(path), "--org", "acme", "--month", month, "--format", "csv"])
    assert code == 0
    assert f"events of {month} were purged" in capsys.readouterr().err


def test_a_purge_that_waited_for_a_rebuild_to_begin_leaves_it_alone(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It removes nothing, and does not say that it did."""
    write_events(path, 600, days=60)
    roll_up(path)
    with closing(connect(str(path))) as connection, closing(connect(str(path))) as other:
        purge = Purge(connection, to_microseconds(datetime.now(UTC) - timedelta(days=32)))
        look = purge._old_blocks

        def seen_before(limit: int) -> list[int]:
            found = look(limit)
            if limit == 1:
                Rollups(other).begin_rebuild()
            return found

        monkeypatch.setattr(purge, "_old_blocks", seen_before)
        purge.step()

    assert query(path, "SELECT value FROM counters WHERE name = 'raw_from_us'") == [(0,)]
    roll_up(path)
    answer = SQLiteBackend(path)._answer(UsageQuery.build(measures="events"), raw_enough=0)
    raw = SQLiteBackend(path)._answer(UsageQuery.build(measures="events"), raw_enough=2**62)
    assert (answer.rows, answer.complete_from) == (raw.rows, None)
