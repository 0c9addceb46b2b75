"""What journals hold that the ledger does not have yet."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from usagekit._store import journal as journals
from usagekit._store import record as records
from usagekit._store.batches import read_batch
from usagekit._store.engine import journals_of
from usagekit._store.schema import connect

if TYPE_CHECKING:
    from collections.abc import Iterator


def waits_before(path: str, time_us: int) -> bool:
    """Tell whether events from before `time_us` wait beside the ledger at `path`; also where that cannot be seen."""
    waiting = list(journals.files(journals_of(path)))  # first: what is imported later waits no longer
    if not waiting:
        return False
    with closing(connect(path, read_only=True)) as connection:
        find = "SELECT name, imported FROM journals WHERE name=?"
        imported = dict(row for name, _, _ in waiting for row in connection.execute(find, (name,)))
    try:
        return any(
            found < time_us
            for name, file, size in waiting
            if size > imported.get(name, 0)
            for found in _times(name, file, imported.get(name, 0))
        )
    except FileNotFoundError:
        return waits_before(path, time_us)  # imported and removed meanwhile
    except OSError:
        return True


def _times(name: str, file: str, start: int) -> Iterator[int]:
    """Give the times of a journal's records behind `start`."""
    with journals.Reading(name, file) as reading:
        while (batch := read_batch(reading, start)).end != start:
            start = batch.end
            for fields in records.decode(batch.payloads)[0]:
                yield fields[1]  # type: ignore[misc] # a number, in what usagekit wrote
