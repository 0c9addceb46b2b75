"""A recorder with a ledger of its own, and what was recorded in it; for tests of middlewares."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.stores import stored_events
from usagekit import Recorder
from usagekit.backends.sqlite import SQLiteBackend

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from usagekit.event import UsageEvent


class Capture:
    """A recorder, and the events that it has recorded so far."""

    def __init__(self, path: Path, **options: Any) -> None:
        self.path = path
        self.recorder = Recorder(SQLiteBackend(path), **options)

    def events(self) -> list[UsageEvent]:
        """Give all events, in the order in which they were accepted."""
        assert self.recorder.flush()
        return stored_events(self.path)

    def event(self) -> UsageEvent:
        """Give the only event."""
        (event,) = self.events()
        return event

    def routes(self) -> list[str]:
        """Give the routes of all events."""
        return [event.route for event in self.events()]

    def users(self) -> list[str]:
        """Give the users of all events."""
        return [event.user for event in self.events()]

    def errors(self) -> dict[str, int]:
        """Give what failed, by place, and how often."""
        errors: dict[str, int] = self.recorder.status()["errors"]
        return errors


@contextmanager
def capturing(path: Path, **options: Any) -> Iterator[Capture]:
    """Record into a ledger at `path` during a block; options as of `Recorder`."""
    capture = Capture(path, **options)
    with capture.recorder:
        yield capture
