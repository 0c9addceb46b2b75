"""`MemoryBackend`: events in a list, for tests and for trying things out."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from usagekit._options import check_whole, listed
from usagekit.errors import ConfigurationError
from usagekit.event import from_microseconds, to_microseconds
from usagekit.query.report import UsageReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from usagekit.event import UsageEvent
    from usagekit.query.algebra import UsageQuery

__all__ = ["MemoryBackend"]

_BATCHES_REMEMBERED = 4096


class MemoryBackend:
    """Keeps events in this process: a sink and a reader, and the reference for what every answer must be.

    Lives as long as the process that made it, and everything in it is lost with that process; other workers
    do not see it. Any thread may call it. Reading looks at every event, so it is for tests and small apps.

    Args:
        limit: keep the newest so many events, in the order they were written; None = all.
        dimensions: names to allow in questions besides those of the attributes that events hold.
    """

    max_batch = 10_000
    in_process = True  # the recorder needs no ledger to hold events back for it

    def __init__(self, limit: int | None = None, *, dimensions: Iterable[str] = ()) -> None:
        if limit is not None:
            check_whole("limit", limit, "how many events to keep, or None for all: MemoryBackend(limit=100_000)")
        self._limit = limit
        self._declared = tuple(map(str, listed("dimensions", dimensions, "'project'")))
        self._lock = Lock()
        self._events: deque[UsageEvent] = deque()
        self._attribute_names: dict[str, None] = {}
        self._batches: dict[str, None] = {}
        self._complete_from_us: int | None = None

    @classmethod
    def from_url(cls, url: str) -> MemoryBackend:
        """Make one from `memory://` or `memory://?limit=1000`; raises `ConfigurationError`."""
        parts = urlsplit(url)
        options = dict(parse_qsl(parts.query, keep_blank_values=True))
        if parts[:3] != ("memory", "", "") or parts.fragment or options.keys() - {"limit"}:
            raise ConfigurationError(f"cannot use {url!r}; use memory:// or memory://?limit=1000")
        limit = options.get("limit")
        if limit is not None and not (limit.isascii() and limit.isdigit() and len(limit) < 16):
            raise ConfigurationError(f"bad limit {limit!r} in {url!r}; use a number of events")
        return cls(None if limit is None else int(limit))

    @property
    def dimensions(self) -> tuple[str, ...]:
        """The app's own dimensions that may be asked for: those declared, and those the events hold."""
        with self._lock:
            return tuple(dict.fromkeys((*self._declared, *self._attribute_names)))

    def declare(self, dimensions: Iterable[str]) -> None:
        """Take the names declared on the recorder, in place of those given before."""
        self._declared = tuple(dimensions)

    @property
    def events(self) -> tuple[UsageEvent, ...]:
        """The events it holds, in the order they were written."""
        with self._lock:
            return tuple(self._events)

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        """Keep a batch; one that was written before, by its id, counts once."""
        with self._lock:
            if batch_id in self._batches:
                return
            self._batches[batch_id] = None
            if len(self._batches) > _BATCHES_REMEMBERED:
                del self._batches[next(iter(self._batches))]
            for event in events:
                self._events.append(event)
                self._attribute_names.update(dict.fromkeys(event.attributes))
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        while self._limit is not None and len(self._events) > self._limit:
            after = to_microseconds(self._events.popleft().time) + 1
            self._complete_from_us = max(after, self._complete_from_us or 0)

    def clear(self) -> None:
        """Forget all events, and which batches were written."""
        with self._lock:
            self._events.clear()
            self._attribute_names.clear()
            self._batches.clear()
            self._complete_from_us = None

    def erase(self, user: str) -> bool:
        """Make the events of a user nobody's; False where there are none. `Recorder.erase` calls it."""
        with self._lock:
            found = any(event.user == user for event in self._events)
            kept = (replace(event, user="") if event.user == user else event for event in self._events)
            self._events = deque(kept)
        return found

    def close(self) -> None:
        """Do nothing: what it holds can still be read."""

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer a question by looking at every event; exact, but for what `limit` dropped.

        Raises:
            QueryTimeout: that took longer than `query.timeout`.
        """
        with self._lock:
            events, complete_from_us = tuple(self._events), self._complete_from_us
        return UsageReport.of_events(
            query,
            events,
            source="memory",
            exact=True,
            complete_from=None if complete_from_us is None else from_microseconds(complete_from_us),
        )
