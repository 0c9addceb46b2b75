"""Ledgers with many events, and what their rollups hold."""

from __future__ import annotations

import random
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tests.support.stores import query
from usagekit import Recorder, UsageEvent
from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect
from usagekit._store.tiers import TIERS
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from pathlib import Path

    from usagekit.query import UsageReport

NOW = datetime.now(UTC)


def write_events(path: Path, count: int, *, days: float = 200, seed: int = 1) -> list[UsageEvent]:
    """Record so many events of the last `days` days, oldest first; gives them."""
    rng = random.Random(seed)
    happened = [_event(rng, NOW - timedelta(days=days * (count - n) / count)) for n in range(count)]
    with Recorder(SQLiteBackend(path), dimensions=["project"]) as recorder:
        assert [recorder.record(event) for event in happened] == [True] * count
    return happened


def _event(rng: random.Random, time: datetime) -> UsageEvent:
    user = rng.randrange(20)
    call = rng.random() < 0.5
    return UsageEvent(
        time=time,
        kind="llm" if call else "request",
        event="chat" if call else "request",
        user=f"user-{user}",
        org=f"org-{user % 3}",
        status=rng.choice((200, 200, 200, 500)),
        latency_ms=rng.choice((None, 1.5, 250.0)),
        route="" if call else "GET /items",
        model=rng.choice(("small", "large")) if call else "",
        input_tokens=rng.randrange(1000) if call else 0,
        cost_usd=Decimal(rng.randrange(10**6)).scaleb(-9) if call else None,
        cost_source="priced" if call else "",
        weight=rng.choice((1, 1, 10)),
        attributes={"project": rng.choice(("alpha", "beta"))} if rng.random() < 0.3 else {},
    )


def roll_up(path: Path, *, limit: int | None = None) -> None:
    """Bring the rollups up to date."""
    with closing(connect(str(path))) as connection:
        rollups = Rollups(connection)
        while rollups.step(limit):
            pass


def cells(path: Path) -> dict[str, list[tuple[Any, ...]]]:
    """Give what every rollup holds, cells without events left out."""
    found = {}
    for tier in TIERS:
        known = query(path, f"SELECT name FROM pragma_table_info('{tier.name}')")
        where = "WHERE events <> 0" if ("events",) in known else ""
        found[tier.name] = query(path, f"SELECT * FROM {tier.name} {where} ORDER BY {', '.join(tier.order)}")
    return found


def shown(report: UsageReport) -> tuple[object, ...]:
    """Give all of an answer but where it came from."""
    return report.rows, report.totals, report.exact, report.complete_from
