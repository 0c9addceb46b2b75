"""The memory backend: the reference reader, and a sink for tests."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from usagekit.backends.memory import MemoryBackend
from usagekit.errors import ConfigurationError, QueryError
from usagekit.event import UsageEvent
from usagekit.query import usage
from usagekit.testing import ReaderContract

if TYPE_CHECKING:
    from usagekit.query import Reader

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


class TestMemoryReader(ReaderContract):
    """The memory backend answers as every reader does."""

    def make_reader(self, events: list[UsageEvent]) -> Reader:
        backend = MemoryBackend(dimensions=("project", "country"))
        backend.write(events, batch_id="1")
        return backend


def ticks(count: int) -> list[UsageEvent]:
    """Give events one second apart, told apart by their event type."""
    return [UsageEvent(time=NOON + timedelta(seconds=n), event=f"tick {n}") for n in range(count)]


def test_a_batch_written_twice_counts_once() -> None:
    """The same id means the same events, whenever it comes again."""
    backend = MemoryBackend()
    first, second = ticks(2), ticks(3)

    backend.write(first, batch_id="a")
    backend.write(second, batch_id="b")
    backend.write(first, batch_id="a")

    assert backend.events == (*first, *second)


def test_a_limit_keeps_the_newest_and_says_what_is_missing() -> None:
    """Answers are complete from just after the latest event that was dropped."""
    backend = MemoryBackend(2)

    backend.write(ticks(5), batch_id="a")

    assert [event.event for event in backend.events] == ["tick 3", "tick 4"]
    report = usage(backend, measures="events")
    assert report.totals == {"events": 2}
    assert report.complete_from == NOON + timedelta(seconds=2, microseconds=1)


def test_clear_forgets_events_and_batches() -> None:
    """A batch written before counts again afterwards."""
    backend = MemoryBackend(1)
    backend.write(ticks(3), batch_id="a")

    backend.clear()

    assert backend.events == ()
    assert usage(backend).complete_from is None
    backend.write(ticks(1), batch_id="a")
    assert len(backend.events) == 1


def test_reading_works_after_close() -> None:
    """There is nothing to release."""
    backend = MemoryBackend()
    backend.write(ticks(1), batch_id="a")

    backend.close()

    assert usage(backend, measures="events").rows == [{"events": 1}]


def test_dimensions_are_those_declared_and_those_recorded() -> None:
    """A bare backend takes the names its events hold; a recorder declares its own."""
    backend = MemoryBackend(dimensions=["plan"])
    backend.write([UsageEvent(time=NOON, attributes={"project": "p"})], batch_id="a")

    backend.declare(["plan", "country"])

    assert backend.dimensions == ("plan", "country", "project")
    assert usage(backend, by="project", measures="events").rows == [{"project": "p", "events": 1}]
    with pytest.raises(QueryError, match="unknown dimension 'client'"):
        usage(backend, by="client")


def test_only_the_newest_batch_ids_are_remembered() -> None:
    """So that a long life does not fill the memory with ids."""
    backend = MemoryBackend(limit=1)

    for n in range(5000):
        backend.write([], batch_id=str(n))

    assert len(backend._batches) == 4096


@pytest.mark.parametrize(("url", "kept"), [("memory://", 3), ("memory://?limit=2", 2)])
def test_is_made_from_a_url(url: str, kept: int) -> None:
    """With or without its one option."""
    backend = MemoryBackend.from_url(url)

    backend.write(ticks(3), batch_id="a")

    assert len(backend.events) == kept


@pytest.mark.parametrize(
    "url",
    [
        "memory://host",
        "memory:///path",
        "memory://?size=3",
        "memory://?limit=",
        "memory://?limit=-1",
        "memory://?limit=0",
        "memory://?limit=²",
        "memory://#x",
        "sqlite://",
    ],
)
def test_other_urls_are_refused(url: str) -> None:
    """A wrong option is said at once, not ignored."""
    with pytest.raises(ConfigurationError):
        MemoryBackend.from_url(url)
