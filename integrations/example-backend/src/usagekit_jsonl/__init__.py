"""A backend for usagekit that keeps events in a file of JSON lines: one line per batch."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from usagekit import ConfigurationError, UsageEvent, UsageQuery, UsageReport

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["JsonLinesBackend"]


class JsonLinesBackend:
    """Appends batches to the file at `path`, and answers by reading all of it: for small apps and for reading on.

    A batch is one line under its id, so a retry is seen as one, and a line that was cut short counts as not written.
    """

    max_batch = 500
    name = "jsonl"  # under which the ledger keeps how far it has come

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.dimensions: tuple[str, ...] = ()

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
        line = json.dumps({"batch": batch_id, "events": [event.to_dict() for event in events]})
        with self.path.open("a", encoding="utf-8") as file:
            file.write(f"\n{line}\n")  # the first newline ends what a crash left
            file.flush()
            os.fsync(file.fileno())

    def read(self, query: UsageQuery, /) -> UsageReport:
        """Answer by looking at every event."""
        return UsageReport.of_events(query, self.events(), source="jsonl", exact=True)

    def events(self) -> list[UsageEvent]:
        """Give all events; those of a batch that came twice are there once."""
        batches = {}
        for line in self.path.read_text(encoding="utf-8").split("\n") if self.path.exists() else ():
            with suppress(ValueError):  # an empty line, or one that was cut short
                batch = json.loads(line)
                batches[batch["batch"]] = batch["events"]
        return [UsageEvent.from_dict(values) for events in batches.values() for values in events]

    def close(self) -> None:
        """Do nothing: the file is open only while something is written."""
