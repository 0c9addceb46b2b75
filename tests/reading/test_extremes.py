"""What is out of the ordinary: times far off, as a wrong clock makes them, and dimensions that nobody has."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rolled import cells, roll_up, write_events
from usagekit import Recorder, UsageEvent
from usagekit._reading.rows import Rows
from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


@pytest.mark.parametrize("by", [(), ("day",), ("event",)])
def test_cells_between_are_not_looked_for_one_by_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: tuple[str, ...]
) -> None:
    """Eight thousand years of hours would keep a question busy where no time limit reaches it."""
    path = tmp_path / "usage.db"
    write_events(path, 60, days=3)
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.record(UsageEvent(time=datetime(9998, 1, 1, tzinfo=UTC), org="org-1", event="chat"))
    roll_up(path)
    loaded: list[int] = []
    load = Rows._load

    def counting(self: Rows, planned: Iterable[Any]) -> None:
        pieces = list(planned)
        loaded.append(len(pieces))
        load(self, pieces)

    monkeypatch.setattr(Rows, "_load", counting)
    question = UsageQuery.build(by=by, measures=("events", "cost_usd"), where={"org": "org-1"})

    answer = SQLiteBackend(path)._answer(question, raw_enough=0)

    assert "+" in answer.source
    assert 0 < max(loaded) < 200
    assert answer.totals == SQLiteBackend(path)._answer(question, raw_enough=2**62).totals


@pytest.mark.parametrize(
    "asked",
    [
        {"by": "user", "measures": ("events", "users"), "limit": 2, "order": "-events"},
        {"by": "user", "measures": ("events",), "limit": 2, "order": "-events", "where": {"event": "request"}},
        {"by": "user", "measures": ("events", "last_seen"), "where": {"user": ["user-1", "first"]}},
        {"measures": ("users",), "where": {"user": ["user-1", "last"]}},
        {"by": "user", "measures": ("events", "last_seen")},
    ],
    ids=str,
)
def test_users_are_not_looked_for_where_nothing_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, Any]
) -> None:
    """Neither week by week nor day by day; and the first instant of 1970 is a time like any other."""
    path = tmp_path / "usage.db"
    write_events(path, 60, days=3)
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.record(UsageEvent(time=datetime(1970, 1, 1, tzinfo=UTC), user="first", event="request"))
        recorder.record(UsageEvent(time=datetime(9998, 1, 1, tzinfo=UTC), user="last", event="request"))
    roll_up(path)
    looked: list[int] = []
    load, leaders = Rows._load, Rows.leaders

    def loading(self: Rows, planned: Iterable[Any]) -> None:
        pieces = list(planned)
        looked.append(len(pieces))
        load(self, pieces)

    def leading(self: Rows, *how: Any) -> Any:
        looked.append(1)
        return leaders(self, *how)

    monkeypatch.setattr(Rows, "_load", loading)
    monkeypatch.setattr(Rows, "leaders", leading)
    question = UsageQuery.build(**asked)

    answer = SQLiteBackend(path)._answer(question, raw_enough=0)

    assert 0 < sum(looked) < 200
    raw = SQLiteBackend(path)._answer(question, raw_enough=2**62)
    assert (answer.rows, answer.totals, answer.groups) == (raw.rows, raw.totals, raw.groups)


def test_a_rebuild_counts_the_first_days_of_1970_once(tmp_path: Path) -> None:
    """Their week began in 1969."""
    path = tmp_path / "usage.db"
    with Recorder(SQLiteBackend(path)) as recorder:
        recorder.record(UsageEvent(time=datetime(1970, 1, 2, tzinfo=UTC), user="ann"))
    roll_up(path)
    before = cells(path)

    with closing(connect(str(path))) as connection:
        Rollups(connection).begin_rebuild()
    roll_up(path)

    assert before["member_weeks"]
    assert cells(path) == before


@pytest.mark.parametrize("enough", [0, 2**62])
def test_own_dimensions_that_no_event_has_are_empty(tmp_path: Path, enough: int) -> None:
    """Also several of them, beside what events have."""
    path, names = tmp_path / "usage.db", ("project", "tier")
    with Recorder(SQLiteBackend(path), dimensions=names) as recorder:
        recorder.record(UsageEvent(user="ann"))
    roll_up(path)
    question = UsageQuery.build(by=("project", "user", "tier"), measures="events", dimensions=names)

    answer = SQLiteBackend(path)._answer(question, raw_enough=enough)

    assert answer.rows == [{"project": "", "user": "ann", "tier": "", "events": 1}]
