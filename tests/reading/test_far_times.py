"""An event with a time far off, as a wrong clock or a caller's mistake makes it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.rolled import roll_up, write_events
from usagekit import Recorder, UsageEvent
from usagekit._reading.rows import Rows
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
