"""`SinkContract` passes for our own sink in memory, and says what is wrong with sinks that break a promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from usagekit.backends.memory import MemoryBackend
from usagekit.errors import Rejected
from usagekit.testing import SinkContract

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from usagekit import UsageEvent


class Store:
    """A sink that does what it should, for others to do less."""

    max_batch = 10

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.is_down = False
        self.closed = 0

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        if self.is_down:
            raise ConnectionError("down")
        self.kept += [event.id for event in events]

    def close(self) -> None:
        self.closed += 1


class _Down:
    def __init__(self, store: Store) -> None:
        self.store = store

    def __enter__(self) -> None:
        self.store.is_down = True

    def __exit__(self, *_: object) -> None:
        self.store.is_down = False


def contract_of(make: Callable[[], Store]) -> SinkContract:
    """Give the suite for a kind of store."""

    class Suite(SinkContract):
        def make_sink(self) -> Store:
            return make()

        def ids(self, sink: Store) -> list[str]:  # type: ignore[override]
            return sink.kept

        def outage(self, sink: Store) -> AbstractContextManager[object]:  # type: ignore[override]
            return _Down(sink)

    return Suite()


class TestStore(SinkContract):
    def make_sink(self) -> Store:
        return Store()

    def ids(self, sink: Store) -> list[str]:  # type: ignore[override]
        return sink.kept

    def outage(self, sink: Store) -> AbstractContextManager[object]:  # type: ignore[override]
        return _Down(sink)


class TestMemoryBackend(SinkContract):
    def make_sink(self) -> MemoryBackend:
        return MemoryBackend()

    def ids(self, sink: MemoryBackend) -> list[str]:  # type: ignore[override]
        return [event.id for event in sink.events]

    def outage(self, sink: MemoryBackend) -> None:  # type: ignore[override]
        return None


class DropsTheLast(Store):
    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        super().write(events[:9], batch_id=batch_id)


class RepeatsHalf(Store):
    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        super().write(events[1:] if self.kept else events, batch_id=batch_id)


class Swallows(Store):
    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        if not self.is_down:
            super().write(events, batch_id=batch_id)


class Rejects(Store):
    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        if self.is_down:
            raise Rejected("down")
        super().write(events, batch_id=batch_id)


class LooksAlike(Store):
    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        if not self.kept:
            super().write(events, batch_id=batch_id)


class ClosesOnce(Store):
    def close(self) -> None:
        super().close()
        if self.closed > 1:
            raise ValueError("closed already")


class TakesNothing(Store):
    max_batch = 0


@pytest.mark.parametrize(
    ("make", "test", "error"),
    [
        (DropsTheLast, "test_takes_as_many_events_as_it_says", AssertionError),
        (RepeatsHalf, "test_a_repeated_batch_is_there_once_or_whole_again", AssertionError),
        (Swallows, "test_an_outage_is_raised_and_no_rejection", AssertionError),
        (Rejects, "test_an_outage_is_raised_and_no_rejection", AssertionError),
        (LooksAlike, "test_the_same_events_under_another_id_are_another_batch", AssertionError),
        (LooksAlike, "test_takes_every_event_there_can_be", AssertionError),
        (ClosesOnce, "test_closing_twice_is_closing_once", ValueError),
        (TakesNothing, "test_says_how_much_it_takes", AssertionError),
    ],
)
def test_a_broken_promise_is_seen(make: type[Store], test: str, error: type[Exception]) -> None:
    """Each obligation has a test that fails where it is not met."""
    suite = contract_of(make)

    with pytest.raises(error):
        getattr(suite, test)()
