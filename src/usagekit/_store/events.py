"""The events of a ledger one by one, page by page: no matter how many there are, few are in memory."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from usagekit._store import record as records
from usagekit._store.schema import BLOCK_SHIFT
from usagekit._store.tombstones import ERASED_BELOW

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

EVENT_COLUMNS = f"""
e.seq, j.name || '-' || (r.first_number + e.seq - r.first_seq), b.base_us + e.offset_us,
s.kind, s.event, s.status, s.route, s.provider, s.model, s.cost_source, s.aborted,
iif(u.name < {ERASED_BELOW}, '', u.name), o.name, x.weight, x.quantity, x.other_output, x.attributes,
e.latency_us, e.tail_us, e.output, e.input, e.cost_nano, e.cache_read, e.cache_write, e.reasoning
"""
"""All there is about an event, from its row and the dictionaries'."""

EVENT_NAMES = """
CROSS JOIN runs r ON r.first_seq = (SELECT max(first_seq) FROM runs WHERE first_seq <= e.seq)
CROSS JOIN journals j ON j.id = r.journal
CROSS JOIN shapes s ON s.id = e.shape
CROSS JOIN subjects p ON p.id = e.subject
CROSS JOIN users u ON u.id = p.user
CROSS JOIN orgs o ON o.id = p.org
CROSS JOIN extras x ON x.id = p.extra
"""
"""The dictionaries of an event `e`; CROSS keeps the order, so that events come first and are found by their keys."""

_ATTRIBUTES_AT = 16

# Blocks first, so that a range of time reads only those it touches; both in the order of their keys, without sorting.
# The plus signs leave the search for a block's events to its own bounds.
_PAGE = f"""
SELECT {EVENT_COLUMNS}
FROM blocks b
CROSS JOIN events e ON e.seq >= b.block << {BLOCK_SHIFT} AND e.seq < (b.block + 1) << {BLOCK_SHIFT}
{EVENT_NAMES}
WHERE b.block >= :after >> {BLOCK_SHIFT} AND +e.seq > :after AND +e.seq <= :end AND {{where}}
ORDER BY b.block, e.seq
LIMIT :limit
"""


def fields_of_columns(row: tuple[Any, ...]) -> tuple[int, dict[str, Any]]:
    """Give the sequence number of a row of `EVENT_COLUMNS`, and the fields of its event by name."""
    attributes = json.loads(row[_ATTRIBUTES_AT])
    return row[0], records.fields_of_row((*row[1:_ATTRIBUTES_AT], attributes, *row[_ATTRIBUTES_AT + 1 :]))


def read_page(
    connection: sqlite3.Connection,
    where: str,
    values: Mapping[str, Any],
    *,
    after: int,
    end: int,
    limit: int,
) -> list[tuple[int, dict[str, Any]]]:
    """Give up to `limit` events with `after < seq <= end` that fulfil `where`, an SQL condition on that query."""
    given = {**values, "after": after, "end": end, "limit": limit}
    return [fields_of_columns(row) for row in connection.execute(_PAGE.format(where=where), given)]


def last_seq(connection: sqlite3.Connection) -> int:
    """Give the sequence number of the last imported event; 0 when there was none."""
    return connection.execute("SELECT value - 1 FROM counters WHERE name='next_seq'").fetchone()[0]  # type: ignore[no-any-return]
