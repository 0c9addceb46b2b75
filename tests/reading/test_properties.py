"""Whatever happened, however it came in and wherever the rollups stand: every way of reading gives the same answer."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.query.strategies import DECLARED, events, queries, zones
from usagekit import Recorder
from usagekit._store.rollups import Rollups
from usagekit._store.schema import connect
from usagekit.backends.memory import MemoryBackend
from usagekit.backends.sqlite import SQLiteBackend
from usagekit.query import UsageQuery

if TYPE_CHECKING:
    from usagekit.event import UsageEvent
    from usagekit.query import UsageReport

BEGIN = datetime(2026, 10, 22, tzinfo=UTC)
ROLLUPS_ONLY, RAW_ONLY = 0, 2**62

Imports = list[tuple[list["UsageEvent"], int]]


def imports() -> st.SearchStrategy[Imports]:
    """Several imports, and after each how many steps the rollups take, and of how many events."""
    return st.lists(st.tuples(st.lists(events(), max_size=12), st.integers(0, 12)), min_size=1, max_size=4)


def ledger_of(directory: str, happened: Imports) -> SQLiteBackend:
    """Give a ledger to which all that has happened, in that order."""
    backend = SQLiteBackend(Path(directory, "usage.db"))
    for some, limit in happened:
        with Recorder(backend, dimensions=DECLARED) as recorder:
            assert [recorder.record(event) for event in some] == [True] * len(some)
        with closing(connect(backend.ledger_path)) as connection:
            rollups = Rollups(connection)
            for _ in range(2):
                if limit:
                    rollups.step(limit)
    return backend


def shown(report: UsageReport) -> tuple[object, ...]:
    """Give all of an answer but where it came from."""
    return report.rows, report.totals, report.groups, report.exact, report.complete_from


@given(happened=imports(), asked=st.lists(queries(), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_rollups_raw_rows_and_memory_give_the_same_answer(happened: Imports, asked: list[UsageQuery]) -> None:
    """To the last nano-dollar: late events, weights, own dimensions, sums beyond 64 bits."""
    reference = MemoryBackend(dimensions=DECLARED)
    reference.write([event for some, _ in happened for event in some], batch_id="1")
    with TemporaryDirectory() as directory:
        ledger = ledger_of(directory, happened)

        for question in asked:
            expected = reference.read(question)
            rolled = ledger._answer(question, raw_enough=ROLLUPS_ONLY)
            raw = ledger._answer(question, raw_enough=RAW_ONLY)

            assert shown(rolled) == shown(expected), rolled.source
            assert shown(raw) == shown(expected)
            assert raw.source == "sqlite"


_ASKED = st.sampled_from(
    (
        ((), ("events", "cost_usd", "users", "last_seen", "latency_ms_p95", "first_token_ms_p50")),
        (("day",), ("events", "cost_usd", "latency_ms_p50", "users")),
        (("hour",), ("events", "output_tokens", "latency_ms_max")),
        (("user",), ("events", "total_tokens", "cost_usd")),
        (("user",), ("cost_usd",)),
        (("user",), ("events", "users", "last_seen")),
        (("user",), ("events", "success_rate", "total_tokens", "cost_usd", "last_seen")),
        (("org", "event"), ("events", "last_seen")),
        (("model",), ("last_seen",)),
        ((), ("events", "last_seen")),
        (("user", "event", "day"), ("events", "failed", "cost_usd", "response_bytes")),
        (("org", "day"), ("events", "total_tokens", "cost_usd")),
        (("org", "event", "day"), ("events", "quantity", "succeeded", "last_seen")),
        (("model", "week"), ("events", "cost_usd", "unpriced", "latency_ms_avg")),
        (("route", "month"), ("events", "success_rate")),
        (("project", "day"), ("events", "cost_usd")),
        (("week", "month"), ("events", "users")),
    )
)


def _near(event: UsageEvent, quarters: int, jitter: int) -> UsageEvent:
    return replace(event, time=BEGIN + timedelta(minutes=15 * quarters, microseconds=jitter))


def crowded() -> st.SearchStrategy[list[UsageEvent]]:
    """Events of two weeks in which most zones change their clocks, many of them on the quarter-hour."""
    near = st.builds(_near, events(), st.integers(0, 14 * 96), st.sampled_from((0, 0, -1, 1, 123_456_789)))
    return st.lists(near, min_size=1, max_size=40)


@given(
    happened=st.lists(events(), max_size=3).flatmap(lambda some: crowded().map(some.__add__)),
    asked=_ASKED,
    tz=zones(),
    start=st.integers(-96, 14 * 96),
    length=st.integers(1, 20 * 96),
    jitter=st.sampled_from((0, 0, 1, 123_456_789)),
    order=st.sampled_from((None, "-events", "-total_tokens", "-cost_usd")),
    limit=st.none() | st.integers(1, 3),
)
@settings(max_examples=60, deadline=None)
def test_windows_near_the_events_give_the_same_answer(
    happened: list[UsageEvent],
    asked: tuple[tuple[str, ...], tuple[str, ...]],
    tz: str,
    start: int,
    length: int,
    jitter: int,
    order: str | None,
    limit: int | None,
) -> None:
    """With edges on and beside the quarter-hour, in every zone."""
    begin = BEGIN + timedelta(minutes=15 * start, microseconds=jitter)
    query = UsageQuery.build(
        by=asked[0],
        measures=asked[1],
        tz=tz,
        start=begin,
        end=begin + timedelta(minutes=15 * length),
        order=order,
        limit=limit,
        dimensions=DECLARED,
    )
    reference = MemoryBackend(dimensions=DECLARED)
    reference.write(happened, batch_id="1")
    with TemporaryDirectory() as directory:
        ledger = ledger_of(directory, [(happened, 100)])

        rolled = ledger._answer(query, raw_enough=ROLLUPS_ONLY)

        assert shown(rolled) == shown(reference.read(query)), rolled.source
