"""A backend for usagekit that keeps events in a file of JSON lines: one line per batch."""

from __future__ import annotations

import json
import os
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from usagekit import ConfigurationError, UsageEvent
from usagekit.backends.memory import MemoryBackend

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from usagekit import UsageQuery, UsageReport

__all__ = ["JsonLinesBackend"]


class JsonLinesBackend:
    """Appends batches to the file at `path`, and answers by reading all of it: for small apps and for reading on.

    A batch is one line under its id, so a retry is seen as one, and a line that was cut short counts as not written.
    """

    max_batch = 500
    name = "jsonl"  # under which the ledger keeps how far it has come

    def __init__(self, path: str | os.PathLike[str], *, dimensions: Iterable[str] = ()) -> None:
        self.path = Path(path)
        self.dimensions = tuple(dimensions)

    @classmethod
    def from_url(cls, url: str) -> JsonLinesBackend:
        """Make it of `jsonl:///events.jsonl` (relative) or `jsonl:////var/lib/app/events.jsonl` (absolute)."""
        path = url.removeprefix("jsonl:///")
        if not path or path == url:
            raise ConfigurationError(f"{url!r} names no file; use jsonl:///events.jsonl")
        return cls(path)

    def declare(self, dimensions: Iterable[str]) -> None:
        """Take the names that the recorder declares."""
        self.dimensions = tuple(dimensions)

    def write(self, events: Sequence[UsageEvent], /, *, batch_id: str) -> None:
        """Append a batch, and return when it is on the disk; what the file system says is raised."""
        line = json.dumps({"batch": batch_id, "events": [_as_json(event) for event in events]})
        with self.path.open("ab") as file:
            file.write(f"\n{line}\n".encode())  # the first newline ends what a crash left
            file.flush()
            os.fsync(file.fileno())

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer as the reference does, which sees a batch that came twice once."""
        memory = MemoryBackend(dimensions=self.dimensions)
        for batch_id, events in self.batches().items():
            memory.write(events, batch_id=batch_id)
        return memory.read(query)

    def batches(self) -> dict[str, list[UsageEvent]]:
        """Give the events by batch."""
        return {line["batch"]: [_from_json(values) for values in line["events"]] for line in self._lines()}

    def close(self) -> None:
        """Do nothing: the file is open only while something is written."""

    def _lines(self) -> Iterator[dict[str, Any]]:
        if not self.path.exists():
            return
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # an empty line, or one that was cut short


def _as_json(event: UsageEvent) -> dict[str, Any]:
    values = {field.name: getattr(event, field.name) for field in fields(event)}
    cost = None if event.cost_usd is None else f"{event.cost_usd:f}"
    return values | {"time": event.time.isoformat(), "cost_usd": cost, "attributes": dict(event.attributes)}


def _from_json(values: dict[str, Any]) -> UsageEvent:
    return UsageEvent(**values | {"time": datetime.fromisoformat(values["time"])})
